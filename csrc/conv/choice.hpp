// Which way a convolution goes: what shapes and options say. The batch has no say, but for gradients by
// weight, so that a sample has the bits that it has alone.
#pragma once
#include <algorithm>

#include "conv/conv.hpp"
#include "conv/lanes.hpp"

namespace arraynn {

// A small plane fills the last vector of a gemm badly: 49 pixels take four vectors of 16. The direct
// kernel has pixels as rows, of which a tile takes any number, and sums over all samples at once.
inline constexpr std::int64_t kSmallPlane = 64;

inline bool fills_vectors(const Conv2dProblem& p) {
  return p.channels_last || p.oh * p.ow > kSmallPlane;
}

inline bool is_product(const Conv2dProblem& p) {
  return p.kh == 1 && p.kw == 1 && p.stride_h == 1 && p.stride_w == 1 && p.groups == 1 &&
         p.oh == p.ih && p.ow == p.iw && p.pad_h == 0 && p.pad_w == 0 && !p.is_volume() && !p.pairs;
}

inline bool is_gemm(const Conv2dProblem& p) { return is_product(p) && fills_vectors(p); }

inline bool three_in_a_row(const DirectAxis& axis) {
  return axis.taps == 3 && axis.step == 1 && axis.out_step == 1 &&
         axis.offset[1] == axis.offset[0] + 1 && axis.offset[2] == axis.offset[0] + 2;
}

// Whether the 36 products of a tile beat 144 of the direct kernel: enough channels that transforming
// tiles is little beside multiplying them, tiles that are mostly pixels, and enough tiles for the
// weights, which grow from 9 to 36 numbers. From 12 channels on the error of normal numbers is within
// twice the direct sum's bound (docs/numerics.md). float64 is left to who wants digits.
inline constexpr std::int64_t kWinogradChannels = 12;
inline constexpr std::int64_t kWinogradWeights = 1 << 16;  // of a single tile

// Tiles of a batch under which 36 sums a weight are not worth forming.
inline constexpr std::int64_t kFewTiles = 8;

inline constexpr const char* kWinogradReason =
    "3x3 of stride 1: tiles of 4x4 with a quarter of the products";

inline std::int64_t tiles_of(const DirectAxis& axis) { return (axis.count + 3) / 4; }

// Conv is a DirectConv or a WeightGradient.
template <template <class> class Conv, class T>
bool is_winograd(Algorithm algorithm, const Conv<T>& d) {
  if (algorithm == Algorithm::kDirect || d.channels == 0 || d.columns == 0) return false;
  if (d.depth.size > 1 || d.depth.out_size > 1 || d.depth.taps != 1) return false;
  if (!three_in_a_row(d.h) || !three_in_a_row(d.w)) return false;
  if (algorithm == Algorithm::kWinograd) return true;
  const std::int64_t pixels = d.h.count * d.w.count;
  const std::int64_t tiles = tiles_of(d.h) * tiles_of(d.w);
  return sizeof(T) == 4 && std::min(d.channels, d.columns) >= kWinogradChannels &&
         pixels >= 8 * tiles && (tiles >= 4 || d.channels * d.columns <= kWinogradWeights);
}

// Up to so many channels, columns of a row are better lanes than channels of a pixel: those few would
// fill no vector on their way to [column][channel]. One block of the direct sum, whose bits it has.
inline constexpr std::int64_t kFirstChannels = 4;

// A 1x1 of a stride in channels first: the product of the layout as well, of the positions that it reads.
inline bool is_gathered(const Conv2dProblem& p) {
  return p.kh == 1 && p.kw == 1 && p.stride_h * p.stride_w > 1 && p.groups == 1 &&
         !p.channels_last && !p.is_volume() && p.ic > kFirstChannels && fills_vectors(p) &&
         !p.pairs;
}

// Columns of the result that fill a tile of a row. Fewer, of stride 1, go by all positions of the plane.
inline constexpr std::int64_t kFirstColumns = 24;
inline constexpr std::int64_t kFirstStep = 8;      // columns apart
inline constexpr std::int64_t kFirstBytes = 2048;  // of the products of a pixel: KC of any level

template <class T>
bool is_first(const DirectConv<T>& d) {
  const std::int64_t products = d.channels * d.h.taps * d.w.taps;
  const std::int64_t row = d.h.step == 1 && d.w.step == 1 ? d.h.count * d.w.count : d.w.count;
  return !d.channels_last && d.pool == nullptr && d.channels > 0 && d.channels <= kFirstChannels &&
         d.h.out_step == 1 && d.w.out_step == 1 && row >= kFirstColumns && d.w.step <= kFirstStep &&
         d.depth.size == 1 && d.depth.out_size == 1 && d.depth.taps == 1 && products > 0 &&
         products * static_cast<std::int64_t>(sizeof(T)) <= kFirstBytes;
}

inline constexpr std::int64_t kFewColumns = 8;

// Images of one channel are the same in both layouts, and lanes are better used along a row.
inline bool by_planes(const Conv2dProblem& p) {
  return !p.channels_last || (p.ic == 1 && p.oc == 1);
}

// Whether every output channel reads one source channel: by x, that takes one output channel each.
inline bool is_depthwise(const Conv2dProblem& p, bool by_x) {
  if (p.groups != p.ic || std::max({p.kd, p.kh, p.kw}) > kMostDepthwiseTaps) return false;
  if (p.kd * p.kh > kMostDepthwiseLines) return false;
  if (p.oc == p.ic) return true;
  if (by_x) return false;
  // One channel in and many out is a matrix product again.
  return p.groups > 1 || (!p.channels_last && !p.is_volume() && p.oc <= kFewColumns);
}

// By x, few results as columns of a matrix product would leave most of a vector empty. A row of half a
// vector is full enough. A forward call keeps the order of sums that conv2d_pool has.
inline constexpr std::int64_t kFewRow = 8;

inline bool is_few(const Conv2dProblem& p) {
  return p.ic / p.groups <= kFewResults && p.y_size() > 0 &&
         (p.iw + p.stride_w - 1) / p.stride_w >= kFewRow;
}

}  // namespace arraynn
