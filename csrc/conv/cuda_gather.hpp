// What the tiles of core/cuda_tile.hpp read and write for convolutions: patches of an image are gathered on
// their way to shared memory, and never lie anywhere else.
//
// Indices. A pixel is (sample, depth, height, width) of the array that has the result's positions. A tap is
// a channel of the other array and a place in the kernel: the place runs fastest in channels_first, where
// neighbouring pixels are copied together, the channel in channels_last, where neighbouring channels are.
#pragma once
#include "core/cuda_tile.hpp"
#include "core/fast_div.hpp"

namespace arraynn::cuda {

// The source position of pixel position q and kernel place t: (q mul + add + t tap) / div where that is
// whole. A forward convolution has div 1; its gradient by x is one with the stride there.
struct GatherAxis {
  std::int32_t size, mul, add, tap;
  FastDiv div;

  __device__ __forceinline__ bool source(std::int32_t q, std::int32_t t, std::int32_t* at) const {
    const std::int32_t position = q * mul + add + t * tap;
    if (position < 0) return false;
    const auto whole = static_cast<std::int32_t>(div.divide(static_cast<std::uint32_t>(position)));
    *at = whole;
    return whole < size && whole * static_cast<std::int32_t>(div.divisor) == position;
  }
};

// Pixels of the result's positions.
struct Pixels {
  FastDiv d, h, w;  // extents; d is not divided by for the sample alone
  struct Place {
    std::int32_t n, d, h, w;
  };
  __device__ __forceinline__ Place at(std::uint32_t pixel) const {
    const std::uint32_t rows = w.divide(pixel), planes = h.divide(rows), n = d.divide(planes);
    return {static_cast<std::int32_t>(n), static_cast<std::int32_t>(planes - n * d.divisor),
            static_cast<std::int32_t>(rows - planes * h.divisor),
            static_cast<std::int32_t>(pixel - rows * w.divisor)};
  }
  __device__ __forceinline__ void next(Place* p) const {
    if (++p->w < static_cast<std::int32_t>(w.divisor)) return;
    p->w = 0;
    if (++p->h < static_cast<std::int32_t>(h.divisor)) return;
    p->h = 0;
    if (++p->d < static_cast<std::int32_t>(d.divisor)) return;
    p->d = 0;
    ++p->n;
  }
};

struct Taps {
  FastDiv fast;  // extent of what runs fastest: places of the kernel, or channels if `last`
  FastDiv h, w;  // of the kernel
  struct Place {
    std::int32_t channel, d, h, w;
  };
  struct Index {
    std::uint32_t channel, place;
  };
  template <bool kLast>
  __device__ __forceinline__ Index split(std::uint32_t tap) const {
    const std::uint32_t slow = fast.divide(tap), rest = tap - slow * fast.divisor;
    return kLast ? Index{rest, slow} : Index{slow, rest};
  }
  template <bool kLast>
  __device__ __forceinline__ Place at(std::uint32_t tap) const {
    const Index i = split<kLast>(tap);
    const std::uint32_t rows = w.divide(i.place), d = h.divide(rows);
    return {static_cast<std::int32_t>(i.channel), static_cast<std::int32_t>(d),
            static_cast<std::int32_t>(rows - d * h.divisor),
            static_cast<std::int32_t>(i.place - rows * w.divisor)};
  }
};

// Patches: outer is the pixel and k the tap, or the other way round. 0 beside the source.
template <class T_, bool kAlongK_, bool kPixelIsK>
struct GatherOperand {
  using T = T_;
  static constexpr bool kAlongK = kAlongK_;
  static constexpr bool kLast = kAlongK != kPixelIsK;  // copied along taps
  const T* p;
  GatherAxis d, h, w;
  std::int64_t stride_n, stride_c, stride_d, stride_h, stride_w;
  Pixels pixels;
  Taps taps;
  std::int64_t outer, depth;
  bool packed;  // whole packs of channels at multiples of 16 bytes

  __device__ __forceinline__ bool source(const Pixels::Place& at, const Taps::Place& tap,
                                         std::int64_t* offset) const {
    std::int32_t sd, sh, sw;
    if (!w.source(at.w, tap.w, &sw) || !h.source(at.h, tap.h, &sh) || !d.source(at.d, tap.d, &sd)) {
      return false;
    }
    *offset =
        at.n * stride_n + tap.channel * stride_c + sd * stride_d + sh * stride_h + sw * stride_w;
    return true;
  }

  __device__ __forceinline__ void copy(T* to, std::int64_t o, std::int64_t k) const {
    const bool inside = o < outer && k < depth;
    const std::int64_t left = inside ? (kAlongK ? depth - k : outer - o) : 0;
    const auto pixel = static_cast<std::uint32_t>(inside ? (kPixelIsK ? k : o) : 0);
    const auto tap = static_cast<std::uint32_t>(inside ? (kPixelIsK ? o : k) : 0);
    Pixels::Place at = pixels.at(pixel);
    std::int64_t offset = 0;
    if constexpr (kLast) {
      if (packed) {
        const bool there = inside && source(at, taps.template at<true>(tap), &offset);
        ptx::cp_async_cg_16(to, there ? p + offset : p, there ? 16 : 0);
        return;
      }
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) {
        const bool there =
            i < left &&
            source(at, taps.template at<true>(tap + static_cast<std::uint32_t>(i)), &offset);
        copy_element(to + i, there ? p + offset : p, there);
      }
    } else {
      const Taps::Place place = taps.template at<false>(tap);
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) {
        const bool there = i < left && source(at, place, &offset);
        copy_element(to + i, there ? p + offset : p, there);
        pixels.next(&at);
      }
    }
  }
};

// Weights: outer is the channel of the result, k the tap.
template <class T_, bool kLast>
struct WeightOperand {
  using T = T_;
  static constexpr bool kAlongK = true;
  const T* p;
  std::int64_t stride, stride_c;  // by the result's channel, by the tap's
  Taps taps;
  std::int64_t outer, depth;
  bool packed;  // the taps of a row follow each other, whole packs at multiples of 16 bytes

  __device__ __forceinline__ void copy(T* to, std::int64_t o, std::int64_t k) const {
    const bool inside = o < outer && k < depth;
    const std::int64_t left = inside ? depth - k : 0;
    const T* row = inside ? p + o * stride : p;
    if (packed) {
      const auto n = static_cast<int>(min_i(left, kPack<T>));
      ptx::cp_async_cg_16(to, inside ? row + k : p, n * static_cast<int>(sizeof(T)));
      return;
    }
    const auto tap = static_cast<std::uint32_t>(inside ? k : 0);
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) {
      const Taps::Index at = taps.template split<kLast>(tap + static_cast<std::uint32_t>(i));
      const bool there = i < left;
      copy_element(to + i, there ? row + at.channel * stride_c + at.place : p, there);
    }
  }
};

// An image in channels_first as a matrix of channels and pixels of all samples.
struct Planes {
  FastDiv size;           // of a plane
  std::int64_t stride_n;  // of a sample
  __device__ __forceinline__ std::int64_t offset(std::int64_t channel, std::int64_t pixel) const {
    const std::uint32_t at = static_cast<std::uint32_t>(pixel), n = size.divide(at);
    return n * stride_n + channel * size.divisor + (at - n * size.divisor);
  }
};

template <class T_>
struct PlaneOperand {  // outer is the channel, k the pixel
  using T = T_;
  static constexpr bool kAlongK = true;
  const T* p;
  Planes planes;
  std::int64_t outer, depth;
  bool packed;  // planes are whole packs

  __device__ __forceinline__ void copy(T* to, std::int64_t o, std::int64_t k) const {
    const bool inside = o < outer && k < depth;
    if (packed) {
      ptx::cp_async_cg_16(to, inside ? p + planes.offset(o, k) : p, inside ? 16 : 0);
      return;
    }
#pragma unroll
    for (int i = 0; i < kPack<T>; ++i) {
      const bool there = inside && k + i < depth;
      copy_element(to + i, there ? p + planes.offset(o, k + i) : p, there);
    }
  }
};

template <class T_>
struct PlaneResult {  // rows are channels, columns pixels
  using T = T_;
  T* c;
  const T* residual;
  Planes planes;
  bool packed;

  __device__ __forceinline__ std::int64_t offset(std::int64_t row, std::int64_t column) const {
    return planes.offset(row, column);
  }
  __device__ __forceinline__ std::int64_t residual_offset(std::int64_t row,
                                                          std::int64_t column) const {
    return planes.offset(row, column);
  }
};

template <class T_>
struct WeightResult {  // columns are taps of channels_last
  using T = T_;
  T* c;
  const T* residual;  // null
  std::int64_t stride, places;
  FastDiv channels;
  bool packed;  // false

  __device__ __forceinline__ std::int64_t offset(std::int64_t row, std::int64_t column) const {
    const auto tap = static_cast<std::uint32_t>(column);
    const std::uint32_t place = channels.divide(tap), channel = tap - place * channels.divisor;
    return row * stride + channel * places + place;
  }
  __device__ __forceinline__ std::int64_t residual_offset(std::int64_t row,
                                                          std::int64_t column) const {
    return offset(row, column);
  }
};

}  // namespace arraynn::cuda
