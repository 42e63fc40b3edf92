#include "rnn/stack.hpp"

#include "norm/norm.hpp"

namespace arraynn {
namespace {

// Ones after dropout.
template <class T>
void draw_ones(const Dropout& d, T* to, std::int64_t n) {
  fill(to, n, 1);
  run_dropout(d, to, to, n);
}

// What is added to x W_ih': both biases, but for that of a GRU's n within the reset.
template <class T>
const Compute<T>* input_bias(const RnnCell& cell, const RnnGroup<const T>& g, std::int64_t hidden,
                             RnnMemory* memory) {
  const std::int64_t size = cell.gates() * hidden;
  if (g.b_ih == nullptr || g.b_hh == nullptr) return as_compute(g.b_ih, size, memory);
  const bool within = cell.kind == RnnKind::kGru && cell.reset_after;
  auto* sum = memory->take<Compute<T>>(size);
  move_rows(RnnMove<Compute<T>, T>{.n = size,
                                   .to = {sum, 0, 0},
                                   .from = {g.b_ih, 0, 0},
                                   .addend = g.b_hh,
                                   .addends = within ? 2 * hidden : size});
  return sum;
}

// Rows of a step that share what it reads of W_ih: gemm, which takes all steps at once, passes over it less
// often than fewer would.
constexpr std::int64_t kInputRows = 4;

template <class T>
struct Layers {
  using C = Compute<T>;
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
    const auto take = [&](RnnMemory& memory, std::int64_t count) {
      return s.padded ? memory.zeros<C>(count) : memory.take<C>(count);
    };
    // The second product's rows, of which backward multiplies all.
    const auto take_wide = [&](RnnScan<T>* to) {
      const std::int64_t count = keeps() ? rows * s.hidden : state;
      to->wide_step = keeps() ? state : 0;
      to->wide = s.padded ? kept().template zeros<T>(count) : kept().template take<T>(count);
    };
    RnnScan<T> scan;
    scan.cell = cell;
    scan.steps = s.steps;
    scan.batch = s.batch;
    scan.hidden = s.hidden;
    scan.out = s.out;
    scan.reverse = s.backwards(direction);
    scan.lengths = s.active.lengths;
    scan.mask = s.active.mask;
    scan.w_hh = recurrent_weights(group, index);
    scan.w_hr = group.w_hr;
    scan.peephole = as_compute(group.peephole, 3 * s.hidden, &kept());
    if (cell.kind == RnnKind::kGru && cell.reset_after && group.b_hh != nullptr) {
      scan.b_hn = as_compute(group.b_hh + 2 * s.hidden, s.hidden, &kept());
    }
    scan.h0 = stack.h0 != nullptr ? stack.h0 + index * s.batch * s.out
                                  : kept().template zeros<T>(s.batch * s.out);
    // What is infinite or NaN in W_hh does not meet these zeros.
    scan.from_zero = stack.h0 == nullptr;
    if (stack.random.state > 0) {
      C* factors = kept().template take<C>(s.batch * s.out);
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
      scan.c0 = stack.c0 != nullptr ? as_compute(stack.c0 + index * state, state, &kept())
                                    : kept().template zeros<C>(state);
      const bool all = keeps() || (out.cells != nullptr && layer + 1 == s.layers);
      scan.cells_step = all ? state : 0;
      scan.cells = all ? take(kept(), rows * s.hidden) : own.take<C>(state);
      if (!all) copy(scan.c0, scan.cells, state);
    }
    if (group.w_hr != nullptr || scan.reset_before()) take_wide(&scan);
    if (cell.kind == RnnKind::kGru && cell.reset_after && keeps()) {
      scan.inner_step = state;
      scan.inner = take(kept(), rows * s.hidden);
    }
    const bool derived = derivative_from_value(cell.main.kind) &&
                         (cell.kind == RnnKind::kRnn || derivative_from_value(cell.gate.kind));
    if (keeps() && (cell.clips || !derived)) {
      scan.z = take(kept(), rows * cell.gates() * s.hidden);
    }
    return scan;
  }

  // The layer norms of a group; what backward does not need is of the call.
  RnnNorm<C> norm_of(const RnnGroup<const T>& group) {
    const RnnShape& s = stack.shape;
    const std::int64_t steps = keeps() ? s.steps : 1, rows = steps * s.batch;
    const std::int64_t width = stack.cell.gates() * s.hidden;
    // Rows of samples that miss a step are read by the sums over all of them.
    const auto of_rows = [&](auto tag, std::int64_t count) {
      using V = decltype(tag);
      return s.padded ? kept().template zeros<V>(count) : kept().template take<V>(count);
    };
    const auto take = [&](std::int64_t count) { return of_rows(C{}, count); };
    const auto statistics = [&](std::int64_t count) { return of_rows(double{}, count); };
    RnnNorm<C> norm;
    norm.on = true;
    norm.eps = stack.norm_eps;
    norm.step = keeps() ? 1 : 0;
    norm.gain = as_compute(group.norm_hh, width, &kept());
    norm.product = take(rows * width);
    norm.mean = statistics(rows);
    norm.rstd = statistics(rows);
    norm.normed = own.template take<C>(s.batch * width);
    if (keeps()) {
      norm.input = take(rows * width);
      norm.input_mean = statistics(rows);
      norm.input_rstd = statistics(rows);
    }
    if (group.norm_cell == nullptr) return norm;
    norm.cell_gain = as_compute(group.norm_cell, s.hidden, &kept());
    norm.cell_bias = as_compute(group.norm_cell_bias, s.hidden, &kept());
    norm.cell = take(rows * s.hidden);
    norm.cell_mean = statistics(rows);
    norm.cell_rstd = statistics(rows);
    norm.normed_cell = own.template take<C>(s.batch * s.hidden);
    return norm;
  }

  // LN(from) + b into the gates: x W_ih' of the steps of a part, of which t is the first in time.
  void norm_input(const RnnScan<T>& scan, const C* gain, const C* bias, const C* from,
                  std::int64_t t) const {
    const RnnShape& s = stack.shape;
    const std::int64_t width = scan.cell.gates() * s.hidden, row = t * s.batch;
    const RowNorm p{(scan.last - scan.first) * s.batch, width, stack.norm_eps, true, {}};
    const RnnNorm<C>& norm = scan.norm;
    const bool keep = norm.input != nullptr;
    row_norm(p, from, gain, bias, scan.gates + (t - scan.gates_t) * s.batch * width,
             keep ? norm.input_mean + row : nullptr, keep ? norm.input_rstd + row : nullptr);
    // All steps have been.
    if (!keep || !s.padded || scan.last < s.steps) return;
    // Backward takes all rows together: what padding held must not reach its sums.
    move_active<C>(s, norm.input, norm.input, width);
    move_active<double>(s, norm.input_mean, norm.input_mean, 1);
    move_active<double>(s, norm.input_rstd, norm.input_rstd, 1);
  }

  const T* recurrent_weights(const RnnGroup<const T>& group, std::int64_t index) {
    if (stack.random.weights <= 0) return group.w_hh;
    const std::int64_t size = stack.cell.gates() * stack.shape.hidden * stack.shape.out;
    T* dropped = kept().template take<T>(size);
    run_dropout(stack.random.draw(stack.random.weights, true, RnnStream::kWeights, index),
                group.w_hh, dropped, size);
    return dropped;
  }

  // x W_ih' + b of the steps of a part, of which t is the first in time, into their gates.
  void multiply_input(const RnnScan<T>& scan, const RnnGroup<const T>& group, const T* x,
                      std::int64_t input, std::int64_t t, const C* gain, const C* bias,
                      PreparedWeight* w) const {
    const RnnShape& s = stack.shape;
    const std::int64_t width = scan.cell.gates() * s.hidden;
    const bool norms = scan.norm.on;
    C* to = scan.norm.input != nullptr ? scan.norm.input + t * s.batch * width
                                       : scan.gates + (t - scan.gates_t) * s.batch * width;
    auto g = product_of<T>({x + t * s.batch * input, input}, {group.w_ih, input, true},
                           (scan.last - scan.first) * s.batch, input, width);
    if (w != nullptr) use_packed(stack.op, w, Operand::kB, &g);
    multiply(stack.op, g, to, norms ? nullptr : bias);
    if (norms) norm_input(scan, gain, bias, to, t);
  }

  // Whether the steps form the input's share of z.
  bool within(const RnnScan<T>& scan, std::int64_t input, bool packed) const {
    const RnnShape& s = stack.shape;
    if (!kFormsInput || scan.norm.on || scan.reset_before()) return false;
    if (input == 1) return !keeps();
    // One step with no panels to come is two products of gemm's.
    if (s.steps == 1) return input > 1 && packed;
    return input > 1 && s.batch >= kInputRows;
  }

  void run_direction(RnnScan<T>* scan, std::int64_t layer, std::int64_t direction, const T* x) {
    const RnnShape& s = stack.shape;
    const auto& group = stack.groups[static_cast<std::size_t>(layer * s.directions + direction)];
    const std::int64_t width = scan->cell.gates() * s.hidden, input = s.input_of(layer);
    RnnMemory scratch(stack.op);
    const bool keep = scan->gates_kept();
    const C* bias = input_bias(scan->cell, group, s.hidden, &scratch);
    const C* gain = as_compute(group.norm_ih, width, &scratch);
    const RnnForms& forms = stack.forms[static_cast<std::size_t>(layer * s.directions + direction)];
    // Elements of w_hh that are dropped make others of it.
    const bool packed = forms.w_hh != nullptr && stack.random.weights <= 0;
    const bool inside = within(*scan, input, packed);
    if (inside) {
      scan->x = x;
      scan->w_x = group.w_ih;
      scan->b_x = bias;
      scan->input = input;
    }
    const std::int64_t part = inside ? s.steps : steps_at_once(s, input, width, sizeof(C));
    if (keep || !inside) {
      scan->gates =
          (keep ? kept() : scratch).template take<C>((keep ? s.steps : part) * s.batch * width);
    }
    void* prepared = prepare_scan(stack.op, scan, packed ? &forms : nullptr, &scratch);
    draw_zones(stack, layer * s.directions + direction, &scratch, scan);
    PreparedWeight of_call;  // several parts of the steps: W_ih is packed for all of them
    PreparedWeight* const w_ih = forms.w_ih == nullptr && part < s.steps ? &of_call : forms.w_ih;
    for (std::int64_t i = 0; i < s.steps; i += part) {
      scan->first = i;
      scan->last = min_i(s.steps, i + part);
      const std::int64_t t = scan->reverse ? s.steps - scan->last : i;
      scan->gates_t = keep ? 0 : t;
      if (!inside) multiply_input(*scan, group, x, input, t, gain, bias, w_ih);
      run_scan(stack.op, *scan, i > 0, prepared);
    }
    scan->x = nullptr;
    scan->product = nullptr;
    scan->dropped = nullptr;
    scan->fresh = scan->fresh_cell = nullptr;
    if (!keep) scan->gates = nullptr;
  }

  void final_states(const RnnScan<T>& scan, std::int64_t index) {
    const RnnShape& s = stack.shape;
    const auto take = [&]<class From>(T* to, std::int64_t n, const RnnRows<const From>& from,
                                      const From* none) {
      take_ends(RnnEnds<T, From>{.steps = s.steps,
                                 .batch = s.batch,
                                 .n = n,
                                 .lengths = s.active.lengths,
                                 .first = scan.reverse,
                                 .to = {to + index * s.batch * n, 0, n},
                                 .from = from,
                                 .none = {none, 0, n}});
    };
    take(out.h_n, s.out, RnnRows<const T>{scan.y, scan.y_step, scan.y_row}, scan.h0);
    if (scan.cell.kind != RnnKind::kLstm) return;
    // Where one c is all there is, it is that of the last step of each sample.
    take(out.c_n, s.hidden, RnnRows<const C>{scan.cells, scan.cells_step, s.hidden},
         scan.cells_step != 0 ? scan.c0 : scan.cells);
  }

  // Every c of a direction of the last layer, beside those of the other.
  void copy_cells(const RnnScan<T>& scan, std::int64_t direction) {
    const RnnShape& s = stack.shape;
    const std::int64_t width = s.directions * s.hidden;
    const std::int64_t step = s.batch_first ? width : s.batch * width;
    const std::int64_t row = s.batch_first ? s.steps * width : width;
    move_rows(RnnMove<T, C>{.steps = s.steps,
                            .batch = s.batch,
                            .n = s.hidden,
                            .to = {out.cells + direction * s.hidden, step, row},
                            .from = {scan.cells, scan.cells_step, s.hidden}});
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
      if (s.padded) fill(y, s.rows() * s.width(), 0);
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
        run_direction(&scan, layer, d, input);
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

void* RnnMemory::block(std::size_t bytes) {
  blocks_.push_back(std::make_unique<RnnBlock>(op_, bytes));
  bytes_ += static_cast<std::int64_t>(bytes);
  return blocks_.back()->data();
}

Dropout RnnRandom::draw(double p, bool scaled, RnnStream stream, std::int64_t place) const {
  const std::uint64_t at = seed + (static_cast<std::uint64_t>(stream) << 32);
  const double scale = !scaled ? 1.0 : p < 1 ? 1 / (1 - p) : 0.0;
  return {static_cast<std::uint64_t>(p * 4294967296.0), scale,
          philox_key(at + static_cast<std::uint64_t>(place))};
}

template <class T>
void draw_zones(const RnnStack<T>& stack, std::int64_t group, RnnMemory* memory, RnnScan<T>* scan) {
  if (!stack.random.zones) return;
  using C = Compute<T>;
  const auto draw = [&](double p, RnnStream stream, std::int64_t size) -> const C* {
    if (p <= 0) return nullptr;
    C* fresh = memory->take<C>(stack.shape.rows() * size);
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
  template void draw_zones(const RnnStack<T>&, std::int64_t, RnnMemory*, RnnScan<T>*); \
  template void run_rnn(const RnnStack<T>&, const RnnOutputs<T>&, RnnSaved<T>*);
ARRAYNN_RNN_FOR_EACH(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
