// The arithmetic of a step going back, over vectors: of the CPU, or of one lane in a CUDA unit, whose
// thread has a column of one row and one unit.
#pragma once
#include "rnn/gates.hpp"
#include "rnn/tile.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// One step of a scan, going back.
template <class T>
struct Back {
  using C = Compute<T>;
  const RnnScanBackward<T>& g;
  const RnnScan<T>& s;
  std::int64_t t;
  Bounds<C> bounds;

  ARRAYNN_MEMBER std::int64_t at(std::int64_t b) const { return t * s.batch + b; }
  ARRAYNN_MEMBER std::int64_t width() const { return s.cell.gates() * s.hidden; }
  ARRAYNN_MEMBER const C* gates(std::int64_t b) const { return s.gates + at(b) * width(); }
  ARRAYNN_MEMBER const C* z(std::int64_t b) const { return s.z + at(b) * width(); }
  ARRAYNN_MEMBER T* dz(std::int64_t b) const { return g.dz + at(b) * width(); }
  ARRAYNN_MEMBER T* dn(std::int64_t b) const { return g.dn + at(b) * s.hidden; }
  ARRAYNN_MEMBER T* dout(std::int64_t b) const { return g.dout + at(b) * s.out; }
  ARRAYNN_MEMBER const C* cells(std::int64_t b) const {
    return s.cells + t * s.cells_step + b * s.hidden;
  }
  ARRAYNN_MEMBER const C* inner(std::int64_t b) const { return s.inner_at(t, b); }
  ARRAYNN_MEMBER const T* y(std::int64_t b) const { return s.y + t * s.y_step + b * s.y_row; }

  // The share of a gradient that zoneout sends to the former value.
  ARRAYNN_MEMBER Vec<C> passed(double zone, const C* fresh, std::int64_t size, std::int64_t b,
                               std::int64_t unit, std::int64_t width, Vec<C> d) const {
    if (fresh == nullptr) return d * Vec<C>::set1(static_cast<C>(zone));
    const Vec<C> taken = load_lanes(fresh + at(b) * size + unit, width);
    return select(taken > Vec<C>::zero(), Vec<C>::zero(), d);
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

// Where the bounds took hold of z nothing passes.
template <class T>
ARRAYNN_MEMBER Vec<Compute<T>> unbounded(const Back<T>& step, std::int64_t b, std::int64_t at,
                                         std::int64_t width, Vec<Compute<T>> d) {
  const Vec<Compute<T>> z = load_lanes(step.z(b) + at, width);
  return select(abs(z) <= Vec<Compute<T>>::set1(step.bounds.z), d, Vec<Compute<T>>::zero());
}

// d, the gradient of gate `gate` with values y, becomes that of its z: by y where that tells the
// derivative, else by the bounded z.
template <class T>
ARRAYNN_RNN_APART void through(const Back<T>& step, const Activation& f, std::int64_t gate,
                               const Column<Compute<T>>& c, const Compute<T>* y, Compute<T>* d) {
  using V = Vec<Compute<T>>;
  constexpr int kL = kLanes<T>;
  const std::int64_t at = gate * step.s.hidden + c.unit;
  if (step.s.cell.clips) {
    for (std::int64_t r = 0; r < c.rows; ++r) {
      unbounded(step, c.row[r], at, c.width, V::load(d + r * kL)).store(d + r * kL);
    }
  }
  if (derivative_from_value(f.kind)) return times_derivative_of_value(f, y, d, c.rows);
  alignas(64) Lanes<Compute<T>> z;
  std::int64_t r = 0;
  do {  // there is a row
    clamp(load_lanes(step.z(c.row[r]) + at, c.width), step.bounds.z).store(z + r * kL);
  } while (++r < c.rows);
  times_derivative(f, z, d, c.rows);
}

template <class T>
ARRAYNN_MEMBER void rnn_column(const Back<T>& step, Column<Compute<T>>& c) {
  alignas(64) Lanes<Compute<T>> y;
  if (step.s.gates_kept()) {  // y is not the value of f
    gather(c, y, [&](std::int64_t b) { return step.gates(b); });
  } else {
    gather(c, y, [&](std::int64_t b) { return step.y(b); });
  }
  through(step, step.s.cell.main, 0, c, y, c.dh);
  scatter(c, c.dh, [&](std::int64_t b) { return step.dz(b); });
}

// c as its gates made it, which zoneout may have blended since.
template <class T>
ARRAYNN_MEMBER Vec<Compute<T>> new_cell(const Back<T>& step, Vec<Compute<T>> i, Vec<Compute<T>> f,
                                        Vec<Compute<T>> g, Vec<Compute<T>> old) {
  return clamp(fma(f, old, i * g), step.bounds.c);
}

template <class T>
ARRAYNN_MEMBER void add_peepholes(Vec<T> di, Vec<T> df, Vec<T> dout, Vec<T> old, Vec<T> c,
                                  Vec<T> (&sums)[3]) {
  sums[0] = fma(di, old, sums[0]);
  sums[1] = fma(df, old, sums[1]);
  sums[2] = fma(dout, c, sums[2]);
}

template <class T>
ARRAYNN_MEMBER Vec<T> row_of(const Column<T>& c, std::int64_t r) {
  return Vec<T>::load(c.dh + r * kLanes<T>);
}

// through() for one row of an LSTM.
template <CellActivations kOf, class T>
ARRAYNN_MEMBER Vec<Compute<T>> lstm_through(const Back<T>& step, int gate, std::int64_t b,
                                            std::int64_t unit, std::int64_t width,
                                            Vec<Compute<T>> y, Vec<Compute<T>> d) {
  const RnnCell& cell = step.s.cell;
  if constexpr (kOf == CellActivations::kUsual) {
    if (cell.clips) d = unbounded(step, b, gate * step.s.hidden + unit, width, d);
    return gate == 2 ? tanh_back(y, d) : sigmoid_back(y, d);
  } else {
    Column<Compute<T>> row;
    row.unit = unit;
    row.width = width;
    row.rows = 1;
    row.row[0] = b;
    alignas(64) Compute<T> value[kLanes<T>], gradient[kLanes<T>];
    y.store(value);
    d.store(gradient);
    through(step, gate == 2 ? cell.main : cell.gate, gate, row, value, gradient);
    return Vec<Compute<T>>::load(gradient);
  }
}

// Gradients of o and of a_out's argument c by that of h.
template <class T>
struct OutputGradients {
  Vec<T> o, c;
};
template <CellActivations kOf, class T>
ARRAYNN_MEMBER OutputGradients<Compute<T>> through_output(const Back<T>& step, std::int64_t b,
                                                          std::int64_t unit, std::int64_t width,
                                                          Vec<Compute<T>> c, Vec<Compute<T>> o,
                                                          Vec<Compute<T>> dh) {
  const Activation& f = step.s.cell.output;
  const Vec<Compute<T>> out = main_of<kOf>(f, c);
  const Vec<Compute<T>> dout = lstm_through<kOf>(step, 3, b, unit, width, o, dh * out);
  if constexpr (kOf == CellActivations::kUsual) {
    return {dout, tanh_back(out, dh * o)};
  } else {
    alignas(64) Compute<T> at[kLanes<T>], gradient[kLanes<T>];
    (dh * o).store(gradient);
    if (derivative_from_value(f.kind)) {
      out.store(at);
      times_derivative_of_value(f, at, gradient, 1);
    } else {
      c.store(at);
      times_derivative(f, at, gradient, 1);
    }
    return {dout, Vec<Compute<T>>::load(gradient)};
  }
}

// With a norm of c, what comes before lstm_column(): gradients of o and of LN(c).
template <CellActivations kOf, class T>
ARRAYNN_RNN_APART void output_rows(const Back<T>& step, const Column<Compute<T>>& col) {
  using V = Vec<Compute<T>>;
  const RnnScan<T>& s = step.s;
  const RnnNorm<Compute<T>>& norm = s.norm;
  const std::int64_t h = s.hidden, unit = col.unit, width = col.width;
  const V gain = load_lanes(norm.cell_gain + unit, width);
  const V bias = load_lanes(norm.cell_bias + unit, width);
  for (std::int64_t r = 0; r < col.rows; ++r) {
    const std::int64_t b = col.row[r], at = step.at(b);
    // As the rows were normalised in forward: the mean in two parts.
    const double mean = norm.cell_mean[at], rstd = norm.cell_rstd[at];
    const auto m = static_cast<Compute<T>>(mean);
    const auto shift = static_cast<Compute<T>>((static_cast<double>(m) - mean) * rstd);
    const V v = load_lanes(norm.cell + at * h + unit, width) - V::set1(m);
    const V c = fma(fma(v, V::set1(static_cast<Compute<T>>(rstd)), V::set1(shift)), gain, bias);
    const V o = load_lanes(step.gates(b) + 3 * h + unit, width);
    const OutputGradients<Compute<T>> d =
        through_output<kOf>(step, b, unit, width, c, o, row_of(col, r));
    store_lanes(d.o, step.dz(b) + 3 * h + unit, width);
    store_lanes(d.c, step.g.dnormed + at * h + unit, width);
  }
}
template <class T>
ARRAYNN_MEMBER void output_column(const Back<T>& step, const Column<Compute<T>>& col) {
  visit_cell(step.s.cell, [&](auto of) { output_rows<of.value>(step, col); });
}

// All of a row stays in registers.
template <CellActivations kOf, class T>
ARRAYNN_RNN_APART void lstm_column_rows(const Back<T>& step, const Column<Compute<T>>& col) {
  using V = Vec<Compute<T>>;
  const RnnScan<T>& s = step.s;
  const RnnCell& cell = s.cell;
  const std::int64_t h = s.hidden, unit = col.unit, width = col.width;
  const bool sums = step.g.dpeephole != nullptr;  // a GPU's are sums of their own
  V peep[3] = {V::zero(), V::zero(), V::zero()}, dpeep[3] = {V::zero(), V::zero(), V::zero()};
  for (int p = 0; p < 3; ++p) {
    if (s.peephole != nullptr) peep[p] = load_lanes(s.peephole + p * h + unit, width);
    if (sums) dpeep[p] = load_lanes(step.g.dpeephole + p * h + unit, width);
  }
  for (std::int64_t r = 0; r < col.rows; ++r) {
    const std::int64_t b = col.row[r];
    const Compute<T>* gates = step.gates(b) + unit;
    T* dz = step.dz(b) + unit;
    const V i = load_lanes(gates, width), f = load_lanes(gates + h, width);
    const V g = load_lanes(gates + 2 * h, width), o = load_lanes(gates + 3 * h, width);
    const V old = load_lanes(s.c_before(step.t, b) + unit, width);
    // h has seen c before zoneout blended it.
    const V c =
        cell.zone_cell > 0 ? new_cell(step, i, f, g, old) : load_lanes(step.cells(b) + unit, width);
    V dout, total;
    if (s.norm.cell != nullptr) {
      dout = load_lanes(dz + 3 * h, width);
      total = load_lanes(step.g.dcell + b * h + unit, width);
    } else {
      const OutputGradients<Compute<T>> d =
          through_output<kOf>(step, b, unit, width, c, o, row_of(col, r));
      dout = d.o;
      total = d.c;
    }
    Compute<T>* carry = step.g.dc + b * h + unit;
    V carried = load_lanes(carry, width), passed = V::zero();
    if (step.g.dcells != nullptr) {
      carried = carried + load_lanes(step.g.dcells + step.at(b) * step.g.dcells_row + unit, width);
    }
    if (cell.zone_cell > 0) {
      passed = step.passed(cell.zone_cell, s.fresh_cell, h, b, unit, width, carried);
      carried = carried - passed;
    }
    total = total + carried;
    if (s.peephole != nullptr) total = fma(peep[2], dout, total);
    if (cell.clips_cell) {
      const Mask<Compute<T>> free = abs(fma(f, old, i * g)) <= V::set1(step.bounds.c);
      total = select(free, total, V::zero());
    }
    V di = total * g, df = total * old;
    if (cell.input_forget) {
      df = df - di;
      di = V::zero();
    } else {
      di = lstm_through<kOf>(step, 0, b, unit, width, i, di);
    }
    df = lstm_through<kOf>(step, 1, b, unit, width, f, df);
    const V dg = lstm_through<kOf>(step, 2, b, unit, width, g, total * i);
    V before = total * f;
    if (s.peephole != nullptr) {
      before = fma(peep[0], di, fma(peep[1], df, before));
      if (sums) add_peepholes(di, df, dout, old, c, dpeep);
    }
    if (cell.zone_cell > 0) before = before + passed;
    store_lanes(before, carry, width);
    store_lanes(di, dz, width);
    store_lanes(df, dz + h, width);
    store_lanes(dg, dz + 2 * h, width);
    store_lanes(dout, dz + 3 * h, width);
  }
  if (!sums) return;
  for (int p = 0; p < 3; ++p) store_lanes(dpeep[p], step.g.dpeephole + p * h + unit, width);
}

template <class T>
ARRAYNN_MEMBER void lstm_column(const Back<T>& step, const Column<Compute<T>>& col) {
  visit_cell(step.s.cell, [&](auto of) { lstm_column_rows<of.value>(step, col); });
}

// r z n of a GRU whose product comes before the reset; z and n of one whose reset comes before.
template <class T>
ARRAYNN_RNN_APART void gru_column(const Back<T>& step, Column<Compute<T>>& col) {
  using V = Vec<Compute<T>>;
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const RnnCell& cell = s.cell;
  const std::int64_t h = s.hidden, n = col.rows;
  alignas(64) Lanes<Compute<T>> z, value, dz, dn;
  gather(col, z, [&](std::int64_t b) { return step.gates(b) + h; });
  gather(col, value, [&](std::int64_t b) { return step.gates(b) + 2 * h; });
  for (std::int64_t r = 0; r < n; ++r) {
    const std::int64_t b = col.row[r], j = r * kL;
    const V dh = V::load(col.dh + j), zv = V::load(z + j);
    const V old = load_lanes(s.h_before(step.t, b) + col.unit, col.width);
    (dh * (V::set1(1) - zv)).store(dn + j);
    (dh * (old - V::load(value + j))).store(dz + j);
    Compute<T>* carry = step.g.dh + b * h + col.unit;
    store_lanes(fma(dh, zv, load_lanes(carry, col.width)), carry, col.width);
  }
  through(step, cell.main, 2, col, value, dn);
  through(step, cell.gate, 1, col, z, dz);
  scatter(col, dz, [&](std::int64_t b) { return step.dz(b) + h; });
  if (!cell.reset_after) {
    scatter(col, dn, [&](std::int64_t b) { return step.dz(b) + 2 * h; });
    return;
  }
  alignas(64) Lanes<Compute<T>> reset, dr;
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
ARRAYNN_RNN_APART void reset_column(const Back<T>& step, Column<Compute<T>>& col) {
  using V = Vec<Compute<T>>;
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const std::int64_t h = s.hidden;
  alignas(64) Lanes<Compute<T>> reset, dr;
  gather(col, reset, [&](std::int64_t b) { return step.gates(b); });
  for (std::int64_t r = 0; r < col.rows; ++r) {
    const std::int64_t b = col.row[r], j = r * kL;
    V d = V::load(col.dh + j);
    if (s.factors != nullptr) d = d * load_lanes(s.factors + b * h + col.unit, col.width);
    (d * load_lanes(s.h_before(step.t, b) + col.unit, col.width)).store(dr + j);
    Compute<T>* carry = step.g.dh + b * h + col.unit;
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
                                  std::int64_t width, Vec<Compute<T>> sum, Compute<T>* to) {
  const RnnScan<T>& s = step.s;
  const RnnScanBackward<T>& g = step.g;
  Compute<T>* carry = g.dh + b * s.out + unit;
  if (s.factors != nullptr) sum = sum * load_lanes(s.factors + b * s.out + unit, width);
  Vec<Compute<T>> dh = sum + load_lanes(carry, width);
  if (step.t >= 0 && g.dy != nullptr && s.within(step.t, b)) {
    dh = dh + load_lanes(g.dy + step.at(b) * g.dy_row + unit, width);
  }
  if (step.t < 0 || !s.active(step.t, b)) {
    store_lanes(dh, carry, width);
    return false;
  }
  Vec<Compute<T>> passed = Vec<Compute<T>>::zero();
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
  const Compute<T>* own = g.dcells + (t * g.scan.batch + b) * g.dcells_row;
  Compute<T>* carry = g.dc + b * g.scan.hidden;
  for (std::int64_t j = units.begin; j < units.end; ++j) carry[j] += own[j];
}

}  // namespace ARRAYNN_ISA_NAMESPACE
