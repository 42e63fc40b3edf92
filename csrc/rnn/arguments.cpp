#include "rnn/arguments.hpp"

#include <algorithm>
#include <cmath>

#include "bind/check.hpp"
#include "bind/packed_weight.hpp"
#include "bind/wide.hpp"

namespace arraynn {
namespace {

Activation take_activation(const char* op, const char* arg, py::handle h) {
  const std::string name = take_str(op, arg, h);
  for (const ActivationName& known : kActivationNames) {
    if (name == known.name) return known.activation;
  }
  std::string names;
  for (const ActivationName& known : kActivationNames) names.append(" ").append(known.name);
  fail<ValueError>(op, arg, "expected one of", names, ", got '", name, "'");
}

bool take_bound(const char* op, const char* arg, py::handle h, double* bound) {
  if (h.is_none()) return false;
  *bound = take_finite(op, arg, h);
  if (*bound <= 0) fail<ValueError>(op, arg, "expected None or a value > 0, got ", *bound);
  return true;
}

RnnCell take_cell(const RnnCall& call) {
  RnnCell cell;
  cell.kind = call.kind;
  cell.main = take_activation(call.op, call.kind == RnnKind::kRnn ? "nonlinearity" : "activation",
                              call.activation);
  if (call.kind != RnnKind::kRnn) {
    cell.gate = take_activation(call.op, "recurrent_activation", call.recurrent_activation);
  }
  if (call.kind == RnnKind::kLstm) {
    cell.output = call.output_activation.is_none()
                      ? cell.main
                      : take_activation(call.op, "output_activation", call.output_activation);
    cell.input_forget = take_bool(call.op, "input_forget", call.input_forget);
    cell.clips_cell = take_bound(call.op, "cell_clip", call.cell_clip, &cell.cell_clip);
  }
  if (call.kind == RnnKind::kGru) {
    cell.reset_after = take_bool(call.op, "reset_after", call.reset_after);
  }
  cell.clips = take_bound(call.op, "clip", call.clip, &cell.clip);
  return cell;
}

// The arrays of a list, all of them of x's dtype; named by their place in it.
std::vector<Array> take_arrays(const char* op, const char* arg, py::handle h, const Array& x) {
  if (!PyList_Check(h.ptr()) && !PyTuple_Check(h.ptr())) {
    fail<TypeError>(op, arg, "expected a list of arrays, got ", Py_TYPE(h.ptr())->tp_name);
  }
  std::vector<Array> arrays;
  const auto list = py::reinterpret_borrow<py::sequence>(h);
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string name = concat(arg, "[", i, "]");
    arrays.push_back(take_wide(op, name.c_str(), py::object(list[i])));
    require_same_dtype(op, name.c_str(), arrays.back(), "x", x);
  }
  return arrays;
}

// Weights in a list, or packed for the sequence of the cell.
const PackedWeights* take_weights(const RnnCall& call, RnnArguments* a) {
  constexpr const char* kNames[] = {"rnn", "lstm", "gru"};
  const auto* packed =
      take_packed_weights(call.op, "weights", call.weights, kNames[static_cast<int>(call.kind)]);
  if (packed == nullptr) {
    a->weights = take_arrays(call.op, "weights", call.weights, a->x);
    return nullptr;
  }
  require_same_dtype(call.op, "weights", packed->weights[0], "x", a->x);
  a->weights = packed->weights;
  a->packed = py::reinterpret_borrow<py::object>(call.weights);
  return packed;
}

// Shapes of one group, from its first array on; fills the pointers.
void take_group(RnnArguments* a, const PackedWeights* packed, std::int64_t group,
                std::int64_t input) {
  const std::int64_t first = group * a->weights_per_group, gates = a->cell.gates();
  const auto at = [&](std::int64_t i) -> const Array& {
    return a->weights[static_cast<std::size_t>(first + i)];
  };
  const auto check = [&](std::int64_t i, std::vector<std::int64_t> shape) {
    const std::string name = concat("weights[", first + i, "]");
    require_shape_of(a->op, name.c_str(), at(i), shape);
    return static_cast<const void*>(at(i)->data);
  };
  RnnGroup<const void> g;
  const std::int64_t rows = gates * a->shape.hidden;
  g.w_ih = check(0, {rows, input});
  g.w_hh = check(1, {rows, a->shape.out});
  std::int64_t biases = a->weights_per_group - 2;
  const bool projects =
      a->shape.out != a->shape.hidden || (biases > 0 && at(biases + 1)->ndim == 2);
  if (projects) --biases;
  if (biases > 0) g.b_ih = check(2, {rows});
  if (biases > 1) g.b_hh = check(3, {rows});
  if (projects) g.w_hr = check(2 + biases, {a->shape.out, a->shape.hidden});
  RnnForms forms;
  if (packed != nullptr) {
    const auto* of = &packed->forms[static_cast<std::size_t>(first)];
    forms = {of[0].get(), of[1].get(), projects ? of[2 + biases].get() : nullptr};
  }
  a->forms.push_back(forms);
  if (!a->peepholes.empty()) {
    const std::string name = concat("peepholes[", group, "]");
    const Array& peephole = a->peepholes[static_cast<std::size_t>(group)];
    require_shape_of(a->op, name.c_str(), peephole, {3, a->shape.hidden});
    g.peephole = peephole->data;
  }
  if (!a->norms.empty()) {
    const std::int64_t each = a->norms_per_group();
    const auto norm = [&](std::int64_t i, std::int64_t size) -> const void* {
      const Array& array = a->norms[static_cast<std::size_t>(group * each + i)];
      const std::string name = concat("layer_norm[", group * each + i, "]");
      require_shape_of(a->op, name.c_str(), array, {size});
      return array->data;
    };
    g.norm_ih = norm(0, rows);
    g.norm_hh = norm(1, rows);
    if (each > 2) g.norm_cell = norm(2, a->shape.hidden);
    if (each > 2) g.norm_cell_bias = norm(3, a->shape.hidden);
  }
  a->groups.push_back(g);
}

void take_groups(RnnArguments* a, const PackedWeights* packed) {
  const auto count = static_cast<std::int64_t>(a->weights.size()), groups = a->group_count();
  a->weights_per_group = count / groups;
  const std::int64_t each = a->weights_per_group;
  const std::int64_t most = a->cell.kind == RnnKind::kLstm ? 5 : 4;
  if (count % groups != 0 || each < 2 || each > most) {
    fail<ValueError>(a->op, "weights", "expected 2 to ", most, " arrays for each of ", groups,
                     groups == 1 ? " layer and direction" : " layers and directions", ", got ",
                     count);
  }
  const Array &w_ih = a->weights[0], &w_hh = a->weights[1];
  require_ndim(a->op, "weights[0]", w_ih, 2);
  require_ndim(a->op, "weights[1]", w_hh, 2);
  const std::int64_t gates = a->cell.gates();
  if (w_ih->shape[0] % gates != 0) {
    fail<ValueError>(a->op, "weights[0]", "expected a multiple of ", gates, " rows, got ",
                     w_ih->shape[0]);
  }
  a->shape.hidden = w_ih->shape[0] / gates;
  const bool last_is_matrix = each > 2 && a->weights[static_cast<std::size_t>(each - 1)]->ndim == 2;
  if (each == 5 && !last_is_matrix) {
    fail<ValueError>(a->op, "weights[4]", "expected 2 dimensions (w_hr), got ",
                     a->weights[4]->ndim);
  }
  if (last_is_matrix && a->cell.kind != RnnKind::kLstm) {
    fail<ValueError>(a->op, concat("weights[", each - 1, "]").c_str(),
                     "expected 1 dimension (a bias), got 2");
  }
  a->shape.out =
      last_is_matrix ? a->weights[static_cast<std::size_t>(each - 1)]->shape[0] : a->shape.hidden;
  if (!a->peepholes.empty() && static_cast<std::int64_t>(a->peepholes.size()) != groups) {
    fail<ValueError>(a->op, "peepholes", "expected ", groups,
                     groups == 1 ? " array, got " : " arrays, got ", a->peepholes.size());
  }
  const std::int64_t norms = a->norms_per_group() * groups;
  if (!a->norms.empty() && static_cast<std::int64_t>(a->norms.size()) != norms) {
    fail<ValueError>(a->op, "layer_norm", "expected ", norms, " arrays, got ", a->norms.size());
  }
  for (std::int64_t g = 0; g < groups; ++g) {
    take_group(a, packed, g, a->shape.input_of(g / a->shape.directions));
  }
}

// A copy, time first.
void take_mask(const RnnCall& call, RnnArguments* a) {
  if (call.mask.is_none()) return;
  RnnShape& s = a->shape;
  const Array mask = take(call.op, "mask", call.mask);
  if (mask->dtype != Dtype::kBool) fail<TypeError>(call.op, "mask", "expected bool");
  std::vector<std::int64_t> shape{s.steps, s.batch};
  if (!a->batched) shape.pop_back();
  if (a->batched && s.batch_first) std::swap(shape[0], shape[1]);
  require_shape_of(call.op, "mask", mask, shape);
  a->mask.owner = rnn_array(call.op, Dtype::kBool, {s.steps, s.batch}, &a->mask.view);
  auto* to = a->mask->as<std::uint8_t>();
  const auto* from = mask->as<const std::uint8_t>();
  if (s.batch_first) {
    swap_axes(from, to, s.batch, s.steps, 1);
  } else {
    copy(from, to, s.rows());
  }
  s.active.mask = to;
  s.padded = s.padded || hides_steps(to, s.rows());
}

void take_state(const RnnCall& call, RnnArguments* a) {
  if (call.state.is_none()) return;
  const auto part = [&](const char* name, py::handle h, std::int64_t size) {
    Array state = take_wide(call.op, name, h);
    require_same_dtype(call.op, name, state, "x", a->x);
    require_shape_of(call.op, name, state, a->state_shape(size));
    return state;
  };
  if (call.kind != RnnKind::kLstm) {
    a->h0 = part("h0", call.state, a->shape.out);
    return;
  }
  const bool pair = PyTuple_Check(call.state.ptr()) || PyList_Check(call.state.ptr());
  if (!pair) fail<TypeError>(call.op, "state", "expected a pair of arrays");
  const auto parts = py::reinterpret_borrow<py::sequence>(call.state);
  if (parts.size() != 2) {
    fail<ValueError>(call.op, "state", "expected (h0, c0), got ", parts.size(), " values");
  }
  a->h0 = part("state[0]", py::object(parts[0]), a->shape.out);
  a->c0 = part("state[1]", py::object(parts[1]), a->shape.hidden);
}

double take_probability(const char* op, const char* arg, py::handle h) {
  const double p = take_double(op, arg, h);
  if (!(p >= 0 && p <= 1)) {
    fail<ValueError>(op, arg, "expected a probability in [0, 1], got ", p);
  }
  return p;
}

// Zoneout alone needs no seed: without one it is its mean.
void take_random(const RnnCall& call, RnnArguments* a) {
  RnnRandom& random = a->random;
  const double dropout = take_probability(call.op, "dropout", call.dropout);
  if (a->shape.layers > 1) random.dropout = dropout;
  random.state = take_probability(call.op, "recurrent_dropout", call.recurrent_dropout);
  random.weights = take_probability(call.op, "weight_dropout", call.weight_dropout);
  a->cell.zone = take_probability(call.op, "zoneout", call.zoneout);
  if (call.kind == RnnKind::kLstm) {
    a->cell.zone_cell = take_probability(call.op, "zoneout_cell", call.zoneout_cell);
  }
  const bool drops = random.dropout > 0 || random.state > 0 || random.weights > 0;
  const bool blends = a->cell.zone > 0 || a->cell.zone_cell > 0;
  if (call.seed.is_none()) {
    if (drops) fail<ValueError>(call.op, "seed", "expected an int (there is dropout), got None");
    return;
  }
  if (!drops && !blends) return;
  random.zones = blends;
  random.seed = take_seed(call.op, call.seed);
}

void take_options(const RnnCall& call, RnnArguments* a) {
  RnnShape& s = a->shape;
  s.layers = take_int(call.op, "num_layers", call.num_layers);
  if (s.layers < 1 || s.layers > 1 << 20) {
    fail<ValueError>(call.op, "num_layers", "expected a value >= 1, got ", s.layers);
  }
  s.directions = take_bool(call.op, "bidirectional", call.bidirectional) ? 2 : 1;
  s.batch_first = take_bool(call.op, "batch_first", call.batch_first);
  s.reverse = take_bool(call.op, "reverse", call.reverse);
  if (s.reverse && s.directions == 2) {
    fail<ValueError>(call.op, "reverse", "expected False with bidirectional, got True");
  }
  take_random(call, a);
}

}  // namespace

std::vector<std::int64_t> RnnArguments::state_shape(std::int64_t size) const {
  std::vector<std::int64_t> s{size};
  if (batched) s.insert(s.begin(), shape.batch);
  if (!one_step) s.insert(s.begin(), group_count());
  return s;
}

std::vector<std::int64_t> RnnArguments::y_shape(std::int64_t size) const {
  const std::int64_t width = shape.directions * size;
  if (!batched) return {shape.steps, width};
  if (shape.batch_first) return {shape.batch, shape.steps, width};
  return {shape.steps, shape.batch, width};
}

RnnArguments take_rnn(const RnnCall& call) {
  RnnArguments a{};
  a.op = call.op;
  a.one_step = call.one_step;
  a.cell = take_cell(call);
  if (!call.one_step) take_options(call, &a);
  a.x = take_wide(call.op, "x", call.x);
  require_storage(call.op, "x", a.x);
  a.dtype = a.x->dtype;
  const int most = call.one_step ? 2 : 3;
  if (a.x->ndim != most && a.x->ndim != most - 1) {
    fail<ValueError>(call.op, "x", "expected ", most, " dimensions, or ", most - 1,
                     " for one sample, got ", a.x->ndim);
  }
  a.batched = a.x->ndim == most;
  RnnShape& s = a.shape;
  const std::int64_t* sizes = a.x->shape;
  s.input = sizes[a.x->ndim - 1];
  if (call.one_step) {
    s.steps = 1;
    s.batch = a.batched ? sizes[0] : 1;
  } else {
    s.steps = sizes[a.batched && s.batch_first ? 1 : 0];
    s.batch = a.batched ? sizes[s.batch_first ? 0 : 1] : 1;
  }
  const PackedWeights* packed = take_weights(call, &a);
  if (!call.peepholes.is_none()) {
    if (call.one_step) {
      a.peepholes.push_back(take_wide(call.op, "peepholes", call.peepholes));
      require_same_dtype(call.op, "peepholes", a.peepholes[0], "x", a.x);
    } else {
      a.peepholes = take_arrays(call.op, "peepholes", call.peepholes, a.x);
      if (a.peepholes.empty()) fail<ValueError>(call.op, "peepholes", "expected arrays, got none");
    }
  }
  if (!call.layer_norm.is_none()) {
    if (call.kind == RnnKind::kGru && !a.cell.reset_after) {
      fail<ValueError>(call.op, "layer_norm", "expected reset_after=True with layer norms");
    }
    a.norms = take_arrays(call.op, "layer_norm", call.layer_norm, a.x);
    if (a.norms.empty()) fail<ValueError>(call.op, "layer_norm", "expected arrays, got none");
    a.norm_eps = take_finite(call.op, "layer_norm_eps", call.layer_norm_eps);
    if (a.norm_eps <= 0) {
      fail<ValueError>(call.op, "layer_norm_eps", "expected a value > 0, got ", a.norm_eps);
    }
  }
  take_groups(&a, packed);
  const std::int64_t width = a.cell.gates() * s.hidden;
  const std::int64_t gates[3] = {s.steps, s.batch, max_i(width, s.width())};
  checked_size(call.op, "x", gates, 3, static_cast<std::int64_t>(dtype_size(a.dtype)));
  if (!call.lengths.is_none()) set_lengths(call.op, call.lengths, &a);
  take_mask(call, &a);
  take_state(call, &a);
  return a;
}

void require_lengths(const char* op, const Array& lengths, std::int64_t batch) {
  if (lengths->dtype != Dtype::kI64 && lengths->dtype != Dtype::kI32) {
    fail<TypeError>(op, "lengths", "expected int32 or int64");
  }
  require_shape(op, "lengths", lengths, {batch});
}

py::object rnn_array(const char* op, Dtype dtype, const std::vector<std::int64_t>& shape,
                     TensorView* view) {
  return new_array(op, dtype, shape.data(), static_cast<int>(shape.size()), view);
}

void require_shape_of(const char* op, const char* arg, const Array& a,
                      const std::vector<std::int64_t>& shape) {
  const int ndim = static_cast<int>(shape.size());
  if (a->ndim != ndim || !std::equal(shape.begin(), shape.end(), a->shape)) {
    fail<ValueError>(op, arg, "expected shape ", shape_str(shape.data(), ndim), ", got ",
                     shape_str(a->shape, a->ndim));
  }
}

}  // namespace arraynn
