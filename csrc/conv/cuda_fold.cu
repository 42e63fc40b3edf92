// unfold and fold: persistent blocks over packs of the result, whose elements are gathered. Reads of
// neighbours fall into the same sectors where the stride is 1; fold adds in the order of the CPU.
#include "conv/fold.hpp"
#include "core/cuda_launch.hpp"
#include "core/cuda_pack.hpp"

namespace arraynn {
namespace cuda {
namespace {

constexpr int kThreads = 256;
// A pack of results in flight a thread, 16 KiB a multiprocessor; each has indices of its own, in 64
// registers.
constexpr int kBlocksPerMultiprocessor = 4;

// Calls element(i) for every element of an array of n and stores what it gives, a pack at a time.
template <class T, class F>
__device__ __forceinline__ void for_packs(T* y, std::int64_t n, const F& element) {
  const bool packed = is_packed(y);
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads * kPack<T>;
  for (std::int64_t i = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kPack<T>; i < n;
       i += step) {
    const std::int64_t count = min_i(kPack<T>, n - i);
    Pack<T> result = {};
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) {
      if (j < count) result.v[j] = element(i + j);
    }
    store_part(y + i, result, count, packed && count == kPack<T>);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    unfold_kernel(FoldProblem p, const T* x, T* y, std::int64_t n) {
  for_packs(y, n, [&p, x](std::int64_t i) {
    const Quotient w = divide(i, p.w.out), h = divide(w.quotient, p.h.out);
    const Quotient tap_w = divide(h.quotient, p.w.kernel);
    const Quotient tap_h = divide(tap_w.quotient, p.h.kernel);
    const std::int64_t row = h.remainder * p.h.stride + tap_h.remainder * p.h.dilation - p.h.begin;
    const std::int64_t column =
        w.remainder * p.w.stride + tap_w.remainder * p.w.dilation - p.w.begin;
    if (row < 0 || row >= p.h.size || column < 0 || column >= p.w.size) {
      return from_compute<T>(Compute<T>(0));
    }
    return x[(tap_h.quotient * p.h.size + row) * p.w.size + column];
  });
}

// The window that has position `at` as its tap; -1 where there is none.
__device__ __forceinline__ std::int64_t window_of(const FoldAxis& a, std::int64_t at,
                                                  std::int64_t tap) {
  const std::int64_t from = at + a.begin - tap * a.dilation;
  if (from < 0) return -1;
  const Quotient window = divide(from, a.stride);
  return window.remainder == 0 && window.quotient < a.out ? window.quotient : -1;
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    fold_kernel(FoldProblem p, const T* y, T* x, std::int64_t n) {
  for_packs(x, n, [&p, y](std::int64_t i) {
    const Quotient w = divide(i, p.w.size), h = divide(w.quotient, p.h.size);
    const T* plane = y + h.quotient * p.taps() * p.windows();
    Compute<T> sum(0);
    for (std::int64_t tap_h = 0; tap_h < p.h.kernel; ++tap_h) {
      const std::int64_t row = window_of(p.h, h.remainder, tap_h);
      if (row < 0) continue;
      for (std::int64_t tap_w = 0; tap_w < p.w.kernel; ++tap_w) {
        const std::int64_t column = window_of(p.w, w.remainder, tap_w);
        if (column < 0) continue;
        const std::int64_t tap = tap_h * p.w.kernel + tap_w;
        sum = sum + to_compute(plane[tap * p.windows() + row * p.w.out + column]);
      }
    }
    return from_compute<T>(sum);
  });
}

template <class T>
Grid grid_of(std::int64_t n) {
  const std::int64_t tiles = ceil_div(n, std::int64_t{kThreads} * kPack<T>);
  return {persistent_blocks(tiles, kBlocksPerMultiprocessor), kThreads};
}

}  // namespace
}  // namespace cuda

template <class T>
void run_unfold(const FoldProblem& p, const T* x, T* y) {
  const std::int64_t n = p.n * p.c * p.taps() * p.windows();
  ARRAYNN_LAUNCH((cuda::unfold_kernel<T>), cuda::grid_of<T>(n), p, x, y, n);
}

template <class T>
void run_fold(const FoldProblem& p, const T* y, T* x) {
  const std::int64_t n = p.n * p.c * p.image();
  ARRAYNN_LAUNCH((cuda::fold_kernel<T>), cuda::grid_of<T>(n), p, y, x, n);
}

#define ARRAYNN_INSTANTIATE(T)                                   \
  template void run_unfold<T>(const FoldProblem&, const T*, T*); \
  template void run_fold<T>(const FoldProblem&, const T*, T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
