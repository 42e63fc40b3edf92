// What the attention kernels of a GPU share: square tiles of queries and keys, kSide of each, whose scores
// lie in the registers of a block of 16 x 16 threads; thread (x, y) has rows y + 16 i and columns x + 16 j.
#pragma once
#include "attention/attention.hpp"
#include "core/cuda_launch.hpp"
#include "core/cuda_pack.hpp"
#include "core/cuda_reduce.hpp"
#include "core/cuda_shared.hpp"
#include "core/philox_block.hpp"
#include "simd/math.hpp"

namespace arraynn::cuda {

constexpr int kAttentionThreads = 256, kAcross = 16;

// Scores 4 x 4 a thread in float32 and 2 x 2 in float64: with the sums of a result of as many columns 32
// registers and 12. kDepth of a vector are in shared memory at a time.
template <class T>
struct Square {
  static constexpr int kPer = sizeof(Compute<T>) == 8 ? 2 : 4;
  static constexpr int kSide = kAcross * kPer;
  static constexpr int kDepth = 16;
  using Sums = Compute<T>[kPer][kPer];
};

template <class T>
struct AttentionStorage {
  using S = Square<T>;
  using C = Compute<T>;
  union {
    C pairs[2][S::kSide][S::kDepth + 1];  // rows of both operands of q k^T
    C rows[S::kDepth][S::kSide];          // rows of the right operand of m v
  };
  C m[S::kSide][S::kSide + 1];
  std::uint8_t hidden[S::kSide][S::kSide];
};

struct Thread {
  int x, y;
  __device__ __forceinline__ static Thread here() {
    return {static_cast<int>(threadIdx.x) % kAcross, static_cast<int>(threadIdx.x) / kAcross};
  }
};

// Vectors, one behind the other by `stride`; `count` of them are there.
template <class T>
struct Vectors {
  const T* p;
  std::int64_t stride, count, dim;
};

template <class T>
__device__ __forceinline__ void clear(typename Square<T>::Sums& s) {
#pragma unroll
  for (int i = 0; i < Square<T>::kPer; ++i) {
#pragma unroll
    for (int j = 0; j < Square<T>::kPer; ++j) s[i][j] = 0;
  }
}

__device__ __forceinline__ float fused(float a, float b, float c) { return ::fmaf(a, b, c); }
__device__ __forceinline__ double fused(double a, double b, double c) { return ::fma(a, b, c); }

struct Larger {
  template <class C>
  __device__ __forceinline__ C operator()(C a, C b) const {
    return a > b ? a : b;
  }
};
struct Plus {
  template <class C>
  __device__ __forceinline__ C operator()(C a, C b) const {
    return a + b;
  }
};

template <class C>
__device__ __forceinline__ C exponential(C x) {
  return exp(Vec<C>{x}).v;
}

// What a maximum begins with: the largest score may be -inf.
template <class C>
constexpr C kLowest = sizeof(C) == 4 ? C(-3.402823466385288598e38) : C(-1.7976931348623157e308);

// s[i][j] = sum_d (factor a[i, d]) b[j, d], d ascending.
template <class T>
__device__ __forceinline__ void dot_tile(const Vectors<T>& a, const Vectors<T>& b,
                                         Compute<T> factor, AttentionStorage<T>& shared,
                                         typename Square<T>::Sums& s) {
  using S = Square<T>;
  using C = Compute<T>;
  const Thread t = Thread::here();
  clear<T>(s);
  for (std::int64_t d0 = 0; d0 < a.dim; d0 += S::kDepth) {
    __syncthreads();  // what was there has been read
#pragma unroll
    for (int i = 0; i < S::kPer; ++i) {
      const int row = t.y + kAcross * i;
      const std::int64_t d = d0 + t.x;
      const bool in = d < a.dim;
      shared.pairs[0][row][t.x] =
          in && row < a.count ? factor * to_compute(a.p[row * a.stride + d]) : C(0);
      shared.pairs[1][row][t.x] = in && row < b.count ? to_compute(b.p[row * b.stride + d]) : C(0);
    }
    __syncthreads();
#pragma unroll
    for (int d = 0; d < S::kDepth; ++d) {
      C ra[S::kPer], rb[S::kPer];
#pragma unroll
      for (int i = 0; i < S::kPer; ++i) {
        ra[i] = shared.pairs[0][t.y + kAcross * i][d];
        rb[i] = shared.pairs[1][t.x + kAcross * i][d];
      }
#pragma unroll
      for (int i = 0; i < S::kPer; ++i) {
#pragma unroll
        for (int j = 0; j < S::kPer; ++j) s[i][j] = fused(ra[i], rb[j], s[i][j]);
      }
    }
  }
}

// sums[i][c] += sum_r m[i][r] b[r, column + c], r ascending. Pairs that are hidden are left out where
// `guarded`: 0 times NaN must not show.
template <class T>
__device__ __forceinline__ void add_product(const Vectors<T>& b, std::int64_t column,
                                            Compute<T> factor, bool guarded,
                                            AttentionStorage<T>& shared,
                                            typename Square<T>::Sums& sums) {
  using S = Square<T>;
  using C = Compute<T>;
  const Thread t = Thread::here();
  for (int r0 = 0; r0 < S::kSide && r0 < b.count; r0 += S::kDepth) {
    __syncthreads();  // m is written, or the rows before these have been read
#pragma unroll
    for (int j = 0; j < S::kPer; ++j) {
      const int c = t.x + kAcross * j;
      const bool in = r0 + t.y < b.count && column + c < b.dim;
      shared.rows[t.y][c] =
          in ? factor * to_compute(b.p[(r0 + t.y) * b.stride + column + c]) : C(0);
    }
    __syncthreads();
#pragma unroll 4
    for (int r = 0; r < S::kDepth; ++r) {
      C rb[S::kPer];
#pragma unroll
      for (int j = 0; j < S::kPer; ++j) rb[j] = shared.rows[r][t.x + kAcross * j];
#pragma unroll
      for (int i = 0; i < S::kPer; ++i) {
        const int row = t.y + kAcross * i;
        if (guarded && shared.hidden[row][r0 + r] != 0) continue;
        const C m = shared.m[row][r0 + r];
#pragma unroll
        for (int j = 0; j < S::kPer; ++j) sums[i][j] = fused(m, rb[j], sums[i][j]);
      }
    }
  }
}

__device__ __forceinline__ bool is_finite(float x) { return ::fabsf(x) <= __FLT_MAX__; }
__device__ __forceinline__ bool is_finite(double x) { return ::fabs(x) <= __DBL_MAX__; }

// Of tiles of kSide rows and kRepairColumns columns, in the order of block_place, whether elements are not
// finite and are to be formed again; null: everything is.
constexpr int kRepairColumns = 128;
template <int kSide>
__device__ __forceinline__ bool is_done(const std::uint8_t* repair, std::int64_t columns) {
  const std::int64_t i = blockIdx.x, per_row = ceil_div(columns * kSide, kRepairColumns);
  return repair != nullptr &&
         repair[i / columns * per_row + i % columns * kSide / kRepairColumns] == 0;
}

// ---- scores -----------------------------------------------------------------------------------------

// Where a tile lies.
struct TilePlace {
  std::int64_t b, h, query, key;  // of its first row and column
  AttentionSequence seq;
};

// Which block of a grid over columns, tiles, heads and samples this is.
struct BlockPlace {
  std::int64_t column, tile, head, b;  // column and tile: of their first element
};
template <int kSide>
__device__ __forceinline__ BlockPlace block_place(std::int64_t columns, std::int64_t tiles,
                                                  std::int64_t heads) {
  const std::int64_t i = blockIdx.x, outer = i / columns, row = outer / tiles;
  return {i % columns * kSide, outer % tiles * kSide, row % heads, row / heads};
}

// Which pairs of a tile see each other, in numbers of the tile: query i and key j where both are there and
// low <= j - i <= high.
struct TileLook {
  int queries, keys, low, high;
  bool all;  // every pair, and neither mask nor bias hides one

  __device__ __forceinline__ bool sees(int i, int j) const {
    return i < queries && j < keys && j - i >= low && j - i <= high;
  }
};
template <class T>
__device__ __forceinline__ TileLook look_at(const AttentionProblem<T>& p, const TilePlace& at,
                                            int queries, int keys) {
  const auto near = [](std::int64_t x) {  // beyond any difference of two numbers of a tile
    return static_cast<int>(max_i(-(1 << 20), min_i(x, 1 << 20)));
  };
  const std::int64_t distance = at.key - at.query - at.seq.offset;
  TileLook look{near(at.seq.queries - at.query), near(at.seq.keys - at.key),
                near(-p.left - distance), near(p.right - distance), false};
  look.all = p.mask == nullptr && p.bias == nullptr && look.queries >= queries &&
             look.keys >= keys && look.low <= 1 - queries && look.high >= keys - 1;
  return look;
}
template <class T>
__device__ __forceinline__ TileLook look_at(const AttentionProblem<T>& p, const TilePlace& at) {
  return look_at(p, at, Square<T>::kSide, Square<T>::kSide);
}
// Queries of a sequence that may see some of `count` keys from `key` on.
template <class T>
__device__ __forceinline__ Range seeing_queries(const AttentionProblem<T>& p,
                                                const AttentionSequence& s, std::int64_t key,
                                                std::int64_t count) {
  const std::int64_t last = min_i(key + count, s.keys) - 1;
  if (last < key) return {0, 0};
  return {max_i(0, key - s.offset - p.right), min_i(s.queries, last - s.offset + p.left + 1)};
}
// Whether some query of the tile may see some key of it.
template <class T>
__device__ __forceinline__ bool sees_any(const AttentionProblem<T>& p, const TilePlace& at) {
  const Range seen = seeing_queries(p, at.seq, at.key, Square<T>::kSide);
  return seen.begin < at.query + Square<T>::kSide && at.query < seen.end;
}

// The score of q . k (scaled), and what a gradient by it is multiplied by to pass the cap. The pair is one
// that sees each other, but for mask and bias; what they hide has -inf, a key that they lack NaN.
template <class T>
__device__ __forceinline__ Compute<T> score(const AttentionProblem<T>& p, const TilePlace& at,
                                            int row, int column, Compute<T> s, Compute<T>* slope) {
  using C = Compute<T>;
  constexpr C kHidden = -C(__builtin_inf());
  const std::int64_t i = at.query + row, j = at.key + column;
  *slope = C(1);
  if (p.softcap > 0) {
    const C cap = static_cast<C>(p.softcap), t = tanh(Vec<C>{s * (C(1) / cap)}).v;
    *slope = fused(-t, t, C(1));
    s = t * cap;
  }
  if (p.slopes != nullptr) {
    const C distance = static_cast<C>(i + at.seq.offset - j);
    s = fused(-to_compute(p.slopes[at.b * p.slopes_b + at.h]), abs(Vec<C>{distance}).v, s);
  }
  if (p.bias == nullptr && p.mask == nullptr) return s;
  if (j >= p.score_columns) return C(__builtin_nan(""));
  const std::int64_t l = at.seq.q0 + i;
  if (p.bias != nullptr) {
    const ScoreStrides& bs = p.bias_strides;
    const C bias = to_compute(p.bias[at.b * bs.b + at.h * bs.h + l * bs.i + j * bs.j]);
    s = bias == kHidden ? kHidden : s + bias;
  }
  if (p.mask != nullptr) {
    const ScoreStrides& ms = p.mask_strides;
    if (p.mask[at.b * ms.b + at.h * ms.h + l * ms.i + j * ms.j] == 0) return kHidden;
  }
  return s;
}

// Whether dropout keeps a pair.
template <class T>
__device__ __forceinline__ bool keeps(const AttentionProblem<T>& p, const TilePlace& at, int row,
                                      int column) {
  const AttentionDropout& d = p.dropout;
  const std::int64_t length = d.device_row != nullptr ? *d.device_row : d.row;
  const auto index = static_cast<std::uint64_t>(
      (at.b * d.b + at.h * d.h + at.seq.q0 + at.query + row) * length + at.key + column);
  const PhiloxBlock block = philox_block(index / 4, d.key);
  const std::uint32_t low = index % 2 == 0 ? block.word[0] : block.word[1];
  const std::uint32_t word = index % 4 < 2 ? low : index % 2 == 0 ? block.word[2] : block.word[3];
  return word >= d.threshold;
}

// The factor of what it keeps; nothing is kept at a probability of 1.
template <class T>
__device__ __forceinline__ Compute<T> keep_scale(const AttentionDropout& d) {
  return !d.on                       ? Compute<T>(1)
         : d.threshold > 0xFFFFFFFFu ? Compute<T>(0)
                                     : static_cast<Compute<T>>(d.scale);
}

// Sum or maximum over the 16 threads of a row.
template <class C, class Combine>
__device__ __forceinline__ C row_reduce(C value, const Combine& combine) {
#pragma unroll
  for (int step = kAcross / 2; step > 0; step /= 2) {
    value = combine(value, __shfl_xor_sync(kWholeWarp, value, step));
  }
  return value;
}

template <class T>
__device__ __forceinline__ Vectors<T> vectors_of(const T* base, const RowStrides& s, std::int64_t b,
                                                 std::int64_t h, std::int64_t first,
                                                 std::int64_t count, std::int64_t dim) {
  return {base + b * s.b + h * s.h + first * s.l, s.l, count, dim};
}
template <class T>
__device__ __forceinline__ Vectors<T> queries_of(const T* base, const RowStrides& s,
                                                 const TilePlace& at, std::int64_t dim) {
  return vectors_of(base, s, at.b, at.h, at.seq.q0 + at.query,
                    max_i(0, min_i(Square<T>::kSide, at.seq.queries - at.query)), dim);
}
template <class T>
__device__ __forceinline__ Vectors<T> keys_of(const AttentionProblem<T>& p, const T* base,
                                              const RowStrides& s, const TilePlace& at,
                                              std::int64_t dim) {
  return vectors_of(base, s, at.b, at.h / (p.heads / p.kv_heads), at.seq.k0 + at.key,
                    max_i(0, min_i(Square<T>::kSide, at.seq.keys - at.key)), dim);
}

}  // namespace arraynn::cuda
