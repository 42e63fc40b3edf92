// Max unpooling. Of equal indices the last element wins, whatever the order of the threads: every output
// position first gets the number of its last element (an integer maximum by atomics, in scratch), then its
// value.
#include "core/cuda_pack.hpp"
#include "pool/cuda.hpp"
#include "pool/cuda_windows.hpp"

namespace arraynn {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kUnroll = 4;  // elements in flight a thread
constexpr int kBlocksPerMultiprocessor = 8;
constexpr std::int64_t kTile = std::int64_t{kThreads} * kUnroll;

// Samples of `in` and of `out` pixels with c channels; planes of channels_first are samples of one.
template <class I>
struct Moves {
  I c, in, out, small, large;  // small = n in c elements, large = n out c
  QuickDivisor<I> by_c, by_in;
};

// f(element) for `count` of them, kUnroll at once a thread.
template <class I, class F>
__device__ __forceinline__ void for_elements(I count, const F& f) {
  const I step = static_cast<I>(gridDim.x) * static_cast<I>(kTile);
  for (I e = static_cast<I>(blockIdx.x) * static_cast<I>(kTile) + static_cast<I>(threadIdx.x);
       e < count; e += step) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (e + u * kThreads < count) f(e + u * kThreads);
    }
  }
}

// Where element e of the small array goes in the large one, -1 outside.
template <class I>
__device__ __forceinline__ I target_of(const Moves<I>& m, I e, std::int64_t index) {
  const auto out = static_cast<std::uint64_t>(m.out);
  if (static_cast<std::uint64_t>(index) >= out) return -1;
  const I pixel = m.by_c(e), channel = e - pixel * m.c;
  return (m.by_in(pixel) * m.out + static_cast<I>(index)) * m.c + channel;
}

template <class I>
using Mark = std::conditional_t<sizeof(I) == 4, unsigned, unsigned long long>;

template <class I>
__global__ void __launch_bounds__(kThreads) unpool_clear_kernel(I count, Mark<I>* last) {
  for_elements(count, [&](I e) { last[e] = 0; });
}

// last[position] = 1 + the pixel of the last element that goes there.
template <class I>
__global__ void __launch_bounds__(kThreads)
    unpool_mark_kernel(Moves<I> m, const std::int64_t* indices, Mark<I>* last) {
  for_elements(m.small, [&](I e) {
    const I to = target_of(m, e, indices[e]);
    if (to >= 0) atomicMax(last + to, static_cast<Mark<I>>(m.by_c(e) + 1));
  });
}

template <class T, class I>
__global__ void __launch_bounds__(kThreads)
    unpool_kernel(Moves<I> m, const Mark<I>* last, const T* x, T* y) {
  for_elements(m.large, [&](I e) {
    const Mark<I> mark = last[e];
    T value{};
    if (mark != 0) {
      const I channel = e - m.by_c(e) * m.c;
      value = x[(static_cast<I>(mark) - 1) * m.c + channel];
    }
    y[e] = value;
  });
}

template <class T, class I>
__global__ void __launch_bounds__(kThreads)
    unpool_backward_kernel(Moves<I> m, const T* dy, const std::int64_t* indices, T* dx) {
  for_elements(m.small, [&](I e) {
    const I to = target_of(m, e, indices[e]);
    dx[e] = to >= 0 ? dy[to] : T{};
  });
}

Grid grid_of(std::int64_t count) {
  return {persistent_blocks(ceil_div(count, kTile), kBlocksPerMultiprocessor), kThreads};
}

// f(moves, first element of the small arrays, of the large ones) for parts that a launch can take.
template <class F>
void for_moves(const UnpoolProblem& p, const F& f) {
  const std::int64_t n = p.channels_last ? p.n : p.n * p.c, c = p.channels_last ? p.c : 1;
  const auto moves = [&](auto tag, std::int64_t samples) {
    using I = decltype(tag);
    return Moves<I>{static_cast<I>(c),
                    static_cast<I>(p.in),
                    static_cast<I>(p.out),
                    static_cast<I>(samples * p.in * c),
                    static_cast<I>(samples * p.out * c),
                    QuickDivisor<I>(c),
                    QuickDivisor<I>(p.in)};
  };
  const std::int64_t sample = max_i(1, max_i(p.in, p.out) * c);
  if (sample >= kNarrow) return f(moves(std::int64_t{}, n), 0, 0);
  const std::int64_t samples = max_i(1, kLaunchElements / sample);
  for (std::int64_t first = 0; first < n; first += samples) {
    f(moves(std::int32_t{}, min_i(samples, n - first)), first * p.in * c, first * p.out * c);
  }
}

}  // namespace

std::int64_t unpool_scratch_bytes(const UnpoolProblem& p) {
  const std::int64_t n = p.channels_last ? p.n : p.n * p.c, c = p.channels_last ? p.c : 1;
  const bool narrow = max_i(p.in, p.out) * c < kNarrow;
  return n * p.out * c * (narrow ? 4 : 8);
}

template <class T>
void max_unpool(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y,
                void* scratch) {
  for_moves(p, [&](const auto& m, std::int64_t small, std::int64_t large) {
    using I = std::remove_cvref_t<decltype(m.c)>;
    auto* last = static_cast<Mark<I>*>(scratch) + large;
    ARRAYNN_LAUNCH((unpool_clear_kernel<I>), grid_of(m.large), m.large, last);
    ARRAYNN_LAUNCH((unpool_mark_kernel<I>), grid_of(m.small), m, indices + small, last);
    ARRAYNN_LAUNCH((unpool_kernel<T, I>), grid_of(m.large), m, last, x + small, y + large);
  });
}

}  // namespace cuda

template <class T>
bool max_unpool_backward(const UnpoolProblem& p, const T* dy, const std::int64_t* indices, T* dx) {
  using namespace cuda;
  for_moves(p, [&](const auto& m, std::int64_t small, std::int64_t large) {
    using I = std::remove_cvref_t<decltype(m.c)>;
    ARRAYNN_LAUNCH((unpool_backward_kernel<T, I>), grid_of(m.small), m, dy + large, indices + small,
                   dx + small);
  });
  return true;  // an index outside its plane moves nothing; to tell would have to wait
}

#define ARRAYNN_INSTANTIATE(T)                                                               \
  template void cuda::max_unpool<T>(const UnpoolProblem&, const T*, const std::int64_t*, T*, \
                                    void*);                                                  \
  template bool max_unpool_backward<T>(const UnpoolProblem&, const T*, const std::int64_t*, T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
