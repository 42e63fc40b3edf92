// Arguments that the bindings of the pooling family share.
#pragma once
#include "bind/array.hpp"
#include "pool/volume.hpp"

namespace arraynn {

inline constexpr int kMaxPoolAxes = 3;

// `axes` spatial axes, 1 to 3; y_shape has two sizes more. A volume that is pooled as a whole is a
// signal, whose axis is the width of `problem`; of other volumes `problem` is the plane.
struct PoolArguments {
  PoolProblem problem;
  PoolAxis depth;
  int axes;
  bool volume;
  std::int64_t y_shape[kMaxPoolAxes + 2];

  // Of the input, in one plane or volume.
  std::int64_t positions() const {
    return problem.h.size * problem.w.size * (volume ? depth.size : 1);
  }
  // f(VolumeProblem) or f(PoolProblem).
  template <class F>
  decltype(auto) visit(const F& f) const {
    return volume ? f(VolumeProblem{problem, depth}) : f(problem);
  }
};

// What messages call the arguments of a window.
struct WindowNames {
  const char* kernel_size = "kernel_size";
  const char* stride = "stride";
  const char* padding = "padding";
  const char* dilation = "dilation";
};

PoolArguments take_windows(const char* op, int axes, const std::int64_t* x_shape,
                           py::handle kernel_size, py::handle stride, py::handle padding,
                           py::handle dilation, py::handle ceil_mode, py::handle layout,
                           const WindowNames& names = {});
AverageDivisor take_divisor(const char* op, py::handle count_include_pad, py::handle fixed);
// output_size: an int, `axes` of them, or None for the size of the input.
PoolArguments take_adaptive(const char* op, int axes, const std::int64_t* x_shape,
                            py::handle output_size, py::handle layout);
// One window over everything.
PoolArguments take_global(const char* op, int axes, const std::int64_t* x_shape, py::handle layout);

// x of `axes` spatial axes; with axes = 0 any number of them, which is returned.
int require_planes(const char* op, const Array& x, int axes);
// x, whose axes are counted there; likewise that of a gradient which needs it.
Array take_x(const char* op, py::handle x_in, int* axes);
Array take_x_like(const char* op, py::handle x_in, const Array& dy, int* axes);
Array take_grad(const char* op, py::handle grad_in);
// x_shape, likewise.
int take_x_shape(const char* op, py::handle h, int axes, std::int64_t* x_shape);
void require_y_shape(const char* op, const char* arg, const Array& array, const PoolArguments& a);

// Whether every index lies in planes of `size` elements, or is -1 where windows may be empty. Asked before
// memory of the caller's is written; of a result of our own the kernels tell, and it is dropped.
bool are_inside(const Array& indices, std::int64_t size, const PoolArguments* windows = nullptr);

// The calls behind every max and average pooling.
py::object run_max(const char* op, const PoolArguments& a, const Array& x,
                   py::handle return_indices, py::handle out);
py::object run_max_backward(const char* op, const PoolArguments& a, const Array& dy, const Array& x,
                            py::handle indices, py::handle out);
py::object run_average(const char* op, const PoolArguments& a, const AverageDivisor& d,
                       const Array& x, py::handle out);
py::object run_average_backward(const char* op, const PoolArguments& a, const AverageDivisor& d,
                                const Array& dy, const std::int64_t* x_shape, py::handle out);

}  // namespace arraynn
