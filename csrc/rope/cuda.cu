// Rotary embedding: persistent blocks over units of a vector, a pack of pairs or of what is copied. The
// cosines of a position come from L2, or from L1 for its next head.
#include "core/cuda_launch.hpp"
#include "core/cuda_pack.hpp"
#include "rope/rope.hpp"
#include "simd/vec.hpp"

namespace arraynn {
namespace cuda {
namespace {

constexpr int kThreads = 256;
// 64 bytes in flight a thread, 64 KiB a multiprocessor, as in elementwise/cuda.cu without unrolling.
constexpr int kBlocksPerMultiprocessor = 4;

// Pairs (a, b) of packs turned by the angles of c and s; `sign` is -1 to turn them back.
template <class T>
__device__ __forceinline__ void turn_pair(T* a, T* b, T cosine, T sine, Compute<T> sign) {
  using V = Vec<Compute<T>>;
  const V c{to_compute(cosine)}, s{sign * to_compute(sine)};
  const V first{to_compute(*a)}, second{to_compute(*b)};
  *a = from_compute<T>(fma(first, c, -(second * s)).v);
  *b = from_compute<T>(fma(second, c, first * s).v);
}

template <class T>
__device__ __forceinline__ Pack<T> filled(Compute<T> value) {
  Pack<T> r;
#pragma unroll
  for (int j = 0; j < kPack<T>; ++j) r.v[j] = from_compute<T>(value);
  return r;
}

// `packed`: every pack is whole and begins at 16 bytes. A position without a row in the table gives NaN:
// the host does not know positions.
template <class T, bool kInterleaved>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    rope_kernel(RopeShape p, const T* x, const T* cos, const T* sin, Compute<T> sign, T* y,
                bool packed) {
  constexpr int kN = kPack<T>;
  const std::int64_t pairs = ceil_div(p.half, kN), rest = p.dim - 2 * p.half;
  const std::int64_t per_row = pairs + ceil_div(rest, kN);
  const std::int64_t units = p.size[0] * p.size[1] * p.size[2] * per_row;
  const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
  for (std::int64_t u = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; u < units; u += step) {
    const Quotient unit = divide(u, per_row);
    const Quotient inner = divide(unit.quotient, p.size[2]);
    const Quotient outer = divide(inner.quotient, p.size[1]);
    const T* from = x + outer.quotient * p.strides[0] + outer.remainder * p.strides[1] +
                    inner.remainder * p.strides[2];
    T* to = y + unit.quotient * p.dim;
    if (unit.remainder >= pairs) {
      const std::int64_t i = 2 * p.half + (unit.remainder - pairs) * kN;
      const std::int64_t n = min_i(p.dim - i, kN);
      store_part(to + i, load_part(from + i, n, packed), n, packed);
      continue;
    }
    const std::int64_t b = outer.quotient, l = p.along == 2 ? inner.remainder : outer.remainder;
    const std::int64_t row =
        p.positions == nullptr ? p.first + l : p.positions[b * p.positions_b + l];
    const std::int64_t i = unit.remainder * kN, n = min_i(p.half - i, kN);
    Pack<T> c = filled<T>(Compute<T>(NAN)), s = c;
    if (row >= 0 && row < p.rows) {
      const std::int64_t angles = b * p.table_b + row * p.half + i;
      c = load_part(cos + angles, n, packed);
      s = load_part(sin + angles, n, packed);
    }
    // Halves: the first elements and the second ones. Neighbours: 2 n elements one after the other.
    const std::int64_t low = kInterleaved ? 2 * i : i;
    const std::int64_t high = kInterleaved ? low + kN : p.half + i;
    const std::int64_t low_n = kInterleaved ? min_i(2 * n, kN) : n;
    const std::int64_t high_n = kInterleaved ? 2 * n - low_n : n;
    Pack<T> v[2] = {load_part(from + low, low_n, packed), load_part(from + high, high_n, packed)};
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      if constexpr (kInterleaved) {
        T* pair = &v[2 * j / kN].v[2 * j % kN];
        turn_pair<T>(pair, pair + 1, c.v[j], s.v[j], sign);
      } else {
        turn_pair<T>(&v[0].v[j], &v[1].v[j], c.v[j], s.v[j], sign);
      }
    }
    store_part(to + low, v[0], low_n, packed);
    store_part(to + high, v[1], high_n, packed);
  }
}

template <class T>
bool all_packed(const RopeShape& p, const T* x, const T* cos, const T* sin, const T* y) {
  constexpr int kN = kPack<T>;
  bool whole = p.half % kN == 0 && p.dim % kN == 0;
  for (int i = 0; i < 3; ++i) whole = whole && (p.size[i] == 1 || p.strides[i] % kN == 0);
  return whole && is_packed(x) && is_packed(cos) && is_packed(sin) && is_packed(y);
}

}  // namespace
}  // namespace cuda

template <class T>
void run_rope(const RopeShape& p, const T* x, const T* cos, const T* sin, bool back, T* y) {
  using namespace cuda;
  const std::int64_t rest = p.dim - 2 * p.half;
  const std::int64_t per_row = ceil_div(p.half, kPack<T>) + ceil_div(rest, kPack<T>);
  const std::int64_t units = p.size[0] * p.size[1] * p.size[2] * per_row;
  const Grid grid{persistent_blocks(ceil_div(units, kThreads), kBlocksPerMultiprocessor), kThreads};
  const Compute<T> sign = back ? -1 : 1;
  const bool packed = all_packed(p, x, cos, sin, y);
  if (p.interleaved) {
    ARRAYNN_LAUNCH((rope_kernel<T, true>), grid, p, x, cos, sin, sign, y, packed);
  } else {
    ARRAYNN_LAUNCH((rope_kernel<T, false>), grid, p, x, cos, sin, sign, y, packed);
  }
}

#define ARRAYNN_INSTANTIATE(T) \
  template void run_rope<T>(const RopeShape&, const T*, const T*, const T*, bool, T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
