// The forward of attention on Hopper: see cuda_hopper.hpp. Compiled for sm_90a alone.
#include "attention/cuda_hopper.hpp"

#include "attention/cuda_hopper_tile.hpp"
#include "ptx/ex2.hpp"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "wgmma and setmaxnreg are instructions of sm_90a"
#endif

namespace arraynn::cuda {
namespace {

// One of the two rows of a lane: the largest score so far, the sum of the lane's exponentials.
struct FlashRow {
  float most, sum;
};
// r of the exponents of a row. Where it sees nothing so far, every exponential is 0.
template <class Tile>
__device__ __forceinline__ float reference_of(const FlashRow& row, float factor) {
  return Tile::kShift - (row.most == kHidden ? 0.0f : row.most * factor);
}

// Query i of a warpgroup sees the keys from lowest + i to highest + i, end at most.
struct FlashSight {
  int lowest, highest, end;
};

struct Most {
  __device__ __forceinline__ float operator()(float a, float b) const { return ::fmaxf(a, b); }
};

template <class T>
__device__ __forceinline__ TilePlace place_of(const FlashCall<T>& call, const FlashWork& work,
                                              int group, int key) {
  return {work.b, work.h, work.query + group * kGroupRows, key, sequence_of(call.p, work.b)};
}

// Products become exponentials; what the sums so far are multiplied by.
template <class Tile, class T>
__device__ __forceinline__ void to_exponentials(const FlashCall<T>& call, const FlashWork& work,
                                                const FlashSight& sight, int group, int key,
                                                int row, int column, typename Tile::Scores& s,
                                                FlashRow (&rows)[2], float (&shrink)[2]) {
  constexpr int kN = Tile::kN;
  const int first = sight.lowest + row - column - key, last = sight.highest + row - column - key,
            end = sight.end - column - key;
  if constexpr (Tile::kOptions) {
    const TilePlace at = place_of(call, work, group, key);
    const auto scale = static_cast<float>(call.p.scale);
    const int left = work.count - group * kGroupRows;
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {
      const int r = i / 2 % 2 * 8, c = i / 4 * 8 + i % 2;
      float slope;
      // Masks and biases have no rows of queries that are not there.
      const bool sees = c >= first + r && c <= last + r && c <= end && row + r < left;
      s[i] = sees ? score(call.p, at, row + r, column + c, s[i] * scale, &slope) : kHidden;
    }
  } else if (key < sight.lowest + kGroupRows - 1 || key + kN - 1 > sight.highest ||
             key + kN - 1 > sight.end) {
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) {
      const int r = i / 2 % 2 * 8, c = i / 4 * 8 + i % 2;
      if (c < first + r || c > last + r || c > end) s[i] = kHidden;
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    FlashRow& r = rows[half];
    const float before = reference_of<Tile>(r, call.factor);
    float most = r.most;
#pragma unroll
    for (int i = 2 * half; i < kN / 2; i += 4) most = ::fmaxf(most, ::fmaxf(s[i], s[i + 1]));
    r.most = lanes_reduce(most, Most{});
    const float reference = reference_of<Tile>(r, call.factor);
    shrink[half] = ptx::ex2_approx_ftz_f32(::fminf(reference - before, 0.0f));
    float sum[2] = {};
#pragma unroll
    for (int i = 2 * half; i < kN / 2; i += 4) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        s[i + e] = ptx::ex2_approx_ftz_f32(fused(s[i + e], call.factor, reference));
        sum[e] += s[i + e];
      }
    }
    r.sum = fused(r.sum, shrink[half], sum[0] + sum[1]);
  }
  if constexpr (Tile::kOptions) {
    if (call.p.dropout.on) {
      const TilePlace at = place_of(call, work, group, key);
#pragma unroll
      for (int i = 0; i < kN / 2; i += 2) {
        const unsigned kept = keeps_two(call.p, at, row + 8 * (i / 2 % 2), column + i / 4 * 8);
        if ((kept & 1) == 0) s[i] = 0;
        if ((kept & 2) == 0) s[i + 1] = 0;
      }
    }
  }
}

// ---- results ----------------------------------------------------------------------------------------

// The results of a warpgroup.
template <class Tile, class T>
__device__ __forceinline__ void store_rows(const FlashCall<T>& call, const FlashWork& work,
                                           int group, int row, int lane,
                                           const typename Tile::Sums& sums,
                                           const FlashRow (&rows)[2], unsigned* wrong) {
  constexpr float kUnit = std::is_same_v<T, Half> ? 0x1p-14f : 1.0f;  // 2^-kShift
  const AttentionProblem<T>& p = call.p;
  const int query = work.query + group * kGroupRows, left = work.count - group * kGroupRows;
  const float sink = p.sinks != nullptr ? to_compute(p.sinks[work.h]) : kHidden;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const FlashRow& r = rows[half];
    float total = kUnit * lanes_reduce(r.sum, Plus{});
    // The largest score; where there is none, that of the sink.
    float most = (Tile::kShift - reference_of<Tile>(r, call.factor)) * kLn2, share = kUnit;
    if (sink != kHidden) {
      const float larger = r.most == kHidden ? sink : ::fmaxf(most, sink);
      const float shrink = r.most == kHidden ? 0.0f : exponential(most - larger);
      total = fused(total, shrink, exponential(sink - larger));
      share *= shrink;
      most = larger;
    }
    const bool nothing = total == 0.0f, there = row + 8 * half < left;
    const float factor = nothing ? 0.0f : keep_scale<T>(p.dropout) * share / total;
    const std::int64_t l = work.q0 + query + row + 8 * half;
    T* const to = p.out + work.b * p.out_strides.b + work.h * p.out_strides.h + l * p.out_strides.l;
    const auto dim = static_cast<int>(p.head_dim_v);
#pragma unroll
    for (int c = 0; c < Tile::kDimV; c += 32) {
      Words w[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float* const pair = &sums[(c / 8 + k) * 4 + 2 * half];
        const float x = nothing ? 0.0f : pair[0] * factor, y = nothing ? 0.0f : pair[1] * factor;
        if (there && !(is_finite(x) && is_finite(y))) *wrong |= 1u << c / kRepairColumns;
        w[k] = two_of(T{}, x, y);
      }
      transpose(w, lane);
      const int column = c + lane % 4 * 8;
      if (!there || column >= dim) continue;
      if (call.packed) {
        ptx::B128 pack;
        memcpy(&pack, w, sizeof pack);
        ptx::st_global_v4(to + column, pack);
      } else {
        memcpy(to + column, w, sizeof w);
      }
    }
    if (p.lse != nullptr && there && lane % 4 == 0) {
      p.lse[work.b * p.lse_strides.b + work.h * p.lse_strides.h + l] =
          nothing ? kHidden : most + log(Vec<float>{total}).v;
    }
  }
}

// ---- the loop of a warp that multiplies, the first of which is warp 0 here ---------------------------

template <class Tile, class T>
__device__ __forceinline__ void multiply_works(const FlashCall<T>& call, FlashStorage<Tile>& shared,
                                               int warp, int lane) {
  const int group = warp / (kGroup / kWarp);
  const int row = warp % (kGroup / kWarp) * 16 + lane / 4, column = lane % 4 * 2;
  const unsigned char* const q = shared.q + group * kGroupRows * kRowBytes;
  const auto arrive = [&](std::uint64_t* barrier) {
    if (lane == 0) ptx::mbarrier_arrive(barrier);
  };
  unsigned tile = 0;  // of keys, of all
  std::uint32_t q_parity = 0, done_parity = 0;
  FlashWork& work = shared.works[warp];
  for_works<Tile>(call, [&](const FlashWork& next) {
    __syncwarp();  // all have read the one before
    if (lane == 0) work = next;
    __syncwarp();
    const int query = work.query + group * kGroupRows;
    const auto near = [&](std::int64_t x) {
      return static_cast<int>(max_i(-(1 << 30), min_i(query + work.offset + x, 1 << 30)));
    };
    const FlashSight sight{near(-call.p.left), near(call.p.right), work.keys - 1};

    typename Tile::Scores s;
    typename Tile::Factors f;
    typename Tile::Sums sums = {};
    FlashRow rows[2] = {{kHidden, 0.0f}, {kHidden, 0.0f}};
    float shrink[2];
    const auto wait_turn = [&] {
      // The first one may issue at once.
      wait(&shared.turn[group], (tile ^ (group == 0 ? 1u : 0u)) % 2);
      __syncwarp();  // lanes may have waited one more time than others, wgmma takes them together
    };
    const auto exponentials = [&](int key) {
      to_exponentials<Tile>(call, work, sight, group, key, row, column, s, rows, shrink);
    };
    const int begin = work.begin, end = work.end;
    if (begin < end) {
      wait(&shared.q_full, q_parity);
      q_parity ^= 1;
      wait(&shared.k_full[stage_of<Tile>(tile)], parity_of<Tile>(tile));
      wait_turn();
      ptx::wgmma_fence();
      add_scores<Tile, Tile::kDim>(q, shared.stages[stage_of<Tile>(tile)].k, s);
      ptx::wgmma_commit_group();
      arrive(&shared.turn[1 - group]);
      ptx::wgmma_wait_group<0>();
      ptx::wgmma_sums_are_here(s);
      arrive(&shared.k_empty[stage_of<Tile>(tile)]);
      exponentials(begin);
      to_factors<Tile>(s, f);
#pragma unroll 1
      for (int key = begin + Tile::kN; key < end; key += Tile::kN) {
        const unsigned v_stage = stage_of<Tile>(tile), v_parity = parity_of<Tile>(tile);
        const unsigned k_stage = stage_of<Tile>(++tile);
        wait(&shared.k_full[k_stage], parity_of<Tile>(tile));
        wait(&shared.v_full[v_stage], v_parity);
        wait_turn();
        ptx::wgmma_fence();
        add_scores<Tile, Tile::kDim>(q, shared.stages[k_stage].k, s);
        ptx::wgmma_commit_group();
        add_values<Tile>(f, shared.stages[v_stage].v, sums);
        ptx::wgmma_commit_group();
        arrive(&shared.turn[1 - group]);
        ptx::wgmma_wait_group<1>();
        ptx::wgmma_sums_are_here(s);
        arrive(&shared.k_empty[k_stage]);
        exponentials(key);
        ptx::wgmma_wait_group<0>();
        ptx::wgmma_sums_are_here(sums);
        ptx::wgmma_sums_are_here(s);  // factors are not formed before: products read the last ones
        arrive(&shared.v_empty[v_stage]);
        if (__any_sync(kWholeWarp, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
          for (int i = 0; i < Tile::kDimV / 2; ++i) sums[i] *= shrink[i / 2 % 2];
        }
        to_factors<Tile>(s, f);
      }
      arrive(&shared.q_empty);
      const unsigned v_stage = stage_of<Tile>(tile);
      wait(&shared.v_full[v_stage], parity_of<Tile>(tile));
      __syncwarp();
      ptx::wgmma_fence();
      add_values<Tile>(f, shared.stages[v_stage].v, sums);
      ptx::wgmma_commit_group();
      ptx::wgmma_wait_group<0>();
      ptx::wgmma_sums_are_here(sums);
      arrive(&shared.v_empty[v_stage]);
      ++tile;
    }
    unsigned wrong = 0;
    const int left = work.count - group * kGroupRows;
    store_rows<Tile>(call, work, group, row, lane, sums, rows, &wrong);
    // The note for is_done, of all four warps.
    const unsigned parts = (__any_sync(kWholeWarp, wrong & 1) ? 1u : 0u) |
                           (__any_sync(kWholeWarp, wrong & 2) ? 2u : 0u);
    std::uint8_t* const notes = shared.wrong[done_parity];
    if (lane == 0) notes[warp] = static_cast<std::uint8_t>(parts);
    arrive(&shared.done[group]);
    wait(&shared.done[group], done_parity);
    done_parity ^= 1;
    const auto part = static_cast<int>(threadIdx.x) % kGroup;
    if (left > 0 && part < call.columns) {
      unsigned all = 0;
#pragma unroll
      for (int w = 0; w < kGroup / kWarp; ++w) all |= notes[group * (kGroup / kWarp) + w];
      const std::int64_t place =
          (work.b * call.p.heads + work.h) * call.notes + work.query / kGroupRows + group;
      call.repair[place * call.columns + part] = (all >> part & 1) != 0 ? 1 : 0;
    }
  });
}

template <class Tile>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_attention_kernel(const __grid_constant__ FlashCall<typename Tile::Element> call) {
  auto& shared = *dynamic_shared<FlashStorage<Tile>>();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  if (thread == 0) {
    ptx::prefetch_tensormap(&call.q);
    ptx::prefetch_tensormap(&call.k);
    ptx::prefetch_tensormap(&call.v);
    for (int i = 0; i < Tile::kStages; ++i) {
      ptx::mbarrier_init(&shared.k_full[i], 1);
      ptx::mbarrier_init(&shared.v_full[i], 1);
      ptx::mbarrier_init(&shared.k_empty[i], kWarps);
      ptx::mbarrier_init(&shared.v_empty[i], kWarps);
    }
    ptx::mbarrier_init(&shared.q_full, 1);
    ptx::mbarrier_init(&shared.q_empty, kWarps);
    ptx::mbarrier_init(&shared.tail, 1);
    for (int i = 0; i < kMultipliers; ++i) {
      ptx::mbarrier_init(&shared.turn[i], kWarps / kMultipliers);
      ptx::mbarrier_init(&shared.done[i], kWarps / kMultipliers);
    }
    ptx::fence_proxy_async_shared();
  }
  __syncthreads();
  if (thread < kGroup) {
    ptx::setmaxnreg_dec<kCopyRegisters>();
    if (warp == 0) copy_works<Tile>(call, shared, lane);
  } else {
    ptx::setmaxnreg_inc<kMultiplyRegisters>();
    multiply_works<Tile>(call, shared, warp - kGroup / kWarp, lane);
  }
}

// ---- launches ---------------------------------------------------------------------------------------

template <class Tile, class T>
bool launch_tiles(const AttentionProblem<T>& p, std::uint8_t* repair) {
  FlashCall<T> call{};
  call.p = p;
  const bool packed_sequences = p.q_begin != nullptr;
  const std::int64_t samples = packed_sequences ? 1 : p.batch;
  if (!make_map<T>(&call.q, &call.rows_q,
                   {p.q, p.q_strides, samples, p.heads, p.seqlen_q, p.head_dim, Tile::kM}) ||
      !make_map<T>(&call.k, &call.rows_k,
                   {p.k, p.k_strides, samples, p.kv_heads, p.seqlen_k, p.head_dim, Tile::kN}) ||
      !make_map<T>(&call.v, &call.rows_v,
                   {p.v, p.v_strides, samples, p.kv_heads, p.seqlen_k, p.head_dim_v, Tile::kN})) {
    return false;
  }
  const std::int64_t tiles = ceil_div(p.seqlen_q, Tile::kM), heads = p.batch * p.heads;
  if (heads > kMostIndex || tiles > kMostIndex / heads) return false;
  call.tiles = static_cast<unsigned>(tiles);
  call.works = static_cast<unsigned>(tiles * heads);
  call.factor = Tile::kOptions ? kLog2e : static_cast<float>(p.scale * 1.4426950408889634);
  call.packed = is_packed(p.out) && p.out_strides.b % kVectorUnit == 0 &&
                p.out_strides.h % kVectorUnit == 0 && p.out_strides.l % kVectorUnit == 0;
  call.notes = ceil_div(p.seqlen_q, kGroupRows);
  call.columns = max_i(1, ceil_div(p.head_dim_v, kRepairColumns));
  call.repair = repair;
  using Storage = FlashStorage<Tile>;
  static_assert(sizeof(Storage) <= 227 * 1024);
  const Grid grid{persistent_blocks(call.works, 1), kThreads, sizeof(Storage)};
  ARRAYNN_LAUNCH((hopper_attention_kernel<Tile>), grid, call);
  return true;
}

template <class T, int kDim, int kDimV>
bool launch(const AttentionProblem<T>& p, std::uint8_t* repair) {
  // A scale that is not positive turns the order of the products.
  const bool options = p.softcap != 0 || p.slopes != nullptr || p.bias != nullptr ||
                       p.mask != nullptr || p.dropout.on || !(p.scale > 0x1p-100);
  if (!options) return launch_tiles<FlashTile<T, kDim, kDimV, false>>(p, repair);
  if constexpr (kDimV > 128) {  // no registers are left for them
    return false;
  } else {
    return launch_tiles<FlashTile<T, kDim, kDimV, true>>(p, repair);
  }
}

}  // namespace

template <class T>
bool attention_on_hopper(const AttentionProblem<T>& p, std::uint8_t* repair) {
  const std::int64_t dim = p.head_dim, dim_v = p.head_dim_v;
  if (!is_hopper() || p.batch * p.heads * p.seqlen_q * p.seqlen_k == 0 || dim <= 0 || dim_v <= 0 ||
      dim % kVectorUnit != 0 || dim_v % kVectorUnit != 0 || dim > 256 || dim_v > 256) {
    return false;
  }
  if (dim <= 64 && dim_v <= 64) return launch<T, 64, 64>(p, repair);
  if (dim <= 128 && dim_v <= 128) return launch<T, 128, 128>(p, repair);
  if (dim <= 192 && dim_v <= 128) return launch<T, 192, 128>(p, repair);
  return launch<T, 256, 256>(p, repair);
}

template bool attention_on_hopper<Half>(const AttentionProblem<Half>&, std::uint8_t*);
template bool attention_on_hopper<Bfloat16>(const AttentionProblem<Bfloat16>&, std::uint8_t*);

}  // namespace arraynn::cuda
