// Winograd F(4x4, 3x3) of a 3x3 convolution of stride 1: forward, and backward by x.
//
// A strip is some rows of 4x4 output tiles. For each strip:
//   staged    its input rows with their border, as for the direct convolution with taps 6x6 stride 4
//   v         [36][tile][channel]: B^T d B of every 6x6 tile
// and for each panel of NR output columns, unit of channels by unit:
//   u         [36][channel][NR]: G g G^T, shared by the team, or made when a member comes to it
//   m         [36][tile][NR] += v u: 36 products by the row microkernel, tiles as rows
//   out       A^T m A with the epilogue
// Sums run over the channels in units that depend on their number alone, so bits depend on the
// sample's shape alone.
#include "conv/pooled.hpp"
#include "conv/strip.hpp"
#include "conv/winograd.hpp"
#include "core/parallel.hpp"
#include "gemm/ukernel.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Tiles of a strip: as many rows as use a panel of u read from L3, while v of 64 channels (9 KiB a
// tile), m of a panel (4.5 KiB a tile) and a unit of u (288 KiB) stay in an L2 of 1 MiB.
constexpr StripLimits kTileLimits{56, std::int64_t{2} << 20};
// Channels of a unit, at most.
constexpr std::int64_t kUnit = 64;
// Channels whose weights are packed in L1 on their way to u.
constexpr std::int64_t kPackUnit = 16;

template <class T>
struct Plan {
  StripSource<T> source;
  StripLayout strip;
  std::int64_t tiles;  // of a strip, at most
  std::int64_t v_row;  // elements of a tile in v
  std::int64_t v_step, m_step, u_step;
  std::int64_t units, panels;
  int row_parts, panel_parts;
  bool pack_at_use;
  std::int64_t prepared_elements;  // all of u
  std::int64_t u_elements;         // scratch of the team; of a member if packed at use
  std::int64_t output_elements;
};

template <class T>
Plan<T> make_plan(const DirectConv<T>& d, const TileAxis& h, const TileAxis& w, int threads) {
  Plan<T> p{};
  p.source = {d.src, d.src_channels, d.src_channel, d.channels, &h.view, &w.view, d.channels_last};
  p.strip = make_strip_layout(p.source, d.n, kTileLimits);
  const std::int64_t rows = d.n * h.view.count;
  p.tiles = p.strip.rows * w.view.count;
  p.v_row = round_up(d.channels, kLanes<T>);
  if (rows_alias<T>(p.v_row)) p.v_row += kLanes<T>;
  p.v_step = point_step<T>(p.tiles * p.v_row);
  p.m_step = point_step<T>(p.tiles * kNR<T>);
  p.units = ceil_div(d.channels, kUnit);
  p.panels = ceil_div(d.columns, kNR<T>);
  p.row_parts = 1;
  p.panel_parts = threads;
  for (int parts = threads; parts >= 1; --parts) {
    if (threads % parts == 0 &&
        (rows * w.view.count >= parts * 2 * kMR || threads / parts > p.panels)) {
      p.row_parts = parts;
      p.panel_parts = threads / parts;
      break;
    }
  }
  p.pack_at_use = d.prepared == nullptr && p.row_parts == 1 && rows <= 2 * p.strip.rows;
  p.u_step = point_step<T>(ceil_div(d.channels, p.units) * kNR<T>);
  p.prepared_elements = kTilePoints * p.u_step * p.panels * p.units;
  p.u_elements = p.pack_at_use ? kTilePoints * p.u_step : p.prepared_elements;
  if (d.prepared != nullptr) p.u_elements = 0;
  if (d.pool != nullptr) {
    p.output_elements = pooled_sizes(d, p.strip.rows * kTileOut).all(p.panels);
  } else {
    p.output_elements = d.channels_last ? 0 : p.strip.rows * kTileOut * d.w.count * kOutputStep<T>;
  }
  return p;
}

template <class T>
constexpr std::int64_t kPackElements = 9 * kPackUnit * kNR<T>;

// Elements of each part of a member's scratch, whole cache lines.
template <class T>
struct MemberParts {
  T *staged, *v, *m, *packed, *output;
  std::int64_t* row_offset;
  std::int64_t bytes;
};

template <class T>
MemberParts<T> member_parts(const Plan<T>& p, char* base) {
  MemberParts<T> parts{};
  const auto take = [&](std::int64_t elements) {
    T* at = reinterpret_cast<T*>(base + parts.bytes);
    parts.bytes += round_up(elements * static_cast<std::int64_t>(sizeof(T)), 64) + 64;
    return at;
  };
  parts.staged = take(p.strip.staged_elements);
  parts.v = take(kTilePoints * p.v_step);
  parts.m = take(kTilePoints * p.m_step);
  parts.packed = take(kPackElements<T>);
  parts.output = take(p.output_elements);
  parts.row_offset = reinterpret_cast<std::int64_t*>(base + parts.bytes);
  parts.bytes += round_up(p.strip.rows * 8, 64);
  return parts;
}

template <class T>
std::int64_t u_bytes(const Plan<T>& p, int threads) {
  return (p.pack_at_use ? threads : 1) *
         round_up(p.u_elements * static_cast<std::int64_t>(sizeof(T)), 64);
}

// The axes of tiles and the plan over them, which refers to the axes.
template <class T>
struct TilePlan {
  TilePlan(const DirectConv<T>& d, int threads) {
    make_tile_axis(d.h, kTileIn, d.h.offset[0], d.h.size, &h);
    make_tile_axis(d.w, kTileIn, d.w.offset[0], d.w.size, &w);
    plan = make_plan(d, h, w, threads);
  }
  TilePlan(const TilePlan&) = delete;
  TilePlan& operator=(const TilePlan&) = delete;

  TileAxis h, w;
  Plan<T> plan;
};

template <class T>
std::int64_t winograd_scratch(const DirectConv<T>& d, int threads) {
  const TilePlan<T> tiles(d, threads);
  const Plan<T>& p = tiles.plan;
  return u_bytes(p, threads) + threads * member_parts(p, nullptr).bytes;
}

// u of one unit of a panel.
template <class T>
void make_u(const DirectConv<T>& d, const Plan<T>& p, std::int64_t panel, Range unit, T* packed,
            T* u) {
  std::int64_t tap_row[9];
  fill_tap_rows(d.h, d.w, 3, 3, tap_row);
  for (std::int64_t c = unit.begin; c < unit.end; c += kPackUnit) {
    const Range part{c, min_i(unit.end, c + kPackUnit)};
    pack_weights(d, tap_row, panel, part, part.end - part.begin, packed);
    transform_weights(packed, part.end - part.begin, u + (c - unit.begin) * kNR<T>, p.u_step);
  }
}

// Member tid's share of u, [panel][unit].
template <class T>
void make_all_u(const DirectConv<T>& d, const Plan<T>& p, int tid, int nthreads, T* packed, T* u) {
  const Range mine = split_range(p.panels * p.units, nthreads, tid);
  for (std::int64_t i = mine.begin; i < mine.end; ++i) {
    make_u(d, p, i / p.units, split_range(d.channels, p.units, i % p.units), packed,
           u + i * kTilePoints * p.u_step);
  }
}

// m of one panel: (the sums of the units before +) v u.
template <class T>
void multiply(const Plan<T>& p, const T* v, std::int64_t tiles, Range unit, const T* u,
              std::int64_t columns, T* m) {
  const T* a_rows[kMR];
  T* c_rows[kMR];
  const Tap tap{0, 0};
  const TileStore<T> store{c_rows,         min_i(kNR<T>, round_up(columns, kLanes<T>)),
                           unit.begin > 0, nullptr,
                           nullptr,        nullptr,
                           Activation{}};
  const std::int64_t blocks = ceil_div(tiles, kMR);
  for (int point = 0; point < kTilePoints; ++point) {
    const T* a = v + point * p.v_step + unit.begin;
    T* c = m + point * p.m_step;
    for (std::int64_t b = 0; b < blocks; ++b) {
      const Range range = split_range(tiles, blocks, b);
      for (std::int64_t t = range.begin; t < range.end; ++t) {
        a_rows[t - range.begin] = a + t * p.v_row;
        c_rows[t - range.begin] = c + t * kNR<T>;
      }
      run_tile(range.end - range.begin, a_rows, unit.end - unit.begin, {&tap, 1, 0},
               u + point * p.u_step, kNR<T>, store);
    }
  }
}

// Output tile `tile` in tile row g, columns [j0, j0 + columns) of the group. channels_first or pooled:
// into the panel of the strip, whose first output row is `first_row` of the batch.
template <class T>
void store_tile_values(const DirectConv<T>& d, std::int64_t g, std::int64_t tile, const T* m,
                       std::int64_t m_step, std::int64_t tile_rows, std::int64_t first_row,
                       std::int64_t j0, std::int64_t columns, T* output) {
  constexpr int kL = kLanes<T>;
  const std::int64_t step = panel_step(d, columns);
  const std::int64_t row0 = g % tile_rows * kTileOut, column0 = tile * kTileOut;
  const std::int64_t row = g / tile_rows * d.h.count + row0;  // of the batch
  const std::int64_t height = min_i(kTileOut, d.h.count - row0);
  const std::int64_t width = min_i(kTileOut, d.w.count - column0);
  const bool residual = d.residual != nullptr;
  for (std::int64_t j = 0; j < columns; j += kL) {
    const std::int64_t n = min_i(kL, columns - j);
    Vec<T> y[kTileOut][kTileOut];
    transform_output(m + j, m_step, y);
    if (d.bias != nullptr) {
      const Vec<T> bias = load_n(d.bias + j0 + j, n);
      for (auto& values : y) {
        for (Vec<T>& value : values) value = value + bias;
      }
    }
    if (d.channels_last && residual) {
      for (std::int64_t r = 0; r < height; ++r) {
        const T* p = d.residual + out_offset(d, row + r, column0) + j0 + j;
        for (std::int64_t c = 0; c < width; ++c)
          y[r][c] = y[r][c] + load_n(p + c * d.out_channels, n);
      }
    }
    if (d.channels_last || !residual) {
      for (auto& values : y) activate_tile(d.activation, values);
    }
    for (std::int64_t r = 0; r < height; ++r) {
      if (step > 0) {
        T* p = output + ((row - first_row + r) * d.w.count + column0) * step + j;
        for (std::int64_t c = 0; c < width; ++c) y[r][c].store(p + c * step);
        continue;
      }
      T* p = d.out + out_offset(d, row + r, column0) + j0 + j;
      for (std::int64_t c = 0; c < width; ++c) {
        if (n == kL) {
          y[r][c].store(p + c * d.out_channels);
        } else {
          store_n(y[r][c], p + c * d.out_channels, n);
        }
      }
    }
  }
}

// Tile rows [g0, g1) of the batch, the panels of this member.
template <class T>
void run_strip(const DirectConv<T>& d, const Plan<T>& p, Range rows, const MemberParts<T>& parts,
               T* u, Range panels, const PooledStrip* pooled) {
  const std::int64_t tile_rows = p.source.h->count, width = p.source.w->count;
  const T* base =
      stage_strip(p.source, p.strip, rows.begin, rows.end, parts.staged, parts.row_offset, 0, 1);
  const std::int64_t pixel = p.strip.pixel, row = p.strip.columns * pixel;
  for (std::int64_t g = rows.begin; g < rows.end; ++g) {
    for (std::int64_t t = 0; t < width; ++t) {
      transform_input(base + parts.row_offset[g - rows.begin] + t * kTileOut * pixel, row, pixel,
                      d.channels, parts.v + ((g - rows.begin) * width + t) * p.v_row, p.v_step);
    }
  }
  const auto output_row = [&](std::int64_t g) {  // of the batch, where tile row g begins
    return g / tile_rows * d.h.count + g % tile_rows * kTileOut;
  };
  const std::int64_t first_row = output_row(rows.begin);
  for (std::int64_t panel = panels.begin; panel < panels.end; ++panel) {
    const std::int64_t j0 = panel * kNR<T>, columns = min_i(kNR<T>, d.columns - j0);
    const std::int64_t strip_rows = p.strip.rows * kTileOut;
    T* output = parts.output;
    if (d.pool != nullptr) {
      output = begin_panel(pooled_panel(d, *pooled, strip_rows, panel, parts.output));
    }
    for (std::int64_t i = 0; i < p.units; ++i) {
      const Range unit = split_range(d.channels, p.units, i);
      T* at = u;
      if (p.pack_at_use) {
        make_u(d, p, panel, unit, parts.packed, at);
      } else {
        at += (panel * p.units + i) * kTilePoints * p.u_step;
      }
      multiply(p, parts.v, (rows.end - rows.begin) * width, unit, at, columns, parts.m);
    }
    for (std::int64_t g = rows.begin; g < rows.end; ++g) {
      for (std::int64_t t = 0; t < width; ++t) {
        store_tile_values(d, g, t, parts.m + ((g - rows.begin) * width + t) * kNR<T>, p.m_step,
                          tile_rows, first_row, j0, columns, output);
      }
    }
    if (d.pool != nullptr) {
      finish_panel(pooled_panel(d, *pooled, strip_rows, panel, parts.output));
    } else if (!d.channels_last) {
      const std::int64_t last_row =
          rows.end % tile_rows == 0 ? rows.end / tile_rows * d.h.count : output_row(rows.end);
      store_planes(d, parts.output, {1, d.w.count, 0}, first_row, last_row, j0, columns);
    }
  }
}

template <class T>
void run_winograd(const DirectConv<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const TilePlan<T> tiles(d, nthreads);
    const Plan<T>& p = tiles.plan;
    char* base = static_cast<char*>(scratch);
    T* u = reinterpret_cast<T*>(base) + (p.pack_at_use ? tid * p.u_elements : 0);
    if (d.prepared != nullptr) u = d.prepared;
    base += u_bytes(p, nthreads);
    const MemberParts<T> parts = member_parts(p, base + tid * member_parts(p, base).bytes);
    if (d.prepared != nullptr ? d.prepare : !p.pack_at_use) {
      make_all_u(d, p, tid, nthreads, parts.packed, u);
      team_barrier(nthreads);
    }
    const Range panels = split_range(p.panels, p.panel_parts, tid / p.row_parts);
    if (d.pool != nullptr) {
      const PoolAxis& pool = d.pool->p.h;
      for_pooled_strips(
          pool, split_range(d.n * pool.out, p.row_parts, tid % p.row_parts), kTileOut, p.strip.rows,
          [&](const PooledStrip& s) { run_strip(d, p, s.groups, parts, u, panels, &s); });
      return;
    }
    const Range rows = split_range(d.n * tiles.h.view.count, p.row_parts, tid % p.row_parts);
    const std::int64_t strips = ceil_div(rows.end - rows.begin, p.strip.rows);
    for (std::int64_t i = 0; i < strips; ++i) {
      const Range part = split_range(rows.end - rows.begin, strips, i);
      run_strip(d, p, {rows.begin + part.begin, rows.begin + part.end}, parts, u, panels, nullptr);
    }
  });
}

template <class T>
std::int64_t prepared_elements(const DirectConv<T>& d) {
  return TilePlan<T>(d, 1).plan.prepared_elements;
}

template <class T>
constexpr WinogradTable<T> table() {
  return {{&winograd_scratch<T>, &run_winograd<T>}, &prepared_elements<T>};
}

}  // namespace

extern const FloatKernels<WinogradTable> winograd_kernels = {table<float>(), table<double>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
