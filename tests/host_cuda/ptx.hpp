// The host meanings of the functions in csrc/ptx. Bits and lanes as in the PTX manual. Of an mma the sum
// is formed in double and cut off once: tensor cores round towards zero (Fasi, Higham, Mikaitis and Pranesh,
// Numerical behavior of NVIDIA tensor cores, 2021), what they cut off of each term is not modelled.
#pragma once
#include <cstdint>
#include <cstring>

#include "engine.hpp"
#include "runtime.hpp"

namespace host_ptx {

using host_cuda::Site;
#define HOST_PTX_SITE Site site = {__builtin_FILE(), __builtin_LINE()}

inline std::uint32_t shared_address(const void* p, HOST_PTX_SITE) {
  return host_cuda::shared_address(p, site);
}

inline void require_aligned(const void* p, std::uintptr_t bytes, const char* what, Site site) {
  if (reinterpret_cast<std::uintptr_t>(p) % bytes != 0) {
    host_cuda::fault(std::string(what) + " at an address that is no multiple of its size", site);
  }
}

template <class B128>
B128 ld_global_v4(const void* p, HOST_PTX_SITE) {
  require_aligned(p, 16, "ld.global.v4", site);
  if (host_cuda::is_shared(p, 16)) host_cuda::fault("ld.global of shared memory", site);
  B128 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class B128>
void st_global_v4(void* p, const B128& v, HOST_PTX_SITE) {
  require_aligned(p, 16, "st.global.v4", site);
  if (host_cuda::is_shared(p, 16)) host_cuda::fault("st.global to shared memory", site);
  std::memcpy(p, &v, sizeof v);
}

inline void prefetch(const void*) {}

inline void make_copy(const host_cuda::AsyncCopy& copy) {
  std::memcpy(copy.shared, copy.global, static_cast<std::size_t>(copy.source_bytes));
  std::memset(static_cast<char*>(copy.shared) + copy.source_bytes, 0,
              static_cast<std::size_t>(copy.bytes - copy.source_bytes));
}
inline void cp_async(void* shared, const void* global, int bytes, int source_bytes, HOST_PTX_SITE) {
  require_aligned(shared, bytes, "cp.async", site);
  require_aligned(global, bytes, "cp.async", site);
  if (!host_cuda::is_shared(shared, static_cast<std::size_t>(bytes))) {
    host_cuda::fault("cp.async to an address outside shared memory", site);
  }
  if (source_bytes < 0 || source_bytes > bytes) {
    host_cuda::fault("cp.async with a source size outside 0 to its size", site);
  }
  const host_cuda::AsyncCopy copy{shared, global, bytes, source_bytes};
  if (host_cuda::async_copy(copy)) make_copy(copy);
}
inline void cp_async_commit_group() { host_cuda::async_commit(); }
inline void cp_async_wait_group(int pending) {
  while (const host_cuda::AsyncCopy* copy = host_cuda::async_due(pending)) make_copy(*copy);
}

inline std::uint32_t ld_acquire_gpu(const std::uint32_t* p, HOST_PTX_SITE) {
  require_aligned(p, 4, "ld.acquire.gpu", site);
  return host_cuda::load_acquire(p, site);
}
inline void red_release_gpu_add(std::uint32_t* p, std::uint32_t value, HOST_PTX_SITE) {
  require_aligned(p, 4, "red.release.gpu", site);
  host_cuda::add_release(p, value);
}

inline std::uint32_t cluster_ctarank() { return host_cuda::cluster_rank(); }
inline std::uint32_t cluster_nctarank() { return host_cuda::cluster_size(); }
inline std::uint32_t mapa_shared_cluster(const void* p, std::uint32_t rank, HOST_PTX_SITE) {
  return host_cuda::cluster_address(p, rank, site);
}
template <class T>
void st_shared_cluster(std::uint32_t address, T v, HOST_PTX_SITE) {
  void* const p = host_cuda::cluster_shared(address, sizeof v, site);
  require_aligned(p, sizeof v, "st.shared::cluster", site);
  std::memcpy(p, &v, sizeof v);
}
inline void barrier_cluster_arrive(HOST_PTX_SITE) { host_cuda::cluster_arrive(site); }
inline void barrier_cluster_wait(HOST_PTX_SITE) { host_cuda::cluster_wait(site); }

void mma_m16n8k16_f16(float* d, const std::uint32_t* a, const std::uint32_t* b, HOST_PTX_SITE);
void mma_m16n8k16_bf16(float* d, const std::uint32_t* a, const std::uint32_t* b, HOST_PTX_SITE);
void mma_m16n8k8_tf32(float* d, const std::uint32_t* a, const std::uint32_t* b, HOST_PTX_SITE);
void ldmatrix_m8n8_x4(std::uint32_t* r, const void* row, bool transposed, HOST_PTX_SITE);

inline void mbarrier_init(void* barrier, std::uint32_t count, HOST_PTX_SITE) {
  require_aligned(barrier, 8, "mbarrier", site);
  host_cuda::mbarrier_init(barrier, count, site);
}
inline void mbarrier_arrive(void* barrier, HOST_PTX_SITE) {
  host_cuda::mbarrier_arrive(barrier, 0, site);
}
inline void mbarrier_arrive_expect_tx(void* barrier, std::uint32_t bytes, HOST_PTX_SITE) {
  host_cuda::mbarrier_arrive(barrier, bytes, site);
}
inline bool mbarrier_try_wait_parity(void* barrier, std::uint32_t parity, HOST_PTX_SITE) {
  return host_cuda::mbarrier_wait(barrier, parity, site);
}
inline void cp_async_bulk_tensor_3d(void* shared, const void* map, std::int32_t x, std::int32_t y,
                                    std::int32_t z, void* barrier, HOST_PTX_SITE) {
  host_cuda::copy_box(shared, map, x, y, z, barrier, site);
}
inline void cp_async_bulk_tensor_im2col(void* shared, const void* map,
                                        std::initializer_list<std::int32_t> at,
                                        std::initializer_list<std::uint16_t> further, void* barrier,
                                        HOST_PTX_SITE) {
  host_cuda::copy_image(shared, map, at, further, barrier, site);
}
inline void prefetch_tensormap(const void*) {}
inline void fence_proxy_async_shared() { host_cuda::fence_proxy_async(); }
inline void wgmma_fence(HOST_PTX_SITE) { host_cuda::wgmma_fence(site); }
inline void wgmma_commit_group(HOST_PTX_SITE) { host_cuda::wgmma_commit(site); }
inline void wgmma_wait_group(int pending, HOST_PTX_SITE) { host_cuda::wgmma_wait(pending, site); }
inline void setmaxnreg(HOST_PTX_SITE) {
  host_cuda::warp_operation(0xFFFFFFFFu, site, nullptr, nullptr, 0, false);
}
float cvt_f32_f16(std::uint16_t h);
float cvt_f32_bf16(std::uint16_t h);
std::uint16_t cvt_rn_f16_f32(float f);
std::uint16_t cvt_rn_bf16_f32(float f);
std::uint32_t cvt_rna_tf32_f32(float f);
inline std::uint32_t cvt_rn_f16x2_f32(float low, float high) {
  return cvt_rn_f16_f32(low) | static_cast<std::uint32_t>(cvt_rn_f16_f32(high)) << 16;
}
inline std::uint32_t cvt_rn_bf16x2_f32(float low, float high) {
  return cvt_rn_bf16_f32(low) | static_cast<std::uint32_t>(cvt_rn_bf16_f32(high)) << 16;
}
float ex2_approx_ftz_f32(float x);

inline void wgmma_f16(int n, bool along_a, bool along_b, float* d, std::uint64_t a, std::uint64_t b,
                      bool accumulate, HOST_PTX_SITE) {
  host_cuda::wgmma({d, nullptr, a, b, n, along_a, along_b, accumulate, &cvt_f32_f16}, site);
}
inline void wgmma_bf16(int n, bool along_a, bool along_b, float* d, std::uint64_t a,
                       std::uint64_t b, bool accumulate, HOST_PTX_SITE) {
  host_cuda::wgmma({d, nullptr, a, b, n, along_a, along_b, accumulate, &cvt_f32_bf16}, site);
}
inline void wgmma_rs_f16(int n, bool along_b, float* d, const std::uint32_t* a, std::uint64_t b,
                         bool accumulate, HOST_PTX_SITE) {
  host_cuda::wgmma({d, a, 0, b, n, true, along_b, accumulate, &cvt_f32_f16}, site);
}
inline void wgmma_rs_bf16(int n, bool along_b, float* d, const std::uint32_t* a, std::uint64_t b,
                          bool accumulate, HOST_PTX_SITE) {
  host_cuda::wgmma({d, a, 0, b, n, true, along_b, accumulate, &cvt_f32_bf16}, site);
}

#undef HOST_PTX_SITE

}  // namespace host_ptx
