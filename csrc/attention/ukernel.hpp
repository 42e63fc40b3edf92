// The products of attention: C[i][j] (+)= sum_p A(i, p) B[p][j], A read by broadcast in either order,
// B rows of whole vectors, products added in the order of p.
#pragma once
#include "gemm/blocking.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// How A lies in memory: rows contiguous along p, or columns contiguous along i.
enum class Order : bool { kRows, kColumns };

template <class T, Order kOrder, int kRows, int kVectors>
[[gnu::noinline]] static void product_tile(const T* a, std::int64_t lda, std::int64_t k, const T* b,
                                           std::int64_t ldb, T* c, std::int64_t ldc, bool add) {
  constexpr int kL = kLanes<T>;
  Vec<T> acc[kRows][kVectors];
  ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
    ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j] = Vec<T>::zero();
  }
  const T* rows[kRows];
  ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) rows[i] = a + i * lda;
  for (std::int64_t p = 0; p < k; ++p) {
    Vec<T> bv[kVectors];
    ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) bv[j] = Vec<T>::load(b + j * kL);
    b += ldb;
    ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
      const Vec<T> av = Vec<T>::set1(kOrder == Order::kRows ? rows[i][p] : a[i]);
      ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(av, bv[j], acc[i][j]);
    }
    if constexpr (kOrder == Order::kColumns) a += lda;
  }
  ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
    ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) {
      T* to = c + i * ldc + j * kL;
      (add ? Vec<T>::load(to) + acc[i][j] : acc[i][j]).store(to);
    }
  }
}

template <class T>
using ProductTile = void (*)(const T*, std::int64_t, std::int64_t, const T*, std::int64_t, T*,
                             std::int64_t, bool);
template <class T>
struct ProductTiles {
  ProductTile<T> table[kMR][kNV];
};
template <class T, Order kOrder, int kRows>
ARRAYNN_INLINE constexpr void fill_product_tiles(ProductTiles<T>& t) {
  t.table[kRows - 1][0] = &product_tile<T, kOrder, kRows, 1>;
  t.table[kRows - 1][1] = &product_tile<T, kOrder, kRows, 2>;
  if constexpr (kRows > 1) fill_product_tiles<T, kOrder, kRows - 1>(t);
}
template <class T, Order kOrder>
ARRAYNN_INLINE constexpr ProductTiles<T> make_product_tiles() {
  ProductTiles<T> t{};
  fill_product_tiles<T, kOrder, kMR>(t);
  return t;
}
template <class T, Order kOrder>
static constexpr ProductTiles<T> kProductTiles = make_product_tiles<T, kOrder>();

// m x n, n whole vectors.
template <class T, Order kOrder>
static void product(std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t lda,
                    const T* b, std::int64_t ldb, T* c, std::int64_t ldc, bool add) {
  const std::int64_t tiles = ceil_div(m, kMR);
  for (std::int64_t j = 0; j < n; j += kNR<T>) {
    const int vectors = n - j > kLanes<T> ? 1 : 0;
    for (std::int64_t t = 0; t < tiles; ++t) {
      const Range r = split_range(m, tiles, t);
      kProductTiles<T, kOrder>.table[r.end - r.begin - 1][vectors](
          a + r.begin * (kOrder == Order::kRows ? lda : 1), lda, k, b + j, ldb,
          c + r.begin * ldc + j, ldc, add);
    }
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
