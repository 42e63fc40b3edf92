#include "optim/run.hpp"

#include <cmath>
#include <vector>

#include "core/index.hpp"
#include "core/parallel.hpp"

namespace arraynn {
namespace {

// Elements that make a second thread worth waking: some 0.4 MB of traffic each.
constexpr double kElementsPerThread = 1 << 15;

template <class T>
std::vector<OptimTensor<T>> flat_run(const List& params, const List& grads, const List* first,
                                     const List* second, const List* largest) {
  std::vector<OptimTensor<T>> tensors;
  tensors.reserve(params.items.size());
  std::int64_t begin = 0;
  const auto pointer = [](const List* list, std::size_t i) {
    return list == nullptr ? nullptr : reinterpret_cast<T*>(list->items[i].data);
  };
  for (std::size_t i = 0; i < params.items.size(); ++i) {
    const std::int64_t size = params.items[i].size;
    if (size == 0) continue;
    tensors.push_back({pointer(&params, i), pointer(&grads, i), pointer(first, i),
                       pointer(second, i), pointer(largest, i), begin, begin + size});
    begin += size;
  }
  return tensors;
}

// The factor on the gradients, and the global norm before clipping when that was asked for.
template <class T>
double gradient_factor(const std::vector<OptimTensor<T>>& tensors, const Gradient& g, int threads,
                       double* norm) {
  double factor = 1.0 / g.scale;
  if (g.clip) {
    std::int64_t chunks = 0;
    for (const auto& t : tensors) chunks += ceil_div(t.end - t.begin, kNormChunk);
    std::vector<double> sums(static_cast<std::size_t>(chunks));
    const auto count = static_cast<std::int64_t>(tensors.size());
    if constexpr (sizeof(T) == 4) {
      optim_kernels().square_sums_f32(tensors.data(), count, threads, sums.data());
    } else {
      optim_kernels().square_sums_f64(tensors.data(), count, threads, sums.data());
    }
    double total = 0;
    for (const double s : sums) total += s;
    *norm = std::sqrt(total) / std::abs(g.scale);
    // Written so that a NaN norm gives NaN, as clip_grad_norm_ does.
    const double clip = g.max_norm / (*norm + 1e-6);
    factor *= clip >= 1.0 ? 1.0 : clip;
  }
  return g.maximize ? -factor : factor;
}

py::object run(const StepLists& lists, const Gradient& gradient, const auto& step) {
  double norm = 0;
  dispatch_float(lists.params->dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto tensors =
        flat_run<T>(*lists.params, *lists.grads, lists.first, lists.second, lists.largest);
    const py::gil_scoped_release nogil;
    const double total = tensors.empty() ? 0.0 : static_cast<double>(tensors.back().end);
    const int threads = threads_for(total, kElementsPerThread);
    const double factor = gradient_factor(tensors, gradient, threads, &norm);
    step(tensors.data(), static_cast<std::int64_t>(tensors.size()), factor, threads);
  });
  for (const List* list : {lists.params, lists.first, lists.second, lists.largest}) {
    if (list != nullptr) list->write_back();
  }
  return gradient.clip ? py::object(py::float_(norm)) : py::object(py::none());
}

}  // namespace

Array take_number_array(const char*, const char*, py::handle, bool) { return {}; }

py::object run_adam(const StepLists& lists, const Gradient& gradient, const AdamOptions& options,
                    const Number& step, const Number& lr) {
  return run(lists, gradient,
             [&](const auto* tensors, std::int64_t count, double factor, int threads) {
               const AdamScalars s = adam_scalars(options, step.value, lr.value, factor);
               if constexpr (sizeof(*tensors->param) == 4) {
                 optim_kernels().adam_f32(tensors, count, s, threads);
               } else {
                 optim_kernels().adam_f64(tensors, count, s, threads);
               }
             });
}

py::object run_sgd(const StepLists& lists, const Gradient& gradient, const SgdOptions& options,
                   const Number& step, const Number& lr) {
  return run(lists, gradient,
             [&](const auto* tensors, std::int64_t count, double factor, int threads) {
               const SgdScalars s = sgd_scalars(options, step.value, lr.value, factor);
               if constexpr (sizeof(*tensors->param) == 4) {
                 optim_kernels().sgd_f32(tensors, count, s, threads);
               } else {
                 optim_kernels().sgd_f64(tensors, count, s, threads);
               }
             });
}

py::object run_adagrad(const StepLists& lists, const Gradient& gradient,
                       const AdagradOptions& options, const Number& step, const Number& lr) {
  return run(lists, gradient,
             [&](const auto* tensors, std::int64_t count, double factor, int threads) {
               const AdagradScalars s = adagrad_scalars(options, step.value, lr.value, factor);
               if constexpr (sizeof(*tensors->param) == 4) {
                 optim_kernels().adagrad_f32(tensors, count, s, threads);
               } else {
                 optim_kernels().adagrad_f64(tensors, count, s, threads);
               }
             });
}

py::object run_rmsprop(const StepLists& lists, const Gradient& gradient,
                       const RmspropOptions& options, const Number& lr) {
  return run(lists, gradient,
             [&](const auto* tensors, std::int64_t count, double factor, int threads) {
               const RmspropScalars s = rmsprop_scalars(options, lr.value, factor);
               if constexpr (sizeof(*tensors->param) == 4) {
                 optim_kernels().rmsprop_f32(tensors, count, s, threads);
               } else {
                 optim_kernels().rmsprop_f64(tensors, count, s, threads);
               }
             });
}

}  // namespace arraynn
