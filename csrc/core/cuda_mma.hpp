// The product of two matrices, one tile of the result a block, on tensor cores (mma.sync, from sm_80 on): the
// operands, results and epilogue of cuda_tile.hpp, other tiles. Products are those of cuda_products.hpp.
//
// Bits. A sum, or a part of one, is one chain of mma over ascending steps of k, in any tile.
#pragma once
#include <cfloat>

#include "core/cuda_products.hpp"
#include "core/cuda_tile.hpp"

namespace arraynn::cuda {

// ---- tiles ------------------------------------------------------------------------------------------

// kM x kN sums, kWarpM x kWarpN a warp; kK of k are 64 bytes, of which kStages are in shared memory.
template <class T, Products kProducts_, int kM_, int kN_, int kWarpM_, int kWarpN_, int kStages_,
          int kBlocks_>
struct MmaTile {
  using Element = T;
  static constexpr Products kProducts = kProducts_;
  static constexpr int kM = kM_, kN = kN_, kWarpM = kWarpM_, kWarpN = kWarpN_;
  static constexpr int kStages = kStages_;
  static constexpr int kBlocks = kBlocks_;  // a multiprocessor
  static constexpr bool kTensorCores = true;
  static constexpr int kRowBytes = 64, kK = kRowBytes / static_cast<int>(sizeof(T));
  static constexpr int kSteps = 2;  // mma of a stage, 32 bytes of k each
  static constexpr int kMmaM = kWarpM / 16, kMmaN = kWarpN / 8;  // of a warp
  static constexpr int kWarpsN = kN / kWarpN, kThreads = kM / kWarpM * kWarpsN * kWarp;
  static constexpr int kSumStride = kN + 8;  // four rows of pairs fall on all banks
  static constexpr int kStageBytes = (kM + kN) * kRowBytes;
  static constexpr int kSumBytes = kM * kSumStride * static_cast<int>(sizeof(float));
  static constexpr int kSharedBytes =
      kStages * kStageBytes > kSumBytes ? kStages * kStageBytes : kSumBytes;  // dynamic

  static_assert(kM % kWarpM == 0 && kN % kWarpN == 0 && kWarpM % 16 == 0 && kWarpN % 16 == 0);
  static_assert(kM * kRowBytes % (16 * kThreads) == 0 && kN * kRowBytes % (16 * kThreads) == 0);
  // The least that a multiprocessor with tensor cores for these has: 99 KiB (8.6) of 100 a block.
  static_assert(kSharedBytes <= 99 * 1024);
};

// Large, 16 bits: a warp of 64 x 64 reads 4 KiB of shared memory for 32 mma of 4 cycles; its four
// warps take 128 of the 128 cycles, any smaller tile of a warp more. 128 sums, 20 registers of
// fragments, addresses: two blocks of 128 threads may have 255 registers. Four stages of 16 KiB.
// Large, float32: 48 mma for 3 KiB with three products, so a warp of 64 x 32 suffices; its 64 sums are
// kept twice (8 of k, and all), beside 24 registers of fragments in two parts. Four stages of 12 KiB.
template <class T, Products kProducts>
struct MmaTable {
  using Large = MmaTile<T, kProducts, 128, 64, 64, 32, 4, 2>;
  using Small = MmaTile<T, kProducts, 64, 64, 32, 32, 4, 3>;
};
template <class T>
struct MmaTable<T, Products::kExact> {
  using Large = MmaTile<T, Products::kExact, 128, 128, 64, 64, 4, 2>;
  using Small = MmaTile<T, Products::kExact, 64, 64, 32, 32, 4, 4>;
};

// f.operator()<Table>() with the tiles for sums of `depth` products, which depend on nothing else.
template <class T, class F>
void with_tiles(std::int64_t depth, const F& f) {
  if constexpr (sizeof(T) == 2) {
    f.template operator()<MmaTable<T, Products::kExact>>();
  } else if constexpr (std::is_same_v<T, float>) {
    if (depth < kLeastSplitDepth) {
      f.template operator()<TileTable<T>>();
    } else if (tf32_products()) {
      f.template operator()<MmaTable<T, Products::kTf32>>();
    } else {
      f.template operator()<MmaTable<T, Products::kThreeTf32>>();
    }
  } else {
    f.template operator()<TileTable<T>>();
  }
}

// ---- stages -----------------------------------------------------------------------------------------

// One operand's part of a stage. Packs of 16 bytes change places within the 128 bytes of all banks (the
// swizzle), so that what a warp reads at once falls on different banks: for ldmatrix one pack of eight
// neighbouring rows; for pairs of packs of four rows, in float32 that is not along k, every second.
template <class Tile, int kOuter, bool kAlongK_>
struct MmaStage {
  using T = typename Tile::Element;
  static constexpr bool kAlongK = kAlongK_;
  static constexpr int kLength = kAlongK ? Tile::kK : kOuter;
  static constexpr int kRows = kAlongK ? kOuter : Tile::kK;
  static constexpr int kPacks = kLength / kPack<T>;
  static constexpr int kRowsOfBanks = kPacks < 8 ? 8 / kPacks : 1;
  static constexpr int kTurns = kPacks < 8 ? kPacks : 8;
  static constexpr bool kPairs = !kAlongK && sizeof(T) == 4;
  alignas(16) T v[kRows * kLength];

  __device__ static constexpr int at(int row, int pack) {
    const int turn = kPairs ? row % 4 * 2 : row / kRowsOfBanks % kTurns;
    return row * kLength + (pack ^ turn) * kPack<T>;
  }
  __device__ __forceinline__ T element(int outer, int k) const {
    const int row = kAlongK ? outer : k, along = kAlongK ? k : outer;
    return v[at(row, along / kPack<T>) + along % kPack<T>];
  }
};

template <class Tile, class A, class B>
struct MmaStorage {
  using StageA = MmaStage<Tile, Tile::kM, A::kAlongK>;
  using StageB = MmaStage<Tile, Tile::kN, B::kAlongK>;
  struct Stage {
    StageA a;
    StageB b;
  };
  union {
    Stage stages[Tile::kStages];
    alignas(16) float sums[Tile::kM * Tile::kSumStride];
  };
};

// ---- fragments --------------------------------------------------------------------------------------

// 16 of the outer index by one mma of k, as four squares of 8 x 16 bytes: square i is the outer half i % 2
// and the k half i / 2 for A, the other way round for B, whose fragments are two pairs.
template <bool kOuterFirst, class Stage>
__device__ __forceinline__ void load_fragments(const Stage& stage, int outer, int step, int lane,
                                               Words (&r)[4]) {
  using T = typename Stage::T;
  constexpr int kHalf = kPack<T>;  // of k
  const auto outer_half = [](int i) { return kOuterFirst ? i % 2 : i / 2; };
  const auto k_half = [](int i) { return kOuterFirst ? i / 2 : i % 2; };
  const int square = lane / 8, row = lane % 8;
  if constexpr (Stage::kAlongK) {
    // `outer` is a multiple of 16, which changes no turn of the packs.
    const T* from = stage.v + outer * Stage::kLength;
    ptx::ldmatrix_m8n8_x4(
        r, from + Stage::at(8 * outer_half(square) + row, 2 * step + k_half(square)));
  } else if constexpr (sizeof(T) == 2) {
    const int pack = outer / kPack<T> + outer_half(square);
    ptx::ldmatrix_m8n8_x4_trans(
        r, stage.v + Stage::at(kHalf * (2 * step + k_half(square)) + row, pack));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float x = stage.element(outer + 8 * outer_half(i) + lane / 4,
                                    kHalf * (2 * step + k_half(i)) + lane % 4);
      memcpy(&r[i], &x, sizeof x);
    }
  }
}

template <class Tile>
using MmaSums = float[Tile::kMmaM][Tile::kMmaN][4];

// Where a warp's and a lane's sums are in the tile: sum r of mma (i, j) is in row + 16 i + 8 (r / 2) and
// column + 8 j + r % 2.
template <class Tile>
struct MmaPlace {
  int lane, row_of_warp, column_of_warp, row, column;
  __device__ __forceinline__ explicit MmaPlace(int thread)
      : lane(thread % kWarp),
        row_of_warp(thread / kWarp / Tile::kWarpsN * Tile::kWarpM),
        column_of_warp(thread / kWarp % Tile::kWarpsN * Tile::kWarpN),
        row(row_of_warp + lane / 4),
        column(column_of_warp + lane % 4 * 2) {}
};

// Fragments of B stay, those of A come and go: a warp's columns are independent mma enough.
template <class Tile, class Stage>
__device__ __forceinline__ void multiply_step(const Stage& stage, const MmaPlace<Tile>& place,
                                              int step, MmaSums<Tile>& sum) {
  using T = typename Tile::Element;
  Words b[Tile::kMmaN][2], small_b[Tile::kMmaN][2];
#pragma unroll
  for (int j = 0; j < Tile::kMmaN; j += 2) {
    Words pairs[4];
    load_fragments<false>(stage.b, place.column_of_warp + 8 * j, step, place.lane, pairs);
    b[j][0] = pairs[0], b[j][1] = pairs[1];
    b[j + 1][0] = pairs[2], b[j + 1][1] = pairs[3];
    prepare<Tile::kProducts>(b[j], small_b[j]);
    prepare<Tile::kProducts>(b[j + 1], small_b[j + 1]);
  }
#pragma unroll
  for (int i = 0; i < Tile::kMmaM; ++i) {
    Words a[4], small_a[4];
    load_fragments<true>(stage.a, place.row_of_warp + 16 * i, step, place.lane, a);
    prepare<Tile::kProducts>(a, small_a);
    const auto multiply_row = [&](const Words(&x)[4], const auto& y) {
#pragma unroll
      for (int j = 0; j < Tile::kMmaN; ++j) multiply(T{}, sum[i][j], x, y[j]);
    };
    if constexpr (Tile::kProducts == Products::kThreeTf32) {
      multiply_row(small_a, b);
      multiply_row(a, small_b);
    }
    multiply_row(a, b);
  }
}

// The same sums by multiply-adds, for elements that are not finite.
template <class Tile, class Stage>
__device__ __forceinline__ void multiply_add_stage(const Stage& stage, const MmaPlace<Tile>& place,
                                                   MmaSums<Tile>& sum) {
#pragma unroll 1
  for (int k = 0; k < Tile::kK; ++k) {
    float b[Tile::kMmaN][2];
#pragma unroll
    for (int j = 0; j < Tile::kMmaN * 2; ++j) {
      b[j / 2][j % 2] = stage.b.element(place.column + j / 2 * 8 + j % 2, k);
    }
#pragma unroll
    for (int i = 0; i < Tile::kMmaM * 2; ++i) {
      const float a = stage.a.element(place.row + i * 8, k);
#pragma unroll
      for (int j = 0; j < Tile::kMmaN * 2; ++j) {
        float& s = sum[i / 2][j / 2][i % 2 * 2 + j % 2];
        s = multiply_add(a, b[j / 2][j % 2], s);
      }
    }
  }
}

template <class Tile, class F>
__device__ __forceinline__ void for_sums(const F& f) {
#pragma unroll
  for (int i = 0; i < Tile::kMmaM; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::kMmaN; ++j) {
#pragma unroll
      for (int r = 0; r < 4; ++r) f(i, j, r);
    }
  }
}

// ---- the block --------------------------------------------------------------------------------------

// As the one of cuda_tile.hpp; the launch gives Tile::kSharedBytes.
template <class Tile, class A, class B, class Result>
  requires(Tile::kTensorCores)
__device__ __forceinline__ void multiply_tile(const A& a, const B& b, const Result& result,
                                              const TileEpilogue<typename Result::T>& e,
                                              std::int64_t m, std::int64_t n, std::int64_t row,
                                              std::int64_t column, std::int64_t begin,
                                              std::int64_t end) {
  using Storage = MmaStorage<Tile, A, B>;
  static_assert(sizeof(Storage) == Tile::kSharedBytes && kPartUnit % Tile::kK == 0);
  auto& shared = *dynamic_shared<Storage>();
  const MmaPlace<Tile> place(static_cast<int>(threadIdx.x));

  const StageCopy<Tile::kThreads, typename Storage::StageA, A> copy_a(a, row);
  const StageCopy<Tile::kThreads, typename Storage::StageB, B> copy_b(b, column);
  const auto copy = [&](std::int64_t k, int stage) {
    if (k < end) {
      copy_a(shared.stages[stage].a, k);
      copy_b(shared.stages[stage].b, k);
    }
    ptx::cp_async_commit_group();
  };
  const auto for_stages = [&](const auto& f) {
    constexpr int kAhead = Tile::kStages - 1;
#pragma unroll
    for (int stage = 0; stage < kAhead; ++stage) copy(begin + stage * Tile::kK, stage);
    int stage = 0;
#pragma unroll 1
    for (std::int64_t k = begin; k < end; k += Tile::kK) {
      ptx::cp_async_wait_group<kAhead - 1>();
      __syncthreads();  // the stage is there, the one before has been read and is filled again
      copy(k + kAhead * Tile::kK, stage == 0 ? kAhead : stage - 1);
      f(shared.stages[stage]);
      stage = stage == kAhead ? 0 : stage + 1;
    }
  };

  MmaSums<Tile> sum = {};
  for_stages([&](const auto& stage) {
    if constexpr (Tile::kProducts == Products::kThreeTf32) {
#pragma unroll
      for (int step = 0; step < Tile::kSteps; ++step) {
        MmaSums<Tile> part = {};
        multiply_step(stage, place, step, part);
        for_sums<Tile>([&](int i, int j, int r) { sum[i][j][r] += part[i][j][r]; });
      }
    } else {
#pragma unroll
      for (int step = 0; step < Tile::kSteps; ++step) multiply_step(stage, place, step, sum);
    }
  });
  if constexpr (Tile::kProducts == Products::kThreeTf32) {
    const auto finite = [](float x) { return ::fabsf(x) <= FLT_MAX; };
    bool all = true;
    for_sums<Tile>([&](int i, int j, int r) { all = all && finite(sum[i][j][r]); });
    if (__syncthreads_or(all ? 0 : 1) != 0) {  // here all stages have been read
      MmaSums<Tile> chain = {};
      for_stages([&](const auto& stage) { multiply_add_stage(stage, place, chain); });
      for_sums<Tile>([&](int i, int j, int r) {
        if (!finite(sum[i][j][r])) sum[i][j][r] = chain[i][j][r];
      });
      __syncthreads();  // and here again
    }
  } else {
    __syncthreads();  // all stages have been read: the sums take their place
  }

  for_sums<Tile>([&](int i, int j, int r) {
    const int at = (place.row + 16 * i + 8 * (r / 2)) * Tile::kSumStride + place.column + 8 * j;
    shared.sums[at + r % 2] = sum[i][j][r];
  });
  __syncthreads();
  store_rows<Tile::kThreads, Tile::kM, Tile::kN, Tile::kSumStride>(shared.sums, m, n, row, column,
                                                                   e, result);
}

}  // namespace arraynn::cuda
