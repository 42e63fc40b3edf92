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
               py::handle lengths, py::handle mask, py::handle reverse, py::handle dropout,
               py::handle recurrent_dropout, py::handle weight_dropout, py::handle zoneout,
               py::handle seed, py::handle clip, py::handle layer_norm, py::handle layer_norm_eps,
               py::handle return_workspace) {
  const RnnCall call{.op = "rnn",
                     .kind = RnnKind::kRnn,
                     .one_step = false,
                     .x = x,
                     .weights = weights,
                     .state = h0,
                     .activation = nonlinearity,
                     .clip = clip,
                     .layer_norm = layer_norm,
                     .layer_norm_eps = layer_norm_eps,
                     .num_layers = num_layers,
                     .bidirectional = bidirectional,
                     .batch_first = batch_first,
                     .lengths = lengths,
                     .mask = mask,
                     .reverse = reverse,
                     .dropout = dropout,
                     .recurrent_dropout = recurrent_dropout,
                     .weight_dropout = weight_dropout,
                     .zoneout = zoneout,
                     .seed = seed};
  return sequence_results(call, false, return_workspace);
}

py::object lstm(py::handle x, py::handle weights, py::handle state, py::handle activation,
                py::handle recurrent_activation, py::handle output_activation, py::handle peepholes,
                py::handle input_forget, py::handle num_layers, py::handle bidirectional,
                py::handle batch_first, py::handle lengths, py::handle mask, py::handle reverse,
                py::handle dropout, py::handle recurrent_dropout, py::handle weight_dropout,
                py::handle zoneout, py::handle zoneout_cell, py::handle seed, py::handle clip,
                py::handle cell_clip, py::handle layer_norm, py::handle layer_norm_eps,
                py::handle return_cells, py::handle return_workspace) {
  const RnnCall call{.op = "lstm",
                     .kind = RnnKind::kLstm,
                     .one_step = false,
                     .x = x,
                     .weights = weights,
                     .state = state,
                     .activation = activation,
                     .recurrent_activation = recurrent_activation,
                     .output_activation = output_activation,
                     .peepholes = peepholes,
                     .input_forget = input_forget,
                     .clip = clip,
                     .cell_clip = cell_clip,
                     .layer_norm = layer_norm,
                     .layer_norm_eps = layer_norm_eps,
                     .num_layers = num_layers,
                     .bidirectional = bidirectional,
                     .batch_first = batch_first,
                     .lengths = lengths,
                     .mask = mask,
                     .reverse = reverse,
                     .dropout = dropout,
                     .recurrent_dropout = recurrent_dropout,
                     .weight_dropout = weight_dropout,
                     .zoneout = zoneout,
                     .zoneout_cell = zoneout_cell,
                     .seed = seed};
  return sequence_results(call, take_bool("lstm", "return_cells", return_cells), return_workspace);
}

py::object gru(py::handle x, py::handle weights, py::handle h0, py::handle activation,
               py::handle recurrent_activation, py::handle reset_after, py::handle num_layers,
               py::handle bidirectional, py::handle batch_first, py::handle lengths,
               py::handle mask, py::handle reverse, py::handle dropout,
               py::handle recurrent_dropout, py::handle weight_dropout, py::handle zoneout,
               py::handle seed, py::handle clip, py::handle layer_norm, py::handle layer_norm_eps,
               py::handle return_workspace) {
  const RnnCall call{.op = "gru",
                     .kind = RnnKind::kGru,
                     .one_step = false,
                     .x = x,
                     .weights = weights,
                     .state = h0,
                     .activation = activation,
                     .recurrent_activation = recurrent_activation,
                     .reset_after = reset_after,
                     .clip = clip,
                     .layer_norm = layer_norm,
                     .layer_norm_eps = layer_norm_eps,
                     .num_layers = num_layers,
                     .bidirectional = bidirectional,
                     .batch_first = batch_first,
                     .lengths = lengths,
                     .mask = mask,
                     .reverse = reverse,
                     .dropout = dropout,
                     .recurrent_dropout = recurrent_dropout,
                     .weight_dropout = weight_dropout,
                     .zoneout = zoneout,
                     .seed = seed};
  return sequence_results(call, false, return_workspace);
}

py::object rnn_cell(py::handle x, py::handle weights, py::handle h0, py::handle nonlinearity,
                    py::handle clip, py::handle layer_norm, py::handle layer_norm_eps,
                    py::handle return_workspace) {
  const RnnCall call{.op = "rnn_cell",
                     .kind = RnnKind::kRnn,
                     .one_step = true,
                     .x = x,
                     .weights = weights,
                     .state = h0,
                     .activation = nonlinearity,
                     .clip = clip,
                     .layer_norm = layer_norm,
                     .layer_norm_eps = layer_norm_eps};
  return step_results(call, return_workspace);
}

py::object lstm_cell(py::handle x, py::handle weights, py::handle state, py::handle activation,
                     py::handle recurrent_activation, py::handle output_activation,
                     py::handle peepholes, py::handle input_forget, py::handle clip,
                     py::handle cell_clip, py::handle layer_norm, py::handle layer_norm_eps,
                     py::handle return_workspace) {
  const RnnCall call{.op = "lstm_cell",
                     .kind = RnnKind::kLstm,
                     .one_step = true,
                     .x = x,
                     .weights = weights,
                     .state = state,
                     .activation = activation,
                     .recurrent_activation = recurrent_activation,
                     .output_activation = output_activation,
                     .peepholes = peepholes,
                     .input_forget = input_forget,
                     .clip = clip,
                     .cell_clip = cell_clip,
                     .layer_norm = layer_norm,
                     .layer_norm_eps = layer_norm_eps};
  return step_results(call, return_workspace);
}

py::object gru_cell(py::handle x, py::handle weights, py::handle h0, py::handle activation,
                    py::handle recurrent_activation, py::handle reset_after, py::handle clip,
                    py::handle layer_norm, py::handle layer_norm_eps, py::handle return_workspace) {
  const RnnCall call{.op = "gru_cell",
                     .kind = RnnKind::kGru,
                     .one_step = true,
                     .x = x,
                     .weights = weights,
                     .state = h0,
                     .activation = activation,
                     .recurrent_activation = recurrent_activation,
                     .reset_after = reset_after,
                     .clip = clip,
                     .layer_norm = layer_norm,
                     .layer_norm_eps = layer_norm_eps};
  return step_results(call, return_workspace);
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
