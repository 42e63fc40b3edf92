// Winograd F(3x3, 4x4): the gradient of a 3x3 convolution of stride 1 by its weights.
//
// A strip is some rows of tiles, 4x4 of dy and the 6x6 of x that they meet:
//   v   [36][tile][channel]: B^T x B,   g   [36][tile][column]: the points of dy
// both made by the team together. Then, a block of channels and a panel of columns at a time,
//   m   [36][channel][NR] += v^T g by the microkernel of the direct gradient, tiles as pixels
// and after the last strip dw = A^T m A. Every sum belongs to one member and runs over the tiles in
// ascending order.
#include "conv/pixel_ukernel.hpp"
#include "conv/strip.hpp"
#include "conv/winograd.hpp"
#include "core/parallel.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Elements of v and g of a strip: 8 MiB stay in L3, and long strips spare reading and writing m.
template <class T>
constexpr std::int64_t kStripElements =
    (std::int64_t{8} << 20) / static_cast<std::int64_t>(sizeof(T));
// Channels of a block: its m of a panel, 126 KiB at AVX-512, stays in L2.
constexpr std::int64_t kBlockChannels = 2 * kMR;

template <class T>
struct Plan {
  StripSource<T> x, dy;
  StripLayout x_strip, dy_strip;
  std::int64_t strips, tiles;  // of a strip, at most
  std::int64_t v_row, g_row, v_step, g_step, m_step;
  std::int64_t blocks, panels;
  std::int64_t staged_elements;  // of a member
};

struct TileAxes {
  TileAxis x_h, x_w, dy_h, dy_w;
};

template <class T>
void make_axes(const WeightGradient<T>& d, TileAxes* t) {
  make_tile_axis(d.h, kTileIn, d.h.offset[0], d.h.size, &t->x_h);
  make_tile_axis(d.w, kTileIn, d.w.offset[0], d.w.size, &t->x_w);
  make_tile_axis(d.h, kTileOut, 0, d.h.count, &t->dy_h);
  make_tile_axis(d.w, kTileOut, 0, d.w.count, &t->dy_w);
}

template <class T>
Plan<T> make_plan(const WeightGradient<T>& d, const TileAxes& t) {
  Plan<T> p{};
  p.x = {d.x, d.x_channels, d.x_channel, d.channels, &t.x_h.view, &t.x_w.view, d.channels_last};
  p.dy = {d.dy,         d.dy_channels, d.dy_channel,   d.columns,
          &t.dy_h.view, &t.dy_w.view,  d.channels_last};
  const std::int64_t width = t.x_w.view.count, rows = d.n * t.x_h.view.count;
  const std::int64_t fitting = kStripElements<T> / (kTilePoints * (d.channels + d.columns) * width);
  p.strips = ceil_div(rows, max_i(1, fitting));
  p.tiles = ceil_div(rows, p.strips) * width;
  // A member stages and transforms one row of tiles at a time.
  const StripLimits row{1, 0};
  p.x_strip = make_strip_layout(p.x, d.n, row);
  p.dy_strip = make_strip_layout(p.dy, d.n, row);
  p.v_row = round_up(d.channels, kLanes<T>);
  p.g_row = round_up(d.columns, kLanes<T>);
  if (rows_alias<T>(p.v_row)) p.v_row += kLanes<T>;
  if (rows_alias<T>(p.g_row)) p.g_row += kLanes<T>;
  p.v_step = point_step<T>(p.tiles * p.v_row);
  p.g_step = point_step<T>(p.tiles * p.g_row);
  p.m_step = point_step<T>(kBlockChannels * kNR<T>);
  p.blocks = ceil_div(d.channels, kBlockChannels);
  p.panels = ceil_div(d.columns, kNR<T>);
  p.staged_elements =
      round_up(p.x_strip.staged_elements, 16) + round_up(p.dy_strip.staged_elements, 16);
  return p;
}

// m of the team if a sum goes over several strips, else of a member.
template <class T>
std::int64_t m_elements(const Plan<T>& p, int threads) {
  return kTilePoints * p.m_step * (p.strips > 1 ? p.blocks * p.panels : threads);
}

template <class T>
constexpr std::int64_t kTapElements = 9 * kBlockChannels * kNR<T>;

template <class T>
std::int64_t winograd_weight_scratch(const WeightGradient<T>& d, int threads) {
  TileAxes t;
  make_axes(d, &t);
  const Plan<T> p = make_plan(d, t);
  return (kTilePoints * (p.v_step + p.g_step) + m_elements(p, threads) +
          threads * (p.staged_elements + kTapElements<T>)) *
         static_cast<std::int64_t>(sizeof(T));
}

// The points of tile rows [rows.begin, rows.end) of this member; `first` begins the strip.
template <class T>
void transform_rows(const WeightGradient<T>& d, const Plan<T>& p, Range rows, std::int64_t first,
                    T* staged, T* v, T* g) {
  const std::int64_t width = p.x.w->count;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    std::int64_t offset = 0;
    const std::int64_t tile = (r - first) * width;
    const T* x = stage_strip(p.x, p.x_strip, r, r + 1, staged, &offset, 0, 1) + offset;
    for (std::int64_t t = 0; t < width; ++t) {
      transform_input(x + t * kTileOut * p.x_strip.pixel, p.x_strip.columns * p.x_strip.pixel,
                      p.x_strip.pixel, d.channels, v + (tile + t) * p.v_row, p.v_step);
    }
    T* staged_dy = staged + round_up(p.x_strip.staged_elements, 16);
    const T* dy = stage_strip(p.dy, p.dy_strip, r, r + 1, staged_dy, &offset, 0, 1) + offset;
    for (std::int64_t t = 0; t < width; ++t) {
      transform_gradient(dy + t * kTileOut * p.dy_strip.pixel,
                         p.dy_strip.columns * p.dy_strip.pixel, p.dy_strip.pixel, d.columns,
                         g + (tile + t) * p.g_row, p.g_step);
    }
  }
}

// m[point][channel][NR] += the products of a strip's tiles.
template <class T>
void add_products(const Plan<T>& p, const T* v, const T* g, std::int64_t tiles, Range channels,
                  std::int64_t columns, T* m) {
  const PixelRow all{0, 0};
  const int vectors = columns > kLanes<T> ? 2 : 1;
  for (int point = 0; point < kTilePoints; ++point) {
    for (std::int64_t c = channels.begin; c < channels.end; c += kMR) {
      const std::int64_t count = min_i(kMR, channels.end - c);
      kTileTable<PixelTiles<T>>.at[count - 1][vectors - 1](
          v + point * p.v_step + c, &all, 1, tiles, p.v_row, g + point * p.g_step, p.g_row,
          m + point * p.m_step + (c - channels.begin) * kNR<T>, kNR<T>);
    }
  }
}

// dw of a block of channels and a panel of columns.
template <class T>
void store_taps(const WeightGradient<T>& d, const Plan<T>& p, const T* m, Range channels,
                std::int64_t j0, T* taps) {
  constexpr int kL = kLanes<T>;
  const std::int64_t columns = min_i(kNR<T>, d.columns - j0), count = channels.end - channels.begin;
  for (std::int64_t c = 0; c < count; ++c) {
    for (std::int64_t j = 0; j < columns; j += kL) {
      Vec<T> y[3][3];
      transform_taps(m + c * kNR<T> + j, p.m_step, y);
      for (int a = 0; a < 3; ++a) {
        for (int b = 0; b < 3; ++b) {
          y[a][b].store(taps + (c * 9 + d.h.kernel[a] * 3 + d.w.kernel[b]) * kNR<T> + j);
        }
      }
    }
  }
  T* dw = d.dw + (j0 * d.channels + channels.begin) * 9;
  transpose_copy(taps, kNR<T>, dw, d.channels * 9, count * 9, columns);
}

template <class T>
void run_winograd_weight(const WeightGradient<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    TileAxes t;
    make_axes(d, &t);
    const Plan<T> p = make_plan(d, t);
    T* v = static_cast<T*>(scratch);
    T* g = v + kTilePoints * p.v_step;
    T* m = g + kTilePoints * p.g_step;
    T* staged = m + m_elements(p, nthreads) + tid * (p.staged_elements + kTapElements<T>);
    T* taps = staged + p.staged_elements;
    const std::int64_t rows = d.n * t.x_h.view.count, m_block = kTilePoints * p.m_step;
    const Range units = split_range(p.blocks * p.panels, nthreads, tid);
    for (std::int64_t s = 0; s < p.strips; ++s) {
      const Range strip = split_range(rows, p.strips, s);
      const Range mine = split_range(strip.end - strip.begin, nthreads, tid);
      transform_rows(d, p, {strip.begin + mine.begin, strip.begin + mine.end}, strip.begin, staged,
                     v, g);
      team_barrier(nthreads);
      const std::int64_t tiles = (strip.end - strip.begin) * t.x_w.view.count;
      for (std::int64_t u = units.begin; u < units.end; ++u) {
        const std::int64_t j0 = u / p.blocks * kNR<T>, c0 = u % p.blocks * kBlockChannels;
        const Range channels{c0, min_i(d.channels, c0 + kBlockChannels)};
        T* sums = m + (p.strips > 1 ? u : tid) * m_block;
        if (s == 0) __builtin_memset(sums, 0, static_cast<std::size_t>(m_block) * sizeof(T));
        add_products(p, v, g + j0, tiles, channels, min_i(kNR<T>, d.columns - j0), sums);
        if (s + 1 == p.strips) store_taps(d, p, sums, channels, j0, taps);
      }
      if (s + 1 < p.strips) team_barrier(nthreads);
    }
  });
}

}  // namespace

extern const FloatKernels<WeightTable> winograd_weight_kernels = {
    {&winograd_weight_scratch<float>, &run_winograd_weight<float>},
    {&winograd_weight_scratch<double>, &run_winograd_weight<double>}};

}  // namespace ARRAYNN_ISA_NAMESPACE
