// Pooling in three dimensions. Windows are boxes, and a maximum or a sum over a box is one over the
// depth of those over its planes:
//
//   z[d,h,w] = reduce over (i, j) of x[d, h sh - ph + i dh, w sw - pw + j dw]
//   y[d,h,w] = reduce over k of z[d sd - pd + k dd, h, w]
//
// so the kernels of pool.hpp do both, the second with the plane of z as their channels. Every input
// plane is reduced once, whatever the depth of the window, and z stays in cache: a unit of work is a
// block of volumes, or a band of output rows through the whole depth of one. No z of two units
// overlap. The first NaN, then the first of equal maxima of a box is the first of its first plane
// that has one. Units
// depend on the shape of a sample alone. Gradients of sums go back the same way, by z. Positions of
// maxima are looked for in the boxes themselves (max_first.hpp, max_last.hpp), and their gradients
// added there.
#pragma once
#include "pool/pool.hpp"

namespace arraynn {

// As the functions of pool.hpp; positions are (d H + h) W + w.
template <class T>
void max_pool(const char* op, const VolumeProblem& v, const T* x, T* y, std::int64_t* indices);
template <class T>
bool max_pool_backward(const char* op, const VolumeProblem& v, const T* dy, const T* x,
                       const std::int64_t* indices, T* dx);
template <class T>
void avg_pool(const char* op, const VolumeProblem& v, const AverageDivisor& d, const T* x, T* y);
template <class T>
void avg_pool_backward(const char* op, const VolumeProblem& v, const AverageDivisor& d, const T* dy,
                       T* dx);
template <class T>
void lp_pool(const char* op, const VolumeProblem& v, double norm, const T* x, T* y);
template <class T>
void lp_pool_backward(const char* op, const VolumeProblem& v, double norm, const T* dy, const T* x,
                      const T* y, T* dx);

#define ARRAYNN_FOR_EACH_POOLED_INTEGER(f) \
  f(std::uint8_t) f(std::int8_t) f(std::int16_t) f(std::int32_t) f(std::int64_t)

// Those integers; an image is a volume of one plane.
template <class T>
void max_pool_integer(const VolumeProblem& v, const T* x, T* y, std::int64_t* indices);

}  // namespace arraynn
