// layer_norm and rms_norm: a row is normalised while it is in cache; weights are vectors along it.
#include "norm/loops.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

struct RowStats {
  double mean, var;
};

template <class T>
ARRAYNN_INLINE RowStats row_stats(const RowNorm& p, const T* x) {
  const double count = static_cast<double>(p.n);
  if (!p.centred) {
    double total = 0;
    for (std::int64_t i = 0; i < p.n; i += kNormBlock) {
      T sum[1];
      sum_run<1>(min_i(kNormBlock, p.n - i), sum,
                 [&](std::int64_t j, std::int64_t lanes, Vec<T>* s) __attribute__((always_inline)) {
                   const Vec<T> v = load_part(x + i + j, lanes);
                   s[0] = fma(v, v, s[0]);
                 });
      total += static_cast<double>(sum[0]);
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

template <bool kWeight, bool kBias, class T>
ARRAYNN_INLINE void apply_row(const RowNorm& p, const T* x, const T* w, const T* b, T* y, T m,
                              T scale, T shift) {
  using V = Vec<T>;
  const V mv = V::set1(m), sv = V::set1(scale), tv = V::set1(shift);
  const V low = floor_of<T>(p.activation);
  for_run<T>(p.n, [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
    V v = fma(load_part(x + i, lanes) - mv, sv, tv);
    if constexpr (kWeight && kBias) {
      v = fma(v, load_part(w + i, lanes), load_part(b + i, lanes));
    } else if constexpr (kWeight) {
      v = v * load_part(w + i, lanes);
    } else if constexpr (kBias) {
      v = v + load_part(b + i, lanes);
    }
    store_part(max(low, v), y + i, lanes);
  });
  activate_run(y, p.n, p.activation);
}

template <class T>
void forward(const RowNorm& p, const T* x, const T* w, const T* b, T* y, double* mean, double* rstd,
             std::int64_t begin, std::int64_t end) {
  for (std::int64_t r = begin; r < end; ++r) {
    const T* row = x + r * p.n;
    const RowStats stats = row_stats(p, row);
    const double scale = 1.0 / __builtin_sqrt(stats.var + p.eps);
    if (mean != nullptr) mean[r] = stats.mean;
    if (rstd != nullptr) rstd[r] = scale;
    if (y == nullptr) continue;
    T* to = y + r * p.n;
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
template <class T>
struct Row {
  const T *dy, *x, *w;
  T m, scale, shift;  // xhat = (x - m) scale + shift

  [[gnu::always_inline]] inline Vec<T> normalised(std::int64_t i, std::int64_t lanes) const {
    const Vec<T> d = load_part(x + i, lanes) - Vec<T>::set1(m);
    return fma(d, Vec<T>::set1(scale), Vec<T>::set1(shift));
  }
};

// sum g and sum g xhat; dw and db are added to on the way.
template <bool kWeight, bool kGradients, class T>
ARRAYNN_INLINE GradientSums sweep_row(const Row<T>& row, std::int64_t n, T* dw, T* db) {
  using V = Vec<T>;
  GradientSums all{0, 0};
  for (std::int64_t first = 0; first < n; first += kNormBlock) {
    T totals[2];
    sum_run<2>(min_i(kNormBlock, n - first), totals,
               [&](std::int64_t at, std::int64_t lanes, V* s) __attribute__((always_inline)) {
                 const std::int64_t i = first + at;
                 const V dy = load_part(row.dy + i, lanes), xhat = row.normalised(i, lanes);
                 if constexpr (kGradients) {
                   if (dw != nullptr) {
                     store_part(fma(dy, xhat, load_part(dw + i, lanes)), dw + i, lanes);
                   }
                   if (db != nullptr) store_part(load_part(db + i, lanes) + dy, db + i, lanes);
                 }
                 // Lanes beyond the end have dy = 0.
                 const V g = kWeight ? dy * load_part(row.w + i, lanes) : dy;
                 s[0] = s[0] + g;
                 s[1] = fma(g, xhat, s[1]);
               });
    all.dy += static_cast<double>(totals[0]);
    all.product += static_cast<double>(totals[1]);
  }
  return all;
}

// dx = a w dy + b (x - m) + c.
template <bool kWeight, class T>
ARRAYNN_INLINE void finish_row(const Row<T>& row, std::int64_t n, T a, T b, T c, T* dx) {
  using V = Vec<T>;
  const V av = V::set1(a), bv = V::set1(b), cv = V::set1(c), mv = V::set1(row.m);
  for_run<T>(n, [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
    const V dy = load_part(row.dy + i, lanes);
    const V g = kWeight ? dy * load_part(row.w + i, lanes) : dy;
    const V shifted = fma(load_part(row.x + i, lanes) - mv, bv, cv);
    store_part(fma(g, av, shifted), dx + i, lanes);
  });
}

template <bool kWeight, class T>
ARRAYNN_INLINE void backward_rows(const RowNorm& p, const T* dy, const T* x, const T* w,
                                  const double* mean, const double* rstd, T* dx, T* dw, T* db,
                                  std::int64_t begin, std::int64_t end) {
  const double count = static_cast<double>(p.n);
  for (std::int64_t r = begin; r < end; ++r) {
    const double centre = p.centred ? mean[r] : 0.0, scale = rstd[r];
    const T m = static_cast<T>(centre);
    const double rest = static_cast<double>(m) - centre;
    const Row<T> row{
        dy + r * p.n, x + r * p.n, w, m, static_cast<T>(scale), static_cast<T>(rest * scale)};
    const GradientSums sums = dw != nullptr || db != nullptr
                                  ? sweep_row<kWeight, true>(row, p.n, dw, db)
                                  : sweep_row<kWeight, false>(row, p.n, dw, db);
    if (dx == nullptr) continue;
    const double b = -scale * scale * (sums.product / count);
    const double c = b * rest - (p.centred ? scale * (sums.dy / count) : 0.0);
    finish_row<kWeight>(row, p.n, static_cast<T>(scale), static_cast<T>(b), static_cast<T>(c),
                        dx + r * p.n);
  }
}

template <class T>
void backward(const RowNorm& p, const T* dy, const T* x, const T* w, const double* mean,
              const double* rstd, T* dx, T* dw, T* db, std::int64_t begin, std::int64_t end) {
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

extern const NormKernels<NormRowTable> norm_row_kernels = {table<float>(), table<double>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
