// Max unpooling: moves elements to given positions of their planes, and back.
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

// move(small, large, inside) for every element of the unit and where its index points to, offsets
// from the unit's first elements; false where an index does not lie inside.
template <class Move>
ARRAYNN_INLINE bool for_indices(const UnpoolProblem& p, const Block& b, const std::int64_t* indices,
                                const Move& move) {
  const auto out = static_cast<std::uint64_t>(p.out);
  bool good = true;
  if (!p.channels_last) {
    for (std::int64_t i = 0; i < p.in; ++i) {
      const std::int64_t at = indices[b.in + i];
      const bool inside = static_cast<std::uint64_t>(at) < out;
      good &= inside;
      move(i, at, inside);
    }
    return good;
  }
  for (std::int64_t i = 0; i < p.in * p.c; i += p.c) {
    for (std::int64_t l = 0; l < b.width; ++l) {
      const std::int64_t at = indices[b.in + i + l];
      const bool inside = static_cast<std::uint64_t>(at) < out;
      good &= inside;
      move(i + l, inside ? at * p.c + l : 0, inside);
    }
  }
  return good;
}

template <class T>
bool unpool(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y, Range units) {
  bool good = true;
  for (std::int64_t u = units.begin; u < units.end; ++u) {
    const Block b = unpool_block(p, u);
    const std::int64_t step = p.channels_last ? p.c : 1;
    const bool whole = b.width == step;
    const std::int64_t pieces = whole ? 1 : p.out, size = whole ? p.out * step : b.width;
    for (std::int64_t i = 0; i < pieces; ++i) {
      __builtin_memset(y + b.out + i * step, 0, static_cast<std::size_t>(size) * sizeof(T));
    }
    const T* from = x + b.in;
    T* to = y + b.out;
    good &= for_indices(p, b, indices,
                        [&](std::int64_t small, std::int64_t large, bool inside)
                            __attribute__((always_inline)) {
                              if (inside) to[large] = from[small];
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
    const T* from = dy + b.out;
    T* to = dx + b.in;
    good &= for_indices(
        p, b, indices,
        [&](std::int64_t small, std::int64_t large, bool inside)
            __attribute__((always_inline)) { to[small] = inside ? from[large] : T(0); });
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
