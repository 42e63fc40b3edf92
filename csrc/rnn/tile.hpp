// What the arithmetic of a step works on: sums of a product for some rows and units.
#pragma once
#include "rnn/rnn.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Rows of a tile whose panel has `vectors` vectors: sums, the vectors and one broadcast fill the
// registers (generic: one more for the product).
constexpr int tile_rows([[maybe_unused]] int vectors) {
#if defined(ARRAYNN_CUDA)
  return 1;  // a thread has an element
#elif defined(__AVX512F__)
  return vectors == 2 ? 12 : vectors == 3 ? 8 : 6;  // 24 + 4 + 1 of 32
#elif defined(__AVX2__)
  return vectors == 2 ? 6 : vectors == 3 ? 4 : 2;  // 12 + 3 + 1 of 16
#else
  return vectors == 2 ? 4 : vectors == 3 ? 3 : 2;  // 9 + 3 + 2 of 16
#endif
}
inline constexpr int kMaxTileRows = tile_rows(2);
inline constexpr int kMaxTileVectors =
    4 * tile_rows(4) > 3 * tile_rows(3)
        ? (4 * tile_rows(4) > 2 * tile_rows(2) ? 4 * tile_rows(4) : 2 * tile_rows(2))
        : (3 * tile_rows(3) > 2 * tile_rows(2) ? 3 * tile_rows(3) : 2 * tile_rows(2));
// Where a step multiplies its input, that product lies so far behind the sum it belongs to.
template <class T>
inline constexpr int kInputSums = kMaxTileVectors * kLanes<T>;

// The sums of a tile: v-th vector of row r at sums + (v * rows + r) kLanes.
template <class T>
struct Tile {
  const std::int64_t* row;  // samples
  std::int64_t rows;
  std::int64_t unit;  // first of the panel
  T* sums;
};

}  // namespace ARRAYNN_ISA_NAMESPACE
