// Max unpooling: moves elements to given positions of their planes, and back.
#include "pool/tables.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Of a unit: a plane (channels_first), or a block of channels of a sample (channels_last).
struct Block {
  std::int64_t in, out, step, width;  // first elements, distance of two positions, channels
};

ARRAYNN_INLINE Block unpool_block(const UnpoolProblem& p, std::int64_t unit) {
  if (!p.channels_last) return {unit * p.in, unit * p.out, 1, 1};
  const std::int64_t blocks = ceil_div(p.c, kUnpoolChannels);
  const std::int64_t sample = unit / blocks, first = unit % blocks * kUnpoolChannels;
  return {sample * p.in * p.c + first, sample * p.out * p.c + first, p.c,
          min_i(kUnpoolChannels, p.c - first)};
}

// move(small, large) for every element of the unit and where its index points to.
template <class Move>
ARRAYNN_INLINE bool for_indices(const UnpoolProblem& p, const Block& b, const std::int64_t* indices,
                                const Move& move) {
  bool good = true;
  for (std::int64_t i = 0; i < p.in; ++i) {
    for (std::int64_t l = 0; l < b.width; ++l) {
      const std::int64_t small = b.in + i * b.step + l, at = indices[small];
      const bool inside = at >= 0 && at < p.out;
      good &= inside;
      move(small, inside ? b.out + at * b.step + l : -1);
    }
  }
  return good;
}

template <class T>
bool unpool(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y, Range units) {
  bool good = true;
  for (std::int64_t u = units.begin; u < units.end; ++u) {
    const Block b = unpool_block(p, u);
    if (b.step == 1) {
      __builtin_memset(y + b.out, 0, static_cast<std::size_t>(p.out) * sizeof(T));
    } else {
      for (std::int64_t i = 0; i < p.out; ++i) {
        __builtin_memset(y + b.out + i * b.step, 0, static_cast<std::size_t>(b.width) * sizeof(T));
      }
    }
    good &= for_indices(p, b, indices,
                        [&](std::int64_t small, std::int64_t large) __attribute__((always_inline)) {
                          if (large >= 0) y[large] = x[small];
                        });
  }
  return good;
}

template <class T>
bool unpool_backward(const UnpoolProblem& p, const T* dy, const std::int64_t* indices, T* dx,
                     Range units) {
  bool good = true;
  for (std::int64_t u = units.begin; u < units.end; ++u) {
    const Block b = unpool_block(p, u);
    good &= for_indices(p, b, indices,
                        [&](std::int64_t small, std::int64_t large) __attribute__((always_inline)) {
                          dx[small] = large >= 0 ? dy[large] : T(0);
                        });
  }
  return good;
}

}  // namespace

#define ARRAYNN_UNPOOL(T, suffix)                                                                 \
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
