#include <utility>
#include <vector>

#include "norm/norm.hpp"
#include "rnn/stack.hpp"

namespace arraynn {
namespace {

// A[k, m]' B[k, n] into C[m, n].
template <class T>
void product_over_rows(const char* op, RnnOperand<T> a, std::int64_t m, RnnOperand<T> b,
                       std::int64_t n, std::int64_t rows, Compute<T>* c, bool accumulate) {
  const std::int64_t k = max_i(0, rows);
  if constexpr (kTurnsProducts) {
    if (k == 1) return outer_product(a.data, m, b.data, n, c, accumulate);
  }
  // The left operand is copied transposed, so it is the narrow one, where that outweighs turning
  // the product. Neither order of the factors can be seen in the bits.
  const bool turned = kTurnsProducts && !accumulate && (m - n) * k > 8 * m * n;
  if (turned) {
    std::swap(a, b);
    std::swap(m, n);
  }
  RnnMemory memory(op);
  Compute<T>* const to = turned ? memory.take<Compute<T>>(m * n) : c;
  auto g = product_of<T>({a.data, a.row, true}, b, m, k, n);
  g.accumulate = accumulate;
  g.over_samples = !accumulate;
  multiply(op, g, to);
  if (!turned) return;
  constexpr std::int64_t kSquare = 16;
  for (std::int64_t j0 = 0; j0 < n; j0 += kSquare) {
    const std::int64_t end = min_i(n, j0 + kSquare);
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = j0; j < end; ++j) c[j * m + i] = to[i * n + j];
    }
  }
}

// Results in C, rounded to T when all of them are there: T's own memory where that is C.
template <class T>
class Rounded {
 public:
  using C = Compute<T>;
  explicit Rounded(const char* op) : memory_(op) {}
  // `holds`: begins with what the result holds.
  C* of(T* result, std::int64_t count, bool holds = false) {
    if constexpr (std::is_same_v<T, C>) {
      return result;
    } else {
      if (result == nullptr) return nullptr;
      C* wide = memory_.take<C>(count);
      if (holds) copy(result, wide, count);
      parts_.push_back({wide, result, count});
      return wide;
    }
  }
  void store() const {
    for (const Part& part : parts_) copy(part.from, part.to, part.count);
  }

 private:
  struct Part {
    const C* from;
    T* to;
    std::int64_t count;
  };
  RnnMemory memory_;
  std::vector<Part> parts_;
};

template <class T>
struct LayersBackward {
  using C = Compute<T>;
  const RnnStack<T>& stack;
  const RnnSaved<T>& saved;
  const RnnGradients<T>& grads;

  Dropout between(std::int64_t layer) const {
    return stack.random.draw(stack.random.dropout, true, RnnStream::kLayers, layer - 1);
  }

  // x of a layer as forward multiplied it, without what the padding may hold.
  const T* input(std::int64_t layer, RnnMemory* memory) const {
    const RnnShape& s = stack.shape;
    const T* x = saved.inputs[static_cast<std::size_t>(layer)];
    const std::int64_t width = s.input_of(layer), size = s.rows() * width;
    if (layer > 0 && stack.random.dropout > 0) {
      T* to = memory->take<T>(size);
      run_dropout(between(layer), x, to, size);
      return to;
    }
    if (layer > 0 || !s.padded) return x;
    T* to = memory->take<T>(size);
    move_active(s, x, to, width);
    return to;
  }

  // y and h0 as W_hh met them.
  RnnScan<T> dropped_states(RnnScan<T> scan, RnnMemory* memory) const {
    const RnnShape& s = stack.shape;
    T* y = memory->take<T>(s.rows() * s.out);
    T* h0 = memory->take<T>(s.batch * s.out);
    RnnMove<T> move{.batch = s.batch,
                    .n = s.out,
                    .to = {h0, 0, s.out},
                    .from = {scan.h0, 0, s.out},
                    .factors = scan.factors};
    move_rows(move);
    move.steps = s.steps;
    move.to = {y, s.batch * s.out, s.out};
    move.from = {scan.y, scan.y_step, scan.y_row};
    move_rows(move);
    scan.y = y;
    scan.y_row = s.out;
    scan.y_step = s.batch * s.out;
    scan.h0 = h0;
    return scan;
  }

  // Products with the h that each step began from: y of the step before, h0 at a sample's first.
  void hidden_weights(const RnnScan<T>& scan, const T* dz, std::int64_t columns, C* dw,
                      bool first_is_zero) const {
    const RnnShape& s = stack.shape;
    const std::int64_t width = scan.cell.gates() * s.hidden, shift = s.batch;
    const T* late = scan.reverse ? dz : dz + shift * width;
    const T* early = scan.reverse && s.steps > 1 ? scan.y + shift * scan.y_row : scan.y;
    const RnnOperand<T> h{early, scan.y_row};
    const bool begins = !first_is_zero && s.steps > 0, goes_on = s.steps > 1;
    if (goes_on || !begins) {
      product_over_rows(stack.op, RnnOperand<T>{late, width}, columns, h, s.out,
                        (s.steps - 1) * s.batch, dw, false);
    }
    if (!begins) return;
    const T* start = scan.reverse ? dz + (s.steps - 1) * s.batch * width : dz;
    RnnMemory memory(stack.op);
    if (scan.reverse && s.padded) {
      T* rows = memory.take<T>(s.batch * width);
      take_ends(RnnEnds<T>{.steps = s.steps,
                           .batch = s.batch,
                           .n = width,
                           .lengths = s.active.lengths,
                           .to = {rows, 0, width},
                           .from = {dz, s.batch * width, width}});
      start = rows;
    }
    product_over_rows(stack.op, RnnOperand<T>{start, width}, columns, RnnOperand<T>{scan.h0, s.out},
                      s.out, s.batch, dw, goes_on);
  }

  // Gradients of the gains, and dz, of the norm's results, becomes that of x W_ih'.
  void through_norms(const RnnScanBackward<T>& back, const RnnGroup<C>& to,
                     const T* gain_ih) const {
    const RnnShape& s = stack.shape;
    const RnnNorm<C>& norm = back.scan.norm;
    const std::int64_t h = s.hidden, width = back.scan.cell.gates() * h, rows = s.rows();
    const RowNorm p{rows, width, stack.norm_eps, true, {}};
    const auto backward = [&](const RowNorm& of, const C* dy, const C* x, const C* w,
                              const double* mean, const double* rstd, C* dx, C* dw, C* db) {
      if (of.rows > 0 && of.n > 0) {
        row_norm_backward(stack.op, of, dy, x, w, mean, rstd, dx, dw, db);
        return;
      }
      if (dw != nullptr) fill(dw, of.n, 0);
      if (db != nullptr) fill(db, of.n, 0);
    };
    RnnMemory memory(stack.op);
    C* const dz = as_compute(back.dz, rows * width, &memory);
    const C* const gain = as_compute(gain_ih, width, &memory);
    C* const none = nullptr;
    backward(p, dz, norm.product, norm.gain, norm.mean, norm.rstd, none, to.norm_hh, none);
    if (back.dn != nullptr) {  // n's other side
      move_rows(RnnMove<C, T>{
          .batch = rows, .n = h, .to = {dz + 2 * h, 0, width}, .from = {back.dn, 0, h}});
    }
    backward(p, dz, norm.input, gain, norm.input_mean, norm.input_rstd, dz, to.norm_ih, none);
    if constexpr (!std::is_same_v<T, C>) copy(dz, back.dz, rows * width);
    if (norm.cell_gain == nullptr) return;
    const RowNorm cell{rows, h, stack.norm_eps, true, {}};
    backward(cell, back.dnormed, norm.cell, norm.cell_gain, norm.cell_mean, norm.cell_rstd, none,
             to.norm_cell, to.norm_cell_bias);
  }

  void biases(const RnnScanBackward<T>& back, const RnnGroup<C>& to) const {
    if (to.b_ih == nullptr) return;
    const std::int64_t rows = stack.shape.rows(), h = stack.shape.hidden;
    const std::int64_t width = back.scan.cell.gates() * h;
    column_sums(back.dz, rows, width, to.b_ih);
    if (to.b_hh != nullptr) copy(to.b_ih, to.b_hh, width);
    if (back.dn != nullptr) column_sums(back.dn, rows, h, to.b_ih + 2 * h);
  }

  void parameters(const RnnScanBackward<T>& back, std::int64_t group, const T* x,
                  std::int64_t input, const RnnGroup<C>& to) const {
    const RnnShape& s = stack.shape;
    RnnMemory memory(stack.op);
    const RnnScan<T> scan =
        back.scan.factors == nullptr ? back.scan : dropped_states(back.scan, &memory);
    const std::int64_t rows = s.rows(), h = s.hidden, width = scan.cell.gates() * h;
    // A GRU's n apart, where its two sides differ.
    const bool normed = back.dproduct != nullptr, apart = back.dn != nullptr && !normed;
    const std::int64_t same = apart ? 2 * h : width;
    const RnnOperand<T> dz{back.dz, width}, xs{x, input};
    product_over_rows(stack.op, dz, same, xs, input, rows, to.w_ih, false);
    if (apart) {
      product_over_rows(stack.op, RnnOperand<T>{back.dn, h}, h, xs, input, rows,
                        to.w_ih + same * input, false);
    }
    const bool zero = stack.h0 == nullptr;
    if (scan.reset_before()) {
      hidden_weights(scan, back.dz, 2 * h, to.w_hh, zero);
      product_over_rows(stack.op, RnnOperand<T>{back.dz + 2 * h, width}, h,
                        RnnOperand<T>{scan.wide, h}, h, rows, to.w_hh + 2 * h * h, false);
    } else {
      hidden_weights(scan, normed ? back.dproduct : back.dz, width, to.w_hh, zero);
    }
    if (stack.random.weights > 0) {
      run_dropout(stack.random.draw(stack.random.weights, true, RnnStream::kWeights, group),
                  to.w_hh, to.w_hh, width * s.out);
    }
    if (to.w_hr != nullptr) {
      product_over_rows(stack.op, RnnOperand<T>{back.dout, s.out}, s.out,
                        RnnOperand<T>{scan.wide, h}, h, rows, to.w_hr, false);
    }
  }

  // Gradients of the states and of the parameters of all groups, in C.
  struct Gradients {
    C *dh, *dc;
    std::vector<RnnGroup<C>> groups;
  };
  Gradients gradients(Rounded<T>* rounded) const {
    const RnnShape& s = stack.shape;
    const std::int64_t h = s.hidden, width = stack.cell.gates() * h;
    const auto count = static_cast<std::int64_t>(grads.groups.size());
    Gradients to;
    to.dh = rounded->of(grads.dh, count * s.batch * s.out, true);
    to.dc = rounded->of(grads.dc, count * s.batch * h, true);
    for (std::int64_t i = 0; i < count; ++i) {
      const RnnGroup<T>& g = grads.groups[static_cast<std::size_t>(i)];
      to.groups.push_back({rounded->of(g.w_ih, width * s.input_of(i / s.directions)),
                           rounded->of(g.w_hh, width * s.out), rounded->of(g.b_ih, width),
                           rounded->of(g.b_hh, width), rounded->of(g.w_hr, s.out * h),
                           rounded->of(g.peephole, 3 * h), rounded->of(g.norm_ih, width),
                           rounded->of(g.norm_hh, width), rounded->of(g.norm_cell, h),
                           rounded->of(g.norm_cell_bias, h)});
    }
    return to;
  }

  void run_direction(const Gradients& all, std::int64_t layer, std::int64_t d, const T* x,
                     const C* dy, const C* dcells, C* dx) const {
    const RnnShape& s = stack.shape;
    const std::int64_t index = layer * s.directions + d, input = s.input_of(layer);
    const auto group = static_cast<std::size_t>(index);
    const RnnGroup<C>& to = all.groups[group];
    RnnMemory memory(stack.op);
    const auto take = [&](std::int64_t count) {
      return s.padded ? memory.zeros<T>(count) : memory.take<T>(count);
    };
    const auto take_wide = [&](std::int64_t count) {
      return s.padded ? memory.zeros<C>(count) : memory.take<C>(count);
    };
    RnnScanBackward<T> back;
    back.scan = saved.scans[group];
    draw_zones(stack, index, &memory, &back.scan);
    const std::int64_t rows = s.rows(), width = back.scan.cell.gates() * s.hidden;
    back.dy = dy != nullptr ? dy + d * s.out : nullptr;
    back.dy_row = s.width();
    back.dcells = dcells != nullptr ? dcells + d * s.hidden : nullptr;
    back.dcells_row = s.directions * s.hidden;
    back.dh = all.dh + index * s.batch * s.out;
    if (all.dc != nullptr) back.dc = all.dc + index * s.batch * s.hidden;
    back.dz = take(rows * width);
    if (back.scan.cell.kind == RnnKind::kGru && back.scan.cell.reset_after) {
      back.dn = take(rows * s.hidden);
    }
    if (back.scan.w_hr != nullptr) back.dout = take(rows * s.out);
    const bool normed = back.scan.norm.on;
    if (normed) back.dproduct = take(rows * width);
    if (back.scan.norm.cell != nullptr) {
      back.dnormed = take_wide(rows * s.hidden);
      back.dcell = memory.template take<C>(s.batch * s.hidden);
    }
    back.dpeephole = to.peephole;
    if (to.peephole != nullptr) fill(to.peephole, 3 * s.hidden, 0);
    run_scan_backward(stack.op, back, &memory);
    const T* w = stack.groups[group].w_ih;
    biases(back, to);
    if (normed) through_norms(back, to, stack.groups[group].norm_ih);
    const bool apart = back.dn != nullptr && !normed;
    const std::int64_t same = apart ? 2 * s.hidden : width;
    const auto add_dx = [&](const RnnOperand<T>& gradients, const T* rows_of_w,
                            std::int64_t columns, bool accumulate) {
      auto g = product_of<T>(gradients, {rows_of_w, input}, rows, columns, input);
      g.accumulate = accumulate;
      multiply(stack.op, g, dx);
    };
    add_dx({back.dz, width}, w, same, d > 0);
    if (apart) add_dx({back.dn, s.hidden}, w + same * input, s.hidden, true);
    parameters(back, index, x, input, to);
  }

  void run() const {
    const RnnShape& s = stack.shape;
    RnnMemory memory(stack.op);
    const auto time_major = [&](const T* from, std::int64_t width) -> const C* {
      if (from == nullptr || !s.transposed()) return as_compute(from, s.rows() * width, &memory);
      C* copy = memory.take<C>(s.rows() * width);
      swap_axes(from, copy, s.batch, s.steps, width);
      return copy;
    };
    const C* dy = time_major(grads.dy, s.width());
    const C* dcells = time_major(grads.dcells, s.directions * s.hidden);
    Rounded<T> rounded(stack.op);
    const Gradients all = gradients(&rounded);
    for (std::int64_t layer = s.layers - 1; layer >= 0; --layer) {
      RnnMemory temporary(stack.op);
      const T* x = input(layer, &temporary);
      const std::int64_t size = s.rows() * s.input_of(layer);
      const bool direct = layer == 0 && !s.transposed();
      C* dx = direct ? rounded.of(grads.dx, size) : memory.take<C>(size);
      for (std::int64_t d = 0; d < s.directions; ++d) {
        run_direction(all, layer, d, x, dy, dcells, dx);
      }
      if (layer > 0 && stack.random.dropout > 0) run_dropout(between(layer), dx, dx, size);
      if (layer == 0 && !direct) swap_axes(dx, grads.dx, s.steps, s.batch, s.input);
      dy = dx;
      dcells = nullptr;
    }
    rounded.store();
  }
};

}  // namespace

template <class T>
void run_rnn_backward(const RnnStack<T>& stack, const RnnSaved<T>& saved,
                      const RnnGradients<T>& grads) {
  LayersBackward<T>{stack, saved, grads}.run();
}

#define ARRAYNN_INSTANTIATE(T) \
  template void run_rnn_backward(const RnnStack<T>&, const RnnSaved<T>&, const RnnGradients<T>&);
ARRAYNN_RNN_FOR_EACH(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
