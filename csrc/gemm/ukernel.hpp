// The microkernel of gemm and of the direct convolutions.
//
//   sum[i][j] = sum over taps t, over p in [0, k):
//                 a_rows[i][taps[t].a + p] * b[taps[t].index * b_step + p ldb + j]
//   C[i][j]   = activation((accumulate ? C[i][j] : 0) + sum[i][j] + bias + residual)   per `store`
//
//   1 <= m <= MR rows, 1 <= n <= NR columns, k >= 0, taps >= 0
//   a_rows: m pointers, any spacing; elements along p are contiguous (row kernel)
//   b:      rows of at least NV vectors; columns >= n may hold anything readable
//   c_rows: m pointers; columns >= n are never touched. C is not read unless `accumulate`
// Products are added in the order of t, then p, starting from 0.
#pragma once
#include "elementwise/activation.hpp"
#include "gemm/gemm.hpp"
#include "gemm/tile_table.hpp"
#include "simd/activation.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Pieces of k: piece `index` of b meets the elements from `a` on of every row.
struct Tap {
  std::int64_t a, index;
};
struct TapList {
  const Tap* at;
  std::int64_t count;
  std::int64_t b_step;  // elements of b from one index to the next
};

template <class T>
struct TileStore {
  T* const* c_rows;
  std::int64_t n;
  bool accumulate;
  const T* column_bias;           // [n] or null
  const T* row_bias;              // [m] or null
  const T* const* residual_rows;  // m pointers or null
  Activation activation;          // kNone unless this is the last block of the sum
};

// The activations that are not worth a register tile of their own: one pass over a tile in L1.
template <class T>
[[gnu::noinline]] static void activate_rows(const Activation& activation, T* const* rows,
                                            std::int64_t m, std::int64_t n) {
  constexpr int kL = kLanes<T>;
  visit_activation<T>(activation, [&](auto f) {
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n; j += kL) {
        const std::int64_t width = min_i(kL, n - j);
        T* p = rows[i] + j;
        if (width == kL) {
          f.forward(Vec<T>::load(p)).store(p);
        } else {
          store_n(f.forward(load_n(p, width)), p, width);
        }
      }
    }
  });
}

// The last vector of a row is not whole: out of the way of the tiles that are, whose sums never
// leave the registers. sums: rows of `ld`.
template <class T>
[[gnu::noinline]] static void store_part(const T* sums, std::int64_t ld, std::int64_t rows,
                                         const TileStore<T>& s) {
  constexpr int kL = kLanes<T>;
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < s.n; j += kL) {
      const std::int64_t n = min_i(kL, s.n - j);
      Vec<T> v = Vec<T>::load(sums + i * ld + j);
      if (s.accumulate) v = load_n(s.c_rows[i] + j, n) + v;
      if (s.column_bias != nullptr) v = v + load_n(s.column_bias + j, n);
      if (s.row_bias != nullptr) v = v + Vec<T>::set1(s.row_bias[i]);
      if (s.residual_rows != nullptr) v = v + load_n(s.residual_rows[i] + j, n);
      if (s.activation.kind == ActivationKind::kRelu) v = max(Vec<T>::zero(), v);
      store_n(v, s.c_rows[i] + j, n);
    }
  }
}

template <class T, int kRows, int kVectors>
ARRAYNN_INLINE void store_tile(Vec<T> (&acc)[kRows][kVectors], const TileStore<T>& s) {
  constexpr int kL = kLanes<T>;
  if (s.n != kVectors * kL) {
    alignas(kVecBytes) T sums[kRows * kVectors * kL];
    ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
      ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) {
        acc[i][j].store(sums + (i * kVectors + j) * kL);
      }
    }
    return store_part(sums, kVectors * kL, kRows, s);
  }
  if (s.accumulate) {
    ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
      ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) {
        acc[i][j] = Vec<T>::load(s.c_rows[i] + j * kL) + acc[i][j];
      }
    }
  }
  if (s.column_bias != nullptr) {
    ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) {
      const Vec<T> bias = Vec<T>::load(s.column_bias + j * kL);
      ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) acc[i][j] = acc[i][j] + bias;
    }
  }
  if (s.row_bias != nullptr) {
    ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
      const Vec<T> bias = Vec<T>::set1(s.row_bias[i]);
      ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j] = acc[i][j] + bias;
    }
  }
  if (s.residual_rows != nullptr) {
    ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
      ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) {
        acc[i][j] = acc[i][j] + Vec<T>::load(s.residual_rows[i] + j * kL);
      }
    }
  }
  if (s.activation.kind == ActivationKind::kRelu) {
    ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
      ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) {
        acc[i][j] = max(Vec<T>::zero(), acc[i][j]);
      }
    }
  }
  ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
    ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j].store(s.c_rows[i] + j * kL);
  }
}

// Sums of fewer products are short: a tile of C waits for memory as long as they take. Their rows of
// C are fetched one with every few products, since all at once would hold up the loads of A and B
// (64 products: 4 to 9 % faster; 512: 1 to 6 % slower, for the loop around the loop).
inline constexpr std::int64_t kShortSum = 192;
inline constexpr int kProductsPerFetch = 4;

// What a product is: of T itself, or of what a lane's bits stand for (cpu_bf16.cpp).
struct PlainProducts {
  template <class T>
  ARRAYNN_MEMBER static Vec<T> add(Vec<T> a, Vec<T> b, Vec<T> sum) {
    return fma(a, b, sum);
  }
};

// Rows of A by pointer, contiguous along k.
template <class T, int kRows, int kVectors, bool kShort, class Products>
[[gnu::noinline]] static void row_ukernel(const T* const* a_rows, std::int64_t k,
                                          const TapList& taps, const T* b_first, std::int64_t ldb,
                                          const TileStore<T>& store) {
  constexpr int kL = kLanes<T>;
  // The tile of C arrives while the sums are formed.
  std::int64_t fetched = 0;
  const auto fetch_row = [&] {
    ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) {
      __builtin_prefetch(store.c_rows[fetched] + j * kL, 1);
    }
    ++fetched;
  };
  const std::int64_t with_products = kShort ? taps.count * (k / kProductsPerFetch) : 0;
  ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
    if (!kShort || i < kRows - with_products) fetch_row();
  }
  Vec<T> acc[kRows][kVectors];
  ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
    ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j] = Vec<T>::zero();
  }
  for (std::int64_t t = 0; t < taps.count; ++t) {
    const Tap tap = taps.at[t];
    const T* b = b_first + tap.index * taps.b_step;
    const T* a[kRows];
    ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) a[i] = a_rows[i] + tap.a;
    std::int64_t p = 0;
    do {
      std::int64_t end = k;
      if (kShort && fetched < kRows) {
        fetch_row();
        end = min_i(k, p + kProductsPerFetch);
      }
      for (; p < end; ++p) {
        Vec<T> bv[kVectors];
        ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) bv[j] = Vec<T>::load(b + j * kL);
        b += ldb;
        ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
          const Vec<T> av = Vec<T>::set1(a[i][p]);
          ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) {
            acc[i][j] = Products::add(av, bv[j], acc[i][j]);
          }
        }
      }
    } while (kShort && p < k);
  }
  store_tile(acc, store);
}

template <class T, bool kShort, class Products>
struct RowTiles {
  template <int kRows, int kVectors>
  static constexpr auto tile() {
    return &row_ukernel<T, kRows, kVectors, kShort, Products>;
  }
};

// Where tile (i, j) of a gemm goes; fills the pointer arrays that the result refers to.
template <class T>
ARRAYNN_INLINE TileStore<T> tile_store(const GemmProblem<T>& g, std::int64_t i, std::int64_t j,
                                       std::int64_t m, std::int64_t n, bool accumulate, bool last,
                                       T** c_rows, const T** residual_rows) {
  const Epilogue<T>& e = g.epilogue;
  for (std::int64_t r = 0; r < m; ++r) c_rows[r] = g.c + (i + r) * g.rs_c + j;
  TileStore<T> store{c_rows,  n,           accumulate || g.accumulate, nullptr, nullptr,
                     nullptr, Activation{}};
  if (!last) return store;
  if (e.bias_axis == BiasAxis::kColumn) store.column_bias = e.bias + j;
  if (e.bias_axis == BiasAxis::kRow) store.row_bias = e.bias + i;
  if (e.residual != nullptr) {
    for (std::int64_t r = 0; r < m; ++r)
      residual_rows[r] = e.residual + (i + r) * e.rs_residual + j;
    store.residual_rows = residual_rows;
  }
  store.activation = e.activation;
  return store;
}

// One tile: m x store.n, columns of a panel with row stride ldb.
template <class Products = PlainProducts, class T>
ARRAYNN_INLINE void run_tile(std::int64_t m, const T* const* a_rows, std::int64_t k,
                             const TapList& taps, const T* b, std::int64_t ldb,
                             const TileStore<T>& store) {
  const int vectors = store.n > kLanes<T> ? 2 : 1;
  const auto tile = taps.count * k < kShortSum
                        ? kTileTable<RowTiles<T, true, Products>>.at[m - 1][vectors - 1]
                        : kTileTable<RowTiles<T, false, Products>>.at[m - 1][vectors - 1];
  tile(a_rows, k, taps, b, ldb, store);
  if (store.activation.kind > ActivationKind::kRelu) {
    activate_rows(store.activation, store.c_rows, m, store.n);
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
