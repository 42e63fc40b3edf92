// Direct convolution: forward, and backward by x as a convolution of dy.
#include "conv/border.hpp"
#include "conv/phases.hpp"
#include "conv/pooled.hpp"
#include "conv/strip.hpp"
#include "core/parallel.hpp"
#include "gemm/pairs.hpp"
#include "gemm/ukernel.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

#if defined(__AVX512BF16__)
// Compiled once more for bfloat16: an element is a pair of channels (pairs.hpp), of a source that is
// channels_last, whatever the result is.
using Products = PairProducts;
constexpr bool kPairs = true;
#else
using Products = PlainProducts;
constexpr bool kPairs = false;
#endif

// Packed weights of the team: a few panels are packed, used by all strips and replaced by the next. To
// stage the strips again for that many weights is little beside the products, and with the longest
// strips of two members it is less than 8 MiB.
constexpr std::int64_t kPackedBytes = std::int64_t{15} << 18;

template <class T>
struct Plan {
  StripLayout strip;
  Units units;
  Runs runs;
  Segments rows, columns;  // of output pixels
  bool cut_columns;
  std::int64_t blocks;  // of k
  std::int64_t k, panels;
  std::int64_t phase_panels;  // of one phase, whose panels lie together
  int row_parts, panel_parts;
  bool pack_at_use;              // a member packs a unit of a panel when it comes to it
  std::int64_t chunk;            // panels that are packed together, unless all are kept
  std::int64_t packed_elements;  // all panels
  std::int64_t weight_elements;  // scratch of the team; of a member if packed at use
  std::int64_t output_elements;  // one panel of a strip, channels_first or pooled
  std::int64_t table_entries;    // tap offsets, tap rows, row offsets
};

template <class T>
StripSource<T> source_of(const DirectConv<T>& d) {
  const bool last = kPairs || d.channels_last;
  return {d.src, d.src_channels, d.src_channel, d.channels, &d.h, &d.w, last, d.depth};
}

// One block of k: pieces [tap_begin, tap_end) of `k` elements.
struct Block {
  std::int64_t tap_begin, tap_end, k;
  std::int64_t shift;      // of the first element in a run
  std::int64_t b, b_step;  // of its weights in the packed unit or panel, and from tap to tap
};

template <class T>
std::int64_t block_count(const Plan<T>& p) {
  if (p.units.count > 1) return p.units.count;
  if (p.k == 0) return 1;
  return p.runs.run >= kKC<T> ? p.runs.taps * ceil_div(p.runs.run, kKC<T>)
                              : ceil_div(p.runs.taps, kKC<T> / p.runs.run);
}

template <class T>
Block k_block(const Plan<T>& p, std::int64_t i) {
  const Runs& runs = p.runs;
  if (p.units.count > 1) {
    const Range c = unit_range(p.units, i);
    const std::int64_t unit = c.end - c.begin;
    if (p.pack_at_use) return {0, runs.taps, unit, c.begin, 0, unit * kNR<T>};
    return {0, runs.taps, unit, c.begin, c.begin * kNR<T>, runs.run * kNR<T>};
  }
  if (p.k == 0) return {};
  if (runs.run >= kKC<T>) {
    const std::int64_t pieces = p.blocks / runs.taps, t = i / pieces;
    const Range k = split_range(runs.run, pieces, i % pieces);
    return {t, t + 1, k.end - k.begin, k.begin, k.begin * kNR<T>, runs.run * kNR<T>};
  }
  const Range taps = split_range(runs.taps, p.blocks, i);
  return {taps.begin, taps.end, runs.run, 0, 0, runs.run * kNR<T>};
}

// Output pixels that see the same taps.
struct PixelClass {
  Segment rows, columns;
  Range range;  // of the runs' taps
  const Tap* taps;
  std::int64_t first_block, last_block;  // with a tap of the class; 0 if there is none
};
constexpr std::int64_t kTapEntries = sizeof(Tap) / sizeof(std::int64_t);
constexpr int kMostClasses = Segments::kMost * Segments::kMost;

template <class T>
int fill_classes(const DirectConv<T>& d, const Plan<T>& p, Tap* taps, PixelClass* classes) {
  const std::int64_t per_row = p.runs.fused ? 1 : d.w.taps;
  int count = 0;
  for (int r = 0; r < p.rows.count; ++r) {
    for (int c = 0; c < p.columns.count; ++c) {
      PixelClass& k = classes[count++];
      k.rows = p.rows.at[r];
      k.columns = p.columns.at[c];
      k.taps = taps;
      k.range = {k.rows.tap_begin * per_row, k.rows.tap_end * per_row};
      for (std::int64_t i = k.rows.tap_begin; i < k.rows.tap_end; ++i) {
        const std::int64_t first = min_i(k.columns.tap_begin, d.w.taps - 1);
        for (std::int64_t j = first; j < (p.runs.fused ? first + 1 : k.columns.tap_end); ++j) {
          *taps++ = {tap_offset(d.h, d.w, p.strip, i, j), i * per_row + (p.runs.fused ? 0 : j)};
        }
      }
      k.first_block = k.last_block = 0;
      bool any = false;
      for (std::int64_t b = 0; b < p.blocks; ++b) {
        const Block block = k_block(p, b);
        if (block.tap_begin >= k.range.end || block.tap_end <= k.range.begin) continue;
        if (!any) k.first_block = b;
        k.last_block = b;
        any = true;
      }
    }
  }
  return count;
}

template <class T>
Plan<T> make_plan(const PhasedConv<T>& d, int threads) {
  Plan<T> p{};
  p.units = make_units<T>(d.h, d.w, d.channels);
  const bool units = p.units.count > 1;
  p.phase_panels = ceil_div(d.columns, kNR<T>);
  p.panels = d.phase_count * p.phase_panels;
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
  const StripLimits& limits = units ? kUnitStripLimits : kStripLimits;
  const StripSource<T> source = source_of(d);
  const std::int64_t cuts = d.pool != nullptr ? 1 : column_cuts(source, d.n, limits, p.row_parts);
  p.strip = make_strip_layout(source, d.n, limits, cuts);
  p.runs = make_runs<T>(d.h, d.w, p.units, p.strip.pixel);
  p.k = p.runs.taps * p.runs.run;
  // Columns are cut where every block of k has all taps.
  p.rows = make_segments(d.h);
  p.cut_columns = units || p.k <= kKC<T>;
  p.columns = p.cut_columns ? make_column_segments(d.w) : one_segment(d.w);
  p.blocks = block_count(p);
  p.pack_at_use = d.prepared == nullptr && (units || p.k <= kKC<T>) && p.row_parts == 1 &&
                  d.n * d.h.count * cuts <= 2 * p.strip.rows;
  p.packed_elements = p.panels * p.k * kNR<T>;
  const std::int64_t panel_bytes = max_i(1, p.k * kNR<T> * static_cast<std::int64_t>(sizeof(T)));
  const bool once = d.prepared != nullptr || p.pack_at_use;
  const std::int64_t together = max_i(p.panel_parts, kPackedBytes / panel_bytes);
  p.chunk = once ? p.panels : ceil_div(p.panels, ceil_div(p.panels, together));
  p.weight_elements = p.pack_at_use ? kKC<T> * kNR<T> : p.chunk * p.k * kNR<T>;
  if (d.prepared != nullptr) p.weight_elements = 0;
  if (d.pool != nullptr) {
    p.output_elements = pooled_sizes(d, p.strip.rows).all(p.panels);
  } else {
    p.output_elements = d.channels_last ? 0 : p.strip.rows * p.strip.width * kOutputStep<T>;
  }
  const std::int64_t classes = p.rows.count * p.columns.count;
  p.table_entries = round_up(classes * p.runs.taps * kTapEntries +
                                 d.phase_count * d.kernel_h * d.kernel_w + 2 * p.strip.rows,
                             8);
  return p;
}

template <class T>
std::int64_t prepared_elements(const PhasedConv<T>& d) {
  return make_plan(d, 1).packed_elements;
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
std::int64_t direct_scratch(const PhasedConv<T>& d, int threads) {
  const Plan<T> p = make_plan(d, threads);
  return weight_bytes(p, threads) + threads * round_up(member_bytes(p), 64);
}

template <class T>
ScratchParts<T> scratch_parts(const DirectConv<T>& d, const Plan<T>& p, int tid, int nthreads,
                              void* scratch) {
  char* base = static_cast<char*>(scratch);
  T* weights = reinterpret_cast<T*>(base) + (p.pack_at_use ? tid * p.weight_elements : 0);
  if (d.prepared != nullptr) weights = d.prepared;
  base += weight_bytes(p, nthreads) + tid * round_up(member_bytes(p), 64);
  auto* tables = reinterpret_cast<std::int64_t*>(base);
  T* staged = reinterpret_cast<T*>(base + p.table_entries * 8);
  return {weights, tables, staged, staged + round_up(p.strip.staged_elements, 16)};
}

template <class T>
struct StripTask {
  const T* base;
  const std::int64_t* row_offset;  // [g1 - g0]
  std::int64_t g0, g1;
  const std::int64_t* rows[Segments::kMost + 1];  // by segment, up to where the next begins
  const PooledStrip* pooled;
  std::int64_t first_panel;  // of those that are packed
};

// Output rows [g0, g1) sorted by segment.
template <class T>
void sort_rows(const Plan<T>& p, std::int64_t count, StripTask<T>& s, std::int64_t* sorted) {
  for (int i = 0; i < p.rows.count; ++i) {
    s.rows[i] = sorted;
    const Segment& segment = p.rows.at[i];
    for (std::int64_t g = s.g0 - s.g0 % count; g < s.g1; g += count) {
      const std::int64_t end = min_i(s.g1, g + segment.end);
      for (std::int64_t r = max_i(s.g0, g + segment.begin); r < end; ++r) *sorted++ = r - s.g0;
    }
  }
  s.rows[p.rows.count] = sorted;
}

// One panel of one strip and block, for the pixels of one class.
template <class T>
void run_class(const DirectConv<T>& d, const Plan<T>& p, const StripTask<T>& s,
               const PixelClass& pixels, int segment, const Block& block, bool first, bool last,
               const T* weights, std::int64_t panel, T* output) {
  const std::int64_t j0 = panel * kNR<T>, columns = min_i(kNR<T>, d.columns - j0);
  const std::int64_t pixel_step = p.strip.step_w * p.strip.pixel;
  const std::int64_t step = panel_step(d, columns);
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
  // Taps of the block that the class sees, and for a fused row the columns of it.
  const std::int64_t t0 = max_i(block.tap_begin, pixels.range.begin);
  const std::int64_t t1 = max_i(t0, min_i(block.tap_end, pixels.range.end));
  TapList taps{pixels.taps, t1 - t0, block.b_step};
  std::int64_t k = block.k, skip = 0;
  if (p.units.count == 1) taps.at += t0 - pixels.range.begin;
  if (p.runs.fused) {
    k = pixels.columns.taps() * d.channels;
    skip = pixels.columns.tap_begin * d.channels;
  } else if (p.cut_columns) {
    taps.count = pixels.rows.taps() * pixels.columns.taps();
  }
  const T* b = weights + block.b + skip * kNR<T>;

  const std::int64_t* row = s.rows[segment];
  const std::int64_t total = (s.rows[segment + 1] - row) * pixels.columns.size();
  const std::int64_t tiles = ceil_div(total, kMR);
  std::int64_t column = pixels.columns.begin;
  std::int64_t known = -1, row_at = 0;  // a row and where its pixels begin: divisions, once a row
  for (std::int64_t t = 0; t < tiles; ++t) {
    const Range range = split_range(total, tiles, t);
    const std::int64_t m = range.end - range.begin;
    for (std::int64_t i = 0; i < m; ++i) {
      a_rows[i] = s.base + s.row_offset[*row] + column * pixel_step + block.shift;
      if (step == 0) {
        if (*row != known) {
          known = *row;
          row_at = out_offset(d, s.g0 + known, 0) + j0;
        }
        const std::int64_t offset = row_at + column * d.w.out_step * d.out_channels;
        c_rows[i] = d.out + offset;
        if (fuse_residual) residual_rows[i] = d.residual + offset;
      } else {
        c_rows[i] = output + (*row * d.w.count + column) * step;
      }
      if (++column == pixels.columns.end) {
        column = pixels.columns.begin;
        ++row;
      }
    }
    run_tile<Products>(m, a_rows, k, taps, b, kNR<T>, store);
  }
}

// One unit of a panel of weights; `tap_row` is that of the first phase.
template <class T>
void pack_unit(const PhasedConv<T>& d, const Plan<T>& p, const std::int64_t* tap_row,
               std::int64_t panel, Range channels, std::int64_t tap_step, T* dst) {
  const std::int64_t phase = panel / p.phase_panels;
  pack_weights(d, tap_row + phase * d.kernel_h * d.kernel_w, panel - phase * p.phase_panels,
               channels, tap_step, dst);
}

template <class T>
void run_strip(const PhasedConv<T>& all, const Plan<T>& p, const StripTask<T>& s,
               const PixelClass* classes, const std::int64_t* tap_row, const ScratchParts<T>& parts,
               Range panels) {
  for (std::int64_t at = panels.begin; at < panels.end; ++at) {
    const std::int64_t phase = at / p.phase_panels, panel = at - phase * p.phase_panels;
    const PhasedConv<T> d = all.of_phase(phase);
    T* output = parts.output;
    if (d.pool != nullptr) {
      output = begin_panel(pooled_panel(d, *s.pooled, p.strip.rows, panel, parts.output));
    }
    for (std::int64_t i = 0; i < p.blocks; ++i) {
      const Block block = k_block(p, i);
      const T* w = parts.weights;
      if (p.pack_at_use) {
        const Range c = p.units.count > 1 ? unit_range(p.units, i) : Range{0, d.channels};
        if (p.k > 0) pack_unit(all, p, tap_row, at, c, c.end - c.begin, parts.weights);
      } else {
        w += (at - s.first_panel) * p.k * kNR<T>;
      }
      for (int c = 0; c < p.rows.count * p.columns.count; ++c) {
        const PixelClass& pixels = classes[c];
        if (i < pixels.first_block || i > pixels.last_block) continue;
        run_class(d, p, s, pixels, c / p.columns.count, block, i == pixels.first_block,
                  i == pixels.last_block, w, panel, output);
      }
    }
    if (d.pool != nullptr) {
      finish_panel(pooled_panel(d, *s.pooled, p.strip.rows, panel, parts.output));
    } else if (!d.channels_last) {
      const std::int64_t j0 = panel * kNR<T>;
      store_planes(d, parts.output, s.g0, s.g1, j0, min_i(kNR<T>, d.columns - j0));
    }
  }
}

// Member tid's share of some panels: [panel][tap][channel], however the channels are cut into units, for
// a kept weight serves images of any size.
template <class T>
void pack_panels(const PhasedConv<T>& d, const Plan<T>& p, const std::int64_t* tap_row,
                 Range panels, int tid, int nthreads, T* dst) {
  const std::int64_t count = (panels.end - panels.begin) * p.units.count;
  const Range mine = split_range(p.k > 0 ? count : 0, nthreads, tid);
  for (std::int64_t i = mine.begin; i < mine.end; ++i) {
    const std::int64_t panel = i / p.units.count;
    const Range c = unit_range(p.units, i % p.units.count);
    pack_unit(d, p, tap_row, panels.begin + panel, c, d.channels,
              dst + (panel * p.k + c.begin) * kNR<T>);
  }
}

template <class T>
void run_direct(const PhasedConv<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Plan<T> p = make_plan(d, nthreads);
    const ScratchParts<T> parts = scratch_parts(d, p, tid, nthreads, scratch);
    PixelClass classes[kMostClasses];
    const int count = fill_classes(d, p, reinterpret_cast<Tap*>(parts.tables), classes);
    std::int64_t* tap_row = parts.tables + count * p.runs.taps * kTapEntries;
    const std::int64_t kernel = d.kernel_h * d.kernel_w;
    std::int64_t* row_offset = tap_row + d.phase_count * kernel;
    for (std::int64_t i = 0; i < d.phase_count; ++i) {
      const PhasedConv<T> one = d.of_phase(i);
      fill_tap_rows(one.h, one.w, d.kernel_h, d.kernel_w, tap_row + i * kernel);
    }
    const int row_part = tid % p.row_parts, panel_part = tid / p.row_parts;
    const std::int64_t cuts = p.strip.cuts;
    StripSource<T> source = source_of(d);
    PhasedConv<T> seen = d;  // of a strip: its columns
    const Range rows = split_range(d.n * d.h.count * cuts, p.row_parts, row_part);
    const std::int64_t strips = ceil_div(rows.end - rows.begin, p.strip.rows);
    StripTask<T> task{};
    for (std::int64_t first = 0; first < p.panels; first += p.chunk) {
      const Range chunk{first, min_i(p.panels, first + p.chunk)};
      if (first > 0) team_barrier(nthreads);
      if (d.prepared != nullptr ? d.prepare : !p.pack_at_use) {
        pack_panels(d, p, tap_row, chunk, tid, nthreads, parts.weights);
        team_barrier(nthreads);
      }
      const Range mine = split_range(chunk.end - chunk.begin, p.panel_parts, panel_part);
      const Range panels{first + mine.begin, first + mine.end};
      const auto strip = [&](Range part, const PooledStrip* pooled) {
        if (first == 0 || strips > 1 || pooled != nullptr) {  // a single strip is still there
          task = {nullptr, row_offset, part.begin / cuts, ceil_div(part.end, cuts), {}, pooled, 0};
          if (cuts > 1) {
            const Range columns = split_range(d.w.count, cuts, part.begin % cuts);
            source.column = columns.begin;
            seen.w.count = columns.end - columns.begin;
            seen.w.out_begin = d.w.out_begin + columns.begin * d.w.out_step;
            for (int c = 0; c < count; ++c) classes[c].columns.end = seen.w.count;
          }
          task.base =
              stage_strip(source, p.strip, task.g0, task.g1, parts.staged, row_offset, 0, 1);
          sort_rows(p, d.h.count, task, row_offset + p.strip.rows);
        }
        task.first_panel = first;
        run_strip(seen, p, task, classes, tap_row, parts, panels);
      };
      if (d.pool != nullptr) {
        const PoolAxis& h = d.pool->p.h;
        for_pooled_strips(h, split_range(d.n * h.out, p.row_parts, row_part), 1, p.strip.rows,
                          [&](const PooledStrip& s) { strip(s.rows, &s); });
        continue;
      }
      for (std::int64_t i = 0; i < strips; ++i) {
        const Range part = split_range(rows.end - rows.begin, strips, i);
        strip({rows.begin + part.begin, rows.begin + part.end}, nullptr);
      }
    }
  });
}

template <class T>
constexpr DirectTable<T> table() {
  return {{&direct_scratch<T>, &run_direct<T>}, &prepared_elements<T>};
}

}  // namespace

#if defined(__AVX512BF16__)
extern const DirectTable<float> pair_kernels = table<float>();
#else
extern const FloatKernels<DirectTable> direct_kernels = {table<float>(), table<double>()};
#endif

}  // namespace ARRAYNN_ISA_NAMESPACE
