// Reductions over windows. A thread takes a strip of outputs down a column, one element or 16 bytes of
// channels wide, and loads Op::kAtOnce taps before it uses the first. Wide windows of few outputs are
// shared by lanes of a block instead, whose results are merged as a tree: which of the two depends on the
// shape of a sample alone.
#pragma once
#include <type_traits>

#include "core/cuda_shared.hpp"
#include "pool/cuda_values.hpp"

namespace arraynn::cuda {

inline constexpr int kPoolThreads = 256;
// Of 64 registers a thread; 128 with positions of 64 bits, or for 8 elements at a time and more.
template <class Op, class I, int V = 1>
inline constexpr int kPoolBlocks = sizeof(I) == 4 && V < 8 ? Op::kBlocks : 2;
// Blocks of a persistent grid a multiprocessor: kernels with few registers fit this many.
inline constexpr int kPoolGridBlocks = 8;

template <class T, int V, class I, class Op>
__global__ void __launch_bounds__(kPoolThreads, (kPoolBlocks<Op, I, V>))
    pool_kernel(const __grid_constant__ WindowProblem<I> p,
                const __grid_constant__ Strips<I> strips, Op op, const T* x, T* y,
                std::int64_t* indices) {
  using State = typename Op::template State<I>;
  const I step = static_cast<I>(gridDim.x) * kPoolThreads;
  for (I e = static_cast<I>(blockIdx.x * kPoolThreads + threadIdx.x); e < strips.count; e += step) {
    const Place<I> at = strips.locate(e);
    const I channel = at.group * V;
    const T* sample = x + at.n * p.in;
    const Taps<I> d = p.d.taps(at.d), w = p.w.taps(at.w);
    for (int r = 0; r < kStripRows && at.h + r < p.h.out; ++r) {
      const I oh = at.h + r;
      const Taps<I> h = p.h.taps(oh);
      const I taps = d.count * h.count * w.count;
      const I row = p.w.size * p.c, first = (d.at * p.h.size + h.at) * p.w.size + w.at;
      Walk<I> walk(first * p.c + channel, w.count, h.count, p.w.dilation * p.c, p.h.dilation * row,
                   p.d.dilation * p.h.size * row);
      State states[V];
#pragma unroll
      for (int j = 0; j < V; ++j) states[j] = op.template start<I>();
      for (I t = 0; t < taps; t += Op::kAtOnce) {
        Values<T, V> in[Op::kAtOnce] = {};
        I where[Op::kAtOnce];
#pragma unroll
        for (int u = 0; u < Op::kAtOnce; ++u) {
          where[u] = walk.offset;
          if (t + u < taps) in[u] = load_values<V>(sample + walk.offset);
          walk.advance();
        }
#pragma unroll
        for (int u = 0; u < Op::kAtOnce; ++u) {
          if (t + u >= taps) continue;
#pragma unroll
          for (int j = 0; j < V; ++j) op.take(states[j], value_of(in[u].v[j]), where[u]);
        }
      }
      const I to = at.n * p.out + ((at.d * p.h.out + oh) * p.w.out + at.w) * p.c + channel;
      Values<T, V> out;
#pragma unroll
      for (int j = 0; j < V; ++j) {
        const Output3<I> o{at.d, oh, at.w};
        out.v[j] = from_compute<T>(op.finish(p, states[j], o));
      }
      if (y != nullptr) store_values<V>(y + to, out);
      if constexpr (requires { states[0].at; }) {
        if (indices == nullptr) continue;
        Values<std::int64_t, V> pixels;
#pragma unroll
        for (int j = 0; j < V; ++j) pixels.v[j] = states[j].at < 0 ? -1 : p.by_c(states[j].at);
        store_values<V>(indices + to, pixels);
      }
    }
  }
}

// How the threads of a block share windows: powers of two. Lanes of a window go along its rows first.
struct Lanes {
  int count, along_w, outputs;  // count * outputs threads

  // Where a thread's window is among those of the block, and its lane: neighbours are those in memory.
  bool lanes_first;
};

template <class Op, class I>
struct LaneStorage {
  typename Op::template State<I> states[kPoolThreads];
};

template <class T, class I, class Op>
__global__ void __launch_bounds__(kPoolThreads, (kPoolBlocks<Op, I>))
    pool_shared_kernel(const __grid_constant__ WindowProblem<I> p,
                       const __grid_constant__ Strips<I> outputs, Lanes lanes, Op op, const T* x,
                       T* y, std::int64_t* indices) {
  using State = typename Op::template State<I>;
  auto& shared = shared_storage<LaneStorage<Op, I>>();
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = lanes.lanes_first ? thread & (lanes.count - 1) : thread / lanes.outputs;
  const int output = lanes.lanes_first ? thread / lanes.count : thread & (lanes.outputs - 1);
  const int stride = lanes.lanes_first ? 1 : lanes.outputs;
  const I lane_w = lane & (lanes.along_w - 1), lane_row = lane / lanes.along_w;
  const I rows_at_once = lanes.count / lanes.along_w;
  const I block_step = static_cast<I>(gridDim.x) * lanes.outputs;
  for (I base = static_cast<I>(blockIdx.x) * lanes.outputs; base < outputs.count;
       base += block_step) {
    const bool inside = base + output < outputs.count;
    const Place<I> at = outputs.locate(inside ? base + output : base);
    const Taps<I> d = p.d.taps(at.d), h = p.h.taps(at.h), w = p.w.taps(at.w);
    const T* sample = x + at.n * p.in;
    State state = op.template start<I>();
    const I rows = inside ? d.count * h.count : 0;
    for (I r = lane_row; r < rows; r += rows_at_once) {
      const I i = d.count == 1 ? 0 : r / h.count, j = r - i * h.count;
      const I depth = d.at + i * p.d.dilation, height = h.at + j * p.h.dilation;
      const I row = ((depth * p.h.size + height) * p.w.size + w.at) * p.c + at.group;
      const I tap = p.w.dilation * p.c;
      for (I k = lane_w; k < w.count; k += Op::kAtOnce * lanes.along_w) {
        T in[Op::kAtOnce] = {};
#pragma unroll
        for (int u = 0; u < Op::kAtOnce; ++u) {
          const I mine = k + u * lanes.along_w;
          if (mine < w.count) in[u] = sample[row + mine * tap];
        }
#pragma unroll
        for (int u = 0; u < Op::kAtOnce; ++u) {
          const I mine = k + u * lanes.along_w;
          if (mine < w.count) op.take(state, value_of(in[u]), row + mine * tap);
        }
      }
    }
    shared.states[thread] = state;
    for (int half = lanes.count / 2; half > 0; half /= 2) {
      __syncthreads();
      if (lane < half) {
        op.merge(state, shared.states[thread + half * stride]);
        shared.states[thread] = state;
      }
    }
    if (lane == 0 && inside) {
      const I to = at.n * p.out + ((at.d * p.h.out + at.h) * p.w.out + at.w) * p.c + at.group;
      const Output3<I> o{at.d, at.h, at.w};
      if (y != nullptr) y[to] = from_compute<T>(op.finish(p, state, o));
      if constexpr (requires { state.at; }) {
        if (indices != nullptr) indices[to] = state.at < 0 ? -1 : p.by_c(state.at);
      }
    }
    __syncthreads();  // the storage is used again
  }
}

// Windows that lanes share: long ones whose threads would not read neighbours (channels_first), or too
// few to keep the device busy one sample at a time (channels_last).
inline bool is_shared(const Windows& v) {
  const double taps = kernel_elements(v);
  if (taps < 32) return false;
  if (v.c == 1) return v.w.out == 1 || v.w.stride >= 8;
  return taps >= 4 * static_cast<double>(v.d.out * v.h.out * v.w.out);
}

// Four taps a lane or more.
inline Lanes lanes_of(const Windows& v) {
  Lanes lanes{1, 1, kPoolThreads, v.c == 1};
  const double taps = kernel_elements(v);
  while (lanes.count < kPoolThreads && 8 * lanes.count <= taps) lanes.count *= 2;
  while (lanes.along_w < lanes.count && 2 * lanes.along_w <= v.w.kernel) lanes.along_w *= 2;
  lanes.outputs = kPoolThreads / lanes.count;
  return lanes;
}

template <class T>
bool is_vector_wide(const Windows& v, std::initializer_list<const void*> arrays) {
  bool wide = v.c % kPack<T> == 0;
  for (const void* a : arrays) wide = wide && is_packed(static_cast<const char*>(a));
  return wide;
}

// y and indices may be null. `SharedOp` is the operation of windows that lanes share.
template <class T, class Op, class SharedOp>
void reduce_windows(const Windows& all, const Op& op, const SharedOp& shared_op, const T* x, T* y,
                    std::int64_t* indices) {
  for_launches(all, [&](auto tag, const Windows& v, std::int64_t first) {
    using I = decltype(tag);
    const auto problem = problem_of<I>(v);
    const T* from = x + first * v.in();
    T* to = y == nullptr ? nullptr : y + first * v.out();
    std::int64_t* where = indices == nullptr ? nullptr : indices + first * v.out();
    if (is_shared(v)) {
      const Lanes lanes = lanes_of(v);
      const Strips<I> outputs(v.n, v.d.out, v.h.out, v.w.out, v.c, 1);
      const Grid grid{persistent_blocks(ceil_div(outputs.count, lanes.outputs), kPoolGridBlocks),
                      kPoolThreads};
      ARRAYNN_LAUNCH((pool_shared_kernel<T, I, SharedOp>), grid, problem, outputs, lanes, shared_op,
                     from, to, where);
      return;
    }
    const auto launch = [&](auto width) {
      constexpr int kWidth = decltype(width)::value;
      const Strips<I> strips(v.n, v.d.out, v.h.out, v.w.out, v.c / kWidth, kStripRows);
      const Grid grid{persistent_blocks(ceil_div(strips.count, kPoolThreads), kPoolGridBlocks),
                      kPoolThreads};
      ARRAYNN_LAUNCH((pool_kernel<T, kWidth, I, Op>), grid, problem, strips, op, from, to, where);
    };
    if constexpr (sizeof(I) == 4) {
      if (is_vector_wide<T>(v, {from, to, where})) {
        return launch(std::integral_constant<int, kPack<T>>{});
      }
    }
    launch(std::integral_constant<int, 1>{});
  });
}

}  // namespace arraynn::cuda
