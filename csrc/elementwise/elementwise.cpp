#include "elementwise/elementwise.hpp"

#include "core/index.hpp"
#include "core/parallel.hpp"

namespace arraynn {
namespace {

// f(begin, end) on every thread's part of [0, n), cut at whole blocks.
template <class F>
void for_parts(std::int64_t n, Denormals mode, const F& f) {
  if (n == 0) return;
  const std::int64_t blocks = ceil_div(n, kElementwiseBlock);
  const int threads = threads_for(static_cast<double>(n), kElementwiseGrain);
  parallel(threads, mode, [&](int tid, int nthreads) {
    const Range part = split_range(blocks, nthreads, tid);
    const std::int64_t begin = part.begin * kElementwiseBlock;
    const std::int64_t end = min_i(n, part.end * kElementwiseBlock);
    if (begin < end) f(begin, end);
  });
}

Denormals mode_of(const Activation& f) {
  return activation_keeps_denormals(f.kind) ? Denormals::kKeep : Denormals::kFlush;
}

}  // namespace

template <class T>
void run_activation(const Activation& f, const T* x, T* y, std::int64_t n) {
  const auto kernel = elementwise_kernels().of<T>().activation;
  for_parts(n, mode_of(f), [&](std::int64_t begin, std::int64_t end) {
    kernel(f, x + begin, y + begin, end - begin);
  });
}

template <class T>
void run_activation_backward(const Activation& f, const T* dy, const T* x, T* dx, std::int64_t n) {
  const auto kernel = elementwise_kernels().of<T>().activation_backward;
  for_parts(n, mode_of(f), [&](std::int64_t begin, std::int64_t end) {
    kernel(f, dy + begin, x + begin, dx + begin, end - begin);
  });
}

template <class T>
void run_dropout(const Dropout& d, const T* x, T* y, std::int64_t n) {
  const auto kernel = elementwise_kernels().of<T>().dropout;
  for_parts(n, Denormals::kFlush,
            [&](std::int64_t begin, std::int64_t end) { kernel(d, x, y, begin, end); });
}

template <class T>
void run_math(MathFunction f, const T* x, T* y, std::int64_t n) {
  const auto kernel = math_kernels().of<T>().run;
  for_parts(n, Denormals::kFlush, [&](std::int64_t begin, std::int64_t end) {
    kernel(f, x + begin, y + begin, end - begin);
  });
}

#define ARRAYNN_INSTANTIATE(T)                                                        \
  template void run_activation<T>(const Activation&, const T*, T*, std::int64_t);     \
  template void run_activation_backward<T>(const Activation&, const T*, const T*, T*, \
                                           std::int64_t);                             \
  template void run_dropout<T>(const Dropout&, const T*, T*, std::int64_t);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE
template void run_math<float>(MathFunction, const float*, float*, std::int64_t);
template void run_math<double>(MathFunction, const double*, double*, std::int64_t);

}  // namespace arraynn
