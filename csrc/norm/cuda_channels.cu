// batch_norm, group_norm and instance_norm: partial moments or sums in the order of memory, a warp per
// statistic that puts them together and finds coefficients, and one pass that applies those. Channels
// first, what shares a statistic is one run of elements, or one in every sample; channels last, threads go
// down columns.
#include "elementwise/elementwise.hpp"
#include "norm/cuda_moments.hpp"

namespace arraynn {
namespace cuda {
namespace {

// ---- where things are -----------------------------------------------------------------------------

// Elements of run k: those of `length` lie side by side, the next ones `stride` further.
struct Runs {
  std::int64_t count, elements;  // runs, elements of each
  std::int64_t step, length, stride;

  __device__ __forceinline__ std::int64_t at(std::int64_t k, std::int64_t e) const {
    return k * step + (e < length ? e : e / length * stride + e % length);
  }
};
// Of the statistics, or of every plane where a group has several.
Runs runs_of(const ChannelNorm& p, bool planes) {
  if (p.groups == 0) return {p.c, p.n * p.s, p.s, p.s, p.c * p.s};
  const std::int64_t runs = planes ? p.n * p.c : p.n * p.groups;
  const std::int64_t elements = p.n * p.c * p.s / max_i(1, runs);
  return {runs, elements, elements, elements, 0};
}

// Coefficients are those of channels, of each sample's where it has its own statistics.
struct Layout {
  std::int64_t c, s;
  bool channels_last, per_sample;

  explicit Layout(const ChannelNorm& p)
      : c(p.c), s(p.s), channels_last(p.channels_last), per_sample(p.groups != 0) {}
  std::int64_t coefficients(std::int64_t n) const { return per_sample ? n * c : c; }
  // Of element i; channels last, of its neighbours those that follow.
  __device__ __forceinline__ std::int64_t coefficient(std::int64_t i) const {
    if (!channels_last) return per_sample ? i / s : i / s % c;
    return per_sample ? i / (c * s) * c + i % c : i % c;
  }
  // Neighbours that share a coefficient, or whose coefficients are neighbours.
  std::int64_t together() const { return channels_last ? c : s; }
};

// Statistic k: (first coefficient, coefficients).
__device__ __forceinline__ std::int64_t wide_of(const ChannelNorm& p) {
  return p.groups == 0 ? 1 : p.c / p.groups;
}

// ---- partial results ------------------------------------------------------------------------------

constexpr int kDown = 8, kAcross = 32;                         // threads of a block of columns
constexpr int kDownRows = 16;                                  // rows that a thread has at once
constexpr std::int64_t kColumnLength = 4 * kDown * kDownRows;  // rows of a block
constexpr int kDownBlock = kDown * kAcross;
// Of a multiprocessor: moments keep their kDownRows elements in registers.
constexpr int kMomentBlocks = 2, kSumBlocks = 4;

// Partial results of run k are `count` blocks side by side; channels last, [sample][block][channel].
template <class Tile>
Parts run_parts(const Runs& runs) {
  return chunk_parts(chunks_of<Tile>(runs.elements), Tile::kCapacity, runs.elements);
}
Parts column_parts(const ChannelNorm& p, bool planes) {
  const std::int64_t blocks = ceil_div(p.s, kColumnLength);
  if (p.groups == 0) return {p.c, 0, 1, 1, 0, blocks, p.c, kColumnLength, p.s};
  if (planes) return {p.c, blocks * p.c, 1, 1, 0, blocks, p.c, kColumnLength, p.s};
  const std::int64_t wide = p.c / p.groups;
  return {p.groups, blocks * p.c, wide, wide, 1, blocks, p.c, kColumnLength, p.s};
}

// f(chunk) for the chunks of runs; short runs are several to a block.
template <class Tile, class F>
__device__ __forceinline__ void for_runs(const Runs& runs, const F& f) {
  if constexpr (Tile::kLargest) {
    for_chunks<Tile>(runs.count, runs.elements, f);
  } else {
    for_rows<Tile>(runs.count, runs.elements, f);
  }
}
template <class Tile>
__device__ __forceinline__ void load_run(Tile& tile, const Runs& runs, const Chunk& chunk,
                                         const typename Tile::Element* x) {
  tile.load_from([&](int i) { return x + runs.at(chunk.row, chunk.begin + i); }, is_packed(x),
                 chunk.size, typename Tile::C(0));
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    run_moments_kernel(Runs runs, const typename Tile::Element* x, Moments* moments) {
  RowMoments<Tile> reduce(shared_storage<MomentStorage<Tile>>());
  for_runs<Tile>(runs, [&](const Chunk& chunk) {
    Tile tile;
    load_run(tile, runs, chunk, x);
    const Moments found = reduce.of(tile, chunk.size, chunk.size);
    if (chunk.inside && Tile::thread() == 0) moments[chunk.unit] = found;
  });
}

// sums[chunk] = (sum dy, sum dy (x - m)); `per_mean` runs share a mean.
template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    run_sums_kernel(Runs runs, std::int64_t per_mean, const typename Tile::Element* dy,
                    const typename Tile::Element* x, const double* mean, GradientSums* sums) {
  using C = typename Tile::C;
  RowMoments<Tile> reduce(shared_storage<MomentStorage<Tile>>());
  for_runs<Tile>(runs, [&](const Chunk& chunk) {
    const C m = static_cast<C>(mean[chunk.row / per_mean]);
    Tile g, v;
    load_run(g, runs, chunk, dy);
    load_run(v, runs, chunk, x);
    C own[2] = {C(0), C(0)};
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) {
      if (Tile::column(i) >= chunk.size) continue;
      own[0] += g.v[i];
      own[1] = fma_of(g.v[i], v.v[i] - m, own[1]);
    }
    reduce.two(own, AddAll{});
    if (chunk.inside && Tile::thread() == 0) {
      sums[chunk.unit] = {static_cast<double>(own[0]), static_cast<double>(own[1])};
    }
  });
}

// A block of columns: f(first row, rows, column, where its result goes); its kDown threads of a column
// give theirs to `storage`, and those of the first row add up.
struct ColumnBlock {
  std::int64_t sample, first, rows, column, to;
  bool inside;
};
template <class F>
__device__ __forceinline__ void for_column_blocks(const ChannelNorm& p, const F& f) {
  const std::int64_t tiles = ceil_div(p.c, kAcross), blocks = ceil_div(p.s, kColumnLength);
  for (std::int64_t unit = blockIdx.x; unit < p.n * blocks * tiles; unit += gridDim.x) {
    const std::int64_t at = unit / tiles, column = unit % tiles * kAcross + threadIdx.x % kAcross;
    const std::int64_t first = at % blocks * kColumnLength;
    f(ColumnBlock{at / blocks, first, min_i(kColumnLength, p.s - first), min_i(column, p.c - 1),
                  at * p.c + column, column < p.c});
  }
}

template <class T>
__global__ void __launch_bounds__(kDownBlock, kMomentBlocks)
    column_moments_kernel(ChannelNorm p, const T* x, Moments* moments) {
  using C = Compute<T>;
  struct Storage {
    double mean[kDown][kAcross], m2[kDown][kAcross];
  };
  auto& storage = shared_storage<Storage>();
  const int across = static_cast<int>(threadIdx.x) % kAcross;
  const int down = static_cast<int>(threadIdx.x) / kAcross;
  for_column_blocks(p, [&](const ColumnBlock& block) {
    const T* from = x + (block.sample * p.s + block.first) * p.c + block.column;
    Moments all{0, 0};
    double count = 0;
    for (std::int64_t row = down; row < block.rows; row += kDown * kDownRows) {
      C v[kDownRows], sum(0);
      const std::int64_t left = ceil_div(block.rows - row, kDown);
      const int valid = static_cast<int>(min_i(kDownRows, left));
#pragma unroll
      for (int i = 0; i < kDownRows; ++i) {
        v[i] = i < valid ? to_compute(from[(row + i * kDown) * p.c]) : C(0);
      }
#pragma unroll
      for (int i = 0; i < kDownRows; ++i) sum += v[i];
      const double more = valid, inverse = 1.0 / more;
      const C pivot = static_cast<C>(static_cast<double>(sum) * inverse);
      C first(0), second(0);
#pragma unroll
      for (int i = 0; i < kDownRows; ++i) {
        if (i >= valid) continue;
        const C d = v[i] - pivot;
        first += d;
        second = fma_of(d, d, second);
      }
      const double d = static_cast<double>(first);
      const double m2 = static_cast<double>(second) - d * (d * inverse);
      const Moments next{static_cast<double>(pivot) + d * inverse, m2 < 0 ? 0.0 : m2};
      all = count == 0 ? next : merge_moments(all, count, next, more);
      count += more;
    }
    storage.mean[down][across] = all.mean;
    storage.m2[down][across] = all.m2;
    __syncthreads();
    if (down == 0 && block.inside) {
      for (int i = 1; i < kDown; ++i) {
        // Rows of thread i: those that are i more than a multiple of kDown.
        const double more = static_cast<double>(ceil_div(max_i(0, block.rows - i), kDown));
        if (more == 0) continue;
        const Moments next{storage.mean[i][across], storage.m2[i][across]};
        all = merge_moments(all, count, next, more);
        count += more;
      }
      moments[block.to] = all;
    }
    __syncthreads();
  });
}

template <class T>
__global__ void __launch_bounds__(kDownBlock, kSumBlocks)
    column_gradient_sums_kernel(ChannelNorm p, const T* dy, const T* x, const double* mean,
                                GradientSums* sums) {
  using C = Compute<T>;
  struct Storage {
    C dy[kDown][kAcross], product[kDown][kAcross];
  };
  auto& storage = shared_storage<Storage>();
  const int across = static_cast<int>(threadIdx.x) % kAcross;
  const int down = static_cast<int>(threadIdx.x) / kAcross;
  for_column_blocks(p, [&](const ColumnBlock& block) {
    const std::int64_t from = (block.sample * p.s + block.first) * p.c + block.column;
    const std::int64_t statistic =
        p.groups == 0 ? block.column : block.sample * p.groups + block.column / (p.c / p.groups);
    const C m = static_cast<C>(mean[statistic]);
    C first(0), second(0);
#pragma unroll 8
    for (std::int64_t row = down; row < block.rows; row += kDown) {
      const C g = to_compute(dy[from + row * p.c]);
      first += g;
      second = fma_of(g, to_compute(x[from + row * p.c]) - m, second);
    }
    storage.dy[down][across] = first;
    storage.product[down][across] = second;
    __syncthreads();
    if (down == 0 && block.inside) {
      GradientSums all{static_cast<double>(first), static_cast<double>(second)};
      for (int i = 1; i < kDown; ++i) {
        all.dy += static_cast<double>(storage.dy[i][across]);
        all.product += static_cast<double>(storage.product[i][across]);
      }
      sums[block.to] = all;
    }
    __syncthreads();
  });
}

// ---- statistics and coefficients ------------------------------------------------------------------

constexpr int kEachThreads = 256;
// f(i) for i in [0, n), neighbours by neighbours.
template <class F>
__device__ __forceinline__ void for_each_index(std::int64_t n, const F& f) {
  const std::int64_t step = std::int64_t{gridDim.x} * kEachThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kEachThreads + threadIdx.x; i < n; i += step) {
    f(i);
  }
}
Grid each_grid(std::int64_t n) {
  return {persistent_blocks(ceil_div(n, kEachThreads), 4), kEachThreads};
}

// A warp takes a statistic from its parts; var may be null.
__global__ void __launch_bounds__(kWarpsThreads)
    channel_statistics_kernel(ChannelNorm p, Parts parts, const Moments* moments, double* mean,
                              double* rstd, double* var) {
  const double count = static_cast<double>(p.count());
  for_warps(p.statistics(), [&](std::int64_t k) {
    const Moments all = merge_parts(parts, moments + parts.base(k));
    if (threadIdx.x % kWarp != 0) return;
    const double spread = all.m2 / count;
    mean[k] = all.mean;
    rstd[k] = 1.0 / ::sqrt(spread + p.eps);
    if (var != nullptr) var[k] = spread;
  });
}

// Statistics of nothing.
__global__ void __launch_bounds__(kEachThreads)
    empty_statistics_kernel(std::int64_t n, double* mean, double* rstd, double scale) {
  for_each_index(n, [&](std::int64_t i) {
    mean[i] = 0;
    rstd[i] = scale;
  });
}

template <class T>
__global__ void __launch_bounds__(kEachThreads)
    fixed_statistics_kernel(Running<T> running, std::int64_t samples, std::int64_t channels,
                            double eps, double* mean, double* rstd) {
  for_each_index(samples * channels, [&](std::int64_t i) {
    const std::int64_t c = i % channels;
    mean[i] = static_cast<double>(to_compute(running.mean[c * running.mean_stride]));
    const auto spread = static_cast<double>(to_compute(running.var[c * running.var_stride]));
    rstd[i] = 1.0 / ::sqrt(spread + eps);
  });
}

// A running statistic moves towards the mean over the samples of the batch's own.
template <class T>
__global__ void __launch_bounds__(kEachThreads)
    move_running_kernel(ChannelNorm p, Running<T> running, const double* mean, const double* var) {
  const double count = static_cast<double>(p.count()), unbiased = count / (count - 1);
  const std::int64_t samples = p.groups == 0 ? 1 : p.n;
  for_each_index(p.c, [&](std::int64_t c) {
    double centre = 0, spread = 0;
    for (std::int64_t n = 0; n < samples; ++n) {
      centre += mean[n * p.c + c];
      spread += var[n * p.c + c];
    }
    const double share = running.momentum / static_cast<double>(samples);
    const double keep = 1 - running.momentum;
    T& m = running.mean[c * running.mean_stride];
    T& v = running.var[c * running.var_stride];
    m = from_compute<T>(
        static_cast<Compute<T>>(keep * static_cast<double>(to_compute(m)) + share * centre));
    v = from_compute<T>(static_cast<Compute<T>>(keep * static_cast<double>(to_compute(v)) +
                                                share * unbiased * spread));
  });
}

// y = (x - m) scale + shift.
template <class T>
__global__ void __launch_bounds__(kEachThreads)
    affine_kernel(ChannelNorm p, std::int64_t coefficients, const T* w, const T* b,
                  const double* mean, const double* rstd, Affine<Compute<T>> k) {
  using C = Compute<T>;
  const std::int64_t wide = wide_of(p);
  for_each_index(coefficients, [&](std::int64_t i) {
    const std::int64_t c = i % p.c;
    const double centre = mean[i / wide];
    const double scale =
        rstd[i / wide] * (w != nullptr ? static_cast<double>(to_compute(w[c])) : 1.0);
    const C m = static_cast<C>(centre);
    k.m[i] = m;
    k.scale[i] = static_cast<C>(scale);
    k.shift[i] = static_cast<C>((b != nullptr ? static_cast<double>(to_compute(b[c])) : 0.0) +
                                (static_cast<double>(m) - centre) * scale);
  });
}

// A warp takes the sums of each channel of a statistic, (sum dy, sum dy xhat) in the end, and from those
// the coefficients of dx = a dy + b (x - m) + c, where `k` has any.
template <class T>
__global__ void __launch_bounds__(kWarpsThreads)
    slope_kernel(ChannelNorm p, bool fixed, Parts parts, const GradientSums* partial, const T* w,
                 const double* mean, const double* rstd, GradientSums* sums, Slope<Compute<T>> k) {
  using C = Compute<T>;
  const std::int64_t wide = wide_of(p);
  const double count = static_cast<double>(p.count());
  const auto weight = [&](std::int64_t i) {
    return w != nullptr ? static_cast<double>(to_compute(w[i % p.c])) : 1.0;
  };
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for_warps(p.statistics(), [&](std::int64_t at) {
    const double centre = mean[at], scale = rstd[at];
    const C m = static_cast<C>(centre);
    const double rest = static_cast<double>(m) - centre;
    double by_dy = 0, by_product = 0;
    for (std::int64_t i = at * wide; partial != nullptr && i < (at + 1) * wide; ++i) {
      GradientSums s = add_parts(parts, partial + parts.base(i));
      s.product = scale * (s.product + rest * s.dy);
      if (lane == 0) sums[i] = s;
      by_dy += weight(i) * s.dy;
      by_product += weight(i) * s.product;
    }
    if (k.a == nullptr) return;
    const double b = -scale * scale * (by_product / count);
    for (std::int64_t i = at * wide + lane; i < (at + 1) * wide; i += kWarp) {
      k.m[i] = m;
      k.a[i] = static_cast<C>(scale * weight(i));
      k.b[i] = static_cast<C>(fixed ? 0.0 : b);
      k.c[i] = static_cast<C>(fixed ? 0.0 : b * rest - scale * (by_dy / count));
    }
  });
}

template <class T>
__global__ void __launch_bounds__(kEachThreads)
    weight_gradient_kernel(ChannelNorm p, const GradientSums* sums, T* dw, T* db) {
  const std::int64_t samples = p.groups == 0 ? 1 : p.n;
  for_each_index(p.c, [&](std::int64_t c) {
    GradientSums all{0, 0};
    for (std::int64_t n = 0; n < samples; ++n) {
      all.dy += sums[n * p.c + c].dy;
      all.product += sums[n * p.c + c].product;
    }
    if (dw != nullptr) dw[c] = from_compute<T>(static_cast<Compute<T>>(all.product));
    if (db != nullptr) db[c] = from_compute<T>(static_cast<Compute<T>>(all.dy));
  });
}

// ---- application ----------------------------------------------------------------------------------

constexpr int kApplyBlocks = 4;
template <int kWidth>
constexpr int kApplySteps = kWidth == 1 ? 8 : 2;
template <int kWidth>
constexpr std::int64_t kApplyTile = std::int64_t{kEachThreads} * kWidth * kApplySteps<kWidth>;

// out[i] = f(i's coefficient, in[i]...) over packs of kWidth; kSecond: there are two inputs.
template <class T, int kWidth, bool kSecond, class F>
__device__ __forceinline__ void apply_tiles(const Layout& layout, std::int64_t n, const T* first,
                                            const T* second, T* out, const F& f) {
  using C = Compute<T>;
  using Tile = RowTile<T, kWidth, kEachThreads, kApplySteps<kWidth>, true>;
  for_chunks<Tile>(1, n, [&](const Chunk& chunk) {
    Tile a, b;
    a.load(first + chunk.begin, chunk.size, C(0));
    if constexpr (kSecond) b.load(second + chunk.begin, chunk.size, C(0));
#pragma unroll
    for (int i = 0; i < Tile::kItems; i += kWidth) {
      if (Tile::column(i) >= chunk.size) continue;
      const std::int64_t k = layout.coefficient(chunk.begin + Tile::column(i));
#pragma unroll
      for (int j = 0; j < kWidth; ++j) {
        const std::int64_t own = layout.channels_last ? k + j : k;
        a.v[i + j] = f(own, a.v[i + j], kSecond ? b.v[i + j] : C(0));
      }
    }
    a.store(out + chunk.begin, chunk.size);
  });
}

template <class T, int kWidth>
__global__ void __launch_bounds__(kEachThreads, kApplyBlocks)
    channel_apply_kernel(Layout layout, std::int64_t n, bool relu, Affine<Compute<T>> k, const T* x,
                         T* y) {
  using C = Compute<T>;
  apply_tiles<T, kWidth, false>(layout, n, x, x, y, [&](std::int64_t i, C v, C) {
    return floored(fma_of(v - k.m[i], k.scale[i], k.shift[i]), relu);
  });
}
template <class T, int kWidth>
__global__ void __launch_bounds__(kEachThreads, kApplyBlocks)
    channel_gradient_kernel(Layout layout, std::int64_t n, Slope<Compute<T>> k, const T* dy,
                            const T* x, T* dx) {
  using C = Compute<T>;
  apply_tiles<T, kWidth, true>(layout, n, dy, x, dx, [&](std::int64_t i, C g, C v) {
    return fma_of(g, k.a[i], fma_of(v - k.m[i], k.b[i], k.c[i]));
  });
}
// Fixed statistics: a gradient does not look at x.
template <class T, int kWidth>
__global__ void __launch_bounds__(kEachThreads, kApplyBlocks)
    channel_scale_kernel(Layout layout, std::int64_t n, const Compute<T>* scale, const T* dy,
                         T* dx) {
  using C = Compute<T>;
  apply_tiles<T, kWidth, false>(layout, n, dy, dy, dx,
                                [&](std::int64_t i, C g, C) { return g * scale[i]; });
}

// f(width) with a pack where neighbours share a coefficient, or have neighbouring ones.
template <class T, class F>
void with_width(std::int64_t together, const F& f) {
  if (together % kPack<T> == 0) {
    f(std::integral_constant<int, kPack<T>>{});
  } else {
    f(std::integral_constant<int, 1>{});
  }
}
// f(tile) for runs: a warp for short ones, or blocks by chunks.
template <class T, class F>
void with_run_tile(const Runs& runs, const F& f) {
  with_width<T>(runs.length, [&](auto width) {
    // Addresses of single elements take registers as well.
    constexpr int kSteps = kRowItems<T> / (width() == 1 ? 4 : 2) / width();
    using Warp = RowTile<T, width(), kWarp, kSteps, false>;
    using Block = RowTile<T, width(), 256, kSteps, true>;
    if (runs.elements <= Warp::kCapacity) {
      f(Warp{});
    } else {
      f(Block{});
    }
  });
}
template <class Tile>
Grid run_grid(const Runs& runs) {
  return row_grid<Tile>(runs.count * (Tile::kLargest ? chunks_of<Tile>(runs.elements) : 1));
}
Grid column_block_grid(const ChannelNorm& p, int resident) {
  const std::int64_t units = p.n * ceil_div(p.s, kColumnLength) * ceil_div(p.c, kAcross);
  return {persistent_blocks(units, resident), kDownBlock};
}
template <int kWidth>
Grid apply_grid(std::int64_t n) {
  return {persistent_blocks(ceil_div(n, kApplyTile<kWidth>), kApplyBlocks), kEachThreads};
}

template <class T>
void take_statistics(const ChannelNorm& p, const T* x, double* mean, double* rstd, double* var) {
  Parts parts{};
  Moments* moments = nullptr;
  if (p.channels_last) {
    parts = column_parts(p, false);
    moments = scratch<Moments>(p.n * p.c * parts.blocks);
    ARRAYNN_LAUNCH((column_moments_kernel<T>), column_block_grid(p, kMomentBlocks), p, x, moments);
  } else {
    const Runs runs = runs_of(p, false);
    with_run_tile<T>(runs, [&](auto tag) {
      using Tile = decltype(tag);
      parts = run_parts<Tile>(runs);
      moments = scratch<Moments>(runs.count * parts.blocks);
      ARRAYNN_LAUNCH((run_moments_kernel<Tile>), run_grid<Tile>(runs), runs, x, moments);
    });
  }
  ARRAYNN_LAUNCH(channel_statistics_kernel, warp_grid(p.statistics()), p, parts, moments, mean,
                 rstd, var);
}

template <class T>
GradientSums* take_sums(const ChannelNorm& p, const T* dy, const T* x, const double* mean,
                        Parts* parts) {
  GradientSums* sums = nullptr;
  if (p.channels_last) {
    *parts = column_parts(p, true);
    sums = scratch<GradientSums>(p.n * p.c * parts->blocks);
    ARRAYNN_LAUNCH((column_gradient_sums_kernel<T>), column_block_grid(p, kSumBlocks), p, dy, x,
                   mean, sums);
    return sums;
  }
  const Runs runs = runs_of(p, true);
  const std::int64_t per_mean = p.groups == 0 ? 1 : p.c / p.groups;
  with_run_tile<T>(runs, [&](auto tag) {
    using Tile = decltype(tag);
    *parts = run_parts<Tile>(runs);
    sums = scratch<GradientSums>(runs.count * parts->blocks);
    ARRAYNN_LAUNCH((run_sums_kernel<Tile>), run_grid<Tile>(runs), runs, per_mean, dy, x, mean,
                   sums);
  });
  return sums;
}

}  // namespace
}  // namespace cuda

template <class T>
void fixed_statistics(const Running<T>& running, std::int64_t samples, std::int64_t channels,
                      double eps, double* mean, double* rstd) {
  using namespace cuda;
  ARRAYNN_LAUNCH((fixed_statistics_kernel<T>), each_grid(samples * channels), running, samples,
                 channels, eps, mean, rstd);
}

template <class T>
void channel_norm(const char*, const ChannelNorm& p, const T* x, const T* w, const T* b, T* y,
                  double* mean, double* rstd, bool fixed, const Running<T>& running) {
  using namespace cuda;
  using C = Compute<T>;
  const std::int64_t size = p.n * p.c * p.s;
  if (size == 0) {
    if (fixed) return;
    ARRAYNN_LAUNCH(empty_statistics_kernel, each_grid(p.statistics()), p.statistics(), mean, rstd,
                   1.0 / std::sqrt(p.eps));
    return;
  }
  if (!fixed) {
    const bool moves = running.mean != nullptr;
    double* var = moves ? scratch<double>(p.statistics()) : nullptr;
    take_statistics(p, x, mean, rstd, var);
    if (moves) {
      ARRAYNN_LAUNCH((move_running_kernel<T>), each_grid(p.c), p, running, mean, var);
    }
  }
  if (y == nullptr) return;
  const Layout layout(p);
  const std::int64_t count = layout.coefficients(p.n);
  C* k = scratch<C>(3 * count);
  const Affine<C> affine{k, k + count, k + 2 * count};
  ARRAYNN_LAUNCH((affine_kernel<T>), each_grid(count), p, count, w, b, mean, rstd, affine);
  // Relu is a part of the kernel; the others take a launch of their own.
  const ActivationKind kind = p.activation.kind;
  const bool apart = kind != ActivationKind::kNone && kind != ActivationKind::kRelu;
  T* to = apart ? scratch<T>(size) : y;
  with_width<T>(layout.together(), [&](auto width) {
    ARRAYNN_LAUNCH((channel_apply_kernel<T, width()>), apply_grid<width()>(size), layout, size,
                   kind == ActivationKind::kRelu, affine, x, to);
  });
  if (apart) run_activation(p.activation, to, y, size);
}

template <class T>
void channel_norm_backward(const char*, const ChannelNorm& p, const T* dy, const T* x, const T* w,
                           const double* mean, const double* rstd, bool fixed, T* dx, T* dw,
                           T* db) {
  using namespace cuda;
  using C = Compute<T>;
  const std::int64_t size = p.n * p.c * p.s;
  const Layout layout(p);
  const std::int64_t count = layout.coefficients(p.n);
  const bool wants_weights = dw != nullptr || db != nullptr;
  if (size == 0) {  // sums over no samples
    ChannelNorm none = p;
    none.n = 0;
    none.groups = 1;
    if (wants_weights) {
      ARRAYNN_LAUNCH((weight_gradient_kernel<T>), each_grid(p.c), none, nullptr, dw, db);
    }
    return;
  }
  Parts parts{1, 0, 0, 0, 0, 1, 0, 0, 0};
  const GradientSums* partial = nullptr;
  GradientSums* sums = nullptr;
  if (!fixed || wants_weights) {
    partial = take_sums(p, dy, x, mean, &parts);
    sums = scratch<GradientSums>(count);
  }
  C* k = dx != nullptr ? scratch<C>(4 * count) : nullptr;
  const Slope<C> slope = k != nullptr ? Slope<C>{k, k + count, k + 2 * count, k + 3 * count}
                                      : Slope<C>{nullptr, nullptr, nullptr, nullptr};
  ARRAYNN_LAUNCH((slope_kernel<T>), warp_grid(p.statistics()), p, fixed, parts, partial, w, mean,
                 rstd, sums, slope);
  if (wants_weights) {
    ARRAYNN_LAUNCH((weight_gradient_kernel<T>), each_grid(p.c), p, sums, dw, db);
  }
  if (dx == nullptr) return;
  with_width<T>(layout.together(), [&](auto width) {
    const Grid grid = apply_grid<width()>(size);
    if (fixed) {
      ARRAYNN_LAUNCH((channel_scale_kernel<T, width()>), grid, layout, size, slope.a, dy, dx);
    } else {
      ARRAYNN_LAUNCH((channel_gradient_kernel<T, width()>), grid, layout, size, slope, dy, x, dx);
    }
  });
}

#define ARRAYNN_INSTANTIATE(T)                                                                     \
  template void fixed_statistics<T>(const Running<T>&, std::int64_t, std::int64_t, double,         \
                                    double*, double*);                                             \
  template void channel_norm<T>(const char*, const ChannelNorm&, const T*, const T*, const T*, T*, \
                                double*, double*, bool, const Running<T>&);                        \
  template void channel_norm_backward<T>(const char*, const ChannelNorm&, const T*, const T*,      \
                                         const T*, const double*, const double*, bool, T*, T*,     \
                                         T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
