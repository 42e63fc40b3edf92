// From lists of arrays to the kernels, defined once per device: run.cpp and run_cuda.cpp.
#pragma once
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
};

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
py::object run_adam(const StepLists& lists, const Gradient& gradient, const AdamOptions& options,
                    const Number& step, const Number& lr);
py::object run_sgd(const StepLists& lists, const Gradient& gradient, const SgdOptions& options,
                   const Number& step, const Number& lr);

py::object run_adagrad(const StepLists& lists, const Gradient& gradient,
                       const AdagradOptions& options, const Number& step, const Number& lr);
py::object run_rmsprop(const StepLists& lists, const Gradient& gradient,
                       const RmspropOptions& options, const Number& lr);

}  // namespace arraynn
