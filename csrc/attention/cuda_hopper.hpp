// The forward of attention in 16 bits on Hopper (9.0): the plan of cuda_hopper.cu and cuda_hopper_tile.hpp. What is
// computed, and what repairs it where it is not finite, is that of attention/cuda_mma.hpp.
//
// A block has three warpgroups of 128 threads: a warp of the first copies, the other two own 64 queries each. It
// stays on its multiprocessor (one block each) and takes tile after tile of the result: 128 queries of a head,
// whose keys come kN at a time. Scores Q K^T are wgmma from shared memory; their exponentials stay in registers,
// where they are the left operand of the wgmma with V.
//
//   head dimension, up to   64         128        192 / 128  256     of q and k / of v; zeros behind
//   kN                      128        96         96         32
//     options               64         32         32         -       mask, bias, softcap, slopes, dropout
//   stages                  4          3          2          4       K and V each, of kN vectors
//   shared, KiB             144        176        168        192     of 227: Q 128 vectors, the stages
//   registers, sums         32         64         64         128     a thread
//     scores + factors      64 + 64    48 + 48    48 + 48    16 + 16 factors in two parts take as many as scores
//
// A thread that multiplies may have 240 registers, one that copies 32: 128 (32 + 2 x 240) = 65536. 192 sums, scores
// and factors spill, 160 do not; with options 128 sums leave no room, and such heads go the portable way.
//
// Arithmetic. 128 queries by kN keys at 128 of a head are 6.3 MFLOP, as they are counted, for 48 KiB from L2: 128 FLOP
// a byte, 4.1 TB/s at 520 TFLOP/s, so K and V have to stay in L2: blocks that run together share heads.
// For a pair of query and key a multiprocessor (4096 FLOP, 16 exponentials, 128 float32 operations a cycle) takes
//   products       2 d / 4096 Q K^T, 4 d / 4096 P V in two parts: 0.19 cycles at 128, 0.09 at 64
//   exponential    1 / 16 = 0.06
//   maximum, multiply-add, sum, rounding in two parts: 9 / 128 = 0.07
// and products are the limit where the rest runs beside them; at 64 both are close. Of shared memory a step of
// Q K^T reads 5 KiB in 48 cycles with 96 keys, one of P V 4 KiB in 64: 107 and 64 bytes a cycle of 128. None of this
// was measured yet.
//
// Two parts. A factor is the sum of two numbers of 16 bits, as on the portable way. One alone would be off by 2^-9
// of itself in bfloat16, 2^-12 in float16: as much as the rounding of a result, and more where values
// cancel; docs/numerics.md promises one rounding. It costs 6 d instead of 4 d FLOP a pair: at most two thirds of
// what one part could reach, about 520 of 790 TFLOP/s. What remains is 2^-17 and 2^-23 of a factor, 2^-22 of
// ex2.approx, and what the sums of tensor cores cut off.
//
// Side by side. Scores of the next tile are asked for before the product with V of this one; while that runs, they
// become exponentials (wgmma_wait_group<1>). And the warpgroups take turns: one issues its products while the
// other forms exponentials.
//
// Barriers. k_full, v_full: one arrival and the bytes. k_empty, v_empty: an arrival of each of 8 warps; K goes back as
// soon as its scores are there, V a tile later. q_full and q_empty: the same for Q, of which the next tile's comes
// while the last products run. turn[g]: warpgroup g may issue. done[g]: its four warps have said whether their results are
// finite. tail: below.
//
// Beyond the end. Scores of keys that are not seen are -inf whatever K holds, but 0 times a value must not be NaN.
// Behind an array come zeros. Where vectors of V follow that are another sequence's, or lie behind kv_lengths,
// the copying warp waits for them at `tail` and clears them before it says that V is there.
//
// Exponentials are 2^(s c + r): c is log2(e), times the scale where scores have no options; r is -c times the
// largest score so far, plus 14 for float16, which has no small numbers. Sums and lse take the r that was
// rounded, so its rounding does not show. A sink joins at the end.
//
// Bits. Tiles of keys begin at multiples of kN and are taken in order; hidden ones add zeros. Tiles of the result are
// taken in a fixed order, by the grid forwards, then backwards: of causal masks a block's long ones meet short ones.
//
// What goes this way: head dimensions that are multiples of 8, up to 256, vectors at multiples of 16 bytes, samples and
// heads at strides that a tensor map of three dimensions can tell (one of them a multiple of the other's, or of the
// vectors'). That depends neither on the batch nor on lengths.
#pragma once
#include <cstdint>

#include "attention/attention.hpp"

namespace arraynn::cuda {

// Whether the forward was launched; if not, nothing was. `repair`: as of the portable kernel (is_done).
template <class T>
bool attention_on_hopper(const AttentionProblem<T>& p, std::uint8_t* repair);

}  // namespace arraynn::cuda
