#include "softmax/classes.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Classes of a row that is filled past the caches.
constexpr std::int64_t kLongRow = 1024;

template <class S>
ARRAYNN_INLINE Compute<S> weight_of(const CrossEntropy<S>& p, std::int64_t y) {
  using T = Compute<S>;
  if (y == p.ignore_index) return T(0);
  return p.weight != nullptr ? p.weight[y] : T(1);
}

// A row is a strip of one column.
template <class T>
ARRAYNN_INLINE Strip samples_of(const CrossEntropy<T>& p, std::int64_t unit) {
  if (p.shape.inner == 1) return {unit * p.shape.n, unit, 1};
  return strip_of(p, unit);
}

template <class S>
void forward(const CrossEntropy<S>& p, Compute<S>* losses, std::int64_t begin, std::int64_t end) {
  using T = Compute<S>;
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Strip strip = samples_of(p, unit);
    const S* z = p.logits + strip.offset;
    for (std::int64_t j = 0; j < strip.width; ++j) {
      const std::int64_t y = p.target[strip.sample + j];
      const T w = weight_of(p, y);
      losses[strip.sample + j] = w == T(0) ? T(0) : -(w * to_compute(z[y * p.shape.inner + j]));
    }
  }
}

template <class S>
void backward(const CrossEntropy<S>& p, const Compute<S>* g, Compute<S> scale, S* dx,
              std::int64_t begin, std::int64_t end) {
  using T = Compute<S>;
  const std::int64_t n = p.shape.n, inner = p.shape.inner;
  // The one number of a short row would wait for its line to come back.
  const bool stream = n >= kLongRow && streams(p.shape.outer * n * inner, sizeof(S));
  for (std::int64_t unit = begin; unit < end; ++unit) {
    const Strip strip = samples_of(p, unit);
    S* out = dx + strip.offset;
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
      out[y * inner + j] =
          from_compute<S>(-(w * (g != nullptr ? g[strip.sample + j] * scale : scale)));
    }
  }
}

}  // namespace

extern const NllLossKernels nll_loss_kernels = {
    {&forward<float>, &backward<float>},
    {&forward<double>, &backward<double>},
    {&forward<Half>, &backward<Half>},
    {&forward<Bfloat16>, &backward<Bfloat16>},
};

}  // namespace ARRAYNN_ISA_NAMESPACE
