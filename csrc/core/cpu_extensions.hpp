// Instruction set extensions that no kernel uses yet, told by `show_config`.
#pragma once

namespace arraynn {

// What the CPU has, the operating system saves and, for tiles, the kernel gives leave to use.
struct CpuExtensions {
  bool amx_bf16 = false;
};
CpuExtensions detected_extensions();

}  // namespace arraynn
