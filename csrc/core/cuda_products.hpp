// Products of fragments of a warp on tensor cores, and of elements: what tiles and the steps of recurrent
// networks share.
//
// Products. Those of 16-bit elements are exact. Of float32 they are
//   kTf32       one mma of operands rounded to tf32, which has 11 bits
//   kThreeTf32  x = big + small of 11 bits each: small big + big small, then big big; small small is left
//               out. An mma cuts its sums off where a multiply-add rounds them, so they are those of 8 of k
//               and added to a float32 then. In units of 2^-24 of sum |a| |b|, a sum of k products is
//               off by at most 4 for small small, 4 for what small lacks, 2 for what an mma cuts off of
//               big big, less than 1 for the rest, and k / 8 for the additions: less than the k of
//               multiply-adds, whose average error is the larger one as well from about 40 of k on.
//               Elements that do not come out finite are formed again by multiply-adds: an infinite operand
//               has no small part, and big big may overflow where the sum does not.
#pragma once
#include <cstdint>
#include <cstring>

#include "core/cuda_precision.hpp"
#include "core/dtype.hpp"
#include "ptx/cvt.hpp"
#include "ptx/mma.hpp"

namespace arraynn::cuda {

enum class Products : std::uint8_t { kExact, kTf32, kThreeTf32 };

// Fewer of k are left to multiply-adds on CUDA cores, whose error is smaller there.
constexpr std::int64_t kLeastSplitDepth = 32;

using Words = std::uint32_t;

__device__ __forceinline__ void multiply(Half, float (&d)[4], const Words (&a)[4],
                                         const Words (&b)[2]) {
  ptx::mma_m16n8k16_f16(d, a, b);
}
__device__ __forceinline__ void multiply(Bfloat16, float (&d)[4], const Words (&a)[4],
                                         const Words (&b)[2]) {
  ptx::mma_m16n8k16_bf16(d, a, b);
}
__device__ __forceinline__ void multiply(float, float (&d)[4], const Words (&a)[4],
                                         const Words (&b)[2]) {
  ptx::mma_m16n8k8_tf32(d, a, b);
}

// The rest of x beside its 11 leading bits, which replace it. big may become infinite and lose a NaN, then
// small is NaN. mma reads the 11 leading bits of small: what it lacks is one unit of x.
__device__ __forceinline__ Words split(Words* x) {
  const Words big = (*x + 0x1000u) & 0xFFFFE000u;
  float whole, leading;
  memcpy(&whole, x, sizeof whole);
  memcpy(&leading, &big, sizeof leading);
  const float rest = whole - leading;
  Words small;
  memcpy(&small, &rest, sizeof small);
  *x = big;
  return small;
}

__device__ __forceinline__ Words round_to_tf32(Words x) {
  float f;
  memcpy(&f, &x, sizeof f);
  return ptx::cvt_rna_tf32_f32(f);
}

// Rounds a fragment, or splits it in two.
template <Products kProducts, int kCount>
__device__ __forceinline__ void prepare(Words (&x)[kCount], Words (&small)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if constexpr (kProducts == Products::kThreeTf32) small[i] = split(&x[i]);
    if constexpr (kProducts == Products::kTf32) x[i] = round_to_tf32(x[i]);
  }
}

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return ::fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) {
  return ::fma(a, b, c);
}

}  // namespace arraynn::cuda
