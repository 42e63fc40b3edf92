#include "embedding/embedding.hpp"

#include <algorithm>

#include "core/index.hpp"
#include "core/parallel.hpp"

namespace arraynn {
namespace {

// Elements that one thread should have at least: about 10 us of memory traffic.
constexpr double kEmbeddingGrain = 32768;
// Columns of a share: whole cache lines of either dtype, where the table begins at one.
constexpr std::int64_t kColumnStep = 16;

int team_for(double elements, std::int64_t units) {
  const int threads = threads_for(elements, kEmbeddingGrain);
  return static_cast<int>(std::min<std::int64_t>(threads, std::max<std::int64_t>(units, 1)));
}

}  // namespace

template <class T>
void embedding(const EmbeddingShape& p, const std::int64_t* indices, const T* w, T* y) {
  const double elements = static_cast<double>(p.count) * static_cast<double>(p.columns);
  parallel(team_for(elements, p.count), Denormals::kKeep, [&](int tid, int team) {
    const Range part = split_range(p.count, team, tid);
    embedding_kernels().of<T>().gather(p, indices, w, y, part.begin, part.end);
  });
}

template <class T>
std::int64_t embedding_scratch(const EmbeddingShape&) {
  return 0;
}

template <class T>
void embedding_backward(const EmbeddingShape& p, const std::int64_t* indices, const T* dy, void*,
                        T* dw) {
  const double elements = static_cast<double>(p.count + p.rows) * static_cast<double>(p.columns);
  const std::int64_t steps = ceil_div(p.columns, kColumnStep);
  parallel(team_for(elements, p.rows), Denormals::kFlush, [&](int tid, int team) {
    const Range own = split_range(p.rows, team, tid);
    std::fill(dw + own.begin * p.columns, dw + own.end * p.columns, T(0));
    team_barrier(team);
    const Range part = split_range(steps, team, tid);
    const std::int64_t end = min_i(p.columns, part.end * kColumnStep);
    if (part.begin < part.end) {
      embedding_kernels().of<T>().scatter_add(p, indices, dy, dw, part.begin * kColumnStep, end);
    }
  });
}

#define ARRAYNN_INSTANTIATE(T)                                                                     \
  template void embedding<T>(const EmbeddingShape&, const std::int64_t*, const T*, T*);            \
  template std::int64_t embedding_scratch<T>(const EmbeddingShape&);                               \
  template void embedding_backward<T>(const EmbeddingShape&, const std::int64_t*, const T*, void*, \
                                      T*);
ARRAYNN_INSTANTIATE(float)
ARRAYNN_INSTANTIATE(double)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
