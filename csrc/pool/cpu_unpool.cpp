// Elements moved to given positions of their planes (max unpooling), or added there (the gradient of a
// maximum), and back.
#include "pool/tables.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Of a unit: a plane (channels_first), or channels of a sample (channels_last).
struct Block {
  std::int64_t in, out, width;  // first elements, channels
};

ARRAYNN_INLINE Block unpool_block(const UnpoolProblem& p, std::int64_t unit) {
  if (!p.channels_last) return {unit * p.in, unit * p.out, 1};
  const std::int64_t blocks = ceil_div(p.c, p.block);
  const std::int64_t sample = unit / blocks, first = unit % blocks * p.block;
  return {sample * p.in * p.c + first, sample * p.out * p.c + first, min_i(p.block, p.c - first)};
}

// Elements whose positions are set to zero together.
inline constexpr std::int64_t kScatterAhead = 2048;

// move(small, large) for the elements of inputs `in` of the unit and where their indices point to,
// offsets from the unit's first elements, or miss(small); false when an index lies outside, other
// than -1 where windows can be empty.
template <class Move, class Miss>
ARRAYNN_INLINE bool for_indices(const UnpoolProblem& p, const Block& b, const std::int64_t* indices,
                                Range in, const Move& move, const Miss& miss) {
  const auto out = static_cast<std::uint64_t>(p.out);
  const std::int64_t first = p.first;
  bool good = true;
  const auto look = [&](std::int64_t small, std::int64_t step, std::int64_t channel)
                        __attribute__((always_inline)) {
                          const std::int64_t at = indices[b.in + small] - first;
                          if (static_cast<std::uint64_t>(at) < out) {
                            move(small, at * step + channel);
                          } else {
                            good &= p.has_empty && at == -1;
                            miss(small);
                          }
                        };
  if (!p.channels_last) {
#pragma GCC unroll 4
    for (std::int64_t i = in.begin; i < in.end; ++i) look(i, 1, 0);
    return good;
  }
  for (std::int64_t i = in.begin * p.c; i < in.end * p.c; i += p.c) {
#pragma GCC unroll 4
    for (std::int64_t l = 0; l < b.width; ++l) look(i + l, p.c, l);
  }
  return good;
}

// Positions `out` of the unit.
template <class T>
ARRAYNN_INLINE void zero_block(const UnpoolProblem& p, const Block& b, Range out, T* y) {
  const std::int64_t step = p.channels_last ? p.c : 1;
  const bool whole = b.width == step;
  const std::int64_t pieces = whole ? 1 : out.end - out.begin;
  const std::int64_t size = whole ? (out.end - out.begin) * step : b.width;
  for (std::int64_t i = 0; i < pieces; ++i) {
    __builtin_memset(y + b.out + (out.begin + i) * step, 0,
                     static_cast<std::size_t>(size) * sizeof(T));
  }
}

template <class T>
bool unpool(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y, Range units) {
  bool good = true;
  for (std::int64_t u = units.begin; u < units.end; ++u) {
    const Block b = unpool_block(p, u);
    zero_block(p, b, {0, p.out}, y);
    const T* from = x + b.in;
    T* to = y + b.out;
    good &= for_indices(
        p, b, indices, {0, p.in},
        [&](std::int64_t small, std::int64_t large)
            __attribute__((always_inline)) { to[large] = from[small]; },
        [](std::int64_t) {});
  }
  return good;
}

// Position behind the last that inputs `in` of the unit point to.
ARRAYNN_INLINE std::int64_t end_of_indices(const UnpoolProblem& p, const Block& b,
                                           const std::int64_t* indices, Range in) {
  std::int64_t last = -1;
  const std::int64_t step = p.channels_last ? p.c : 1, n = in.end - in.begin;
  const bool whole = b.width == step;
  for (std::int64_t i = 0; i < (whole ? 1 : n); ++i) {
    const std::int64_t* at = indices + b.in + (in.begin + i) * step;
    const std::int64_t count = whole ? n * step : b.width;
    for (std::int64_t l = 0; l < count; ++l) last = max_i(last, at[l]);
  }
  return min_i(p.out, last + 1);
}

// Sums in the order of x. Positions are set to zero just ahead of their first element, in cache:
// those of pooling go up.
template <class T>
bool scatter(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y, Range units) {
  bool good = true;
  // Small planes are set to zero many at a time.
  const std::int64_t group =
      p.channels_last || p.zeroed ? 1 : max_i(1, kScatterAhead / max_i(1, p.out));
  for (std::int64_t u = units.begin; u < units.end; ++u) {
    const Block b = unpool_block(p, u);
    const T* from = x + b.in;
    T* to = y + b.out;
    if (group > 1 && (u - units.begin) % group == 0) {
      const std::int64_t planes = min_i(group, units.end - u);
      __builtin_memset(to, 0, static_cast<std::size_t>(planes * p.out) * sizeof(T));
    }
    const std::int64_t some = max_i(1, kScatterAhead / b.width);
    std::int64_t zeroed = p.zeroed || group > 1 ? p.out : 0;
    const auto zero_until = [&](std::int64_t end) {
      if (end > zeroed) zero_block(p, b, {zeroed, end}, y);
      zeroed = max_i(zeroed, end);
    };
    for (std::int64_t i = 0; i < p.in; i += some) {
      const Range in = {i, min_i(p.in, i + some)};
      if (zeroed < p.out) {
        zero_until(p.in <= some ? p.out : end_of_indices(p, b, indices, in));
      }
      good &= for_indices(
          p, b, indices, in,
          [&](std::int64_t small, std::int64_t large)
              __attribute__((always_inline)) { to[large] += from[small]; },
          [](std::int64_t) {});
    }
    zero_until(p.out);
  }
  return good;
}

template <class T>
bool unpool_backward(const UnpoolProblem& p, const T* dy, const std::int64_t* indices, T* dx,
                     Range units) {
  bool good = true;
  for (std::int64_t u = units.begin; u < units.end; ++u) {
    const Block b = unpool_block(p, u);
    const T* from = dy + b.out;
    T* to = dx + b.in;
    good &= for_indices(
        p, b, indices, {0, p.in},
        [&](std::int64_t small, std::int64_t large)
            __attribute__((always_inline)) { to[small] = from[large]; },
        [&](std::int64_t small) __attribute__((always_inline)) { to[small] = T(0); });
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
