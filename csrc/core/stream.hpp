// Results that are stored past the caches.
//
// An ordinary store reads its line first and pushes another one out, whose turn it is to be written:
// 3 bytes moved for 2. A result that would not be in cache any more when it is read does without.
#pragma once
#include <cstdint>

#include "core/index.hpp"

namespace arraynn {

// Of a result: with one or two arrays of its size that are read, the share of the last cache that a
// core can count on. Measured, y = a x + b on one thread: 22 to 48 GB/s at 25 MB, 45 to 55 at 8 MB, a
// loss below 4 MB.
inline constexpr std::int64_t kStreamBytes = std::int64_t{8} << 20;

ARRAYNN_INLINE constexpr bool streams(std::int64_t elements, std::int64_t item) {
  return elements * item >= kStreamBytes;
}

}  // namespace arraynn
