// Convolutions as matrix products over the tiles of core/cuda_mma.hpp and core/cuda_tile.hpp (implicit GEMM):
//
//   forward   y = W patches(x): k runs over taps. In channels_first rows are channels and columns the
//             pixels of all samples, in channels_last the other way round
//   by x      the same with patches of dy, which lie where a division by the stride is whole
//   by W      dy patches(x)^T: k runs over pixels, in parts that follow from the shape; their sums are
//             added in order
//   stencil   few channels in a group: a thread an element of the result
//   Hopper    the first three of 16 bits, where cuda_hopper.hpp has a way of their own
//
// A convolution with groups is one product a group. A sum of `forward` and `by x` is one chain over the taps,
// whatever the batch. Weights that do not lie in the order of the taps, in whole packs, are copied to a matrix
// that does: they are few beside the patches, and every tile reads them.
#include <algorithm>
#include <iterator>

#include "conv/cuda_gather.hpp"
#include "conv/cuda_hopper.hpp"
#include "conv/storage.hpp"
#include "core/cuda_mma.hpp"
#include "core/cuda_reduce.hpp"
#include "core/cuda_scratch.hpp"
#include "gemm/cuda_hopper.hpp"

namespace arraynn {
namespace cuda {
namespace {

constexpr std::int64_t kMostIndices = std::int64_t{1} << 31;
// Coordinates are 32-bit: positions times stride, padding and dilated kernels stay below this.
constexpr std::int64_t kMostCoordinate = std::int64_t{1} << 30;

// ---- products of a group ----------------------------------------------------------------------------

template <class A, class B, class Result>
struct ConvCall {
  A a;
  B b;
  Result result;
  TileEpilogue<typename Result::T> epilogue;
  std::int64_t m, n;
  TileGrid tiles;
  // From group to group.
  std::int64_t groups, move_a, move_b, move_result, move_bias;
  // Parts of k, and the elements from the result of one to that of the next.
  std::int64_t part, parts, move_part;
};

// Indices of patches take registers beside those of the product: half the blocks of gemm_kernel on CUDA
// cores, two where products have three parts.
template <class Tile>
constexpr int conv_blocks() {
  if constexpr (!Tile::kTensorCores) {
    return Tile::kBlocks / 2;
  } else {
    return Tile::kProducts == Products::kThreeTf32 ? 2 : Tile::kBlocks;
  }
}

template <class Tile, class A, class B, class Result>
__global__ void __launch_bounds__(Tile::kThreads, conv_blocks<Tile>())
    conv_kernel(const __grid_constant__ ConvCall<A, B, Result> call) {
  const std::int64_t tiles = call.tiles.count();
  const std::int64_t item = blockIdx.x / tiles, tile = blockIdx.x - item * tiles;
  const std::int64_t part = item / call.groups, group = item - part * call.groups;
  A a = call.a;
  B b = call.b;
  Result result = call.result;
  auto epilogue = call.epilogue;
  a.p += group * call.move_a;
  b.p += group * call.move_b;
  result.c += group * call.move_result + part * call.move_part;
  if (result.residual != nullptr) result.residual += group * call.move_result;
  if (epilogue.bias != nullptr) epilogue.bias += group * call.move_bias;
  const TileGrid::Place at = call.tiles.at(tile);
  const std::int64_t begin = part * call.part;
  multiply_tile<Tile>(a, b, result, epilogue, call.m, call.n, at.m * Tile::kM, at.n * Tile::kN,
                      begin, min_i(a.depth, begin + call.part));
}

template <class Tile, class A, class B, class Result>
void launch_tiles(ConvCall<A, B, Result>& call) {
  call.tiles = {ceil_div(call.m, Tile::kM), ceil_div(call.n, Tile::kN)};
  const Grid grid{call.tiles.count() * call.groups * call.parts, Tile::kThreads,
                  Tile::kSharedBytes};
  ARRAYNN_LAUNCH((conv_kernel<Tile, A, B, Result>), grid, call);
}

template <class T, class A, class B, class Result>
void launch_conv(ConvCall<A, B, Result> call) {
  if (call.m == 0 || call.n == 0) return;
  with_tiles<T>(call.a.depth, [&]<class Table>() {
    with_tile<Table>(call.m, call.n, call.groups * call.parts,
                     [&]<class Tile>() { launch_tiles<Tile>(call); });
  });
}

// ---- weights ----------------------------------------------------------------------------------------

// Where the weight of a group's row, channel and place of the kernel is. With by_x rows are channels of x.
struct WeightPlaces {
  std::int64_t group, row, channel;
};
WeightPlaces weight_places(const Conv2dProblem& p, bool by_x) {
  const std::int64_t taps = p.taps(), row = p.ic / p.groups * taps;
  return {p.oc / p.groups * row, by_x ? taps : row, by_x ? row : taps};
}

template <class T>
struct WeightCall {
  const T* weight;
  T* out;
  WeightPlaces places;
  std::int64_t size, depth;   // elements of all rows and of one
  std::int64_t stride, rows;  // from row to row of `out`, rows of a group
  Taps taps;
};

// Rows of taps, as patches have them.
constexpr int kWeightThreads = 256, kWeightBlocks = 4;
template <class T, bool kLast>
__global__ void __launch_bounds__(kWeightThreads, kWeightBlocks)
    conv_weight_kernel(const __grid_constant__ WeightCall<T> call) {
  const std::int64_t step = std::int64_t{gridDim.x} * kWeightThreads;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kWeightThreads + threadIdx.x; i < call.size;
       i += step) {
    const Quotient at = divide(i, call.depth);
    const Quotient row = divide(at.quotient, call.rows);
    const Taps::Index tap =
        call.taps.template split<kLast>(static_cast<std::uint32_t>(at.remainder));
    call.out[at.quotient * call.stride + at.remainder] =
        call.weight[row.quotient * call.places.group + row.remainder * call.places.row +
                    tap.channel * call.places.channel + tap.place];
  }
}

// ---- stencils ---------------------------------------------------------------------------------------

// A group has at most this many channels of the result and of the source: a tile would be mostly empty.
constexpr std::int64_t kStencilChannels = 4;
constexpr int kStencilThreads = 256, kStencilBlocks = 4;

template <class T>
struct StencilCall {
  GatherOperand<T, true, false> source;  // taps of one group
  const T* weight;
  WeightPlaces places;
  std::int64_t source_group;
  T* out;
  const T *bias, *residual;
  Activation activation;
  std::int64_t n, plane, channels, rows;  // of the result; rows of a group
  std::int64_t taps;                      // of one channel
  bool channels_last;
};

template <class T>
__global__ void __launch_bounds__(kStencilThreads, kStencilBlocks)
    stencil_kernel(const __grid_constant__ StencilCall<T> call) {
  using Sum = Compute<T>;
  const std::int64_t size = call.n * call.plane * call.channels;
  const std::int64_t step = std::int64_t{gridDim.x} * kStencilThreads;
  const auto& source = call.source;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kStencilThreads + threadIdx.x; i < size;
       i += step) {
    const std::int64_t rest = i / (call.channels_last ? call.channels : call.plane);
    const std::int64_t last = i - rest * (call.channels_last ? call.channels : call.plane);
    const std::int64_t channel = call.channels_last ? last : rest % call.channels;
    const std::int64_t pixel = call.channels_last ? rest : rest / call.channels * call.plane + last;
    const std::int64_t group = channel / call.rows;
    const auto at = source.fixed_pixel(static_cast<std::uint32_t>(pixel));
    const T* x = source.p + group * call.source_group;
    const T* row =
        call.weight + group * call.places.group + (channel - group * call.rows) * call.places.row;
    Sum sum = 0;
#pragma unroll 1
    for (std::uint32_t tap = 0; tap < source.depth; ++tap) {
      const auto index = source.taps.template split<false>(tap);
      std::int64_t offset = 0;
      if (source.source(at, source.taps.template at<false>(tap), &offset)) {
        const T* weight = row + index.channel * call.places.channel + index.place;
        sum = multiply_add(to_compute(x[offset]), to_compute(*weight), sum);
      }
    }
    if (call.bias != nullptr) sum = sum + to_compute(call.bias[channel]);
    if (call.residual != nullptr) sum = sum + to_compute(call.residual[i]);
    call.out[i] = from_compute<T>(activate(call.activation, sum));
  }
}

// ---- sums of channels -------------------------------------------------------------------------------

constexpr int kSumThreads = 256;
constexpr std::int64_t kSumChunk = 1 << 14;  // elements of a channel that a block adds

struct Add {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};

// out[chunk, c] = the sum of a chunk of channel c of channels_first, over samples, then pixels.
template <class T, class Out>
__global__ void __launch_bounds__(kSumThreads)
    plane_sums_kernel(const T* x, Planes planes, std::int64_t channels, std::int64_t pixels,
                      Out* out) {
  using Sum = Compute<T>;
  auto& shared = shared_storage<BlockReduceStorage<Sum, kSumThreads / kWarp>>();
  const std::int64_t chunk = blockIdx.x / channels, channel = blockIdx.x - chunk * channels;
  const std::int64_t end = min_i(pixels, (chunk + 1) * kSumChunk);
  Sum sum = 0;
#pragma unroll 4
  for (std::int64_t i = chunk * kSumChunk + threadIdx.x; i < end; i += kSumThreads) {
    sum = sum + to_compute(x[planes.offset(channel, i)]);
  }
  const Sum total = block_reduce(sum, shared, Add{});
  if (threadIdx.x == 0) out[blockIdx.x] = from_compute<Out>(total);
}

// ---- from the problem to calls ----------------------------------------------------------------------

// One axis of the problem, and the place of the kernel that a weight's index stands for.
struct Axis {
  std::int64_t in, out, kernel, stride, pad, dilation;
};

GatherAxis gather_axis(const Conv2dProblem& p, const Axis& a, bool by_x) {
  const std::int64_t reach = (a.kernel - 1) * a.dilation;
  if (max_i(max_i(a.in, a.out) * a.stride, a.in + a.pad) + reach >= kMostCoordinate) {
    fail<NotImplemented>(p.op, "x", "expected coordinates below 2**30 on a GPU, got a ",
                         "padded size of ", a.in + a.pad + reach);
  }
  const auto i32 = [](std::int64_t v) { return static_cast<std::int32_t>(v); };
  GatherAxis g{};
  g.size = i32(by_x ? a.out : a.in);
  g.mul = by_x ? 1 : i32(a.stride);
  g.add = i32(by_x ? a.pad : -a.pad);
  g.tap = i32(by_x ? -a.dilation : a.dilation);
  if (p.flip_kernel) {  // place t of the weight is tap kernel - 1 - t
    g.add += g.tap * i32(a.kernel - 1);
    g.tap = -g.tap;
  }
  g.div = FastDiv(by_x ? a.stride : 1);
  return g;
}

// The two arrays of a convolution. With by_x the roles are those of the gradient by x: patches of the
// output make pixels of the input.
struct Sides {
  std::int64_t source_channels, result_channels;  // all
  std::int64_t sd, sh, sw, rd, rh, rw;            // extents
  std::int64_t source_plane() const { return sd * sh * sw; }
  std::int64_t result_plane() const { return rd * rh * rw; }
};
Sides sides_of(const Conv2dProblem& p, bool by_x) {
  if (by_x) return {p.oc, p.ic, p.od, p.oh, p.ow, p.id, p.ih, p.iw};
  return {p.ic, p.oc, p.id, p.ih, p.iw, p.od, p.oh, p.ow};
}

// For who asks what the call is.
void note(const Conv2dProblem& p, const char* algorithm, const char* reason) {
  if (p.plan != nullptr) p.plan->note(algorithm, reason, 0, 0);
}
constexpr const char* kGathered = "implicit gemm";
constexpr const char* kBulk = "bulk copies of a Hopper gather patches";
constexpr const char* kBulkTurned =
    "bulk copies of a Hopper gather patches of copies in channels_last";
constexpr const char* kTiles = "tiles gather their patches";

void check(const Conv2dProblem& p) {
  if (p.algorithm == Algorithm::kWinograd) {
    fail<NotImplemented>(p.op, "algorithm", "expected 'auto' or 'direct' on a GPU, got 'winograd'");
  }
  const std::int64_t pixels = p.n * max_i(p.in_size(), p.out_size());
  const std::int64_t taps = max_i(p.ic, p.oc) / p.groups * p.taps();
  if (max_i(pixels, taps) >= kMostIndices) {
    fail<NotImplemented>(p.op, "x", "expected fewer than 2**31 pixels and taps on a GPU, got ",
                         max_i(pixels, taps));
  }
}

template <class Operand>
Operand gather(const Conv2dProblem& p, bool by_x, const typename Operand::T* source,
               std::int64_t outer, std::int64_t depth) {
  using T = typename Operand::T;
  const Sides s = sides_of(p, by_x);
  const std::int64_t channels = s.source_channels, group = channels / p.groups;
  const bool last = p.channels_last;
  Operand g{};
  g.p = source;
  const Axis axes[] = {{p.id, p.od, p.kd, p.stride_d, p.pad_d, p.dilation_d},
                       {p.ih, p.oh, p.kh, p.stride_h, p.pad_h, p.dilation_h},
                       {p.iw, p.ow, p.kw, p.stride_w, p.pad_w, p.dilation_w}};
  g.d = gather_axis(p, axes[0], by_x);
  g.h = gather_axis(p, axes[1], by_x);
  g.w = gather_axis(p, axes[2], by_x);
  g.stride_n = channels * s.source_plane();
  g.stride_c = last ? 1 : s.source_plane();
  g.stride_w = last ? channels : 1;
  g.stride_h = s.sw * g.stride_w;
  g.stride_d = s.sh * g.stride_h;
  g.pixels = {FastDiv(s.rd), FastDiv(s.rh), FastDiv(s.rw)};
  g.taps = {FastDiv(Operand::kLast ? group : p.taps()), FastDiv(p.kh), FastDiv(p.kw)};
  g.outer = outer;
  g.depth = depth;
  const bool in_place = std::all_of(std::begin(axes), std::end(axes), [](const Axis& a) {
    return a.kernel == 1 && a.stride == 1 && a.pad == 0 && a.in == a.out;
  });
  const bool whole = Operand::kLast ? group % kPack<T> == 0 && channels % kPack<T> == 0
                                    : in_place && s.source_plane() % kPack<T> == 0;
  g.packed = whole && is_packed(source);
  return g;
}

// Weights as rows of k: where they lie, or copied.
template <class T>
class Weights {
 public:
  Weights(const Conv2dProblem& p, bool by_x, const T* weight, std::int64_t rows, std::int64_t depth)
      : in_place_(!by_x && (!p.channels_last || p.taps() == 1) && depth % kPack<T> == 0 &&
                  is_packed(weight)),
        stride_(round_up(depth, kPack<T>)),
        scratch_(p.op, in_place_ ? 0 : p.groups * rows * stride_ * std::int64_t{sizeof(T)}),
        operand{in_place_ ? weight : scratch_.as<T>(), stride_, rows, depth, true},
        move(rows * stride_) {
    if (in_place_) return;
    WeightCall<T> call{};
    call.weight = weight;
    call.out = scratch_.as<T>();
    call.places = weight_places(p, by_x);
    call.size = p.groups * rows * depth;
    call.stride = stride_;
    call.rows = rows;
    call.depth = depth;
    call.taps.fast = FastDiv(p.channels_last ? depth / max_i(p.taps(), 1) : p.taps());
    const std::int64_t tiles = ceil_div(call.size, kWeightThreads);
    const Grid grid{persistent_blocks(tiles, kWeightBlocks), kWeightThreads};
    if (p.channels_last) {
      ARRAYNN_LAUNCH((conv_weight_kernel<T, true>), grid, call);
    } else {
      ARRAYNN_LAUNCH((conv_weight_kernel<T, false>), grid, call);
    }
  }

 private:
  bool in_place_;
  std::int64_t stride_;
  Scratch scratch_;

 public:
  MatrixOperand<T, true> operand;
  std::int64_t move;  // from group to group
};

template <class T>
bool packed_rows(std::int64_t stride, std::int64_t move, const T* c, const T* residual) {
  return stride % kPack<T> == 0 && move % kPack<T> == 0 && is_packed(c) &&
         (residual == nullptr || is_packed(residual));
}

template <class T>
void run_stencil(const Conv2dProblem& p, bool by_x, const T* source, const T* weight,
                 const ConvEpilogue<T>& e, T* out) {
  const Sides s = sides_of(p, by_x);
  const std::int64_t depth = s.source_channels / p.groups * p.taps(), taps = p.taps();
  StencilCall<T> call{};
  call.source = gather<GatherOperand<T, true, false>>(p, by_x, source, 0, depth);
  call.source.taps.fast = FastDiv(taps);
  call.source_group = s.source_channels / p.groups * call.source.stride_c;
  call.weight = weight;
  call.places = weight_places(p, by_x);
  call.out = out;
  call.bias = e.bias;
  call.residual = e.residual;
  call.activation = e.activation;
  call.n = p.n;
  call.plane = s.result_plane();
  call.channels = s.result_channels;
  call.rows = s.result_channels / p.groups;
  call.taps = taps;
  call.channels_last = p.channels_last;
  const std::int64_t tiles = ceil_div(p.n * call.plane * call.channels, kStencilThreads);
  const Grid grid{persistent_blocks(tiles, kStencilBlocks), kStencilThreads};
  note(p, "depthwise", "a channel reads few: a thread forms an element");
  ARRAYNN_LAUNCH((stencil_kernel<T>), grid, call);
}

// Pixels stay where they are, and a kernel of one tap has the product of two matrices: one of all samples in
// channels_last, one of each in channels_first.
template <class T>
bool run_in_place(const Conv2dProblem& p, bool by_x, const T* source, const T* weight,
                  const ConvEpilogue<T>& e, T* out) {
  const Sides s = sides_of(p, by_x);
  const std::int64_t plane = s.result_plane(), rows = s.result_channels, depth = s.source_channels;
  if (p.groups > 1 || p.taps() > 1 || p.stride_d > 1 || p.stride_h > 1 || p.stride_w > 1 ||
      plane != s.source_plane() || max_i(p.pad_d, max_i(p.pad_h, p.pad_w)) > 0) {
    return false;
  }
  const Weights<T> copy(p, by_x, weight, rows, depth);
  const MatrixOperand<T, true>& weights = copy.operand;
  const Epilogue<T> epilogue{e.bias, p.channels_last ? BiasAxis::kColumn : BiasAxis::kRow,
                             e.residual, p.channels_last ? rows : plane, e.activation};
  const auto product = [&](const GemmProblem<T>& g, const GemmBatch& batch) {
    note(p, "gemm", "1x1 of stride 1: the matrix product of the layout");
    return gemm_on_hopper(g, GemmResult<T>{g.c, g.epilogue}, batch);
  };
  if (p.channels_last) {
    return product({p.n * plane, rows, depth, source, depth, 1, weights.p, 1, weights.stride, out,
                    rows, epilogue},
                   {});
  }
  GemmBatch batch{1, {p.n}, {0}, {depth * plane}};
  return product(
      {rows, plane, depth, weights.p, weights.stride, 1, source, plane, 1, out, plane, epilogue},
      batch);
}

// An image in channels_last: where it lies, or a copy.
template <class T>
class LastChannels {
 public:
  LastChannels(const Conv2dProblem& p, const T* x, std::int64_t channels, std::int64_t plane)
      : scratch_(p.op, p.channels_last
                           ? 0
                           : p.n * channels * plane * static_cast<std::int64_t>(sizeof(T))),
        image(p.channels_last ? x : scratch_.as<T>()) {
    if (!p.channels_last) turn_planes(x, p.n, channels, plane, scratch_.as<T>());
  }

 private:
  Scratch scratch_;

 public:
  const T* image;
};

// False where another way has to be gone.
template <class T>
bool run_on_hopper(const Conv2dProblem& p, bool by_x, const T* source, const T* weight,
                   const ConvEpilogue<T>& e, T* out) {
  const Sides s = sides_of(p, by_x);
  const std::int64_t rows = s.result_channels / p.groups,
                     depth = s.source_channels / p.groups * p.taps();
  if (depth == 0) return false;
  if (run_in_place(p, by_x, source, weight, e, out)) return true;
  if (!conv_fits_hopper(p, by_x)) return false;
  Conv2dProblem last = p;
  last.channels_last = true;
  const Weights<T> weights(last, by_x, weight, rows, depth);
  const LastChannels<T> last_source(p, source, s.source_channels, s.source_plane());
  note(p, kGathered, p.channels_last ? kBulk : kBulkTurned);
  return conv_on_hopper(p, by_x, last_source.image, weights.operand.p, weights.operand.stride, e,
                        out);
}

// The convolution, or with by_x its gradient by x: source is x or dy, out y or dx.
template <class T>
void run_conv(const Conv2dProblem& p, bool by_x, const T* source, const T* weight,
              const ConvEpilogue<T>& e, T* out) {
  check(p);
  const Sides s = sides_of(p, by_x);
  const std::int64_t rows = s.result_channels / p.groups, from = s.source_channels / p.groups;
  const std::int64_t plane = s.result_plane(), pixels = p.n * plane, depth = from * p.taps();
  if (pixels == 0 || rows == 0) return;
  if (p.groups > 1 && rows <= kStencilChannels && from <= kStencilChannels) {
    return run_stencil(p, by_x, source, weight, e, out);
  }
  if constexpr (kOnHopper<T>) {
    if (run_on_hopper(p, by_x, source, weight, e, out)) return;
  }
  const Weights<T> weights(p, by_x, weight, rows, depth);
  note(p, kGathered, kTiles);
  const auto fill = [&](auto& call) {
    call.groups = p.groups;
    call.move_bias = rows;
    call.part = max_i(depth, 1);
    call.parts = 1;
    call.epilogue.bias = e.bias;
    call.epilogue.activation = e.activation;
  };
  if (p.channels_last) {
    using Source = GatherOperand<T, true, false>;
    ConvCall<Source, MatrixOperand<T, true>, MatrixResult<T>> call{};
    fill(call);
    call.m = pixels;
    call.n = rows;
    call.a = gather<Source>(p, by_x, source, pixels, depth);
    call.b = weights.operand;
    call.move_a = from;
    call.move_b = weights.move;
    call.move_result = rows;
    const std::int64_t channels = s.result_channels;
    call.result = {out, e.residual, channels, channels,
                   packed_rows(channels, p.groups == 1 ? 0 : rows, out, e.residual)};
    call.epilogue.bias_axis = e.bias == nullptr ? BiasAxis::kNone : BiasAxis::kColumn;
    return launch_conv<T>(call);
  }
  using Source = GatherOperand<T, false, false>;
  ConvCall<MatrixOperand<T, true>, Source, PlaneResult<T>> call{};
  fill(call);
  call.m = rows;
  call.n = pixels;
  call.a = weights.operand;
  call.b = gather<Source>(p, by_x, source, pixels, depth);
  call.move_a = weights.move;
  call.move_b = from * s.source_plane();
  call.move_result = rows * plane;
  const Planes planes{FastDiv(plane), s.result_channels * plane};
  call.result = {out, e.residual, planes, packed_rows(plane, 0, out, e.residual)};
  call.epilogue.bias_axis = e.bias == nullptr ? BiasAxis::kNone : BiasAxis::kRow;
  launch_conv<T>(call);
}

// ---- gradients of weights and biases ----------------------------------------------------------------

template <class T>
void run_weight(const Conv2dProblem& p, const T* dy, const T* x, T* dw) {
  check(p);
  const std::int64_t icg = p.ic / p.groups, ocg = p.oc / p.groups, taps = p.taps();
  const std::int64_t plane = p.out_size(), depth = p.n * plane, columns = icg * taps;
  const std::int64_t size = p.oc * columns;
  if (size == 0) return;
  const Parts parts = parts_of(ocg, columns, p.groups, depth);
  using Sum = Compute<T>;
  // Sums of 16 bits are rounded by column_sums, even of one part: no kernel more for that.
  const bool apart = parts.count > 1 || !std::is_same_v<T, Sum>;
  const std::int64_t partial = apart ? parts.count * size : 0;
  const Scratch scratch(p.op, partial * static_cast<std::int64_t>(sizeof(Sum)));
  Sum* to = scratch.as<Sum>();
  if constexpr (std::is_same_v<T, Sum>) to = apart ? to : dw;
  if constexpr (kOnHopper<T>) {
    if (conv_weight_fits_hopper(p)) {
      const LastChannels<T> dy_last(p, dy, p.oc, plane), x_last(p, x, p.ic, p.in_size());
      note(p, kGathered, p.channels_last ? kBulk : kBulkTurned);
      if (conv_weight_on_hopper(p, dy_last.image, x_last.image, parts, to)) {
        return column_sums(to, parts.count, size, dw);
      }
    }
  }
  note(p, kGathered, kTiles);
  const auto fill = [&](auto& call) {
    call.m = ocg;
    call.n = columns;
    call.groups = p.groups;
    call.move_result = ocg * columns;
    call.part = parts.length;
    call.parts = parts.count;
    call.move_part = size;
  };
  if (p.channels_last) {
    using Source = GatherOperand<T, false, true>;
    ConvCall<MatrixOperand<T, false>, Source, WeightResult<Sum>> call{};
    fill(call);
    call.a = {dy, p.oc, ocg, depth,
              p.oc % kPack<T> == 0 && (p.groups == 1 || ocg % kPack<T> == 0) && is_packed(dy)};
    call.b = gather<Source>(p, false, x, columns, depth);
    call.move_a = ocg;
    call.move_b = icg;
    call.result = {to, nullptr, columns, taps, FastDiv(icg), false};
    launch_conv<T>(call);
  } else {
    using Source = GatherOperand<T, true, true>;
    ConvCall<PlaneOperand<T>, Source, MatrixResult<Sum>> call{};
    fill(call);
    call.a = {
        dy, {FastDiv(plane), p.oc * plane}, ocg, depth, plane % kPack<T> == 0 && is_packed(dy)};
    call.b = gather<Source>(p, false, x, columns, depth);
    call.move_a = ocg * plane;
    call.move_b = icg * p.in_size();
    call.result = {to, nullptr, columns, 0, packed_rows<Sum>(columns, size, to, nullptr)};
    launch_conv<T>(call);
  }
  if (apart) column_sums(to, parts.count, size, dw);
}

// db[c] = the sum of dy over samples and pixels.
template <class T>
void run_bias(const Conv2dProblem& p, const T* dy, std::int64_t channels, std::int64_t plane,
              T* db) {
  if (channels == 0) return;
  const std::int64_t pixels = p.n * plane;
  if (p.channels_last) return column_sums(dy, pixels, channels, db);
  using Sum = Compute<T>;
  const std::int64_t chunks = max_i(1, ceil_div(pixels, kSumChunk));
  const Planes planes{FastDiv(plane), channels * plane};
  const Grid grid{chunks * channels, kSumThreads};
  if (chunks == 1) {
    ARRAYNN_LAUNCH((plane_sums_kernel<T, T>), grid, dy, planes, channels, pixels, db);
    return;
  }
  const Scratch scratch(p.op, chunks * channels * static_cast<std::int64_t>(sizeof(Sum)));
  ARRAYNN_LAUNCH((plane_sums_kernel<T, Sum>), grid, dy, planes, channels, pixels,
                 scratch.as<Sum>());
  column_sums(scratch.as<Sum>(), chunks, channels, db);
}

// run(at): at(p) is where an array is. A call that describes itself has none, and notes its scratch.
template <class F>
void run_or_describe(const Conv2dProblem& p, const F& run) {
  if (p.plan == nullptr) return run([](auto* given) { return given; });
  const Describing describing;
  run([]<class T>(T*) { return Describing::memory<T>(); });
  p.plan->scratch = max_i(p.plan->scratch, describing.most_scratch());
}

template <class T>
void forward(const Conv2dProblem& p, bool by_x, const T* source, const T* weight,
             const ConvEpilogue<T>& e, T* out) {
  run_or_describe(p,
                  [&](const auto& at) { run_conv(p, by_x, at(source), at(weight), e, at(out)); });
}

template <class T>
void backward(const Conv2dProblem& p, const T* dy, const T* x, const T* weight,
              const ConvGradients<T>& grads) {
  run_or_describe(p, [&](const auto& at) {
    if (grads.dx != nullptr) {
      run_conv(p, true, at(dy), at(weight), ConvEpilogue<T>{}, at(grads.dx));
    }
    if (grads.dw != nullptr) run_weight(p, at(dy), at(x), at(grads.dw));
    if (grads.db != nullptr) run_bias(p, at(dy), p.oc, p.out_size(), at(grads.db));
  });
}

// x and dy change places: dy is what the convolution of `p` reads.
template <class T>
void transpose_backward(const Conv2dProblem& p, const T* dy, const T* x, const T* weight,
                        const ConvGradients<T>& grads) {
  run_or_describe(p, [&](const auto& at) {
    if (grads.dx != nullptr) {
      run_conv(p, false, at(dy), at(weight), ConvEpilogue<T>{}, at(grads.dx));
    }
    if (grads.dw != nullptr) run_weight(p, at(x), at(dy), at(grads.dw));
    if (grads.db != nullptr) run_bias(p, at(dy), p.ic, p.in_size(), at(grads.db));
  });
}

}  // namespace
}  // namespace cuda

#define ARRAYNN_DEFINE(T)                                                                          \
  void conv2d(const Conv2dProblem& p, const T* x, const T* weight, const ConvEpilogue<T>& e,       \
              T* y) {                                                                              \
    cuda::forward(p, false, x, weight, e, y);                                                      \
  }                                                                                                \
  void conv2d_backward(const Conv2dProblem& p, const T* dy, const T* x, const T* weight,           \
                       const ConvGradients<T>& grads) {                                            \
    cuda::backward(p, dy, x, weight, grads);                                                       \
  }                                                                                                \
  void conv_transpose2d(const Conv2dProblem& p, const T* x, const T* weight,                       \
                        const ConvEpilogue<T>& e, T* y) {                                          \
    cuda::forward(p, true, x, weight, e, y);                                                       \
  }                                                                                                \
  void conv_transpose2d_backward(const Conv2dProblem& p, const T* dy, const T* x, const T* weight, \
                                 const ConvGradients<T>& grads) {                                  \
    cuda::transpose_backward(p, dy, x, weight, grads);                                             \
  }
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_DEFINE)
#undef ARRAYNN_DEFINE

}  // namespace arraynn
