// Layers and directions over the scans of rnn.hpp: inputs, final states, what backward needs.
//
// Inside everything is time-major, [steps, batch, ...]; a batch-first x is copied once, and results
// are copied back. Without backward the gates of a part of the steps exist at a time.
// Arrays of 16 bits, on a GPU: x, h and gradients of gates are operands of products and stay T; biases, norms,
// peepholes, c and what is carried back are C, copied from T and to it at the ends of a call.
#pragma once
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "core/prepared.hpp"
#include "elementwise/elementwise.hpp"
#include "gemm/sums.hpp"
#include "rnn/moves.hpp"
#include "rnn/rnn.hpp"
#if defined(ARRAYNN_CUDA)
#include "core/cuda_scratch.hpp"
#include "gemm/batch.hpp"
#else
#include "core/arena.hpp"
#endif

namespace arraynn {

// The parameters of one layer in one direction; null where there is none. For gradients likewise.
template <class T>
struct RnnGroup {
  T *w_ih = nullptr, *w_hh = nullptr, *b_ih = nullptr, *b_hh = nullptr, *w_hr = nullptr;
  T* peephole = nullptr;
  // Layer norms: gains of x W_ih' and h W_hh', gain and bias of an LSTM's c.
  T *norm_ih = nullptr, *norm_hh = nullptr, *norm_cell = nullptr, *norm_cell_bias = nullptr;
};

// What packed weights of a group keep; null where they are not packed.
struct RnnForms {
  PreparedWeight *w_ih = nullptr, *w_hh = nullptr, *w_hr = nullptr;
};

struct RnnShape {
  std::int64_t steps = 0, batch = 0, input = 0, hidden = 0, out = 0;
  std::int64_t layers = 1, directions = 1;
  bool reverse = false;      // the one direction
  bool batch_first = false;  // of x, y, cells
  RnnActive active;          // on the device of x
  bool padded = false;       // a sample misses a step; on a GPU it may

  std::int64_t rows() const { return steps * batch; }
  std::int64_t width() const { return directions * out; }  // of y
  std::int64_t input_of(std::int64_t layer) const { return layer == 0 ? input : width(); }
  bool backwards(std::int64_t direction) const { return reverse || direction == 1; }
  // The two orders of x and y differ in memory.
  bool transposed() const { return batch_first && steps > 1 && batch > 1; }
};

#if defined(ARRAYNN_CUDA)
using RnnBlock = cuda::Scratch;
#define ARRAYNN_RNN_FOR_EACH(instantiate) ARRAYNN_FOR_EACH_STORAGE(instantiate)
#else
using RnnBlock = Scratch;
#define ARRAYNN_RNN_FOR_EACH(instantiate) instantiate(float) instantiate(double)
#endif

// An operand of a product, rows that far apart; a turned one is given as its transpose.
template <class T>
struct RnnOperand {
  const T* data;
  std::int64_t row;
  bool turned = false;
};

// C[m, n] = A[m, k] B[k, n], rows of C without gaps.
template <class T>
GemmProblem<T> product_of(const RnnOperand<T>& a, const RnnOperand<T>& b, std::int64_t m,
                          std::int64_t k, std::int64_t n) {
  GemmProblem<T> g;
  g.m = m;
  g.n = n;
  g.k = k;
  g.a = a.data;
  g.rs_a = a.turned ? 1 : a.row;
  g.cs_a = a.turned ? a.row : 1;
  g.b = b.data;
  g.rs_b = b.turned ? 1 : b.row;
  g.cs_b = b.turned ? b.row : 1;
  g.rs_c = n;
  return g;
}

// The product in C, plus a bias of its columns or null.
template <class T>
void multiply(const char* op, GemmProblem<T> g, Compute<T>* c, const Compute<T>* bias = nullptr) {
  GemmResult<Compute<T>> to{c, {}};
  if (bias != nullptr) {
    to.epilogue.bias = bias;
    to.epilogue.bias_axis = BiasAxis::kColumn;
  }
  if constexpr (std::is_same_v<T, Compute<T>>) {
    g.c = c;
    g.epilogue = to.epilogue;
    gemm(op, g);
  } else {
    gemm_sums(op, g, to);
  }
}

// Rows of [steps, batch, n]; zeros where a sample is not active. `to` may be `from`.
template <class T>
void move_active(const RnnShape& s, const T* from, T* to, std::int64_t n) {
  move_rows(RnnMove<T>{.steps = s.steps,
                       .batch = s.batch,
                       .n = n,
                       .to = {to, s.batch * n, n},
                       .from = {from, s.batch * n, n},
                       .active = s.active});
}

// Memory of one call.
class RnnMemory {
 public:
  explicit RnnMemory(const char* op) : op_(op) {}
  template <class T>
  T* take(std::int64_t count) {
    return static_cast<T*>(block(static_cast<std::size_t>(count) * sizeof(T)));
  }
  template <class T>
  T* zeros(std::int64_t count) {
    T* p = take<T>(count);
    fill(p, count, 0);
    return p;
  }
  std::int64_t bytes() const { return bytes_; }

 private:
  void* block(std::size_t bytes);

  const char* op_;
  std::vector<std::unique_ptr<RnnBlock>> blocks_;
  std::int64_t bytes_ = 0;
};

// An array in C: itself where that is T. Null stays.
template <class T>
Compute<T>* as_compute(T* p, std::int64_t count, RnnMemory* memory) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    return p;
  } else {
    if (p == nullptr) return nullptr;
    auto* wide = memory->take<Compute<T>>(count);
    copy(p, wide, count);
    return wide;
  }
}
template <class T>
const Compute<T>* as_compute(const T* p, std::int64_t count, RnnMemory* memory) {
  return as_compute(const_cast<T*>(p), count, memory);
}

// What is drawn in training, each from a stream of its own: place i of stream s takes the seed
// seed + 2^32 s + i.
enum class RnnStream : std::uint8_t { kLayers, kState, kZone, kZoneCell, kWeights };
struct RnnRandom {
  double dropout = 0;  // between the layers
  double state = 0;    // of h where W_hh meets it
  double weights = 0;  // of W_hh
  bool zones = false;  // zoneout; without it, its mean
  std::uint64_t seed = 0;

  Dropout draw(double p, bool scaled, RnnStream stream, std::int64_t place) const;
};

template <class T>
struct RnnStack {
  const char* op = nullptr;
  RnnCell cell;
  RnnShape shape;
  RnnRandom random;
  double norm_eps = 0;
  std::vector<RnnGroup<const T>> groups;  // layer by layer, the forward direction first
  std::vector<RnnForms> forms;            // likewise
  const T* x = nullptr;
  const T *h0 = nullptr, *c0 = nullptr;  // [groups, batch, out or hidden]; null: zeros
};

// What backward needs, beside x, the parameters and y themselves.
template <class T>
struct RnnSaved {
  explicit RnnSaved(const char* op) : memory(op) {}
  RnnMemory memory;
  std::vector<RnnScan<T>> scans;  // one a group, pointing into memory and to the caller's arrays
  std::vector<const T*> inputs;   // of the layers, time-major, before dropout
};

template <class T>
struct RnnOutputs {
  T *y = nullptr, *h_n = nullptr, *c_n = nullptr;
  T* cells = nullptr;  // every c of the last layer, or null
};

// `saved` is null when no backward follows.
template <class T>
void run_rnn(const RnnStack<T>& stack, const RnnOutputs<T>& out, RnnSaved<T>* saved);

template <class T>
struct RnnGradients {
  const T* dy = nullptr;      // null: zeros
  const T* dcells = nullptr;  // of every c of the last layer; null: zeros
  T* dx = nullptr;
  T *dh = nullptr, *dc = nullptr;  // of the last states on entry, of the first on return
  std::vector<RnnGroup<T>> groups;
};

template <class T>
void run_rnn_backward(const RnnStack<T>& stack, const RnnSaved<T>& saved,
                      const RnnGradients<T>& grads);

// What zoneout of a group draws.
template <class T>
void draw_zones(const RnnStack<T>& stack, std::int64_t group, RnnMemory* memory, RnnScan<T>* scan);

// ---- once per device: scan.cpp, cuda.cu -------------------------------------------------------------

// Steps whose gates exist at a time where no backward follows.
std::int64_t steps_at_once(const RnnShape& s, std::int64_t input, std::int64_t gate_width,
                           std::int64_t item);
// Before the first part of a scan; what run_scan() takes of `memory`. `forms` may be null.
template <class T>
void* prepare_scan(const char* op, RnnScan<T>* scan, const RnnForms* forms, RnnMemory* memory);
// Steps [first, last); not the first part of the scan if `more`.
template <class T>
void run_scan(const char* op, const RnnScan<T>& scan, bool more, void* prepared);
template <class T>
void run_scan_backward(const char* op, const RnnScanBackward<T>& back, RnnMemory* memory);
// c = a' b, or added to c: a product over one row, on the CPU.
template <class T>
void outer_product(const T* a, std::int64_t m, const T* b, std::int64_t n, T* c, bool accumulate);
// Whether a product over one row is that, and one whose left operand is the wide one is better turned: it is
// copied transposed, which the kernels of a GPU do without.
#if defined(ARRAYNN_CUDA)
inline constexpr bool kTurnsProducts = false;
inline constexpr bool kFormsInput = false;  // an input of one element in the step
#else
inline constexpr bool kTurnsProducts = true;
inline constexpr bool kFormsInput = true;
#endif

}  // namespace arraynn
