// The gradients of attention on Hopper: see cuda_hopper_backward.hpp. Compiled for sm_90a alone.
#include "attention/cuda_hopper_backward.hpp"

#include "attention/cuda_hopper_gradient.hpp"
#include "ptx/ex2.hpp"

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
#error "wgmma and setmaxnreg are instructions of sm_90a"
#endif

namespace arraynn::cuda {
namespace {

// ---- shares and gradients of scores -----------------------------------------------------------------

// What a warpgroup knows of a tile: its row r and column c meet if first + r <= c <= last + r and c <= end.
struct GradientLook {
  int first, last, end;

  template <class Tile>
  __device__ __forceinline__ bool all() const {
    return first + kGroupRows - 1 <= 0 && last >= Tile::kN - 1 && end >= Tile::kN - 1;
  }
  __device__ __forceinline__ bool meets(int r, int c) const {
    return c >= first + r && c <= last + r && c <= end;
  }
};

// f(i, half, c) of all scores s[i] of a lane: row `half` of its two, column c beside its first.
template <class Tile, class F>
__device__ __forceinline__ void for_scores(const F& f) {
#pragma unroll
  for (int i = 0; i < Tile::kN / 2; ++i) f(i, i / 2 % 2, i / 4 * 8 + i % 2);
}

// 2^(biased - 127); 0 below the normal numbers.
__device__ __forceinline__ float power_of_two(int biased) {
  const Words bits = biased <= 0 ? 0u : static_cast<Words>(biased) << 23;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
// As in cuda_backward.cu: a row's factors are multiplied by what brings the largest so far, whose biased exponent
// `top` is, into [2^14, 2^15).
constexpr int kTopTo = 14, kLeastTop = 16;

template <int kCount, int kSums>
__device__ __forceinline__ void scale_rows(float (&s)[kCount], float (&sums)[kSums],
                                           int (&top)[2]) {
  float shrink[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = 0;
#pragma unroll
    for (int i = 2 * half; i < kCount; i += 4) {
      largest = ::fmaxf(largest, ::fmaxf(::fabsf(s[i]), ::fabsf(s[i + 1])));
    }
    largest = lanes_reduce(largest, Larger{});
    Words bits;
    memcpy(&bits, &largest, sizeof bits);
    const int before = top[half], now = static_cast<int>(bits >> 23);
    if (now > before) top[half] = now;
    shrink[half] = power_of_two(127 + before - top[half]);
    const float grow = power_of_two(127 + kTopTo + 127 - top[half]);
#pragma unroll
    for (int i = 2 * half; i < kCount; i += 4) {
      s[i] *= grow;
      s[i + 1] *= grow;
    }
  }
  if (__any_sync(kWholeWarp, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] *= shrink[i / 2 % 2];
  }
}

// keeps() of a query and the keys `row` and row + 8 of a lane, in bits 0 and 2. The 16 keys of a warp share at most
// five blocks of Philox, which its lanes of the same query draw.
template <class T>
__device__ __forceinline__ unsigned keeps_rows(const AttentionProblem<T>& p, const TilePlace& at,
                                               int query, int row) {
  const AttentionDropout& d = p.dropout;
  const std::int64_t length = d.device_row != nullptr ? *d.device_row : d.row;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, own = lane / 4;
  const auto first = static_cast<std::uint64_t>(
      (at.b * d.b + at.h * d.h + at.seq.q0 + at.query + query) * length + at.key + row - own);
  const PhiloxBlock block = philox_block(first / 4 + own, d.key);
  unsigned drawn = 0;
#pragma unroll
  for (int w = 0; w < 4; ++w) drawn |= block.word[w] >= d.threshold ? 1u << w : 0u;
  unsigned kept = 0;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int word = static_cast<int>(first % 4) + own + 8 * half;
    const unsigned of_block = __shfl_sync(kWholeWarp, drawn, word / 4 * 4 + lane % 4);
    kept |= (of_block >> word % 4 & 1) << 2 * half;
  }
  return kept;
}

// The same with what a mask, a bias, the cap, slopes and dropout say. `look`: of the first rows of the warpgroup.
template <class Tile, class T, class Reference, class Delta>
__device__ __forceinline__ void take_options(const GradientCall<T>& call, const GradientWork& work,
                                             const GradientLook& look, int head, int y,
                                             int first_row, int row, int column,
                                             const Reference& reference, const Delta& delta,
                                             typename Tile::Scores& s, typename Tile::Scores& d) {
  const AttentionProblem<T>& p = call.p;
  const int x = work.row + first_row, left = work.live - first_row;
  const TilePlace at{work.b, head, Tile::kQueryRows ? x : y, Tile::kQueryRows ? y : x,
                     sequence_of(p, work.b)};
  unsigned kept = ~0u;  // a bit a score
  static_assert(Tile::kN / 2 <= 32);
  if (p.dropout.on) {
    kept = 0;
    if constexpr (Tile::kQueryRows) {
#pragma unroll
      for (int i = 0; i < Tile::kN / 2; i += 2) {
        kept |= keeps_two(p, at, row + 8 * (i / 2 % 2), column + i / 4 * 8) << i;
      }
    } else {
#pragma unroll
      for (int i = 0; i < Tile::kN / 2; i += i % 2 == 0 ? 1 : 3) {
        kept |= keeps_rows(p, at, column + i / 4 * 8 + i % 2, row) << i;
      }
    }
    const float scale = keep_scale<T>(p.dropout);
    if constexpr (Tile::kByScores) {
      for_scores<Tile>([&](int i, int, int) { d[i] = (kept >> i & 1) != 0 ? d[i] * scale : 0.0f; });
    }
  }
  const auto scale = static_cast<float>(p.scale);
  for_scores<Tile>([&](int i, int half, int c) {
    const int r = row + 8 * half, o = column + c;
    float slope = 1.0f;
    // Masks and biases have no rows and columns for what is not there.
    const bool sees = look.meets(r, o) && r < left;
    const float raw = sees ? score(p, at, Tile::kQueryRows ? r : o, Tile::kQueryRows ? o : r,
                                   s[i] * scale, &slope)
                           : kHidden;
    const float share = ptx::ex2_approx_ftz_f32(fused(raw, kLog2e, reference(half, c)));
    if constexpr (Tile::kByScores) {
      d[i] = raw == kHidden ? 0.0f : share * (slope * (d[i] - delta(half, c)));
    }
    s[i] = (kept >> i & 1) != 0 ? share : 0.0f;
  });
}

// ---- results ----------------------------------------------------------------------------------------

// 64 rows of a result, their sums times a factor each; returns which of its parts are not finite.
template <int kDim, class T, int kCount>
__device__ __forceinline__ unsigned store_sums(const GradientResult<T>& out,
                                               const GradientWork& work, int head, int first,
                                               int row, int lane, const float (&factor)[2],
                                               const float (&sums)[kCount]) {
  unsigned wrong = 0;
  if (out.p == nullptr) return wrong;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = first + row + 8 * half;
    const bool there = r < work.count, zero = r >= work.live;
    T* const to = out.p + work.b * out.strides.b + head * out.strides.h +
                  (std::int64_t{work.x0} + work.row + r) * out.strides.l;
#pragma unroll
    for (int c = 0; c < kDim; c += 32) {
      Words w[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float* const pair = &sums[(c / 8 + k) * 4 + 2 * half];
        const float x = zero ? 0.0f : pair[0] * factor[half],
                    y = zero ? 0.0f : pair[1] * factor[half];
        if (there && !(is_finite(x) && is_finite(y))) wrong |= 1u << c / kRepairColumns;
        w[k] = two_of(T{}, x, y);
      }
      transpose(w, lane);
      const int column = c + lane % 4 * 8;
      if (!there || column >= out.dim) continue;
      if (out.packed) {
        ptx::B128 pack;
        memcpy(&pack, w, sizeof pack);
        ptx::st_global_v4(to + column, pack);
      } else {
        memcpy(to + column, w, sizeof w);
      }
    }
  }
  return wrong;
}

// ---- the warps that multiply, the first of which is warp 0 here --------------------------------------

template <class Tile, class T>
__device__ __forceinline__ void multiply_tiles(const GradientCall<T>& call,
                                               GradientStorage<Tile>& shared, int warp, int lane) {
  constexpr int kN = Tile::kN;
  const int group = warp / (kGroup / kWarp), first_row = group * kGroupRows;
  const int row = warp % (kGroup / kWarp) * 16 + lane / 4, column = lane % 4 * 2;
  const unsigned char* const x0 = shared.x + first_row * kRowBytes;
  const unsigned char* const x1 = x0 + Tile::kBytesX0;
  const GradientWork& work = shared.work;
  const auto arrive = [&](std::uint64_t* barrier) {
    if (lane == 0) ptx::mbarrier_arrive(barrier);
  };
  const auto pass_turn = [&] { arrive(&shared.turn[1 - group]); };

  typename Tile::Scores s, d;
  typename Tile::Factors f, g;
  typename Tile::ScoreSums by_scores = {};
  typename Tile::ValueSums by_values = {};
  int top[2] = {kLeastTop, kLeastTop};
  float reference[2] = {}, delta[2] = {};  // of the rows, where those are queries
  if constexpr (Tile::kQueryRows) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = first_row + row + 8 * half;
      reference[half] = reference_of<Tile>(
          statistic(call.p, call.p.lse, work.b, work.h, work.x0 + work.row, i, work.count));
      delta[half] =
          statistic(call.p, call.delta, work.b, work.h, work.x0 + work.row, i, work.count);
    }
  }
  if (work.begin < work.end) wait(&shared.x_full, 0);
  GradientTurn turn;
  std::uint32_t other_turn = group == 0 ? 1 : 0;  // the first one may multiply at once
#pragma unroll 1
  for (int head = 0; head < work.heads; ++head) {
#pragma unroll 1
    for (int y = work.begin; y < work.end; y += kN, turn.next<Tile>()) {
      const auto& stage = shared.stages[turn.stage];
      wait(&shared.full[turn.stage], turn.parity);
      wait(&shared.turn[group], other_turn);
      other_turn ^= 1;
      __syncwarp();  // lanes may have waited one more time than others, wgmma takes them together
      ptx::wgmma_fence();
      add_scores<Tile, Tile::kDim>(x0, stage.y0, s);
      ptx::wgmma_commit_group();
      if constexpr (Tile::kByScores) {
        add_scores<Tile, Tile::kDimV>(x1, stage.y1, d);
        ptx::wgmma_commit_group();
      }
      const GradientLook look{work.low + first_row - y, work.high + first_row - y,
                              work.others - 1 - y};
      const bool all = look.template all<Tile>();
      const auto hide = [&](float (&of)[kN / 2], float hidden) {
        for_scores<Tile>([&](int i, int half, int c) {
          if (!look.meets(row + 8 * half, column + c)) of[i] = hidden;
        });
      };
      const auto reference_at = [&](int half, int c) {
        return Tile::kQueryRows ? reference[half] : shared.reference[turn.stage][column + c];
      };
      const auto delta_at = [&](int half, int c) {
        return Tile::kQueryRows ? delta[half] : shared.delta[turn.stage][column + c];
      };
      // Scores become shares of a query, 2^kShift of them; what shares are multiplied by becomes ds.
      if constexpr (Tile::kOptions) {
        ptx::wgmma_wait_group<0>();
        ptx::wgmma_sums_are_here(s);
        if constexpr (Tile::kByScores) ptx::wgmma_sums_are_here(d);
        pass_turn();
        take_options<Tile>(call, work, look, work.h + head, y, first_row, row, column, reference_at,
                           delta_at, s, d);
      } else {
        ptx::wgmma_wait_group<Tile::kByScores ? 1 : 0>();
        ptx::wgmma_sums_are_here(s);
        if constexpr (!Tile::kByScores) pass_turn();
        for_scores<Tile>([&](int i, int half, int c) {
          s[i] = fused(s[i], call.factor, reference_at(half, c));
        });
        if (!all) hide(s, kHidden);
        for_scores<Tile>([&](int i, int, int) { s[i] = ptx::ex2_approx_ftz_f32(s[i]); });
        if constexpr (Tile::kByScores) {
          ptx::wgmma_wait_group<0>();  // d is there
          ptx::wgmma_sums_are_here(d);
          pass_turn();
          for_scores<Tile>(
              [&](int i, int half, int c) { d[i] = s[i] * (d[i] - delta_at(half, c)); });
          if (!all) hide(d, 0.0f);  // 0 times what is not finite
        }
      }
      if constexpr (Tile::kByValues) {
        to_factors<Tile>(s, f);
        ptx::wgmma_fence();
        add_values<Tile>(f, stage.y1, by_values);
        ptx::wgmma_commit_group();
      }
      if constexpr (Tile::kByScores) {
        if constexpr (Tile::kScaled) scale_rows(d, by_scores, top);
        to_factors<Tile>(d, g);
        ptx::wgmma_fence();
        add_values<Tile>(g, stage.y0, by_scores);
        ptx::wgmma_commit_group();
      }
      ptx::wgmma_wait_group<0>();  // y has been read
      if constexpr (Tile::kByScores) ptx::wgmma_sums_are_here(by_scores);
      if constexpr (Tile::kByValues) ptx::wgmma_sums_are_here(by_values);
      arrive(&shared.empty[turn.stage]);
    }
  }

  constexpr float kUnit = Tile::kShift != 0 ? 0x1p-14f : 1.0f;  // 2^-kShift
  const int head = Tile::kQueryRows ? work.h : work.kv_head;
  unsigned wrong = 0;  // parts of out[0], then two bits further of out[1]
  if constexpr (Tile::kByScores) {
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      factor[half] = static_cast<float>(call.p.scale) * kUnit;
      if constexpr (Tile::kScaled) factor[half] *= power_of_two(top[half] - kTopTo);
    }
    wrong =
        store_sums<Tile::kDim>(call.out[0], work, head, first_row, row, lane, factor, by_scores);
  }
  if constexpr (Tile::kByValues) {
    const float factor = keep_scale<T>(call.p.dropout) * kUnit;
    wrong |= store_sums<Tile::kDimV>(call.out[1], work, head, first_row, row, lane,
                                     {factor, factor}, by_values)
             << 2;
  }
  // The notes for is_done, of all four warps.
  unsigned parts = 0;
#pragma unroll
  for (unsigned bit = 1; bit < 16; bit *= 2) {
    if (__any_sync(kWholeWarp, wrong & bit)) parts |= bit;
  }
  if (lane == 0) shared.wrong[warp] = static_cast<std::uint8_t>(parts);
  arrive(&shared.done[group]);
  wait(&shared.done[group], 0);
  const auto part = static_cast<int>(threadIdx.x) % kGroup;
  if (first_row >= work.count || part >= 4) return;
  const GradientResult<T>& out = call.out[part / 2];
  if (out.repair == nullptr || part % 2 >= out.columns) return;
  unsigned found = 0;
#pragma unroll
  for (int w = 0; w < kGroup / kWarp; ++w) found |= shared.wrong[group * (kGroup / kWarp) + w];
  const std::int64_t heads = Tile::kQueryRows ? call.p.heads : call.p.kv_heads;
  const std::int64_t note =
      (work.b * heads + head) * call.notes + (work.row + first_row) / kGroupRows;
  out.repair[note * out.columns + part % 2] = (found >> part & 1) != 0 ? 1 : 0;
}

template <class Tile>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_gradient_kernel(const __grid_constant__ GradientCall<typename Tile::Element> call) {
  auto& shared = *dynamic_shared<GradientStorage<Tile>>();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, lane = thread % kWarp;
  if (thread == 0) {
    for (int i = 0; i < 2; ++i) {
      ptx::prefetch_tensormap(&call.x[i].map);
      ptx::prefetch_tensormap(&call.y[i].map);
    }
    for (int i = 0; i < Tile::kStages; ++i) {
      ptx::mbarrier_init(&shared.full[i], 1);
      ptx::mbarrier_init(&shared.empty[i], kWarps);
    }
    ptx::mbarrier_init(&shared.x_full, 1);
    ptx::mbarrier_init(&shared.tail, 1);
    for (int i = 0; i < kMultipliers; ++i) {
      ptx::mbarrier_init(&shared.turn[i], kWarps / kMultipliers);
      ptx::mbarrier_init(&shared.done[i], kWarps / kMultipliers);
    }
    ptx::fence_proxy_async_shared();
    shared.work = GradientWork::of<Tile>(call, blockIdx.x);
  }
  __syncthreads();
  if (shared.work.count <= 0) return;  // the same for all threads
  if (thread < kGroup) {
    ptx::setmaxnreg_dec<kCopyRegisters>();
    if (warp == 0) copy_tiles<Tile>(call, shared, lane);
  } else {
    ptx::setmaxnreg_inc<kMultiplyRegisters>();
    multiply_tiles<Tile>(call, shared, warp - kGroup / kWarp, lane);
  }
}

// ---- launches ---------------------------------------------------------------------------------------

template <class Tile, class T>
bool launch_tile(const AttentionProblem<T>& p, const AttentionGradients<T>& g, const float* delta,
                 const GradientNotes& notes) {
  GradientCall<T> call{};
  call.p = p;
  call.delta = delta;
  const std::int64_t samples = p.q_begin != nullptr ? 1 : p.batch;
  constexpr bool kQueryRows = Tile::kQueryRows;
  constexpr int kOfQueries = kQueryRows ? Tile::kM : Tile::kN,
                kOfKeys = kQueryRows ? Tile::kN : Tile::kM;
  GradientOperand* const queries = kQueryRows ? call.x : call.y;
  GradientOperand* const keys = kQueryRows ? call.y : call.x;
  const auto map = [&](GradientOperand* o, const T* a, const RowStrides& strides,
                       std::int64_t heads, std::int64_t length, std::int64_t dim, int box) {
    return make_map<T>(&o->map, &o->rows, {a, strides, samples, heads, length, dim, box});
  };
  if (!map(&queries[0], p.q, p.q_strides, p.heads, p.seqlen_q, p.head_dim, kOfQueries) ||
      !map(&queries[1], g.dout, g.dout_strides, p.heads, p.seqlen_q, p.head_dim_v, kOfQueries) ||
      !map(&keys[0], p.k, p.k_strides, p.kv_heads, p.seqlen_k, p.head_dim, kOfKeys) ||
      !map(&keys[1], p.v, p.v_strides, p.kv_heads, p.seqlen_k, p.head_dim_v, kOfKeys)) {
    return false;
  }
  const std::int64_t rows = kQueryRows ? p.seqlen_q : p.seqlen_k;
  const std::int64_t tiles = ceil_div(rows, Tile::kM);
  const std::int64_t heads = p.batch * (kQueryRows ? p.heads : p.kv_heads);
  if (heads > kMostIndex || tiles > kMostIndex / heads) return false;
  call.tiles = static_cast<unsigned>(tiles);
  call.notes = ceil_div(rows, kGroupRows);
  call.factor = static_cast<float>(p.scale * 1.4426950408889634);
  const auto result = [](T* to, const RowStrides& s, std::int64_t dim, std::uint8_t* repair) {
    const bool packed =
        is_packed(to) && s.b % kVectorUnit == 0 && s.h % kVectorUnit == 0 && s.l % kVectorUnit == 0;
    return GradientResult<T>{to, s, dim, ceil_div(dim, kRepairColumns), packed, repair};
  };
  if constexpr (kQueryRows) {
    call.out[0] = result(g.dq, g.dq_strides, p.head_dim, notes.dq);
  } else {
    if (Tile::kByScores) call.out[0] = result(g.dk, g.dk_strides, p.head_dim, notes.dk);
    if (Tile::kByValues) call.out[1] = result(g.dv, g.dv_strides, p.head_dim_v, notes.dv);
  }
  using Storage = GradientStorage<Tile>;
  static_assert(sizeof(Storage) <= 227 * 1024);
  const Grid grid{tiles * heads, kThreads, sizeof(Storage)};
  ARRAYNN_LAUNCH((hopper_gradient_kernel<Tile>), grid, call);
  return true;
}

// kNOptions: of tiles with options, which take registers.
template <class T, int kDim, int kDimV, By kBy, int kN, int kNOptions>
bool launch(const AttentionProblem<T>& p, const AttentionGradients<T>& g, const float* delta,
            const GradientNotes& notes) {
  if ((kBy == By::kK && g.dk == nullptr) || (kBy == By::kV && g.dv == nullptr)) return true;
  const bool options = p.softcap != 0 || p.slopes != nullptr || p.bias != nullptr ||
                       p.mask != nullptr || p.dropout.on;
  return options
             ? launch_tile<GradientTile<T, kDim, kDimV, kBy, kNOptions, true>>(p, g, delta, notes)
             : launch_tile<GradientTile<T, kDim, kDimV, kBy, kN, false>>(p, g, delta, notes);
}

template <class T>
bool goes_this_way(const AttentionProblem<T>& p) {
  const std::int64_t dim = p.head_dim, dim_v = p.head_dim_v;
  return is_hopper() && p.batch * p.heads * p.seqlen_q * p.seqlen_k != 0 && dim > 0 && dim_v > 0 &&
         dim % kVectorUnit == 0 && dim_v % kVectorUnit == 0 && dim <= 256 && dim_v <= 256;
}

}  // namespace

template <class T>
bool query_gradient_on_hopper(const AttentionProblem<T>& p, const AttentionGradients<T>& g,
                              const float* delta, const GradientNotes& notes) {
  if (!goes_this_way(p)) return false;
  const std::int64_t dim = p.head_dim, dim_v = p.head_dim_v;
  if (dim <= 64 && dim_v <= 64) return launch<T, 64, 64, By::kQ, 128, 64>(p, g, delta, notes);
  if (dim <= 128 && dim_v <= 128) return launch<T, 128, 128, By::kQ, 96, 64>(p, g, delta, notes);
  if (dim <= 192 && dim_v <= 128) return launch<T, 192, 128, By::kQ, 64, 64>(p, g, delta, notes);
  return launch<T, 256, 256, By::kQ, 32, 32>(p, g, delta, notes);
}

template <class T>
bool key_gradients_on_hopper(const AttentionProblem<T>& p, const AttentionGradients<T>& g,
                             const float* delta, const GradientNotes& notes) {
  if (!goes_this_way(p)) return false;
  const std::int64_t dim = p.head_dim, dim_v = p.head_dim_v;
  if (dim <= 64 && dim_v <= 64) return launch<T, 64, 64, By::kKV, 96, 64>(p, g, delta, notes);
  if (dim <= 128 && dim_v <= 128) return launch<T, 128, 128, By::kKV, 64, 32>(p, g, delta, notes);
  if (dim <= 192 && dim_v <= 128) {
    return launch<T, 192, 128, By::kK, 64, 64>(p, g, delta, notes) &&
           launch<T, 192, 128, By::kV, 96, 64>(p, g, delta, notes);
  }
  return launch<T, 256, 256, By::kK, 32, 32>(p, g, delta, notes) &&
         launch<T, 256, 256, By::kV, 64, 32>(p, g, delta, notes);
}

#define ARRAYNN_INSTANTIATE(T)                                                          \
  template bool query_gradient_on_hopper<T>(const AttentionProblem<T>&,                 \
                                            const AttentionGradients<T>&, const float*, \
                                            const GradientNotes&);                      \
  template bool key_gradients_on_hopper<T>(const AttentionProblem<T>&,                  \
                                           const AttentionGradients<T>&, const float*,  \
                                           const GradientNotes&);
ARRAYNN_INSTANTIATE(Half)
ARRAYNN_INSTANTIATE(Bfloat16)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn::cuda
