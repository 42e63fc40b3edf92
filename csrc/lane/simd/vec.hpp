// The vector type of simd/vec.hpp with one lane, which is a CUDA thread. CUDA units find this folder
// before csrc/, so that what is written over Vec<T> (simd/activation.hpp, optim/rules.hpp) compiles for
// them as for every ISA of the CPU.
#pragma once
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "core/index.hpp"

#define ARRAYNN_ISA_NAMESPACE arraynn::cuda
#define ARRAYNN_MEMBER __device__ __forceinline__
namespace ARRAYNN_ISA_NAMESPACE {

template <class T>
inline constexpr int kLanes = 1;

template <class T>
struct Mask {
  bool m;
};

template <class T>
struct Vec {
  T v;
  static constexpr __host__ __device__ Vec set1(T x) { return {x}; }
  static constexpr __host__ __device__ Vec zero() { return {T(0)}; }
  static ARRAYNN_MEMBER Vec load(const T* p) { return {*p}; }
  ARRAYNN_MEMBER void store(T* p) const { *p = v; }
};
// The first n lanes of memory, 0 <= n <= 1.
template <class T>
ARRAYNN_MEMBER Vec<T> load_lanes(const T* p, std::int64_t n) {
  return {n > 0 ? *p : T(0)};
}
template <class T>
ARRAYNN_MEMBER void store_lanes(Vec<T> a, T* p, std::int64_t n) {
  if (n > 0) *p = a.v;
}

template <class T>
ARRAYNN_MEMBER Vec<T> operator+(Vec<T> a, Vec<T> b) {
  return {a.v + b.v};
}
template <class T>
ARRAYNN_MEMBER Vec<T> operator-(Vec<T> a, Vec<T> b) {
  return {a.v - b.v};
}
template <class T>
ARRAYNN_MEMBER Vec<T> operator*(Vec<T> a, Vec<T> b) {
  return {a.v * b.v};
}
template <class T>
ARRAYNN_MEMBER Vec<T> operator/(Vec<T> a, Vec<T> b) {
  return {a.v / b.v};
}
template <class T>
ARRAYNN_MEMBER Vec<T> operator-(Vec<T> a) {
  return {-a.v};
}
template <class T>
ARRAYNN_MEMBER Mask<T> operator<(Vec<T> a, Vec<T> b) {
  return {a.v < b.v};
}
template <class T>
ARRAYNN_MEMBER Mask<T> operator<=(Vec<T> a, Vec<T> b) {
  return {a.v <= b.v};
}
template <class T>
ARRAYNN_MEMBER Mask<T> operator>(Vec<T> a, Vec<T> b) {
  return {a.v > b.v};
}
template <class T>
ARRAYNN_MEMBER Mask<T> operator>=(Vec<T> a, Vec<T> b) {
  return {a.v >= b.v};
}
template <class T>
ARRAYNN_MEMBER Mask<T> operator!=(Vec<T> a, Vec<T> b) {
  return {a.v != b.v};
}
template <class T>
ARRAYNN_MEMBER Mask<T> operator&(Mask<T> a, Mask<T> b) {
  return {a.m && b.m};
}
template <class T>
ARRAYNN_MEMBER Vec<T> select(Mask<T> m, Vec<T> yes, Vec<T> no) {
  return m.m ? yes : no;
}

// a > b ? a : b, so a NaN in the second operand comes through.
template <class T>
ARRAYNN_MEMBER Vec<T> max(Vec<T> a, Vec<T> b) {
  return {a.v > b.v ? a.v : b.v};
}
template <class T>
ARRAYNN_MEMBER Vec<T> min(Vec<T> a, Vec<T> b) {
  return {a.v < b.v ? a.v : b.v};
}

ARRAYNN_MEMBER Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {::fmaf(a.v, b.v, c.v)};
}
ARRAYNN_MEMBER Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {::fma(a.v, b.v, c.v)};
}

ARRAYNN_MEMBER Vec<float> abs(Vec<float> x) { return {::fabsf(x.v)}; }
ARRAYNN_MEMBER Vec<double> abs(Vec<double> x) { return {::fabs(x.v)}; }
ARRAYNN_MEMBER Vec<float> sqrt(Vec<float> x) { return {::sqrtf(x.v)}; }
ARRAYNN_MEMBER Vec<double> sqrt(Vec<double> x) { return {::sqrt(x.v)}; }

}  // namespace ARRAYNN_ISA_NAMESPACE
