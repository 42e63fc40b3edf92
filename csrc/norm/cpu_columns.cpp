// Channels last: coefficients are vectors over the channels, sums go down the columns.
#include "norm/loops.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Vectors of a strip of columns, whose sums stay in registers.
constexpr int kStripVectors = 4;
// Rows of a tile: 4 KiB of a strip.
constexpr std::int64_t kTileRows = 16;

// f<W>(first column, lanes of the last vector) over strips of W vectors.
template <class T, class F>
ARRAYNN_INLINE void for_strips(std::int64_t c, const F& f) {
  constexpr int kL = kLanes<T>, kStrip = kStripVectors * kL;
  std::int64_t j = 0;
  for (; j + kStrip <= c; j += kStrip) f.template operator()<kStripVectors>(j, std::int64_t{kL});
  for (; j < c; j += kL) f.template operator()<1>(j, min_i(kL, c - j));
}

template <int kW, class S, class T>
ARRAYNN_INLINE void load_strip(const S* p, std::int64_t lanes, Vec<T>* v) {
  ARRAYNN_UNROLL
  for (int k = 0; k < kW; ++k) {
    v[k] = kW == 1 ? load_lanes(p, lanes) : load(p + k * kLanes<T>);
  }
}

template <int kW, class S>
ARRAYNN_INLINE void strip_moments(const S* x, std::int64_t rows, std::int64_t c, std::int64_t lanes,
                                  Moments* moments) {
  using T = Compute<S>;
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

template <class S>
void moments(const S* x, std::int64_t rows, std::int64_t c, Moments* out) {
  for_strips<Compute<S>>(
      c, [&]<int kW>(std::int64_t j, std::int64_t lanes)
             __attribute__((always_inline)) { strip_moments<kW>(x + j, rows, c, lanes, out + j); });
}

template <int kW, class S, class T>
ARRAYNN_INLINE void strip_sums(const S* dy, const S* x, std::int64_t rows, std::int64_t c,
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

template <class S>
void sums(const S* dy, const S* x, std::int64_t rows, std::int64_t c, const Compute<S>* m,
          GradientSums* out) {
  for_strips<Compute<S>>(
      c, [&]<int kW>(std::int64_t j, std::int64_t lanes) __attribute__((always_inline)) {
        strip_sums<kW>(dy + j, x + j, rows, c, lanes, m + j, out + j);
      });
}

// f<W>(first row, rows, first column, lanes) over strips of a few rows each: coefficients are loaded
// once for those, and lines are met nearly in the order of memory.
template <class T, class F>
ARRAYNN_INLINE void for_tiles(std::int64_t rows, std::int64_t c, const F& f) {
  for (std::int64_t r = 0; r < rows; r += kTileRows) {
    const std::int64_t n = min_i(kTileRows, rows - r);
    for_strips<T>(c, [&]<int kW>(std::int64_t j, std::int64_t lanes) __attribute__((
                         always_inline)) { f.template operator()<kW>(r, n, j, lanes); });
  }
}

// Whether every strip of every row begins at an address of whole vectors.
template <class S>
ARRAYNN_INLINE bool rows_are_vectors(const S* p, std::int64_t c) {
  constexpr int kL = kLanes<Compute<S>>;
  return reinterpret_cast<std::uintptr_t>(p) % (kL * sizeof(S)) == 0 && c % kL == 0;
}
template <int kW, class S, class T>
ARRAYNN_INLINE void store_strip(const Vec<T>* v, S* p, std::int64_t lanes, bool stream) {
  ARRAYNN_UNROLL
  for (int k = 0; k < kW; ++k) {
    if (stream) {
      stream_to(v[k], p + k * kLanes<T>);
    } else {
      store_lanes(v[k], p + k * kLanes<T>, lanes);
    }
  }
}

template <class S>
void apply(const S* x, S* y, std::int64_t rows, std::int64_t c, const Affine<Compute<S>>& k,
           const Activation& activation) {
  using T = Compute<S>;
  const Vec<T> low = floor_of<T>(activation);
  const bool stream = k.stream && rows_are_vectors(y, c);
  for_tiles<T>(rows, c,
               [&]<int kW>(std::int64_t r, std::int64_t n, std::int64_t j, std::int64_t lanes)
                   __attribute__((always_inline)) {
                     Vec<T> m[kW], scale[kW], shift[kW], v[kW];
                     load_strip<kW>(k.m + j, lanes, m);
                     load_strip<kW>(k.scale + j, lanes, scale);
                     load_strip<kW>(k.shift + j, lanes, shift);
                     for (std::int64_t i = r * c + j; i < (r + n) * c; i += c) {
                       load_strip<kW>(x + i, lanes, v);
                       ARRAYNN_UNROLL
                       for (int w = 0; w < kW; ++w)
                         v[w] = max(low, fma(v[w] - m[w], scale[w], shift[w]));
                       store_strip<kW>(v, y + i, lanes, stream);
                     }
                   });
  activate_run(y, rows * c, activation);
}

template <class S>
void gradient(const S* dy, const S* x, S* dx, std::int64_t rows, std::int64_t c,
              const Slope<Compute<S>>& k) {
  using T = Compute<S>;
  const bool stream = k.stream && rows_are_vectors(dx, c);
  for_tiles<T>(rows, c,
               [&]<int kW>(std::int64_t r, std::int64_t n, std::int64_t j, std::int64_t lanes)
                   __attribute__((always_inline)) {
                     Vec<T> m[kW], ka[kW], kb[kW], kc[kW], g[kW], v[kW];
                     load_strip<kW>(k.m + j, lanes, m);
                     load_strip<kW>(k.a + j, lanes, ka);
                     load_strip<kW>(k.b + j, lanes, kb);
                     load_strip<kW>(k.c + j, lanes, kc);
                     for (std::int64_t i = r * c + j; i < (r + n) * c; i += c) {
                       load_strip<kW>(dy + i, lanes, g);
                       load_strip<kW>(x + i, lanes, v);
                       ARRAYNN_UNROLL
                       for (int w = 0; w < kW; ++w) {
                         v[w] = fma(g[w], ka[w], fma(v[w] - m[w], kb[w], kc[w]));
                       }
                       store_strip<kW>(v, dx + i, lanes, stream);
                     }
                   });
}

template <class T>
constexpr NormColumnTable<T> table() {
  return {&moments<T>, &apply<T>, &sums<T>, &gradient<T>};
}

}  // namespace

extern const StorageKernels<NormColumnTable> norm_column_kernels = {
    table<float>(), table<double>(), table<Half>(), table<Bfloat16>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
