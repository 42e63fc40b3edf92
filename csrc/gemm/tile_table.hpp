// A microkernel compiled for every register tile.
#pragma once
#include "gemm/blocking.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// at[rows - 1][vectors - 1] is Tiles::tile<rows, vectors>(), the function for that tile.
template <class Tiles>
struct TileTable {
  decltype(Tiles::template tile<1, 1>()) at[kMR][kNV];
};
template <class Tiles, int kRows = kMR>
ARRAYNN_INLINE constexpr void fill_tiles(TileTable<Tiles>& t) {
  static_assert(kNV == 2);
  t.at[kRows - 1][0] = Tiles::template tile<kRows, 1>();
  t.at[kRows - 1][1] = Tiles::template tile<kRows, 2>();
  if constexpr (kRows > 1) fill_tiles<Tiles, kRows - 1>(t);
}
template <class Tiles>
ARRAYNN_INLINE constexpr TileTable<Tiles> make_tiles() {
  TileTable<Tiles> t{};
  fill_tiles<Tiles>(t);
  return t;
}
template <class Tiles>
static constexpr TileTable<Tiles> kTileTable = make_tiles<Tiles>();

}  // namespace ARRAYNN_ISA_NAMESPACE
