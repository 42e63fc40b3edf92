// Channels first: runs of one channel, whose coefficients are scalars.
#include "norm/loops.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
Moments moments(const T* x, std::int64_t runs, std::int64_t n, std::int64_t stride) {
  return moments_of_runs(x, runs, n, stride);
}

// y = max(low, (x - m) scale + shift).
template <class S, class T>
ARRAYNN_INLINE void apply_plane(const S* x, S* y, std::int64_t n, T m, T scale, T shift, Vec<T> low,
                                bool stream) {
  using V = Vec<T>;
  const V mv = V::set1(m), sv = V::set1(scale), tv = V::set1(shift);
  write_run(y, n, stream, [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
    return max(low, fma(load_lanes(x + i, lanes) - mv, sv, tv));
  });
}

template <class S>
void apply(const S* x, S* y, std::int64_t planes, std::int64_t n, const Affine<Compute<S>>& k,
           const Activation& activation) {
  using T = Compute<S>;
  const Vec<T> low = floor_of<T>(activation);
  for (std::int64_t c = 0; c < planes; ++c) {
    apply_plane(x + c * n, y + c * n, n, k.m[c], k.scale[c], k.shift[c], low, k.stream);
  }
  activate_run(y, planes * n, activation);
}

// The three phases of a group in one block without leaving it. Returns mean and variance. The
// arithmetic is that of Forward in channel_forward.cpp, so that it cannot be seen in the bits.
template <class S>
Moments group(const S* x, const Compute<S>* w, const Compute<S>* b, S* y, std::int64_t planes,
              std::int64_t n, double eps, const Activation& activation, bool stream) {
  using T = Compute<S>;
  Moments all = moments_of_block(x, planes * n);
  all.m2 /= static_cast<double>(planes * n);
  if (y == nullptr) return all;
  const double rstd = 1.0 / __builtin_sqrt(all.m2 + eps);
  const T m = static_cast<T>(all.mean);
  const Vec<T> low = floor_of<T>(activation);
  for (std::int64_t c = 0; c < planes; ++c) {
    const double scale = rstd * (w != nullptr ? static_cast<double>(w[c]) : 1.0);
    const double shift = (b != nullptr ? static_cast<double>(b[c]) : 0.0) +
                         (static_cast<double>(m) - all.mean) * scale;
    apply_plane(x + c * n, y + c * n, n, m, static_cast<T>(scale), static_cast<T>(shift), low,
                stream);
  }
  activate_run(y, planes * n, activation);
  return all;
}

template <class S, class T>
ARRAYNN_INLINE GradientSums sums_of_runs(const S* dy, const S* x, std::int64_t runs, std::int64_t n,
                                         std::int64_t stride, T m) {
  using V = Vec<T>;
  const V mv = V::set1(m);
  // Lanes beyond the end have dy = 0.
  const TwoSums<T> totals = sum_runs<T>(runs, n, stride,
                                        [&](std::int64_t i, std::int64_t lanes, V& a, V& b)
                                            __attribute__((always_inline)) {
                                              const V g = load_lanes(dy + i, lanes);
                                              a = a + g;
                                              b = fma(g, load_lanes(x + i, lanes) - mv, b);
                                            });
  return {static_cast<double>(totals.a), static_cast<double>(totals.b)};
}
template <class S>
GradientSums sums(const S* dy, const S* x, std::int64_t runs, std::int64_t n, std::int64_t stride,
                  Compute<S> m) {
  return sums_of_runs(dy, x, runs, n, stride, m);
}

template <class S, class T>
ARRAYNN_INLINE void gradient_of_plane(const S* dy, const S* x, S* dx, std::int64_t n, T m, T a, T b,
                                      T c, bool stream) {
  using V = Vec<T>;
  const V mv = V::set1(m), av = V::set1(a), bv = V::set1(b), cv = V::set1(c);
  write_run(dx, n, stream, [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
    const V shifted = fma(load_lanes(x + i, lanes) - mv, bv, cv);
    return fma(load_lanes(dy + i, lanes), av, shifted);
  });
}

template <class S>
void gradient(const S* dy, const S* x, S* dx, std::int64_t planes, std::int64_t n,
              const Slope<Compute<S>>& k) {
  for (std::int64_t c = 0; c < planes; ++c) {
    const std::int64_t at = c * n;
    gradient_of_plane(dy + at, x + at, dx + at, n, k.m[c], k.a[c], k.b[c], k.c[c], k.stream);
  }
}

// The three phases of a group of short planes without leaving it; their arithmetic is that of
// Backward in channel_backward.cpp, so that it cannot be seen in the bits who does it.
template <class S>
void group_gradient(const S* dy, const S* x, const Compute<S>* w, S* dx, std::int64_t planes,
                    std::int64_t n, double mean, double rstd, GradientSums* of, bool stream) {
  using T = Compute<S>;
  const T m = static_cast<T>(mean);
  const double rest = static_cast<double>(m) - mean, count = static_cast<double>(planes * n);
  GradientSums group{0, 0};
  for (std::int64_t c = 0; c < planes; ++c) {
    GradientSums s = sums_of_runs(dy + c * n, x + c * n, 1, n, n, m);
    s.product = rstd * (s.product + rest * s.dy);
    of[c] = s;
    const double weight = w != nullptr ? static_cast<double>(w[c]) : 1.0;
    group.dy += weight * s.dy;
    group.product += weight * s.product;
  }
  if (dx == nullptr) return;
  const double b = -rstd * rstd * (group.product / count);
  const T bt = static_cast<T>(b), ct = static_cast<T>(b * rest - rstd * (group.dy / count));
  for (std::int64_t c = 0; c < planes; ++c) {
    const double weight = w != nullptr ? static_cast<double>(w[c]) : 1.0;
    gradient_of_plane(dy + c * n, x + c * n, dx + c * n, n, m, static_cast<T>(rstd * weight), bt,
                      ct, stream);
  }
}

template <class T>
constexpr NormBlockTable<T> table() {
  return {&moments<T>, &apply<T>, &sums<T>, &gradient<T>, &group<T>, &group_gradient<T>};
}

}  // namespace

extern const StorageKernels<NormBlockTable> norm_block_kernels = {table<float>(), table<double>(),
                                                                  table<Half>(), table<Bfloat16>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
