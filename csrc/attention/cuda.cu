// Attention over square tiles (cuda_tile.hpp) on CUDA cores: scores in registers, their exponentials through
// shared memory into the product with the values. A block owns kSide queries and kSide columns of the
// result, or keys and columns of a gradient, and forms the scores it needs itself: nothing is added
// between blocks. All of float64, and of what cuda_mma.hpp forms on tensor cores the elements that are not
// finite.
//
// Bits. Tiles of keys begin at multiples of kSide and are taken in order, so a query's result depends
// neither on the other queries nor on the batch.
#include "attention/cuda.hpp"
#include "attention/cuda_tile.hpp"
#include "core/cuda_scratch.hpp"

namespace arraynn {
namespace cuda {
namespace {

// The scores, the sums and the operands of a step of float32 are 60 registers; 128 hold indices as well.
// What only repairs may have more.
constexpr int kBlocks = 2;
template <class T>
constexpr int kRepairBlocks = kHasTensorCores<T> ? 1 : kBlocks;

// ---- forward ----------------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kAttentionThreads, kRepairBlocks<T>)
    attention_kernel(const __grid_constant__ AttentionProblem<T> p, std::int64_t tiles,
                     std::int64_t columns, const std::uint8_t* repair) {
  using S = Square<T>;
  using C = Compute<T>;
  constexpr C kHidden = -C(__builtin_inf());
  auto& shared = shared_storage<AttentionStorage<T>>();
  const Thread t = Thread::here();
  const auto [column, query, head, b] = block_place<S::kSide>(columns, tiles, p.heads);
  TilePlace at{b, head, query, 0, {}};
  at.seq = sequence_of(p, at.b);
  const std::int64_t count = min_i(S::kSide, at.seq.queries - at.query);
  if (count <= 0) return;  // the same for all threads
  T* const first_out = p.out + at.b * p.out_strides.b + at.h * p.out_strides.h +
                       (at.seq.q0 + at.query) * p.out_strides.l + column;
  if (is_done<S::kSide>(repair, columns)) return;

  const Vectors<T> q = queries_of(p.q, p.q_strides, at, p.head_dim);
  const C sink = p.sinks != nullptr ? to_compute(p.sinks[at.h]) : kHidden;
  typename S::Sums out;
  clear<T>(out);
  C most[S::kPer], sum[S::kPer];
#pragma unroll
  for (int i = 0; i < S::kPer; ++i) {
    most[i] = sink == kHidden ? kLowest<C> : sink;
    sum[i] = sink == kHidden ? C(0) : C(1);
  }
  const Range first = visible_keys(p, at.seq, at.query);
  const Range last = visible_keys(p, at.seq, at.query + count - 1);
  for (at.key = first.begin / S::kSide * S::kSide; at.key < last.end; at.key += S::kSide) {
    typename S::Sums s;
    dot_tile(q, keys_of(p, p.k, p.k_strides, at, p.head_dim), static_cast<C>(p.scale), shared, s);
    const TileLook look = look_at(p, at);
#pragma unroll
    for (int i = 0; i < S::kPer; ++i) {
      const int row = t.y + kAcross * i;
      C tile_most = most[i];
#pragma unroll
      for (int j = 0; j < S::kPer; ++j) {
        C slope;
        const int c = t.x + kAcross * j;
        s[i][j] = look.sees(row, c) ? score(p, at, row, c, s[i][j], &slope) : kHidden;
        tile_most = Larger{}(s[i][j], tile_most);
      }
      tile_most = row_reduce(tile_most, Larger{});
      const C shrink = exponential(most[i] - tile_most);
      most[i] = tile_most;
      C tile_sum = 0;
#pragma unroll
      for (int j = 0; j < S::kPer; ++j) {
        const int c = t.x + kAcross * j;
        const bool hidden = s[i][j] == kHidden;
        C e = hidden ? C(0) : exponential(s[i][j] - tile_most);
        tile_sum = tile_sum + e;
        if (p.dropout.on && !hidden) e = keeps(p, at, row, c) ? e * keep_scale<T>(p.dropout) : C(0);
        shared.m[row][c] = e;
        shared.hidden[row][c] = hidden ? 1 : 0;
        out[i][j] = out[i][j] * shrink;
      }
      sum[i] = fused(sum[i], shrink, row_reduce(tile_sum, Plus{}));
    }
    add_product(keys_of(p, p.v, p.v_strides, at, p.head_dim_v), column, C(1), !look.all, shared,
                out);
  }
#pragma unroll
  for (int i = 0; i < S::kPer; ++i) {
    const int row = t.y + kAcross * i;
    if (row >= count) continue;
    const std::int64_t l = at.seq.q0 + at.query + row;
    const bool nothing = sum[i] == C(0);
    T* to = first_out + row * p.out_strides.l;
#pragma unroll
    for (int j = 0; j < S::kPer; ++j) {
      const int c = t.x + kAcross * j;
      if (column + c < p.head_dim_v && !(repair != nullptr && is_finite(to_compute(to[c])))) {
        to[c] = from_compute<T>(nothing ? C(0) : out[i][j] / sum[i]);
      }
    }
    if (p.lse != nullptr && column == 0 && t.x == 0) {
      C& lse = p.lse[at.b * p.lse_strides.b + at.h * p.lse_strides.h + l];
      if (!(repair != nullptr && is_finite(lse))) {
        lse = nothing ? kHidden : most[i] + log(Vec<C>{sum[i]}).v;
      }
    }
  }
}

// ---- backward ---------------------------------------------------------------------------------------

// delta[b, h, i] = dout . out of a query, where lse has its own: what a softmax takes off the gradients of
// its scores. A warp a query.
template <class T>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_delta_kernel(const __grid_constant__ AttentionProblem<T> p, const T* dout,
                           RowStrides dout_strides, Compute<T>* delta, std::int64_t rows) {
  using C = Compute<T>;
  const std::int64_t index =
      std::int64_t{blockIdx.x} * (kAttentionThreads / kWarp) + threadIdx.x / kWarp;
  if (index >= rows) return;  // the same for all lanes
  const std::int64_t l = index % p.seqlen_q, h = index / p.seqlen_q % p.heads,
                     b = index / p.seqlen_q / p.heads;
  const T* out = p.out + b * p.out_strides.b + h * p.out_strides.h + l * p.out_strides.l;
  const T* grad = dout + b * dout_strides.b + h * dout_strides.h + l * dout_strides.l;
  C sum = 0;
  for (std::int64_t d = threadIdx.x % kWarp; d < p.head_dim_v; d += kWarp) {
    sum = fused(to_compute(grad[d]), to_compute(out[d]), sum);
  }
  sum = warp_reduce(sum, Plus{});
  if (threadIdx.x % kWarp == 0) delta[index] = sum;
}

template <class T>
struct BackwardCall {
  AttentionProblem<T> p;
  const T* dout;
  RowStrides dout_strides;
  const Compute<T>* delta;
  T* out;  // the gradient
  RowStrides out_strides;
  ScoreStrides bias_strides;
  std::int64_t tiles, columns;  // of the gradient: rows in tiles, parts of its columns
  std::int64_t bias_b, bias_h, bias_j;
  const std::uint8_t* repair;  // only elements that are not finite; or null
};

// Turns the scaled products s of a tile into keep p (kValues) or ds, the gradient by the capped score, and
// `slope` ds that by the product.
template <bool kValues, class T>
__device__ __forceinline__ void gradient_tile(const BackwardCall<T>& call, const TilePlace& at,
                                              AttentionStorage<T>& shared,
                                              typename Square<T>::Sums& s, bool by_product) {
  using S = Square<T>;
  using C = Compute<T>;
  const AttentionProblem<T>& p = call.p;
  const Thread t = Thread::here();
  const TileLook look = look_at(p, at);
  typename S::Sums dp;
  dot_tile(queries_of(p.q, p.q_strides, at, p.head_dim),
           keys_of(p, p.k, p.k_strides, at, p.head_dim), static_cast<C>(p.scale), shared, s);
  if constexpr (!kValues) {
    dot_tile(queries_of(call.dout, call.dout_strides, at, p.head_dim_v),
             keys_of(p, p.v, p.v_strides, at, p.head_dim_v), C(1), shared, dp);
  }
#pragma unroll
  for (int i = 0; i < S::kPer; ++i) {
    const int row = t.y + kAcross * i;
    const std::int64_t l = at.seq.q0 + at.query + row;
    const std::int64_t index = at.b * p.lse_strides.b + at.h * p.lse_strides.h + l;
    const bool there = at.query + row < at.seq.queries;
    const C lse = there ? p.lse[index] : C(0);
    const C delta = there && !kValues ? call.delta[index] : C(0);
#pragma unroll
    for (int j = 0; j < S::kPer; ++j) {
      const int c = t.x + kAcross * j;
      C slope = 0;
      constexpr C kHidden = -C(__builtin_inf());
      const C raw = look.sees(row, c) ? score(p, at, row, c, s[i][j], &slope) : kHidden;
      const bool hidden = raw == kHidden;
      const C share = hidden ? C(0) : exponential(raw - lse);
      const C kept = !p.dropout.on || hidden ? C(1)
                     : keeps(p, at, row, c)  ? keep_scale<T>(p.dropout)
                                             : C(0);
      if constexpr (kValues) {
        s[i][j] = share * kept;
      } else {
        const C ds = hidden ? C(0) : share * (kept * dp[i][j] - delta);
        s[i][j] = by_product && !hidden ? ds * slope : ds;
      }
      shared.hidden[row][c] = hidden ? 1 : 0;
    }
  }
}

template <class T>
__device__ __forceinline__ void store_tile(const typename Square<T>::Sums& sums, T* to,
                                           std::int64_t stride, std::int64_t rows,
                                           std::int64_t columns, Compute<T> factor, bool repair) {
  using S = Square<T>;
  const Thread t = Thread::here();
#pragma unroll
  for (int i = 0; i < S::kPer; ++i) {
#pragma unroll
    for (int j = 0; j < S::kPer; ++j) {
      const int row = t.y + kAcross * i, c = t.x + kAcross * j;
      T& x = to[row * stride + c];
      if (row < rows && c < columns && !(repair && is_finite(to_compute(x)))) {
        x = from_compute<T>(factor * sums[i][j]);
      }
    }
  }
}

// dq: a tile of queries over the tiles of their keys.
template <class T>
__global__ void __launch_bounds__(kAttentionThreads, kRepairBlocks<T>)
    attention_queries_kernel(const __grid_constant__ BackwardCall<T> call) {
  using S = Square<T>;
  using C = Compute<T>;
  const AttentionProblem<T>& p = call.p;
  auto& shared = shared_storage<AttentionStorage<T>>();
  const Thread t = Thread::here();
  const auto [column, query, head, b] = block_place<S::kSide>(call.columns, call.tiles, p.heads);
  TilePlace at{b, head, query, 0, {}};
  at.seq = sequence_of(p, at.b);
  const std::int64_t count = min_i(S::kSide, at.seq.queries - at.query);
  if (count <= 0) return;
  T* const to = call.out + at.b * call.out_strides.b + at.h * call.out_strides.h +
                (at.seq.q0 + at.query) * call.out_strides.l + column;
  if (is_done<S::kSide>(call.repair, call.columns)) return;
  typename S::Sums sums;
  clear<T>(sums);
  const Range first = visible_keys(p, at.seq, at.query);
  const Range last = visible_keys(p, at.seq, at.query + count - 1);
  for (at.key = first.begin / S::kSide * S::kSide; at.key < last.end; at.key += S::kSide) {
    typename S::Sums s;
    gradient_tile<false>(call, at, shared, s, true);
#pragma unroll
    for (int i = 0; i < S::kPer; ++i) {
#pragma unroll
      for (int j = 0; j < S::kPer; ++j) {
        shared.m[t.y + kAcross * i][t.x + kAcross * j] = s[i][j];
      }
    }
    add_product(keys_of(p, p.k, p.k_strides, at, p.head_dim), column, C(1), !look_at(p, at).all,
                shared, sums);
  }
  store_tile<T>(sums, to, call.out_strides.l, count, p.head_dim - column, static_cast<C>(p.scale),
                call.repair != nullptr);
}

// dk or dv (kValues): a tile of keys over the heads that share it and the tiles of their queries.
template <class T, bool kValues>
__global__ void __launch_bounds__(kAttentionThreads, kRepairBlocks<T>)
    attention_keys_kernel(const __grid_constant__ BackwardCall<T> call) {
  using S = Square<T>;
  using C = Compute<T>;
  const AttentionProblem<T>& p = call.p;
  auto& shared = shared_storage<AttentionStorage<T>>();
  const Thread t = Thread::here();
  const auto [column, key, kv_head, b] =
      block_place<S::kSide>(call.columns, call.tiles, p.kv_heads);
  const std::int64_t group = p.heads / p.kv_heads;
  TilePlace at{b, 0, 0, key, {}};
  at.seq = sequence_of(p, at.b);
  // Keys beyond kv_lengths, which packed sequences do not have, get zeros.
  const std::int64_t keys = p.k_begin != nullptr ? at.seq.keys : p.seqlen_k;
  const std::int64_t count = min_i(S::kSide, keys - at.key);
  if (count <= 0) return;
  const std::int64_t columns_left = (kValues ? p.head_dim_v : p.head_dim) - column;
  T* const to = call.out + at.b * call.out_strides.b + kv_head * call.out_strides.h +
                (at.seq.k0 + at.key) * call.out_strides.l + column;
  if (is_done<S::kSide>(call.repair, call.columns)) return;
  typename S::Sums sums;
  clear<T>(sums);
  for (at.h = kv_head * group; at.h < (kv_head + 1) * group; ++at.h) {
    for (at.query = 0; at.query < at.seq.queries; at.query += S::kSide) {
      if (!sees_any(p, at)) continue;
      typename S::Sums s;
      gradient_tile<kValues>(call, at, shared, s, true);
      bool hidden[S::kPer][S::kPer];
      // Turned: keys are the rows of the product.
#pragma unroll
      for (int i = 0; i < S::kPer; ++i) {
#pragma unroll
        for (int j = 0; j < S::kPer; ++j) {
          const int row = t.y + kAcross * i, c = t.x + kAcross * j;
          hidden[i][j] = shared.hidden[row][c] != 0;
          shared.m[c][row] = s[i][j];
        }
      }
      __syncthreads();  // all have read what they hid
#pragma unroll
      for (int i = 0; i < S::kPer; ++i) {
#pragma unroll
        for (int j = 0; j < S::kPer; ++j) {
          shared.hidden[t.x + kAcross * j][t.y + kAcross * i] = hidden[i][j] ? 1 : 0;
        }
      }
      const Vectors<T> rows = kValues ? queries_of(call.dout, call.dout_strides, at, p.head_dim_v)
                                      : queries_of(p.q, p.q_strides, at, p.head_dim);
      add_product(rows, column, kValues ? C(1) : static_cast<C>(p.scale), !look_at(p, at).all,
                  shared, sums);
    }
  }
  store_tile<T>(sums, to, call.out_strides.l, count, columns_left, C(1), call.repair != nullptr);
}

// dbias: a tile of it over all that is broadcast to it.
template <class T>
__global__ void __launch_bounds__(kAttentionThreads, kBlocks)
    attention_bias_kernel(const __grid_constant__ BackwardCall<T> call) {
  using S = Square<T>;
  using C = Compute<T>;
  const AttentionProblem<T>& p = call.p;
  auto& shared = shared_storage<AttentionStorage<T>>();
  const Thread t = Thread::here();
  const ScoreStrides& to = call.bias_strides;
  const bool by_i = to.i != 0, by_j = to.j != 0;
  std::int64_t rest = blockIdx.x;
  const std::int64_t j_first = rest % call.bias_j * S::kSide;
  rest /= call.bias_j;
  const std::int64_t i_first = rest % call.tiles * S::kSide;
  rest /= call.tiles;
  const std::int64_t h_first = rest % call.bias_h, b_first = rest / call.bias_h;
  typename S::Sums sums;
  clear<T>(sums);
  TilePlace at{};
  for (at.b = b_first; at.b < (to.b != 0 ? b_first + 1 : p.batch); ++at.b) {
    at.seq = sequence_of(p, at.b);
    // Packed sequences lie behind each other: a tile may begin before one of them.
    const std::int64_t first = by_i ? i_first - at.seq.q0 : 0;
    const std::int64_t end = by_i ? first + 1 : at.seq.queries;
    for (at.h = h_first; at.h < (to.h != 0 ? h_first + 1 : p.heads); ++at.h) {
      for (at.query = first; at.query < end; at.query += S::kSide) {
        for (at.key = j_first; at.key < (by_j ? j_first + 1 : at.seq.keys); at.key += S::kSide) {
          if (!sees_any(p, at)) continue;
          typename S::Sums s;
          gradient_tile<false>(call, at, shared, s, false);
#pragma unroll
          for (int i = 0; i < S::kPer; ++i) {
            if (at.query + t.y + kAcross * i < 0) continue;  // another sequence's
#pragma unroll
            for (int j = 0; j < S::kPer; ++j) sums[i][j] = sums[i][j] + s[i][j];
          }
        }
      }
    }
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < S::kPer; ++i) {
#pragma unroll
    for (int j = 0; j < S::kPer; ++j) {
      shared.m[t.y + kAcross * i][t.x + kAcross * j] = sums[i][j];
    }
  }
  __syncthreads();
  // What the bias does not tell apart is added in order.
  const int rows = by_i ? S::kSide : 1, columns = by_j ? S::kSide : 1;
  for (int e = static_cast<int>(threadIdx.x); e < rows * columns; e += kAttentionThreads) {
    const int r = e / columns, c = e % columns;
    if ((by_i && i_first + r >= p.seqlen_q) || (by_j && j_first + c >= p.score_columns)) continue;
    C total = 0;
    for (int i = by_i ? r : 0; i < (by_i ? r + 1 : S::kSide); ++i) {
      for (int j = by_j ? c : 0; j < (by_j ? c + 1 : S::kSide); ++j) total = total + shared.m[i][j];
    }
    call.out[b_first * to.b + h_first * to.h + (i_first + r) * to.i + (j_first + c) * to.j] =
        from_compute<T>(total);
  }
}

// dsinks of a head: the share of every query times what it takes away.
template <class T>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_sinks_kernel(const __grid_constant__ AttentionProblem<T> p, const Compute<T>* delta,
                           T* dsinks) {
  using C = Compute<T>;
  auto& shared = shared_storage<BlockReduceStorage<C, kAttentionThreads / kWarp>>();
  const std::int64_t h = blockIdx.x;
  const C sink = to_compute(p.sinks[h]);
  const std::int64_t samples = p.q_begin != nullptr ? 1 : p.batch;
  C sum = 0;
  for (std::int64_t r = threadIdx.x; r < samples * p.seqlen_q; r += kAttentionThreads) {
    const std::int64_t b = r / p.seqlen_q;
    const std::int64_t index = b * p.lse_strides.b + h * p.lse_strides.h + (r - b * p.seqlen_q);
    if (sink == -C(__builtin_inf())) continue;
    sum = fused(-exponential(sink - p.lse[index]), delta[index], sum);
  }
  const C total = block_reduce(sum, shared, Plus{});
  if (threadIdx.x == 0) dsinks[h] = from_compute<T>(total);
}

template <class T>
__global__ void __launch_bounds__(kAttentionThreads) attention_clear_kernel(T* p, std::int64_t n) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kAttentionThreads + threadIdx.x;
  if (i < n) p[i] = from_compute<T>(Compute<T>(0));
}

// Rows of lse and of delta.
template <class T>
std::int64_t delta_rows(const AttentionProblem<T>& p) {
  return (p.q_begin != nullptr ? 1 : p.batch) * p.heads * p.seqlen_q;
}
template <class T>
void launch_delta(const AttentionProblem<T>& p, const AttentionGradients<T>& g, Compute<T>* delta) {
  const std::int64_t rows = delta_rows(p);
  const Grid grid{ceil_div(rows, kAttentionThreads / kWarp), kAttentionThreads};
  ARRAYNN_LAUNCH((attention_delta_kernel<T>), grid, p, g.dout, g.dout_strides, delta, rows);
}

template <class T>
std::int64_t scratch_bytes(const AttentionProblem<T>& p) {
  return delta_rows(p) * static_cast<std::int64_t>(sizeof(Compute<T>));
}

}  // namespace
}  // namespace cuda

template <class T>
void clear_gradient(T* p, std::int64_t n) {
  using namespace cuda;
  const Grid grid{ceil_div(n, kAttentionThreads), kAttentionThreads};
  ARRAYNN_LAUNCH((attention_clear_kernel<T>), grid, p, n);
}

template <class T>
void run_attention(const char* op, const AttentionProblem<T>& p) {
  using namespace cuda;
  if (has_decode_plan(p)) return run_decode(op, p);
  const std::uint8_t* repair = nullptr;
  if constexpr (kHasTensorCores<T>) repair = run_tensor_forward(p);
  constexpr int kSide = Square<T>::kSide;
  const std::int64_t tiles = ceil_div(p.seqlen_q, kSide);
  const std::int64_t columns = max_i(1, ceil_div(p.head_dim_v, kSide));
  const Grid grid{p.batch * p.heads * tiles * columns, kAttentionThreads};
  ARRAYNN_LAUNCH((attention_kernel<T>), grid, p, tiles, columns, repair);
}

template <class T>
void run_attention_backward(const char* op, const AttentionProblem<T>& p,
                            const AttentionGradients<T>& g) {
  using namespace cuda;
  constexpr int kSide = Square<T>::kSide;
  const Scratch scratch(op, scratch_bytes(p));
  auto* delta = scratch.as<Compute<T>>();
  launch_delta(p, g, delta);
  BackwardCall<T> call{};
  call.p = p;
  call.dout = g.dout;
  call.dout_strides = g.dout_strides;
  call.delta = delta;
  TensorRepairs repairs{};
  if constexpr (kHasTensorCores<T>) repairs = run_tensor_gradients(p, g, delta);
  const auto target = [&](T* out, const RowStrides& strides, std::int64_t rows, std::int64_t dim) {
    call.out = out;
    call.out_strides = strides;
    call.tiles = ceil_div(rows, kSide);
    call.columns = ceil_div(dim, kSide);
    return p.batch * call.tiles * call.columns;
  };
  if (g.dq != nullptr) {
    const std::int64_t blocks = target(g.dq, g.dq_strides, p.seqlen_q, p.head_dim) * p.heads;
    call.repair = repairs.dq;
    ARRAYNN_LAUNCH((attention_queries_kernel<T>), (Grid{blocks, kAttentionThreads}), call);
  }
  if (g.dk != nullptr) {
    const std::int64_t blocks = target(g.dk, g.dk_strides, p.seqlen_k, p.head_dim) * p.kv_heads;
    call.repair = repairs.dk;
    ARRAYNN_LAUNCH((attention_keys_kernel<T, false>), (Grid{blocks, kAttentionThreads}), call);
  }
  if (g.dv != nullptr) {
    const std::int64_t blocks = target(g.dv, g.dv_strides, p.seqlen_k, p.head_dim_v) * p.kv_heads;
    call.repair = repairs.dv;
    ARRAYNN_LAUNCH((attention_keys_kernel<T, true>), (Grid{blocks, kAttentionThreads}), call);
  }
  if (g.dbias != nullptr) {
    const ScoreStrides& bs = g.dbias_strides;
    call.out = g.dbias;
    call.bias_strides = bs;
    call.bias_b = bs.b != 0 ? p.batch : 1;
    call.bias_h = bs.h != 0 ? p.heads : 1;
    call.tiles = bs.i != 0 ? ceil_div(p.seqlen_q, kSide) : 1;
    call.bias_j = bs.j != 0 ? ceil_div(p.score_columns, kSide) : 1;
    const std::int64_t blocks = call.bias_b * call.bias_h * call.tiles * call.bias_j;
    ARRAYNN_LAUNCH((attention_bias_kernel<T>), (Grid{blocks, kAttentionThreads}), call);
  }
}

template <class T>
void run_attention_sinks(const char* op, const AttentionProblem<T>& p,
                         const AttentionGradients<T>& g) {
  using namespace cuda;
  const Scratch scratch(op, scratch_bytes(p));
  auto* delta = scratch.as<Compute<T>>();
  launch_delta(p, g, delta);
  const Grid grid{p.heads, kAttentionThreads};
  ARRAYNN_LAUNCH((attention_sinks_kernel<T>), grid, p, delta, g.dsinks);
}

#define ARRAYNN_INSTANTIATE(T)                                                     \
  template void clear_gradient<T>(T*, std::int64_t);                               \
  template void run_attention<T>(const char*, const AttentionProblem<T>&);         \
  template void run_attention_backward<T>(const char*, const AttentionProblem<T>&, \
                                          const AttentionGradients<T>&);           \
  template void run_attention_sinks<T>(const char*, const AttentionProblem<T>&,    \
                                       const AttentionGradients<T>&);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
