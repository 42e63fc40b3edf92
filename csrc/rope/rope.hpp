// Rotary embedding: pairs of elements of a vector turned by angles that its position names.
//
//   y_a = x_a cos - x_b sin,   y_b = x_b cos + x_a sin
//
// over the pairs (a, b) = (i, i + half) or, interleaved, (2 i, 2 i + 1), i < half; what is behind
// them is copied. The gradient is the same with the angle's sign turned.
//
// Plan: one pass over rows, cut among threads at whole rows. A row's cosines stay in L1 while the
// heads of a position pass (blhd), and those of a sequence in L2 (bhld).
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"

namespace arraynn {

// Rows are numbered in the order of the dimensions before the last; those of y lie end to end.
struct RopeShape {
  std::int64_t size[3] = {1, 1, 1};  // batch, then heads and positions in the order of the layout
  std::int64_t strides[3] = {0, 0, 0};  // of x, in elements; vectors themselves are contiguous
  int along = 2;                        // the dimension of the positions, 1 or 2
  std::int64_t dim = 0, half = 0;
  std::int64_t rows = 0;  // of a table
  bool interleaved = false;
  // Row of the table for position l of sample b: positions[b positions_b + l], or first + l without
  // them; the table of sample b begins at b table_b.
  const std::int64_t* positions = nullptr;
  std::int64_t positions_b = 0, first = 0, table_b = 0;
};

template <class T>
struct RopeTable {
  // Rows [begin, end).
  void (*turn)(const RopeShape& p, const T* x, const T* cos, const T* sin, T* y, std::int64_t begin,
               std::int64_t end);
  void (*turn_back)(const RopeShape& p, const T* x, const T* cos, const T* sin, T* y,
                    std::int64_t begin, std::int64_t end);
};
using RopeKernels = StorageKernels<RopeTable>;

ARRAYNN_KERNEL_TABLE(RopeKernels, rope_kernels)

// `back` turns by the angles' negatives.
template <class T>
void run_rope(const RopeShape& p, const T* x, const T* cos, const T* sin, bool back, T* y);

}  // namespace arraynn
