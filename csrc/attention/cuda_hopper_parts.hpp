// What the forward and the gradients of attention on Hopper share: warpgroups, their products, factors in two
// parts, tensor maps of vectors and their copies. Plans: cuda_hopper.hpp, cuda_hopper_backward.hpp.
#pragma once
#include <cstring>

#include "attention/cuda_tile.hpp"
#include "core/cuda_tensor_map.hpp"
#include "ptx/bulk.hpp"
#include "ptx/cvt.hpp"
#include "ptx/mbarrier.hpp"
#include "ptx/wgmma.hpp"

namespace arraynn::cuda {

using Words = std::uint32_t;

constexpr int kGroup = 128, kGroupRows = 64;  // threads, queries of a warpgroup
constexpr int kMultipliers = 2;               // warpgroups
constexpr int kThreads = (1 + kMultipliers) * kGroup;
constexpr int kWarps = kMultipliers * kGroup / kWarp;  // that multiply
constexpr int kRowBytes = 128, kAtomBytes = 1024, kBox = 64;
constexpr int kCopyRegisters = 32, kMultiplyRegisters = 240;
static_assert(kGroup * (kCopyRegisters + kMultipliers * kMultiplyRegisters) <= 65536);
constexpr int kSplits = 2;  // parts of a factor
constexpr float kHidden = -__builtin_inff();
constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

__device__ __forceinline__ void wait(std::uint64_t* barrier, std::uint32_t parity) {
  while (!ptx::mbarrier_try_wait_parity(barrier, parity)) {
  }
}

// ---- products ---------------------------------------------------------------------------------------

// s (+)= x y^T of 16 elements of vectors.
template <class T, int kCount>
__device__ __forceinline__ void multiply_scores(float (&s)[kCount], std::uint64_t q,
                                                std::uint64_t k, bool accumulate) {
  constexpr bool kHalf = std::is_same_v<T, Half>;
  if constexpr (kCount == 64 && kHalf) {
    ptx::wgmma_m64n128k16_f16<true, true>(s, q, k, accumulate);
  } else if constexpr (kCount == 64) {
    ptx::wgmma_m64n128k16_bf16<true, true>(s, q, k, accumulate);
  } else if constexpr (kCount == 48 && kHalf) {
    ptx::wgmma_m64n96k16_f16<true, true>(s, q, k, accumulate);
  } else if constexpr (kCount == 48) {
    ptx::wgmma_m64n96k16_bf16<true, true>(s, q, k, accumulate);
  } else if constexpr (kCount == 32 && kHalf) {
    ptx::wgmma_m64n64k16_f16<true, true>(s, q, k, accumulate);
  } else if constexpr (kCount == 32) {
    ptx::wgmma_m64n64k16_bf16<true, true>(s, q, k, accumulate);
  } else if constexpr (kHalf) {
    ptx::wgmma_m64n32k16_f16<true, true>(s, q, k, accumulate);
  } else {
    ptx::wgmma_m64n32k16_bf16<true, true>(s, q, k, accumulate);
  }
}
// sums (+)= factors of 16 vectors times the vectors.
template <class T, int kCount>
__device__ __forceinline__ void multiply_values(float (&sum)[kCount], const Words (&f)[4],
                                                std::uint64_t v, bool accumulate) {
  constexpr bool kHalf = std::is_same_v<T, Half>;
  if constexpr (kCount == 128 && kHalf) {
    ptx::wgmma_rs_m64n256k16_f16<false>(sum, f, v, accumulate);
  } else if constexpr (kCount == 128) {
    ptx::wgmma_rs_m64n256k16_bf16<false>(sum, f, v, accumulate);
  } else if constexpr (kCount == 96 && kHalf) {
    ptx::wgmma_rs_m64n192k16_f16<false>(sum, f, v, accumulate);
  } else if constexpr (kCount == 96) {
    ptx::wgmma_rs_m64n192k16_bf16<false>(sum, f, v, accumulate);
  } else if constexpr (kCount == 64 && kHalf) {
    ptx::wgmma_rs_m64n128k16_f16<false>(sum, f, v, accumulate);
  } else if constexpr (kCount == 64) {
    ptx::wgmma_rs_m64n128k16_bf16<false>(sum, f, v, accumulate);
  } else if constexpr (kHalf) {
    ptx::wgmma_rs_m64n64k16_f16<false>(sum, f, v, accumulate);
  } else {
    ptx::wgmma_rs_m64n64k16_bf16<false>(sum, f, v, accumulate);
  }
}

// s = x y^T of kDim elements: 64 of kM vectors by all kN.
template <class Tile, int kDim>
__device__ __forceinline__ void add_scores(const unsigned char* x, const unsigned char* y,
                                           typename Tile::Scores& s) {
  const std::uint32_t a = ptx::shared_address(x), b = ptx::shared_address(y);
#pragma unroll
  for (unsigned c = 0; c < kDim / kBox; ++c) {
#pragma unroll
    for (unsigned step = 0; step < kBox / 16; ++step) {
      multiply_scores<typename Tile::Element>(
          s, ptx::matrix_descriptor(a + c * Tile::kM * kRowBytes + step * 32, 0, kAtomBytes),
          ptx::matrix_descriptor(b + c * Tile::kN * kRowBytes + step * 32, 0, kAtomBytes),
          c > 0 || step > 0);
    }
  }
}

// sums += factors of kN vectors times the vectors.
template <class Tile, int kCount>
__device__ __forceinline__ void add_values(const typename Tile::Factors& f, const unsigned char* v,
                                           float (&sums)[kCount]) {
  const std::uint32_t b = ptx::shared_address(v);
#pragma unroll
  for (unsigned step = 0; step < Tile::kN / 16; ++step) {
#pragma unroll
    for (int part = kSplits - 1; part >= 0; --part) {  // the smaller one first
      multiply_values<typename Tile::Element>(
          sums, f[part][step],
          ptx::matrix_descriptor(b + step * 2 * kAtomBytes, Tile::kN * kRowBytes, kAtomBytes),
          true);
    }
  }
}

// ---- factors ----------------------------------------------------------------------------------------

// Two numbers, rounded, the first in the lower half.
__device__ __forceinline__ Words two_of(Half, float x, float y) {
  return ptx::cvt_rn_f16x2_f32(x, y);
}
__device__ __forceinline__ Words two_of(Bfloat16, float x, float y) {
  return ptx::cvt_rn_bf16x2_f32(x, y);
}
__device__ __forceinline__ float first_of(Half, Words w) {
  return ptx::cvt_f32_f16(static_cast<std::uint16_t>(w));
}
__device__ __forceinline__ float first_of(Bfloat16, Words w) {
  return ptx::cvt_f32_bf16(static_cast<std::uint16_t>(w));
}

// Sums of a product are in the order of an operand's elements.
template <class Tile>
__device__ __forceinline__ void to_factors(const typename Tile::Scores& s,
                                           typename Tile::Factors& f) {
  using T = typename Tile::Element;
#pragma unroll
  for (int w = 0; w < Tile::kN / 4; ++w) {
    const float x = s[2 * w], y = s[2 * w + 1];
    const Words big = two_of(T{}, x, y);
    f[0][w / 4][w % 4] = big;
    f[1][w / 4][w % 4] = two_of(T{}, x - first_of(T{}, big), y - first_of(T{}, big >> 16));
  }
}

// max and sum over a row's four lanes.
template <class Combine>
__device__ __forceinline__ float lanes_reduce(float x, const Combine& combine) {
  x = combine(x, __shfl_xor_sync(kWholeWarp, x, 1));
  return combine(x, __shfl_xor_sync(kWholeWarp, x, 2));
}

// Word k of lane l of four becomes word l of lane k.
__device__ __forceinline__ void transpose(Words (&w)[4], int lane) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
    const bool upper = (lane & step) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & step) != 0) continue;
      const Words other = __shfl_xor_sync(kWholeWarp, upper ? w[i] : w[i + step], step);
      w[i] = upper ? other : w[i];
      w[i + step] = upper ? w[i + step] : other;
    }
  }
}

// keeps() of a column and the next, in bits: they mostly share a block of Philox.
template <class T>
__device__ __forceinline__ unsigned keeps_two(const AttentionProblem<T>& p, const TilePlace& at,
                                              int row, int column) {
  const AttentionDropout& d = p.dropout;
  const std::int64_t length = d.device_row != nullptr ? *d.device_row : d.row;
  const auto index = static_cast<std::uint64_t>(
      (at.b * d.b + at.h * d.h + at.seq.q0 + at.query + row) * length + at.key + column);
  const unsigned word = index % 4;
  PhiloxBlock block = philox_block(index / 4, d.key);
  const std::uint32_t low = word % 2 == 0 ? block.word[0] : block.word[1],
                      high = word % 2 == 0 ? block.word[2] : block.word[3];
  const unsigned kept = (word < 2 ? low : high) >= d.threshold ? 1 : 0;
  if (word == 3) block = philox_block(index / 4 + 1, d.key);
  const std::uint32_t next = word == 0   ? block.word[1]
                             : word == 1 ? block.word[2]
                             : word == 2 ? block.word[3]
                                         : block.word[0];
  return kept | (next >= d.threshold ? 2 : 0);
}

// ---- copies -----------------------------------------------------------------------------------------

// Where vectors of an array lie in its map: row `l + b rows`, of `count`, plane `h + b planes`.
struct FlashRows {
  int rows, planes, count;
};

// kRows vectors from row `first` of a plane on, kDim elements of each.
template <int kRows, int kDim>
__device__ __forceinline__ void copy_vectors(unsigned char* to, const TensorMap& map, int first,
                                             int plane, std::uint64_t* full) {
#pragma unroll 1  // a thread of few registers
  for (int c = 0; c < kDim / kBox; ++c) {
    ptx::cp_async_bulk_tensor_3d(to + c * kRows * kRowBytes, &map, c * kBox, first, plane, full);
  }
}

// Rows [from, kRows) become zeros, by a warp.
template <int kRows, int kDim>
__device__ __forceinline__ void clear_vectors(unsigned char* v, int from, int lane) {
  constexpr int kPacks = kRowBytes / 16;
#pragma unroll
  for (int c = 0; c < kDim / kBox; ++c) {
#pragma unroll 1
    for (int i = from * kPacks + lane; i < kRows * kPacks; i += kWarp) {
      memset(v + (c * kRows * kPacks + i) * 16, 0, 16);
    }
  }
}

// ---- tensor maps ------------------------------------------------------------------------------------

constexpr std::int64_t kMostIndex = (std::int64_t{1} << 30) - 1024;  // and a tile further
constexpr std::int64_t kVectorUnit = 8;                              // elements of 16 bytes

struct FlashArray {
  const void* p;
  RowStrides strides;
  std::int64_t batch, heads, length, dim;
  int box;  // vectors of a copy
};

// False where a tensor map of three dimensions cannot tell of the array.
template <class T>
bool make_map(TensorMap* map, FlashRows* rows, const FlashArray& a) {
  RowStrides s = a.strides;
  if (a.length == 1) s.l = round_up(a.dim, kVectorUnit);  // the only one of an axis has any stride
  if (a.heads == 1) s.h = s.l;
  if (a.batch == 1) s.b = s.h;
  constexpr std::int64_t kMostStride = std::int64_t{1} << 38;  // elements
  for (const std::int64_t stride : {s.l, s.h, s.b}) {
    if (stride <= 0 || stride % kVectorUnit != 0 || stride >= kMostStride) return false;
  }
  std::int64_t length = a.length, planes = a.heads;
  *rows = {0, 0, 0};
  if (a.batch > 1 && s.b % s.h == 0) {
    rows->planes = static_cast<int>(min_i(s.b / s.h, kMostIndex));
    planes += (a.batch - 1) * (s.b / s.h);
  } else if (a.batch > 1 && s.b % s.l == 0) {
    rows->rows = static_cast<int>(min_i(s.b / s.l, kMostIndex));
    length += (a.batch - 1) * (s.b / s.l);
  } else if (a.batch > 1) {
    return false;
  }

  if (length > kMostIndex || planes > kMostIndex ||
      reinterpret_cast<std::uintptr_t>(a.p) % 16 != 0) {
    return false;
  }
  rows->count = static_cast<int>(length);
  const auto wide = [](std::int64_t x) { return static_cast<std::uint64_t>(x); };
  const TensorBoxes boxes{a.p,
                          {wide(a.dim), wide(length), wide(planes)},
                          {wide(s.l), wide(s.h)},
                          {kBox, static_cast<std::uint32_t>(a.box), 1}};
  return encode_tensor_map(
      map, std::is_same_v<T, Half> ? TensorElement::kHalf : TensorElement::kBfloat16, boxes);
}

}  // namespace arraynn::cuda
