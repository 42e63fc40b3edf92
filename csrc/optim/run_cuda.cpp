#include "bind/dtypes.hpp"
#include "optim/cuda.hpp"
#include "optim/run.hpp"

namespace arraynn {
namespace {

cuda::StepNumber number_of(const Number& n) {
  if (!n.array) return {n.value, nullptr, Dtype::kF64};
  return {0, n.array->as<const void>(), n.array->dtype};
}

}  // namespace

Array take_number_array(const char* op, const char* arg, py::handle h, bool whole) {
  if (PyFloat_Check(h.ptr()) || PyLong_Check(h.ptr())) return {};
  if (!py::hasattr(h, "__cuda_array_interface__")) return {};
  Array a = take(op, arg, h);
  require_ndim(op, arg, a, 0);
  const Dtype t = a->dtype;
  const bool integer = t == Dtype::kI32 || t == Dtype::kI64;
  if (t != Dtype::kF32 && t != Dtype::kF64 && !(whole && integer)) {
    fail<TypeError>(op, arg, "expected ", whole ? "int32, int64, " : "", "float32 or float64, got ",
                    dtype_text(a));
  }
  return a;
}

template <class Options>
py::object run_step(const StepLists& lists, const Gradient& gradient, const Options& options,
                    const Number& step, const Number& lr) {
  return dispatch_storage(lists.params->dtype, [&](auto tag) {
    const auto tensors = tensors_of<decltype(tag)>(lists);
    py::object norm = py::none(), scratch;
    cuda::Clipping clipping{};
    if (gradient.clip) {
      TensorView norm_view, scratch_view;
      norm = new_array("optim", Dtype::kF64, nullptr, 0, &norm_view);
      const std::int64_t count = 1 + cuda::chunk_count(tensors);
      scratch = new_array("optim", Dtype::kF64, &count, 1, &scratch_view);
      clipping = {scratch_view.as<double>() + 1, norm_view.as<double>(), scratch_view.as<double>(),
                  gradient.max_norm, gradient.scale < 0 ? -gradient.scale : gradient.scale};
    }
    {
      const py::gil_scoped_release nogil;
      if (gradient.clip) cuda::clip(tensors, clipping);
      const double factor = (gradient.maximize ? -1.0 : 1.0) / gradient.scale;
      cuda::step(tensors, cuda::StepOptions<Options>{options, number_of(step), number_of(lr),
                                                     factor, clipping.factor});
    }
    lists.write_back();
    return norm;
  });
}

#define ARRAYNN_INSTANTIATE(Options)                                                       \
  template py::object run_step<Options>(const StepLists&, const Gradient&, const Options&, \
                                        const Number&, const Number&);
ARRAYNN_INSTANTIATE(AdamOptions)
ARRAYNN_INSTANTIATE(SgdOptions)
ARRAYNN_INSTANTIATE(AdagradOptions)
ARRAYNN_INSTANTIATE(RmspropOptions)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
