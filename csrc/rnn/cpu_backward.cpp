#include "rnn/panel.hpp"
#include "rnn/step_back.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

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
  const bool before = s.reset_before(), once = s.steps == 1;
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
void for_own_columns(std::int64_t units, const std::int64_t* row, std::int64_t count,
                     const Share& share, const F& f) {
  constexpr int kL = kLanes<T>;
  const Range mine = split_range(ceil_div(units, kL), share.nthreads, share.tid);
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
void through_norms(const Back<T>& step, const std::int64_t* active, std::int64_t count,
                   const Share& share) {
  const RnnScan<T>& s = step.s;
  const RnnNorm<T>& norm = s.norm;
  const std::int64_t at = step.at(0), width = step.width(), h = s.hidden;
  const Range mine = split_range(count, share.nthreads, share.tid);
  if (norm.cell != nullptr) {
    const RowNorm p{s.batch, h, norm.eps, true, {}};
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
      norm.rows->backward(p, step.g.dnormed + at * h, norm.cell + at * h, norm.cell_gain,
                          norm.cell_mean + at, norm.cell_rstd + at, step.g.dcell, nullptr, nullptr,
                          active[i], active[i] + 1);
    }
    team_barrier(share.nthreads);
    for_own_columns<T>(h, active, count, share, [&](Column<T>& c) { lstm_column(step, c); });
    team_barrier(share.nthreads);
  }
  const RowNorm p{s.batch, width, norm.eps, true, {}};
  for (std::int64_t i = mine.begin; i < mine.end; ++i) {
    norm.rows->backward(p, step.g.dz + at * width, norm.product + at * width, norm.gain,
                        norm.mean + at, norm.rstd + at, step.g.dproduct + at * width, nullptr,
                        nullptr, active[i], active[i] + 1);
  }
  team_barrier(share.nthreads);
}

// Gradients of h at time t: of y, of what is carried, and dz of the step after times W_hh.
template <class T>
void run_step(const Back<T>& step, std::int64_t after, const Matrices<T>& m,
              const std::int64_t* row, std::int64_t count, const std::int64_t* active,
              std::int64_t active_count, const Share& share) {
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
    return gradient_of_h(step, b, unit, width, sum, to);
  };
  const auto direct = [](std::int64_t, std::int64_t, std::int64_t, Vec<T> sum, T* to) {
    sum.store(to);
    return true;
  };
  const auto ahead = [&](const Tile<T>& tile) {
    if (!is_step || m.projected) return;
    const std::int64_t gates = s.gates_kept() ? s.cell.gates() : 0;
    const std::int64_t n = min_i(m.first.panel_units(), s.hidden - tile.unit);
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      const std::int64_t b = tile.row[r];
      const T* values = step.gates(b) + tile.unit;
      for (std::int64_t k = 0; k < gates; ++k) prefetch_units(values + k * s.hidden, n);
      if (g.dy != nullptr) prefetch_units(g.dy + step.at(b) * g.dy_row + tile.unit, n);
      const T* before = s.cells != nullptr ? s.c_before(step.t, b) : s.h_before(step.t, b);
      prefetch_units(before + tile.unit, n);
      if (s.norm.cell != nullptr) {
        prefetch_units(s.norm_cells(step.t) + b * s.hidden + tile.unit, n);
      }
    }
  };
  for_tiles(m.first, row, count, after >= 0 ? m.first.k : 0, share, dz_after, ahead,
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
  team_barrier(share.nthreads);
  if (!is_step) return;
  const auto norms = [&] {
    if (s.norm.on && s.hidden > 0) through_norms(step, active, active_count, share);
  };
  if (!m.two()) return norms();
  const auto rows = [&](std::int64_t b) {
    return m.projected ? step.dout(b) : step.dz(b) + 2 * s.hidden;
  };
  for_tiles(m.second, active, active_count, m.second.k, share, rows, [&](const Tile<T>& tile) {
    for_columns(m.second, tile, direct, [&](Column<T>& c) {
      if (m.projected) {
        lstm(c);
      } else {
        reset_column(step, c);
      }
    });
  });
  team_barrier(share.nthreads);
  norms();
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
    if (s.apart) team_barrier(nthreads);
    Share share = share_of(s.apart, tid, nthreads);
    std::int64_t after = -1;
    // One more than the steps: the last product gives the gradient of the first state.
    for (std::int64_t i = s.steps - 1; i >= (g.leaves_product ? 0 : -1); --i) {
      const std::int64_t t = i < 0 ? -1 : s.time(i);
      std::int64_t count = 0, active_count = 0;
      for (std::int64_t b = share.first; b < s.batch; b += share.every) {
        if (t >= 0 && s.active(t, b)) {
          active[active_count++] = b;
        } else if (t >= 0 && g.dcells != nullptr && s.within(t, b) &&
                   b % share.nthreads == share.tid) {
          pass_cells(g, t, b, {0, s.hidden});
        }
        // One that passes through takes its gradient of y along.
        if ((t >= 0 && s.within(t, b)) || (after >= 0 && s.active(after, b))) row[count++] = b;
      }
      share.backwards = (i & 1) != 0;
      run_step(Back<T>{g, s, t, Bounds<T>(s.cell)}, after, m, row, count, active, active_count,
               share);
      after = t;
    }
  });
}

}  // namespace

extern const FloatKernels<RnnBackwardTable> rnn_backward_kernels = {
    {&scratch_bytes<float>, &backward<float>}, {&scratch_bytes<double>, &backward<double>}};

}  // namespace ARRAYNN_ISA_NAMESPACE
