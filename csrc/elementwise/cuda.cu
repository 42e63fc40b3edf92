// Elementwise kernels: persistent blocks over tiles of kThreads kUnroll packs of 16 bytes, all loads of
// a tile in flight before the first result. The end of the array, less than a tile, goes element by
// element through the same arithmetic.
#include "core/cuda_launch.hpp"
#include "core/cuda_pack.hpp"
#include "core/philox_block.hpp"
#include "elementwise/elementwise.hpp"
#include "simd/activation.hpp"

namespace arraynn {
namespace cuda {
namespace {

constexpr int kThreads = 256;
// Four loads of 16 bytes in flight a thread, with kBlocksPerMultiprocessor 64 KiB a multiprocessor:
// twice what latency times bandwidth of an H200 asks for (4.8 TB/s, some 0.8 us, 132 multiprocessors:
// 29 KiB).
constexpr int kUnroll = 4;
constexpr int kBlocksPerMultiprocessor = 4;
// Dropout takes one pack at a time and twice the blocks.
constexpr int kDropoutBlocks = 8;

// Elements of a thread: whole packs and whole Philox blocks.
template <class T>
constexpr int kDropoutGroup = kPack<T> > 4 ? kPack<T> : 4;

template <class T>
constexpr std::int64_t kTile = std::int64_t{kThreads} * kUnroll * kPack<T>;

Grid grid_of(std::int64_t tiles) {
  return {persistent_blocks(tiles, kBlocksPerMultiprocessor), kThreads};
}

// y[i] = f(i, inputs[i]...), f on Compute<T>.
template <class T, class F, class... In>
__device__ __forceinline__ void map_tiles(const F& f, T* y, std::int64_t n, const In*... inputs) {
  const bool out_packed = is_packed(y);
  const auto thread = static_cast<std::int64_t>(threadIdx.x);
  const std::int64_t whole = n / kTile<T>;
  for (std::int64_t tile = blockIdx.x; tile < whole; tile += gridDim.x) {
    const std::int64_t base = tile * kTile<T> + thread * kPack<T>;
    constexpr std::int64_t kStep = std::int64_t{kThreads} * kPack<T>;
    struct Loaded {
      Pack<T> of[sizeof...(In)];
    } loaded[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      loaded[u] = {load_pack(inputs + base + u * kStep, is_packed(inputs))...};
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      Pack<T> result;
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) {
        const std::int64_t i = base + u * kStep + j;
        if constexpr (sizeof...(In) == 1) {
          result.v[j] = from_compute<T>(f(i, to_compute(loaded[u].of[0].v[j])));
        } else {
          result.v[j] = from_compute<T>(
              f(i, to_compute(loaded[u].of[0].v[j]), to_compute(loaded[u].of[1].v[j])));
        }
      }
      store_pack(y + base + u * kStep, result, out_packed);
    }
  }
  if (whole % gridDim.x == blockIdx.x) {  // the block that would take the next tile
    for (std::int64_t i = whole * kTile<T> + thread; i < n; i += kThreads) {
      y[i] = from_compute<T>(f(i, to_compute(inputs[i])...));
    }
  }
}

template <class T, class F>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    activation_kernel(F f, const T* x, T* y, std::int64_t n) {
  using C = Compute<T>;
  map_tiles([&f](std::int64_t, C v) { return f.forward(Vec<C>{v}).v; }, y, n, x);
}

template <class T, class F>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    activation_backward_kernel(F f, const T* dy, const T* x, T* dx, std::int64_t n) {
  using C = Compute<T>;
  map_tiles([&f](std::int64_t, C g, C v) { return g * f.derivative(Vec<C>{v}).v; }, dx, n, dy, x);
}

// The mask of the CPU: see kernels.dropout. A thread draws the four words of a Philox block for four
// neighbours, so tiles are cut at blocks.
template <class T>
__global__ void __launch_bounds__(kThreads, kDropoutBlocks)
    dropout_kernel(Dropout d, const T* x, T* y, std::int64_t n) {
  using C = Compute<T>;
  const auto scale = static_cast<C>(d.scale);
  const bool packed = is_packed(x) && is_packed(y), in_place = x == y;
  constexpr int kGroup = kDropoutGroup<T>;
  const std::int64_t groups = ceil_div(n, kGroup);
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
  const auto kept = [&](std::uint32_t word, T v) {
    return word >= d.threshold ? from_compute<T>(to_compute(v) * scale) : from_compute<T>(C(0));
  };
  for (std::int64_t g = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; g < groups; g += step) {
    const std::int64_t begin = g * kGroup;
    const bool whole = begin + kGroup <= n;
    T in[kGroup], out[kGroup];
    if (whole) {
#pragma unroll
      for (int i = 0; i < kGroup; i += kPack<T>) {
        // In place: what a kernel writes may not be read as constant.
        const Pack<T> p = in_place ? load_pack<Access::kInPlace>(x + begin + i, packed)
                                   : load_pack(x + begin + i, packed);
        memcpy(in + i, &p, sizeof p);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) in[i] = begin + i < n ? x[begin + i] : from_compute<T>(C(0));
    }
#pragma unroll
    for (int i = 0; i < kGroup; i += 4) {
      const PhiloxBlock r = philox_block(static_cast<std::uint64_t>((begin + i) / 4), d.key);
#pragma unroll
      for (int j = 0; j < 4; ++j) out[i + j] = kept(r.word[j], in[i + j]);
    }
    if (whole) {
#pragma unroll
      for (int i = 0; i < kGroup; i += kPack<T>) {
        Pack<T> p;
        memcpy(&p, out + i, sizeof p);
        store_pack(y + begin + i, p, packed);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kGroup; ++i) {
        if (begin + i < n) y[begin + i] = out[i];
      }
    }
  }
}

}  // namespace
}  // namespace cuda

template <class T>
void run_activation(const Activation& a, const T* x, T* y, std::int64_t n) {
  using namespace cuda;
  visit_activation<Compute<T>>(a, [&](const auto& f) {
    using F = std::remove_cvref_t<decltype(f)>;
    const Grid grid = grid_of(ceil_div(n, kTile<T>));
    ARRAYNN_LAUNCH((activation_kernel<T, F>), grid, f, x, y, n);
  });
}

template <class T>
void run_activation_backward(const Activation& a, const T* dy, const T* x, T* dx, std::int64_t n) {
  using namespace cuda;
  visit_activation<Compute<T>>(a, [&](const auto& f) {
    using F = std::remove_cvref_t<decltype(f)>;
    const Grid grid = grid_of(ceil_div(n, kTile<T>));
    ARRAYNN_LAUNCH((activation_backward_kernel<T, F>), grid, f, dy, x, dx, n);
  });
}

template <class T>
void run_dropout(const Dropout& d, const T* x, T* y, std::int64_t n) {
  using namespace cuda;
  const std::int64_t tiles = ceil_div(n, std::int64_t{kThreads} * kDropoutGroup<T>);
  const Grid grid{persistent_blocks(tiles, kDropoutBlocks), kThreads};
  ARRAYNN_LAUNCH((dropout_kernel<T>), grid, d, x, y, n);
}

#define ARRAYNN_INSTANTIATE(T)                                                        \
  template void run_activation<T>(const Activation&, const T*, T*, std::int64_t);     \
  template void run_activation_backward<T>(const Activation&, const T*, const T*, T*, \
                                           std::int64_t);                             \
  template void run_dropout<T>(const Dropout&, const T*, T*, std::int64_t);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
