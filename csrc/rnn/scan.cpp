// One layer in one direction on the CPU: the team, packed panels, and the product of a single step.
#include <algorithm>

#include "core/parallel.hpp"
#include "norm/norm.hpp"
#include "rnn/stack.hpp"

namespace arraynn {
namespace {

// A team of n that splits the units takes W / n + b a step: W is its work, b the wait for the slowest
// and for the lines of h that the others wrote. A thread is given some 2 us of a step, several b. In
// multiply-adds; few rows wait for the weights, which take L2 as long as so many of them.
constexpr double kStepPerThread = 8e4, kProductsPerWeight = 2.6;
// Of a whole call: what waking a team is worth. A team that splits the samples pays no more than that,
// while the weights leave half of each L2 to the rest and a tile has rows that share a panel.
constexpr double kCallPerThread = 5e5;
constexpr std::int64_t kWeightBytes = std::int64_t{512} << 10, kSamplesPerThread = 4;
// Gates of a part of the steps: they stay in cache between the product that writes them and the step
// that reads them. A part passes over W_ih: in L2 where that is little, else in L3, and in either case
// of enough rows.
constexpr std::int64_t kGateBytes = std::int64_t{4} << 20, kGateBytesL2 = std::int64_t{512} << 10;
constexpr std::int64_t kGateRows = 256, kNarrowInput = 64;
constexpr double kElementsPerThread = 1 << 16;  // of an outer product
constexpr std::int64_t kPanelForm = 2;          // beside gemm's operands

struct Team {
  int threads;
  bool apart;
};

// With `sums` over the samples each of them is one thread's.
template <class T>
Team team_of(const RnnScan<T>& s, bool sums = false) {
  const double width = static_cast<double>(s.cell.gates() * s.hidden);
  const double lanes = static_cast<double>(sizeof(T)) / 4;
  const double rows = std::max(static_cast<double>(s.batch), kProductsPerWeight);
  const std::int64_t depth = s.out + (s.multiplies_input() ? s.input : 0);
  const double step = rows * width * static_cast<double>(depth) * lanes;
  const int of_call = threads_for(step * static_cast<double>(s.steps), kCallPerThread);
  const int by_units = std::min(of_call, threads_for(step, kStepPerThread));
  const std::int64_t weights = s.cell.gates() * s.hidden * depth * std::int64_t{sizeof(T)};
  if (sums || s.steps == 1 || weights > kWeightBytes) return {by_units, false};
  const auto by_samples = static_cast<int>(min_i(of_call, max_i(1, s.batch / kSamplesPerThread)));
  if (by_samples == 1 || by_samples < by_units) return {by_units, false};
  return {by_samples, true};
}

// Those of packed weights.
template <class T>
void use_panels(const char* op, const RnnForms& forms, RnnScan<T>* scan) {
  const bool before = scan->reset_before();
  const auto panels = [&](RnnMatrix matrix, PreparedWeight* weight) {
    const auto pack = rnn_forward_kernels().of<T>().pack;
    T* const none = nullptr;
    const std::int64_t elements = pack(*scan, matrix, 1, none);
    const int threads = threads_for(static_cast<double>(elements), kElementwiseGrain);
    // Others of the weight: gemm's, and those of other groups or gates.
    const FormKey key{static_cast<std::int64_t>(current_isa()), kPanelForm,
                      rnn_forward_kernels().of<T>().panel_groups(*scan, matrix), before ? 1 : 0,
                      static_cast<std::int64_t>(matrix)};
    const void* form =
        weight->form(op, key, elements * static_cast<std::int64_t>(sizeof(T)),
                     [&](void* dst) { pack(*scan, matrix, threads, static_cast<T*>(dst)); });
    return static_cast<const T*>(form);
  };
  const T* first = panels(RnnMatrix::kFirst, forms.w_hh);
  if (before) scan->panels[1] = panels(RnnMatrix::kSecond, forms.w_hh);
  if (scan->w_hr != nullptr) scan->panels[1] = panels(RnnMatrix::kSecond, forms.w_hr);
  if (scan->multiplies_input()) scan->panels[2] = panels(RnnMatrix::kInput, forms.w_ih);
  scan->panels[0] = first;
}

// h0 W_hh' of the gates that read h itself: with the reset before the product not n.
template <class T>
T* product_of_one_step(const char* op, const RnnScan<T>& scan, RnnMemory* memory) {
  const bool before = scan.reset_before();
  const std::int64_t columns = (before ? 2 : scan.cell.gates()) * scan.hidden;
  const T* h = scan.factors == nullptr ? scan.h0 : scan.dropped;
  T* product =
      scan.norm.product != nullptr ? scan.norm.product : memory->take<T>(scan.batch * columns);
  multiply(op,
           product_of<T>({h, scan.out}, {scan.w_hh, scan.out, true}, scan.batch, scan.out, columns),
           product);
  return product;
}

// h0 times the factors, in both halves.
template <class T>
T* drop_first(const RnnScan<T>& scan, RnnMemory* memory) {
  const std::int64_t size = scan.batch * scan.out;
  T* dropped = memory->take<T>(2 * size);
  for (std::int64_t i = 0; i < size; ++i) {
    dropped[i] = dropped[size + i] = scan.h0[i] * scan.factors[i];
  }
  return dropped;
}

// Adds the product that a scan of one step leaves to the gradient of its first state.
template <class T>
void first_state(const char* op, const RnnScanBackward<T>& back) {
  const RnnScan<T>& s = back.scan;
  const std::int64_t width = s.cell.gates() * s.hidden;
  RnnMemory memory(op);
  T* product = memory.take<T>(s.batch * s.out);
  const T* dz = back.dproduct != nullptr ? back.dproduct : back.dz;
  multiply(op,
           product_of<T>({dz, width}, {s.w_hh, s.out}, s.batch,
                         s.reset_before() ? 2 * s.hidden : width, s.out),
           product);
  for (std::int64_t b = 0; b < s.batch; ++b) {
    if (!s.active(0, b)) continue;
    for (std::int64_t j = b * s.out; j < (b + 1) * s.out; ++j) {
      back.dh[j] += s.factors != nullptr ? product[j] * s.factors[j] : product[j];
    }
  }
}

}  // namespace

// Writes, and a tile of gemm's would write to too many pages at a time.
template <class T>
void outer_product(const T* a, std::int64_t m, const T* b, std::int64_t n, T* c, bool accumulate) {
  const int threads =
      threads_for(static_cast<double>(m) * static_cast<double>(n), kElementsPerThread);
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Range part = split_range(m, nthreads, tid);
    for (std::int64_t i = part.begin; i < part.end; ++i) {
      T* row = c + i * n;
      const T first = a[i];
      if (accumulate) {
        for (std::int64_t j = 0; j < n; ++j) row[j] += first * b[j];
      } else {
        for (std::int64_t j = 0; j < n; ++j) row[j] = T(0) + first * b[j];
      }
    }
  });
}

std::int64_t steps_at_once(const RnnShape& s, std::int64_t input, std::int64_t gate_width,
                           std::int64_t item) {
  const std::int64_t bytes = input <= kNarrowInput ? kGateBytesL2 : kGateBytes;
  const std::int64_t rows = max_i(kGateRows, bytes / max_i(1, gate_width * item));
  return min_i(s.steps, max_i(1, rows / max_i(1, s.batch)));
}

template <class T>
void* prepare_scan(const char* op, RnnScan<T>* scan, const RnnForms* forms, RnnMemory* memory) {
  if (scan->norm.on) scan->norm.rows = &norm_row_kernels().of<T>();
  const Team team = team_of(*scan);
  scan->apart = team.apart;
  if (forms != nullptr && forms->w_hh != nullptr) use_panels(op, *forms, scan);
  void* panels = memory->take<char>(rnn_forward_kernels().of<T>().scratch(*scan, team.threads));
  if (scan->factors != nullptr) scan->dropped = drop_first(*scan, memory);
  if (scan->steps == 1 && scan->panels[0] == nullptr && !scan->from_zero) {
    scan->product = product_of_one_step(op, *scan, memory);
  }
  return panels;
}

template <class T>
void run_scan(const char*, const RnnScan<T>& scan, bool more, void* prepared) {
  rnn_forward_kernels().of<T>().run(scan, team_of(scan).threads, more, prepared);
}

template <class T>
void run_scan_backward(const char* op, const RnnScanBackward<T>& back, RnnMemory* memory) {
  const Team team = team_of(back.scan, back.dpeephole != nullptr);
  RnnScanBackward<T> g = back;
  g.scan.apart = team.apart;
  g.leaves_product = g.scan.steps == 1;
  void* scratch = memory->take<char>(rnn_backward_kernels().of<T>().scratch(g, team.threads));
  rnn_backward_kernels().of<T>().run(g, team.threads, scratch);
  if (g.leaves_product) first_state(op, g);
}

#define ARRAYNN_INSTANTIATE(T)                                                           \
  template void outer_product(const T*, std::int64_t, const T*, std::int64_t, T*, bool); \
  template void* prepare_scan(const char*, RnnScan<T>*, const RnnForms*, RnnMemory*);    \
  template void run_scan(const char*, const RnnScan<T>&, bool, void*);                   \
  template void run_scan_backward(const char*, const RnnScanBackward<T>&, RnnMemory*);
ARRAYNN_INSTANTIATE(float)
ARRAYNN_INSTANTIATE(double)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
