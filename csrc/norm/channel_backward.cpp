#include "elementwise/convert.hpp"
#include "norm/channels.hpp"

namespace arraynn {
namespace {

template <class T>
struct Backward {
  using C = Compute<T>;
  const ChannelNorm& p;
  const Blocks blocks, parts;  // of planes, and of what is summed
  const T *dy, *x;
  const C* w;
  const double *mean, *rstd;
  T* dx;
  C *dw, *db;
  GradientSums* sums;
  Slope<C> k;

  double weight(std::int64_t c) const { return w != nullptr ? static_cast<double>(w[c]) : 1.0; }

  void find_centres(const Box& box) const {
    blocks.for_channels(box, [&](std::int64_t c, std::int64_t at) {
      k.m[blocks.coefficient(box.n0, c)] = static_cast<C>(mean[at]);
    });
  }

  void take_sums(const Box& box, int tid, int team) const {
    const auto& f = norm_block_kernels().of<T>();
    const auto& columns = norm_column_kernels().of<T>();
    parts.for_share(box, tid, team, [&](std::int64_t n, std::int64_t c, std::int64_t block) {
      const Run run = parts.run(n, c, block);
      const std::int64_t at = run.offset;
      GradientSums* to = sums + parts.index(n, c, block);
      const C* m = k.m + blocks.coefficient(n, c);
      if (p.channels_last) {
        columns.sums(dy + at, x + at, run.size, p.c, m, to);
      } else {
        *to = f.sums(dy + at, x + at, run.runs, run.size, run.stride, *m);
      }
    });
  }

  // Into the first block's place of every channel, of every sample where it has statistics of its
  // own; there (sum dy, sum dy xhat) in the end.
  void merge(const Box& box) const {
    parts.for_sums(box,
                   [&](std::int64_t n, std::int64_t c, std::int64_t block, std::int64_t channels) {
                     GradientSums* to = sums + parts.index(box.n0, c, 0);
                     const GradientSums* from = sums + parts.index(n, c, block);
                     if (to == from) return;
                     for (std::int64_t i = 0; i < channels; ++i) {
                       to[i].dy += from[i].dy;
                       to[i].product += from[i].product;
                     }
                   });
    blocks.for_channels(box, [&](std::int64_t c, std::int64_t at) {
      GradientSums& s = sums[parts.index(box.n0, c, 0)];
      const double rest = static_cast<double>(k.m[blocks.coefficient(box.n0, c)]) - mean[at];
      s.product = rstd[at] * (s.product + rest * s.dy);
    });
  }

  void find_slopes(const Box& box, bool fixed) const {
    const double count = static_cast<double>(p.count());
    const auto sums_of = [&](std::int64_t c) {
      const GradientSums s = sums[parts.index(box.n0, c, 0)];
      return GradientSums{weight(c) * s.dy, weight(c) * s.product};
    };
    GradientSums means{0, 0};
    for (std::int64_t c = box.c0; c < box.c1 && p.groups != 0; ++c) {
      const GradientSums more = sums_of(c);
      means.dy += more.dy;
      means.product += more.product;
    }
    means = {means.dy / count, means.product / count};
    blocks.for_channels(box, [&](std::int64_t c, std::int64_t at) {
      const std::int64_t to = blocks.coefficient(box.n0, c);
      const double scale = rstd[at];
      k.a[to] = static_cast<C>(scale * weight(c));
      if (fixed) {
        k.m[to] = k.c[to] = C(0);  // applied to dy alone
        return;
      }
      if (p.groups == 0) {
        means = sums_of(c);
        means = {means.dy / count, means.product / count};
      }
      const double b = -scale * scale * means.product;
      const double rest = static_cast<double>(k.m[to]) - mean[at];
      k.b[to] = static_cast<C>(b);
      k.c[to] = static_cast<C>(b * rest - scale * means.dy);
    });
  }

  void apply(const Box& box, int tid, int team, bool fixed) const {
    const auto& f = norm_block_kernels().of<T>();
    const auto& columns = norm_column_kernels().of<T>();
    blocks.for_planes(box, tid, team, [&](auto n, auto c, auto block, auto planes) {
      const Run run = blocks.run(n, c, block);
      const std::int64_t at = run.offset, size = run.size, i = blocks.coefficient(n, c);
      const Affine<C> straight{k.m + i, k.a + i, k.c + i, k.stream};
      const Slope<C> slope{k.m + i, k.a + i, k.b + i, k.c + i, k.stream};
      if (p.channels_last && fixed) {
        columns.apply(dy + at, dx + at, size, p.c, straight, {});
      } else if (p.channels_last) {
        columns.gradient(dy + at, x + at, dx + at, size, p.c, slope);
      } else if (fixed) {
        f.apply(dy + at, dx + at, planes, size, straight, {});
      } else {
        f.gradient(dy + at, x + at, dx + at, planes, size, slope);
      }
    });
  }

  void run(const Box& box, int tid, int team, bool fixed) const {
    const bool wants_sums = !fixed || dw != nullptr || db != nullptr;
    blocks.for_statistics(box, tid, team, [&](const Box& own) { find_centres(own); });
    team_barrier(team);
    if (wants_sums) take_sums(box, tid, team);
    team_barrier(team);
    blocks.for_statistics(box, tid, team, [&](const Box& own) {
      if (wants_sums) merge(own);
      if (dx != nullptr) find_slopes(own, fixed);
    });
    if (dx == nullptr) return;
    team_barrier(team);
    apply(box, tid, team, fixed);
  }

  // Groups of planes that are one block each, by the threads that own them.
  bool has_short_groups(bool fixed) const {
    return p.groups != 0 && !p.channels_last && !fixed && blocks.count == 1;
  }
  void run_groups(const Range& groups) const {
    const auto& f = norm_block_kernels().of<T>();
    const std::int64_t wide = p.c / p.groups, size = wide * p.s;
    for (std::int64_t i = groups.begin; i < groups.end; ++i) {
      const C* own = w != nullptr ? w + i % p.groups * wide : nullptr;
      f.group_gradient(dy + i * size, x + i * size, own, dx != nullptr ? dx + i * size : nullptr,
                       wide, p.s, mean[i], rstd[i], sums + i * wide, k.stream);
    }
  }

  void sum_samples(int tid, int team) const {
    if (dw == nullptr && db == nullptr) return;
    const std::int64_t samples = p.groups == 0 ? 1 : p.n;
    const Range part = split_range(p.c, team, tid);
    for (std::int64_t c = part.begin; c < part.end; ++c) {
      GradientSums all{0, 0};
      for (std::int64_t n = 0; n < samples; ++n) {
        const GradientSums s = sums[parts.index(n, c, 0)];
        all.dy += s.dy;
        all.product += s.product;
      }
      if (dw != nullptr) dw[c] = static_cast<C>(all.product);
      if (db != nullptr) db[c] = static_cast<C>(all.dy);
    }
  }
};

}  // namespace

template <class T>
void channel_norm_backward(const char* op, const ChannelNorm& p, const T* dy, const T* x,
                           const T* w, const double* mean, const double* rstd, bool fixed, T* dx,
                           T* dw, T* db) {
  const Blocks blocks(p), parts(p, samples_of_block(p));
  if (blocks.total() == 0) {
    for (std::int64_t c = 0; c < p.c; ++c) {
      if (dw != nullptr) dw[c] = T{};
      if (db != nullptr) db[c] = T{};
    }
    return;
  }
  using C = Compute<T>;
  const WideCopy<T> weight(op, w, p.c);
  const NarrowResult<T> by_weight(op, dw, p.c), by_bias(op, db, p.c);
  constexpr auto item = static_cast<std::int64_t>(sizeof(T));
  constexpr auto coefficient = static_cast<std::int64_t>(sizeof(C));
  const std::int64_t bytes = round_up(blocks.coefficients() * coefficient, 64);
  const std::int64_t sums = parts.total() * static_cast<std::int64_t>(sizeof(GradientSums));
  const Scratch scratch(op, static_cast<std::size_t>(sums + 4 * bytes));
  char* at = static_cast<char*>(scratch.data());
  auto* k = reinterpret_cast<C*>(at);
  const std::int64_t step = bytes / coefficient;
  const Backward<T> backward{
      p,
      blocks,
      parts,
      dy,
      x,
      weight.data(),
      mean,
      rstd,
      dx,
      by_weight.data(),
      by_bias.data(),
      reinterpret_cast<GradientSums*>(at + 4 * bytes),
      {k, k + step, k + 2 * step, k + 3 * step, streams(p.n * p.c * p.s, item)}};
  const std::int64_t groups = p.n * p.groups;
  const double work = static_cast<double>(groups) * static_cast<double>(p.count());
  const int threads = threads_for(work, kNormGrain);
  if (backward.has_short_groups(fixed) && groups >= threads) {
    parallel(threads, Denormals::kFlush, [&](int tid, int team) {
      backward.run_groups(split_range(groups, team, tid));
      team_barrier(team);
      backward.sum_samples(tid, team);
    });
  } else {
    // x and dy are read together.
    for_boxes(
        p, 2 * item,
        [&](const Box& box, int tid, int team) { backward.run(box, tid, team, fixed); },
        [&](int tid, int team) { backward.sum_samples(tid, team); });
  }
  by_weight.finish();
  by_bias.finish();
}

#define ARRAYNN_INSTANTIATE(T)                                                                 \
  template void channel_norm_backward<T>(const char*, const ChannelNorm&, const T*, const T*,  \
                                         const T*, const double*, const double*, bool, T*, T*, \
                                         T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
