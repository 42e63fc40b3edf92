// Winograd's minimal filtering F(4x4, 3x3): 4x4 outputs of a 3x3 correlation from a 6x6 tile by 36
// products a channel instead of 144 (Lavin and Gray, Fast Algorithms for Convolutional Neural
// Networks, 2015; points 0, 1, -1, 2, -2, infinity).
//
//   Y = A^T [ sum_c (G g_c G^T) * (B^T d_c B) ] A
//
// Lanes are channels: of the source for B, of the result for G and A.
#pragma once
#include "conv/conv.hpp"
#include "core/index.hpp"
#include "gemm/blocking.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

inline constexpr int kTileOut = 4, kTileIn = 6, kTilePoints = kTileIn * kTileIn;

// An axis of tiles of a convolution along `axis`, itself a convolution of stride 4 with `taps`
// neighbours from `first` on over a source of `size` positions.
struct TileAxis {
  std::int64_t offset[kTileIn];
  DirectAxis view;
};

static inline void make_tile_axis(const DirectAxis& axis, int taps, std::int64_t first,
                                  std::int64_t size, TileAxis* t) {
  for (int i = 0; i < taps; ++i) t->offset[i] = first + i;
  t->view = {ceil_div(axis.count, kTileOut), kTileOut, size, 1, 0, taps, t->offset, nullptr};
}

// Elements from one point of a tile to the next: an odd number of vectors, so that the 36 points lie
// in different cache sets.
template <class T>
ARRAYNN_INLINE std::int64_t point_step(std::int64_t elements) {
  const std::int64_t vectors = ceil_div(elements, kLanes<T>);
  return (vectors + (vectors % 2 == 0 ? 1 : 0)) * kLanes<T>;
}

// B^T d.
template <class T>
ARRAYNN_INLINE void input_points(const Vec<T> (&d)[kTileIn], Vec<T> (&v)[kTileIn]) {
  const Vec<T> two = Vec<T>::set1(T(2)), four = Vec<T>::set1(T(4)), five = Vec<T>::set1(T(5));
  const Vec<T> a = fma(-four, d[2], d[4]), b = fma(-four, d[1], d[3]);
  const Vec<T> c = d[4] - d[2], e = d[3] - d[1];
  v[0] = fma(four, d[0], fma(-five, d[2], d[4]));
  v[1] = a + b;
  v[2] = a - b;
  v[3] = fma(two, e, c);
  v[4] = fma(-two, e, c);
  v[5] = fma(four, d[1], fma(-five, d[3], d[5]));
}

// G g.
template <class T>
ARRAYNN_INLINE void weight_points(const Vec<T> (&g)[3], Vec<T> (&u)[kTileIn]) {
  const Vec<T> sixth = Vec<T>::set1(T(1) / T(6)), twelfth = Vec<T>::set1(T(1) / T(12));
  const Vec<T> even = (g[0] + g[2]) * -sixth, odd = g[1] * sixth;
  const Vec<T> outer = fma(Vec<T>::set1(T(1) / T(24)), g[0], g[2] * sixth);
  u[0] = g[0] * Vec<T>::set1(T(0.25));
  u[1] = even - odd;
  u[2] = even + odd;
  u[3] = fma(twelfth, g[1], outer);
  u[4] = fma(-twelfth, g[1], outer);
  u[5] = g[2];
}

// A^T m.
template <class T>
ARRAYNN_INLINE void output_values(const Vec<T> (&m)[kTileIn], Vec<T> (&y)[kTileOut]) {
  const Vec<T> a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
  y[0] = m[0] + a + c;
  y[1] = fma(Vec<T>::set1(T(2)), e, b);
  y[2] = fma(Vec<T>::set1(T(4)), c, a);
  y[3] = fma(Vec<T>::set1(T(8)), e, b) + m[5];
}

// By the weights, F(3x3, 4x4) at the same points: B is the same, a 4x4 tile of dy takes the place of the
// weights, and 3x3 taps that of the results.
template <class T>
ARRAYNN_INLINE void gradient_points(const Vec<T> (&g)[kTileOut], Vec<T> (&u)[kTileIn]) {
  const Vec<T> sixth = Vec<T>::set1(T(1) / T(6)), twelfth = Vec<T>::set1(T(1) / T(12));
  const Vec<T> even = (g[0] + g[2]) * -sixth, odd = (g[1] + g[3]) * sixth;
  const Vec<T> outer = fma(Vec<T>::set1(T(1) / T(24)), g[0], g[2] * sixth);
  const Vec<T> inner = fma(Vec<T>::set1(T(4)), g[3], g[1]) * twelfth;
  u[0] = g[0] * Vec<T>::set1(T(0.25));
  u[1] = even - odd;
  u[2] = even + odd;
  u[3] = outer + inner;
  u[4] = outer - inner;
  u[5] = g[3];
}
template <class T>
ARRAYNN_INLINE void tap_values(const Vec<T> (&m)[kTileIn], Vec<T> (&y)[3]) {
  const Vec<T> a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], e = m[3] - m[4];
  y[0] = m[0] + a + c;
  y[1] = fma(Vec<T>::set1(T(2)), e, b);
  y[2] = fma(Vec<T>::set1(T(4)), c, a) + m[5];
}

// v[p * v_step + c] = point p of the 6x6 tile whose pixels are `pixel` and whose rows are `row` apart.
// Channels up to the next whole vector are written.
template <class T>
static void transform_input(const T* src, std::int64_t row, std::int64_t pixel,
                            std::int64_t channels, T* v, std::int64_t v_step) {
  constexpr int kL = kLanes<T>;
  for (std::int64_t c = 0; c < channels; c += kL) {
    const std::int64_t n = min_i(kL, channels - c);
    Vec<T> half[kTileIn][kTileIn];  // [column][point]
    for (int j = 0; j < kTileIn; ++j) {
      const T* p = src + j * pixel + c;
      Vec<T> d[kTileIn];
      if (n == kL) {
        ARRAYNN_UNROLL for (int i = 0; i < kTileIn; ++i) d[i] = Vec<T>::load(p + i * row);
      } else {
        for (int i = 0; i < kTileIn; ++i) d[i] = load_n(p + i * row, n);
      }
      input_points(d, half[j]);
    }
    for (int i = 0; i < kTileIn; ++i) {
      const Vec<T> d[kTileIn] = {half[0][i], half[1][i], half[2][i],
                                 half[3][i], half[4][i], half[5][i]};
      Vec<T> points[kTileIn];
      input_points(d, points);
      ARRAYNN_UNROLL for (int j = 0; j < kTileIn; ++j) {
        points[j].store(v + (i * kTileIn + j) * v_step + c);
      }
    }
  }
}

// Likewise the points of a 4x4 tile of dy.
template <class T>
static void transform_gradient(const T* src, std::int64_t row, std::int64_t pixel,
                               std::int64_t channels, T* v, std::int64_t v_step) {
  constexpr int kL = kLanes<T>;
  for (std::int64_t c = 0; c < channels; c += kL) {
    const std::int64_t n = min_i(kL, channels - c);
    Vec<T> half[kTileOut][kTileIn];  // [column][point]
    for (int j = 0; j < kTileOut; ++j) {
      const T* p = src + j * pixel + c;
      Vec<T> d[kTileOut];
      ARRAYNN_UNROLL for (int i = 0; i < kTileOut; ++i) {
        d[i] = n == kL ? Vec<T>::load(p + i * row) : load_n(p + i * row, n);
      }
      gradient_points(d, half[j]);
    }
    for (int i = 0; i < kTileIn; ++i) {
      const Vec<T> d[kTileOut] = {half[0][i], half[1][i], half[2][i], half[3][i]};
      Vec<T> points[kTileIn];
      gradient_points(d, points);
      ARRAYNN_UNROLL for (int j = 0; j < kTileIn; ++j) {
        points[j].store(v + (i * kTileIn + j) * v_step + c);
      }
    }
  }
}

// u[(p * unit + c) * NR + j] = point p of the 3x3 weights packed[(tap * unit + c) * NR + j].
template <class T>
static void transform_weights(const T* packed, std::int64_t count, T* u, std::int64_t u_step) {
  constexpr int kL = kLanes<T>;
  const std::int64_t step = count * kNR<T>;
  for (std::int64_t i = 0; i < step; i += kL) {
    Vec<T> half[3][kTileIn];  // [column][point]
    ARRAYNN_UNROLL for (int j = 0; j < 3; ++j) {
      const Vec<T> g[3] = {Vec<T>::load(packed + j * step + i),
                           Vec<T>::load(packed + (3 + j) * step + i),
                           Vec<T>::load(packed + (6 + j) * step + i)};
      weight_points(g, half[j]);
    }
    ARRAYNN_UNROLL for (int r = 0; r < kTileIn; ++r) {
      const Vec<T> g[3] = {half[0][r], half[1][r], half[2][r]};
      Vec<T> points[kTileIn];
      weight_points(g, points);
      ARRAYNN_UNROLL for (int j = 0; j < kTileIn; ++j) {
        points[j].store(u + (r * kTileIn + j) * u_step + i);
      }
    }
  }
}

// The 4x4 values behind the points m[p * m_step].
template <class T>
ARRAYNN_INLINE void transform_output(const T* m, std::int64_t m_step,
                                     Vec<T> (&y)[kTileOut][kTileOut]) {
  Vec<T> half[kTileIn][kTileOut];  // [column][value]
  for (int j = 0; j < kTileIn; ++j) {
    Vec<T> points[kTileIn];
    ARRAYNN_UNROLL for (int i = 0; i < kTileIn; ++i) {
      points[i] = Vec<T>::load(m + (i * kTileIn + j) * m_step);
    }
    output_values(points, half[j]);
  }
  ARRAYNN_UNROLL for (int i = 0; i < kTileOut; ++i) {
    const Vec<T> points[kTileIn] = {half[0][i], half[1][i], half[2][i],
                                    half[3][i], half[4][i], half[5][i]};
    output_values(points, y[i]);
  }
}

// The 3x3 taps behind the points m[p * m_step].
template <class T>
ARRAYNN_INLINE void transform_taps(const T* m, std::int64_t m_step, Vec<T> (&y)[3][3]) {
  Vec<T> half[kTileIn][3];  // [column][tap]
  for (int j = 0; j < kTileIn; ++j) {
    Vec<T> points[kTileIn];
    ARRAYNN_UNROLL for (int i = 0; i < kTileIn; ++i) {
      points[i] = Vec<T>::load(m + (i * kTileIn + j) * m_step);
    }
    tap_values(points, half[j]);
  }
  ARRAYNN_UNROLL for (int i = 0; i < 3; ++i) {
    const Vec<T> points[kTileIn] = {half[0][i], half[1][i], half[2][i],
                                    half[3][i], half[4][i], half[5][i]};
    tap_values(points, y[i]);
  }
}

}  // namespace ARRAYNN_ISA_NAMESPACE
