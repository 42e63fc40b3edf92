// Blocks of a cluster (sm_90): launched together, they write into each other's shared memory and wait for
// each other.
#pragma once
#include "ptx/ptx.hpp"

namespace arraynn::ptx {

// mov of %cluster_ctarank: which block of its cluster this is.
ARRAYNN_PTX_FUNCTION std::uint32_t cluster_ctarank() {
  ARRAYNN_PTX(host_ptx::cluster_ctarank(), std::uint32_t rank;
              asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank)); return rank);
}

// mov of %cluster_nctarank: of how many.
ARRAYNN_PTX_FUNCTION std::uint32_t cluster_nctarank() {
  ARRAYNN_PTX(host_ptx::cluster_nctarank(), std::uint32_t count;
              asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(count)); return count);
}

// mapa.shared::cluster.u32: where block `rank` has what is at `shared` in this one.
ARRAYNN_PTX_FUNCTION std::uint32_t mapa_shared_cluster(const void* shared, std::uint32_t rank) {
  ARRAYNN_PTX(
      host_ptx::mapa_shared_cluster(shared, rank), std::uint32_t address;
      asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(shared)),
          "r"(rank));
      return address);
}

// st.shared::cluster, to an address of mapa: the block must have begun and must not have left.
ARRAYNN_PTX_FUNCTION void st_shared_cluster(std::uint32_t address, float v) {
  ARRAYNN_PTX(host_ptx::st_shared_cluster(address, v),
              asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(v) : "memory"));
}
ARRAYNN_PTX_FUNCTION void st_shared_cluster(std::uint32_t address, double v) {
  ARRAYNN_PTX(host_ptx::st_shared_cluster(address, v),
              asm volatile("st.shared::cluster.f64 [%0], %1;" ::"r"(address), "d"(v) : "memory"));
}

// barrier.cluster.arrive.release: by every thread of the cluster.
ARRAYNN_PTX_FUNCTION void barrier_cluster_arrive() {
  ARRAYNN_PTX(host_ptx::barrier_cluster_arrive(),
              asm volatile("barrier.cluster.arrive.release;" :: : "memory"));
}

// barrier.cluster.wait.acquire: until all have arrived; what they wrote before is there.
ARRAYNN_PTX_FUNCTION void barrier_cluster_wait() {
  ARRAYNN_PTX(host_ptx::barrier_cluster_wait(),
              asm volatile("barrier.cluster.wait.acquire;" :: : "memory"));
}

}  // namespace arraynn::ptx
