// The gradients of attention on Hopper (cuda_hopper_backward.hpp): their tiles, which of them a block takes, and their
// copies.
#pragma once
#include "attention/cuda_hopper_parts.hpp"

namespace arraynn::cuda {

enum class By : std::uint8_t { kQ, kKV, kK, kV };

// x: vectors of the rows, y: of the other side. [0]: q or k, kDim elements; [1]: dout or v, kDimV.
template <class T, int kDim_, int kDimV_, By kBy_, int kN_, bool kOptions_>
struct GradientTile {
  using Element = T;
  static constexpr int kDim = kDim_, kDimV = kDimV_;
  static constexpr By kBy = kBy_;
  static constexpr bool kOptions = kOptions_;
  static constexpr bool kQueryRows = kBy == By::kQ;
  static constexpr bool kByScores = kBy != By::kV;                       // sums of ds y[0]
  static constexpr bool kByValues = kBy == By::kKV || kBy == By::kV;     // of p y[1]
  static constexpr bool kScaled = kByScores && std::is_same_v<T, Half>;  // as the portable way
  static constexpr int kM = kMultipliers * kGroupRows, kN = kN_;
  static constexpr int kBytesX0 = kM * kDim * 2, kBytesX1 = kByScores ? kM * kDimV * 2 : 0;
  static constexpr int kBytesY0 = kN * kDim * 2, kBytesY1 = kN * kDimV * 2;
  static constexpr int kFit = ((224 << 10) - kBytesX0 - kBytesX1) / (kBytesY0 + kBytesY1);
  static constexpr int kStages = kFit < 4 ? kFit : 4;
  static_assert(kStages >= 2 && kN % 16 == 0);
  // What a share is multiplied by, as a power of two: float16 has no small numbers.
  static constexpr float kShift = kByValues && std::is_same_v<T, Half> ? 14.0f : 0.0f;
  using Scores = float[kN / 2];
  using Factors = Words[kSplits][kN / 16][4];
  using ScoreSums = float[kByScores ? kDim / 2 : 1];
  using ValueSums = float[kByValues ? kDimV / 2 : 1];
};

// An array as bulk copies see it.
struct GradientOperand {
  TensorMap map;
  FlashRows rows;
};
template <class T>
struct GradientResult {
  T* p;  // null: not wanted
  RowStrides strides;
  std::int64_t dim, columns;  // columns: of is_done
  bool packed;                // leaves 16 bytes at a time
  std::uint8_t* repair;
};

template <class T>
struct GradientCall {
  GradientOperand x[2], y[2];
  AttentionProblem<T> p;
  const float* delta;
  GradientResult<T> out[2];  // of the sums by scores, by values
  unsigned tiles;            // of the rows of a head
  std::int64_t notes;
  float factor;  // of scores in an exponent of 2
};

// Rows of a head that a block owns, and the vectors of the other side that they meet, of `heads` heads.
struct GradientWork {
  int b, h, kv_head, heads, row, count, begin, end;
  int x0, y0, others;  // of the sequence: first row of either side, vectors of the other
  int live;            // rows that are no zeros
  int low, high;       // row r of the block meets vectors from low + r to high + r

  template <class Tile, class T>
  __device__ __forceinline__ static GradientWork of(const GradientCall<T>& call, unsigned index) {
    const AttentionProblem<T>& p = call.p;
    const auto group = static_cast<unsigned>(p.heads / p.kv_heads),
               kv_heads = static_cast<unsigned>(p.kv_heads);
    const auto to_int = [](std::int64_t x) { return static_cast<int>(x); };
    const auto near = [&](std::int64_t x) { return to_int(max_i(-(1 << 30), min_i(x, 1 << 30))); };
    const unsigned heads = Tile::kQueryRows ? group : 1, each = call.tiles * heads;
    const unsigned head = index / each, rest = index - head * each, tile = rest / heads;
    GradientWork w;
    w.b = to_int(head / kv_heads);
    w.kv_head = to_int(head - head / kv_heads * kv_heads);
    w.h = w.kv_head * to_int(group) + to_int(rest - tile * heads);
    w.begin = w.end = 0;
    const AttentionSequence seq = sequence_of(p, w.b);
    // The longest first, where vectors beyond a diagonal are hidden.
    if constexpr (Tile::kQueryRows) {
      w.heads = 1;
      w.row = to_int(call.tiles - 1 - tile) * Tile::kM;
      w.count = w.live = to_int(min_i(Tile::kM, seq.queries - w.row));
      w.x0 = to_int(seq.q0);
      w.y0 = to_int(seq.k0);
      w.others = to_int(seq.keys);
      w.low = near(w.row + seq.offset - p.left);
      w.high = near(w.row + seq.offset + p.right);
      if (w.count > 0) {
        w.begin = to_int(visible_keys(p, seq, w.row).begin);
        w.end = to_int(visible_keys(p, seq, w.row + w.count - 1).end);
      }
    } else {
      w.heads = to_int(group);
      w.row = to_int(tile) * Tile::kM;
      // Keys beyond kv_lengths, which packed sequences do not have, get zeros.
      const std::int64_t keys = p.k_begin != nullptr ? seq.keys : p.seqlen_k;
      w.count = to_int(min_i(Tile::kM, keys - w.row));
      w.live = to_int(seq.keys - w.row);
      w.x0 = to_int(seq.k0);
      w.y0 = to_int(seq.q0);
      w.others = to_int(seq.queries);
      w.low = near(w.row - seq.offset - p.right);
      w.high = near(w.row - seq.offset + p.left);
      const Range seen = seeing_queries(p, seq, w.row, w.count);
      w.begin = to_int(seen.begin);
      w.end = to_int(seen.end);
    }
    w.end = w.end > 0 ? w.end : 0;
    w.begin = (w.begin < w.end ? w.begin : w.end) / Tile::kN * Tile::kN;
    return w;
  }
};

template <class Tile>
struct alignas(kAtomBytes) GradientStorage {
  struct Stage {
    unsigned char y0[Tile::kBytesY0], y1[Tile::kBytesY1];
  };
  unsigned char x[Tile::kBytesX0 + Tile::kBytesX1];
  Stage stages[Tile::kStages];
  // Of the queries of a stage, where those are not the rows: see reference_of.
  float reference[Tile::kStages][Tile::kN], delta[Tile::kStages][Tile::kN];
  std::uint64_t full[Tile::kStages], empty[Tile::kStages];
  std::uint64_t x_full, tail, turn[kMultipliers], done[kMultipliers];
  std::uint8_t wrong[kWarps];
  GradientWork work;
};

// The stage of tile number `tile` of a block, and the parity of its barriers' phase, 0 on the first way round.
struct GradientTurn {
  unsigned stage = 0;
  std::uint32_t parity = 0;

  template <class Tile>
  __device__ __forceinline__ void next() {
    if (++stage < Tile::kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

// r of the exponents 2^(s c + r) of a query. One that sees nothing has scores of -inf alone.
template <class Tile>
__device__ __forceinline__ float reference_of(float lse) {
  return Tile::kShift - (lse == kHidden ? 0.0f : lse * kLog2e);
}

// lse and delta of query i of head h of a block's sequence, of which there are `count`; 0 where it is not there.
template <class T>
__device__ __forceinline__ float statistic(const AttentionProblem<T>& p, const float* of, int b,
                                           int h, int first, int i, int count) {
  return i < count ? of[b * p.lse_strides.b + h * p.lse_strides.h + first + i] : 0.0f;
}

// ---- the warp that copies ---------------------------------------------------------------------------

template <class Tile, class T>
__device__ __forceinline__ void copy_tiles(const GradientCall<T>& call,
                                           GradientStorage<Tile>& shared, int lane) {
  constexpr int kN = Tile::kN;
  const GradientWork& work = shared.work;
  if (work.begin >= work.end) return;
  const auto row_of = [&](const GradientOperand& o, int first) {
    return work.b * o.rows.rows + first;
  };
  const auto plane_of = [&](const GradientOperand& o, int head) {
    return work.b * o.rows.planes + head;
  };
  const int own = Tile::kQueryRows ? work.h : work.kv_head;
  if (lane == 0) {
    ptx::mbarrier_arrive_expect_tx(&shared.x_full, Tile::kBytesX0 + Tile::kBytesX1);
    copy_vectors<Tile::kM, Tile::kDim>(shared.x, call.x[0].map,
                                       row_of(call.x[0], work.x0 + work.row),
                                       plane_of(call.x[0], own), &shared.x_full);
    if constexpr (Tile::kByScores) {
      copy_vectors<Tile::kM, Tile::kDimV>(shared.x + Tile::kBytesX0, call.x[1].map,
                                          row_of(call.x[1], work.x0 + work.row),
                                          plane_of(call.x[1], own), &shared.x_full);
    }
  }
  // Whether vectors that are there, but no part of the sequence, follow it.
  bool more = false;
#pragma unroll
  for (const GradientOperand& o : call.y) {
    more = more || row_of(o, work.y0 + work.others) < o.rows.count;
  }
  GradientTurn turn;
  std::uint32_t tail_parity = 0;
#pragma unroll 1
  for (int head = 0; head < work.heads; ++head) {
    const int other = Tile::kQueryRows ? work.kv_head : work.h + head;
#pragma unroll 1
    for (int y = work.begin; y < work.end; y += kN, turn.next<Tile>()) {
      auto& stage = shared.stages[turn.stage];
      std::uint64_t* const full = &shared.full[turn.stage];
      const bool tail = more && work.others < y + kN;
      constexpr int kEach = (kN + kWarp - 1) / kWarp;
      float reference[kEach], delta[kEach];
      if constexpr (!Tile::kQueryRows) {
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          const int query = y + i * kWarp + lane;
          reference[i] = reference_of<Tile>(
              statistic(call.p, call.p.lse, work.b, other, work.y0, query, work.others));
          delta[i] = statistic(call.p, call.delta, work.b, other, work.y0, query, work.others);
        }
      }
      wait(&shared.empty[turn.stage], turn.parity ^ 1);
      if constexpr (!Tile::kQueryRows) {
#pragma unroll
        for (int i = 0; i < kEach; ++i) {
          const int number = i * kWarp + lane;
          if (kN % kWarp != 0 && number >= kN) continue;
          shared.reference[turn.stage][number] = reference[i];
          shared.delta[turn.stage][number] = delta[i];
        }
      }
      __syncwarp();  // all have waited, and written
      if (lane == 0) {
        std::uint64_t* const barrier = tail ? &shared.tail : full;
        ptx::mbarrier_arrive_expect_tx(barrier, Tile::kBytesY0 + Tile::kBytesY1);
        copy_vectors<kN, Tile::kDim>(stage.y0, call.y[0].map, row_of(call.y[0], work.y0 + y),
                                     plane_of(call.y[0], other), barrier);
        copy_vectors<kN, Tile::kDimV>(stage.y1, call.y[1].map, row_of(call.y[1], work.y0 + y),
                                      plane_of(call.y[1], other), barrier);
      }
      if (tail) {
        wait(&shared.tail, tail_parity);
        tail_parity ^= 1;
        clear_vectors<kN, Tile::kDim>(stage.y0, work.others - y, lane);
        clear_vectors<kN, Tile::kDimV>(stage.y1, work.others - y, lane);
        ptx::fence_proxy_async_shared();
        __syncwarp();  // all are clear
        if (lane == 0) ptx::mbarrier_arrive(full);
      }
    }
  }
}

}  // namespace arraynn::cuda
