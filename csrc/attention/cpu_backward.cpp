#include "attention/attention.hpp"
#include "attention/scores.hpp"
#include "attention/ukernel.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Blocks of the backward: P^T and dS^T, kBlockK x kBlockQ each, are 32 KiB in float32. The sums of
// dQ, dK and dV are read and written once per 64 products, 3 % of the work.
constexpr std::int64_t kBlockQ = 64, kBlockK = 64;
static_assert(kBlockQ % kNR<float> == 0 && kBlockK <= kBlockN);

template <class T>
using Problem = AttentionProblem<T>;

// What rows that are read in whole vectors, or several at a time, must not do.
template <class T>
bool needs_copy(std::int64_t row_stride, std::int64_t dim) {
  return rows_alias<T>(row_stride) || dim % kLanes<T> != 0;
}

// Whether sums of a gradient's rows are formed where the gradient lies.
template <class T>
bool in_place(const T* gradient, const RowStrides& strides, std::int64_t dim) {
  return gradient != nullptr && !needs_copy<T>(strides.l, dim);
}

template <class T>
struct BackwardScratch {
  static constexpr std::int64_t kPanels = kBlockQ / kNR<T>;

  T *queries, *douts;         // Q^T and dO^T of the block's panels
  T *q_rows, *dout_rows;      // copies, where they are needed
  T *k_rows, *v_rows;         // copies of all keys of the unit
  T *lse, *delta;             // of the block
  T *p, *ds;                  // tiles
  T* cap_slopes;              // of one panel's tile
  T *dq, *dk, *dv;            // sums; of dk and dv unless they are formed in place
  std::int64_t step, step_v;  // between rows of copies and sums
  T* rows;                    // a panel's tile, turned
  Kept<T> kept;
  std::int64_t used;

  BackwardScratch(const Problem<T>& problem, const AttentionGradients<T>& g,
                  const BackwardUnit& unit, T* base) {
    Pieces<T> pieces{base};
    const std::int64_t keys = unit.keys.end - unit.keys.begin;
    step = copy_stride<T>(problem.head_dim);
    step_v = copy_stride<T>(problem.head_dim_v);
    queries = pieces.take(kPanels * problem.head_dim * kNR<T>);
    douts = pieces.take(kPanels * problem.head_dim_v * kNR<T>);
    q_rows = pieces.take(kBlockQ * step);
    dout_rows = pieces.take(kBlockQ * step_v);
    const auto copies = [&](const RowStrides& strides, std::int64_t dim, std::int64_t row) {
      return pieces.take(needs_copy<T>(strides.l, dim) ? keys * row : 0);
    };
    k_rows = copies(problem.k_strides, problem.head_dim, step);
    v_rows = copies(problem.v_strides, problem.head_dim_v, step_v);
    lse = pieces.take(kBlockQ);
    delta = pieces.take(kBlockQ);
    p = pieces.take(kBlockK * kBlockQ);
    ds = pieces.take(kBlockK * kBlockQ);
    cap_slopes = pieces.take(kBlockK * kNR<T>);
    dq = pieces.take(kBlockQ * step);
    const auto sums = [&](bool direct, std::int64_t row) {
      return pieces.take(unit.keys_too && !direct ? keys * row : 0);
    };
    dk = sums(in_place(g.dk, g.dk_strides, problem.head_dim), step);
    dv = sums(in_place(g.dv, g.dv_strides, problem.head_dim_v), step_v);
    rows = pieces.take(kNR<T> * kRowStep<T>);
    kept = Kept<T>::in(&pieces);
    used = pieces.used;
  }
};

template <class T>
void zero_rows(T* at, std::int64_t step, std::int64_t n, std::int64_t dim) {
  for (std::int64_t r = 0; r < n; ++r) {
    for (std::int64_t d = 0; d < dim; ++d) at[r * step + d] = T(0);
  }
}

template <class T>
Rows<T> rows_of(const T* at, std::int64_t stride, std::int64_t n, std::int64_t dim, T* copy) {
  if (!needs_copy<T>(stride, dim)) return {at, stride};
  const std::int64_t step = copy_stride<T>(dim);
  for (std::int64_t r = 0; r < n; ++r) copy_row(at + r * stride, dim, copy + r * step);
  return {copy, step};
}

template <class T>
T dot(const T* a, const T* b, std::int64_t n) {
  Vec<T> sum = Vec<T>::zero();
  for (std::int64_t i = 0; i < n; i += kLanes<T>) {
    const std::int64_t lanes = min_i(kLanes<T>, n - i);
    sum = fma(load_n(a + i, lanes), load_n(b + i, lanes), sum);
  }
  return reduce_add(sum);
}

// product() without what `marks` (laid out as a) hides by its sign: in the same order, by lanes.
template <class T, Order kOrder>
void visible_product(std::int64_t m, std::int64_t n, std::int64_t k, const T* a, const T* marks,
                     std::int64_t lda, const T* b, std::int64_t ldb, T* c, std::int64_t ldc) {
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; j += kLanes<T>) {
      Vec<T> acc = Vec<T>::zero();
      for (std::int64_t q = 0; q < k; ++q) {
        const std::int64_t at = kOrder == Order::kRows ? i * lda + q : q * lda + i;
        if (__builtin_signbit(marks[at])) continue;
        acc = fma(Vec<T>::set1(a[at]), Vec<T>::load(b + q * ldb + j), acc);
      }
      T* to = c + i * ldc + j;
      (Vec<T>::load(to) + acc).store(to);
    }
  }
}

template <class T>
bool all_finite(const T* rows, std::int64_t step, std::int64_t n, std::int64_t dim) {
  for (std::int64_t r = 0; r < n; ++r) {
    T sum = T(0);  // x - x is 0, or NaN where x is not finite
    for (std::int64_t d = 0; d < dim; ++d) sum += rows[r * step + d] - rows[r * step + d];
    if (sum != T(0)) return false;
  }
  return true;
}

// Rows of sums.
template <class T>
struct Sums {
  T* at;
  std::int64_t step;
};

// One unit's work on one block of queries of one head.
template <class T>
struct Block {
  const Problem<T>& p;
  const AttentionGradients<T>& g;
  const BackwardUnit& unit;
  const BackwardScratch<T>& scratch;
  AttentionSequence seq;
  std::int64_t h = 0, i0 = 0, count = 0;
  bool skip = false;  // leave out masked products
  Rows<T> keys{}, values{}, queries{}, douts{};
  Sums<T> dk{}, dv{};

  // Q^T, dO^T, lse and delta of the block.
  void load() {
    const RowStrides &qs = p.q_strides, &gs = g.dout_strides, &os = p.out_strides;
    const std::int64_t row = seq.q0 + i0;
    const T* q = p.q + unit.b * qs.b + h * qs.h + row * qs.l;
    const T* dout = g.dout + unit.b * gs.b + h * gs.h + row * gs.l;
    const T* out = p.out + unit.b * os.b + h * os.h + row * os.l;
    const T* lse = p.lse + unit.b * p.lse_strides.b + h * p.lse_strides.h + row * p.lse_strides.l;
    for (std::int64_t c = 0; c < kBlockQ; ++c) {
      // A query that saw nothing: exp(s - inf) is 0 for every score.
      const T value = c < count ? lse[c * p.lse_strides.l] : kMinusInfinity<T>;
      scratch.lse[c] = value == kMinusInfinity<T> ? -value : value;
      scratch.delta[c] = c < count ? dot(dout + c * gs.l, out + c * os.l, p.head_dim_v) : T(0);
    }
    for (std::int64_t c = 0; c < count; c += kNR<T>) {
      const std::int64_t n = min_i(kNR<T>, count - c);
      pack_panel(q + c * qs.l, qs.l, n, p.head_dim, static_cast<T>(p.scale),
                 scratch.queries + c * p.head_dim);
      pack_panel(dout + c * gs.l, gs.l, n, p.head_dim_v, T(1), scratch.douts + c * p.head_dim_v);
    }
    queries = rows_of(q, qs.l, count, p.head_dim, scratch.q_rows);
    douts = rows_of(dout, gs.l, count, p.head_dim_v, scratch.dout_rows);
  }

  // P (times dropout) and dS of keys [j0, j0 + n) for the panel at query c.
  void probabilities(std::int64_t c, std::int64_t j0, std::int64_t n) {
    using V = Vec<T>;
    const PanelPlace<T> place =
        PanelPlace<T>::at(p, seq, unit.b, h, i0 + c, min_i(kNR<T>, count - c));
    const std::int64_t width = place.width(), first = j0 - unit.keys.begin;
    T *s = scratch.p + c, *ds = scratch.ds + c;
    product<T, Order::kRows>(n, width, p.head_dim, keys.at + first * keys.step, keys.step,
                             scratch.queries + c * p.head_dim, kNR<T>, s, kBlockQ, false);
    product<T, Order::kRows>(n, width, p.head_dim_v, values.at + first * values.step, values.step,
                             scratch.douts + c * p.head_dim_v, kNR<T>, ds, kBlockQ, false);
    finish_scores(p, s, kBlockQ, j0, n, place, scratch.cap_slopes);
    if (p.dropout.on) draw(p, j0, n, place, scratch.kept);
    const bool in_one = p.softcap == 0 && !unit.bias_too;
    const V factor = V::set1(in_one ? static_cast<T>(p.scale) : T(1));
    const V hidden = V::set1(kMinusInfinity<T>), kept_scale = dropout_scale<T>(p.dropout);
    const T *lse = scratch.lse + c, *delta = scratch.delta + c;
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t v = 0; v < width; v += kLanes<T>) {
        T *s_at = s + r * kBlockQ + v, *ds_at = ds + r * kBlockQ + v;
        const V x = V::load(s_at);
        const Mask<T> hide = x == hidden;
        V e = exp(x - V::load(lse + v)), dp = V::load(ds_at);
        const V probability = e;
        if (p.dropout.on) {
          const V keep = scratch.kept.factors(r, v, kept_scale);
          e = e * keep;
          dp = dp * keep;
        }
        select(hide, V::set1(-T(0)), e).store(s_at);
        const V d = probability * (dp - V::load(delta + v));
        (select(hide, V::zero(), d) * factor).store(ds_at);
      }
    }
    if (in_one) return;
    if (unit.bias_too && !skip) add_to_bias(place, ds, j0, n);
    const V scale = V::set1(static_cast<T>(p.scale));
    for_tile(ds, kBlockQ, n, width, [&](V x, std::int64_t r, std::int64_t v) {
      const V y = x * scale;
      return p.softcap > 0 ? y * V::load(scratch.cap_slopes + r * kNR<T> + v) : y;
    });
  }

  void add_to_bias(const PanelPlace<T>& place, const T* ds, std::int64_t j0, std::int64_t n) {
    const ScoreStrides& bs = g.dbias_strides;
    T* rows = scratch.rows;
    transpose_copy(ds, kBlockQ, rows, kRowStep<T>, n, place.count);
    for (std::int64_t i = 0; i < place.count; ++i) {
      T* to = g.dbias + unit.b * bs.b + h * bs.h + (seq.q0 + place.i0 + i) * bs.i + j0 * bs.j;
      for (std::int64_t r = 0; r < n; ++r) to[r * bs.j] += rows[i * kRowStep<T> + r];
    }
  }

  template <Order kOrder>
  void add(std::int64_t m, std::int64_t dim, std::int64_t k, const T* a, const Rows<T>& b, T* sums,
           std::int64_t step) {
    const std::int64_t n = round_up(dim, kLanes<T>);
    if (skip) {
      visible_product<T, kOrder>(m, n, k, a, scratch.p, kBlockQ, b.at, b.step, sums, step);
    } else {
      product<T, kOrder>(m, n, k, a, kBlockQ, b.at, b.step, sums, step, true);
    }
  }

  // Sums over the unit's keys; false when dQ came out not finite.
  bool run() {
    load();
    if (unit.queries_too) zero_rows(scratch.dq, scratch.step, kBlockQ, scratch.step);
    const Range any = PanelPlace<T>::at(p, seq, unit.b, h, i0, count).any;
    const std::int64_t end = min_i(any.end, unit.keys.end);
    for (std::int64_t j0 = max_i(any.begin, unit.keys.begin) / kBlockK * kBlockK; j0 < end;
         j0 += kBlockK) {
      const std::int64_t from = max_i(j0, max_i(any.begin, unit.keys.begin));
      const std::int64_t n = min_i(j0 + kBlockK, end) - from, at = from - unit.keys.begin;
      for (std::int64_t c = 0; c < count; c += kNR<T>) probabilities(c, from, n);
      if (unit.keys_too) {
        add<Order::kRows>(n, p.head_dim_v, count, scratch.p, douts, dv.at + at * dv.step, dv.step);
        add<Order::kRows>(n, p.head_dim, count, scratch.ds, queries, dk.at + at * dk.step, dk.step);
      }
      if (unit.queries_too) {
        add<Order::kColumns>(count, p.head_dim, n, scratch.ds,
                             Rows<T>{keys.at + at * keys.step, keys.step}, scratch.dq,
                             scratch.step);
      }
    }
    if (!unit.queries_too) return true;
    const RowStrides& qs = g.dq_strides;
    T* dq = g.dq + unit.b * qs.b + h * qs.h + (seq.q0 + i0) * qs.l;
    store_rows(scratch.dq, scratch.step, count, p.head_dim, dq, qs.l);
    return all_finite(scratch.dq, scratch.step, count, p.head_dim);
  }

  static void store_rows(const T* from, std::int64_t step, std::int64_t n, std::int64_t dim, T* to,
                         std::int64_t stride) {
    for (std::int64_t r = 0; r < n; ++r) {
      for (std::int64_t d = 0; d < dim; ++d) to[r * stride + d] = from[r * step + d];
    }
  }
};

template <class T>
void backward(const Problem<T>& p, const AttentionGradients<T>& g, const BackwardUnit& unit,
              void* memory) {
  const AttentionSequence seq = sequence_of(p, unit.b);
  // Keys past the length have no block: their gradients are written as zeros.
  const std::int64_t keys = unit.keys.end - unit.keys.begin;
  const BackwardScratch<T> scratch(p, g, unit, static_cast<T*>(memory));
  Block<T> block{p, g, unit, scratch, seq};
  const std::int64_t kv_head = unit.heads.begin / (p.heads / p.kv_heads);
  const std::int64_t row = seq.k0 + unit.keys.begin;
  const RowStrides &ks = p.k_strides, &vs = p.v_strides;
  block.keys = rows_of(p.k + unit.b * ks.b + kv_head * ks.h + row * ks.l, ks.l, keys, p.head_dim,
                       scratch.k_rows);
  block.values = rows_of(p.v + unit.b * vs.b + kv_head * vs.h + row * vs.l, vs.l, keys,
                         p.head_dim_v, scratch.v_rows);
  const RowStrides &dks = g.dk_strides, &dvs = g.dv_strides;
  T* dk = g.dk == nullptr ? nullptr : g.dk + unit.b * dks.b + kv_head * dks.h + row * dks.l;
  T* dv = g.dv == nullptr ? nullptr : g.dv + unit.b * dvs.b + kv_head * dvs.h + row * dvs.l;
  const bool dk_there = in_place(dk, dks, p.head_dim), dv_there = in_place(dv, dvs, p.head_dim_v);
  block.dk = dk_there ? Sums<T>{dk, dks.l} : Sums<T>{scratch.dk, scratch.step};
  block.dv = dv_there ? Sums<T>{dv, dvs.l} : Sums<T>{scratch.dv, scratch.step_v};
  for (int attempt = 0; attempt < 2; ++attempt) {
    block.skip = attempt == 1;
    bool finite = true;
    if (unit.keys_too) {
      // Products are as wide as whole vectors.
      zero_rows(block.dk.at, block.dk.step, keys, round_up(p.head_dim, kLanes<T>));
      zero_rows(block.dv.at, block.dv.step, keys, round_up(p.head_dim_v, kLanes<T>));
    }
    for (block.h = unit.heads.begin; block.h < unit.heads.end; ++block.h) {
      for (block.i0 = unit.queries.begin; block.i0 < unit.queries.end; block.i0 += kBlockQ) {
        block.count = min_i(kBlockQ, unit.queries.end - block.i0);
        finite = block.run() && finite;
      }
    }
    if (unit.keys_too) {
      finite = finite && all_finite(block.dk.at, block.dk.step, keys, p.head_dim) &&
               all_finite(block.dv.at, block.dv.step, keys, p.head_dim_v);
    }
    if (finite || !p.hides_keys()) break;
  }
  if (!unit.keys_too) return;
  if (dk != nullptr && !dk_there) {
    Block<T>::store_rows(scratch.dk, scratch.step, keys, p.head_dim, dk, dks.l);
  }
  if (dv != nullptr && !dv_there) {
    Block<T>::store_rows(scratch.dv, scratch.step_v, keys, p.head_dim_v, dv, dvs.l);
  }
}

template <class T>
void sink_gradient(const Problem<T>& p, const AttentionGradients<T>& g, std::int64_t h) {
  const RowStrides &gs = g.dout_strides, &os = p.out_strides, &ls = p.lse_strides;
  double total = 0;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const AttentionSequence seq = sequence_of(p, b);
    for (std::int64_t row = seq.q0; row < seq.q0 + seq.queries; ++row) {
      const T lse = p.lse[b * ls.b + h * ls.h + row * ls.l];
      if (lse == kMinusInfinity<T>) continue;
      const T share = exp(Vec<T>::set1(p.sinks[h] - lse)).v[0];
      const T delta = dot(g.dout + b * gs.b + h * gs.h + row * gs.l,
                          p.out + b * os.b + h * os.h + row * os.l, p.head_dim_v);
      total -= static_cast<double>(share) * static_cast<double>(delta);
    }
  }
  g.dsinks[h] = static_cast<T>(total);
}

template <class T>
std::int64_t scratch_bytes(const Problem<T>& p, const AttentionGradients<T>& g,
                           const BackwardUnit& unit) {
  return BackwardScratch<T>(p, g, unit, nullptr).used * static_cast<std::int64_t>(sizeof(T));
}

}  // namespace

extern const AttentionBackwardKernels attention_backward_kernels = {
    {&scratch_bytes<float>, &backward<float>, &sink_gradient<float>},
    {&scratch_bytes<double>, &backward<double>, &sink_gradient<double>},
};

}  // namespace ARRAYNN_ISA_NAMESPACE
