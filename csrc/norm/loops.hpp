// What the units of the norm family share: lanes of a run, sums in four chains, activations.
#pragma once
#include "norm/norm.hpp"
#include "simd/activation.hpp"
#include "simd/write.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Lanes [0, n).
template <class T>
ARRAYNN_INLINE Mask<T> part_mask(std::int64_t n) {
  typename Vec<T>::RawInt lane{};
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return {lane < static_cast<typename Vec<T>::Int>(n)};
}

// Two sums over `runs` runs of n elements, `stride` apart: f(i, lanes, a, b) adds to both. Four chains
// each. Lanes beyond `lanes` must add 0. The chains have names: GCC 12 keeps an array of them in memory.
template <class T>
struct TwoSums {
  T a, b;
};
template <class T, class F>
ARRAYNN_INLINE TwoSums<T> sum_runs(std::int64_t runs, std::int64_t n, std::int64_t stride,
                                   const F& f) {
  constexpr int kL = kLanes<T>;
  using V = Vec<T>;
  V a0 = V::zero(), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
  for (std::int64_t first = 0; first < runs * stride; first += stride) {
    const std::int64_t end = first + n;
    std::int64_t i = first;
    for (; i + 4 * kL <= end; i += 4 * kL) {
      f(i, std::int64_t{kL}, a0, b0);
      f(i + kL, std::int64_t{kL}, a1, b1);
      f(i + 2 * kL, std::int64_t{kL}, a2, b2);
      f(i + 3 * kL, std::int64_t{kL}, a3, b3);
    }
    if (i + 2 * kL <= end) {
      f(i, std::int64_t{kL}, a0, b0);
      f(i + kL, std::int64_t{kL}, a1, b1);
      i += 2 * kL;
    }
    if (i + kL <= end) {
      f(i, std::int64_t{kL}, a2, b2);
      i += kL;
    }
    if (i < end) f(i, end - i, a3, b3);
  }
  return {reduce_add((a0 + a1) + (a2 + a3)), reduce_add((b0 + b1) + (b2 + b3))};
}

// Moments of at most kNormBlock elements, at least one, in runs of n.
template <class S>
ARRAYNN_INLINE Moments moments_of_runs(const S* x, std::int64_t runs, std::int64_t n,
                                       std::int64_t stride) {
  using T = Compute<S>;
  using V = Vec<T>;
  const double inverse = 1.0 / static_cast<double>(runs * n);
  const auto add = [&](std::int64_t i, std::int64_t lanes, V& a, V&)
                       __attribute__((always_inline)) { a = a + load_lanes(x + i, lanes); };
  const T sum = sum_runs<T>(runs, n, stride, add).a;
  const T pivot = static_cast<T>(static_cast<double>(sum) * inverse);
  const V p = V::set1(pivot);
  const bool long_run = runs == 1;
  const auto spread = [&](std::int64_t i, std::int64_t lanes, V& a, V& b)
                          __attribute__((always_inline)) {
                            // What comes next is fetched while this one is in L1.
                            if (long_run) __builtin_prefetch(x + n + i);
                            V d = load_lanes(x + i, lanes) - p;
                            if (lanes != kLanes<T>) d = select(part_mask<T>(lanes), d, V::zero());
                            a = a + d;
                            b = fma(d, d, b);
                          };
  const TwoSums<T> sums = sum_runs<T>(runs, n, stride, spread);
  const double d = static_cast<double>(sums.a);
  const double m2 = static_cast<double>(sums.b) - d * (d * inverse);
  // Not max: NaN has to come through.
  return {static_cast<double>(pivot) + d * inverse, m2 < 0 ? 0.0 : m2};
}
template <class T>
ARRAYNN_INLINE Moments moments_of_block(const T* x, std::int64_t n) {
  return moments_of_runs(x, 1, n, n);
}

// y = f(y) over a run just stored; relu is applied before the store.
template <class S>
ARRAYNN_INLINE void activate_run(S* y, std::int64_t n, const Activation& activation) {
  if (activation.kind == ActivationKind::kNone || activation.kind == ActivationKind::kRelu) return;
  using T = Compute<S>;
  visit_activation<T>(activation, [&](const auto& f) __attribute__((always_inline)) {
    for (std::int64_t i = 0; i < n; i += kLanes<T>) {
      const std::int64_t lanes = min_i(kLanes<T>, n - i);
      store_lanes(f.forward(load_lanes(y + i, lanes)), y + i, lanes);
    }
  });
}

// v, or relu(v) with a floor of 0: max(-inf, v) is v, a NaN as well.
template <class T>
ARRAYNN_INLINE Vec<T> floor_of(const Activation& activation) {
  return Vec<T>::set1(activation.kind == ActivationKind::kRelu ? T(0) : -T(__builtin_inf()));
}

}  // namespace ARRAYNN_ISA_NAMESPACE
