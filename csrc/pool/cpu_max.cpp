#include "pool/columns.hpp"
#include "pool/max_first.hpp"
#include "pool/max_last.hpp"
#include "pool/tables.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
void max_values(const PoolProblem& p, const T* x, T* y, Range rows, void* scratch) {
  if (is_by_columns(p)) return reduce_columns(p, Max<T>{}, x, y, rows, scratch);
  if (is_staged(p, PoolTask::kMax)) {
    return pool_staged(p, x, y, nullptr, rows, scratch,
                       [](const PoolProblem& b, const T* in, T* out, std::int64_t*) {
                         Max<T> op;
                         reduce_channels_last(b, op, in, out, {0, b.h.out});
                       });
  }
  reduce_windows(p, Max<T>{}, x, y, rows, scratch);
}

template <class T>
void max_indices(const VolumeProblem& v, const T* x, T* y, std::int64_t* indices, Range rows,
                 void* scratch) {
  const PoolProblem& p = v.plane;
  if (p.channels_last) return indices_channels_last(v, x, y, indices, rows);
  if (finds_in_tiles(v)) return indices_of_tiles(v, x, y, indices, rows);
  if (is_flat(v) && is_staged(p, PoolTask::kIndices)) {
    return pool_staged(p, x, y, indices, rows, scratch,
                       [](const PoolProblem& b, const T* in, T* out, std::int64_t* where) {
                         indices_channels_last(flat_volume(b), in, out, where, {0, b.h.out});
                       });
  }
  if (p.w.to > 0) {
    indices_of_columns(v, x, y, indices, rows, scratch);
  } else if (p.w.stride > kMaxPhases) {
    indices_channels_first<true, 0>(v, x, y, indices, rows, scratch);
  } else if (p.w.kernel == 3) {
    indices_channels_first<false, 3>(v, x, y, indices, rows, scratch);
  } else {
    indices_channels_first<false, 0>(v, x, y, indices, rows, scratch);
  }
}

}  // namespace

extern const PoolKernels pool_kernels = {
    {{&max_values<float>, &max_indices<float>, &average_f32, &max_of_tiles_backward<float>,
      &max_backward<float>, &average_backward_f32, &lp_f32, &lp_shares_f32, &lp_slopes_f32,
      &scatter_f32, &unpool_f32, &unpool_backward_f32},
     {&max_values<double>, &max_indices<double>, &average_f64, &max_of_tiles_backward<double>,
      &max_backward<double>, &average_backward_f64, &lp_f64, &lp_shares_f64, &lp_slopes_f64,
      &scatter_f64, &unpool_f64, &unpool_backward_f64}},
    &max_u8,
    &max_i8,
    &max_i16,
    &max_i32,
    &max_i64,
};

}  // namespace ARRAYNN_ISA_NAMESPACE
