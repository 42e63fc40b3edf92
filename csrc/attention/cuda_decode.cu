// Attention against a cache: splits of kDecodeSplit keys, a block each, merged in order. A block reads its
// keys and values once for four heads of a group; a warp has a key, a thread a column of the values.
//
// Bits. Splits lie at multiples of kDecodeSplit, so a query's result depends neither on the batch nor on
// the size of the cache.
#include "attention/cache.hpp"
#include "attention/cuda.hpp"
#include "attention/cuda_tile.hpp"
#include "core/cuda_elements.hpp"
#include "core/cuda_scratch.hpp"
#include "core/error.hpp"

namespace arraynn {
namespace cuda {
namespace {

// Four heads' sums and the indices of their rows take 128 registers a thread: 512 threads a multiprocessor.
constexpr int kDecodeThreads = 128, kDecodeBlocks = 4, kMergeBlocks = 8;
constexpr int kDecodeWarps = kDecodeThreads / kWarp;
constexpr int kDecodeHeads = 4;

template <class C>
struct DecodeStorage {
  C scores[kDecodeHeads][kDecodeSplit];
  std::int64_t row[kDecodeSplit];  // of the values
  BlockReduceStorage<C, kDecodeWarps> reduce;
};

// A query's place, and the partial result of a split: head_dim_v sums, maximum, sum of exponentials.
struct DecodePlace {
  std::int64_t b, h, i;
};
template <class T>
__device__ __forceinline__ std::int64_t partial_at(const AttentionProblem<T>& p,
                                                   const DecodePlace& at, std::int64_t splits,
                                                   std::int64_t split) {
  return (((at.b * p.heads + at.h) * p.seqlen_q + at.i) * splits + split) * (p.head_dim_v + 2);
}

template <class T>
__global__ void __launch_bounds__(kDecodeThreads, kDecodeBlocks)
    attention_split_kernel(const __grid_constant__ AttentionProblem<T> p, std::int64_t splits,
                           Compute<T>* partials) {
  using C = Compute<T>;
  constexpr C kHidden = -C(__builtin_inf());
  auto& shared = shared_storage<DecodeStorage<C>>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  std::int64_t rest = blockIdx.x;
  const std::int64_t split = rest % splits;
  rest /= splits;
  const std::int64_t i = rest % p.seqlen_q;
  rest /= p.seqlen_q;
  const std::int64_t kv_head = rest % p.kv_heads, b = rest / p.kv_heads;
  const std::int64_t group = p.heads / p.kv_heads, dim = p.head_dim_v;
  TilePlace at{b, 0, i, 0, sequence_of(p, b)};
  const Range seen = visible_keys(p, at.seq, i);
  const std::int64_t begin = max_i(seen.begin, split * kDecodeSplit);
  const auto n = static_cast<int>(min_i(seen.end, (split + 1) * kDecodeSplit) - begin);
  if (n <= 0) {  // the same for all threads
    for (std::int64_t g = thread; g < group; g += kDecodeThreads) {
      C* part = partials + partial_at(p, {b, kv_head * group + g, i}, splits, split) + dim;
      part[0] = kLowest<C>;
      part[1] = C(0);
    }
    return;
  }
  for (int j = thread; j < n; j += kDecodeThreads) {
    shared.row[j] = cache_row(p, p.v_strides, b, begin + j) + kv_head * p.v_strides.h;
  }
  for (std::int64_t g0 = 0; g0 < group; g0 += kDecodeHeads) {
    const auto heads = static_cast<int>(min_i(kDecodeHeads, group - g0));
    const std::int64_t h0 = kv_head * group + g0;
    const T* q = p.q + b * p.q_strides.b + h0 * p.q_strides.h + i * p.q_strides.l;
    for (int j = warp; j < n; j += kDecodeWarps) {
      const T* k = p.k + cache_row(p, p.k_strides, b, begin + j) + kv_head * p.k_strides.h;
      C dot[kDecodeHeads] = {};
      for (std::int64_t d = lane; d < p.head_dim; d += kWarp) {
        const C key = to_compute(k[d]);
#pragma unroll
        for (int g = 0; g < kDecodeHeads; ++g) {
          if (g < heads) dot[g] = fused(to_compute(q[g * p.q_strides.h + d]), key, dot[g]);
        }
      }
      C sum = 0;  // of the head that is this lane's
#pragma unroll
      for (int g = 0; g < kDecodeHeads; ++g) {
        const C total = warp_reduce(dot[g], Plus{});
        if (lane == g) sum = total;
      }
      if (lane < heads) {
        C slope;
        at.key = begin + j;
        at.h = h0 + lane;
        shared.scores[lane][j] = score(p, at, 0, 0, sum * static_cast<C>(p.scale), &slope);
      }
    }
    __syncthreads();
    for (int g = 0; g < heads; ++g) {
      C most = kLowest<C>;
      for (int j = thread; j < n; j += kDecodeThreads) most = Larger{}(shared.scores[g][j], most);
      most = block_reduce(most, shared.reduce, Larger{});
      __syncthreads();
      C sum = 0;
      for (int j = thread; j < n; j += kDecodeThreads) {
        const C s = shared.scores[g][j];
        const C e = s == kHidden ? C(0) : exponential(s - most);
        sum = sum + e;
        shared.scores[g][j] = s == kHidden ? C(-1) : e;  // what is hidden has no share, NaN or not
      }
      sum = block_reduce(sum, shared.reduce, Plus{});
      if (thread == 0) {
        C* part = partials + partial_at(p, {b, h0 + g, i}, splits, split) + dim;
        part[0] = most;
        part[1] = sum;
      }
      __syncthreads();
    }
    for (std::int64_t d = thread; d < dim; d += kDecodeThreads) {
      C sums[kDecodeHeads] = {};
      for (int j = 0; j < n; ++j) {
        const C value = to_compute(p.v[shared.row[j] + d]);
#pragma unroll
        for (int g = 0; g < kDecodeHeads; ++g) {
          if (g >= heads) continue;
          const C share = shared.scores[g][j];
          if (!(share < C(0))) sums[g] = fused(share, value, sums[g]);
        }
      }
#pragma unroll
      for (int g = 0; g < kDecodeHeads; ++g) {
        if (g < heads) partials[partial_at(p, {b, h0 + g, i}, splits, split) + d] = sums[g];
      }
    }
    __syncthreads();  // the scores are written again
  }
}

// A block a query: its splits in order.
template <class T>
__global__ void __launch_bounds__(kDecodeThreads, kMergeBlocks)
    attention_merge_kernel(const __grid_constant__ AttentionProblem<T> p, std::int64_t splits,
                           const Compute<T>* partials) {
  using C = Compute<T>;
  constexpr C kHidden = -C(__builtin_inf());
  const std::int64_t index = blockIdx.x, row = index / p.seqlen_q, dim = p.head_dim_v;
  const DecodePlace at{row / p.heads, row % p.heads, index % p.seqlen_q};
  const C* part = partials + partial_at(p, at, splits, 0);
  const std::int64_t step = dim + 2;
  const C sink = p.sinks != nullptr ? to_compute(p.sinks[at.h]) : kHidden;
  C most = sink == kHidden ? kLowest<C> : sink;
  for (std::int64_t s = 0; s < splits; ++s) most = Larger{}(part[s * step + dim], most);
  C total = sink == kHidden ? C(0) : exponential(sink - most);
  for (std::int64_t s = 0; s < splits; ++s) {
    const C sum = part[s * step + dim + 1];
    if (sum != C(0)) total = fused(exponential(part[s * step + dim] - most), sum, total);
  }
  const bool nothing = total == C(0);
  T* out = p.out + at.b * p.out_strides.b + at.h * p.out_strides.h + at.i * p.out_strides.l;
  for (std::int64_t d = threadIdx.x; d < dim; d += kDecodeThreads) {
    C sum = 0;
    for (std::int64_t s = 0; s < splits; ++s) {
      if (part[s * step + dim + 1] == C(0)) continue;  // it has no sums
      sum = fused(exponential(part[s * step + dim] - most), part[s * step + d], sum);
    }
    out[d] = from_compute<T>(nothing ? C(0) : sum / total);
  }
  if (p.lse != nullptr && threadIdx.x == 0) {
    p.lse[at.b * p.lse_strides.b + at.h * p.lse_strides.h + at.i] =
        nothing ? kHidden : most + log(Vec<C>{total}).v;
  }
}

// ---- what is around it ------------------------------------------------------------------------------

__global__ void ARRAYNN_ELEMENT_BOUNDS extend_lengths_kernel(const std::int64_t* before,
                                                             std::int64_t batch, std::int64_t more,
                                                             std::int64_t most,
                                                             std::int64_t* after) {
  for_elements(batch,
               [=](std::int64_t b) { after[b] = max_i(0, min_i(before[b], most - more)) + more; });
}

__global__ void ARRAYNN_ELEMENT_BOUNDS last_positions_kernel(const std::int64_t* lengths,
                                                             std::int64_t batch, std::int64_t rows,
                                                             std::int64_t* to) {
  for_elements(batch * rows,
               [=](std::int64_t i) { to[i] = max_i(0, lengths[i / rows] - rows + i % rows); });
}

template <class Bits>
__global__ void ARRAYNN_ELEMENT_BOUNDS append_rows_kernel(
    const __grid_constant__ AttentionProblem<float> s, const __grid_constant__ NewRows n) {
  for_elements(s.batch * n.rows * s.kv_heads * n.dim, [&s, &n](std::int64_t i) {
    const Quotient d = divide(i, n.dim), h = divide(d.quotient, s.kv_heads);
    const Quotient t = divide(h.quotient, n.rows);
    const std::int64_t b = t.quotient;
    const std::int64_t row = cache_row(s, n.target, b, s.kv_lengths[b] - n.rows + t.remainder);
    const std::int64_t from =
        b * n.source.b + t.remainder * n.source.l + h.remainder * n.source.h + d.remainder;
    static_cast<Bits*>(n.to)[row + h.remainder * n.target.h + d.remainder] =
        static_cast<const Bits*>(n.from)[from];
  });
}

__global__ void __launch_bounds__(kElementThreads)
    longest_keys_kernel(const std::int64_t* k_begin, std::int64_t sequences, std::int64_t* most) {
  auto& shared = shared_storage<BlockReduceStorage<std::int64_t, kElementThreads / kWarp>>();
  std::int64_t longest = 0;
  for (std::int64_t b = threadIdx.x; b < sequences; b += kElementThreads) {
    longest = max_i(longest, k_begin[b + 1] - k_begin[b]);
  }
  longest = block_reduce(longest, shared, Larger{});
  if (threadIdx.x == 0) *most = longest;
}

}  // namespace

template <class T>
void run_decode(const char* op, const AttentionProblem<T>& p) {
  using C = Compute<T>;
  const std::int64_t splits = max_i(1, ceil_div(p.seqlen_k, kDecodeSplit));
  const std::int64_t queries = p.batch * p.heads * p.seqlen_q;
  const Scratch scratch(
      op, queries * splits * (p.head_dim_v + 2) * static_cast<std::int64_t>(sizeof(C)));
  auto* partials = scratch.as<C>();
  const std::int64_t blocks = p.batch * p.kv_heads * p.seqlen_q * splits;
  ARRAYNN_LAUNCH((attention_split_kernel<T>), (Grid{blocks, kDecodeThreads}), p, splits, partials);
  ARRAYNN_LAUNCH((attention_merge_kernel<T>), (Grid{queries, kDecodeThreads}), p, splits, partials);
}

const std::int64_t* longest_keys(const std::int64_t* k_begin, std::int64_t sequences) {
  auto* most = scratch<std::int64_t>(1);
  ARRAYNN_LAUNCH(longest_keys_kernel, (Grid{1, kElementThreads}), k_begin, sequences, most);
  return most;
}

#define ARRAYNN_INSTANTIATE(T) template void run_decode<T>(const char*, const AttentionProblem<T>&);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace cuda

void extend_lengths(const char* op, const AttentionProblem<float>& s, const std::int64_t* before,
                    std::int64_t more, std::int64_t* after) {
  if (more > s.seqlen_k) {
    fail<ValueError>(op, "k", "expected at most ", s.seqlen_k, " positions (the cache's), got ",
                     more);
  }
  ARRAYNN_LAUNCH(cuda::extend_lengths_kernel, cuda::element_grid(s.batch), before, s.batch, more,
                 s.seqlen_k, after);
}

void check_angles(const char*, const AttentionProblem<float>&, std::int64_t) {}

void last_positions(const AttentionProblem<float>& s, std::int64_t rows, std::int64_t* to) {
  ARRAYNN_LAUNCH(cuda::last_positions_kernel, cuda::element_grid(s.batch * rows), s.kv_lengths,
                 s.batch, rows, to);
}

void append_rows(const AttentionProblem<float>& s, const NewRows& n) {
  const cuda::Grid grid = cuda::element_grid(s.batch * n.rows * s.kv_heads * n.dim);
  if (n.item == 8) {
    ARRAYNN_LAUNCH((cuda::append_rows_kernel<std::uint64_t>), grid, s, n);
  } else if (n.item == 4) {
    ARRAYNN_LAUNCH((cuda::append_rows_kernel<std::uint32_t>), grid, s, n);
  } else {
    ARRAYNN_LAUNCH((cuda::append_rows_kernel<std::uint16_t>), grid, s, n);
  }
}

}  // namespace arraynn
