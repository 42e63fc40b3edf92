// Panels of a convolution whose result is pooled: [row][column][channel of the panel], first the rows
// that the strip before kept, then those of this strip. What lies there is an image of channels_last
// with the panel's channels, whatever the layout, and the pooling family pools it as such.
#pragma once
#include "conv/panel.hpp"
#include "conv/pooled_rows.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// Pooled pixels that are formed together, before they go to their planes or pixels.
inline constexpr std::int64_t kPooledPixels = 256;

// Elements of a member's scratch, for strips of at most `rows` rows.
template <class T>
struct PooledSizes {
  std::int64_t band, kept, pooled;  // kept: of one panel
  std::int64_t chunk;               // pooled rows that are formed together

  std::int64_t all(std::int64_t panels) const { return band + panels * kept + pooled; }
};

template <class T>
static PooledSizes<T> pooled_sizes(const DirectConv<T>& d, std::int64_t rows) {
  const PoolProblem& p = d.pool->p;
  const std::int64_t row = p.w.size * kNR<T>, kept = kept_rows(p.h);
  const std::int64_t chunk = max_i(1, kPooledPixels / p.w.out);
  return {(kept + rows) * row, kept * row, chunk * p.w.out * kNR<T>, chunk};
}

// One panel of one strip in the member's scratch.
template <class T>
struct PooledPanel {
  const DirectConv<T>& d;
  const PooledStrip& strip;
  std::int64_t j0, columns, step;
  std::int64_t row;  // elements of a row of the band
  T *band, *pooled, *kept;
  std::int64_t chunk;
};

template <class T>
static PooledPanel<T> pooled_panel(const DirectConv<T>& d, const PooledStrip& strip,
                                   std::int64_t rows, std::int64_t panel, T* scratch) {
  const PooledSizes<T> sizes = pooled_sizes(d, rows);
  const std::int64_t j0 = panel * kNR<T>, columns = min_i(kNR<T>, d.columns - j0);
  const std::int64_t step = panel_step(d, columns);
  T* pooled = scratch + sizes.band;
  return {d,          strip,  j0,
          columns,    step,   d.w.count * step,
          scratch,    pooled, pooled + sizes.pooled + panel * sizes.kept,
          sizes.chunk};
}

// Brings the kept rows; returns where the strip's own begin.
template <class T>
static T* begin_panel(const PooledPanel<T>& p) {
  const std::int64_t count = (p.strip.rows.begin - p.strip.first) * p.row;
  __builtin_memcpy(p.band, p.kept, static_cast<std::size_t>(count) * sizeof(T));
  return p.band + count;
}

// Pooled rows of `sample` from row o on, as band `b` of x gives them, go to their places.
template <class T>
static void pool_band(const PooledPanel<T>& p, const PoolProblem& b, const T* x,
                      std::int64_t sample, std::int64_t o) {
  const DirectConv<T>& d = p.d;
  const PoolAxis &h = d.pool->p.h, &w = d.pool->p.w;
  const std::int64_t channel = d.out_channel + p.j0, pixels = b.h.out * w.out;
  if (!d.channels_last) {
    const std::int64_t plane = h.out * w.out;
    T* out = d.out + (sample * d.out_channels + channel) * plane + o * w.out;
    d.pool->run_band(b, x, p.pooled);
    return transpose_copy(p.pooled, p.step, out, plane, pixels, p.columns);
  }
  T* out = d.out + (sample * h.out + o) * w.out * d.out_channels + channel;
  if (p.step == p.columns && p.step == d.out_channels) return d.pool->run_band(b, x, out);
  d.pool->run_band(b, x, p.pooled);
  for (std::int64_t i = 0; i < pixels; ++i) {
    __builtin_memcpy(out + i * d.out_channels, p.pooled + i * p.step,
                     static_cast<std::size_t>(p.columns) * sizeof(T));
  }
}

// Pools what the strip finishes and keeps what the next one needs.
template <class T>
static void finish_panel(const PooledPanel<T>& p) {
  const PoolProblem& whole = p.d.pool->p;
  const PooledStrip& s = p.strip;
  for_pooled_samples(whole.h, s, [&](std::int64_t sample, Range rows, Range out) {
    const T* x = p.band + (sample * whole.h.size + rows.begin - s.first) * p.row;
    for (std::int64_t o = out.begin; o < out.end; o += p.chunk) {
      const Range part{o, min_i(out.end, o + p.chunk)};
      pool_band(p, pooled_band(whole, p.step, rows, part), x, sample, o);
    }
  });
  __builtin_memcpy(p.kept, p.band + (s.keep - s.first) * p.row,
                   static_cast<std::size_t>((s.rows.end - s.keep) * p.row) * sizeof(T));
}

}  // namespace ARRAYNN_ISA_NAMESPACE
