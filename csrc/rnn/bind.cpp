#include <memory>

#include "bind/binders.hpp"
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
  r.y = rnn_array(a.op, a.dtype, a.y_shape(s.out), &y);
  r.h_n = rnn_array(a.op, a.dtype, a.state_shape(s.out), &h_n);
  if (lstm) r.c_n = rnn_array(a.op, a.dtype, a.state_shape(s.hidden), &c_n);
  if (wants_cells) r.cells = rnn_array(a.op, a.dtype, a.y_shape(s.hidden), &cells);
  dispatch_float(a.dtype, [&](auto tag) {
    using T = decltype(tag);
    RnnKept<T>& saved = *work->of<T>();
    const py::gil_scoped_release nogil;
    run_rnn(saved.stack, RnnOutputs<T>{y.as<T>(), h_n.as<T>(), c_n.as<T>(), cells.as<T>()},
            wants_workspace ? &saved.saved : nullptr);
  });
  if (wants_workspace) {
    work->y = r.y;
    r.workspace = py::cast(work);
  }
  return r;
}

py::object sequence_results(const RnnCall& call, bool wants_cells, py::handle return_workspace) {
  const bool wants_workspace = take_bool(call.op, "return_workspace", return_workspace);
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

py::object step_results(const RnnCall& call, py::handle return_workspace) {
  const bool wants_workspace = take_bool(call.op, "return_workspace", return_workspace);
  Results r = forward(call, false, wants_workspace);
  py::object state = r.h_n;
  if (call.kind == RnnKind::kLstm) state = py::make_tuple(r.h_n, r.c_n);
  return wants_workspace ? py::object(py::make_tuple(state, r.workspace)) : state;
}

py::object rnn(py::handle x, py::handle weights, py::handle h0, py::handle nonlinearity,
               py::handle num_layers, py::handle bidirectional, py::handle batch_first,
               py::handle lengths, py::handle reverse, py::handle dropout, py::handle seed,
               py::handle clip, py::handle return_workspace) {
  const py::none no;
  return sequence_results({"rnn",        RnnKind::kRnn,
                           false,        x,
                           weights,      h0,
                           nonlinearity, no,
                           no,           no,
                           no,           no,
                           clip,         no,
                           num_layers,   bidirectional,
                           batch_first,  lengths,
                           reverse,      dropout,
                           seed},
                          false, return_workspace);
}

py::object lstm(py::handle x, py::handle weights, py::handle state, py::handle activation,
                py::handle recurrent_activation, py::handle output_activation, py::handle peepholes,
                py::handle input_forget, py::handle num_layers, py::handle bidirectional,
                py::handle batch_first, py::handle lengths, py::handle reverse, py::handle dropout,
                py::handle seed, py::handle clip, py::handle cell_clip, py::handle return_cells,
                py::handle return_workspace) {
  const py::none no;
  return sequence_results({"lstm",
                           RnnKind::kLstm,
                           false,
                           x,
                           weights,
                           state,
                           activation,
                           recurrent_activation,
                           output_activation,
                           peepholes,
                           input_forget,
                           no,
                           clip,
                           cell_clip,
                           num_layers,
                           bidirectional,
                           batch_first,
                           lengths,
                           reverse,
                           dropout,
                           seed},
                          take_bool("lstm", "return_cells", return_cells), return_workspace);
}

py::object gru(py::handle x, py::handle weights, py::handle h0, py::handle activation,
               py::handle recurrent_activation, py::handle reset_after, py::handle num_layers,
               py::handle bidirectional, py::handle batch_first, py::handle lengths,
               py::handle reverse, py::handle dropout, py::handle seed, py::handle clip,
               py::handle return_workspace) {
  const py::none no;
  return sequence_results({"gru",       RnnKind::kGru,
                           false,       x,
                           weights,     h0,
                           activation,  recurrent_activation,
                           no,          no,
                           no,          reset_after,
                           clip,        no,
                           num_layers,  bidirectional,
                           batch_first, lengths,
                           reverse,     dropout,
                           seed},
                          false, return_workspace);
}

py::object rnn_cell(py::handle x, py::handle weights, py::handle h0, py::handle nonlinearity,
                    py::handle clip, py::handle return_workspace) {
  const py::none no;
  return step_results(
      {"rnn_cell", RnnKind::kRnn, true, x,  weights, h0, nonlinearity, no, no, no, no,
       no,         clip,          no,   no, no,      no, no,           no, no, no},
      return_workspace);
}

py::object lstm_cell(py::handle x, py::handle weights, py::handle state, py::handle activation,
                     py::handle recurrent_activation, py::handle output_activation,
                     py::handle peepholes, py::handle input_forget, py::handle clip,
                     py::handle cell_clip, py::handle return_workspace) {
  const py::none no;
  return step_results({"lstm_cell",
                       RnnKind::kLstm,
                       true,
                       x,
                       weights,
                       state,
                       activation,
                       recurrent_activation,
                       output_activation,
                       peepholes,
                       input_forget,
                       no,
                       clip,
                       cell_clip,
                       no,
                       no,
                       no,
                       no,
                       no,
                       no,
                       no},
                      return_workspace);
}

py::object gru_cell(py::handle x, py::handle weights, py::handle h0, py::handle activation,
                    py::handle recurrent_activation, py::handle reset_after, py::handle clip,
                    py::handle return_workspace) {
  const py::none no;
  return step_results({"gru_cell", RnnKind::kGru,
                       true,       x,
                       weights,    h0,
                       activation, recurrent_activation,
                       no,         no,
                       no,         reset_after,
                       clip,       no,
                       no,         no,
                       no,         no,
                       no,         no,
                       no},
                      return_workspace);
}

}  // namespace

void bind_rnn(py::module_& m) {
  // Of no module: only the kernels make one.
  py::class_<RnnWorkspace, std::shared_ptr<RnnWorkspace>>(py::handle(), "RnnWorkspace")
      .def_property_readonly("nbytes", &RnnWorkspace::nbytes);
  m.def("rnn", &rnn);
  m.def("lstm", &lstm);
  m.def("gru", &gru);
  m.def("rnn_cell", &rnn_cell);
  m.def("lstm_cell", &lstm_cell);
  m.def("gru_cell", &gru_cell);
  bind_rnn_backward(m);
}

}  // namespace arraynn
