// The gradients of attention in 16 bits on Hopper (9.0) by q, k and v: the plan of cuda_hopper_backward.cu and
// cuda_hopper_gradient.hpp. What is computed, and what repairs it where it is not finite, is that of
// attention/cuda_backward.cu; warpgroups, rings and products are the forward's (cuda_hopper.hpp).
//
// A block owns 128 rows of a head, 64 a warpgroup, and walks over tiles of kN vectors of the other side, which a
// warp of the first warpgroup copies. x[0], x[1] are the rows' vectors, y[0], y[1] the other side's:
//
//              rows     x[0] x[1]   y[0] y[1]   s = x[0] y[0]^T   d = x[1] y[1]^T   sums
//   dq         queries  q    dout   k    v      scores            of shares         dq += ds y[0]
//   dk, dv     keys     k    v      q    dout   their transposes                    dk += ds y[0], dv += p y[1]
//
//   p = 2^(c s + r), r = -log2(e) lse      ds = p (d - delta)      c = log2(e) scale
//
// s and d are wgmma from shared memory; p and ds stay in registers, where they are the left operand of the
// products with y. A block that owns keys walks over the queries of all heads that share them, head after head, so
// that nothing is added between blocks, nothing atomically, and nobody waits for another block: every sum is one
// chain in a fixed order, whatever the grid, the batch and the schedule.
//
// Seven products, not five. Blocks that own keys could add their share of dq to what those of the keys before
// have added: float32 of 4 d bytes a query, back and forth, for every block of 128 keys. At 128 of a head that is 128
// KiB for 128 x 128 pairs, 21 MFLOP as they are counted (10 d a pair), or 3 TB/s of L2 at 480 TFLOP/s beside the
// tiles' own, and blocks wait for each other. Here dq has a kernel of its own that forms s and d again. A pair takes
//   dk, dv   2 d  s, 2 d  d, 4 d  dk, 4 d  dv     12 d FLOP, with factors in two parts
//   dq       2 d  s, 2 d  d, 4 d  dq               8 d
// 20 d where 10 d are counted: of 790 TFLOP/s of products 395 at most, where adding in order would reach 494.
//
// Two parts. As in the forward, p and ds are sums of two numbers of 16 bits: docs/numerics.md promises gradients
// that are rounded once, and ds is a difference that cancels. One part would leave 2^-9 of it in bfloat16 and 2^-12 in
// float16 (and take 14 d, 560 TFLOP/s at most), two leave 2^-17 and 2^-23. float16 holds nothing below 2^-24: p is
// 2^14 of itself, and a row of ds is scaled by a power of two that follows its largest, as on the portable way.
//
//   head dimension, up to   64         128        192 / 128        256            of q and k / of v; zeros behind
//   dk, dv: kN              96         64         64 and 96        32 and 64      one kernel, or one each
//     options               64         32         64 and 64        32 and 32      mask, bias, softcap, slopes, dropout
//     sums                  64         128        96 and 64        128 and 128    registers a thread
//     s, d                  96         64         64 and 48        32 and 32      factors take their place
//     x, KiB                32         64         80 and 48        128 and 64     of 227 of shared memory
//     stages of y, KiB      4 x 24     4 x 32     3 x 40, 2 x 60   3 x 32, 2 x 64
//   dq: kN                  128        96         64               32
//     options               64         64         64               32
//     sums + s, d           32 + 128   64 + 96    96 + 64          128 + 32
//     x, stages of y, KiB   32, 4 x 32 64, 3 x 48 80, 3 x 40       128, 3 x 32
//
// A thread that multiplies may have 240 registers. 192 of sums, s and d do not spill at 128 of a head and do at 64
// with 128 queries; with options 160 do not, 192 do.
//
// Arithmetic, of dk and dv at 128 of a head. A tile of 64 queries is 32 KiB from L2 for 12.6 MFLOP of 128 x 64
// pairs: 384 FLOP a byte, 2.1 TB/s at 790 TFLOP/s. A multiprocessor (4096 FLOP, 16 exponentials, 128 float32
// operations a cycle) takes for a pair 12 d / 4096 = 0.375 cycles of products, 1 / 16 of exponentials and some
// 10 / 128 of the rest: products are the limit where the other warpgroup's run beside the rest. Of shared memory s
// and d read 4 KiB in 32 cycles with 64 queries, 128 bytes a cycle, the most there are (107 with 96 vectors, 96 with
// 128), the others 64 bytes a cycle: 85 in all. Dropout draws 5 blocks of numbers where 16 keys of a query meet a
// warp that owns keys, one for two keys of a lane that owns queries. None of this was measured yet.
//
// Side by side. The warpgroups take turns at s and d: one begins when the other's are there, so that its products
// run beside the other's exponentials, and the other's products with y beside its own. Exponentials of s are formed
// while d is multiplied, factors of ds while p y[1] is.
//
// Barriers. full: one arrival and the bytes of y[0] and y[1]; where rows are keys lanes have written r and delta of
// the queries before it. empty: an arrival of each of 8 warps. x_full: x. turn[g]: the other's s and d are there.
// done[g]: the warps have said whether their results are finite. tail: below.
//
// Beyond the end. Where vectors follow that are another sequence's, or lie behind kv_lengths, the copying warp
// clears them in y: a factor of 0 times NaN must not show. So it is with d of pairs that are hidden. Rows of keys
// behind kv_lengths become zeros.
//
// A block takes one tile of rows, of a head the longest first: its walk is long, and little is lost where it ends.
//
// What goes this way: as the forward, with any options.
#pragma once
#include <cstdint>

#include "attention/attention.hpp"

namespace arraynn::cuda {

// Notes for is_done, as those of the portable kernels.
struct GradientNotes {
  std::uint8_t *dq = nullptr, *dk = nullptr, *dv = nullptr;
};

// Whether the gradients, dq or dk and dv as far as they are wanted, were launched.
template <class T>
bool query_gradient_on_hopper(const AttentionProblem<T>& p, const AttentionGradients<T>& g,
                              const float* delta, const GradientNotes& notes);
template <class T>
bool key_gradients_on_hopper(const AttentionProblem<T>& p, const AttentionGradients<T>& g,
                             const float* delta, const GradientNotes& notes);

}  // namespace arraynn::cuda
