// Convolutions that are matrix products of their layout's own memory.
#pragma once
#include "conv/conv.hpp"

namespace arraynn {

// 1x1 of stride 1 (choice.hpp: is_gemm).
template <class T>
void forward_gemm(const Conv2dProblem& p, const T* x, const T* weight, const ConvEpilogue<T>& e,
                  T* y);
template <class T>
void backward_x_gemm(const Conv2dProblem& p, const T* dy, const T* weight, const ConvEpilogue<T>& e,
                     T* dx);
template <class T>
void backward_weight_gemm(const Conv2dProblem& p, const T* dy, const T* x, T* dw);

// 1x1 of a stride in channels_first (choice.hpp: is_gathered).
template <class T>
void forward_gathered(const Conv2dProblem& p, const T* x, const T* weight, const ConvEpilogue<T>& e,
                      T* y);

}  // namespace arraynn
