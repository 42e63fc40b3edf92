// Gradients by the weight and by the bias.
#include "conv/border.hpp"
#include "conv/pixel_ukernel.hpp"
#include "conv/strip.hpp"
#include "core/parallel.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Of a strip that is read by units of channels: a unit of its pixels stays in cache while it is multiplied,
// and every strip more would read and write all sums again.
constexpr StripLimits kUnitSumLimits{1024, std::int64_t{8} << 20};

template <class T>
struct Plan {
  StripLayout strip;
  Units units;
  Runs runs;
  bool store_at_once;  // one strip: a member sums a unit of a panel and writes it to dw
  bool dy_in_place;
  std::int64_t ld_dy, ld_acc;
  std::int64_t acc_elements, dy_elements, table_entries;
};

template <class T>
StripSource<T> source_of(const WeightGradient<T>& d) {
  return {d.x, d.x_channels, d.x_channel, d.channels, &d.h, &d.w, d.channels_last, d.depth};
}

template <class T>
Plan<T> make_plan(const WeightGradient<T>& d) {
  Plan<T> p{};
  p.units = make_units<T>(d.h, d.w, d.channels);
  const bool units = p.units.count > 1;
  p.strip = make_strip_layout(source_of(d), d.n, units ? kUnitSumLimits : kStripLimits);
  p.runs = make_runs<T>(d.h, d.w, p.units, p.strip.pixel);
  p.store_at_once = units && d.n * d.h.count <= p.strip.rows;
  p.dy_in_place = d.channels_last && d.columns % kLanes<T> == 0;
  const std::int64_t padded = round_up(d.columns, kLanes<T>);
  p.ld_dy = p.dy_in_place ? d.dy_channels : padded;
  p.ld_acc = p.store_at_once ? kNR<T> : padded;
  p.acc_elements = p.store_at_once ? kKC<T> * kNR<T> : p.runs.taps * p.runs.run * padded;
  p.dy_elements = p.dy_in_place ? 0 : p.strip.rows * d.w.count * p.ld_dy;
  p.table_entries = round_up(p.runs.taps + d.kernel_h * d.kernel_w + p.strip.rows + d.h.taps +
                                 2 * d.w.taps + d.h.taps * p.strip.rows * kPixelRowEntries,
                             8);
  return p;
}

template <class T>
std::int64_t acc_bytes(const Plan<T>& p, int threads) {
  const auto item = static_cast<std::int64_t>(sizeof(T));
  return round_up((p.store_at_once ? threads : 1) * p.acc_elements * item, 64);
}

// Scratch: [accumulators of the team, or one unit a member][staged x][staged dy], then the tables
// of every member.
template <class T>
std::int64_t weight_scratch(const WeightGradient<T>& d, int threads) {
  const Plan<T> p = make_plan(d);
  const auto item = static_cast<std::int64_t>(sizeof(T));
  return acc_bytes(p, threads) + round_up(p.strip.staged_elements * item, 64) +
         round_up(p.dy_elements * item, 64) + threads * p.table_entries * 8;
}

// This member's share of dy of output rows [g0, g1) as [pixel][column].
template <class T>
void stage_dy(const WeightGradient<T>& d, const Plan<T>& p, std::int64_t g0, std::int64_t g1,
              T* staged, int part, int parts) {
  const std::int64_t width = d.w.count, plane = d.h.count * width;
  const Range mine = split_range(g1 - g0, parts, part);
  for (std::int64_t g = g0 + mine.begin; g < g0 + mine.end;) {
    const std::int64_t sample = g / d.h.count, a = g % d.h.count;
    const std::int64_t rows = min_i(g0 + mine.end - g, d.h.count - a);
    T* dst = staged + (g - g0) * width * p.ld_dy;
    if (d.channels_last) {
      const T* src = d.dy + (sample * plane + a * width) * d.dy_channels + d.dy_channel;
      for (std::int64_t i = 0; i < rows * width; ++i) {
        __builtin_memcpy(dst + i * p.ld_dy, src + i * d.dy_channels,
                         static_cast<std::size_t>(d.columns) * sizeof(T));
      }
    } else {
      const std::int64_t volume = d.depth.count * plane;
      const T* src = d.dy + (sample / d.depth.count * d.dy_channels + d.dy_channel) * volume +
                     sample % d.depth.count * plane + a * width;
      transpose_copy(src, volume, dst, p.ld_dy, d.columns, rows * width);
    }
    g += rows;
  }
}

// dw[j][c][tap] = acc[tap_row * unit + c - channels.begin][j - columns.begin]
template <class T>
void store_weights(const WeightGradient<T>& d, const std::int64_t* tap_row, const T* acc,
                   std::int64_t ld_acc, Range channels, Range columns) {
  constexpr int kL = kLanes<T>;
  const std::int64_t taps = d.kernel_h * d.kernel_w, unit = channels.end - channels.begin;
  const std::int64_t length = unit * taps;
  for (std::int64_t j0 = columns.begin; j0 < columns.end; j0 += kL, acc += kL) {
    const std::int64_t count = min_i(kL, columns.end - j0);
    T* dw = d.dw + (j0 * d.channels + channels.begin) * taps;
    std::int64_t c = 0, tap = 0;
    for (std::int64_t f0 = 0; f0 < length; f0 += kL) {
      const std::int64_t depth = min_i(kL, length - f0);
      Vec<T> rows[kL];
      for (int q = 0; q < kL; ++q) {
        if (q >= depth) {
          rows[q] = Vec<T>::zero();
          continue;
        }
        rows[q] = Vec<T>::load(acc + (tap_row[tap] * unit + c) * ld_acc);
        if (++tap == taps) {
          tap = 0;
          ++c;
        }
      }
      transpose(rows);
      for (int r = 0; r < kL; ++r) {
        if (r < count) store_n(rows[r], dw + r * d.channels * taps + f0, depth);
      }
    }
  }
}

// A strip as the tiles see it.
template <class T>
struct StripView {
  const T *x, *dy;
  const PixelRow* rows;  // [h.taps][strip rows]: those that see a row of the kernel
  const std::int64_t* row_counts;
  const Range* columns;  // [w.taps]: those that see a column of the kernel
};

template <class T>
void fill_pixel_rows(const WeightGradient<T>& d, const Plan<T>& p, Range strip,
                     const std::int64_t* row_offset, PixelRow* rows, std::int64_t* counts) {
  for (std::int64_t i = 0; i < d.h.taps; ++i) {
    const Range seen = tap_positions(d.h, i);
    const std::int64_t plane = d.h.plane == nullptr ? 0 : d.h.plane[i];
    PixelRow* const first = rows + i * p.strip.rows;
    PixelRow* row = first;
    for (std::int64_t g = strip.begin; g < strip.end;) {
      const std::int64_t image = g / d.h.count, top = image * d.h.count;
      const std::int64_t end = min_i(strip.end, top + d.h.count);
      if (d.depth.source(image, plane) >= 0) {
        for (std::int64_t r = max_i(g, top + seen.begin); r < min_i(end, top + seen.end); ++r) {
          const std::int64_t at = r - strip.begin;
          *row++ = {row_offset[at], at * d.w.count * p.ld_dy};
        }
      }
      g = end;
    }
    counts[i] = row - first;
  }
}

// Adds a strip to the accumulators of a tile: elements [c.begin, c.end) of run `t`, one panel.
template <class T>
ARRAYNN_INLINE void add_tile(const WeightGradient<T>& d, const Plan<T>& p, const StripView<T>& s,
                             const std::int64_t* tap_offsets, std::int64_t t, Range c,
                             std::int64_t panel, T* acc) {
  const std::int64_t j0 = panel * kNR<T>;
  const int vectors = d.columns - j0 > kLanes<T> ? 1 : 0;
  const std::int64_t i = p.runs.fused ? t : t / d.w.taps;
  // Columns that the taps of the tile see; a tile of a fused run may lie across two.
  const std::int64_t left = p.runs.fused ? c.begin / d.channels : t % d.w.taps;
  const std::int64_t right = p.runs.fused ? (c.end - 1) / d.channels : left;
  const Range pixels = {s.columns[right].begin, s.columns[left].end};
  const std::int64_t step = p.strip.step_w * p.strip.pixel;
  kTileTable<PixelTiles<T>>.at[c.end - c.begin - 1][vectors](
      s.x + tap_offsets[t] + c.begin + pixels.begin * step, s.rows + i * p.strip.rows,
      s.row_counts[i], max_i(0, pixels.end - pixels.begin), step,
      s.dy + j0 + pixels.begin * p.ld_dy, p.ld_dy, acc, p.ld_acc);
}

// All pixels in one strip: the sum of a unit of channels and a panel of columns is complete at once
// and leaves the cache as dw.
template <class T>
void sum_units(const WeightGradient<T>& d, const Plan<T>& p, const StripView<T>& s,
               const std::int64_t* tap_offsets, const std::int64_t* tap_row, T* acc, int tid,
               int nthreads) {
  const std::int64_t panels = ceil_div(d.columns, kNR<T>);
  const Range mine = split_range(panels * p.units.count, nthreads, tid);
  for (std::int64_t i = mine.begin; i < mine.end; ++i) {
    const std::int64_t panel = i / p.units.count, j0 = panel * kNR<T>;
    const Range c = unit_range(p.units, i % p.units.count);
    const std::int64_t unit = c.end - c.begin, tiles = ceil_div(unit, kMR);
    __builtin_memset(acc, 0, static_cast<std::size_t>(p.units.taps * unit * kNR<T>) * sizeof(T));
    for (std::int64_t tap = 0; tap < p.units.taps; ++tap) {
      for (std::int64_t t = 0; t < tiles; ++t) {
        const Range rows = split_range(unit, tiles, t);
        add_tile(d, p, s, tap_offsets, tap, {c.begin + rows.begin, c.begin + rows.end}, panel,
                 acc + (tap * unit + rows.begin) * kNR<T>);
      }
    }
    store_weights(d, tap_row, acc, p.ld_acc, c, {j0, min_i(j0 + kNR<T>, d.columns)});
  }
}

template <class T>
void run_weight(const WeightGradient<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Plan<T> p = make_plan(d);
    const auto item = static_cast<std::int64_t>(sizeof(T));
    char* base = static_cast<char*>(scratch);
    T* acc = reinterpret_cast<T*>(base) + (p.store_at_once ? tid * p.acc_elements : 0);
    base += acc_bytes(p, nthreads);
    T* staged = reinterpret_cast<T*>(base);
    base += round_up(p.strip.staged_elements * item, 64);
    T* staged_dy = reinterpret_cast<T*>(base);
    base += round_up(p.dy_elements * item, 64);
    auto* tap_offsets = reinterpret_cast<std::int64_t*>(base) + tid * p.table_entries;
    std::int64_t* tap_row = tap_offsets + p.runs.taps;
    std::int64_t* row_offset = tap_row + d.kernel_h * d.kernel_w;
    std::int64_t* row_counts = row_offset + p.strip.rows;
    auto* columns = reinterpret_cast<Range*>(row_counts + d.h.taps);
    auto* pixel_rows = reinterpret_cast<PixelRow*>(columns + d.w.taps);
    for (std::int64_t j = 0; j < d.w.taps; ++j) columns[j] = tap_positions(d.w, j);
    fill_tap_offsets(d.h, d.w, p.runs, p.strip, tap_offsets);
    fill_tap_rows(d.h, d.w, d.kernel_h, d.kernel_w, tap_row);
    if (!p.store_at_once) {
      const Range to_clear = split_range(p.acc_elements, nthreads, tid);
      __builtin_memset(acc + to_clear.begin, 0,
                       static_cast<std::size_t>((to_clear.end - to_clear.begin) * item));
    }

    // A member owns tiles of the accumulators, and with them their whole sum.
    const std::int64_t row_tiles = ceil_div(p.runs.run, kMR);
    const std::int64_t panels = ceil_div(d.columns, kNR<T>);
    const Range tiles = split_range(p.runs.taps * row_tiles * panels, nthreads, tid);
    const StripSource<T> source = source_of(d);
    const std::int64_t rows = d.n * d.h.count, strips = ceil_div(rows, p.strip.rows);
    for (std::int64_t i = 0; i < strips; ++i) {
      const Range strip = split_range(rows, strips, i);
      StripView<T> s{};
      s.x = stage_strip(source, p.strip, strip.begin, strip.end, staged, row_offset, tid, nthreads);
      s.dy = d.dy + strip.begin * d.w.count * d.dy_channels + d.dy_channel;
      fill_pixel_rows(d, p, strip, row_offset, pixel_rows, row_counts);
      s.rows = pixel_rows;
      s.row_counts = row_counts;
      s.columns = columns;
      if (!p.dy_in_place) {
        stage_dy(d, p, strip.begin, strip.end, staged_dy, tid, nthreads);
        s.dy = staged_dy;
      }
      team_barrier(nthreads);
      if (p.store_at_once) return sum_units(d, p, s, tap_offsets, tap_row, acc, tid, nthreads);
      for (std::int64_t q = tiles.begin; q < tiles.end; ++q) {
        const std::int64_t panel = q % panels, tile = q / panels % row_tiles;
        const std::int64_t tap = q / panels / row_tiles;
        const Range c = split_range(p.runs.run, row_tiles, tile);
        add_tile(d, p, s, tap_offsets, tap, c, panel,
                 acc + (tap * p.runs.run + c.begin) * p.ld_acc + panel * kNR<T>);
      }
      team_barrier(nthreads);
    }
    const Range mine = split_range(ceil_div(d.columns, kLanes<T>), nthreads, tid);
    store_weights(d, tap_row, acc + mine.begin * kLanes<T>, p.ld_acc, {0, d.channels},
                  {mine.begin * kLanes<T>, min_i(d.columns, mine.end * kLanes<T>)});
  });
}

template <class T>
void plane_sums(const T* x, std::int64_t n, std::int64_t c, std::int64_t plane, int threads,
                T* out) {
  constexpr int kL = kLanes<T>;
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Range mine = split_range(c, nthreads, tid);
    for (std::int64_t channel = mine.begin; channel < mine.end; ++channel) {
      T total = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        const T* p = x + (i * c + channel) * plane;
        Vec<T> even = Vec<T>::zero(), odd = Vec<T>::zero();
        std::int64_t q = 0;
        for (; q + 2 * kL <= plane; q += 2 * kL) {
          even = even + Vec<T>::load(p + q);
          odd = odd + Vec<T>::load(p + q + kL);
        }
        for (; q < plane; q += kL) even = even + load_n(p + q, min_i(kL, plane - q));
        total += reduce_add(even + odd);
      }
      out[channel] = total;
    }
  });
}

}  // namespace

extern const FloatKernels<WeightTable> weight_kernels = {
    {&weight_scratch<float>, &run_weight<float>}, {&weight_scratch<double>, &run_weight<double>}};

extern const FloatKernels<PlaneTable> plane_kernels = {{&plane_sums<float>}, {&plane_sums<double>}};

}  // namespace ARRAYNN_ISA_NAMESPACE
