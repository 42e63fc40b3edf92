// What conv.hpp declares, for the dtypes that only a GPU has.
#pragma once
#include "conv/conv.hpp"
#include "core/dtype.hpp"

namespace arraynn {

#if defined(ARRAYNN_CUDA)
#define ARRAYNN_DECLARE(T)                                                                         \
  void conv2d(const Conv2dProblem& p, const T* x, const T* weight, const ConvEpilogue<T>& e,       \
              T* y);                                                                               \
  void conv2d_backward(const Conv2dProblem& p, const T* dy, const T* x, const T* weight,           \
                       const ConvGradients<T>& grads);                                             \
  void conv_transpose2d(const Conv2dProblem& p, const T* x, const T* weight,                       \
                        const ConvEpilogue<T>& e, T* y);                                           \
  void conv_transpose2d_backward(const Conv2dProblem& p, const T* dy, const T* x, const T* weight, \
                                 const ConvGradients<T>& grads);
ARRAYNN_DECLARE(Half)
ARRAYNN_DECLARE(Bfloat16)
#undef ARRAYNN_DECLARE
#endif

}  // namespace arraynn
