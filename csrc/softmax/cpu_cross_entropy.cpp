#include "softmax/classes.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// The parts of the smoothed target that do not depend on the sample.
template <class T>
struct Target {
  T keep, uniform;  // 1 - eps and eps / C
  const T* weight;

  template <class S>
  ARRAYNN_INLINE Target of(const CrossEntropy<S>& p) {
    return {static_cast<T>(1.0 - p.smoothing),
            static_cast<T>(p.smoothing / static_cast<double>(p.shape.n)), p.weight};
  }
  [[gnu::always_inline]] inline T weight_of(std::int64_t c) const {
    return weight != nullptr ? weight[c] : T(1);
  }
};

// T_c of probabilities t.
template <class T>
ARRAYNN_INLINE Vec<T> soft_target(const Target<T>& target, Vec<T> t, Vec<T> w) {
  return w * fma(t, Vec<T>::set1(target.keep), Vec<T>::set1(target.uniform));
}

// T (log s - shifted), where a T of 0 counts for nothing even against an infinite logarithm.
template <class T>
ARRAYNN_INLINE Vec<T> loss_terms(Vec<T> t, Vec<T> log_sum, Vec<T> shifted) {
  return select(t == Vec<T>::zero(), Vec<T>::zero(), t * (log_sum - shifted));
}

// T_c at lanes of a row: of probabilities, or the uniform part of a class index.
template <class S, class T>
ARRAYNN_INLINE Vec<T> row_target(const Target<T>& target, const S* t, std::int64_t i,
                                 std::int64_t lanes) {
  const Vec<T> w =
      target.weight != nullptr ? load_lanes(target.weight + i, lanes) : Vec<T>::set1(T(1));
  return t != nullptr ? soft_target(target, load_lanes(t + i, lanes), w)
                      : w * Vec<T>::set1(target.uniform);
}

// sum_c T_c (log s - (z_c - m)) over the dense part of the target.
template <class S, class T>
ARRAYNN_INLINE T dense_loss(const Target<T>& target, const S* z, const S* t, T m, T log_sum,
                            std::int64_t n) {
  using V = Vec<T>;
  return sum_row<T>(n, [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
    const V shifted = load_lanes(z + i, lanes) - V::set1(m);
    const V value = loss_terms(row_target(target, t, i, lanes), V::set1(log_sum), shifted);
    return lanes == kLanes<T> ? value : select(first_lanes<T>(lanes), value, V::zero());
  });
}

template <class S, class T>
ARRAYNN_INLINE T row_loss(const CrossEntropy<S>& p, const Target<T>& target, std::int64_t row) {
  const std::int64_t n = p.shape.n;
  const S* z = p.logits + row * n;
  if (p.probabilities != nullptr) {
    const SoftmaxStats<T> s = row_stats(z, n);
    return dense_loss(target, z, p.probabilities + row * n, s.max, log_of_sum(s.sum), n);
  }
  const std::int64_t y = p.target[row];
  if (y == p.ignore_index) return T(0);
  const SoftmaxStats<T> s = row_stats(z, n);
  const T log_sum = log_of_sum(s.sum);
  const T loss =
      product_or_zero(target.keep * target.weight_of(y), log_sum - (to_compute(z[y]) - s.max));
  if (p.smoothing == 0) return loss;
  return loss + dense_loss<S>(target, z, nullptr, s.max, log_sum, n);
}

// sum_c T_c of probabilities.
template <class S, class T>
ARRAYNN_INLINE T target_sum(const Target<T>& target, const S* t, std::int64_t n) {
  return sum_row<T>(n, [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
    const Vec<T> value = row_target(target, t, i, lanes);
    return lanes == kLanes<T> ? value : select(first_lanes<T>(lanes), value, Vec<T>::zero());
  });
}

// sum_c T_c of class index y.
template <class S, class T>
ARRAYNN_INLINE T target_sum(const CrossEntropy<S>& p, const Target<T>& target, std::int64_t y) {
  return target.keep * target.weight_of(y) +
         static_cast<T>(p.smoothing * p.weight_sum / static_cast<double>(p.shape.n));
}

// dx = exp(z - m) factor - g T, dense part; then the class of an index, which in 16 bits is formed
// again rather than rounded twice.
template <class S, class T>
ARRAYNN_INLINE void row_gradient(const CrossEntropy<S>& p, const Target<T>& target,
                                 std::int64_t row, T g, S* dx, T* buffer) {
  constexpr int kL = kLanes<T>;
  using V = Vec<T>;
  const std::int64_t n = p.shape.n;
  const S* z = p.logits + row * n;
  const S* t = p.probabilities != nullptr ? p.probabilities + row * n : nullptr;
  const std::int64_t y = t == nullptr ? p.target[row] : 0;
  if (t == nullptr && y == p.ignore_index) return fill_zero(dx, n);
  const T sum = t != nullptr ? target_sum(target, t, n) : target_sum(p, target, y);
  if (sum == T(0)) return fill_zero(dx, n);
  T* stored = room_for_row(dx, buffer, n);
  SoftmaxStats<T> s{};
  if (stored != nullptr) {
    s.max = row_max(z, n);
    s.sum = row_exp_sum<true>(z, s.max, stored, n);
  } else {
    s = row_stats(z, n);
  }
  const V factor = V::set1(g * (sum / s.sum)), m = V::set1(s.max), gv = V::set1(g);
  const bool dense = t != nullptr || p.smoothing != 0;
  for (std::int64_t i = 0; i < n; i += kL) {
    const std::int64_t lanes = min_i(kL, n - i);
    const V e =
        stored != nullptr ? load_lanes(stored + i, lanes) : exp(load_lanes(z + i, lanes) - m);
    V d = e * factor;
    if (dense) d = d - gv * row_target(target, t, i, lanes);
    store_lanes(d, dx + i, lanes);
  }
  if (t != nullptr) return;
  const T own = g * (target.keep * target.weight_of(y));
  if constexpr (sizeof(S) == 2) {
    T d = exp_scalar(to_compute(z[y]) - s.max) * factor.v[0];
    if (dense) d -= g * (target.weight_of(y) * target.uniform);
    dx[y] = from_compute<S>(d - own);
  } else {
    dx[y] -= own;
  }
}

template <class S, class T>
ARRAYNN_INLINE Vec<T> column_target(const Target<T>& target, const S* t, std::int64_t c,
                                    std::int64_t at, std::int64_t lanes) {
  const Vec<T> w = Vec<T>::set1(target.weight_of(c));
  return t != nullptr ? soft_target(target, load_lanes(t + at, lanes), w)
                      : w * Vec<T>::set1(target.uniform);
}

template <class S, class T>
void strip_loss(const CrossEntropy<S>& p, const Target<T>& target, const Strip& strip, T* losses) {
  using V = Vec<T>;
  alignas(64) T max_of[kStrip], sum_of[kStrip], loss_of[kStrip];
  const std::int64_t n = p.shape.n, inner = p.shape.inner;
  const S* z = p.logits + strip.offset;
  const S* t = p.probabilities != nullptr ? p.probabilities + strip.offset : nullptr;
  strip_stats(z, n, inner, strip.width, max_of, sum_of);
  for_vectors<T>(strip.width, [&](std::int64_t j, std::int64_t) __attribute__((always_inline)) {
    log_of_sum(V::load(sum_of + j)).store(sum_of + j);
    V::zero().store(loss_of + j);
  });
  if (t != nullptr || p.smoothing != 0) {
    for (std::int64_t c = 0; c < n; ++c) {
      for_vectors<T>(
          strip.width, [&](std::int64_t j, std::int64_t lanes) __attribute__((always_inline)) {
            const std::int64_t at = c * inner + j;
            const V shifted = load_lanes(z + at, lanes) - V::load(max_of + j);
            const V terms =
                loss_terms(column_target(target, t, c, at, lanes), V::load(sum_of + j), shifted);
            (V::load(loss_of + j) + terms).store(loss_of + j);
          });
    }
  }
  for (std::int64_t j = 0; j < strip.width; ++j) {
    T loss = loss_of[j];
    if (t == nullptr) {
      const std::int64_t y = p.target[strip.sample + j];
      loss = y == p.ignore_index
                 ? T(0)
                 : loss + product_or_zero(target.keep * target.weight_of(y),
                                          sum_of[j] - (to_compute(z[y * inner + j]) - max_of[j]));
    }
    losses[strip.sample + j] = loss;
  }
}

template <class S, class T>
void strip_gradient(const CrossEntropy<S>& p, const Target<T>& target, const Strip& strip,
                    const T* g, T scale, S* dx) {
  using V = Vec<T>;
  alignas(64) T max_of[kStrip], sum_of[kStrip], g_of[kStrip], target_of[kStrip] = {};
  const std::int64_t n = p.shape.n, inner = p.shape.inner;
  const S* z = p.logits + strip.offset;
  const S* t = p.probabilities != nullptr ? p.probabilities + strip.offset : nullptr;
  dx += strip.offset;
  strip_stats(z, n, inner, strip.width, max_of, sum_of);
  if (t != nullptr) {
    for (std::int64_t c = 0; c < n; ++c) {
      for_vectors<T>(strip.width,
                     [&](std::int64_t j, std::int64_t lanes) __attribute__((always_inline)) {
                       const V part = column_target(target, t, c, c * inner + j, lanes);
                       (V::load(target_of + j) + part).store(target_of + j);
                     });
    }
  }
  fill_zero(g_of, kStrip);
  for (std::int64_t j = 0; j < strip.width; ++j) {
    const std::int64_t y = t == nullptr ? p.target[strip.sample + j] : 0;
    const bool ignored = t == nullptr && y == p.ignore_index;
    if (t == nullptr) target_of[j] = ignored ? T(0) : target_sum(p, target, y);
    // A sample without a target has gradient 0 even where a logit is infinite or g is NaN.
    const bool counts = target_of[j] != T(0);
    g_of[j] = counts ? (g != nullptr ? g[strip.sample + j] * scale : scale) : T(0);
    sum_of[j] = counts ? g_of[j] * (target_of[j] / sum_of[j]) : T(0);
  }
  const bool dense = t != nullptr || p.smoothing != 0;
  for (std::int64_t c = 0; c < n; ++c) {
    for_vectors<T>(
        strip.width, [&](std::int64_t j, std::int64_t lanes) __attribute__((always_inline)) {
          const std::int64_t at = c * inner + j;
          V d = exp(load_lanes(z + at, lanes) - V::load(max_of + j)) * V::load(sum_of + j);
          if (dense) d = d - V::load(g_of + j) * column_target(target, t, c, at, lanes);
          const V counted = V::load(target_of + j);
          store_lanes(select(counted == V::zero(), V::zero(), d), dx + at, lanes);
        });
  }
  if (t != nullptr) return;
  for (std::int64_t j = 0; j < strip.width; ++j) {
    const std::int64_t y = p.target[strip.sample + j];
    if (target_of[j] == T(0)) continue;
    const std::int64_t at = y * inner + j;
    const T own = g_of[j] * (target.keep * target.weight_of(y));
    if constexpr (sizeof(S) == 2) {
      T d = exp_scalar(to_compute(z[at]) - max_of[j]) * sum_of[j];
      if (dense) d -= g_of[j] * (target.weight_of(y) * target.uniform);
      dx[at] = from_compute<S>(d - own);
    } else {
      dx[at] -= own;
    }
  }
}

template <class S>
void forward(const CrossEntropy<S>& p, Compute<S>* losses, std::int64_t begin, std::int64_t end) {
  const auto target = Target<Compute<S>>::of(p);
  for (std::int64_t unit = begin; unit < end; ++unit) {
    if (p.shape.inner == 1) {
      losses[unit] = row_loss(p, target, unit);
    } else {
      strip_loss(p, target, strip_of(p, unit), losses);
    }
  }
}

template <class S>
void backward(const CrossEntropy<S>& p, const Compute<S>* g, Compute<S> scale, S* dx,
              std::int64_t begin, std::int64_t end) {
  using T = Compute<S>;
  const auto target = Target<T>::of(p);
  alignas(64) T buffer[kRowRoom<S>];
  for (std::int64_t unit = begin; unit < end; ++unit) {
    if (p.shape.inner == 1) {
      const T factor = g != nullptr ? g[unit] * scale : scale;
      row_gradient(p, target, unit, factor, dx + unit * p.shape.n, buffer);
    } else {
      strip_gradient(p, target, strip_of(p, unit), g, scale, dx);
    }
  }
}

}  // namespace

extern const CrossEntropyKernels cross_entropy_kernels = {
    {&forward<float>, &backward<float>},
    {&forward<double>, &backward<double>},
    {&forward<Half>, &backward<Half>},
    {&forward<Bfloat16>, &backward<Bfloat16>},
};

}  // namespace ARRAYNN_ISA_NAMESPACE
