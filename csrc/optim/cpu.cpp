#include "core/parallel.hpp"
#include "optim/rules.hpp"
#include "simd/storage.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// The steps below take rule and tensor by value: stores through the tensor's pointers cannot change
// copies whose address nobody has, so they stay in registers (twice as fast from L2).

template <bool kLargest, class T, class S>
ARRAYNN_INLINE void update(const AdamRule<T> rule, const OptimTensor<S> t, std::int64_t i,
                           std::int64_t n) {
  Vec<T> p = load_lanes(t.param + i, n), m = load_lanes(t.first + i, n),
         v = load_lanes(t.second + i, n), largest = Vec<T>::zero();
  if constexpr (kLargest) largest = load_lanes(t.largest + i, n);
  rule.template apply<kLargest>(p, load_lanes(t.grad + i, n), m, v, largest);
  store_lanes(m, t.first + i, n);
  store_lanes(v, t.second + i, n);
  if constexpr (kLargest) store_lanes(largest, t.largest + i, n);
  store_lanes(p, t.param + i, n);
}

template <bool kRead, bool kWrite, class T, class S>
ARRAYNN_INLINE void update(const SgdRule<T> rule, const OptimTensor<S> t, std::int64_t i,
                           std::int64_t n) {
  Vec<T> p = load_lanes(t.param + i, n), b = Vec<T>::zero();
  if constexpr (kRead) b = load_lanes(t.first + i, n);
  rule.apply(p, load_lanes(t.grad + i, n), b);
  if constexpr (kWrite) store_lanes(b, t.first + i, n);
  store_lanes(p, t.param + i, n);
}

template <class T, class S>
ARRAYNN_INLINE void update(const AdagradRule<T> rule, const OptimTensor<S> t, std::int64_t i,
                           std::int64_t n) {
  Vec<T> p = load_lanes(t.param + i, n), sum = load_lanes(t.first + i, n);
  rule.apply(p, load_lanes(t.grad + i, n), sum);
  store_lanes(sum, t.first + i, n);
  store_lanes(p, t.param + i, n);
}

template <bool kCentred, bool kMomentum, class T, class S>
ARRAYNN_INLINE void update(const RmspropRule<T> rule, const OptimTensor<S> t, std::int64_t i,
                           std::int64_t n) {
  Vec<T> p = load_lanes(t.param + i, n), square = load_lanes(t.first + i, n), mean = Vec<T>::zero(),
         buffer = Vec<T>::zero();
  if constexpr (kCentred) mean = load_lanes(t.second + i, n);
  if constexpr (kMomentum) buffer = load_lanes(t.largest + i, n);
  rule.template apply<kCentred, kMomentum>(p, load_lanes(t.grad + i, n), square, mean, buffer);
  store_lanes(square, t.first + i, n);
  if constexpr (kCentred) store_lanes(mean, t.second + i, n);
  if constexpr (kMomentum) store_lanes(buffer, t.largest + i, n);
  store_lanes(p, t.param + i, n);
}

// Elements [begin, end) of a tensor.
template <bool... kOptions, class S, class Rule>
void update_part(const Rule rule, const OptimTensor<S> t, std::int64_t begin, std::int64_t end) {
  constexpr int kL = kLanes<Compute<S>>;
  std::int64_t i = begin;
  for (; i + kL <= end; i += kL) update<kOptions...>(rule, t, i, kL);
  if (i < end) update<kOptions...>(rule, t, i, end - i);
}

template <class T, class S>
void run_part(const AdamRule<T>& rule, const OptimTensor<S>& t, std::int64_t begin,
              std::int64_t end) {
  if (t.largest != nullptr) return update_part<true>(rule, t, begin, end);
  update_part<false>(rule, t, begin, end);
}
template <class T, class S>
void run_part(const SgdRule<T>& rule, const OptimTensor<S>& t, std::int64_t begin,
              std::int64_t end) {
  if (rule.reads_buffer()) return update_part<true, true>(rule, t, begin, end);
  if (rule.use_buffer) return update_part<false, true>(rule, t, begin, end);
  update_part<false, false>(rule, t, begin, end);
}
template <class T, class S>
void run_part(const AdagradRule<T>& rule, const OptimTensor<S>& t, std::int64_t begin,
              std::int64_t end) {
  update_part(rule, t, begin, end);
}
template <class T, class S>
void run_part(const RmspropRule<T>& rule, const OptimTensor<S>& t, std::int64_t begin,
              std::int64_t end) {
  const bool centred = t.second != nullptr, momentum = t.largest != nullptr;
  if (centred && momentum) return update_part<true, true>(rule, t, begin, end);
  if (centred) return update_part<true, false>(rule, t, begin, end);
  if (momentum) return update_part<false, true>(rule, t, begin, end);
  update_part<false, false>(rule, t, begin, end);
}

// A member of the team takes its part of the flat run.
template <class S, template <class> class Rule, class Scalars>
void run_flat(const OptimTensor<S>* tensors, std::int64_t count, const Scalars& s, int threads) {
  const Rule<Compute<S>> rule(s);
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Range part = split_range(count == 0 ? 0 : tensors[count - 1].end, nthreads, tid);
    for (std::int64_t i = 0; i < count; ++i) {
      const OptimTensor<S>& t = tensors[i];
      const std::int64_t begin = max_i(part.begin, t.begin), end = min_i(part.end, t.end);
      if (begin < end) run_part(rule, t, begin - t.begin, end - t.begin);
    }
  });
}

template <class S>
double square_sum(const S* p, std::int64_t n) {
  using T = Compute<S>;
  constexpr int kL = kLanes<double>;
  typedef T Narrow __attribute__((vector_size(kL * sizeof(T))));
  constexpr int kChains = 4;
  Vec<double> acc[kChains];
  for (int c = 0; c < kChains; ++c) acc[c] = Vec<double>::zero();
  std::int64_t i = 0;
  for (; i + kChains * kL <= n; i += kChains * kL) {
    alignas(64) T block[kChains * kL];
    for (int c = 0; c < kChains * kL; c += kLanes<T>) store(load(p + i + c), block + c);
    for (int c = 0; c < kChains; ++c) {
      Narrow raw;
      __builtin_memcpy(&raw, block + c * kL, sizeof raw);
      const Vec<double> x{__builtin_convertvector(raw, Vec<double>::Raw)};
      acc[c] = fma(x, x, acc[c]);
    }
  }
  double rest = 0;
  for (; i < n; ++i) {
    const auto x = static_cast<double>(to_compute(p[i]));
    rest += x * x;
  }
  return reduce_add((acc[0] + acc[1]) + (acc[2] + acc[3])) + rest;
}

template <class T>
void square_sums(const OptimTensor<T>* tensors, std::int64_t count, int threads, double* sums) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    std::int64_t chunk = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t n = tensors[i].end - tensors[i].begin;
      for (std::int64_t begin = 0; begin < n; begin += kNormChunk, ++chunk) {
        if (chunk % nthreads != tid) continue;
        sums[chunk] = square_sum(tensors[i].grad + begin, min_i(kNormChunk, n - begin));
      }
    }
  });
}

template <class T>
constexpr OptimTable<T> table() {
  return {&run_flat<T, AdamRule, AdamScalars>, &run_flat<T, SgdRule, SgdScalars>,
          &run_flat<T, AdagradRule, AdagradScalars>, &run_flat<T, RmspropRule, RmspropScalars>,
          &square_sums<T>};
}

}  // namespace

extern const OptimKernels optim_kernels = {table<float>(), table<double>(), table<Half>(),
                                           table<Bfloat16>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
