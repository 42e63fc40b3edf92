// Kernels for the tests of the runtime: each does one thing that real kernels do, right or, by its
// template argument, with one planted fault.
#include "kernels.hpp"

#include "core/cuda_grid.hpp"
#include "core/cuda_reduce.hpp"
#include "core/cuda_shared.hpp"
#include "core/cuda_tensor_map.hpp"
#include "ptx/bulk.hpp"
#include "ptx/cp_async.hpp"
#include "ptx/mbarrier.hpp"
#include "ptx/mma.hpp"
#include "ptx/wgmma.hpp"

namespace arraynn::cuda {
namespace {

constexpr int kThreads = 128;

struct Reverse {
  float values[kThreads];
};

// y = x in reverse, through shared memory.
template <Plant plant>
__global__ void __launch_bounds__(kThreads) reverse_kernel(const float* x, float* y) {
  auto& shared = shared_storage<Reverse>();
  const int t = static_cast<int>(threadIdx.x);
  if (plant != Plant::kUninitialised || t != 5) shared.values[t] = x[t];
  if (plant != Plant::kNoBarrier) {
    if (plant == Plant::kDivergentBarrier && t < 64) {
      __syncthreads();
    } else if (plant != Plant::kThreadLeaves || t != 7) {
      __syncthreads();
    } else {
      return;
    }
  }
  const int from = plant == Plant::kOffByOne ? kThreads - t : kThreads - 1 - t;
  y[t] = shared.values[from];
}

// y[0] = the sum of x, over lanes and warps.
template <Plant plant>
__global__ void __launch_bounds__(kThreads) sum_kernel(const float* x, float* y) {
  auto& shared = shared_storage<BlockReduceStorage<float, kThreads / kWarp>>();
  const int t = static_cast<int>(threadIdx.x);
  float v = x[t];
  if (plant == Plant::kWrongMask) {
    for (int step = kWarp / 2; step > 0; step /= 2) v += __shfl_xor_sync(0x0000FFFFu, v, step);
    y[0] = v;
    return;
  }
  if (plant == Plant::kMissingLane) {
    if (t % kWarp != 3) v += __shfl_xor_sync(kWholeWarp, v, 1);
  }
  const float total = block_reduce(v, shared, [](float a, float b) { return a + b; });
  if (t == 0) y[0] = total;
}

struct Tiles {
  alignas(16) float rows[2][kThreads * 4];
};

// y[i] = 2 x[i] for tiles of 512 numbers, copied asynchronously one tile ahead.
template <Plant plant>
__global__ void __launch_bounds__(kThreads) pipeline_kernel(const float* x, float* y, int tiles) {
  auto& shared = shared_storage<Tiles>();
  const int t = static_cast<int>(threadIdx.x);
  const auto fetch = [&](int tile) {
    if (tile < tiles) {
      ptx::cp_async_cg_16(&shared.rows[tile % 2][4 * t], x + (tile * kThreads + t) * 4);
    }
    ptx::cp_async_commit_group();
  };
  fetch(0);
  for (int tile = 0; tile < tiles; ++tile) {
    fetch(tile + 1);
    if (plant == Plant::kNoWait) {
      ptx::cp_async_wait_group<2>();
    } else {
      ptx::cp_async_wait_group<1>();
    }
    __syncthreads();
    // The neighbour's numbers: what this thread copied itself would hide a missing barrier.
    const int from = (t + 1) % kThreads;
    for (int i = 0; i < 4; ++i) {
      y[(tile * kThreads + from) * 4 + i] = 2 * shared.rows[tile % 2][4 * from + i];
    }
    if (plant != Plant::kEarlyReuse) __syncthreads();
  }
  ptx::cp_async_wait_group<0>();
}

constexpr int kBlocksOfRounds = 2, kRounds = 4, kOfRound = kBlocksOfRounds * kThreads;
constexpr int kCounter = 2 * kOfRound;  // in y, behind the two buffers

__global__ void __launch_bounds__(kWarp) clear_kernel(float* y) {
  const std::uint32_t none = 0;
  if (threadIdx.x == 0) memcpy(y + kCounter, &none, sizeof none);
}

// y[i] = x[i] + 4: in each round a block adds 1 to what the other one has left.
template <Plant plant>
__global__ void __launch_bounds__(kThreads) rounds_kernel(const float* x, float* y) {
  const int t = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x) % 2;
  const int own = block * kThreads + t, other = (1 - block) * kThreads + t;
  auto* arrived = reinterpret_cast<std::uint32_t*>(y + kCounter);
  std::uint32_t barriers = 0;
  y[own] = x[own];
  for (int round = 0; round < kRounds; ++round) {
    if (plant == Plant::kMissingBlock && round == 2 && block == 1) return;
    if (plant != Plant::kNoBarrier || round != 2) grid_barrier(arrived, barriers);
    y[(round + 1) % 2 * kOfRound + own] = y[round % 2 * kOfRound + other] + 1;
  }
}

struct Fragments {
  alignas(16) std::uint16_t a[16][16];
  alignas(16) std::uint16_t b[16][8];
};

// d (16, 8) = a (16, 16) b (16, 8) of 16-bit floats in row order, by one warp through ldmatrix.
template <bool kBf16>
__global__ void __launch_bounds__(kWarp)
    mma_kernel(const std::uint16_t* a, const std::uint16_t* b, float* d) {
  auto& shared = shared_storage<Fragments>();
  const int lane = static_cast<int>(threadIdx.x);
  ptx::cp_async_cg_16(&shared.a[lane / 2][lane % 2 * 8], a + lane * 8);
  if (lane < 16) ptx::cp_async_cg_16(&shared.b[lane][0], b + lane * 8);
  ptx::cp_async_commit_group();
  ptx::cp_async_wait_group<0>();
  __syncwarp();
  std::uint32_t ra[4], rb[4];
  ptx::ldmatrix_m8n8_x4(ra, &shared.a[lane % 16][lane / 16 * 8]);
  ptx::ldmatrix_m8n8_x4_trans(rb, &shared.b[lane % 16][0]);
  const std::uint32_t columns[2] = {rb[0], rb[1]};
  float sums[4] = {};
  if constexpr (kBf16) {
    ptx::mma_m16n8k16_bf16(sums, ra, columns);
  } else {
    ptx::mma_m16n8k16_f16(sums, ra, columns);
  }
  for (int r = 0; r < 4; ++r) d[(lane / 4 + 8 * (r / 2)) * 8 + 2 * (lane % 4) + r % 2] = sums[r];
}

// d (16, 8) = a (16, 8) b (8, 8) of tf32.
__global__ void __launch_bounds__(kWarp) mma_tf32_kernel(const float* a, const float* b, float* d) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  std::uint32_t ra[4], rb[2];
  for (int r = 0; r < 4; ++r) memcpy(&ra[r], a + (g + 8 * (r % 2)) * 8 + t + 4 * (r / 2), 4);
  for (int r = 0; r < 2; ++r) memcpy(&rb[r], b + (t + 4 * r) * 8 + g, 4);
  float sums[4] = {};
  ptx::mma_m16n8k8_tf32(sums, ra, rb);
  for (int r = 0; r < 4; ++r) d[(g + 8 * (r / 2)) * 8 + 2 * t + r % 2] = sums[r];
}

struct Boxes {
  TensorMap a, b;
};
struct alignas(1024) Stage {
  unsigned char a[8192], b[8192];
  std::uint64_t full;
};

template <Plant plant, bool kBf16, bool kAlongA, bool kAlongB>
__global__ void __launch_bounds__(kThreads)
    warpgroup_kernel(const __grid_constant__ Boxes boxes, float* d) {
  auto& shared = *dynamic_shared<Stage>();
  const int t = static_cast<int>(threadIdx.x), warp = t / kWarp, lane = t % kWarp;
  if (t == 0) {
    ptx::mbarrier_init(&shared.full, 1);
    if (plant != Plant::kNoProxyFence) ptx::fence_proxy_async_shared();
  }
  __syncthreads();
  if (t == 0) {
    // Boxes of 64 along k are half outside of the array.
    constexpr unsigned kBytes = (kAlongA ? 8192 : 4096) + (kAlongB ? 8192 : 4096);
    ptx::mbarrier_arrive_expect_tx(&shared.full, kBytes - (plant == Plant::kFewBytes ? 4096 : 0));
    ptx::cp_async_bulk_tensor_3d(shared.a, &boxes.a, 0, 0, 0, &shared.full);
    ptx::cp_async_bulk_tensor_3d(shared.b, &boxes.b, 0, 0, 0, &shared.full);
  }
  if (plant != Plant::kNoBarrier) {
    while (!ptx::mbarrier_try_wait_parity(&shared.full, 0)) {
    }
  }
  float sums[32];
  const std::uint64_t a = ptx::matrix_descriptor(ptx::shared_address(shared.a), 0, 1024);
  const std::uint64_t b = ptx::matrix_descriptor(ptx::shared_address(shared.b), 0, 1024);
  constexpr bool kInRegisters =
      kAlongA && (plant == Plant::kRegisters || plant == Plant::kRegistersReused);
  std::uint32_t words[2][4];  // of a
  for (int i = 0; i < 8; ++i) {
    const int row = 16 * warp + lane / 4 + i % 2 * 8;
    const int column = 16 * (i / 4) + i / 2 % 2 * 8 + lane % 4 * 2;
    const int swizzled = 2 * column ^ row % 8 << 4;
    if (kInRegisters) memcpy(&words[i / 4][i % 4], shared.a + 128 * row + swizzled, 4);
  }
  if (plant != Plant::kHalfGroup || warp < 2) {
    if (plant != Plant::kNoProductFence) ptx::wgmma_fence();
    for (std::uint64_t step = 0; step < 2; ++step) {
      const std::uint64_t x = a + step * (kAlongA ? 2 : 128), y = b + step * (kAlongB ? 2 : 128);
      if constexpr (kInRegisters && kBf16) {
        ptx::wgmma_rs_m64n64k16_bf16<kAlongB>(sums, words[step], y, step > 0);
      } else if constexpr (kInRegisters) {
        ptx::wgmma_rs_m64n64k16_f16<kAlongB>(sums, words[step], y, step > 0);
      } else if constexpr (kBf16) {
        ptx::wgmma_m64n64k16_bf16<kAlongA, kAlongB>(sums, x, y, step > 0);
      } else {
        ptx::wgmma_m64n64k16_f16<kAlongA, kAlongB>(sums, x, y, step > 0);
      }
    }
    ptx::wgmma_commit_group();
    if (plant == Plant::kRegistersReused) words[1][2] = 0;
    if (plant == Plant::kNoWait) {
      ptx::wgmma_wait_group<1>();
    } else {
      ptx::wgmma_wait_group<0>();
    }
    ptx::wgmma_sums_are_here(sums);
  }
  for (int i = 0; i < 32; ++i) {
    const int row = 16 * warp + lane / 4 + 8 * (i / 2 % 2),
              column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    d[row * 64 + column] = sums[i];
  }
  if (plant == Plant::kNoWait) ptx::wgmma_wait_group<0>();
}

constexpr Grid kOneBlock{1, kThreads};

template <Plant plant, bool kBf16, bool kAlongA, bool kAlongB>
void launch_product(const std::uint16_t* a, const std::uint16_t* b, float* d) {
  constexpr std::uint64_t kSize = 64, kDepth = 32;
  constexpr auto kElement = kBf16 ? TensorElement::kBfloat16 : TensorElement::kHalf;
  const auto boxes = [](const void* p, bool along) {
    const std::uint64_t inner = along ? kDepth : kSize, outer = along ? kSize : kDepth;
    return TensorBoxes{
        p, {inner, outer, 1}, {inner, inner * outer}, {64, static_cast<std::uint32_t>(outer), 1}};
  };
  Boxes maps{};
  if (!encode_tensor_map(&maps.a, kElement, boxes(a, kAlongA)) ||
      !encode_tensor_map(&maps.b, kElement, boxes(b, kAlongB))) {
    return;
  }
  constexpr Grid kGrid{1, kThreads, sizeof(Stage)};
  ARRAYNN_LAUNCH((warpgroup_kernel<plant, kBf16, kAlongA, kAlongB>), kGrid, maps, d);
}

}  // namespace

template <Plant plant>
void reverse(const float* x, float* y) {
  ARRAYNN_LAUNCH((reverse_kernel<plant>), kOneBlock, x, y);
}
template <Plant plant>
void sum(const float* x, float* y) {
  ARRAYNN_LAUNCH((sum_kernel<plant>), kOneBlock, x, y);
}
template <Plant plant>
void pipeline(const float* x, float* y, int tiles) {
  ARRAYNN_LAUNCH((pipeline_kernel<plant>), kOneBlock, x, y, tiles);
}
template <Plant plant>
void rounds(const float* x, float* y) {
  ARRAYNN_LAUNCH((clear_kernel), (Grid{1, kWarp}), y);
  const int blocks = plant == Plant::kTooManyBlocks ? multiprocessors() + 1 : kBlocksOfRounds;
  const Grid grid{blocks, kThreads, 0, plant != Plant::kOneByOne};
  ARRAYNN_LAUNCH((rounds_kernel<plant>), grid, x, y);
}
void mma_16bit(bool bf16, const std::uint16_t* a, const std::uint16_t* b, float* d) {
  constexpr Grid kOneWarp{1, kWarp};
  if (bf16) {
    ARRAYNN_LAUNCH((mma_kernel<true>), kOneWarp, a, b, d);
  } else {
    ARRAYNN_LAUNCH((mma_kernel<false>), kOneWarp, a, b, d);
  }
}
void mma_tf32(const float* a, const float* b, float* d) {
  ARRAYNN_LAUNCH((mma_tf32_kernel), (Grid{1, kWarp}), a, b, d);
}
template <Plant plant>
void warpgroup_product(bool bf16, bool along_a, bool along_b, const std::uint16_t* a,
                       const std::uint16_t* b, float* d) {
  const auto run = [&]<bool kBf16>() {
    if (along_a && along_b) return launch_product<plant, kBf16, true, true>(a, b, d);
    if (along_a) return launch_product<plant, kBf16, true, false>(a, b, d);
    if (along_b) return launch_product<plant, kBf16, false, true>(a, b, d);
    return launch_product<plant, kBf16, false, false>(a, b, d);
  };
  if (bf16) {
    run.template operator()<true>();
  } else {
    run.template operator()<false>();
  }
}
void too_many_threads(const float* x, float* y) {
  ARRAYNN_LAUNCH((reverse_kernel<Plant::kNone>), (Grid{1, 2048}), x, y);
}
void too_many_blocks(const float* x, float* y) {
  ARRAYNN_LAUNCH((reverse_kernel<Plant::kNone>), (Grid{kMaxBlocks + 1, 128}), x, y);
}

template void reverse<Plant::kNone>(const float*, float*);
template void reverse<Plant::kNoBarrier>(const float*, float*);
template void reverse<Plant::kOffByOne>(const float*, float*);
template void reverse<Plant::kUninitialised>(const float*, float*);
template void reverse<Plant::kDivergentBarrier>(const float*, float*);
template void reverse<Plant::kThreadLeaves>(const float*, float*);
template void sum<Plant::kNone>(const float*, float*);
template void sum<Plant::kWrongMask>(const float*, float*);
template void sum<Plant::kMissingLane>(const float*, float*);
template void rounds<Plant::kNone>(const float*, float*);
template void rounds<Plant::kNoBarrier>(const float*, float*);
template void rounds<Plant::kMissingBlock>(const float*, float*);
template void rounds<Plant::kTooManyBlocks>(const float*, float*);
template void rounds<Plant::kOneByOne>(const float*, float*);
template void pipeline<Plant::kNone>(const float*, float*, int);
template void pipeline<Plant::kNoWait>(const float*, float*, int);
template void pipeline<Plant::kEarlyReuse>(const float*, float*, int);
#define PRODUCT(plant)                                                                  \
  template void warpgroup_product<Plant::plant>(bool, bool, bool, const std::uint16_t*, \
                                                const std::uint16_t*, float*);
PRODUCT(kNone)
PRODUCT(kNoBarrier)
PRODUCT(kNoWait)
PRODUCT(kNoProductFence)
PRODUCT(kNoProxyFence)
PRODUCT(kFewBytes)
PRODUCT(kHalfGroup)
PRODUCT(kRegisters)
PRODUCT(kRegistersReused)
#undef PRODUCT

}  // namespace arraynn::cuda
