#include "softmax/classes.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Classes of a row that is filled past the caches.
constexpr std::int64_t kLongRow = 1024;

template <class T>
ARRAYNN_INLINE T weight_of(const CrossEntropy<T>& p, std::int64_t y) {
  if (y == p.ignore_index) return T(0);
  return p.weight != nullptr ? p.weight[y] : T(1);
}

// A row is a strip of one column.
template <class T>
ARRAYNN_INLINE Strip samples_of(const CrossEntropy<T>& p, std::int64_t unit) {
  if (p.shape.inner == 1) return {unit * p.shape.n, unit, 1};
  return strip_of(p, unit);
}

template <class T>
void forward(const CrossEntropy<T>& p, T* losses, std::int64_t begin, std::int64_t end) {
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Strip strip = samples_of(p, unit);
    const T* z = p.logits + strip.offset;
    for (std::int64_t j = 0; j < strip.width; ++j) {
      const std::int64_t y = p.target[strip.sample + j];
      const T w = weight_of(p, y);
      losses[strip.sample + j] = w == T(0) ? T(0) : -(w * z[y * p.shape.inner + j]);
    }
  }
}

template <class T>
void backward(const CrossEntropy<T>& p, const T* g, T scale, T* dx, std::int64_t begin,
              std::int64_t end) {
  const std::int64_t n = p.shape.n, inner = p.shape.inner;
  // The one number of a short row would wait for its line to come back.
  const bool stream = n >= kLongRow && streams(p.shape.outer * n * inner, sizeof(T));
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Strip strip = samples_of(p, unit);
    T* out = dx + strip.offset;
    if (inner == 1) {
      write_run(out, n, stream, [](std::int64_t, std::int64_t) { return Vec<T>::zero(); });
    } else {
      for (std::int64_t c = 0; c < n; ++c) fill_zero(out + c * inner, strip.width);
    }
    for (std::int64_t j = 0; j < strip.width; ++j) {
      const std::int64_t y = p.target[strip.sample + j];
      const T w = weight_of(p, y);
      // A sample that counts for nothing has gradient 0 even where g is NaN.
      if (w == T(0)) continue;
      out[y * inner + j] = -(w * (g != nullptr ? g[strip.sample + j] * scale : scale));
    }
  }
}

}  // namespace

extern const NllLossKernels nll_loss_kernels = {
    {&forward<float>, &backward<float>},
    {&forward<double>, &backward<double>},
};

}  // namespace ARRAYNN_ISA_NAMESPACE
