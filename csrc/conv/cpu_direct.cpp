// Direct convolution: forward, and backward by x as convolutions of dy, one for every residue of the
// stride.
//
// All residues go through a strip that is staged once. Their weights are those of one panel: packed
// together, the taps sorted by residue, each row of the kernel is read once whatever the stride. In
// channels_first their results take turns in the panel as they do in the plane, so that whole rows leave
// it, and a strip is shorter the more of them there are. A residue without a tap is one of bias and residual.
#include "conv/border.hpp"
#include "conv/pooled.hpp"
#include "conv/residues.hpp"
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

// Results of a strip in channels_first, over all residues, and positions that are worth a strip.
constexpr std::int64_t kStripResults = 1024, kFewestPositions = 64;

template <class T>
struct Plan {
  StripLayout strip;
  Units units;
  std::int64_t taps;  // of all residues
  std::int64_t panels;
  int row_parts, panel_parts;
  bool pack_at_use;              // a member packs a unit of a panel when it comes to it
  std::int64_t chunk;            // panels that are packed together, unless all are kept
  std::int64_t panel_elements;   // of weights
  std::int64_t packed_elements;  // all panels
  std::int64_t weight_elements;  // scratch of the team; of a member if packed at use
  std::int64_t output_elements;  // one panel of a strip, channels_first or pooled
  std::int64_t classes, tap_entries;
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

// Output pixels that see the same taps.
struct PixelClass {
  Segment rows, columns;
  Range range;  // of the runs' taps
  const Tap* taps;
  std::int64_t first_block, last_block;  // with a tap of the class; 0 if there is none
};

// One residue of a strip.
struct ResiduePlan {
  Runs runs;
  Segments rows, columns;  // of output pixels
  bool cut_columns;
  std::int64_t k, blocks;  // of k
  std::int64_t first_tap;  // of its own among those of all
  std::int64_t shift;      // elements from what all see to what it sees
  PixelClass* classes;

  std::int64_t class_count() const { return rows.count * columns.count; }
};

// Of residue i, behind residues of `first_tap` taps.
template <class T>
ResiduePlan make_residue(const ResidueConv<T>& d, const Plan<T>& p, std::int64_t i,
                         std::int64_t first_tap) {
  const DirectAxis &h = d.h_at(i), &w = d.w_at(i);
  ResiduePlan r{};
  r.first_tap = first_tap;
  r.runs = make_runs<T>(h, w, p.units, p.strip.pixel);
  r.k = r.runs.taps * r.runs.run;
  // Columns are cut where every block of k has all taps.
  r.cut_columns = p.units.count > 1 || r.k <= kKC<T>;
  r.rows = make_segments(h);
  r.columns = r.cut_columns ? make_column_segments(w) : one_segment(w);
  if (p.units.count > 1) {
    r.blocks = p.units.count;
  } else if (r.k == 0) {
    r.blocks = 1;
  } else {
    r.blocks = r.runs.run >= kKC<T> ? r.runs.taps * ceil_div(r.runs.run, kKC<T>)
                                    : ceil_div(r.runs.taps, kKC<T> / r.runs.run);
  }
  if (r.runs.taps > 0) {
    const std::int64_t rows = h.offset[0] - d.h.offset[0], columns = w.offset[0] - d.w.offset[0];
    r.shift = (rows * p.strip.columns + columns) * p.strip.pixel;
  }
  return r;
}

template <class T>
Block k_block(const Plan<T>& p, const ResiduePlan& r, std::int64_t i) {
  const Runs& runs = r.runs;
  if (p.units.count > 1) {
    const Range c = unit_range(p.units, i);
    const std::int64_t unit = c.end - c.begin;
    if (p.pack_at_use) return {0, runs.taps, unit, c.begin, 0, unit * kNR<T>};
    return {0, runs.taps, unit, c.begin, c.begin * kNR<T>, runs.run * kNR<T>};
  }
  if (r.k == 0) return {};
  if (runs.run >= kKC<T>) {
    const std::int64_t pieces = r.blocks / runs.taps, t = i / pieces;
    const Range k = split_range(runs.run, pieces, i % pieces);
    return {t, t + 1, k.end - k.begin, k.begin, k.begin * kNR<T>, runs.run * kNR<T>};
  }
  const Range taps = split_range(runs.taps, r.blocks, i);
  return {taps.begin, taps.end, runs.run, 0, 0, runs.run * kNR<T>};
}

// Fills r.classes, and their taps from `taps` on; returns where those of the next residue begin.
template <class T>
Tap* fill_classes(const ResidueConv<T>& d, const Plan<T>& p, std::int64_t residue,
                  const ResiduePlan& r, Tap* taps) {
  const DirectAxis &h = d.h_at(residue), &w = d.w_at(residue);
  const std::int64_t per_row = r.runs.fused ? 1 : w.taps;
  for (std::int64_t i = 0; i < r.class_count(); ++i) {
    PixelClass& k = r.classes[i];
    k.rows = r.rows.at[i / r.columns.count];
    k.columns = r.columns.at[i % r.columns.count];
    k.taps = taps;
    k.range = {k.rows.tap_begin * per_row, k.rows.tap_end * per_row};
    const std::int64_t left = min_i(k.columns.tap_begin, w.taps - 1);
    const Range columns{left, r.runs.fused ? left + 1 : k.columns.tap_end};
    const bool any_taps = r.runs.taps > 0;
    for (std::int64_t y = k.rows.tap_begin; any_taps && y < k.rows.tap_end; ++y) {
      for (std::int64_t x = columns.begin; x < columns.end; ++x) {
        *taps++ = {tap_offset(h, w, p.strip, y, x), y * per_row + (r.runs.fused ? 0 : x)};
      }
    }
    k.first_block = k.last_block = 0;
    bool any = false;
    for (std::int64_t b = 0; b < r.blocks; ++b) {
      const Block block = k_block(p, r, b);
      if (block.tap_begin >= k.range.end || block.tap_end <= k.range.begin) continue;
      if (!any) k.first_block = b;
      k.last_block = b;
      any = true;
    }
  }
  return taps;
}

template <class T>
StripLimits strip_limits(const ResidueConv<T>& d, bool units) {
  StripLimits limits = units ? kUnitStripLimits : kStripLimits;
  if (!d.channels_last) {
    const std::int64_t positions = max_i(kFewestPositions, kStripResults / d.residues());
    limits.pixels = min_i(limits.pixels, positions);
  }
  return limits;
}

template <class T>
Plan<T> make_plan(const ResidueConv<T>& d, int threads) {
  Plan<T> p{};
  // A unit of a residue is KC long, and that of all, packed together, fits half an L2 of 512 KiB: 4 KC.
  std::int64_t together = 0;
  for (std::int64_t i = 0; i < d.residues(); ++i) {
    p.taps += d.taps_at(i);
    together = max_i(together, d.taps_at(i));
  }
  together = max_i(together, ceil_div(p.taps, 4));
  p.units = make_units<T>(d.h.count * d.w.count, together, d.channels);
  const bool units = p.units.count > 1;
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
  const StripLimits limits = strip_limits(d, units);
  const StripSource<T> source = source_of(d);
  const std::int64_t cuts = d.pool != nullptr ? 1 : column_cuts(source, d.n, limits, p.row_parts);
  p.strip = make_strip_layout(source, d.n, limits, cuts);
  const std::int64_t k = p.units.taps * d.channels;
  p.pack_at_use = d.prepared == nullptr && (units || k <= kKC<T>) && p.row_parts == 1 &&
                  d.n * d.h.count * cuts <= 2 * p.strip.rows;
  p.panel_elements = p.taps * d.channels * kNR<T>;
  p.packed_elements = p.panels * p.panel_elements;
  const std::int64_t panel_bytes =
      max_i(1, p.panel_elements * static_cast<std::int64_t>(sizeof(T)));
  const bool once = d.prepared != nullptr || p.pack_at_use;
  const std::int64_t at_once = max_i(p.panel_parts, kPackedBytes / panel_bytes);
  p.chunk = once ? p.panels : ceil_div(p.panels, ceil_div(p.panels, at_once));
  p.weight_elements = p.pack_at_use ? p.taps * ceil_div(d.channels, p.units.count) * kNR<T>
                                    : p.chunk * p.panel_elements;
  if (d.prepared != nullptr) p.weight_elements = 0;
  if (d.pool != nullptr) {
    p.output_elements = pooled_sizes(d, p.strip.rows).all(p.panels);
  } else if (!d.channels_last) {
    p.output_elements = p.strip.rows * p.strip.width * d.residues() * kOutputStep<T>;
  }
  for (std::int64_t i = 0; i < d.residues(); ++i) {
    const ResiduePlan r = make_residue(d, p, i, 0);
    p.classes += r.class_count();
    p.tap_entries += r.class_count() * r.runs.taps;
  }
  return p;
}

template <class T>
std::int64_t prepared_elements(const ResidueConv<T>& d) {
  return make_plan(d, 1).packed_elements;
}

// Rows of a strip by the segment that they lie in, up to where the next begins.
struct SortedRows {
  std::int64_t* at[Segments::kMost + 1];
};

// Of a member: what the residues are, and the rows of a strip.
struct Tables {
  ResiduePlan* residues;
  SortedRows* rows;  // of every residue of h
  std::int64_t *row_offset, *tap_row;
};

template <class T>
std::int64_t table_bytes(const ResidueConv<T>& d, const Plan<T>& p) {
  const std::int64_t rows = p.strip.rows * (1 + d.h_count), kernel = d.kernel_h * d.kernel_w;
  const auto bytes = [](std::int64_t count, std::size_t size) {
    return count * static_cast<std::int64_t>(size);
  };
  return round_up(bytes(d.residues(), sizeof(ResiduePlan)) + bytes(d.h_count, sizeof(SortedRows)) +
                      bytes(p.classes, sizeof(PixelClass)) + bytes(p.tap_entries, sizeof(Tap)) +
                      bytes(rows + kernel, sizeof(std::int64_t)),
                  64);
}

template <class T>
Tables fill_tables(const ResidueConv<T>& d, const Plan<T>& p, char* at) {
  const auto take = [&]<class Entry>(Entry* first, std::int64_t count) {
    at = reinterpret_cast<char*>(first + count);
    return first;
  };
  Tables t{};
  t.residues = take(reinterpret_cast<ResiduePlan*>(at), d.residues());
  t.rows = take(reinterpret_cast<SortedRows*>(at), d.h_count);
  t.row_offset = take(reinterpret_cast<std::int64_t*>(at), p.strip.rows);
  for (std::int64_t i = 0; i < d.h_count; ++i) {
    t.rows[i].at[0] = take(reinterpret_cast<std::int64_t*>(at), p.strip.rows);
  }
  const std::int64_t kernel = d.kernel_h * d.kernel_w;
  t.tap_row = take(reinterpret_cast<std::int64_t*>(at), kernel);
  for (std::int64_t i = 0; i < kernel; ++i) t.tap_row[i] = -1;
  auto* classes = take(reinterpret_cast<PixelClass*>(at), p.classes);
  auto* taps = reinterpret_cast<Tap*>(at);
  std::int64_t first_tap = 0;
  for (std::int64_t i = 0; i < d.residues(); ++i) {
    ResiduePlan& r = t.residues[i];
    r = make_residue(d, p, i, first_tap);
    r.classes = classes;
    taps = fill_classes(d, p, i, r, taps);
    classes += r.class_count();
    add_tap_rows(d.h_at(i), d.w_at(i), d.kernel_w, first_tap, t.tap_row);
    first_tap += d.taps_at(i);
  }
  return t;
}

template <class T>
struct ScratchParts {
  T* weights;  // packed, in all or of this member
  char* tables;
  T* staged;
  T* output;
};

template <class T>
std::int64_t member_bytes(const ResidueConv<T>& d, const Plan<T>& p) {
  const auto item = static_cast<std::int64_t>(sizeof(T));
  return table_bytes(d, p) + round_up((p.strip.staged_elements + p.output_elements) * item, 64) +
         2 * 64;
}

template <class T>
std::int64_t weight_bytes(const Plan<T>& p, int threads) {
  return (p.pack_at_use ? threads : 1) *
         round_up(p.weight_elements * static_cast<std::int64_t>(sizeof(T)), 64);
}

template <class T>
std::int64_t direct_scratch(const ResidueConv<T>& d, int threads) {
  const Plan<T> p = make_plan(d, threads);
  return weight_bytes(p, threads) + threads * round_up(member_bytes(d, p), 64);
}

template <class T>
ScratchParts<T> scratch_parts(const ResidueConv<T>& d, const Plan<T>& p, int tid, int nthreads,
                              void* scratch) {
  char* base = static_cast<char*>(scratch);
  T* weights = reinterpret_cast<T*>(base) + (p.pack_at_use ? tid * p.weight_elements : 0);
  if (d.prepared != nullptr) weights = d.prepared;
  base += weight_bytes(p, nthreads) + tid * round_up(member_bytes(d, p), 64);
  T* staged = reinterpret_cast<T*>(base + table_bytes(d, p));
  return {weights, base, staged, staged + round_up(p.strip.staged_elements, 16)};
}

template <class T>
struct StripTask {
  const T* base;  // staged
  std::int64_t g0, g1;
  Range columns;       // positions of a row
  std::int64_t pitch;  // results of a row, over all residues
  const PooledStrip* pooled;
  std::int64_t first_panel;  // of those that are packed
};

// Output rows [g0, g1) sorted by segment.
template <class T>
void sort_rows(const Segments& segments, std::int64_t count, const StripTask<T>& s,
               SortedRows& rows) {
  std::int64_t* sorted = rows.at[0];
  for (int i = 0; i < segments.count; ++i) {
    const Segment& segment = segments.at[i];
    for (std::int64_t g = s.g0 - s.g0 % count; g < s.g1; g += count) {
      const std::int64_t end = min_i(s.g1, g + segment.end);
      for (std::int64_t r = max_i(s.g0, g + segment.begin); r < end; ++r) *sorted++ = r - s.g0;
    }
    rows.at[i + 1] = sorted;
  }
}

// One residue of a panel of a strip.
template <class T>
struct ResidueTask {
  const DirectConv<T>& d;
  const ResiduePlan& plan;
  const SortedRows& rows;
  const T* base;  // staged
  const std::int64_t* row_offset;
  std::int64_t panel;
  const T* weights;
  T* output;  // of its first pixel, and elements from row to row, pixel to pixel; 0: to their places
  std::int64_t row_step, step;
};

// One block, for the pixels of one class.
template <class T>
void run_class(const ResidueTask<T>& r, const Plan<T>& p, const StripTask<T>& s,
               const PixelClass& pixels, std::int64_t segment, const Block& block, bool first,
               bool last) {
  const DirectConv<T>& d = r.d;
  const std::int64_t j0 = r.panel * kNR<T>, columns = min_i(kNR<T>, d.columns - j0);
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
  // Taps of the block that the class sees, and for a fused row the columns of it.
  const std::int64_t t0 = max_i(block.tap_begin, pixels.range.begin);
  const std::int64_t t1 = max_i(t0, min_i(block.tap_end, pixels.range.end));
  TapList taps{pixels.taps, t1 - t0, block.b_step};
  std::int64_t k = block.k, skip = 0;
  if (p.units.count == 1) taps.at += t0 - pixels.range.begin;
  if (r.plan.runs.fused) {
    k = pixels.columns.taps() * d.channels;
    skip = pixels.columns.tap_begin * d.channels;
  } else if (r.plan.cut_columns) {
    taps.count = pixels.rows.taps() * pixels.columns.taps();
  }
  const T* b = r.weights + block.b + skip * kNR<T>;
  const T* a = r.base + r.plan.shift + block.shift;

  const std::int64_t begin = max_i(pixels.columns.begin, s.columns.begin);
  const std::int64_t end = max_i(begin, min_i(pixels.columns.end, s.columns.end));
  const std::int64_t* row = r.rows.at[segment];
  const std::int64_t total = (r.rows.at[segment + 1] - row) * (end - begin);
  const std::int64_t tiles = ceil_div(total, kMR);
  std::int64_t column = begin;
  std::int64_t known = -1, row_at = 0;  // a row and where its pixels begin: divisions, once a row
  for (std::int64_t t = 0; t < tiles; ++t) {
    const Range range = split_range(total, tiles, t);
    const std::int64_t m = range.end - range.begin;
    for (std::int64_t i = 0; i < m; ++i) {
      a_rows[i] = a + r.row_offset[*row] + (column - s.columns.begin) * pixel_step;
      if (r.step == 0) {
        if (*row != known) {
          known = *row;
          row_at = out_offset(d, s.g0 + known, 0) + j0;
        }
        const std::int64_t offset = row_at + column * d.w.out_step * d.out_channels;
        c_rows[i] = d.out + offset;
        if (fuse_residual) residual_rows[i] = d.residual + offset;
      } else {
        c_rows[i] = r.output + *row * r.row_step + (column - s.columns.begin) * r.step;
      }
      if (++column == end) {
        column = begin;
        ++row;
      }
    }
    run_tile<Products>(m, a_rows, k, taps, b, kNR<T>, store);
  }
}

// Residue i of a panel, of all units or of one: `weights` are those of all residues.
template <class T>
void run_residue(const ResidueConv<T>& d, const Plan<T>& p, const StripTask<T>& s,
                 const Tables& tables, std::int64_t i, std::int64_t panel, Range blocks,
                 std::int64_t tap_step, const T* weights, T* output) {
  const ResiduePlan& r = tables.residues[i];
  const DirectConv<T> one = d.lie_of(i);
  const std::int64_t h = i / d.w_count, w = i % d.w_count;
  const std::int64_t step = panel_step(d, min_i(kNR<T>, d.columns - panel * kNR<T>));
  const std::int64_t row_step = s.pitch * step;
  const ResidueTask<T> task{one,
                            r,
                            tables.rows[h],
                            s.base,
                            tables.row_offset,
                            panel,
                            weights + r.first_tap * tap_step * kNR<T>,
                            output + h * row_step + w * step,
                            d.h_count * row_step,
                            d.w_count * step};
  for (std::int64_t b = blocks.begin; b < blocks.end; ++b) {
    const Block block = k_block(p, r, b);
    for (std::int64_t k = 0; k < r.class_count(); ++k) {
      const PixelClass& pixels = r.classes[k];
      if (b < pixels.first_block || b > pixels.last_block) continue;
      run_class(task, p, s, pixels, k / r.columns.count, block, b == pixels.first_block,
                b == pixels.last_block);
    }
  }
}

template <class T>
void run_strip(const ResidueConv<T>& d, const Plan<T>& p, const StripTask<T>& s,
               const Tables& tables, const ScratchParts<T>& parts, Range panels) {
  if (d.channels_last && d.pool == nullptr && !p.pack_at_use) {  // whole pixels
    for (std::int64_t i = 0; i < d.residues(); ++i) {
      for (std::int64_t panel = panels.begin; panel < panels.end; ++panel) {
        const T* weights = parts.weights + (panel - s.first_panel) * p.panel_elements;
        const Range blocks{0, tables.residues[i].blocks};
        run_residue(d, p, s, tables, i, panel, blocks, d.channels, weights, parts.output);
      }
    }
    return;
  }
  for (std::int64_t panel = panels.begin; panel < panels.end; ++panel) {
    T* output = parts.output;
    if (d.pool != nullptr) {
      output = begin_panel(pooled_panel(d, *s.pooled, p.strip.rows, panel, parts.output));
    }
    for (std::int64_t u = 0; u < p.units.count; ++u) {
      const Range c = unit_range(p.units, u);
      const std::int64_t tap_step = p.pack_at_use ? c.end - c.begin : d.channels;
      const T* weights = parts.weights;
      if (!p.pack_at_use) {
        weights += (panel - s.first_panel) * p.panel_elements;
      } else if (p.panel_elements > 0) {
        pack_weights(d, tables.tap_row, panel, c, tap_step, parts.weights);
      }
      for (std::int64_t i = 0; i < d.residues(); ++i) {
        const Range blocks =
            p.units.count > 1 ? Range{u, u + 1} : Range{0, tables.residues[i].blocks};
        run_residue(d, p, s, tables, i, panel, blocks, tap_step, weights, output);
      }
    }
    if (d.pool != nullptr) {
      finish_panel(pooled_panel(d, *s.pooled, p.strip.rows, panel, parts.output));
    } else if (!d.channels_last) {
      const std::int64_t j0 = panel * kNR<T>, columns = min_i(kNR<T>, d.columns - j0);
      const PanelRows lie{d.h_count, s.pitch, s.columns.begin * d.w.out_step};
      store_planes(d, output, lie, s.g0, s.g1, j0, columns);
    }
  }
}

// Member tid's share of some panels: [panel][tap][channel], however the channels are cut into units, for
// a kept weight serves images of any size.
template <class T>
void pack_panels(const ResidueConv<T>& d, const Plan<T>& p, const std::int64_t* tap_row,
                 Range panels, int tid, int nthreads, T* dst) {
  const std::int64_t count = (panels.end - panels.begin) * p.units.count;
  const Range mine = split_range(p.panel_elements > 0 ? count : 0, nthreads, tid);
  for (std::int64_t i = mine.begin; i < mine.end; ++i) {
    const std::int64_t panel = i / p.units.count;
    const Range c = unit_range(p.units, i % p.units.count);
    pack_weights(d, tap_row, panels.begin + panel, c, d.channels,
                 dst + panel * p.panel_elements + c.begin * kNR<T>);
  }
}

template <class T>
void run_direct(const ResidueConv<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Plan<T> p = make_plan(d, nthreads);
    const ScratchParts<T> parts = scratch_parts(d, p, tid, nthreads, scratch);
    const Tables tables = fill_tables(d, p, parts.tables);
    const int row_part = tid % p.row_parts, panel_part = tid / p.row_parts;
    const std::int64_t cuts = p.strip.cuts;
    StripSource<T> source = source_of(d);
    const Range rows = split_range(d.n * d.h.count * cuts, p.row_parts, row_part);
    const std::int64_t strips = ceil_div(rows.end - rows.begin, p.strip.rows);
    StripTask<T> task{};
    for (std::int64_t first = 0; first < p.panels; first += p.chunk) {
      const Range chunk{first, min_i(p.panels, first + p.chunk)};
      if (first > 0) team_barrier(nthreads);
      if (d.prepared != nullptr ? d.prepare : !p.pack_at_use) {
        pack_panels(d, p, tables.tap_row, chunk, tid, nthreads, parts.weights);
        team_barrier(nthreads);
      }
      const Range mine = split_range(chunk.end - chunk.begin, p.panel_parts, panel_part);
      const Range panels{first + mine.begin, first + mine.end};
      const auto strip = [&](Range part, const PooledStrip* pooled) {
        if (first == 0 || strips > 1 || pooled != nullptr) {  // a single strip is still there
          const Range columns = split_range(d.w.count, cuts, part.begin % cuts);
          const std::int64_t pitch = min_i((columns.end - columns.begin) * d.w_count,
                                           d.out_w - columns.begin * d.w.out_step);
          task = {nullptr,
                  part.begin / cuts,
                  ceil_div(part.end, cuts),
                  columns,
                  d.pool != nullptr ? d.w.count : pitch,
                  pooled,
                  0};
          source.column = columns.begin;
          task.base =
              stage_strip(source, p.strip, task.g0, task.g1, parts.staged, tables.row_offset, 0, 1);
          for (std::int64_t i = 0; i < d.h_count; ++i) {
            sort_rows(tables.residues[i * d.w_count].rows, d.h.count, task, tables.rows[i]);
          }
        }
        task.first_panel = first;
        run_strip(d, p, task, tables, parts, panels);
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
