// One query per sequence: keys and values are read once, along their rows.
#include "attention/attention.hpp"
#include "attention/scores.hpp"
#include "simd/reduce.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
using Problem = AttentionProblem<T>;

// Keys of a step. Memory streams at its full rate only where lines are asked for in their order
// (measured: 2.5 times that of rows side by side), so rows go one after the other, and heads or
// columns that do not fit registers come back while a step is in L1.
constexpr std::int64_t kStep = 16;
// Heads that share a pass over K and V.
constexpr std::int64_t kHeads = 4;
// Vectors of a pass's sums of values that stay in registers, and of a row.
constexpr int kHeld = kVecBytes == 64 ? 16 : 8, kWide = 8;

// f(first key, count, rows) over stretches of at most kStep keys that lie evenly in memory.
template <class T, class S, class F>
ARRAYNN_INLINE void for_stretches(const Problem<T>& p, const S* base, const RowStrides& strides,
                                  std::int64_t b, std::int64_t kv_head, Range keys, const F& f) {
  const S* head = base + kv_head * strides.h;
  for (std::int64_t j = keys.begin; j < keys.end;) {
    std::int64_t n = min_i(kStep, keys.end - j);
    const S* rows = head + b * strides.b + j * strides.l;
    if (p.pages != nullptr) {
      const std::int64_t in_page = j % p.page_size;
      n = min_i(n, p.page_size - in_page);
      rows = head + p.pages[b * p.pages_per_sequence + j / p.page_size] * strides.b +
             in_page * strides.l;
    }
    f(j - keys.begin, n, rows);
    j += n;
  }
}

// f<heads, vectors>(first head, first column, lanes of the last vector), heads x vectors at most kHeld.
template <class T, class F>
ARRAYNN_INLINE void for_slabs(std::int64_t heads, std::int64_t dim, const F& f) {
  constexpr int kL = kLanes<T>;
  std::int64_t d = 0;
  const auto slab = [&]<int kV>(std::int64_t lanes) __attribute__((always_inline)) {
    std::int64_t g = 0;
    if constexpr (4 * kV <= kHeld) {
      for (; g + 4 <= heads; g += 4) f.template operator()<4, kV>(g, d, lanes);
    }
    if constexpr (2 * kV <= kHeld) {
      for (; g + 2 <= heads; g += 2) f.template operator()<2, kV>(g, d, lanes);
    }
    for (; g < heads; ++g) f.template operator()<1, kV>(g, d, lanes);
    d += kV * kL;
  };
  while (d + kWide * kL <= dim) slab.template operator()<kWide>(kL);
  while (d + 4 * kL <= dim) slab.template operator()<4>(kL);
  while (d < dim) slab.template operator()<1>(min_i(kL, dim - d));
}

// Asks for the lines of n rows, in their order.
template <class T>
ARRAYNN_INLINE void prefetch_rows(const T* rows, std::int64_t n, std::int64_t stride,
                                  std::int64_t dim) {
  constexpr std::int64_t kLine = 64 / static_cast<int>(sizeof(T));
  if (stride == dim) {
    dim *= n;
    n = 1;
  }
  for (std::int64_t r = 0; r < n; ++r, rows += stride) {
    ARRAYNN_UNROLL
    for (std::int64_t d = 0; d < dim; d += kLine) __builtin_prefetch(rows + d, 0, 2);
  }
}

// kV vectors of kG rows.
template <int kG, int kV, class T>
ARRAYNN_INLINE void load_block(const T* from, std::int64_t step, std::int64_t lanes,
                               Vec<T> (&to)[kG][kV]) {
  ARRAYNN_UNROLL
  for (int g = 0; g < kG; ++g) {
    ARRAYNN_UNROLL
    for (int v = 0; v < kV; ++v) to[g][v] = load_lanes(from + g * step + v * kLanes<T>, lanes);
  }
}

// Scores of one head and a step's rows of kV vectors, whose sums do not leave registers.
template <class T, class S, int kV>
void score_step(const T* q, const S* rows, std::int64_t stride, T scale, T* scores) {
  constexpr int kL = kLanes<T>;
  static_assert(kStep % kL == 0);
  Vec<T> held[kV];
  ARRAYNN_UNROLL
  for (int v = 0; v < kV; ++v) held[v] = Vec<T>::load(q + v * kL);
  for (std::int64_t first = 0; first < kStep; first += kL) {
    Vec<T> acc[kL];
    ARRAYNN_UNROLL
    for (int r = 0; r < kL; ++r, rows += stride) {
      acc[r] = Vec<T>::zero();
      ARRAYNN_UNROLL
      for (int v = 0; v < kV; ++v) acc[r] = fma(held[v], load(rows + v * kL), acc[r]);
      keep_order(acc[r]);
    }
    (reduce_add_rows(acc) * Vec<T>::set1(scale)).store(scores + first);
  }
}

// Of rows of at most kV vectors.
template <class T, class S, int kV>
ARRAYNN_INLINE void score_whole(const T* q, const S* rows, std::int64_t stride, std::int64_t dim,
                                T scale, T* scores) {
  if (dim == kV * kLanes<T>) return score_step<T, S, kV>(q, rows, stride, scale, scores);
  if constexpr (kV > 1) score_whole<T, S, kV - 1>(q, rows, stride, dim, scale, scores);
}

// Rows side by side share what is loaded of the queries, but they do not stream. It pays where
// products take longer than memory.
template <int kG>
constexpr bool kBeside = kG > 2;

// Scores of kG heads and kR rows. Every product is one chain and one tree, wherever it
// stands.
template <class T, class S, int kG, int kR, bool kWhole>
[[gnu::noinline]] void score_tile(const T* q, std::int64_t q_stride, const S* rows,
                                  std::int64_t stride, std::int64_t dim, T scale, T* scores) {
  constexpr int kL = kLanes<T>;
  constexpr int kSide = kBeside<kG> ? kR : 1;
  constexpr int kSums = kR == 1 ? kG : kL;  // of three heads a quarter stays 0
  Vec<T> acc[kSums];
  ARRAYNN_UNROLL
  for (int i = 0; i < kSums; ++i) acc[i] = Vec<T>::zero();
  ARRAYNN_UNROLL
  for (int first = 0; first < kR; first += kSide) {
    for (std::int64_t d = 0; d < dim; d += kL) {
      const std::int64_t lanes = kWhole ? kL : dim - d;
      Vec<T> row[kSide];
      ARRAYNN_UNROLL
      for (int r = 0; r < kSide; ++r) {
        row[r] = in_register(load_lanes(rows + (first + r) * stride + d, lanes));
      }
      ARRAYNN_UNROLL
      for (int g = 0; g < kG; ++g) {
        const Vec<T> query = in_register(load_lanes(q + g * q_stride + d, lanes));
        ARRAYNN_UNROLL
        for (int r = 0; r < kSide; ++r) {
          Vec<T>& sum = acc[g * kR + first + r];
          sum = fma(query, row[r], sum);
        }
      }
    }
  }
  T sums[kSums];
  if constexpr (kSums == kL) {
    (reduce_add_rows(acc) * Vec<T>::set1(scale)).store(sums);
  } else {
    ARRAYNN_UNROLL
    for (int i = 0; i < kSums; ++i) sums[i] = reduce_add(acc[i]) * scale;
  }
  ARRAYNN_UNROLL
  for (int g = 0; g < kG; ++g) {
    __builtin_memcpy(scores + g * kDecodeSplit, sums + g * kR, kR * sizeof(T));
  }
}

// Of kG heads and n rows. Rows side by side are asked for a step before: without it a cache in L3
// took 2.5 times as long.
template <class T, class S, int kG>
void score_heads(const T* q, std::int64_t q_stride, const S* rows, std::int64_t n,
                 std::int64_t stride, std::int64_t dim, bool ahead, T scale, T* scores) {
  constexpr int kR = kLanes<T> / (kG == 3 ? 4 : kG);
  const auto tiles = [&]<bool kWhole>() {
    std::int64_t r = 0;
    for (; r + kR <= n; r += kR) {
      if (kBeside<kG> && ahead) prefetch_rows(rows + (r + kStep) * stride, kR, stride, dim);
      score_tile<T, S, kG, kR, kWhole>(q, q_stride, rows + r * stride, stride, dim, scale,
                                       scores + r);
    }
    for (; r < n; ++r) {
      score_tile<T, S, kG, 1, kWhole>(q, q_stride, rows + r * stride, stride, dim, scale,
                                      scores + r);
    }
  };
  dim % kLanes<T> == 0 ? tiles.template operator()<true>() : tiles.template operator()<false>();
}

// scores[g * kDecodeSplit + r] = scale q_g . row r for n <= kStep rows.
template <class T, class S>
ARRAYNN_INLINE void score_rows(const T* q, std::int64_t q_stride, std::int64_t heads, const S* rows,
                               std::int64_t n, std::int64_t stride, std::int64_t dim, T scale,
                               T* scores) {
  constexpr int kL = kLanes<T>;
  if (heads == 1 && n == kStep && dim % kL == 0 && dim <= kWide * kL) {
    return score_whole<T, S, kWide>(q, rows, stride, dim, scale, scores);
  }
  std::int64_t g = 0;
  const auto some = [&]<int kG>() __attribute__((always_inline)) {
    for (; g + kG <= heads; g += kG) {
      score_heads<T, S, kG>(q + g * q_stride, q_stride, rows, n, stride, dim, g == 0, scale,
                            scores + g * kDecodeSplit);
    }
  };
  if constexpr (kL >= 4) {
    some.template operator()<4>();
    some.template operator()<3>();
  }
  some.template operator()<2>();
  some.template operator()<1>();
}

// sums of head g += its weights . rows over kV vectors of columns.
template <class T, class S, int kG, int kV>
void add_values(const T* weights, std::int64_t n, const S* rows, std::int64_t stride,
                std::int64_t lanes, T* sums, std::int64_t step) {
  constexpr int kL = kLanes<T>;
  Vec<T> acc[kG][kV];
  load_block(sums, step, lanes, acc);
  for (std::int64_t r = 0; r < n; ++r) {
    Vec<T> w[kG];
    ARRAYNN_UNROLL
    for (int g = 0; g < kG; ++g) w[g] = Vec<T>::set1(weights[g * kDecodeSplit + r]);
    ARRAYNN_UNROLL
    for (int v = 0; v < kV; ++v) {
      const Vec<T> row = in_register(load_lanes(rows + r * stride + v * kL, lanes));
      ARRAYNN_UNROLL
      for (int g = 0; g < kG; ++g) acc[g][v] = fma(w[g], row, acc[g][v]);
    }
  }
  ARRAYNN_UNROLL
  for (int g = 0; g < kG; ++g) {
    ARRAYNN_UNROLL
    for (int v = 0; v < kV; ++v) {
      T* to = sums + g * step + v * kL;
      lanes == kL ? acc[g][v].store(to) : store_n(acc[g][v], to, lanes);
    }
  }
}

// Scores to exponentials; the maximum and their sum.
template <class T>
void weigh(const Problem<T>& p, std::int64_t b, std::int64_t h, const AttentionSequence& seq,
           Range keys, T* scores, T* stats) {
  using V = Vec<T>;
  constexpr int kL = kLanes<T>;
  const std::int64_t n = keys.end - keys.begin;
  for (std::int64_t j = n; j < round_up(n, kL); ++j) scores[j] = kMinusInfinity<T>;
  V m = V::set1(kFirstMax<T>);
  const V slope = V::set1(p.slopes == nullptr ? T(0) : -p.slopes[b * p.slopes_b + h]);
  T lane[kL];
  for (int i = 0; i < kL; ++i) lane[i] = static_cast<T>(i);
  for (std::int64_t j = 0; j < n; j += kL) {
    V s = V::load(scores + j);
    const Mask<T> inside = V::load(lane) < V::set1(static_cast<T>(n - j));
    if (p.softcap > 0) {
      const T cap = static_cast<T>(p.softcap);
      s = select(inside, tanh(s * V::set1(T(1) / cap)) * V::set1(cap), s);
    }
    if (p.slopes != nullptr) {
      const V at = V::set1(static_cast<T>(keys.begin + j - seq.offset)) + V::load(lane);
      s = select(inside, fma(slope, abs(at), s), s);
    }
    s.store(scores + j);
    m = max(s, m);
  }
  stats[0] = reduce_max(m);
  const V shift = V::set1(stats[0]);
  V sum = V::zero();
  for (std::int64_t j = 0; j < n; j += kL) {
    const V e = exp(V::load(scores + j) - shift);
    e.store(scores + j);
    sum = sum + e;
  }
  stats[1] = reduce_add(sum);
}

// S: of keys and values in memory.
template <class T, class S>
void split(const Problem<T>& p, std::int64_t b, std::int64_t kv_head, Range keys, T* partial) {
  const void *k = p.k, *v = p.v;
  const AttentionSequence seq = sequence_of(p, b);
  const std::int64_t group = p.heads / p.kv_heads, step = p.head_dim_v + 2;
  // Scores of four heads are 8 KiB.
  alignas(64) T scores[kHeads * kDecodeSplit];
  const T scale = static_cast<T>(p.scale);
  for (std::int64_t g0 = 0; g0 < group; g0 += kHeads) {
    const std::int64_t heads = min_i(kHeads, group - g0), h0 = kv_head * group + g0;
    const T* q = p.q + b * p.q_strides.b + h0 * p.q_strides.h;
    for_stretches(p, static_cast<const S*>(k), p.k_strides, b, kv_head, keys,
                  [&](std::int64_t j, std::int64_t n, const S* rows) {
                    score_rows(q, p.q_strides.h, heads, rows, n, p.k_strides.l, p.head_dim, scale,
                               scores + j);
                  });
    T* sums = partial + g0 * step;
    for (std::int64_t g = 0; g < heads; ++g) {
      for (std::int64_t d = 0; d < p.head_dim_v; ++d) sums[g * step + d] = T(0);
      weigh(p, b, h0 + g, seq, keys, scores + g * kDecodeSplit, sums + g * step + p.head_dim_v);
    }
    for_stretches(p, static_cast<const S*>(v), p.v_strides, b, kv_head, keys,
                  [&](std::int64_t j, std::int64_t n, const S* rows) {
                    const T* weights = scores + j;
                    for_slabs<T>(
                        heads, p.head_dim_v,
                        [&]<int kG, int kV>(std::int64_t g, std::int64_t d, std::int64_t lanes) {
                          add_values<T, S, kG, kV>(weights + g * kDecodeSplit, n, rows + d,
                                                   p.v_strides.l, lanes, sums + g * step + d, step);
                        });
                  });
  }
}

template <class T>
T exp_of(T x) {
  return exp(Vec<T>::set1(x)).v[0];
}

template <class T>
void merge(const Problem<T>& p, std::int64_t b, std::int64_t h, const T* partials,
           std::int64_t count, std::int64_t step) {
  const std::int64_t dim = p.head_dim_v;
  T* out = p.out + b * p.out_strides.b + h * p.out_strides.h;
  const bool sink = has_sink(p, h);
  T m = sink ? p.sinks[h] : kFirstMax<T>;
  for (std::int64_t s = 0; s < count; ++s) {
    if (partials[s * step + dim] > m) m = partials[s * step + dim];
  }
  T total = sink ? exp_of(p.sinks[h] - m) : T(0);
  for (std::int64_t d = 0; d < dim; ++d) out[d] = T(0);
  for (std::int64_t s = 0; s < count; ++s) {
    const T* partial = partials + s * step;
    const T factor = exp_of(partial[dim] - m);
    total += factor * partial[dim + 1];
    for (std::int64_t d = 0; d < dim; ++d) out[d] += factor * partial[d];
  }
  const bool nothing = total == T(0);
  const T inverse = nothing ? T(0) : T(1) / total;
  for (std::int64_t d = 0; d < dim; ++d) out[d] *= inverse;
  if (p.lse != nullptr) {
    p.lse[b * p.lse_strides.b + h * p.lse_strides.h] =
        nothing ? kMinusInfinity<T> : m + log(Vec<T>::set1(total)).v[0];
  }
}

}  // namespace

extern const DecodeKernels decode_kernels = {
    {{&split<float, float>, &merge<float>}, {&split<double, double>, &merge<double>}},
    &split<float, Half>,
    &split<float, Bfloat16>,
};

}  // namespace ARRAYNN_ISA_NAMESPACE
