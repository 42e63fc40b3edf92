// Rows of an array in registers, each read once: a group of threads holds a row, or a chunk of one that
// is too long, as a tile. On a Hopper the blocks of a cluster hold a chunk each of one row. Which thread holds a column follows from the length of the row alone, and
// reductions go in a fixed order, so that bits depend neither on the other rows nor on where the array
// begins.
#pragma once
#include "core/cuda_launch.hpp"
#include "core/cuda_pack.hpp"
#include "core/cuda_shared.hpp"
#include "core/host_device.hpp"
#include "ptx/cluster.hpp"

namespace arraynn::cuda {

// kSteps times kWidth neighbours in each of kThreads threads. kWidth is a pack where the length of a row
// is a multiple of it; else 1: those rows begin beside 16 bytes, neighbours go to neighbours.
template <class T, int kWidth_, int kThreads_, int kSteps_, bool kLargest_,
          bool kClustered_ = false>
struct RowTile {
  using Element = T;
  using C = Compute<T>;
  static constexpr int kWidth = kWidth_, kThreads = kThreads_, kSteps = kSteps_;
  static constexpr int kItems = kWidth * kSteps, kCapacity = kItems * kThreads;
  static constexpr bool kLargest = kLargest_;      // longer rows come in chunks
  static constexpr bool kClustered = kClustered_;  // of a row that a cluster holds
  static constexpr int kBlock = kThreads > 128 ? kThreads : 128;
  static constexpr int kRows = kBlock / kThreads;  // of a block
  // With 64 registers a thread, 128 in double, a multiprocessor holds these.
  static constexpr int kResident = (sizeof(C) == 8 ? 512 : 1024) / kBlock;
  // For what needs more registers beside the tile.
  using Half = RowTile<T, kWidth, kThreads, (kSteps > 1 ? kSteps / 2 : 1), kLargest>;
  using Clustered = RowTile<T, kWidth, kThreads, kSteps, kLargest, true>;

  C v[kItems];

  static __device__ __forceinline__ int thread() {
    return static_cast<int>(threadIdx.x) % kThreads;
  }
  static __device__ __forceinline__ int column(int item) {
    return (item / kWidth * kThreads + thread()) * kWidth + item % kWidth;
  }

  // Columns from n on are `fill`.
  __device__ __forceinline__ void load(const T* row, int n, C fill) {
    load_from([row](int i) { return row + i; }, is_packed(row), n, fill);
  }
  // The same of columns that lie at `at(column)`, kWidth of them together.
  template <class At>
  __device__ __forceinline__ void load_from(const At& at, bool packed, int n, C fill) {
#pragma unroll
    for (int i = 0; i < kItems; i += kWidth) {
      const bool inside = column(i) < n;
      if constexpr (kWidth == 1) {
        v[i] = inside ? to_compute(*at(column(i))) : fill;
      } else {
        Pack<T> pack;
        if (inside) pack = load_pack(at(column(i)), packed);
#pragma unroll
        for (int j = 0; j < kWidth; ++j) v[i + j] = inside ? to_compute(pack.v[j]) : fill;
      }
    }
  }

  __device__ __forceinline__ void store(T* row, int n) const {
    const bool packed = is_packed(row);
#pragma unroll
    for (int i = 0; i < kItems; i += kWidth) {
      if (column(i) >= n) continue;
      if constexpr (kWidth == 1) {
        row[column(i)] = from_compute<T>(v[i]);
      } else {
        Pack<T> pack;
#pragma unroll
        for (int j = 0; j < kWidth; ++j) pack.v[j] = from_compute<T>(v[i + j]);
        store_pack(row + column(i), pack, packed);
      }
    }
  }

  // f(column, v) for all columns below n.
  template <class F>
  __device__ __forceinline__ void each(int n, const F& f) {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (column(i) < n) f(column(i), v[i]);
    }
  }
};

// f(tile) with the smallest tile for rows of n elements, of at most kMost items a thread: the largest
// one for all that are longer.
template <class T, int kWidth, int kMost, class F>
void with_tile_of_width(std::int64_t n, const F& f) {
  constexpr int kSteps = kMost / kWidth;
  constexpr int kFew = kSteps >= 8 ? kSteps / 8 : 1, kSome = kSteps >= 2 ? kSteps / 2 : 1;
  using Short = RowTile<T, kWidth, 8, kFew, false>;
  using Small = RowTile<T, kWidth, 32, kFew, false>;
  using Warp = RowTile<T, kWidth, 32, kSome, false>;
  using Middle = RowTile<T, kWidth, 128, kSome, false>;
  using Block = RowTile<T, kWidth, (sizeof(Compute<T>) == 8 ? 256 : 512), kSteps, true>;
  if (n <= Short::kCapacity) return f(Short{});
  if (n <= Small::kCapacity) return f(Small{});
  if (n <= Warp::kCapacity) return f(Warp{});
  if (n <= Middle::kCapacity) return f(Middle{});
  f(Block{});
}
template <class T, int kMost, int kMostSingle = kMost, class F>
void with_tile(std::int64_t n, const F& f) {
  if (n % kPack<T> == 0) {
    with_tile_of_width<T, kPack<T>, kMost>(n, f);
  } else {
    with_tile_of_width<T, 1, kMostSingle>(n, f);
  }
}
// Items of a thread that leave the registers room for the rest.
template <class T>
inline constexpr int kRowItems = 128 / static_cast<int>(sizeof(Compute<T>));

// Blocks that walk over rows, or over the chunks of rows.
template <class Tile>
Grid row_grid(std::int64_t rows) {
  return {persistent_blocks(ceil_div(rows, Tile::kRows), Tile::kResident), Tile::kBlock};
}
template <class Tile>
std::int64_t chunks_of(std::int64_t n) {
  return ceil_div(n, Tile::kCapacity);
}

// Blocks of a cluster, which every device that has clusters takes, and how many share a row of n elements: 0
// where there are no clusters, or too few blocks.
inline constexpr int kMaxCluster = 8;
template <class Tile>
int cluster_for(std::int64_t n) {
#if defined(ARRAYNN_HOPPER)
  int blocks = 2;
  while (blocks < kMaxCluster && n > std::int64_t{blocks} * Tile::kCapacity) blocks *= 2;
  if (is_hopper() && n <= std::int64_t{blocks} * Tile::kCapacity) return blocks;
#endif
  return 0;
}
// A cluster a row: what is resident of them the device knows best, and a long row is worth its launch.
template <class Tile>
Grid cluster_grid(std::int64_t rows, int blocks, std::size_t shared_bytes = 0) {
  return {rows * blocks, Tile::kBlock, shared_bytes, false, blocks};
}
// Elements of a block's part of a row, whole packs.
template <class Tile>
ARRAYNN_HOST_DEVICE inline int cluster_part(std::int64_t n, int blocks) {
  return static_cast<int>(ceil_div(ceil_div(n, blocks), Tile::kWidth) * Tile::kWidth);
}

__device__ __forceinline__ void cluster_barrier() {
  ptx::barrier_cluster_arrive();
  ptx::barrier_cluster_wait();
}

struct Chunk {
  std::int64_t row, unit, begin;  // unit: of all chunks
  int size;
  bool inside = true;
};

// f(cluster, clusters, chunk of any row): what a block has of rows of n elements. Nothing on a device without
// clusters, where no such kernel is launched.
template <class Tile, class F>
__device__ __forceinline__ void in_cluster([[maybe_unused]] std::int64_t n,
                                           [[maybe_unused]] const F& f) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  const auto blocks = static_cast<int>(ptx::cluster_nctarank());
  const int part = cluster_part<Tile>(n, blocks);
  const std::int64_t begin = std::int64_t{ptx::cluster_ctarank()} * part;
  cluster_barrier();  // all have begun: they may write into each other's memory
  f(blockIdx.x / blocks, gridDim.x / blocks,
    Chunk{0, 0, begin, static_cast<int>(min_i(part, n - begin))});
#endif
}

// f(chunk) for rows of n elements; a chunk is all of a row, or what this block has of its cluster's.
// Threads of a warp stay together, those beyond the last row on a row that counts for nothing.
template <class Tile, class F>
__device__ __forceinline__ void for_rows([[maybe_unused]] std::int64_t rows, std::int64_t n,
                                         const F& f) {
  if constexpr (Tile::kClustered) {
    // As many clusters as rows: what a loop would keep over its rounds does not fit the registers.
    in_cluster<Tile>(n, [&](std::int64_t row, std::int64_t, Chunk chunk) {
      chunk.row = row;
      f(chunk);
    });
  } else {
    const std::int64_t step = std::int64_t{gridDim.x} * Tile::kRows;
    for (std::int64_t i = std::int64_t{blockIdx.x} * Tile::kRows; i < rows; i += step) {
      const std::int64_t own = i + static_cast<int>(threadIdx.x) / Tile::kThreads;
      const std::int64_t row = min_i(own, rows - 1);
      f(Chunk{row, row, 0, static_cast<int>(n), own < rows});
    }
  }
}
// Whether this thread is the one that writes what a row comes to.
template <class Tile>
__device__ __forceinline__ bool speaks_for(const Chunk& chunk) {
  return chunk.inside && chunk.begin == 0 && Tile::thread() == 0;
}

// f(chunk) for the chunks of rows of n elements, a block each.
template <class Tile, class F>
__device__ __forceinline__ void for_chunks(std::int64_t rows, std::int64_t n, const F& f) {
  const std::int64_t count = ceil_div(n, Tile::kCapacity);
  for (std::int64_t unit = blockIdx.x; unit < rows * count; unit += gridDim.x) {
    const std::int64_t row = unit / count, begin = unit % count * Tile::kCapacity;
    const auto size = static_cast<int>(min_i(Tile::kCapacity, n - begin));
    f(Chunk{row, unit, begin, size});
  }
}

// Reductions of kCount values over the threads of a row; all of them get the result. combine(a, b) adds b
// to a and must be commutative. Two buffers take turns: the barrier of the call between two uses of one
// comes after all threads have read it. The warps of a cluster write what they have into the memory of each
// of its blocks, where it is read once all have arrived.
template <int kThreads, class C, int kCount, bool kClustered = false>
class RowReduction {
  static constexpr int kWarps = kThreads > kWarp ? kThreads / kWarp : 1;

 public:
  struct Storage {
    C partial[2][kWarps * (kClustered ? kMaxCluster : 1)][kCount];
  };
  __device__ __forceinline__ explicit RowReduction(Storage& storage) : storage_(storage) {}

  template <class Combine>
  __device__ __forceinline__ void operator()(C (&values)[kCount], const Combine& combine) {
    butterfly(kThreads < kWarp ? kThreads : kWarp, values, combine);
    if constexpr (kThreads > kWarp) {
      auto& partial = storage_.partial[turn_];
      turn_ ^= 1;
      const int lane = static_cast<int>(threadIdx.x) % kWarp;
      if constexpr (kClustered) return over_cluster(partial, lane, values, combine);
      if (lane == 0) {
#pragma unroll
        for (int k = 0; k < kCount; ++k) partial[threadIdx.x / kWarp][k] = values[k];
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kCount; ++k) values[k] = partial[lane % kWarps][k];
      butterfly(kWarps, values, combine);
    }
  }

 private:
  template <class Combine>
  __device__ __forceinline__ void over_cluster(C (&partial)[kWarps * kMaxCluster][kCount], int lane,
                                               C (&values)[kCount], const Combine& combine) {
    const auto blocks = static_cast<int>(ptx::cluster_nctarank());
    const int own =
        static_cast<int>(ptx::cluster_ctarank()) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
    if (lane < blocks) {  // of the warp's result each sends one copy
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        ptx::st_shared_cluster(
            ptx::mapa_shared_cluster(&partial[own][k], static_cast<std::uint32_t>(lane)),
            values[k]);
      }
    }
    cluster_barrier();
    const int all = blocks * kWarps;  // powers of two
#pragma unroll
    for (int k = 0; k < kCount; ++k) values[k] = partial[lane % all][k];
    for (int i = lane + kWarp; i < all; i += kWarp) combine(values, partial[i]);
    butterfly(all < kWarp ? all : kWarp, values, combine);
  }

  template <class Combine>
  static __device__ __forceinline__ void butterfly(int lanes, C (&values)[kCount],
                                                   const Combine& combine) {
#pragma unroll
    for (int step = lanes / 2; step > 0; step /= 2) {
      C other[kCount];
#pragma unroll
      for (int k = 0; k < kCount; ++k) other[k] = __shfl_xor_sync(kWholeWarp, values[k], step);
      combine(values, other);
    }
  }

  Storage& storage_;
  int turn_ = 0;
};

struct AddAll {
  template <class C, int kCount>
  __device__ __forceinline__ void operator()(C (&a)[kCount], const C (&b)[kCount]) const {
#pragma unroll
    for (int k = 0; k < kCount; ++k) a[k] += b[k];
  }
};

}  // namespace arraynn::cuda
