// The arithmetic of a step, over vectors: of the CPU, or of one lane in a CUDA unit, whose thread has a
// tile of one row and one unit.
#pragma once
#include "rnn/gates.hpp"
#include "rnn/tile.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

// x's share of z of one row, as its gates hold it, from an x of one element or from the tile's own
// product: that of the vector at `at` whose sum with h is `sum`.
enum class InputFrom : std::uint8_t { kGates, kElement, kTile };
template <InputFrom kFrom, class T>
struct InputShare {
  const T *gates, *w, *bias;
  Vec<T> x;

  ARRAYNN_MEMBER Vec<T> load(std::int64_t at, std::int64_t width,
                             [[maybe_unused]] const T* sum) const {
    if constexpr (kFrom == InputFrom::kGates) {
      return load_lanes(gates + at, width);
    } else {  // as gemm sums: from 0, then the bias
      Vec<T> z;
      if constexpr (kFrom == InputFrom::kTile) {
        z = Vec<T>::load(sum + kInputSums<T>);
      } else {
        z = fma(x, load_lanes(w + at, width), Vec<T>::zero());
      }
      return bias != nullptr ? z + load_lanes(bias + at, width) : z;
    }
  }
};

// One step of a scan: where the rows of a sample are.
template <class T>
struct Step {
  using C = Compute<T>;
  const RnnScan<T>& s;
  std::int64_t t;
  Bounds<C> bounds;

  ARRAYNN_MEMBER C* gates(std::int64_t b) const {
    return s.gates + ((t - s.gates_t) * s.batch + b) * s.cell.gates() * s.hidden;
  }
  ARRAYNN_MEMBER C* z(std::int64_t b) const {
    return s.z + (t * s.batch + b) * s.cell.gates() * s.hidden;
  }
  ARRAYNN_MEMBER T* y(std::int64_t b) const { return s.y + t * s.y_step + b * s.y_row; }
  ARRAYNN_MEMBER C* cells(std::int64_t b) const {
    return s.cells + t * s.cells_step + b * s.hidden;
  }
  ARRAYNN_MEMBER C* inner(std::int64_t b) const { return s.inner_at(t, b); }
  ARRAYNN_MEMBER T* wide(std::int64_t b) const { return s.wide_at(t, b); }
  ARRAYNN_MEMBER C* norm_cell(std::int64_t b) const { return s.norm_cells(t) + b * s.hidden; }
  ARRAYNN_MEMBER const T* h(std::int64_t b) const { return s.h_before(t, b); }
  template <InputFrom kFrom>
  ARRAYNN_MEMBER InputShare<kFrom, C> input(std::int64_t b) const {
    if constexpr (kFrom == InputFrom::kGates) {
      return {gates(b), nullptr, nullptr, Vec<C>::zero()};
    } else if constexpr (kFrom == InputFrom::kTile) {
      return {nullptr, nullptr, s.b_x, Vec<C>::zero()};
    } else {
      return {nullptr, s.w_x, s.b_x, Vec<C>::set1(s.x[t * s.batch + b])};
    }
  }
  // f(InputFrom), compiled for each; a GPU has the first alone.
  template <class F>
  ARRAYNN_MEMBER void visit_input(const F& f) const {
#if !defined(ARRAYNN_CUDA)
    if (s.multiplies_input()) return f(std::integral_constant<InputFrom, InputFrom::kTile>{});
    if (s.x != nullptr) return f(std::integral_constant<InputFrom, InputFrom::kElement>{});
#endif
    f(std::integral_constant<InputFrom, InputFrom::kGates>{});
  }
  // What W_hh multiplies.
  ARRAYNN_MEMBER const T* operand(std::int64_t b) const {
    return s.factors == nullptr ? h(b) : s.dropped_at(t, 0, b);
  }
};

// A new h or c, or what zoneout makes of it.
template <class T>
ARRAYNN_MEMBER Vec<T> zoned(double zone, const T* fresh, Vec<T> value, Vec<T> old,
                            std::int64_t width) {
  if (fresh == nullptr) return fma(Vec<T>::set1(static_cast<T>(zone)), old - value, value);
  return select(load_lanes(fresh, width) > Vec<T>::zero(), value, old);
}

// Every new h, of out elements, comes here.
template <class T>
ARRAYNN_MEMBER void put_h(const Step<T>& step, std::int64_t b, std::int64_t unit,
                          std::int64_t width, Vec<Compute<T>> h) {
  const RnnScan<T>& s = step.s;
  if (s.cell.zone > 0) {
    const Compute<T>* fresh = s.fresh;
    if (fresh != nullptr) fresh += (step.t * s.batch + b) * s.out + unit;
    h = zoned(s.cell.zone, fresh, h, load_lanes(step.h(b) + unit, width), width);
  }
  store_lanes(h, step.y(b) + unit, width);
  if (s.dropped == nullptr) return;
  if (s.factors != nullptr) {
    h = as_stored<T>(h) * load_lanes(s.factors + b * s.out + unit, width);
  }
  store_lanes(h, s.dropped_at(step.t, 1, b) + unit, width);
}

// A step that a sample takes no part in: these elements of its state.
template <class T>
ARRAYNN_MEMBER void pass_state(const Step<T>& step, std::int64_t b, Range out, Range hidden) {
  const RnnScan<T>& s = step.s;
  const auto copy = [](const auto* from, auto* to, Range part) {
    for (std::int64_t i = part.begin; i < part.end; ++i) to[i] = from[i];
  };
  copy(step.h(b), step.y(b), out);
  if (s.cells_step != 0) copy(s.c_before(step.t, b), step.cells(b), hidden);
  if (s.dropped != nullptr) copy(s.dropped_at(step.t, 0, b), s.dropped_at(step.t, 1, b), out);
}

// One row of a gate, f of it to come: its vector at `unit` within the bounds. What it was is kept
// where backward reads it.
template <class T>
ARRAYNN_MEMBER Vec<Compute<T>> bound_gate(const Step<T>& step, const Activation& f, std::int64_t b,
                                          std::int64_t at, std::int64_t width, Vec<Compute<T>> x) {
  if (step.s.z != nullptr && (step.s.cell.clips || !derivative_from_value(f.kind))) {
    store_lanes(x, step.z(b) + at, width);
  }
  return step.s.cell.clips ? clamp(x, step.bounds.z) : x;
}

// z = x's share + sum.
template <InputFrom kFrom = InputFrom::kGates, class T>
ARRAYNN_MEMBER void add_gate(const Step<T>& step, const Activation& f, std::int64_t b,
                             std::int64_t at, std::int64_t width, Compute<T>* sum) {
  const Vec<Compute<T>> x =
      step.template input<kFrom>(b).load(at, width, sum) + Vec<Compute<T>>::load(sum);
  bound_gate(step, f, b, at, width, x).store(sum);
}

// Calls f(unit, width, sums) for the vectors of units of a tile; `gates` sums belong to each.
template <class T, class F>
ARRAYNN_MEMBER void for_units(const Tile<T>& tile, int groups, int gates, std::int64_t units,
                              const F& f) {
  for (int u = 0; u < groups; ++u) {
    const std::int64_t unit = tile.unit + u * kLanes<T>;
    if (unit >= units) return;
    f(unit, min_i(kLanes<T>, units - unit), tile.sums + u * gates * tile.rows * kLanes<T>);
  }
}

template <class T>
ARRAYNN_MEMBER void rnn_tile(const Step<T>& step, int groups, const Tile<Compute<T>>& tile) {
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const std::int64_t n = tile.rows;
  for_units(tile, groups, 1, s.hidden, [&](std::int64_t unit, std::int64_t width, Compute<T>* z) {
    step.visit_input([&](auto from) {
      for (std::int64_t r = 0; r < n; ++r)
        add_gate<from.value>(step, s.cell.main, tile.row[r], unit, width, z + r * kL);
    });
  });
  activate_vectors(s.cell.main, tile.sums, n * groups);
  for_units(tile, groups, 1, s.hidden, [&](std::int64_t unit, std::int64_t width, Compute<T>* z) {
    for (std::int64_t r = 0; r < n; ++r) {
      const Vec<Compute<T>> h = Vec<Compute<T>>::load(z + r * kL);
      if (s.gates_kept()) store_lanes(h, step.gates(tile.row[r]) + unit, width);
      put_h(step, tile.row[r], unit, width, h);
    }
  });
}

// An LSTM's output: h, or what becomes h by W_hr.
template <class T>
ARRAYNN_MEMBER void put_output(const Step<T>& step, std::int64_t b, std::int64_t unit,
                               std::int64_t width, Vec<Compute<T>> out) {
  if (step.s.w_hr != nullptr) {
    store_lanes(out, step.wide(b) + unit, width);
  } else {
    put_h(step, b, unit, width, out);
  }
}

// None of the options that a row's gates ask for: their loop is short enough for rows, and the product
// that follows, to overlap.
template <class T>
ARRAYNN_MEMBER bool plain_lstm(const RnnScan<T>& s) {
  const RnnCell& cell = s.cell;
  return s.peephole == nullptr && s.norm.cell == nullptr && s.z == nullptr && !cell.input_forget &&
         !cell.clips && !cell.clips_cell && !(cell.zone_cell > 0);
}

// A row's gates stay in registers. The output, which waits for c, is a loop of its own: rows overlap.
template <CellActivations kOf, InputFrom kFrom, bool kPlain, class T>
ARRAYNN_RNN_APART void lstm_rows(const Step<T>& step, const Tile<Compute<T>>& tile) {
  using V = Vec<Compute<T>>;
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const RnnCell& cell = s.cell;
  const std::int64_t n = tile.rows, unit = tile.unit, width = min_i(kL, s.hidden - unit);
  const std::int64_t h = s.hidden;
  const bool peepholes = !kPlain && s.peephole != nullptr;
  const bool norms = !kPlain && s.norm.cell != nullptr;
  V peep[3] = {V::zero(), V::zero(), V::zero()};
  if (peepholes) {
    for (int p = 0; p < 3; ++p) peep[p] = load_lanes(s.peephole + p * h + unit, width);
  }
  const auto bounded = [&](const Activation& a, std::int64_t b, int gate, V z) {
    return kPlain ? z : bound_gate(step, a, b, gate * h + unit, width, z);
  };
  for (std::int64_t r = 0; r < n; ++r) {
    const std::int64_t b = tile.row[r];
    Compute<T>* z = tile.sums + r * kL;
    const V old = load_lanes(s.c_before(step.t, b) + unit, width);
    const auto x = step.template input<kFrom>(b);
    V i = x.load(unit, width, z) + V::load(z);
    V f = x.load(h + unit, width, z + n * kL) + V::load(z + n * kL);
    V g = x.load(2 * h + unit, width, z + 2 * n * kL) + V::load(z + 2 * n * kL);
    V o = x.load(3 * h + unit, width, z + 3 * n * kL) + V::load(z + 3 * n * kL);
    if (peepholes) {
      i = fma(peep[0], old, i);
      f = fma(peep[1], old, f);
    }
    i = gate_of<kOf>(cell, bounded(cell.gate, b, 0, i));
    f = gate_of<kOf>(cell, bounded(cell.gate, b, 1, f));
    g = main_of<kOf>(cell.main, bounded(cell.main, b, 2, g));
    if (!kPlain && cell.input_forget) i = V::set1(1) - f;
    V c = fma(f, old, i * g);
    if (!kPlain && cell.clips_cell) c = clamp(c, step.bounds.c);
    if (norms) store_lanes(c, step.norm_cell(b) + unit, width);
    if (!kPlain && cell.zone_cell > 0) {
      const Compute<T>* fresh = s.fresh_cell;
      if (fresh != nullptr) fresh += (step.t * s.batch + b) * h + unit;
      store_lanes(zoned(cell.zone_cell, fresh, c, old, width), step.cells(b) + unit, width);
    } else {
      store_lanes(c, step.cells(b) + unit, width);
    }
    if (peepholes) o = fma(peep[2], c, o);
    o = gate_of<kOf>(cell, bounded(cell.gate, b, 3, o));
    if (s.keep_gates) {
      Compute<T>* kept = step.gates(b) + unit;
      store_lanes(i, kept, width);
      store_lanes(f, kept + h, width);
      store_lanes(g, kept + 2 * h, width);
    }
    // Where c is normalised the output waits for the whole of it.
    if (s.keep_gates || norms) store_lanes(o, step.gates(b) + 3 * h + unit, width);
    c.store(z);
    o.store(z + n * kL);
  }
  if (norms) return;
  for (std::int64_t r = 0; r < n; ++r) {
    const Compute<T>* c = tile.sums + r * kL;
    const V out = main_of<kOf>(cell.output, V::load(c));
    put_output(step, tile.row[r], unit, width, V::load(c + n * kL) * out);
  }
}

template <class T>
ARRAYNN_MEMBER void lstm_tile(const Step<T>& step, const Tile<Compute<T>>& tile) {
  visit_cell(step.s.cell, [&](auto of) {
    step.visit_input([&](auto from) {
      if constexpr (of.value == CellActivations::kUsual) {
        if (plain_lstm(step.s)) return lstm_rows<of.value, from.value, true>(step, tile);
      }
      lstm_rows<of.value, from.value, false>(step, tile);
    });
  });
}

// n + z (h - n) of one vector of a row; n and z lie in the tile.
template <class T>
ARRAYNN_MEMBER void blend(const Step<T>& step, std::int64_t b, std::int64_t unit,
                          std::int64_t width, Vec<Compute<T>> z, Vec<Compute<T>> n) {
  const Vec<Compute<T>> h = load_lanes(step.h(b) + unit, width);
  put_h(step, b, unit, width, fma(z, h - n, n));
}

// As an LSTM's: h waits for r, z and then n.
template <CellActivations kOf, InputFrom kFrom, class T>
ARRAYNN_RNN_APART void gru_rows(const Step<T>& step, const Tile<Compute<T>>& tile) {
  using V = Vec<Compute<T>>;
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const RnnCell& cell = s.cell;
  const std::int64_t n = tile.rows, unit = tile.unit, width = min_i(kL, s.hidden - unit);
  const std::int64_t h = s.hidden;
  Compute<T>*zr = tile.sums, *zz = zr + n * kL, *zn = zz + n * kL;
  const V bias = s.b_hn != nullptr ? load_lanes(s.b_hn + unit, width) : V::zero();
  for (std::int64_t i = 0; i < n * kL; i += kL) {
    const std::int64_t b = tile.row[i / kL];
    const auto x = step.template input<kFrom>(b);
    const V r = x.load(unit, width, zr + i) + V::load(zr + i);
    const V z = x.load(h + unit, width, zz + i) + V::load(zz + i);
    const V reset = gate_of<kOf>(cell, bound_gate(step, cell.gate, b, unit, width, r));
    const V kept = gate_of<kOf>(cell, bound_gate(step, cell.gate, b, h + unit, width, z));
    const V inner = V::load(zn + i) + bias;
    const V value = fma(reset, inner, x.load(2 * h + unit, width, zn + i));
    if (s.keep_gates) {
      Compute<T>* gates = step.gates(b) + unit;
      store_lanes(inner, step.inner(b) + unit, width);
      store_lanes(reset, gates, width);
      store_lanes(kept, gates + h, width);
    }
    kept.store(zz + i);
    bound_gate(step, cell.main, b, 2 * h + unit, width, value).store(zn + i);
  }
  for (std::int64_t i = 0; i < n * kL; i += kL) {
    const std::int64_t b = tile.row[i / kL];
    const V value = main_of<kOf>(cell.main, V::load(zn + i));
    if (s.keep_gates) store_lanes(value, step.gates(b) + 2 * h + unit, width);
    blend(step, b, unit, width, V::load(zz + i), value);
  }
}

template <class T>
ARRAYNN_MEMBER void gru_tile(const Step<T>& step, const Tile<Compute<T>>& tile) {
  visit_cell(step.s.cell, [&](auto of) {
    step.visit_input([&](auto from) { gru_rows<of.value, from.value>(step, tile); });
  });
}

// The reset before the product: r and z first, then n from (r h) W_hn'.
template <class T>
ARRAYNN_MEMBER void reset_tile(const Step<T>& step, int groups, const Tile<Compute<T>>& tile) {
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const std::int64_t n = tile.rows, h = s.hidden;
  for_units(tile, groups, 2, h, [&](std::int64_t unit, std::int64_t width, Compute<T>* z) {
    for (std::int64_t r = 0; r < n; ++r) {
      add_gate(step, s.cell.gate, tile.row[r], unit, width, z + r * kL);
      add_gate(step, s.cell.gate, tile.row[r], h + unit, width, z + (n + r) * kL);
    }
  });
  activate_vectors(s.cell.gate, tile.sums, 2 * n * groups);
  for_units(tile, groups, 2, h, [&](std::int64_t unit, std::int64_t width, Compute<T>* z) {
    for (std::int64_t r = 0; r < n; ++r) {
      const std::int64_t b = tile.row[r];
      const Vec<Compute<T>> reset = Vec<Compute<T>>::load(z + r * kL);
      const Vec<Compute<T>> old = load_lanes(step.operand(b) + unit, width);
      store_lanes(reset * old, step.wide(b) + unit, width);
      store_lanes(reset, step.gates(b) + unit, width);
      store_lanes(Vec<Compute<T>>::load(z + (n + r) * kL), step.gates(b) + h + unit, width);
    }
  });
}

template <class T>
ARRAYNN_MEMBER void candidate_tile(const Step<T>& step, int groups, const Tile<Compute<T>>& tile) {
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const std::int64_t n = tile.rows, h = s.hidden;
  for_units(tile, groups, 1, h, [&](std::int64_t unit, std::int64_t width, Compute<T>* z) {
    for (std::int64_t r = 0; r < n; ++r) {
      add_gate(step, s.cell.main, tile.row[r], 2 * h + unit, width, z + r * kL);
    }
  });
  activate_vectors(s.cell.main, tile.sums, n * groups);
  for_units(tile, groups, 1, h, [&](std::int64_t unit, std::int64_t width, Compute<T>* z) {
    for (std::int64_t r = 0; r < n; ++r) {
      const std::int64_t b = tile.row[r];
      const Vec<Compute<T>> value = Vec<Compute<T>>::load(z + r * kL);
      Compute<T>* gates = step.gates(b) + unit;
      if (s.keep_gates) store_lanes(value, gates + 2 * h, width);
      blend(step, b, unit, width, load_lanes(gates + h, width), value);
    }
  });
}

template <class T>
ARRAYNN_MEMBER void project_tile(const Step<T>& step, int groups, const Tile<Compute<T>>& tile) {
  constexpr int kL = kLanes<T>;
  for_units(tile, groups, 1, step.s.out,
            [&](std::int64_t unit, std::int64_t width, Compute<T>* sum) {
              for (std::int64_t r = 0; r < tile.rows; ++r) {
                put_h(step, tile.row[r], unit, width, Vec<Compute<T>>::load(sum + r * kL));
              }
            });
}

}  // namespace ARRAYNN_ISA_NAMESPACE
