// Philox4x32-10: four random 32-bit words from a 128-bit counter and a 64-bit key.
// J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
//
// A counter-based generator: word i depends on the seed and i alone, so a mask is the same however
// the work is cut into threads and vectors, and backward regenerates what forward used.
#pragma once
#include <cstdint>

namespace arraynn {

inline constexpr int kPhiloxRounds = 10;
inline constexpr std::uint32_t kPhiloxM0 = 0xD2511F53, kPhiloxM1 = 0xCD9E8D57;
inline constexpr std::uint32_t kPhiloxW0 = 0x9E3779B9, kPhiloxW1 = 0xBB67AE85;

struct PhiloxKey {
  std::uint32_t k0, k1;
};

constexpr PhiloxKey philox_key(std::uint64_t seed) {
  return {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
}

}  // namespace arraynn
