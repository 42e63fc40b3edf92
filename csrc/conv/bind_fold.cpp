// Bindings of unfold and fold.
#include <algorithm>

#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/wide.hpp"
#include "conv/fold.hpp"

namespace arraynn {
namespace {

// The windows over an image of `size`.
FoldProblem take_problem(const char* op, const std::int64_t* size, py::handle kernel_size,
                         py::handle dilation, py::handle padding, py::handle stride) {
  std::int64_t kernel[2], dilations[2], strides[2], begin[2], end[2];
  take_ints(op, "kernel_size", kernel_size, 2, kernel);
  take_ints(op, "dilation", dilation, 2, dilations);
  take_ints(op, "stride", stride, 2, strides);
  if (PyUnicode_Check(padding.ptr())) {
    fail<ValueError>(op, "padding", "expected ints or pairs, got '",
                     take_str(op, "padding", padding), "'");
  }
  PadMode mode{};
  take_padding(op, padding, 2, begin, end, &mode);
  FoldProblem p{};
  for (int i = 0; i < 2; ++i) {
    if (kernel[i] < 1) fail<ValueError>(op, "kernel_size", "expected >= 1, got ", kernel[i]);
    if (strides[i] < 1) fail<ValueError>(op, "stride", "expected values >= 1, got ", strides[i]);
    if (dilations[i] < 1) {
      fail<ValueError>(op, "dilation", "expected values >= 1, got ", dilations[i]);
    }
    if (std::max(begin[i], end[i]) > kMaxBytes) {
      fail<OutOfMemory>(op, "padding", "expected at most 2**46, got ", std::max(begin[i], end[i]));
    }
    const std::int64_t reach = checked_mul(op, "kernel_size", kernel[i] - 1, dilations[i]) + 1;
    const std::int64_t padded = size[i] + begin[i] + end[i];
    if (padded < reach) {
      fail<ValueError>(op, "kernel_size", "expected a window that fits the padded image of ",
                       i == 0 ? "height " : "width ", padded, ", got a reach of ", reach);
    }
    FoldAxis& axis = i == 0 ? p.h : p.w;
    axis = FoldAxis{size[i],      kernel[i], strides[i],
                    dilations[i], begin[i],  (padded - reach) / strides[i] + 1};
  }
  checked_mul(op, "kernel_size", kernel[0], kernel[1]);
  return p;
}

py::object unfold(py::handle x_in, py::handle kernel_size, py::handle dilation, py::handle padding,
                  py::handle stride, py::handle out_in) {
  constexpr const char* kOp = "unfold";
  const Array x = take_wide(kOp, "x", x_in);
  require_storage(kOp, "x", x);
  require_ndim(kOp, "x", x, 4);
  FoldProblem p = take_problem(kOp, x->shape + 2, kernel_size, dilation, padding, stride);
  p.n = x->shape[0];
  p.c = x->shape[1];
  const std::int64_t shape[] = {p.n, checked_mul(kOp, "kernel_size", p.c, p.taps()),
                                checked_mul(kOp, "output", p.h.out, p.w.out)};
  checked_size(kOp, "output", shape, 3, 8);
  Output out(kOp, out_in, x.stored(), shape, 3, {&x});
  const WideResults results(kOp, {&out.view});
  dispatch_wide(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    run_unfold(p, x->as<const T>(), out.data<T>());
    results.narrow();
  });
  return out.finish(x);
}

py::object fold(py::handle x_in, py::handle output_size, py::handle kernel_size,
                py::handle dilation, py::handle padding, py::handle stride, py::handle out_in) {
  constexpr const char* kOp = "fold";
  const Array x = take_wide(kOp, "x", x_in);
  require_storage(kOp, "x", x);
  require_ndim(kOp, "x", x, 3);
  std::int64_t size[2];
  take_ints(kOp, "output_size", output_size, 2, size);
  if (std::min(size[0], size[1]) < 1) {
    fail<ValueError>(kOp, "output_size", "expected values >= 1, got ", std::min(size[0], size[1]));
  }
  if (std::max(size[0], size[1]) > kMaxBytes) {
    fail<OutOfMemory>(kOp, "output_size", "expected at most 2**46, got ",
                      std::max(size[0], size[1]));
  }
  FoldProblem p = take_problem(kOp, size, kernel_size, dilation, padding, stride);
  p.n = x->shape[0];
  if (x->shape[1] % p.taps() != 0) {
    fail<ValueError>(kOp, "x", "expected a multiple of the window's ", p.taps(),
                     " positions along axis 1, got ", x->shape[1]);
  }
  if (x->shape[2] != checked_mul(kOp, "output_size", p.h.out, p.w.out)) {
    fail<ValueError>(kOp, "x", "expected ", p.h.out, " x ", p.w.out, " windows along axis 2, got ",
                     x->shape[2]);
  }
  p.c = x->shape[1] / p.taps();
  const std::int64_t shape[] = {p.n, p.c, size[0], size[1]};
  checked_size(kOp, "output", shape, 4, 8);
  Output out(kOp, out_in, x.stored(), shape, 4, {&x});
  const WideResults results(kOp, {&out.view});
  dispatch_wide(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    run_fold(p, x->as<const T>(), out.data<T>());
    results.narrow();
  });
  return out.finish(x);
}

}  // namespace

void bind_fold(py::module_& m) {
  def(m, "unfold", &unfold);
  def(m, "fold", &fold);
}

}  // namespace arraynn
