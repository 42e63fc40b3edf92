// The entry points of one ISA, collected into its table by cpu_max.cpp.
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

#define ARRAYNN_LP(T, suffix)                                                                    \
  void lp_##suffix(const PoolProblem& p, double norm, bool root, const T* x, T* y, Range rows,   \
                   void* scratch);                                                               \
  void lp_shares_##suffix(const PoolProblem& p, double norm, const T* dy, const T* y, T* shares, \
                          Range rows);                                                           \
  void lp_slopes_##suffix(double norm, const T* x, T* dx, Range elements);
ARRAYNN_LP(float, f32)
ARRAYNN_LP(double, f64)
#undef ARRAYNN_LP

#define ARRAYNN_UNPOOL(T, suffix)                                                                 \
  bool scatter_##suffix(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y,    \
                        Range units);                                                             \
  bool unpool_##suffix(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y,     \
                       Range units);                                                              \
  bool unpool_backward_##suffix(const UnpoolProblem& p, const T* dy, const std::int64_t* indices, \
                                T* dx, Range units);
ARRAYNN_UNPOOL(float, f32)
ARRAYNN_UNPOOL(double, f64)
#undef ARRAYNN_UNPOOL

#define ARRAYNN_MAX_INTEGER(T, suffix) \
  void max_##suffix(const VolumeProblem& v, const T* x, T* y, std::int64_t* indices, Range rows);
ARRAYNN_MAX_INTEGER(std::uint8_t, u8)
ARRAYNN_MAX_INTEGER(std::int8_t, i8)
ARRAYNN_MAX_INTEGER(std::int16_t, i16)
ARRAYNN_MAX_INTEGER(std::int32_t, i32)
ARRAYNN_MAX_INTEGER(std::int64_t, i64)
#undef ARRAYNN_MAX_INTEGER

}  // namespace ARRAYNN_ISA_NAMESPACE
