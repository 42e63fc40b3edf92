// Square in-register transposes.
#pragma once
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// One butterfly stage on the pair (a, b) = rows (i, i + kStep): lanes with bit kStep set in `a`
// change places with lanes without it in `b`.
template <int kStep>
ARRAYNN_INLINE void exchange(Vec<float>& a, Vec<float>& b) {
  const auto x = a.v, y = b.v;
#define L(l) ((l) & kStep ? (l) - kStep + kLanes<float> : (l))
#define H(l) ((l) & kStep ? (l) + kLanes<float> : (l) + kStep)
#if defined(__AVX512F__)
  a.v = __builtin_shufflevector(x, y, L(0), L(1), L(2), L(3), L(4), L(5), L(6), L(7), L(8), L(9),
                                L(10), L(11), L(12), L(13), L(14), L(15));
  b.v = __builtin_shufflevector(x, y, H(0), H(1), H(2), H(3), H(4), H(5), H(6), H(7), H(8), H(9),
                                H(10), H(11), H(12), H(13), H(14), H(15));
#elif defined(__AVX2__)
  a.v = __builtin_shufflevector(x, y, L(0), L(1), L(2), L(3), L(4), L(5), L(6), L(7));
  b.v = __builtin_shufflevector(x, y, H(0), H(1), H(2), H(3), H(4), H(5), H(6), H(7));
#else
  a.v = __builtin_shufflevector(x, y, L(0), L(1), L(2), L(3));
  b.v = __builtin_shufflevector(x, y, H(0), H(1), H(2), H(3));
#endif
#undef L
#undef H
}
template <int kStep>
ARRAYNN_INLINE void exchange(Vec<double>& a, Vec<double>& b) {
  const auto x = a.v, y = b.v;
#define L(l) ((l) & kStep ? (l) - kStep + kLanes<double> : (l))
#define H(l) ((l) & kStep ? (l) + kLanes<double> : (l) + kStep)
#if defined(__AVX512F__)
  a.v = __builtin_shufflevector(x, y, L(0), L(1), L(2), L(3), L(4), L(5), L(6), L(7));
  b.v = __builtin_shufflevector(x, y, H(0), H(1), H(2), H(3), H(4), H(5), H(6), H(7));
#elif defined(__AVX2__)
  a.v = __builtin_shufflevector(x, y, L(0), L(1), L(2), L(3));
  b.v = __builtin_shufflevector(x, y, H(0), H(1), H(2), H(3));
#else
  a.v = __builtin_shufflevector(x, y, L(0), L(1));
  b.v = __builtin_shufflevector(x, y, H(0), H(1));
#endif
#undef L
#undef H
}

template <int kStep, class T>
ARRAYNN_INLINE void transpose_stage(Vec<T> (&rows)[kLanes<T>]) {
  if constexpr (kStep < kLanes<T>) {
    for (int i = 0; i < kLanes<T>; ++i) {
      if ((i & kStep) == 0) exchange<kStep>(rows[i], rows[i + kStep]);
    }
    transpose_stage<kStep * 2>(rows);
  }
}

// rows[i] lane j <-> rows[j] lane i.
template <class T>
ARRAYNN_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
  transpose_stage<1>(rows);
}

// dst[j * ld_dst + i] = src[i * ld_src + j] for i < rows, j < cols, in vector-sized squares.
template <class T>
static inline void transpose_copy(const T* src, std::int64_t ld_src, T* dst, std::int64_t ld_dst,
                                  std::int64_t rows, std::int64_t cols) {
  constexpr int kL = kLanes<T>;
  for (std::int64_t i = 0; i < rows; i += kL) {
    const std::int64_t height = min_i(kL, rows - i);
    for (std::int64_t j = 0; j < cols; j += kL) {
      const std::int64_t width = min_i(kL, cols - j);
      const T* s = src + i * ld_src + j;
      T* d = dst + j * ld_dst + i;
      Vec<T> v[kL];
      if (height == kL && width == kL) {
        for (int r = 0; r < kL; ++r) v[r] = Vec<T>::load(s + r * ld_src);
        transpose(v);
        for (int r = 0; r < kL; ++r) v[r].store(d + r * ld_dst);
      } else {
        for (int r = 0; r < kL; ++r) {
          v[r] = r < height ? load_n(s + r * ld_src, width) : Vec<T>::zero();
        }
        transpose(v);
        for (int r = 0; r < kL; ++r) {
          if (r < width) store_n(v[r], d + r * ld_dst, height);
        }
      }
    }
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
