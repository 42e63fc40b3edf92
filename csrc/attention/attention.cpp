#include "attention/attention.hpp"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <vector>

#include "core/arena.hpp"
#include "core/parallel.hpp"

namespace arraynn {
namespace {

// Multiply-adds that are worth a team's member, as in gemm.
constexpr double kWorkPerThread = 0.75e6;
// Elements of a cache that one thread should read at least.
constexpr double kReadsPerThread = 65536;
// Queries of a unit, in panels: K and V are read once for all of them.
constexpr std::int64_t kPanelsPerUnit = 8;
constexpr std::int64_t kUnitsPerThread = 4;
// Keys and queries of a unit where the backward splits heads; multiples of its blocks.
constexpr std::int64_t kBackwardChunk = 256;

// Pairs of a query and a key that see each other, about, over all heads.
template <class T>
double pairs_of(const AttentionProblem<T>& p) {
  double pairs = 0;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const AttentionSequence s = sequence_of(p, b);
    if (s.queries <= 0) continue;
    const Range middle = visible_keys(p, s, s.queries / 2);
    pairs += static_cast<double>(s.queries) *
             static_cast<double>(std::max<std::int64_t>(0, middle.end - middle.begin));
  }
  return pairs * static_cast<double>(p.heads);
}

// run(unit, scratch) over all units, each thread taking the next one; no unit sees another.
template <class Unit, class F>
void for_units(const char* op, const std::vector<Unit>& units, double work, double grain,
               std::int64_t bytes, const F& run) {
  if (units.empty()) return;
  const int threads = static_cast<int>(
      std::min<std::int64_t>(threads_for(work, grain), static_cast<std::int64_t>(units.size())));
  const auto each = static_cast<std::size_t>(round_up(bytes, 64));
  const Scratch scratch(op, each * static_cast<std::size_t>(threads));
  std::atomic<std::size_t> next{0};
  parallel(threads, Denormals::kFlush, [&](int tid, int) {
    char* mine = static_cast<char*>(scratch.data()) + each * static_cast<std::size_t>(tid);
    for (std::size_t i = next++; i < units.size(); i = next++) run(units[i], mine);
  });
}

struct DecodeUnit {
  std::int64_t b, kv_head;
  Range keys;
  std::int64_t partial;
};

template <class T>
const AttentionTable<T>& forward_table([[maybe_unused]] const AttentionProblem<T>& p) {
#if defined(__x86_64__)
  if constexpr (sizeof(T) == 4) {
    if (p.kv_half == Dtype::kBF16 && current_isa() == Isa::kAvx512Bf16) {
      return avx512_bf16::attention_pair_kernels;
    }
  }
#endif
  return attention_kernels().of<T>();
}

template <class T>
DecodeSplit<T> split_of(const AttentionProblem<T>& p) {
  const DecodeKernels& k = decode_kernels();
  if constexpr (sizeof(T) == 4) {
    if (p.kv_half == Dtype::kF16) return k.split_f16;
    if (p.kv_half == Dtype::kBF16) return k.split_bf16;
  }
  return k.of<T>().split;
}

template <class T>
void run_decode(const char* op, const AttentionProblem<T>& p) {
  const auto& k = decode_kernels().of<T>();
  const DecodeSplit<T> split = split_of(p);
  const std::int64_t group = p.heads / p.kv_heads, step = p.head_dim_v + 2;
  std::vector<DecodeUnit> units;
  std::vector<Range> splits;  // of every (b, kv_head), in units
  double reads = 0;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const Range keys = visible_keys(p, sequence_of(p, b), 0);
    for (std::int64_t h = 0; h < p.kv_heads; ++h) {
      const auto first = static_cast<std::int64_t>(units.size());
      for (std::int64_t j = keys.begin / kDecodeSplit * kDecodeSplit; j < keys.end;
           j += kDecodeSplit) {
        const Range part{std::max(j, keys.begin), std::min(j + kDecodeSplit, keys.end)};
        const auto at = static_cast<std::int64_t>(units.size()) * group * step;
        units.push_back({b, h, part, at});
        reads += static_cast<double>((part.end - part.begin) * (p.head_dim + p.head_dim_v));
      }
      splits.push_back({first, static_cast<std::int64_t>(units.size())});
    }
  }
  const auto bytes = units.size() * static_cast<std::size_t>(group * step) * sizeof(T);
  const Scratch partials(op, bytes);
  T* sums = static_cast<T*>(partials.data());
  for_units(op, units, reads, kReadsPerThread, 0, [&](const DecodeUnit& unit, void*) {
    split(p, unit.b, unit.kv_head, unit.keys, sums + unit.partial);
  });
  parallel(1, Denormals::kFlush, [&](int, int) {
    for (std::int64_t i = 0; i < p.batch * p.heads; ++i) {
      const std::int64_t b = i / p.heads, h = i % p.heads;
      const Range s = splits[static_cast<std::size_t>(b * p.kv_heads + h / group)];
      k.merge(p, b, h, sums + (s.begin * group + h % group) * step, s.end - s.begin, group * step);
    }
  });
}

template <class T>
void add_backward_units(const AttentionProblem<T>& p, const AttentionGradients<T>& g,
                        std::int64_t b, bool whole, std::vector<BackwardUnit>* units) {
  const AttentionSequence s = sequence_of(p, b);
  const std::int64_t group = p.heads / p.kv_heads;
  const std::int64_t all_keys = p.k_begin != nullptr ? p.k_begin[b + 1] - p.k_begin[b] : p.seqlen_k;
  const bool keys_too = g.dk != nullptr || g.dv != nullptr;
  const Range queries{0, s.queries}, keys{0, all_keys};
  for (std::int64_t kv = 0; kv < p.kv_heads; ++kv) {
    const Range heads{kv * group, (kv + 1) * group};
    if (whole) {
      units->push_back({b, heads, queries, keys, keys_too, g.dq != nullptr, false});
      continue;
    }
    for (std::int64_t j = 0; keys_too && j < all_keys; j += kBackwardChunk) {
      const Range part{j, std::min(j + kBackwardChunk, all_keys)};
      units->push_back({b, heads, queries, part, true, false, false});
    }
    for (std::int64_t i = 0; g.dq != nullptr && i < s.queries; i += kBackwardChunk) {
      const Range part{i, std::min(i + kBackwardChunk, s.queries)};
      for (std::int64_t h = heads.begin; h < heads.end; ++h) {
        units->push_back({b, {h, h + 1}, part, keys, false, true, false});
      }
    }
  }
}

// Scratch that the hungriest of the units takes.
template <class T>
std::int64_t backward_bytes(const AttentionProblem<T>& p, const AttentionGradients<T>& g,
                            const std::vector<BackwardUnit>& units) {
  std::int64_t bytes = 0;
  for (const BackwardUnit& unit : units) {
    bytes = std::max(bytes, attention_backward_kernels().of<T>().scratch(p, g, unit));
  }
  return bytes;
}

// The gradient by bias: an owner of a part of it passes over all that is broadcast to that part.
template <class T>
void run_bias(const char* op, const AttentionProblem<T>& p, const AttentionGradients<T>& g,
              double work) {
  const auto& k = attention_backward_kernels().of<T>();
  const ScoreStrides& bs = g.dbias_strides;
  // Rows of packed sequences are each of one of them.
  const bool own_b = bs.b != 0 || (p.q_begin != nullptr && bs.i != 0), own_h = bs.h != 0;
  const std::int64_t chunk = bs.i != 0 ? kBackwardChunk : std::max<std::int64_t>(1, p.seqlen_q);
  std::vector<BackwardUnit> owners;
  for (std::int64_t b = 0; b < (own_b ? p.batch : 1); ++b) {
    const std::int64_t rows = own_b ? sequence_of(p, b).queries : p.seqlen_q;
    for (std::int64_t h = 0; h < (own_h ? p.heads : 1); ++h) {
      for (std::int64_t i = 0; i < rows; i += chunk) {
        owners.push_back(
            {b, {h, h + 1}, {i, std::min(i + chunk, rows)}, {0, p.seqlen_k}, false, false, true});
      }
    }
  }
  const std::int64_t bytes = backward_bytes(p, g, owners);
  for_units(op, owners, work, kWorkPerThread, bytes, [&](BackwardUnit unit, void* scratch) {
    const std::int64_t first_h = unit.heads.begin, first_b = unit.b;
    const Range queries = unit.queries;
    for (std::int64_t b = first_b; b < (own_b ? first_b + 1 : p.batch); ++b) {
      const AttentionSequence s = sequence_of(p, b);
      unit.queries.end = std::min(queries.end, s.queries);
      if (p.k_begin != nullptr) unit.keys.end = s.keys;
      for (std::int64_t h = first_h; h < (own_h ? first_h + 1 : p.heads); ++h) {
        unit.b = b;
        unit.heads = {h, h + 1};
        k.backward(p, g, unit, scratch);
      }
    }
  });
}

}  // namespace

template <class T>
void run_attention(const char* op, const AttentionProblem<T>& p) {
  const bool one = p.seqlen_q == 1 && p.q_begin == nullptr;
  if (one && p.mask == nullptr && p.bias == nullptr && !p.dropout.on) return run_decode(op, p);
  const AttentionTable<T>& k = forward_table(p);
  const double work = pairs_of(p) * static_cast<double>(p.head_dim + p.head_dim_v);
  const int threads = threads_for(work, kWorkPerThread);
  std::int64_t panels = 0;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    panels += p.heads * ceil_div(sequence_of(p, b).queries, k.panel);
  }
  const std::int64_t queries =
      k.panel * std::clamp(panels / (threads * kUnitsPerThread), std::int64_t{1}, kPanelsPerUnit);
  std::vector<AttentionUnit> units;
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const std::int64_t length = sequence_of(p, b).queries;
    for (std::int64_t h = 0; h < p.heads; ++h) {
      // From the end: with causal masks the last units are the longest.
      for (std::int64_t i = ceil_div(length, queries) - 1; i >= 0; --i) {
        units.push_back({b, h, {i * queries, std::min((i + 1) * queries, length)}});
      }
    }
  }
  for_units(op, units, work, kWorkPerThread, k.scratch(p, queries),
            [&](const AttentionUnit& unit, void* scratch) {
              const bool last = &units.back() - &unit < threads;
              k.forward(p, unit, last ? nullptr : &unit + threads, scratch);
            });
}

template <class T>
void run_attention_backward(const char* op, const AttentionProblem<T>& p,
                            const AttentionGradients<T>& g) {
  const auto& k = attention_backward_kernels().of<T>();
  const double work = pairs_of(p) * 2.5 * static_cast<double>(p.head_dim + p.head_dim_v);
  const bool whole = p.batch * p.kv_heads >= threads_for(work, kWorkPerThread);
  std::vector<BackwardUnit> units;
  for (std::int64_t b = 0; b < p.batch; ++b) add_backward_units(p, g, b, whole, &units);
  const bool rest = g.dq != nullptr || g.dk != nullptr || g.dv != nullptr;
  if (rest) {
    for_units(op, units, work, kWorkPerThread, backward_bytes(p, g, units),
              [&](const BackwardUnit& unit, void* scratch) { k.backward(p, g, unit, scratch); });
  }
  if (g.dbias != nullptr) run_bias(op, p, g, work);
}

template <class T>
void run_attention_sinks(const char* op, const AttentionProblem<T>& p,
                         const AttentionGradients<T>& g) {
  const auto& k = attention_backward_kernels().of<T>();
  std::vector<std::int64_t> heads(static_cast<std::size_t>(p.heads));
  std::iota(heads.begin(), heads.end(), std::int64_t{0});
  const double rows = static_cast<double>(p.batch * p.heads) * static_cast<double>(p.seqlen_q);
  for_units(op, heads, rows * static_cast<double>(2 * p.head_dim_v), kReadsPerThread, 0,
            [&](std::int64_t h, void*) { k.sinks(p, g, h); });
}

#define ARRAYNN_INSTANTIATE(T)                                                     \
  template void run_attention<T>(const char*, const AttentionProblem<T>&);         \
  template void run_attention_backward<T>(const char*, const AttentionProblem<T>&, \
                                          const AttentionGradients<T>&);           \
  template void run_attention_sinks<T>(const char*, const AttentionProblem<T>&,    \
                                       const AttentionGradients<T>&);
ARRAYNN_INSTANTIATE(float)
ARRAYNN_INSTANTIATE(double)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
