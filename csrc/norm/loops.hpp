// What the units of the norm family share: lanes of a run, sums in four chains, activations.
#pragma once
#include "norm/norm.hpp"
#include "simd/activation.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

template <class T>
ARRAYNN_INLINE Vec<T> load_part(const T* p, std::int64_t lanes) {
  return lanes == kLanes<T> ? Vec<T>::load(p) : load_n(p, lanes);
}
template <class T>
ARRAYNN_INLINE void store_part(Vec<T> v, T* p, std::int64_t lanes) {
  if (lanes == kLanes<T>) {
    v.store(p);
  } else {
    store_n(v, p, lanes);
  }
}

// Lanes [0, n).
template <class T>
ARRAYNN_INLINE Mask<T> part_mask(std::int64_t n) {
  typename Vec<T>::RawInt lane{};
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return {lane < static_cast<typename Vec<T>::Int>(n)};
}

// f(i, lanes) for every vector of a run; lanes < kLanes only for the last.
template <class T, class F>
ARRAYNN_INLINE void for_run(std::int64_t n, const F& f) {
  constexpr int kL = kLanes<T>;
  std::int64_t i = 0;
  for (; i + 2 * kL <= n; i += 2 * kL) {
    f(i, std::int64_t{kL});
    f(i + kL, std::int64_t{kL});
  }
  for (; i < n; i += kL) f(i, min_i(kL, n - i));
}

// Sums of kCount terms over `runs` runs of n elements, `stride` apart: f(i, lanes, sums) adds to
// sums[0 .. kCount). Four chains each. Lanes beyond `lanes` must add 0.
template <int kCount, class T, class F>
ARRAYNN_INLINE void sum_runs(std::int64_t runs, std::int64_t n, std::int64_t stride, T* totals,
                             const F& f) {
  constexpr int kL = kLanes<T>;
  Vec<T> s0[kCount], s1[kCount], s2[kCount], s3[kCount];
  for (int k = 0; k < kCount; ++k) s0[k] = s1[k] = s2[k] = s3[k] = Vec<T>::zero();
  for (std::int64_t first = 0; first < runs * stride; first += stride) {
    const std::int64_t end = first + n;
    std::int64_t i = first;
    for (; i + 4 * kL <= end; i += 4 * kL) {
      f(i, std::int64_t{kL}, s0);
      f(i + kL, std::int64_t{kL}, s1);
      f(i + 2 * kL, std::int64_t{kL}, s2);
      f(i + 3 * kL, std::int64_t{kL}, s3);
    }
    if (i + 2 * kL <= end) {
      f(i, std::int64_t{kL}, s0);
      f(i + kL, std::int64_t{kL}, s1);
      i += 2 * kL;
    }
    if (i + kL <= end) {
      f(i, std::int64_t{kL}, s2);
      i += kL;
    }
    if (i < end) f(i, end - i, s3);
  }
  for (int k = 0; k < kCount; ++k) totals[k] = reduce_add((s0[k] + s1[k]) + (s2[k] + s3[k]));
}
template <int kCount, class T, class F>
ARRAYNN_INLINE void sum_run(std::int64_t n, T* totals, const F& f) {
  sum_runs<kCount>(1, n, n, totals, f);
}

// Moments of at most kNormBlock elements, at least one, in runs of n.
template <class T>
ARRAYNN_INLINE Moments moments_of_runs(const T* x, std::int64_t runs, std::int64_t n,
                                       std::int64_t stride) {
  using V = Vec<T>;
  const double inverse = 1.0 / static_cast<double>(runs * n);
  T sum[1], sums[2];
  sum_runs<1>(runs, n, stride, sum,
              [&](std::int64_t i, std::int64_t lanes, V* s)
                  __attribute__((always_inline)) { s[0] = s[0] + load_part(x + i, lanes); });
  const T pivot = static_cast<T>(static_cast<double>(sum[0]) * inverse);
  const V p = V::set1(pivot);
  sum_runs<2>(runs, n, stride, sums,
              [&](std::int64_t i, std::int64_t lanes, V* s) __attribute__((always_inline)) {
                V d = load_part(x + i, lanes) - p;
                if (lanes != kLanes<T>) d = select(part_mask<T>(lanes), d, V::zero());
                s[0] = s[0] + d;
                s[1] = fma(d, d, s[1]);
              });
  const double d = static_cast<double>(sums[0]);
  const double m2 = static_cast<double>(sums[1]) - d * (d * inverse);
  // Not max: NaN has to come through.
  return {static_cast<double>(pivot) + d * inverse, m2 < 0 ? 0.0 : m2};
}
template <class T>
ARRAYNN_INLINE Moments moments_of_block(const T* x, std::int64_t n) {
  return moments_of_runs(x, 1, n, n);
}

// y = f(y) over a run just stored; relu is applied before the store.
template <class T>
ARRAYNN_INLINE void activate_run(T* y, std::int64_t n, const Activation& activation) {
  if (activation.kind == ActivationKind::kNone || activation.kind == ActivationKind::kRelu) return;
  visit_activation<T>(activation, [&](const auto& f) __attribute__((always_inline)) {
    for (std::int64_t i = 0; i < n; i += kLanes<T>) {
      const std::int64_t lanes = min_i(kLanes<T>, n - i);
      store_part(f.forward(load_part(y + i, lanes)), y + i, lanes);
    }
  });
}

// v, or relu(v) with a floor of 0: max(-inf, v) is v, a NaN as well.
template <class T>
ARRAYNN_INLINE Vec<T> floor_of(const Activation& activation) {
  return Vec<T>::set1(activation.kind == ActivationKind::kRelu ? T(0) : -T(__builtin_inf()));
}

}  // namespace ARRAYNN_ISA_NAMESPACE
