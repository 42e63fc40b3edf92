// Softmax attention, forward and backward, over whole sequences and against a cache.
//
//   s_ij = softcap(scale q_i . k_j) + bias_ij - slope_h |i + offset - j|      -inf where not visible
//   lse_i = log sum_j exp s_ij      p_ij = exp(s_ij - lse_i)      out_i = sum_j keep_ij p_ij v_j
//
// A sink is one more score in the sum of lse, of a key whose value is 0: it only takes a share.
//
// Tiles. kNR queries form a panel: their vectors are packed transposed, [D][kNR], so that the queries
// are the lanes of everything that follows. S^T = K Q^T is a product whose rows are keys, read where
// they lie by broadcast, and whose columns are the panel; maximum and sum of a query run down a lane,
// so nothing is reduced across lanes; O^T += V^T P^T reads V where it lies, P^T being the packed
// operand already. Neither K nor V is copied (but for rows that would share cache sets, or pages).
// At AVX-512, D = 64, float32: Q^T 8 KiB + O^T 8 KiB + a block of P^T, 128 keys x 32 queries, 16 KiB
// fill L1; K and V stream past at 2 bytes a cycle. A block of S costs 2 x 64 x 256 multiply-adds and
// 256 exponentials of about 17 cycles: at most 88 % of the FMA rate (79 % at D = 32).
//
// Plans, by the shape of one sample:
//   panels    key blocks outside, the panels of a unit inside; a unit is one head's range of queries.
//             Serves short sequences as well, since there is next to no packing
//   decode    one query (times the heads that share a key head), no dropout, mask or bias: K and V
//             are read once, along their rows; splits of kDecodeSplit keys, merged in order
// Backward: blocks of kBlockQ queries x kBlockK keys; P^T from lse, dP^T = V dO^T, then
// dV += P^T dO, dK += dS^T Q, dQ += dS K, five products without a transposition. A unit owns a key
// head and sums over query blocks, then heads, in order. Fewer key heads than threads: a pass for
// dK and dV by ranges of keys and one for dQ by ranges of queries, with the same sums.
//
// Bits. Key blocks lie at multiples of kBlockN; a query's sums follow from its own row and these
// blocks, so they depend neither on the unit, nor the thread count, nor the batch.
// NaN. Where products with masked keys would be 0 times NaN, the result shows it: a panel (a unit,
// backward) whose result is not finite is done again with masked products left out.
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"
#include "core/dtype.hpp"
#include "core/index.hpp"
#include "core/philox.hpp"

namespace arraynn {

// Larger than any distance of two positions.
inline constexpr std::int64_t kUnlimited = std::int64_t{1} << 46;
// Keys of a split of the decode plan: 128 KiB of K at D = 64, read in some 10 microseconds.
inline constexpr std::int64_t kDecodeSplit = 512;

// Strides in elements; vectors themselves are contiguous.
struct RowStrides {
  std::int64_t b = 0, h = 0, l = 0;
};
// Of something broadcast to (b, h, i, j); 0 where it does not vary. j is 0 or 1.
struct ScoreStrides {
  std::int64_t b = 0, h = 0, i = 0, j = 0;
};

// Element (b, h, i, j) is number ((b B + h H + i) row + j) of the stream of `key`.
struct AttentionDropout {
  bool on = false;
  std::uint64_t threshold = 0;
  double scale = 1;
  PhiloxKey key{};
  std::int64_t b = 0, h = 0, row = 0;
  const std::int64_t* device_row = nullptr;  // where a GPU finds `row` as the call runs
};

enum class Alignment : std::uint8_t { kTopLeft, kArrayEnd, kLengthEnd };

template <class T>
struct AttentionProblem {
  std::int64_t batch = 0, heads = 0, kv_heads = 0, seqlen_q = 0, seqlen_k = 0;
  std::int64_t head_dim = 0, head_dim_v = 0;
  const T *q = nullptr, *k = nullptr, *v = nullptr;
  // On a CPU k and v may have 16 bits (T is float): the forward plans widen the rows that they read.
  Dtype kv_half = Dtype::kOther;
  RowStrides q_strides, k_strides, v_strides;
  T* out = nullptr;
  Compute<T>* lse = nullptr;  // may be null
  RowStrides out_strides, lse_strides;
  double scale = 1, softcap = 0;  // 0: none
  const std::uint8_t* mask = nullptr;
  ScoreStrides mask_strides;
  const T* bias = nullptr;
  ScoreStrides bias_strides;
  std::int64_t score_columns = kUnlimited;  // of mask and bias, where they have one a key
  const T* slopes = nullptr;
  std::int64_t slopes_b = 0;
  const T* sinks = nullptr;  // (heads,)
  // Key j is visible to query i where -left <= j - (i + offset) <= right.
  std::int64_t left = kUnlimited, right = kUnlimited;
  Alignment alignment = Alignment::kTopLeft;
  const std::int64_t* kv_lengths = nullptr;                   // (batch,)
  const std::int64_t *q_begin = nullptr, *k_begin = nullptr;  // packed sequences: (batch + 1,)
  // Pages of the cache: row j of sequence b is row j % page_size of page pages[b, j / page_size].
  const std::int64_t* pages = nullptr;
  std::int64_t pages_per_sequence = 0, page_size = 0, page_count = 0;
  AttentionDropout dropout;

  bool hides_keys() const {
    return mask != nullptr || bias != nullptr || kv_lengths != nullptr || left != kUnlimited ||
           right != kUnlimited;
  }
};

// One sample's extent: queries q0.., keys k0.., and how far query i is from key i.
struct AttentionSequence {
  std::int64_t q0, queries, k0, keys, offset;
};
template <class T>
ARRAYNN_INLINE constexpr AttentionSequence sequence_of(const AttentionProblem<T>& p,
                                                       std::int64_t b) {
  AttentionSequence s{0, p.seqlen_q, 0, p.seqlen_k, 0};
  if (p.q_begin != nullptr) {
    // Within the arrays whatever they say: a GPU does not look at them before.
    s.q0 = max_i(0, min_i(p.q_begin[b], p.seqlen_q));
    s.queries = max_i(0, min_i(p.q_begin[b + 1], p.seqlen_q) - s.q0);
    s.k0 = max_i(0, min_i(p.k_begin[b], p.seqlen_k));
    s.keys = max_i(0, min_i(p.k_begin[b + 1], p.seqlen_k) - s.k0);
  }
  if (p.alignment == Alignment::kArrayEnd) s.offset = s.keys - s.queries;
  if (p.kv_lengths != nullptr) s.keys = max_i(0, min_i(s.keys, p.kv_lengths[b]));
  if (p.alignment == Alignment::kLengthEnd) s.offset = s.keys - s.queries;
  return s;
}
// The keys that query i sees; begin >= end where there are none.
template <class T>
ARRAYNN_INLINE constexpr Range visible_keys(const AttentionProblem<T>& p,
                                            const AttentionSequence& s, std::int64_t i) {
  return {max_i(0, i + s.offset - p.left), min_i(s.keys, i + s.offset + p.right + 1)};
}

// Key j of sequence b of a cache, in elements from its first. Within the pages whatever the table says.
template <class T>
ARRAYNN_INLINE constexpr std::int64_t cache_row(const AttentionProblem<T>& p, const RowStrides& s,
                                                std::int64_t b, std::int64_t j) {
  if (p.pages == nullptr) return b * s.b + j * s.l;
  const std::int64_t page = p.pages[b * p.pages_per_sequence + j / p.page_size];
  return max_i(0, min_i(page, p.page_count - 1)) * s.b + j % p.page_size * s.l;
}

template <class T>
struct AttentionGradients {
  const T* dout = nullptr;
  RowStrides dout_strides;
  T *dq = nullptr, *dk = nullptr, *dv = nullptr;  // null: not wanted
  RowStrides dq_strides, dk_strides, dv_strides;
  T* dbias = nullptr;
  ScoreStrides dbias_strides;
  T* dsinks = nullptr;
};

// Queries [begin, end) of a head.
struct AttentionUnit {
  std::int64_t b, h;
  Range queries;
};
// What a backward unit covers and which gradients it forms.
struct BackwardUnit {
  std::int64_t b;
  Range heads, queries, keys;
  bool keys_too, queries_too, bias_too;
};

template <class T>
struct AttentionTable {
  std::int64_t panel;  // queries of a panel
  std::int64_t (*scratch)(const AttentionProblem<T>& p, std::int64_t queries);
  // `next`, which may be null, is the unit that this thread is likely to take then.
  void (*forward)(const AttentionProblem<T>& p, const AttentionUnit& unit,
                  const AttentionUnit* next, void* scratch);
};
using AttentionKernels = FloatKernels<AttentionTable>;

template <class T>
struct AttentionBackwardTable {
  std::int64_t (*scratch)(const AttentionProblem<T>& p, const AttentionGradients<T>& g,
                          const BackwardUnit& unit);
  void (*backward)(const AttentionProblem<T>& p, const AttentionGradients<T>& g,
                   const BackwardUnit& unit, void* scratch);
  // dsinks of one head: the share of every query times what it takes away, in order.
  void (*sinks)(const AttentionProblem<T>& p, const AttentionGradients<T>& g, std::int64_t h);
};
using AttentionBackwardKernels = FloatKernels<AttentionBackwardTable>;

// Keys [begin, end) against the query of every head of a group: for each head head_dim_v sums, then
// the maximum and the sum of the exponentials.
template <class T>
using DecodeSplit = void (*)(const AttentionProblem<T>& p, std::int64_t b, std::int64_t kv_head,
                             Range keys, T* partial);
template <class T>
struct DecodeTable {
  DecodeSplit<T> split;
  void (*merge)(const AttentionProblem<T>& p, std::int64_t b, std::int64_t h, const T* partials,
                std::int64_t count, std::int64_t step);
};
struct DecodeKernels : FloatKernels<DecodeTable> {
  DecodeSplit<float> split_f16, split_bf16;  // of such keys and values
};

ARRAYNN_KERNEL_TABLE(AttentionKernels, attention_kernels)
#if defined(__x86_64__)
namespace avx512_bf16 {
extern const AttentionTable<float> attention_pair_kernels;  // of bfloat16
}
#endif
ARRAYNN_KERNEL_TABLE(AttentionBackwardKernels, attention_backward_kernels)
ARRAYNN_KERNEL_TABLE(DecodeKernels, decode_kernels)

template <class T>
void run_attention(const char* op, const AttentionProblem<T>& p);
// p.out and p.lse are the results of the forward.
template <class T>
void run_attention_backward(const char* op, const AttentionProblem<T>& p,
                            const AttentionGradients<T>& g);
template <class T>
void run_attention_sinks(const char* op, const AttentionProblem<T>& p,
                         const AttentionGradients<T>& g);

}  // namespace arraynn
