// Embedding family: rows of a table by index, and the sum of gradients back into the table.
//
//   y_i = w[index_i],   dw_r = sum of dy_i over index_i = r, i ascending
//
// Plan. Forward: the team splits the indices. Backward: the team splits the columns at whole cache lines,
// every member goes through all indices in order; so every element of dw has one order of summation,
// whatever the team, and a frequent row is no hot spot. In 16 bits dw cannot hold the sums: the indices
// are sorted by row first, stable, and a row's gradients are added in the same order in registers.
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"

namespace arraynn {

struct EmbeddingShape {
  std::int64_t count, rows, columns;  // indices, rows and columns of the table
  std::int64_t padding;               // the row whose gradient is 0; negative for none
};

// Places of the indices, but of the padding, by row: those of row r are order[begin[r]] to
// order[begin[r + 1] - 1], ascending.
struct SortedIndices {
  const std::int64_t *begin, *order;
};

template <class T>
struct EmbeddingTable {
  // Indices [begin, end), all of them inside the table.
  void (*gather)(const EmbeddingShape& p, const std::int64_t* indices, const T* w, T* y,
                 std::int64_t begin, std::int64_t end);
  // Columns [begin, end) of dw, which are 0 before.
  void (*scatter_add)(const EmbeddingShape& p, const std::int64_t* indices, const T* dy, T* dw,
                      std::int64_t begin, std::int64_t end);
  // Columns [begin, end) of dw. One of the two is null: this one but in 16 bits.
  void (*sum_rows)(const EmbeddingShape& p, const SortedIndices& sorted, const T* dy, T* dw,
                   std::int64_t begin, std::int64_t end);
};
using EmbeddingKernels = StorageKernels<EmbeddingTable>;

ARRAYNN_KERNEL_TABLE(EmbeddingKernels, embedding_kernels)

template <class T>
void embedding(const EmbeddingShape& p, const std::int64_t* indices, const T* w, T* y);
// Bytes that embedding_backward needs beside its arrays: 0 on the CPU but in 16 bits.
template <class T>
std::int64_t embedding_scratch(const EmbeddingShape& p);
template <class T>
void embedding_backward(const EmbeddingShape& p, const std::int64_t* indices, const T* dy,
                        void* scratch, T* dw);

}  // namespace arraynn
