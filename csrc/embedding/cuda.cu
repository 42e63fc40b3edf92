// Embedding. The lookup moves packs. The gradient of the table sums the occurrences of a row in their order,
// without atomics on floats:
//
//   1. (row, occurrence) pairs are sorted by row: a stable radix sort, 8 bits a pass, whose counters are
//      integers. Rows without a gradient, and those that are not in the table, are sorted behind it.
//   2. Runs of one row within kChunk pairs are summed by a thread for each pack of columns. Rows that lie
//      in one chunk are done; others leave a partial sum in each of theirs, which 3. adds in order.
//
// A frequent row is no hot spot, and the bits depend on the indices alone.
#include "core/cuda_launch.hpp"
#include "core/cuda_pack.hpp"
#include "core/cuda_shared.hpp"
#include "core/error.hpp"
#include "embedding/embedding.hpp"

namespace arraynn {
namespace cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;
constexpr int kBlocksPerMultiprocessor = 4;
constexpr int kDigits = 256, kDigitBits = 8;
static_assert(kDigits == kThreads, "a thread for each digit");
constexpr int kRounds = 8;  // pairs of a thread
constexpr std::int64_t kTile = std::int64_t{kThreads} * kRounds;
// Pairs of a chunk: partial sums are at most a sixteenth of the gradient's size.
constexpr std::int64_t kChunk = 32;
constexpr int kUnroll = 4;     // gradients in flight a thread
constexpr int kRunBlocks = 2;  // a multiprocessor: 32 KiB in flight, and registers for the sums

Grid grid_of(std::int64_t units, int blocks = kBlocksPerMultiprocessor) {
  return {persistent_blocks(ceil_div(units, kThreads), blocks), kThreads};
}
__device__ __forceinline__ std::int64_t first_unit() {
  return std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
}
__device__ __forceinline__ std::int64_t unit_step() { return std::int64_t{gridDim.x} * kThreads; }

// A row that is not in the table reads as NaN.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    gather_kernel(EmbeddingShape p, const std::int64_t* indices, const T* w, T* y, bool packed) {
  const std::int64_t per_row = ceil_div(p.columns, kPack<T>), units = p.count * per_row;
  for (std::int64_t u = first_unit(); u < units; u += unit_step()) {
    const Quotient at = divide(u, per_row);
    const std::int64_t row = indices[at.quotient], j = at.remainder * kPack<T>;
    const std::int64_t n = min_i(p.columns - j, kPack<T>);
    Pack<T> v;
    if (row >= 0 && row < p.rows) {
      v = load_part(w + row * p.columns + j, n, packed);
    } else {
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) v.v[i] = from_compute<T>(Compute<T>(NAN));
    }
    store_part(y + at.quotient * p.columns + j, v, n, packed);
  }
}

// Rows as keys; rows without a gradient become `p.rows`.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    key_kernel(EmbeddingShape p, const std::int64_t* indices, std::uint32_t* keys,
               std::uint32_t* order) {
  for (std::int64_t i = first_unit(); i < p.count; i += unit_step()) {
    const std::int64_t row = indices[i];
    const bool counts = row >= 0 && row < p.rows && row != p.padding;
    keys[i] = static_cast<std::uint32_t>(counts ? row : p.rows);
    order[i] = static_cast<std::uint32_t>(i);
  }
}

struct DigitCounts {
  std::uint32_t count[kDigits];
};

__device__ __forceinline__ std::uint32_t digit_of(std::uint32_t key, int shift) {
  return key >> shift & (kDigits - 1);
}

// histogram[digit][block]: how often the digit is in the tile of the block.
__global__ void __launch_bounds__(kThreads)
    histogram_kernel(const std::uint32_t* keys, std::int64_t n, int shift,
                     std::uint32_t* histogram) {
  auto& shared = shared_storage<DigitCounts>();
  shared.count[threadIdx.x] = 0;
  __syncthreads();
  const std::int64_t begin = std::int64_t{blockIdx.x} * kTile;
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const std::int64_t i = begin + r * kThreads + threadIdx.x;
    if (i < n) atomicAdd(&shared.count[digit_of(keys[i], shift)], 1u);
  }
  __syncthreads();
  histogram[std::int64_t{threadIdx.x} * gridDim.x + blockIdx.x] = shared.count[threadIdx.x];
}

struct ScanStorage {
  std::uint32_t total[kWarps];
};

// The sum over the threads before this one, and that over all; the storage is free after the next barrier.
struct Scanned {
  std::uint32_t before, all;
};
__device__ __forceinline__ Scanned block_scan(std::uint32_t value, ScanStorage& storage) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp,
            warp = static_cast<int>(threadIdx.x) / kWarp;
  std::uint32_t sum = value;
#pragma unroll
  for (unsigned step = 1; step < kWarp; step *= 2) {
    const std::uint32_t left = __shfl_up_sync(kWholeWarp, sum, step);
    if (lane >= static_cast<int>(step)) sum += left;
  }
  if (lane == kWarp - 1) storage.total[warp] = sum;
  __syncthreads();
  std::uint32_t before = sum - value, all = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += storage.total[w];
    all += storage.total[w];
  }
  return {before, all};
}

// A block for each digit: its row of the histogram becomes the sums before each entry, totals[digit] all.
__global__ void __launch_bounds__(kThreads)
    scan_kernel(std::uint32_t* histogram, std::int64_t blocks, std::uint32_t* totals) {
  auto& shared = shared_storage<ScanStorage>();
  std::uint32_t* row = histogram + std::int64_t{blockIdx.x} * blocks;
  std::uint32_t carry = 0;
  for (std::int64_t begin = 0; begin < blocks; begin += kThreads) {
    const std::int64_t i = begin + threadIdx.x;
    const Scanned sums = block_scan(i < blocks ? row[i] : 0, shared);
    if (i < blocks) row[i] = carry + sums.before;
    carry += sums.all;
    __syncthreads();  // the storage is used again
  }
  if (threadIdx.x == 0) totals[blockIdx.x] = carry;
}

struct Pairs {
  const std::uint32_t *keys, *order;
};
struct PairsOut {
  std::uint32_t *keys, *order;
};
struct ScatterStorage {
  std::uint32_t count[kWarps][kDigits];  // of the pairs that a warp has seen, then those before it
  std::uint32_t base[kDigits];
  ScanStorage scan;
};

// Each pair of a tile to its place. Warps take 32 neighbours at a time, so that equal digits stay in order.
__global__ void __launch_bounds__(kThreads)
    scatter_kernel(Pairs in, PairsOut out, std::int64_t n, int shift,
                   const std::uint32_t* histogram, const std::uint32_t* totals) {
  auto& shared = shared_storage<ScatterStorage>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) shared.count[w][thread] = 0;
  __syncthreads();
  const std::int64_t begin =
      std::int64_t{blockIdx.x} * kTile + std::int64_t{warp} * kRounds * kWarp + lane;
  std::uint32_t key[kRounds], order[kRounds], rank[kRounds];
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const std::int64_t i = begin + r * kWarp;
    const bool inside = i < n;
    key[r] = inside ? in.keys[i] : 0;
    order[r] = inside ? in.order[i] : 0;
    const std::uint32_t digit = digit_of(key[r], shift);
    unsigned same = __ballot_sync(kWholeWarp, inside);  // lanes with this digit
#pragma unroll
    for (int bit = 0; bit < kDigitBits; ++bit) {
      const bool set = (digit >> bit & 1) != 0;
      const unsigned lanes = __ballot_sync(kWholeWarp, set);
      same &= set ? lanes : ~lanes;
    }
    const unsigned before = same & ((1u << lane) - 1);
    rank[r] = shared.count[warp][digit] + static_cast<std::uint32_t>(__popc(before));
    __syncwarp();
    if (inside && before == 0) {
      shared.count[warp][digit] += static_cast<std::uint32_t>(__popc(same));
    }
    __syncwarp();
  }
  __syncthreads();
  std::uint32_t running = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    const std::uint32_t count = shared.count[w][thread];
    shared.count[w][thread] = running;
    running += count;
  }
  shared.base[thread] = block_scan(totals[thread], shared.scan).before +
                        histogram[std::int64_t{thread} * gridDim.x + blockIdx.x];
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    if (begin + r * kWarp < n) {
      const std::uint32_t digit = digit_of(key[r], shift);
      const std::uint32_t to = shared.base[digit] + shared.count[warp][digit] + rank[r];
      out.keys[to] = key[r];
      out.order[to] = order[r];
    }
  }
}

// starts[r]: the first pair of row r or of one behind it, for r up to p.rows.
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    start_kernel(EmbeddingShape p, const std::uint32_t* keys, std::uint32_t* starts) {
  for (std::int64_t r = first_unit(); r <= p.rows; r += unit_step()) {
    std::int64_t low = 0, high = p.count;
    while (low < high) {
      const std::int64_t middle = (low + high) / 2;
      if (std::int64_t{keys[middle]} < r) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    starts[r] = static_cast<std::uint32_t>(low);
  }
}

template <class T>
struct Sum {
  Compute<T> v[kPack<T>];
};

template <class T>
__device__ __forceinline__ Pack<T> rounded(const Sum<T>& sum) {
  Pack<T> r;
#pragma unroll
  for (int i = 0; i < kPack<T>; ++i) r.v[i] = from_compute<T>(sum.v[i]);
  return r;
}

// Of two sums for each chunk: of the run at its beginning, and of that at its end when it is another one.
template <class T>
__device__ __forceinline__ Compute<T>* partial_at(const EmbeddingShape& p, Compute<T>* partial,
                                                  std::int64_t chunk, bool at_beginning) {
  return partial + (2 * chunk + (at_beginning ? 0 : 1)) * p.columns;
}

template <class T>
__global__ void __launch_bounds__(kThreads, kRunBlocks)
    run_kernel(EmbeddingShape p, Pairs pairs, const std::uint32_t* starts, const T* dy,
               Compute<T>* partial, T* dw, bool packed) {
  const std::int64_t per_row = ceil_div(p.columns, kPack<T>);
  const std::int64_t units = ceil_div(p.count, kChunk) * per_row;
  for (std::int64_t u = first_unit(); u < units; u += unit_step()) {
    const Quotient at = divide(u, per_row);
    const std::int64_t begin = at.quotient * kChunk, end = min_i(begin + kChunk, p.count);
    const std::int64_t j = at.remainder * kPack<T>, n = min_i(p.columns - j, kPack<T>);
    Sum<T> sum = {};
    std::int64_t row = pairs.keys[begin], first = begin;
    const auto finish = [&] {
      if (row == p.rows) return;
      if (starts[row] >= begin && starts[row + 1] <= end) {
        store_part(dw + row * p.columns + j, rounded(sum), n, packed);
        return;
      }
      Compute<T>* to = partial_at<T>(p, partial, at.quotient, first == begin) + j;
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) {
        if (i < n) to[i] = sum.v[i];
      }
    };
    for (std::int64_t k = begin; k < end; k += kUnroll) {
      Pack<T> grad[kUnroll];
      std::int64_t key[kUnroll];
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        key[i] = k + i < end ? std::int64_t{pairs.keys[k + i]} : p.rows;
        const bool counts = key[i] != p.rows;
        const std::int64_t from = counts ? pairs.order[k + i] * p.columns + j : 0;
        grad[i] = load_part(dy + from, counts ? n : 0, packed && counts);
      }
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        if (key[i] != row) {
          finish();
          row = key[i];
          first = k + i;
          sum = {};
        }
#pragma unroll
        for (int e = 0; e < kPack<T>; ++e) sum.v[e] = sum.v[e] + to_compute(grad[i].v[e]);
      }
    }
    finish();
  }
}

// Rows that lie in several chunks, and those that nobody looked up.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    combine_kernel(EmbeddingShape p, const std::uint32_t* starts, const Compute<T>* partial, T* dw,
                   bool packed) {
  const std::int64_t per_row = ceil_div(p.columns, kPack<T>), units = p.rows * per_row;
  for (std::int64_t u = first_unit(); u < units; u += unit_step()) {
    const Quotient at = divide(u, per_row);
    const std::int64_t row = at.quotient, begin = starts[row], end = starts[row + 1];
    const std::int64_t j = at.remainder * kPack<T>, n = min_i(p.columns - j, kPack<T>);
    const std::int64_t first = begin / kChunk, last = end == begin ? first : (end - 1) / kChunk;
    if (end > begin && first == last) continue;
    Sum<T> sum = {};
    for (std::int64_t c = first; begin < end && c <= last; ++c) {
      const Compute<T>* from =
          partial + (2 * c + (c == first && begin % kChunk != 0 ? 1 : 0)) * p.columns + j;
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) {
        if (i < n) sum.v[i] = sum.v[i] + from[i];
      }
    }
    store_part(dw + row * p.columns + j, rounded(sum), n, packed);
  }
}

// The parts of the scratch memory, each at a multiple of 256 bytes.
template <class T>
struct Scratch {
  std::uint32_t *keys[2], *order[2], *histogram, *totals, *starts;
  Compute<T>* partial;
  std::int64_t bytes = 0;

  Scratch(const EmbeddingShape& p, void* memory) {
    const std::int64_t tiles = ceil_div(p.count, kTile), chunks = ceil_div(p.count, kChunk);
    const auto part = [&](auto*& pointer, std::int64_t count) {
      using E = std::remove_reference_t<decltype(*pointer)>;
      pointer = reinterpret_cast<E*>(static_cast<char*>(memory) + bytes);
      bytes += round_up(count * static_cast<std::int64_t>(sizeof(E)), 256);
    };
    for (int i = 0; i < 2; ++i) {
      part(keys[i], p.count);
      part(order[i], p.count);
    }
    part(histogram, kDigits * tiles);
    part(totals, kDigits);
    part(starts, p.rows + 1);
    part(partial, 2 * chunks * p.columns);
  }
};

template <class T>
bool all_packed(const EmbeddingShape& p, const T* a, const T* b) {
  return p.columns % kPack<T> == 0 && is_packed(a) && is_packed(b);
}

}  // namespace
}  // namespace cuda

template <class T>
void embedding(const EmbeddingShape& p, const std::int64_t* indices, const T* w, T* y) {
  using namespace cuda;
  const Grid grid = grid_of(p.count * ceil_div(p.columns, kPack<T>));
  ARRAYNN_LAUNCH((gather_kernel<T>), grid, p, indices, w, y, all_packed(p, w, y));
}

template <class T>
std::int64_t embedding_scratch(const EmbeddingShape& p) {
  constexpr std::int64_t kMost = (std::int64_t{1} << 32) - 2;
  if (p.count > kMost || p.rows > kMost) {
    throw NotImplemented(concat("[embedding_backward] expected at most ", kMost,
                                " indices and rows on a GPU, got ", p.count, " and ", p.rows));
  }
  static char nowhere;  // the sizes do not depend on the place
  return cuda::Scratch<T>(p, &nowhere).bytes;
}

template <class T>
void embedding_backward(const EmbeddingShape& p, const std::int64_t* indices, const T* dy,
                        void* scratch, T* dw) {
  using namespace cuda;
  const Scratch<T> s(p, scratch);
  const std::int64_t tiles = ceil_div(p.count, kTile);
  ARRAYNN_LAUNCH((key_kernel), grid_of(p.count), p, indices, s.keys[0], s.order[0]);
  int now = 0;
  for (int shift = 0; (p.rows >> shift) != 0; shift += kDigitBits, now = 1 - now) {
    const Pairs in{s.keys[now], s.order[now]};
    const PairsOut out{s.keys[1 - now], s.order[1 - now]};
    ARRAYNN_LAUNCH((histogram_kernel), (Grid{tiles, kThreads}), in.keys, p.count, shift,
                   s.histogram);
    ARRAYNN_LAUNCH((scan_kernel), (Grid{tiles == 0 ? 0 : kDigits, kThreads}), s.histogram, tiles,
                   s.totals);
    ARRAYNN_LAUNCH((scatter_kernel), (Grid{tiles, kThreads}), in, out, p.count, shift, s.histogram,
                   s.totals);
  }
  const Pairs sorted{s.keys[now], s.order[now]};
  const bool packed = all_packed(p, dy, dw);
  const std::int64_t per_row = ceil_div(p.columns, kPack<T>);
  ARRAYNN_LAUNCH((start_kernel), grid_of(p.rows + 1), p, sorted.keys, s.starts);
  ARRAYNN_LAUNCH((run_kernel<T>), grid_of(ceil_div(p.count, kChunk) * per_row, kRunBlocks), p,
                 sorted, s.starts, dy, s.partial, dw, packed);
  ARRAYNN_LAUNCH((combine_kernel<T>), grid_of(p.rows * per_row), p, s.starts, s.partial, dw,
                 packed);
}

#define ARRAYNN_INSTANTIATE(T)                                                                     \
  template void embedding<T>(const EmbeddingShape&, const std::int64_t*, const T*, T*);            \
  template std::int64_t embedding_scratch<T>(const EmbeddingShape&);                               \
  template void embedding_backward<T>(const EmbeddingShape&, const std::int64_t*, const T*, void*, \
                                      T*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
