// What softmax and cross entropy share: maximum and sum of exponentials of rows and of columns.
#pragma once
#include "simd/math.hpp"
#include "simd/write.hpp"
#include "softmax/softmax.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

template <class T>
inline constexpr T kLowest = sizeof(T) == 4 ? T(-3.402823466385288598e38) : T(-__DBL_MAX__);

template <class T>
inline constexpr int kCacheLine = 64 / static_cast<int>(sizeof(T));

// Lanes [0, n).
template <class T>
ARRAYNN_INLINE Mask<T> first_lanes(std::int64_t n) {
  typename Vec<T>::RawInt lane{};
  for (int i = 0; i < kLanes<T>; ++i) lane[i] = i;
  return {lane < static_cast<typename Vec<T>::Int>(n)};
}

// n elements and -inf in the other lanes: those change neither maximum nor sum.
template <class S>
ARRAYNN_INLINE Vec<Compute<S>> load_row_end(const S* p, std::int64_t n) {
  using T = Compute<S>;
  return select(first_lanes<T>(n), load_n(p, n), Vec<T>::set1(-T(__builtin_inf())));
}

// The largest element, NaN aside, or the lowest finite number: subtracting it is never inf - inf,
// and a row of nothing but -inf ends as 0 / 0. A NaN makes the sum NaN, which is enough.
template <class S>
ARRAYNN_INLINE Compute<S> row_max(const S* x, std::int64_t n) {
  using T = Compute<S>;
  constexpr int kL = kLanes<T>;
  using V = Vec<T>;
  V m0 = V::set1(kLowest<T>), m1 = m0, m2 = m0, m3 = m0;
  std::int64_t i = 0;
  for (; i + 4 * kL <= n; i += 4 * kL) {
    m0 = max(load(x + i), m0);
    m1 = max(load(x + i + kL), m1);
    m2 = max(load(x + i + 2 * kL), m2);
    m3 = max(load(x + i + 3 * kL), m3);
  }
  for (; i + kL <= n; i += kL) m0 = max(load(x + i), m0);
  if (i < n) m1 = max(load_row_end(x + i, n - i), m1);
  return reduce_max(max(max(m0, m1), max(m2, m3)));
}

// Sums start anew after so many additions: rounding grows with the length of a chain.
inline constexpr std::int64_t kSumLength = 64;

// The sum of exp(x - m); the exponentials go to y when kStore.
template <bool kStore, class S>
ARRAYNN_INLINE Compute<S> row_exp_sum(const S* x, Compute<S> m, Compute<S>* y, std::int64_t n) {
  using T = Compute<S>;
  constexpr int kL = kLanes<T>;
  using V = Vec<T>;
  const V shift = V::set1(m);
  V total = V::zero();
  std::int64_t i = 0;
  while (i + 4 * kL <= n) {
    const std::int64_t end = min_i(n, i + kSumLength * 4 * kL);
    V s0 = V::zero(), s1 = s0, s2 = s0, s3 = s0;
    for (; i + 4 * kL <= end; i += 4 * kL) {
      // The next row (or block) comes in while this one is computed: its maximum needs it at once.
      for (int j = 0; j < 4 * kL; j += kCacheLine<S>) __builtin_prefetch(x + n + i + j);
      const V a = exp(load(x + i) - shift), b = exp(load(x + i + kL) - shift);
      const V c = exp(load(x + i + 2 * kL) - shift), d = exp(load(x + i + 3 * kL) - shift);
      if constexpr (kStore) {
        a.store(y + i);
        b.store(y + i + kL);
        c.store(y + i + 2 * kL);
        d.store(y + i + 3 * kL);
      }
      s0 = s0 + a;
      s1 = s1 + b;
      s2 = s2 + c;
      s3 = s3 + d;
    }
    total = total + ((s0 + s1) + (s2 + s3));
  }
  for (; i + kL <= n; i += kL) {
    const V a = exp(load(x + i) - shift);
    if constexpr (kStore) a.store(y + i);
    total = total + a;
  }
  if (i < n) {
    const V a = exp(load_row_end(x + i, n - i) - shift);
    if constexpr (kStore) store_n(a, y + i, n - i);
    total = total + a;
  }
  return reduce_add(total);
}

// The sum of term(i, lanes) over a row, in four chains. Lanes of the last vector beyond `lanes` must
// hold 0.
template <class T, class F>
ARRAYNN_INLINE T sum_row(std::int64_t n, const F& term) {
  constexpr int kL = kLanes<T>;
  Vec<T> total = Vec<T>::zero();
  std::int64_t i = 0;
  while (i + 4 * kL <= n) {
    const std::int64_t end = min_i(n, i + kSumLength * 4 * kL);
    Vec<T> s0 = Vec<T>::zero(), s1 = s0, s2 = s0, s3 = s0;
    for (; i + 4 * kL <= end; i += 4 * kL) {
      s0 = s0 + term(i, std::int64_t{kL});
      s1 = s1 + term(i + kL, std::int64_t{kL});
      s2 = s2 + term(i + 2 * kL, std::int64_t{kL});
      s3 = s3 + term(i + 3 * kL, std::int64_t{kL});
    }
    total = total + ((s0 + s1) + (s2 + s3));
  }
  for (; i + kL <= n; i += kL) total = total + term(i, std::int64_t{kL});
  if (i < n) total = total + term(i, n - i);
  return reduce_add(total);
}

template <class T>
ARRAYNN_INLINE T exp_scalar(T x) {
  return exp(Vec<T>::set1(x)).v[0];
}

// NaN for the empty sum of a row of nothing but -inf.
template <class T>
ARRAYNN_INLINE Vec<T> log_of_sum(Vec<T> sum) {
  return select(sum > Vec<T>::zero(), log(sum), Vec<T>::set1(T(__builtin_nan(""))));
}
template <class T>
ARRAYNN_INLINE T log_of_sum(T sum) {
  return log_of_sum(Vec<T>::set1(sum)).v[0];
}

template <class T>
ARRAYNN_INLINE SoftmaxStats<T> merge_stats(SoftmaxStats<T> a, SoftmaxStats<T> b) {
  const T m = a.max > b.max ? a.max : b.max;
  return {m, a.sum * exp_scalar(a.max - m) + b.sum * exp_scalar(b.max - m)};
}

template <class S>
ARRAYNN_INLINE SoftmaxStats<Compute<S>> block_stats_of(const S* x, std::int64_t n) {
  const Compute<S> m = row_max(x, n);
  return {m, row_exp_sum<false>(x, m, nullptr, n)};
}

// One reading of memory: a block is still in cache for its second sweep.
template <class S>
ARRAYNN_INLINE SoftmaxStats<Compute<S>> row_stats(const S* x, std::int64_t n) {
  using T = Compute<S>;
  if (n <= kShortRow<T>) return block_stats_of(x, n);
  SoftmaxStats<T> all = block_stats_of(x, kRowBlock);
  for (std::int64_t i = kRowBlock; i < n; i += kRowBlock) {
    all = merge_stats(all, block_stats_of(x + i, min_i(kRowBlock, n - i)));
  }
  return all;
}

// Where the exponentials of a row of n are kept until their sum is known: in the result, in 16 bits in
// `buffer`, of kRowBlock elements. Null: nowhere, they are formed again.
template <class S>
ARRAYNN_INLINE Compute<S>* room_for_row(S* y, Compute<S>* buffer, std::int64_t n) {
  if constexpr (sizeof(S) == 2) {
    return n <= kRowBlock ? buffer : nullptr;
  } else {
    return n <= kShortRow<S> ? y : nullptr;
  }
}
template <class S>
inline constexpr std::int64_t kRowRoom = sizeof(S) == 2 ? kRowBlock : 1;

// f(offset, lanes) for every vector of a strip; lanes < kLanes only for the last.
template <class T, class F>
ARRAYNN_INLINE void for_vectors(std::int64_t width, const F& f) {
  constexpr int kL = kLanes<T>;
  std::int64_t j = 0;
  for (; j + kL <= width; j += kL) f(j, std::int64_t{kL});
  if (j < width) f(j, width - j);
}

// max and sum of every column of a strip; the arrays hold kStrip elements, whole vectors.
template <class S>
ARRAYNN_INLINE void strip_stats(const S* x, std::int64_t n, std::int64_t inner, std::int64_t width,
                                Compute<S>* max_of, Compute<S>* sum_of) {
  using T = Compute<S>;
  using V = Vec<T>;
  for_vectors<T>(width, [&](std::int64_t j, std::int64_t lanes) __attribute__((always_inline)) {
    V m = V::set1(kLowest<T>), s = V::zero();
    (void)lanes;
    m.store(max_of + j);
    s.store(sum_of + j);
  });
  for (std::int64_t k0 = 0; k0 < n; k0 += kColumnBlock) {
    const std::int64_t k1 = min_i(n, k0 + kColumnBlock);
    for_vectors<T>(width, [&](std::int64_t j, std::int64_t lanes) __attribute__((always_inline)) {
      const V former = V::load(max_of + j);
      V m = former;
      for (std::int64_t k = k0; k < k1; ++k) m = max(load_lanes(x + k * inner + j, lanes), m);
      V s = V::zero();
      for (std::int64_t k = k0; k < k1; ++k) s = s + exp(load_lanes(x + k * inner + j, lanes) - m);
      m.store(max_of + j);
      fma(V::load(sum_of + j), exp(former - m), s).store(sum_of + j);
    });
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
