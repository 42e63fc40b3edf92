#include "conv/fold.hpp"

#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Output positions of tap t that lie inside the source.
ARRAYNN_INLINE Range inside(const FoldAxis& a, std::int64_t t) {
  const std::int64_t shift = t * a.dilation - a.begin;  // output o reads o * stride + shift
  const std::int64_t begin = shift >= 0 ? 0 : ceil_div(-shift, a.stride);
  const std::int64_t end = shift >= a.size ? 0 : (a.size - 1 - shift) / a.stride + 1;
  return {min_i(begin, a.out), max_i(min_i(begin, a.out), min_i(a.out, end))};
}

template <class T>
ARRAYNN_INLINE void zero_fill(T* p, std::int64_t n) {
  __builtin_memset(p, 0, static_cast<std::size_t>(n) * sizeof(T));
}

template <class T>
void unfold(const FoldProblem& p, const T* x, T* y, Range rows) {
  const FoldAxis h = p.h, w = p.w;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t plane = r / p.taps(), i = r % p.taps() / w.kernel, j = r % w.kernel;
    const Range high = inside(h, i), wide = inside(w, j);
    const std::int64_t top = i * h.dilation - h.begin, n = wide.end - wide.begin;
    const T* in = x + plane * p.image();
    T* out = y + r * p.windows();
    zero_fill(out, high.begin * w.out);
    for (std::int64_t oh = high.begin; oh < high.end; ++oh) {
      T* to = out + oh * w.out;
      zero_fill(to, wide.begin);
      zero_fill(to + wide.end, w.out - wide.end);
      if (n == 0) continue;
      const T* from =
          in + (oh * h.stride + top) * w.size + wide.begin * w.stride + j * w.dilation - w.begin;
      to += wide.begin;
      if (w.stride == 1) {
        __builtin_memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
      } else if (w.stride == 2) {
        for (std::int64_t o = 0; o < n; o += kLanes<T>) {
          const std::int64_t count = min_i(kLanes<T>, n - o);
          store_n(load_even(from + 2 * o, count), to + o, count);
        }
      } else {
        for (std::int64_t o = 0; o < n; ++o) to[o] = from[o * w.stride];
      }
    }
    zero_fill(out + high.end * w.out, (h.out - high.end) * w.out);
  }
}

template <class T>
ARRAYNN_INLINE void add_row(const T* from, std::int64_t n, T* to) {
  constexpr std::int64_t kL = kLanes<T>;
  std::int64_t o = 0;
  for (; o + kL <= n; o += kL) (Vec<T>::load(to + o) + Vec<T>::load(from + o)).store(to + o);
  for (; o < n; ++o) to[o] += from[o];
}

template <class T>
void fold(const FoldProblem& p, const T* y, T* x, Range planes) {
  const FoldAxis h = p.h, w = p.w;
  for (std::int64_t plane = planes.begin; plane < planes.end; ++plane) {
    T* out = x + plane * p.image();
    zero_fill(out, p.image());
    for (std::int64_t i = 0; i < h.kernel; ++i) {
      const Range high = inside(h, i);
      for (std::int64_t j = 0; j < w.kernel; ++j) {
        const Range wide = inside(w, j);
        const std::int64_t n = wide.end - wide.begin;
        if (n == 0) continue;
        const std::int64_t tap = (plane * h.kernel + i) * w.kernel + j;
        const T* in = y + tap * p.windows() + wide.begin;
        for (std::int64_t oh = high.begin; oh < high.end; ++oh) {
          const std::int64_t row = oh * h.stride + i * h.dilation - h.begin;
          T* to = out + row * w.size + wide.begin * w.stride + j * w.dilation - w.begin;
          const T* from = in + oh * w.out;
          if (w.stride == 1) {
            add_row(from, n, to);
          } else {
            for (std::int64_t o = 0; o < n; ++o) to[o * w.stride] += from[o];
          }
        }
      }
    }
  }
}

}  // namespace

extern const FoldKernels fold_kernels = {{&unfold<float>, &fold<float>},
                                         {&unfold<double>, &fold<double>}};

}  // namespace ARRAYNN_ISA_NAMESPACE
