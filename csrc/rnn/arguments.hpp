// The checked arguments of the recurrent kernels, as they come from Python.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "bind/array.hpp"
#include "rnn/stack.hpp"

namespace arraynn {

// None where an operation has no such argument.
struct RnnArgument : py::handle {
  RnnArgument() : py::handle(Py_None) {}
  RnnArgument(py::handle h) : py::handle(h) {}
};
struct RnnCall {
  const char* op;
  RnnKind kind;
  bool one_step;  // of a cell: x is [batch, input] or [input]
  RnnArgument x{}, weights{}, state{};
  RnnArgument activation{}, recurrent_activation{}, output_activation{}, peepholes{};
  RnnArgument input_forget{}, reset_after{}, clip{}, cell_clip{}, layer_norm{}, layer_norm_eps{};
  RnnArgument num_layers{}, bidirectional{}, batch_first{}, lengths{}, mask{}, reverse{};
  RnnArgument dropout{}, recurrent_dropout{}, weight_dropout{}, zoneout{}, zoneout_cell{}, seed{};
  RnnArgument return_cells{}, return_workspace{};
};

// The call without element type; pointers are the arrays', which it keeps alive.
struct RnnArguments {
  const char* op;
  RnnCell cell;
  RnnShape shape;
  Dtype dtype;  // of the arithmetic, and in memory what the kernels read
  bool batched, one_step;
  RnnRandom random;
  Array x, h0, c0;
  Array lengths, mask;  // copies for shape.active: int64, and time first
  std::vector<RnnGroup<const void>> groups;
  std::vector<RnnForms> forms;                   // one a group
  py::object packed;                             // whose they are, or none
  std::vector<Array> weights, peepholes, norms;  // as they came
  double norm_eps = 0;
  std::int64_t weights_per_group = 0;

  std::int64_t norms_per_group() const { return cell.kind == RnnKind::kLstm ? 4 : 2; }
  std::int64_t group_count() const { return shape.layers * shape.directions; }
  // [groups, batch, size], without the axes that the call does not have.
  std::vector<std::int64_t> state_shape(std::int64_t size) const;
  std::vector<std::int64_t> y_shape(std::int64_t size) const;

  template <class T>
  RnnStack<T> stack() const {
    RnnStack<T> s;
    s.op = op;
    s.cell = cell;
    s.shape = shape;
    s.random = random;
    s.norm_eps = norm_eps;
    s.forms = forms;
    for (const auto& g : groups) {
      const auto of = [](const void* p) { return static_cast<const T*>(p); };
      s.groups.push_back({of(g.w_ih), of(g.w_hh), of(g.b_ih), of(g.b_hh), of(g.w_hr),
                          of(g.peephole), of(g.norm_ih), of(g.norm_hh), of(g.norm_cell),
                          of(g.norm_cell_bias)});
    }
    s.x = x->as<const T>();
    if (h0) s.h0 = h0->as<const T>();
    if (c0) s.c0 = c0->as<const T>();
    return s;
  }
};

RnnArguments take_rnn(const RnnCall& call);

// Values of lengths and mask, once per device. On a GPU nothing is waited for: lengths of an array are
// held to [0, steps], nobody complains of them, and any mask may hide steps.
void set_lengths(const char* op, py::handle given, RnnArguments* a);
bool hides_steps(const std::uint8_t* mask, std::int64_t n);
// int32 or int64, one a sample.
void require_lengths(const char* op, const Array& lengths, std::int64_t batch);

// A new array of a shape; `data` as T* by view.
py::object rnn_array(const char* op, Dtype dtype, const std::vector<std::int64_t>& shape,
                     TensorView* view);
void require_shape_of(const char* op, const char* arg, const Array& a,
                      const std::vector<std::int64_t>& shape);

}  // namespace arraynn
