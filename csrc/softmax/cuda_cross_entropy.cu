// Cross entropy over the rows and columns of softmax. What a reduction or a mean needs of all samples
// (the sum of losses, of the weights of the targets) stays on the device.
#include "softmax/cuda.hpp"
#include "softmax/cuda_stats.hpp"

namespace arraynn {
namespace cuda {
namespace {

// The smoothed and weighted target T; see softmax.hpp.
template <class T>
struct Target {
  using C = Compute<T>;
  LossProblem<T> loss;
  const double* weight_sum;  // of all classes, where it is needed
  // By the host: a division in double takes registers that a row needs.
  C keep = static_cast<C>(1.0 - loss.smoothing);
  C uniform = static_cast<C>(loss.smoothing / static_cast<double>(loss.shape.n));

  __device__ __forceinline__ C weight(std::int64_t c) const {
    return loss.weight != nullptr ? to_compute(loss.weight[c]) : C(1);
  }
  __device__ __forceinline__ bool soft() const { return loss.probabilities != nullptr; }
  // Whether other classes than the sample's own count.
  __device__ __forceinline__ bool dense() const { return soft() || loss.smoothing != 0; }
  __device__ __forceinline__ std::int64_t index(std::int64_t sample) const {
    return loss.target != nullptr ? loss.target[sample] : std::int64_t{loss.narrow[sample]};
  }
  // T_c of probabilities, or the uniform part of a class index; `at` is the logit's place.
  __device__ __forceinline__ C part(std::int64_t c, std::int64_t at) const {
    const C w = weight(c);
    if (!soft()) return w * uniform;
    return w * fma(Vec<C>{to_compute(loss.probabilities[at])}, Vec<C>{keep}, Vec<C>{uniform}).v;
  }
  // The term of the class that an index names, beyond its uniform part.
  __device__ __forceinline__ C own(std::int64_t y) const { return keep * weight(y); }
  // sum_c T_c of class index y.
  __device__ __forceinline__ C sum(std::int64_t y) const {
    if (loss.smoothing == 0) return own(y);
    return own(y) +
           static_cast<C>(loss.smoothing * *weight_sum / static_cast<double>(loss.shape.n));
  }
};

// A class index, or what is wrong with it. There is nothing to be read at a wrong one: it gives NaN.
enum class Kind : std::uint8_t { kSoft, kIndex, kIgnored, kWrong };
struct Sample {
  Kind kind;
  std::int64_t y;
};
template <class T>
__device__ __forceinline__ Sample sample_of(const Target<T>& target, std::int64_t sample) {
  if (target.soft()) return {Kind::kSoft, -1};
  const std::int64_t y = target.index(sample);
  if (y == target.loss.ignore_index) return {Kind::kIgnored, -1};
  return y < 0 || y >= target.loss.shape.n ? Sample{Kind::kWrong, -1} : Sample{Kind::kIndex, y};
}

template <class C>
__device__ __forceinline__ C product_or_zero(C t, C x) {
  return t == C(0) ? C(0) : t * x;
}

// Where losses go: the caller's array, or scratch of the type that they are summed from.
template <class T>
struct Losses {
  T* out;
  Compute<T>* scratch;

  __device__ __forceinline__ void set(std::int64_t sample, Compute<T> value) const {
    if (out != nullptr) {
      out[sample] = from_compute<T>(value);
    } else {
      scratch[sample] = value;
    }
  }
};

// The loss from (m, log s), the logit of the index and the sum over the dense part.
template <class T>
__device__ __forceinline__ Compute<T> loss_of(const Target<T>& target, const Sample& s, const T* z,
                                              std::int64_t stride, Compute<T> m, Compute<T> log_sum,
                                              Compute<T> dense) {
  using C = Compute<T>;
  if (s.kind == Kind::kIgnored) return C(0);
  if (s.kind == Kind::kWrong) return C(__builtin_nan(""));
  if (s.kind == Kind::kSoft) return dense;
  const C shifted = to_compute(z[s.y * stride]) - m;
  return product_or_zero(target.own(s.y), log_sum - shifted) + dense;
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    cross_entropy_kernel(Target<typename Tile::Element> target,
                         Losses<typename Tile::Element> losses) {
  using C = typename Tile::C;
  RowStats<Tile> stats(shared_storage<StatsStorage<Tile>>());
  const std::int64_t n = target.loss.shape.n;
  for_rows<Tile>(target.loss.shape.outer, n, [&](const Chunk& chunk) {
    const std::int64_t row = chunk.row, at = row * n + chunk.begin;
    const typename Tile::Element* z = target.loss.logits + row * n;
    Tile tile;
    tile.load(z + chunk.begin, chunk.size, -kInfinity<C>);
    const SoftmaxStats<C> all = stats.of(tile);
    const C log_sum = log_of_sum(all.sum);
    C dense(0);
    if (target.dense()) {
      tile.each(chunk.size, [&](int c, C v) {
        dense += product_or_zero(target.part(chunk.begin + c, at + c), log_sum - (v - all.max));
      });
      dense = stats.sum(dense);
    }
    if (speaks_for<Tile>(chunk)) {
      losses.set(row, loss_of(target, sample_of(target, row), z, 1, all.max, log_sum, dense));
    }
  });
}

// Of long rows: the dense part by chunks, or of probabilities in a backward (kSum) their sum.
template <class Tile, bool kSum>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    cross_entropy_dense_kernel(Target<typename Tile::Element> target, std::int64_t first,
                               std::int64_t rows, const SoftmaxStats<typename Tile::C>* stats,
                               typename Tile::C* sums) {
  using C = typename Tile::C;
  RowStats<Tile> reduce(shared_storage<StatsStorage<Tile>>());
  const std::int64_t n = target.loss.shape.n, count = ceil_div(n, Tile::kCapacity);
  for_chunks<Tile>(rows, n, [&](const Chunk& chunk) {
    const SoftmaxStats<C> all =
        reduce.merged(stats + chunk.row * count, static_cast<int>(kSum ? 0 : count));
    const C log_sum = log_of_sum(all.sum);
    C sum(0);
#pragma unroll 4
    for (int i = Tile::thread(); i < chunk.size; i += Tile::kThreads) {
      const std::int64_t c = chunk.begin + i, at = (first + chunk.row) * n + c;
      const C t = target.part(c, at);
      sum +=
          kSum ? t : product_or_zero(t, log_sum - (to_compute(target.loss.logits[at]) - all.max));
    }
    sum = reduce.sum(sum);
    if (threadIdx.x == 0) sums[chunk.unit] = sum;
  });
}

// The loss of a long row from its chunks, a warp each.
template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    cross_entropy_finish_kernel(Target<typename Tile::Element> target, std::int64_t count,
                                const SoftmaxStats<typename Tile::C>* stats,
                                const typename Tile::C* sums,
                                Losses<typename Tile::Element> losses) {
  using C = typename Tile::C;
  RowStats<Tile> reduce(shared_storage<StatsStorage<Tile>>());
  const std::int64_t n = target.loss.shape.n;
  for_rows<Tile>(target.loss.shape.outer, n, [&](const Chunk& chunk) {
    const std::int64_t row = chunk.row;
    const SoftmaxStats<C> all = reduce.merged(stats + row * count, static_cast<int>(count));
    C dense(0);
    for (std::int64_t i = Tile::thread(); sums != nullptr && i < count; i += Tile::kThreads) {
      dense += sums[row * count + i];
    }
    dense = reduce.sum(dense);
    if (speaks_for<Tile>(chunk)) {
      losses.set(row, loss_of(target, sample_of(target, row), target.loss.logits + row * n, 1,
                              all.max, log_of_sum(all.sum), dense));
    }
  });
}

// Gradients of the losses: one per sample, or one of what they are reduced to.
template <class T>
struct LossGradient {
  const T* grad_out;      // nullptr for 1
  bool single;            // grad_out is one number
  double scale;           // of all of them
  const double* divisor;  // of the mean, or nullptr

  __device__ __forceinline__ Compute<T> of(std::int64_t sample) const {
    double factor = scale;
    if (divisor == nullptr && !single) {
      const Compute<T> g = to_compute(grad_out[sample]);
      return scale == 1 ? g : g * static_cast<Compute<T>>(scale);
    }
    if (grad_out != nullptr)
      factor *= static_cast<double>(to_compute(grad_out[single ? 0 : sample]));
    return static_cast<Compute<T>>(divisor != nullptr ? factor / *divisor : factor);
  }
};

// dx_c = e_c factor - g T_c.
template <class C>
struct Slope {
  C factor, g;
  bool zero;  // a sample without a target has gradient 0 even where a logit is infinite or g is NaN
};
template <class T>
__device__ __forceinline__ Slope<Compute<T>> slope_of(const Target<T>& target,
                                                      const LossGradient<T>& gradient,
                                                      const Sample& s, std::int64_t sample,
                                                      Compute<T> soft_sum, Compute<T> exp_sum) {
  using C = Compute<T>;
  if (s.kind == Kind::kIgnored) return {C(0), C(0), true};
  if (s.kind == Kind::kWrong) return {C(__builtin_nan("")), C(0), false};
  const C sum = s.kind == Kind::kSoft ? soft_sum : target.sum(s.y);
  if (sum == C(0)) return {C(0), C(0), true};
  const C g = gradient.of(sample);
  return {g * (sum / exp_sum), g, false};
}
template <class T>
__device__ __forceinline__ Compute<T> gradient_of(const Target<T>& target,
                                                  const Slope<Compute<T>>& slope, Compute<T> e,
                                                  bool own, std::int64_t c, std::int64_t at) {
  using C = Compute<T>;
  if (slope.zero) return C(0);
  C d = e * slope.factor;
  if (target.dense()) d = d - slope.g * target.part(c, at);
  if (own) d = d - slope.g * target.own(c);
  return d;
}

// The column of a chunk that is the sample's class, or -1.
__device__ __forceinline__ int own_column(const Sample& s, const Chunk& chunk) {
  const std::int64_t column = s.y - chunk.begin;
  return column >= 0 && column < chunk.size ? static_cast<int>(column) : -1;
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    cross_entropy_backward_kernel(Target<typename Tile::Element> target,
                                  LossGradient<typename Tile::Element> gradient,
                                  typename Tile::Element* dx) {
  using C = typename Tile::C;
  RowStats<Tile> stats(shared_storage<StatsStorage<Tile>>());
  const std::int64_t n = target.loss.shape.n;
  for_rows<Tile>(target.loss.shape.outer, n, [&](const Chunk& chunk) {
    const std::int64_t row = chunk.row, base = row * n + chunk.begin;
    C soft_sum(0);
    if (target.soft()) {
      for (int c = Tile::thread(); c < chunk.size; c += Tile::kThreads) {
        soft_sum += target.part(chunk.begin + c, base + c);
      }
      soft_sum = stats.sum(soft_sum);
    }
    Tile tile;
    tile.load(target.loss.logits + base, chunk.size, -kInfinity<C>);
    const C m = stats.max(tile);
    C s(0);
#pragma unroll
    for (int i = 0; i < Tile::kItems; ++i) {
      tile.v[i] = exp_of(tile.v[i] - m);
      s += tile.v[i];
    }
    s = stats.sum(s);
    const Sample sample = sample_of(target, row);
    const Slope<C> slope = slope_of(target, gradient, sample, row, soft_sum, s);
    const int own = own_column(sample, chunk);
    tile.each(chunk.size, [&](int c, C& v) {
      v = gradient_of(target, slope, v, c == own, chunk.begin + c, base + c);
    });
    if (chunk.inside) tile.store(dx + base, chunk.size);
  });
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kBlock, Tile::kResident)
    cross_entropy_backward_finish_kernel(Target<typename Tile::Element> target,
                                         LossGradient<typename Tile::Element> gradient,
                                         std::int64_t first, std::int64_t rows,
                                         const SoftmaxStats<typename Tile::C>* stats,
                                         const typename Tile::C* sums, typename Tile::Element* dx) {
  using C = typename Tile::C;
  RowStats<Tile> reduce(shared_storage<StatsStorage<Tile>>());
  const std::int64_t n = target.loss.shape.n, count = ceil_div(n, Tile::kCapacity);
  for_chunks<Tile>(rows, n, [&](const Chunk& chunk) {
    const SoftmaxStats<C> all = reduce.merged(stats + chunk.row * count, static_cast<int>(count));
    C soft_sum(0);
    if (target.soft()) {
      for (std::int64_t i = Tile::thread(); i < count; i += Tile::kThreads) {
        soft_sum += sums[chunk.row * count + i];
      }
      soft_sum = reduce.sum(soft_sum);
    }
    const std::int64_t row = first + chunk.row, base = row * n + chunk.begin;
    const Sample sample = sample_of(target, row);
    const Slope<C> slope = slope_of(target, gradient, sample, row, soft_sum, all.sum);
    Tile tile;
    tile.load(target.loss.logits + base, chunk.size, C(0));
    const int own = own_column(sample, chunk);
    tile.each(chunk.size, [&](int c, C& v) {
      v = gradient_of(target, slope, exp_of(v - all.max), c == own, chunk.begin + c, base + c);
    });
    tile.store(dx + base, chunk.size);
  });
}

template <class C, int kTall>
struct ColumnsStorage {
  ColumnStorage<kTall, C, 2> stats;
  ColumnStorage<kTall, C, 1> sum;
};

template <class T, int kTall>
__global__ void __launch_bounds__(kColumnThreads, kColumnResident<Compute<T>>)
    cross_entropy_columns_kernel(Target<T> target, Losses<T> losses) {
  using C = Compute<T>;
  auto& storage = shared_storage<ColumnsStorage<C, kTall>>();
  const SoftmaxShape shape = target.loss.shape;
  for_columns<kTall>(shape, [&](const Column& column) {
    const T* z = target.loss.logits + column.offset;
    const SoftmaxStats<C> all = column_stats<kTall>(shape, z, storage.stats);
    const C log_sum = log_of_sum(all.sum);
    C dense[1] = {C(0)};
    if (target.dense()) {
      for_column_rows<kTall>(shape.n, [&](std::int64_t c) {
        const std::int64_t at = c * shape.inner;
        dense[0] += product_or_zero(target.part(c, column.offset + at),
                                    log_sum - (to_compute(z[at]) - all.max));
      });
      column_reduce(dense, storage.sum, AddAll{});
    }
    if (column.inside && threadIdx.x < kColumnThreads / kTall) {
      losses.set(column.index, loss_of(target, sample_of(target, column.index), z, shape.inner,
                                       all.max, log_sum, dense[0]));
    }
  });
}

template <class T, int kTall>
__global__ void __launch_bounds__(kColumnThreads, kColumnResident<Compute<T>>)
    cross_entropy_columns_backward_kernel(Target<T> target, LossGradient<T> gradient, T* dx) {
  using C = Compute<T>;
  auto& storage = shared_storage<ColumnsStorage<C, kTall>>();
  const SoftmaxShape shape = target.loss.shape;
  for_columns<kTall>(shape, [&](const Column& column) {
    const T* z = target.loss.logits + column.offset;
    C soft_sum[1] = {C(0)};
    if (target.soft()) {
      for_column_rows<kTall>(shape.n, [&](std::int64_t c) {
        soft_sum[0] += target.part(c, column.offset + c * shape.inner);
      });
      column_reduce(soft_sum, storage.sum, AddAll{});
    }
    const SoftmaxStats<C> all = column_stats<kTall>(shape, z, storage.stats);
    if (!column.inside) return;
    const Sample sample = sample_of(target, column.index);
    const Slope<C> slope = slope_of(target, gradient, sample, column.index, soft_sum[0], all.sum);
    for_column_rows<kTall>(shape.n, [&](std::int64_t c) {
      const std::int64_t at = c * shape.inner;
      const C e = exp_of(to_compute(z[at]) - all.max);
      dx[column.offset + at] =
          from_compute<T>(gradient_of(target, slope, e, c == sample.y, c, column.offset + at));
    });
  });
}

// ---- nll_loss -------------------------------------------------------------------------------------

constexpr int kNllThreads = 256, kNllBlocks = 8;
template <class F>
__device__ __forceinline__ void for_nll(std::int64_t n, const F& f) {
  const std::int64_t step = std::int64_t{gridDim.x} * kNllThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kNllThreads + threadIdx.x; i < n; i += step) {
    f(i);
  }
}
Grid nll_grid(std::int64_t n) {
  return {persistent_blocks(ceil_div(n, kNllThreads), kNllBlocks), kNllThreads};
}

template <class T>
__global__ void __launch_bounds__(kNllThreads) nll_loss_kernel(Target<T> target, Losses<T> losses) {
  using C = Compute<T>;
  const SoftmaxShape shape = target.loss.shape;
  for_nll(shape.outer * shape.inner, [&](std::int64_t i) {
    const Sample s = sample_of(target, i);
    if (s.kind == Kind::kWrong) return losses.set(i, C(__builtin_nan("")));
    const C w = s.kind == Kind::kIndex ? target.weight(s.y) : C(0);
    if (w == C(0)) return losses.set(i, C(0));
    const std::int64_t at = i / shape.inner * shape.n * shape.inner + i % shape.inner;
    losses.set(i, -(w * to_compute(target.loss.logits[at + s.y * shape.inner])));
  });
}

// Every element of dx; all but one of a sample are 0.
template <class T>
__global__ void __launch_bounds__(kNllThreads)
    nll_loss_backward_kernel(Target<T> target, LossGradient<T> gradient, T* dx) {
  using C = Compute<T>;
  const SoftmaxShape shape = target.loss.shape;
  for_nll(shape.outer * shape.n * shape.inner, [&](std::int64_t i) {
    const std::int64_t row = i / shape.inner;
    const std::int64_t sample = row / shape.n * shape.inner + i % shape.inner;
    const Sample s = sample_of(target, sample);
    C d = s.kind == Kind::kWrong ? C(__builtin_nan("")) : C(0);
    if (s.kind == Kind::kIndex && row % shape.n == s.y) {
      const C w = target.weight(s.y);
      // A sample that counts for nothing has gradient 0 even where g is NaN.
      if (w != C(0)) d = -(w * gradient.of(sample));
    }
    dx[i] = from_compute<T>(d);
  });
}

// ---- sums over samples and over classes, in double ------------------------------------------------

constexpr int kSumThreads = 512;
constexpr std::int64_t kSumChunk = 32768;  // samples of a block

using SumReduction = RowReduction<kSumThreads, double, 2>;

// What a mean or a sum is made of.
template <class T>
struct Finish {
  T* out;           // the reduced loss, or
  double* divisor;  // what gradients are divided by

  __device__ __forceinline__ void set(const LossProblem<T>& loss, double total,
                                      double weights) const {
    const bool soft = loss.probabilities != nullptr;
    const double count = static_cast<double>(loss.shape.outer * loss.shape.inner);
    const double by = soft ? count : weights;
    if (divisor != nullptr) *divisor = by;
    if (out != nullptr) {
      *out = from_compute<T>(
          static_cast<Compute<T>>(loss.reduction == Reduction::kMean ? total / by : total));
    }
  }
};

// (sum of losses, sum of the weights of targets) of a chunk of samples. One block finishes.
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    loss_sum_kernel(Target<T> target, std::int64_t samples, const Compute<T>* losses,
                    double* partial, Finish<T> finish) {
  SumReduction reduce(shared_storage<SumReduction::Storage>());
  const std::int64_t chunks = ceil_div(samples, kSumChunk);
  for (std::int64_t chunk = blockIdx.x; chunk < max_i(1, chunks); chunk += gridDim.x) {
    double sums[2] = {0, 0};
    const std::int64_t end = min_i(samples, (chunk + 1) * kSumChunk);
#pragma unroll 4
    for (std::int64_t i = chunk * kSumChunk + threadIdx.x; i < end; i += kSumThreads) {
      if (losses != nullptr) sums[0] += static_cast<double>(losses[i]);
      const Sample s = sample_of(target, i);
      if (s.kind == Kind::kIndex) sums[1] += static_cast<double>(target.weight(s.y));
    }
    reduce(sums, AddAll{});
    if (threadIdx.x != 0) continue;
    if (chunks <= 1) {
      finish.set(target.loss, sums[0], sums[1]);
    } else {
      partial[2 * chunk] = sums[0];
      partial[2 * chunk + 1] = sums[1];
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kSumThreads)
    loss_sum_finish_kernel(LossProblem<T> loss, std::int64_t chunks, const double* partial,
                           Finish<T> finish) {
  SumReduction reduce(shared_storage<SumReduction::Storage>());
  double sums[2] = {0, 0};
  for (std::int64_t i = threadIdx.x; i < chunks; i += kSumThreads) {
    sums[0] += partial[2 * i];
    sums[1] += partial[2 * i + 1];
  }
  reduce(sums, AddAll{});
  if (threadIdx.x == 0) finish.set(loss, sums[0], sums[1]);
}

template <class T>
__global__ void __launch_bounds__(kSumThreads)
    weight_sum_kernel(const T* weight, std::int64_t n, double* sum) {
  SumReduction reduce(shared_storage<SumReduction::Storage>());
  double sums[2] = {0, 0};
  for (std::int64_t c = threadIdx.x; c < n; c += kSumThreads) {
    sums[0] += weight != nullptr ? static_cast<double>(to_compute(weight[c])) : 1.0;
  }
  reduce(sums, AddAll{});
  if (threadIdx.x == 0) *sum = sums[0];
}

template <class T>
void sum_losses(const Target<T>& target, const Compute<T>* losses, const Finish<T>& finish) {
  const std::int64_t samples = target.loss.samples(), chunks = ceil_div(samples, kSumChunk);
  double* partial = scratch<double>(chunks > 1 ? 2 * chunks : 0);
  const Grid grid{persistent_blocks(max_i(1, chunks), 2), kSumThreads};
  ARRAYNN_LAUNCH((loss_sum_kernel<T>), grid, target, samples, losses, partial, finish);
  if (chunks <= 1) return;
  const Grid one{1, kSumThreads};
  ARRAYNN_LAUNCH((loss_sum_finish_kernel<T>), one, target.loss, chunks, partial, finish);
}

template <class T>
std::int64_t row_bytes(const LossProblem<T>& loss) {
  return loss.shape.n * static_cast<std::int64_t>(sizeof(T)) *
         (loss.probabilities != nullptr ? 2 : 1);
}

// A warp a row. In a namespace: the host code that nvcc writes does not know aliases of a function.
template <class T>
using WarpRow = RowTile<T, 1, kWarp, 1, false>;

template <class T>
void per_sample(const Target<T>& target, const Losses<T>& losses) {
  const LossProblem<T>& loss = target.loss;
  const std::int64_t n = loss.shape.n, rows = loss.shape.outer;
  if (loss.samples() == 0) return;
  if (loss.shape.inner != 1) {
    with_columns(loss.shape, [&](auto tall) {
      const Grid grid = column_grid<Compute<T>, tall()>(loss.shape);
      ARRAYNN_LAUNCH((cross_entropy_columns_kernel<T, tall()>), grid, target, losses);
    });
    return;
  }
  with_tile<T, kRowItems<T> / 2>(n, [&](auto tag) {
    using Tile = decltype(tag);
    if (n <= Tile::kCapacity) {
      ARRAYNN_LAUNCH((cross_entropy_kernel<Tile>), row_grid<Tile>(rows), target, losses);
      return;
    }
    if constexpr (Tile::kLargest) {
      if (const int blocks = cluster_for<Tile>(n); blocks != 0) {
        ARRAYNN_LAUNCH((cross_entropy_kernel<typename Tile::Clustered>),
                       cluster_grid<Tile>(rows, blocks), target, losses);
        return;
      }
      const std::int64_t count = chunks_of<Tile>(n);
      auto* stats = scratch<SoftmaxStats<Compute<T>>>(rows * count);
      const bool dense = loss.probabilities != nullptr || loss.smoothing != 0;
      auto* sums = dense ? scratch<Compute<T>>(rows * count) : nullptr;
      const auto slab = [&](std::int64_t first, std::int64_t some) {
        const Grid grid = row_grid<Tile>(some * count);
        const std::int64_t at = first * count;
        ARRAYNN_LAUNCH((softmax_stats_kernel<Tile>), grid, some, n, loss.logits + first * n,
                       stats + at);
        if (!dense) return;
        ARRAYNN_LAUNCH((cross_entropy_dense_kernel<Tile, false>), grid, target, first, some,
                       stats + at, sums + at);
      };
      if (dense) {
        for_slabs(rows, row_bytes(loss), slab);
      } else {
        slab(0, rows);
      }
      ARRAYNN_LAUNCH((cross_entropy_finish_kernel<WarpRow<T>>), row_grid<WarpRow<T>>(rows), target,
                     count, stats, sums, losses);
    }
  });
}

template <class T>
void gradients(const Target<T>& target, const LossGradient<T>& gradient, T* dx) {
  const LossProblem<T>& loss = target.loss;
  const std::int64_t n = loss.shape.n, rows = loss.shape.outer;
  if (loss.shape.inner != 1) {
    with_columns(loss.shape, [&](auto tall) {
      const Grid grid = column_grid<Compute<T>, tall()>(loss.shape);
      ARRAYNN_LAUNCH((cross_entropy_columns_backward_kernel<T, tall()>), grid, target, gradient,
                     dx);
    });
    return;
  }
  with_tile<T, kRowItems<T> / 2>(n, [&](auto tag) {
    using Tile = decltype(tag);
    if (n <= Tile::kCapacity) {
      ARRAYNN_LAUNCH((cross_entropy_backward_kernel<Tile>), row_grid<Tile>(rows), target, gradient,
                     dx);
      return;
    }
    if constexpr (Tile::kLargest) {
      if (const int blocks = cluster_for<Tile>(n); blocks != 0) {
        ARRAYNN_LAUNCH((cross_entropy_backward_kernel<typename Tile::Clustered>),
                       cluster_grid<Tile>(rows, blocks), target, gradient, dx);
        return;
      }
      const std::int64_t count = chunks_of<Tile>(n);
      auto* stats = scratch<SoftmaxStats<Compute<T>>>(rows * count);
      auto* sums = loss.probabilities != nullptr ? scratch<Compute<T>>(rows * count) : nullptr;
      for_slabs(rows, row_bytes(loss), [&](std::int64_t first, std::int64_t some) {
        const Grid grid = row_grid<Tile>(some * count);
        const std::int64_t at = first * count;
        ARRAYNN_LAUNCH((softmax_stats_kernel<Tile>), grid, some, n, loss.logits + first * n,
                       stats + at);
        if (sums != nullptr) {
          ARRAYNN_LAUNCH((cross_entropy_dense_kernel<Tile, true>), grid, target, first, some,
                         stats + at, sums + at);
        }
        ARRAYNN_LAUNCH((cross_entropy_backward_finish_kernel<Tile>), grid, target, gradient, first,
                       some, stats + at, sums + at, dx);
      });
    }
  });
}

}  // namespace

template <class T>
void cross_entropy(const LossProblem<T>& loss, T* out) {
  const Target<T> target{loss, nullptr};
  if (loss.reduction == Reduction::kNone) return per_sample(target, {out, nullptr});
  auto* losses = scratch<Compute<T>>(loss.samples());
  per_sample(target, {nullptr, losses});
  sum_losses(target, losses, {out, nullptr});
}

template <class T>
void cross_entropy_backward(const LossProblem<T>& loss, const T* grad_out, double scale, T* dx) {
  if (loss.samples() == 0) return;
  Target<T> target{loss, nullptr};
  const bool none = loss.reduction == Reduction::kNone;
  LossGradient<T> gradient{grad_out, !none, scale, nullptr};
  if (loss.reduction == Reduction::kMean) {
    double* divisor = scratch<double>(1);
    sum_losses<T>(target, nullptr, {nullptr, divisor});
    gradient.divisor = divisor;
  }
  if (loss.probabilities == nullptr && loss.smoothing != 0) {
    double* sum = scratch<double>(1);
    const Grid one{1, kSumThreads};
    ARRAYNN_LAUNCH((weight_sum_kernel<T>), one, loss.weight, loss.shape.n, sum);
    target.weight_sum = sum;
  }
  gradients(target, gradient, dx);
}

template <class T>
void nll_loss(const LossProblem<T>& loss, T* out) {
  const Target<T> target{loss, nullptr};
  const bool none = loss.reduction == Reduction::kNone;
  auto* losses = none ? nullptr : scratch<Compute<T>>(loss.samples());
  const Losses<T> to{none ? out : nullptr, losses};
  ARRAYNN_LAUNCH((nll_loss_kernel<T>), nll_grid(loss.samples()), target, to);
  if (!none) sum_losses(target, losses, {out, nullptr});
}

template <class T>
void nll_loss_backward(const LossProblem<T>& loss, const T* grad_out, double scale, T* dx) {
  if (loss.samples() == 0) return;
  const Target<T> target{loss, nullptr};
  LossGradient<T> gradient{grad_out, loss.reduction != Reduction::kNone, scale, nullptr};
  if (loss.reduction == Reduction::kMean) {
    double* divisor = scratch<double>(1);
    sum_losses<T>(target, nullptr, {nullptr, divisor});
    gradient.divisor = divisor;
  }
  const Grid grid = nll_grid(loss.samples() * loss.shape.n);
  ARRAYNN_LAUNCH((nll_loss_backward_kernel<T>), grid, target, gradient, dx);
}

#define ARRAYNN_INSTANTIATE(T)                                                          \
  template void cross_entropy<T>(const LossProblem<T>&, T*);                            \
  template void cross_entropy_backward<T>(const LossProblem<T>&, const T*, double, T*); \
  template void nll_loss<T>(const LossProblem<T>&, T*);                                 \
  template void nll_loss_backward<T>(const LossProblem<T>&, const T*, double, T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace cuda
}  // namespace arraynn
