#include "elementwise/glu.hpp"

#include "core/index.hpp"
#include "core/parallel.hpp"
#include "elementwise/elementwise.hpp"

namespace arraynn {
namespace {

// f(begin, end) on every thread's part of y, cut at whole blocks.
template <class F>
void for_parts(const GluShape& p, const F& f) {
  const std::int64_t n = p.outer * p.inner, blocks = ceil_div(n, kElementwiseBlock);
  if (n == 0) return;
  parallel(threads_for(static_cast<double>(n), kElementwiseGrain), Denormals::kFlush,
           [&](int tid, int team) {
             const Range part = split_range(blocks, team, tid);
             const std::int64_t end = min_i(n, part.end * kElementwiseBlock);
             if (part.begin < part.end) f(part.begin * kElementwiseBlock, end);
           });
}

}  // namespace

template <class T>
void run_glu(const Activation& f, const GluShape& p, const T* x, T* y) {
  const auto kernel = glu_kernels().of<T>().forward;
  for_parts(p, [&](std::int64_t begin, std::int64_t end) { kernel(f, p, x, y, begin, end); });
}

template <class T>
void run_glu_backward(const Activation& f, const GluShape& p, const T* dy, const T* x, T* dx) {
  const auto kernel = glu_kernels().of<T>().backward;
  for_parts(p, [&](std::int64_t begin, std::int64_t end) { kernel(f, p, dy, x, dx, begin, end); });
}

#define ARRAYNN_INSTANTIATE(T)                                                \
  template void run_glu<T>(const Activation&, const GluShape&, const T*, T*); \
  template void run_glu_backward<T>(const Activation&, const GluShape&, const T*, const T*, T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
