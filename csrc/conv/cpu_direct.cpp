// Direct convolution: forward, and backward by x as a convolution of dy.
#include "conv/strip.hpp"
#include "conv/tables.hpp"
#include "core/parallel.hpp"
#include "gemm/ukernel.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
struct Plan {
  StripLayout strip;
  Units units;
  Runs runs;
  std::int64_t k, panels;
  int row_parts, panel_parts;
  bool pack_at_use;              // a member packs a unit of a panel when it comes to it
  std::int64_t weight_elements;  // of the team; of a member if packed at use
  std::int64_t output_elements;  // one panel of a strip, channels_first
  std::int64_t table_entries;    // tap offsets, tap rows, row offsets
};

template <class T>
StripSource<T> source_of(const DirectConv<T>& d) {
  return {d.src, d.src_channels, d.src_channel, d.channels, &d.h, &d.w, d.channels_last};
}

template <class T>
Plan<T> make_plan(const DirectConv<T>& d, int threads) {
  Plan<T> p{};
  p.units = make_units<T>(d.h, d.w, d.channels);
  const bool units = p.units.count > 1;
  p.strip = make_strip_layout(source_of(d), d.n, units);
  p.runs = make_runs(d.h, d.w, d.channels, p.strip.pixel, units);
  p.k = p.runs.taps * p.runs.run;
  p.panels = ceil_div(d.columns, kNR<T>);
  // Rows are split while every member gets a strip's worth; a short image splits the panels.
  const std::int64_t pixels = d.n * d.h.count * d.w.count;
  p.row_parts = 1;
  p.panel_parts = threads;
  for (int parts = threads; parts >= 1; --parts) {
    if (threads % parts == 0 && (pixels >= parts * 8 * kMR || threads / parts > p.panels)) {
      p.row_parts = parts;
      p.panel_parts = threads / parts;
      break;
    }
  }
  p.pack_at_use =
      (units || p.k <= kKC<T>) && p.row_parts == 1 && d.n * d.h.count <= 2 * p.strip.rows;
  p.weight_elements = (p.pack_at_use ? kKC<T> : p.panels * p.k) * kNR<T>;
  p.output_elements = d.channels_last ? 0 : p.strip.rows * d.w.count * kNR<T>;
  p.table_entries = round_up(p.runs.taps + d.kernel_h * d.kernel_w + p.strip.rows, 8);
  return p;
}

template <class T>
struct ScratchParts {
  T* weights;  // packed, in all or of this member
  std::int64_t* tables;
  T* staged;
  T* output;
};

template <class T>
std::int64_t member_bytes(const Plan<T>& p) {
  const auto item = static_cast<std::int64_t>(sizeof(T));
  return p.table_entries * 8 + round_up((p.strip.staged_elements + p.output_elements) * item, 64) +
         2 * 64;
}

template <class T>
std::int64_t weight_bytes(const Plan<T>& p, int threads) {
  return (p.pack_at_use ? threads : 1) *
         round_up(p.weight_elements * static_cast<std::int64_t>(sizeof(T)), 64);
}

template <class T>
std::int64_t direct_scratch(const DirectConv<T>& d, int threads) {
  const Plan<T> p = make_plan(d, threads);
  return weight_bytes(p, threads) + threads * round_up(member_bytes(p), 64);
}

template <class T>
ScratchParts<T> scratch_parts(const Plan<T>& p, int tid, int nthreads, void* scratch) {
  char* base = static_cast<char*>(scratch);
  T* weights = reinterpret_cast<T*>(base) + (p.pack_at_use ? tid * p.weight_elements : 0);
  base += weight_bytes(p, nthreads) + tid * round_up(member_bytes(p), 64);
  auto* tables = reinterpret_cast<std::int64_t*>(base);
  T* staged = reinterpret_cast<T*>(base + p.table_entries * 8);
  return {weights, tables, staged, staged + round_up(p.strip.staged_elements, 16)};
}

// One unit of a panel of weights, rows of NR columns in the order in which the runs meet them:
//   dst[(tap_row * unit + c) * NR + j] = weight[j * weight_j + (begin + c) * weight_c + tap]
template <class T>
void pack_weights(const DirectConv<T>& d, const std::int64_t* tap_row, std::int64_t panel,
                  Range channels, T* dst) {
  constexpr int kL = kLanes<T>;
  const std::int64_t taps = d.kernel_h * d.kernel_w, unit = channels.end - channels.begin;
  for (int v = 0; v < kNV; ++v) {
    const std::int64_t j0 = panel * kNR<T> + v * kL;
    const std::int64_t count = max_i(0, min_i(kL, d.columns - j0));
    const T* w = d.weight + j0 * d.weight_j + channels.begin * d.weight_c;
    T* out = dst + v * kL;
    if (d.weight_j == 1) {
      for (std::int64_t c = 0; c < unit; ++c) {
        if (tap_row[0] >= 0) load_n(w + c * d.weight_c, count).store(out + c * kNR<T>);
      }
      continue;
    }
    // Elements f = c * taps + tap lie together when c moves by `taps`: one long row, else one a c.
    const bool together = d.weight_c == taps;
    const std::int64_t length = together ? unit * taps : taps;
    for (std::int64_t c0 = 0; c0 < (together ? 1 : unit); ++c0) {
      std::int64_t c = c0, tap = 0;
      for (std::int64_t f0 = 0; f0 < length; f0 += kL) {
        const std::int64_t depth = min_i(kL, length - f0);
        Vec<T> rows[kL];
        for (int r = 0; r < kL; ++r) {
          rows[r] =
              r < count ? load_n(w + r * d.weight_j + c0 * d.weight_c + f0, depth) : Vec<T>::zero();
        }
        transpose(rows);
        for (int q = 0; q < kL; ++q) {
          if (q >= depth) break;
          if (tap_row[tap] >= 0) {
            rows[q].store(out + (tap_row[tap] * unit + c) * kNR<T>);
          }
          if (++tap == taps) {
            tap = 0;
            ++c;
          }
        }
      }
    }
  }
}

// Element offset in `out` of column 0 of the group at output row g (of the batch), column b.
template <class T>
ARRAYNN_INLINE std::int64_t out_offset(const DirectConv<T>& d, std::int64_t g, std::int64_t b) {
  const std::int64_t sample = g / d.h.count, a = g % d.h.count;
  const std::int64_t row = a * d.h.out_step + d.h.out_begin;
  const std::int64_t column = b * d.w.out_step + d.w.out_begin;
  if (d.channels_last) {
    return ((sample * d.out_h + row) * d.out_w + column) * d.out_channels + d.out_channel;
  }
  return ((sample * d.out_channels + d.out_channel) * d.out_h + row) * d.out_w + column;
}

// channels_first: a finished panel [pixel][NR] of output rows [g0, g1) goes to its planes.
template <class T>
void store_planes(const DirectConv<T>& d, const T* panel, std::int64_t g0, std::int64_t g1,
                  std::int64_t j0, std::int64_t columns) {
  const std::int64_t plane = d.out_h * d.out_w, width = d.w.count;
  const bool dense =
      d.h.out_step == 1 && d.w.out_step == 1 && d.w.out_begin == 0 && width == d.out_w;
  for (std::int64_t g = g0; g < g1;) {
    // Rows of one sample are contiguous in the plane when every position is written.
    const std::int64_t rows = dense ? min_i(g1 - g, d.h.count - g % d.h.count) : 1;
    const T* src = panel + (g - g0) * width * kNR<T>;
    const std::int64_t offset = out_offset(d, g, 0) + j0 * plane;
    T* out = d.out + offset;
    if (d.w.out_step == 1) {
      transpose_copy(src, std::int64_t{kNR<T>}, out, plane, rows * width, columns);
    } else if (d.w.out_step == 2) {
      transpose_to_even(src, std::int64_t{kNR<T>}, out, plane, width, columns);
    } else {
      for (std::int64_t j = 0; j < columns; ++j) {
        for (std::int64_t b = 0; b < width; ++b) {
          out[j * plane + b * d.w.out_step] = src[b * kNR<T> + j];
        }
      }
    }
    if (d.residual != nullptr) {  // only forward: positions are contiguous
      for (std::int64_t j = 0; j < columns; ++j) {
        T* row = out + j * plane;
        const T* residual = d.residual + offset + j * plane;
        for (std::int64_t i = 0; i < rows * width; ++i) row[i] += residual[i];
        if (d.activation.kind != ActivationKind::kNone) {
          activate_rows(d.activation, &row, 1, rows * width);
        }
      }
    }
    g += rows;
  }
}

template <class T>
struct StripTask {
  const T* base;
  const std::int64_t* row_offset;  // [g1 - g0]
  const std::int64_t* tap_offsets;
  std::int64_t g0, g1;
};

// One panel of one strip over runs [t, t + taps) (or k range [p, p + kc) of one run).
template <class T>
void run_block(const DirectConv<T>& d, const Plan<T>& p, const StripTask<T>& s, T* output,
               std::int64_t panel, const T* weights, const std::int64_t* taps_begin,
               std::int64_t taps, std::int64_t k_begin, std::int64_t kc, bool first, bool last) {
  const std::int64_t width = d.w.count;
  const std::int64_t pixels = (s.g1 - s.g0) * width;
  const std::int64_t j0 = panel * kNR<T>, columns = min_i(kNR<T>, d.columns - j0);
  const std::int64_t pixel_step = p.strip.step_w * p.strip.pixel;
  const bool fuse_residual = d.residual != nullptr && d.channels_last;
  const T* a_rows[kMR];
  T* c_rows[kMR];
  const T* residual_rows[kMR];
  TileStore<T> store{c_rows, columns, !first, nullptr, nullptr, nullptr, Activation{}};
  if (last) {
    if (d.bias != nullptr) store.column_bias = d.bias + j0;
    if (fuse_residual) store.residual_rows = residual_rows;
    if (d.channels_last || d.residual == nullptr) store.activation = d.activation;
  }
  const std::int64_t tiles = ceil_div(pixels, kMR);
  std::int64_t row = 0, b = 0;
  for (std::int64_t t = 0; t < tiles; ++t) {
    const Range range = split_range(pixels, tiles, t);
    const std::int64_t m = range.end - range.begin;
    for (std::int64_t i = 0; i < m; ++i) {
      a_rows[i] = s.base + s.row_offset[row] + b * pixel_step + k_begin;
      if (d.channels_last) {
        const std::int64_t offset = out_offset(d, s.g0 + row, b) + j0;
        c_rows[i] = d.out + offset;
        if (fuse_residual) residual_rows[i] = d.residual + offset;
      } else {
        c_rows[i] = output + (range.begin + i) * kNR<T>;
      }
      if (++b == width) {
        b = 0;
        ++row;
      }
    }
    run_tile(m, a_rows, kc, taps, taps_begin, weights, kNR<T>, store);
  }
}

// The k blocks of one panel whose sum is not cut into units.
template <class T>
void run_runs(const DirectConv<T>& d, const Plan<T>& p, const StripTask<T>& s, T* output,
              std::int64_t panel, const T* w) {
  const Runs& runs = p.runs;
  if (p.k == 0) {
    run_block(d, p, s, output, panel, w, s.tap_offsets, 0, 0, 0, true, true);
  } else if (runs.run >= kKC<T>) {
    for (std::int64_t t = 0; t < runs.taps; ++t) {
      const std::int64_t blocks = ceil_div(runs.run, kKC<T>);
      for (std::int64_t q = 0; q < blocks; ++q) {
        const Range k = split_range(runs.run, blocks, q);
        run_block(d, p, s, output, panel, w + (t * runs.run + k.begin) * kNR<T>, s.tap_offsets + t,
                  1, k.begin, k.end - k.begin, t == 0 && q == 0,
                  t + 1 == runs.taps && q + 1 == blocks);
      }
    }
  } else {
    const std::int64_t blocks = ceil_div(runs.taps, kKC<T> / runs.run);
    for (std::int64_t q = 0; q < blocks; ++q) {
      const Range taps = split_range(runs.taps, blocks, q);
      run_block(d, p, s, output, panel, w + taps.begin * runs.run * kNR<T>,
                s.tap_offsets + taps.begin, taps.end - taps.begin, 0, runs.run, q == 0,
                q + 1 == blocks);
    }
  }
}

template <class T>
void run_strip(const DirectConv<T>& d, const Plan<T>& p, const StripTask<T>& s,
               const std::int64_t* tap_row, const ScratchParts<T>& parts, Range panels) {
  for (std::int64_t panel = panels.begin; panel < panels.end; ++panel) {
    for (std::int64_t u = 0; u < p.units.count; ++u) {
      const Range c = unit_range(p.units, u);
      const T* w = parts.weights;
      if (!p.pack_at_use) {
        w += (panel * p.k + c.begin * p.units.taps) * kNR<T>;
      } else if (p.k > 0) {
        pack_weights(d, tap_row, panel, c, parts.weights);
      }
      if (p.units.count == 1) {
        run_runs(d, p, s, parts.output, panel, w);
      } else {
        run_block(d, p, s, parts.output, panel, w, s.tap_offsets, p.units.taps, c.begin,
                  c.end - c.begin, u == 0, u + 1 == p.units.count);
      }
    }
    if (!d.channels_last) {
      const std::int64_t j0 = panel * kNR<T>;
      store_planes(d, parts.output, s.g0, s.g1, j0, min_i(kNR<T>, d.columns - j0));
    }
  }
}

template <class T>
void run_direct(const DirectConv<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Plan<T> p = make_plan(d, nthreads);
    const ScratchParts<T> parts = scratch_parts(p, tid, nthreads, scratch);
    std::int64_t* tap_offsets = parts.tables;
    std::int64_t* tap_row = tap_offsets + p.runs.taps;
    std::int64_t* row_offset = tap_row + d.kernel_h * d.kernel_w;
    fill_tap_offsets(d.h, d.w, p.runs, p.strip, tap_offsets);
    fill_tap_rows(d.h, d.w, d.kernel_h, d.kernel_w, tap_row);
    if (!p.pack_at_use) {
      const Range to_pack = split_range(p.k > 0 ? p.panels * p.units.count : 0, nthreads, tid);
      for (std::int64_t i = to_pack.begin; i < to_pack.end; ++i) {
        const std::int64_t panel = i / p.units.count;
        const Range c = unit_range(p.units, i % p.units.count);
        pack_weights(d, tap_row, panel, c,
                     parts.weights + (panel * p.k + c.begin * p.units.taps) * kNR<T>);
      }
      team_barrier(nthreads);
    }
    const int row_part = tid % p.row_parts, panel_part = tid / p.row_parts;
    const Range panels = split_range(p.panels, p.panel_parts, panel_part);
    const Range rows = split_range(d.n * d.h.count, p.row_parts, row_part);
    const StripSource<T> source = source_of(d);
    const std::int64_t strips = ceil_div(rows.end - rows.begin, p.strip.rows);
    for (std::int64_t i = 0; i < strips; ++i) {
      const Range part = split_range(rows.end - rows.begin, strips, i);
      StripTask<T> task{nullptr, row_offset, tap_offsets, rows.begin + part.begin,
                        rows.begin + part.end};
      task.base = stage_strip(source, p.strip, task.g0, task.g1, parts.staged, row_offset, 0, 1);
      run_strip(d, p, task, tap_row, parts, panels);
    }
  });
}

}  // namespace

std::int64_t direct_scratch_f32(const DirectConv<float>& d, int threads) {
  return direct_scratch(d, threads);
}
std::int64_t direct_scratch_f64(const DirectConv<double>& d, int threads) {
  return direct_scratch(d, threads);
}
void direct_f32(const DirectConv<float>& d, int threads, void* scratch) {
  run_direct(d, threads, scratch);
}
void direct_f64(const DirectConv<double>& d, int threads, void* scratch) {
  run_direct(d, threads, scratch);
}

}  // namespace ARRAYNN_ISA_NAMESPACE
