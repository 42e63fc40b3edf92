// One layer in one direction on a GPU, backward: all steps in one launch (cuda_scan.hpp). A thread has one
// unit of one sample at a time, and does with it what a column of the CPU does (step_back.hpp). The first
// product of a step is that of the step after; one more than the steps gives the gradient of the first state.
#include "core/cuda_elements.hpp"
#include "rnn/cuda_scan.hpp"

namespace arraynn {
namespace cuda {
namespace {

template <class T>
struct ScanBackCall {
  RnnScanBackward<T> g;
  ScanPlan<T> plan;

  // What is projected has its gradient before the norms.
  ARRAYNN_HOST_DEVICE static ScanPart part(int n) {
    return n == 0 ? ScanPart::kProduct : n == 1 ? ScanPart::kSecond : ScanPart::kRows;
  }
  ARRAYNN_HOST_DEVICE bool has_rows() const { return g.scan.norm.on; }
  // The last one is before the first step.
  ARRAYNN_HOST_DEVICE bool has(ScanPart part, std::int64_t i) const {
    if (part == ScanPart::kProduct) return true;
    return i < g.scan.steps && (part == ScanPart::kRows ? has_rows() : plan.second.gates != 0);
  }
  ARRAYNN_HOST_DEVICE std::int64_t time(std::int64_t i) const {
    return i < 0 || i >= g.scan.steps ? -1 : g.scan.time(g.scan.steps - 1 - i);
  }
};

template <class T>
__device__ __forceinline__ Column<T> column_of(std::int64_t b, std::int64_t unit, T dh) {
  return {unit, 1, 1, {b}, {dh}};
}

// From the gradient of h, or with norms from that of LN(c), to those of the gates.
template <RnnKind kKind, class T>
__device__ __forceinline__ void first_column(const Back<T>& step, Column<Compute<T>>& column) {
  if constexpr (kKind == RnnKind::kRnn) rnn_column(step, column);
  if constexpr (kKind == RnnKind::kGru) gru_column(step, column);
  if constexpr (kKind == RnnKind::kLstm) {
    if (step.s.norm.cell != nullptr) {
      output_column(step, column);
    } else {
      lstm_column(step, column);
    }
  }
}

template <RnnKind kKind, class T>
__device__ __forceinline__ void product_part(const ScanBackCall<T>& call, const Back<T>& step,
                                             std::int64_t after, std::int64_t next) {
  const RnnScanBackward<T>& g = call.g;
  const RnnScan<T>& s = g.scan;
  const std::int64_t t = step.t, h = s.hidden, width = step.width();
  const T* dz = g.dproduct != nullptr ? g.dproduct : g.dz;
  const ScanRows<T> rows{dz + max_i(0, after) * s.batch * width, width};
  // What forward kept of the next step comes from memory while this one is formed.
  const auto before = [&](std::int64_t b, std::int64_t unit) {
    if (next < 0 || unit % kUnits != 0 || unit >= h || !s.gates_kept()) return;
    const Compute<T>* gates = s.gates + (next * s.batch + b) * width + unit;
    for (std::int64_t at = 0; at < width; at += h) ptx::prefetch_global_l2(gates + at);
  };
  for_products<1>(call.plan, call.plan.first, rows, s.batch, after >= 0, before,
                  [&](std::int64_t b, std::int64_t unit, Compute<T>(&z)[1]) {
                    const bool active = t >= 0 && s.active(t, b), within = t >= 0 && s.within(t, b);
                    if (g.dcells != nullptr && within && !active)
                      pass_cells(g, t, b, one_of(unit, h));
                    // One that passes through takes its gradient of y along.
                    if (unit >= s.out || !(within || (after >= 0 && s.active(after, b)))) return;
                    auto column = column_of(b, unit, z[0]);
                    if (!gradient_of_h(step, b, unit, 1, {z[0]}, column.dh)) return;
                    if (kKind == RnnKind::kLstm && s.w_hr != nullptr) {
                      scatter(column, column.dh, [&](std::int64_t row) { return step.dout(row); });
                    } else {
                      first_column<kKind>(step, column);
                    }
                  });
}

// The gradient of what is projected, or of r h where the reset comes before the product.
template <RnnKind kKind, class T>
__device__ __forceinline__ void second_part(const ScanBackCall<T>& call, const Back<T>& step) {
  const RnnScan<T>& s = step.s;
  constexpr bool kProjects = kKind == RnnKind::kLstm;
  const ScanRows<T> rows = kProjects ? ScanRows<T>{step.dout(0), s.out}
                                     : ScanRows<T>{step.dz(0) + 2 * s.hidden, step.width()};
  for_products<1>(
      call.plan, call.plan.second, rows, s.batch, true, [](std::int64_t, std::int64_t) {},
      [&](std::int64_t b, std::int64_t unit, Compute<T>(&z)[1]) {
        if (unit >= s.hidden || !s.active(step.t, b)) return;
        auto column = column_of(b, unit, z[0]);
        if constexpr (kProjects) {
          first_column<kKind>(step, column);
        } else {
          reset_column(step, column);
        }
      });
}

template <RnnKind kKind, class T>
__device__ __forceinline__ void rows_part(const ScanPlan<T>& plan, const Back<T>& step) {
  const RnnScanBackward<T>& g = step.g;
  const RnnScan<T>& s = step.s;
  const RnnNorm<Compute<T>>& norm = s.norm;
  const std::int64_t h = s.hidden, width = step.width();
  for_rows(plan, s.batch, [&](std::int64_t b) {
    if (!s.active(step.t, b)) return;
    const std::int64_t at = step.at(b);
    if constexpr (kKind == RnnKind::kLstm) {
      if (norm.cell != nullptr) {
        normalise_row_back(h, g.dnormed + at * h, norm.cell + at * h, norm.cell_gain,
                           norm.cell_mean[at], norm.cell_rstd[at], g.dcell + b * h);
        for (std::int64_t unit = threadIdx.x; unit < h; unit += kScanThreads) {
          lstm_column(step, column_of(b, unit, Compute<T>(0)));
        }
        __syncthreads();  // the gradients of the row are there
      }
    }
    normalise_row_back(width, g.dz + at * width, norm.product + at * width, norm.gain,
                       norm.mean[at], norm.rstd[at], g.dproduct + at * width);
  });
}

template <class T, RnnKind kKind>
__global__ void __launch_bounds__(kScanThreads, 1)
    rnn_scan_back_kernel(const __grid_constant__ ScanBackCall<T> call) {
  const RnnScan<T>& s = call.g.scan;
  walk_scan(call, [&](std::int64_t i, ScanPart part) {
    const Back<T> step{call.g, s, call.time(i), Bounds<Compute<T>>(s.cell)};
    if (part == ScanPart::kProduct) {
      product_part<kKind>(call, step, call.time(i - 1), call.time(i + 1));
    }
    if constexpr (kKind != RnnKind::kRnn) {
      if (part == ScanPart::kSecond) second_part<kKind>(call, step);
    }
    if (part == ScanPart::kRows) rows_part<kKind>(call.plan, step);
  });
}

template <class T, RnnKind kKind>
void launch_backward(ScanBackCall<T> call, RnnMemory* memory) {
  const RnnScan<T>& s = call.g.scan;
  const std::int64_t h = s.hidden, width = s.cell.gates() * h;
  // Weights lie along k, which is what is summed over.
  const auto turned = [&](const T* w, std::int64_t rows, std::int64_t columns) -> const T* {
    T* to = memory->take<T>(rows * columns);
    swap_axes(w, to, rows, columns, 1);
    return to;
  };
  const T* w = turned(s.w_hh, width, s.out);
  // All units of c pass, too.
  call.plan.first =
      scan_product<T>(w, width, s.reset_before() ? 2 * h : width, s.out, 1, max_i(s.out, h));
  if (s.w_hr != nullptr) {
    call.plan.second = scan_product<T>(turned(s.w_hr, s.out, h), s.out, s.out, h, 1, h);
  }
  if (s.reset_before()) call.plan.second = scan_product<T>(w + 2 * h, width, h, h, 1, h);
  const Grid grid = plan_scan(&call.plan, s.batch, s.norm.on ? s.batch : 0);
  launch_scan("rnn_scan_back_kernel", &rnn_scan_back_kernel<T, kKind>, grid, call);
}

// ---- peepholes --------------------------------------------------------------------------------------

// Rows of steps and samples whose sums are one thread's.
constexpr std::int64_t kPeepholeRows = 128;
constexpr int kPeepholeBlocks = 4;  // a multiprocessor

// Gradients of peepholes by kPeepholeRows of the rows of all steps, in order: a thread has a unit.
template <class T>
__global__ void __launch_bounds__(kElementThreads, kPeepholeBlocks)
    rnn_peephole_kernel(const __grid_constant__ RnnScanBackward<T> g, Compute<T>* sums) {
  using V = Vec<Compute<T>>;
  const RnnScan<T>& s = g.scan;
  const std::int64_t h = s.hidden, rows = s.steps * s.batch;
  for_elements(ceil_div(rows, kPeepholeRows) * h, [&](std::int64_t i) {
    const Quotient at = divide(i, h);
    const std::int64_t unit = at.remainder, begin = at.quotient * kPeepholeRows;
    V total[3] = {V::zero(), V::zero(), V::zero()};
    for (std::int64_t row = begin; row < min_i(rows, begin + kPeepholeRows); ++row) {
      const Quotient of = divide(row, s.batch);
      const std::int64_t t = of.quotient, b = of.remainder;
      if (!s.active(t, b)) continue;
      const Back<T> step{g, s, t, Bounds<Compute<T>>(s.cell)};
      const T* dz = step.dz(b) + unit;
      const Compute<T>* gates = step.gates(b) + unit;
      const V old = V::load(s.c_before(t, b) + unit);
      const V c = s.cell.zone_cell > 0 ? new_cell(step, V::load(gates), V::load(gates + h),
                                                  V::load(gates + 2 * h), old)
                                       : V::load(step.cells(b) + unit);
      add_peepholes(load_lanes(dz, 1), load_lanes(dz + h, 1), load_lanes(dz + 3 * h, 1), old, c,
                    total);
    }
    Compute<T>* to = sums + at.quotient * 3 * h + unit;
#pragma unroll
    for (int p = 0; p < 3; ++p) total[p].store(to + p * h);
  });
}

template <class T>
void peepholes(const RnnScanBackward<T>& g, Compute<T>* sums, RnnMemory* memory) {
  const RnnScan<T>& s = g.scan;
  const std::int64_t parts = ceil_div(s.steps * s.batch, kPeepholeRows);
  auto* partial = memory->take<Compute<T>>(parts * 3 * s.hidden);
  ARRAYNN_LAUNCH((rnn_peephole_kernel<T>), element_grid(parts * s.hidden, kPeepholeBlocks), g,
                 partial);
  column_sums(partial, parts, 3 * s.hidden, sums);
}

}  // namespace
}  // namespace cuda

template <class T>
void run_scan_backward(const char*, const RnnScanBackward<T>& back, RnnMemory* memory) {
  const RnnScan<T>& s = back.scan;
  if (s.batch == 0 || max_i(s.out, s.hidden) == 0) return;
  cuda::ScanBackCall<T> call{.g = back, .plan = {}};
  call.g.dpeephole = nullptr;  // the sums follow
  call.plan.arrived = memory->take<std::uint32_t>(1);
  call.plan.range.end = s.steps + 1;
  switch (s.cell.kind) {
    case RnnKind::kRnn:
      cuda::launch_backward<T, RnnKind::kRnn>(call, memory);
      break;
    case RnnKind::kLstm:
      cuda::launch_backward<T, RnnKind::kLstm>(call, memory);
      break;
    case RnnKind::kGru:
      cuda::launch_backward<T, RnnKind::kGru>(call, memory);
      break;
  }
  if (back.dpeephole != nullptr && s.steps > 0) cuda::peepholes(call.g, back.dpeephole, memory);
}

#define ARRAYNN_INSTANTIATE(T) \
  template void run_scan_backward(const char*, const RnnScanBackward<T>&, RnnMemory*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
