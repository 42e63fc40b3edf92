// What the problems of planted faults are made of.
#pragma once
#include <cstring>
#include <vector>

#include "core/cuda_call.hpp"
#include "core/dtype.hpp"
#include "runtime.hpp"

namespace host_cuda {

using Floats = std::vector<float>;

inline constexpr const char* kOp = "planted";

inline Floats result(std::int64_t n) { return Floats(static_cast<std::size_t>(n), -1.0f); }

// Numbers in [-2, 2), and some behind them: a fault may read there.
inline Floats numbers(std::int64_t n, std::uint32_t seed = 1) {
  Floats x(static_cast<std::size_t>(n) + 64);
  for (float& v : x) {
    seed = seed * 1664525u + 1013904223u;
    v = static_cast<float>(seed >> 8) * 0x1p-22f - 2.0f;
  }
  return x;
}

inline void append(Floats& all, const Floats& more) {
  all.insert(all.end(), more.begin(), more.end());
}

inline void be_hopper(bool yes) {
  set_capability(yes ? 9 : 8, 0);
  arraynn::cuda::forget_devices();
}

// The upper halves of numbers.
inline std::vector<arraynn::Bfloat16> bfloat16s(std::int64_t n, std::uint32_t seed = 1) {
  std::vector<arraynn::Bfloat16> x;
  for (const float v : numbers(n, seed)) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, &v, sizeof bits);
    x.push_back({static_cast<std::uint16_t>(bits >> 16)});
  }
  return x;
}

}  // namespace host_cuda
