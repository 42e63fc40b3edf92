// The host functions of kernels.cu.
#pragma once
#include <cstdint>

namespace arraynn::cuda {

// What is wrong with a kernel.
enum class Plant : std::uint8_t {
  kNone,
  kNoBarrier,         // a __syncthreads() removed
  kOffByOne,          // an index
  kUninitialised,     // one element of shared memory is read and never written
  kDivergentBarrier,  // the halves of a block wait at different barriers
  kThreadLeaves,      // one thread returns before the barrier
  kWrongMask,         // lanes take part in a shuffle without being in its mask
  kMissingLane,       // a lane of the mask does not come
  kNoWait,            // a cp.async.wait_group lets one group too many run on
  kEarlyReuse,        // a buffer is filled again while others still read it
  kMissingBlock,      // a block leaves before the barrier of all blocks
  kTooManyBlocks,     // more than the device has room for at once wait for each other
  kOneByOne,          // blocks wait for each other that are not launched together
  kNoProductFence,    // wgmma without wgmma.fence
  kNoProxyFence,      // mbarriers that bulk copies may not see yet
  kFewBytes,          // an mbarrier expects fewer bytes than come
  kHalfGroup,         // two of the four warps of a warpgroup call wgmma
  kRegisters,         // nothing: an operand of wgmma is in registers
  kRegistersReused,   // which are written again before the product is waited for
};

template <Plant plant>
void reverse(const float* x, float* y);
template <Plant plant>
void sum(const float* x, float* y);
template <Plant plant>
void pipeline(const float* x, float* y, int tiles);
template <Plant plant>
void rounds(const float* x, float* y);
void mma_16bit(bool bf16, const std::uint16_t* a, const std::uint16_t* b, float* d);
void mma_tf32(const float* a, const float* b, float* d);
// d (64, 64) = a (64, 32) b (32, 64) by one warpgroup: boxes, mbarriers, wgmma. Operands along k or not.
template <Plant plant>
void warpgroup_product(bool bf16, bool along_a, bool along_b, const std::uint16_t* a,
                       const std::uint16_t* b, float* d);
void too_many_threads(const float* x, float* y);
void too_many_blocks(const float* x, float* y);

}  // namespace arraynn::cuda
