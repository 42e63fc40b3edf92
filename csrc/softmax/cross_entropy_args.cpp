#include "softmax/cross_entropy_args.hpp"

#include <algorithm>
#include <cmath>

#include "bind/check.hpp"

namespace arraynn {
namespace {

Reduction take_reduction(const char* op, py::handle h) {
  const std::string name = take_str(op, "reduction", h);
  if (name == "none") return Reduction::kNone;
  if (name == "sum") return Reduction::kSum;
  if (name == "mean") return Reduction::kMean;
  fail<ValueError>(op, "reduction", "expected 'none', 'sum' or 'mean', got '", name, "'");
}

}  // namespace

CrossEntropyArgs::CrossEntropyArgs(const char* op, NamedHandle logits_, py::handle target_,
                                   py::handle weight_, py::handle ignore_index,
                                   const py::handle* label_smoothing, py::handle reduction_)
    : name(logits_.name),
      logits(take(op, name, logits_.value)),
      target(take(op, "target", target_)),
      weight(take_optional(op, "weight", weight_)),
      reduction(take_reduction(op, reduction_)),
      ignore_index_(take_int(op, "ignore_index", ignore_index)),
      smoothing_(label_smoothing != nullptr ? take_finite(op, "label_smoothing", *label_smoothing)
                                            : 0) {
  require_float(op, name, logits);
  if (logits->ndim < 1) {
    fail<ValueError>(op, name, "expected (N, C, ...) or (C,), got 0 dimensions");
  }
  const int axis = logits->ndim == 1 ? 0 : 1;
  shape = {1, logits->shape[axis], 1};
  for (int i = 0; i < logits->ndim; ++i) {
    if (i == axis) continue;
    sample_shape[sample_ndim++] = logits->shape[i];
    (i < axis ? shape.outer : shape.inner) *= logits->shape[i];
  }
  samples = shape.outer * shape.inner;
  if (shape.n == 0 && samples > 0) {
    fail<ValueError>(op, name, "expected at least 1 class, got shape ",
                     shape_str(logits->shape, logits->ndim));
  }
  if (smoothing_ < 0 || smoothing_ > 1) {
    fail<ValueError>(op, "label_smoothing", "expected a value in [0, 1], got ", smoothing_);
  }
  if (weight) {
    require_same_dtype(op, "weight", weight, name, logits);
    require_shape(op, "weight", weight, {shape.n});
  }
  for (std::int64_t c = 0; c < shape.n; ++c) weight_sum_ += weight_at(c);
  const Dtype kind = target->dtype;
  const bool soft = kind == Dtype::kF32 || kind == Dtype::kF64;
  if (kind == Dtype::kI32 || kind == Dtype::kI64) {
    check_indices(op);
  } else if (soft && label_smoothing != nullptr) {
    require_like(op, "target", target, name, logits);
  } else {
    fail<TypeError>(op, "target", "expected int64 or int32 class indices",
                    label_smoothing != nullptr ? ", or probabilities of logits' dtype" : "",
                    ", got another dtype");
  }
}

double CrossEntropyArgs::weight_at(std::int64_t c) const {
  if (!weight) return 1;
  return weight->dtype == Dtype::kF32 ? static_cast<double>(weight->as<const float>()[c])
                                      : weight->as<const double>()[c];
}

void CrossEntropyArgs::check_indices(const char* op) {
  if (target->ndim != sample_ndim || !std::equal(sample_shape, sample_shape + sample_ndim,
                                                 static_cast<const std::int64_t*>(target->shape))) {
    fail<ValueError>(op, "target", "expected shape ", shape_str(sample_shape, sample_ndim), " for ",
                     name, " of shape ", shape_str(logits->shape, logits->ndim), ", got ",
                     shape_str(target->shape, target->ndim));
  }
  if (target->dtype == Dtype::kI32) {
    TensorView view;
    widened_ = new_array(op, Dtype::kI64, target->shape, target->ndim, &view);
    std::copy_n(target->as<const std::int32_t>(), samples, view.as<std::int64_t>());
    indices_ = view.as<const std::int64_t>();
  } else {
    indices_ = target->as<const std::int64_t>();
  }
  for (std::int64_t i = 0; i < samples; ++i) {
    const std::int64_t y = indices_[i];
    if ((y < 0 || y >= shape.n) && y != ignore_index_) {
      fail<ValueError>(op, "target", "expected class indices in [0, ", shape.n,
                       ") or ignore_index ", ignore_index_, ", got ", y);
    }
  }
}

double CrossEntropyArgs::divisor() const {
  if (indices_ == nullptr) return static_cast<double>(samples);
  CompensatedSum total;
  for (std::int64_t i = 0; i < samples; ++i) {
    if (indices_[i] != ignore_index_) total.add(weight_at(indices_[i]));
  }
  return total.value();
}

}  // namespace arraynn
