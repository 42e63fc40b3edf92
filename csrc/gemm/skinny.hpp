// gemm with at most kSkinnyRows rows: bound by reading B once, so B is never packed.
#pragma once
#include "gemm/ukernel.hpp"
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Columns of B contiguous (B = W^T): kLanes columns at a time, squares transposed in registers.
template <class T, int kRows>
static void skinny_transposed(const GemmProblem<T>& g, const T* const* a_rows, Range columns) {
  constexpr int kL = kLanes<T>;
  constexpr int kAhead = 256 / static_cast<int>(sizeof(T));  // four lines, measured best of 2..16
  T* c_rows[kRows];
  const T* residual_rows[kRows];
  for (std::int64_t j = columns.begin; j < columns.end; j += kL) {
    const std::int64_t width = min_i(kL, columns.end - j);
    const T* w = g.b + j * g.cs_b;
    Vec<T> total[kRows][1];
    for (int i = 0; i < kRows; ++i) total[i][0] = Vec<T>::zero();
    for (std::int64_t p0 = 0; p0 < g.k; p0 += kKC<T>) {
      const std::int64_t p_end = min_i(g.k, p0 + kKC<T>);
      Vec<T> acc[kRows];
      for (int i = 0; i < kRows; ++i) acc[i] = Vec<T>::zero();
      std::int64_t p = p0;
      if (width == kL) {
        for (; p + kL <= p_end; p += kL) {
          Vec<T> v[kL];
          for (int r = 0; r < kL; ++r) {
            __builtin_prefetch(w + r * g.cs_b + p + kAhead);
            v[r] = Vec<T>::load(w + r * g.cs_b + p);
          }
          transpose(v);
          for (int q = 0; q < kL; ++q) {
            for (int i = 0; i < kRows; ++i) {
              acc[i] = fma(Vec<T>::set1(a_rows[i][p + q]), v[q], acc[i]);
            }
          }
        }
      }
      for (; p < p_end; p += kL) {
        const std::int64_t depth = min_i(kL, p_end - p);
        Vec<T> v[kL];
        for (int r = 0; r < kL; ++r) {
          v[r] = r < width ? load_n(w + r * g.cs_b + p, depth) : Vec<T>::zero();
        }
        transpose(v);
        for (int q = 0; q < kL; ++q) {
          if (q >= depth) break;
          for (int i = 0; i < kRows; ++i) {
            acc[i] = fma(Vec<T>::set1(a_rows[i][p + q]), v[q], acc[i]);
          }
        }
      }
      for (int i = 0; i < kRows; ++i) total[i][0] = p0 == 0 ? acc[i] : total[i][0] + acc[i];
    }
    const auto store = tile_store(g, 0, j, kRows, width, false, true, c_rows, residual_rows);
    store_tile(total, store);
    if (store.activation.kind > ActivationKind::kRelu) {
      activate_rows(store.activation, store.c_rows, kRows, width);
    }
  }
}

// Rows of B contiguous: as many columns at a time as there are registers for.
template <class T, int kRows, int kVectors, bool kPartial>
static void skinny_block(const GemmProblem<T>& g, const T* const* a_rows, std::int64_t j,
                         std::int64_t width) {
  constexpr int kL = kLanes<T>;
  constexpr int kAhead = 8;  // rows
  T* c_rows[kRows];
  const T* residual_rows[kRows];
  const std::int64_t blocks = max_i(1, ceil_div(g.k, kKC<T>));
  for (std::int64_t block = 0; block < blocks; ++block) {
    const std::int64_t p0 = block * kKC<T>, p_end = min_i(g.k, p0 + kKC<T>);
    Vec<T> acc[kRows][kVectors];
    for (int i = 0; i < kRows; ++i) {
      for (int v = 0; v < kVectors; ++v) acc[i][v] = Vec<T>::zero();
    }
    for (std::int64_t p = p0; p < p_end; ++p) {
      const T* b = g.b + p * g.rs_b + j;
      for (int v = 0; v < kVectors; ++v) {
        if constexpr (!kPartial) __builtin_prefetch(b + kAhead * g.rs_b + v * kL);
        const Vec<T> bv = kPartial ? load_n(b, width) : Vec<T>::load(b + v * kL);
        for (int i = 0; i < kRows; ++i) acc[i][v] = fma(Vec<T>::set1(a_rows[i][p]), bv, acc[i][v]);
      }
    }
    const auto store =
        tile_store(g, 0, j, kRows, width, block > 0, block + 1 == blocks, c_rows, residual_rows);
    store_tile(acc, store);
    if (store.activation.kind > ActivationKind::kRelu) {
      activate_rows(store.activation, store.c_rows, kRows, width);
    }
  }
}

template <class T, int kRows>
static void skinny_rows(const GemmProblem<T>& g, const T* const* a_rows, Range columns) {
  constexpr int kL = kLanes<T>;
  constexpr int kMost = (kVectorRegisters - 4) / kRows;
  constexpr int kVectors = kMost > 16 ? 16 : kMost;
  std::int64_t j = columns.begin;
  for (; j + kVectors * kL <= columns.end; j += kVectors * kL) {
    skinny_block<T, kRows, kVectors, false>(g, a_rows, j, kVectors * kL);
  }
  for (; j + kL <= columns.end; j += kL) skinny_block<T, kRows, 1, false>(g, a_rows, j, kL);
  if (j < columns.end) skinny_block<T, kRows, 1, true>(g, a_rows, j, columns.end - j);
}

template <class T, int kRows = kSkinnyRows>
static void skinny(const GemmProblem<T>& g, const T* const* a_rows, Range columns) {
  if constexpr (kRows > 0) {
    if (g.m < kRows) return skinny<T, kRows - 1>(g, a_rows, columns);
    if (g.cs_b == 1) return skinny_rows<T, kRows>(g, a_rows, columns);
    return skinny_transposed<T, kRows>(g, a_rows, columns);
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
