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
  static constexpr int kMantissa = 23, kBias = 127, kTerms = 7;
  // e^r: 1 + r + r^2 q(r), q by Chebyshev interpolation over |r| <= ln2/2 (mpmath, 50 digits).
  static constexpr float kPoly[kTerms] = {
      1.39269268e-3f, 8.36377405e-3f, 4.16665487e-2f, 0.166665733f, 0.5f, 1.0f, 1.0f};
};
template <>
struct ExpConstants<double> {
  static constexpr double kLo = -746.0, kHi = 710.0;
  static constexpr double kLn2Hi = 6.93145751953125e-1, kLn2Lo = 1.42860682030941723212e-6;
  static constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kMantissa = 52, kBias = 1023, kTerms = 12;
  static constexpr double kPoly[kTerms] = {2.510134692835034e-08,
                                           2.7621338669142925e-07,
                                           2.75572664186123e-06,
                                           2.4801518641395993e-05,
                                           0.00019841269864380513,
                                           0.0013888888918939168,
                                           0.008333333333329793,
                                           0.04166666666662064,
                                           0.16666666666666669,
                                           0.5000000000000001,
                                           1.0,
                                           1.0};
};

// x = n ln2 + r with |r| <= ln2/2. `n` keeps its bits above the rounding shift: see power_of_two.
template <class T>
struct ExpReduction {
  Vec<T> r, shifted;
};

template <class T>
ARRAYNN_INLINE ExpReduction<T> reduce_exp(Vec<T> x) {
  using C = ExpConstants<T>;
  using V = Vec<T>;
  const V shifted = fma(x, V::set1(T(1.44269504088896340736)), V::set1(C::kShift));
  const V n = shifted - V::set1(C::kShift);
  const V r = fma(n, V::set1(-C::kLn2Hi), x);
  return {fma(n, V::set1(-C::kLn2Lo), r), shifted};
}

#if defined(__AVX512F__)
// x 2^n with one rounding, for whole n of any size.
ARRAYNN_INLINE Vec<float> scale_by_power(Vec<float> x, Vec<float> n) {
  return {(Vec<float>::Raw)_mm512_maskz_scalef_ps(0xFFFF, (__m512)x.v, (__m512)n.v)};
}
ARRAYNN_INLINE Vec<double> scale_by_power(Vec<double> x, Vec<double> n) {
  return {(Vec<double>::Raw)_mm512_maskz_scalef_pd(0xFF, (__m512d)x.v, (__m512d)n.v)};
}
#endif

// e^x. Argument reduction, polynomial in r, then two exact scalings by powers of two so that results
// down to the denormals and up to overflow come out right. NaN stays NaN.
// Max error: 1 ULP (1.5 at generic, where multiply-adds round twice).
//
// exp_times also gives factor * e^x, rounded as if e^x had no smallest value: a flushed e^x would
// take |factor| times as much with it. |factor| is at most about 1000.
template <class T>
struct ExpTimes {
  Vec<T> exp, product;
};

template <class T>
ARRAYNN_INLINE ExpTimes<T> exp_times(Vec<T> x, Vec<T> factor) {
  using C = ExpConstants<T>;
  using V = Vec<T>;
  x = min(V::set1(C::kHi), max(V::set1(C::kLo), x));
  const ExpReduction<T> e = reduce_exp(x);
  const V p = polynomial(e.r, C::kPoly, C::kTerms);
#if defined(__AVX512F__)
  const V n = e.shifted - V::set1(C::kShift);
  return {scale_by_power(p, n), scale_by_power(factor * p, n)};
#else
  using Int = typename V::Int;
  using RawInt = typename V::RawInt;
  const V shift = V::set1(C::kShift);
  const RawInt ni = reinterpret_cast<RawInt>(e.shifted.v) - reinterpret_cast<RawInt>(shift.v);
  const RawInt half = ni >> 1;
  const RawInt rest = ni - half;
  const V s1{reinterpret_cast<typename V::Raw>((half + Int{C::kBias}) << C::kMantissa)};
  const V s2{reinterpret_cast<typename V::Raw>((rest + Int{C::kBias}) << C::kMantissa)};
  const V partial = p * s1;
  return {partial * s2, factor * partial * s2};
#endif
}

template <class T>
ARRAYNN_INLINE Vec<T> exp(Vec<T> x) {
  return exp_times(x, x).exp;
}

// e^x - 1 for x <= kExpm1Max, exact sign of zero. 2^n ((1 + q) - 2^-n) with q = e^r - 1 from the
// same polynomial, so nothing cancels where n = 0.
// Max error: 2.5 ULP.
template <class T>
inline constexpr T kExpm1Max = sizeof(T) == 4 ? T(88) : T(709);

template <class T>
ARRAYNN_INLINE Vec<T> expm1(Vec<T> x) {
  using C = ExpConstants<T>;
  using V = Vec<T>;
  using Int = typename V::Int;
  using RawInt = typename V::RawInt;
  const V clamped = max(V::set1(T(-60)), x);  // e^-60 - 1 is -1 in either type
  const ExpReduction<T> e = reduce_exp(clamped);
  const V shift = V::set1(C::kShift);
  const RawInt ni = reinterpret_cast<RawInt>(e.shifted.v) - reinterpret_cast<RawInt>(shift.v);
  const V scale{reinterpret_cast<typename V::Raw>((ni + Int{C::kBias}) << C::kMantissa)};
  const V q = fma(e.r * e.r, polynomial(e.r, C::kPoly, C::kTerms - 2), e.r);
  return copysign(fma(q, scale, scale - V::set1(T(1))), x);
}

// tanh x = m / (m + 2) with m = e^(2|x|) - 1.
// Max error: 3 ULP.
template <class T>
ARRAYNN_INLINE Vec<T> tanh(Vec<T> x) {
  using V = Vec<T>;
  const V a = abs(x);
  const V m = expm1(min(V::set1(T(40)), a + a));  // tanh 20 rounds to 1 in either type
  return copysign(m / (m + V::set1(T(2))), x);
}

// The fits below were made with mpmath at 60 digits: Chebyshev interpolation of the function named
// beside each table over the stated interval, then rounded to the type.
template <class T>
struct LogConstants;
template <>
struct LogConstants<float> {
  // (atanh(s) / s - 1) / s^2 in s^2: up to s = 1/3 for log1p, up to (sqrt2 - 1)/(sqrt2 + 1) for
  // log.
  static constexpr int kLog1pTerms = 5, kLogTerms = 3;
  static constexpr float kLog1p[kLog1pTerms] = {0.11612165f, 0.108532876f, 0.142961785f,
                                                0.199998528f, 0.333333343f};
  static constexpr float kLog[kLogTerms] = {0.147899747f, 0.1999439f, 0.333333433f};
  static constexpr std::int32_t kSqrtHalf = 0x3f3504f3;
  static constexpr int kMantissa = 23;
};
template <>
struct LogConstants<double> {
  static constexpr int kLog1pTerms = 11, kLogTerms = 8;
  static constexpr double kLog1p[kLog1pTerms] = {
      0.07815288900461426, 0.03746071897775383, 0.05422589197440007, 0.05867139530651599,
      0.06667589315724629, 0.07692271982430275, 0.09090909948981357, 0.11111111099118386,
      0.1428571428580005,  0.19999999999999762, 0.3333333333333333};
  static constexpr double kLog[kLogTerms] = {
      0.06543313073920051, 0.06634386569328443, 0.07693119851407329, 0.09090897820066453,
      0.11111111195856958, 0.14285714285401807, 0.2000000000000044,  0.3333333333333333};
  static constexpr std::int64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
  static constexpr int kMantissa = 52;
};

// log(1 + u) for 0 <= u <= 1, as 2 atanh(u / (2 + u)). NaN stays NaN.
// Max error: 2 ULP.
template <class T>
ARRAYNN_INLINE Vec<T> log1p_unit(Vec<T> u) {
  using C = LogConstants<T>;
  const Vec<T> s = u / (u + Vec<T>::set1(T(2)));
  const Vec<T> z = s * s, twice = s + s;
  return fma(twice * z, polynomial(z, C::kLog1p, C::kLog1pTerms), twice);
}

// log x for positive normal x, +inf and NaN. x = 2^k m with m in [sqrt(1/2), sqrt(2)), log m =
// 2 atanh((m - 1) / (m + 1)).
// Max error: 2 ULP.
template <class T>
ARRAYNN_INLINE Vec<T> log(Vec<T> x) {
  using C = LogConstants<T>;
  using V = Vec<T>;
  using Int = typename V::Int;
  using RawInt = typename V::RawInt;
  const RawInt bits = reinterpret_cast<RawInt>(x.v);
  const RawInt ki = (bits - Int{C::kSqrtHalf}) >> C::kMantissa;
  const V m{reinterpret_cast<typename V::Raw>(bits - (ki << C::kMantissa))};
  const V k{__builtin_convertvector(ki, typename V::Raw)};
  const V one = V::set1(T(1));
  const V s = (m - one) / (m + one);
  const V z = s * s, twice = s + s;
  const V tail =
      fma(twice * z, polynomial(z, C::kLog, C::kLogTerms), k * V::set1(ExpConstants<T>::kLn2Lo));
  const V r = fma(k, V::set1(ExpConstants<T>::kLn2Hi), twice + tail);
  return select(x < V::set1(T(__builtin_inf())), r, x);
}

template <class T>
struct ErfConstants;
template <>
struct ErfConstants<float> {
  // erf(x)/x - 1 in x^2 over [0, 1].
  static constexpr int kErfTerms = 8;
  static constexpr float kErf[kErfTerms] = {-9.66704465e-06f, 0.00011265959f, -0.000848408032f,
                                            0.00522103161f,   -0.0268654302f, 0.112837821f,
                                            -0.376126379f,    0.128379166f};
  // (a + K) e^(a^2) erfc(a) in (a - K)/(a + K), K = 3, over 0 <= a <= 10.3.
  static constexpr float kCentre = 3.0f, kMaxArgument = 10.25f;
  static constexpr int kScaledTerms = 10;
  static constexpr float kScaled[kScaledTerms] = {
      -0.000333609147f, -0.000498446345f, 0.00307859946f, -0.00121702871f, -0.0268369187f,
      0.119527169f,     -0.310466588f,    0.590228438f,   -0.88339448f,    1.07400692f};
};
template <>
struct ErfConstants<double> {
  static constexpr int kErfTerms = 13;
  static constexpr double kErf[kErfTerms] = {
      5.957176147748911e-11,   -1.1372848856791674e-09, 1.4659775274047436e-08,
      -1.6350312701054695e-07, 1.6461000484121368e-06,  -1.4925595266831182e-05,
      0.0001205533111164271,   -0.000854832698083379,   0.0052239776248180145,
      -0.026866170645076792,   0.11283791670954879,     -0.3761263890318375,
      0.1283791670955126};
  // As above with K = 4 over 0 <= a <= 27.5.
  static constexpr double kCentre = 4.0, kMaxArgument = 27.4;
  static constexpr int kScaledTerms = 23;
  static constexpr double kScaled[kScaledTerms] = {
      8.892365082453874e-10,   -6.973176548183896e-10,  -1.5224847883687636e-08,
      3.5265157733177e-09,     1.2408010985923537e-07,  -7.912789673646787e-08,
      -8.464456189715969e-07,  1.4269062796438086e-06,  4.694725890285188e-06,
      -1.8862141788750368e-05, -3.635338935865469e-06,  0.0001768131875167485,
      -0.00045505263527494783, -0.00028095893420234937, 0.0061120556477607425,
      -0.026370053332541235,   0.07638151491000642,     -0.17401093724042524,
      0.3308515878779825,      -0.5408538313132207,     0.7732087022652375,
      -0.9765487290808821,     1.095995661000491};
};

// The rounding error of a * b - p, where p is a * b rounded.
template <class T>
ARRAYNN_INLINE Vec<T> product_error(Vec<T> a, Vec<T> b, Vec<T> p) {
#if defined(__FMA__) || defined(__AVX512F__)
  return fma(a, b, -p);
#else
  constexpr T kSplit = sizeof(T) == 4 ? T(4097) : T(134217729);  // 2^(bits/2) + 1
  const Vec<T> split = Vec<T>::set1(kSplit);
  const Vec<T> as = a * split, bs = b * split;
  const Vec<T> ah = as - (as - a), bh = bs - (bs - b);
  const Vec<T> al = a - ah, bl = b - bh;
  return al * bl - (((p - ah * bh) - al * bh) - ah * bl);
#endif
}

// e^(a^2) erfc(a) for 0 <= a <= kMaxArgument: t P(s) with t = 1/(a + K), s = (a - K)/(a + K).
template <class T>
ARRAYNN_INLINE Vec<T> scaled_erfc(Vec<T> a) {
  using C = ErfConstants<T>;
  using V = Vec<T>;
  const V t = V::set1(T(1)) / (a + V::set1(C::kCentre));
  const V s = (a - V::set1(C::kCentre)) * t;
  return t * polynomial(s, C::kScaled, C::kScaledTerms);
}

// The standard normal distribution: gauss = e^(-x^2 / 2), mills = Φ(-|x|) / gauss, and from them
// cdf(x) with full relative precision in both tails. The square is taken to twice the precision:
// its rounding would be multiplied by x^2 / 2 in the exponential.
// Max error of cdf: 7 ULP.
template <class T>
struct Normal {
  Vec<T> gauss, mills;

  [[gnu::always_inline]] inline Vec<T> cdf(Vec<T> x) const {
    const Vec<T> tail = mills * gauss;
    return select(x < Vec<T>::zero(), tail, Vec<T>::set1(T(1)) - tail);
  }
};

template <class T>
ARRAYNN_INLINE Normal<T> normal(Vec<T> x) {
  using C = ErfConstants<T>;
  using V = Vec<T>;
  const V bound = V::set1(C::kMaxArgument * T(1.41421356237309504880));
  const V u = min(bound, abs(x));
  const V half = u * V::set1(T(0.5));
  const V square = half * u;
  const V gauss = exp(-square) * (V::set1(T(1)) - product_error(half, u, square));
  return {gauss, V::set1(T(0.5)) * scaled_erfc(u * V::set1(T(0.70710678118654752440)))};
}

// erf x: an odd polynomial up to 1, 1 - erfc beyond.
// Max error: 2 ULP.
template <class T>
ARRAYNN_INLINE Vec<T> erf(Vec<T> x) {
  using C = ErfConstants<T>;
  using V = Vec<T>;
  const V a = min(V::set1(C::kMaxArgument), abs(x));
  const V square = a * a;
  // Not a + a P: that product would be flushed for the smallest a.
  const V near = a * (V::set1(T(1)) + polynomial(square, C::kErf, C::kErfTerms));
  const V far = V::set1(T(1)) - exp(-square) * scaled_erfc(a);
  return copysign(select(a <= V::set1(T(1)), near, far), x);
}

}  // namespace ARRAYNN_ISA_NAMESPACE
