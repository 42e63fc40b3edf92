// Bindings of max unpooling.
#include "bind/array.hpp"
#include "bind/binders.hpp"
#include "bind/call.hpp"
#include "bind/check.hpp"
#include "bind/wide.hpp"
#include "pool/arguments.hpp"
#if defined(ARRAYNN_CUDA)
#include "pool/cuda.hpp"
#endif

namespace arraynn {
namespace {

// Names by the number of spatial axes.
constexpr const char* kUnpool[] = {"", "max_unpool1d", "max_unpool2d", "max_unpool3d"};
constexpr const char* kUnpoolBackward[] = {"", "max_unpool1d_backward", "max_unpool2d_backward",
                                           "max_unpool3d_backward"};

Array take_indices(const char* op, py::handle h) {
  Array indices = take(op, "indices", h);
  if (indices->dtype != Dtype::kI64) {
    fail<TypeError>(op, "indices", "expected int64, got ", dtype_name(indices->dtype));
  }
  return indices;
}

std::int64_t plane_size(const std::int64_t* shape, int axes, bool channels_last) {
  const std::int64_t* sizes = shape + (channels_last ? 1 : 2);
  std::int64_t product = 1;
  for (int i = 0; i < axes; ++i) product *= sizes[i];
  return product;
}

[[noreturn]] void fail_outside(const char* op, std::int64_t size) {
  fail<ValueError>(op, "indices", "expected positions in output planes of ", size,
                   " elements, got one outside");
}

// The output's size along one axis: what a pooling of these numbers reads, or `wanted`, which such
// a pooling could have read as well.
std::int64_t unpooled_size(const char* op, std::int64_t in, std::int64_t kernel,
                           std::int64_t stride, std::int64_t padding, const std::int64_t* wanted) {
  if (kernel < 1) fail<ValueError>(op, "kernel_size", "expected >= 1, got ", kernel);
  if (stride < 1) fail<ValueError>(op, "stride", "expected values >= 1, got ", stride);
  if (padding < 0) fail<ValueError>(op, "padding", "expected values >= 0, got ", padding);
  checked_mul(op, "kernel_size", kernel, 1);
  checked_mul(op, "padding", padding, 2);
  const std::int64_t size =
      checked_mul(op, "stride", std::max<std::int64_t>(in - 1, 0), stride) + kernel - 2 * padding;
  const std::int64_t got = wanted != nullptr ? *wanted : size;
  if (wanted != nullptr && (got <= size - stride || got >= size + stride)) {
    fail<ValueError>(op, "output_size", "expected sizes between ", size - stride, " and ",
                     size + stride, ", both excluded, got ", got);
  }
  if (got < 1) fail<ValueError>(op, "output_size", "expected sizes >= 1, got ", got);
  return got;
}

template <int kAxes>
py::object unpool_forward(py::handle x_in, py::handle indices_in, py::handle kernel_size,
                          py::handle stride, py::handle padding, py::handle output_size,
                          py::handle layout, py::handle out_in) {
  constexpr const char* kOp = kUnpool[kAxes];
  int axes = kAxes;
  const Array x = take_x(kOp, x_in, &axes);
  const Array indices = take_indices(kOp, indices_in);
  if (indices->ndim != x->ndim || !std::equal(x->shape, x->shape + x->ndim, indices->shape)) {
    fail<ValueError>(kOp, "indices", "expected shape ", shape_str(x->shape, x->ndim),
                     " (the shape of x), got ", shape_str(indices->shape, indices->ndim));
  }
  const bool last = take_channels_last(kOp, layout);
  std::int64_t kernels[kAxes], strides[kAxes], pads[kAxes], wanted[kAxes];
  take_ints(kOp, "kernel_size", kernel_size, kAxes, kernels);
  take_ints(kOp, "stride", stride.is_none() ? kernel_size : stride, kAxes, strides);
  take_ints(kOp, "padding", padding, kAxes, pads);
  const bool given = !output_size.is_none();
  if (given) take_ints(kOp, "output_size", output_size, kAxes, wanted);
  std::int64_t shape[kAxes + 2];
  std::copy_n(x->shape, kAxes + 2, shape);
  for (int i = 0; i < kAxes; ++i) {
    std::int64_t& size = shape[(last ? 1 : 2) + i];
    size = unpooled_size(kOp, size, kernels[i], strides[i], pads[i], given ? wanted + i : nullptr);
  }
  checked_size(kOp, "output", shape, kAxes + 2, 8);
  const UnpoolProblem p{shape[0], shape[last ? kAxes + 1 : 1], plane_size(x->shape, kAxes, last),
                        plane_size(shape, kAxes, last), last};
  Output out(kOp, out_in, x.stored(), shape, kAxes + 2, {&x, &indices});
  const WideResults results(kOp, {&out.view});
  if (!out_in.is_none() && !are_inside(indices, p.out)) fail_outside(kOp, p.out);
#if defined(ARRAYNN_CUDA)
  const std::int64_t bytes = cuda::unpool_scratch_bytes(p);
  const Output scratch(kOp, py::none(), Dtype::kU8, &bytes, 1);
#endif
  const bool good = dispatch_wide(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
#if defined(ARRAYNN_CUDA)
    cuda::max_unpool(p, x->as<const T>(), indices->as<const std::int64_t>(), out.data<T>(),
                     scratch.data<void>());
    return true;
#else
    if (!max_unpool(p, x->as<const T>(), indices->as<const std::int64_t>(), out.data<T>())) {
      return false;
    }
    results.narrow();
    return true;
#endif
  });
  if (!good) fail_outside(kOp, p.out);
  return out.finish(x);
}

template <int kAxes>
py::object unpool_backward(py::handle grad_in, py::handle indices_in, py::handle layout,
                           py::handle out) {
  constexpr const char* kOp = kUnpoolBackward[kAxes];
  const Array dy = take_grad(kOp, grad_in);
  require_ndim(kOp, "grad_out", dy, kAxes + 2);
  const Array indices = take_indices(kOp, indices_in);
  require_ndim(kOp, "indices", indices, kAxes + 2);
  const bool last = take_channels_last(kOp, layout);
  const int channel = last ? kAxes + 1 : 1;
  if (indices->shape[0] != dy->shape[0] || indices->shape[channel] != dy->shape[channel]) {
    fail<ValueError>(kOp, "indices", "expected ", dy->shape[0], " samples of ", dy->shape[channel],
                     " channels, as grad_out has, got ", indices->shape[0], " of ",
                     indices->shape[channel]);
  }
  const UnpoolProblem p{dy->shape[0], dy->shape[channel], plane_size(indices->shape, kAxes, last),
                        plane_size(dy->shape, kAxes, last), last};
  Output dx(kOp, out, dy.stored(), indices->shape, kAxes + 2, {&dy, &indices});
  const WideResults results(kOp, {&dx.view});
  if (!out.is_none() && !are_inside(indices, p.out)) fail_outside(kOp, p.out);
  const bool good = dispatch_wide(dy->dtype, [&](auto tag) {
    using T = decltype(tag);
    const py::gil_scoped_release nogil;
    const bool inside =
        max_unpool_backward(p, dy->as<const T>(), indices->as<const std::int64_t>(), dx.data<T>());
    if (inside) results.narrow();
    return inside;
  });
  if (!good) fail_outside(kOp, p.out);
  return dx.finish(dy);
}

template <int kAxes>
void bind_axes(py::module_& m) {
  def(m, kUnpool[kAxes], &unpool_forward<kAxes>);
  def(m, kUnpoolBackward[kAxes], &unpool_backward<kAxes>);
}

}  // namespace

void bind_unpool(py::module_& m) {
  bind_axes<1>(m);
  bind_axes<2>(m);
  bind_axes<3>(m);
}

}  // namespace arraynn
