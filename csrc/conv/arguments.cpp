#include "conv/arguments.hpp"

#include <algorithm>
#include <utility>

#include "bind/wide.hpp"

namespace arraynn {
namespace {

// What a convolution and a transposed one read alike; axes are depth, height and width.
struct Operands {
  std::int64_t n, channels, size[kMostAxes];      // of x
  std::int64_t rows, columns, kernel[kMostAxes];  // of weight
  std::int64_t stride[kMostAxes], dilation[kMostAxes],
      reach[kMostAxes];                                   // reach: of the dilated kernel
  std::int64_t begin[kMostAxes], end[kMostAxes], groups;  // padding
  PadMode mode;
  bool channels_last;
};

const char* axis_name(const ConvCall& call, int axis) {
  if (call.axes == 1) return "length";
  constexpr const char* kNames[] = {"depth", "height", "width"};
  return kNames[axis];
}

Operands take_operands(const ConvCall& call, const Array& x, const Array& weight) {
  const char* op = call.op;
  const int axes = call.axes, skip = kMostAxes - axes;
  require_storage(op, "x", x);
  require_ndim(op, "x", x, axes + 2);
  require_same_dtype(op, "weight", weight, "x", x);
  require_ndim(op, "weight", weight, axes + 2);
  Operands o{};
  o.channels_last = take_channels_last(op, call.layout);
  std::fill_n(o.size, kMostAxes, 1);
  std::fill_n(o.kernel, kMostAxes, 1);
  std::fill_n(o.stride, kMostAxes, 1);
  std::fill_n(o.dilation, kMostAxes, 1);
  o.n = x->shape[0];
  o.channels = x->shape[o.channels_last ? axes + 1 : 1];
  o.rows = weight->shape[0];
  o.columns = weight->shape[1];
  std::copy_n(x->shape + (o.channels_last ? 1 : 2), axes, o.size + skip);
  std::copy_n(weight->shape + 2, axes, o.kernel + skip);
  take_ints(op, "stride", call.stride, axes, o.stride + skip);
  take_ints(op, "dilation", call.dilation, axes, o.dilation + skip);
  take_padding(op, call.padding, axes, o.begin + skip, o.end + skip, &o.mode);
  o.groups = take_int(op, "groups", call.groups);
  for (int i = skip; i < kMostAxes; ++i) {
    if (o.stride[i] < 1) {
      fail<ValueError>(op, "stride", "expected values >= 1, got ", o.stride[i]);
    }
    if (o.dilation[i] < 1) {
      fail<ValueError>(op, "dilation", "expected values >= 1, got ", o.dilation[i]);
    }
    if (std::max(o.begin[i], o.end[i]) > kMaxBytes) {
      fail<OutOfMemory>(op, "padding", "expected at most 2**46, got ",
                        std::max(o.begin[i], o.end[i]));
    }
  }
  if (o.groups < 1) fail<ValueError>(op, "groups", "expected a value >= 1, got ", o.groups);
  if (o.channels % o.groups != 0) {
    fail<ValueError>(op, "groups", "expected a divisor of x's ", o.channels, " channels, got ",
                     o.groups);
  }
  return o;
}

void check_kernel(const ConvCall& call, Operands* o) {
  const std::int64_t* k = o->kernel;
  if (std::min({k[0], k[1], k[2]}) < 1) {
    if (call.axes == 1) {
      fail<ValueError>(call.op, "weight", "expected a kernel of at least 1, got ", k[2]);
    }
    if (call.axes == 2) {
      fail<ValueError>(call.op, "weight", "expected a kernel of at least 1 x 1, got ", k[1], " x ",
                       k[2]);
    }
    fail<ValueError>(call.op, "weight", "expected a kernel of at least 1 x 1 x 1, got ", k[0],
                     " x ", k[1], " x ", k[2]);
  }
  for (int i = 0; i < kMostAxes; ++i) {
    o->reach[i] = checked_mul(call.op, "dilation", o->dilation[i], o->kernel[i] - 1) + 1;
  }
}

// Output size of one axis; sets the padding where a rule gives it.
std::int64_t output_size(const ConvCall& call, Operands* o, int i) {
  const std::int64_t in = o->size[i], stride = o->stride[i], reach = o->reach[i];
  if (o->mode != PadMode::kExplicit) {
    const std::int64_t out = (in + stride - 1) / stride;
    const std::int64_t total = std::max<std::int64_t>((out - 1) * stride + reach - in, 0);
    o->begin[i] = o->mode == PadMode::kSame ? total / 2 : total - total / 2;
    o->end[i] = total - o->begin[i];
    return out;
  }
  const std::int64_t padded = in + o->begin[i] + o->end[i];
  if (padded < reach) {
    fail<ValueError>(call.op, "weight", "expected a kernel that fits the padded input of ",
                     axis_name(call, i), " ", padded, ", got a reach of ", reach);
  }
  return (padded - reach) / stride + 1;
}

// The inverse: the smallest size that a convolution takes to x's, plus output_padding.
std::int64_t transposed_size(const ConvCall& call, const Operands& o, int i,
                             std::int64_t output_padding) {
  const std::int64_t full =
      checked_mul(call.op, "stride", o.stride[i], o.size[i] - 1) + o.reach[i] + output_padding;
  const std::int64_t out = full - o.begin[i] - o.end[i];
  if (out < 1) {
    fail<ValueError>(call.op, "padding", "expected less than the result's ", axis_name(call, i),
                     " of ", full, ", got ", o.begin[i], " + ", o.end[i]);
  }
  return out;
}

Algorithm take_algorithm(const ConvCall& call, const Operands& o) {
  const std::string name = take_str(call.op, "algorithm", call.algorithm);
  if (name == "auto") return Algorithm::kAuto;
  if (name == "direct") return Algorithm::kDirect;
  if (name != "winograd") {
    fail<ValueError>(call.op, "algorithm", "expected 'auto', 'direct' or 'winograd', got '", name,
                     "'");
  }
  const std::int64_t three[] = {3, 3}, one[] = {1, 1};
  if (call.axes != 2 || !std::equal(three, three + 2, o.kernel + 1) ||
      !std::equal(one, one + 2, o.stride + 1) || !std::equal(one, one + 2, o.dilation + 1)) {
    fail<ValueError>(call.op, "algorithm",
                     "expected 'auto' or 'direct' unless the kernel is 3 x 3 with stride and "
                     "dilation 1, got 'winograd'");
  }
  return Algorithm::kWinograd;
}

ConvArguments finish(const ConvCall& call, const Operands& o, std::int64_t channels,
                     const std::int64_t* size) {
  ConvArguments a{};
  Conv2dProblem& p = a.problem;
  p.op = call.op;
  p.n = o.n;
  p.kd = o.kernel[0];
  p.kh = o.kernel[1];
  p.kw = o.kernel[2];
  p.stride_d = o.stride[0];
  p.stride_h = o.stride[1];
  p.stride_w = o.stride[2];
  p.dilation_d = o.dilation[0];
  p.dilation_h = o.dilation[1];
  p.dilation_w = o.dilation[2];
  p.pad_d = o.begin[0];
  p.pad_h = o.begin[1];
  p.pad_w = o.begin[2];
  p.groups = o.groups;
  p.channels_last = o.channels_last;
  p.algorithm = take_algorithm(call, o);
  a.ndim = call.axes + 2;
  a.out_channels = channels;
  a.out_shape[0] = o.n;
  a.out_shape[o.channels_last ? a.ndim - 1 : 1] = channels;
  std::copy_n(size + kMostAxes - call.axes, call.axes, a.out_shape + (o.channels_last ? 1 : 2));
  checked_size(call.op, "output", a.out_shape, a.ndim, 8);
  return a;
}

void require_out_shape(const ConvCall& call, const char* arg, const Array& array,
                       const ConvArguments& a) {
  const std::int64_t* s = a.out_shape;
  if (a.ndim == 3) {
    require_shape(call.op, arg, array, {s[0], s[1], s[2]});
  } else if (a.ndim == 4) {
    require_shape(call.op, arg, array, {s[0], s[1], s[2], s[3]});
  } else {
    require_shape(call.op, arg, array, {s[0], s[1], s[2], s[3], s[4]});
  }
}

// Sets the sizes of the arrays that the convolution reads and writes.
void set_sizes(const std::int64_t* in, const std::int64_t* out, Conv2dProblem* p) {
  p->id = in[0];
  p->ih = in[1];
  p->iw = in[2];
  p->od = out[0];
  p->oh = out[1];
  p->ow = out[2];
  const bool flat = p->is_volume() && p->kh == 1 && p->kw == 1 && p->stride_h == 1 &&
                    p->stride_w == 1 && p->ih == p->oh && p->iw == p->ow && p->pad_h == 0 &&
                    p->pad_w == 0;
  if (!flat) return;
  p->iw = p->ow = p->ih * p->iw;
  p->ih = p->id;
  p->oh = p->od;
  p->kh = p->kd;
  p->stride_h = p->stride_d;
  p->pad_h = p->pad_d;
  p->dilation_h = p->dilation_d;
  p->id = p->od = p->kd = p->stride_d = p->dilation_d = 1;
  p->pad_d = 0;
  // A single tap per position: a matrix product.
  if (p->kh != 1 || p->stride_h != 1 || p->pad_h != 0 || p->ih != p->oh) return;
  p->iw = p->ow = p->ih * p->iw;
  p->ih = p->oh = 1;
}

}  // namespace

ConvArguments take_conv(const ConvCall& call, const Array& x, const Array& weight,
                        py::handle flip_kernel) {
  Operands o = take_operands(call, x, weight);
  const bool flip = take_bool(call.op, "flip_kernel", flip_kernel);
  if (o.rows % o.groups != 0) {
    fail<ValueError>(call.op, "groups", "expected a divisor of weight's ", o.rows,
                     " output channels, got ", o.groups);
  }
  if (o.columns != o.channels / o.groups) {
    fail<ValueError>(call.op, "weight", "expected ", o.channels / o.groups,
                     " input channels (x has ", o.channels, " in ", o.groups,
                     o.groups == 1 ? " group" : " groups", "), got ", o.columns);
  }
  check_kernel(call, &o);
  std::int64_t size[kMostAxes];
  for (int i = 0; i < kMostAxes; ++i) size[i] = output_size(call, &o, i);
  ConvArguments a = finish(call, o, o.rows, size);
  Conv2dProblem& p = a.problem;
  p.flip_kernel = flip;
  p.ic = o.channels;
  p.oc = o.rows;
  set_sizes(o.size, size, &p);
  return a;
}

ConvArguments take_conv_transpose(const ConvCall& call, const Array& x, const Array& weight,
                                  py::handle output_padding) {
  if (PyUnicode_Check(call.padding.ptr())) {
    fail<ValueError>(call.op, "padding", "expected ints or pairs, got '",
                     take_str(call.op, "padding", call.padding), "'");
  }
  Operands o = take_operands(call, x, weight);
  const int skip = kMostAxes - call.axes;
  std::int64_t more[kMostAxes] = {0, 0, 0};
  take_ints(call.op, "output_padding", output_padding, call.axes, more + skip);
  for (int i = skip; i < kMostAxes; ++i) {
    if (more[i] < 0 || more[i] >= std::max(o.stride[i], o.dilation[i])) {
      fail<ValueError>(call.op, "output_padding", "expected values from 0 to ",
                       std::max(o.stride[i], o.dilation[i]) - 1,
                       " (below stride or dilation), got ", more[i]);
    }
    if (o.size[i] < 1) {
      fail<ValueError>(call.op, "x", "expected a ", axis_name(call, i), " of at least 1, got 0");
    }
  }
  if (o.rows != o.channels) {
    fail<ValueError>(call.op, "weight", "expected ", o.channels,
                     " input channels (those of x), got ", o.rows);
  }
  check_kernel(call, &o);
  std::int64_t size[kMostAxes];
  for (int i = 0; i < kMostAxes; ++i) size[i] = transposed_size(call, o, i, more[i]);
  const std::int64_t channels = checked_mul(call.op, "groups", o.columns, o.groups);
  ConvArguments a = finish(call, o, channels, size);
  Conv2dProblem& p = a.problem;
  p.ic = channels;
  p.oc = o.channels;
  set_sizes(size, o.size, &p);
  return a;
}

Array take_grad_out(const ConvCall& call, const ConvArguments& a, const Array& x, py::handle h) {
  Array grad = take(call.op, "grad_out", h);
  require_same_dtype(call.op, "grad_out", grad, "x", x);
  require_out_shape(call, "grad_out", grad, a);
  return grad;
}

EpilogueArguments::EpilogueArguments(const ConvCall& call, const ConvArguments& a, const Array& x,
                                     py::handle bias_in, py::handle residual_in,
                                     py::handle activation_in)
    : bias(take_optional(call.op, "bias", bias_in)),
      residual(take_optional(call.op, "residual", residual_in)) {
  if (x.stored() != x->dtype) {
    bias = widened(call.op, "bias", std::move(bias));
    residual = widened(call.op, "residual", std::move(residual));
  }
  if (bias) {
    require_same_dtype(call.op, "bias", bias, "x", x);
    require_shape(call.op, "bias", bias, {a.out_channels});
  }
  if (residual) {
    require_same_dtype(call.op, "residual", residual, "x", x);
    require_out_shape(call, "residual", residual, a);
  }
  if (!activation_in.is_none()) {
    activation = activation_from_name(call.op, take_str(call.op, "activation", activation_in));
  }
}

}  // namespace arraynn
