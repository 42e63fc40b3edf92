#include "softmax/softmax.hpp"

#include "core/arena.hpp"
#include "core/index.hpp"
#include "core/parallel.hpp"
#include "core/stream.hpp"

namespace arraynn {
namespace {

double work_of(const SoftmaxShape& s) {
  return static_cast<double>(s.outer) * static_cast<double>(s.n) * static_cast<double>(s.inner);
}

template <class T>
bool stores_past(const SoftmaxShape& s) {
  return streams(s.outer * s.n * s.inner, sizeof(T));
}

// f(begin, end) over units of one shape, on a team that fits the work.
template <class F>
void for_units(const SoftmaxShape& shape, std::int64_t units, const F& f) {
  if (units == 0 || shape.n == 0) return;
  parallel(threads_for(work_of(shape), kSoftmaxGrain), Denormals::kFlush, [&](int tid, int team) {
    const Range part = split_range(units, team, tid);
    if (part.begin < part.end) f(part.begin, part.end);
  });
}

// f(outer, first column, width) over all strips.
template <class F>
void for_strips(const SoftmaxShape& shape, const F& f) {
  const std::int64_t per_row = ceil_div(shape.inner, kStrip);
  for_units(shape, shape.outer * per_row, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t first = unit % per_row * kStrip;
      f(unit / per_row * shape.n * shape.inner + first, min_i(kStrip, shape.inner - first));
    }
  });
}

// Fewer rows than threads, each longer than a few blocks: threads share the blocks.
template <class T>
void run_long_rows(SoftmaxKind kind, const SoftmaxShape& shape, const T* x, T* y) {
  const auto& k = softmax_kernels().of<T>();
  const std::int64_t blocks = ceil_div(shape.n, kRowBlock), units = shape.outer * blocks;
  const Scratch scratch("softmax",
                        static_cast<std::size_t>(units) * sizeof(SoftmaxStats<Compute<T>>));
  auto* stats = static_cast<SoftmaxStats<Compute<T>>*>(scratch.data());
  const auto block_at = [&](std::int64_t unit) {
    const std::int64_t first = unit % blocks * kRowBlock;
    return Range{unit / blocks * shape.n + first,
                 unit / blocks * shape.n + min_i(shape.n, first + kRowBlock)};
  };
  parallel(threads_for(work_of(shape), kSoftmaxGrain), Denormals::kFlush, [&](int tid, int team) {
    const Range part = split_range(units, team, tid);
    for (std::int64_t unit = part.begin; unit < part.end; ++unit) {
      const Range at = block_at(unit);
      stats[unit] = k.block_stats(x + at.begin, at.end - at.begin);
    }
    team_barrier(team);
    std::int64_t row = -1;
    SoftmaxStats<Compute<T>> whole{};
    for (std::int64_t unit = part.begin; unit < part.end; ++unit) {
      if (unit / blocks != row) {
        row = unit / blocks;
        whole = k.merge(stats + row * blocks, blocks);
      }
      const Range at = block_at(unit);
      k.block_finish(kind, whole, x + at.begin, y + at.begin, at.end - at.begin,
                     stores_past<T>(shape));
    }
  });
}

template <class T>
std::int64_t cross_entropy_units(const CrossEntropy<T>& p) {
  return p.shape.inner == 1 ? p.shape.outer : p.shape.outer * ceil_div(p.shape.inner, kStrip);
}

template <class T>
const CrossEntropyTable<T>& loss_table(Loss loss) {
  return loss == Loss::kNll ? nll_loss_kernels().of<T>() : cross_entropy_kernels().of<T>();
}

// The work of a loss that reads one class of a sample.
SoftmaxShape one_class(const SoftmaxShape& shape) {
  return {shape.outer, min_i(shape.n, 1), shape.inner};
}

}  // namespace

template <class T>
void run_softmax(SoftmaxKind kind, const SoftmaxShape& shape, const T* x, T* y) {
  const auto& k = softmax_kernels().of<T>();
  if (shape.inner != 1) {
    for_strips(shape, [&](std::int64_t at, std::int64_t width) {
      k.strip(kind, x + at, y + at, shape.n, shape.inner, width);
    });
  } else if (shape.n > kShortRow<Compute<T>> && shape.outer > 0 &&
             shape.outer < 4 * max_threads()) {
    run_long_rows(kind, shape, x, y);
  } else {
    for_units(shape, shape.outer, [&](std::int64_t begin, std::int64_t end) {
      k.rows(kind, x + begin * shape.n, y + begin * shape.n, end - begin, shape.n,
             stores_past<T>(shape));
    });
  }
}

template <class T>
void run_softmax_backward(SoftmaxKind kind, const SoftmaxShape& shape, const T* dy, const T* y,
                          T* dx) {
  const auto& k = softmax_kernels().of<T>();
  if (shape.inner != 1) {
    for_strips(shape, [&](std::int64_t at, std::int64_t width) {
      k.strip_backward(kind, dy + at, y + at, dx + at, shape.n, shape.inner, width);
    });
  } else {
    for_units(shape, shape.outer, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t at = begin * shape.n;
      k.rows_backward(kind, dy + at, y + at, dx + at, end - begin, shape.n, stores_past<T>(shape));
    });
  }
}

template <class T>
void run_loss(Loss loss, const CrossEntropy<T>& p, Compute<T>* losses) {
  const auto& k = loss_table<T>(loss);
  for_units(loss == Loss::kNll ? one_class(p.shape) : p.shape, cross_entropy_units(p),
            [&](std::int64_t begin, std::int64_t end) { k.forward(p, losses, begin, end); });
}

template <class T>
void run_loss_backward(Loss loss, const CrossEntropy<T>& p, const Compute<T>* g, Compute<T> scale,
                       T* dx) {
  const auto& k = loss_table<T>(loss);
  for_units(p.shape, cross_entropy_units(p),
            [&](std::int64_t begin, std::int64_t end) { k.backward(p, g, scale, dx, begin, end); });
}

#define ARRAYNN_INSTANTIATE(T)                                                                     \
  template void run_softmax<T>(SoftmaxKind, const SoftmaxShape&, const T*, T*);                    \
  template void run_softmax_backward<T>(SoftmaxKind, const SoftmaxShape&, const T*, const T*, T*); \
  template void run_loss<T>(Loss, const CrossEntropy<T>&, Compute<T>*);                            \
  template void run_loss_backward<T>(Loss, const CrossEntropy<T>&, const Compute<T>*, Compute<T>,  \
                                     T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
