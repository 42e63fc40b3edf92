// The forward of attention on Hopper (cuda_hopper.hpp): its tiles, which of them a block takes, and their copies.
#pragma once
#include "attention/cuda_hopper_parts.hpp"

namespace arraynn::cuda {

template <class T, int kDim_, int kDimV_, bool kOptions_>
struct FlashTile {
  using Element = T;
  static constexpr int kDim = kDim_, kDimV = kDimV_;
  static constexpr bool kOptions = kOptions_;
  static constexpr int kM = kMultipliers * kGroupRows, kN = kDimV > 128 ? 32
                                                            : kOptions  ? (kDim > 64 ? 32 : 64)
                                                            : kDim > 64 ? 96
                                                                        : 128;
  static constexpr int kBytesQ = kM * kDim * 2, kBytesK = kN * kDim * 2, kBytesV = kN * kDimV * 2;
  static constexpr int kFit = ((220 << 10) - kBytesQ) / (kBytesK + kBytesV);
  static constexpr int kStages = kFit < 4 ? kFit : 4;
  static_assert(kStages >= 2);
  // What factors, 1 at most, are multiplied by, as a power of two: float16 has no small numbers.
  static constexpr float kShift = std::is_same_v<T, Half> ? 14.0f : 0.0f;
  using Scores = float[kN / 2];
  using Sums = float[kDimV / 2];
  using Factors = Words[kSplits][kN / 16][4];
};

template <class T>
struct FlashCall {
  TensorMap q, k, v;
  AttentionProblem<T> p;
  FlashRows rows_q, rows_k, rows_v;
  unsigned tiles, works;  // of the queries of a head, of all heads
  float factor;           // c of the exponent
  bool packed;            // results leave 16 bytes at a time
  std::int64_t notes, columns;
  std::uint8_t* repair;
};

// A tile of the result: its head, its first query, the keys that it sees.
struct FlashWork {
  int b, h, kv_head, query, count, begin, end;
  int q0, k0, keys, offset;  // of its sequence

  template <class Tile, class T>
  __device__ __forceinline__ static FlashWork of(const FlashCall<T>& call, unsigned index) {
    const AttentionProblem<T>& p = call.p;
    // Heads that share keys are neighbours. From the end: where keys behind a query are hidden
    // the last queries have the most.
    const auto group = static_cast<unsigned>(p.heads / p.kv_heads),
               kv_heads = static_cast<unsigned>(p.kv_heads);
    const unsigned each = call.tiles * group, head = index / each, rest = index - head * each;
    const unsigned tile = rest / group;
    const auto to_int = [](std::int64_t x) { return static_cast<int>(x); };
    FlashWork work;
    work.b = to_int(head / kv_heads);
    work.kv_head = to_int(head - head / kv_heads * kv_heads);
    work.h = work.kv_head * to_int(group) + to_int(rest - tile * group);
    const AttentionSequence seq = sequence_of(p, work.b);
    work.query = to_int(call.tiles - 1 - tile) * Tile::kM;
    work.count = to_int(min_i(Tile::kM, seq.queries - work.query));
    work.begin = work.end = 0;
    work.q0 = to_int(seq.q0);
    work.k0 = to_int(seq.k0);
    work.keys = to_int(seq.keys);
    work.offset = to_int(seq.offset);
    if (work.count > 0) {
      work.end = to_int(max_i(0, visible_keys(p, seq, work.query + work.count - 1).end));
      const std::int64_t begin = visible_keys(p, seq, work.query).begin;
      work.begin = to_int(min_i(begin, work.end)) / Tile::kN * Tile::kN;
    }
    return work;
  }
};

template <class Tile>
struct alignas(kAtomBytes) FlashStorage {
  struct Stage {
    unsigned char k[Tile::kBytesK], v[Tile::kBytesV];
  };
  unsigned char q[Tile::kBytesQ];
  Stage stages[Tile::kStages];
  std::uint64_t k_full[Tile::kStages], k_empty[Tile::kStages];
  std::uint64_t v_full[Tile::kStages], v_empty[Tile::kStages];
  std::uint64_t q_full, q_empty, tail, turn[kMultipliers], done[kMultipliers];
  std::uint8_t wrong[2][kWarps];  // of this tile of the result, and of the one before or behind
  FlashWork works[kWarps];        // of a warp; in registers it would take those of a tile
};

// f(work) of all tiles of this block that have queries.
template <class Tile, class T, class F>
__device__ __forceinline__ void for_works(const FlashCall<T>& call, const F& f) {
  unsigned place = blockIdx.x;
#pragma unroll 1
  for (unsigned first = 0; first < call.works; first += gridDim.x) {
    if (first + place < call.works) {
      const FlashWork work = FlashWork::of<Tile>(call, first + place);
      if (work.count > 0) f(work);
    }
    place = gridDim.x - 1 - place;
  }
}

// Number `tile` of all tiles of keys of a block: its stage, and the parity of its barriers' phase, 0 on the first
// way round.
template <class Tile>
__device__ __forceinline__ unsigned stage_of(unsigned tile) {
  return tile % Tile::kStages;
}
template <class Tile>
__device__ __forceinline__ std::uint32_t parity_of(unsigned tile) {
  return tile / Tile::kStages % 2;
}

// ---- copies -----------------------------------------------------------------------------------------

// The one warp that copies; one lane does.
template <class Tile, class T>
__device__ __forceinline__ void copy_works(const FlashCall<T>& call, FlashStorage<Tile>& shared,
                                           int lane) {
  constexpr int kN = Tile::kN;
  unsigned tile = 0;
  std::uint32_t q_parity = 0, tail_parity = 0;
  for_works<Tile>(call, [&](const FlashWork& work) {
    if (work.begin >= work.end) return;
    if (lane == 0) {
      wait(&shared.q_empty, q_parity ^ 1);
      ptx::mbarrier_arrive_expect_tx(&shared.q_full, Tile::kBytesQ);
      copy_vectors<Tile::kM, Tile::kDim>(shared.q, call.q,
                                         work.b * call.rows_q.rows + work.q0 + work.query,
                                         work.b * call.rows_q.planes + work.h, &shared.q_full);
    }
    q_parity ^= 1;
    const int row_k = work.b * call.rows_k.rows + work.k0,
              row_v = work.b * call.rows_v.rows + work.k0;
    // Whether vectors that are there, but no part of the sequence, follow it.
    const bool more = row_v + work.keys < call.rows_v.count;
#pragma unroll 1
    for (int key = work.begin; key < work.end; key += kN) {
      const unsigned number = stage_of<Tile>(tile);
      const std::uint32_t parity = parity_of<Tile>(tile);
      auto& stage = shared.stages[number];
      std::uint64_t* const k_full = &shared.k_full[number];
      std::uint64_t* const v_full = &shared.v_full[number];
      const bool tail = more && work.keys < key + kN;
      if (lane == 0) {
        wait(&shared.k_empty[number], parity ^ 1);
        ptx::mbarrier_arrive_expect_tx(k_full, Tile::kBytesK);
        copy_vectors<kN, Tile::kDim>(stage.k, call.k, row_k + key,
                                     work.b * call.rows_k.planes + work.kv_head, k_full);
        wait(&shared.v_empty[number], parity ^ 1);
        std::uint64_t* const full = tail ? &shared.tail : v_full;
        ptx::mbarrier_arrive_expect_tx(full, Tile::kBytesV);
        copy_vectors<kN, Tile::kDimV>(stage.v, call.v, row_v + key,
                                      work.b * call.rows_v.planes + work.kv_head, full);
      }
      if (tail) {
        wait(&shared.tail, tail_parity);
        tail_parity ^= 1;
        clear_vectors<kN, Tile::kDimV>(stage.v, work.keys - key, lane);
        ptx::fence_proxy_async_shared();
        __syncwarp();  // all are clear
        if (lane == 0) ptx::mbarrier_arrive(v_full);
      }
      ++tile;
    }
  });
}

}  // namespace arraynn::cuda
