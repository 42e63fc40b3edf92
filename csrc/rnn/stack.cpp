#include "rnn/stack.hpp"

#include <algorithm>
#include <type_traits>

#include "core/parallel.hpp"
#include "gemm/gemm.hpp"
#include "norm/channels.hpp"

namespace arraynn {
namespace {

// Multiply-adds of a step that are worth a thread of their own: some 2 us, several barriers. Few
// rows wait for the weights, which take L2 as long as so many multiply-adds.
constexpr double kStepPerThread = 8e4, kProductsPerWeight = 2.6;
// Of a whole call: what waking a team is worth.
constexpr double kCallPerThread = 7.5e5;
// Gates of a part of the steps: they stay in cache between the product that writes them and the step
// that reads them. Every part packs W_ih anew: in L2 where that is little, else in L3, and in either
// case of enough rows.
constexpr std::int64_t kGateBytes = std::int64_t{4} << 20, kGateBytesL2 = std::int64_t{512} << 10;
constexpr std::int64_t kGateRows = 256, kNarrowInput = 64;
constexpr std::int64_t kPanelForm = 2;  // beside gemm's operands

std::int64_t steps_at_once(const RnnShape& s, std::int64_t input, std::int64_t gate_width,
                           std::int64_t item) {
  const std::int64_t bytes = input <= kNarrowInput ? kGateBytesL2 : kGateBytes;
  const std::int64_t rows = max_i(kGateRows, bytes / max_i(1, gate_width * item));
  return min_i(s.steps, max_i(1, rows / max_i(1, s.batch)));
}

// What is added to x W_ih': both biases, but for that of a GRU's n within the reset.
template <class T>
const T* input_bias(const RnnCell& cell, const RnnGroup<const T>& g, std::int64_t hidden,
                    RnnMemory* memory) {
  if (g.b_ih == nullptr || g.b_hh == nullptr) return g.b_ih;
  const std::int64_t size = cell.gates() * hidden;
  const bool within = cell.kind == RnnKind::kGru && cell.reset_after;
  T* sum = memory->take<T>(size);
  for (std::int64_t j = 0; j < size; ++j) {
    sum[j] = within && j >= 2 * hidden ? g.b_ih[j] : g.b_ih[j] + g.b_hh[j];
  }
  return sum;
}

template <class T>
struct Layers {
  const RnnStack<T>& stack;
  const RnnOutputs<T>& out;
  RnnSaved<T>* saved;
  RnnMemory own;

  RnnMemory& kept() { return saved != nullptr ? saved->memory : own; }
  bool keeps() const { return saved != nullptr; }

  RnnScan<T> scan_of(std::int64_t layer, std::int64_t direction, T* y, bool direct) {
    const RnnShape& s = stack.shape;
    const RnnCell& cell = stack.cell;
    const std::int64_t index = layer * s.directions + direction;
    const auto& group = stack.groups[static_cast<std::size_t>(index)];
    const std::int64_t rows = s.rows(), state = s.batch * s.hidden;
    const bool padded = s.padded();
    const auto take = [&](RnnMemory& memory, std::int64_t count) {
      return padded ? memory.zeros<T>(count) : memory.take<T>(count);
    };
    RnnScan<T> scan;
    scan.cell = cell;
    scan.steps = s.steps;
    scan.batch = s.batch;
    scan.hidden = s.hidden;
    scan.out = s.out;
    scan.reverse = s.backwards(direction);
    scan.lengths = s.lengths.empty() ? nullptr : s.lengths.data();
    scan.mask = s.mask.empty() ? nullptr : s.mask.data();
    scan.w_hh = recurrent_weights(group, index);
    scan.w_hr = group.w_hr;
    scan.peephole = group.peephole;
    if (cell.kind == RnnKind::kGru && cell.reset_after && group.b_hh != nullptr) {
      scan.b_hn = group.b_hh + 2 * s.hidden;
    }
    scan.h0 = stack.h0 != nullptr ? stack.h0 + index * s.batch * s.out
                                  : kept().template zeros<T>(s.batch * s.out);
    // What is infinite or NaN in W_hh does not meet these zeros.
    scan.from_zero = stack.h0 == nullptr;
    if (stack.random.state > 0) {
      T* factors = kept().template take<T>(s.batch * s.out);
      draw_ones(stack.random.draw(stack.random.state, true, RnnStream::kState, index), factors,
                s.batch * s.out);
      scan.factors = factors;
    }
    scan.keep_gates = keeps();
    if (group.norm_hh != nullptr) scan.norm = norm_of(group);
    scan.y = y + direction * s.out;
    scan.y_row = direct ? s.steps * s.width() : s.width();
    scan.y_step = direct ? s.width() : s.batch * s.width();
    if (cell.kind == RnnKind::kLstm) {
      scan.c0 = stack.c0 != nullptr ? stack.c0 + index * state : kept().template zeros<T>(state);
      const bool all = keeps() || (out.cells != nullptr && layer + 1 == s.layers);
      scan.cells_step = all ? state : 0;
      scan.cells = all ? take(kept(), rows * s.hidden) : own.take<T>(state);
      if (!all) std::copy_n(scan.c0, state, scan.cells);
      if (group.w_hr != nullptr) {
        scan.wide_step = keeps() ? state : 0;
        scan.wide = take(kept(), keeps() ? rows * s.hidden : state);
      }
    }
    if (cell.kind == RnnKind::kGru && (keeps() || !cell.reset_after)) {
      scan.inner_step = keeps() ? state : 0;
      scan.inner = take(kept(), keeps() ? rows * s.hidden : state);
    }
    const bool derived = derivative_from_value(cell.main.kind) &&
                         (cell.kind == RnnKind::kRnn || derivative_from_value(cell.gate.kind));
    if (keeps() && (cell.clips || !derived)) {
      scan.z = take(kept(), rows * cell.gates() * s.hidden);
    }
    return scan;
  }

  // The layer norms of a group; what backward does not need is of the call.
  RnnNorm<T> norm_of(const RnnGroup<const T>& group) {
    const RnnShape& s = stack.shape;
    const std::int64_t steps = keeps() ? s.steps : 1, rows = steps * s.batch;
    const std::int64_t width = stack.cell.gates() * s.hidden;
    const auto take = [&](std::int64_t count) { return kept().template zeros<T>(count); };
    const auto statistics = [&](std::int64_t count) {
      return kept().template zeros<double>(count);
    };
    RnnNorm<T> norm;
    norm.rows = &norm_table<T>(norm_row_kernels());
    norm.eps = stack.norm_eps;
    norm.step = keeps() ? 1 : 0;
    norm.gain = group.norm_hh;
    norm.product = take(rows * width);
    norm.mean = statistics(rows);
    norm.rstd = statistics(rows);
    norm.normed = own.template take<T>(s.batch * width);
    if (keeps()) {
      norm.input = take(rows * width);
      norm.input_mean = statistics(rows);
      norm.input_rstd = statistics(rows);
    }
    if (group.norm_cell == nullptr) return norm;
    norm.cell_gain = group.norm_cell;
    norm.cell_bias = group.norm_cell_bias;
    norm.cell = take(rows * s.hidden);
    norm.cell_mean = statistics(rows);
    norm.cell_rstd = statistics(rows);
    norm.normed_cell = own.template take<T>(s.batch * s.hidden);
    return norm;
  }

  // LN(x W_ih') + b in place of x W_ih', rows of all gates.
  void norm_input(const RnnScan<T>& scan, const RnnGroup<const T>& group, const T* bias,
                  std::int64_t rows) const {
    const RnnShape& s = stack.shape;
    const std::int64_t width = scan.cell.gates() * s.hidden;
    const RowNorm p{rows, width, stack.norm_eps, true, {}};
    const RnnNorm<T>& norm = scan.norm;
    row_norm(p, norm.input != nullptr ? norm.input : scan.gates, group.norm_ih, bias, scan.gates,
             norm.input_mean, norm.input_rstd);
    if (norm.input == nullptr || !s.padded()) return;
    // Backward takes all rows together: what padding held must not reach its sums.
    for (std::int64_t t = 0; t < s.steps; ++t) {
      for (std::int64_t b = 0; b < s.batch; ++b) {
        if (s.active(t, b)) continue;
        const std::int64_t row = t * s.batch + b;
        std::fill_n(norm.input + row * width, width, T(0));
        norm.input_mean[row] = norm.input_rstd[row] = 0;
      }
    }
  }

  const T* recurrent_weights(const RnnGroup<const T>& group, std::int64_t index) {
    if (stack.random.weights <= 0) return group.w_hh;
    const std::int64_t size = stack.cell.gates() * stack.shape.hidden * stack.shape.out;
    T* dropped = kept().template take<T>(size);
    run_dropout(stack.random.draw(stack.random.weights, true, RnnStream::kWeights, index),
                group.w_hh, dropped, size);
    return dropped;
  }

  // h0 times the factors, in both halves.
  T* drop_first(const RnnScan<T>& scan, RnnMemory* memory) const {
    const std::int64_t size = scan.batch * scan.out;
    T* dropped = memory->take<T>(2 * size);
    for (std::int64_t i = 0; i < size; ++i) {
      dropped[i] = dropped[size + i] = scan.h0[i] * scan.factors[i];
    }
    return dropped;
  }

  void run_scan(RnnScan<T>* scan, std::int64_t layer, std::int64_t direction, const T* x) {
    const RnnShape& s = stack.shape;
    const auto& group = stack.groups[static_cast<std::size_t>(layer * s.directions + direction)];
    const std::int64_t width = scan->cell.gates() * s.hidden, input = s.input_of(layer);
    RnnMemory scratch(stack.op);
    const bool keep = scan->gates_kept(), norms = scan->norm.rows != nullptr;
    const std::int64_t part =
        keeps() && norms ? s.steps : steps_at_once(s, input, width, sizeof(T));
    scan->gates =
        (keep ? kept() : scratch).template take<T>((keep ? s.steps : part) * s.batch * width);
    const T* bias = input_bias(scan->cell, group, s.hidden, &scratch);
    const int threads = rnn_threads(*scan);
    use_panels(scan, layer * s.directions + direction);
    void* panels = scratch.take<char>(rnn_table<T>().scratch(*scan, threads));
    if (scan->factors != nullptr) scan->dropped = drop_first(*scan, &scratch);
    draw_zones(stack, layer * s.directions + direction, &scratch, scan);
    const RnnForms& forms = stack.forms[static_cast<std::size_t>(layer * s.directions + direction)];
    if (s.steps == 1 && scan->panels[0] == nullptr && !scan->from_zero) {
      scan->product = product_of_one_step(*scan, &scratch);
    }
    for (std::int64_t i = 0; i < s.steps; i += part) {
      scan->first = i;
      scan->last = min_i(s.steps, i + part);
      const std::int64_t t = scan->reverse ? s.steps - scan->last : i;
      scan->gates_t = keep ? 0 : t;
      GemmProblem<T> g;
      g.m = (scan->last - i) * s.batch;
      g.n = width;
      g.k = input;
      g.a = x + t * s.batch * input;
      g.rs_a = input;
      g.cs_a = 1;
      g.b = group.w_ih;
      g.rs_b = 1;
      g.cs_b = input;
      g.c = scan->norm.input != nullptr ? scan->norm.input
                                        : scan->gates + (t - scan->gates_t) * s.batch * width;
      g.rs_c = width;
      if (bias != nullptr && !norms) {
        g.epilogue.bias = bias;
        g.epilogue.bias_axis = BiasAxis::kColumn;
      }
      if (forms.w_ih != nullptr) use_packed(stack.op, forms.w_ih, Operand::kB, &g);
      gemm(stack.op, g);
      if (norms) norm_input(*scan, group, bias, g.m);
      rnn_table<T>().forward(*scan, threads, i > 0, panels);
    }
    scan->product = scan->dropped = nullptr;
    scan->fresh = scan->fresh_cell = nullptr;
    if (!keep) scan->gates = nullptr;
  }

  // Those of packed weights; elements of w_hh dropped in the call are others.
  void use_panels(RnnScan<T>* scan, std::int64_t index) const {
    const RnnForms& forms = stack.forms[static_cast<std::size_t>(index)];
    if (forms.w_hh == nullptr || stack.random.weights > 0) return;
    const bool before = scan->cell.kind == RnnKind::kGru && !scan->cell.reset_after;
    const auto panels = [&](RnnMatrix matrix, PreparedWeight* weight) {
      const auto pack = rnn_table<T>().pack;
      T* const none = nullptr;
      const std::int64_t elements = pack(*scan, matrix, 1, none);
      const int threads = threads_for(static_cast<double>(elements), kElementwiseGrain);
      // Others of the weight: gemm's, and those of other groups or gates.
      const FormKey key{static_cast<std::int64_t>(current_isa()), kPanelForm,
                        rnn_table<T>().panel_groups(*scan, matrix), before ? 1 : 0,
                        static_cast<std::int64_t>(matrix)};
      const void* form =
          weight->form(stack.op, key, elements * static_cast<std::int64_t>(sizeof(T)),
                       [&](void* dst) { pack(*scan, matrix, threads, static_cast<T*>(dst)); });
      return static_cast<const T*>(form);
    };
    const T* first = panels(RnnMatrix::kFirst, forms.w_hh);
    if (before) scan->panels[1] = panels(RnnMatrix::kSecond, forms.w_hh);
    if (scan->w_hr != nullptr) scan->panels[1] = panels(RnnMatrix::kSecond, forms.w_hr);
    scan->panels[0] = first;
  }

  // h0 W_hh' of the gates that read h itself: with the reset before the product not n.
  T* product_of_one_step(const RnnScan<T>& scan, RnnMemory* memory) const {
    const bool before = scan.cell.kind == RnnKind::kGru && !scan.cell.reset_after;
    GemmProblem<T> g;
    g.m = scan.batch;
    g.n = (before ? 2 : scan.cell.gates()) * scan.hidden;
    g.k = scan.out;
    g.a = scan.factors == nullptr ? scan.h0 : scan.dropped;
    g.rs_a = scan.out;
    g.cs_a = 1;
    g.b = scan.w_hh;
    g.rs_b = 1;
    g.cs_b = scan.out;
    T* product = scan.norm.product != nullptr ? scan.norm.product : memory->take<T>(g.m * g.n);
    g.c = product;
    g.rs_c = g.n;
    gemm(stack.op, g);
    return product;
  }

  void final_states(const RnnScan<T>& scan, std::int64_t index) {
    const RnnShape& s = stack.shape;
    for (std::int64_t b = 0; b < s.batch; ++b) {
      const std::int64_t length = s.length(b), t = scan.reverse ? 0 : length - 1;
      const T* h = length == 0 ? scan.h0 + b * s.out : scan.y + t * scan.y_step + b * scan.y_row;
      std::copy_n(h, s.out, out.h_n + (index * s.batch + b) * s.out);
      if (scan.cell.kind != RnnKind::kLstm) continue;
      const bool first = length == 0 && scan.cells_step != 0;
      const T* c = first ? scan.c0 + b * s.hidden : scan.cells + t * scan.cells_step + b * s.hidden;
      std::copy_n(c, s.hidden, out.c_n + (index * s.batch + b) * s.hidden);
    }
  }

  // Every c of a direction of the last layer, beside those of the other.
  void copy_cells(const RnnScan<T>& scan, std::int64_t direction) {
    const RnnShape& s = stack.shape;
    const std::int64_t width = s.directions * s.hidden;
    for (std::int64_t t = 0; t < s.steps; ++t) {
      for (std::int64_t b = 0; b < s.batch; ++b) {
        const std::int64_t row = s.batch_first ? b * s.steps + t : t * s.batch + b;
        std::copy_n(scan.cells + t * scan.cells_step + b * s.hidden, s.hidden,
                    out.cells + row * width + direction * s.hidden);
      }
    }
  }

  void run() {
    const RnnShape& s = stack.shape;
    const T* x = stack.x;
    if (s.transposed()) {
      T* copy = kept().template take<T>(s.rows() * s.input);
      swap_axes(stack.x, copy, s.batch, s.steps, s.input);
      x = copy;
    }
    for (std::int64_t layer = 0; layer < s.layers; ++layer) {
      const bool last = layer + 1 == s.layers;
      const bool direct = last && s.transposed() && !keeps();
      T* y = last && (direct || !s.transposed()) ? out.y
                                                 : kept().template take<T>(s.rows() * s.width());
      if (s.padded()) std::fill_n(y, s.rows() * s.width(), T(0));
      if (keeps()) saved->inputs.push_back(x);
      const T* input = x;
      std::unique_ptr<RnnMemory> dropped;
      if (layer > 0 && stack.random.dropout > 0) {
        dropped = std::make_unique<RnnMemory>(stack.op);
        T* to = dropped->template take<T>(s.rows() * s.width());
        const RnnRandom& random = stack.random;
        run_dropout(random.draw(random.dropout, true, RnnStream::kLayers, layer - 1), x, to,
                    s.rows() * s.width());
        input = to;
      }
      for (std::int64_t d = 0; d < s.directions; ++d) {
        RnnScan<T> scan = scan_of(layer, d, y, direct);
        run_scan(&scan, layer, d, input);
        final_states(scan, layer * s.directions + d);
        if (last && out.cells != nullptr) copy_cells(scan, d);
        if (keeps()) saved->scans.push_back(scan);
      }
      if (last && y != out.y) swap_axes(y, out.y, s.steps, s.batch, s.width());
      x = y;
    }
  }
};

}  // namespace

bool RnnShape::padded() const {
  if (std::find(mask.begin(), mask.end(), 0) != mask.end()) return true;
  return std::any_of(lengths.begin(), lengths.end(), [this](std::int64_t n) { return n < steps; });
}

void* RnnMemory::block(std::size_t bytes) {
  blocks_.push_back(std::make_unique<Scratch>(op_, bytes));
  bytes_ += static_cast<std::int64_t>(bytes);
  return blocks_.back()->data();
}

template <class T>
const RnnTable<T>& rnn_table() {
  if constexpr (std::is_same_v<T, float>) {
    return rnn_kernels().f32;
  } else {
    return rnn_kernels().f64;
  }
}

template <class T>
int rnn_threads(const RnnScan<T>& s) {
  const double width = static_cast<double>(s.cell.gates() * s.hidden);
  const double lanes = static_cast<double>(sizeof(T)) / 4;
  const double rows = std::max(static_cast<double>(s.batch), kProductsPerWeight);
  const double step = rows * width * static_cast<double>(s.out) * lanes;
  const int of_call = threads_for(step * static_cast<double>(s.steps), kCallPerThread);
  return std::min(of_call, threads_for(step, kStepPerThread));
}

template <class T>
void swap_axes(const T* from, T* to, std::int64_t i, std::int64_t j, std::int64_t row) {
  const int threads = threads_for(static_cast<double>(i * j * row), kElementwiseGrain);
  parallel(threads, Denormals::kKeep, [&](int tid, int nthreads) {
    const Range part = split_range(j, nthreads, tid);
    for (std::int64_t q = part.begin; q < part.end; ++q) {
      for (std::int64_t p = 0; p < i; ++p) {
        std::copy_n(from + (p * j + q) * row, row, to + (q * i + p) * row);
      }
    }
  });
}

Dropout RnnRandom::draw(double p, bool scaled, RnnStream stream, std::int64_t place) const {
  const std::uint64_t at = seed + (static_cast<std::uint64_t>(stream) << 32);
  const double scale = !scaled ? 1.0 : p < 1 ? 1 / (1 - p) : 0.0;
  return {static_cast<std::uint64_t>(p * 4294967296.0), scale,
          philox_key(at + static_cast<std::uint64_t>(place))};
}

template <class T>
void draw_ones(const Dropout& d, T* to, std::int64_t n) {
  std::fill_n(to, n, T(1));
  run_dropout(d, to, to, n);
}

template <class T>
void draw_zones(const RnnStack<T>& stack, std::int64_t group, RnnMemory* memory, RnnScan<T>* scan) {
  if (!stack.random.zones) return;
  const auto draw = [&](double p, RnnStream stream, std::int64_t size) -> const T* {
    if (p <= 0) return nullptr;
    T* fresh = memory->take<T>(stack.shape.rows() * size);
    draw_ones(stack.random.draw(p, false, stream, group), fresh, stack.shape.rows() * size);
    return fresh;
  };
  scan->fresh = draw(stack.cell.zone, RnnStream::kZone, stack.shape.out);
  scan->fresh_cell = draw(stack.cell.zone_cell, RnnStream::kZoneCell, stack.shape.hidden);
}

template <class T>
void run_rnn(const RnnStack<T>& stack, const RnnOutputs<T>& out, RnnSaved<T>* saved) {
  Layers<T>{stack, out, saved, RnnMemory(stack.op)}.run();
}

#define ARRAYNN_INSTANTIATE(T)                                                         \
  template const RnnTable<T>& rnn_table<T>();                                          \
  template int rnn_threads(const RnnScan<T>&);                                         \
  template void swap_axes(const T*, T*, std::int64_t, std::int64_t, std::int64_t);     \
  template void draw_ones(const Dropout&, T*, std::int64_t);                           \
  template void draw_zones(const RnnStack<T>&, std::int64_t, RnnMemory*, RnnScan<T>*); \
  template void run_rnn(const RnnStack<T>&, const RnnOutputs<T>&, RnnSaved<T>*);
ARRAYNN_INSTANTIATE(float)
ARRAYNN_INSTANTIATE(double)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
