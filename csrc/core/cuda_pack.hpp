// 16 bytes of elements at a time: what a thread loads and stores, and the type it computes in.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/dtype.hpp"
#include "ptx/cvt.hpp"
#include "ptx/ld_st.hpp"

namespace arraynn::cuda {

__device__ __forceinline__ float to_compute(float x) { return x; }
__device__ __forceinline__ double to_compute(double x) { return x; }
__device__ __forceinline__ float to_compute(Half x) { return ptx::cvt_f32_f16(x.bits); }
__device__ __forceinline__ float to_compute(Bfloat16 x) { return ptx::cvt_f32_bf16(x.bits); }

template <class T>
__device__ __forceinline__ T from_compute(Compute<T> x) {
  if constexpr (std::is_same_v<T, Half>) {
    return {ptx::cvt_rn_f16_f32(x)};
  } else if constexpr (std::is_same_v<T, Bfloat16>) {
    return {ptx::cvt_rn_bf16_f32(x)};
  } else {
    return x;
  }
}

template <class T>
inline constexpr int kPack = 16 / static_cast<int>(sizeof(T));

template <class T>
struct alignas(16) Pack {
  T v[kPack<T>];
};

// Whether packs of this array can be read as 16 bytes. A slice of an array need not begin there.
template <class T>
__host__ __device__ __forceinline__ bool is_packed(const T* p) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0;
}

enum class Access : std::uint8_t {
  kReadOnly,  // nothing in this kernel writes it
  kRepeated,  // likewise, and other threads read it as well
  kInPlace,   // the kernel updates it
};

// `packed` is is_packed() of the array: the same for all threads, so no branch diverges. Otherwise the
// elements come one by one, and each sector still only once from device memory.
template <Access kAccess = Access::kReadOnly, class T>
__device__ __forceinline__ Pack<T> load_pack(const T* p, bool packed) {
  Pack<T> r;
  if (packed) {
    const ptx::B128 bits = kAccess == Access::kReadOnly   ? ptx::ld_global_nc_l1_no_allocate_v4(p)
                           : kAccess == Access::kRepeated ? ptx::ld_global_nc_v4(p)
                                                          : ptx::ld_global_l1_no_allocate_v4(p);
    memcpy(&r, &bits, sizeof r);
  } else {
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) r.v[i] = p[i];
  }
  return r;
}

template <class T>
__device__ __forceinline__ void store_pack(T* p, const Pack<T>& x, bool packed) {
  if (packed) {
    ptx::B128 bits;
    memcpy(&bits, &x, sizeof bits);
    ptx::st_global_v4(p, bits);
  } else {
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) p[i] = x.v[i];
  }
}

// The first `count` elements of a pack; those behind them are 0 and are not read. `packed`: the pack is
// whole and begins at 16 bytes.
template <class T>
__device__ __forceinline__ Pack<T> load_part(const T* p, std::int64_t count, bool packed) {
  if (packed) return load_pack(p, true);
  Pack<T> r = {};
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    if (i < count) r.v[i] = p[i];
  }
  return r;
}

template <class T>
__device__ __forceinline__ void store_part(T* p, const Pack<T>& x, std::int64_t count,
                                           bool packed) {
  if (packed) return store_pack(p, x, true);
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) {
    if (i < count) p[i] = x.v[i];
  }
}

// a / b and a % b of numbers that are not negative, by 32 bits where they suffice: a division of 64 is a
// hundred instructions.
struct Quotient {
  std::int64_t quotient, remainder;
};
__device__ __forceinline__ Quotient divide(std::int64_t a, std::int64_t b) {
  if (((a | b) >> 32) == 0) {
    const auto x = static_cast<std::uint32_t>(a), y = static_cast<std::uint32_t>(b);
    return {x / y, x % y};
  }
  return {a / b, a % b};
}

}  // namespace arraynn::cuda
