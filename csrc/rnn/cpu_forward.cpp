#include "rnn/gates.hpp"
#include "rnn/panel.hpp"
#include "rnn/tables.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// One step of a scan: where the rows of a sample are.
template <class T>
struct Step {
  const RnnScan<T>& s;
  std::int64_t t;
  Bounds<T> bounds;

  T* gates(std::int64_t b) const {
    return s.gates + ((t - s.gates_t) * s.batch + b) * s.cell.gates() * s.hidden;
  }
  T* z(std::int64_t b) const { return s.z + (t * s.batch + b) * s.cell.gates() * s.hidden; }
  T* y(std::int64_t b) const { return s.y + t * s.y_step + b * s.y_row; }
  T* cells(std::int64_t b) const { return s.cells + t * s.cells_step + b * s.hidden; }
  T* inner(std::int64_t b) const { return s.inner + t * s.inner_step + b * s.hidden; }
  T* wide(std::int64_t b) const { return s.wide + t * s.wide_step + b * s.hidden; }
  T* norm_product() const {
    return s.norm.product + t * s.norm.step * s.batch * s.cell.gates() * s.hidden;
  }
  T* norm_cells() const { return s.norm.cell + t * s.norm.step * s.batch * s.hidden; }
  T* norm_cell(std::int64_t b) const { return norm_cells() + b * s.hidden; }
  const T* h(std::int64_t b) const { return s.h_before(t, b); }
  // Of the product with h: the first step of a direction is the first of all its samples.
  std::int64_t depth() const { return s.from_zero && t == s.time(0) ? 0 : s.out; }
  // What W_hh multiplies.
  const T* operand(std::int64_t b) const {
    return s.factors == nullptr ? h(b) : s.dropped_at(t, 0, b);
  }
};

// A new h or c, or what zoneout makes of it.
template <class T>
ARRAYNN_INLINE Vec<T> zoned(double zone, const T* fresh, Vec<T> value, Vec<T> old,
                            std::int64_t width) {
  if (fresh == nullptr) return fma(Vec<T>::set1(static_cast<T>(zone)), old - value, value);
  return select(load_lanes(fresh, width) > Vec<T>::zero(), value, old);
}

// Every new h, of out elements, comes here.
template <class T>
ARRAYNN_INLINE void put_h(const Step<T>& step, std::int64_t b, std::int64_t unit,
                          std::int64_t width, Vec<T> h) {
  const RnnScan<T>& s = step.s;
  if (s.cell.zone > 0) {
    const T* fresh = s.fresh;
    if (fresh != nullptr) fresh += (step.t * s.batch + b) * s.out + unit;
    h = zoned(s.cell.zone, fresh, h, load_lanes(step.h(b) + unit, width), width);
  }
  store_lanes(h, step.y(b) + unit, width);
  if (s.factors != nullptr) {
    const Vec<T> factor = load_lanes(s.factors + b * s.out + unit, width);
    store_lanes(h * factor, s.dropped_at(step.t, 1, b) + unit, width);
  }
}

// A step that a sample takes no part in.
template <class T>
void pass_state(const Step<T>& step, std::int64_t b) {
  const RnnScan<T>& s = step.s;
  const auto copy = [](const T* from, T* to, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) to[i] = from[i];
  };
  copy(step.h(b), step.y(b), s.out);
  if (s.cells_step != 0) copy(s.c_before(step.t, b), step.cells(b), s.hidden);
  if (s.factors != nullptr) {
    copy(s.dropped_at(step.t, 0, b), s.dropped_at(step.t, 1, b), s.out);
  }
}

// One row of a gate: its vector at `unit`, before and after the bounds.
template <class T>
ARRAYNN_INLINE void bound_gate(const Step<T>& step, std::int64_t b, std::int64_t at,
                               std::int64_t width, Vec<T> x, T* sum) {
  if (step.s.z != nullptr) store_lanes(x, step.z(b) + at, width);
  clamp(x, step.bounds.z).store(sum);
}

// z = x's share + sum.
template <class T>
ARRAYNN_INLINE void add_gate(const Step<T>& step, std::int64_t b, std::int64_t at,
                             std::int64_t width, T* sum) {
  bound_gate(step, b, at, width, load_lanes(step.gates(b) + at, width) + Vec<T>::load(sum), sum);
}

// Calls f(unit, width, sums) for the vectors of units of a tile; `gates` sums belong to each.
template <class T, class F>
ARRAYNN_INLINE void for_units(const Tile<T>& tile, int groups, int gates, std::int64_t units,
                              const F& f) {
  for (int u = 0; u < groups; ++u) {
    const std::int64_t unit = tile.unit + u * kLanes<T>;
    if (unit >= units) return;
    f(unit, min_i(kLanes<T>, units - unit), tile.sums + u * gates * tile.rows * kLanes<T>);
  }
}

template <class T>
ARRAYNN_INLINE void rnn_tile(const Step<T>& step, const Panels<T>& w, const Tile<T>& tile) {
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const std::int64_t n = tile.rows;
  for_units(tile, w.groups, 1, s.hidden, [&](std::int64_t unit, std::int64_t width, T* z) {
    for (std::int64_t r = 0; r < n; ++r) add_gate(step, tile.row[r], unit, width, z + r * kL);
  });
  activate_vectors(s.cell.main, tile.sums, n * w.groups);
  for_units(tile, w.groups, 1, s.hidden, [&](std::int64_t unit, std::int64_t width, T* z) {
    for (std::int64_t r = 0; r < n; ++r) {
      const Vec<T> h = Vec<T>::load(z + r * kL);
      if (s.gates_kept()) store_lanes(h, step.gates(tile.row[r]) + unit, width);
      put_h(step, tile.row[r], unit, width, h);
    }
  });
}

template <class T>
ARRAYNN_INLINE void lstm_tile(const Step<T>& step, const Tile<T>& tile) {
  using V = Vec<T>;
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const std::int64_t n = tile.rows, unit = tile.unit, width = min_i(kL, s.hidden - unit);
  const std::int64_t h = s.hidden;
  T *zi = tile.sums, *zf = zi + n * kL, *zg = zf + n * kL, *zo = zg + n * kL;
  alignas(64) T state[kMaxTileRows * kL];
  V peep[3] = {V::zero(), V::zero(), V::zero()};
  if (s.peephole != nullptr) {
    for (int p = 0; p < 3; ++p) peep[p] = load_lanes(s.peephole + p * h + unit, width);
  }
  for (std::int64_t r = 0; r < n; ++r) {
    const std::int64_t b = tile.row[r];
    const T* x = step.gates(b) + unit;
    V i = load_lanes(x, width) + V::load(zi + r * kL);
    V f = load_lanes(x + h, width) + V::load(zf + r * kL);
    if (s.peephole != nullptr) {
      const V c = load_lanes(s.c_before(step.t, b) + unit, width);
      i = fma(peep[0], c, i);
      f = fma(peep[1], c, f);
    }
    bound_gate(step, b, unit, width, i, zi + r * kL);
    bound_gate(step, b, h + unit, width, f, zf + r * kL);
    add_gate(step, b, 2 * h + unit, width, zg + r * kL);
  }
  activate_vectors(s.cell.gate, zi, 2 * n);
  activate_vectors(s.cell.main, zg, n);
  for (std::int64_t r = 0; r < n; ++r) {
    const std::int64_t b = tile.row[r];
    T* x = step.gates(b) + unit;
    const V f = V::load(zf + r * kL), g = V::load(zg + r * kL);
    const V i = s.cell.input_forget ? V::set1(T(1)) - f : V::load(zi + r * kL);
    const V old = load_lanes(s.c_before(step.t, b) + unit, width);
    const V c = clamp(fma(f, old, i * g), step.bounds.c);
    c.store(state + r * kL);
    if (s.norm.cell != nullptr) store_lanes(c, step.norm_cell(b) + unit, width);
    if (s.cell.zone_cell > 0) {
      const T* fresh = s.fresh_cell;
      if (fresh != nullptr) fresh += (step.t * s.batch + b) * h + unit;
      store_lanes(zoned(s.cell.zone_cell, fresh, c, old, width), step.cells(b) + unit, width);
    } else {
      store_lanes(c, step.cells(b) + unit, width);
    }
    const V o = load_lanes(x + 3 * h, width) + V::load(zo + r * kL);
    bound_gate(step, b, 3 * h + unit, width, s.peephole != nullptr ? fma(peep[2], c, o) : o,
               zo + r * kL);
    if (s.keep_gates) {
      store_lanes(i, x, width);
      store_lanes(f, x + h, width);
      store_lanes(g, x + 2 * h, width);
    }
  }
  activate_vectors(s.cell.gate, zo, n);
  if (s.norm.cell != nullptr) {  // the output waits for the whole of c
    for (std::int64_t r = 0; r < n; ++r) {
      store_lanes(V::load(zo + r * kL), step.gates(tile.row[r]) + 3 * h + unit, width);
    }
    return;
  }
  activate_vectors(s.cell.output, state, n);
  for (std::int64_t r = 0; r < n; ++r) {
    const std::int64_t b = tile.row[r];
    const V o = V::load(zo + r * kL);
    if (s.keep_gates) store_lanes(o, step.gates(b) + 3 * h + unit, width);
    const V out = o * V::load(state + r * kL);
    if (s.w_hr != nullptr) {
      store_lanes(out, step.wide(b) + unit, width);
    } else {
      put_h(step, b, unit, width, out);
    }
  }
}

// n + z (h - n) of one vector of a row; n and z lie in the tile.
template <class T>
ARRAYNN_INLINE void blend(const Step<T>& step, std::int64_t b, std::int64_t unit,
                          std::int64_t width, Vec<T> z, Vec<T> n) {
  const Vec<T> h = load_lanes(step.h(b) + unit, width);
  put_h(step, b, unit, width, fma(z, h - n, n));
}

template <class T>
ARRAYNN_INLINE void gru_tile(const Step<T>& step, const Tile<T>& tile) {
  using V = Vec<T>;
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const std::int64_t n = tile.rows, unit = tile.unit, width = min_i(kL, s.hidden - unit);
  const std::int64_t h = s.hidden;
  T *zr = tile.sums, *zz = zr + n * kL, *zn = zz + n * kL;
  const V bias = s.b_hn != nullptr ? load_lanes(s.b_hn + unit, width) : V::zero();
  for (std::int64_t r = 0; r < n; ++r) {
    add_gate(step, tile.row[r], unit, width, zr + r * kL);
    add_gate(step, tile.row[r], h + unit, width, zz + r * kL);
  }
  activate_vectors(s.cell.gate, zr, 2 * n);
  for (std::int64_t r = 0; r < n; ++r) {
    const std::int64_t b = tile.row[r];
    T* x = step.gates(b) + unit;
    const V reset = V::load(zr + r * kL), inner = V::load(zn + r * kL) + bias;
    const V z = fma(reset, inner, load_lanes(x + 2 * h, width));
    bound_gate(step, b, 2 * h + unit, width, z, zn + r * kL);
    if (s.keep_gates) {
      store_lanes(inner, step.inner(b) + unit, width);
      store_lanes(reset, x, width);
      store_lanes(V::load(zz + r * kL), x + h, width);
    }
  }
  activate_vectors(s.cell.main, zn, n);
  for (std::int64_t r = 0; r < n; ++r) {
    const std::int64_t b = tile.row[r];
    const V value = V::load(zn + r * kL);
    if (s.keep_gates) store_lanes(value, step.gates(b) + 2 * h + unit, width);
    blend(step, b, unit, width, V::load(zz + r * kL), value);
  }
}

// The reset before the product: r and z first, then n from (r h) W_hn'.
template <class T>
ARRAYNN_INLINE void reset_tile(const Step<T>& step, const Panels<T>& w, const Tile<T>& tile) {
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const std::int64_t n = tile.rows, h = s.hidden;
  for_units(tile, w.groups, 2, h, [&](std::int64_t unit, std::int64_t width, T* z) {
    for (std::int64_t r = 0; r < n; ++r) {
      add_gate(step, tile.row[r], unit, width, z + r * kL);
      add_gate(step, tile.row[r], h + unit, width, z + (n + r) * kL);
    }
  });
  activate_vectors(s.cell.gate, tile.sums, 2 * n * w.groups);
  for_units(tile, w.groups, 2, h, [&](std::int64_t unit, std::int64_t width, T* z) {
    for (std::int64_t r = 0; r < n; ++r) {
      const std::int64_t b = tile.row[r];
      const Vec<T> reset = Vec<T>::load(z + r * kL);
      const Vec<T> old = load_lanes(step.operand(b) + unit, width);
      store_lanes(reset * old, step.inner(b) + unit, width);
      store_lanes(reset, step.gates(b) + unit, width);
      store_lanes(Vec<T>::load(z + (n + r) * kL), step.gates(b) + h + unit, width);
    }
  });
}

template <class T>
ARRAYNN_INLINE void candidate_tile(const Step<T>& step, const Panels<T>& w, const Tile<T>& tile) {
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const std::int64_t n = tile.rows, h = s.hidden;
  for_units(tile, w.groups, 1, h, [&](std::int64_t unit, std::int64_t width, T* z) {
    for (std::int64_t r = 0; r < n; ++r) {
      add_gate(step, tile.row[r], 2 * h + unit, width, z + r * kL);
    }
  });
  activate_vectors(s.cell.main, tile.sums, n * w.groups);
  for_units(tile, w.groups, 1, h, [&](std::int64_t unit, std::int64_t width, T* z) {
    for (std::int64_t r = 0; r < n; ++r) {
      const std::int64_t b = tile.row[r];
      const Vec<T> value = Vec<T>::load(z + r * kL);
      T* gates = step.gates(b) + unit;
      if (s.keep_gates) store_lanes(value, gates + 2 * h, width);
      blend(step, b, unit, width, load_lanes(gates + h, width), value);
    }
  });
}

template <class T>
ARRAYNN_INLINE void project_tile(const Step<T>& step, const Panels<T>& w, const Tile<T>& tile) {
  constexpr int kL = kLanes<T>;
  for_units(tile, w.groups, 1, step.s.out, [&](std::int64_t unit, std::int64_t width, T* sum) {
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      put_h(step, tile.row[r], unit, width, Vec<T>::load(sum + r * kL));
    }
  });
}

// The matrices of a step: that of all gates, or of r and z; then W_hn or W_hr, if either.
template <class T>
struct Matrices {
  Panels<T> first, second;
  bool two;
};

template <class T>
Matrices<T> matrices(const RnnScan<T>& s, T* scratch, int threads) {
  const bool once = s.steps == 1;
  const bool before = s.cell.kind == RnnKind::kGru && !s.cell.reset_after;
  const std::int64_t gates = before ? 2 : s.cell.gates();
  Matrices<T> m{gate_panels(s.w_hh, s.hidden, s.out, 0, gates, s.batch, once),
                {},
                before || s.w_hr != nullptr};
  if (before) m.second = gate_panels(s.w_hh, s.hidden, s.out, 2, 3, s.batch, once);
  if (s.w_hr != nullptr) m.second = gate_panels(s.w_hr, s.out, s.hidden, 0, 1, s.batch, once);
  m.first.given = s.panels[0];
  m.second.given = s.panels[1];
  m.first.packed = scratch;
  if (m.two) m.second.packed = scratch + m.first.size(threads);
  return m;
}

template <class T>
std::int64_t pack_panels(const RnnScan<T>& s, RnnMatrix matrix, int threads, T* dst) {
  T* const none = nullptr;
  const Matrices<T> m = matrices(s, none, threads);
  Panels<T> w = matrix == RnnMatrix::kFirst ? m.first : m.second;
  w.one_panel = false;
  w.packed = dst;
  if (dst != nullptr) {
    parallel(threads, Denormals::kKeep, [&](int tid, int nthreads) { pack_own(w, tid, nthreads); });
  }
  return w.size(threads);
}

template <class T>
int panel_groups(const RnnScan<T>& s, RnnMatrix matrix) {
  T* const none = nullptr;
  const Matrices<T> m = matrices(s, none, 1);
  return matrix == RnnMatrix::kFirst ? m.first.groups : m.second.groups;
}

template <class T>
std::int64_t scratch_bytes(const RnnScan<T>& s, int threads) {
  const Matrices<T> m = matrices<T>(s, nullptr, threads);
  const std::int64_t elements = m.first.size(threads) + (m.two ? m.second.size(threads) : 0);
  return elements * static_cast<std::int64_t>(sizeof(T)) +
         threads * round_up(s.batch * static_cast<std::int64_t>(sizeof(std::int64_t)), 64);
}

// W_hh h of the step, whole and normalised, for the tiles of gates.
template <class T, class A>
void normed_product(const Step<T>& step, const Panels<T>& w, const std::int64_t* row,
                    std::int64_t count, int tid, int nthreads, const A& h) {
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const RnnNorm<T>& norm = s.norm;
  const std::int64_t size = s.cell.gates() * s.hidden, first = step.t * norm.step * s.batch;
  T* const product = step.norm_product();
  if (s.product == nullptr) {
    for_tiles(w, row, count, step.depth(), tid, nthreads, h, [&](const Tile<T>& tile) {
      for_units(
          tile, w.groups, w.gates, s.hidden, [&](std::int64_t unit, std::int64_t width, T* sums) {
            for (std::int64_t i = 0; i < w.gates * tile.rows; ++i) {
              T* to = product + tile.row[i % tile.rows] * size;
              store_lanes(Vec<T>::load(sums + i * kL), to + i / tile.rows * s.hidden + unit, width);
            }
          });
    });
    team_barrier(nthreads);
  }
  const RowNorm p{s.batch, size, norm.eps, true, {}};
  const Range mine = split_range(count, nthreads, tid);
  for (std::int64_t i = mine.begin; i < mine.end; ++i) {
    norm.rows->forward(p, product, norm.gain, nullptr, norm.normed, norm.mean + first,
                       norm.rstd + first, row[i], row[i] + 1);
  }
  team_barrier(nthreads);
}

// h of an LSTM from the gate o and c, normalised: a thread has whole rows.
template <class T>
void normed_output(const Step<T>& step, const std::int64_t* row, std::int64_t count, int tid,
                   int nthreads) {
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const RnnNorm<T>& norm = s.norm;
  const std::int64_t first = step.t * norm.step * s.batch;
  const RowNorm p{s.batch, s.hidden, norm.eps, true, {}};
  const Range mine = split_range(count, nthreads, tid);
  alignas(64) T values[8 * kL];
  team_barrier(nthreads);
  for (std::int64_t i = mine.begin; i < mine.end; ++i) {
    const std::int64_t b = row[i];
    norm.rows->forward(p, step.norm_cells(), norm.cell_gain, norm.cell_bias, norm.normed_cell,
                       norm.cell_mean + first, norm.cell_rstd + first, b, b + 1);
    const T* c = norm.normed_cell + b * s.hidden;
    const T* o = step.gates(b) + 3 * s.hidden;
    for (std::int64_t unit = 0; unit < s.hidden; unit += 8 * kL) {
      const std::int64_t end = min_i(unit + 8 * kL, s.hidden);
      for (std::int64_t j = unit; j < end; j += kL) {
        load_lanes(c + j, min_i(kL, end - j)).store(values + j - unit);
      }
      activate_vectors(s.cell.output, values, ceil_div(end - unit, kL));
      for (std::int64_t j = unit; j < end; j += kL) {
        const std::int64_t width = min_i(kL, end - j);
        const Vec<T> out = load_lanes(o + j, width) * Vec<T>::load(values + j - unit);
        if (s.w_hr != nullptr) {
          store_lanes(out, step.wide(b) + j, width);
        } else {
          put_h(step, b, j, width, out);
        }
      }
    }
  }
}

template <class T>
void run_step(const Step<T>& step, const Matrices<T>& m, const std::int64_t* row,
              std::int64_t count, int tid, int nthreads) {
  const RnnScan<T>& s = step.s;
  const std::int64_t depth = step.depth();
  const auto h = [&](std::int64_t b) { return step.operand(b); };
  if (s.norm.rows != nullptr && s.hidden > 0)
    normed_product(step, m.first, row, count, tid, nthreads, h);
  const auto first = [&](const auto& f) {
    if (s.norm.rows != nullptr) {
      for_products(m.first, row, count, s.norm.normed, tid, nthreads, f);
    } else if (s.product != nullptr) {
      for_products(m.first, row, count, s.product, tid, nthreads, f);
    } else {
      const std::int64_t units = m.first.panel_units();
      const auto ahead = [&](const Tile<T>& tile) {
        const int gates = static_cast<int>(s.cell.gates()), extra = s.cells != nullptr ? 1 : 0;
        prefetch_tile(tile, min_i(units, s.hidden - tile.unit), gates + extra,
                      [&](std::int64_t b, int p) {
                        return p < gates ? step.gates(b) + p * s.hidden : s.c_before(step.t, b);
                      });
      };
      for_tiles(m.first, row, count, depth, tid, nthreads, h, ahead, f);
    }
  };
  switch (s.cell.kind) {
    case RnnKind::kRnn:
      first([&](const Tile<T>& tile) { rnn_tile(step, m.first, tile); });
      break;
    case RnnKind::kLstm:
      first([&](const Tile<T>& tile) { lstm_tile(step, tile); });
      if (s.norm.cell != nullptr && s.hidden > 0) normed_output(step, row, count, tid, nthreads);
      break;
    case RnnKind::kGru:
      if (!m.two) {
        first([&](const Tile<T>& tile) { gru_tile(step, tile); });
      } else {
        first([&](const Tile<T>& tile) { reset_tile(step, m.first, tile); });
      }
      break;
  }
  team_barrier(nthreads);
  if (!m.two) return;
  if (s.w_hr != nullptr) {
    for_tiles(
        m.second, row, count, s.hidden, tid, nthreads, [&](std::int64_t b) { return step.wide(b); },
        [&](const Tile<T>& tile) { project_tile(step, m.second, tile); });
  } else {
    for_tiles(
        m.second, row, count, s.hidden, tid, nthreads,
        [&](std::int64_t b) { return step.inner(b); },
        [&](const Tile<T>& tile) { candidate_tile(step, m.second, tile); });
  }
  team_barrier(nthreads);
}

template <class T>
void forward(const RnnScan<T>& s, int threads, bool packed, void* scratch) {
  // The rows of every thread first: what follows is cut by the team that was asked for, whatever
  // team there is.
  const std::int64_t row_bytes =
      round_up(s.batch * static_cast<std::int64_t>(sizeof(std::int64_t)), 64);
  char* const base = static_cast<char*>(scratch);
  const Matrices<T> m = matrices(s, reinterpret_cast<T*>(base + threads * row_bytes), threads);
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    auto* row = reinterpret_cast<std::int64_t*>(base + tid * row_bytes);
    if (!packed) {
      pack_own(m.first, tid, nthreads);
      if (m.two) pack_own(m.second, tid, nthreads);
    }
    for (std::int64_t b = 0; b < s.batch; ++b) row[b] = b;
    std::int64_t count = s.batch;
    for (std::int64_t i = s.first; i < s.last; ++i) {
      const std::int64_t t = s.time(i);
      const Step<T> step{s, t, Bounds<T>(s.cell)};
      if (s.lengths != nullptr || s.mask != nullptr) {
        count = 0;
        std::int64_t passing = 0;
        for (std::int64_t b = 0; b < s.batch; ++b) {
          if (s.active(t, b)) {
            row[count++] = b;
          } else if (s.within(t, b) && passing++ % nthreads == tid) {
            pass_state(step, b);
          }
        }
      }
      run_step(step, m, row, count, tid, nthreads);
    }
  });
}

}  // namespace

std::int64_t rnn_pack_f32(const RnnScan<float>& s, RnnMatrix matrix, int threads, float* dst) {
  return pack_panels(s, matrix, threads, dst);
}
std::int64_t rnn_pack_f64(const RnnScan<double>& s, RnnMatrix matrix, int threads, double* dst) {
  return pack_panels(s, matrix, threads, dst);
}
int rnn_panel_groups_f32(const RnnScan<float>& s, RnnMatrix matrix) {
  return panel_groups(s, matrix);
}
int rnn_panel_groups_f64(const RnnScan<double>& s, RnnMatrix matrix) {
  return panel_groups(s, matrix);
}
std::int64_t rnn_scratch_f32(const RnnScan<float>& s, int threads) {
  return scratch_bytes(s, threads);
}
std::int64_t rnn_scratch_f64(const RnnScan<double>& s, int threads) {
  return scratch_bytes(s, threads);
}
void rnn_forward_f32(const RnnScan<float>& s, int threads, bool packed, void* scratch) {
  forward(s, threads, packed, scratch);
}
void rnn_forward_f64(const RnnScan<double>& s, int threads, bool packed, void* scratch) {
  forward(s, threads, packed, scratch);
}

}  // namespace ARRAYNN_ISA_NAMESPACE
