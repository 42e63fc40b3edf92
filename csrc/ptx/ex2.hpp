// The exponential that the hardware has.
#pragma once
#include "ptx/ptx.hpp"

namespace arraynn::ptx {

// ex2.approx.ftz.f32: 2^x to 2^-22 of it; results below 2^-126 are 0, of -inf 0, of inf inf.
ARRAYNN_PTX_FUNCTION float ex2_approx_ftz_f32(float x) {
  ARRAYNN_PTX(host_ptx::ex2_approx_ftz_f32(x), float r;
              asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x)); return r);
}

}  // namespace arraynn::ptx
