// The functions of simd/math.hpp by themselves, for the tests of their errors.
#include "bind/array.hpp"
#include "bind/module_parts.hpp"
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

}  // namespace

void bind_elementwise_math(py::module_& m) {
  m.def("elementwise_unary", &elementwise_unary, py::arg("name"), py::arg("x"));
}

}  // namespace arraynn
