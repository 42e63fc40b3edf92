#include <memory>

#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "rnn/workspace.hpp"

namespace arraynn {
namespace {

struct Results {
  py::object y, h_n, c_n, cells, workspace;
};

Results forward(const RnnCall& call, bool wants_cells, bool wants_workspace) {
  auto work = std::make_shared<RnnWorkspace>(take_rnn(call));
  const RnnArguments& a = work->a;
  const RnnShape& s = a.shape;
  const bool lstm = a.cell.kind == RnnKind::kLstm;
  Results r;
  TensorView y, h_n, c_n, cells;
  const Dtype stored = a.x.stored();
  r.y = rnn_array(a.op, stored, a.y_shape(s.out), &y);
  r.h_n = rnn_array(a.op, stored, a.state_shape(s.out), &h_n);
  if (lstm) r.c_n = rnn_array(a.op, stored, a.state_shape(s.hidden), &c_n);
  if (wants_cells) r.cells = rnn_array(a.op, stored, a.y_shape(s.hidden), &cells);
  work->results = WideResults(a.op, {&y, &h_n, &c_n, &cells});
  dispatch_wide(a.dtype, [&](auto tag) {
    using T = decltype(tag);
    RnnKept<T>& saved = work->of<T>();
    const py::gil_scoped_release nogil;
    run_rnn(saved.stack, RnnOutputs<T>{y.as<T>(), h_n.as<T>(), c_n.as<T>(), cells.as<T>()},
            wants_workspace ? &saved.saved : nullptr);
    work->results.narrow();
  });
  if (wants_workspace) {
    work->y = r.y;
    r.workspace = py::cast(work);
  }
  return r;
}

py::object sequence(const RnnCall& call) {
  const bool wants_cells =
      call.kind == RnnKind::kLstm && take_bool(call.op, "return_cells", call.return_cells);
  const bool wants_workspace = take_bool(call.op, "return_workspace", call.return_workspace);
  Results r = forward(call, wants_cells, wants_workspace);
  py::list results;
  results.append(r.y);
  if (call.kind == RnnKind::kLstm) {
    results.append(py::make_tuple(r.h_n, r.c_n));
  } else {
    results.append(r.h_n);
  }
  if (wants_cells) results.append(r.cells);
  if (wants_workspace) results.append(r.workspace);
  return py::tuple(results);
}

py::object step(const RnnCall& call) {
  const bool wants_workspace = take_bool(call.op, "return_workspace", call.return_workspace);
  Results r = forward(call, false, wants_workspace);
  py::object state = r.h_n;
  if (call.kind == RnnKind::kLstm) state = py::make_tuple(r.h_n, r.c_n);
  return wants_workspace ? py::object(py::make_tuple(state, r.workspace)) : state;
}

template <auto>
using HandleOf = py::handle;

// The function `op` of the module, whose arguments, by position, are those fields of the call.
template <auto... kFields>
void def(py::module_& m, const char* op, RnnKind kind, bool one_step) {
  using Signature = py::object (*)(HandleOf<kFields>...);
  const auto function = [op, kind, one_step](HandleOf<kFields>... values) {
    RnnCall call{.op = op, .kind = kind, .one_step = one_step};
    ((call.*kFields = values), ...);
    return one_step ? step(call) : sequence(call);
  };
  def_call(m, op, function, static_cast<Signature>(nullptr));
}

}  // namespace

void bind_rnn(py::module_& m) {
  // Only the kernels make one. That of a device sends a backward call there.
  const py::object type = py::class_<RnnWorkspace, std::shared_ptr<RnnWorkspace>>(
                              py::handle(), "RnnWorkspace", py::module_local())
                              .def_property_readonly("nbytes", &RnnWorkspace::nbytes);
#if defined(ARRAYNN_CUDA)
  m.attr("RnnWorkspace") = type;
#endif
  using C = RnnCall;
  def<&C::x, &C::weights, &C::state, &C::activation, &C::num_layers, &C::bidirectional,
      &C::batch_first, &C::lengths, &C::mask, &C::reverse, &C::dropout, &C::recurrent_dropout,
      &C::weight_dropout, &C::zoneout, &C::seed, &C::clip, &C::layer_norm, &C::layer_norm_eps,
      &C::return_workspace>(m, "rnn", RnnKind::kRnn, false);
  def<&C::x, &C::weights, &C::state, &C::activation, &C::recurrent_activation,
      &C::output_activation, &C::peepholes, &C::input_forget, &C::num_layers, &C::bidirectional,
      &C::batch_first, &C::lengths, &C::mask, &C::reverse, &C::dropout, &C::recurrent_dropout,
      &C::weight_dropout, &C::zoneout, &C::zoneout_cell, &C::seed, &C::clip, &C::cell_clip,
      &C::layer_norm, &C::layer_norm_eps, &C::return_cells, &C::return_workspace>(
      m, "lstm", RnnKind::kLstm, false);
  def<&C::x, &C::weights, &C::state, &C::activation, &C::recurrent_activation, &C::reset_after,
      &C::num_layers, &C::bidirectional, &C::batch_first, &C::lengths, &C::mask, &C::reverse,
      &C::dropout, &C::recurrent_dropout, &C::weight_dropout, &C::zoneout, &C::seed, &C::clip,
      &C::layer_norm, &C::layer_norm_eps, &C::return_workspace>(m, "gru", RnnKind::kGru, false);
  def<&C::x, &C::weights, &C::state, &C::activation, &C::clip, &C::layer_norm, &C::layer_norm_eps,
      &C::return_workspace>(m, "rnn_cell", RnnKind::kRnn, true);
  def<&C::x, &C::weights, &C::state, &C::activation, &C::recurrent_activation,
      &C::output_activation, &C::peepholes, &C::input_forget, &C::clip, &C::cell_clip,
      &C::layer_norm, &C::layer_norm_eps, &C::return_workspace>(m, "lstm_cell", RnnKind::kLstm,
                                                                true);
  def<&C::x, &C::weights, &C::state, &C::activation, &C::recurrent_activation, &C::reset_after,
      &C::clip, &C::layer_norm, &C::layer_norm_eps, &C::return_workspace>(m, "gru_cell",
                                                                          RnnKind::kGru, true);
  bind_rnn_backward(m);
}

}  // namespace arraynn
