// Conversions between float32 and the shorter types, whose bits are kept in integers.
#pragma once
#include "ptx/ptx.hpp"

namespace arraynn::ptx {

// cvt.f32.f16
ARRAYNN_PTX_FUNCTION float cvt_f32_f16(std::uint16_t h) {
  ARRAYNN_PTX(host_ptx::cvt_f32_f16(h), float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
              return f);
}

// mov.b32: the upper half of a float32 (cvt.f32.bf16, the same, is sm_90's).
ARRAYNN_PTX_FUNCTION float cvt_f32_bf16(std::uint16_t h) {
  ARRAYNN_PTX(host_ptx::cvt_f32_bf16(h), float f;
              asm("mov.b32 %0, {%1, %2};" : "=f"(f) : "h"(std::uint16_t{0}), "h"(h)); return f);
}

// cvt.rn.f16.f32: to nearest, ties to even.
ARRAYNN_PTX_FUNCTION std::uint16_t cvt_rn_f16_f32(float f) {
  ARRAYNN_PTX(host_ptx::cvt_rn_f16_f32(f), std::uint16_t h;
              asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f)); return h);
}

// cvt.rn.bf16.f32: to nearest, ties to even.
ARRAYNN_PTX_FUNCTION std::uint16_t cvt_rn_bf16_f32(float f) {
  ARRAYNN_PTX(host_ptx::cvt_rn_bf16_f32(f), std::uint16_t h;
              asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f)); return h);
}

// cvt.rn.f16x2.f32, cvt.rn.bf16x2.f32: two numbers at once, `high` in the upper half.
ARRAYNN_PTX_FUNCTION std::uint32_t cvt_rn_f16x2_f32(float low, float high) {
  ARRAYNN_PTX(host_ptx::cvt_rn_f16x2_f32(low, high), std::uint32_t r;
              asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r);
}
ARRAYNN_PTX_FUNCTION std::uint32_t cvt_rn_bf16x2_f32(float low, float high) {
  ARRAYNN_PTX(host_ptx::cvt_rn_bf16x2_f32(low, high), std::uint32_t r;
              asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r);
}

// cvt.rna.tf32.f32: to nearest of 11 bits, ties away from zero; the low 13 bits of the result are 0.
ARRAYNN_PTX_FUNCTION std::uint32_t cvt_rna_tf32_f32(float f) {
  ARRAYNN_PTX(host_ptx::cvt_rna_tf32_f32(f), std::uint32_t r;
              asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(f)); return r);
}

}  // namespace arraynn::ptx
