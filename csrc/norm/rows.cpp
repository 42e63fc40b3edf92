#include <algorithm>
#include <cmath>

#include "elementwise/convert.hpp"
#include "norm/channels.hpp"

namespace arraynn {
namespace {

int team_for(const RowNorm& p, std::int64_t units) {
  const double work = static_cast<double>(p.rows) * static_cast<double>(p.n);
  return static_cast<int>(std::min<std::int64_t>(threads_for(work, kNormGrain), units));
}

// out[j] = the sum of parts[i step + j] over i, in order: a stretch of columns at a time, since rows
// that are a power of two apart share the sets of a cache.
template <class T>
void add_parts(const T* parts, std::int64_t count, std::int64_t step, const Range& columns,
               T* out) {
  constexpr std::int64_t kColumns = 256;
  double sums[kColumns];
  for (std::int64_t j = columns.begin; j < columns.end; j += kColumns) {
    const std::int64_t n = min_i(kColumns, columns.end - j);
    std::fill_n(sums, n, 0.0);
    for (std::int64_t i = 0; i < count; ++i) {
      const T* part = parts + i * step + j;
      for (std::int64_t c = 0; c < n; ++c) sums[c] += static_cast<double>(part[c]);
    }
    for (std::int64_t c = 0; c < n; ++c) out[j + c] = static_cast<T>(sums[c]);
  }
}

}  // namespace

template <class T>
void row_norm(const RowNorm& problem, const T* x, const T* w, const T* b, T* y, double* mean,
              double* rstd) {
  RowNorm p = problem;
  p.stream = streams(p.rows * p.n, sizeof(T), p.activation);
  if (p.rows == 0) return;
  if (p.n == 0) {  // the variance of nothing counts as 0
    if (mean != nullptr) std::fill_n(mean, p.rows, 0.0);
    if (rstd != nullptr) std::fill_n(rstd, p.rows, 1.0 / std::sqrt(p.eps));
    return;
  }
  const auto& k = norm_row_kernels().of<T>();
  const WideCopy<T> weight("norm", w, p.n), bias("norm", b, p.n);
  parallel(team_for(p, p.rows), Denormals::kFlush, [&](int tid, int team) {
    const Range part = split_range(p.rows, team, tid);
    k.forward(p, x, weight.data(), bias.data(), y, mean, rstd, part.begin, part.end);
  });
}

template <class T>
void row_norm_backward(const char* op, const RowNorm& problem, const T* dy, const T* x, const T* w,
                       const double* mean, const double* rstd, T* dx, T* dw, T* db) {
  using C = Compute<T>;
  RowNorm p = problem;
  p.stream = streams(p.rows * p.n, sizeof(T));
  const WideCopy<T> weight(op, w, p.n);
  const NarrowResult<T> by_weight(op, dw, p.n), by_bias(op, db, p.n);
  const auto& k = norm_row_kernels().of<T>();
  // Partial sums of the gradients by weight and bias: as many as the rows say, not the team.
  const bool sums = dw != nullptr || db != nullptr;
  const std::int64_t parts = std::max<std::int64_t>(1, std::min(kRowParts, p.rows / kRowsOfPart));
  const std::int64_t wide = sums ? 2 * p.n : 0;
  const Scratch scratch(op, static_cast<std::size_t>(parts * wide) * sizeof(C));
  auto* partial = static_cast<C*>(scratch.data());
  parallel(team_for(p, sums ? parts : std::max<std::int64_t>(1, p.rows)), Denormals::kFlush,
           [&](int tid, int team) {
             const Range own = split_range(sums ? parts : team, team, tid);
             for (std::int64_t i = own.begin; i < own.end; ++i) {
               const Range rows = split_range(p.rows, sums ? parts : team, i);
               C* pw = partial + i * wide;
               std::fill_n(pw, wide, C(0));
               k.backward(p, dy, x, weight.data(), mean, rstd, dx, dw != nullptr ? pw : nullptr,
                          db != nullptr ? pw + p.n : nullptr, rows.begin, rows.end);
             }
             team_barrier(team);
             if (!sums) return;
             const Range columns = split_range(p.n, team, tid);
             if (dw != nullptr) add_parts(partial, parts, wide, columns, by_weight.data());
             if (db != nullptr) add_parts(partial + p.n, parts, wide, columns, by_bias.data());
           });
  by_weight.finish();
  by_bias.finish();
}

#define ARRAYNN_INSTANTIATE(T)                                                                   \
  template void row_norm<T>(const RowNorm&, const T*, const T*, const T*, T*, double*, double*); \
  template void row_norm_backward<T>(const char*, const RowNorm&, const T*, const T*, const T*,  \
                                     const double*, const double*, T*, T*, T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
