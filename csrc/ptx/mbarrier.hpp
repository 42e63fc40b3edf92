// Barriers in shared memory with a count of arrivals and of bytes (sm_90). A phase ends when `count` threads
// have arrived and all expected bytes have come; then the next one begins, of the other parity. The phase
// before the first one counts as ended: waiting for parity 1 of a new barrier passes.
#pragma once
#include "ptx/ptx.hpp"

namespace arraynn::ptx {

// mbarrier.init.shared::cta.b64: by one thread; before bulk copies use it, fence_proxy_async_shared().
ARRAYNN_PTX_FUNCTION void mbarrier_init(std::uint64_t* barrier, std::uint32_t count) {
  ARRAYNN_PTX(host_ptx::mbarrier_init(barrier, count),
              asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                           "r"(count) : "memory"));
}

// mbarrier.arrive.shared::cta.b64: releases what this thread did before.
ARRAYNN_PTX_FUNCTION void mbarrier_arrive(std::uint64_t* barrier) {
  ARRAYNN_PTX(host_ptx::mbarrier_arrive(barrier),
              asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(
                  shared_address(barrier)) : "memory"));
}

// mbarrier.arrive.expect_tx.shared::cta.b64: arrives, and this phase waits for `bytes` more.
ARRAYNN_PTX_FUNCTION void mbarrier_arrive_expect_tx(std::uint64_t* barrier, std::uint32_t bytes) {
  ARRAYNN_PTX(host_ptx::mbarrier_arrive_expect_tx(barrier, bytes),
              asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                               shared_address(barrier)),
                           "r"(bytes) : "memory"));
}

// mbarrier.try_wait.parity.shared::cta.b64: whether the phase of this parity has ended; it may wait a while
// for that. What others did before their arrivals, and the bytes, are there for this thread then.
ARRAYNN_PTX_FUNCTION bool mbarrier_try_wait_parity(std::uint64_t* barrier, std::uint32_t parity) {
  ARRAYNN_PTX(host_ptx::mbarrier_try_wait_parity(barrier, parity), std::uint32_t ended;
              asm volatile("{\n.reg .pred p;\n"
                           "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                           "selp.u32 %0, 1, 0, p;\n}" : "=r"(ended) : "r"(shared_address(barrier)),
                           "r"(parity) : "memory");
              return ended != 0);
}

}  // namespace arraynn::ptx
