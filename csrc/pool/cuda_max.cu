// Max pooling of floats and integers.
#include "pool/cuda_reduce.hpp"

namespace arraynn {
namespace {

template <class T>
void launch_max(const cuda::Windows& v, const T* x, T* y, std::int64_t* indices) {
  using cuda::Largest;
  if (indices == nullptr && !std::is_integral_v<T>) {
    cuda::reduce_windows(v, Largest<T, std::is_integral_v<T>>{}, Largest<T, true>{}, x, y, indices);
  } else {
    cuda::reduce_windows(v, Largest<T, true>{}, Largest<T, true>{}, x, y, indices);
  }
}

}  // namespace

template <class T>
void max_pool(const char*, const PoolProblem& p, const T* x, T* y, std::int64_t* indices) {
  launch_max(cuda::windows_of(p), x, y, indices);
}
template <class T>
void max_pool(const char*, const VolumeProblem& v, const T* x, T* y, std::int64_t* indices) {
  launch_max(cuda::windows_of(v), x, y, indices);
}
template <class T>
void max_pool_integer(const VolumeProblem& v, const T* x, T* y, std::int64_t* indices) {
  launch_max(cuda::windows_of(v), x, y, indices);
}

#define ARRAYNN_INSTANTIATE(T)                                                             \
  template void max_pool<T>(const char*, const PoolProblem&, const T*, T*, std::int64_t*); \
  template void max_pool<T>(const char*, const VolumeProblem&, const T*, T*, std::int64_t*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

#define ARRAYNN_INSTANTIATE(T) \
  template void max_pool_integer<T>(const VolumeProblem&, const T*, T*, std::int64_t*);
ARRAYNN_FOR_EACH_POOLED_INTEGER(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
