// What the CUDA kernels of the norms share: moments of tiles, and how those of parts are put together.
// The arithmetic is that of the CPU (norm.hpp): differences from a pivot, parts merged in double.
#pragma once
#include "core/cuda_rows.hpp"
#include "norm/norm.hpp"
#include "simd/vec.hpp"

namespace arraynn::cuda {

template <class C>
__device__ __forceinline__ C fma_of(C a, C b, C c) {
  return fma(Vec<C>{a}, Vec<C>{b}, Vec<C>{c}).v;
}

// v, or relu(v) with a floor of 0: a NaN comes through.
template <class C>
__device__ __forceinline__ C floored(C v, bool relu) {
  return relu && C(0) > v ? C(0) : v;
}

template <class Tile>
struct MomentStorage {
  typename RowReduction<Tile::kThreads, typename Tile::C, 1, Tile::kClustered>::Storage one;
  typename RowReduction<Tile::kThreads, typename Tile::C, 2, Tile::kClustered>::Storage two;
};
template <class Tile>
struct RowMoments {
  using C = typename Tile::C;
  RowReduction<Tile::kThreads, C, 1, Tile::kClustered> one;
  RowReduction<Tile::kThreads, C, 2, Tile::kClustered> two;

  __device__ __forceinline__ explicit RowMoments(MomentStorage<Tile>& storage)
      : one(storage.one), two(storage.two) {}

  // Of the n columns of a row, `size` of them in this tile, those beyond filled up with 0.
  __device__ __forceinline__ Moments of(Tile& tile, int size, std::int64_t n) {
    const double inverse = 1.0 / static_cast<double>(n);
    C sum[1] = {C(0)};
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) sum[0] += tile.v[i];
    one(sum, AddAll{});
    const C pivot = static_cast<C>(static_cast<double>(sum[0]) * inverse);
    C sums[2] = {C(0), C(0)};
    tile.each(size, [&](int, C v) {
      const C d = v - pivot;
      sums[0] += d;
      sums[1] = fma_of(d, d, sums[1]);
    });
    two(sums, AddAll{});
    const double d = static_cast<double>(sums[0]);
    const double m2 = static_cast<double>(sums[1]) - d * (d * inverse);
    // Not max: NaN has to come through.
    return {static_cast<double>(pivot) + d * inverse, m2 < 0 ? 0.0 : m2};
  }
  // Around 0: the sum of squares.
  __device__ __forceinline__ Moments squares(const Tile& tile) {
    C sum[1] = {C(0)};
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) sum[0] = fma_of(tile.v[i], tile.v[i], sum[0]);
    one(sum, AddAll{});
    return {0.0, static_cast<double>(sum[0])};
  }
};

// Where the parts of a statistic lie: statistic k is in group k / split, member k % split; its parts are
// `lines` lines of `blocks` blocks of `length` elements, the last one of a line shorter.
struct Parts {
  std::int64_t split, group_step, member_step;
  std::int64_t lines, line_step, blocks, block_step;
  std::int64_t length, line_length;

  __host__ __device__ std::int64_t base(std::int64_t k) const {
    return k / split * group_step + k % split * member_step;
  }
  __host__ __device__ std::int64_t at(std::int64_t part) const {
    return part / blocks * line_step + part % blocks * block_step;
  }
  __host__ __device__ double size(std::int64_t part) const {
    return static_cast<double>(min_i(length, line_length - part % blocks * length));
  }
};
// One line of chunks each.
inline Parts chunk_parts(std::int64_t count, std::int64_t length, std::int64_t line) {
  return {1, count, 0, 1, 0, count, 1, length, line};
}

// Moments of the lanes' own parts, then lane l takes those of lane l + step: lane 0 has all.
__device__ __forceinline__ Moments merge_parts(const Parts& parts, const Moments* moments) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  Moments all{0, 0};
  double count = 0;
  for (std::int64_t i = lane; i < parts.lines * parts.blocks; i += kWarp) {
    const Moments next = moments[parts.at(i)];
    const double more = parts.size(i);
    all = count == 0 ? next : merge_moments(all, count, next, more);
    count += more;
  }
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const Moments next{__shfl_down_sync(kWholeWarp, all.mean, static_cast<unsigned>(step)),
                       __shfl_down_sync(kWholeWarp, all.m2, static_cast<unsigned>(step))};
    const double more = __shfl_down_sync(kWholeWarp, count, static_cast<unsigned>(step));
    if (lane + step >= kWarp || more == 0) continue;
    all = count == 0 ? next : merge_moments(all, count, next, more);
    count += more;
  }
  return all;
}

// Sums of the parts, in the same way; all lanes get the result.
__device__ __forceinline__ GradientSums add_parts(const Parts& parts, const GradientSums* sums) {
  GradientSums all{0, 0};
  for (std::int64_t i = static_cast<int>(threadIdx.x) % kWarp; i < parts.lines * parts.blocks;
       i += kWarp) {
    const GradientSums next = sums[parts.at(i)];
    all.dy += next.dy;
    all.product += next.product;
  }
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    all.dy += __shfl_xor_sync(kWholeWarp, all.dy, step);
    all.product += __shfl_xor_sync(kWholeWarp, all.product, step);
  }
  return all;
}

// A warp for each of `count` things: f(index).
inline constexpr int kWarpsThreads = 128;
inline Grid warp_grid(std::int64_t count) {
  return {persistent_blocks(ceil_div(count, kWarpsThreads / kWarp), 8), kWarpsThreads};
}
template <class F>
__device__ __forceinline__ void for_warps(std::int64_t count, const F& f) {
  constexpr int kWarps = kWarpsThreads / kWarp;
  const std::int64_t first =
      std::int64_t{blockIdx.x} * kWarps + static_cast<int>(threadIdx.x) / kWarp;
  for (std::int64_t i = first; i < count; i += std::int64_t{gridDim.x} * kWarps) f(i);
}

}  // namespace arraynn::cuda
