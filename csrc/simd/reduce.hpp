// Sums across the lanes of several vectors at once.
#pragma once
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// The same value, and what is computed before it is not mixed with what comes after.
template <class T>
ARRAYNN_INLINE void keep_order(Vec<T>& a) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(a.v));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(a.v));
#endif
}

template <class T, bool kUpper>
using UnpackPairs = Unpack<T, 2, kUpper>;
// Lower or upper halves of a and b; of every 128 bits the even or the odd lanes of a, then of b.
template <class T, bool kUpper>
struct Halves {
  static constexpr int at(int l) {
    constexpr int kHalf = kLanes<T> / 2;
    return l % kHalf + (kUpper ? kHalf : 0) + (l >= kHalf ? kLanes<T> : 0);
  }
};
template <class T, bool kOdd>
struct EveryOther {
  static constexpr int at(int l) {
    const int block = l / kBlock<T> * kBlock<T>, in = l % kBlock<T>, half = kBlock<T> / 2;
    return block + in % half * 2 + (kOdd ? 1 : 0) + (in >= half ? kLanes<T> : 0);
  }
};
template <template <class, bool> class Index, class T>
ARRAYNN_INLINE Vec<T> add_parts(Vec<T> a, Vec<T> b) {
  return shuffle<Index<T, false>>(a, b) + shuffle<Index<T, true>>(a, b);
}

// Lane i is reduce_add(rows[i]), to the bit: the sums of all rows go down one tree together.
template <class T>
ARRAYNN_INLINE Vec<T> reduce_add_rows(const Vec<T>* rows) {
  constexpr int kL = kLanes<T>, kB = kBlock<T>;
  Vec<T> sums[kB];
  ARRAYNN_UNROLL
  for (int c = 0; c < kB; ++c) {
    const Vec<T>* r = rows + c;
    if constexpr (kL == kB) {
      sums[c] = r[0];
    } else if constexpr (kL == 2 * kB) {
      sums[c] = add_parts<Halves>(r[0], r[kB]);
    } else {
      sums[c] = add_parts<Blocks>(add_parts<Halves>(r[0], r[kB]),
                                  add_parts<Halves>(r[2 * kB], r[3 * kB]));
    }
  }
  if constexpr (kB == 2) {
    return add_parts<EveryOther>(sums[0], sums[1]);
  } else {
    return add_parts<EveryOther>(add_parts<UnpackPairs>(sums[0], sums[1]),
                                 add_parts<UnpackPairs>(sums[2], sums[3]));
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
