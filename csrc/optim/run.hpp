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

// Steps all tensors and writes strided ones back. Returns the global norm of the gradients when they
// are clipped by it, else None: a float from the CPU, an array without dimensions from a GPU, which is
// not waited for. gradient_factor of the scalars is set here.
py::object run_adam(const StepLists& lists, const Gradient& gradient, AdamScalars scalars);
py::object run_sgd(const StepLists& lists, const Gradient& gradient, SgdScalars scalars);

}  // namespace arraynn
