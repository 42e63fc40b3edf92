// Blocks, boxes and phases of the norms over channels; see the plan in norm.hpp.
#pragma once

#include "core/arena.hpp"
#include "core/parallel.hpp"
#include "norm/norm.hpp"

namespace arraynn {

// Elements that one thread should have at least: about 10 us of memory traffic.
inline constexpr double kNormGrain = 32768;

// Samples [n0, n1) and channels [c0, c1): all of what shares the statistics in it.
struct Box {
  std::int64_t n0, n1, c0, c1;
};

// Elements of one block: `runs` of `size` positions, `stride` elements apart.
struct Run {
  std::int64_t offset, runs, size, stride;
};

// The blocks of an array and where their sums lie: (n, c, blocks), channels last (n, blocks, c).
// A block may hold a plane of several samples; n counts those together.
struct Blocks {
  ChannelNorm p;
  std::int64_t samples, length, count;  // of a block, positions of a block, blocks of a plane

  explicit Blocks(const ChannelNorm& problem, std::int64_t samples_of_block = 1)
      : p(problem),
        samples(samples_of_block),
        length(problem.channels_last ? kNormRows : kNormBlock),
        count(ceil_div(problem.s, length)) {}

  std::int64_t total() const { return ceil_div(p.n, samples) * p.c * count; }
  std::int64_t size(std::int64_t block) const { return min_i(length, p.s - block * length); }
  // Of the sums; channels last, of the first channel's.
  std::int64_t index(std::int64_t n, std::int64_t c, std::int64_t block) const {
    return p.channels_last ? (n * count + block) * p.c + c : (n * p.c + c) * count + block;
  }
  Run run(std::int64_t n, std::int64_t c, std::int64_t block) const {
    const std::int64_t first = n * samples;
    if (p.channels_last) return {(first * p.s + block * length) * p.c, 1, size(block), 0};
    const std::int64_t at = (first * p.c + c) * p.s + block * length;
    return {at, min_i(samples, p.n - first), size(block), p.c * p.s};
  }
  // Of a channel's coefficients.
  std::int64_t coefficient(std::int64_t n, std::int64_t c) const {
    return p.groups == 0 ? c : n * p.c + c;
  }
  std::int64_t coefficients() const { return p.groups == 0 ? p.c : p.n * p.c; }
  std::int64_t statistic(std::int64_t n, std::int64_t c) const {
    return p.groups == 0 ? c : n * p.groups + c / (p.c / p.groups);
  }
  // Blocks of the samples of a box.
  Range rows(const Box& box) const { return {box.n0 / samples, ceil_div(box.n1, samples)}; }

  // f(n, c, block) over this member's share of a box; channels last, c is 0 for all channels.
  template <class F>
  void for_share(const Box& box, int tid, int team, const F& f) const {
    const std::int64_t wide = p.channels_last ? 1 : box.c1 - box.c0;
    const Range all = rows(box);
    const Range part = split_range((all.end - all.begin) * wide * count, team, tid);
    std::int64_t block = part.begin % count, c = part.begin / count % wide;
    std::int64_t n = all.begin + part.begin / count / wide;
    for (std::int64_t i = part.begin; i < part.end; ++i) {
      f(n, p.channels_last ? 0 : box.c0 + c, block);
      if (++block < count) continue;
      block = 0;
      if (++c < wide) continue;
      c = 0;
      ++n;
    }
  }

  // f(n, c, block, planes) over this member's share of a box: of planes that follow each other in a
  // sample, as many as fill a block, otherwise of one.
  template <class F>
  void for_planes(const Box& box, int tid, int team, const F& f) const {
    if (p.channels_last || count > 1) {
      for_share(box, tid, team,
                [&](std::int64_t n, std::int64_t c, std::int64_t block)
                    __attribute__((always_inline)) { f(n, c, block, std::int64_t{1}); });
      return;
    }
    const std::int64_t wide = box.c1 - box.c0, most = max_i(1, length / p.s);
    const Range all = rows(box), part = split_range((all.end - all.begin) * wide, team, tid);
    for (std::int64_t i = part.begin; i < part.end;) {
      const std::int64_t c = i % wide, planes = min_i(most, min_i(wide - c, part.end - i));
      f(all.begin + i / wide, box.c0 + c, 0, planes);
      i += planes;
    }
  }

  // f(n, c, block, channels) for all blocks of a box, in the order of memory: those of several
  // channels where they lie side by side.
  template <class F>
  void for_sums(const Box& box, const F& f) const {
    const Range all = rows(box);
    for (std::int64_t n = all.begin; n < all.end; ++n) {
      if (p.channels_last) {
        for (std::int64_t block = 0; block < count; ++block) f(n, box.c0, block, box.c1 - box.c0);
      } else {
        for (std::int64_t c = box.c0; c < box.c1; ++c) {
          for (std::int64_t block = 0; block < count; ++block) f(n, c, block, std::int64_t{1});
        }
      }
    }
  }

  // f(c, statistic) for the channels of a box of for_statistics(): those of a group have one.
  template <class F>
  void for_channels(const Box& box, const F& f) const {
    const std::int64_t first = statistic(box.n0, box.c0), each = p.groups == 0 ? 1 : 0;
    for (std::int64_t c = box.c0; c < box.c1; ++c) f(c, first + each * (c - box.c0));
  }

  // f(box) for this member's share of the statistics: channels of the batch, or one group each.
  template <class F>
  void for_statistics(const Box& box, int tid, int team, const F& f) const {
    if (p.groups == 0) {
      const Range part = split_range(box.c1 - box.c0, team, tid);
      if (part.begin < part.end) f(Box{0, p.n, box.c0 + part.begin, box.c0 + part.end});
      return;
    }
    const std::int64_t wide = p.c / p.groups, first = box.c0 / wide;
    const std::int64_t groups = (box.c1 - box.c0) / wide;
    const Range part = split_range((box.n1 - box.n0) * groups, team, tid);
    for (std::int64_t i = part.begin; i < part.end; ++i) {
      const std::int64_t n = box.n0 + i / groups, c = (first + i % groups) * wide;
      f(Box{n, n + 1, c, c + wide});
    }
  }
};

// Samples whose planes share a block, where the batch shares its statistics.
ARRAYNN_INLINE std::int64_t samples_of_block(const ChannelNorm& p) {
  if (p.groups != 0 || p.channels_last) return 1;
  return max_i(1, min_i(p.n, kNormBlock / max_i(1, p.s)));
}

// How an array is cut into boxes that one thread normalises in cache; one box for the team otherwise.
struct BoxPlan {
  bool fused;
  std::int64_t channels, per_sample, count;  // of a box, boxes of a sample, boxes

  BoxPlan(const ChannelNorm& p, std::int64_t item, int threads) {
    const std::int64_t plane = p.s * item, wide = p.groups == 0 ? 1 : p.c / p.groups;
    const std::int64_t samples = p.groups == 0 ? p.n : 1;
    const std::int64_t least = max_i(1, samples * wide * plane);  // bytes of the smallest box
    std::int64_t units = p.c / wide;
    if (!p.channels_last) {
      units = min_i(units, ceil_div(kBoxBytes, max_i(1, wide * plane)));
      units = max_i(1, min_i(units, kFusedBytes / least));
    }
    channels = units * wide;
    per_sample = ceil_div(p.c, channels);
    count = per_sample * (p.groups == 0 ? 1 : p.n);
    fused = units * least <= kFusedBytes && count >= threads;
  }
  Box at(const ChannelNorm& p, std::int64_t i) const {
    const std::int64_t c0 = i % per_sample * channels, n = i / per_sample;
    const std::int64_t c1 = min_i(p.c, c0 + channels);
    return p.groups == 0 ? Box{0, p.n, c0, c1} : Box{n, n + 1, c0, c1};
  }
};

// body(box, tid, team) on boxes of one thread, or of the whole team; then last(tid, team).
template <class Body, class Last>
void for_boxes(const ChannelNorm& p, std::int64_t item, const Body& body, const Last& last) {
  const double work =
      static_cast<double>(p.n) * static_cast<double>(p.c) * static_cast<double>(p.s);
  const int threads = threads_for(work, kNormGrain);
  const BoxPlan plan(p, item, threads);
  parallel(threads, Denormals::kFlush, [&](int tid, int team) {
    if (plan.fused) {
      const Range part = split_range(plan.count, team, tid);
      for (std::int64_t i = part.begin; i < part.end; ++i) body(plan.at(p, i), 0, 1);
    } else {
      // A sample that shares no statistics is read again before the next one takes its place.
      const std::int64_t samples = p.groups == 0 ? p.n : 1;
      for (std::int64_t n = 0; n < p.n; n += samples) body(Box{n, n + samples, 0, p.c}, tid, team);
    }
    team_barrier(team);
    last(tid, team);
  });
}

}  // namespace arraynn
