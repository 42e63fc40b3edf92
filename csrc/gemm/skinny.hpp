// gemm with at most kSkinnyRows rows: bound by reading B once, so B is never packed. S is the type of
// its elements in memory.
#pragma once
#include "gemm/ukernel.hpp"
#include "simd/storage.hpp"
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Bytes of B that no cache keeps from one call to the next. Its rows are then fetched this far ahead: 7
// to 20 % more from memory, 10 to 30 % less where L2 or L3 has them.
inline constexpr std::int64_t kFarBytes = 16 << 20, kFetchAhead = 1024;

template <class S, class T>
ARRAYNN_INLINE const S* elements_of_b(const GemmProblem<T>& g) {
  return static_cast<const S*>(static_cast<const void*>(g.b));
}

// Columns of B contiguous (B = W^T): kLanes columns at a time, squares transposed in registers.
template <class T, class S, int kRows>
static void skinny_transposed(const GemmProblem<T>& g, const T* const* a_rows, Range columns) {
  constexpr int kL = kLanes<T>;
  T* c_rows[kRows];
  const T* residual_rows[kRows];
  const S* const b = elements_of_b<S>(g);
  std::int64_t head = 0;
  if constexpr (sizeof(S) == sizeof(T)) head = unaligned_head(b, g.cs_b);
  const bool far = g.n * g.k * std::int64_t{sizeof(S)} > kFarBytes;
  for (std::int64_t j = columns.begin; j < columns.end; j += kL) {
    const std::int64_t width = min_i(kL, columns.end - j);
    const S* w = b + j * g.cs_b;
    Vec<T> total[kRows][1];
    for (int i = 0; i < kRows; ++i) total[i][0] = Vec<T>::zero();
    for (std::int64_t p0 = 0; p0 < g.k; p0 += kKC<T>) {
      const std::int64_t p_end = min_i(g.k, p0 + kKC<T>);
      Vec<T> acc[kRows];
      for (int i = 0; i < kRows; ++i) acc[i] = Vec<T>::zero();
      const auto add = [&](const Vec<T>(&v)[kL], std::int64_t p, std::int64_t depth) {
        for (int q = 0; q < kL; ++q) {
          if (q >= depth) break;
          for (int i = 0; i < kRows; ++i) {
            acc[i] = fma(Vec<T>::set1(a_rows[i][p + q]), v[q], acc[i]);
          }
        }
      };
      const auto part = [&](std::int64_t p, std::int64_t depth) {
        Vec<T> v[kL];
        for (int r = 0; r < kL; ++r) {
          v[r] = r < width ? load_n(w + r * g.cs_b + p, depth) : Vec<T>::zero();
        }
        transpose(v);
        add(v, p, depth);
      };
      std::int64_t p = min_i(p_end, p0 + head);
      if (p > p0) part(p0, p - p0);
      if (width == kL) {
        for (; p + kL <= p_end; p += kL) {
          Vec<T> v[kL];
          for (int r = 0; r < kL; ++r) {
            const S* row = w + r * g.cs_b + p;
            v[r] = load(row);
            if (far) __builtin_prefetch(reinterpret_cast<const char*>(row) + kFetchAhead, 0, 2);
          }
          transpose(v);
          add(v, p, kL);
        }
      }
      for (; p < p_end; p += kL) part(p, min_i(kL, p_end - p));
      for (int i = 0; i < kRows; ++i) total[i][0] = p0 == 0 ? acc[i] : total[i][0] + acc[i];
    }
    const auto store = tile_store(g, 0, j, kRows, width, false, true, c_rows, residual_rows);
    store_tile(total, store);
    if (store.activation.kind > ActivationKind::kRelu) {
      activate_rows(store.activation, store.c_rows, kRows, width);
    }
  }
}

// Sums of one chunk of columns over k in [p0, p_end): kDepth rows of B at a time, so that memory
// delivers several streams at once.
template <class T, class S, int kRows, int kDepth>
ARRAYNN_INLINE std::int64_t add_rows(const GemmProblem<T>& g, const T* const* a_rows,
                                     std::int64_t p, std::int64_t p_end, std::int64_t j,
                                     std::int64_t width, T* sums, std::int64_t ld) {
  constexpr int kL = kLanes<T>;
  for (; p + kDepth <= p_end; p += kDepth) {
    const S* b = elements_of_b<S>(g) + p * g.rs_b + j;
    for (std::int64_t v = 0; v < width; v += kL) {
      const std::int64_t lanes = min_i(kL, width - v);
      Vec<T> acc[kRows];
      for (int i = 0; i < kRows; ++i) acc[i] = Vec<T>::load(sums + i * ld + v);
      for (int q = 0; q < kDepth; ++q) {
        const S* row = b + q * g.rs_b + v;
        const Vec<T> bv = lanes == kL ? load(row) : load_n(row, lanes);
        for (int i = 0; i < kRows; ++i) acc[i] = fma(Vec<T>::set1(a_rows[i][p + q]), bv, acc[i]);
      }
      for (int i = 0; i < kRows; ++i) acc[i].store(sums + i * ld + v);
    }
  }
  return p;
}

// Rows of B contiguous: the sums of a chunk of columns wait in L1.
template <class T, class S, int kRows>
static void skinny_rows(const GemmProblem<T>& g, const T* const* a_rows, Range columns) {
  constexpr int kL = kLanes<T>;
  constexpr int kSums = (16 << 10) / static_cast<int>(sizeof(T));  // 16 KiB, half of L1
  constexpr std::int64_t kChunk = kSums / kRows / kL * kL;
  alignas(64) T sums[kSums];
  T* c_rows[kRows];
  const T* residual_rows[kRows];
  const std::int64_t blocks = max_i(1, ceil_div(g.k, kKC<T>));
  for (std::int64_t j = columns.begin; j < columns.end; j += kChunk) {
    const std::int64_t width = min_i(kChunk, columns.end - j);
    for (std::int64_t block = 0; block < blocks; ++block) {
      const std::int64_t p0 = block * kKC<T>, p_end = min_i(g.k, p0 + kKC<T>);
      __builtin_memset(sums, 0, sizeof sums);
      const std::int64_t p = add_rows<T, S, kRows, 8>(g, a_rows, p0, p_end, j, width, sums, kChunk);
      add_rows<T, S, kRows, 1>(g, a_rows, p, p_end, j, width, sums, kChunk);
      for (std::int64_t v = 0; v < width; v += kL) {
        const std::int64_t lanes = min_i(kL, width - v);
        Vec<T> acc[kRows][1];
        for (int i = 0; i < kRows; ++i) acc[i][0] = Vec<T>::load(sums + i * kChunk + v);
        const auto store = tile_store(g, 0, j + v, kRows, lanes, block > 0, block + 1 == blocks,
                                      c_rows, residual_rows);
        store_tile(acc, store);
        if (store.activation.kind > ActivationKind::kRelu) {
          activate_rows(store.activation, store.c_rows, kRows, lanes);
        }
      }
    }
  }
}

template <class T, class S = T, int kRows = kSkinnyRows>
static void skinny(const GemmProblem<T>& g, const T* const* a_rows, Range columns) {
  if constexpr (kRows > 0) {
    if (g.m < kRows) return skinny<T, S, kRows - 1>(g, a_rows, columns);
    if (g.cs_b == 1) return skinny_rows<T, S, kRows>(g, a_rows, columns);
    return skinny_transposed<T, S, kRows>(g, a_rows, columns);
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
