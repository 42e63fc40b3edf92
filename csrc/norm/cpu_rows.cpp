// layer_norm and rms_norm: a row is normalised while it is in cache; weights are vectors along it.
#include "norm/loops.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

struct RowStats {
  double mean, var;
};

template <class S>
ARRAYNN_INLINE RowStats row_stats(const RowNorm& p, const S* x) {
  using T = Compute<S>;
  const double count = static_cast<double>(p.n);
  if (!p.centred) {
    double total = 0;
    for (std::int64_t i = 0; i < p.n; i += kNormBlock) {
      const std::int64_t length = min_i(kNormBlock, p.n - i);
      const auto square = [&](std::int64_t j, std::int64_t lanes, Vec<T>& a, Vec<T>&)
                              __attribute__((always_inline)) {
                                const Vec<T> v = load_lanes(x + i + j, lanes);
                                a = fma(v, v, a);
                              };
      const TwoSums<T> sums = sum_runs<T>(1, length, length, square);
      total += static_cast<double>(sums.a);
    }
    return {0, total / count};
  }
  Moments all = moments_of_block(x, min_i(kNormBlock, p.n));
  for (std::int64_t i = kNormBlock; i < p.n; i += kNormBlock) {
    const std::int64_t length = min_i(kNormBlock, p.n - i);
    const double before = static_cast<double>(i), more = static_cast<double>(length);
    all = merge_moments(all, before, moments_of_block(x + i, length), more);
  }
  return {all.mean, all.m2 / count};
}

template <bool kWeight, bool kBias, class S, class T>
ARRAYNN_INLINE void apply_row(const RowNorm& p, const S* x, const T* w, const T* b, S* y, T m,
                              T scale, T shift) {
  using V = Vec<T>;
  const V mv = V::set1(m), sv = V::set1(scale), tv = V::set1(shift);
  const V low = floor_of<T>(p.activation);
  // The statistics of layer_norm have fetched the next row in their second sweep.
  const bool fetch = !p.centred;
  write_run(y, p.n, p.stream,
            [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
              if (fetch) __builtin_prefetch(x + p.n + i);
              V v = fma(load_lanes(x + i, lanes) - mv, sv, tv);
              if constexpr (kWeight && kBias) {
                v = fma(v, load_lanes(w + i, lanes), load_lanes(b + i, lanes));
              } else if constexpr (kWeight) {
                v = v * load_lanes(w + i, lanes);
              } else if constexpr (kBias) {
                v = v + load_lanes(b + i, lanes);
              }
              return max(low, v);
            });
  activate_run(y, p.n, p.activation);
}

template <class S>
void forward(const RowNorm& p, const S* x, const Compute<S>* w, const Compute<S>* b, S* y,
             double* mean, double* rstd, std::int64_t begin, std::int64_t end) {
  using T = Compute<S>;
  for (std::int64_t r = begin; r < end; ++r) {
    const S* row = x + r * p.n;
    const RowStats stats = row_stats(p, row);
    const double scale = 1.0 / __builtin_sqrt(stats.var + p.eps);
    if (mean != nullptr) mean[r] = stats.mean;
    if (rstd != nullptr) rstd[r] = scale;
    if (y == nullptr) continue;
    S* to = y + r * p.n;
    const T m = static_cast<T>(stats.mean), s = static_cast<T>(scale);
    const T shift = static_cast<T>((static_cast<double>(m) - stats.mean) * scale);
    if (w != nullptr && b != nullptr) {
      apply_row<true, true>(p, row, w, b, to, m, s, shift);
    } else if (w != nullptr) {
      apply_row<true, false>(p, row, w, b, to, m, s, shift);
    } else if (b != nullptr) {
      apply_row<false, true>(p, row, w, b, to, m, s, shift);
    } else {
      apply_row<false, false>(p, row, w, b, to, m, s, shift);
    }
  }
}

// One row of a backward: pointers at its beginning.
template <class S>
struct Row {
  using T = Compute<S>;
  const S *dy, *x;
  const T* w;
  T m, scale, shift;  // xhat = (x - m) scale + shift

  [[gnu::always_inline]] inline Vec<T> normalised(std::int64_t i, std::int64_t lanes) const {
    const Vec<T> d = load_lanes(x + i, lanes) - Vec<T>::set1(m);
    return fma(d, Vec<T>::set1(scale), Vec<T>::set1(shift));
  }
};

// sum g and sum g xhat of kRows rows, in one chain each, so that four rows stay in registers; dw and
// db are added to on the way, row by row.
template <bool kWeight, bool kGradients, int kRows, class S>
ARRAYNN_INLINE void sweep_rows(const Row<S>* rows, std::int64_t n, Compute<S>* dw, Compute<S>* db,
                               GradientSums* all) {
  using T = Compute<S>;
  using V = Vec<T>;
  for (int r = 0; r < kRows; ++r) all[r] = {0, 0};
  for (std::int64_t first = 0; first < n; first += kNormBlock) {
    V sum[kRows], product[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = product[r] = V::zero();
    const auto step = [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
      V by_weight = V::zero(), by_bias = V::zero(), w = V::zero();
      if constexpr (kGradients) {
        if (dw != nullptr) by_weight = load_lanes(dw + i, lanes);
        if (db != nullptr) by_bias = load_lanes(db + i, lanes);
      }
      if constexpr (kWeight) w = load_lanes(rows[0].w + i, lanes);
      ARRAYNN_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const V dy = load_lanes(rows[r].dy + i, lanes), xhat = rows[r].normalised(i, lanes);
        by_weight = fma(dy, xhat, by_weight);
        by_bias = by_bias + dy;
        // Lanes beyond the end have dy = 0.
        const V g = kWeight ? dy * w : dy;
        sum[r] = sum[r] + g;
        product[r] = fma(g, xhat, product[r]);
      }
      if constexpr (kGradients) {
        if (dw != nullptr) store_lanes(by_weight, dw + i, lanes);
        if (db != nullptr) store_lanes(by_bias, db + i, lanes);
      }
    };
    const std::int64_t end = min_i(n, first + kNormBlock);
    std::int64_t i = first;
    for (; i + kLanes<T> <= end; i += kLanes<T>) step(i, kLanes<T>);
    if (i < end) step(i, end - i);
    for (int r = 0; r < kRows; ++r) {
      all[r].dy += static_cast<double>(reduce_add(sum[r]));
      all[r].product += static_cast<double>(reduce_add(product[r]));
    }
  }
}

// dx = a w dy + b (x - m) + c. The row `ahead` elements further on is fetched into L2: rows that pass
// together begin apart, where no stream of the hardware's prefetching leads.
template <bool kWeight, class S, class T>
ARRAYNN_INLINE void finish_row(const Row<S>& row, std::int64_t n, T a, T b, T c, S* dx,
                               std::int64_t ahead, bool stream) {
  using V = Vec<T>;
  const V av = V::set1(a), bv = V::set1(b), cv = V::set1(c), mv = V::set1(row.m);
  write_run(dx, n, stream, [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
    __builtin_prefetch(row.dy + ahead + i, 0, 2);
    __builtin_prefetch(row.x + ahead + i, 0, 2);
    const V dy = load_lanes(row.dy + i, lanes);
    const V g = kWeight ? dy * load_lanes(row.w + i, lanes) : dy;
    const V shifted = fma(load_lanes(row.x + i, lanes) - mv, bv, cv);
    return fma(g, av, shifted);
  });
}

// Rows whose gradients by weight and bias are added together: those are then read and written once
// for all of them. Their sums and constants have to stay in registers.
inline constexpr int kRowsAtOnce = kVecBytes == 64 ? 4 : 2;
// Bytes of x and dy that are read again for dx: half of a small L2.
inline constexpr std::int64_t kRowsBytes = std::int64_t{256} << 10;

template <bool kWeight, int kRows, class S, class T>
ARRAYNN_INLINE void backward_of_rows(const RowNorm& p, const S* dy, const S* x, const T* w,
                                     const double* mean, const double* rstd, S* dx, T* dw, T* db,
                                     std::int64_t first) {
  const double count = static_cast<double>(p.n);
  Row<S> rows[kRows];
  GradientSums sums[kRows];
  for (int i = 0; i < kRows; ++i) {
    const std::int64_t r = first + i;
    const double centre = p.centred ? mean[r] : 0.0, scale = rstd[r];
    const T m = static_cast<T>(centre);
    const double rest = static_cast<double>(m) - centre;
    rows[i] = {
        dy + r * p.n, x + r * p.n, w, m, static_cast<T>(scale), static_cast<T>(rest * scale)};
  }
  if (dw != nullptr || db != nullptr) {
    sweep_rows<kWeight, true, kRows>(rows, p.n, dw, db, sums);
  } else {
    sweep_rows<kWeight, false, kRows>(rows, p.n, dw, db, sums);
  }
  if (dx == nullptr) return;
  for (int i = 0; i < kRows; ++i) {
    const std::int64_t r = first + i;
    const double scale = rstd[r], b = -scale * scale * (sums[i].product / count);
    const double rest = static_cast<double>(rows[i].m) - (p.centred ? mean[r] : 0.0);
    const double c = b * rest - (p.centred ? scale * (sums[i].dy / count) : 0.0);
    finish_row<kWeight>(rows[i], p.n, static_cast<T>(scale), static_cast<T>(b), static_cast<T>(c),
                        dx + r * p.n, kRows * p.n, p.stream);
  }
}

template <bool kWeight, class S, class T>
ARRAYNN_INLINE void backward_rows(const RowNorm& p, const S* dy, const S* x, const T* w,
                                  const double* mean, const double* rstd, S* dx, T* dw, T* db,
                                  std::int64_t begin, std::int64_t end) {
  const std::int64_t together = 2 * kRowsAtOnce * p.n * static_cast<std::int64_t>(sizeof(T));
  std::int64_t r = begin;
  for (; together <= kRowsBytes && r + kRowsAtOnce <= end; r += kRowsAtOnce) {
    backward_of_rows<kWeight, kRowsAtOnce>(p, dy, x, w, mean, rstd, dx, dw, db, r);
  }
  for (; r < end; ++r) backward_of_rows<kWeight, 1>(p, dy, x, w, mean, rstd, dx, dw, db, r);
}

template <class S>
void backward(const RowNorm& p, const S* dy, const S* x, const Compute<S>* w, const double* mean,
              const double* rstd, S* dx, Compute<S>* dw, Compute<S>* db, std::int64_t begin,
              std::int64_t end) {
  if (w != nullptr) {
    backward_rows<true>(p, dy, x, w, mean, rstd, dx, dw, db, begin, end);
  } else {
    backward_rows<false>(p, dy, x, w, mean, rstd, dx, dw, db, begin, end);
  }
}

template <class T>
constexpr NormRowTable<T> table() {
  return {&forward<T>, &backward<T>};
}

}  // namespace

extern const StorageKernels<NormRowTable> norm_row_kernels = {table<float>(), table<double>(),
                                                              table<Half>(), table<Bfloat16>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
