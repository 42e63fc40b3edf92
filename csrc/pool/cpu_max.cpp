#include "pool/max_first.hpp"
#include "pool/max_last.hpp"
#include "pool/routes.hpp"
#include "pool/staged.hpp"
#include "pool/tables.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
void max_values(const PoolProblem& p, const T* x, T* y, Range rows, void* scratch) {
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
void max_indices(const PoolProblem& p, const T* x, T* y, std::int64_t* indices, Range rows,
                 void* scratch) {
  if (p.channels_last) return indices_channels_last(p, x, y, indices, rows);
  if (is_staged(p, PoolTask::kIndices)) {
    return pool_staged(p, x, y, indices, rows, scratch,
                       [](const PoolProblem& b, const T* in, T* out, std::int64_t* where) {
                         indices_channels_last(b, in, out, where, {0, b.h.out});
                       });
  }
  if (p.w.stride <= kMaxPhases) {
    return indices_channels_first<false>(p, x, y, indices, rows, scratch);
  }
  indices_channels_first<true>(p, x, y, indices, rows, scratch);
}

template <class T>
bool max_backward(const PoolProblem& p, const T* dy, const T* x, const std::int64_t* indices, T* dx,
                  Range rows, void* scratch) {
  if (p.channels_last) return backward_channels_last(p, dy, x, indices, dx, rows);
  const PoolTask task = indices == nullptr ? PoolTask::kMaxBackward : PoolTask::kScatter;
  if (is_staged(p, task)) {
    return pool_staged_backward(
        p, dy, x, indices, dx, rows, scratch,
        [](const PoolProblem& b, const T* g, const T* in, const std::int64_t* where, T* out,
           Range own) { return backward_channels_last(b, g, in, where, out, own); });
  }
  if (indices != nullptr) return backward_by_indices(p, dy, indices, dx, rows, scratch);
  if (is_tiled(p, task)) {
    max_of_tiles_backward(p, dy, x, dx, rows);
  } else if (p.w.stride > kMaxPhases) {
    backward_by_routes<true, 0>(p, dy, x, dx, rows, scratch);
  } else if (p.w.kernel == 3 && p.w.dilation == 1) {
    backward_by_routes<false, 3>(p, dy, x, dx, rows, scratch);
  } else {
    backward_by_routes<false, 0>(p, dy, x, dx, rows, scratch);
  }
  return true;
}

}  // namespace

extern const PoolKernels pool_kernels = {
    {&max_values<float>, &max_indices<float>, &average_f32, &max_backward<float>,
     &average_backward_f32, &lp_f32, &lp_shares_f32, &lp_slopes_f32, &unpool_f32,
     &unpool_backward_f32},
    {&max_values<double>, &max_indices<double>, &average_f64, &max_backward<double>,
     &average_backward_f64, &lp_f64, &lp_shares_f64, &lp_slopes_f64, &unpool_f64,
     &unpool_backward_f64},
    &max_u8,
    &max_i32,
    &max_i64,
};

}  // namespace ARRAYNN_ISA_NAMESPACE
