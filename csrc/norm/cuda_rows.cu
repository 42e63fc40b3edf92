// layer_norm and rms_norm. A row is read once, into registers, a long one into those of a cluster or by chunks. The gradients by
// weight and bias come from the same pass: a block adds up its rows in shared memory, and a second kernel
// adds the blocks' sums in a fixed order.
#include "elementwise/elementwise.hpp"
#include "norm/cuda_moments.hpp"

namespace arraynn {
namespace cuda {
namespace {

constexpr int kFillThreads = 256;

// Statistics of rows without elements: the variance of nothing counts as 0.
__global__ void __launch_bounds__(kFillThreads)
    fill_statistics_kernel(std::int64_t count, double* mean, double* rstd, double scale) {
  for (std::int64_t i = std::int64_t{blockIdx.x} * kFillThreads + threadIdx.x; i < count;
       i += std::int64_t{gridDim.x} * kFillThreads) {
    if (mean != nullptr) mean[i] = 0;
    if (rstd != nullptr) rstd[i] = scale;
  }
}

// xhat = (x - m) scale + shift: the mean is subtracted in two parts.
template <class C>
struct RowScale {
  C m, scale, shift;
};
template <class C>
__device__ __forceinline__ RowScale<C> scale_of(double mean, double rstd) {
  const C m = static_cast<C>(mean);
  return {m, static_cast<C>(rstd), static_cast<C>((static_cast<double>(m) - mean) * rstd)};
}
template <class C>
__device__ __forceinline__ C normalised(const RowScale<C>& k, C x) {
  return fma_of(x - k.m, k.scale, k.shift);
}

// The end of a forward: weight and bias at `begin` columns from the row's first.
template <class Tile>
__device__ __forceinline__ void finish_row(Tile& tile, int n, const RowScale<typename Tile::C>& k,
                                           const typename Tile::Element* w,
                                           const typename Tile::Element* b, bool relu) {
  using C = typename Tile::C;
#pragma unroll
  for (int i = 0; i < Tile::kItems; ++i) tile.v[i] = normalised(k, tile.v[i]);
  if (w != nullptr || b != nullptr) {
    constexpr int kWidth = Tile::kWidth;
#pragma unroll
    for (int i = 0; i < Tile::kItems; i += kWidth) {
      const int column = Tile::column(i);
      if (column >= n) continue;
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        C& v = tile.v[i + j];
        if (w != nullptr && b != nullptr) {
          v = fma_of(v, to_compute(w[column + j]), to_compute(b[column + j]));
        } else if (w != nullptr) {
          v = v * to_compute(w[column + j]);
        } else {
          v = v + to_compute(b[column + j]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < Tile::kItems; ++i) tile.v[i] = floored(tile.v[i], relu);
}

struct RowStatistics {
  double *mean, *rstd;  // may be null

  __device__ __forceinline__ void set(std::int64_t row, double m, double r) const {
    if (mean != nullptr) mean[row] = m;
    if (rstd != nullptr) rstd[row] = r;
  }
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    row_norm_kernel(RowNorm p, const typename Tile::Element* x, const typename Tile::Element* w,
                    const typename Tile::Element* b, typename Tile::Element* y,
                    RowStatistics statistics) {
  using C = typename Tile::C;
  RowMoments<Tile> moments(shared_storage<MomentStorage<Tile>>());
  const bool relu = p.activation.kind == ActivationKind::kRelu;
  for_rows<Tile>(p.rows, p.n, [&](const Chunk& chunk) {
    const std::int64_t at = chunk.row * p.n + chunk.begin;
    Tile tile;
    tile.load(x + at, chunk.size, C(0));
    const Moments all = p.centred ? moments.of(tile, chunk.size, p.n) : moments.squares(tile);
    const double rstd = 1.0 / ::sqrt(all.m2 / static_cast<double>(p.n) + p.eps);
    if (speaks_for<Tile>(chunk)) statistics.set(chunk.row, all.mean, rstd);
    if (y == nullptr) return;
    finish_row(tile, chunk.size, scale_of<C>(all.mean, rstd),
               w != nullptr ? w + chunk.begin : nullptr, b != nullptr ? b + chunk.begin : nullptr,
               relu);
    if (chunk.inside) tile.store(y + at, chunk.size);
  });
}

// moments[chunk] of long rows, and what they come to.
template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    row_moments_kernel(RowNorm p, const typename Tile::Element* x, Moments* found) {
  RowMoments<Tile> moments(shared_storage<MomentStorage<Tile>>());
  for_chunks<Tile>(p.rows, p.n, [&](const Chunk& chunk) {
    Tile tile;
    tile.load(x + chunk.row * p.n + chunk.begin, chunk.size, typename Tile::C(0));
    const Moments one =
        p.centred ? moments.of(tile, chunk.size, chunk.size) : moments.squares(tile);
    if (threadIdx.x == 0) found[chunk.unit] = one;
  });
}
__global__ void __launch_bounds__(kWarpsThreads)
    row_statistics_kernel(RowNorm p, Parts parts, const Moments* moments, double* mean,
                          double* rstd) {
  for_warps(p.rows, [&](std::int64_t row) {
    const Moments all = merge_parts(parts, moments + parts.base(row));
    if (threadIdx.x % kWarp != 0) return;
    if (mean != nullptr) mean[row] = all.mean;
    rstd[row] = 1.0 / ::sqrt(all.m2 / static_cast<double>(p.n) + p.eps);
  });
}
template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    row_apply_kernel(RowNorm p, const typename Tile::Element* x, const typename Tile::Element* w,
                     const typename Tile::Element* b, typename Tile::Element* y, const double* mean,
                     const double* rstd) {
  using C = typename Tile::C;
  const bool relu = p.activation.kind == ActivationKind::kRelu;
  for_chunks<Tile>(p.rows, p.n, [&](const Chunk& chunk) {
    const std::int64_t at = chunk.row * p.n + chunk.begin;
    Tile tile;
    tile.load(x + at, chunk.size, C(0));
    const RowScale<C> k = scale_of<C>(p.centred ? mean[chunk.row] : 0.0, rstd[chunk.row]);
    finish_row(tile, chunk.size, k, w != nullptr ? w + chunk.begin : nullptr,
               b != nullptr ? b + chunk.begin : nullptr, relu);
    tile.store(y + at, chunk.size);
  });
}

// ---- backward -------------------------------------------------------------------------------------

// dx = a g + b (x - m) + c of a row, from the sums of g and of g xhat.
template <class C>
struct RowSlope {
  C a, b, c;
};
template <class C>
__device__ __forceinline__ RowSlope<C> slope_of(const RowNorm& p, double mean, double rstd,
                                                double g, double product) {
  const double count = static_cast<double>(p.n);
  const double rest = static_cast<double>(static_cast<C>(mean)) - mean;
  const double b = -rstd * rstd * (product / count);
  const double c = b * rest - (p.centred ? rstd * (g / count) : 0.0);
  return {static_cast<C>(rstd), static_cast<C>(b), static_cast<C>(c)};
}

template <class T>
struct RowOperands {
  const T *dy, *x, *w;  // w may be null
  const double *mean, *rstd;
  T* dx;  // may be null

  __device__ __forceinline__ double centre(const RowNorm& p, std::int64_t row) const {
    return p.centred ? mean[row] : 0.0;
  }
};

// g = dy w in `dy`, and (sum g, sum g xhat) of this thread; each(column, dy, xhat) on the way.
template <class Tile, class F>
__device__ __forceinline__ void row_sums(const RowScale<typename Tile::C>& k,
                                         const typename Tile::Element* w, int n, Tile& dy,
                                         const Tile& x, typename Tile::C (&sums)[2],
                                         const F& each) {
  using C = typename Tile::C;
  sums[0] = sums[1] = C(0);
#pragma unroll
  for (int i = 0; i < Tile::kItems; ++i) {
    const int column = Tile::column(i);
    if (column >= n) continue;
    const C xhat = normalised(k, x.v[i]);
    each(column, dy.v[i], xhat);
    if (w != nullptr) dy.v[i] = dy.v[i] * to_compute(w[column]);
    sums[0] += dy.v[i];
    sums[1] = fma_of(dy.v[i], xhat, sums[1]);
  }
}
template <class Tile>
__device__ __forceinline__ void row_gradient(const RowSlope<typename Tile::C>& slope,
                                             typename Tile::C m, const Tile& g, Tile& x) {
#pragma unroll
  for (int i = 0; i < Tile::kItems; ++i) {
    x.v[i] = fma_of(g.v[i], slope.a, fma_of(x.v[i] - m, slope.b, slope.c));
  }
}

// Partial sums of the gradients by weight and bias: the part of a block is [2][n] of `partial`. How many
// there are follows from the rows alone.
constexpr std::int64_t kNormParts = 512, kRowsOfNormPart = 8;
std::int64_t parts_of(std::int64_t rows) {
  return max_i(1, min_i(kNormParts, rows / kRowsOfNormPart));
}

// f(part, parts, chunk of any row) of a block, or of a cluster and what this block has of it.
template <class Tile, class F>
__device__ __forceinline__ void in_part(std::int64_t n, const F& f) {
  if constexpr (Tile::kClustered) {
    in_cluster<Tile>(n, f);
  } else {
    f(blockIdx.x, gridDim.x, Chunk{0, 0, 0, static_cast<int>(n)});
  }
}

// kSums: rows are cut into as many parts as there are blocks or clusters, and the sums are taken. The dynamic
// shared memory is [kRows][2][columns of a block]: a thread adds to the columns of its own.
template <class Tile, bool kSums>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kLargest ? 1 : Tile::kResident)
    row_norm_backward_kernel(RowNorm p, RowOperands<typename Tile::Element> in,
                             typename Tile::C* partial) {
  using C = typename Tile::C;
  RowMoments<Tile> reduce(shared_storage<MomentStorage<Tile>>());
  const int slot = static_cast<int>(threadIdx.x) / Tile::kThreads;
  C* own = nullptr;
  const auto one = [&](const Chunk& chunk) {
    const std::int64_t row = chunk.row, at = row * p.n + chunk.begin;
    const int n = chunk.size;
    Tile dy, x;
    dy.load(in.dy + at, n, C(0));
    x.load(in.x + at, n, C(0));
    const double mean = in.centre(p, row), rstd = in.rstd[row];
    const RowScale<C> k = scale_of<C>(mean, rstd);
    C sums[2];
    const typename Tile::Element* w = in.w != nullptr ? in.w + chunk.begin : nullptr;
    row_sums(k, w, n, dy, x, sums, [&](int column, C g, C xhat) {
      if constexpr (kSums) {
        if (!chunk.inside) return;
        own[column] = fma_of(g, xhat, own[column]);
        own[n + column] += g;
      }
    });
    if (in.dx == nullptr) return;
    reduce.two(sums, AddAll{});
    const RowSlope<C> slope =
        slope_of<C>(p, mean, rstd, static_cast<double>(sums[0]), static_cast<double>(sums[1]));
    row_gradient(slope, k.m, dy, x);
    if (chunk.inside) x.store(in.dx + at, n);
  };
  if constexpr (!kSums) {
    for_rows<Tile>(p.rows, p.n, one);
  } else {
    in_part<Tile>(p.n, [&](std::int64_t part, std::int64_t parts, Chunk chunk) {
      const int n = chunk.size;
      own = dynamic_shared<C>() + std::int64_t{slot} * 2 * n;
      for (int i = Tile::thread(); i < 2 * n; i += Tile::kThreads) own[i] = C(0);
      __syncthreads();
      const Range rows = split_range(p.rows, parts, part);
      for (std::int64_t first = rows.begin; first < rows.end; first += Tile::kRows) {
        chunk.row = min_i(first + slot, rows.end - 1);
        chunk.inside = first + slot < rows.end;
        one(chunk);
      }
      __syncthreads();
      const C* all = dynamic_shared<C>();
      for (int i = static_cast<int>(threadIdx.x); i < 2 * n; i += Tile::kBlock) {
        C sum = all[i];
        for (int s = 1; s < Tile::kRows; ++s) sum += all[s * 2 * n + i];
        const std::int64_t column = chunk.begin + (i < n ? i : p.n + i - n);
        partial[part * 2 * p.n + column] = sum;
      }
    });
  }
}

// Long rows: (sum g, sum g xhat) by chunks, then dx.
template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    row_sums_kernel(RowNorm p, RowOperands<typename Tile::Element> in, GradientSums* found) {
  using C = typename Tile::C;
  RowMoments<Tile> reduce(shared_storage<MomentStorage<Tile>>());
  for_chunks<Tile>(p.rows, p.n, [&](const Chunk& chunk) {
    const std::int64_t at = chunk.row * p.n + chunk.begin;
    Tile dy, x;
    dy.load(in.dy + at, chunk.size, C(0));
    x.load(in.x + at, chunk.size, C(0));
    const RowScale<C> k = scale_of<C>(in.centre(p, chunk.row), in.rstd[chunk.row]);
    C sums[2];
    row_sums(k, in.w != nullptr ? in.w + chunk.begin : nullptr, chunk.size, dy, x, sums,
             [](int, C, C) {});
    reduce.two(sums, AddAll{});
    if (threadIdx.x == 0) {
      found[chunk.unit] = {static_cast<double>(sums[0]), static_cast<double>(sums[1])};
    }
  });
}
template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    row_gradient_kernel(RowNorm p, RowOperands<typename Tile::Element> in, Parts parts,
                        const GradientSums* found) {
  using C = typename Tile::C;
  for_chunks<Tile>(p.rows, p.n, [&](const Chunk& chunk) {
    const std::int64_t at = chunk.row * p.n + chunk.begin;
    const GradientSums all = add_parts(parts, found + parts.base(chunk.row));
    const double mean = in.centre(p, chunk.row), rstd = in.rstd[chunk.row];
    const RowSlope<C> slope = slope_of<C>(p, mean, rstd, all.dy, all.product);
    const RowScale<C> k = scale_of<C>(mean, rstd);
    Tile dy, x;
    dy.load(in.dy + at, chunk.size, C(0));
    x.load(in.x + at, chunk.size, C(0));
    C unused[2];
    row_sums(k, in.w != nullptr ? in.w + chunk.begin : nullptr, chunk.size, dy, x, unused,
             [](int, C, C) {});
    row_gradient(slope, k.m, dy, x);
    x.store(in.dx + at, chunk.size);
  });
}

// Gradients by weight and bias of long rows: a thread goes down a column of its part of the rows.
constexpr int kDownThreads = 256;
template <class T>
__global__ void __launch_bounds__(kDownThreads)
    row_weight_kernel(RowNorm p, RowOperands<T> in, std::int64_t parts, Compute<T>* partial) {
  using C = Compute<T>;
  const std::int64_t tiles = ceil_div(p.n, kDownThreads);
  for (std::int64_t unit = blockIdx.x; unit < tiles * parts; unit += gridDim.x) {
    const std::int64_t part = unit / tiles, column = unit % tiles * kDownThreads + threadIdx.x;
    if (column >= p.n) continue;
    const Range rows = split_range(p.rows, parts, part);
    C by_weight(0), by_bias(0);
#pragma unroll 4
    for (std::int64_t row = rows.begin; row < rows.end; ++row) {
      const RowScale<C> k = scale_of<C>(in.centre(p, row), in.rstd[row]);
      const C dy = to_compute(in.dy[row * p.n + column]);
      by_weight = fma_of(dy, normalised(k, to_compute(in.x[row * p.n + column])), by_weight);
      by_bias += dy;
    }
    partial[part * 2 * p.n + column] = by_weight;
    partial[part * 2 * p.n + p.n + column] = by_bias;
  }
}

// dw and db from the parts: kSlices threads share a column, kSumColumns columns are a block's.
constexpr int kSumColumns = 32, kSlices = 16;
template <class T>
__global__ void __launch_bounds__(kSumColumns* kSlices)
    column_sum_kernel(std::int64_t parts, std::int64_t n, const Compute<T>* partial, T* dw, T* db) {
  struct Storage {
    double sum[kSlices][kSumColumns];
  };
  auto& storage = shared_storage<Storage>();
  const int j = static_cast<int>(threadIdx.x) % kSumColumns;
  const int slice = static_cast<int>(threadIdx.x) / kSumColumns;
  // Both gradients are one array of 2 n columns.
  for (std::int64_t first = std::int64_t{blockIdx.x} * kSumColumns; first < 2 * n;
       first += std::int64_t{gridDim.x} * kSumColumns) {
    const std::int64_t column = first + j;
    double sum = 0;
    if (column < 2 * n) {
#pragma unroll 8
      for (std::int64_t i = slice; i < parts; i += kSlices) {
        sum += static_cast<double>(partial[i * 2 * n + column]);
      }
    }
    storage.sum[slice][j] = sum;
    __syncthreads();
    if (slice == 0 && column < 2 * n) {
      for (int i = 1; i < kSlices; ++i) sum += storage.sum[i][j];
      T* to = column < n ? dw : db;
      const auto result = from_compute<T>(static_cast<Compute<T>>(sum));
      if (to != nullptr) to[column < n ? column : column - n] = result;
    }
    __syncthreads();
  }
}

}  // namespace
}  // namespace cuda

template <class T>
void row_norm(const RowNorm& p, const T* x, const T* w, const T* b, T* y, double* mean,
              double* rstd) {
  using namespace cuda;
  if (p.rows == 0) return;
  if (p.n == 0) {
    const Grid grid{persistent_blocks(ceil_div(p.rows, kFillThreads), 4), kFillThreads};
    ARRAYNN_LAUNCH(fill_statistics_kernel, grid, p.rows, mean, rstd, 1.0 / std::sqrt(p.eps));
    return;
  }
  // Relu is a part of the kernel; the others take a launch of their own.
  const ActivationKind kind = p.activation.kind;
  const bool apart = y != nullptr && kind != ActivationKind::kNone && kind != ActivationKind::kRelu;
  T* to = apart ? scratch<T>(p.rows * p.n) : y;
  with_tile<T, kRowItems<T> / 2, kRowItems<T> / 4>(p.n, [&](auto tag) {
    using Tile = decltype(tag);
    if (p.n <= Tile::kCapacity) {
      ARRAYNN_LAUNCH((row_norm_kernel<Tile>), row_grid<Tile>(p.rows), p, x, w, b, to,
                     RowStatistics{mean, rstd});
      return;
    }
    if constexpr (Tile::kLargest) {
      if (const int blocks = cluster_for<Tile>(p.n); blocks != 0) {
        ARRAYNN_LAUNCH((row_norm_kernel<typename Tile::Clustered>),
                       cluster_grid<Tile>(p.rows, blocks), p, x, w, b, to,
                       RowStatistics{mean, rstd});
        return;
      }
      using Part = typename Tile::Half;
      const std::int64_t count = chunks_of<Part>(p.n);
      auto* moments = scratch<Moments>(p.rows * count);
      if (mean == nullptr && p.centred) mean = scratch<double>(p.rows);
      if (rstd == nullptr) rstd = scratch<double>(p.rows);
      const Grid grid = row_grid<Part>(p.rows * count);
      ARRAYNN_LAUNCH((row_moments_kernel<Part>), grid, p, x, moments);
      ARRAYNN_LAUNCH(row_statistics_kernel, warp_grid(p.rows), p,
                     chunk_parts(count, Part::kCapacity, p.n), moments, mean, rstd);
      if (to == nullptr) return;
      ARRAYNN_LAUNCH((row_apply_kernel<Part>), grid, p, x, w, b, to, mean, rstd);
    }
  });
  if (apart) run_activation(p.activation, to, y, p.rows * p.n);
}

template <class T>
void row_norm_backward(const char*, const RowNorm& p, const T* dy, const T* x, const T* w,
                       const double* mean, const double* rstd, T* dx, T* dw, T* db) {
  using namespace cuda;
  using C = Compute<T>;
  if (p.n == 0) return;
  const bool sums = dw != nullptr || db != nullptr;
  const std::int64_t parts = parts_of(p.rows);
  auto* partial = sums ? scratch<C>(parts * 2 * p.n) : nullptr;
  const RowOperands<T> in{dy, x, w, mean, rstd, dx};
  with_tile<T, kRowItems<T> / 2, kRowItems<T> / 4>(p.n, [&](auto tag) {
    using Tile = decltype(tag);
    if (p.n <= Tile::kCapacity) {
      if (sums) {
        const auto shared = static_cast<std::size_t>(2 * p.n * Tile::kRows) * sizeof(C);
        const Grid grid{parts, Tile::kBlock, shared};
        ARRAYNN_LAUNCH((row_norm_backward_kernel<Tile, true>), grid, p, in, partial);
      } else if (dx != nullptr && p.rows != 0) {
        ARRAYNN_LAUNCH((row_norm_backward_kernel<Tile, false>), row_grid<Tile>(p.rows), p, in,
                       nullptr);
      }
      return;
    }
    if constexpr (Tile::kLargest) {
      if (const int blocks = cluster_for<Tile>(p.n); blocks != 0) {
        using Clustered = typename Tile::Clustered;
        if (sums) {
          const auto shared =
              static_cast<std::size_t>(2 * cluster_part<Tile>(p.n, blocks)) * sizeof(C);
          ARRAYNN_LAUNCH((row_norm_backward_kernel<Clustered, true>),
                         cluster_grid<Tile>(parts, blocks, shared), p, in, partial);
        } else if (dx != nullptr && p.rows != 0) {
          ARRAYNN_LAUNCH((row_norm_backward_kernel<Clustered, false>),
                         cluster_grid<Tile>(p.rows, blocks), p, in, nullptr);
        }
        return;
      }
      if (dx != nullptr && p.rows != 0) {
        const std::int64_t count = chunks_of<Tile>(p.n);
        auto* found = scratch<GradientSums>(p.rows * count);
        const Grid grid = row_grid<Tile>(p.rows * count);
        ARRAYNN_LAUNCH((row_sums_kernel<Tile>), grid, p, in, found);
        ARRAYNN_LAUNCH((row_gradient_kernel<Tile>), grid, p, in,
                       chunk_parts(count, Tile::kCapacity, p.n), found);
      }
      if (sums) {
        const std::int64_t units = ceil_div(p.n, kDownThreads) * parts;
        const Grid grid{persistent_blocks(units, 8), kDownThreads};
        ARRAYNN_LAUNCH((row_weight_kernel<T>), grid, p, in, parts, partial);
      }
    }
  });
  if (!sums) return;
  const Grid grid{persistent_blocks(ceil_div(2 * p.n, kSumColumns), 4), kSumColumns * kSlices};
  ARRAYNN_LAUNCH((column_sum_kernel<T>), grid, parts, p.n, partial, dw, db);
}

#define ARRAYNN_INSTANTIATE(T)                                                                   \
  template void row_norm<T>(const RowNorm&, const T*, const T*, const T*, T*, double*, double*); \
  template void row_norm_backward<T>(const char*, const RowNorm&, const T*, const T*, const T*,  \
                                     const double*, const double*, T*, T*, T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
