// Loads and stores by the type of an element in memory: 16-bit floats are widened to float32 as they are
// loaded, and rounded once, to nearest even, as they are stored. Of float and double these are those of
// simd/vec.hpp. The bits are the same at every level and with denormals flushed, but those of a NaN.
#pragma once
#include "core/dtype.hpp"
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// 16 bits for every lane of Vec<float>.
inline constexpr int kShortBytes = kVecBytes / 2;
typedef std::uint16_t Shorts __attribute__((vector_size(kShortBytes)));
typedef std::uint32_t Words __attribute__((vector_size(kVecBytes)));

ARRAYNN_INLINE Vec<float> widened(Shorts bits, Bfloat16) {
  return {(Vec<float>::Raw)(__builtin_convertvector(bits, Words) << 16)};
}

ARRAYNN_INLINE Shorts narrowed(Vec<float> x, Bfloat16) {
  const Words u = (Words)x.v;
  const Words rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16;
  const Words nan = u >> 16 | 0x40;  // quiet: its payload may be in the lower half
  return __builtin_convertvector(x.v != x.v ? nan : rounded, Shorts);
}

#if defined(__AVX512F__)
ARRAYNN_INLINE Vec<float> widened(Shorts bits, Half) {
  return {(Vec<float>::Raw)_mm512_maskz_cvtph_ps(0xFFFF, (__m256i)bits)};
}
ARRAYNN_INLINE Shorts narrowed(Vec<float> x, Half) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return (Shorts)_mm512_maskz_cvtps_ph(0xFFFF, (__m512)x.v, kNearest);
}
#elif defined(__AVX2__)
ARRAYNN_INLINE Vec<float> widened(Shorts bits, Half) {
  return {(Vec<float>::Raw)_mm256_cvtph_ps((__m128i)bits)};
}
ARRAYNN_INLINE Shorts narrowed(Vec<float> x, Half) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return (Shorts)_mm256_cvtps_ph((__m256)x.v, kNearest);
}
#else
// Exponents move by 112. What is denormal in 16 bits is a number of units of 2^-24.
ARRAYNN_INLINE Vec<float> widened(Shorts bits, Half) {
  using Raw = Vec<float>::Raw;
  using RawInt = Vec<float>::RawInt;
  const Words h = __builtin_convertvector(bits, Words), magnitude = h & 0x7fff;
  const Words normal = (magnitude << 13) + (112u << 23);
  const Words special =
      magnitude << 13 | 0x7f800000 | (magnitude > 0x7c00 ? Words{} + 0x400000 : Words{});
  const Words tiny = (Words)(__builtin_convertvector((RawInt)magnitude, Raw) * 0x1p-24f);
  const Words wide = magnitude < 0x400 ? tiny : magnitude < 0x7c00 ? normal : special;
  return {(Raw)(wide | (h & 0x8000) << 16)};
}
// Below 2^-14 the last place is that of numbers near 0.5 in float32: the addition rounds to it.
ARRAYNN_INLINE Shorts narrowed(Vec<float> x, Half) {
  using Raw = Vec<float>::Raw;
  const Words u = (Words)x.v & 0x7fffffff;
  const Words normal = (u - (112u << 23) + 0xfff + (u >> 13 & 1)) >> 13;
  const Words tiny = (Words)((Raw)u + 0.5f) - 0x3f000000;
  const Words nan = (u >> 13 & 0x3ff) | 0x7e00;
  const Words finite = u < 0x38800000 ? tiny : normal;
  const Words rounded = u < 0x47800000 ? finite : u > 0x7f800000 ? nan : Words{} + 0x7c00;
  return __builtin_convertvector(rounded | ((Words)x.v >> 16 & 0x8000), Shorts);
}
#endif

ARRAYNN_INLINE Shorts load_shorts(const void* p) {
  Shorts bits;
  std::memcpy(&bits, p, sizeof bits);
  return bits;
}
ARRAYNN_INLINE Shorts load_shorts_n(const void* p, std::int64_t n) {
#if defined(__AVX512F__)
  return (Shorts)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1u), p);
#else
  std::uint16_t lanes[kLanes<float>] = {};
  for (int i = 0; i < kLanes<float>; ++i) {
    if (i < n) std::memcpy(lanes + i, static_cast<const char*>(p) + 2 * i, 2);
  }
  return load_shorts(lanes);
#endif
}
ARRAYNN_INLINE void store_shorts(Shorts bits, void* p) { std::memcpy(p, &bits, sizeof bits); }
ARRAYNN_INLINE void store_shorts_n(Shorts bits, void* p, std::int64_t n) {
#if defined(__AVX512F__)
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1u), (__m256i)bits);
#else
  std::uint16_t lanes[kLanes<float>];
  std::memcpy(lanes, &bits, sizeof bits);
  for (int i = 0; i < kLanes<float>; ++i) {
    if (i < n) std::memcpy(static_cast<char*>(p) + 2 * i, lanes + i, 2);
  }
#endif
}

template <class T>
ARRAYNN_INLINE Vec<T> load(const T* p) {
  return Vec<T>::load(p);
}
template <class T>
ARRAYNN_INLINE void store(Vec<T> x, T* p) {
  x.store(p);
}

#define ARRAYNN_STORAGE_OF_16_BITS(S)                                                  \
  ARRAYNN_INLINE Vec<float> load(const S* p) { return widened(load_shorts(p), S{}); }  \
  ARRAYNN_INLINE void store(Vec<float> x, S* p) { store_shorts(narrowed(x, S{}), p); } \
  ARRAYNN_INLINE Vec<float> load_n(const S* p, std::int64_t n) {                       \
    return widened(load_shorts_n(p, n), S{});                                          \
  }                                                                                    \
  ARRAYNN_INLINE void store_n(Vec<float> x, S* p, std::int64_t n) {                    \
    store_shorts_n(narrowed(x, S{}), p, n);                                            \
  }                                                                                    \
  ARRAYNN_INLINE Vec<float> load_lanes(const S* p, std::int64_t n) {                   \
    return n >= kLanes<float> ? load(p) : load_n(p, n);                                \
  }                                                                                    \
  ARRAYNN_INLINE void store_lanes(Vec<float> x, S* p, std::int64_t n) {                \
    if (n >= kLanes<float>) {                                                          \
      store(x, p);                                                                     \
    } else {                                                                           \
      store_n(x, p, n);                                                                \
    }                                                                                  \
  }
ARRAYNN_STORAGE_OF_16_BITS(Half)
ARRAYNN_STORAGE_OF_16_BITS(Bfloat16)
#undef ARRAYNN_STORAGE_OF_16_BITS

// One element.
ARRAYNN_INLINE float to_compute(float x) { return x; }
ARRAYNN_INLINE double to_compute(double x) { return x; }
template <class S>
ARRAYNN_INLINE Compute<S> to_compute(S x) {
  return widened(Shorts{x.bits}, S{}).v[0];
}
template <class S>
ARRAYNN_INLINE S from_compute(Compute<S> x) {
  if constexpr (sizeof(S) == 2) {
    return {narrowed(Vec<float>{Vec<float>::Raw{x}}, S{})[0]};
  } else {
    return x;
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
