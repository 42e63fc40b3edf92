// What the tiles of core/cuda_tile.hpp and core/cuda_mma.hpp read and write for convolutions: patches of an
// image are gathered on their way to shared memory, and never lie anywhere else.
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

  __device__ __forceinline__ bool source(std::int32_t position, std::int32_t* at) const {
    *at = position;
    if (div.divisor > 1) {  // the same for all threads
      if (position < 0) return false;
      *at = static_cast<std::int32_t>(div.divide(static_cast<std::uint32_t>(position)));
      if (*at * static_cast<std::int32_t>(div.divisor) != position) return false;
    }
    return static_cast<std::uint32_t>(*at) < static_cast<std::uint32_t>(size);
  }
};

// Where a pixel or a tap is: its sample or its channel, and three indices or positions.
struct GatherPlace {
  std::int32_t first, d, h, w;
};

// Pixels of the result's positions.
struct Pixels {
  FastDiv d, h, w;  // extents; d is not divided by for the sample alone
  __device__ __forceinline__ GatherPlace at(std::uint32_t pixel) const {
    const std::uint32_t rows = w.divide(pixel), planes = h.divide(rows), n = d.divide(planes);
    return {static_cast<std::int32_t>(n), static_cast<std::int32_t>(planes - n * d.divisor),
            static_cast<std::int32_t>(rows - planes * h.divisor),
            static_cast<std::int32_t>(pixel - rows * w.divisor)};
  }
  // Whether the next pixel is in another row.
  __device__ __forceinline__ bool next(GatherPlace* p) const {
    if (++p->w < static_cast<std::int32_t>(w.divisor)) return false;
    p->w = 0;
    if (++p->h < static_cast<std::int32_t>(h.divisor)) return true;
    p->h = 0;
    if (++p->d < static_cast<std::int32_t>(d.divisor)) return true;
    p->d = 0;
    ++p->first;
    return true;
  }
};

struct Taps {
  FastDiv fast;  // extent of what runs fastest: places of the kernel, or channels if `last`
  FastDiv h, w;  // of the kernel
  struct Index {
    std::uint32_t channel, place;
  };
  template <bool kLast>
  __device__ __forceinline__ Index split(std::uint32_t tap) const {
    const std::uint32_t slow = fast.divide(tap), rest = tap - slow * fast.divisor;
    return kLast ? Index{rest, slow} : Index{slow, rest};
  }
  template <bool kLast>
  __device__ __forceinline__ GatherPlace at(std::uint32_t tap) const {
    const Index i = split<kLast>(tap);
    const std::uint32_t rows = w.divide(i.place), d = h.divide(rows);
    return {static_cast<std::int32_t>(i.channel), static_cast<std::int32_t>(d),
            static_cast<std::int32_t>(rows - d * h.divisor),
            static_cast<std::int32_t>(i.place - rows * w.divisor)};
  }
  // Whether the next tap of channels_last is at another place of the kernel.
  __device__ __forceinline__ bool next(GatherPlace* p) const {
    if (++p->first < static_cast<std::int32_t>(fast.divisor)) return false;
    p->first = 0;
    if (++p->w < static_cast<std::int32_t>(w.divisor)) return true;
    p->w = 0;
    if (++p->h < static_cast<std::int32_t>(h.divisor)) return true;
    p->h = 0;
    ++p->d;
    return true;
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
  // Whole packs at multiples of 16 bytes: of channels, or of pixels of planes that a kernel of one tap
  // leaves where they are.
  bool packed;

  // What a pack has one of: in channels_last a pixel, else a tap. Its positions, to which those of the
  // other are added, which walks on within the pack.
  struct Fixed : GatherPlace {};
  struct Walk {
    GatherPlace at;
    int left;  // of the pack
  };
  using Outer = std::conditional_t<kAlongK, Fixed, Walk>;
  using Depth = std::conditional_t<kAlongK, Walk, Fixed>;

  __device__ __forceinline__ Fixed fixed_pixel(std::uint32_t pixel) const {
    const GatherPlace at = pixels.at(pixel);
    return {{at.first, at.d * d.mul + d.add, at.h * h.mul + h.add, at.w * w.mul + w.add}};
  }
  __device__ __forceinline__ Fixed fixed_tap(std::uint32_t tap) const {
    const GatherPlace at = taps.template at<false>(tap);
    return {{at.first, at.d * d.tap + d.add, at.h * h.tap + h.add, at.w * w.tap + w.add}};
  }
  template <class Place>
  __device__ __forceinline__ Place place(std::int64_t size, std::int64_t index) const {
    const bool inside = index < size;
    const auto i = static_cast<std::uint32_t>(inside ? index : 0);
    if constexpr (std::is_same_v<Place, Walk>) {
      return {kLast ? taps.template at<true>(i) : pixels.at(i), left_of<T>(size, index)};
    } else {
      Fixed f = kLast ? fixed_pixel(i) : fixed_tap(i);
      if (!inside) f.d = -(1 << 30);  // no walk comes back from there
      return f;
    }
  }
  __device__ __forceinline__ Outer outer_at(std::int64_t o) const { return place<Outer>(outer, o); }
  __device__ __forceinline__ Depth depth_at(std::int64_t k) const { return place<Depth>(depth, k); }

  // Whether there is a source at a fixed pixel and a tap's place.
  __device__ __forceinline__ bool source(const Fixed& f, const GatherPlace& tap,
                                         std::int64_t* offset) const {
    std::int32_t sd, sh, sw;
    if (!w.source(f.w + tap.w * w.tap, &sw) || !h.source(f.h + tap.h * h.tap, &sh) ||
        !d.source(f.d + tap.d * d.tap, &sd)) {
      return false;
    }
    *offset =
        f.first * stride_n + tap.first * stride_c + sd * stride_d + sh * stride_h + sw * stride_w;
    return true;
  }
  // Whether there are sources at a fixed tap in a row of pixels.
  __device__ __forceinline__ bool source_row(const Fixed& f, const GatherPlace& pixel,
                                             std::int64_t* offset) const {
    std::int32_t sd, sh;
    if (!h.source(f.h + pixel.h * h.mul, &sh) || !d.source(f.d + pixel.d * d.mul, &sd)) {
      return false;
    }
    *offset = pixel.first * stride_n + f.first * stride_c + sd * stride_d + sh * stride_h;
    return true;
  }

  __device__ __forceinline__ void copy(T* to, const Outer& o, const Depth& k) const {
    if constexpr (kAlongK) {
      copy_walk(to, o, k);
    } else {
      copy_walk(to, k, o);
    }
  }
  __device__ __forceinline__ void copy_walk(T* to, const Fixed& fixed, const Walk& walk) const {
    GatherPlace at = walk.at;
    std::int64_t offset = 0;
    if constexpr (kLast) {
      bool there = walk.left > 0 && source(fixed, at, &offset);
      if (packed) {
        ptx::cp_async_cg_16(to, there ? p + offset : p, there ? 16 : 0);
        return;
      }
      copy_elements(to, p, [&](int i) -> const T* {
        const T* from = there && i < walk.left ? p + offset : nullptr;
        offset += stride_c;
        if (taps.next(&at)) there = source(fixed, at, &offset);
        return from;
      });
    } else {
      bool there = walk.left > 0 && source_row(fixed, at, &offset);
      if (packed) {
        ptx::cp_async_cg_16(to, there ? p + offset + at.w * stride_w : p, there ? 16 : 0);
        return;
      }
      copy_elements(to, p, [&](int i) -> const T* {
        std::int32_t sw = 0;
        const bool inside = there && i < walk.left && w.source(fixed.w + at.w * w.mul, &sw);
        const T* from = inside ? p + offset + sw * stride_w : nullptr;
        if (pixels.next(&at)) there = source_row(fixed, at, &offset);
        return from;
      });
    }
  }
};

// An image in channels_first as a matrix of channels and pixels of all samples.
struct Planes {
  FastDiv size;           // of a plane
  std::int64_t stride_n;  // of a sample
  struct Place {
    std::int64_t offset;  // of the sample
    std::uint32_t pixel;
  };
  __device__ __forceinline__ Place at(std::int64_t pixel) const {
    const std::uint32_t at = static_cast<std::uint32_t>(pixel), n = size.divide(at);
    return {n * stride_n, at - n * size.divisor};
  }
  __device__ __forceinline__ std::int64_t offset(std::int64_t channel, std::int64_t pixel) const {
    const Place place = at(pixel);
    return place.offset + channel * size.divisor + place.pixel;
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

  using Outer = std::int32_t;  // a channel, or -1
  struct Depth {
    Planes::Place at;
    int left;  // of the pack
  };
  __device__ __forceinline__ Outer outer_at(std::int64_t o) const {
    return o < outer ? static_cast<std::int32_t>(o) : -1;
  }
  __device__ __forceinline__ Depth depth_at(std::int64_t k) const {
    return {planes.at(k < depth ? k : 0), left_of<T>(depth, k)};
  }
  __device__ __forceinline__ void copy(T* to, const Outer& o, const Depth& k) const {
    const int n = o >= 0 ? k.left : 0;
    const T* plane = p + (n > 0 ? o * std::int64_t{planes.size.divisor} : 0);
    Planes::Place at = k.at;
    if (packed) {
      ptx::cp_async_cg_16(to, plane + (n > 0 ? at.offset + at.pixel : 0), n > 0 ? 16 : 0);
      return;
    }
    copy_elements(to, p, [&](int i) -> const T* {
      const T* from = i < n ? plane + at.offset + at.pixel : nullptr;
      if (++at.pixel == planes.size.divisor) {
        at.pixel = 0;
        at.offset += planes.stride_n;
      }
      return from;
    });
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
