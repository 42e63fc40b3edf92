// Integer helpers. Forced inline with internal linkage: units of different ISAs include this, and
// a shared out-of-line copy compiled for the wrong one would be an ODR trap.
#pragma once
#include <cstdint>

#define ARRAYNN_INLINE [[gnu::always_inline]] static inline
// Before a loop over a register tile: unrolled early enough that the tile stays in registers.
#if defined(__clang__) || defined(__CUDACC__)
#define ARRAYNN_UNROLL _Pragma("unroll")
#else
#define ARRAYNN_UNROLL _Pragma("GCC unroll 16")
#endif

namespace arraynn {

ARRAYNN_INLINE constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}
ARRAYNN_INLINE constexpr std::int64_t round_up(std::int64_t a, std::int64_t b) {
  return ceil_div(a, b) * b;
}
ARRAYNN_INLINE constexpr std::int64_t min_i(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}
ARRAYNN_INLINE constexpr std::int64_t max_i(std::int64_t a, std::int64_t b) {
  return a > b ? a : b;
}

// Half-open part `index` of [0, total) cut into `parts` pieces that differ by at most one.
struct Range {
  std::int64_t begin, end;
};
ARRAYNN_INLINE constexpr Range split_range(std::int64_t total, std::int64_t parts,
                                           std::int64_t index) {
  const std::int64_t base = total / parts, extra = total % parts;
  const std::int64_t begin = index * base + min_i(index, extra);
  return {begin, begin + base + (index < extra ? 1 : 0)};
}

}  // namespace arraynn
