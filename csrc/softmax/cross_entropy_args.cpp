#include "softmax/cross_entropy_args.hpp"

#include <algorithm>

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

CrossEntropyArgs::CrossEntropyArgs(const char* op_, NamedHandle logits_, py::handle target_,
                                   py::handle weight_, py::handle ignore_index_,
                                   const py::handle* label_smoothing, py::handle reduction_)
    : op(op_),
      name(logits_.name),
      logits(take(op, name, logits_.value)),
      target(take(op, "target", target_)),
      weight(take_optional(op, "weight", weight_)),
      reduction(take_reduction(op, reduction_)),
      ignore_index(take_int(op, "ignore_index", ignore_index_)),
      smoothing(label_smoothing != nullptr ? take_finite(op, "label_smoothing", *label_smoothing)
                                           : 0) {
  require_storage(op, name, logits);
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
  if (smoothing < 0 || smoothing > 1) {
    fail<ValueError>(op, "label_smoothing", "expected a value in [0, 1], got ", smoothing);
  }
  if (weight) {
    require_same_dtype(op, "weight", weight, name, logits);
    require_shape(op, "weight", weight, {shape.n});
  }
  const Dtype kind = target->dtype;
  const bool soft = is_storage(kind);
  if (has_indices()) {
    if (target->ndim != sample_ndim ||
        !std::equal(sample_shape, sample_shape + sample_ndim,
                    static_cast<const std::int64_t*>(target->shape))) {
      fail<ValueError>(op, "target", "expected shape ", shape_str(sample_shape, sample_ndim),
                       " for ", name, " of shape ", shape_str(logits->shape, logits->ndim),
                       ", got ", shape_str(target->shape, target->ndim));
    }
  } else if (soft && label_smoothing != nullptr) {
    require_like(op, "target", target, name, logits);
  } else {
    fail<TypeError>(op, "target", "expected int64 or int32 class indices",
                    label_smoothing != nullptr ? ", or probabilities of logits' dtype" : "",
                    ", got another dtype");
  }
}

}  // namespace arraynn
