// One kernel for each function of csrc/ptx: golden_NAME(operands, results, items), one warp, an item a lane.
// bench/golden.py runs them on a GPU and keeps what comes out; test_golden.py holds the host's meaning to it.
#include "core/cuda_launch.hpp"
#include "core/cuda_shared.hpp"
#include "golden.hpp"
#include "ptx/cp_async.hpp"
#include "ptx/cvt.hpp"
#include "ptx/ex2.hpp"
#include "ptx/ld_st.hpp"
#include "ptx/mma.hpp"

namespace arraynn::cuda {
namespace {

using Words = std::uint32_t;

// f(operands, results, item) for all items, a multiple of 32.
template <int kIn, int kOut, class F>
__device__ __forceinline__ void for_items(const Words* in, Words* out, int items, const F& f) {
  for (int i = static_cast<int>(threadIdx.x); i < items; i += kWarp) {
    f(in + i * kIn, out + i * kOut, i);
  }
}

__device__ __forceinline__ void put(Words* out, const ptx::B128& v) { memcpy(out, &v, sizeof v); }
__device__ __forceinline__ ptx::B128 get(const Words* in) {
  ptx::B128 v;
  memcpy(&v, in, sizeof v);
  return v;
}
__device__ __forceinline__ float as_float(Words w) {
  float f;
  memcpy(&f, &w, sizeof f);
  return f;
}
__device__ __forceinline__ Words as_words(float f) {
  Words w;
  memcpy(&w, &f, sizeof w);
  return w;
}

struct Rows {
  alignas(16) Words row[kWarp][4];
};

// The bytes that are copied go round from none to all.
template <int kBytes, class Copy>
__device__ __forceinline__ void copied(const Words* in, Words* out, int items, const Copy& copy) {
  constexpr int kCount = kBytes / 4;
  auto& shared = shared_storage<Rows>();
  for_items<kCount, kCount>(in, out, items, [&](const Words* a, Words* r, int i) {
    Words* to = shared.row[i % kWarp];
    copy(to, a, i % (kBytes + 1));
    ptx::cp_async_commit_group();
    ptx::cp_async_wait_group<0>();
    for (int k = 0; k < kCount; ++k) r[k] = to[k];
  });
}

template <class Load>
__device__ __forceinline__ void matrices(const Words* in, Words* out, int items, const Load& load) {
  auto& shared = shared_storage<Rows>();
  for_items<4, 4>(in, out, items, [&](const Words* a, Words* r, int i) {
    for (int k = 0; k < 4; ++k) shared.row[i % kWarp][k] = a[k];
    __syncwarp();
    Words found[4];
    load(found, shared.row[i % kWarp]);
    for (int k = 0; k < 4; ++k) r[k] = found[k];
    __syncwarp();
  });
}

// Of each lane four registers of a, two of b and four of d.
template <class Product>
__device__ __forceinline__ void products(const Words* in, Words* out, int items,
                                         const Product& product) {
  for_items<10, 4>(in, out, items, [&](const Words* p, Words* r, int) {
    const Words a[4] = {p[0], p[1], p[2], p[3]}, b[2] = {p[4], p[5]};
    float d[4];
    for (int k = 0; k < 4; ++k) d[k] = as_float(p[6 + k]);
    product(d, a, b);
    for (int k = 0; k < 4; ++k) r[k] = as_words(d[k]);
  });
}

}  // namespace

#define ARRAYNN_GOLDEN_KERNEL(name) \
  extern "C" __global__ void golden_##name(const Words* in, Words* out, int items)
#define ARRAYNN_GOLDEN_LOAD(name)                                                                 \
  ARRAYNN_GOLDEN_KERNEL(name) {                                                                   \
    for_items<4, 4>(in, out, items, [](const Words* a, Words* r, int) { put(r, ptx::name(a)); }); \
  }
#define ARRAYNN_GOLDEN_STORE(name)                                                                \
  ARRAYNN_GOLDEN_KERNEL(name) {                                                                   \
    for_items<4, 4>(in, out, items, [](const Words* a, Words* r, int) { ptx::name(r, get(a)); }); \
  }
#define ARRAYNN_GOLDEN_MATRICES(name)                                                    \
  ARRAYNN_GOLDEN_KERNEL(name) {                                                          \
    matrices(in, out, items, [](Words(&r)[4], const Words* row) { ptx::name(r, row); }); \
  }
#define ARRAYNN_GOLDEN_WIDEN(name)                                      \
  ARRAYNN_GOLDEN_KERNEL(name) {                                         \
    for_items<1, 1>(in, out, items, [](const Words* a, Words* r, int) { \
      r[0] = as_words(ptx::name(static_cast<std::uint16_t>(a[0])));     \
    });                                                                 \
  }
#define ARRAYNN_GOLDEN_ROUND(name)                                                            \
  ARRAYNN_GOLDEN_KERNEL(name) {                                                               \
    for_items<1, 1>(in, out, items,                                                           \
                    [](const Words* a, Words* r, int) { r[0] = ptx::name(as_float(a[0])); }); \
  }
#define ARRAYNN_GOLDEN_ROUND_TWO(name)                                  \
  ARRAYNN_GOLDEN_KERNEL(name) {                                         \
    for_items<2, 1>(in, out, items, [](const Words* a, Words* r, int) { \
      r[0] = ptx::name(as_float(a[0]), as_float(a[1]));                 \
    });                                                                 \
  }
#define ARRAYNN_GOLDEN_PRODUCT(name)                                                             \
  ARRAYNN_GOLDEN_KERNEL(name) {                                                                  \
    products(in, out, items,                                                                     \
             [](float (&d)[4], const Words(&a)[4], const Words(&b)[2]) { ptx::name(d, a, b); }); \
  }

ARRAYNN_GOLDEN_LOAD(ld_global_nc_l1_no_allocate_v4)
ARRAYNN_GOLDEN_LOAD(ld_global_nc_v4)
ARRAYNN_GOLDEN_LOAD(ld_global_l1_no_allocate_v4)
ARRAYNN_GOLDEN_STORE(st_global_v4)
ARRAYNN_GOLDEN_STORE(st_global_cs_v4)
ARRAYNN_GOLDEN_MATRICES(ldmatrix_m8n8_x4)
ARRAYNN_GOLDEN_MATRICES(ldmatrix_m8n8_x4_trans)
ARRAYNN_GOLDEN_WIDEN(cvt_f32_f16)
ARRAYNN_GOLDEN_WIDEN(cvt_f32_bf16)
ARRAYNN_GOLDEN_ROUND(cvt_rn_f16_f32)
ARRAYNN_GOLDEN_ROUND(cvt_rn_bf16_f32)
ARRAYNN_GOLDEN_ROUND(cvt_rna_tf32_f32)
ARRAYNN_GOLDEN_ROUND_TWO(cvt_rn_f16x2_f32)
ARRAYNN_GOLDEN_ROUND_TWO(cvt_rn_bf16x2_f32)
ARRAYNN_GOLDEN_KERNEL(ex2_approx_ftz_f32) {
  for_items<1, 1>(in, out, items, [](const Words* a, Words* r, int) {
    r[0] = as_words(ptx::ex2_approx_ftz_f32(as_float(a[0])));
  });
}
ARRAYNN_GOLDEN_PRODUCT(mma_m16n8k16_f16)
ARRAYNN_GOLDEN_PRODUCT(mma_m16n8k16_bf16)
ARRAYNN_GOLDEN_PRODUCT(mma_m16n8k8_tf32)
ARRAYNN_GOLDEN_KERNEL(cp_async_cg_16) {
  copied<16>(in, out, items,
             [](Words* to, const Words* from, int bytes) { ptx::cp_async_cg_16(to, from, bytes); });
}
ARRAYNN_GOLDEN_KERNEL(cp_async_ca) {  // of 8 bytes, and of 4 by odd items
  copied<8>(in, out, items, [](Words* to, const Words* from, int bytes) {
    if (bytes % 2 == 0) {
      ptx::cp_async_ca<8>(to, from, bytes);
    } else {
      ptx::cp_async_ca<4>(to, from, bytes / 2);
      ptx::cp_async_ca<4>(to + 1, from + 1, 4);
    }
  });
}

#ifndef __CUDACC__
const GoldenKernel* golden_kernels(int* count) {
#define GOLDEN(name, kind, in, out) {#name, in, out, &golden_##name},
  static const GoldenKernel kKernels[] = {
#include "golden.inc"
  };
#undef GOLDEN
  *count = static_cast<int>(sizeof kKernels / sizeof *kKernels);
  return kKernels;
}

void run_golden(const GoldenKernel& kernel, const Words* in, Words* out, int items) {
  launch(kernel.name, kernel.run, Grid{1, kWarp}, in, out, items);
}
#endif

}  // namespace arraynn::cuda
