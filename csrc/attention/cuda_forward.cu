// The forward on tensor cores: tiles and plan in attention/cuda_mma.hpp.
//
// Bits. Tiles of keys begin at multiples of kN and are taken in order, so a query's result depends neither
// on the other queries nor on the batch.
#include "attention/cuda_hopper.hpp"
#include "attention/cuda_mma.hpp"

namespace arraynn::cuda {
namespace {

template <class T>
struct ForwardCall {
  AttentionProblem<T> p;
  std::int64_t tiles, columns;  // of queries, parts of the result's columns
  bool packed_q, packed_k, packed_v;
  std::uint8_t* repair;
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 2)
    attention_forward_kernel(const __grid_constant__ ForwardCall<typename Tile::Element> call) {
  using T = typename Tile::Element;
  constexpr float kHidden = -__builtin_inff();
  // What exponentials, 1 at most, are multiplied by: float16 has no small numbers.
  constexpr float kUnit = std::is_same_v<T, Half> ? 16384.0f : 1.0f;
  const AttentionProblem<T>& p = call.p;
  const auto place = ScorePlace<Tile>::here();
  const auto [part, tile, head, b] = block_place<1>(call.columns, call.tiles, p.heads);
  // From the end: where keys behind a query are hidden the last tiles are the longest.
  TilePlace at{b, head, (call.tiles - 1 - tile) * Tile::kM, 0, sequence_of(p, b)};
  const std::int64_t count = min_i(Tile::kM, at.seq.queries - at.query);
  const std::int64_t note =
      ((b * p.heads + head) * call.tiles + at.query / Tile::kM) * call.columns + part;
  if (count <= 0) return note_repair<Tile>(call.repair, note, true);  // the same for all threads

  auto& v = shared_storage<BlockVectors<T>>();
  if (threadIdx.x == 0) {
    const std::int64_t kv_head = at.h / (p.heads / p.kv_heads);
    v.left[0] = head_vectors(p.q, p.q_strides, b, at.h, at.seq.q0, at.seq.queries, p.head_dim,
                             call.packed_q);
    v.right[0] = head_vectors(p.k, p.k_strides, b, kv_head, at.seq.k0, at.seq.keys, p.head_dim,
                              call.packed_k);
    v.values = head_vectors(p.v, p.v_strides, b, kv_head, at.seq.k0, at.seq.keys, p.head_dim_v,
                            call.packed_v);
    v.row = at.query;
    v.column = static_cast<int>(part) * Tile::kColumns;
    v.begin = visible_keys(p, at.seq, at.query).begin / Tile::kN * Tile::kN;
    v.end = visible_keys(p, at.seq, at.query + count - 1).end;
    v.heads = 1;
    v.step[0] = v.step_values = 0;
  }
  __syncthreads();

  const float sink = p.sinks != nullptr ? to_compute(p.sinks[at.h]) : kHidden;
  float most[Tile::kMmaM][2], sum[Tile::kMmaM][2];  // of a lane's columns
  for_rows(place, [&](int, int i, int half) {
    most[i][half] = sink == kHidden ? kLowest<float> : sink;
    sum[i][half] = sink == kHidden || place.column != 0 ? 0.0f : 1.0f;
  });
  const auto scale = static_cast<float>(p.scale);
  const bool plain =
      p.softcap == 0 && p.slopes == nullptr && p.bias == nullptr && p.mask == nullptr;
  ColumnSums<Tile> out = {};
  walk_tiles<Tile, 1>(
      v, place, out, [&](std::int64_t, std::int64_t key, ScoreSums<Tile>& s, ScoreSums<Tile>&) {
        at.key = key;
        const TileLook look = look_at(p, at, Tile::kM, Tile::kN);
        if (look.all && plain) {
          for_scores(place, [&](int, int, int i, int j, int e) { s[i][j][e] *= scale; });
        } else {
          for_scores(place, [&](int row, int c, int i, int j, int e) {
            float slope, &x = s[i][j][e];
            x = look.sees(row, c) ? score(p, at, row, c, x * scale, &slope) : kHidden;
          });
        }
        for_rows(place, [&](int, int i, int half) {
          float tile_most = most[i][half], tile_sum = 0;
          for_columns(0, half, s[i], [&](int, float& x) { tile_most = Larger{}(x, tile_most); });
          tile_most = lanes_reduce(tile_most, Larger{});
          const float shrink = exponential(most[i][half] - tile_most);
          most[i][half] = tile_most;
          for_columns(0, half, s[i], [&](int, float& x) {
            const float e = x == kHidden ? 0.0f : exponential(x - tile_most);
            tile_sum += e;
            x = kUnit * e;
          });
          sum[i][half] = fused(sum[i][half], shrink, tile_sum);
          for_columns(0, half, out[i], [&](int, float& o) { o *= shrink; });
        });
        if (p.dropout.on) {
          for_scores(place, [&](int row, int c, int i, int j, int e) {
            if (!keeps(p, at, row, c)) s[i][j][e] = 0;
          });
        }
      });

  bool finite = true;
  const float factor = keep_scale<T>(p.dropout) * (1.0f / kUnit);
  for_rows(place, [&](int row, int i, int half) {
    const float total = lanes_reduce(sum[i][half], Plus{});
    if (row >= count) return;
    const std::int64_t l = at.seq.q0 + at.query + row;
    const bool nothing = total == 0.0f;
    T* to = p.out + b * p.out_strides.b + at.h * p.out_strides.h + l * p.out_strides.l;
    for_columns(v.column + place.column, half, out[i], [&](int c, float& o) {
      o = nothing ? 0.0f : factor * o / total;
      finite = finite && is_finite(o);
      if (c < v.values.dim) to[c] = from_compute<T>(o);
    });
    if (p.lse != nullptr && part == 0 && place.column == 0) {
      p.lse[b * p.lse_strides.b + at.h * p.lse_strides.h + l] =
          nothing ? kHidden : most[i][half] + log(Vec<float>{total}).v;
    }
  });
  note_repair<Tile>(call.repair, note, finite);
}

}  // namespace

template <class T>
const std::uint8_t* run_tensor_forward(const AttentionProblem<T>& p) {
  std::uint8_t* repair = nullptr;
  with_score_tile<T>([&]<class Tile>() {
    ForwardCall<T> call{};
    call.p = p;
    call.tiles = ceil_div(p.seqlen_q, Tile::kM);
    call.columns = max_i(1, ceil_div(p.head_dim_v, Tile::kColumns));
    call.packed_q = vectors_fit(p.q, p.q_strides);
    call.packed_k = vectors_fit(p.k, p.k_strides);
    call.packed_v = vectors_fit(p.v, p.v_strides);
    const auto chunks = static_cast<int>(ceil_div(p.head_dim, Tile::kK));
    const Grid grid{p.batch * p.heads * call.tiles * call.columns, Tile::kThreads,
                    ChunkRing<Tile, 1>::shared_bytes(chunks)};
    call.repair = repair = scratch<std::uint8_t>(grid.blocks);
#if defined(ARRAYNN_HOPPER)
    if constexpr (sizeof(T) == 2) {
      if (attention_on_hopper(p, repair)) return;
    }
#endif
    ARRAYNN_LAUNCH((attention_forward_kernel<Tile>), grid, call);
  });
  return repair;
}

template const std::uint8_t* run_tensor_forward<float>(const AttentionProblem<float>&);
template const std::uint8_t* run_tensor_forward<Half>(const AttentionProblem<Half>&);
template const std::uint8_t* run_tensor_forward<Bfloat16>(const AttentionProblem<Bfloat16>&);

}  // namespace arraynn::cuda
