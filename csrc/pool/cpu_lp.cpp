// Lp pooling, and what its gradient needs beside that of an average.
#include "pool/reduce.hpp"
#include "pool/staged.hpp"
#include "pool/tables.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

ARRAYNN_INLINE float power_of(float x, float p) { return __builtin_powf(x, p); }
ARRAYNN_INLINE double power_of(double x, double p) { return __builtin_pow(x, p); }

// x^p. Norms other than 1 and 2 are rare: the C library's function, lane by lane.
template <class T>
ARRAYNN_INLINE Vec<T> power(Vec<T> x, double p) {
  if (p == 1) return x;
  if (p == 2) return x * x;
  T lanes[kLanes<T>];
  x.store(lanes);
  for (T& lane : lanes) lane = power_of(lane, static_cast<T>(p));
  return Vec<T>::load(lanes);
}
template <class T>
ARRAYNN_INLINE Vec<T> root(Vec<T> x, double p) {
  return p == 2 ? sqrt(x) : power(x, 1 / p);
}

// What the sum of a window is multiplied by: padding counts, what ceil_mode reads beyond it does not.
template <class T>
ARRAYNN_INLINE T kernel_over_taps(const PoolProblem& p, std::int64_t oh, std::int64_t ow) {
  const std::int64_t taps = counted_taps(p.h, oh, true) * counted_taps(p.w, ow, true);
  return static_cast<T>(p.h.kernel * p.w.kernel) / static_cast<T>(taps);
}

template <class T>
struct Lp {
  double norm;
  bool with_root;
  const T* columns = nullptr;  // taps along the row
  std::int64_t oh = 0;
  Vec<T> pixel = Vec<T>::zero(), all = Vec<T>::zero(), row_taps = Vec<T>::zero();

  ARRAYNN_MEMBER Vec<T> identity() const { return Vec<T>::zero(); }
  ARRAYNN_MEMBER Vec<T> map(Vec<T> v) const { return power(v, norm); }
  ARRAYNN_MEMBER Vec<T> combine(Vec<T> acc, Vec<T> v) const { return acc + v; }
  ARRAYNN_MEMBER void begin(const PoolProblem& p, const Row<T>& r) {
    for (std::int64_t o = 0; o < p.w.out; ++o) {
      r.out[0][o] = static_cast<T>(counted_taps(p.w, o, true));
    }
    columns = r.out[0];
  }
  ARRAYNN_MEMBER void set_row(const PoolProblem& p, std::int64_t row) {
    oh = row;
    all = Vec<T>::set1(static_cast<T>(p.h.kernel * p.w.kernel));
    row_taps = Vec<T>::set1(static_cast<T>(counted_taps(p.h, row, true)));
  }
  ARRAYNN_MEMBER void set_pixel(const PoolProblem& p, std::int64_t ow) {
    pixel = Vec<T>::set1(kernel_over_taps<T>(p, oh, ow));
  }
  ARRAYNN_MEMBER Vec<T> finish_columns(Vec<T> v, std::int64_t o) const {
    return with_root ? root(v * (all / (Vec<T>::load(columns + o) * row_taps)), norm) : v;
  }
  ARRAYNN_MEMBER Vec<T> finish(Vec<T> v) const { return with_root ? root(v * pixel, norm) : v; }
};

template <class T>
void lp(const PoolProblem& p, double norm, bool with_root, const T* x, T* y, Range rows,
        void* scratch) {
  const Lp<T> whole{norm, with_root};
  if (is_staged(p, PoolTask::kSum)) {
    return pool_staged(p, x, y, nullptr, rows, scratch,
                       [&](const PoolProblem& b, const T* in, T* out, std::int64_t*) {
                         Lp<T> op = whole;
                         reduce_channels_last(b, op, in, out, {0, b.h.out});
                       });
  }
  reduce_windows(p, whole, x, y, rows, scratch);
}

// dy k/taps y^(1 - p): what every tap of a window shares. 0 where y is, unless p = 1.
template <class T>
ARRAYNN_INLINE Vec<T> lp_share(Vec<T> dy, Vec<T> y, Vec<T> scale, double norm) {
  if (norm == 1) return dy * scale;
  const Vec<T> share = norm == 2 ? dy * scale / y : dy * scale * power(y, 1 - norm);
  return select(y == Vec<T>::zero(), Vec<T>::zero(), share);
}

template <class T>
void lp_shares(const PoolProblem& p, double norm, const T* dy, const T* y, T* shares, Range rows) {
  constexpr std::int64_t kL = kLanes<T>;
  const std::int64_t length = p.w.out * (p.channels_last ? p.c : 1);
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t oh = r % p.h.out, at = r * length;
    const auto some = [&](std::int64_t i, std::int64_t n,
                          Vec<T> scale) __attribute__((always_inline)) {
      const Vec<T> share =
          lp_share(load_lanes(dy + at + i, n), load_lanes(y + at + i, n), scale, norm);
      store_lanes(share, shares + at + i, n);
    };
    for (std::int64_t ow = 0; p.channels_last && ow < p.w.out; ++ow) {
      const Vec<T> scale = Vec<T>::set1(kernel_over_taps<T>(p, oh, ow));
      for (std::int64_t c = 0; c < p.c; c += kL) some(ow * p.c + c, p.c - c, scale);
    }
    for (std::int64_t ow = 0; !p.channels_last && ow < p.w.out; ow += kL) {
      T lanes[kL] = {};
      for (std::int64_t l = 0; l < min_i(kL, p.w.out - ow); ++l) {
        lanes[l] = kernel_over_taps<T>(p, oh, ow + l);
      }
      some(ow, p.w.out - ow, Vec<T>::load(lanes));
    }
  }
}

// dx *= x^(p - 1)
template <class T>
void lp_slopes(double norm, const T* x, T* dx, Range elements) {
  for (std::int64_t i = elements.begin; i < elements.end; i += kLanes<T>) {
    const std::int64_t n = elements.end - i;
    store_lanes(load_lanes(dx + i, n) * power(load_lanes(x + i, n), norm - 1), dx + i, n);
  }
}

}  // namespace

#define ARRAYNN_LP(T, suffix)                                                                    \
  void lp_##suffix(const PoolProblem& p, double norm, bool root, const T* x, T* y, Range rows,   \
                   void* scratch) {                                                              \
    lp(p, norm, root, x, y, rows, scratch);                                                      \
  }                                                                                              \
  void lp_shares_##suffix(const PoolProblem& p, double norm, const T* dy, const T* y, T* shares, \
                          Range rows) {                                                          \
    lp_shares(p, norm, dy, y, shares, rows);                                                     \
  }                                                                                              \
  void lp_slopes_##suffix(double norm, const T* x, T* dx, Range elements) {                      \
    lp_slopes(norm, x, dx, elements);                                                            \
  }
ARRAYNN_LP(float, f32)
ARRAYNN_LP(double, f64)
#undef ARRAYNN_LP

}  // namespace ARRAYNN_ISA_NAMESPACE
