#include <cmath>

#include "elementwise/convert.hpp"
#include "norm/channels.hpp"

namespace arraynn {
namespace {

template <class T>
struct Forward {
  using C = Compute<T>;
  const ChannelNorm& p;
  const Blocks blocks, sums;
  std::int64_t wide;  // channels of a run
  const T* x;
  const C *w, *b;
  T* y;
  double *mean, *rstd, *var;
  Moments* moments;
  Affine<C> k;

  // The channels of a box as runs: those of a group lie side by side.
  Box runs_of(const Box& box) const { return {box.n0, box.n1, box.c0 / wide, box.c1 / wide}; }

  void take_moments(const Box& box, int tid, int team) const {
    const auto& f = norm_block_kernels().of<T>();
    const auto& columns = norm_column_kernels().of<T>();
    const auto one = [&](std::int64_t n, std::int64_t c, std::int64_t block) {
      const Run run = sums.run(n, c, block);
      Moments* to = moments + sums.index(n, c, block);
      if (p.channels_last) {
        columns.moments(x + run.offset, run.size, p.c, to);
      } else {
        *to = f.moments(x + run.offset, run.runs, run.size, run.stride);
      }
    };
    sums.for_share(runs_of(box), tid, team, one);
  }

  // Into the first block's place of every run.
  void merge_runs(const Box& runs) const {
    const Range rows = sums.rows(runs);
    for (std::int64_t c = runs.c0; c < runs.c1; ++c) {
      Moments all{0, 0};
      double before = 0;
      for (std::int64_t n = rows.begin; n < rows.end; ++n) {
        for (std::int64_t block = 0; block < sums.count; ++block) {
          const Run run = sums.run(n, c, block);
          const auto more = static_cast<double>(run.runs * run.size);
          const Moments next = moments[sums.index(n, c, block)];
          all = before == 0 ? next : merge_moments(all, before, next, more);
          before += more;
        }
      }
      moments[sums.index(rows.begin, c, 0)] = all;
    }
  }

  // Into the first block's place of every channel, or of the group's first one. There is one sample.
  void merge_columns(const Box& box) const {
    Moments* all = moments + sums.index(box.n0, 0, 0);
    for (std::int64_t block = 1; block < sums.count; ++block) {
      // The shares are those of all channels.
      const auto before = static_cast<double>(block * sums.length);
      const auto more = static_cast<double>(sums.size(block));
      const double share = more / (before + more), weight = before * share;
      const Moments* next = moments + sums.index(box.n0, 0, block);
      for (std::int64_t c = box.c0; c < box.c1; ++c) {
        const double delta = next[c].mean - all[c].mean;
        all[c].mean += delta * share;
        all[c].m2 += next[c].m2 + delta * delta * weight;
      }
    }
    if (p.groups == 0) return;
    const auto plane = static_cast<double>(p.s);
    for (std::int64_t c = box.c0 + 1; c < box.c1; ++c) {
      const double before = static_cast<double>(c - box.c0) * plane;
      all[box.c0] = merge_moments(all[box.c0], before, all[c], plane);
    }
  }

  void finish(const Box& box) const {
    const double count = static_cast<double>(p.count());
    for (std::int64_t c = box.c0; c < box.c1; c += p.groups == 0 ? 1 : box.c1 - box.c0) {
      const std::int64_t at = blocks.statistic(box.n0, c);
      const Moments all = moments[sums.index(box.n0, c / wide, 0)];
      mean[at] = all.mean;
      var[at] = all.m2 / count;
      rstd[at] = 1.0 / std::sqrt(var[at] + p.eps);
    }
  }

  void find_coefficients(const Box& box) const {
    blocks.for_channels(box, [&](std::int64_t c, std::int64_t at) {
      const std::int64_t to = blocks.coefficient(box.n0, c);
      const double scale = rstd[at] * (w != nullptr ? static_cast<double>(w[c]) : 1.0);
      k.m[to] = static_cast<C>(mean[at]);
      k.scale[to] = static_cast<C>(scale);
      k.shift[to] = static_cast<C>((b != nullptr ? static_cast<double>(b[c]) : 0.0) +
                                   (static_cast<double>(k.m[to]) - mean[at]) * scale);
    });
  }

  void apply(const Box& box, int tid, int team) const {
    const auto& f = norm_block_kernels().of<T>();
    const auto& columns = norm_column_kernels().of<T>();
    blocks.for_planes(box, tid, team, [&](auto n, auto c, auto block, auto planes) {
      const Run run = blocks.run(n, c, block);
      const std::int64_t at = run.offset, i = blocks.coefficient(n, c);
      const Affine<C> own{k.m + i, k.scale + i, k.shift + i, k.stream};
      if (p.channels_last) {
        columns.apply(x + at, y + at, run.size, p.c, own, p.activation);
      } else {
        f.apply(x + at, y + at, planes, run.size, own, p.activation);
      }
    });
  }

  void run(const Box& box, int tid, int team, bool fixed) const {
    if (!fixed) {
      take_moments(box, tid, team);
      team_barrier(team);
    }
    blocks.for_statistics(box, tid, team, [&](const Box& own) {
      if (!fixed) {
        p.channels_last ? merge_columns(own) : merge_runs(runs_of(own));
        finish(own);
      }
      if (y != nullptr) find_coefficients(own);
    });
    if (y == nullptr) return;
    team_barrier(team);
    apply(box, tid, team);
  }

  // Groups of one block each, by the threads that own them.
  bool has_short_groups(bool fixed) const {
    return p.groups != 0 && !p.channels_last && !fixed && sums.count == 1;
  }
  void run_groups(const Range& groups) const {
    const auto& f = norm_block_kernels().of<T>();
    const std::int64_t size = wide * p.s;
    for (std::int64_t i = groups.begin; i < groups.end; ++i) {
      const std::int64_t c = i % p.groups * wide, at = i * size;
      const Moments all =
          f.group(x + at, w != nullptr ? w + c : nullptr, b != nullptr ? b + c : nullptr,
                  y != nullptr ? y + at : nullptr, wide, p.s, p.eps, p.activation, k.stream);
      mean[i] = all.mean;
      var[i] = all.m2;
      rstd[i] = 1.0 / std::sqrt(var[i] + p.eps);
    }
  }
};

// A running statistic moves towards the mean over the samples of the batch's own.
template <class T>
void move_running(const ChannelNorm& p, const Blocks& blocks, const double* mean, const double* var,
                  const Running<T>& running) {
  const double count = static_cast<double>(p.count()), unbiased = count / (count - 1);
  const std::int64_t samples = p.groups == 0 ? 1 : p.n;
  for (std::int64_t c = 0; c < p.c; ++c) {
    double centre = 0, spread = 0;
    for (std::int64_t n = 0; n < samples; ++n) {
      centre += mean[blocks.statistic(n, c)];
      spread += var[blocks.statistic(n, c)];
    }
    const double share = running.momentum / static_cast<double>(samples);
    const auto move = [&](T& from, double by) {
      const double kept = (1 - running.momentum) * static_cast<double>(wide_of(from));
      from = narrow_of<T>(static_cast<Compute<T>>(kept + by));
    };
    move(running.mean[c * running.mean_stride], share * centre);
    move(running.var[c * running.var_stride], share * unbiased * spread);
  }
}

}  // namespace

template <class T>
void channel_norm(const char* op, const ChannelNorm& p, const T* x, const T* w, const T* b, T* y,
                  double* mean, double* rstd, bool fixed, const Running<T>& running) {
  const Blocks blocks(p);
  if (blocks.total() == 0) {
    for (std::int64_t i = 0; i < p.statistics() && !fixed; ++i) {
      mean[i] = 0;
      rstd[i] = 1.0 / std::sqrt(p.eps);
    }
    return;
  }
  using C = Compute<T>;
  const WideCopy<T> weight(op, w, p.c), bias(op, b, p.c);
  // A group of channels is one run in memory, but channels last.
  const bool joined = p.groups != 0 && !p.channels_last;
  const std::int64_t wide = joined ? p.c / p.groups : 1;
  ChannelNorm runs = p;
  runs.c /= wide;
  runs.s *= wide;
  const Blocks sums(runs, samples_of_block(p));
  const std::int64_t moments =
      fixed ? 0 : sums.total() * static_cast<std::int64_t>(sizeof(Moments));
  const std::int64_t vars = p.statistics() * static_cast<std::int64_t>(sizeof(double));
  const std::int64_t bytes =
      round_up(blocks.coefficients() * static_cast<std::int64_t>(sizeof(C)), 64);
  const Scratch scratch(op, static_cast<std::size_t>(moments + vars + 64 + 3 * bytes));
  char* at = static_cast<char*>(scratch.data());
  auto* k = reinterpret_cast<C*>(at);
  const std::int64_t step = bytes / static_cast<std::int64_t>(sizeof(C));
  auto* own_moments = reinterpret_cast<Moments*>(at + 3 * bytes);
  auto* var = reinterpret_cast<double*>(at + 3 * bytes + moments);
  const bool stream = streams(p.n * p.c * p.s, sizeof(T), p.activation);
  const Affine<C> coefficients{k, k + step, k + 2 * step, stream};
  const Forward<T> forward{p, blocks, sums, wide, x,           weight.data(), bias.data(),
                           y, mean,   rstd, var,  own_moments, coefficients};
  const std::int64_t groups = p.n * p.groups;
  const int threads =
      threads_for(static_cast<double>(groups) * static_cast<double>(p.count()), kNormGrain);
  if (forward.has_short_groups(fixed) && groups >= threads) {
    parallel(threads, Denormals::kFlush,
             [&](int tid, int team) { forward.run_groups(split_range(groups, team, tid)); });
  } else {
    for_boxes(
        p, sizeof(T),
        [&](const Box& box, int tid, int team) { forward.run(box, tid, team, fixed); },
        [](int, int) {});
  }
  if (!fixed && running.mean != nullptr) move_running(p, blocks, mean, var, running);
}

#define ARRAYNN_INSTANTIATE(T)                                                                     \
  template void channel_norm<T>(const char*, const ChannelNorm&, const T*, const T*, const T*, T*, \
                                double*, double*, bool, const Running<T>&);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
