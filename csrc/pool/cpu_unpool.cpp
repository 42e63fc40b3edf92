// Elements moved to given positions of their planes (max unpooling), or added there (the gradient of a
// maximum), and back.
#include "pool/tables.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Elements that are looked at together: their indices are read again from L1, and their positions are
// set to zero just ahead.
inline constexpr std::int64_t kScatterAhead = 2048;
// Positions of small planes that are set to zero together, in L2.
inline constexpr std::int64_t kScatterZeros = 16384;

// Of some units: planes (channels_first), or channels of a sample (channels_last).
struct Block {
  std::int64_t in, out, width;  // first elements, channels
  std::int64_t planes;
};

// Small planes are taken many at a time, from unit `unit` to the thread's last one.
ARRAYNN_INLINE Block unpool_block(const UnpoolProblem& p, std::int64_t unit, std::int64_t end) {
  if (!p.channels_last) {
    const std::int64_t some =
        min_i(kScatterAhead / max_i(1, p.in), kScatterZeros / max_i(1, p.out));
    return {unit * p.in, unit * p.out, 1, min_i(end - unit, max_i(1, some))};
  }
  const std::int64_t blocks = ceil_div(p.c, p.block);
  const std::int64_t sample = unit / blocks, first = unit % blocks * p.block;
  return {sample * p.in * p.c + first, sample * p.out * p.c + first, min_i(p.block, p.c - first),
          1};
}

struct Extent {
  std::int64_t low = INT64_MAX, high = INT64_MIN;
};

// Of n indices and those seen before.
ARRAYNN_INLINE Extent extent_of(const std::int64_t* indices, std::int64_t n, Extent e) {
  typedef std::int64_t Wide __attribute__((vector_size(kVecBytes)));
  constexpr std::int64_t kL = kVecBytes / 8;
  std::int64_t i = 0;
  if (n >= 2 * kL) {
    Wide low[2] = {Wide{} + e.low, Wide{} + e.low}, high[2] = {Wide{} + e.high, Wide{} + e.high};
    for (; i + 2 * kL <= n; i += 2 * kL) {
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        Wide at;
        __builtin_memcpy(&at, indices + i + v * kL, sizeof at);
        low[v] = at < low[v] ? at : low[v];
        high[v] = at > high[v] ? at : high[v];
      }
    }
    low[0] = low[0] < low[1] ? low[0] : low[1];
    high[0] = high[0] > high[1] ? high[0] : high[1];
    for (int l = 0; l < kL; ++l) {
      e.low = min_i(e.low, low[0][l]);
      e.high = max_i(e.high, high[0][l]);
    }
  }
  for (; i < n; ++i) {
    e.low = min_i(e.low, indices[i]);
    e.high = max_i(e.high, indices[i]);
  }
  return e;
}

// Of inputs `in` of the block: all of its planes, or a part of one.
ARRAYNN_INLINE Extent extent_of(const UnpoolProblem& p, const Block& b, const std::int64_t* indices,
                                Range in) {
  const std::int64_t step = p.channels_last ? p.c : 1, n = (in.end - in.begin) * b.planes;
  const std::int64_t* at = indices + b.in + in.begin * step;
  Extent e;
  if (b.width == step) return extent_of(at, n * step, e);
  for (std::int64_t i = 0; i < n; ++i) e = extent_of(at + i * step, b.width, e);
  return e;
}

// move(small, large) for the elements of inputs `in` of the block and where their indices point to,
// offsets from the block's first elements, or miss(small); false when an index lies outside, other
// than -1 where windows can be empty.
template <class Move, class Miss>
ARRAYNN_INLINE bool for_indices(const UnpoolProblem& p, const Block& b, const std::int64_t* indices,
                                Range in, Extent extent, const Move& move, const Miss& miss) {
  const std::int64_t* at = indices + b.in;
  const std::int64_t step = p.channels_last ? p.c : 1, first = p.first;
  // f(small, base) in order: index 0 is at `base`.
  const auto all = [&](const auto& f) __attribute__((always_inline)) {
    if (step == 1) {
      for (std::int64_t k = 0; k < b.planes; ++k) {
#pragma GCC unroll 4
        for (std::int64_t i = in.begin; i < in.end; ++i) f(k * p.in + i, k * p.out - first);
      }
      return;
    }
    for (std::int64_t i = in.begin * step; i < in.end * step; i += step) {
#pragma GCC unroll 4
      for (std::int64_t l = 0; l < b.width; ++l) f(i + l, l - first * step);
    }
  };
  if (extent.low >= first && extent.high < first + p.out) {
    all([&](std::int64_t small, std::int64_t base)
            __attribute__((always_inline)) { move(small, at[small] * step + base); });
    return true;
  }
  bool good = true;
  all([&](std::int64_t small, std::int64_t base) __attribute__((always_inline)) {
    if (at[small] >= first && at[small] < first + p.out) {
      move(small, at[small] * step + base);
    } else {
      good &= p.has_empty && at[small] - first == -1;
      miss(small);
    }
  });
  return good;
}

// Positions `out` of the block.
template <class T>
ARRAYNN_INLINE void zero_block(const UnpoolProblem& p, const Block& b, Range out, T* y) {
  const std::int64_t step = p.channels_last ? p.c : 1;
  const bool whole = b.width == step;
  const std::int64_t pieces = whole ? 1 : out.end - out.begin;
  const std::int64_t size = whole ? (out.end - out.begin) * step * b.planes : b.width;
  for (std::int64_t i = 0; i < pieces; ++i) {
    __builtin_memset(y + b.out + (out.begin + i) * step, 0,
                     static_cast<std::size_t>(size) * sizeof(T));
  }
}

// put(at, x) in the order of x. Positions are set to zero just ahead of their first element, in
// cache: those of pooling go up.
template <class T, class Put>
ARRAYNN_INLINE bool spread(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y,
                           Range units, const Put& put) {
  bool good = true;
  Block b{};
  for (std::int64_t u = units.begin; u < units.end; u += b.planes) {
    b = unpool_block(p, u, units.end);
    const T* from = x + b.in;
    T* to = y + b.out;
    const std::int64_t some = max_i(1, kScatterAhead / b.width);
    std::int64_t zeroed = p.zeroed ? p.out : 0;
    const auto zero_until = [&](std::int64_t end) {
      if (end > zeroed) zero_block(p, b, {zeroed, end}, y);
      zeroed = max_i(zeroed, end);
    };
    for (std::int64_t i = 0; i < p.in; i += some) {
      const Range in = {i, min_i(p.in, i + some)};
      const Extent extent = extent_of(p, b, indices, in);
      zero_until(p.in <= some ? p.out : min_i(p.out, extent.high + 1));
      good &= for_indices(
          p, b, indices, in, extent,
          [&](std::int64_t small, std::int64_t large)
              __attribute__((always_inline)) { put(to[large], from[small]); },
          [](std::int64_t) {});
    }
    zero_until(p.out);
  }
  return good;
}

template <class T>
bool scatter(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y, Range units) {
  return spread(p, x, indices, y, units,
                [](T& at, T v) __attribute__((always_inline)) { at += v; });
}

template <class T>
bool unpool(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y, Range units) {
  return spread(p, x, indices, y, units, [](T& at, T v) __attribute__((always_inline)) { at = v; });
}

template <class T>
bool unpool_backward(const UnpoolProblem& p, const T* dy, const std::int64_t* indices, T* dx,
                     Range units) {
  bool good = true;
  Block b{};
  for (std::int64_t u = units.begin; u < units.end; u += b.planes) {
    b = unpool_block(p, u, units.end);
    const T* from = dy + b.out;
    T* to = dx + b.in;
    const std::int64_t some = max_i(1, kScatterAhead / b.width);
    for (std::int64_t i = 0; i < p.in; i += some) {
      const Range in = {i, min_i(p.in, i + some)};
      good &= for_indices(
          p, b, indices, in, extent_of(p, b, indices, in),
          [&](std::int64_t small, std::int64_t large)
              __attribute__((always_inline)) { to[small] = from[large]; },
          [&](std::int64_t small) __attribute__((always_inline)) { to[small] = T(0); });
    }
  }
  return good;
}

}  // namespace

#define ARRAYNN_UNPOOL(T, suffix)                                                                 \
  bool scatter_##suffix(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y,    \
                        Range units) {                                                            \
    return scatter(p, x, indices, y, units);                                                      \
  }                                                                                               \
  bool unpool_##suffix(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y,     \
                       Range units) {                                                             \
    return unpool(p, x, indices, y, units);                                                       \
  }                                                                                               \
  bool unpool_backward_##suffix(const UnpoolProblem& p, const T* dy, const std::int64_t* indices, \
                                T* dx, Range units) {                                             \
    return unpool_backward(p, dy, indices, dx, units);                                            \
  }
ARRAYNN_UNPOOL(float, f32)
ARRAYNN_UNPOOL(double, f64)
#undef ARRAYNN_UNPOOL

}  // namespace ARRAYNN_ISA_NAMESPACE
