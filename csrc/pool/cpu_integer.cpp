// Max pooling of integers. There is no NaN, no order of rounding and no gradient: plain loops, which
// the compiler turns into vectors over channels (channels_last) or along the row (channels_first).
#include "pool/tables.hpp"
#include "pool/volume.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
constexpr T kLowest = T(-1) > T(0) ? T(0) : static_cast<T>(std::uint64_t{1} << (8 * sizeof(T) - 1));

// The windows of one output row. `in` is the sample or the volume.
template <class T>
struct IntegerRow {
  const T* in;
  T* out;
  std::int64_t* indices;
  Range d, h;
  std::int64_t first_d, first_h;  // positions of the first taps
};

// outputs = max(outputs, one row of taps), outputs of a stride known to the compiler where it is
// small.
template <std::int64_t kStride, class T>
ARRAYNN_INLINE void take_taps(const T* from, std::int64_t stride, std::int64_t n, T* out) {
  const std::int64_t step = kStride > 0 ? kStride : stride;
  for (std::int64_t o = 0; o < n; ++o) {
    const T value = from[o * step];
    out[o] = value > out[o] ? value : out[o];
  }
}

template <class T>
void row_along(const VolumeProblem& v, const IntegerRow<T>& r) {
  const PoolAxis& w = v.plane.w;
  for (std::int64_t o = 0; o < w.out; ++o) r.out[o] = kLowest<T>;
  for (std::int64_t k = r.d.begin; k < r.d.end; ++k) {
    for (std::int64_t i = r.h.begin; i < r.h.end; ++i) {
      const std::int64_t depth = r.first_d + k * v.d.dilation;
      const std::int64_t row = depth * v.plane.h.size + r.first_h + i * v.plane.h.dilation;
      for (std::int64_t j = 0; j < w.kernel; ++j) {
        const std::int64_t shift = j * w.dilation - w.begin;  // output o reads o * stride + shift
        const std::int64_t begin = shift >= 0 ? 0 : ceil_div(-shift, w.stride);
        const std::int64_t end =
            shift >= w.size ? 0 : min_i(w.out, (w.size - 1 - shift) / w.stride + 1);
        if (begin >= end) continue;
        const T* from = r.in + row * w.size + begin * w.stride + shift;
        const std::int64_t n = end - begin;
        if (w.stride == 1) {
          take_taps<1>(from, 1, n, r.out + begin);
        } else if (w.stride == 2) {
          take_taps<2>(from, 2, n, r.out + begin);
        } else {
          take_taps<0>(from, w.stride, n, r.out + begin);
        }
      }
    }
  }
}

template <class T>
void row_by_pixels(const VolumeProblem& v, const IntegerRow<T>& r) {
  const PoolProblem& p = v.plane;
  const std::int64_t channels = p.channels_last ? p.c : 1;
  for (std::int64_t ow = 0; ow < p.w.out; ++ow) {
    T* out = r.out + ow * channels;
    std::int64_t* where = r.indices == nullptr ? nullptr : r.indices + ow * channels;
    for (std::int64_t c = 0; c < channels; ++c) out[c] = kLowest<T>;
    for (std::int64_t c = 0; where != nullptr && c < channels; ++c) where[c] = -1;
    const Range w = window_taps(p.w, ow);
    const std::int64_t left = window_first(p.w, ow);
    for (std::int64_t k = r.d.begin; k < r.d.end; ++k) {
      for (std::int64_t i = r.h.begin; i < r.h.end; ++i) {
        const std::int64_t depth = r.first_d + k * v.d.dilation;
        const std::int64_t row = depth * p.h.size + r.first_h + i * p.h.dilation;
        for (std::int64_t j = w.begin; j < w.end; ++j) {
          const std::int64_t at = row * p.w.size + left + j * p.w.dilation;
          const T* from = r.in + at * channels;
          if (where == nullptr) {
            take_taps<1>(from, 1, channels, out);
            continue;
          }
          for (std::int64_t c = 0; c < channels; ++c) {
            const bool wins = where[c] < 0 || from[c] > out[c];
            out[c] = wins ? from[c] : out[c];
            where[c] = wins ? at : where[c];
          }
        }
      }
    }
  }
}

template <class T>
void max_integer(const VolumeProblem& v, const T* x, T* y, std::int64_t* indices, Range rows) {
  const PoolProblem& p = v.plane;
  const std::int64_t channels = p.channels_last ? p.c : 1, width = p.w.out * channels;
  for (std::int64_t r = rows.begin; r < rows.end; ++r) {
    const std::int64_t oh = r % p.h.out, od = r / p.h.out % v.d.out;
    const IntegerRow<T> row{x + r / (p.h.out * v.d.out) * v.in() * channels,
                            y + r * width,
                            indices == nullptr ? nullptr : indices + r * width,
                            window_taps(v.d, od),
                            window_taps(p.h, oh),
                            window_first(v.d, od),
                            window_first(p.h, oh)};
    if (!p.channels_last && indices == nullptr && p.w.to == 0) {
      row_along(v, row);
    } else {
      row_by_pixels(v, row);
    }
  }
}

}  // namespace

#define ARRAYNN_MAX_INTEGER(T, suffix)                                                             \
  void max_##suffix(const VolumeProblem& v, const T* x, T* y, std::int64_t* indices, Range rows) { \
    max_integer(v, x, y, indices, rows);                                                           \
  }
ARRAYNN_MAX_INTEGER(std::uint8_t, u8)
ARRAYNN_MAX_INTEGER(std::int8_t, i8)
ARRAYNN_MAX_INTEGER(std::int16_t, i16)
ARRAYNN_MAX_INTEGER(std::int32_t, i32)
ARRAYNN_MAX_INTEGER(std::int64_t, i64)
#undef ARRAYNN_MAX_INTEGER

}  // namespace ARRAYNN_ISA_NAMESPACE
