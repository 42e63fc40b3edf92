// Instruction set levels: what was compiled, what this machine may run, what is in force.
#pragma once

namespace arraynn {

enum class Isa : int { kGeneric = 0, kAvx2 = 1, kAvx512 = 2 };
inline constexpr int kIsaCount = 3;

const char* isa_name(Isa isa);

// Highest level that is compiled in and that CPU and operating system both support.
Isa detected_isa();
// detected_isa(), lowered by the environment variable ARRAYNN_MAX_ISA or by set_isa.
Isa current_isa();
// False when the level is not available here; nothing changes then.
bool set_isa(Isa isa);
bool isa_from_name(const char* name, Isa* out);

}  // namespace arraynn
