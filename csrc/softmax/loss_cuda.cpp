#include "softmax/cross_entropy_args.hpp"
#include "softmax/cuda.hpp"

namespace arraynn {
namespace {

template <class T>
cuda::LossProblem<T> loss_of(const CrossEntropyArgs& args) {
  const Dtype kind = args.target->dtype;
  return {args.shape,
          args.reduction,
          args.logits->as<const T>(),
          kind == Dtype::kI64 ? args.target->as<const std::int64_t>() : nullptr,
          kind == Dtype::kI32 ? args.target->as<const std::int32_t>() : nullptr,
          args.has_indices() ? nullptr : args.target->as<const T>(),
          args.weight ? args.weight->as<const T>() : nullptr,
          args.ignore_index,
          args.smoothing};
}

}  // namespace

template <class T>
void compute_loss(Loss kind, const CrossEntropyArgs& args, T* out) {
  const auto loss = loss_of<T>(args);
  kind == Loss::kNll ? cuda::nll_loss(loss, out) : cuda::cross_entropy(loss, out);
}

template <class T>
void compute_loss_gradient(Loss kind, const CrossEntropyArgs& args, const T* grad_out, double scale,
                           T* dx) {
  const auto loss = loss_of<T>(args);
  if (kind == Loss::kNll) {
    cuda::nll_loss_backward(loss, grad_out, scale, dx);
  } else {
    cuda::cross_entropy_backward(loss, grad_out, scale, dx);
  }
}

#define ARRAYNN_INSTANTIATE(T)                                      \
  template void compute_loss<T>(Loss, const CrossEntropyArgs&, T*); \
  template void compute_loss_gradient<T>(Loss, const CrossEntropyArgs&, const T*, double, T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
