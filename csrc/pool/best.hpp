// The maximum and where it was.
#pragma once
#include "pool/rows.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
using Int = typename Vec<T>::Int;
template <class T>
using Ints = typename Vec<T>::RawInt;

template <class T>
ARRAYNN_INLINE Ints<T> load_ints(const Int<T>* p) {
  Ints<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
ARRAYNN_INLINE void store_ints(Ints<T> v, Int<T>* p) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <class T>
ARRAYNN_INLINE Ints<T> set_ints(std::int64_t x) {
  return Ints<T>{} + static_cast<Int<T>>(x);
}

// Of a mask.
template <class T>
ARRAYNN_INLINE bool all_lanes(Ints<T> mask) {
  Int<T> all = -1;
  for (int l = 0; l < kLanes<T>; ++l) all &= mask[l];
  return all != 0;
}

template <class T>
struct Max {
  ARRAYNN_MEMBER Vec<T> identity() const { return Vec<T>::set1(-T(__builtin_inf())); }
  ARRAYNN_MEMBER Vec<T> map(Vec<T> v) const { return v; }
  // A NaN stays: max() alone returns its second operand when one is a NaN.
  ARRAYNN_MEMBER Vec<T> combine(Vec<T> acc, Vec<T> v) const {
    return select(v != v, v, max(v, acc));
  }
  ARRAYNN_MEMBER void begin(const PoolProblem&, const Row<T>&) const {}
  ARRAYNN_MEMBER void set_row(const PoolProblem&, std::int64_t) const {}
  ARRAYNN_MEMBER void set_pixel(const PoolProblem&, std::int64_t) const {}
  ARRAYNN_MEMBER Vec<T> finish_columns(Vec<T> v, std::int64_t) const { return v; }
  ARRAYNN_MEMBER Vec<T> finish(Vec<T> v) const { return v; }
};

// Lanes that hit: a mask register where there is one.
template <class T>
struct Hits {
#if defined(__AVX512F__)
  using Bits = std::conditional_t<sizeof(T) == 4, __mmask16, __mmask8>;  // a wider one is moved
  Bits bits;

  ARRAYNN_MEMBER static Hits none() { return {0}; }
  ARRAYNN_MEMBER static Hits of(Vec<T> a, Vec<T> b) {
    if constexpr (sizeof(T) == 4) return {_mm512_cmp_ps_mask((__m512)a.v, (__m512)b.v, _CMP_EQ_OQ)};
    if constexpr (sizeof(T) == 8) {
      return {_mm512_cmp_pd_mask((__m512d)a.v, (__m512d)b.v, _CMP_EQ_OQ)};
    }
  }
  ARRAYNN_MEMBER static Hits of(Ints<T> a, Ints<T> b) {
    if constexpr (sizeof(T) == 4) return {_mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b)};
    if constexpr (sizeof(T) == 8) return {_mm512_cmpeq_epi64_mask((__m512i)a, (__m512i)b)};
  }
  ARRAYNN_MEMBER static Hits above(Vec<T> a, Vec<T> b) {
    if constexpr (sizeof(T) == 4) return {_mm512_cmp_ps_mask((__m512)a.v, (__m512)b.v, _CMP_GT_OQ)};
    if constexpr (sizeof(T) == 8) {
      return {_mm512_cmp_pd_mask((__m512d)a.v, (__m512d)b.v, _CMP_GT_OQ)};
    }
  }
  // Where b takes the place of a: the first NaN wins, then the first of equal values.
  ARRAYNN_MEMBER static Hits larger(Vec<T> b, Vec<T> a) {
    if constexpr (sizeof(T) == 4) {
      const __mmask16 above = _mm512_cmp_ps_mask((__m512)a.v, (__m512)b.v, _CMP_NGE_UQ);
      return {_mm512_mask_cmp_ps_mask(above, (__m512)a.v, (__m512)a.v, _CMP_ORD_Q)};
    } else {
      const __mmask8 above = _mm512_cmp_pd_mask((__m512d)a.v, (__m512d)b.v, _CMP_NGE_UQ);
      return {_mm512_mask_cmp_pd_mask(above, (__m512d)a.v, (__m512d)a.v, _CMP_ORD_Q)};
    }
  }
  ARRAYNN_MEMBER Hits operator|(Hits b) const { return {static_cast<Bits>(bits | b.bits)}; }
  ARRAYNN_MEMBER bool all() const { return bits == static_cast<Bits>(~0); }
  // Lanes of a where it hits, of b elsewhere.
  ARRAYNN_MEMBER Vec<T> choose(Vec<T> a, Vec<T> b) const {
    if constexpr (sizeof(T) == 4) {
      return {(typename Vec<T>::Raw)_mm512_mask_mov_ps((__m512)b.v, bits, (__m512)a.v)};
    } else {
      return {(typename Vec<T>::Raw)_mm512_mask_mov_pd((__m512d)b.v, bits, (__m512d)a.v)};
    }
  }
  ARRAYNN_MEMBER Ints<T> choose(Ints<T> a, Ints<T> b) const {
    if constexpr (sizeof(T) == 4) {
      return (Ints<T>)_mm512_mask_mov_epi32((__m512i)b, bits, (__m512i)a);
    } else {
      return (Ints<T>)_mm512_mask_mov_epi64((__m512i)b, bits, (__m512i)a);
    }
  }
#else
  Ints<T> lanes;

  ARRAYNN_MEMBER static Hits none() { return {Ints<T>{}}; }
  ARRAYNN_MEMBER static Hits of(Vec<T> a, Vec<T> b) { return {(a == b).v}; }
  ARRAYNN_MEMBER static Hits of(Ints<T> a, Ints<T> b) { return {a == b}; }
  ARRAYNN_MEMBER static Hits above(Vec<T> a, Vec<T> b) { return {(a > b).v}; }
  // Where b takes the place of a: the first NaN wins, then the first of equal values.
  ARRAYNN_MEMBER static Hits larger(Vec<T> b, Vec<T> a) { return {~((a >= b) | (a != a)).v}; }
  ARRAYNN_MEMBER Hits operator|(Hits b) const { return {lanes | b.lanes}; }
  ARRAYNN_MEMBER bool all() const { return all_lanes<T>(lanes); }
  ARRAYNN_MEMBER Vec<T> choose(Vec<T> a, Vec<T> b) const { return select(Mask<T>{lanes}, a, b); }
  ARRAYNN_MEMBER Ints<T> choose(Ints<T> a, Ints<T> b) const { return lanes ? a : b; }
#endif
};

// The largest value so far and its offset from the window's first position.
template <class T>
struct Best {
  Vec<T> value;
  Ints<T> offset;

  ARRAYNN_MEMBER void take(Vec<T> v, Ints<T> at) {
    const Hits<T> taken = Hits<T>::larger(v, value);
    value = taken.choose(v, value);
    offset = taken.choose(at, offset);
  }
  // Where there is no NaN: half the comparisons.
  ARRAYNN_MEMBER void take_ordered(Vec<T> v, Ints<T> at) {
    const Hits<T> taken = Hits<T>::above(v, value);
    value = taken.choose(v, value);
    offset = taken.choose(at, offset);
  }
};

// The best of kV vectors of taps each, and the offsets `first` where all are -inf. `visit` calls its
// argument with the index of a vector, a value and an offset, for every tap in order.
template <int kV, class T, class Visit>
ARRAYNN_INLINE void find_best(const Ints<T> (&first)[kV], Best<T> (&b)[kV], const Visit& visit) {
  Vec<T> sum[kV];
#pragma GCC unroll 16
  for (int v = 0; v < kV; ++v) {
    b[v] = {Vec<T>::set1(-T(__builtin_inf())), first[v]};
    sum[v] = Vec<T>::zero();
  }
  visit([&](int v, Vec<T> value, Ints<T> at) __attribute__((always_inline)) {
    b[v].take_ordered(value, at);
    sum[v] = sum[v] + value;
  });
  bool ordered = true;  // a NaN makes the sum one; infinities may
#pragma GCC unroll 16
  for (int v = 0; v < kV; ++v) ordered &= Hits<T>::of(sum[v], sum[v]).all();
  if (ordered) return;
#pragma GCC unroll 16
  for (int v = 0; v < kV; ++v) b[v] = {Vec<T>::set1(-T(__builtin_inf())), first[v]};
  visit([&](int v, Vec<T> value, Ints<T> at)
            __attribute__((always_inline)) { b[v].take(value, at); });
}

// base + offset of n <= kSize lanes.
template <class T>
ARRAYNN_INLINE void store_positions(std::int64_t base, Ints<T> offset, std::int64_t n,
                                    std::int64_t* to) {
  constexpr std::int64_t kL = kLanes<T>;
#if defined(__AVX512F__)
  if (sizeof(T) == 4 && n == kL) {
    const __m512i first = _mm512_set1_epi64(base), all = (__m512i)offset;
    const __m256i low = _mm512_maskz_extracti64x4_epi64(0xFF, all, 0);
    const __m256i high = _mm512_maskz_extracti64x4_epi64(0xFF, all, 1);
    _mm512_storeu_si512(to, _mm512_add_epi64(first, _mm512_maskz_cvtepi32_epi64(0xFF, low)));
    _mm512_storeu_si512(to + 8, _mm512_add_epi64(first, _mm512_maskz_cvtepi32_epi64(0xFF, high)));
    return;
  }
#endif
  Int<T> lanes[kL];
  store_ints<T>(offset, lanes);
  if (n == kL) {
    for (std::int64_t l = 0; l < kL; ++l) to[l] = base + lanes[l];
  } else {
    for (std::int64_t l = 0; l < n; ++l) to[l] = base + lanes[l];
  }
}

}  // namespace
}  // namespace ARRAYNN_ISA_NAMESPACE
