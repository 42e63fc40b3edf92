// Windows on a device. Every pooling is one in three dimensions over samples of pixels with c channels:
// planes of channels_first are samples of one channel, and axes that a window covers as a whole are
// joined with the next one, so that a global pooling is a window over one axis.
//
// I is the type of positions: int32 where a sample and the reach of its windows are below 2^30 elements,
// with quotients as products; many samples take several launches. Else int64.
#pragma once
#include <cstdint>
#include <numeric>

#include "core/cuda_launch.hpp"
#include "pool/volume.hpp"

namespace arraynn::cuda {

template <class I>
struct QuickDivisor {
  I by = 1;

  QuickDivisor() = default;
  explicit QuickDivisor(std::int64_t divisor) : by(max_i(1, divisor)) {}
  __device__ __forceinline__ I operator()(I x) const { return x / by; }
};

// Of 0 <= x < 2^31 by less than 2^31: Granlund and Montgomery, "Division by Invariant Integers using
// Multiplication" (1994), figure 4.1.
template <>
struct QuickDivisor<std::int32_t> {
  std::uint32_t magic = 1, shift = 0;

  QuickDivisor() = default;
  explicit QuickDivisor(std::int64_t divisor) {
    const auto by = static_cast<std::uint64_t>(max_i(1, divisor));
    while ((std::uint64_t{1} << shift) < by) ++shift;
    magic = static_cast<std::uint32_t>((((std::uint64_t{1} << shift) - by) << 32) / by + 1);
  }
  __device__ __forceinline__ std::int32_t operator()(std::int32_t x) const {
    const auto v = static_cast<std::uint32_t>(x);
    const auto high = static_cast<std::uint32_t>(std::uint64_t{v} * magic >> 32);
    return static_cast<std::int32_t>((high + v) >> shift);
  }
};

// The taps of a window along one axis that lie in the input: positions at, at + dilation, ...
template <class I>
struct Taps {
  I at, count;
};
// The windows along one axis that a position is a tap of: first, first + step, ...
template <class I>
struct Touching {
  I first, count;
};

// PoolAxis, with what its functions divide by.
template <class I>
struct WindowAxis {
  I size, kernel, stride, dilation, begin, end, out, from, to;
  I step;  // of the windows that share a position
  QuickDivisor<I> by_stride, by_dilation, by_from, by_to;

  WindowAxis() = default;
  explicit WindowAxis(const PoolAxis& a)
      : size(static_cast<I>(a.size)),
        kernel(static_cast<I>(a.kernel)),
        stride(static_cast<I>(a.stride)),
        dilation(static_cast<I>(a.dilation)),
        begin(static_cast<I>(a.begin)),
        end(static_cast<I>(a.end)),
        out(static_cast<I>(a.out)),
        from(static_cast<I>(a.from)),
        to(static_cast<I>(a.to)),
        step(static_cast<I>(a.dilation / std::gcd(a.dilation, a.stride))),
        by_stride(a.stride),
        by_dilation(a.dilation),
        by_from(a.from),
        by_to(a.to) {}

  __device__ __forceinline__ Taps<I> taps(I o) const {
    if (to > 0) {
      const I first = by_to(o * from);
      return {first, by_to((o + 1) * from + to - 1) - first};
    }
    const I first = o * stride - begin;
    if (dilation == 1) {
      const I low = first < 0 ? -first : 0, room = size - first;
      const I high = kernel < room ? kernel : room;
      return {first + low, high > low ? high - low : 0};
    }
    const I low = first >= 0 ? 0 : by_dilation(dilation - 1 - first);
    I high = first >= size ? 0 : by_dilation(size - 1 - first) + 1;
    high = kernel < high ? kernel : high;
    return {first + low * dilation, high > low ? high - low : 0};
  }

  __device__ __forceinline__ Touching<I> touching(I at) const {
    if (to > 0) {
      const I first = by_from(at * to), last = by_from((at + 1) * to + from - 1);
      return {first, last - first};
    }
    const I low = at + begin - (kernel - 1) * dilation;
    I first = low <= 0 ? 0 : by_stride(low + stride - 1);
    I last = by_stride(at + begin);
    last = last < out ? last : out - 1;
    if (dilation == 1) return {first, last >= first ? last - first + 1 : 0};
    // Of `step` windows one at most has a tap here.
    for (I tries = 0; tries < step && first <= last; ++tries, ++first) {
      const I distance = at + begin - first * stride;
      if (by_dilation(distance) * dilation == distance) return {first, (last - first) / step + 1};
    }
    return {first, 0};
  }

  // Taps that the divisor of an average counts.
  __device__ __forceinline__ I counted(I o, bool include_pad) const {
    if (!include_pad || to > 0) return taps(o).count;
    const I room = size + end - (o * stride - begin);  // >= 1
    const I fitting = dilation == 1 ? room : by_dilation(room - 1) + 1;
    return kernel < fitting ? kernel : fitting;
  }
};

// Rows of a column that one thread takes: what it knows of depth and width holds for all of them.
inline constexpr int kStripRows = 4;

template <class I>
struct Place {
  I n, d, h, w, group;
};

// Groups of channels, columns and strips of `rows` rows in the order of memory.
template <class I>
struct Strips {
  I count = 0, groups = 1, w = 1, blocks = 1, d = 1, rows = 1;
  QuickDivisor<I> by_groups, by_w, by_blocks, by_d;

  Strips() = default;
  Strips(std::int64_t n, std::int64_t depth, std::int64_t height, std::int64_t width,
         std::int64_t channel_groups, std::int64_t rows_of_a_strip)
      : groups(static_cast<I>(channel_groups)),
        w(static_cast<I>(width)),
        blocks(static_cast<I>(ceil_div(height, rows_of_a_strip))),
        d(static_cast<I>(depth)),
        rows(static_cast<I>(rows_of_a_strip)),
        by_groups(groups),
        by_w(w),
        by_blocks(blocks),
        by_d(d) {
    count = static_cast<I>(n * d * blocks * w * groups);
  }

  __device__ __forceinline__ Place<I> locate(I strip) const {
    const I columns = by_groups(strip), lines = by_w(columns);
    const I planes = by_blocks(lines), n = by_d(planes);
    return {n, planes - n * d, (lines - planes * blocks) * rows, columns - lines * w,
            strip - columns * groups};
  }
};

template <class I>
struct WindowProblem {
  I c, in, out;  // channels, and elements of a sample
  WindowAxis<I> d, h, w;
  QuickDivisor<I> by_c;
};

// Steps over a box of positions in the order of memory.
template <class I>
struct Walk {
  I offset, nw, nh, step_w, jump_h, jump_d;
  I i = 0, j = 0, k = 0;

  __device__ __forceinline__ Walk(I start, I width, I height, I along_w, I along_h, I along_d)
      : offset(start),
        nw(width),
        nh(height),
        step_w(along_w),
        jump_h(along_h - width * along_w),
        jump_d(along_d - height * along_h) {}
  __device__ __forceinline__ void advance() {
    offset += step_w;
    if (++k < nw) return;
    k = 0;
    offset += jump_h;
    if (++j < nh) return;
    j = 0;
    ++i;
    offset += jump_d;
  }
};

// What the host knows of a problem.
struct Windows {
  std::int64_t n, c;
  PoolAxis d, h, w;

  std::int64_t in() const { return d.size * h.size * w.size * c; }
  std::int64_t out() const { return d.out * h.out * w.out * c; }
};

inline constexpr PoolAxis kPointAxis = {1, 1, 1, 1, 0, 0, 1};

// The axis of the pixels of `outer`, each of them the whole of `inner`; false where there is none.
inline bool join_axes(const PoolAxis& outer, const PoolAxis& inner, PoolAxis* joined) {
  if (!is_one_window(inner)) return false;
  *joined = outer;
  if (inner.size == 1) return true;
  bool over = outer.to > 0 || outer.dilation != 1;
  for (std::int64_t* x :
       {&joined->size, &joined->kernel, &joined->stride, &joined->begin, &joined->end}) {
    over = __builtin_mul_overflow(*x, inner.size, x) || over;
  }
  return !over;
}

inline Windows windows_of(const PoolProblem& p, const PoolAxis& depth) {
  Windows v{p.channels_last ? p.n : p.n * p.c, p.channels_last ? p.c : 1, depth, p.h, p.w};
  for (int i = 0; i < 2; ++i) {
    PoolAxis joined{};
    if (!join_axes(v.h, v.w, &joined)) break;
    v.w = joined;
    v.h = v.d;
    v.d = kPointAxis;
  }
  return v;
}
inline Windows windows_of(const PoolProblem& p) { return windows_of(p, kPointAxis); }
inline Windows windows_of(const VolumeProblem& v) { return windows_of(v.plane, v.d); }

inline constexpr std::int64_t kNarrow = std::int64_t{1} << 30;
// Elements of a launch: positions ahead of it by one step of any grid are below 2^31. Few on the
// emulated device, so that its tests take several launches.
#if defined(ARRAYNN_HOST_CUDA)
inline constexpr std::int64_t kLaunchElements = 4000;
#else
inline constexpr std::int64_t kLaunchElements = (std::int64_t{1} << 31) - (std::int64_t{1} << 22);
#endif

inline bool is_narrow(const PoolAxis& a, std::int64_t inner) {
  std::int64_t reach = 0, last = 0, cut = 0;
  const bool over = __builtin_mul_overflow(a.out + 1, a.stride, &last) ||
                    __builtin_mul_overflow(a.from, a.to + 1, &cut) ||
                    __builtin_add_overflow(a.size + a.begin + a.end, window_span(a), &reach) ||
                    __builtin_add_overflow(reach, a.dilation, &reach) ||
                    __builtin_mul_overflow(reach, inner, &reach);
  return !over && reach < kNarrow && last < kNarrow && cut < kNarrow;
}
inline bool is_narrow(const Windows& v) {
  const std::int64_t row = v.c * max_i(v.w.size, v.w.out);
  const std::int64_t plane = v.c * max_i(v.h.size * v.w.size, v.h.out * v.w.out);
  return max_i(v.in(), v.out()) < kNarrow && is_narrow(v.w, v.c) && is_narrow(v.h, row) &&
         is_narrow(v.d, plane);
}

template <class I>
WindowProblem<I> problem_of(const Windows& v) {
  return {static_cast<I>(v.c), static_cast<I>(v.in()), static_cast<I>(v.out()), WindowAxis<I>(v.d),
          WindowAxis<I>(v.h),  WindowAxis<I>(v.w),     QuickDivisor<I>(v.c)};
}

// f(I{}, part, first sample) for parts that a launch can take.
template <class F>
void for_launches(const Windows& v, const F& f) {
  if (!is_narrow(v)) return f(std::int64_t{}, v, std::int64_t{0});
  const std::int64_t samples = max_i(1, kLaunchElements / max_i(1, max_i(v.in(), v.out())));
  for (std::int64_t first = 0; first < v.n; first += samples) {
    Windows part = v;
    part.n = min_i(samples, v.n - first);
    f(std::int32_t{}, part, first);
  }
}

}  // namespace arraynn::cuda
