// The entry points of one ISA, one unit each, collected into its table by cpu_max.cpp.
#pragma once
#include "pool/pool.hpp"
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

#define ARRAYNN_AVERAGE(T, suffix)                                                           \
  void average_##suffix(const PoolProblem& p, const AverageDivisor& d, const T* x, T* y,     \
                        Range rows, void* scratch);                                          \
  void average_backward_##suffix(const PoolProblem& p, const AverageDivisor& d, const T* dy, \
                                 T* dx, Range rows, void* scratch);
ARRAYNN_AVERAGE(float, f32)
ARRAYNN_AVERAGE(double, f64)
#undef ARRAYNN_AVERAGE

}  // namespace ARRAYNN_ISA_NAMESPACE
