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

// step(tensors, factor from the arguments, factor from the device or nullptr).
template <class T>
py::object run(const StepLists& lists, const Gradient& gradient, const auto& step) {
  const auto tensors = tensors_of<T>(lists);
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
    step(tensors, factor, clipping.factor);
  }
  for (const List* list : {lists.params, lists.first, lists.second, lists.largest}) {
    if (list != nullptr) list->write_back();
  }
  return norm;
}

template <class Scalars, class Step>
py::object dispatch(const StepLists& lists, const Gradient& gradient, Scalars scalars,
                    const Step& step) {
  return dispatch_storage(lists.params->dtype, [&](auto tag) {
    using T = decltype(tag);
    return run<T>(lists, gradient, [&](const auto& tensors, double factor, const double* clip) {
      scalars.gradient_factor = factor;
      step(tensors, scalars, clip);
    });
  });
}

}  // namespace

py::object run_adam(const StepLists& lists, const Gradient& gradient, AdamScalars scalars) {
  return dispatch(lists, gradient, scalars,
                  [](const auto&... arguments) { cuda::adam(arguments...); });
}

py::object run_sgd(const StepLists& lists, const Gradient& gradient, SgdScalars scalars) {
  return dispatch(lists, gradient, scalars,
                  [](const auto&... arguments) { cuda::sgd(arguments...); });
}

}  // namespace arraynn
