// Pooled convolutions beside the strips of the direct and of Winograd's.
#pragma once
#include "conv/conv.hpp"
#include "conv/pooled_rows.hpp"

namespace arraynn {

// Rows that strips keep for one another, in bytes of all channels: beyond this a window is too tall.
inline constexpr std::int64_t kMostKept = std::int64_t{1} << 20;

template <class T>
bool is_tall(const ConvPool<T>& pool, std::int64_t channels) {
  const auto item = static_cast<std::int64_t>(sizeof(T));
  return kept_rows(pool.p.h) * pool.p.w.size * channels * item > kMostKept;
}

// A depthwise convolution whose result is pooled: a few planes, or strips of rows (channels_last), that
// a thread computes into its scratch.
template <class T>
void pool_depthwise(const Conv2dProblem& p, const DepthwiseConv<T>& d, const ConvPool<T>& pool,
                    int threads);

// The convolution of some samples into scratch, then their pooling.
template <class T>
void pool_by_samples(const Conv2dProblem& p, const T* x, const T* weight, const ConvEpilogue<T>& e,
                     T* y);

}  // namespace arraynn
