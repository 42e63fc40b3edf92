// Tile and block sizes of gemm, one table per ISA.
#pragma once
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

#if defined(__AVX512F__)
inline constexpr int kVectorRegisters = 32;
inline constexpr int kMR = 14;  // 14 x 2 sums + 2 of B + 1 broadcast of A = 31 of 32 registers
#elif defined(__AVX2__)
inline constexpr int kVectorRegisters = 16;
inline constexpr int kMR = 6;  // 6 x 2 sums + 2 of B + 1 broadcast of A = 15 of 16
#else
inline constexpr int kVectorRegisters = 16;
inline constexpr int kMR = 4;  // 4 x 2 sums + 2 of B + 1 of A + 2 for the products = 13 of 16
#endif
inline constexpr int kNV = 2;
static_assert(kMR * kNV + kNV + 1 <= kVectorRegisters, "the tile must stay in registers");

template <class T>
inline constexpr int kNR = kNV * kLanes<T>;

// A panel of B, KC x NR, is 64 KiB at AVX-512 and streams from L2 at 128 bytes per 28 cycles; a
// block of A, MC x KC, is 460 KiB and stays in an L2 of 1 MiB. 512 measured 2 to 4 % above 256 at
// 512^3 to 1024^3: C is read and written half as often. KC also fixes the order of summation.
template <class T>
inline constexpr int kKC = 2048 / static_cast<int>(sizeof(T));
template <class T>
inline constexpr int kMC = kMR * (224 / kMR);
template <class T>
inline constexpr int kNC = 96 * kNR<T>;

// Panels that are packed together from contiguous rows of B: 256 KiB of them stay in L2.
inline constexpr int kPanelsAtOnce = 4;

// Copied rows of A are this far apart: 17 cache lines, so the rows of a tile spread over all sets.
template <class T>
inline constexpr int kPackedRowStride = kKC<T> + 64 / static_cast<int>(sizeof(T));

// Rows up to which B is read straight from memory.
inline constexpr int kSkinnyRows = 4;

}  // namespace ARRAYNN_ISA_NAMESPACE
