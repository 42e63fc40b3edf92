// The checked arguments of cross_entropy, nll_loss and their gradients.
#pragma once
#include <cmath>

#include "bind/array.hpp"
#include "core/arena.hpp"
#include "softmax/softmax.hpp"

namespace arraynn {

enum class Reduction : std::uint8_t { kNone, kSum, kMean };

// An argument as the caller named it.
struct NamedHandle {
  const char* name;
  py::handle value;
};

struct CrossEntropyArgs {
  // Without label_smoothing (nll_loss) targets are class indices.
  CrossEntropyArgs(const char* op, NamedHandle logits, py::handle target, py::handle weight,
                   py::handle ignore_index, const py::handle* label_smoothing,
                   py::handle reduction);

  const char* name;  // of logits
  Array logits, target, weight;
  Reduction reduction = Reduction::kMean;
  SoftmaxShape shape{};
  std::int64_t samples = 0;
  std::int64_t sample_shape[kMaxDims] = {};  // logits' without the class axis
  int sample_ndim = 0;

  template <class T>
  CrossEntropy<T> problem() const {
    return {shape,
            logits->as<const T>(),
            indices_,
            indices_ == nullptr ? target->as<const T>() : nullptr,
            weight ? weight->as<const T>() : nullptr,
            ignore_index_,
            smoothing_,
            weight_sum_};
  }
  // Of the mean: the weights of the targets that count, or the number of samples.
  double divisor() const;

 private:
  void check_indices(const char* op);
  double weight_at(std::int64_t c) const;

  std::int64_t ignore_index_ = -100;
  double smoothing_ = 0, weight_sum_ = 0;
  const std::int64_t* indices_ = nullptr;  // nullptr: probabilities
  py::object widened_;                     // int64 copy of an int32 target
};

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

template <class T>
double ordered_sum(const T* values, std::int64_t n) {
  CompensatedSum total;
  for (std::int64_t i = 0; i < n; ++i) total.add(static_cast<double>(values[i]));
  return total.value();
}

}  // namespace arraynn
