// One layer in one direction on a GPU. A step is the product with h (gemm), then one kernel for all of
// its gates: a thread has one unit of one sample, and does with it what a tile of the CPU does with
// its vectors (step.hpp, step_back.hpp). A second product in the step (the reset before the product,
// the projection) takes a second kernel, a layer norm one of its rows. Steps follow each other by the order
// of the stream.
//
// What the product reads are rows that lie evenly: `dropped` has the h of every sample for the next step,
// also where lengths differ. Rows of samples that are not active are formed and not used.
#include "core/cuda_elements.hpp"
#include "core/cuda_pack.hpp"
#include "norm/norm.hpp"
#include "rnn/stack.hpp"
#include "rnn/step.hpp"
#include "rnn/step_back.hpp"

namespace arraynn {
namespace cuda {
namespace {

// A step's arithmetic waits for its loads: 512 threads hide them, with 128 registers each.
constexpr int kBlocksPerMultiprocessor = 2;
// Gates of a part of the steps: enough rows for the product over all of them to fill the device.
constexpr std::int64_t kGateBytes = std::int64_t{64} << 20;

Grid grid_of(std::int64_t n) { return element_grid(n, kBlocksPerMultiprocessor); }

// f(b, unit) for all units of all samples, in steps of the grid.
template <class F>
__device__ __forceinline__ void for_units_of(std::int64_t batch, std::int64_t units, const F& f) {
  for_elements(batch * units, [&f, units](std::int64_t i) {
    const Quotient at = divide(i, units);
    f(at.quotient, at.remainder);
  });
}

__device__ __forceinline__ Range one_of(std::int64_t unit, std::int64_t units) {
  return {unit, unit < units ? unit + 1 : unit};
}

// ---- forward ----------------------------------------------------------------------------------------

enum class StepPart : std::uint8_t {
  kRnn,
  kLstm,
  kGru,
  kReset,      // r and z where the reset comes before the product
  kCandidate,  // n of these
  kOutput,     // h of an LSTM whose c is normalised
  kProject,
};
constexpr int sums_of(StepPart part) {
  switch (part) {
    case StepPart::kLstm:
      return 4;
    case StepPart::kGru:
      return 3;
    case StepPart::kReset:
      return 2;
    default:
      return 1;
  }
}
// Samples that are not active are its part, too.
constexpr bool comes_first(StepPart part) {
  return part != StepPart::kCandidate && part != StepPart::kOutput && part != StepPart::kProject;
}

// sums: [batch, gates, units], null for zeros.
template <class T, StepPart kPart>
__global__ void __launch_bounds__(kElementThreads, kBlocksPerMultiprocessor)
    rnn_step_kernel(const __grid_constant__ RnnScan<T> s, std::int64_t t, const T* sums) {
  constexpr int kSums = sums_of(kPart);
  const Step<T> step{s, t, Bounds<T>(s.cell)};
  const std::int64_t units = kPart == StepPart::kProject ? s.out : s.hidden;
  const std::int64_t all = comes_first(kPart) ? max_i(s.out, s.hidden) : units;
  for_units_of(s.batch, all, [&](std::int64_t b, std::int64_t unit) {
    if (!s.active(t, b)) {
      if (comes_first(kPart) && s.within(t, b)) {
        pass_state(step, b, one_of(unit, s.out), one_of(unit, s.hidden));
      }
      return;
    }
    if (unit >= units) return;
    T z[kSums];
#pragma unroll
    for (int g = 0; g < kSums; ++g) {
      z[g] = sums == nullptr ? T(0) : sums[(b * kSums + g) * units + unit];
    }
    const Tile<T> tile{&b, 1, unit, z};
    if constexpr (kPart == StepPart::kRnn) rnn_tile(step, 1, tile);
    if constexpr (kPart == StepPart::kLstm) lstm_tile(step, tile);
    if constexpr (kPart == StepPart::kGru) gru_tile(step, tile);
    if constexpr (kPart == StepPart::kReset) reset_tile(step, 1, tile);
    if constexpr (kPart == StepPart::kCandidate) candidate_tile(step, 1, tile);
    if constexpr (kPart == StepPart::kProject) project_tile(step, 1, tile);
    if constexpr (kPart == StepPart::kOutput) {  // the sum is the normalised c
      const Vec<T> o = Vec<T>::load(step.gates(b) + 3 * s.hidden + unit);
      put_output(step, b, unit, 1, o * Vec<T>{activate(s.cell.output, z[0])});
    }
  });
}

template <class T, StepPart kPart>
void launch_step(const RnnScan<T>& s, std::int64_t t, const T* sums) {
  const Grid grid = grid_of(s.batch * max_i(s.out, s.hidden));
  ARRAYNN_LAUNCH((rnn_step_kernel<T, kPart>), grid, s, t, sums);
}

template <class T>
void first_part(const RnnScan<T>& s, std::int64_t t, const T* sums) {
  switch (s.cell.kind) {
    case RnnKind::kRnn:
      return launch_step<T, StepPart::kRnn>(s, t, sums);
    case RnnKind::kLstm:
      return launch_step<T, StepPart::kLstm>(s, t, sums);
    case RnnKind::kGru:
      if (s.cell.reset_after) return launch_step<T, StepPart::kGru>(s, t, sums);
      return launch_step<T, StepPart::kReset>(s, t, sums);
  }
}

template <class T>
RowNorm rows_of_norm(const RnnScan<T>& s, std::int64_t size) {
  return {s.batch, size, s.norm.eps, true, {}};
}

// `sums` for a product over all gates, `second` for one over h or over what is projected.
template <class T>
void run_step(const char* op, const RnnScan<T>& s, std::int64_t t, T* sums, T* second) {
  const std::int64_t width = s.cell.gates() * s.hidden, at = t * s.norm.step * s.batch;
  const std::int64_t columns = s.reset_before() ? 2 * s.hidden : width;
  const std::int64_t depth = s.depth(t);
  const T* product = nullptr;
  if (depth > 0 || s.norm.on) {
    T* to = s.norm.on ? s.norm_product(t) : sums;
    gemm(op, product_of<T>({s.dropped_at(t, 0, 0), s.out}, {s.w_hh, s.out, true}, s.batch, depth,
                           columns, to));
    product = to;
  }
  if (s.norm.on) {
    T* const none = nullptr;
    row_norm<T>(rows_of_norm(s, width), product, s.norm.gain, none, s.norm.normed, s.norm.mean + at,
                s.norm.rstd + at);
    product = s.norm.normed;
  }
  first_part(s, t, product);
  if (s.norm.cell != nullptr) {
    row_norm<T>(rows_of_norm(s, s.hidden), s.norm_cells(t), s.norm.cell_gain, s.norm.cell_bias,
                s.norm.normed_cell, s.norm.cell_mean + at, s.norm.cell_rstd + at);
    launch_step<T, StepPart::kOutput>(s, t, s.norm.normed_cell);
  }
  if (s.w_hr != nullptr) {
    gemm(op, product_of<T>({s.wide_at(t, 0), s.hidden}, {s.w_hr, s.hidden, true}, s.batch, s.hidden,
                           s.out, second));
    launch_step<T, StepPart::kProject>(s, t, second);
  }
  if (s.reset_before()) {
    const std::int64_t h = s.hidden;
    gemm(op, product_of<T>({s.inner_at(t, 0), h}, {s.w_hh + 2 * h * h, h, true}, s.batch, h, h,
                           second));
    launch_step<T, StepPart::kCandidate>(s, t, second);
  }
}

// ---- backward ---------------------------------------------------------------------------------------

enum class BackPart : std::uint8_t {
  kRnn,
  kLstm,
  kGru,
  kProjected,  // the gradient of h where that is projected
  kReset,      // of r h where the reset comes before the product
  kCells,      // of an LSTM whose c is normalised, after that norm
};

// sums: dz of the step `after` times W_hh, or with `second` the product of this step, null for zeros;
// [batch, out or hidden]. t = -1 is before the first step.
template <class T, BackPart kPart>
__global__ void __launch_bounds__(kElementThreads, kBlocksPerMultiprocessor)
    rnn_back_kernel(const __grid_constant__ RnnScanBackward<T> g, std::int64_t t,
                    std::int64_t after, const T* sums, bool second) {
  const RnnScan<T>& s = g.scan;
  const Back<T> step{g, s, t, Bounds<T>(s.cell)};
  const std::int64_t units = second ? s.hidden : s.out;
  for_units_of(s.batch, second ? units : max_i(s.out, s.hidden),
               [&](std::int64_t b, std::int64_t unit) {
                 const bool active = t >= 0 && s.active(t, b), within = t >= 0 && s.within(t, b);
                 if (second && !active) return;
                 if (!second && g.dcells != nullptr && within && !active) {
                   pass_cells(g, t, b, one_of(unit, s.hidden));
                 }
                 // One that passes through takes its gradient of y along.
                 if (unit >= units || !(within || (after >= 0 && s.active(after, b)))) return;
                 const Vec<T> sum{sums == nullptr ? T(0) : sums[b * units + unit]};
                 Column<T> column{unit, 1, 1, {b}, {sum.v}};
                 if (!second && !gradient_of_h(step, b, unit, 1, sum, column.dh)) return;
                 if constexpr (kPart == BackPart::kRnn) rnn_column(step, column);
                 if constexpr (kPart == BackPart::kLstm) {
                   if (s.norm.cell != nullptr) {
                     output_column(step, column);
                   } else {
                     lstm_column(step, column);
                   }
                 }
                 if constexpr (kPart == BackPart::kGru) gru_column(step, column);
                 if constexpr (kPart == BackPart::kProjected) {
                   scatter(column, column.dh, [&](std::int64_t row) { return step.dout(row); });
                 }
                 if constexpr (kPart == BackPart::kReset) reset_column(step, column);
                 if constexpr (kPart == BackPart::kCells) lstm_column(step, column);
               });
}

// Gradients of peepholes by a step, added to: a thread has a unit and goes through the samples in order.
template <class T>
__global__ void __launch_bounds__(kElementThreads, kBlocksPerMultiprocessor)
    rnn_peephole_kernel(const __grid_constant__ RnnScanBackward<T> g, std::int64_t t, T* sums) {
  using V = Vec<T>;
  const RnnScan<T>& s = g.scan;
  const Back<T> step{g, s, t, Bounds<T>(s.cell)};
  const std::int64_t h = s.hidden;
  for_units_of(1, h, [&](std::int64_t, std::int64_t unit) {
    V total[3];
#pragma unroll
    for (int p = 0; p < 3; ++p) total[p] = V::load(sums + p * h + unit);
    for (std::int64_t b = 0; b < s.batch; ++b) {
      if (!s.active(t, b)) continue;
      const T* dz = step.dz(b) + unit;
      const T* gates = step.gates(b) + unit;
      const V old = V::load(s.c_before(t, b) + unit);
      const V c = s.cell.zone_cell > 0 ? new_cell(step, V::load(gates), V::load(gates + h),
                                                  V::load(gates + 2 * h), old)
                                       : V::load(step.cells(b) + unit);
      add_peepholes(V::load(dz), V::load(dz + h), V::load(dz + 3 * h), old, c, total);
    }
#pragma unroll
    for (int p = 0; p < 3; ++p) total[p].store(sums + p * h + unit);
  });
}

template <class T, BackPart kPart>
void launch_back(const RnnScanBackward<T>& g, std::int64_t t, std::int64_t after, const T* sums,
                 bool second) {
  const Grid grid = grid_of(g.scan.batch * max_i(g.scan.out, g.scan.hidden));
  ARRAYNN_LAUNCH((rnn_back_kernel<T, kPart>), grid, g, t, after, sums, second);
}

template <class T>
void first_part_back(const RnnScanBackward<T>& g, std::int64_t t, std::int64_t after,
                     const T* sums) {
  if (g.scan.w_hr != nullptr) {
    return launch_back<T, BackPart::kProjected>(g, t, after, sums, false);
  }
  switch (g.scan.cell.kind) {
    case RnnKind::kRnn:
      return launch_back<T, BackPart::kRnn>(g, t, after, sums, false);
    case RnnKind::kLstm:
      return launch_back<T, BackPart::kLstm>(g, t, after, sums, false);
    case RnnKind::kGru:
      return launch_back<T, BackPart::kGru>(g, t, after, sums, false);
  }
}

template <class T>
void norms_back(const char* op, const RnnScanBackward<T>& g, std::int64_t t) {
  const RnnScan<T>& s = g.scan;
  const RnnNorm<T>& norm = s.norm;
  const std::int64_t at = t * s.batch, h = s.hidden, width = s.cell.gates() * h;
  T* const none = nullptr;
  if (norm.cell != nullptr) {
    row_norm_backward<T>(op, rows_of_norm(s, h), g.dnormed + at * h, norm.cell + at * h,
                         norm.cell_gain, norm.cell_mean + at, norm.cell_rstd + at, g.dcell, none,
                         none);
    launch_back<T, BackPart::kCells>(g, t, t, none, true);
  }
  row_norm_backward<T>(op, rows_of_norm(s, width), g.dz + at * width, norm.product + at * width,
                       norm.gain, norm.mean + at, norm.rstd + at, g.dproduct + at * width, none,
                       none);
}

template <class T>
void run_step_back(const char* op, const RnnScanBackward<T>& g, std::int64_t t, std::int64_t after,
                   T* sums, T* second) {
  const RnnScan<T>& s = g.scan;
  const std::int64_t h = s.hidden, width = s.cell.gates() * h;
  const T* dz = g.dproduct != nullptr ? g.dproduct : g.dz;
  if (after >= 0) {
    gemm(op, product_of<T>({dz + after * s.batch * width, width}, {s.w_hh, s.out}, s.batch,
                           s.reset_before() ? 2 * h : width, s.out, sums));
  }
  first_part_back<T>(g, t, after, after >= 0 ? sums : nullptr);
  if (t < 0) return;
  if (s.w_hr != nullptr) {
    gemm(op, product_of<T>({g.dout + t * s.batch * s.out, s.out}, {s.w_hr, h}, s.batch, s.out, h,
                           second));
    launch_back<T, BackPart::kLstm>(g, t, after, second, true);
  }
  if (s.reset_before()) {
    gemm(op, product_of<T>({g.dz + t * s.batch * width + 2 * h, width}, {s.w_hh + 2 * h * h, h},
                           s.batch, h, h, second));
    launch_back<T, BackPart::kReset>(g, t, after, second, true);
  }
  if (s.norm.on) norms_back(op, g, t);
}

}  // namespace
}  // namespace cuda

std::int64_t steps_at_once(const RnnShape& s, std::int64_t, std::int64_t gate_width,
                           std::int64_t item) {
  const std::int64_t row = max_i(1, gate_width * item * s.batch);
  return min_i(s.steps, max_i(1, cuda::kGateBytes / row));
}

template <class T>
void* prepare_scan(const char*, RnnScan<T>* scan, const RnnForms*, RnnMemory* memory) {
  const std::int64_t size = scan->batch * scan->out;
  scan->dropped = memory->take<T>(2 * size);
  move_rows(RnnMove<T>{.steps = 2,
                       .batch = scan->batch,
                       .n = scan->out,
                       .to = {scan->dropped, size, scan->out},
                       .from = {scan->h0, 0, scan->out},
                       .factors = scan->factors});
  const std::int64_t width = scan->cell.gates() * scan->hidden;
  return memory->take<T>(scan->batch * (width + max_i(scan->out, scan->hidden)));
}

template <class T>
void run_scan(const char* op, const RnnScan<T>& s, bool, void* prepared) {
  auto* sums = static_cast<T*>(prepared);
  T* second = sums + s.batch * s.cell.gates() * s.hidden;
  for (std::int64_t i = s.first; i < s.last; ++i) cuda::run_step(op, s, s.time(i), sums, second);
}

template <class T>
void run_scan_backward(const char* op, const RnnScanBackward<T>& back, RnnMemory* memory) {
  const RnnScan<T>& s = back.scan;
  T* sums = memory->take<T>(s.batch * s.out);
  T* second = memory->take<T>(s.batch * s.hidden);
  RnnScanBackward<T> g = back;
  g.dpeephole = nullptr;
  std::int64_t after = -1;
  // One more than the steps: the last product gives the gradient of the first state.
  for (std::int64_t i = s.steps - 1; i >= -1; --i) {
    const std::int64_t t = i < 0 ? -1 : s.time(i);
    cuda::run_step_back(op, g, t, after, sums, second);
    if (t >= 0 && back.dpeephole != nullptr) {
      const cuda::Grid grid = cuda::grid_of(s.hidden);
      ARRAYNN_LAUNCH((cuda::rnn_peephole_kernel<T>), grid, g, t, back.dpeephole);
    }
    after = t;
  }
}

#define ARRAYNN_INSTANTIATE(T)                                                        \
  template void* prepare_scan(const char*, RnnScan<T>*, const RnnForms*, RnnMemory*); \
  template void run_scan(const char*, const RnnScan<T>&, bool, void*);                \
  template void run_scan_backward(const char*, const RnnScanBackward<T>&, RnnMemory*);
ARRAYNN_INSTANTIATE(float)
ARRAYNN_INSTANTIATE(double)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
