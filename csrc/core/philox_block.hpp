// One Philox4x32-10 block at a time; simd/philox.hpp draws many.
#pragma once
#include "core/philox.hpp"

namespace arraynn {

struct PhiloxBlock {
  std::uint32_t word[4];
};

// The four words of counter `index`.
constexpr PhiloxBlock philox_block(std::uint64_t index, PhiloxKey key) {
  std::uint32_t c0 = static_cast<std::uint32_t>(index);
  std::uint32_t c1 = static_cast<std::uint32_t>(index >> 32), c2 = 0, c3 = 0;
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const std::uint64_t p0 = std::uint64_t{kPhiloxM0} * c0, p1 = std::uint64_t{kPhiloxM1} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ key.k0;
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ key.k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    key.k0 += kPhiloxW0;
    key.k1 += kPhiloxW1;
  }
  return {{c0, c1, c2, c3}};
}

}  // namespace arraynn
