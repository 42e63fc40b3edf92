// softmax and log_softmax. Along the last axis a row is in registers between its maximum and its result;
// longer ones in those of a cluster, or read twice, by chunks, while they are in L2. Along other axes threads go down columns.
#include "softmax/cuda_stats.hpp"

namespace arraynn {
namespace cuda {
namespace {

// What is added to a backward's sum.
template <class C>
__device__ __forceinline__ C sum_term(SoftmaxKind kind, C dy, C y) {
  return kind == SoftmaxKind::kSoftmax ? dy * y : dy;
}
template <class C>
__device__ __forceinline__ C gradient(SoftmaxKind kind, C dy, C y, C sum) {
  return kind == SoftmaxKind::kSoftmax ? y * (dy - sum) : dy - exp_of(y) * sum;
}

// y of x - m; `finish` is 1 / s, or log s.
template <class C>
__device__ __forceinline__ C result(SoftmaxKind kind, C shifted, C finish) {
  return kind == SoftmaxKind::kSoftmax ? exp_of(shifted) * finish : shifted - finish;
}
template <class C>
__device__ __forceinline__ C finish_of(SoftmaxKind kind, C sum) {
  return kind == SoftmaxKind::kSoftmax ? C(1) / sum : log_of_sum(sum);
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    softmax_kernel(SoftmaxKind kind, std::int64_t rows, std::int64_t n,
                   const typename Tile::Element* x, typename Tile::Element* y) {
  using C = typename Tile::C;
  RowStats<Tile> stats(shared_storage<StatsStorage<Tile>>());
  for_rows<Tile>(rows, n, [&](const Chunk& chunk) {
    const std::int64_t at = chunk.row * n + chunk.begin;
    Tile tile;
    tile.load(x + at, chunk.size, -kInfinity<C>);
    const C m = stats.max(tile);
    C s(0);
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) {
      const C shifted = tile.v[i] - m, e = exp_of(shifted);
      s += e;
      tile.v[i] = kind == SoftmaxKind::kSoftmax ? e : shifted;
    }
    const C finish = finish_of(kind, stats.sum(s));
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) {
      tile.v[i] = kind == SoftmaxKind::kSoftmax ? tile.v[i] * finish : tile.v[i] - finish;
    }
    if (chunk.inside) tile.store(y + at, chunk.size);
  });
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    softmax_finish_kernel(SoftmaxKind kind, std::int64_t rows, std::int64_t n,
                          const typename Tile::Element* x, typename Tile::Element* y,
                          const SoftmaxStats<typename Tile::C>* stats) {
  using C = typename Tile::C;
  RowStats<Tile> row(shared_storage<StatsStorage<Tile>>());
  const std::int64_t count = ceil_div(n, Tile::kCapacity);
  for_chunks<Tile>(rows, n, [&](const Chunk& chunk) {
    const std::int64_t at = chunk.row * n + chunk.begin;
    const SoftmaxStats<C> all = row.merged(stats + chunk.row * count, static_cast<int>(count));
    const C finish = finish_of(kind, all.sum);
    Tile tile;
    tile.load(x + at, chunk.size, C(0));
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) {
      tile.v[i] = result(kind, tile.v[i] - all.max, finish);
    }
    tile.store(y + at, chunk.size);
  });
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    softmax_backward_kernel(SoftmaxKind kind, std::int64_t rows, std::int64_t n,
                            const typename Tile::Element* dy, const typename Tile::Element* y,
                            typename Tile::Element* dx) {
  using C = typename Tile::C;
  RowStats<Tile> stats(shared_storage<StatsStorage<Tile>>());
  for_rows<Tile>(rows, n, [&](const Chunk& chunk) {
    const std::int64_t at = chunk.row * n + chunk.begin;
    Tile g, v;
    g.load(dy + at, chunk.size, C(0));
    v.load(y + at, chunk.size, C(0));
    C s(0);
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) s += sum_term(kind, g.v[i], v.v[i]);
    const C sum = stats.sum(s);
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) v.v[i] = gradient(kind, g.v[i], v.v[i], sum);
    if (chunk.inside) v.store(dx + at, chunk.size);
  });
}

// sums[chunk] of a backward by long rows.
template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    softmax_sum_kernel(SoftmaxKind kind, std::int64_t rows, std::int64_t n,
                       const typename Tile::Element* dy, const typename Tile::Element* y,
                       typename Tile::C* sums) {
  using C = typename Tile::C;
  RowStats<Tile> stats(shared_storage<StatsStorage<Tile>>());
  for_chunks<Tile>(rows, n, [&](const Chunk& chunk) {
    const std::int64_t at = chunk.row * n + chunk.begin;
    Tile g, v;
    g.load(dy + at, chunk.size, C(0));
    v.load(y + at, chunk.size, C(0));
    C s(0);
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) s += sum_term(kind, g.v[i], v.v[i]);
    const C sum = stats.sum(s);
    if (threadIdx.x == 0) sums[chunk.unit] = sum;
  });
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    softmax_backward_finish_kernel(SoftmaxKind kind, std::int64_t rows, std::int64_t n,
                                   const typename Tile::Element* dy,
                                   const typename Tile::Element* y, typename Tile::Element* dx,
                                   const typename Tile::C* sums) {
  using C = typename Tile::C;
  RowStats<Tile> stats(shared_storage<StatsStorage<Tile>>());
  const std::int64_t count = ceil_div(n, Tile::kCapacity);
  for_chunks<Tile>(rows, n, [&](const Chunk& chunk) {
    const std::int64_t at = chunk.row * n + chunk.begin;
    C s(0);
    for (std::int64_t i = Tile::thread(); i < count; i += Tile::kThreads) {
      s += sums[chunk.row * count + i];
    }
    const C sum = stats.sum(s);
    Tile g, v;
    g.load(dy + at, chunk.size, C(0));
    v.load(y + at, chunk.size, C(0));
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) v.v[i] = gradient(kind, g.v[i], v.v[i], sum);
    v.store(dx + at, chunk.size);
  });
}

template <class T, int kTall>
__global__ void __launch_bounds__(kColumnThreads, kColumnResident<Compute<T>>)
    softmax_columns_kernel(SoftmaxKind kind, SoftmaxShape shape, const T* x, T* y) {
  using C = Compute<T>;
  auto& storage = shared_storage<ColumnStorage<kTall, C, 2>>();
  for_columns<kTall>(shape, [&](const Column& column) {
    const SoftmaxStats<C> all = column_stats<kTall>(shape, x + column.offset, storage);
    const C finish = finish_of(kind, all.sum);
    if (!column.inside) return;
    for_column_rows<kTall>(shape.n, [&](std::int64_t row) {
      const std::int64_t at = column.offset + row * shape.inner;
      y[at] = from_compute<T>(result(kind, to_compute(x[at]) - all.max, finish));
    });
  });
}

template <class T, int kTall>
__global__ void __launch_bounds__(kColumnThreads, kColumnResident<Compute<T>>)
    softmax_columns_backward_kernel(SoftmaxKind kind, SoftmaxShape shape, const T* dy, const T* y,
                                    T* dx) {
  using C = Compute<T>;
  auto& storage = shared_storage<ColumnStorage<kTall, C, 1>>();
  for_columns<kTall>(shape, [&](const Column& column) {
    C sum[1] = {C(0)};
    for_column_rows<kTall>(shape.n, [&](std::int64_t row) {
      const std::int64_t at = column.offset + row * shape.inner;
      sum[0] += sum_term(kind, to_compute(dy[at]), to_compute(y[at]));
    });
    column_reduce(sum, storage, AddAll{});
    if (!column.inside) return;
    for_column_rows<kTall>(shape.n, [&](std::int64_t row) {
      const std::int64_t at = column.offset + row * shape.inner;
      dx[at] = from_compute<T>(gradient(kind, to_compute(dy[at]), to_compute(y[at]), sum[0]));
    });
  });
}

}  // namespace
}  // namespace cuda

template <class T>
void run_softmax(SoftmaxKind kind, const SoftmaxShape& shape, const T* x, T* y) {
  using namespace cuda;
  const std::int64_t n = shape.n, rows = shape.outer;
  if (rows * n * shape.inner == 0) return;
  if (shape.inner != 1) {
    with_columns(shape, [&](auto tall) {
      const Grid grid = column_grid<Compute<T>, tall()>(shape);
      ARRAYNN_LAUNCH((softmax_columns_kernel<T, tall()>), grid, kind, shape, x, y);
    });
    return;
  }
  with_tile<T, kRowItems<T>>(n, [&](auto tag) {
    using Tile = decltype(tag);
    if (n <= Tile::kCapacity) {
      ARRAYNN_LAUNCH((softmax_kernel<Tile>), row_grid<Tile>(rows), kind, rows, n, x, y);
      return;
    }
    if constexpr (Tile::kLargest) {
      if (const int blocks = cluster_for<Tile>(n); blocks != 0) {
        ARRAYNN_LAUNCH((softmax_kernel<typename Tile::Clustered>), cluster_grid<Tile>(rows, blocks),
                       kind, rows, n, x, y);
        return;
      }
      using Part = typename Tile::Half;
      const std::int64_t count = chunks_of<Part>(n);
      auto* stats = scratch<SoftmaxStats<Compute<T>>>(rows * count);
      for_slabs(rows, n * static_cast<std::int64_t>(sizeof(T)),
                [&](std::int64_t first, std::int64_t some) {
                  const Grid grid = row_grid<Part>(some * count);
                  ARRAYNN_LAUNCH((softmax_stats_kernel<Part>), grid, some, n, x + first * n,
                                 stats + first * count);
                  ARRAYNN_LAUNCH((softmax_finish_kernel<Part>), grid, kind, some, n, x + first * n,
                                 y + first * n, stats + first * count);
                });
    }
  });
}

template <class T>
void run_softmax_backward(SoftmaxKind kind, const SoftmaxShape& shape, const T* dy, const T* y,
                          T* dx) {
  using namespace cuda;
  const std::int64_t n = shape.n, rows = shape.outer;
  if (rows * n * shape.inner == 0) return;
  if (shape.inner != 1) {
    with_columns(shape, [&](auto tall) {
      const Grid grid = column_grid<Compute<T>, tall()>(shape);
      ARRAYNN_LAUNCH((softmax_columns_backward_kernel<T, tall()>), grid, kind, shape, dy, y, dx);
    });
    return;
  }
  with_tile<T, kRowItems<T> / 2, kRowItems<T> / 4>(n, [&](auto tag) {
    using Tile = decltype(tag);
    if (n <= Tile::kCapacity) {
      ARRAYNN_LAUNCH((softmax_backward_kernel<Tile>), row_grid<Tile>(rows), kind, rows, n, dy, y,
                     dx);
      return;
    }
    if constexpr (Tile::kLargest) {
      if (const int blocks = cluster_for<Tile>(n); blocks != 0) {
        ARRAYNN_LAUNCH((softmax_backward_kernel<typename Tile::Clustered>),
                       cluster_grid<Tile>(rows, blocks), kind, rows, n, dy, y, dx);
        return;
      }
      const std::int64_t count = chunks_of<Tile>(n);
      auto* sums = scratch<Compute<T>>(rows * count);
      for_slabs(rows, 2 * n * static_cast<std::int64_t>(sizeof(T)),
                [&](std::int64_t first, std::int64_t some) {
                  const Grid grid = row_grid<Tile>(some * count);
                  const std::int64_t at = first * n;
                  ARRAYNN_LAUNCH((softmax_sum_kernel<Tile>), grid, kind, some, n, dy + at, y + at,
                                 sums + first * count);
                  ARRAYNN_LAUNCH((softmax_backward_finish_kernel<Tile>), grid, kind, some, n,
                                 dy + at, y + at, dx + at, sums + first * count);
                });
    }
  });
}

#define ARRAYNN_INSTANTIATE(T)                                                  \
  template void run_softmax<T>(SoftmaxKind, const SoftmaxShape&, const T*, T*); \
  template void run_softmax_backward<T>(SoftmaxKind, const SoftmaxShape&, const T*, const T*, T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
