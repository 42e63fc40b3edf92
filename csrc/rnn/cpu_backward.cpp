#include "rnn/gates.hpp"
#include "rnn/panel.hpp"
#include "rnn/tables.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// One step of a scan, going back.
template <class T>
struct Back {
  const RnnScanBackward<T>& g;
  const RnnScan<T>& s;
  std::int64_t t;
  Bounds<T> bounds;

  std::int64_t at(std::int64_t b) const { return t * s.batch + b; }
  std::int64_t width() const { return s.cell.gates() * s.hidden; }
  const T* gates(std::int64_t b) const { return s.gates + at(b) * width(); }
  const T* z(std::int64_t b) const { return s.z + at(b) * width(); }
  T* dz(std::int64_t b) const { return g.dz + at(b) * width(); }
  T* dn(std::int64_t b) const { return g.dn + at(b) * s.hidden; }
  T* dout(std::int64_t b) const { return g.dout + at(b) * s.out; }
  const T* cells(std::int64_t b) const { return s.cells + t * s.cells_step + b * s.hidden; }
  const T* inner(std::int64_t b) const { return s.inner + t * s.inner_step + b * s.hidden; }
  const T* y(std::int64_t b) const { return s.y + t * s.y_step + b * s.y_row; }

  // The share of a gradient that zoneout sends to the former value.
  Vec<T> passed(double zone, const T* fresh, std::int64_t size, std::int64_t b, std::int64_t unit,
                std::int64_t width, Vec<T> d) const {
    if (fresh == nullptr) return d * Vec<T>::set1(static_cast<T>(zone));
    const Vec<T> taken = load_lanes(fresh + at(b) * size + unit, width);
    return select(taken > Vec<T>::zero(), Vec<T>::zero(), d);
  }
};

// The vectors at one unit of the active rows of a tile: gradients of h, or of what is projected, in
// `dh`, and the samples they belong to.
template <class T>
struct Column {
  std::int64_t unit, width, rows;
  std::int64_t row[kMaxTileRows];
  alignas(64) T dh[kMaxTileRows * kLanes<T>];
};

template <class T>
using Lanes = T[kMaxTileRows * kLanes<T>];

template <class T, class F>
ARRAYNN_INLINE void gather(const Column<T>& c, T* to, const F& from) {
  for (std::int64_t r = 0; r < c.rows; ++r) {
    load_lanes(from(c.row[r]) + c.unit, c.width).store(to + r * kLanes<T>);
  }
}
template <class T, class F>
ARRAYNN_INLINE void scatter(const Column<T>& c, const T* values, const F& to) {
  for (std::int64_t r = 0; r < c.rows; ++r) {
    store_lanes(Vec<T>::load(values + r * kLanes<T>), to(c.row[r]) + c.unit, c.width);
  }
}

// d, the gradient of gate `gate` with values y, becomes that of its z. Where z is kept it counts:
// the derivative is that at the bounded z, and nothing passes where the bounds took hold.
template <class T>
[[gnu::noinline]] static void through(const Back<T>& step, const Activation& f, std::int64_t gate,
                                      const Column<T>& c, const T* y, T* d) {
  if (step.s.z == nullptr) return times_derivative_of_value(f, y, d, c.rows);
  using V = Vec<T>;
  alignas(64) Lanes<T> z;
  std::int64_t r = 0;
  do {  // there is a row
    const V x = load_lanes(step.z(c.row[r]) + gate * step.s.hidden + c.unit, c.width);
    const V g = V::load(d + r * kLanes<T>);
    clamp(x, step.bounds.z).store(z + r * kLanes<T>);
    select(abs(x) <= V::set1(step.bounds.z), g, V::zero()).store(d + r * kLanes<T>);
  } while (++r < c.rows);
  times_derivative(f, z, d, c.rows);
}

template <class T>
ARRAYNN_INLINE void rnn_column(const Back<T>& step, Column<T>& c) {
  alignas(64) Lanes<T> y;
  const bool kept = step.s.cell.zone > 0;  // y is then not the value of f
  gather(c, y, [&](std::int64_t b) { return kept ? step.gates(b) : step.y(b); });
  through(step, step.s.cell.main, 0, c, y, c.dh);
  scatter(c, c.dh, [&](std::int64_t b) { return step.dz(b); });
}

// With a norm of c, what lstm_column() does first: gradients of o and of LN(c).
template <class T>
[[gnu::noinline]] static void output_column(const Back<T>& step, Column<T>& col) {
  using V = Vec<T>;
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const RnnNorm<T>& norm = s.norm;
  const std::int64_t h = s.hidden, n = col.rows;
  alignas(64) Lanes<T> o, c, out, dout, dc;
  gather(col, o, [&](std::int64_t b) { return step.gates(b) + 3 * h; });
  const V gain = load_lanes(norm.cell_gain + col.unit, col.width);
  const V bias = load_lanes(norm.cell_bias + col.unit, col.width);
  for (std::int64_t r = 0; r < n; ++r) {
    const std::int64_t at = step.at(col.row[r]);
    // As the rows were normalised in forward: the mean in two parts.
    const double mean = norm.cell_mean[at], rstd = norm.cell_rstd[at];
    const T m = static_cast<T>(mean);
    const T shift = static_cast<T>((static_cast<double>(m) - mean) * rstd);
    const V v = load_lanes(norm.cell + at * h + col.unit, col.width) - V::set1(m);
    fma(fma(v, V::set1(static_cast<T>(rstd)), V::set1(shift)), gain, bias).store(c + r * kL);
  }
  for (std::int64_t j = 0; j < n * kL; j += kL) V::load(c + j).store(out + j);
  activate_vectors(s.cell.output, out, n);
  for (std::int64_t j = 0; j < n * kL; j += kL) {
    const V dh = V::load(col.dh + j);
    (dh * V::load(out + j)).store(dout + j);
    (dh * V::load(o + j)).store(dc + j);
  }
  through(step, s.cell.gate, 3, col, o, dout);
  if (derivative_from_value(s.cell.output.kind)) {
    times_derivative_of_value(s.cell.output, out, dc, n);
  } else {
    times_derivative(s.cell.output, c, dc, n);
  }
  scatter(col, dout, [&](std::int64_t b) { return step.dz(b) + 3 * h; });
  scatter(col, dc, [&](std::int64_t b) { return step.g.dnormed + step.at(b) * h; });
}

template <class T>
[[gnu::noinline]] static void lstm_column(const Back<T>& step, Column<T>& col) {
  using V = Vec<T>;
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const RnnCell& cell = s.cell;
  const std::int64_t h = s.hidden, n = col.rows;
  alignas(64) T gate[4][kMaxTileRows * kL], d[4][kMaxTileRows * kL];
  alignas(64) Lanes<T> c, out, dc;
  for (int k = 0; k < 4; ++k) {
    gather(col, gate[k], [&](std::int64_t b) { return step.gates(b) + k * h; });
  }
  if (cell.zone_cell > 0) {  // h has seen c before it was blended
    for (std::int64_t r = 0; r < n; ++r) {
      const std::int64_t j = r * kL;
      const V old = load_lanes(s.c_before(step.t, col.row[r]) + col.unit, col.width);
      clamp(fma(V::load(gate[1] + j), old, V::load(gate[0] + j) * V::load(gate[2] + j)),
            step.bounds.c)
          .store(c + j);
    }
  } else {
    gather(col, c, [&](std::int64_t b) { return step.cells(b); });
  }
  if (s.norm.cell != nullptr) {
    gather(col, d[3], [&](std::int64_t b) { return step.dz(b) + 3 * h; });
    gather(col, dc, [&](std::int64_t b) { return step.g.dcell + b * h; });
  } else {
    for (std::int64_t j = 0; j < n * kL; j += kL) V::load(c + j).store(out + j);
    activate_vectors(cell.output, out, n);
    for (std::int64_t j = 0; j < n * kL; j += kL) {
      const V dh = V::load(col.dh + j);
      (dh * V::load(out + j)).store(d[3] + j);
      (dh * V::load(gate[3] + j)).store(dc + j);
    }
    through(step, cell.gate, 3, col, gate[3], d[3]);
    if (derivative_from_value(cell.output.kind)) {
      times_derivative_of_value(cell.output, out, dc, n);
    } else {
      times_derivative(cell.output, c, dc, n);
    }
  }
  V peep[3] = {V::zero(), V::zero(), V::zero()};
  if (s.peephole != nullptr) {
    for (int p = 0; p < 3; ++p) peep[p] = load_lanes(s.peephole + p * h + col.unit, col.width);
  }
  for (std::int64_t r = 0; r < n; ++r) {
    const std::int64_t b = col.row[r], j = r * kL;
    const V i = V::load(gate[0] + j), f = V::load(gate[1] + j), g = V::load(gate[2] + j);
    const V old = load_lanes(s.c_before(step.t, b) + col.unit, col.width);
    V carried = load_lanes(step.g.dc + b * h + col.unit, col.width);
    if (step.g.dcells != nullptr) {
      const T* own = step.g.dcells + step.at(b) * step.g.dcells_row + col.unit;
      carried = carried + load_lanes(own, col.width);
    }
    if (cell.zone_cell > 0) {
      const V passed =
          step.passed(cell.zone_cell, s.fresh_cell, h, b, col.unit, col.width, carried);
      store_lanes(passed, step.g.dc + b * h + col.unit, col.width);
      carried = carried - passed;
    }
    V total = V::load(dc + j) + carried;
    if (s.peephole != nullptr) total = fma(peep[2], V::load(d[3] + j), total);
    if (cell.clips_cell) {
      const Mask<T> free = abs(fma(f, old, i * g)) <= V::set1(step.bounds.c);
      total = select(free, total, V::zero());
    }
    const V di = total * g, df = total * old;
    (cell.input_forget ? V::zero() : di).store(d[0] + j);
    (cell.input_forget ? df - di : df).store(d[1] + j);
    (total * i).store(d[2] + j);
    total.store(dc + j);
  }
  if (!cell.input_forget) through(step, cell.gate, 0, col, gate[0], d[0]);
  through(step, cell.gate, 1, col, gate[1], d[1]);
  through(step, cell.main, 2, col, gate[2], d[2]);
  V dpeep[3] = {V::zero(), V::zero(), V::zero()};
  if (s.peephole != nullptr) {
    for (int p = 0; p < 3; ++p) {
      dpeep[p] = load_lanes(step.g.dpeephole + p * h + col.unit, col.width);
    }
  }
  for (std::int64_t r = 0; r < n; ++r) {
    const std::int64_t b = col.row[r], j = r * kL;
    V before = V::load(dc + j) * V::load(gate[1] + j);
    if (s.peephole != nullptr) {
      const V old = load_lanes(s.c_before(step.t, b) + col.unit, col.width);
      const V di = V::load(d[0] + j), df = V::load(d[1] + j);
      before = fma(peep[0], di, fma(peep[1], df, before));
      dpeep[0] = fma(di, old, dpeep[0]);
      dpeep[1] = fma(df, old, dpeep[1]);
      dpeep[2] = fma(V::load(d[3] + j), V::load(c + j), dpeep[2]);
    }
    T* carry = step.g.dc + b * h + col.unit;
    if (cell.zone_cell > 0) before = before + load_lanes(carry, col.width);
    store_lanes(before, carry, col.width);
  }
  if (s.peephole != nullptr) {
    for (int p = 0; p < 3; ++p) {
      store_lanes(dpeep[p], step.g.dpeephole + p * h + col.unit, col.width);
    }
  }
  for (int k = 0; k < 4; ++k) {
    scatter(col, d[k], [&](std::int64_t b) { return step.dz(b) + k * h; });
  }
}

// r z n of a GRU whose product comes before the reset; z and n of one whose reset comes before.
template <class T>
[[gnu::noinline]] static void gru_column(const Back<T>& step, Column<T>& col) {
  using V = Vec<T>;
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const RnnCell& cell = s.cell;
  const std::int64_t h = s.hidden, n = col.rows;
  alignas(64) Lanes<T> z, value, dz, dn;
  gather(col, z, [&](std::int64_t b) { return step.gates(b) + h; });
  gather(col, value, [&](std::int64_t b) { return step.gates(b) + 2 * h; });
  for (std::int64_t r = 0; r < n; ++r) {
    const std::int64_t b = col.row[r], j = r * kL;
    const V dh = V::load(col.dh + j), zv = V::load(z + j);
    const V old = load_lanes(s.h_before(step.t, b) + col.unit, col.width);
    (dh * (V::set1(T(1)) - zv)).store(dn + j);
    (dh * (old - V::load(value + j))).store(dz + j);
    T* carry = step.g.dh + b * h + col.unit;
    store_lanes(fma(dh, zv, load_lanes(carry, col.width)), carry, col.width);
  }
  through(step, cell.main, 2, col, value, dn);
  through(step, cell.gate, 1, col, z, dz);
  scatter(col, dz, [&](std::int64_t b) { return step.dz(b) + h; });
  if (!cell.reset_after) {
    scatter(col, dn, [&](std::int64_t b) { return step.dz(b) + 2 * h; });
    return;
  }
  alignas(64) Lanes<T> reset, dr;
  gather(col, reset, [&](std::int64_t b) { return step.gates(b); });
  gather(col, dr, [&](std::int64_t b) { return step.inner(b); });
  scatter(col, dn, [&](std::int64_t b) { return step.dn(b); });
  for (std::int64_t j = 0; j < n * kL; j += kL) {
    const V d = V::load(dn + j);
    (d * V::load(dr + j)).store(dr + j);
    (d * V::load(reset + j)).store(dn + j);
  }
  through(step, cell.gate, 0, col, reset, dr);
  scatter(col, dr, [&](std::int64_t b) { return step.dz(b); });
  scatter(col, dn, [&](std::int64_t b) { return step.dz(b) + 2 * h; });
}

// The reset before the product: col.dh is the gradient of r h.
template <class T>
[[gnu::noinline]] static void reset_column(const Back<T>& step, Column<T>& col) {
  using V = Vec<T>;
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const std::int64_t h = s.hidden;
  alignas(64) Lanes<T> reset, dr;
  gather(col, reset, [&](std::int64_t b) { return step.gates(b); });
  for (std::int64_t r = 0; r < col.rows; ++r) {
    const std::int64_t b = col.row[r], j = r * kL;
    V d = V::load(col.dh + j);
    if (s.factors != nullptr) d = d * load_lanes(s.factors + b * h + col.unit, col.width);
    (d * load_lanes(s.h_before(step.t, b) + col.unit, col.width)).store(dr + j);
    T* carry = step.g.dh + b * h + col.unit;
    store_lanes(fma(d, V::load(reset + j), load_lanes(carry, col.width)), carry, col.width);
  }
  through(step, s.cell.gate, 0, col, reset, dr);
  scatter(col, dr, [&](std::int64_t b) { return step.dz(b); });
}

template <class T>
struct Matrices {
  Panels<T> first;   // of the product that gives dh: W_hh, or its part of r and z
  Panels<T> second;  // W_hr, or W_hn with the reset before the product
  bool first_idle;   // no step multiplies it
  bool reset_before, projected;
  std::int64_t first_size(int threads) const { return first_idle ? 0 : first.size(threads); }
  bool two() const { return reset_before || projected; }
};

template <class T>
Matrices<T> matrices(const RnnScanBackward<T>& g, T* scratch, int threads) {
  const RnnScan<T>& s = g.scan;
  const std::int64_t h = s.hidden;
  const bool before = s.cell.kind == RnnKind::kGru && !s.cell.reset_after, once = s.steps == 1;
  const std::int64_t gates = before ? 2 : s.cell.gates();
  Matrices<T> m{row_panels(s.w_hh, s.out, gates * h, s.batch, once),
                {},
                g.leaves_product,
                before,
                s.w_hr != nullptr};
  if (before) m.second = row_panels(s.w_hh + 2 * h * h, h, h, s.batch, once);
  if (m.projected) m.second = row_panels(s.w_hr, h, s.out, s.batch, once);
  m.first.packed = scratch;
  if (m.two()) m.second.packed = scratch + m.first_size(threads);
  return m;
}

template <class T>
std::int64_t scratch_bytes(const RnnScanBackward<T>& g, int threads) {
  const Matrices<T> m = matrices<T>(g, nullptr, threads);
  const std::int64_t elements = m.first_size(threads) + (m.two() ? m.second.size(threads) : 0);
  return elements * static_cast<std::int64_t>(sizeof(T)) +
         2 * threads * round_up(g.scan.batch * static_cast<std::int64_t>(sizeof(std::int64_t)), 64);
}

// f(column) for the units of a tile, with the gradient that add(b, unit, width, sum) makes of each
// sum, for the active rows only: add says whether one is.
template <class T, class Add, class F>
ARRAYNN_INLINE void for_columns(const Panels<T>& w, const Tile<T>& tile, const Add& add,
                                const F& f) {
  constexpr int kL = kLanes<T>;
  Column<T> column;
  for (int u = 0; u < w.groups; ++u) {
    column.unit = tile.unit + u * kL;
    if (column.unit >= w.units) return;
    column.width = min_i(kL, w.units - column.unit);
    column.rows = 0;
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      const Vec<T> sum = Vec<T>::load(tile.sums + (u * tile.rows + r) * kL);
      T* to = column.dh + column.rows * kL;
      if (add(tile.row[r], column.unit, column.width, sum, to)) {
        column.row[column.rows++] = tile.row[r];
      }
    }
    if (column.rows > 0) f(column);
  }
}

// f(column) for the units of this thread, without a product.
template <class T, class F>
void for_own_columns(std::int64_t units, const std::int64_t* row, std::int64_t count, int tid,
                     int nthreads, const F& f) {
  constexpr int kL = kLanes<T>;
  const Range mine = split_range(ceil_div(units, kL), nthreads, tid);
  Column<T> column;
  for (std::int64_t v = mine.begin; v < mine.end; ++v) {
    column.unit = v * kL;
    column.width = min_i(kL, units - column.unit);
    for (std::int64_t i = 0; i < count; i += column.rows) {
      column.rows = min_i(kMaxTileRows, count - i);
      for (std::int64_t r = 0; r < column.rows; ++r) column.row[r] = row[i + r];
      f(column);
    }
  }
}

// Through the layer norms of a step, those of rows by rows: with a norm of c what is left of the
// gates, then the gradient of W_hh h from that of its norm.
template <class T>
void through_norms(const Back<T>& step, const std::int64_t* active, std::int64_t count, int tid,
                   int nthreads) {
  const RnnScan<T>& s = step.s;
  const RnnNorm<T>& norm = s.norm;
  const std::int64_t at = step.at(0), width = step.width(), h = s.hidden;
  const Range mine = split_range(count, nthreads, tid);
  if (norm.cell != nullptr) {
    const RowNorm p{s.batch, h, norm.eps, true, {}};
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
      norm.rows->backward(p, step.g.dnormed + at * h, norm.cell + at * h, norm.cell_gain,
                          norm.cell_mean + at, norm.cell_rstd + at, step.g.dcell, nullptr, nullptr,
                          active[i], active[i] + 1);
    }
    team_barrier(nthreads);
    for_own_columns<T>(h, active, count, tid, nthreads,
                       [&](Column<T>& c) { lstm_column(step, c); });
    team_barrier(nthreads);
  }
  const RowNorm p{s.batch, width, norm.eps, true, {}};
  for (std::int64_t i = mine.begin; i < mine.end; ++i) {
    norm.rows->backward(p, step.g.dz + at * width, norm.product + at * width, norm.gain,
                        norm.mean + at, norm.rstd + at, step.g.dproduct + at * width, nullptr,
                        nullptr, active[i], active[i] + 1);
  }
  team_barrier(nthreads);
}

// Gradients of h at time t: of y, of what is carried, and dz of the step after times W_hh.
template <class T>
void run_step(const Back<T>& step, std::int64_t after, const Matrices<T>& m,
              const std::int64_t* row, std::int64_t count, const std::int64_t* active,
              std::int64_t active_count, int tid, int nthreads) {
  const RnnScan<T>& s = step.s;
  const RnnScanBackward<T>& g = step.g;
  const bool is_step = step.t >= 0;
  const T* const products = g.dproduct != nullptr ? g.dproduct : g.dz;
  const auto dz_after = [&](std::int64_t b) {
    return products + (after * s.batch + b) * step.width();
  };
  const auto lstm = [&](Column<T>& c) {
    if (s.norm.cell != nullptr) {
      output_column(step, c);
    } else {
      lstm_column(step, c);
    }
  };
  const auto add = [&](std::int64_t b, std::int64_t unit, std::int64_t width, Vec<T> sum, T* to) {
    T* carry = g.dh + b * s.out + unit;
    if (s.factors != nullptr) sum = sum * load_lanes(s.factors + b * s.out + unit, width);
    Vec<T> dh = sum + load_lanes(carry, width);
    if (is_step && g.dy != nullptr && s.within(step.t, b)) {
      dh = dh + load_lanes(g.dy + step.at(b) * g.dy_row + unit, width);
    }
    if (!is_step || !s.active(step.t, b)) {
      store_lanes(dh, carry, width);
      return false;
    }
    Vec<T> passed = Vec<T>::zero();
    if (s.cell.zone > 0) {
      passed = step.passed(s.cell.zone, s.fresh, s.out, b, unit, width, dh);
      dh = dh - passed;
    }
    store_lanes(passed, carry, width);
    dh.store(to);
    return true;
  };
  const auto direct = [](std::int64_t, std::int64_t, std::int64_t, Vec<T> sum, T* to) {
    sum.store(to);
    return true;
  };
  const auto ahead = [&](const Tile<T>& tile) {
    if (!is_step || m.projected) return;
    const int gates = s.gates_kept() ? static_cast<int>(s.cell.gates()) : 0;
    const bool lstm_cells = s.cells != nullptr, dy = g.dy != nullptr;
    const auto at = [&](std::int64_t b, int p) -> const T* {
      if (p < gates) return step.gates(b) + p * s.hidden;
      if (p == gates && dy) return g.dy + step.at(b) * g.dy_row;
      return lstm_cells ? s.c_before(step.t, b) : s.h_before(step.t, b);
    };
    prefetch_tile(tile, min_i(m.first.panel_units(), s.hidden - tile.unit), gates + (dy ? 2 : 1),
                  at);
  };
  for_tiles(m.first, row, count, after >= 0 ? m.first.k : 0, tid, nthreads, dz_after, ahead,
            [&](const Tile<T>& tile) {
              for_columns(m.first, tile, add, [&](Column<T>& c) {
                if (m.projected) {
                  scatter(c, c.dh, [&](std::int64_t b) { return step.dout(b); });
                } else if (s.cell.kind == RnnKind::kRnn) {
                  rnn_column(step, c);
                } else if (s.cell.kind == RnnKind::kLstm) {
                  lstm(c);
                } else {
                  gru_column(step, c);
                }
              });
            });
  team_barrier(nthreads);
  if (!is_step) return;
  const auto norms = [&] {
    if (s.norm.rows != nullptr && s.hidden > 0)
      through_norms(step, active, active_count, tid, nthreads);
  };
  if (!m.two()) return norms();
  const auto rows = [&](std::int64_t b) {
    return m.projected ? step.dout(b) : step.dz(b) + 2 * s.hidden;
  };
  for_tiles(m.second, active, active_count, m.second.k, tid, nthreads, rows,
            [&](const Tile<T>& tile) {
              for_columns(m.second, tile, direct, [&](Column<T>& c) {
                if (m.projected) {
                  lstm(c);
                } else {
                  reset_column(step, c);
                }
              });
            });
  team_barrier(nthreads);
  norms();
}

// A step that a sample takes no part in: the gradient of its c, which was the former one.
template <class T>
void pass_cells(const RnnScanBackward<T>& g, std::int64_t t, std::int64_t b) {
  const T* own = g.dcells + (t * g.scan.batch + b) * g.dcells_row;
  T* carry = g.dc + b * g.scan.hidden;
  for (std::int64_t j = 0; j < g.scan.hidden; ++j) carry[j] += own[j];
}

template <class T>
void backward(const RnnScanBackward<T>& g, int threads, void* scratch) {
  const RnnScan<T>& s = g.scan;
  const std::int64_t row_bytes =
      round_up(s.batch * static_cast<std::int64_t>(sizeof(std::int64_t)), 64);
  char* const base = static_cast<char*>(scratch);
  const Matrices<T> m = matrices(g, reinterpret_cast<T*>(base + 2 * threads * row_bytes), threads);
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    auto* row = reinterpret_cast<std::int64_t*>(base + 2 * tid * row_bytes);
    auto* active = reinterpret_cast<std::int64_t*>(base + (2 * tid + 1) * row_bytes);
    pack_own(m.first, tid, nthreads);
    if (m.two()) pack_own(m.second, tid, nthreads);
    std::int64_t after = -1;
    // One more than the steps: the last product gives the gradient of the first state.
    for (std::int64_t i = s.steps - 1; i >= (g.leaves_product ? 0 : -1); --i) {
      const std::int64_t t = i < 0 ? -1 : s.time(i);
      std::int64_t count = 0, active_count = 0;
      for (std::int64_t b = 0; b < s.batch; ++b) {
        if (t >= 0 && s.active(t, b)) {
          active[active_count++] = b;
        } else if (t >= 0 && g.dcells != nullptr && s.within(t, b) && b % nthreads == tid) {
          pass_cells(g, t, b);
        }
        // One that passes through takes its gradient of y along.
        if ((t >= 0 && s.within(t, b)) || (after >= 0 && s.active(after, b))) row[count++] = b;
      }
      run_step(Back<T>{g, s, t, Bounds<T>(s.cell)}, after, m, row, count, active, active_count, tid,
               nthreads);
      after = t;
    }
  });
}

}  // namespace

extern const RnnKernels rnn_kernels = {
    {&rnn_pack_f32, &rnn_panel_groups_f32, &rnn_scratch_f32, &rnn_forward_f32,
     &scratch_bytes<float>, &backward<float>},
    {&rnn_pack_f64, &rnn_panel_groups_f64, &rnn_scratch_f64, &rnn_forward_f64,
     &scratch_bytes<double>, &backward<double>},
};

}  // namespace ARRAYNN_ISA_NAMESPACE
