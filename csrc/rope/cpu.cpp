#include "rope/rope.hpp"
#include "simd/storage.hpp"
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Pairs (a, b) turned by the angles of c and s.
template <class T, bool kBack>
ARRAYNN_INLINE void turn_pairs(Vec<T> c, Vec<T> s, Vec<T>* a, Vec<T>* b) {
  const Vec<T> sine = kBack ? -s : s;
  const Vec<T> first = *a, second = *b;
  *a = fma(first, c, -(second * sine));
  *b = fma(second, c, first * sine);
}

template <class S, bool kBack>
ARRAYNN_INLINE void turn_halves(const S* x, const S* cos, const S* sin, std::int64_t half, S* y) {
  using T = Compute<S>;
  constexpr int kL = kLanes<T>;
  std::int64_t i = 0;
  for (; i + kL <= half; i += kL) {
    Vec<T> a = load(x + i), b = load(x + half + i);
    turn_pairs<T, kBack>(load(cos + i), load(sin + i), &a, &b);
    store(a, y + i);
    store(b, y + half + i);
  }
  if (const std::int64_t n = half - i; n > 0) {
    Vec<T> a = load_n(x + i, n), b = load_n(x + half + i, n);
    turn_pairs<T, kBack>(load_n(cos + i, n), load_n(sin + i, n), &a, &b);
    store_n(a, y + i, n);
    store_n(b, y + half + i, n);
  }
}

// Lanes of two vectors side by side: the even or the odd ones.
template <class T, bool kOdd>
struct Alternate {
  static constexpr int at(int lane) { return 2 * lane + (kOdd ? 1 : 0); }
};
// A lane of the first vector, the same of the second, the next ones; from the middle on.
template <class T, bool kUpper>
struct Zip {
  static constexpr int at(int lane) {
    return lane / 2 + (kUpper ? kLanes<T> / 2 : 0) + (lane % 2) * kLanes<T>;
  }
};

template <class S, bool kBack>
ARRAYNN_INLINE void turn_neighbours(const S* x, const S* cos, const S* sin, std::int64_t half,
                                    S* y) {
  using T = Compute<S>;
  constexpr int kL = kLanes<T>;
  for (std::int64_t i = 0; i < half; i += kL) {
    const std::int64_t n = min_i(half - i, kL), low = min_i(2 * n, kL), high = 2 * n - low;
    const bool whole = n == kL;
    const S* from = x + 2 * i;
    const Vec<T> first = whole ? load(from) : load_n(from, low);
    const Vec<T> second = whole ? load(from + kL) : load_n(from + low, high);
    const Vec<T> c = whole ? load(cos + i) : load_n(cos + i, n);
    const Vec<T> s = whole ? load(sin + i) : load_n(sin + i, n);
    Vec<T> a = shuffle<Alternate<T, false>>(first, second);
    Vec<T> b = shuffle<Alternate<T, true>>(first, second);
    turn_pairs<T, kBack>(c, s, &a, &b);
    const Vec<T> lower = shuffle<Zip<T, false>>(a, b), upper = shuffle<Zip<T, true>>(a, b);
    if (whole) {
      store(lower, y + 2 * i);
      store(upper, y + 2 * i + kL);
    } else {
      store_n(lower, y + 2 * i, low);
      store_n(upper, y + 2 * i + low, high);
    }
  }
}

template <class S, bool kBack>
void turn(const RopeShape& p, const S* x, const S* cos, const S* sin, S* y, std::int64_t begin,
          std::int64_t end) {
  using T = Compute<S>;
  const std::int64_t turned = 2 * p.half;
  std::int64_t at[3] = {begin / (p.size[1] * p.size[2]), begin / p.size[2] % p.size[1],
                        begin % p.size[2]};
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t l = at[p.along];
    const std::int64_t row =
        p.positions == nullptr ? p.first + l : p.positions[at[0] * p.positions_b + l];
    const std::int64_t angles = at[0] * p.table_b + row * p.half;
    const S* from = x + at[0] * p.strides[0] + at[1] * p.strides[1] + at[2] * p.strides[2];
    S* to = y + r * p.dim;
    if (p.interleaved) {
      turn_neighbours<S, kBack>(from, cos + angles, sin + angles, p.half, to);
    } else {
      turn_halves<S, kBack>(from, cos + angles, sin + angles, p.half, to);
    }
    std::int64_t j = turned;
    for (; j + kLanes<T> <= p.dim; j += kLanes<T>) store(load(from + j), to + j);
    if (j < p.dim) store_n(load_n(from + j, p.dim - j), to + j, p.dim - j);
    for (int i = 2; ++at[i] == p.size[i] && i > 0; --i) at[i] = 0;
  }
}

template <class T>
constexpr RopeTable<T> table() {
  return {&turn<T, false>, &turn<T, true>};
}

}  // namespace

extern const RopeKernels rope_kernels = {table<float>(), table<double>(), table<Half>(),
                                         table<Bfloat16>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
