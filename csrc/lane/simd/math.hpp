// The elementary functions of csrc/simd/math.hpp for one lane: CUDA's own. Their errors are in the CUDA
// C++ Programming Guide, "Mathematical Functions": at most 2 ULP for those here, 4 for erfcx. Denormals
// are kept.
#pragma once
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

#define ARRAYNN_UNARY(name, f32, f64)                                   \
  ARRAYNN_MEMBER Vec<float> name(Vec<float> x) { return {::f32(x.v)}; } \
  ARRAYNN_MEMBER Vec<double> name(Vec<double> x) { return {::f64(x.v)}; }
ARRAYNN_UNARY(exp, expf, exp)
ARRAYNN_UNARY(expm1, expm1f, expm1)
ARRAYNN_UNARY(log, logf, log)
ARRAYNN_UNARY(log1p_unit, log1pf, log1p)
ARRAYNN_UNARY(tanh, tanhf, tanh)
ARRAYNN_UNARY(scaled_erfc, erfcxf, erfcx)
#undef ARRAYNN_UNARY

// Below this e^x is 0.
template <class T>
struct ExpConstants {
  static constexpr T kLo = sizeof(T) == 4 ? T(-104) : T(-746);
};

// e^x and factor e^x: a denormal e^x has lost no more than what the product of normal size could show.
template <class T>
struct ExpTimes {
  Vec<T> exp, product;
};
template <class T>
ARRAYNN_MEMBER ExpTimes<T> exp_times(Vec<T> x, Vec<T> factor) {
  const Vec<T> e = exp(x);
  return {e, factor * e};
}

// The standard normal distribution as in csrc/simd/math.hpp: gauss = e^(-x^2 / 2), mills = Φ(-|x|) /
// gauss. The square is taken to twice the precision: its rounding would be multiplied by x^2 / 2 in the
// exponential, which is 0 beyond kFar.
template <class T>
struct Normal {
  Vec<T> gauss, mills;
  ARRAYNN_MEMBER Vec<T> cdf(Vec<T> x) const {
    const Vec<T> tail = mills * gauss;
    return select(x < Vec<T>::zero(), tail, Vec<T>::set1(T(1)) - tail);
  }
};
template <class T>
ARRAYNN_MEMBER Normal<T> normal(Vec<T> x) {
  using V = Vec<T>;
  constexpr T kFar = sizeof(T) == 4 ? T(14.5) : T(38.7);
  const V u = min(V::set1(kFar), abs(x));
  const V half = u * V::set1(T(0.5)), square = half * u;
  const V gauss = exp(-square) * (V::set1(T(1)) - fma(half, u, -square));
  return {gauss, V::set1(T(0.5)) * scaled_erfc(u * V::set1(T(0.70710678118654752440)))};
}

}  // namespace ARRAYNN_ISA_NAMESPACE
