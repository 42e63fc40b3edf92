// One fixed-width vector type per ISA over the compiler's vector extensions.
//
// Included only by units compiled once per ISA (-DARRAYNN_ISA=<name>): everything here lives in
// arraynn::<isa> and is forced inline, so no two ISAs ever share a symbol.
// Arithmetic, comparison and selection are the compiler's; the few operations it has no operator
// for (fused multiply-add, masked access, square root) are intrinsics.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/index.hpp"

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#ifndef ARRAYNN_ISA
#error "compile this unit through arraynn_isa_sources: ARRAYNN_ISA is not set"
#endif
#define ARRAYNN_ISA_NAMESPACE arraynn::ARRAYNN_ISA
#define ARRAYNN_MEMBER [[gnu::always_inline]] inline
namespace ARRAYNN_ISA_NAMESPACE {

#if defined(__AVX512F__)
inline constexpr int kVecBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVecBytes = 32;
#else
inline constexpr int kVecBytes = 16;
#endif

template <class T>
struct IntOf;
template <>
struct IntOf<float> {
  using type = std::int32_t;
};
template <>
struct IntOf<double> {
  using type = std::int64_t;
};

// Lanes of T in a vector.
template <class T>
inline constexpr int kLanes = kVecBytes / static_cast<int>(sizeof(T));

template <class T>
struct Vec {
  static constexpr int kSize = kLanes<T>;
  using Int = typename IntOf<T>::type;
  typedef T Raw __attribute__((vector_size(kVecBytes)));
  typedef Int RawInt __attribute__((vector_size(kVecBytes)));
  typedef T RawUnaligned __attribute__((vector_size(kVecBytes), aligned(alignof(T)), may_alias));

  Raw v;

  ARRAYNN_INLINE Vec zero() { return {Raw{}}; }
  // Not Raw{} + x: that stays an addition, since 0 + x is not x for x = -0.
  ARRAYNN_INLINE Vec set1(T x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
      return {(Raw)_mm512_set1_ps(x)};
    } else {
      return {(Raw)_mm512_set1_pd(x)};
    }
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) {
      return {(Raw)_mm256_set1_ps(x)};
    } else {
      return {(Raw)_mm256_set1_pd(x)};
    }
#else
    if constexpr (sizeof(T) == 4) {
      return {Raw{x, x, x, x}};
    } else {
      return {Raw{x, x}};
    }
#endif
  }
  ARRAYNN_INLINE Vec load(const T* p) { return {*reinterpret_cast<const RawUnaligned*>(p)}; }
  [[gnu::always_inline]] inline void store(T* p) const { *reinterpret_cast<RawUnaligned*>(p) = v; }
};

// Lane mask: all bits of a lane set, or none.
template <class T>
struct Mask {
  typename Vec<T>::RawInt v;
};

// The same value, in a register: the compiler repeats a load as the operand of every use, and one
// across two cache lines costs twice.
template <class T>
ARRAYNN_INLINE Vec<T> in_register(Vec<T> a) {
#if defined(__AVX512F__)
  asm("" : "+v"(a.v));
#elif defined(__x86_64__)
  asm("" : "+x"(a.v));
#endif
  return a;
}

#define ARRAYNN_VEC_OPERATOR(op)                          \
  template <class T>                                      \
  ARRAYNN_INLINE Vec<T> operator op(Vec<T> a, Vec<T> b) { \
    return {a.v op b.v};                                  \
  }
ARRAYNN_VEC_OPERATOR(+)
ARRAYNN_VEC_OPERATOR(-)
ARRAYNN_VEC_OPERATOR(*)
ARRAYNN_VEC_OPERATOR(/)
#undef ARRAYNN_VEC_OPERATOR

#define ARRAYNN_VEC_COMPARE(op)                            \
  template <class T>                                       \
  ARRAYNN_INLINE Mask<T> operator op(Vec<T> a, Vec<T> b) { \
    return {a.v op b.v};                                   \
  }
ARRAYNN_VEC_COMPARE(<)
ARRAYNN_VEC_COMPARE(<=)
ARRAYNN_VEC_COMPARE(>)
ARRAYNN_VEC_COMPARE(>=)
ARRAYNN_VEC_COMPARE(==)
ARRAYNN_VEC_COMPARE(!=)
#undef ARRAYNN_VEC_COMPARE

template <class T>
ARRAYNN_INLINE Vec<T> operator-(Vec<T> a) {
  return {-a.v};
}
template <class T>
ARRAYNN_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) {
  return {a.v | b.v};
}
template <class T>
ARRAYNN_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) {
  return {a.v & b.v};
}

template <class T>
ARRAYNN_INLINE Vec<T> select(Mask<T> m, Vec<T> yes, Vec<T> no) {
  return {m.v ? yes.v : no.v};
}
// a > b ? a : b, so a NaN in the second operand comes through: clamp with max(lo, x), min(hi, x).
// Intrinsics where there are some: the compiler finds the instruction for the selection in places.
#if defined(__AVX512F__)
#define ARRAYNN_MIN_MAX(name)                                                              \
  ARRAYNN_INLINE Vec<float> name(Vec<float> a, Vec<float> b) {                             \
    return {(Vec<float>::Raw)_mm512_maskz_##name##_ps(0xFFFF, (__m512)a.v, (__m512)b.v)};  \
  }                                                                                        \
  ARRAYNN_INLINE Vec<double> name(Vec<double> a, Vec<double> b) {                          \
    return {(Vec<double>::Raw)_mm512_maskz_##name##_pd(0xFF, (__m512d)a.v, (__m512d)b.v)}; \
  }
#elif defined(__AVX2__)
#define ARRAYNN_MIN_MAX(name)                                                  \
  ARRAYNN_INLINE Vec<float> name(Vec<float> a, Vec<float> b) {                 \
    return {(Vec<float>::Raw)_mm256_##name##_ps((__m256)a.v, (__m256)b.v)};    \
  }                                                                            \
  ARRAYNN_INLINE Vec<double> name(Vec<double> a, Vec<double> b) {              \
    return {(Vec<double>::Raw)_mm256_##name##_pd((__m256d)a.v, (__m256d)b.v)}; \
  }
#elif defined(__SSE2__)
#define ARRAYNN_MIN_MAX(name)                                               \
  ARRAYNN_INLINE Vec<float> name(Vec<float> a, Vec<float> b) {              \
    return {(Vec<float>::Raw)_mm_##name##_ps((__m128)a.v, (__m128)b.v)};    \
  }                                                                         \
  ARRAYNN_INLINE Vec<double> name(Vec<double> a, Vec<double> b) {           \
    return {(Vec<double>::Raw)_mm_##name##_pd((__m128d)a.v, (__m128d)b.v)}; \
  }
#endif
#if defined(ARRAYNN_MIN_MAX)
ARRAYNN_MIN_MAX(max)
ARRAYNN_MIN_MAX(min)
#undef ARRAYNN_MIN_MAX
#else
template <class T>
ARRAYNN_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  return {a.v > b.v ? a.v : b.v};
}
template <class T>
ARRAYNN_INLINE Vec<T> min(Vec<T> a, Vec<T> b) {
  return {a.v < b.v ? a.v : b.v};
}
#endif
template <class T>
ARRAYNN_INLINE Vec<T> abs(Vec<T> a) {
  using Int = typename Vec<T>::Int;
  constexpr Int kMagnitude = ~(Int{1} << (sizeof(T) * 8 - 1));
  return {reinterpret_cast<typename Vec<T>::Raw>(reinterpret_cast<typename Vec<T>::RawInt>(a.v) &
                                                 kMagnitude)};
}
// |a| with the sign of b.
template <class T>
ARRAYNN_INLINE Vec<T> copysign(Vec<T> a, Vec<T> b) {
  using RawInt = typename Vec<T>::RawInt;
  using Int = typename Vec<T>::Int;
  constexpr Int kSign = Int{1} << (sizeof(T) * 8 - 1);
  return {reinterpret_cast<typename Vec<T>::Raw>((reinterpret_cast<RawInt>(a.v) & ~kSign) |
                                                 (reinterpret_cast<RawInt>(b.v) & kSign))};
}

// a * b + c: one rounding where the ISA has FMA, two at generic.
ARRAYNN_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
#if defined(__AVX512F__)
  return {(Vec<float>::Raw)_mm512_fmadd_ps((__m512)a.v, (__m512)b.v, (__m512)c.v)};
#elif defined(__AVX2__)
  return {(Vec<float>::Raw)_mm256_fmadd_ps((__m256)a.v, (__m256)b.v, (__m256)c.v)};
#else
  return {a.v * b.v + c.v};
#endif
}
ARRAYNN_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
#if defined(__AVX512F__)
  return {(Vec<double>::Raw)_mm512_fmadd_pd((__m512d)a.v, (__m512d)b.v, (__m512d)c.v)};
#elif defined(__AVX2__)
  return {(Vec<double>::Raw)_mm256_fmadd_pd((__m256d)a.v, (__m256d)b.v, (__m256d)c.v)};
#else
  return {a.v * b.v + c.v};
#endif
}

ARRAYNN_INLINE Vec<float> sqrt(Vec<float> a) {
#if defined(__AVX512F__)
  return {(Vec<float>::Raw)_mm512_maskz_sqrt_ps(0xFFFF, (__m512)a.v)};
#elif defined(__AVX2__)
  return {(Vec<float>::Raw)_mm256_sqrt_ps((__m256)a.v)};
#elif defined(__SSE2__)
  return {(Vec<float>::Raw)_mm_sqrt_ps((__m128)a.v)};
#else
  for (int i = 0; i < kLanes<float>; ++i) a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
#endif
}
ARRAYNN_INLINE Vec<double> sqrt(Vec<double> a) {
#if defined(__AVX512F__)
  return {(Vec<double>::Raw)_mm512_maskz_sqrt_pd(0xFF, (__m512d)a.v)};
#elif defined(__AVX2__)
  return {(Vec<double>::Raw)_mm256_sqrt_pd((__m256d)a.v)};
#elif defined(__SSE2__)
  return {(Vec<double>::Raw)_mm_sqrt_pd((__m128d)a.v)};
#else
  for (int i = 0; i < kLanes<double>; ++i) a.v[i] = __builtin_sqrt(a.v[i]);
  return a;
#endif
}

// First n lanes of memory, 0 <= n <= kSize; the other lanes are 0 and their memory is not touched.
template <class T>
ARRAYNN_INLINE Vec<T> load_n(const T* p, std::int64_t n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    const __mmask16 m = static_cast<__mmask16>((1u << n) - 1u);
    return {(typename Vec<T>::Raw)_mm512_maskz_loadu_ps(m, p)};
  } else {
    const __mmask8 m = static_cast<__mmask8>((1u << n) - 1u);
    return {(typename Vec<T>::Raw)_mm512_maskz_loadu_pd(m, p)};
  }
#else
  typename Vec<T>::Raw r{};
  T lanes[kLanes<T>] = {};
  for (int i = 0; i < kLanes<T>; ++i) {
    if (i < n) lanes[i] = p[i];
  }
  std::memcpy(&r, lanes, sizeof r);
  return {r};
#endif
}
// Lanes begin <= i < end of memory; the others are 0 and their memory is not touched.
template <class T>
ARRAYNN_INLINE Vec<T> load_between(const T* p, std::int64_t begin, std::int64_t end) {
#if defined(__AVX512F__)
  const unsigned lanes = ((1u << end) - 1u) & ~((1u << begin) - 1u);
  if constexpr (sizeof(T) == 4) {
    return {(typename Vec<T>::Raw)_mm512_maskz_loadu_ps(static_cast<__mmask16>(lanes), p)};
  } else {
    return {(typename Vec<T>::Raw)_mm512_maskz_loadu_pd(static_cast<__mmask8>(lanes), p)};
  }
#else
  typename Vec<T>::Raw r{};
  T lanes[kLanes<T>] = {};
  for (int i = 0; i < kLanes<T>; ++i) {
    if (i >= begin && i < end) lanes[i] = p[i];
  }
  std::memcpy(&r, lanes, sizeof r);
  return {r};
#endif
}
template <class T>
ARRAYNN_INLINE void store_n(Vec<T> a, T* p, std::int64_t n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), (__m512)a.v);
  } else {
    _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1u), (__m512d)a.v);
  }
#else
  T lanes[kLanes<T>];
  std::memcpy(lanes, &a.v, sizeof a.v);
  for (int i = 0; i < kLanes<T>; ++i) {
    if (i < n) p[i] = lanes[i];
  }
#endif
}

// Whole vectors take the plain path, others the first n lanes.
template <class T>
ARRAYNN_INLINE Vec<T> load_lanes(const T* p, std::int64_t n) {
  return n >= kLanes<T> ? Vec<T>::load(p) : load_n(p, n);
}
template <class T>
ARRAYNN_INLINE void store_lanes(Vec<T> v, T* p, std::int64_t n) {
  if (n >= kLanes<T>) {
    v.store(p);
  } else {
    store_n(v, p, n);
  }
}

// Lane i of the result is lane (i + kBy) mod kSize of a.
template <int kBy, class T>
ARRAYNN_INLINE Vec<T> rotate_lanes(Vec<T> a) {
  typename Vec<T>::RawInt from{};
  for (int i = 0; i < kLanes<T>; ++i) from[i] = (i + kBy) % kLanes<T>;
  return {__builtin_shuffle(a.v, from)};
}

// Lanes summed by halves: a fixed tree, whatever the caller.
template <class T, int kWidth = kLanes<T> / 2>
ARRAYNN_INLINE T reduce_add(Vec<T> a) {
  if constexpr (kWidth == 0) {
    return a.v[0];
  } else {
    return reduce_add<T, kWidth / 2>(a + rotate_lanes<kWidth>(a));
  }
}
// Largest lane; a NaN lane gives NaN or is left out.
template <class T, int kWidth = kLanes<T> / 2>
ARRAYNN_INLINE T reduce_max(Vec<T> a) {
  if constexpr (kWidth == 0) {
    return a.v[0];
  } else {
    return reduce_max<T, kWidth / 2>(max(a, rotate_lanes<kWidth>(a)));
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
