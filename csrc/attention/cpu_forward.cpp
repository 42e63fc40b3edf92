#include "attention/attention.hpp"
#include "attention/scores.hpp"
#include "attention/ukernel.hpp"
#include "gemm/pairs.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
using Problem = AttentionProblem<T>;

#if defined(__AVX512BF16__)
// Compiled once more for q, k and v of bfloat16: scores are products of pairs along D, exact, and are
// scaled as sums. Probabilities are not rounded: they meet values in float32.
using ScoreProducts = PairProducts;
constexpr bool kPairs = true;
#else
using ScoreProducts = OwnProducts;
constexpr bool kPairs = false;
#endif

// The running state of kNR queries: their vectors, and O^T, maximum and sum so far.
template <class T>
struct Panel {
  PanelPlace<T> place;
  T *queries, *sums, *max, *total;
  bool fresh;  // nothing is in `sums` yet
};

// Rows that are needed soon, asked for between the tiles of products. Sequences of a few blocks would
// wait for every line of q, k, v and out by itself: at L = D = 128 and 12 heads that took a quarter
// of the time.
template <class T>
class Ahead {
 public:
  void add(const T* rows, std::int64_t step, std::int64_t count, std::int64_t dim) {
    if (count <= 0 || dim <= 0) return;
    parts_[count_++] = {rows, step, count, dim};
    lines_ += count * ceil_div(dim, kLine);
  }
  // All of it within so many tiles.
  void spread(std::int64_t tiles) { at_once_ = tiles > 0 ? ceil_div(lines_, tiles) : 0; }
  void operator()() {
    for (std::int64_t left = at_once_; left > 0 && part_ < count_;) {
      const Part& part = parts_[part_];
      const T* row = part.rows + row_ * part.step;
      for (std::int64_t d = 0; d < part.dim; d += kLine, --left) __builtin_prefetch(row + d, 0, 2);
      if (++row_ < part.count) continue;
      row_ = 0;
      ++part_;
    }
  }

 private:
  static constexpr std::int64_t kLine = 64 / static_cast<int>(sizeof(T));
  struct Part {
    const T* rows;
    std::int64_t step, count, dim;
  };
  Part parts_[4];
  int count_ = 0, part_ = 0;
  std::int64_t row_ = 0, lines_ = 0, at_once_ = 0;
};

template <class T>
struct ForwardScratch {
  T *panels, *scores, *k_rows, *v_rows;
  Kept<T> kept;
  std::int64_t panel_step, used;

  ForwardScratch(const Problem<T>& p, std::int64_t panels_, T* base) {
    Pieces<T> pieces{base};
    panel_step = round_up((p.head_dim + p.head_dim_v + 2) * kNR<T>, kLanes<T>);
    panels = pieces.take(panels_ * panel_step);
    scores = pieces.take(kBlockN * kNR<T>);
    k_rows = pieces.take(kBlockN * copy_stride<T>(p.head_dim));
    v_rows = pieces.take(kBlockN * copy_stride<T>(p.head_dim_v));
    kept = Kept<T>::in(&pieces);
    used = pieces.used;
  }
};

// Scores to probabilities under the maximum so far; what was summed under the former one is scaled.
// With kMark hidden scores become -0, which no probability is.
template <class T, int kV, bool kMark>
ARRAYNN_INLINE void exponentials(T* s, std::int64_t keys, std::int64_t dim_v,
                                 const Panel<T>& panel) {
  const std::int64_t summed = panel.fresh ? 0 : dim_v;
  constexpr int kL = kLanes<T>;
  using V = Vec<T>;
  V former[kV], m[kV], total[kV];
  for (int v = 0; v < kV; ++v) former[v] = m[v] = V::load(panel.max + v * kL);
  for (std::int64_t r = 0; r < keys; ++r) {
    for (int v = 0; v < kV; ++v) m[v] = max(V::load(s + r * kNR<T> + v * kL), m[v]);
  }
  V moved = V::zero();
  for (int v = 0; v < kV; ++v) {
    moved = max(moved, select(m[v] > former[v], V::set1(T(1)), V::zero()));
    total[v] = V::load(panel.total + v * kL);
  }
  if (reduce_max(moved) > T(0)) {
    V factor[kV];
    for (int v = 0; v < kV; ++v) {
      factor[v] = exp(former[v] - m[v]);
      total[v] = total[v] * factor[v];
      m[v].store(panel.max + v * kL);
    }
    for (std::int64_t d = 0; d < summed; ++d) {
      for (int v = 0; v < kV; ++v) {
        T* at = panel.sums + d * kNR<T> + v * kL;
        (V::load(at) * factor[v]).store(at);
      }
    }
  }
  const auto step = [&](T* row) __attribute__((always_inline)) {
    for (int v = 0; v < kV; ++v) {
      const V x = V::load(row + v * kL), e = exp(x - m[v]);
      total[v] = total[v] + e;
      if constexpr (kMark) {
        select(x == V::set1(kMinusInfinity<T>), V::set1(-T(0)), e).store(row + v * kL);
      } else {
        e.store(row + v * kL);
      }
    }
  };
  std::int64_t r = 0;
  for (; r + 2 <= keys; r += 2) {
    step(s + r * kNR<T>);
    step(s + (r + 1) * kNR<T>);
  }
  if (r < keys) step(s + r * kNR<T>);
  for (int v = 0; v < kV; ++v) total[v].store(panel.total + v * kL);
}

// O^T += V^T P^T without the products of hidden keys, in the order of product().
template <class T>
void add_visible(const Rows<T>& values, std::int64_t dim_v, std::int64_t keys, const T* s,
                 std::int64_t width, T* sums) {
  for (std::int64_t d = 0; d < dim_v; ++d) {
    for (std::int64_t c = 0; c < width; c += kLanes<T>) {
      Vec<T> acc = Vec<T>::zero();
      for (std::int64_t r = 0; r < keys; ++r) {
        const Vec<T> probability = Vec<T>::load(s + r * kNR<T> + c);
        const Mask<T> hidden{reinterpret_cast<typename Vec<T>::RawInt>(probability.v) <
                             typename Vec<T>::RawInt{}};
        acc = select(hidden, acc,
                     fma(Vec<T>::set1(values.at[r * values.step + d]), probability, acc));
      }
      T* to = sums + d * kNR<T> + c;
      (Vec<T>::load(to) + acc).store(to);
    }
  }
}

// Rows of a tile that both vectors of a panel's queries need; those before are hidden from the
// second one, those behind from the first.
template <class T>
Range rows_of_both(const Problem<T>& p, const PanelPlace<T>& place, std::int64_t j0,
                   std::int64_t n) {
  const Range whole{0, n};
  if (place.count <= kLanes<T> || (j0 >= place.all.begin && j0 + n <= place.all.end)) return whole;
  const std::int64_t second = place.i0 + kLanes<T>;
  const Range rows{max_i(0, visible_keys(p, place.seq, second).begin - j0),
                   min_i(n, visible_keys(p, place.seq, second - 1).end - j0)};
  return rows.begin <= rows.end ? rows : whole;
}

// Keys [j0, j0 + n) against one panel.
template <class T>
void attend(const Problem<T>& p, Panel<T>* panel, std::int64_t j0, std::int64_t n,
            const Rows<T>& keys, const Rows<T>& values, bool mark, const ForwardScratch<T>& scratch,
            Ahead<T>* ahead) {
  constexpr int kL = kLanes<T>;
  T* s = scratch.scores;
  const std::int64_t width = panel->place.width();
  const Range both = rows_of_both(p, panel->place, j0, n);
  const std::int64_t depth = kPairs ? ceil_div(p.head_dim, kPair) : p.head_dim;
  const auto scores = [&](std::int64_t begin, std::int64_t end, std::int64_t c, std::int64_t w) {
    product<T, Order::kRows, ScoreProducts>(end - begin, w, depth, keys.at + begin * keys.step,
                                            keys.step, panel->queries + c, kNR<T>,
                                            s + begin * kNR<T> + c, kNR<T>, false, *ahead);
  };
  // What is left out holds anything until finish_scores() hides it.
  scores(0, both.begin, 0, kL);
  scores(both.begin, both.end, 0, width);
  scores(both.end, n, kL, kL);
  if constexpr (kPairs) {
    const Vec<T> scale = Vec<T>::set1(static_cast<T>(p.scale));
    for_tile(s, kNR<T>, n, width, [&](Vec<T> v, std::int64_t, std::int64_t) { return v * scale; });
  }
  finish_scores(p, s, kNR<T>, j0, n, panel->place, static_cast<T*>(nullptr));
  const bool one = width <= kL;
  if (mark) {
    one ? exponentials<T, 1, true>(s, n, p.head_dim_v, *panel)
        : exponentials<T, 2, true>(s, n, p.head_dim_v, *panel);
  } else {
    one ? exponentials<T, 1, false>(s, n, p.head_dim_v, *panel)
        : exponentials<T, 2, false>(s, n, p.head_dim_v, *panel);
  }
  if (p.dropout.on) {
    draw(p, j0, n, panel->place, scratch.kept);
    const Vec<T> scale = dropout_scale<T>(p.dropout);
    for_tile(s, kNR<T>, n, width, [&](Vec<T> v, std::int64_t r, std::int64_t c) {
      return v * scratch.kept.factors(r, c, scale);
    });
  }
  const auto sum = [&](std::int64_t begin, std::int64_t end, std::int64_t c, std::int64_t w,
                       bool add) {
    const Rows<T> rows{values.at + begin * values.step, values.step};
    const T* shares = s + begin * kNR<T> + c;
    if (mark) return add_visible(rows, p.head_dim_v, end - begin, shares, w, panel->sums + c);
    product<T, Order::kColumns>(p.head_dim_v, w, end - begin, rows.at, rows.step, shares, kNR<T>,
                                panel->sums + c, kNR<T>, add, *ahead);
  };
  sum(both.begin, both.end, 0, width, !panel->fresh);
  if (both.begin > 0) sum(0, both.begin, 0, kL, true);
  if (both.end < n) sum(both.end, n, kL, kL, true);
  panel->fresh = false;
}

#if defined(__AVX512BF16__)
// Rows of keys in pairs along D: where they lie, or copied, with a 0 behind an odd one.
Rows<float> fetch_keys(const Problem<float>& p, std::int64_t b, std::int64_t kv_head,
                       const AttentionSequence& seq, std::int64_t j0, std::int64_t n, bool copy,
                       float* buffer) {
  const void* const memory = p.k;
  const auto* base = static_cast<const Bfloat16*>(memory);
  const RowStrides& strides = p.k_strides;
  const bool whole = p.head_dim % kPair == 0 && strides.b % kPair == 0 && strides.h % kPair == 0 &&
                     strides.l % kPair == 0 &&
                     reinterpret_cast<std::uintptr_t>(base) % sizeof(float) == 0;
  if (whole && p.pages == nullptr && !copy) {
    const void* const rows = row_of(base, strides, b, kv_head, seq, j0);
    return {static_cast<const float*>(rows), strides.l / kPair};
  }
  const std::int64_t pairs = ceil_div(p.head_dim, kPair), step = copy_stride<float>(pairs);
  for (std::int64_t r = 0; r < n; ++r) {
    const Bfloat16* row = p.pages == nullptr
                              ? row_of(base, strides, b, kv_head, seq, j0 + r)
                              : base + kv_head * strides.h + cache_row(p, strides, b, j0 + r);
    const PairSource from{row, 0, 1, 1, p.head_dim};
    for (std::int64_t d = 0; d < pairs; d += kLanes<float>) {
      store_lanes(from.along_k(0, d), buffer + r * step + d, min_i(kLanes<float>, pairs - d));
    }
  }
  return {buffer, step};
}

// Rows 2i and 2i + 1 of a panel of numbers with 16 bits become row i.
void pair_rows(float* panel, std::int64_t dim) {
  for (std::int64_t d = 0; d < dim; d += kPair) {
    for (std::int64_t c = 0; c < kNR<float>; c += kLanes<float>) {
      const float* even = panel + d * kNR<float> + c;
      const Words first = (Words)Vec<float>::load(even).v >> 16;
      const Words second =
          d + 1 < dim ? (Words)Vec<float>::load(even + kNR<float>).v >> 16 : Words{};
      join_pairs(first, second).store(panel + d / kPair * kNR<float> + c);
    }
  }
}
#endif

// Keys that a unit's queries see, from a block's first one on.
template <class T>
Range keys_of(const Problem<T>& p, const AttentionSequence& seq, Range queries) {
  return {visible_keys(p, seq, queries.begin).begin, visible_keys(p, seq, queries.end - 1).end};
}

template <class T>
void add_block(const Problem<T>& p, std::int64_t b, std::int64_t h, const AttentionSequence& seq,
               Range keys, Ahead<T>* ahead) {
  const std::int64_t kv_head = h / (p.heads / p.kv_heads), n = keys.end - keys.begin;
  if (p.pages != nullptr || p.kv_half != Dtype::kOther || n <= 0) return;
  const auto rows = [&](const T* base, const RowStrides& strides, std::int64_t dim) {
    ahead->add(row_of(base, strides, b, kv_head, seq, keys.begin), strides.l, n, dim);
  };
  rows(p.k, p.k_strides, p.head_dim);
  rows(p.v, p.v_strides, p.head_dim_v);
}

// While a block is worked on, the one behind it; while the last one is, the rows of out and all that
// the next unit begins with.
template <class T>
Ahead<T> ahead_of(const Problem<T>& p, const AttentionUnit& unit, const AttentionUnit* next,
                  const AttentionSequence& seq, Range rest) {
  Ahead<T> ahead;
  const auto block = [](Range keys) {
    return Range{keys.begin, min_i(keys.end, (keys.begin / kBlockN + 1) * kBlockN)};
  };
  if (rest.begin < rest.end) {
    add_block(p, unit.b, unit.h, seq, block(rest), &ahead);
    return ahead;
  }
  if (next != nullptr) {
    const AttentionSequence then = sequence_of(p, next->b);
    ahead.add(p.q + next->b * p.q_strides.b + next->h * p.q_strides.h +
                  (then.q0 + next->queries.begin) * p.q_strides.l,
              p.q_strides.l, next->queries.end - next->queries.begin, p.head_dim);
    add_block(p, next->b, next->h, then, block(keys_of(p, then, next->queries)), &ahead);
  }
  ahead.add(p.out + unit.b * p.out_strides.b + unit.h * p.out_strides.h +
                (seq.q0 + unit.queries.begin) * p.out_strides.l,
            p.out_strides.l, unit.queries.end - unit.queries.begin, p.head_dim_v);
  return ahead;
}

// All keys against panels of one head, blocks of keys outside.
template <class T>
void attend_all(const Problem<T>& p, const AttentionUnit& unit, const AttentionUnit* next,
                Panel<T>* panels, std::int64_t count, bool mark, const ForwardScratch<T>& scratch) {
  const bool sink = has_sink(p, unit.h);
  for (std::int64_t q = 0; q < count; ++q) {
    Panel<T>& panel = panels[q];
    panel.fresh = !mark && panel.place.any.begin < panel.place.any.end;
    for (std::int64_t i = 0; !panel.fresh && i < p.head_dim_v * kNR<T>; ++i) panel.sums[i] = T(0);
    for (int c = 0; c < kNR<T>; ++c) {
      panel.max[c] = sink ? p.sinks[unit.h] : kFirstMax<T>;
      panel.total[c] = sink ? T(1) : T(0);
    }
  }
  const AttentionSequence& seq = panels[0].place.seq;
  const std::int64_t kv_head = unit.h / (p.heads / p.kv_heads);
  const std::int64_t k_step = kPairs ? p.k_strides.l / kPair : p.k_strides.l;
  const bool copy_k = rows_alias<T>(k_step), copy_v = rows_alias<T>(p.v_strides.l);
  const Range all = keys_of(p, seq, unit.queries);
  for (std::int64_t j0 = all.begin / kBlockN * kBlockN; j0 < all.end; j0 += kBlockN) {
    const Range block{max_i(j0, all.begin), min_i(j0 + kBlockN, all.end)};
    const std::int64_t n = block.end - block.begin;
#if defined(__AVX512BF16__)
    const Rows<T> k = fetch_keys(p, unit.b, kv_head, seq, block.begin, n, copy_k, scratch.k_rows);
#else
    const Rows<T> k = fetch_rows(p, p.k, p.k_strides, unit.b, kv_head, seq, block.begin, n,
                                 p.head_dim, copy_k, scratch.k_rows);
#endif
    const Rows<T> v = fetch_rows(p, p.v, p.v_strides, unit.b, kv_head, seq, block.begin, n,
                                 p.head_dim_v, copy_v, scratch.v_rows);
    Ahead<T> ahead = ahead_of(p, unit, next, seq, {block.end, all.end});
    ahead.spread(count * (ceil_div(n, kMR) + ceil_div(p.head_dim_v, kMR)));
    for (std::int64_t q = 0; q < count; ++q) {
      const Range any = panels[q].place.any;
      const std::int64_t from = max_i(block.begin, any.begin), to = min_i(block.end, any.end);
      if (from >= to) continue;
      const std::int64_t skip = from - block.begin;
      attend(p, &panels[q], from, to - from, Rows<T>{k.at + skip * k.step, k.step},
             Rows<T>{v.at + skip * v.step, v.step}, mark, scratch, &ahead);
    }
  }
}

template <class T>
bool all_finite(const Panel<T>& panel, std::int64_t dim_v) {
  for (std::int64_t d = 0; d < dim_v; ++d) {
    for (std::int64_t c = 0; c < panel.place.count; c += kLanes<T>) {
      const std::int64_t n = min_i(kLanes<T>, panel.place.count - c);
      const Vec<T> v = load_n(panel.sums + d * kNR<T> + c, n), zero = v - v;
      if (!(reduce_max(select(zero == Vec<T>::zero(), Vec<T>::zero(), Vec<T>::set1(T(1)))) == 0)) {
        return false;
      }
    }
  }
  return true;
}

// out = sums / total, lse = max + log total; 0 and -inf for a query that saw nothing.
template <class T>
void store_panel(const Problem<T>& p, const Panel<T>& panel) {
  using V = Vec<T>;
  const PanelPlace<T>& at = panel.place;
  for (std::int64_t c = 0; c < at.width(); c += kLanes<T>) {
    const V total = V::load(panel.total + c);
    const Mask<T> nothing = total == V::zero();
    const V factor = select(nothing, V::zero(), V::set1(T(1)) / total);
    for (std::int64_t d = 0; d < p.head_dim_v; ++d) {
      T* sum = panel.sums + d * kNR<T> + c;
      (V::load(sum) * factor).store(sum);
    }
    const V positive = select(nothing, V::set1(T(1)), total);
    const V lse = V::load(panel.max + c) + log(positive);
    select(nothing, V::set1(kMinusInfinity<T>), lse).store(panel.total + c);
  }
  const std::int64_t i0 = at.seq.q0 + at.i0;
  const RowStrides &os = p.out_strides, &ls = p.lse_strides;
  transpose_copy(panel.sums, kNR<T>, p.out + at.b * os.b + at.h * os.h + i0 * os.l, os.l,
                 p.head_dim_v, at.count);
  if (p.lse != nullptr) {
    T* lse = p.lse + at.b * ls.b + at.h * ls.h + i0 * ls.l;
    for (std::int64_t c = 0; c < at.count; ++c) lse[c * ls.l] = panel.total[c];
  }
}

template <class T>
std::int64_t scratch_bytes(const Problem<T>& p, std::int64_t queries) {
  return ForwardScratch<T>(p, ceil_div(queries, kNR<T>), nullptr).used *
         static_cast<std::int64_t>(sizeof(T));
}

template <class T>
void forward(const Problem<T>& p, const AttentionUnit& unit, const AttentionUnit* next,
             void* memory) {
  constexpr std::int64_t kAtOnce = 16;
  const AttentionSequence seq = sequence_of(p, unit.b);
  const RowStrides& qs = p.q_strides;
  const std::int64_t queries = unit.queries.end - unit.queries.begin;
  const ForwardScratch<T> scratch(p, ceil_div(queries, kNR<T>), static_cast<T*>(memory));
  Panel<T> panels[kAtOnce];
  std::int64_t count = 0;
  for (std::int64_t i = unit.queries.begin; i < unit.queries.end; i += kNR<T>, ++count) {
    Panel<T>& panel = panels[count];
    panel.queries = scratch.panels + count * scratch.panel_step;
    panel.sums = panel.queries + p.head_dim * kNR<T>;
    panel.max = panel.sums + p.head_dim_v * kNR<T>;
    panel.total = panel.max + kNR<T>;
    panel.place = PanelPlace<T>::at(p, seq, unit.b, unit.h, i, min_i(kNR<T>, unit.queries.end - i));
    pack_panel(p.q + unit.b * qs.b + unit.h * qs.h + (seq.q0 + i) * qs.l, qs.l, panel.place.count,
               p.head_dim, kPairs ? T(1) : static_cast<T>(p.scale), panel.queries);
#if defined(__AVX512BF16__)
    pair_rows(panel.queries, p.head_dim);
#endif
  }
  if (count == 0) return;
  attend_all(p, unit, next, panels, count, false, scratch);
  for (std::int64_t q = 0; q < count; ++q) {
    if (p.hides_keys() && !all_finite(panels[q], p.head_dim_v)) {
      const PanelPlace<T>& at = panels[q].place;
      const AttentionUnit alone{unit.b, unit.h, {at.i0, at.i0 + at.count}};
      attend_all(p, alone, nullptr, panels + q, 1, true, scratch);
    }
    store_panel(p, panels[q]);
  }
}

}  // namespace

#if defined(__AVX512BF16__)
extern const AttentionTable<float> attention_pair_kernels = {kNR<float>, &scratch_bytes<float>,
                                                             &forward<float>};
#else
extern const AttentionKernels attention_kernels = {
    {kNR<float>, &scratch_bytes<float>, &forward<float>},
    {kNR<double>, &scratch_bytes<double>, &forward<double>},
};
#endif

}  // namespace ARRAYNN_ISA_NAMESPACE
