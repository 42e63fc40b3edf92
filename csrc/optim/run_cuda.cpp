#include "bind/dtypes.hpp"
#include "optim/cuda.hpp"
#include "optim/run.hpp"

namespace arraynn {
namespace {

template <class T>
std::vector<OptimTensor<T>> tensors_of(const StepLists& lists) {
  std::vector<OptimTensor<T>> tensors;
  tensors.reserve(lists.params->items.size());
  const auto pointer = [](const List* list, std::size_t i) {
    return list == nullptr ? nullptr : reinterpret_cast<T*>(list->items[i].data);
  };
  for (std::size_t i = 0; i < lists.params->items.size(); ++i) {
    const std::int64_t size = lists.params->items[i].size;
    if (size == 0) continue;
    tensors.push_back({pointer(lists.params, i), pointer(lists.grads, i), pointer(lists.first, i),
                       pointer(lists.second, i), pointer(lists.largest, i), 0, size});
  }
  return tensors;
}

cuda::StepNumber number_of(const Number& n) {
  if (!n.array) return {n.value, nullptr, Dtype::kF64};
  return {0, n.array->as<const void>(), n.array->dtype};
}

// step(tensors, options)
template <class Options, class Step>
py::object run(const StepLists& lists, const Gradient& gradient, const Options& options,
               const Number& t, const Number& lr, const Step& step) {
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
      step(tensors, cuda::StepOptions<Options>{options, number_of(t), number_of(lr), factor,
                                               clipping.factor});
    }
    for (const List* list : {lists.params, lists.first, lists.second, lists.largest}) {
      if (list != nullptr) list->write_back();
    }
    return norm;
  });
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

py::object run_adam(const StepLists& lists, const Gradient& gradient, const AdamOptions& options,
                    const Number& step, const Number& lr) {
  return run(lists, gradient, options, step, lr,
             [](const auto&... arguments) { cuda::adam(arguments...); });
}

py::object run_sgd(const StepLists& lists, const Gradient& gradient, const SgdOptions& options,
                   const Number& step, const Number& lr) {
  return run(lists, gradient, options, step, lr,
             [](const auto&... arguments) { cuda::sgd(arguments...); });
}

py::object run_adagrad(const StepLists& lists, const Gradient& gradient,
                       const AdagradOptions& options, const Number& step, const Number& lr) {
  return run(lists, gradient, options, step, lr,
             [](const auto&... arguments) { cuda::adagrad(arguments...); });
}

py::object run_rmsprop(const StepLists& lists, const Gradient& gradient,
                       const RmspropOptions& options, const Number& lr) {
  return run(lists, gradient, options, Number{1, {}}, lr,
             [](const auto&... arguments) { cuda::rmsprop(arguments...); });
}

}  // namespace arraynn
