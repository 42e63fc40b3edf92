// Division of indices by a number that is known before the launch: a multiplication and a shift
// (Granlund and Montgomery, Division by Invariant Integers using Multiplication, PLDI 1994).
#pragma once
#include <cstdint>

#include "core/index.hpp"

namespace arraynn {

// Of n < 2^31 by a divisor from 1 to 2^31 - 1.
struct FastDiv {
  std::uint32_t divisor = 1, multiplier = 0, shift = 0;

  FastDiv() = default;
  // 0, of an empty axis that is never divided by, stands for 1.
  explicit FastDiv(std::int64_t d) : divisor(static_cast<std::uint32_t>(max_i(d, 1))) {
    while ((std::uint64_t{1} << shift) < divisor) ++shift;
    const std::uint64_t above = (std::uint64_t{1} << shift) - divisor;
    multiplier = divisor == 1 ? 0 : static_cast<std::uint32_t>((above << 32) / divisor + 1);
  }
  constexpr std::uint32_t divide(std::uint32_t n) const {
    const auto high = static_cast<std::uint32_t>(std::uint64_t{multiplier} * n >> 32);
    return (high + n) >> shift;
  }
};

}  // namespace arraynn
