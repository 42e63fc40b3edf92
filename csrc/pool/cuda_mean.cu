// Average and Lp pooling.
#include "pool/cuda_reduce.hpp"

namespace arraynn {
namespace {

template <class T>
void launch_mean(const cuda::Windows& v, const AverageDivisor& d, const T* x, T* y) {
  const cuda::Mean<T> mean{cuda::divisor_of(v, d)};
  cuda::reduce_windows(v, mean, mean, x, y, nullptr);
}

template <class T>
void launch_lp(const cuda::Windows& v, double norm, const T* x, T* y) {
  const cuda::LpNorm<T> lp{norm, cuda::kernel_elements(v), cuda::lp_taps(v)};
  cuda::reduce_windows(v, lp, lp, x, y, nullptr);
}

}  // namespace

template <class T>
void avg_pool(const char*, const PoolProblem& p, const AverageDivisor& d, const T* x, T* y) {
  launch_mean(cuda::windows_of(p), d, x, y);
}
template <class T>
void avg_pool(const char*, const VolumeProblem& v, const AverageDivisor& d, const T* x, T* y) {
  launch_mean(cuda::windows_of(v), d, x, y);
}
template <class T>
void lp_pool(const char*, const PoolProblem& p, double norm, const T* x, T* y) {
  launch_lp(cuda::windows_of(p), norm, x, y);
}
template <class T>
void lp_pool(const char*, const VolumeProblem& v, double norm, const T* x, T* y) {
  launch_lp(cuda::windows_of(v), norm, x, y);
}

#define ARRAYNN_INSTANTIATE(T)                                                                     \
  template void avg_pool<T>(const char*, const PoolProblem&, const AverageDivisor&, const T*, T*); \
  template void avg_pool<T>(const char*, const VolumeProblem&, const AverageDivisor&, const T*,    \
                            T*);                                                                   \
  template void lp_pool<T>(const char*, const PoolProblem&, double, const T*, T*);                 \
  template void lp_pool<T>(const char*, const VolumeProblem&, double, const T*, T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
