// The ring of stages of cuda_hopper.hpp, where the plan is: a warpgroup that copies, two that multiply, for whatever
// a Loader puts into the stages. A product of matrices and a convolution differ in that alone.
//
// A Loader is a part of the kernel's parameters (it holds the tensor maps) and has
//   T, kAlongA, kAlongB     elements, and whether an operand's boxes are along k
//   kMayBeEmpty             whether there are calls without k
//   prefetch()              of the maps
//   Copier<Tile>            made from (loader, place) for a tile, on the thread that copies: copy(stage, k, full)
//                           starts all copies of the stage whose first of k is `k`
//   Steps                   made from the loader for a tile, by those who multiply: next() is how many times 16
//                           of k the next stage has
//   columns_left(n, column) columns of a result of n from one on that are stored
#pragma once
#include <cstdint>

#include "core/cuda_tensor_map.hpp"
#include "core/cuda_tile.hpp"
#include "ptx/bulk.hpp"
#include "ptx/mbarrier.hpp"
#include "ptx/wgmma.hpp"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "wgmma and setmaxnreg are instructions of sm_90a"
#endif

namespace arraynn::cuda::hopper {

constexpr int kGroup = 128;      // threads of a warpgroup
constexpr int kMultipliers = 2;  // warpgroups
constexpr int kThreads = (1 + kMultipliers) * kGroup;
constexpr int kWarps = kMultipliers * kGroup / kWarp;  // that multiply
constexpr int kDepth = 64;                             // of a stage
constexpr int kRowBytes = 128, kAtomBytes = 1024, kBox = 64, kBoxBytes = kBox * kRowBytes;
constexpr int kCopyRegisters = 40, kMultiplyRegisters = 232;
static_assert(kGroup * (kCopyRegisters + kMultipliers * kMultiplyRegisters) <= 65536);
constexpr std::int64_t kMostIndex = (std::int64_t{1} << 31) - 1024;  // and a tile further
constexpr std::int64_t kUnit = 8;                                    // elements of 16 bytes

template <int kN_>
struct RingTile {
  static constexpr int kM = kMultipliers * kBox, kN = kN_;
  static constexpr int kBytesA = kM * kRowBytes, kBytesB = kN * kRowBytes;
  static constexpr int kStageBytes = kBytesA + kBytesB;
  static constexpr int kStages = (192 << 10) / kStageBytes;
  static constexpr int kChunk = 32;              // columns of sums that leave at a time
  static constexpr int kSumStride = kChunk + 8;  // four rows of pairs fall on all banks
  static constexpr int kWarpRows = 16;
};

// Whether rows of a result, not columns, lie beside each other.
template <class Result>
constexpr bool kRowsBeside = false;

template <class Tile>
struct Stage {
  unsigned char a[Tile::kBytesA], b[Tile::kBytesB];
};

template <class Tile>
struct alignas(kAtomBytes) Storage {
  Stage<Tile> stages[Tile::kStages];
  alignas(16) float sums[kWarps][Tile::kWarpRows * Tile::kSumStride];
  std::uint64_t full[Tile::kStages], empty[Tile::kStages];
};

template <class Loader_, class Result_>
struct Call {
  using Loader = Loader_;
  using Result = Result_;
  Loader loader;
  int m, n;         // of a result
  int depth, part;  // of k: all, and what one result has
  // Results: those of all groups of the first part, then of the next one.
  unsigned groups, tiles_m, tiles_n, tiles;  // tiles of all results
  std::int64_t move_group, move_part, move_bias;
  Result result;  // of the first one
  TileEpilogue<typename Result::T> epilogue;
};

// A tile: of which result, from where on.
struct Place {
  int group, part, row, column, begin, end;

  template <class Tile, class Call>
  __device__ __forceinline__ static Place of(const Call& call, unsigned tile) {
    const unsigned each = call.tiles_m * call.tiles_n, item = tile / each,
                   rest = tile - item * each;
    // Along the shorter side first: neighbours read the same part of the longer side's operand.
    const bool rows_first = call.tiles_m <= call.tiles_n;
    const unsigned side = rows_first ? call.tiles_m : call.tiles_n;
    const unsigned far = rest / side, near = rest - far * side;
    const int part = static_cast<int>(item / call.groups);
    const int begin = part * call.part, left = call.depth - begin;
    return {static_cast<int>(item % call.groups),
            part,
            static_cast<int>(rows_first ? near : far) * Tile::kM,
            static_cast<int>(rows_first ? far : near) * Tile::kN,
            begin,
            call.part < left ? begin + call.part : call.depth};
  }
};

// A stage, and the parity of its barriers' phase: 0 on the first way round.
template <class Tile>
struct Turn {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ __forceinline__ void next() {
    if (++stage == Tile::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

__device__ __forceinline__ void wait(std::uint64_t* barrier, std::uint32_t parity) {
  while (!ptx::mbarrier_try_wait_parity(barrier, parity)) {
  }
}

// kOuter rows or columns from `outer` on, a stage of k.
template <int kOuter, bool kAlongK>
__device__ __forceinline__ void copy_matrix(unsigned char* to, const TensorMap& map, int outer,
                                            int k, int item, std::uint64_t* full) {
  if constexpr (kAlongK) {
    ptx::cp_async_bulk_tensor_3d(to, &map, k, outer, item, full);
  } else {
#pragma unroll
    for (int i = 0; i < kOuter / kBox; ++i) {
      ptx::cp_async_bulk_tensor_3d(to + i * kBoxBytes, &map, outer + i * kBox, k, item, full);
    }
  }
}

// The one thread that copies.
template <class Tile, class Call>
__device__ __forceinline__ void copy_tiles(const Call& call, Storage<Tile>& shared) {
  Turn<Tile> turn;
#pragma unroll 1
  for (unsigned tile = blockIdx.x; tile < call.tiles; tile += gridDim.x) {
    const auto at = Place::of<Tile>(call, tile);
    typename Call::Loader::template Copier<Tile> copier(call.loader, at);
#pragma unroll 1
    for (int k = at.begin; k < at.end; k += kDepth) {
      std::uint64_t* const full = &shared.full[turn.stage];
      wait(&shared.empty[turn.stage], turn.parity ^ 1);
      ptx::mbarrier_arrive_expect_tx(full, Tile::kStageBytes);
      copier.copy(shared.stages[turn.stage], k, full);
      turn.next();
    }
  }
}

template <class T, bool kAlongA, bool kAlongB, int kCount>
__device__ __forceinline__ void multiply(float (&sum)[kCount], std::uint64_t a, std::uint64_t b,
                                         bool accumulate) {
  constexpr bool kHalf = std::is_same_v<T, Half>;
  if constexpr (kCount == 128 && kHalf) {
    ptx::wgmma_m64n256k16_f16<kAlongA, kAlongB>(sum, a, b, accumulate);
  } else if constexpr (kCount == 128) {
    ptx::wgmma_m64n256k16_bf16<kAlongA, kAlongB>(sum, a, b, accumulate);
  } else if constexpr (kCount == 64 && kHalf) {
    ptx::wgmma_m64n128k16_f16<kAlongA, kAlongB>(sum, a, b, accumulate);
  } else if constexpr (kCount == 64) {
    ptx::wgmma_m64n128k16_bf16<kAlongA, kAlongB>(sum, a, b, accumulate);
  } else if constexpr (kHalf) {
    ptx::wgmma_m64n64k16_f16<kAlongA, kAlongB>(sum, a, b, accumulate);
  } else {
    ptx::wgmma_m64n64k16_bf16<kAlongA, kAlongB>(sum, a, b, accumulate);
  }
}

// The sums of a warp: 16 rows from `row` on, all columns of the tile.
template <class Tile, class Call>
__device__ __forceinline__ void store_warp(const Call& call, const Place& at, int row,
                                           float* staged, const float (&sum)[Tile::kN / 2]) {
  using Out = typename Call::Result::T;
  constexpr int kPackOf = kPack<Out>, kPacks = Tile::kChunk / kPackOf,
                kPairs = Tile::kChunk / 8 * 2;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const bool none = Call::Loader::kMayBeEmpty && at.begin >= at.end;  // no product
  auto result = call.result;
  auto epilogue = call.epilogue;
  result.c += at.group * call.move_group + at.part * call.move_part;
  if (result.residual != nullptr) result.residual += at.group * call.move_group;
  if (epilogue.bias != nullptr) epilogue.bias += at.group * call.move_bias;
#pragma unroll 1
  for (int chunk = 0; chunk < Tile::kN / Tile::kChunk; ++chunk) {
    // A loop over registers has to be unrolled, the rest need not be there so often.
#pragma unroll
    for (int c = 0; c < Tile::kN / Tile::kChunk; ++c) {
      if (c != chunk) continue;
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        float* to = staged + (lane / 4 + 8 * (i % 2)) * Tile::kSumStride + i / 2 * 8 + lane % 4 * 2;
        to[0] = none ? 0.0f : sum[(c * kPairs + i) * 2];
        to[1] = none ? 0.0f : sum[(c * kPairs + i) * 2 + 1];
      }
    }
    __syncwarp();
    const int column = at.column + chunk * Tile::kChunk;
#pragma unroll 1
    for (int pack = lane; pack < Tile::kWarpRows * kPacks; pack += kWarp) {
      // Neighbouring lanes have neighbouring packs of a row, or rows where those are beside each other.
      constexpr bool kDown = kRowsBeside<typename Call::Result>;
      const int r = kDown ? pack % Tile::kWarpRows : pack / kPacks,
                c = (kDown ? pack / Tile::kWarpRows : pack % kPacks) * kPackOf;
      const int left = call.loader.columns_left(call.n, column + c);
      if (row + r < call.m && left > 0) {
        store_sums<false>(staged + r * Tile::kSumStride + c, left < kPackOf ? left : kPackOf,
                          row + r, column + c, epilogue, result);
      }
    }
    __syncwarp();  // the next columns take their place
  }
}

// A warp of those that multiply, the first of which is warp 0 here.
template <class Tile, class Call>
__device__ __forceinline__ void multiply_tiles(const Call& call, Storage<Tile>& shared, int warp,
                                               int lane) {
  using Loader = typename Call::Loader;
  constexpr bool kAlongA = Loader::kAlongA, kAlongB = Loader::kAlongB;
  // 16 of k further, in the units of a descriptor.
  constexpr std::uint64_t kStepA = (kAlongA ? 32 : 2 * kAtomBytes) >> 4;
  constexpr std::uint64_t kStepB = (kAlongB ? 32 : 2 * kAtomBytes) >> 4;
  const int group = warp / (kGroup / kWarp);
  const auto finished = [&](int stage) {
    if (lane == 0) ptx::mbarrier_arrive(&shared.empty[stage]);
  };
  Turn<Tile> turn;
  float sum[Tile::kN / 2];
#pragma unroll 1
  for (unsigned tile = blockIdx.x; tile < call.tiles; tile += gridDim.x) {
    const auto at = Place::of<Tile>(call, tile);
    typename Loader::Steps steps(call.loader);
    int before = -1;
#pragma unroll 1
    for (int k = at.begin; k < at.end; k += kDepth) {
      auto& stage = shared.stages[turn.stage];
      const std::uint64_t a = ptx::matrix_descriptor(
          ptx::shared_address(stage.a) + static_cast<unsigned>(group * kBoxBytes), kBoxBytes,
          kAtomBytes);
      const std::uint64_t b =
          ptx::matrix_descriptor(ptx::shared_address(stage.b), kBoxBytes, kAtomBytes);
      const unsigned count = steps.next();
      wait(&shared.full[turn.stage], turn.parity);
      __syncwarp();  // lanes may have waited one more time than others, wgmma takes them together
      const auto multiply_step = [&](unsigned step) {
        multiply<typename Loader::T, kAlongA, kAlongB>(sum, a + step * kStepA, b + step * kStepB,
                                                       step > 0 || before >= 0);
      };
      if (count == kDepth / 16) {
        ptx::wgmma_fence();
#pragma unroll
        for (unsigned step = 0; step < kDepth / 16; ++step) multiply_step(step);
      } else {  // unrolled with the others it would have a fence before each of them
#pragma unroll 1
        for (unsigned step = 0; step < count; ++step) {
          ptx::wgmma_fence();
          multiply_step(step);
        }
      }
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<1>();
      if (before >= 0) finished(before);
      before = turn.stage;
      turn.next();
    }
    ptx::wgmma_wait_group<0>();
    ptx::wgmma_sums_are_here(sum);
    if (before >= 0) finished(before);
    store_warp<Tile>(call, at, at.row + warp * Tile::kWarpRows, shared.sums[warp], sum);
  }
}

template <class Tile, class Call>
__global__ void __launch_bounds__(kThreads, 1) hopper_kernel(const __grid_constant__ Call call) {
  auto& shared = *dynamic_shared<Storage<Tile>>();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  if (thread == 0) {
    call.loader.prefetch();
    for (int i = 0; i < Tile::kStages; ++i) {
      ptx::mbarrier_init(&shared.full[i], 1);
      ptx::mbarrier_init(&shared.empty[i], kWarps);
    }
    ptx::fence_proxy_async_shared();
  }
  __syncthreads();
  if (thread < kGroup) {
    ptx::setmaxnreg_dec<kCopyRegisters>();
    if (thread == 0) copy_tiles<Tile>(call, shared);
  } else {
    ptx::setmaxnreg_inc<kMultiplyRegisters>();
    multiply_tiles<Tile>(call, shared, warp - kGroup / kWarp, lane);
  }
}

// ---- launches ---------------------------------------------------------------------------------------

// A matrix: `outer` rows (columns) of k, and the stride of the index that is not contiguous; `move` further from
// one of `count` to the next, 0 if it is the same.
struct Matrix {
  const void* p;
  std::int64_t outer, depth, stride;
  bool along_k;
  std::int64_t move = 0, count = 1;
};

template <class T>
constexpr TensorElement kElement =
    std::is_same_v<T, Half> ? TensorElement::kHalf : TensorElement::kBfloat16;

// False where a tensor map cannot tell of it.
template <class T>
bool make_map(TensorMap* map, const Matrix& o, int box_outer) {
  const std::int64_t inner = o.along_k ? o.depth : o.outer, rows = o.along_k ? o.outer : o.depth;
  // A single row has any stride; so has a single matrix.
  const std::int64_t stride = rows == 1 ? round_up(inner, kUnit) : o.stride;
  const bool moves = o.count > 1 && o.move != 0;
  const std::int64_t move = moves ? o.move : stride;
  constexpr std::int64_t kMostStride = std::int64_t{1} << 38;  // elements
  if (stride <= 0 || move <= 0 || stride % kUnit != 0 || move % kUnit != 0 ||
      stride >= kMostStride || move >= kMostStride || o.outer > kMostIndex ||
      o.depth > kMostIndex || reinterpret_cast<std::uintptr_t>(o.p) % 16 != 0) {
    return false;
  }
  const auto wide = [](std::int64_t x) { return static_cast<std::uint64_t>(x); };
  const TensorBoxes boxes{o.p,
                          {wide(inner), wide(rows), wide(moves ? o.count : 1)},
                          {wide(stride), wide(move)},
                          {kBox, static_cast<std::uint32_t>(o.along_k ? box_outer : kBox), 1}};
  return encode_tensor_map(map, kElement<T>, boxes);
}

// f.operator()<Tile>() with the tile that is done first, if a tile takes as long as its columns and 64 more, for
// its rows of A, and all multiprocessors work alike. Estimated.
template <class F>
bool with_hopper_tile(std::int64_t m, std::int64_t n, std::int64_t count, const F& f) {
  const auto time = [&](std::int64_t columns) {
    const std::int64_t tiles = ceil_div(m, RingTile<64>::kM) * ceil_div(n, columns) * count;
    return ceil_div(tiles, multiprocessors()) * (columns + 64);
  };
  if (time(256) <= time(128) && time(256) <= time(64))
    return f.template operator()<RingTile<256>>();
  if (time(128) <= time(64)) return f.template operator()<RingTile<128>>();
  return f.template operator()<RingTile<64>>();
}

// False where there are too many tiles to count; of m x n results, `count` of them.
template <class Tile, class Call>
bool launch_ring(Call& call, std::int64_t count) {
  const std::int64_t tiles_m = ceil_div(call.m, Tile::kM), tiles_n = ceil_div(call.n, Tile::kN);
  if (count > kMostIndex || tiles_m * tiles_n > kMostIndex / count) return false;
  call.tiles_m = static_cast<unsigned>(tiles_m);
  call.tiles_n = static_cast<unsigned>(tiles_n);
  call.tiles = static_cast<unsigned>(tiles_m * tiles_n * count);
  static_assert(sizeof(Storage<Tile>) <= 227 * 1024);
  const Grid grid{persistent_blocks(call.tiles, 1), kThreads, sizeof(Storage<Tile>)};
  ARRAYNN_LAUNCH((hopper_kernel<Tile, Call>), grid, call);
  return true;
}

}  // namespace arraynn::cuda::hopper
