// The order in which a pooled convolution goes through its rows: strip by strip, each of which
// finishes some pooled rows and keeps the rows that the windows after them need as well.
#pragma once
#include "core/index.hpp"
#include "pool/pool.hpp"

namespace arraynn {

// Rows are counted over the batch.
struct PooledStrip {
  Range groups;        // of rows that are computed together
  Range rows;          // of these groups
  std::int64_t first;  // rows [first, rows.begin) were kept by the strip before
  std::int64_t keep;   // it keeps rows [keep, rows.end) for the next
  Range pooled;        // that it finishes
};

// Rows of the convolution, computed `grain` at a time from the top of each sample.
struct PooledAxis {
  const PoolAxis& h;
  std::int64_t grain;

  [[gnu::always_inline]] std::int64_t groups() const { return ceil_div(h.size, grain); }
  [[gnu::always_inline]] std::int64_t group_of(std::int64_t row) const {
    return row / h.size * groups() + row % h.size / grain;
  }
  [[gnu::always_inline]] std::int64_t row_of(std::int64_t group) const {
    return group / groups() * h.size + group % groups() * grain;
  }
  // The rows that pooled row q reads.
  [[gnu::always_inline]] std::int64_t first_row(std::int64_t q) const {
    return q / h.out * h.size + max_i(0, window_first(h, q % h.out));
  }
  [[gnu::always_inline]] std::int64_t end_row(std::int64_t q) const {
    return q / h.out * h.size + min_i(h.size, window_end(h, q % h.out));
  }
  [[gnu::always_inline]] std::int64_t end_group(std::int64_t q) const {
    return group_of(end_row(q) - 1) + 1;
  }
};

// Rows that a strip may keep.
ARRAYNN_INLINE std::int64_t kept_rows(const PoolAxis& h) {
  return min_i(h.size, window_span(h) - 1);
}

// f(strip) for strips of at most `limit` groups of `grain` rows that finish pooled rows [begin, end)
// over the batch, in order. Rows between windows are left out where a strip begins or ends in them.
template <class F>
[[gnu::always_inline]] static inline void for_pooled_strips(const PoolAxis& h, Range pooled,
                                                            std::int64_t grain, std::int64_t limit,
                                                            const F& f) {
  if (pooled.begin >= pooled.end) return;
  const PooledAxis axis{h, grain};
  std::int64_t group = axis.group_of(axis.first_row(pooled.begin));
  const std::int64_t end = axis.end_group(pooled.end - 1);
  const std::int64_t length = ceil_div(end - group, ceil_div(end - group, limit));
  for (std::int64_t q = pooled.begin; q < pooled.end;) {
    const std::int64_t need = axis.first_row(q);
    group = max_i(group, axis.group_of(need));
    std::int64_t next = min_i(end, group + length), done = q;
    while (done < pooled.end && axis.end_group(done) <= next) ++done;
    if (done > q) next = axis.end_group(done - 1);
    const Range rows{axis.row_of(group), axis.row_of(next)};
    const std::int64_t keep = done < pooled.end ? axis.first_row(done) : rows.end;
    f(PooledStrip{{group, next}, rows, min_i(rows.begin, need), min_i(rows.end, keep), {q, done}});
    group = next;
    q = done;
  }
}

// The part of a pooling that lies in rows [rows.begin, rows.end) of one sample: pooled rows `out` of it.
ARRAYNN_INLINE PoolProblem pooled_band(const PoolProblem& p, std::int64_t channels, Range rows,
                                       Range out) {
  PoolProblem b = p;
  b.n = 1;
  b.c = channels;
  b.channels_last = true;
  b.h.size = rows.end - rows.begin;
  b.h.out = out.end - out.begin;
  b.h.begin = p.h.begin + rows.begin - out.begin * p.h.stride;
  b.h.end = p.h.end + p.h.size - rows.end;
  return b;
}

// f(sample, rows, out) for every sample of a strip that has pooled rows to finish, with rows and pooled
// rows counted in that sample; rows are all that the strip holds of it.
template <class F>
[[gnu::always_inline]] static inline void for_pooled_samples(const PoolAxis& h,
                                                             const PooledStrip& s, const F& f) {
  for (std::int64_t q = s.pooled.begin; q < s.pooled.end;) {
    const std::int64_t sample = q / h.out, top = sample * h.size, at = sample * h.out;
    const std::int64_t end = min_i(s.pooled.end, at + h.out);
    f(sample, Range{max_i(s.first, top) - top, min_i(s.rows.end, top + h.size) - top},
      Range{q - at, end - at});
    q = end;
  }
}

}  // namespace arraynn
