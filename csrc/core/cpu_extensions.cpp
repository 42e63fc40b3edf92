#include "core/cpu_extensions.hpp"

#include "core/cpu_isa.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace arraynn {

#if defined(__x86_64__)
namespace {

constexpr int kTileData = 18;  // of XCR0 and of the kernel's masks

// Linux keeps the 8 KiB of tile data from every process that has not asked for them. Which it would
// grant is asked here; the request itself (ARCH_REQ_XCOMP_PERM) enlarges signal frames and is for the
// kernel that uses tiles (Documentation/arch/x86/xstate.rst).
bool tiles_are_granted() {
  constexpr int kGetXcompSupp = 0x1021;  // ARCH_GET_XCOMP_SUPP
  std::uint64_t features = 0;
  return syscall(SYS_arch_prctl, kGetXcompSupp, &features) == 0 && (features >> kTileData & 1) != 0;
}

}  // namespace

CpuExtensions detected_extensions() {
  CpuExtensions found;
  if (detected_isa() < Isa::kAvx512) return found;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  std::uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  found.amx_bf16 = (d & (kAmxBf16 | kAmxTile)) == (kAmxBf16 | kAmxTile) &&
                   (low >> (kTileData - 1) & 3) == 3 && tiles_are_granted();
  return found;
}
#else
CpuExtensions detected_extensions() { return {}; }
#endif

}  // namespace arraynn
