// Matrix products over the tiles of core/cuda_mma.hpp and core/cuda_tile.hpp, and sums of columns.
#include "core/cuda_mma.hpp"
#include "core/cuda_scratch.hpp"
#include "gemm/batch.hpp"
#include "gemm/cuda_hopper.hpp"
#include "gemm/sums.hpp"

namespace arraynn {
namespace cuda {
namespace {

// ---- sums of columns --------------------------------------------------------------------------------

// A block takes kColumns columns and kChunk rows, its thread (r, c) every kSumRows-th of the rows; the
// results of the threads are added in order. Chunks depend on the shape alone.
constexpr int kColumns = 32, kSumRows = 8;
constexpr std::int64_t kChunk = 1024;

template <class Sum>
struct ColumnStorage {
  Sum v[kSumRows][kColumns];
};

template <class In, class Out>
__global__ void __launch_bounds__(kColumns* kSumRows)
    column_sums_kernel(const In* x, std::int64_t m, std::int64_t n, Out* out) {
  using Sum = Compute<In>;
  auto& shared = shared_storage<ColumnStorage<Sum>>();
  const int r = static_cast<int>(threadIdx.x) / kColumns,
            c = static_cast<int>(threadIdx.x) % kColumns;
  const std::int64_t strips = ceil_div(n, kColumns);
  const std::int64_t chunk = blockIdx.x / strips;
  const std::int64_t column = blockIdx.x % strips * kColumns + c;
  const std::int64_t end = min_i(m, (chunk + 1) * kChunk);
  Sum sum = 0;
  if (column < n) {
#pragma unroll 8
    for (std::int64_t i = chunk * kChunk + r; i < end; i += kSumRows) {
      sum = sum + to_compute(x[i * n + column]);
    }
  }
  shared.v[r][c] = sum;
  __syncthreads();
  if (r == 0 && column < n) {
#pragma unroll
    for (int i = 1; i < kSumRows; ++i) sum = sum + shared.v[i][c];
    out[chunk * n + column] = from_compute<Out>(sum);
  }
}

template <class In, class Out>
void launch_column_sums(const In* x, std::int64_t m, std::int64_t n, Out* out) {
  const Grid grid{ceil_div(n, kColumns) * max_i(1, ceil_div(m, kChunk)), kColumns * kSumRows};
  ARRAYNN_LAUNCH((column_sums_kernel<In, Out>), grid, x, m, n, out);
}

template <class In, class Out>
void run_column_sums(const In* x, std::int64_t m, std::int64_t n, Out* out) {
  if (m <= kChunk) return launch_column_sums(x, m, n, out);
  using Sum = Compute<In>;
  const std::int64_t chunks = ceil_div(m, kChunk);
  const Scratch scratch("column_sums", chunks * n * static_cast<std::int64_t>(sizeof(Sum)));
  auto* partial = scratch.as<Sum>();
  launch_column_sums(x, m, n, partial);
  run_column_sums(partial, chunks, n, out);
}

// ---- products ---------------------------------------------------------------------------------------

template <class T, class Out>
struct GemmCall {
  std::int64_t m, n;
  TileGrid tiles;
  MatrixOperand<T, true> a, b;  // of the first product; kAlongK is the kernel's
  MatrixResult<Out> result;
  TileEpilogue<Out> epilogue;
  GemmBatch batch;
  std::int64_t part;  // of k: results are parts of one product; or 0
};

template <class T, class Out, class Tile, bool kAlongA, bool kAlongB>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    gemm_kernel(const __grid_constant__ GemmCall<T, Out> call) {
  const std::int64_t block = blockIdx.x, tiles = call.tiles.count();
  std::int64_t rest = block / tiles;
  const std::int64_t tile = block - rest * tiles;
  MatrixOperand<T, kAlongA> a{call.a.p, call.a.stride, call.a.outer, call.a.depth, call.a.packed};
  MatrixOperand<T, kAlongB> b{call.b.p, call.b.stride, call.b.outer, call.b.depth, call.b.packed};
  MatrixResult<Out> result = call.result;
  const std::int64_t begin = rest * call.part;
  const std::int64_t end = call.part == 0 ? a.depth : min_i(a.depth, begin + call.part);
  const std::int64_t moved = rest * call.m * call.n;
  result.c += moved;
  if (result.residual != nullptr) result.residual += moved;
#pragma unroll 1
  for (int d = call.batch.ndim - 1; d >= 0; --d) {
    const std::int64_t index = rest % call.batch.shape[d];
    rest /= call.batch.shape[d];
    a.p += index * call.batch.stride_a[d];
    b.p += index * call.batch.stride_b[d];
  }
  const TileGrid::Place at = call.tiles.at(tile);
  multiply_tile<Tile>(a, b, result, call.epilogue, call.m, call.n, at.m * Tile::kM, at.n * Tile::kN,
                      begin, end);
}

// Whether packs of a matrix begin at multiples of 16 bytes, in all products of a batch.
template <class T>
bool packs_fit(const void* p, std::int64_t stride, const std::int64_t* moves, int ndim) {
  bool fit = reinterpret_cast<std::uintptr_t>(p) % 16 == 0 && stride % kPack<T> == 0;
  for (int d = 0; d < ndim; ++d) fit = fit && moves[d] % kPack<T> == 0;
  return fit;
}

template <class Tile, class T, class Out>
void launch_tiles(GemmCall<T, Out>& call, bool along_a, bool along_b, std::int64_t count) {
  call.tiles = {ceil_div(call.m, Tile::kM), ceil_div(call.n, Tile::kN)};
  const Grid grid{call.tiles.count() * count, Tile::kThreads, Tile::kSharedBytes};
  if (along_a && along_b) {
    ARRAYNN_LAUNCH((gemm_kernel<T, Out, Tile, true, true>), grid, call);
  } else if (along_a) {
    ARRAYNN_LAUNCH((gemm_kernel<T, Out, Tile, true, false>), grid, call);
  } else if (along_b) {
    ARRAYNN_LAUNCH((gemm_kernel<T, Out, Tile, false, true>), grid, call);
  } else {
    ARRAYNN_LAUNCH((gemm_kernel<T, Out, Tile, false, false>), grid, call);
  }
}

template <class T, class Out>
void launch_gemm(GemmCall<T, Out> call, bool along_a, bool along_b, std::int64_t count) {
  with_tiles<T>(call.a.depth, [&]<class Table>() {
    with_tile<Table>(call.m, call.n, count,
                     [&]<class Tile>() { launch_tiles<Tile>(call, along_a, along_b, count); });
  });
}

// Sums over samples, by parts of k that are added in order: otherwise few tiles would be all blocks.
template <class T, class Out>
void run_parts(const char* op, const GemmProblem<T>& p, const GemmCall<T, Out>& whole,
               Parts parts) {
  using Sum = Compute<T>;
  const std::int64_t size = p.m * p.n;
  const Scratch scratch(op, parts.count * size * static_cast<std::int64_t>(sizeof(Sum)));
  const auto add = [&] { run_column_sums(scratch.as<Sum>(), parts.count, size, whole.result.c); };
  if constexpr (kOnHopper<T>) {
    if (gemm_parts_on_hopper(p, parts, scratch.as<Sum>())) return add();
  }
  const bool packed = size % kPack<Sum> == 0 && p.n % kPack<Sum> == 0;
  GemmCall<T, Sum> call{};
  call.m = p.m;
  call.n = p.n;
  call.a = whole.a;
  call.b = whole.b;
  call.result = {scratch.as<Sum>(), nullptr, p.n, 0, packed};
  call.part = parts.length;
  launch_gemm(call, false, false, parts.count);
  add();
}

template <class T, class Out>
void run_gemm(const char* op, const GemmProblem<T>& p, const GemmResult<Out>& to,
              const GemmBatch& batch) {
  std::int64_t count = 1;
  for (int d = 0; d < batch.ndim; ++d) count *= batch.shape[d];
  if (p.m == 0 || p.n == 0 || count == 0) return;
  const Parts parts = p.over_samples ? parts_of(p.m, p.n, 1, p.k) : Parts{p.k, 1};
  if constexpr (kOnHopper<T>) {
    if (parts.count == 1 && gemm_on_hopper(p, to, batch)) return;
  }
  const bool along_a = p.cs_a == 1, along_b = p.rs_b == 1;
  // The stride of a single row is no reason to copy it element by element.
  const auto stride_of = [](std::int64_t size, std::int64_t stride) {
    return size == 1 ? 0 : stride;
  };
  const std::int64_t stride_a = along_a ? stride_of(p.m, p.rs_a) : stride_of(p.k, p.cs_a);
  const std::int64_t stride_b = along_b ? stride_of(p.n, p.cs_b) : stride_of(p.k, p.rs_b);
  const Epilogue<Out>& e = to.epilogue;
  GemmCall<T, Out> call{};
  call.m = p.m;
  call.n = p.n;
  call.a = {p.a, stride_a, p.m, p.k, packs_fit<T>(p.a, stride_a, batch.stride_a, batch.ndim)};
  call.b = {p.b, stride_b, p.n, p.k, packs_fit<T>(p.b, stride_b, batch.stride_b, batch.ndim)};
  const std::int64_t whole[] = {p.m * p.n};
  const int moves = count > 1 ? 1 : 0;
  const bool packed =
      packs_fit<Out>(to.c, p.rs_c, whole, moves) &&
      (e.residual == nullptr || packs_fit<Out>(e.residual, e.rs_residual, whole, moves));
  call.result = {to.c, e.residual, p.rs_c, e.rs_residual, packed};
  if (parts.count > 1 && !along_a && !along_b) return run_parts(op, p, call, parts);
  call.epilogue = {e.bias, e.bias == nullptr ? BiasAxis::kNone : e.bias_axis, p.accumulate,
                   e.activation};
  call.batch = batch;
  launch_gemm(call, along_a, along_b, count);
}

}  // namespace
}  // namespace cuda

// use_packed: the kernels read a weight where it lies.
#define ARRAYNN_DEFINE(T)                                                                \
  void gemm_batch(const char* op, const GemmProblem<T>& p, const GemmBatch& batch) {     \
    cuda::run_gemm(op, p, GemmResult<T>{p.c, p.epilogue}, batch);                        \
  }                                                                                      \
  void gemm(const char* op, const GemmProblem<T>& p) { gemm_batch(op, p, GemmBatch{}); } \
  void use_packed(const char*, PreparedWeight*, Operand, GemmProblem<T>*) {}             \
  void column_sums(const T* x, std::int64_t m, std::int64_t n, T* out) {                 \
    cuda::run_column_sums(x, m, n, out);                                                 \
  }
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_DEFINE)
#undef ARRAYNN_DEFINE
#define ARRAYNN_DEFINE(T)                                                                \
  void gemm_sums(const char* op, const GemmProblem<T>& p, const GemmResult<float>& to) { \
    cuda::run_gemm(op, p, to, GemmBatch{});                                              \
  }                                                                                      \
  void column_sums(const T* x, std::int64_t m, std::int64_t n, float* out) {             \
    cuda::run_column_sums(x, m, n, out);                                                 \
  }                                                                                      \
  void column_sums(const float* x, std::int64_t m, std::int64_t n, T* out) {             \
    cuda::run_column_sums(x, m, n, out);                                                 \
  }
ARRAYNN_DEFINE(Half)
ARRAYNN_DEFINE(Bfloat16)
#undef ARRAYNN_DEFINE

}  // namespace arraynn
