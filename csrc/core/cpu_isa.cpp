#include "core/cpu_isa.hpp"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace arraynn {
namespace {

constexpr const char* kNames[kIsaCount] = {"generic", "avx2", "avx512", "avx512_bf16"};

#if defined(__x86_64__)
// XCR0 says which register files the operating system saves: CPUID alone would allow
// instructions that fault (Intel SDM vol. 1, 13.3 and 14.3).
std::uint64_t xcr0() {
  std::uint32_t lo = 0, hi = 0;
  __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
  return (std::uint64_t{hi} << 32) | lo;
}

Isa probe() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return Isa::kGeneric;
  constexpr unsigned kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  if ((c & (kFma | kOsxsave | kAvx | kF16c)) != (kFma | kOsxsave | kAvx | kF16c)) {
    return Isa::kGeneric;
  }
  const std::uint64_t state = xcr0();
  if ((state & 0x6) != 0x6) return Isa::kGeneric;  // xmm and ymm
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return Isa::kGeneric;
  constexpr unsigned kBmi1 = 1u << 3, kAvx2 = 1u << 5, kBmi2 = 1u << 8;
  if ((b & (kBmi1 | kAvx2 | kBmi2)) != (kBmi1 | kAvx2 | kBmi2)) return Isa::kGeneric;
  constexpr unsigned kF = 1u << 16, kDq = 1u << 17, kCd = 1u << 28, kBw = 1u << 30, kVl = 1u << 31;
  constexpr unsigned kX86V4 = kF | kDq | kCd | kBw | kVl;
  if ((b & kX86V4) != kX86V4 || (state & 0xe6) != 0xe6) return Isa::kAvx2;  // opmask and zmm
  constexpr unsigned kAvx512Bf16 = 1u << 5;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d)) return Isa::kAvx512;
  return (a & kAvx512Bf16) != 0 ? Isa::kAvx512Bf16 : Isa::kAvx512;
}
#else
Isa probe() { return Isa::kGeneric; }
#endif

Isa initial() {
  Isa isa = detected_isa();
  const char* env = std::getenv("ARRAYNN_MAX_ISA");
  Isa limit = isa;
  if (env != nullptr && isa_from_name(env, &limit) && limit < isa) isa = limit;
  return isa;
}

std::atomic<int>& current() {
  static std::atomic<int> value{static_cast<int>(initial())};
  return value;
}

}  // namespace

const char* isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

bool isa_from_name(const char* name, Isa* out) {
  for (int i = 0; i < kIsaCount; ++i) {
    if (std::strcmp(name, kNames[i]) == 0) {
      *out = static_cast<Isa>(i);
      return true;
    }
  }
  return false;
}

Isa detected_isa() {
  static const Isa isa = probe();
  return isa;
}

Isa current_isa() { return static_cast<Isa>(current().load(std::memory_order_relaxed)); }

bool set_isa(Isa isa) {
  if (isa > detected_isa()) return false;
  current().store(static_cast<int>(isa), std::memory_order_relaxed);
  return true;
}

}  // namespace arraynn
