// The losses of the CPU from checked arguments.
#include <algorithm>
#include <cmath>

#include "core/arena.hpp"
#include "elementwise/convert.hpp"
#include "softmax/cross_entropy_args.hpp"

namespace arraynn {
namespace {

// A sum in order that carries its rounding errors along (A. Neumaier, ZAMM 54, 1974).
struct CompensatedSum {
  double sum = 0, error = 0;

  void add(double x) {
    const double next = sum + x;
    const double lost = std::abs(sum) >= std::abs(x) ? (sum - next) + x : (x - next) + sum;
    if (std::isfinite(lost)) error += lost;
    sum = next;
  }
  double value() const { return sum + error; }
};

// Class indices as int64, all of them looked at.
class Indices {
 public:
  explicit Indices(const CrossEntropyArgs& args)
      : widened_(args.op, args.target->dtype == Dtype::kI32
                              ? static_cast<std::size_t>(args.samples) * sizeof(std::int64_t)
                              : 0) {
    if (!args.has_indices()) return;
    data_ = args.target->as<const std::int64_t>();
    if (args.target->dtype == Dtype::kI32) {
      auto* wide = static_cast<std::int64_t*>(widened_.data());
      std::copy_n(args.target->as<const std::int32_t>(), args.samples, wide);
      data_ = wide;
    }
    for (std::int64_t i = 0; i < args.samples; ++i) {
      const std::int64_t y = data_[i];
      if ((y < 0 || y >= args.shape.n) && y != args.ignore_index) {
        fail<ValueError>(args.op, "target", "expected class indices in [0, ", args.shape.n,
                         ") or ignore_index ", args.ignore_index, ", got ", y);
      }
    }
  }
  const std::int64_t* data() const { return data_; }

 private:
  Scratch widened_;
  const std::int64_t* data_ = nullptr;  // nullptr: probabilities
};

template <class T>
CrossEntropy<T> problem_of(const CrossEntropyArgs& args, const Indices& indices,
                           const Compute<T>* weight) {
  double weight_sum = 0;
  for (std::int64_t c = 0; c < args.shape.n; ++c) {
    weight_sum += weight != nullptr ? static_cast<double>(weight[c]) : 1.0;
  }
  return {args.shape,     args.logits->as<const T>(),
          indices.data(), indices.data() == nullptr ? args.target->as<const T>() : nullptr,
          weight,         args.ignore_index,
          args.smoothing, weight_sum};
}

template <class T>
WideCopy<T> weight_of(const CrossEntropyArgs& args) {
  return {args.op, args.weight ? args.weight->as<const T>() : nullptr, args.shape.n};
}

// Of the mean: the weights of the targets that count, or the number of samples.
template <class T>
double divisor_of(const CrossEntropy<T>& p, std::int64_t samples) {
  if (p.target == nullptr) return static_cast<double>(samples);
  CompensatedSum total;
  for (std::int64_t i = 0; i < samples; ++i) {
    if (p.target[i] == p.ignore_index) continue;
    total.add(p.weight != nullptr ? static_cast<double>(p.weight[p.target[i]]) : 1.0);
  }
  return total.value();
}

}  // namespace

template <class T>
void compute_loss(Loss kind, const CrossEntropyArgs& args, T* out) {
  using C = Compute<T>;
  const Indices indices(args);
  const WideCopy<T> weight = weight_of<T>(args);
  const CrossEntropy<T> p = problem_of<T>(args, indices, weight.data());
  if (args.reduction == Reduction::kNone) {
    const NarrowResult<T> losses(args.op, out, args.samples);
    run_loss(kind, p, losses.data());
    return losses.finish();
  }
  const Scratch losses(args.op, static_cast<std::size_t>(args.samples) * sizeof(C));
  auto* per_sample = static_cast<C*>(losses.data());
  run_loss(kind, p, per_sample);
  CompensatedSum total;
  for (std::int64_t i = 0; i < args.samples; ++i) total.add(static_cast<double>(per_sample[i]));
  const bool mean = args.reduction == Reduction::kMean;
  const double loss = mean ? total.value() / divisor_of(p, args.samples) : total.value();
  *out = narrow_of<T>(static_cast<C>(loss));
}

template <class T>
void compute_loss_gradient(Loss kind, const CrossEntropyArgs& args, const T* grad_out, double scale,
                           T* dx) {
  const Indices indices(args);
  const WideCopy<T> weight = weight_of<T>(args);
  const CrossEntropy<T> p = problem_of<T>(args, indices, weight.data());
  const bool none = args.reduction == Reduction::kNone;
  const WideCopy<T> gradients(args.op, none ? grad_out : nullptr, args.samples);
  if (!none && grad_out != nullptr) scale = static_cast<double>(wide_of(*grad_out));
  if (args.reduction == Reduction::kMean) scale /= divisor_of(p, args.samples);
  run_loss_backward(kind, p, gradients.data(), static_cast<Compute<T>>(scale), dx);
}

#define ARRAYNN_INSTANTIATE(T)                                      \
  template void compute_loss<T>(Loss, const CrossEntropyArgs&, T*); \
  template void compute_loss_gradient<T>(Loss, const CrossEntropyArgs&, const T*, double, T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
