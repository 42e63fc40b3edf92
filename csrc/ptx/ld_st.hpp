// Accesses of 16 bytes to global memory, with hints to the caches. Addresses are multiples of 16.
#pragma once
#include "ptx/ptx.hpp"

namespace arraynn::ptx {

struct alignas(16) B128 {
  std::uint32_t x, y, z, w;
};

// ld.global.nc.L1::no_allocate.v4.u32: read once, through the read-only path. Nothing that the same
// kernel writes may be read with it.
ARRAYNN_PTX_FUNCTION B128 ld_global_nc_l1_no_allocate_v4(const void* p) {
  ARRAYNN_PTX(host_ptx::ld_global_v4<B128>(p), B128 r;
              asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r.x),
                           "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
              return r);
}

// ld.global.nc.v4.u32: through the read-only path, and kept in L1 for the threads that read it again.
ARRAYNN_PTX_FUNCTION B128 ld_global_nc_v4(const void* p) {
  ARRAYNN_PTX(host_ptx::ld_global_v4<B128>(p), B128 r;
              asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r.x), "=r"(r.y),
                           "=r"(r.z), "=r"(r.w) : "l"(p));
              return r);
}

// ld.global.L1::no_allocate.v4.u32: read once, for memory that the kernel updates in place.
ARRAYNN_PTX_FUNCTION B128 ld_global_l1_no_allocate_v4(const void* p) {
  ARRAYNN_PTX(host_ptx::ld_global_v4<B128>(p), B128 r;
              asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r.x),
                           "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p) : "memory");
              return r);
}

// st.global.v4.u32.
ARRAYNN_PTX_FUNCTION void st_global_v4(void* p, B128 v) {
  ARRAYNN_PTX(host_ptx::st_global_v4(p, v),
              asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(v.x), "r"(v.y),
                           "r"(v.z), "r"(v.w) : "memory"));
}

// st.global.cs.v4.u32: streaming, the line is the first to be evicted.
ARRAYNN_PTX_FUNCTION void st_global_cs_v4(void* p, B128 v) {
  ARRAYNN_PTX(host_ptx::st_global_v4(p, v),
              asm volatile("st.global.cs.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(v.x), "r"(v.y),
                           "r"(v.z), "r"(v.w) : "memory"));
}

// prefetch.global.L2: the line comes from memory, or was there.
ARRAYNN_PTX_FUNCTION void prefetch_global_l2(const void* p) {
  ARRAYNN_PTX(host_ptx::prefetch(p), asm volatile("prefetch.global.L2 [%0];" ::"l"(p)));
}

}  // namespace arraynn::ptx
