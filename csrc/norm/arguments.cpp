#include "norm/arguments.hpp"

#include "bind/check.hpp"

namespace arraynn {
namespace {

Activation take_activation(const char* op, py::handle h) {
  return h.is_none() ? Activation{} : activation_from_name(op, take_str(op, "activation", h));
}

py::object wrapped(py::object array, const Array& like) {
  if (!like.foreign) return array;
  return py::module_::import("arraynn._array").attr("wrap_like")(array, like.foreign);
}

}  // namespace

RowArguments take_rows(const char* op, const Array& x, py::handle normalized_shape, py::handle eps,
                       bool centred, py::handle activation) {
  RowArguments a{};
  a.shape = x->shape;
  std::int64_t wanted[kMaxDims];
  const py::handle h = normalized_shape;
  if (PyTuple_Check(h.ptr()) || PyList_Check(h.ptr())) {
    const auto given = py::len(h);
    if (given == 0 || given > static_cast<std::size_t>(x->ndim)) {
      fail<ValueError>(op, "normalized_shape", "expected 1 to ", x->ndim, " sizes, got ", given);
    }
    a.trailing = static_cast<int>(given);
  } else {
    a.trailing = 1;
    if (x->ndim == 0) fail<ValueError>(op, "x", "expected at least 1 dimension, got 0");
  }
  take_ints(op, "normalized_shape", h, a.trailing, wanted);
  a.leading = x->ndim - a.trailing;
  if (!std::equal(wanted, wanted + a.trailing, x->shape + a.leading)) {
    fail<ValueError>(op, "normalized_shape", "expected the last sizes of x, of shape ",
                     shape_str(x->shape, x->ndim), ", got ", shape_str(wanted, a.trailing));
  }
  a.norm.rows = a.norm.n = 1;
  for (int i = 0; i < x->ndim; ++i) (i < a.leading ? a.norm.rows : a.norm.n) *= x->shape[i];
  a.norm.eps = eps.is_none() ? dtype_epsilon(x->dtype) : take_at_least(op, "eps", eps, 0);
  a.norm.centred = centred;
  a.norm.activation = take_activation(op, activation);
  return a;
}

Array take_row_vector(const char* op, const char* arg, py::handle h, const RowArguments& rows,
                      const Array& x) {
  Array v = take_optional(op, arg, h);
  if (!v) return v;
  require_same_dtype(op, arg, v, "x", x);
  const std::int64_t* shape = rows.shape + rows.leading;
  if (v->ndim != rows.trailing || !std::equal(shape, shape + rows.trailing, v->shape)) {
    fail<ValueError>(op, arg, "expected shape ", shape_str(shape, rows.trailing), ", got ",
                     shape_str(v->shape, v->ndim));
  }
  return v;
}

ChannelArguments take_channels(const char* op, ChannelKind kind, const Array& x,
                               py::handle num_groups, py::handle eps, py::handle layout,
                               py::handle activation) {
  if (x->ndim < 2) {
    fail<ValueError>(op, "x", "expected at least 2 dimensions (n, c, ...), got ", x->ndim,
                     " with shape ", shape_str(x->shape, x->ndim));
  }
  ChannelArguments a{};
  const bool last = take_channels_last(op, layout);
  const int channel = last ? x->ndim - 1 : 1;
  ChannelNorm& p = a.norm;
  p.n = a.samples = x->shape[0];
  p.c = a.channels = x->shape[channel];
  p.s = 1;
  for (int i = 1; i < x->ndim; ++i) p.s *= i == channel ? 1 : x->shape[i];
  p.channels_last = last;
  p.eps = take_at_least(op, "eps", eps, 0);
  p.activation = take_activation(op, activation);
  a.stats_shape[0] = kind == ChannelKind::kBatch ? p.c : p.n;
  a.stats_shape[1] = p.c;
  a.stats_ndim = kind == ChannelKind::kBatch ? 1 : 2;
  p.groups = kind == ChannelKind::kBatch ? 0 : p.c;
  if (kind == ChannelKind::kGroup) {
    p.groups = a.stats_shape[1] = take_int(op, "num_groups", num_groups);
    if (p.groups < 1) fail<ValueError>(op, "num_groups", "expected >= 1, got ", p.groups);
    if (p.c % p.groups != 0) {
      fail<ValueError>(op, "num_groups", "expected a divisor of ", p.c, " channels, got ",
                       p.groups);
    }
  }
  // The same memory: positions of the whole batch are those of one sample.
  if (kind == ChannelKind::kBatch && (last || p.s == 1)) {
    p.s *= p.n;
    p.n = 1;
    p.channels_last = true;
  } else if (p.s == 1) {
    p.channels_last = true;
  }
  return a;
}

Array take_channel_vector(const char* op, const char* arg, py::handle h, std::int64_t channels,
                          const Array& x) {
  Array v = take_optional(op, arg, h);
  if (!v) return v;
  require_same_dtype(op, arg, v, "x", x);
  if (v->ndim != 1 || v->shape[0] != channels) {
    fail<ValueError>(op, arg, "expected shape (", channels, ",), one per channel of x, got ",
                     shape_str(v->shape, v->ndim));
  }
  return v;
}

Statistics::Statistics(const char* op, const std::int64_t* shape, int ndim, bool mean)
    : has_mean_(mean), ndim_(ndim) {
  std::copy_n(shape, ndim, shape_);
  if (mean) mean_array_ = new_array(op, Dtype::kF64, shape, ndim, &mean_view_);
  rstd_array_ = new_array(op, Dtype::kF64, shape, ndim, &rstd_view_);
}

Array Statistics::take_one(const char* op, py::handle h) const {
  Array a = arraynn::take(op, "stats", h);
  if (a->dtype != Dtype::kF64) {
    fail<TypeError>(op, "stats", "expected float64, got ", dtype_name(a->dtype));
  }
  if (a->ndim != ndim_ || !std::equal(shape_, shape_ + ndim_, a->shape)) {
    fail<ValueError>(op, "stats", "expected shape ", shape_str(shape_, ndim_), ", got ",
                     shape_str(a->shape, a->ndim));
  }
  return a;
}

bool Statistics::take(const char* op, py::handle stats) {
  if (stats.is_none()) return false;
  if (!has_mean_) {
    const Array rstd = take_one(op, stats);
    rstd_view_ = rstd.view;
    rstd_array_ = rstd.owner;
    return true;
  }
  if (!PyTuple_Check(stats.ptr()) && !PyList_Check(stats.ptr())) {
    fail<TypeError>(op, "stats", "expected (mean, rstd)");
  }
  if (py::len(stats) != 2) {
    fail<ValueError>(op, "stats", "expected (mean, rstd), got ", py::len(stats), " values");
  }
  const auto pair = py::reinterpret_borrow<py::sequence>(stats);
  const Array mean = take_one(op, py::object(pair[0])), rstd = take_one(op, py::object(pair[1]));
  mean_view_ = mean.view;
  mean_array_ = mean.owner;
  rstd_view_ = rstd.view;
  rstd_array_ = rstd.owner;
  return true;
}

py::object Statistics::hand_over(const Array& like, py::object y) const {
  if (!has_mean_) return py::make_tuple(y, wrapped(rstd_array_, like));
  return py::make_tuple(y, wrapped(mean_array_, like), wrapped(rstd_array_, like));
}

NormGradients::NormGradients(const char* op, const Array& x, py::handle needs_in,
                             const std::int64_t* vector_shape, int vector_ndim, bool bias)
    : has_bias_(bias) {
  const Needs needs = take_needs(op, needs_in);
  if (needs.bias && !bias) {
    fail<ValueError>(op, "needs", "expected names out of x, weight, got 'bias'");
  }
  if (needs.x) x_array_ = new_array(op, x->dtype, x->shape, x->ndim, &x_view_);
  if (needs.weight) {
    weight_array_ = new_array(op, x->dtype, vector_shape, vector_ndim, &weight_view_);
  }
  if (needs.bias) bias_array_ = new_array(op, x->dtype, vector_shape, vector_ndim, &bias_view_);
}

py::tuple NormGradients::hand_over(const Array& like) const {
  const auto one = [&](const py::object& array) -> py::object {
    return array ? wrapped(array, like) : py::none();
  };
  if (!has_bias_) return py::make_tuple(one(x_array_), one(weight_array_));
  return py::make_tuple(one(x_array_), one(weight_array_), one(bias_array_));
}

}  // namespace arraynn
