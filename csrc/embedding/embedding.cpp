#include "embedding/embedding.hpp"

#include <algorithm>
#include <utility>

#include "core/index.hpp"
#include "core/parallel.hpp"

namespace arraynn {
namespace {

// Elements that one thread should have at least: about 10 us of memory traffic.
constexpr double kEmbeddingGrain = 32768;
// Columns of a share: whole cache lines of every dtype, where the table begins at one.
template <class T>
constexpr std::int64_t kColumnStep = sizeof(T) == 2 ? 32 : 16;

int team_for(double elements, std::int64_t units) {
  const int threads = threads_for(elements, kEmbeddingGrain);
  return static_cast<int>(std::min<std::int64_t>(threads, std::max<std::int64_t>(units, 1)));
}

// By counting. begin has room for rows + 1, order for all indices.
SortedIndices sort_indices(const EmbeddingShape& p, const std::int64_t* indices,
                           std::int64_t* begin, std::int64_t* order) {
  std::fill(begin, begin + p.rows + 1, 0);
  for (std::int64_t i = 0; i < p.count; ++i) {
    if (indices[i] != p.padding) ++begin[indices[i]];
  }
  std::int64_t before = 0;
  for (std::int64_t r = 0; r <= p.rows; ++r) before += std::exchange(begin[r], before);
  // begin[r] moves to the end of row r, which is where row r + 1 begins.
  for (std::int64_t i = 0; i < p.count; ++i) {
    if (indices[i] != p.padding) order[begin[indices[i]]++] = i;
  }
  std::copy_backward(begin, begin + p.rows, begin + p.rows + 1);
  begin[0] = 0;
  return {begin, order};
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
std::int64_t embedding_scratch(const EmbeddingShape& p) {
  if constexpr (sizeof(T) != 2) return 0;
  return (p.rows + 1 + p.count) * static_cast<std::int64_t>(sizeof(std::int64_t));
}

template <class T>
void embedding_backward(const EmbeddingShape& p, const std::int64_t* indices, const T* dy,
                        void* scratch, T* dw) {
  const double elements = static_cast<double>(p.count + p.rows) * static_cast<double>(p.columns);
  const std::int64_t steps = ceil_div(p.columns, kColumnStep<T>);
  const EmbeddingTable<T>& kernels = embedding_kernels().of<T>();
  SortedIndices sorted{};
  if (kernels.sum_rows != nullptr) {
    auto* begin = static_cast<std::int64_t*>(scratch);
    sorted = sort_indices(p, indices, begin, begin + p.rows + 1);
  }
  parallel(team_for(elements, p.rows), Denormals::kFlush, [&](int tid, int team) {
    const Range part = split_range(steps, team, tid);
    const std::int64_t begin = part.begin * kColumnStep<T>;
    const std::int64_t end = min_i(p.columns, part.end * kColumnStep<T>);
    if (kernels.sum_rows != nullptr) return kernels.sum_rows(p, sorted, dy, dw, begin, end);
    const Range own = split_range(p.rows, team, tid);
    std::fill(dw + own.begin * p.columns, dw + own.end * p.columns, T{});
    team_barrier(team);
    if (begin < end) kernels.scatter_add(p, indices, dy, dw, begin, end);
  });
}

#define ARRAYNN_INSTANTIATE(T)                                                                     \
  template void embedding<T>(const EmbeddingShape&, const std::int64_t*, const T*, T*);            \
  template std::int64_t embedding_scratch<T>(const EmbeddingShape&);                               \
  template void embedding_backward<T>(const EmbeddingShape&, const std::int64_t*, const T*, void*, \
                                      T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
