// Recurrent family: one layer in one direction, over all steps of a batch.
//
//   rnn   h' = f(z),  z = x W_ih' + b + h W_hh'
//   lstm  i f o = s(z_i + p_i c), s(z_f + p_f c), s(z_o + p_o c');  g = a(z_g)
//         c' = f c + i g,  h' = W_hr (o a_out(c'))           coupled: i = 1 - f
//         with layer norms a_out(LN(c')), and LN(x W_ih'), LN(h W_hh') in all three kinds
//   gru   r z = s(z_r), s(z_z);  n = a(x W_in' + b_in + r (h W_hn' + b_hn)),
//         or a(x W_in' + b_in + (r h) W_hn' + b_hn) with the reset before the product
//         h' = n + z (h - n)
//
// Plan. The input's share of z, biases included, is one matrix product over all steps (gemm) and
// lies in `gates`, or is formed in the step where x has one element; what remains of a step is
// h W_hh' and the arithmetic of the gates:
//   input    where a step has rows enough, or is all, it forms the input's share in the tile as well:
//            W_ih lies in panels like W_hh's, and no gates go through memory. A single row would wait
//            for W_ih at every step, and with layer norms, or a reset before the product, gates are
//            needed whole
//   panels   W_hh is packed once into panels of a few vectors: all gates of kLanes hidden units side
//            by side, k after k. A tile of (rows of the batch) x (vectors of a panel) is summed in
//            registers, and its gates, state and output follow at once, in L1
//   team     one region over all steps. Where W_hh fits every L2 and there are samples enough, the
//            threads split the samples, and none waits for another. Else they split the panels for
//            the whole sequence, so each keeps its share of W_hh in its own L2, and there is one
//            barrier a step. A second product in the step (the reset before the product, the
//            projection) takes a second barrier
//   one step: a call of one step has no use for panels: its product is a gemm as well, unless the
//            weights come packed
//   rows     those samples that take part in the step; the others cost nothing. Where a mask is
//            false the state is copied on
//   options  all that writes h is put_h(): zoneout blends it there with the one before, and with
//            recurrent dropout its product with the factors is written beside it, for the next step
//   norms    a layer norm needs the whole row of W_hh h: the tiles write it, the team splits the rows,
//            and the tiles of gates read it; that of c is once more over rows. Barriers in between
// Backward goes through the steps in reverse. The gradient of h is the sum of z's gradients of the
// step after times W_hh, packed likewise; z's gradients of the step follow from it at once. Those of
// the weights and of x are matrix products over all steps at the end.
// Bits. Every sum is over ascending k from 0 in gemm's blocks, whatever the tile, the panel, the
// team, the batch or the number of steps in the call; the state carried from call to call is all
// there is.
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"
#include "core/dtype.hpp"
#include "core/host_device.hpp"
#include "core/index.hpp"
#include "elementwise/activation.hpp"
#include "norm/norm.hpp"

namespace arraynn {

// Units of different levels include this: no copy of a member function may be shared.
#define ARRAYNN_RNN_MEMBER ARRAYNN_HOST_DEVICE [[gnu::always_inline]] inline

enum class RnnKind : std::uint8_t { kRnn, kLstm, kGru };

struct RnnCell {
  RnnKind kind = RnnKind::kRnn;
  bool input_forget = false;  // LSTM: i = 1 - f
  bool reset_after = true;    // GRU
  bool clips = false, clips_cell = false;
  double clip = 0, cell_clip = 0;
  double zone = 0, zone_cell = 0;  // probabilities that h and c keep their former value
  Activation main, gate, output;   // a or f; s; a_out

  ARRAYNN_RNN_MEMBER std::int64_t gates() const {
    return kind == RnnKind::kLstm ? 4 : kind == RnnKind::kGru ? 3 : 1;
  }
};

// The derivative follows from the activation's value; for the others the argument is kept.
ARRAYNN_INLINE constexpr bool derivative_from_value(ActivationKind kind) {
  switch (kind) {
    case ActivationKind::kHardswish:
    case ActivationKind::kSilu:
    case ActivationKind::kGelu:
    case ActivationKind::kGeluTanh:
    case ActivationKind::kMish:
      return false;  // not monotonic
    default:
      return true;
  }
}

// The layer norms within the steps. Arrays are [.., batch, size] as forward leaves them, with all
// steps if backward follows (`step` is 1), else with one (0).
template <class T>
struct RnnNorm {
  bool on = false;
  const NormRowTable<T>* rows = nullptr;  // the CPU's kernels
  double eps = 0;
  std::int64_t step = 0;
  const T* gain = nullptr;                              // [gates * hidden], of W_hh h
  const T *cell_gain = nullptr, *cell_bias = nullptr;   // [hidden], of an LSTM's c
  T *product = nullptr, *cell = nullptr;                // what is normalised
  double *mean = nullptr, *rstd = nullptr;              // [.., batch], of `product`
  double *cell_mean = nullptr, *cell_rstd = nullptr;    // of `cell`
  T *normed = nullptr, *normed_cell = nullptr;          // [batch, size]: the step's results
  T* input = nullptr;                                   // x W_ih'
  double *input_mean = nullptr, *input_rstd = nullptr;  // [steps, batch]
};

// Arrays are [steps, batch, ...] with dense rows unless a stride says otherwise; t is the time, not
// the order of the steps: the reverse direction begins at the last. What products read is T, all else C:
// where T has 16 bits h is rounded as it is stored, and so are the gradients of gates; c is not.
template <class T>
struct RnnScan {
  using C = Compute<T>;
  RnnCell cell;
  std::int64_t steps = 0, batch = 0, hidden = 0;
  std::int64_t out = 0;              // elements of h: those of the projection, else hidden
  std::int64_t first = 0, last = 0;  // steps [first, last) in the order of the direction
  bool reverse = false;
  bool apart = false;                     // the team splits the samples, else the units
  const std::int64_t* lengths = nullptr;  // [batch] or null
  const std::uint8_t* mask = nullptr;     // [steps, batch] or null: at 0 the state passes through
  const C* factors = nullptr;             // [batch, out] or null: of h where W_hh meets it
  T* dropped = nullptr;                   // [2, batch, out]: h times these, for every other step;
                                          // on a GPU always, as the product reads even rows
  const C* fresh = nullptr;               // [steps, batch, out]: 1 a new h, 0 the former;
  const C* fresh_cell = nullptr;          // [.., hidden] likewise; null: the mean of both
  const T* w_hh = nullptr;                // [gates * hidden, out]
  const T* w_hr = nullptr;                // [out, hidden] or null
  const C* b_hn = nullptr;                // [hidden] or null: GRU with reset_after
  const C* peephole = nullptr;            // [3, hidden]: i f o, or null
  const T* h0 = nullptr;                  // [batch, out]
  const C* c0 = nullptr;                  // [batch, hidden]
  bool from_zero = false;                 // h0 is zeros: the first step needs no product with it
  const C* product = nullptr;             // h0 W_hh' where one step is all, [batch, gates * hidden]
  C* gates = nullptr;  // [.., batch, gates * hidden]: the input's share of z; their values after
  std::int64_t gates_t = 0;  // the time of its first row
  // A step forms the input's share itself: x [steps, batch, input] times w_x' [.., input], plus b_x (or
  // null); gates are written alone, where backward follows. Null otherwise, and on a GPU.
  const T *x = nullptr, *w_x = nullptr;
  const C* b_x = nullptr;
  std::int64_t input = 0;
  bool keep_gates = false;  // backward follows
  T* y = nullptr;
  std::int64_t y_step = 0, y_row = 0;
  C* cells = nullptr;  // every c, or one step's that holds c0 at first
  std::int64_t cells_step = 0;
  C* z = nullptr;      // arguments of the activations as they were before clipping, or null
  C* inner = nullptr;  // GRU with reset_after: h W_hn' + b_hn, or null
  std::int64_t inner_step = 0;
  T* wide = nullptr;  // rows of the step's second product: what is projected, or a GRU's r h
  std::int64_t wide_step = 0;
  RnnNorm<C> norm;
  // Panels of w_hh, of the step's second matrix and of w_x, made beforehand; null: packed in the call.
  const T* panels[3] = {nullptr, nullptr, nullptr};

  // An RNN's h is f(z) unless it is blended or rounded: backward then needs the latter.
  ARRAYNN_RNN_MEMBER bool gates_kept() const {
    return keep_gates && (cell.kind != RnnKind::kRnn || cell.zone > 0 || sizeof(T) < sizeof(C));
  }
  ARRAYNN_RNN_MEMBER bool first_of(std::int64_t t, std::int64_t b) const {
    return t == (reverse ? (lengths == nullptr ? steps : lengths[b]) - 1 : 0);
  }
  ARRAYNN_RNN_MEMBER std::int64_t time(std::int64_t s) const { return reverse ? steps - 1 - s : s; }
  ARRAYNN_RNN_MEMBER std::int64_t before(std::int64_t t) const { return reverse ? t + 1 : t - 1; }
  ARRAYNN_RNN_MEMBER bool within(std::int64_t t, std::int64_t b) const {
    return lengths == nullptr || t < lengths[b];
  }
  ARRAYNN_RNN_MEMBER bool active(std::int64_t t, std::int64_t b) const {
    return within(t, b) && (mask == nullptr || mask[t * batch + b] != 0);
  }
  ARRAYNN_RNN_MEMBER const T* h_before(std::int64_t t, std::int64_t b) const {
    return first_of(t, b) ? h0 + b * out : y + before(t) * y_step + b * y_row;
  }
  // That of the step before and of this one, for the products.
  ARRAYNN_RNN_MEMBER T* dropped_at(std::int64_t t, std::int64_t after, std::int64_t b) const {
    return dropped + (((t + after) & 1) * batch + b) * out;
  }
  ARRAYNN_RNN_MEMBER const C* c_before(std::int64_t t, std::int64_t b) const {
    if (cells_step != 0 && first_of(t, b)) return c0 + b * hidden;
    return cells + before(t) * cells_step + b * hidden;
  }
  ARRAYNN_RNN_MEMBER C* inner_at(std::int64_t t, std::int64_t b) const {
    return inner + t * inner_step + b * hidden;
  }
  ARRAYNN_RNN_MEMBER T* wide_at(std::int64_t t, std::int64_t b) const {
    return wide + t * wide_step + b * hidden;
  }
  ARRAYNN_RNN_MEMBER C* norm_product(std::int64_t t) const {
    return norm.product + t * norm.step * batch * cell.gates() * hidden;
  }
  ARRAYNN_RNN_MEMBER C* norm_cells(std::int64_t t) const {
    return norm.cell + t * norm.step * batch * hidden;
  }
  // An x of one element is multiplied as the gates are read.
  ARRAYNN_RNN_MEMBER bool multiplies_input() const { return x != nullptr && input > 1; }
  // Of the product with h: the first step of a direction is the first of all its samples.
  ARRAYNN_RNN_MEMBER std::int64_t depth(std::int64_t t) const {
    return from_zero && t == time(0) ? 0 : out;
  }
  ARRAYNN_RNN_MEMBER bool reset_before() const {
    return cell.kind == RnnKind::kGru && !cell.reset_after;
  }
};

// `scan` as forward left it, all of its steps kept.
template <class T>
struct RnnScanBackward {
  using C = Compute<T>;
  RnnScan<T> scan;
  const C* dy = nullptr;  // rows of dy_row, steps of batch rows
  std::int64_t dy_row = 0;
  const C* dcells = nullptr;  // of every c, rows of dcells_row; null: zeros
  std::int64_t dcells_row = 0;
  C *dh = nullptr, *dc = nullptr;  // gradients of the last state, of the first on return
  bool leaves_product = false;     // of dz and W_hh, to be added to dh: where one step is all
  T* dz = nullptr;                 // [steps, batch, gates * hidden]; 0 where no sample is active
  T* dn =
      nullptr;  // [steps, batch, hidden]: GRU with reset_after, the input's share where it differs
  T* dout = nullptr;       // [steps, batch, out]: gradients of h where that is projected
  C* dpeephole = nullptr;  // [3, hidden], added to
  // With layer norms: gradients of W_hh h, of LN(c) and, of one step, of c by it.
  T* dproduct = nullptr;
  C *dnormed = nullptr, *dcell = nullptr;
};

#undef ARRAYNN_RNN_MEMBER

enum class RnnMatrix : std::uint8_t { kFirst, kSecond, kInput };  // of a step

template <class T>
struct RnnForwardTable {
  // Elements of the panels of a matrix of the step, written to dst unless that is null; what tells
  // them from others of the same weight.
  std::int64_t (*pack)(const RnnScan<T>&, RnnMatrix, int threads, T* dst);
  int (*panel_groups)(const RnnScan<T>&, RnnMatrix);
  std::int64_t (*scratch)(const RnnScan<T>&, int threads);
  // With `packed` the scratch holds the panels of a former call with the same weights.
  void (*run)(const RnnScan<T>&, int threads, bool packed, void* scratch);
};
template <class T>
struct RnnBackwardTable {
  std::int64_t (*scratch)(const RnnScanBackward<T>&, int threads);
  void (*run)(const RnnScanBackward<T>&, int threads, void* scratch);
};

ARRAYNN_KERNEL_TABLE(FloatKernels<RnnForwardTable>, rnn_forward_kernels)
ARRAYNN_KERNEL_TABLE(FloatKernels<RnnBackwardTable>, rnn_backward_kernels)

}  // namespace arraynn
