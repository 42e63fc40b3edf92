// The microkernel of the gradients by the weights: products of pixels, summed over the pixels.
#pragma once
#include <cstdint>

#include "gemm/tile_table.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Where an output row begins in the staged x and in dy.
struct PixelRow {
  std::int64_t x, dy;
};
constexpr std::int64_t kPixelRowEntries = sizeof(PixelRow) / sizeof(std::int64_t);

// acc[i][j] += sum over rows r, over pixels p: a[row[r].x + p a_step + i] b[row[r].dy + p ldb + j]
//   a: rows of consecutive elements, b: NV vectors a pixel
template <class T, int kRows, int kVectors>
[[gnu::noinline]] static void pixel_ukernel(const T* a, const PixelRow* row, std::int64_t rows,
                                            std::int64_t pixels, std::int64_t a_step,
                                            const T* b_first, std::int64_t ldb, T* acc_out,
                                            std::int64_t ld_acc) {
  constexpr int kL = kLanes<T>;
  Vec<T> acc[kRows][kVectors];
  ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
    ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j] = Vec<T>::zero();
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    const T *x = a + row[r].x, *b = b_first + row[r].dy;
    for (std::int64_t p = 0; p < pixels; ++p) {
      Vec<T> bv[kVectors];
      ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) bv[j] = Vec<T>::load(b + j * kL);
      b += ldb;
      ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
        const Vec<T> av = Vec<T>::set1(x[i]);
        ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(av, bv[j], acc[i][j]);
      }
      x += a_step;
    }
  }
  ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
    ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) {
      T* out = acc_out + i * ld_acc + j * kL;
      (Vec<T>::load(out) + acc[i][j]).store(out);
    }
  }
}

template <class T>
struct PixelTiles {
  template <int kRows, int kVectors>
  static constexpr auto tile() {
    return &pixel_ukernel<T, kRows, kVectors>;
  }
};

}  // namespace ARRAYNN_ISA_NAMESPACE
