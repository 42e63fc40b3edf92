// Elementary functions on Vec, each with its domain and its largest error in units in the last
// place (measured by tests/kernels/test_math.py over all exponents).
#pragma once
#include <cmath>

#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

template <class T>
ARRAYNN_INLINE Vec<T> polynomial(Vec<T> x, const T* c, int n) {  // c[0] x^(n-1) + ... + c[n-1]
  Vec<T> r = Vec<T>::set1(c[0]);
  for (int i = 1; i < n; ++i) r = fma(r, x, Vec<T>::set1(c[i]));
  return r;
}

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kLo = -104.0f, kHi = 89.0f;
  static constexpr float kLn2Hi = 0.693359375f, kLn2Lo = -2.12194440e-4f;
  static constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr int kMantissa = 23, kBias = 127, kTerms = 8;
  static constexpr float kPoly[kTerms] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24,
                                          1.0f / 6,    0.5f,       1.0f,       1.0f};
};
template <>
struct ExpConstants<double> {
  static constexpr double kLo = -746.0, kHi = 710.0;
  static constexpr double kLn2Hi = 6.93145751953125e-1, kLn2Lo = 1.42860682030941723212e-6;
  static constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kMantissa = 52, kBias = 1023, kTerms = 14;
  static constexpr double kPoly[kTerms] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880,
      1.0 / 40320,      1.0 / 5040,      1.0 / 720,      1.0 / 120,     1.0 / 24,
      1.0 / 6,          0.5,             1.0,            1.0};
};

// e^x. x = n ln2 + r with |r| <= ln2/2, Taylor in r, then two exact scalings by powers of two so
// that results down to the denormals and up to overflow come out right. NaN stays NaN.
// Max error: 1 ULP float32, 1 ULP float64 (2 at generic, which has no fused multiply-add).
template <class T>
ARRAYNN_INLINE Vec<T> exp(Vec<T> x) {
  using C = ExpConstants<T>;
  using V = Vec<T>;
  using Int = typename V::Int;
  x = min(V::set1(C::kHi), max(V::set1(C::kLo), x));
  const V shifted = fma(x, V::set1(T(1.44269504088896340736)), V::set1(C::kShift));
  const V n = shifted - V::set1(C::kShift);
  V r = fma(n, V::set1(-C::kLn2Hi), x);
  r = fma(n, V::set1(-C::kLn2Lo), r);
  const V p = polynomial(r, C::kPoly, C::kTerms);
  using RawInt = typename V::RawInt;
  const V shift = V::set1(C::kShift);
  const RawInt ni = reinterpret_cast<RawInt>(shifted.v) - reinterpret_cast<RawInt>(shift.v);
  const RawInt half = ni >> 1;
  const RawInt rest = ni - half;
  const V s1{reinterpret_cast<typename V::Raw>((half + Int{C::kBias}) << C::kMantissa)};
  const V s2{reinterpret_cast<typename V::Raw>((rest + Int{C::kBias}) << C::kMantissa)};
  return p * s1 * s2;
}

}  // namespace ARRAYNN_ISA_NAMESPACE
