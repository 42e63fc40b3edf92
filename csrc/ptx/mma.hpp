// Matrix products of a warp, d += a b, with float32 sums: a row major, b column major, fragments as in
// the PTX manual, "Matrix multiply-accumulate operation using mma instruction". All 32 lanes take part.
//
// With g = lane / 4 and t = lane % 4, for k = 16 of 16-bit elements, two to a register:
//   a[r]: row g + 8 (r % 2), columns 2t + 8 (r / 2), + 1      a is 16 x 16
//   b[r]: column g, rows 2t + 8 r, + 1                        b is 16 x 8
//   d[r]: row g + 8 (r / 2), column 2t + r % 2                d is 16 x 8
// and for k = 8 of tf32, one to a register:
//   a[r]: row g + 8 (r % 2), column t + 4 (r / 2)             a is 16 x 8
//   b[r]: column g, row t + 4 r                               b is 8 x 8
#pragma once
#include "ptx/ptx.hpp"

namespace arraynn::ptx {

// mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
ARRAYNN_PTX_FUNCTION void mma_m16n8k16_f16(float (&d)[4], const std::uint32_t (&a)[4],
                                           const std::uint32_t (&b)[2]) {
  ARRAYNN_PTX(host_ptx::mma_m16n8k16_f16(d, a, b),
              asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                           "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : "+f"(d[0]),
                           "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]),
                           "r"(a[3]), "r"(b[0]), "r"(b[1])));
}

// mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32
ARRAYNN_PTX_FUNCTION void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4],
                                            const std::uint32_t (&b)[2]) {
  ARRAYNN_PTX(host_ptx::mma_m16n8k16_bf16(d, a, b),
              asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                           "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : "+f"(d[0]),
                           "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]),
                           "r"(a[3]), "r"(b[0]), "r"(b[1])));
}

// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32: the low 13 bits of a and b are ignored.
ARRAYNN_PTX_FUNCTION void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                           const std::uint32_t (&b)[2]) {
  ARRAYNN_PTX(host_ptx::mma_m16n8k8_tf32(d, a, b),
              asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
                           "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : "+f"(d[0]),
                           "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]),
                           "r"(a[3]), "r"(b[0]), "r"(b[1])));
}

// ldmatrix.sync.aligned.m8n8.x4.shared.b16: four 8 x 8 matrices of 16-bit elements. Lane l passes the
// address of row l % 8 of matrix l / 8 (16 bytes, a multiple of 16); of matrix i lane l gets in r[i] the
// elements 2 (l % 4), + 1 of row l / 4.
ARRAYNN_PTX_FUNCTION void ldmatrix_m8n8_x4(std::uint32_t (&r)[4], const void* row) {
  ARRAYNN_PTX(
      host_ptx::ldmatrix_m8n8_x4(r, row, false),
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]),
                   "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory"));
}

// ldmatrix...x4.trans: the same of the transposed matrices.
ARRAYNN_PTX_FUNCTION void ldmatrix_m8n8_x4_trans(std::uint32_t (&r)[4], const void* row) {
  ARRAYNN_PTX(
      host_ptx::ldmatrix_m8n8_x4(r, row, true),
      asm volatile(
          "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]),
          "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory"));
}

}  // namespace arraynn::ptx
