// The products of attention: C[i][j] (+)= sum_p A(i, p) B[p][j], A read by broadcast in either order,
// B rows of whole vectors, products added in the order of p.
#pragma once
#include "gemm/tile_table.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// How A lies in memory: rows contiguous along p, or columns contiguous along i.
enum class Order : bool { kRows, kColumns };

// What adds a product to a sum: of T itself, or of what a lane's bits stand for.
struct OwnProducts {
  template <class T>
  ARRAYNN_MEMBER static Vec<T> add(Vec<T> a, Vec<T> b, Vec<T> sum) {
    return fma(a, b, sum);
  }
};

template <class T, Order kOrder, class Products, int kRows, int kVectors>
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
      ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j] =
          Products::add(av, bv[j], acc[i][j]);
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

template <class T, Order kOrder, class Products>
struct ProductTiles {
  template <int kRows, int kVectors>
  static constexpr auto tile() {
    return &product_tile<T, kOrder, Products, kRows, kVectors>;
  }
};

struct Nothing {
  [[gnu::always_inline]] inline void operator()() const {}
};

// m x n, n whole vectors; between() runs once a tile.
template <class T, Order kOrder, class Products = OwnProducts, class F = Nothing>
static void product(std::int64_t m, std::int64_t n, std::int64_t k, const T* a, std::int64_t lda,
                    const T* b, std::int64_t ldb, T* c, std::int64_t ldc, bool add,
                    F&& between = {}) {
  const std::int64_t tiles = ceil_div(m, kMR);
  for (std::int64_t j = 0; j < n; j += kNR<T>) {
    const int vectors = n - j > kLanes<T> ? 1 : 0;
    for (std::int64_t t = 0; t < tiles; ++t) {
      const Range r = split_range(m, tiles, t);
      kTileTable<ProductTiles<T, kOrder, Products>>.at[r.end - r.begin - 1][vectors](
          a + r.begin * (kOrder == Order::kRows ? lda : 1), lda, k, b + j, ldb,
          c + r.begin * ldc + j, ldc, add);
      between();
    }
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
