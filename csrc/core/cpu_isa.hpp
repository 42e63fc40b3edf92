// Instruction set levels: what was compiled, what this machine may run, what is in force.
#pragma once

namespace arraynn {

// The kernels of a level are those of the one before where the level has none of its own:
// avx512_bf16 has products of bfloat16 alone.
enum class Isa : int { kGeneric, kAvx2, kAvx512, kAvx512Bf16 };
inline constexpr int kIsaCount = 4;

const char* isa_name(Isa isa);

// Highest level that is compiled in and that CPU and operating system both support.
Isa detected_isa();
// detected_isa(), lowered by the environment variable ARRAYNN_MAX_ISA or by set_isa.
Isa current_isa();
// False when the level is not available here; nothing changes then.
bool set_isa(Isa isa);
bool isa_from_name(const char* name, Isa* out);

}  // namespace arraynn
