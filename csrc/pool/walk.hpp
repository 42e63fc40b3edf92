// Gradients of maxima that write every row of dx once.
//   runs      channels_first, rows of windows of 2 or 4 elements side by side: whole vectors of taps,
//             split and merged in registers
//   gathered  channels_last, small windows: a row of dx from the windows that reach it. The positions
//             that won there are kept in a ring of rows, in cache, as vectors of channels; along the
//             row the sums of columns that windows share stay in registers
#pragma once
#include "pool/pool.hpp"

namespace arraynn {

// Every position is a window of its own.
ARRAYNN_INLINE bool keeps_positions(const PoolAxis& a) {
  return a.to == 0 && a.kernel == 1 && a.stride == 1 && a.begin == 0 && a.out == a.size;
}
// Positions of the maxima of tiles, in planes or in the planes of volumes, are found along memory too.
ARRAYNN_INLINE bool finds_in_tiles(const VolumeProblem& v) {
  return is_tiled(v.plane, PoolTask::kMax) && keeps_positions(v.d);
}
// Windows of 2 or 4 elements side by side.
ARRAYNN_INLINE bool is_run(const PoolAxis& w) {
  return w.to == 0 && (w.kernel == 2 || w.kernel == 4) && w.stride == w.kernel && w.dilation == 1 &&
         w.begin == 0 && w.size >= w.out * w.stride;
}
ARRAYNN_INLINE bool is_row_of_runs(const PoolProblem& p) {
  return !p.channels_last && keeps_positions(p.h) && is_run(p.w);
}

// Rows of windows over one row of dx.
inline constexpr std::int64_t kWalkRows = 4;

ARRAYNN_INLINE std::int64_t walk_rows(const PoolAxis& h) {
  return ceil_div(window_span(h), h.stride);
}

// Windows of two or three columns that move by one. Those that move by two are looked through again
// faster (max_last.hpp) than their positions are kept.
ARRAYNN_INLINE bool is_gathered(const PoolProblem& p) {
  const PoolAxis &h = p.h, &w = p.w;
  if (!p.channels_last || h.to > 0 || w.to > 0 || h.dilation > 1 || w.dilation > 1) return false;
  const bool columns = (w.kernel == 2 || w.kernel == 3) && w.stride == 1;
  return columns && walk_rows(h) <= kWalkRows && h.kernel <= 4 &&
         h.size * w.size <= INT32_MAX;  // positions are kept in 32 bits
}

// Of a thread.
ARRAYNN_INLINE std::int64_t walk_bytes(const PoolProblem& p, std::int64_t item) {
  return round_up(ring_size(walk_rows(p.h)) * p.w.out * p.c * item, 64);
}

template <class T>
struct WalkTable {
  // `rows` of dx, over all planes or samples.
  void (*runs)(const PoolProblem& p, const T* dy, const T* x, T* dx, Range rows);
  void (*gathered)(const PoolProblem& p, const T* dy, const T* x, T* dx, Range rows, void* scratch);
};
using WalkKernels = FloatKernels<WalkTable>;

ARRAYNN_KERNEL_TABLE(WalkKernels, walk_kernels)

}  // namespace arraynn
