// One layer in one direction on a GPU, forward: all steps in one launch (cuda_scan.hpp). A thread has one
// unit of one sample at a time, and does with it what a tile of the CPU does with its vectors (step.hpp).
//
// What the product reads are rows that lie evenly: `dropped` has the h of every sample for the next step,
// also where lengths differ. Sums of samples that are not active are formed and not used.
#include "rnn/cuda_scan.hpp"

namespace arraynn {
namespace cuda {
namespace {

// Gates of a part of the steps: enough rows for the product over all of them to fill the device.
constexpr std::int64_t kGateBytes = std::int64_t{64} << 20;

template <class T>
struct ScanCall {
  RnnScan<T> s;
  ScanPlan<T> plan;

  ARRAYNN_HOST_DEVICE static ScanPart part(int n) { return static_cast<ScanPart>(n); }
  ARRAYNN_HOST_DEVICE bool has_rows() const { return s.norm.on; }
  ARRAYNN_HOST_DEVICE bool has(ScanPart part, std::int64_t) const {
    return part == ScanPart::kProduct ||
           (part == ScanPart::kRows ? has_rows() : plan.second.gates != 0);
  }
};

// A sample that takes no part in a step; false where it does.
template <class T>
__device__ __forceinline__ bool passes(const Step<T>& step, std::int64_t b, std::int64_t unit) {
  const RnnScan<T>& s = step.s;
  if (s.active(step.t, b)) return false;
  if (s.within(step.t, b)) pass_state(step, b, one_of(unit, s.out), one_of(unit, s.hidden));
  return true;
}

// What follows from the sums of the first product.
template <RnnKind kKind, int kSums, class T>
__device__ __forceinline__ void first_unit(const Step<T>& step, std::int64_t b, std::int64_t unit,
                                           Compute<T> (&z)[kSums]) {
  const Tile<Compute<T>> tile{&b, 1, unit, z};
  if constexpr (kKind == RnnKind::kRnn) rnn_tile(step, 1, tile);
  if constexpr (kKind == RnnKind::kLstm) lstm_tile(step, tile);
  if constexpr (kKind == RnnKind::kGru && kSums == 3) gru_tile(step, tile);
  if constexpr (kKind == RnnKind::kGru && kSums == 2) reset_tile(step, 1, tile);
}

template <RnnKind kKind, int kSums, class T>
__device__ __forceinline__ void product_part(const ScanCall<T>& call, const Step<T>& step,
                                             std::int64_t next) {
  const RnnScan<T>& s = step.s;
  const std::int64_t h = s.hidden, width = s.cell.gates() * h;
  const ScanRows<T> rows{s.dropped_at(step.t, 0, 0), s.out};
  // x's share of the next step comes from memory while this one is formed: a sector a panel and gate.
  const auto before = [&](std::int64_t b, std::int64_t unit) {
    if (next < 0 || unit % kUnits != 0 || unit >= h) return;
    const Compute<T>* gates = s.gates + ((next - s.gates_t) * s.batch + b) * width + unit;
    for (std::int64_t at = 0; at < width; at += h) ptx::prefetch_global_l2(gates + at);
  };
  for_products<kSums>(call.plan, call.plan.first, rows, s.batch, s.depth(step.t) > 0, before,
                      [&](std::int64_t b, std::int64_t unit, Compute<T>(&z)[kSums]) {
                        if (s.norm.on) {
                          if (unit >= h || !s.active(step.t, b)) return;
                          Compute<T>* to = s.norm_product(step.t) + b * width + unit;
#pragma unroll
                          for (int gate = 0; gate < kSums; ++gate) to[gate * h] = z[gate];
                        } else if (!passes(step, b, unit) && unit < h) {
                          first_unit<kKind>(step, b, unit, z);
                        }
                      });
}

template <RnnKind kKind, int kSums, class T>
__device__ __forceinline__ void rows_part(const ScanPlan<T>& plan, const Step<T>& step) {
  using C = Compute<T>;
  const RnnScan<T>& s = step.s;
  const RnnNorm<C>& norm = s.norm;
  const std::int64_t h = s.hidden, width = s.cell.gates() * h;
  for_rows(plan, s.batch, [&](std::int64_t b) {
    const std::int64_t at = step.t * norm.step * s.batch + b;
    if (!s.active(step.t, b)) {
      for (std::int64_t i = threadIdx.x; i < max_i(s.out, h); i += kScanThreads) passes(step, b, i);
      return;
    }
    C* normed = norm.normed + b * width;
    const C* const none = nullptr;
    normalise_row<C>(width, norm.eps, s.norm_product(step.t) + b * width, norm.gain, none, normed,
                     norm.mean + at, norm.rstd + at);
    for (std::int64_t unit = threadIdx.x; unit < h; unit += kScanThreads) {
      C z[kSums];
#pragma unroll
      for (int gate = 0; gate < kSums; ++gate) z[gate] = normed[gate * h + unit];
      first_unit<kKind>(step, b, unit, z);
    }
    if constexpr (kKind == RnnKind::kLstm) {
      if (norm.cell == nullptr) return;
      C* cell = norm.normed_cell + b * h;
      normalise_row<C>(h, norm.eps, step.norm_cell(b), norm.cell_gain, norm.cell_bias, cell,
                       norm.cell_mean + at, norm.cell_rstd + at);
      for (std::int64_t unit = threadIdx.x; unit < h; unit += kScanThreads) {
        const Vec<C> o = Vec<C>::load(step.gates(b) + 3 * h + unit);
        put_output(step, b, unit, 1, o * Vec<C>{activate(s.cell.output, cell[unit])});
      }
    }
  });
}

// The candidate of a reset before the product, or the projection.
template <RnnKind kKind, class T>
__device__ __forceinline__ void second_part(const ScanCall<T>& call, const Step<T>& step) {
  const RnnScan<T>& s = step.s;
  constexpr bool kProjects = kKind == RnnKind::kLstm;
  const ScanRows<T> rows{step.wide(0), s.hidden};
  for_products<1>(
      call.plan, call.plan.second, rows, s.batch, true, [](std::int64_t, std::int64_t) {},
      [&](std::int64_t b, std::int64_t unit, Compute<T>(&z)[1]) {
        if (unit >= call.plan.second.units || !s.active(step.t, b)) return;
        const Tile<Compute<T>> tile{&b, 1, unit, z};
        if constexpr (kProjects) {
          project_tile(step, 1, tile);
        } else {
          candidate_tile(step, 1, tile);
        }
      });
}

template <class T, RnnKind kKind, int kSums>
__global__ void __launch_bounds__(kScanThreads, 1)
    rnn_scan_kernel(const __grid_constant__ ScanCall<T> call) {
  const RnnScan<T>& s = call.s;
  walk_scan(call, [&](std::int64_t i, ScanPart part) {
    const Step<T> step{s, s.time(i), Bounds<Compute<T>>(s.cell)};
    if (part == ScanPart::kProduct) {
      product_part<kKind, kSums>(call, step, i + 1 < call.plan.range.end ? s.time(i + 1) : -1);
    }
    if constexpr (kSums != 2) {  // norms want the reset after the product
      if (part == ScanPart::kRows) rows_part<kKind, kSums>(call.plan, step);
    }
    if constexpr (kKind == RnnKind::kLstm || kSums == 2) {
      if (part == ScanPart::kSecond) second_part<kKind>(call, step);
    }
  });
}

template <class T, RnnKind kKind, int kSums>
void launch_forward(ScanCall<T> call) {
  const RnnScan<T>& s = call.s;
  const std::int64_t h = s.hidden;
  call.plan.first = scan_product<T>(s.w_hh, s.out, s.out, h, kSums, max_i(s.out, h));
  if (s.w_hr != nullptr) call.plan.second = scan_product<T>(s.w_hr, h, h, s.out, 1, s.out);
  if (s.reset_before()) {
    call.plan.second = scan_product<T>(s.w_hh + 2 * h * h, h, h, h, 1, h);
  }
  const Grid grid = plan_scan(&call.plan, s.batch, s.norm.on ? s.batch : 0);
  launch_scan("rnn_scan_kernel", &rnn_scan_kernel<T, kKind, kSums>, grid, call);
}

}  // namespace
}  // namespace cuda

std::int64_t steps_at_once(const RnnShape& s, std::int64_t, std::int64_t gate_width,
                           std::int64_t item) {
  const std::int64_t row = max_i(1, gate_width * item * s.batch);
  return min_i(s.steps, max_i(1, cuda::kGateBytes / row));
}

// What run_scan() takes is the counter of the barrier.
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
  return memory->take<std::uint32_t>(1);
}

template <class T>
void run_scan(const char*, const RnnScan<T>& s, bool, void* prepared) {
  if (s.batch == 0 || max_i(s.out, s.hidden) == 0) return;
  cuda::ScanCall<T> call{.s = s, .plan = {}};
  call.plan.arrived = static_cast<std::uint32_t*>(prepared);
  call.plan.range.begin = s.first;
  call.plan.range.end = s.last;
  switch (s.cell.kind) {
    case RnnKind::kRnn:
      return cuda::launch_forward<T, RnnKind::kRnn, 1>(call);
    case RnnKind::kLstm:
      return cuda::launch_forward<T, RnnKind::kLstm, 4>(call);
    case RnnKind::kGru:
      if (s.reset_before()) return cuda::launch_forward<T, RnnKind::kGru, 2>(call);
      return cuda::launch_forward<T, RnnKind::kGru, 3>(call);
  }
}

#define ARRAYNN_INSTANTIATE(T)                                                        \
  template void* prepare_scan(const char*, RnnScan<T>*, const RnnForms*, RnnMemory*); \
  template void run_scan(const char*, const RnnScan<T>&, bool, void*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
