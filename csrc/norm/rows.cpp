#include <algorithm>
#include <cmath>

#include "norm/channels.hpp"

namespace arraynn {
namespace {

int team_for(const RowNorm& p, std::int64_t units) {
  const double work = static_cast<double>(p.rows) * static_cast<double>(p.n);
  return static_cast<int>(std::min<std::int64_t>(threads_for(work, kNormGrain), units));
}

}  // namespace

template <class T>
void row_norm(const RowNorm& p, const T* x, const T* w, const T* b, T* y, double* mean,
              double* rstd) {
  if (p.rows == 0) return;
  if (p.n == 0) {  // the variance of nothing counts as 0
    if (mean != nullptr) std::fill_n(mean, p.rows, 0.0);
    if (rstd != nullptr) std::fill_n(rstd, p.rows, 1.0 / std::sqrt(p.eps));
    return;
  }
  const auto& k = norm_table<T>(norm_row_kernels());
  parallel(team_for(p, p.rows), Denormals::kFlush, [&](int tid, int team) {
    const Range part = split_range(p.rows, team, tid);
    k.forward(p, x, w, b, y, mean, rstd, part.begin, part.end);
  });
}

template <class T>
void row_norm_backward(const char* op, const RowNorm& p, const T* dy, const T* x, const T* w,
                       const double* mean, const double* rstd, T* dx, T* dw, T* db) {
  const auto& k = norm_table<T>(norm_row_kernels());
  // Partial sums of the gradients by weight and bias: as many as the rows say, not the team.
  const bool sums = dw != nullptr || db != nullptr;
  const std::int64_t parts = std::max<std::int64_t>(1, std::min(kRowParts, p.rows / kRowsOfPart));
  const std::int64_t wide = sums ? 2 * p.n : 0;
  const Scratch scratch(op, static_cast<std::size_t>(parts * wide) * sizeof(T));
  auto* partial = static_cast<T*>(scratch.data());
  parallel(team_for(p, sums ? parts : std::max<std::int64_t>(1, p.rows)), Denormals::kFlush,
           [&](int tid, int team) {
             const Range own = split_range(sums ? parts : team, team, tid);
             for (std::int64_t i = own.begin; i < own.end; ++i) {
               const Range rows = split_range(p.rows, sums ? parts : team, i);
               T* pw = partial + i * wide;
               std::fill_n(pw, wide, T(0));
               k.backward(p, dy, x, w, mean, rstd, dx, dw != nullptr ? pw : nullptr,
                          db != nullptr ? pw + p.n : nullptr, rows.begin, rows.end);
             }
             team_barrier(team);
             if (!sums) return;
             const Range columns = split_range(p.n, team, tid);
             for (std::int64_t j = columns.begin; j < columns.end; ++j) {
               double by_weight = 0, by_bias = 0;
               for (std::int64_t i = 0; i < parts; ++i) {
                 by_weight += static_cast<double>(partial[i * wide + j]);
                 by_bias += static_cast<double>(partial[i * wide + p.n + j]);
               }
               if (dw != nullptr) dw[j] = static_cast<T>(by_weight);
               if (db != nullptr) db[j] = static_cast<T>(by_bias);
             }
           });
}

#define ARRAYNN_INSTANTIATE(T)                                                                   \
  template void row_norm<T>(const RowNorm&, const T*, const T*, const T*, T*, double*, double*); \
  template void row_norm_backward<T>(const char*, const RowNorm&, const T*, const T*, const T*,  \
                                     const double*, const double*, T*, T*, T*);
ARRAYNN_INSTANTIATE(float)
ARRAYNN_INSTANTIATE(double)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
