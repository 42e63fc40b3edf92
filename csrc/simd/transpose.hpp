// Square in-register transposes.
#pragma once
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Lane l of the result is lane Index::at(l) of a and b laid end to end.
template <class Index, class T>
ARRAYNN_INLINE Vec<T> shuffle(Vec<T> a, Vec<T> b) {
#define AT(l) Index::at(l)
  if constexpr (kLanes<T> == 2) {
    return {__builtin_shufflevector(a.v, b.v, AT(0), AT(1))};
  } else if constexpr (kLanes<T> == 4) {
    return {__builtin_shufflevector(a.v, b.v, AT(0), AT(1), AT(2), AT(3))};
  } else if constexpr (kLanes<T> == 8) {
    return {
        __builtin_shufflevector(a.v, b.v, AT(0), AT(1), AT(2), AT(3), AT(4), AT(5), AT(6), AT(7))};
  } else {
    return {__builtin_shufflevector(a.v, b.v, AT(0), AT(1), AT(2), AT(3), AT(4), AT(5), AT(6),
                                    AT(7), AT(8), AT(9), AT(10), AT(11), AT(12), AT(13), AT(14),
                                    AT(15))};
  }
#undef AT
}

// The index patterns are those of single instructions without an index register: the 16 rows of a
// square and every temporary then fit 32 registers.
template <class T>
inline constexpr int kBlock = 16 / static_cast<int>(sizeof(T));  // lanes of 128 bits

// Within every 128 bits: kRun lanes of a, then of b, from the lower or the upper half.
template <class T, int kRun, bool kUpper>
struct Unpack {
  static constexpr int at(int l) {
    const int block = l / kBlock<T> * kBlock<T>, in = l % kBlock<T>;
    const int pair = in / (2 * kRun), side = in / kRun % 2;
    return block + (kUpper ? kBlock<T> / 2 : 0) + pair * kRun + in % kRun +
           (side != 0 ? kLanes<T> : 0);
  }
};
// The even or the odd 128-bit blocks of a, then those of b.
template <class T, bool kOdd>
struct Blocks {
  static constexpr int at(int l) {
    const int block = 2 * (l / kBlock<T>)+(kOdd ? 1 : 0);
    return block * kBlock<T> + l % kBlock<T>;
  }
};

// rows[i] lane j <-> rows[j] lane i. First the squares of kBlock within 128 bits, then the blocks.
template <class T>
ARRAYNN_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
  constexpr int kL = kLanes<T>, kB = kBlock<T>;
  for (int g = 0; g < kL; g += kB) {
    Vec<T>* r = rows + g;
    const Vec<T> a = shuffle<Unpack<T, 1, false>>(r[0], r[1]);
    const Vec<T> b = shuffle<Unpack<T, 1, true>>(r[0], r[1]);
    if constexpr (kB == 2) {
      r[0] = a;
      r[1] = b;
    } else {
      const Vec<T> c = shuffle<Unpack<T, 1, false>>(r[2], r[3]);
      const Vec<T> d = shuffle<Unpack<T, 1, true>>(r[2], r[3]);
      r[0] = shuffle<Unpack<T, 2, false>>(a, c);
      r[1] = shuffle<Unpack<T, 2, true>>(a, c);
      r[2] = shuffle<Unpack<T, 2, false>>(b, d);
      r[3] = shuffle<Unpack<T, 2, true>>(b, d);
    }
  }
  for (int c = 0; c < kB; ++c) {
    Vec<T>* r = rows + c;
    if constexpr (kL == 2 * kB) {
      const Vec<T> a = r[0], b = r[kB];
      r[0] = shuffle<Blocks<T, false>>(a, b);
      r[kB] = shuffle<Blocks<T, true>>(a, b);
    } else if constexpr (kL == 4 * kB) {
      const Vec<T> a = shuffle<Blocks<T, false>>(r[0], r[kB]);
      const Vec<T> b = shuffle<Blocks<T, true>>(r[0], r[kB]);
      const Vec<T> d = shuffle<Blocks<T, false>>(r[2 * kB], r[3 * kB]);
      const Vec<T> e = shuffle<Blocks<T, true>>(r[2 * kB], r[3 * kB]);
      r[0] = shuffle<Blocks<T, false>>(a, d);
      r[kB] = shuffle<Blocks<T, false>>(b, e);
      r[2 * kB] = shuffle<Blocks<T, true>>(a, d);
      r[3 * kB] = shuffle<Blocks<T, true>>(b, e);
    }
  }
}

// True when rows this far apart would share cache sets: 14 rows over fewer than four sets of an
// 8-way L1 evict each other before their line is used up.
template <class T>
ARRAYNN_INLINE bool rows_alias(std::int64_t row_stride) {
  return row_stride * static_cast<std::int64_t>(sizeof(T)) % 2048 == 0;
}

// Elements before the first vector boundary of rows that alias: a square of whole lines reads every
// line once, one across two lines reads it again after its eviction.
template <class T>
ARRAYNN_INLINE std::int64_t unaligned_head(const T* p, std::int64_t row_stride) {
  const auto address = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(p) / sizeof(T));
  return rows_alias<T>(row_stride) ? -address & (kLanes<T> - 1) : 0;
}

// dst[j * ld_dst + i] = src[i * ld_src + j] for i < height, j < width: at most one square.
template <class T>
ARRAYNN_INLINE void transpose_part(const T* src, std::int64_t ld_src, T* dst, std::int64_t ld_dst,
                                   std::int64_t height, std::int64_t width) {
  constexpr int kL = kLanes<T>;
  Vec<T> v[kL];
  for (int r = 0; r < kL; ++r) {
    v[r] = r < height ? load_n(src + r * ld_src, width) : Vec<T>::zero();
  }
  transpose(v);
  for (int r = 0; r < kL; ++r) {
    if (r < width) store_n(v[r], dst + r * ld_dst, height);
  }
}

// dst[j * ld_dst + i] = src[i * ld_src + j] for i < rows, j < cols, in vector-sized squares.
template <class T>
static inline void transpose_copy(const T* src, std::int64_t ld_src, T* dst, std::int64_t ld_dst,
                                  std::int64_t rows, std::int64_t cols) {
  constexpr int kL = kLanes<T>;
  const std::int64_t head = min_i(cols, unaligned_head(src, ld_src));
  for (std::int64_t i = 0; i < rows; i += kL) {
    const std::int64_t height = min_i(kL, rows - i);
    const T* s = src + i * ld_src;
    T* d = dst + i;
    std::int64_t j = 0;
    if (head > 0) {
      transpose_part(s, ld_src, d, ld_dst, height, head);
      j = head;
    }
    if (height == kL) {
      for (; j + kL <= cols; j += kL) {
        Vec<T> v[kL];
        for (int r = 0; r < kL; ++r) v[r] = Vec<T>::load(s + r * ld_src + j);
        transpose(v);
        for (int r = 0; r < kL; ++r) v[r].store(d + (j + r) * ld_dst);
      }
    }
    for (; j < cols; j += kL) {
      transpose_part(s + j, ld_src, d + j * ld_dst, ld_dst, height, min_i(kL, cols - j));
    }
  }
}

// Every second lane of a and b laid end to end, and the way back: the lanes of the lower or the upper
// halves of a and b by turns.
template <class T, bool kOdd>
struct EverySecond {
  static constexpr int at(int l) { return 2 * l + (kOdd ? 1 : 0); }
};
template <class T, bool kUpper>
struct ByTurns {
  static constexpr int at(int l) {
    return l / 2 + (kUpper ? kLanes<T> / 2 : 0) + (l % 2 != 0 ? kLanes<T> : 0);
  }
};
template <class T>
ARRAYNN_INLINE void split_pair(Vec<T> a, Vec<T> b, Vec<T>* even, Vec<T>* odd) {
  *even = shuffle<EverySecond<T, false>>(a, b);
  *odd = shuffle<EverySecond<T, true>>(a, b);
}
template <class T>
ARRAYNN_INLINE void merge_pair(Vec<T> even, Vec<T> odd, Vec<T>* a, Vec<T>* b) {
  *a = shuffle<ByTurns<T, false>>(even, odd);
  *b = shuffle<ByTurns<T, true>>(even, odd);
}

// p[2 * i] for i < n.
template <class T>
ARRAYNN_INLINE Vec<T> load_even(const T* p, std::int64_t n) {
  constexpr int kL = kLanes<T>;
  const std::int64_t span = 2 * n - 1;
  return shuffle<EverySecond<T, false>>(load_n(p, min_i(kL, span)),
                                        span > kL ? load_n(p + kL, span - kL) : Vec<T>::zero());
}

// dst[j * ld_dst + i] = src[i * ld_src + 2 * j] for i < rows, j < cols.
template <class T>
static inline void transpose_even(const T* src, std::int64_t ld_src, T* dst, std::int64_t ld_dst,
                                  std::int64_t rows, std::int64_t cols) {
  constexpr int kL = kLanes<T>;
  for (std::int64_t i = 0; i < rows; i += kL) {
    const std::int64_t height = min_i(kL, rows - i);
    for (std::int64_t j = 0; j < cols; j += kL) {
      const std::int64_t width = min_i(kL, cols - j);
      const T* s = src + i * ld_src + 2 * j;
      Vec<T> v[kL];
      if (height == kL && j + kL < cols) {  // the last of 2 kL elements is inside
        for (int r = 0; r < kL; ++r) {
          const T* row = s + r * ld_src;
          v[r] = shuffle<EverySecond<T, false>>(Vec<T>::load(row), Vec<T>::load(row + kL));
        }
      } else {
        for (int r = 0; r < kL; ++r) {
          v[r] = r < height ? load_even(s + r * ld_src, width) : Vec<T>::zero();
        }
      }
      transpose(v);
      for (int r = 0; r < kL; ++r) {
        if (r < width) store_n(v[r], dst + (j + r) * ld_dst + i, height);
      }
    }
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
