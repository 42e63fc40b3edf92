// The arithmetic of a step going back, over vectors: of the CPU, or of one lane in a CUDA unit, whose
// thread has a column of one row and one unit.
#pragma once
#include "rnn/gates.hpp"
#include "rnn/tile.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// One step of a scan, going back.
template <class T>
struct Back {
  const RnnScanBackward<T>& g;
  const RnnScan<T>& s;
  std::int64_t t;
  Bounds<T> bounds;

  ARRAYNN_MEMBER std::int64_t at(std::int64_t b) const { return t * s.batch + b; }
  ARRAYNN_MEMBER std::int64_t width() const { return s.cell.gates() * s.hidden; }
  ARRAYNN_MEMBER const T* gates(std::int64_t b) const { return s.gates + at(b) * width(); }
  ARRAYNN_MEMBER const T* z(std::int64_t b) const { return s.z + at(b) * width(); }
  ARRAYNN_MEMBER T* dz(std::int64_t b) const { return g.dz + at(b) * width(); }
  ARRAYNN_MEMBER T* dn(std::int64_t b) const { return g.dn + at(b) * s.hidden; }
  ARRAYNN_MEMBER T* dout(std::int64_t b) const { return g.dout + at(b) * s.out; }
  ARRAYNN_MEMBER const T* cells(std::int64_t b) const {
    return s.cells + t * s.cells_step + b * s.hidden;
  }
  ARRAYNN_MEMBER const T* inner(std::int64_t b) const { return s.inner_at(t, b); }
  ARRAYNN_MEMBER const T* y(std::int64_t b) const { return s.y + t * s.y_step + b * s.y_row; }

  // The share of a gradient that zoneout sends to the former value.
  ARRAYNN_MEMBER Vec<T> passed(double zone, const T* fresh, std::int64_t size, std::int64_t b,
                               std::int64_t unit, std::int64_t width, Vec<T> d) const {
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
ARRAYNN_MEMBER void gather(const Column<T>& c, T* to, const F& from) {
  for (std::int64_t r = 0; r < c.rows; ++r) {
    load_lanes(from(c.row[r]) + c.unit, c.width).store(to + r * kLanes<T>);
  }
}
template <class T, class F>
ARRAYNN_MEMBER void scatter(const Column<T>& c, const T* values, const F& to) {
  for (std::int64_t r = 0; r < c.rows; ++r) {
    store_lanes(Vec<T>::load(values + r * kLanes<T>), to(c.row[r]) + c.unit, c.width);
  }
}

// d, the gradient of gate `gate` with values y, becomes that of its z. Where z is kept it counts:
// the derivative is that at the bounded z, and nothing passes where the bounds took hold.
template <class T>
ARRAYNN_RNN_APART void through(const Back<T>& step, const Activation& f, std::int64_t gate,
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
ARRAYNN_MEMBER void rnn_column(const Back<T>& step, Column<T>& c) {
  alignas(64) Lanes<T> y;
  const bool kept = step.s.cell.zone > 0;  // y is then not the value of f
  gather(c, y, [&](std::int64_t b) { return kept ? step.gates(b) : step.y(b); });
  through(step, step.s.cell.main, 0, c, y, c.dh);
  scatter(c, c.dh, [&](std::int64_t b) { return step.dz(b); });
}

// c as its gates made it, which zoneout may have blended since.
template <class T>
ARRAYNN_MEMBER Vec<T> new_cell(const Back<T>& step, Vec<T> i, Vec<T> f, Vec<T> g, Vec<T> old) {
  return clamp(fma(f, old, i * g), step.bounds.c);
}

template <class T>
ARRAYNN_MEMBER void add_peepholes(Vec<T> di, Vec<T> df, Vec<T> dout, Vec<T> old, Vec<T> c,
                                  Vec<T> (&sums)[3]) {
  sums[0] = fma(di, old, sums[0]);
  sums[1] = fma(df, old, sums[1]);
  sums[2] = fma(dout, c, sums[2]);
}

// With a norm of c, what lstm_column() does first: gradients of o and of LN(c).
template <class T>
ARRAYNN_RNN_APART void output_column(const Back<T>& step, Column<T>& col) {
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
ARRAYNN_RNN_APART void lstm_column(const Back<T>& step, Column<T>& col) {
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
      new_cell(step, V::load(gate[0] + j), V::load(gate[1] + j), V::load(gate[2] + j), old)
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
  const bool sums = step.g.dpeephole != nullptr;  // a GPU's are sums of their own
  if (sums) {
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
      if (sums) add_peepholes(di, df, V::load(d[3] + j), old, V::load(c + j), dpeep);
    }
    T* carry = step.g.dc + b * h + col.unit;
    if (cell.zone_cell > 0) before = before + load_lanes(carry, col.width);
    store_lanes(before, carry, col.width);
  }
  if (sums) {
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
ARRAYNN_RNN_APART void gru_column(const Back<T>& step, Column<T>& col) {
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
ARRAYNN_RNN_APART void reset_column(const Back<T>& step, Column<T>& col) {
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

// The gradient of h at a step: that of y, of what is carried, and `sum`, dz of the step after times
// W_hh. Stored to `to`, but for what zoneout passes on; false where no sample is active: then it is
// carried on as it is. t = -1 stands for what is before the first step.
template <class T>
ARRAYNN_MEMBER bool gradient_of_h(const Back<T>& step, std::int64_t b, std::int64_t unit,
                                  std::int64_t width, Vec<T> sum, T* to) {
  const RnnScan<T>& s = step.s;
  const RnnScanBackward<T>& g = step.g;
  T* carry = g.dh + b * s.out + unit;
  if (s.factors != nullptr) sum = sum * load_lanes(s.factors + b * s.out + unit, width);
  Vec<T> dh = sum + load_lanes(carry, width);
  if (step.t >= 0 && g.dy != nullptr && s.within(step.t, b)) {
    dh = dh + load_lanes(g.dy + step.at(b) * g.dy_row + unit, width);
  }
  if (step.t < 0 || !s.active(step.t, b)) {
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
}

// A step that a sample takes no part in: the gradient of its c, which was the former one.
template <class T>
ARRAYNN_MEMBER void pass_cells(const RnnScanBackward<T>& g, std::int64_t t, std::int64_t b,
                               Range units) {
  const T* own = g.dcells + (t * g.scan.batch + b) * g.dcells_row;
  T* carry = g.dc + b * g.scan.hidden;
  for (std::int64_t j = units.begin; j < units.end; ++j) carry[j] += own[j];
}

}  // namespace ARRAYNN_ISA_NAMESPACE
