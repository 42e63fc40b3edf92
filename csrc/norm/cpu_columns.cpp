// Channels last: coefficients are vectors over the channels, sums go down the columns.
#include "norm/loops.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Vectors of a strip of columns, whose sums stay in registers.
constexpr int kStripVectors = 4;

// f<W>(first column, lanes of the last vector) over strips of W vectors.
template <class T, class F>
ARRAYNN_INLINE void for_strips(std::int64_t c, const F& f) {
  constexpr int kL = kLanes<T>, kStrip = kStripVectors * kL;
  std::int64_t j = 0;
  for (; j + kStrip <= c; j += kStrip) f.template operator()<kStripVectors>(j, std::int64_t{kL});
  for (; j < c; j += kL) f.template operator()<1>(j, min_i(kL, c - j));
}

template <int kW, class T>
ARRAYNN_INLINE void load_strip(const T* p, std::int64_t lanes, Vec<T>* v) {
  ARRAYNN_UNROLL
  for (int k = 0; k < kW; ++k) {
    v[k] = kW == 1 ? load_part(p, lanes) : Vec<T>::load(p + k * kLanes<T>);
  }
}

template <int kW, class T>
ARRAYNN_INLINE void strip_moments(const T* x, std::int64_t rows, std::int64_t c, std::int64_t lanes,
                                  Moments* moments) {
  constexpr int kL = kLanes<T>;
  using V = Vec<T>;
  alignas(64) T pivot[kW * kL], first[kW * kL], second[kW * kL];
  const double inverse = 1.0 / static_cast<double>(rows);
  V p[kW], s[kW], q[kW], v[kW];
  for (int k = 0; k < kW; ++k) p[k] = V::zero();
  for (std::int64_t r = 0; r < rows; ++r) {
    load_strip<kW>(x + r * c, lanes, v);
    ARRAYNN_UNROLL
    for (int k = 0; k < kW; ++k) p[k] = p[k] + v[k];
  }
  for (int k = 0; k < kW; ++k) {
    p[k] = p[k] * V::set1(static_cast<T>(inverse));
    p[k].store(pivot + k * kL);
    s[k] = q[k] = V::zero();
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    load_strip<kW>(x + r * c, lanes, v);
    ARRAYNN_UNROLL
    for (int k = 0; k < kW; ++k) {
      const V d = v[k] - p[k];
      s[k] = s[k] + d;
      q[k] = fma(d, d, q[k]);
    }
  }
  for (int k = 0; k < kW; ++k) {
    s[k].store(first + k * kL);
    q[k].store(second + k * kL);
  }
  const std::int64_t count = kW == 1 ? lanes : kW * kL;
  for (std::int64_t j = 0; j < count; ++j) {
    const double d = static_cast<double>(first[j]);
    const double m2 = static_cast<double>(second[j]) - d * (d * inverse);
    moments[j] = {static_cast<double>(pivot[j]) + d * inverse, m2 < 0 ? 0.0 : m2};
  }
}

template <class T>
void moments(const T* x, std::int64_t rows, std::int64_t c, Moments* out) {
  for_strips<T>(c, [&]<int kW>(std::int64_t j, std::int64_t lanes) __attribute__((always_inline)) {
    strip_moments<kW>(x + j, rows, c, lanes, out + j);
  });
}

template <int kW, class T>
ARRAYNN_INLINE void strip_sums(const T* dy, const T* x, std::int64_t rows, std::int64_t c,
                               std::int64_t lanes, const T* m, GradientSums* out) {
  constexpr int kL = kLanes<T>;
  using V = Vec<T>;
  alignas(64) T first[kW * kL], second[kW * kL];
  V p[kW], s[kW], q[kW], g[kW], v[kW];
  load_strip<kW>(m, lanes, p);
  for (int k = 0; k < kW; ++k) s[k] = q[k] = V::zero();
  for (std::int64_t r = 0; r < rows; ++r) {
    load_strip<kW>(dy + r * c, lanes, g);
    load_strip<kW>(x + r * c, lanes, v);
    ARRAYNN_UNROLL
    for (int k = 0; k < kW; ++k) {
      s[k] = s[k] + g[k];
      q[k] = fma(g[k], v[k] - p[k], q[k]);
    }
  }
  for (int k = 0; k < kW; ++k) {
    s[k].store(first + k * kL);
    q[k].store(second + k * kL);
  }
  const std::int64_t count = kW == 1 ? lanes : kW * kL;
  for (std::int64_t j = 0; j < count; ++j) {
    out[j] = {static_cast<double>(first[j]), static_cast<double>(second[j])};
  }
}

template <class T>
void sums(const T* dy, const T* x, std::int64_t rows, std::int64_t c, const T* m,
          GradientSums* out) {
  for_strips<T>(c, [&]<int kW>(std::int64_t j, std::int64_t lanes) __attribute__((always_inline)) {
    strip_sums<kW>(dy + j, x + j, rows, c, lanes, m + j, out + j);
  });
}

template <class T>
void apply(const T* x, T* y, std::int64_t rows, std::int64_t c, const Affine<T>& k,
           const Activation& activation) {
  const Vec<T> low = floor_of<T>(activation);
  for (std::int64_t r = 0; r < rows; ++r, x += c, y += c) {
    for_run<T>(c, [&](std::int64_t j, std::int64_t lanes) __attribute__((always_inline)) {
      const Vec<T> d = load_part(x + j, lanes) - load_part(k.m + j, lanes);
      const Vec<T> v = fma(d, load_part(k.scale + j, lanes), load_part(k.shift + j, lanes));
      store_part(max(low, v), y + j, lanes);
    });
    activate_run(y, c, activation);
  }
}

template <class T>
void gradient(const T* dy, const T* x, T* dx, std::int64_t rows, std::int64_t c,
              const Slope<T>& k) {
  for (std::int64_t r = 0; r < rows; ++r, dy += c, x += c, dx += c) {
    for_run<T>(c, [&](std::int64_t j, std::int64_t lanes) __attribute__((always_inline)) {
      const Vec<T> d = load_part(x + j, lanes) - load_part(k.m + j, lanes);
      const Vec<T> shifted = fma(d, load_part(k.b + j, lanes), load_part(k.c + j, lanes));
      store_part(fma(load_part(dy + j, lanes), load_part(k.a + j, lanes), shifted), dx + j, lanes);
    });
  }
}

template <class T>
constexpr NormColumnTable<T> table() {
  return {&moments<T>, &apply<T>, &sums<T>, &gradient<T>};
}

}  // namespace

extern const NormKernels<NormColumnTable> norm_column_kernels = {table<float>(), table<double>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
