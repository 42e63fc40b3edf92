// Convolutions of bfloat16 on a CPU that multiplies pairs of them (level avx512_bf16).
//
//   products  1x1 of stride 1: the matrix product of the layout, by gemm, which reads 16 bits
//   pairs     from kPairedChannels channels in the sum of a group on: the direct kernel, two neighbouring
//             channels being an element. x becomes [n][pixel][group][pair], which it is already if its
//             channels are last and even; an odd channel has a 0 beside it. Sums, bias and residual are
//             float32, and rounded once.
//   wide      all else: float32. 3x3 of stride 1 as well, where Winograd's tiles are faster than pairs
#pragma once
#include <cstdint>

#include "core/dtype.hpp"

namespace arraynn {

// Fewer are left to the ways that have rows or planes in their vectors.
inline constexpr std::int64_t kPairedChannels = 16;

// dst[b][i][j] = rows 2i and 2i + 1 of column j, the second 0 where there is none
//   rows    of src (batch, rows, columns)
//   planes  of src (n, batch, rows, columns), columns outside: dst[n][j][b][i]
struct PairCopies {
  void (*rows)(const Bfloat16* src, std::int64_t batch, std::int64_t rows, std::int64_t columns,
               int threads, float* dst);
  // Of numbers that were widened.
  void (*wide_rows)(const float* src, std::int64_t batch, std::int64_t rows, std::int64_t columns,
                    int threads, float* dst);
  void (*planes)(const Bfloat16* src, std::int64_t n, std::int64_t batch, std::int64_t rows,
                 std::int64_t columns, int threads, float* dst);
};
#if defined(__x86_64__)
namespace avx512_bf16 {
extern const PairCopies pair_copies;
}
#endif

}  // namespace arraynn
