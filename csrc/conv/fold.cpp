#include "conv/fold.hpp"

#include <algorithm>

#include "core/parallel.hpp"

namespace arraynn {
namespace {

// Elements that one thread should move at least.
constexpr double kFoldGrain = 32768;

int team(const FoldProblem& p, std::int64_t shares) {
  const double work =
      static_cast<double>(p.n * p.c) * static_cast<double>(p.image() + p.taps() * p.windows());
  return static_cast<int>(
      std::min<std::int64_t>(threads_for(work, kFoldGrain), std::max<std::int64_t>(shares, 1)));
}

}  // namespace

template <class T>
void run_unfold(const FoldProblem& p, const T* x, T* y) {
  const std::int64_t rows = p.n * p.c * p.taps();
  parallel(team(p, rows), Denormals::kKeep, [&](int tid, int nthreads) {
    fold_kernels().of<T>().unfold(p, x, y, split_range(rows, nthreads, tid));
  });
}

template <class T>
void run_fold(const FoldProblem& p, const T* y, T* x) {
  const std::int64_t planes = p.n * p.c;
  parallel(team(p, planes), Denormals::kFlush, [&](int tid, int nthreads) {
    fold_kernels().of<T>().fold(p, y, x, split_range(planes, nthreads, tid));
  });
}

template void run_unfold<float>(const FoldProblem&, const float*, float*);
template void run_unfold<double>(const FoldProblem&, const double*, double*);
template void run_fold<float>(const FoldProblem&, const float*, float*);
template void run_fold<double>(const FoldProblem&, const double*, double*);

}  // namespace arraynn
