// From lists of arrays to the kernels, defined once per device: run.cpp and run_cuda.cpp.
#pragma once
#include <vector>

#include "bind/list.hpp"
#include "optim/optim.hpp"

namespace arraynn {

// What is done to the gradients before they are used.
struct Gradient {
  double scale = 1.0;  // grad_scale
  bool clip = false, maximize = false;
  double max_norm = 0.0;
};

// Null for what a step does not use.
struct StepLists {
  const List *params, *grads, *first, *second, *largest;

  void write_back() const {
    for (const List* list : {params, first, second, largest}) {
      if (list != nullptr) list->write_back();
    }
  }
};

// The tensors that have elements, one behind the other in the flat run.
template <class T>
std::vector<OptimTensor<T>> tensors_of(const StepLists& lists) {
  std::vector<OptimTensor<T>> tensors;
  tensors.reserve(lists.params->items.size());
  std::int64_t begin = 0;
  for (std::size_t i = 0; i < lists.params->items.size(); ++i) {
    const std::int64_t size = lists.params->items[i].size;
    if (size == 0) continue;
    const auto pointer = [i](const List* list) {
      return list == nullptr ? nullptr : reinterpret_cast<T*>(list->items[i].data);
    };
    tensors.push_back({pointer(lists.params), pointer(lists.grads), pointer(lists.first),
                       pointer(lists.second), pointer(lists.largest), begin, begin + size});
    begin += size;
  }
  return tensors;
}

// A number of a step: known, or an array without dimensions on a GPU that is read as the step runs there.
// A graph that was captured reads it in every replay.
struct Number {
  double value = 0;
  Array array;
};
// `h` as such an array; one that tests false when it is none, always on the CPU.
Array take_number_array(const char* op, const char* arg, py::handle h, bool whole);

// Steps all tensors and writes strided ones back. Returns the global norm of the gradients when they
// are clipped by it, else None: a float from the CPU, an array without dimensions from a GPU, which is
// not waited for.
// `Options` are those of Adam, SGD, Adagrad or RMSprop; RMSprop does not ask for its step.
template <class Options>
py::object run_step(const StepLists& lists, const Gradient& gradient, const Options& options,
                    const Number& step, const Number& lr);

}  // namespace arraynn
