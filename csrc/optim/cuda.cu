// Multi-tensor optimizer steps. The table of the tensors is a kernel parameter: no copy to the device,
// nothing to keep alive, and a CUDA graph holds it. It has room for kTensors tensors, more than a thousand
// for Adam; a longer list takes as many launches as it has tables (docs/cuda.md says why not one). Blocks
// walk over the chunks of all tensors of the table; which tensor a chunk belongs to is a binary search in
// the constant bank, the same for all threads.
#include "optim/cuda.hpp"

#include <array>

#include "core/cuda_launch.hpp"
#include "core/cuda_pack.hpp"
#include "core/cuda_reduce.hpp"
#include "core/cuda_shared.hpp"
#include "optim/rules.hpp"

namespace arraynn::cuda {
namespace {

constexpr int kThreads = 256;
// Two packs of each array in flight a thread: 8 loads of 16 bytes for Adam, 96 KB a multiprocessor.
// Four blocks on it hold the registers at 64 a thread, which four arrays would exceed.
template <int kArrays>
constexpr int kUnroll = kArrays > 4 ? 1 : 2;
template <int kArrays>
constexpr int kBlocksPerMultiprocessor = kArrays > 3 ? 3 : 4;
constexpr std::size_t kScalarBytes = 256;  // what else a kernel takes
static_assert(kOptimChunk < 1 << 16);      // a tail is half a word

// Addresses, sizes and chunks of as many tensors as fit a kernel's parameters. An address, counted in
// elements, has 48 bits: devices have 49 of bytes.
template <class T, int kArrays>
struct Table {
  static constexpr int kHalves = kArrays / 2 + 1;  // words of two: of each address, and the tail
  static constexpr int kTensors =
      static_cast<int>((kMaxParameterBytes - kScalarBytes) / (4 * (kArrays + kHalves + 1)));
  std::uint32_t low[kArrays][kTensors];
  std::uint32_t high[kHalves][kTensors];
  std::uint32_t first_chunk[kTensors];  // of the chunks of this table
  std::uint32_t chunks;
  int count;

  __device__ __forceinline__ std::uint32_t half(int i, int tensor) const {
    return high[i / 2][tensor] >> (i % 2 * 16) & 0xFFFFu;
  }
  __device__ __forceinline__ T* array(int a, int tensor) const {
    const std::uint64_t element = std::uint64_t{half(a, tensor)} << 32 | low[a][tensor];
    return reinterpret_cast<T*>(element * sizeof(T));
  }
  // Elements of a tensor's last chunk.
  __device__ __forceinline__ int tail(int tensor) const {
    return static_cast<int>(half(kArrays, tensor));
  }

  void clear(int tensor) {
    for (auto& words : high) words[tensor] = 0;
  }
  void set_half(int i, int tensor, std::uint64_t value) {
    high[i / 2][tensor] |= static_cast<std::uint32_t>(value << (i % 2 * 16));
  }
  // False where the address has more bits.
  bool set_array(int a, int tensor, const T* p) {
    const std::uint64_t element = reinterpret_cast<std::uintptr_t>(p) / sizeof(T);
    low[a][tensor] = static_cast<std::uint32_t>(element);
    set_half(a, tensor, element >> 32 & 0xFFFFu);
    return element >> 48 == 0;
  }
};

template <class T>
struct Chunk {
  int tensor;
  std::int64_t begin;
  int size;
};

template <class T, int kArrays>
__device__ __forceinline__ Chunk<T> find_chunk(const Table<T, kArrays>& table,
                                               std::uint32_t chunk) {
  int low = 0, high = table.count;
  while (high - low > 1) {  // first_chunk[low] <= chunk < first_chunk[high]
    const int middle = (low + high) / 2;
    (table.first_chunk[middle] <= chunk ? low : high) = middle;
  }
  const std::uint32_t next = high < table.count ? table.first_chunk[high] : table.chunks;
  return {low, std::int64_t{chunk - table.first_chunk[low]} * kOptimChunk,
          chunk + 1 == next ? table.tail(low) : static_cast<int>(kOptimChunk)};
}

// Calls f(packs of the kArrays arrays) for all packs of a chunk and stores those from kFirstStored on,
// and f on single elements, as packs of which one element counts, at its end.
template <class T, int kArrays, class F>
__device__ __forceinline__ void update_chunk(T* const (&arrays)[kArrays], int n, unsigned stored,
                                             const F& f) {
  bool packed[kArrays];
#pragma unroll
  for (int a = 0; a < kArrays; ++a) packed[a] = is_packed(arrays[a]);
  constexpr int kStep = kThreads * kPack<T>;
  int i = static_cast<int>(threadIdx.x) * kPack<T>;
  for (; i + (kUnroll<kArrays> - 1) * kStep + kPack<T> <= n; i += kUnroll<kArrays> * kStep) {
    Pack<T> in[kUnroll<kArrays>][kArrays];
#pragma unroll
    for (int u = 0; u < kUnroll<kArrays>; ++u) {
#pragma unroll
      for (int a = 0; a < kArrays; ++a) {
        in[u][a] = load_pack<Access::kInPlace>(arrays[a] + i + u * kStep, packed[a]);
      }
    }
#pragma unroll
    for (int u = 0; u < kUnroll<kArrays>; ++u) {
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) {
        Compute<T> values[kArrays];
#pragma unroll
        for (int a = 0; a < kArrays; ++a) values[a] = to_compute(in[u][a].v[j]);
        f(values);
#pragma unroll
        for (int a = 0; a < kArrays; ++a) in[u][a].v[j] = from_compute<T>(values[a]);
      }
#pragma unroll
      for (int a = 0; a < kArrays; ++a) {
        if ((stored >> a & 1) != 0) store_pack(arrays[a] + i + u * kStep, in[u][a], packed[a]);
      }
    }
  }
  // What is left of each thread's packs, fewer than kUnroll and at most one of them cut.
  for (; i < n; i += kStep) {
    for (int k = i; k < n && k < i + kPack<T>; ++k) {
      Compute<T> values[kArrays];
#pragma unroll
      for (int a = 0; a < kArrays; ++a) values[a] = to_compute(arrays[a][k]);
      f(values);
#pragma unroll
      for (int a = 0; a < kArrays; ++a) {
        if ((stored >> a & 1) != 0) arrays[a][k] = from_compute<T>(values[a]);
      }
    }
  }
}

template <class T, int kArrays, class F>
__device__ __forceinline__ void update_table(const Table<T, kArrays>& table, unsigned stored,
                                             const F& f) {
  for (std::uint32_t c = blockIdx.x; c < table.chunks; c += gridDim.x) {
    const Chunk<T> chunk = find_chunk(table, c);
    T* arrays[kArrays];
#pragma unroll
    for (int a = 0; a < kArrays; ++a) arrays[a] = table.array(a, chunk.tensor) + chunk.begin;
    update_chunk(arrays, chunk.size, stored, f);
  }
}

// The rule of a step whose numbers the host knows, but for the factor of clipping.
template <class Rule>
struct Known {
  Rule rule;
  double gradient_factor;
  const double* clip_factor;
};

__device__ __forceinline__ double read_number(const StepNumber& n) {
  if (n.device == nullptr) return n.value;
  switch (n.dtype) {
    case Dtype::kF32:
      return static_cast<double>(*static_cast<const float*>(n.device));
    case Dtype::kI32:
      return static_cast<double>(*static_cast<const std::int32_t*>(n.device));
    case Dtype::kI64:
      return static_cast<double>(*static_cast<const std::int64_t*>(n.device));
    default:
      return *static_cast<const double*>(n.device);
  }
}
template <class Rule>
__device__ __forceinline__ void apply_clipping(Rule& rule, double gradient_factor,
                                               const double* clip_factor) {
  using C = decltype(rule.factor.v);
  if (clip_factor != nullptr) rule.factor.v = static_cast<C>(gradient_factor * *clip_factor);
}

template <class Rule>
struct RuleStorage {
  Rule rule;
};

// A rule in shared memory is held in registers, twenty of them for float64: a block less.
template <class T, int kArrays, class Source>
constexpr int kStepBlocks =
    kBlocksPerMultiprocessor<kArrays> - (requires(Source s) { s.rule; } || sizeof(T) < 8 ? 0 : 1);

// A quotient of a root takes up to 110 registers in float64.
template <class T, int kArrays, class Source>
constexpr int kRootBlocks = sizeof(T) < 8 ? kStepBlocks<T, kArrays, Source> : 2;

// f(rule): made by the host, or of numbers on the device by one thread for its block, powers and all.
template <class Rule, class Source, class F>
__device__ __forceinline__ void with_rule(const Source& source, const F& f) {
  if constexpr (std::is_same_v<Source, Known<Rule>>) {
    Rule rule = source.rule;
    apply_clipping(rule, source.gradient_factor, source.clip_factor);
    f(rule);
  } else {
    auto& shared = shared_storage<RuleStorage<Rule>>();
    if (threadIdx.x == 0) {
      Rule rule(step_scalars(source.options, read_number(source.step), read_number(source.lr),
                             source.gradient_factor));
      apply_clipping(rule, source.gradient_factor, source.clip_factor);
      shared.rule = rule;
    }
    __syncthreads();
    f(shared.rule);
  }
}

// Arrays: parameter, gradient, first and second moments, and with kLargest the largest second moments.
template <class T, bool kLargest, class Source>
__global__ void __launch_bounds__(kThreads, kStepBlocks<T, kLargest ? 5 : 4, Source>)
    adam_kernel(const __grid_constant__ Table<T, kLargest ? 5 : 4> table, Source source) {
  constexpr int kArrays = kLargest ? 5 : 4;
  with_rule<AdamRule<Compute<T>>>(source, [&table](const auto& rule) {
    constexpr unsigned kAllButGradients = ((1u << kArrays) - 1) & ~2u;
    update_table(table, kAllButGradients, [&rule](Compute<T>(&values)[kArrays]) {
      using V = Vec<Compute<T>>;
      V p{values[0]}, m{values[2]}, v{values[3]}, largest{values[kArrays - 1]};
      rule.template apply<kLargest>(p, V{values[1]}, m, v, largest);
      values[0] = p.v;
      values[2] = m.v;
      values[3] = v.v;
      if constexpr (kLargest) values[4] = largest.v;
    });
  });
}

// Arrays: parameter, gradient, and with kBuffer the momentum buffers.
template <class T, bool kBuffer, class Source>
__global__ void __launch_bounds__(kThreads, kStepBlocks<T, kBuffer ? 3 : 2, Source>)
    sgd_kernel(const __grid_constant__ Table<T, kBuffer ? 3 : 2> table, Source source) {
  constexpr int kArrays = kBuffer ? 3 : 2;
  with_rule<SgdRule<Compute<T>>>(source, [&table](const auto& rule) {
    update_table(table, kBuffer ? 5u : 1u, [&rule](Compute<T>(&values)[kArrays]) {
      using V = Vec<Compute<T>>;
      V p{values[0]}, b{values[kArrays - 1]};
      rule.apply(p, V{values[1]}, b);
      values[0] = p.v;
      if constexpr (kBuffer) values[2] = b.v;
    });
  });
}

// Arrays: parameter, gradient, sums of squares.
template <class T, class Source>
__global__ void __launch_bounds__(kThreads, kRootBlocks<T, 3, Source>)
    adagrad_kernel(const __grid_constant__ Table<T, 3> table, Source source) {
  with_rule<AdagradRule<Compute<T>>>(source, [&table](const auto& rule) {
    update_table(table, 5u, [&rule](Compute<T>(&values)[3]) {
      using V = Vec<Compute<T>>;
      V p{values[0]}, sum{values[2]};
      rule.apply(p, V{values[1]}, sum);
      values[0] = p.v;
      values[2] = sum.v;
    });
  });
}

// Arrays: parameter, gradient, mean squares, then means with kCentred and momentum buffers with kMomentum.
template <bool kCentred, bool kMomentum>
constexpr int kRmspropArrays = 3 + (kCentred ? 1 : 0) + (kMomentum ? 1 : 0);

template <class T, bool kCentred, bool kMomentum, class Source>
__global__ void __launch_bounds__(kThreads,
                                  kRootBlocks<T, kRmspropArrays<kCentred, kMomentum>, Source>)
    rmsprop_kernel(const __grid_constant__ Table<T, kRmspropArrays<kCentred, kMomentum>> table,
                   Source source) {
  constexpr int kArrays = kRmspropArrays<kCentred, kMomentum>;
  with_rule<RmspropRule<Compute<T>>>(source, [&table](const auto& rule) {
    constexpr unsigned kAllButGradients = ((1u << kArrays) - 1) & ~2u;
    update_table(table, kAllButGradients, [&rule](Compute<T>(&values)[kArrays]) {
      using V = Vec<Compute<T>>;
      V p{values[0]}, square{values[2]}, mean{values[kCentred ? 3 : 2]},
          buffer{values[kArrays - 1]};
      rule.template apply<kCentred, kMomentum>(p, V{values[1]}, square, mean, buffer);
      values[0] = p.v;
      values[2] = square.v;
      if constexpr (kCentred) values[3] = mean.v;
      if constexpr (kMomentum) values[kArrays - 1] = buffer.v;
    });
  });
}

using SumStorage = BlockReduceStorage<double, kThreads / kWarp>;
struct Add {
  __device__ __forceinline__ double operator()(double a, double b) const { return a + b; }
};

// sums[c] = the sum of squares of chunk c, in double.
template <class T>
__global__ void __launch_bounds__(kThreads)
    square_sum_kernel(const __grid_constant__ Table<T, 1> table, double* sums) {
  auto& shared = shared_storage<SumStorage>();
  for (std::uint32_t c = blockIdx.x; c < table.chunks; c += gridDim.x) {
    const Chunk<T> chunk = find_chunk(table, c);
    const T* grad = table.array(0, chunk.tensor) + chunk.begin;
    const int n = chunk.size;
    const bool packed = is_packed(grad);
    double sum = 0;
    int i = static_cast<int>(threadIdx.x) * kPack<T>;
    for (; i + kPack<T> <= n; i += kThreads * kPack<T>) {
      const Pack<T> g = load_pack(grad + i, packed);
#pragma unroll
      for (int j = 0; j < kPack<T>; ++j) {
        const auto x = static_cast<double>(to_compute(g.v[j]));
        sum = ::fma(x, x, sum);
      }
    }
    for (; i < n; ++i) {  // the one thread whose pack is cut
      const auto x = static_cast<double>(to_compute(grad[i]));
      sum = ::fma(x, x, sum);
    }
    const double total = block_reduce(sum, shared, Add{});
    if (threadIdx.x == 0) sums[c] = total;
    __syncthreads();  // the storage is used again
  }
}

// One block: the norm over all chunks in order, and the factor of clipping.
__global__ void __launch_bounds__(kThreads) clip_kernel(Clipping clipping, std::int64_t chunks) {
  auto& shared = shared_storage<SumStorage>();
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < chunks; i += kThreads) sum += clipping.sums[i];
  const double total = block_reduce(sum, shared, Add{});
  if (threadIdx.x == 0) {
    const double norm = ::sqrt(total) / clipping.scale;
    // Written so that a NaN norm gives NaN, as clip_grad_norm_ does.
    const double factor = clipping.max_norm / (norm + 1e-6);
    *clipping.norm = norm;
    *clipping.factor = factor >= 1.0 ? 1.0 : factor;
  }
}

// f(table, grid) for as many tables as the tensors need; pointers(tensor) gives the arrays of one.
template <class T, int kArrays, int kBlocks = kBlocksPerMultiprocessor<kArrays>, class Pointers,
          class F>
void for_tables(const std::vector<OptimTensor<T>>& tensors, const Pointers& pointers, const F& f) {
  using TableOf = Table<T, kArrays>;
  TableOf table;
  std::size_t next = 0;
  while (next < tensors.size()) {
    table.count = 0;
    std::int64_t chunks = 0;
    for (; next < tensors.size() && table.count < TableOf::kTensors; ++next) {
      const int i = table.count++;
      table.clear(i);
      const std::array<T*, kArrays> arrays = pointers(tensors[next]);
      for (int a = 0; a < kArrays; ++a) {
        if (!table.set_array(a, i, arrays[static_cast<std::size_t>(a)])) {
          call_state().error = cudaErrorInvalidValue;
          return;
        }
      }
      const std::int64_t size = tensors[next].end - tensors[next].begin;
      const std::int64_t of_tensor = ceil_div(size, kOptimChunk);
      table.first_chunk[i] = static_cast<std::uint32_t>(chunks);
      table.set_half(kArrays, i, static_cast<std::uint64_t>(size - (of_tensor - 1) * kOptimChunk));
      chunks += of_tensor;
    }
    table.chunks = static_cast<std::uint32_t>(chunks);
    f(table, Grid{persistent_blocks(chunks, kBlocks), kThreads});
  }
}

// The gradients are read only; a table has one type of pointer.
template <class T>
T* gradient_of(const OptimTensor<T>& t) {
  return const_cast<T*>(t.grad);
}

// launch(source): of the host's numbers, or of the device's where one of them is there.
template <class Rule, class Options, class F>
void with_source(const StepOptions<Options>& s, const F& launch) {
  if (s.step.device != nullptr || s.lr.device != nullptr) return launch(s);
  launch(Known<Rule>{Rule(step_scalars(s.options, s.step.value, s.lr.value, s.gradient_factor)),
                     s.gradient_factor, s.clip_factor});
}

template <class T, bool kLargest>
void launch_adam(const std::vector<OptimTensor<T>>& tensors, const StepOptions<AdamOptions>& s) {
  constexpr int kArrays = kLargest ? 5 : 4;
  const auto pointers = [](const OptimTensor<T>& t) -> std::array<T*, kArrays> {
    if constexpr (kLargest) {
      return {t.param, gradient_of(t), t.first, t.second, t.largest};
    } else {
      return {t.param, gradient_of(t), t.first, t.second};
    }
  };
  with_source<AdamRule<Compute<T>>>(s, [&](const auto& source) {
    using Source = std::remove_cvref_t<decltype(source)>;
    for_tables<T, kArrays, kStepBlocks<T, kArrays, Source>>(
        tensors, pointers, [&](const auto& table, Grid grid) {
          ARRAYNN_LAUNCH((adam_kernel<T, kLargest, Source>), grid, table, source);
        });
  });
}

template <class T, bool kBuffer>
void launch_sgd(const std::vector<OptimTensor<T>>& tensors, const StepOptions<SgdOptions>& s) {
  constexpr int kArrays = kBuffer ? 3 : 2;
  const auto pointers = [](const OptimTensor<T>& t) -> std::array<T*, kArrays> {
    if constexpr (kBuffer) {
      return {t.param, gradient_of(t), t.first};
    } else {
      return {t.param, gradient_of(t)};
    }
  };
  with_source<SgdRule<Compute<T>>>(s, [&](const auto& source) {
    using Source = std::remove_cvref_t<decltype(source)>;
    for_tables<T, kArrays, kStepBlocks<T, kArrays, Source>>(
        tensors, pointers, [&](const auto& table, Grid grid) {
          ARRAYNN_LAUNCH((sgd_kernel<T, kBuffer, Source>), grid, table, source);
        });
  });
}

template <class T, bool kCentred, bool kMomentum>
void launch_rmsprop(const std::vector<OptimTensor<T>>& tensors,
                    const StepOptions<RmspropOptions>& s) {
  constexpr int kArrays = kRmspropArrays<kCentred, kMomentum>;
  const auto pointers = [](const OptimTensor<T>& t) {
    std::array<T*, kArrays> arrays{t.param, gradient_of(t), t.first};
    if constexpr (kCentred) arrays[3] = t.second;
    if constexpr (kMomentum) arrays[kArrays - 1] = t.largest;
    return arrays;
  };
  with_source<RmspropRule<Compute<T>>>(s, [&](const auto& source) {
    using Source = std::remove_cvref_t<decltype(source)>;
    for_tables<T, kArrays, kRootBlocks<T, kArrays, Source>>(
        tensors, pointers, [&](const auto& table, Grid grid) {
          ARRAYNN_LAUNCH((rmsprop_kernel<T, kCentred, kMomentum, Source>), grid, table, source);
        });
  });
}

}  // namespace

template <class T>
std::int64_t chunk_count(const std::vector<OptimTensor<T>>& tensors) {
  std::int64_t chunks = 0;
  for (const auto& t : tensors) chunks += ceil_div(t.end - t.begin, kOptimChunk);
  return chunks;
}

template <class T>
void clip(const std::vector<OptimTensor<T>>& tensors, const Clipping& clipping) {
  const auto pointers = [](const OptimTensor<T>& t) { return std::array<T*, 1>{gradient_of(t)}; };
  double* sums = clipping.sums;
  for_tables<T, 1>(tensors, pointers, [&](const auto& table, Grid grid) {
    ARRAYNN_LAUNCH((square_sum_kernel<T>), grid, table, sums);
    sums += table.chunks;
  });
  ARRAYNN_LAUNCH((clip_kernel), (Grid{1, kThreads}), clipping, chunk_count(tensors));
}

template <class T>
void step(const std::vector<OptimTensor<T>>& tensors, const StepOptions<AdamOptions>& s) {
  if (!tensors.empty() && tensors[0].largest != nullptr) {
    launch_adam<T, true>(tensors, s);
  } else {
    launch_adam<T, false>(tensors, s);
  }
}

template <class T>
void step(const std::vector<OptimTensor<T>>& tensors, const StepOptions<SgdOptions>& s) {
  if (s.options.momentum != 0) {
    launch_sgd<T, true>(tensors, s);
  } else {
    launch_sgd<T, false>(tensors, s);
  }
}

template <class T>
void step(const std::vector<OptimTensor<T>>& tensors, const StepOptions<AdagradOptions>& s) {
  const auto pointers = [](const OptimTensor<T>& t) {
    return std::array<T*, 3>{t.param, gradient_of(t), t.first};
  };
  with_source<AdagradRule<Compute<T>>>(s, [&](const auto& source) {
    using Source = std::remove_cvref_t<decltype(source)>;
    for_tables<T, 3, kRootBlocks<T, 3, Source>>(
        tensors, pointers, [&](const auto& table, Grid grid) {
          ARRAYNN_LAUNCH((adagrad_kernel<T, Source>), grid, table, source);
        });
  });
}

template <class T>
void step(const std::vector<OptimTensor<T>>& tensors, const StepOptions<RmspropOptions>& s) {
  if (tensors.empty()) return;
  const bool centred = tensors[0].second != nullptr, momentum = tensors[0].largest != nullptr;
  if (centred && momentum) return launch_rmsprop<T, true, true>(tensors, s);
  if (centred) return launch_rmsprop<T, true, false>(tensors, s);
  if (momentum) return launch_rmsprop<T, false, true>(tensors, s);
  launch_rmsprop<T, false, false>(tensors, s);
}

#define ARRAYNN_INSTANTIATE(T)                                                                   \
  template std::int64_t chunk_count<T>(const std::vector<OptimTensor<T>>&);                      \
  template void clip<T>(const std::vector<OptimTensor<T>>&, const Clipping&);                    \
  template void step<T>(const std::vector<OptimTensor<T>>&, const StepOptions<AdamOptions>&);    \
  template void step<T>(const std::vector<OptimTensor<T>>&, const StepOptions<SgdOptions>&);     \
  template void step<T>(const std::vector<OptimTensor<T>>&, const StepOptions<AdagradOptions>&); \
  template void step<T>(const std::vector<OptimTensor<T>>&, const StepOptions<RmspropOptions>&);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn::cuda
