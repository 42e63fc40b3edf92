// Kernels for the tests of the runtime: each does one thing that real kernels do, right or, by its
// template argument, with one planted fault.
#include "kernels.hpp"

#include "core/cuda_grid.hpp"
#include "core/cuda_reduce.hpp"
#include "core/cuda_shared.hpp"
#include "ptx/cp_async.hpp"
#include "ptx/mma.hpp"

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

constexpr Grid kOneBlock{1, kThreads};

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

}  // namespace arraynn::cuda
