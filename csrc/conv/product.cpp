#include "conv/product.hpp"

#include <algorithm>
#include <vector>

#include "conv/fold.hpp"
#include "core/arena.hpp"
#include "gemm/gemm.hpp"

namespace arraynn {
namespace {

// True of a call that describes itself: as `count` matrix products alike.
template <class T>
bool describes_gemm(const Conv2dProblem& p, const GemmProblem<T>& g, std::int64_t count) {
  if (p.plan == nullptr) return false;
  const GemmUse use = gemm_batch_use(g, count);
  p.plan->note("gemm", "1x1 of stride 1: the matrix product of the layout", use.scratch,
               use.threads);
  return true;
}

template <class T>
Epilogue<T> gemm_epilogue(const ConvEpilogue<T>& e, BiasAxis axis, std::int64_t rs_residual) {
  return {e.bias, e.bias == nullptr ? BiasAxis::kNone : axis, e.residual, rs_residual,
          e.activation};
}

// Positions that are gathered at a time: what a product finds in L2 rather than in memory.
constexpr std::int64_t kGatheredBytes = std::int64_t{1} << 20;

}  // namespace

template <class T>
void forward_gemm(const Conv2dProblem& p, const T* x, const T* weight, const ConvEpilogue<T>& e,
                  T* y) {
  const std::int64_t plane = p.oh * p.ow;
  if (p.channels_last) {
    GemmProblem<T> g{p.n * plane, p.oc, p.ic, x, p.ic, 1,
                     weight,      1,    p.ic, y, p.oc, gemm_epilogue(e, BiasAxis::kColumn, p.oc)};
    if (describes_gemm(p, g, 1)) return;
    if (p.forms != nullptr) use_packed(p.op, p.forms, Operand::kB, &g);
    return gemm(p.op, g);
  }
  GemmProblem<T> g{p.oc, plane, p.ic, weight, p.ic,  1,
                   x,    plane, 1,    y,      plane, gemm_epilogue(e, BiasAxis::kRow, plane)};
  if (describes_gemm(p, g, p.n)) return;
  if (p.forms != nullptr) use_packed(p.op, p.forms, Operand::kA, &g);
  std::vector<BatchItem> items;
  for (std::int64_t i = 0; i < p.n; ++i) items.push_back({0, i * p.ic * plane, i * p.oc * plane});
  gemm_batch(p.op, g, items.data(), p.n);
}

template <class T>
void forward_gathered(const Conv2dProblem& p, const T* x, const T* weight, const ConvEpilogue<T>& e,
                      T* y) {
  const std::int64_t plane = p.oh * p.ow;
  const std::int64_t row = p.ic * p.ow * static_cast<std::int64_t>(sizeof(T));
  const auto parts = [](std::int64_t count, std::int64_t bytes) {  // alike, of those that fit
    const std::int64_t most = std::clamp<std::int64_t>(kGatheredBytes / bytes, 1, count);
    const std::int64_t pieces = (count + most - 1) / most;
    return (count + pieces - 1) / pieces;
  };
  const std::int64_t rows = parts(p.oh, row);
  const std::int64_t samples = rows < p.oh ? 1 : parts(p.n, row * p.oh);
  const std::int64_t bytes = samples * rows * row;
  const Scratch scratch(p.op, p.plan != nullptr ? 0 : static_cast<std::size_t>(bytes));
  T* const gathered = static_cast<T*>(scratch.data());
  std::vector<BatchItem> items;
  for (std::int64_t i = 0; i < p.n; i += samples) {
    for (std::int64_t r = 0; r < p.oh; r += rows) {
      const std::int64_t some = std::min(samples, p.n - i), height = std::min(rows, p.oh - r);
      const std::int64_t width = height * p.ow;
      ConvEpilogue<T> part = e;
      const std::int64_t at = i * p.oc * plane + r * p.ow;
      if (e.residual != nullptr) part.residual += at;
      GemmProblem<T> g{p.oc, width,  p.ic,     weight,
                       p.ic, 1,      gathered, width,
                       1,    y + at, plane,    gemm_epilogue(part, BiasAxis::kRow, plane)};
      if (p.plan != nullptr) {
        const GemmUse use = gemm_batch_use(g, some);
        return p.plan->note("gemm", "1x1 of a stride: the matrix product of positions gathered",
                            use.scratch + bytes, use.threads);
      }
      const FoldProblem f{some,
                          p.ic,
                          {p.ih, 1, p.stride_h, 1, p.pad_h - r * p.stride_h, height},
                          {p.iw, 1, p.stride_w, 1, p.pad_w, p.ow}};
      run_unfold(f, x + i * p.ic * p.ih * p.iw, gathered);
      if (p.forms != nullptr) use_packed(p.op, p.forms, Operand::kA, &g);
      items.clear();
      for (std::int64_t j = 0; j < some; ++j) {
        items.push_back({0, j * p.ic * width, j * p.oc * plane});
      }
      gemm_batch(p.op, g, items.data(), some);
    }
  }
}

template <class T>
void backward_x_gemm(const Conv2dProblem& p, const T* dy, const T* weight, const ConvEpilogue<T>& e,
                     T* dx) {
  const std::int64_t plane = p.oh * p.ow;
  if (p.channels_last) {
    GemmProblem<T> g{p.n * plane, p.ic, p.oc, dy, p.oc, 1,
                     weight,      p.ic, 1,    dx, p.ic, gemm_epilogue(e, BiasAxis::kColumn, p.ic)};
    if (describes_gemm(p, g, 1)) return;
    if (p.forms != nullptr) use_packed(p.op, p.forms, Operand::kB, &g);
    return gemm(p.op, g);
  }
  GemmProblem<T> g{p.ic, plane, p.oc, weight, 1,     p.ic,
                   dy,   plane, 1,    dx,     plane, gemm_epilogue(e, BiasAxis::kRow, plane)};
  if (describes_gemm(p, g, p.n)) return;
  if (p.forms != nullptr) use_packed(p.op, p.forms, Operand::kA, &g);
  std::vector<BatchItem> items;
  for (std::int64_t i = 0; i < p.n; ++i) items.push_back({0, i * p.oc * plane, i * p.ic * plane});
  gemm_batch(p.op, g, items.data(), p.n);
}

template <class T>
void backward_weight_gemm(const Conv2dProblem& p, const T* dy, const T* x, T* dw) {
  const std::int64_t plane = p.oh * p.ow;
  GemmProblem<T> g{p.oc, p.ic, p.n * plane, dy, 1, p.oc, x, p.ic, 1, dw, p.ic, {}};
  if (p.channels_last) {
    if (!describes_gemm(p, g, 1)) gemm(p.op, g);
    return;
  }
  g.k = plane;
  g.rs_a = plane;
  g.cs_a = 1;
  g.rs_b = 1;
  g.cs_b = plane;
  if (describes_gemm(p, g, 1)) return;  // the samples are alike
  for (std::int64_t i = 0; i < p.n; ++i) {
    g.a = dy + i * p.oc * plane;
    g.b = x + i * p.ic * plane;
    g.accumulate = i > 0;
    gemm(p.op, g);
  }
}

#define ARRAYNN_INSTANTIATE(T)                                                        \
  template void forward_gemm(const Conv2dProblem& p, const T* x, const T* weight,     \
                             const ConvEpilogue<T>& e, T* y);                         \
  template void backward_x_gemm(const Conv2dProblem& p, const T* dy, const T* weight, \
                                const ConvEpilogue<T>& e, T* dx);
ARRAYNN_INSTANTIATE(float)
ARRAYNN_INSTANTIATE(double)
ARRAYNN_INSTANTIATE(Bfloat16)
#undef ARRAYNN_INSTANTIATE
#define ARRAYNN_INSTANTIATE(T)                                                                \
  template void backward_weight_gemm(const Conv2dProblem& p, const T* dy, const T* x, T* dw); \
  template void forward_gathered(const Conv2dProblem& p, const T* x, const T* weight,         \
                                 const ConvEpilogue<T>& e, T* y);
ARRAYNN_INSTANTIATE(float)
ARRAYNN_INSTANTIATE(double)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
