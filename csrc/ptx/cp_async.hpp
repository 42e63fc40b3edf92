// Asynchronous copies from global to shared memory (sm_80). The bytes are there for the thread that
// copied them after cp_async_wait_group, for the others after a barrier that follows.
#pragma once
#include "ptx/ptx.hpp"

namespace arraynn::ptx {

// cp.async.cg.shared.global [shared], [global], 16, source_bytes: 16 bytes, of which those beyond
// `source_bytes` (0 to 16) are zeros and are not read. Both addresses are multiples of 16.
ARRAYNN_PTX_FUNCTION void cp_async_cg_16(void* shared, const void* global, int source_bytes = 16) {
  ARRAYNN_PTX(
      host_ptx::cp_async(shared, global, 16, source_bytes),
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                   "l"(global), "r"(source_bytes) : "memory"));
}

// cp.async.ca.shared.global [shared], [global], kBytes, source_bytes: the same for 4 or 8 bytes, at multiples
// of them.
template <int kBytes>
ARRAYNN_PTX_FUNCTION void cp_async_ca(void* shared, const void* global, int source_bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8);
  ARRAYNN_PTX(
      host_ptx::cp_async(shared, global, kBytes, source_bytes),
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)),
                   "l"(global), "n"(kBytes), "r"(source_bytes) : "memory"));
}

// cp.async.commit_group: the copies of this thread since the last one form a group.
ARRAYNN_PTX_FUNCTION void cp_async_commit_group() {
  ARRAYNN_PTX(host_ptx::cp_async_commit_group(),
              asm volatile("cp.async.commit_group;" :: : "memory"));
}

// cp.async.wait_group: all but the last kPending groups of this thread are complete.
template <int kPending>
ARRAYNN_PTX_FUNCTION void cp_async_wait_group() {
  ARRAYNN_PTX(host_ptx::cp_async_wait_group(kPending),
              asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory"));
}

}  // namespace arraynn::ptx
