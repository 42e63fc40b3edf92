#include "gemm/gemm.hpp"

#include <type_traits>
#include <vector>

#include "core/arena.hpp"
#include "core/index.hpp"
#include "core/parallel.hpp"
#include "gemm/batch.hpp"

namespace arraynn {
namespace {

// Waking a team costs a few microseconds: about 20 of work for each member at 75 GFLOP/s.
constexpr double kFlopPerThread = 1.5e6;
// Copies run at a few elements a nanosecond.
constexpr double kElementsPerThread = 1 << 16;
constexpr double kBytesPerThread = 1 << 18;  // of columns that are added up

template <class T>
const GemmTable<T>& table() {
  if constexpr (std::is_same_v<T, Bfloat16>) {
#if defined(__x86_64__)
    return avx512_bf16::gemm_kernels;
#else
    static const GemmTable<Bfloat16> none{};  // has_gemm() is false
    return none;
#endif
  } else {
    return gemm_kernels().of<T>();
  }
}

template <class T>
double flop(const GemmProblem<T>& p) {
  return 2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
}

template <class T>
void run(const char* op, const GemmProblem<T>& p) {
  const int threads = threads_for(flop(p), kFlopPerThread);
  const Scratch scratch(op, static_cast<std::size_t>(table<T>().scratch(p, threads)));
  table<T>().run(p, threads, scratch.data());
}

template <class T>
void run_batch(const char* op, const GemmProblem<T>& p, const BatchItem* items,
               std::int64_t count) {
  const auto item_problem = [&](std::int64_t i) {
    GemmProblem<T> one = p;
    one.a += items[i].a;
    one.b += items[i].b;
    one.c += items[i].c;
    if (one.epilogue.residual != nullptr) one.epilogue.residual += items[i].c;
    return one;
  };
  const int threads = threads_for(flop(p) * static_cast<double>(count), kFlopPerThread);
  if (threads == 1 || count < threads) {
    for (std::int64_t i = 0; i < count; ++i) run(op, item_problem(i));
    return;
  }
  const auto bytes = static_cast<std::size_t>(round_up(table<T>().scratch(p, 1), 64));
  const Scratch scratch(op, bytes * static_cast<std::size_t>(threads));
  const auto run_one = table<T>().run;
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Range part = split_range(count, nthreads, tid);
    char* mine = static_cast<char*>(scratch.data()) + bytes * static_cast<std::size_t>(tid);
    for (std::int64_t i = part.begin; i < part.end; ++i) run_one(item_problem(i), 1, mine);
  });
}

template <class T>
void run_broadcast(const char* op, const GemmProblem<T>& p, const GemmBatch& batch) {
  if (p.m == 0 || p.n == 0)
    return;  // offsets are made only where there is work: an extent may be any
  std::int64_t count = 1;
  for (int d = 0; d < batch.ndim; ++d) count *= batch.shape[d];
  std::vector<BatchItem> items(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) {
    BatchItem item{0, 0, i * p.m * p.n};
    std::int64_t rest = i;
    for (int d = batch.ndim - 1; d >= 0; --d) {
      const std::int64_t index = rest % batch.shape[d];
      rest /= batch.shape[d];
      item.a += index * batch.stride_a[d];
      item.b += index * batch.stride_b[d];
    }
    items[static_cast<std::size_t>(i)] = item;
  }
  run_batch(op, p, items.data(), count);
}

template <class T>
void packed(const char* op, PreparedWeight* weight, Operand operand, GemmProblem<T>* p) {
  if (sizeof(T) == 2 && operand == Operand::kA) return;  // read where it lies, in pairs
  const auto pack = table<T>().pack;
  T* const none = nullptr;
  const std::int64_t elements = pack(*p, operand, 1, none);
  const int threads = threads_for(static_cast<double>(elements), kElementsPerThread);
  // Strides tell W from its transpose; a weight has one size.
  const FormKey key{static_cast<std::int64_t>(current_isa()), static_cast<std::int64_t>(operand),
                    operand == Operand::kA ? p->rs_a : p->rs_b};
  const void* form =
      weight->form(op, key, elements * static_cast<std::int64_t>(sizeof(T)),
                   [&](void* dst) { pack(*p, operand, threads, static_cast<T*>(dst)); });
  (operand == Operand::kA ? p->packed_a : p->packed_b) = static_cast<const T*>(form);
}

template <class T>
GemmUse batch_use(const GemmProblem<T>& p, std::int64_t count) {
  const int threads = threads_for(flop(p) * static_cast<double>(count), kFlopPerThread);
  if (threads == 1 || count < threads) {
    const int team = threads_for(flop(p), kFlopPerThread);
    return {table<T>().scratch(p, team), team};
  }
  return {threads * round_up(table<T>().scratch(p, 1), 64), threads};
}

template <class T>
void add_columns(const T* x, std::int64_t m, std::int64_t n, T* out) {
  const int threads = threads_for(static_cast<double>(m) * static_cast<double>(n),
                                  kBytesPerThread / static_cast<double>(sizeof(T)));
  table<T>().column_sums(x, n, m, n, threads, out);
}

}  // namespace

bool has_gemm(Dtype dtype) {
  if (dtype == Dtype::kBF16) return current_isa() == Isa::kAvx512Bf16;
  return dtype == Dtype::kF32 || dtype == Dtype::kF64;
}

// What gemm.hpp declares for each dtype.
#define ARRAYNN_GEMM_OF(T)                                                                      \
  void gemm(const char* op, const GemmProblem<T>& p) { run(op, p); }                            \
  void use_packed(const char* op, PreparedWeight* weight, Operand operand, GemmProblem<T>* p) { \
    packed(op, weight, operand, p);                                                             \
  }                                                                                             \
  void gemm_batch(const char* op, const GemmProblem<T>& p, const GemmBatch& batch) {            \
    run_broadcast(op, p, batch);                                                                \
  }                                                                                             \
  void gemm_batch(const char* op, const GemmProblem<T>& p, const BatchItem* items,              \
                  std::int64_t count) {                                                         \
    run_batch(op, p, items, count);                                                             \
  }                                                                                             \
  GemmUse gemm_batch_use(const GemmProblem<T>& p, std::int64_t count) {                         \
    return batch_use(p, count);                                                                 \
  }                                                                                             \
  void column_sums(const T* x, std::int64_t m, std::int64_t n, T* out) {                        \
    add_columns(x, m, n, out);                                                                  \
  }
ARRAYNN_GEMM_OF(float)
ARRAYNN_GEMM_OF(double)
ARRAYNN_GEMM_OF(Bfloat16)

void gemm_few_rows(const GemmProblem<float>& p, Dtype b) {
  if (p.m == 0 || p.n == 0) return;
  const FewRowsKernels& k = few_rows_kernels();
  (b == Dtype::kF16 ? k.f16 : k.bf16)(p, threads_for(flop(p), kFlopPerThread));
}

}  // namespace arraynn
