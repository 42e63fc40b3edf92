// Gated linear units: persistent blocks over units of one pack of y, which lies in one run. The packs of
// both halves are loaded before the first result.
#include "core/cuda_launch.hpp"
#include "core/cuda_pack.hpp"
#include "elementwise/glu.hpp"
#include "simd/activation.hpp"

namespace arraynn {
namespace cuda {
namespace {

constexpr int kThreads = 256;
// 32 or 48 bytes in flight a thread, 32 KiB and more a multiprocessor: see cuda.cu for what that is good for.
// A second unit does not fit the registers of four blocks.
constexpr int kBlocksPerMultiprocessor = 4;

// Where a unit is: `count` elements of y from `y` on, and of each half from `x` and `x + inner` on.
struct Unit {
  std::int64_t x, y, count;
};

// f(unit) for all units of this thread.
template <class T, class F>
__device__ __forceinline__ void for_units(const GluShape& p, const F& f) {
  const std::int64_t per_run = ceil_div(p.inner, kPack<T>), units = p.outer * per_run;
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
  for (std::int64_t u = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; u < units; u += step) {
    const Quotient at = divide(u, per_run);
    const std::int64_t first = at.remainder * kPack<T>;
    f(Unit{2 * at.quotient * p.inner + first, at.quotient * p.inner + first,
           min_i(p.inner - first, kPack<T>)});
  }
}

// Every pack is whole and begins at 16 bytes.
template <class T, class... P>
__device__ __forceinline__ bool all_packed(const GluShape& p, const P*... pointers) {
  return p.inner % kPack<T> == 0 && (is_packed(pointers) && ...);
}

template <class T, class F>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    glu_kernel(F f, GluShape p, const T* x, T* y) {
  using C = Compute<T>;
  const bool packed = all_packed<T>(p, x, y);
  for_units<T>(p, [&](const Unit& at) {
    Pack<T> value = load_part(x + at.x, at.count, packed);
    const Pack<T> gate = load_part(x + at.x + p.inner, at.count, packed);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) {
      const C g = f.forward(Vec<C>{to_compute(gate.v[j])}).v;
      value.v[j] = from_compute<T>(to_compute(value.v[j]) * g);
    }
    store_part(y + at.y, value, at.count, packed);
  });
}

template <class T, class F>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    glu_backward_kernel(F f, GluShape p, const T* dy, const T* x, T* dx) {
  using C = Compute<T>;
  const bool packed = all_packed<T>(p, dy, x, dx);
  for_units<T>(p, [&](const Unit& at) {
    const Pack<T> d = load_part(dy + at.y, at.count, packed);
    Pack<T> value = load_part(x + at.x, at.count, packed);
    Pack<T> gate = load_part(x + at.x + p.inner, at.count, packed);
#pragma unroll
    for (int j = 0; j < kPack<T>; ++j) {
      const Vec<C> g{to_compute(gate.v[j])};
      const C grad = to_compute(d.v[j]), a = to_compute(value.v[j]);
      value.v[j] = from_compute<T>(grad * f.forward(g).v);
      gate.v[j] = from_compute<T>(grad * a * f.derivative(g).v);
    }
    store_part(dx + at.x, value, at.count, packed);
    store_part(dx + at.x + p.inner, gate, at.count, packed);
  });
}

template <class T>
Grid grid_of(const GluShape& p) {
  const std::int64_t units = p.outer * ceil_div(p.inner, kPack<T>);
  return {persistent_blocks(ceil_div(units, kThreads), kBlocksPerMultiprocessor), kThreads};
}

}  // namespace
}  // namespace cuda

template <class T>
void run_glu(const Activation& a, const GluShape& p, const T* x, T* y) {
  using namespace cuda;
  visit_activation<Compute<T>>(a, [&](const auto& f) {
    using F = std::remove_cvref_t<decltype(f)>;
    ARRAYNN_LAUNCH((glu_kernel<T, F>), grid_of<T>(p), f, p, x, y);
  });
}

template <class T>
void run_glu_backward(const Activation& a, const GluShape& p, const T* dy, const T* x, T* dx) {
  using namespace cuda;
  visit_activation<Compute<T>>(a, [&](const auto& f) {
    using F = std::remove_cvref_t<decltype(f)>;
    ARRAYNN_LAUNCH((glu_backward_kernel<T, F>), grid_of<T>(p), f, p, dy, x, dx);
  });
}

#define ARRAYNN_INSTANTIATE(T)                                                \
  template void run_glu<T>(const Activation&, const GluShape&, const T*, T*); \
  template void run_glu_backward<T>(const Activation&, const GluShape&, const T*, const T*, T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
