// The gradients by q, k and v on tensor cores, a kernel each: tiles and plan in attention/cuda_mma.hpp.
//
// Bits. Tiles of the other side begin at multiples of kN and are taken in order, head after head of those
// that share a key head: sums depend neither on the other rows nor on the batch.
#include "attention/cuda_hopper_backward.hpp"
#include "attention/cuda_mma.hpp"

namespace arraynn::cuda {
namespace {

enum class By : std::uint8_t { kQ, kK, kV };

template <class T>
struct GradientCall {
  AttentionProblem<T> p;
  const T* dout;
  RowStrides dout_strides;
  const float* delta;
  T* out;  // the gradient
  RowStrides out_strides;
  std::int64_t tiles, columns;  // of its rows, parts of its columns
  bool packed_q, packed_k, packed_v, packed_dout;
  std::uint8_t* repair;
};

// 2^(biased - 127); 0 below the normal numbers.
__device__ __forceinline__ float power_of_two(int biased) {
  const Words bits = biased <= 0 ? 0u : static_cast<Words>(biased) << 23;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
// What the factors of a row are multiplied by so that the largest lies in [2^14, 2^15). The exponent of the
// largest so far, biased, is not below kLeastTop.
constexpr int kTopTo = 14, kLeastTop = 16;

template <class Tile>
__device__ __forceinline__ void scale_rows(const ScorePlace<Tile>& place, ScoreSums<Tile>& s,
                                           ColumnSums<Tile>& sums, int (&top)[Tile::kMmaM][2]) {
  for_rows(place, [&](int, int i, int half) {
    float largest = 0;
    for_columns(0, half, s[i], [&](int, float& x) { largest = Larger{}(::fabsf(x), largest); });
    largest = lanes_reduce(largest, Larger{});
    Words bits;
    memcpy(&bits, &largest, sizeof bits);
    const int before = top[i][half], now = static_cast<int>(bits >> 23);
    if (now > before) {
      top[i][half] = now;
      const float shrink = power_of_two(127 + before - now);
      for_columns(0, half, sums[i], [&](int, float& x) { x *= shrink; });
    }
    const float grow = power_of_two(127 + kTopTo + 127 - top[i][half]);
    for_columns(0, half, s[i], [&](int, float& x) { x *= grow; });
  });
}

template <class Tile, By kBy>
__global__ void __launch_bounds__(Tile::kThreads, 2)
    attention_gradient_kernel(const __grid_constant__ GradientCall<typename Tile::Element> call) {
  using T = typename Tile::Element;
  constexpr bool kQueryRows = kBy == By::kQ;
  constexpr int kOperands = kBy == By::kV ? 1 : 2;
  constexpr bool kScaled = std::is_same_v<T, Half> && kBy != By::kV;
  constexpr float kUnit = std::is_same_v<T, Half> && kBy == By::kV ? 16384.0f : 1.0f;
  constexpr float kHidden = -__builtin_inff();
  const AttentionProblem<T>& p = call.p;
  const auto place = ScorePlace<Tile>::here();
  const std::int64_t group = p.heads / p.kv_heads;
  const auto [part, tile, head, b] =
      block_place<1>(call.columns, call.tiles, kQueryRows ? p.heads : p.kv_heads);
  TilePlace at{b, kQueryRows ? head : head * group, 0, 0, sequence_of(p, b)};
  const std::int64_t kv_head = kQueryRows ? head / group : head;
  std::int64_t row, count;
  if constexpr (kQueryRows) {  // the longest first, as in the forward
    row = at.query = (call.tiles - 1 - tile) * Tile::kM;
    count = min_i(Tile::kM, at.seq.queries - row);
  } else {
    // Keys beyond kv_lengths, which packed sequences do not have, get zeros.
    row = at.key = tile * Tile::kM;
    count = min_i(Tile::kM, (p.k_begin != nullptr ? at.seq.keys : p.seqlen_k) - row);
  }
  const std::int64_t note =
      ((b * (kQueryRows ? p.heads : p.kv_heads) + head) * call.tiles + row / Tile::kM) *
          call.columns +
      part;
  if (count <= 0) return note_repair<Tile>(call.repair, note, true);  // the same for all threads

  auto& v = shared_storage<BlockVectors<T>>();
  if (threadIdx.x == 0) {
    const HeadVectors<T> q = head_vectors(p.q, p.q_strides, b, at.h, at.seq.q0, at.seq.queries,
                                          p.head_dim, call.packed_q);
    const HeadVectors<T> dout = head_vectors(call.dout, call.dout_strides, b, at.h, at.seq.q0,
                                             at.seq.queries, p.head_dim_v, call.packed_dout);
    const HeadVectors<T> k = head_vectors(p.k, p.k_strides, b, kv_head, at.seq.k0, at.seq.keys,
                                          p.head_dim, call.packed_k);
    const HeadVectors<T> values = head_vectors(p.v, p.v_strides, b, kv_head, at.seq.k0, at.seq.keys,
                                               p.head_dim_v, call.packed_v);
    v.left[0] = kQueryRows ? q : k;
    v.left[1] = kQueryRows ? dout : values;
    v.right[0] = kQueryRows ? k : q;
    v.right[1] = kQueryRows ? values : dout;
    v.values = kBy == By::kQ ? k : kBy == By::kK ? q : dout;
    v.row = row;
    v.column = static_cast<int>(part) * Tile::kColumns;
    v.heads = kQueryRows ? 1 : group;
    v.step[0] = kQueryRows ? 0 : p.q_strides.h;
    v.step[1] = kQueryRows ? 0 : call.dout_strides.h;
    v.step_values = kBy == By::kV ? v.step[1] : v.step[0];
    const Range seen = kQueryRows ? Range{visible_keys(p, at.seq, row).begin,
                                          visible_keys(p, at.seq, row + count - 1).end}
                                  : seeing_queries(p, at.seq, row, count);
    v.begin = seen.begin / Tile::kN * Tile::kN;
    v.end = seen.end;
  }
  __syncthreads();

  // lse and delta of query i are number `i` from here on in the head.
  const auto statistics = [&](const float* of, int i) {
    const bool there = at.query + i < at.seq.queries;
    const std::int64_t first = b * p.lse_strides.b + at.h * p.lse_strides.h + at.seq.q0;
    return there ? of[first + at.query + i] : 0.0f;
  };
  float lse_of_row[Tile::kMmaM][2] = {}, delta_of_row[Tile::kMmaM][2] = {};
  int top[Tile::kMmaM][2];
  for_rows(place, [&](int r, int i, int half) {
    top[i][half] = kLeastTop;
    if constexpr (kQueryRows) {
      lse_of_row[i][half] = statistics(p.lse, r);
      delta_of_row[i][half] = statistics(call.delta, r);
    }
  });
  const auto scale = static_cast<float>(p.scale), kept = keep_scale<T>(p.dropout);
  const bool plain =
      p.softcap == 0 && p.slopes == nullptr && p.bias == nullptr && p.mask == nullptr;
  ColumnSums<Tile> sums = {};
  walk_tiles<Tile, kOperands>(
      v, place, sums,
      [&](std::int64_t h, std::int64_t other, ScoreSums<Tile>& s, ScoreSums<Tile>& dp) {
        if constexpr (kQueryRows) {
          at.key = other;
        } else {
          at.h = kv_head * group + h;
          at.query = other;
        }
        const TileLook look =
            look_at(p, at, kQueryRows ? Tile::kM : Tile::kN, kQueryRows ? Tile::kN : Tile::kM);
        const auto drops = [&](int r, int c) {
          return !keeps(p, at, kQueryRows ? r : c, kQueryRows ? c : r);
        };
        // dp becomes what a share is multiplied by.
        if constexpr (kBy != By::kV) {
          if (p.dropout.on) {
            for_scores(place, [&](int r, int c, int i, int j, int e) {
              dp[i][j][e] *= drops(r, c) ? 0.0f : kept;
            });
          }
          for_scores(place, [&](int, int c, int i, int j, int e) {
            dp[i][j][e] -= kQueryRows ? delta_of_row[i][e / 2] : statistics(call.delta, c);
          });
        }
        if (look.all && plain) {
          for_scores(place, [&](int, int, int i, int j, int e) { s[i][j][e] *= scale; });
        } else {
          for_scores(place, [&](int r, int c, int i, int j, int e) {
            const int query = kQueryRows ? r : c, key = kQueryRows ? c : r;
            float slope = 1.0f, &x = s[i][j][e];
            x = look.sees(query, key) ? score(p, at, query, key, x * scale, &slope) : kHidden;
            if constexpr (kBy != By::kV) dp[i][j][e] *= slope;
          });
        }
        for_scores(place, [&](int, int c, int i, int j, int e) {
          float& x = s[i][j][e];
          const float lse = kQueryRows ? lse_of_row[i][e / 2] : statistics(p.lse, c);
          const float share = kBy == By::kV ? kUnit : dp[i][j][e];
          x = x == kHidden ? 0.0f : exponential(x - lse) * share;
        });
        if constexpr (kBy == By::kV) {
          if (p.dropout.on) {
            for_scores(place, [&](int r, int c, int i, int j, int e) {
              if (drops(r, c)) s[i][j][e] = 0;
            });
          }
        }
        if constexpr (kScaled) scale_rows(place, s, sums, top);
      });

  T* const to = call.out + b * call.out_strides.b + head * call.out_strides.h +
                ((kQueryRows ? at.seq.q0 : at.seq.k0) + row) * call.out_strides.l;
  bool finite = true;
  for_rows(place, [&](int r, int i, int half) {
    if (r >= count) return;
    float factor = kBy == By::kV ? kept * (1.0f / kUnit) : scale;
    if constexpr (kScaled) factor *= power_of_two(top[i][half] - kTopTo);
    for_columns(v.column + place.column, half, sums[i], [&](int c, float& x) {
      x *= factor;
      finite = finite && is_finite(x);
      if (c < v.values.dim) to[r * call.out_strides.l + c] = from_compute<T>(x);
    });
  });
  note_repair<Tile>(call.repair, note, finite);
}

}  // namespace

template <class T>
TensorRepairs run_tensor_gradients(const AttentionProblem<T>& p, const AttentionGradients<T>& g,
                                   const float* delta) {
  TensorRepairs repairs;
  with_score_tile<T>([&]<class Tile>() {
    GradientCall<T> call{};
    call.p = p;
    call.dout = g.dout;
    call.dout_strides = g.dout_strides;
    call.delta = delta;
    call.packed_q = vectors_fit(p.q, p.q_strides);
    call.packed_k = vectors_fit(p.k, p.k_strides);
    call.packed_v = vectors_fit(p.v, p.v_strides);
    call.packed_dout = vectors_fit(g.dout, g.dout_strides);
    const auto blocks = [&](std::int64_t rows, std::int64_t heads, std::int64_t dim) {
      return p.batch * heads * ceil_div(rows, Tile::kM) * ceil_div(dim, Tile::kColumns);
    };
    const std::int64_t dq_blocks = blocks(p.seqlen_q, p.heads, p.head_dim),
                       dk_blocks = blocks(p.seqlen_k, p.kv_heads, p.head_dim),
                       dv_blocks = blocks(p.seqlen_k, p.kv_heads, p.head_dim_v);
    GradientNotes notes;
    if (g.dq != nullptr) repairs.dq = notes.dq = scratch<std::uint8_t>(dq_blocks);
    if (g.dk != nullptr) repairs.dk = notes.dk = scratch<std::uint8_t>(dk_blocks);
    if (g.dv != nullptr) repairs.dv = notes.dv = scratch<std::uint8_t>(dv_blocks);
    bool by_query = g.dq != nullptr, by_key = g.dk != nullptr || g.dv != nullptr;
#if defined(ARRAYNN_HOPPER)
    if constexpr (sizeof(T) == 2) {
      by_query = by_query && !query_gradient_on_hopper(p, g, delta, notes);
      by_key = by_key && !key_gradients_on_hopper(p, g, delta, notes);
    }
#endif
    const auto chunks = static_cast<int>(ceil_div(p.head_dim, Tile::kK));
    const auto chunks_v = static_cast<int>(ceil_div(p.head_dim_v, Tile::kK));
    const std::size_t both = ChunkRing<Tile, 2>::shared_bytes(chunks + chunks_v);
    const auto form = [&](T* out, const RowStrides& strides, std::int64_t rows, std::int64_t dim,
                          std::uint8_t* repair) {
      call.out = out;
      call.out_strides = strides;
      call.tiles = ceil_div(rows, Tile::kM);
      call.columns = ceil_div(dim, Tile::kColumns);
      call.repair = repair;
    };
    if (by_query) {
      form(g.dq, g.dq_strides, p.seqlen_q, p.head_dim, notes.dq);
      const Grid grid{dq_blocks, Tile::kThreads, both};
      ARRAYNN_LAUNCH((attention_gradient_kernel<Tile, By::kQ>), grid, call);
    }
    if (by_key && g.dk != nullptr) {
      form(g.dk, g.dk_strides, p.seqlen_k, p.head_dim, notes.dk);
      const Grid grid{dk_blocks, Tile::kThreads, both};
      ARRAYNN_LAUNCH((attention_gradient_kernel<Tile, By::kK>), grid, call);
    }
    if (by_key && g.dv != nullptr) {
      form(g.dv, g.dv_strides, p.seqlen_k, p.head_dim_v, notes.dv);
      const Grid grid{dv_blocks, Tile::kThreads, ChunkRing<Tile, 1>::shared_bytes(chunks)};
      ARRAYNN_LAUNCH((attention_gradient_kernel<Tile, By::kV>), grid, call);
    }
  });
  return repairs;
}

template TensorRepairs run_tensor_gradients<float>(const AttentionProblem<float>&,
                                                   const AttentionGradients<float>&, const float*);
template TensorRepairs run_tensor_gradients<Half>(const AttentionProblem<Half>&,
                                                  const AttentionGradients<Half>&, const float*);
template TensorRepairs run_tensor_gradients<Bfloat16>(const AttentionProblem<Bfloat16>&,
                                                      const AttentionGradients<Bfloat16>&,
                                                      const float*);

}  // namespace arraynn::cuda
