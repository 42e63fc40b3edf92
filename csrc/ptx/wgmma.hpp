// Matrix products of a warpgroup, four warps whose first is a multiple of 4 (sm_90a), d = a b or d += a b with
// float32 sums: a is 64 x 16, in shared memory or (_rs) in registers, b 16 x N of 16-bit elements in shared
// memory. All 128 threads take part.
//
// They are asynchronous. Before the first of them, and after d or an a in registers was touched: wgmma_fence().
// Then products, wgmma_commit_group(), wgmma_wait_group<pending>(); only then may d, and what they read, be
// touched, each warp's share once that warp has waited.
//
// With w = warp % 4, g = lane / 4 and t = lane % 4:
//   d[i]: row 16 w + g + 8 (i / 2 % 2), column 8 (i / 4) + 2 t + i % 2
//   a[r], two elements: row 16 w + g + 8 (r % 2), columns 8 (r / 2) + 2 t and the next, in its upper half
// An operand in shared memory is told by a descriptor ("Matrix descriptor format" in the PTX manual), here
// always with the swizzle of 128 bytes: the address, whose bits 4 to 6 are those plus (xor) bits 7 to 9, of
//   along k       element (i, k): 128 (i % 8) + stride (i / 8) + 2 k
//   not along k   element (i, k): 2 (i % 64) + leading (i / 64) + 128 (k % 8) + stride (k / 8)
// from a start that is the multiple of 1024 of the tile plus the offset of its first k.
#pragma once
#include "ptx/ptx.hpp"

namespace arraynn::ptx {

// start >> 4 in bits 0 to 13, leading >> 4 in 16 to 29, stride >> 4 in 32 to 45, 1 (128 bytes) in 62 to 63.
ARRAYNN_PTX_FUNCTION constexpr std::uint64_t matrix_descriptor(std::uint32_t start,
                                                               std::uint32_t leading,
                                                               std::uint32_t stride) {
  return std::uint64_t{(start & 0x3FFFF) >> 4} | std::uint64_t{(leading & 0x3FFFF) >> 4} << 16 |
         std::uint64_t{(stride & 0x3FFFF) >> 4} << 32 | std::uint64_t{1} << 62;
}

// wgmma.fence.sync.aligned
ARRAYNN_PTX_FUNCTION void wgmma_fence() {
  ARRAYNN_PTX(host_ptx::wgmma_fence(), asm volatile("wgmma.fence.sync.aligned;" :: : "memory"));
}

// wgmma.commit_group.sync.aligned: the products since the last one form a group.
ARRAYNN_PTX_FUNCTION void wgmma_commit_group() {
  ARRAYNN_PTX(host_ptx::wgmma_commit_group(),
              asm volatile("wgmma.commit_group.sync.aligned;" :: : "memory"));
}

// wgmma.wait_group.sync.aligned: all but the last kPending groups of this warp are complete.
template <int kPending>
ARRAYNN_PTX_FUNCTION void wgmma_wait_group() {
  ARRAYNN_PTX(host_ptx::wgmma_wait_group(kPending),
              asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory"));
}

// No instruction: sums are registers, which the compiler would read before a wait.
template <int kCount>
ARRAYNN_PTX_FUNCTION void wgmma_sums_are_here(float (&d)[kCount]) {
#ifdef __CUDACC__
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
#else
  static_cast<void>(d);
#endif
}

// setmaxnreg.dec / .inc.sync.aligned.u32: registers a thread, a multiple of 8, of all warps of a warpgroup.
template <int kRegisters>
ARRAYNN_PTX_FUNCTION void setmaxnreg_dec() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  ARRAYNN_PTX(host_ptx::setmaxnreg(),
              asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters)));
}
template <int kRegisters>
ARRAYNN_PTX_FUNCTION void setmaxnreg_inc() {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 256);
  ARRAYNN_PTX(host_ptx::setmaxnreg(),
              asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters)));
}

// clang-format off
#define ARRAYNN_D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), \
                      "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define ARRAYNN_D32(i) ARRAYNN_D8(i), ARRAYNN_D8(i + 8), ARRAYNN_D8(i + 16), ARRAYNN_D8(i + 24)
#define ARRAYNN_TEXTS_16 \
  "%0, %1, %2, %3, %4, %5, %6, %7, " \
  "%8, %9, %10, %11, %12, %13, %14, %15"
#define ARRAYNN_TEXT_0 \
  ARRAYNN_TEXTS_16 ", " \
  "%16, %17, %18, %19, %20, %21, %22, %23, " \
  "%24, %25, %26, %27, %28, %29, %30, %31"
#define ARRAYNN_TEXT_1 \
  "%32, %33, %34, %35, %36, %37, %38, %39, " \
  "%40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, " \
  "%56, %57, %58, %59, %60, %61, %62, %63"
#define ARRAYNN_TEXT_2 \
  "%64, %65, %66, %67, %68, %69, %70, %71, " \
  "%72, %73, %74, %75, %76, %77, %78, %79, " \
  "%80, %81, %82, %83, %84, %85, %86, %87, " \
  "%88, %89, %90, %91, %92, %93, %94, %95"
#define ARRAYNN_TEXT_3 \
  "%96, %97, %98, %99, %100, %101, %102, %103, " \
  "%104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, " \
  "%120, %121, %122, %123, %124, %125, %126, %127"

// wgmma.mma_async.sync.aligned.m64nNk16.f32.TYPE.TYPE. kAlong: the operand is read along k. Without
// `accumulate` d need not have been written.
#define ARRAYNN_WGMMA(n, type, sums, texts, a, b, p, ta, tb)                                       \
  template <bool kAlongA, bool kAlongB>                                                            \
  ARRAYNN_PTX_FUNCTION void wgmma_m64n##n##k16_##type(float (&d)[n / 2], std::uint64_t x,          \
                                                      std::uint64_t y, bool accumulate) {          \
    ARRAYNN_PTX((host_ptx::wgmma_##type(n, kAlongA, kAlongB, d, x, y, accumulate)),                \
                asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p ", 0;\n"                        \
                             "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." #type "." #type     \
                             " {" texts "}, " a ", " b ", p, 1, 1, " ta ", " tb ";\n}"             \
                             : sums                                                                \
                             : "l"(x), "l"(y), "r"(static_cast<int>(accumulate)),                  \
                               "n"(kAlongA ? 0 : 1), "n"(kAlongB ? 0 : 1)));                       \
  }
// The same with a in registers, which the product reads until it is waited for.
#define ARRAYNN_WGMMA_RS(n, type, sums, texts, a, b, p, tb)                                        \
  template <bool kAlongB>                                                                          \
  ARRAYNN_PTX_FUNCTION void wgmma_rs_m64n##n##k16_##type(                                          \
      float (&d)[n / 2], const std::uint32_t (&x)[4], std::uint64_t y, bool accumulate) {          \
    ARRAYNN_PTX((host_ptx::wgmma_rs_##type(n, kAlongB, d, x, y, accumulate)),                      \
                asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " p ", 0;\n"                        \
                             "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." #type "." #type     \
                             " {" texts "}, {" a "}, " b ", p, 1, 1, " tb ";\n}"                   \
                             : sums                                                                \
                             : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "l"(y),                 \
                               "r"(static_cast<int>(accumulate)), "n"(kAlongB ? 0 : 1)));          \
  }
#define ARRAYNN_SUMS_16 ARRAYNN_D8(0), ARRAYNN_D8(8)
#define ARRAYNN_SUMS_32 ARRAYNN_D32(0)
#define ARRAYNN_SUMS_48 ARRAYNN_SUMS_32, ARRAYNN_D8(32), ARRAYNN_D8(40)
#define ARRAYNN_SUMS_64 ARRAYNN_SUMS_32, ARRAYNN_D32(32)
#define ARRAYNN_SUMS_96 ARRAYNN_SUMS_64, ARRAYNN_D32(64)
#define ARRAYNN_SUMS_128 ARRAYNN_SUMS_64, ARRAYNN_D32(64), ARRAYNN_D32(96)
#define ARRAYNN_TEXTS_32 ARRAYNN_TEXT_0
#define ARRAYNN_TEXTS_48 ARRAYNN_TEXTS_32 ", %32, %33, %34, %35, %36, %37, %38, %39, " \
  "%40, %41, %42, %43, %44, %45, %46, %47"
#define ARRAYNN_TEXTS_64 ARRAYNN_TEXTS_32 ", " ARRAYNN_TEXT_1
#define ARRAYNN_TEXTS_96 ARRAYNN_TEXTS_64 ", " ARRAYNN_TEXT_2
#define ARRAYNN_TEXTS_128 ARRAYNN_TEXTS_64 ", " ARRAYNN_TEXT_2 ", " ARRAYNN_TEXT_3
ARRAYNN_WGMMA(32, f16, ARRAYNN_SUMS_16, ARRAYNN_TEXTS_16, "%16", "%17", "%18", "%19", "%20")
ARRAYNN_WGMMA(96, f16, ARRAYNN_SUMS_48, ARRAYNN_TEXTS_48, "%48", "%49", "%50", "%51", "%52")
ARRAYNN_WGMMA(32, bf16, ARRAYNN_SUMS_16, ARRAYNN_TEXTS_16, "%16", "%17", "%18", "%19", "%20")
ARRAYNN_WGMMA(96, bf16, ARRAYNN_SUMS_48, ARRAYNN_TEXTS_48, "%48", "%49", "%50", "%51", "%52")
ARRAYNN_WGMMA(64, f16, ARRAYNN_SUMS_32, ARRAYNN_TEXTS_32, "%32", "%33", "%34", "%35", "%36")
ARRAYNN_WGMMA(128, f16, ARRAYNN_SUMS_64, ARRAYNN_TEXTS_64, "%64", "%65", "%66", "%67", "%68")
ARRAYNN_WGMMA(256, f16, ARRAYNN_SUMS_128, ARRAYNN_TEXTS_128, "%128", "%129", "%130", "%131", "%132")
ARRAYNN_WGMMA(64, bf16, ARRAYNN_SUMS_32, ARRAYNN_TEXTS_32, "%32", "%33", "%34", "%35", "%36")
ARRAYNN_WGMMA(128, bf16, ARRAYNN_SUMS_64, ARRAYNN_TEXTS_64, "%64", "%65", "%66", "%67", "%68")
ARRAYNN_WGMMA(256, bf16, ARRAYNN_SUMS_128, ARRAYNN_TEXTS_128, "%128", "%129", "%130", "%131", "%132")
ARRAYNN_WGMMA_RS(64, f16, ARRAYNN_SUMS_32, ARRAYNN_TEXTS_32, "%32, %33, %34, %35", "%36", "%37", "%38")
ARRAYNN_WGMMA_RS(128, f16, ARRAYNN_SUMS_64, ARRAYNN_TEXTS_64, "%64, %65, %66, %67", "%68", "%69", "%70")
ARRAYNN_WGMMA_RS(192, f16, ARRAYNN_SUMS_96, ARRAYNN_TEXTS_96, "%96, %97, %98, %99", "%100", "%101", "%102")
ARRAYNN_WGMMA_RS(256, f16, ARRAYNN_SUMS_128, ARRAYNN_TEXTS_128, "%128, %129, %130, %131", "%132", "%133", "%134")
ARRAYNN_WGMMA_RS(64, bf16, ARRAYNN_SUMS_32, ARRAYNN_TEXTS_32, "%32, %33, %34, %35", "%36", "%37", "%38")
ARRAYNN_WGMMA_RS(128, bf16, ARRAYNN_SUMS_64, ARRAYNN_TEXTS_64, "%64, %65, %66, %67", "%68", "%69", "%70")
ARRAYNN_WGMMA_RS(192, bf16, ARRAYNN_SUMS_96, ARRAYNN_TEXTS_96, "%96, %97, %98, %99", "%100", "%101", "%102")
ARRAYNN_WGMMA_RS(256, bf16, ARRAYNN_SUMS_128, ARRAYNN_TEXTS_128, "%128, %129, %130, %131", "%132", "%133", "%134")
#undef ARRAYNN_WGMMA_RS
#undef ARRAYNN_WGMMA
#undef ARRAYNN_TEXTS_128
#undef ARRAYNN_TEXTS_96
#undef ARRAYNN_TEXTS_64
#undef ARRAYNN_TEXTS_48
#undef ARRAYNN_TEXTS_32
#undef ARRAYNN_TEXTS_16
#undef ARRAYNN_SUMS_128
#undef ARRAYNN_SUMS_96
#undef ARRAYNN_SUMS_64
#undef ARRAYNN_SUMS_48
#undef ARRAYNN_SUMS_32
#undef ARRAYNN_SUMS_16
#undef ARRAYNN_TEXT_3
#undef ARRAYNN_TEXT_2
#undef ARRAYNN_TEXT_1
#undef ARRAYNN_TEXT_0
#undef ARRAYNN_D32
#undef ARRAYNN_D8
// clang-format on

}  // namespace arraynn::ptx
