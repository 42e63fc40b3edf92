// One query per sequence: keys and values are read once, along their rows.
#include "attention/attention.hpp"
#include "attention/scores.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
using Problem = AttentionProblem<T>;

// Keys whose dot products run side by side, and keys that stay in L1 for all heads of a group.
constexpr int kKeysAtOnce = 8;
constexpr std::int64_t kChunk = 64;
// Vectors of a sum of values that stay in registers.
constexpr int kSums = 8;
// How far ahead rows are called for: the processor's own prefetching stops at pages, and rows that
// are read eight at a time are no stream to it (measured: 1.2x from memory).
constexpr std::int64_t kAhead = 16;

template <class T>
ARRAYNN_INLINE void prefetch_row(const T* row, std::int64_t dim) {
  for (std::int64_t d = 0; d < dim; d += 64 / static_cast<int>(sizeof(T))) {
    __builtin_prefetch(row + d);
  }
}

// f(first key, count, rows) over stretches of at most kChunk keys that lie evenly in memory.
template <class T, class F>
ARRAYNN_INLINE void for_stretches(const Problem<T>& p, const T* base, const RowStrides& strides,
                                  std::int64_t b, std::int64_t kv_head, Range keys, const F& f) {
  const T* head = base + kv_head * strides.h;
  for (std::int64_t j = keys.begin; j < keys.end;) {
    std::int64_t n = min_i(kChunk, keys.end - j);
    const T* rows = head + b * strides.b + j * strides.l;
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

template <class T, int kKeys>
ARRAYNN_INLINE void dots(const T* q, const T* rows, std::int64_t stride, std::int64_t dim, T scale,
                         T* scores) {
  Vec<T> acc[kKeys];
  for (int r = 0; r < kKeys; ++r) acc[r] = Vec<T>::zero();
  std::int64_t d = 0;
  for (; d + kLanes<T> <= dim; d += kLanes<T>) {
    const Vec<T> qv = Vec<T>::load(q + d);
    for (int r = 0; r < kKeys; ++r) acc[r] = fma(qv, Vec<T>::load(rows + r * stride + d), acc[r]);
  }
  if (d < dim) {
    const Vec<T> qv = load_n(q + d, dim - d);
    for (int r = 0; r < kKeys; ++r)
      acc[r] = fma(qv, load_n(rows + r * stride + d, dim - d), acc[r]);
  }
  for (int r = 0; r < kKeys; ++r) scores[r] = reduce_add(acc[r]) * scale;
}

template <class T, int kVectors, bool kFetch>
ARRAYNN_INLINE void add_values(const T* weights, std::int64_t n, const T* rows, std::int64_t stride,
                               T* sums) {
  constexpr int kL = kLanes<T>;
  Vec<T> acc[kVectors];
  for (int v = 0; v < kVectors; ++v) acc[v] = Vec<T>::load(sums + v * kL);
  for (std::int64_t r = 0; r < n; ++r) {
    const Vec<T> w = Vec<T>::set1(weights[r]);
    if constexpr (kFetch) prefetch_row(rows + (r + kAhead) * stride, kVectors * kL);
    for (int v = 0; v < kVectors; ++v) {
      acc[v] = fma(w, Vec<T>::load(rows + r * stride + v * kL), acc[v]);
    }
  }
  for (int v = 0; v < kVectors; ++v) acc[v].store(sums + v * kL);
}

// sums += weights . rows over dim columns.
template <class T, bool kFetch>
void add_rows(const T* weights, std::int64_t n, const T* rows, std::int64_t stride,
              std::int64_t dim, T* sums) {
  constexpr int kL = kLanes<T>;
  std::int64_t d = 0;
  for (; d + kSums * kL <= dim; d += kSums * kL) {
    add_values<T, kSums, kFetch>(weights, n, rows + d, stride, sums + d);
  }
  for (; d + 4 * kL <= dim; d += 4 * kL) {
    add_values<T, 4, kFetch>(weights, n, rows + d, stride, sums + d);
  }
  for (; d + kL <= dim; d += kL) add_values<T, 1, kFetch>(weights, n, rows + d, stride, sums + d);
  if (d < dim) {
    Vec<T> acc = load_n(sums + d, dim - d);
    for (std::int64_t r = 0; r < n; ++r) {
      acc = fma(Vec<T>::set1(weights[r]), load_n(rows + r * stride + d, dim - d), acc);
    }
    store_n(acc, sums + d, dim - d);
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

template <class T>
void split(const Problem<T>& p, std::int64_t b, std::int64_t kv_head, Range keys, T* partial) {
  const AttentionSequence seq = sequence_of(p, b);
  const std::int64_t group = p.heads / p.kv_heads, step = p.head_dim_v + 2;
  // Heads of a group in fours: their scores are 8 KiB.
  constexpr std::int64_t kHeads = 4;
  alignas(64) T scores[kHeads * kDecodeSplit];
  const T scale = static_cast<T>(p.scale);
  for (std::int64_t g0 = 0; g0 < group; g0 += kHeads) {
    const std::int64_t heads = min_i(kHeads, group - g0), h0 = kv_head * group + g0;
    const T* q = p.q + b * p.q_strides.b + h0 * p.q_strides.h;
    for_stretches(p, p.k, p.k_strides, b, kv_head, keys,
                  [&](std::int64_t j, std::int64_t n, const T* rows) {
                    const std::int64_t stride = p.k_strides.l;
                    std::int64_t r = 0;
                    for (; r + kKeysAtOnce <= n; r += kKeysAtOnce) {
                      for (std::int64_t i = 0; i < kKeysAtOnce; ++i) {
                        prefetch_row(rows + (r + kAhead + i) * stride, p.head_dim);
                      }
                      for (std::int64_t g = 0; g < heads; ++g) {
                        dots<T, kKeysAtOnce>(q + g * p.q_strides.h, rows + r * stride, stride,
                                             p.head_dim, scale, scores + g * kDecodeSplit + j + r);
                      }
                    }
                    for (; r < n; ++r) {
                      for (std::int64_t g = 0; g < heads; ++g) {
                        dots<T, 1>(q + g * p.q_strides.h, rows + r * stride, stride, p.head_dim,
                                   scale, scores + g * kDecodeSplit + j + r);
                      }
                    }
                  });
    for (std::int64_t g = 0; g < heads; ++g) {
      T* sums = partial + (g0 + g) * step;
      for (std::int64_t d = 0; d < p.head_dim_v; ++d) sums[d] = T(0);
      weigh(p, b, h0 + g, seq, keys, scores + g * kDecodeSplit, sums + p.head_dim_v);
    }
    for_stretches(p, p.v, p.v_strides, b, kv_head, keys,
                  [&](std::int64_t j, std::int64_t n, const T* rows) {
                    for (std::int64_t g = 0; g < heads; ++g) {
                      const auto add = g == 0 ? &add_rows<T, true> : &add_rows<T, false>;
                      add(scores + g * kDecodeSplit + j, n, rows, p.v_strides.l, p.head_dim_v,
                          partial + (g0 + g) * step);
                    }
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
    {&split<float>, &merge<float>},
    {&split<double>, &merge<double>},
};

}  // namespace ARRAYNN_ISA_NAMESPACE
