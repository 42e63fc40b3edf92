#include "rope/rope.hpp"

#include "core/index.hpp"
#include "core/parallel.hpp"

namespace arraynn {
namespace {

// Elements that one thread should have at least: about 10 us of memory traffic.
constexpr double kRopeGrain = 32768;

}  // namespace

template <class T>
void run_rope(const RopeShape& p, const T* x, const T* cos, const T* sin, bool back, T* y) {
  const std::int64_t rows = p.size[0] * p.size[1] * p.size[2];
  if (rows == 0) return;
  const auto kernel = back ? rope_kernels().of<T>().turn_back : rope_kernels().of<T>().turn;
  const double elements = static_cast<double>(rows) * static_cast<double>(p.dim);
  parallel(threads_for(elements, kRopeGrain), Denormals::kFlush, [&](int tid, int team) {
    const Range part = split_range(rows, team, tid);
    if (part.begin < part.end) kernel(p, x, cos, sin, y, part.begin, part.end);
  });
}

#define ARRAYNN_INSTANTIATE(T) \
  template void run_rope<T>(const RopeShape&, const T*, const T*, const T*, bool, T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
