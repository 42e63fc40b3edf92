// The functions of simd/math.hpp and simd/storage.hpp by themselves, for their tests.
#include "bind/array.hpp"
#include "bind/module_parts.hpp"
#include "core/parallel.hpp"
#include "elementwise/convert.hpp"
#include "elementwise/elementwise.hpp"

namespace arraynn {
namespace {

MathFunction math_function(const std::string& name) {
  static constexpr const char* kNames[] = {"exp",        "expm1", "log",
                                           "log1p_unit", "erf",   "normal_cdf"};
  for (int i = 0; i < 6; ++i) {
    if (name == kNames[i]) return static_cast<MathFunction>(i);
  }
  fail<ValueError>("elementwise_unary", "name", "expected a function of simd/math.hpp, got '", name,
                   "'");
}

py::object elementwise_unary(const std::string& name, py::handle x_) {
  const char* op = "elementwise_unary";
  const MathFunction f = math_function(name);
  const Array x = take(op, "x", x_);
  require_float(op, "x", x);
  Output out(op, py::none(), x->dtype, x->shape, x->ndim);
  dispatch_float(x->dtype, [&](auto tag) {
    using T = decltype(tag);
    run_math(f, x->as<const T>(), out.data<T>(), x->size());
  });
  return out.finish(x);
}

template <class S>
void convert(const Array& x, const Output& out, Denormals mode) {
  const auto kernels = convert_kernels().of<S>();
  parallel(1, mode, [&](int, int) {
    if (x->dtype == Dtype::kF32) {
      kernels.narrow(x->as<const float>(), out.data<S>(), x->size());
    } else {
      kernels.widen(x->as<const S>(), out.data<float>(), x->size());
    }
  });
}

// Of 16-bit floats into float32 and back, out's.
py::object elementwise_convert(py::handle x_, py::handle out_, bool flush) {
  const char* op = "elementwise_convert";
  const Array x = take(op, "x", x_), to = take(op, "out", out_);
  const Dtype narrow = x->dtype == Dtype::kF32 ? to->dtype : x->dtype;
  if (compute_dtype(x->dtype) != Dtype::kF32 || compute_dtype(to->dtype) != Dtype::kF32 ||
      narrow == Dtype::kF32) {
    fail<TypeError>(op, "x", "expected float32 and a float of 16 bits");
  }
  Output out(op, out_, narrow == x->dtype ? Dtype::kF32 : narrow, x->shape, x->ndim, {&x});
  const Denormals mode = flush ? Denormals::kFlush : Denormals::kKeep;
  if (narrow == Dtype::kF16) {
    convert<Half>(x, out, mode);
  } else {
    convert<Bfloat16>(x, out, mode);
  }
  return out.finish(x);
}

}  // namespace

void bind_elementwise_math(py::module_& m) {
  m.def("elementwise_unary", &elementwise_unary, py::arg("name"), py::arg("x"));
  m.def("elementwise_convert", &elementwise_convert, py::arg("x"), py::arg("out"),
        py::arg("flush"));
}

}  // namespace arraynn
