// The forward of attention in 16 bits on Hopper (9.0): the plan of cuda_hopper.cu. What is computed, and what
// repairs it where it is not finite, is that of attention/cuda_mma.hpp.
//
// A block has three warpgroups of 128 threads: a warp of the first copies, the other two own 64 queries each.
// It stays on its multiprocessor (one block each) and takes tile after tile of the result. A tile is 128 queries
// of a head; its keys come kN at a time. Scores Q K^T are wgmma from shared memory, their exponentials stay in
// registers, where they are the left operand of the wgmma with V.
//
//   head dimension, up to  64       128      192/128  256      kDim of q and k / kDimV of v: zeros behind
//   kN                     128      128      128      64       64 where scores have options (mask, bias, ...)
//   stages                 4        2        2        2        K and V each, of kN vectors
//   shared, KiB            144      160      208      192      of 227: Q 128 vectors, the stages; barriers 256 bytes
//   registers, sums        32       64       64       128      of a thread; 240 of them (128 (24 + 2 x 240) = 64512)
//     scores, factors      64 + 64  64 + 64  64 + 64  32 + 32  factors in two parts take as many as scores
//
// Arithmetic, of a tile of 128 x 128 pairs at 128 of a head: 8.4 MFLOP of Q K^T and P V for 64 KiB from L2, 128
// FLOP a byte; at 600 TFLOP/s 4.7 TB/s, so K and V have to be in L2: blocks that run together share a head.
// Per pair and multiprocessor (4096 FLOP, 16 exponentials, 128 float32 operations a cycle):
//   products        2 d / 4096 Q K^T, 4 d / 4096 P V in two parts: 0.19 cycles at 128, 0.09 at 64
//   exponential     1 / 16 = 0.06; options use 32 to 100 operations more where there are any
//   multiply-add, maximum, sum, rounding to two parts: 9 / 128 = 0.07
// so products are the limit if the rest runs beside them.
//
// Two parts. A factor is the sum of two numbers of 16 bits, as on the portable way: one alone is off by 2^-9 of
// itself in bfloat16 (2^-12 in float16), which is the rounding of a result once more, and more where
// values cancel; docs/numerics.md promises one rounding. It takes 6 d instead of 4 d FLOP a pair: at most
// two thirds of what one part could reach, about 520 of 790 TFLOP/s as they are counted. Kept because results should not
// depend on which machine formed them by more than float32 does. kSplits is the one place to change.
//
// Beside each other. While a warpgroup's products of the tile before with V run, it turns the next scores into
// exponentials (they were asked for first: wgmma_wait_group<1>). And the two take turns (turn[]): one issues its products while
// the other has its exponentials to form.
//
// Barriers. k_full, v_full: one arrival and the bytes. k_empty, v_empty: an arrival of each of 8 warps. K goes
// back as soon as its scores are there, V a tile later, so both have rings of their own, which turn alike. q_full and
// q_empty: the same for Q, of which the next tile's comes while the last products run. turn[g]: warpgroup g may issue.
// done[g]: its four warps have said whether their results are finite. tail: below.
//
// What is beyond. Scores of keys that are not there are -inf whatever K holds; values are multiplied by 0, which must not be
// NaN. Behind an array come zeros. Where vectors of V follow that are another sequence's, or beyond kv_lengths, the copying warp
// clears them in shared memory before it says that V is there.
//
// Exponentials are 2^(s c + r), ex2.approx to 2^-22: c is log2(e), times the scale where scores have no options; r is
// -c times the largest score so far, and 14 for float16. Sums and lse take the r that was rounded: it
// costs no precision. A sink joins at the end.
//
// Bits. Tiles of keys begin at multiples of kN and are taken in order, hidden ones add zeros. Tiles of the result are taken in a
// fixed order, the grid forwards, then backwards: for causal masks a block's long tiles meet short ones.
//
// What goes this way: head dimensions that are multiples of 8, up to 256, vectors at multiples of 16 bytes, and samples
// and heads at strides that three dimensions can tell (heads of samples, or rows of samples, evenly). It
// depends neither on the batch nor on lengths.
#pragma once
#include <cstdint>

#include "attention/attention.hpp"

namespace arraynn::cuda {

// Whether the forward was launched; if not, nothing was. `repair`: as of the portable kernel (is_done).
template <class T>
bool attention_on_hopper(const AttentionProblem<T>& p, std::uint8_t* repair);

}  // namespace arraynn::cuda
