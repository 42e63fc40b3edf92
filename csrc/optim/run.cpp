#include "optim/run.hpp"

#include <cmath>
#include <vector>

#include "core/index.hpp"
#include "core/parallel.hpp"

namespace arraynn {
namespace {

// Elements that make a second thread worth waking: some 0.4 MB of traffic each.
constexpr double kElementsPerThread = 1 << 15;

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
    optim_kernels().of<T>().square_sums(tensors.data(), count, threads, sums.data());
    double total = 0;
    for (const double s : sums) total += s;
    *norm = std::sqrt(total) / std::abs(g.scale);
    // Written so that a NaN norm gives NaN, as clip_grad_norm_ does.
    const double clip = g.max_norm / (*norm + 1e-6);
    factor *= clip >= 1.0 ? 1.0 : clip;
  }
  return g.maximize ? -factor : factor;
}

template <class T>
OptimStep<T, AdamScalars> kernel_for(const AdamOptions&) {
  return optim_kernels().of<T>().adam;
}
template <class T>
OptimStep<T, SgdScalars> kernel_for(const SgdOptions&) {
  return optim_kernels().of<T>().sgd;
}
template <class T>
OptimStep<T, AdagradScalars> kernel_for(const AdagradOptions&) {
  return optim_kernels().of<T>().adagrad;
}
template <class T>
OptimStep<T, RmspropScalars> kernel_for(const RmspropOptions&) {
  return optim_kernels().of<T>().rmsprop;
}

}  // namespace

Array take_number_array(const char*, const char*, py::handle, bool) { return {}; }

template <class Options>
py::object run_step(const StepLists& lists, const Gradient& gradient, const Options& options,
                    const Number& step, const Number& lr) {
  double norm = 0;
  dispatch_storage(lists.params->dtype, [&](auto tag) {
    using T = decltype(tag);
    const auto tensors = tensors_of<T>(lists);
    const py::gil_scoped_release nogil;
    const double total = tensors.empty() ? 0.0 : static_cast<double>(tensors.back().end);
    const int threads = threads_for(total, kElementsPerThread);
    const double factor = gradient_factor(tensors, gradient, threads, &norm);
    kernel_for<T>(options)(tensors.data(), static_cast<std::int64_t>(tensors.size()),
                           step_scalars(options, step.value, lr.value, factor), threads);
  });
  lists.write_back();
  return gradient.clip ? py::object(py::float_(norm)) : py::object(py::none());
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
