// Channels first: runs of one channel, whose coefficients are scalars.
#include "norm/loops.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
Moments moments(const T* x, std::int64_t runs, std::int64_t n, std::int64_t stride) {
  return moments_of_runs(x, runs, n, stride);
}

template <class T>
void apply(const T* x, T* y, std::int64_t n, T m, T scale, T shift, const Activation& activation) {
  using V = Vec<T>;
  const V mv = V::set1(m), sv = V::set1(scale), tv = V::set1(shift);
  const V low = floor_of<T>(activation);
  for_run<T>(n, [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
    store_part(max(low, fma(load_part(x + i, lanes) - mv, sv, tv)), y + i, lanes);
  });
  activate_run(y, n, activation);
}

template <class T>
GradientSums sums(const T* dy, const T* x, std::int64_t runs, std::int64_t n, std::int64_t stride,
                  T m) {
  using V = Vec<T>;
  const V mv = V::set1(m);
  T totals[2];
  // Lanes beyond the end have dy = 0.
  sum_runs<2>(runs, n, stride, totals,
              [&](std::int64_t i, std::int64_t lanes, V* s) __attribute__((always_inline)) {
                const V g = load_part(dy + i, lanes);
                s[0] = s[0] + g;
                s[1] = fma(g, load_part(x + i, lanes) - mv, s[1]);
              });
  return {static_cast<double>(totals[0]), static_cast<double>(totals[1])};
}

template <class T>
void gradient(const T* dy, const T* x, T* dx, std::int64_t n, T m, T a, T b, T c) {
  using V = Vec<T>;
  const V mv = V::set1(m), av = V::set1(a), bv = V::set1(b), cv = V::set1(c);
  for_run<T>(n, [&](std::int64_t i, std::int64_t lanes) __attribute__((always_inline)) {
    const V shifted = fma(load_part(x + i, lanes) - mv, bv, cv);
    store_part(fma(load_part(dy + i, lanes), av, shifted), dx + i, lanes);
  });
}

// The three phases of a group of short planes without leaving it; their arithmetic is that of
// Backward in channel_backward.cpp, so that it cannot be seen in the bits who does it.
template <class T>
void group_gradient(const T* dy, const T* x, const T* w, T* dx, std::int64_t planes, std::int64_t n,
                    double mean, double rstd, GradientSums* of) {
  const T m = static_cast<T>(mean);
  const double rest = static_cast<double>(m) - mean, count = static_cast<double>(planes * n);
  GradientSums group{0, 0};
  for (std::int64_t c = 0; c < planes; ++c) {
    GradientSums s = sums(dy + c * n, x + c * n, 1, n, n, m);
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
    gradient(dy + c * n, x + c * n, dx + c * n, n, m, static_cast<T>(rstd * weight), bt, ct);
  }
}

template <class T>
constexpr NormBlockTable<T> table() {
  return {&moments<T>, &apply<T>, &sums<T>, &gradient<T>, &group_gradient<T>};
}

}  // namespace

extern const NormKernels<NormBlockTable> norm_block_kernels = {table<float>(), table<double>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
