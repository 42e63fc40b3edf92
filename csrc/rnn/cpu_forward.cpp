#include "rnn/panel.hpp"
#include "rnn/step.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// The matrices of a step: that of all gates, or of r and z; then W_hn or W_hr, if either; W_ih where the
// step multiplies its input.
template <class T>
struct Matrices {
  Panels<T> first, second, input;
  bool two, three;
};

template <class T>
Matrices<T> matrices(const RnnScan<T>& s, T* scratch, int threads) {
  const bool once = s.steps == 1;
  const bool before = s.reset_before();
  const std::int64_t gates = before ? 2 : s.cell.gates();
  Matrices<T> m{gate_panels(s.w_hh, s.hidden, s.out, 0, gates, s.batch, once),
                {},
                {},
                before || s.w_hr != nullptr,
                s.multiplies_input()};
  if (before) m.second = gate_panels(s.w_hh, s.hidden, s.out, 2, 3, s.batch, once);
  if (s.w_hr != nullptr) m.second = gate_panels(s.w_hr, s.out, s.hidden, 0, 1, s.batch, once);
  if (m.three) m.input = gate_panels(s.w_x, s.hidden, s.input, 0, gates, s.batch, false);
  Panels<T>* const all[] = {&m.first, &m.second, &m.input};
  for (int i = 0; i < 3; ++i) {
    if ((i == 1 && !m.two) || (i == 2 && !m.three)) continue;
    all[i]->given = s.panels[i];
    all[i]->packed = scratch;
    if (scratch != nullptr) scratch += all[i]->size(threads);
  }
  return m;
}

template <class T>
std::int64_t pack_panels(const RnnScan<T>& s, RnnMatrix matrix, int threads, T* dst) {
  T* const none = nullptr;
  const Matrices<T> m = matrices(s, none, threads);
  Panels<T> w = matrix == RnnMatrix::kFirst    ? m.first
                : matrix == RnnMatrix::kSecond ? m.second
                                               : m.input;
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
  return matrix == RnnMatrix::kSecond ? m.second.groups : m.first.groups;
}

template <class T>
std::int64_t scratch_bytes(const RnnScan<T>& s, int threads) {
  const Matrices<T> m = matrices<T>(s, nullptr, threads);
  const std::int64_t elements = m.first.size(threads) + (m.two ? m.second.size(threads) : 0) +
                                (m.three ? m.input.size(threads) : 0);
  return elements * static_cast<std::int64_t>(sizeof(T)) +
         threads * round_up(s.batch * static_cast<std::int64_t>(sizeof(std::int64_t)), 64);
}

// W_hh h of the step, whole and normalised, for the tiles of gates.
template <class T, class A>
void normed_product(const Step<T>& step, const Panels<T>& w, const std::int64_t* row,
                    std::int64_t count, const Share& share, const A& h) {
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const RnnNorm<T>& norm = s.norm;
  const std::int64_t size = s.cell.gates() * s.hidden, first = step.t * norm.step * s.batch;
  T* const product = s.norm_product(step.t);
  if (s.product == nullptr) {
    for_tiles(w, row, count, s.depth(step.t), share, h, [&](const Tile<T>& tile) {
      for_units(
          tile, w.groups, w.gates, s.hidden, [&](std::int64_t unit, std::int64_t width, T* sums) {
            for (std::int64_t i = 0; i < w.gates * tile.rows; ++i) {
              T* to = product + tile.row[i % tile.rows] * size;
              store_lanes(Vec<T>::load(sums + i * kL), to + i / tile.rows * s.hidden + unit, width);
            }
          });
    });
    team_barrier(share.nthreads);
  }
  const RowNorm p{s.batch, size, norm.eps, true, {}};
  const Range mine = split_range(count, share.nthreads, share.tid);
  for (std::int64_t i = mine.begin; i < mine.end; ++i) {
    norm.rows->forward(p, product, norm.gain, nullptr, norm.normed, norm.mean + first,
                       norm.rstd + first, row[i], row[i] + 1);
  }
  team_barrier(share.nthreads);
}

// h of an LSTM from the gate o and c, normalised: a thread has whole rows.
template <class T>
void normed_output(const Step<T>& step, const std::int64_t* row, std::int64_t count,
                   const Share& share) {
  constexpr int kL = kLanes<T>;
  const RnnScan<T>& s = step.s;
  const RnnNorm<T>& norm = s.norm;
  const std::int64_t first = step.t * norm.step * s.batch;
  const RowNorm p{s.batch, s.hidden, norm.eps, true, {}};
  const Range mine = split_range(count, share.nthreads, share.tid);
  alignas(64) T values[8 * kL];
  team_barrier(share.nthreads);
  for (std::int64_t i = mine.begin; i < mine.end; ++i) {
    const std::int64_t b = row[i];
    norm.rows->forward(p, s.norm_cells(step.t), norm.cell_gain, norm.cell_bias, norm.normed_cell,
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
        put_output(step, b, j, width, out);
      }
    }
  }
}

// x W_ih' of a tile, behind its sums. Apart: steps that have it in their gates are not slowed down.
template <class T>
[[gnu::noinline]] void multiply_input(const Step<T>& step, const Panels<T>& w,
                                      const Tile<T>& tile) {
  const RnnScan<T>& s = step.s;
  const T* x[kMaxTileRows];
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    x[r] = s.x + (step.t * s.batch + tile.row[r]) * s.input;
  }
  run_product(w.vectors(), tile.rows, x, s.input, w.at(tile.unit / w.panel_units()),
              tile.sums + kInputSums<T>);
}

template <class T>
void run_step(const Step<T>& step, const Matrices<T>& m, const std::int64_t* row,
              std::int64_t count, const Share& share) {
  const RnnScan<T>& s = step.s;
  const std::int64_t depth = s.depth(step.t);
  const auto h = [&](std::int64_t b) { return step.operand(b); };
  if (s.norm.on && s.hidden > 0) normed_product(step, m.first, row, count, share, h);
  const std::int64_t gates = s.gates != nullptr ? s.cell.gates() : 0;
  const auto ahead = [&](const Tile<T>& tile) {
    const std::int64_t n = min_i(m.first.panel_units(), s.hidden - tile.unit);
    for (std::int64_t r = 0; r < tile.rows; ++r) {
      const std::int64_t b = tile.row[r];
      for (std::int64_t g = 0; g < gates; ++g) {
        prefetch_units(step.gates(b) + g * s.hidden + tile.unit, n);
      }
      if (s.cells != nullptr) prefetch_units(s.c_before(step.t, b) + tile.unit, n);
    }
    if (m.three) multiply_input(step, m.input, tile);
  };
  const auto first = [&](const auto& f) {
    const T* product = s.norm.on ? s.norm.normed : s.product;
    if (product != nullptr) {
      for_products(m.first, row, count, product, share, ahead, f);
    } else {
      for_tiles(m.first, row, count, depth, share, h, ahead, f);
    }
  };
  switch (s.cell.kind) {
    case RnnKind::kRnn:
      first([&](const Tile<T>& tile) { rnn_tile(step, m.first.groups, tile); });
      break;
    case RnnKind::kLstm:
      first([&](const Tile<T>& tile) { lstm_tile(step, tile); });
      if (s.norm.cell != nullptr && s.hidden > 0) normed_output(step, row, count, share);
      break;
    case RnnKind::kGru:
      if (!m.two) {
        first([&](const Tile<T>& tile) { gru_tile(step, tile); });
      } else {
        first([&](const Tile<T>& tile) { reset_tile(step, m.first.groups, tile); });
      }
      break;
  }
  team_barrier(share.nthreads);
  if (!m.two) return;
  const auto rows = [&](std::int64_t b) { return step.wide(b); };
  for_tiles(m.second, row, count, s.hidden, share, rows, [&](const Tile<T>& tile) {
    if (s.w_hr != nullptr) {
      project_tile(step, m.second.groups, tile);
    } else {
      candidate_tile(step, m.second.groups, tile);
    }
  });
  team_barrier(share.nthreads);
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
      if (m.three) pack_own(m.input, tid, nthreads);
      if (s.apart) team_barrier(nthreads);
    }
    Share share = share_of(s.apart, tid, nthreads);
    std::int64_t count = 0;
    for (std::int64_t b = share.first; b < s.batch; b += share.every) row[count++] = b;
    for (std::int64_t i = s.first; i < s.last; ++i) {
      const std::int64_t t = s.time(i);
      const Step<T> step{s, t, Bounds<T>(s.cell)};
      if (s.lengths != nullptr || s.mask != nullptr) {
        count = 0;
        std::int64_t passing = 0;
        for (std::int64_t b = share.first; b < s.batch; b += share.every) {
          if (s.active(t, b)) {
            row[count++] = b;
          } else if (s.within(t, b) && passing++ % share.nthreads == share.tid) {
            pass_state(step, b, {0, s.out}, {0, s.hidden});
          }
        }
      }
      share.backwards = (i & 1) != 0;
      run_step(step, m, row, count, share);
    }
  });
}

template <class T>
constexpr RnnForwardTable<T> table() {
  return {&pack_panels<T>, &panel_groups<T>, &scratch_bytes<T>, &forward<T>};
}

}  // namespace

extern const FloatKernels<RnnForwardTable> rnn_forward_kernels = {table<float>(), table<double>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
