// Philox4x32-10 on as many counters at once as a vector has 64-bit lanes.
#pragma once
#include "core/philox.hpp"
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

inline constexpr int kPhiloxCounters = kVecBytes / 8;
inline constexpr int kPhiloxWords = 4 * kPhiloxCounters;

typedef std::uint64_t PhiloxVec __attribute__((vector_size(kVecBytes)));

// Products of the low halves of the lanes.
ARRAYNN_INLINE PhiloxVec multiply_low(PhiloxVec a, PhiloxVec b) {
#if defined(__AVX512F__)
  // The masked form: GCC 12 warns that the plain one reads its undefined operand.
  return (PhiloxVec)_mm512_maskz_mul_epu32(0xFF, (__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (PhiloxVec)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (PhiloxVec)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

// The words of counters first, first + 1, ... in order, four per counter.
ARRAYNN_INLINE void philox_words(std::uint64_t first, PhiloxKey key, std::uint32_t* words) {
  PhiloxVec index{};
  for (int i = 0; i < kPhiloxCounters; ++i) index[i] = first + static_cast<std::uint64_t>(i);
  // Only the low half of a lane counts; what the rounds leave in the upper halves is ignored.
  PhiloxVec c0 = index, c1 = index >> 32, c2 = PhiloxVec{}, c3 = PhiloxVec{};
  const PhiloxVec m0 = PhiloxVec{} + kPhiloxM0, m1 = PhiloxVec{} + kPhiloxM1;
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const PhiloxVec p0 = multiply_low(c0, m0), p1 = multiply_low(c2, m1);
    c0 = (p1 >> 32) ^ c1 ^ (PhiloxVec{} + key.k0);
    c2 = (p0 >> 32) ^ c3 ^ (PhiloxVec{} + key.k1);
    c1 = p1;
    c3 = p0;
    key.k0 += kPhiloxW0;
    key.k1 += kPhiloxW1;
  }
  const PhiloxVec low = PhiloxVec{} + 0xFFFFFFFFu;
  const PhiloxVec front = (c0 & low) | (c1 << 32), back = (c2 & low) | (c3 << 32);
#if defined(__AVX512F__)
  const PhiloxVec out[2] = {__builtin_shufflevector(front, back, 0, 8, 1, 9, 2, 10, 3, 11),
                            __builtin_shufflevector(front, back, 4, 12, 5, 13, 6, 14, 7, 15)};
#elif defined(__AVX2__)
  const PhiloxVec out[2] = {__builtin_shufflevector(front, back, 0, 4, 1, 5),
                            __builtin_shufflevector(front, back, 2, 6, 3, 7)};
#else
  const PhiloxVec out[2] = {__builtin_shufflevector(front, back, 0, 2),
                            __builtin_shufflevector(front, back, 1, 3)};
#endif
  // A copy: the words are read one by one, which a store of 64-bit lanes may not be moved past.
  __builtin_memcpy(words, out, sizeof out);
}

// The lanes whose word is at least the threshold.
template <class T>
ARRAYNN_INLINE Mask<T> kept(const std::uint32_t* words, std::uint32_t threshold) {
  typedef std::uint32_t Words __attribute__((vector_size(kLanes<T> * 4), aligned(4), may_alias));
  typedef std::int32_t Bits __attribute__((vector_size(kLanes<T> * 4)));
  const Words w = *reinterpret_cast<const Words*>(words);
  const Bits keep = w >= threshold;
  if constexpr (sizeof(T) == 4) {
    return {keep};
  } else {
    return {__builtin_convertvector(keep, typename Vec<T>::RawInt)};
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
