// Matrix products of 16-bit elements on Hopper (9.0): the plan of cuda_hopper.cu, and of cuda_hopper_ring.hpp, its
// part that convolutions have as well (conv/cuda_hopper.hpp).
//
// A block has three warpgroups of 128 threads: one thread of the first copies, the other two multiply. It stays
// on its multiprocessor (one block each) and takes tile after tile of the result in steps of the grid, so the
// copies of the next tile run while the sums of the last one are stored.
//
//   tile         128 rows, 64 to each warpgroup, by 256, 128 or 64 columns; 64 of k, 128 bytes, a stage
//   stages       4, 6 or 8, 192 KiB in all: 48, 32 or 24 KiB each, 16 KiB of A and 128 bytes a column of B
//   shared       196608 of stages, 20480 of sums on their way out (8 warps, 16 rows of 40), 128 of barriers at
//                most: 217216 of 232448 bytes
//   registers    sums: 128, 64 or 32 a thread. 384 threads may have 168 each; setmaxnreg leaves 40 to the
//                warpgroup of the copies and gives 232 to the others: 128 (40 + 2 x 232) = 64512 of 65536
//   arithmetic   a stage of the largest tile is 8 wgmma m64n256k16 of 128 cycles, 2048 multiply-adds each: 1024
//                cycles for 48 KiB from L2, 48 bytes a cycle; of shared memory each reads 10 KiB, 80 bytes a cycle
//                of 128. With 64 columns that would be all 128: for few tiles alone
//
// Operands come by bulk copies with tensor maps, for the reasons in core/cuda_tensor_map.hpp, in boxes whose rows
// are 128 bytes, swizzled as wgmma reads them:
//   along k       64 of k by the rows of the tile: one box; rows of 128 bytes, groups of 8 rows 1024 apart
//   not along k   64 of the other index by 64 of k: a box for each 64, 8192 apart; groups of 8 k 1024 apart
// Both have 64 rows of A, a warpgroup's, in 8192 bytes. 16 of k are 32 bytes further or 2048.
//
// Barriers, two a stage. full: one arrival (the copying thread, which expects the bytes) and the bytes. empty: one
// arrival of each of the 8 multiplying warps, since a warp's wait tells of its own products alone.
//   copies       wait for empty[s] of the phase before (a new barrier lets it pass), expect, copy, next stage
//   products     wait for full[s], fence, 4 products, commit, wait until the group before is done, arrive at the
//                empty of its stage; after the last stage of a tile wait for all and arrive there, too
// A stage index and the parity that changes when it goes round are kept on either side, through all tiles.
//
// Sums leave warp by warp, 32 columns at a time, through 16 rows of shared memory of its own, with bias, residual
// and activation, as in core/cuda_tile.hpp.
//
// What takes this way: the dtype, 8 | k and operands at multiples of 16 bytes, whatever m (and n, where B is along
// k): a row alone has the bits that it has among others. Sums start at 0 and take 16 of k at a time, k
// ascending, in every tile, layout and batch.
#pragma once
#include <cstdint>

#include "core/cuda_tile.hpp"
#include "gemm/batch.hpp"
#include "gemm/sums.hpp"

namespace arraynn::cuda {

// Builds without code for Hopper (csrc/CMakeLists.txt) have the portable tiles alone.
#if defined(ARRAYNN_HOPPER)
template <class T>
constexpr bool kOnHopper = sizeof(T) == 2;
#else
template <class T>
constexpr bool kOnHopper = false;
#endif

// Whether this product, or `parts` of it (of k, one after the other at `sums`), was launched; if not, nothing
// was.
template <class T, class Out>
bool gemm_on_hopper(const GemmProblem<T>& p, const GemmResult<Out>& to, const GemmBatch& batch);
template <class T>
bool gemm_parts_on_hopper(const GemmProblem<T>& p, Parts parts, float* sums);

}  // namespace arraynn::cuda
