// What the CUDA kernels of softmax and cross entropy share: maximum and sum of exponentials of rows in
// registers, of the chunks of long rows, and of columns.
#pragma once
#include "core/cuda_rows.hpp"
#include "simd/math.hpp"
#include "softmax/softmax.hpp"

namespace arraynn::cuda {

template <class C>
inline constexpr C kLowest =
    sizeof(C) == 4 ? C(-3.402823466385288598e38) : C(-1.7976931348623157e308);
template <class C>
inline constexpr C kInfinity = C(__builtin_huge_val());

template <class C>
__device__ __forceinline__ C exp_of(C x) {
  return exp(Vec<C>{x}).v;
}
// NaN for the empty sum of a row of nothing but -inf.
template <class C>
__device__ __forceinline__ C log_of_sum(C sum) {
  return sum > C(0) ? log(Vec<C>{sum}).v : C(__builtin_nan(""));
}

// The larger one; a NaN in b is passed over and makes the sum NaN, which is enough.
struct Larger {
  template <class C>
  __device__ __forceinline__ void operator()(C (&a)[1], const C (&b)[1]) const {
    if (b[0] > a[0]) a[0] = b[0];
  }
};
// (maximum, sum) of two parts; the maximum is never NaN.
struct MergeStats {
  template <class C>
  __device__ __forceinline__ void operator()(C (&a)[2], const C (&b)[2]) const {
    const C m = b[0] > a[0] ? b[0] : a[0];
    a[1] = a[1] * exp_of(a[0] - m) + b[1] * exp_of(b[0] - m);
    a[0] = m;
  }
};

// Reductions of one value, and of (maximum, sum).
template <class Tile>
struct StatsStorage {
  typename RowReduction<Tile::kThreads, typename Tile::C, 1, Tile::kClustered>::Storage one;
  typename RowReduction<Tile::kThreads, typename Tile::C, 2, Tile::kClustered>::Storage two;
};
template <class Tile>
struct RowStats {
  using C = typename Tile::C;
  RowReduction<Tile::kThreads, C, 1, Tile::kClustered> one;
  RowReduction<Tile::kThreads, C, 2, Tile::kClustered> two;

  __device__ __forceinline__ explicit RowStats(StatsStorage<Tile>& storage)
      : one(storage.one), two(storage.two) {}

  __device__ __forceinline__ C sum(C value) {
    C values[1] = {value};
    one(values, AddAll{});
    return values[0];
  }
  // At least the lowest finite number: subtracting it is never inf - inf, and a row of nothing but -inf
  // ends as 0 / 0.
  __device__ __forceinline__ C max(const Tile& tile) {
    C m[1] = {kLowest<C>};
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) Larger{}(m, {tile.v[i]});
    one(m, Larger{});
    return m[0];
  }
  // Of a tile filled up with -inf.
  __device__ __forceinline__ SoftmaxStats<C> of(const Tile& tile) {
    const C m = max(tile);
    C s(0);
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) s += exp_of(tile.v[i] - m);
    return {m, sum(s)};
  }
  __device__ __forceinline__ SoftmaxStats<C> merged(const SoftmaxStats<C>* stats, int count) {
    C all[2] = {kLowest<C>, C(0)};
    for (int i = Tile::thread(); i < count; i += Tile::kThreads) {
      const SoftmaxStats<C> next = stats[i];
      MergeStats{}(all, {next.max, next.sum});
    }
    two(all, MergeStats{});
    return {all[0], all[1]};
  }
};

// stats[chunk] of the chunks of long rows.
template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    softmax_stats_kernel(std::int64_t rows, std::int64_t n, const typename Tile::Element* x,
                         SoftmaxStats<typename Tile::C>* stats) {
  RowStats<Tile> row(shared_storage<StatsStorage<Tile>>());
  for_chunks<Tile>(rows, n, [&](const Chunk& chunk) {
    Tile tile;
    tile.load(x + chunk.row * n + chunk.begin, chunk.size, -kInfinity<typename Tile::C>);
    const SoftmaxStats<typename Tile::C> found = row.of(tile);
    if (threadIdx.x == 0) stats[chunk.unit] = found;
  });
}

// Rows whose second reading finds them in L2: half of an H200's, which holds what others write as well.
inline constexpr std::int64_t kSlabBytes = std::int64_t{24} << 20;

// f(first row, rows) over slabs of rows of so many bytes.
template <class F>
void for_slabs(std::int64_t rows, std::int64_t bytes, const F& f) {
  const std::int64_t slab = max_i(1, kSlabBytes / bytes);
  for (std::int64_t first = 0; first < rows; first += slab) f(first, min_i(slab, rows - first));
}

// Columns: kTall threads share one, kColumnThreads / kTall neighbours are a block's. Threads take rows
// kTall apart, kColumnLoads of them at a time.
inline constexpr int kColumnThreads = 256;
inline constexpr int kTallColumns = 16;
template <class C>
inline constexpr int kColumnLoads = 32 / static_cast<int>(sizeof(C));
template <class C>
inline constexpr int kColumnResident = 16 / static_cast<int>(sizeof(C));

// By the shape of a column alone: sharing is worth its barriers from so many rows on.
inline constexpr std::int64_t kTallFrom = 128;

struct Column {
  std::int64_t index, offset;  // of all columns; of its first element
  bool inside;
};

// f(column) for all columns of an array; threads of a block stay together.
template <int kTall, class F>
__device__ __forceinline__ void for_columns(const SoftmaxShape& shape, const F& f) {
  constexpr int kWide = kColumnThreads / kTall;
  const std::int64_t columns = shape.outer * shape.inner;
  const std::int64_t step = std::int64_t{gridDim.x} * kWide;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kWide; i < columns; i += step) {
    const std::int64_t own = i + static_cast<int>(threadIdx.x) % kWide;
    const std::int64_t index = min_i(own, columns - 1);
    const std::int64_t outer = index / shape.inner;
    f(Column{index, outer * (shape.n - 1) * shape.inner + index, own < columns});
  }
}
template <class C, int kTall>
Grid column_grid(const SoftmaxShape& shape) {
  const std::int64_t tiles = ceil_div(shape.outer * shape.inner, kColumnThreads / kTall);
  return {persistent_blocks(tiles, kColumnResident<C>), kColumnThreads};
}

// f(row) for the rows of this thread.
template <int kTall, class F>
__device__ __forceinline__ void for_column_rows(std::int64_t n, const F& f) {
  const std::int64_t first = static_cast<int>(threadIdx.x) / (kColumnThreads / kTall);
#pragma unroll 4
  for (std::int64_t row = first; row < n; row += kTall) f(row);
}

// Values of the kTall threads of a column, merged in order: all of them get the result.
template <int kTall, class C, int kCount>
struct ColumnStorage {
  C values[kTall][kCount][kColumnThreads / kTall];
};
template <int kTall, class C, int kCount, class Combine>
__device__ __forceinline__ void column_reduce(C (&values)[kCount],
                                              ColumnStorage<kTall, C, kCount>& storage,
                                              const Combine& combine) {
  if constexpr (kTall == 1) return;
  constexpr int kWide = kColumnThreads / kTall;
  const int j = static_cast<int>(threadIdx.x) % kWide, own = static_cast<int>(threadIdx.x) / kWide;
  __syncthreads();  // the storage is used again
#pragma unroll
  for (int k = 0; k < kCount; ++k) storage.values[own][k][j] = values[k];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kCount; ++k) values[k] = storage.values[0][k][j];
  for (int i = 1; i < kTall; ++i) {
    C next[kCount];
#pragma unroll
    for (int k = 0; k < kCount; ++k) next[k] = storage.values[i][k][j];
    combine(values, next);
  }
}

// Maximum and sum of a column: kColumnLoads elements at a time have a maximum before their exponentials.
template <int kTall, class T>
__device__ __forceinline__ SoftmaxStats<Compute<T>> column_stats(
    const SoftmaxShape& shape, const T* x, ColumnStorage<kTall, Compute<T>, 2>& storage) {
  using C = Compute<T>;
  constexpr int kLoads = kColumnLoads<C>;
  C all[2] = {kLowest<C>, C(0)};
  const std::int64_t first = static_cast<int>(threadIdx.x) / (kColumnThreads / kTall);
  for (std::int64_t row = first; row < shape.n; row += kTall * kLoads) {
    C v[kLoads], m[1] = {all[0]};
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const std::int64_t at = row + i * kTall;
      v[i] = at < shape.n ? to_compute(x[at * shape.inner]) : -kInfinity<C>;
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) Larger{}(m, {v[i]});
    C s = all[1] * exp_of(all[0] - m[0]);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) s += exp_of(v[i] - m[0]);
    all[0] = m[0];
    all[1] = s;
  }
  column_reduce(all, storage, MergeStats{});
  return {all[0], all[1]};
}

// f(tag of kTall) for the columns of a shape.
template <class F>
void with_columns(const SoftmaxShape& shape, const F& f) {
  if (shape.n < kTallFrom) {
    f(std::integral_constant<int, 1>{});
  } else {
    f(std::integral_constant<int, kTallColumns>{});
  }
}

}  // namespace arraynn::cuda
