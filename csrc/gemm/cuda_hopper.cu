// Matrix products on Hopper: see cuda_hopper.hpp. Compiled for sm_90a alone.
#include "gemm/cuda_hopper.hpp"

#include "core/cuda_tensor_map.hpp"
#include "ptx/bulk.hpp"
#include "ptx/mbarrier.hpp"
#include "ptx/wgmma.hpp"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "wgmma and setmaxnreg are instructions of sm_90a"
#endif

namespace arraynn::cuda {
namespace {

constexpr int kGroup = 128;      // threads of a warpgroup
constexpr int kMultipliers = 2;  // warpgroups
constexpr int kThreads = (1 + kMultipliers) * kGroup;
constexpr int kWarps = kMultipliers * kGroup / kWarp;  // that multiply
constexpr int kDepth = 64;                             // of a stage
constexpr int kRowBytes = 128, kAtomBytes = 1024, kBox = 64, kBoxBytes = kBox * kRowBytes;
constexpr int kCopyRegisters = 40, kMultiplyRegisters = 232;
static_assert(kGroup * (kCopyRegisters + kMultipliers * kMultiplyRegisters) <= 65536);

template <int kN_>
struct HopperTile {
  static constexpr int kM = kMultipliers * kBox, kN = kN_;
  static constexpr int kBytesA = kM * kRowBytes, kBytesB = kN * kRowBytes;
  static constexpr int kStageBytes = kBytesA + kBytesB;
  static constexpr int kStages = (192 << 10) / kStageBytes;
  static constexpr int kChunk = 32;              // columns of sums that leave at a time
  static constexpr int kSumStride = kChunk + 8;  // four rows of pairs fall on all banks
  static constexpr int kWarpRows = 16;
};

template <class Tile>
struct alignas(kAtomBytes) HopperStorage {
  struct Stage {
    unsigned char a[Tile::kBytesA], b[Tile::kBytesB];
  };
  Stage stages[Tile::kStages];
  alignas(16) float sums[kWarps][Tile::kWarpRows * Tile::kSumStride];
  std::uint64_t full[Tile::kStages], empty[Tile::kStages];
};

template <class Out>
struct HopperCall {
  TensorMap a, b;
  int m, n, depth, part;             // part: of k, results are those of parts; or 0
  unsigned tiles_m, tiles_n, tiles;  // tiles of all results
  bool moves_a, moves_b;             // from result to result
  MatrixResult<Out> result;          // of the first one
  TileEpilogue<Out> epilogue;
};

// A tile: of which result, from where on.
struct HopperPlace {
  int item, row, column, begin, end;

  template <class Tile, class Out>
  __device__ __forceinline__ static HopperPlace of(const HopperCall<Out>& call, unsigned tile) {
    const unsigned each = call.tiles_m * call.tiles_n, item = tile / each,
                   rest = tile - item * each;
    // Along the shorter side first: neighbours read the same part of the longer side's operand.
    const bool rows_first = call.tiles_m <= call.tiles_n;
    const unsigned side = rows_first ? call.tiles_m : call.tiles_n;
    const unsigned far = rest / side, near = rest - far * side;
    const int begin = static_cast<int>(item) * call.part;
    const int left = call.depth - begin;
    return {static_cast<int>(item), static_cast<int>(rows_first ? near : far) * Tile::kM,
            static_cast<int>(rows_first ? far : near) * Tile::kN, begin,
            call.part != 0 && call.part < left ? begin + call.part : call.depth};
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
__device__ __forceinline__ void copy_operand(unsigned char* to, const TensorMap& map, int outer,
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
template <class Tile, bool kAlongA, bool kAlongB, class Out>
__device__ __forceinline__ void copy_tiles(const HopperCall<Out>& call,
                                           HopperStorage<Tile>& shared) {
  Turn<Tile> turn;
#pragma unroll 1
  for (unsigned tile = blockIdx.x; tile < call.tiles; tile += gridDim.x) {
    const auto at = HopperPlace::of<Tile>(call, tile);
#pragma unroll 1
    for (int k = at.begin; k < at.end; k += kDepth) {
      std::uint64_t* const full = &shared.full[turn.stage];
      auto& stage = shared.stages[turn.stage];
      wait(&shared.empty[turn.stage], turn.parity ^ 1);
      ptx::mbarrier_arrive_expect_tx(full, Tile::kStageBytes);
      copy_operand<Tile::kM, kAlongA>(stage.a, call.a, at.row, k, call.moves_a ? at.item : 0, full);
      copy_operand<Tile::kN, kAlongB>(stage.b, call.b, at.column, k, call.moves_b ? at.item : 0,
                                      full);
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
template <class Tile, class Out>
__device__ __forceinline__ void store_warp(const HopperCall<Out>& call, const HopperPlace& at,
                                           int row, float* staged,
                                           const float (&sum)[Tile::kN / 2]) {
  constexpr int kPackOf = kPack<Out>, kPacks = Tile::kChunk / kPackOf,
                kPairs = Tile::kChunk / 8 * 2;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  MatrixResult<Out> result = call.result;
  const std::int64_t moved = std::int64_t{at.item} * call.m * call.n;
  result.c += moved;
  if (result.residual != nullptr) result.residual += moved;
#pragma unroll 1
  for (int chunk = 0; chunk < Tile::kN / Tile::kChunk; ++chunk) {
    // A loop over registers has to be unrolled, the rest need not be there so often.
#pragma unroll
    for (int c = 0; c < Tile::kN / Tile::kChunk; ++c) {
      if (c != chunk) continue;
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        float* to = staged + (lane / 4 + 8 * (i % 2)) * Tile::kSumStride + i / 2 * 8 + lane % 4 * 2;
        to[0] = sum[(c * kPairs + i) * 2];
        to[1] = sum[(c * kPairs + i) * 2 + 1];
      }
    }
    __syncwarp();
    const int column = at.column + chunk * Tile::kChunk;
#pragma unroll 1
    for (int pack = lane; pack < Tile::kWarpRows * kPacks; pack += kWarp) {
      const int r = pack / kPacks, c = pack % kPacks * kPackOf;
      const int left = call.n - column - c;
      if (row + r < call.m && left > 0) {
        store_sums<false>(staged + r * Tile::kSumStride + c, left < kPackOf ? left : kPackOf,
                          row + r, column + c, call.epilogue, result);
      }
    }
    __syncwarp();  // the next columns take their place
  }
}

// A warp of those that multiply, the first of which is warp 0 here.
template <class T, class Tile, bool kAlongA, bool kAlongB, class Out>
__device__ __forceinline__ void multiply_tiles(const HopperCall<Out>& call,
                                               HopperStorage<Tile>& shared, int warp, int lane) {
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
    const auto at = HopperPlace::of<Tile>(call, tile);
    int before = -1;
#pragma unroll 1
    for (int k = at.begin; k < at.end; k += kDepth) {
      auto& stage = shared.stages[turn.stage];
      const std::uint64_t a = ptx::matrix_descriptor(
          ptx::shared_address(stage.a) + static_cast<unsigned>(group * kBoxBytes), kBoxBytes,
          kAtomBytes);
      const std::uint64_t b =
          ptx::matrix_descriptor(ptx::shared_address(stage.b), kBoxBytes, kAtomBytes);
      wait(&shared.full[turn.stage], turn.parity);
      __syncwarp();  // lanes may have waited one more time than others, wgmma takes them together
      ptx::wgmma_fence();
#pragma unroll
      for (unsigned step = 0; step < kDepth / 16; ++step) {
        multiply<T, kAlongA, kAlongB>(sum, a + step * kStepA, b + step * kStepB,
                                      step > 0 || before >= 0);
      }
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<1>();
      if (before >= 0) finished(before);
      before = turn.stage;
      turn.next();
    }
    ptx::wgmma_wait_group<0>();
    ptx::wgmma_sums_are_here(sum);
    finished(before);
    store_warp<Tile>(call, at, at.row + warp * Tile::kWarpRows, shared.sums[warp], sum);
  }
}

template <class T, class Out, class Tile, bool kAlongA, bool kAlongB>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_gemm_kernel(const __grid_constant__ HopperCall<Out> call) {
  auto& shared = *dynamic_shared<HopperStorage<Tile>>();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  if (thread == 0) {
    ptx::prefetch_tensormap(&call.a);
    ptx::prefetch_tensormap(&call.b);
    for (int i = 0; i < Tile::kStages; ++i) {
      ptx::mbarrier_init(&shared.full[i], 1);
      ptx::mbarrier_init(&shared.empty[i], kWarps);
    }
    ptx::fence_proxy_async_shared();
  }
  __syncthreads();
  if (thread < kGroup) {
    ptx::setmaxnreg_dec<kCopyRegisters>();
    if (thread == 0) copy_tiles<Tile, kAlongA, kAlongB>(call, shared);
  } else {
    ptx::setmaxnreg_inc<kMultiplyRegisters>();
    multiply_tiles<T, Tile, kAlongA, kAlongB>(call, shared, warp - kGroup / kWarp, lane);
  }
}

// ---- launches ---------------------------------------------------------------------------------------

constexpr std::int64_t kMostIndex = (std::int64_t{1} << 31) - 1024;  // and a tile further
constexpr std::int64_t kUnit = 8;                                    // elements of 16 bytes

// How an operand moves from product to product of a batch: by one stride, or not at all.
struct Moves {
  std::int64_t stride = 0;
  bool even = true;
};
Moves moves_of(const GemmBatch& batch, const std::int64_t* strides) {
  Moves moves;
  std::int64_t inner = 1;  // products of the axes so far
  for (int d = batch.ndim - 1; d >= 0; --d) {
    if (batch.shape[d] == 1) continue;
    if (inner == 1) moves.stride = strides[d];
    moves.even = moves.even && strides[d] == moves.stride * inner;
    inner *= batch.shape[d];
  }
  return moves;
}

// An operand: `outer` rows (columns) of k, and the stride of the index that is not contiguous.
struct HopperOperand {
  const void* p;
  std::int64_t outer, depth, stride;
  bool along_k;
  Moves moves;
};

// False where a tensor map cannot tell of it.
template <class T>
bool make_map(TensorMap* map, const HopperOperand& o, std::int64_t count, int box_outer) {
  const std::int64_t inner = o.along_k ? o.depth : o.outer, rows = o.along_k ? o.outer : o.depth;
  // A single row has any stride; so has a single product.
  const std::int64_t stride = rows == 1 ? round_up(inner, kUnit) : o.stride;
  const bool moves = count > 1 && o.moves.stride != 0;
  const std::int64_t move = moves ? o.moves.stride : stride;
  constexpr std::int64_t kMostStride = std::int64_t{1} << 38;  // elements
  if (!o.moves.even || stride <= 0 || move <= 0 || stride % kUnit != 0 || move % kUnit != 0 ||
      stride >= kMostStride || move >= kMostStride || o.outer > kMostIndex ||
      o.depth > kMostIndex || reinterpret_cast<std::uintptr_t>(o.p) % 16 != 0) {
    return false;
  }
  const auto wide = [](std::int64_t x) { return static_cast<std::uint64_t>(x); };
  const TensorBoxes boxes{o.p,
                          {wide(inner), wide(rows), wide(moves ? count : 1)},
                          {wide(stride), wide(move)},
                          {kBox, static_cast<std::uint32_t>(o.along_k ? box_outer : kBox), 1}};
  return encode_tensor_map(
      map, std::is_same_v<T, Half> ? TensorElement::kHalf : TensorElement::kBfloat16, boxes);
}

struct HopperOperands {
  HopperOperand a, b;
};

template <class Tile, class T, class Out>
bool launch_tiles(HopperCall<Out>& call, const HopperOperands& o, std::int64_t count) {
  const std::int64_t maps = call.part != 0 ? 1 : count;
  const std::int64_t tiles_m = ceil_div(o.a.outer, Tile::kM),
                     tiles_n = ceil_div(o.b.outer, Tile::kN);
  if (count > kMostIndex || tiles_m * tiles_n > kMostIndex / count ||
      !make_map<T>(&call.a, o.a, maps, Tile::kM) || !make_map<T>(&call.b, o.b, maps, Tile::kN)) {
    return false;
  }
  call.tiles_m = static_cast<unsigned>(tiles_m);
  call.tiles_n = static_cast<unsigned>(tiles_n);
  call.tiles = static_cast<unsigned>(tiles_m * tiles_n * count);
  using Storage = HopperStorage<Tile>;
  static_assert(sizeof(Storage) <= 227 * 1024);
  const Grid grid{persistent_blocks(call.tiles, 1), kThreads, sizeof(Storage)};
  if (o.a.along_k && o.b.along_k) {
    ARRAYNN_LAUNCH((hopper_gemm_kernel<T, Out, Tile, true, true>), grid, call);
  } else if (o.a.along_k) {
    ARRAYNN_LAUNCH((hopper_gemm_kernel<T, Out, Tile, true, false>), grid, call);
  } else if (o.b.along_k) {
    ARRAYNN_LAUNCH((hopper_gemm_kernel<T, Out, Tile, false, true>), grid, call);
  } else {
    ARRAYNN_LAUNCH((hopper_gemm_kernel<T, Out, Tile, false, false>), grid, call);
  }
  return true;
}

// The tile that is done first, if a tile takes as long as its columns and 64 more, for its rows of A, and all
// multiprocessors work alike. Estimated.
template <class T, class Out>
bool launch(HopperCall<Out>& call, const HopperOperands& o, std::int64_t count) {
  const auto time = [&](std::int64_t columns) {
    const std::int64_t tiles = ceil_div(o.a.outer, 128) * ceil_div(o.b.outer, columns) * count;
    return ceil_div(tiles, multiprocessors()) * (columns + 64);
  };
  if (time(256) <= time(128) && time(256) <= time(64)) {
    return launch_tiles<HopperTile<256>, T>(call, o, count);
  }
  if (time(128) <= time(64)) return launch_tiles<HopperTile<128>, T>(call, o, count);
  return launch_tiles<HopperTile<64>, T>(call, o, count);
}

template <class T>
HopperOperands operands_of(const GemmProblem<T>& p, Moves a, Moves b) {
  const bool along_a = p.cs_a == 1, along_b = p.rs_b == 1;
  return {{p.a, p.m, p.k, along_a ? p.rs_a : p.cs_a, along_a, a},
          {p.b, p.n, p.k, along_b ? p.cs_b : p.rs_b, along_b, b}};
}

template <class Out, class T>
HopperCall<Out> call_of(const GemmProblem<T>& p) {
  HopperCall<Out> call{};
  call.m = static_cast<int>(p.m);
  call.n = static_cast<int>(p.n);
  call.depth = static_cast<int>(p.k);
  return call;
}

template <class T>
bool fits(const GemmProblem<T>& p) {
  return is_hopper() && p.k > 0 && p.k % kUnit == 0 && p.m > 0 && p.n > 0;
}

}  // namespace

template <class T, class Out>
bool gemm_on_hopper(const GemmProblem<T>& p, const GemmResult<Out>& to, const GemmBatch& batch) {
  std::int64_t count = 1;
  for (int d = 0; d < batch.ndim; ++d) count *= batch.shape[d];
  if (!fits(p) || count == 0) return false;
  const HopperOperands o =
      operands_of(p, moves_of(batch, batch.stride_a), moves_of(batch, batch.stride_b));
  const Epilogue<Out>& e = to.epilogue;
  HopperCall<Out> call = call_of<Out>(p);
  const auto packed = [&](const Out* c, std::int64_t stride) {
    constexpr std::int64_t kOf = kPack<Out>;
    return is_packed(c) && stride % kOf == 0 && (count == 1 || p.m * p.n % kOf == 0);
  };
  call.result = {
      to.c, e.residual, p.rs_c, e.rs_residual,
      packed(to.c, p.rs_c) && (e.residual == nullptr || packed(e.residual, e.rs_residual))};
  call.epilogue = {e.bias, e.bias == nullptr ? BiasAxis::kNone : e.bias_axis, p.accumulate,
                   e.activation};
  call.moves_a = count > 1 && o.a.moves.stride != 0;
  call.moves_b = count > 1 && o.b.moves.stride != 0;
  return launch<T>(call, o, count);
}

template <class T>
bool gemm_parts_on_hopper(const GemmProblem<T>& p, Parts parts, float* sums) {
  if (!fits(p) || parts.length % kDepth != 0 || p.cs_a == 1 || p.rs_b == 1) return false;
  HopperCall<float> call = call_of<float>(p);
  call.part = static_cast<int>(parts.length);
  const bool packed = p.n % kPack<float> == 0;
  call.result = {sums, nullptr, p.n, 0, packed};
  return launch<T>(call, operands_of(p, {}, {}), parts.count);
}

#define ARRAYNN_INSTANTIATE(T)                                                                     \
  template bool gemm_on_hopper(const GemmProblem<T>&, const GemmResult<T>&, const GemmBatch&);     \
  template bool gemm_on_hopper(const GemmProblem<T>&, const GemmResult<float>&, const GemmBatch&); \
  template bool gemm_parts_on_hopper(const GemmProblem<T>&, Parts, float*);
ARRAYNN_INSTANTIATE(Half)
ARRAYNN_INSTANTIATE(Bfloat16)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn::cuda
