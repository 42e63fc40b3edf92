// Convolutions on Hopper: see cuda_hopper.hpp. Compiled for sm_90a alone.
#include "conv/cuda_hopper.hpp"

#include "conv/cuda_gather.hpp"
#include "gemm/cuda_hopper_ring.hpp"

namespace arraynn::cuda {
namespace {

using hopper::kBox;
using hopper::kBoxBytes;
using hopper::kDepth;
using hopper::kUnit;

// ---- patches ----------------------------------------------------------------------------------------

// One axis: where the source is of position q of the result and place t of the kernel,
// lower + q step + first + t by.
struct PatchAxis {
  std::int32_t lower, step, first, by;
  __device__ __forceinline__ std::int32_t begin(std::int32_t q) const { return lower + q * step; }
  __device__ __forceinline__ std::uint16_t place(std::int32_t t) const {
    return static_cast<std::uint16_t>(first + t * by);
  }
};

// Pixels of a source that a place of the kernel meets.
struct Patches {
  TensorMap map;
  PatchAxis d, h, w;
  Pixels pixels;  // of the result
  int axes;       // of the map

  // Where the kernel begins for a pixel of the result.
  __device__ __forceinline__ GatherPlace begin(int pixel) const {
    const GatherPlace p = pixels.at(static_cast<std::uint32_t>(pixel));
    return {p.first, d.begin(p.d), h.begin(p.h), w.begin(p.w)};
  }
  // Of channels from `place.first` on.
  __device__ __forceinline__ void copy(unsigned char* to, const GatherPlace& at,
                                       const GatherPlace& place, std::uint64_t* full) const {
    if (axes == 1) {
      ptx::cp_async_bulk_tensor_3d_im2col(to, &map, place.first, at.w, at.first, w.place(place.w),
                                          full);
    } else if (axes == 2) {
      ptx::cp_async_bulk_tensor_4d_im2col(to, &map, place.first, at.w, at.h, at.first,
                                          w.place(place.w), h.place(place.h), full);
    } else {
      ptx::cp_async_bulk_tensor_5d_im2col(to, &map, place.first, at.w, at.h, at.d, at.first,
                                          w.place(place.w), h.place(place.h), d.place(place.d),
                                          full);
    }
  }
};

// Forward and by x. A tile's k is every place of the kernel that its pixels meet, each with its channels in stages.
template <class T_>
struct PatchLoader {
  using T = T_;
  static constexpr bool kAlongA = true, kAlongB = true, kMayBeEmpty = true;
  Patches patches;
  TensorMap weights;
  int channels, rows;      // of a group
  int places_w, places_h;  // that are met
  int first_tap, tap_w, tap_h,
      tap_d;  // k of the weights for the first of them, and from one to the next

  struct Steps {
    int channels, left;
    __device__ __forceinline__ explicit Steps(const PatchLoader& l)
        : channels(l.channels), left(l.channels) {}
    __device__ __forceinline__ unsigned next() {
      const int now = left < kDepth ? left : kDepth;
      left = left > kDepth ? left - kDepth : channels;
      return static_cast<unsigned>(now) / 16;
    }
  };
  template <class Tile>
  struct Copier {
    const PatchLoader& loader;
    GatherPlace at, place;
    int end, row;  // channels of the group, row of the weights
    __device__ __forceinline__ Copier(const PatchLoader& l, const hopper::Place& p)
        : loader(l),
          at(l.patches.begin(p.row)),
          place{p.group * l.channels, 0, 0, 0},
          end(place.first + l.channels),
          row(p.group * l.rows + p.column) {}
    __device__ __forceinline__ void copy(hopper::Stage<Tile>& stage, int, std::uint64_t* full) {
      const int begin = end - loader.channels;
      const int tap = loader.first_tap + place.w * loader.tap_w + place.h * loader.tap_h +
                      place.d * loader.tap_d + place.first - begin;
      loader.patches.copy(stage.a, at, place, full);
      hopper::copy_matrix<Tile::kN, true>(stage.b, loader.weights, row, tap, 0, full);
      place.first += kDepth;
      if (place.first < end) return;
      place.first = begin;
      if (++place.w < loader.places_w) return;
      place.w = 0;
      if (++place.h < loader.places_h) return;
      place.h = 0;
      ++place.d;
    }
  };
  __device__ __forceinline__ void prefetch() const {
    ptx::prefetch_tensormap(&patches.map);
    ptx::prefetch_tensormap(&weights);
  }
  __device__ __forceinline__ static int columns_left(int n, int column) { return n - column; }
};

// By W. Columns are places of the kernel, each with its channels in whole boxes.
template <class T_>
struct PixelLoader {
  using T = T_;
  static constexpr bool kAlongA = false, kAlongB = false, kMayBeEmpty = false;
  Patches patches;
  TensorMap dy;
  int channels, rows;        // of a group
  int all_channels, places;  // of x, of the kernel
  FastDiv width, boxes;      // channels and boxes of a place, whole boxes
  FastDiv kernel_h, kernel_w;

  struct Steps {
    __device__ explicit Steps(const PixelLoader&) {}
    __device__ static constexpr unsigned next() { return kDepth / 16; }
  };
  template <class Tile>
  struct Copier {
    const PixelLoader& loader;
    const hopper::Place& of;
    __device__ __forceinline__ Copier(const PixelLoader& l, const hopper::Place& p)
        : loader(l), of(p) {}
    __device__ __forceinline__ void copy(hopper::Stage<Tile>& stage, int k,
                                         std::uint64_t* full) const {
      const auto& l = loader;
      hopper::copy_matrix<Tile::kM, false>(stage.a, l.dy, of.group * l.rows + of.row, k, 0, full);
      const GatherPlace at = l.patches.begin(k);
#pragma unroll 1
      for (int i = 0; i < Tile::kN / kBox; ++i) {
        const auto box = static_cast<std::uint32_t>(of.column / kBox + i);
        const std::uint32_t place = l.boxes.divide(box), box_of = box - place * l.boxes.divisor;
        // Beyond the last one: no channel of any group, zeros.
        const bool there = static_cast<int>(place) < l.places;
        const std::uint32_t index = there ? place : 0, lines = l.kernel_w.divide(index),
                            planes = l.kernel_h.divide(lines);
        const auto i32 = [](std::uint32_t v) { return static_cast<std::int32_t>(v); };
        const GatherPlace from{there ? of.group * l.channels + i32(box_of) * kBox : l.all_channels,
                               i32(planes), i32(lines - planes * l.kernel_h.divisor),
                               i32(index - lines * l.kernel_w.divisor)};
        l.patches.copy(stage.b + i * kBoxBytes, at, from, full);
      }
    }
  };
  __device__ __forceinline__ void prefetch() const {
    ptx::prefetch_tensormap(&patches.map);
    ptx::prefetch_tensormap(&dy);
  }
  __device__ __forceinline__ int columns_left(int n, int column) const {
    if (column >= n) return 0;
    const auto at = static_cast<std::uint32_t>(column);
    return channels - static_cast<int>(at - width.divide(at) * width.divisor);
  }
};

// ---- channels_first ---------------------------------------------------------------------------------

// Rows of the product are pixels, its columns channels, of an image in channels_first.
template <class T_>
struct TurnedPlaneResult {
  using T = T_;
  T* c;
  const T* residual;
  Planes planes;
  bool packed;  // false

  __device__ __forceinline__ std::int64_t offset(std::int64_t row, std::int64_t column) const {
    return planes.offset(column, row);
  }
  __device__ __forceinline__ std::int64_t residual_offset(std::int64_t row,
                                                          std::int64_t column) const {
    return planes.offset(column, row);
  }
};

// Rows are pixels that lie steps apart, one residue of a gradient's positions.
template <class T_, bool kLast>
struct ScatteredResult {
  using T = T_;
  T* c;
  const T* residual;
  Pixels pixels;
  std::int64_t stride_n, stride_d, stride_h, stride_w, stride_c;
  bool packed;

  __device__ __forceinline__ std::int64_t offset(std::int64_t row, std::int64_t column) const {
    const GatherPlace at = pixels.at(static_cast<std::uint32_t>(row));
    return at.first * stride_n + at.d * stride_d + at.h * stride_h + at.w * stride_w +
           column * (kLast ? 1 : stride_c);
  }
  __device__ __forceinline__ std::int64_t residual_offset(std::int64_t row,
                                                          std::int64_t column) const {
    return offset(row, column);
  }
};

}  // namespace
namespace hopper {
template <class T>
constexpr bool kRowsBeside<TurnedPlaneResult<T>> = true;
template <class T>
constexpr bool kRowsBeside<ScatteredResult<T, false>> = true;
}  // namespace hopper
namespace {

// A tile of kTurn channels and as many pixels: 2 bytes at a time along the pixels, 16 along the channels. A pixel
// takes an odd number of words in shared memory, so that neither side meets a bank twice.
constexpr int kTurn = 64, kTurnThreads = 256, kTurnBlocks = 8, kTurnStride = kTurn + 2;
template <class T>
struct TurnStorage {
  alignas(4) T v[kTurn * kTurnStride];
};
template <class T>
__global__ void __launch_bounds__(kTurnThreads, kTurnBlocks)
    turn_planes_kernel(const T* x, int channels, int plane, T* out) {
  auto& shared = shared_storage<TurnStorage<T>>();
  const int tiles_p = (plane + kTurn - 1) / kTurn, tiles_c = (channels + kTurn - 1) / kTurn;
  const auto block = static_cast<int>(blockIdx.x);
  const int sample = block / (tiles_p * tiles_c), rest = block - sample * tiles_p * tiles_c;
  const int c0 = rest / tiles_p * kTurn, p0 = rest % tiles_p * kTurn;
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t base = std::int64_t{sample} * channels * plane;
#pragma unroll 4
  for (int i = thread; i < kTurn * kTurn; i += kTurnThreads) {
    const int c = i / kTurn, p = i % kTurn;
    const bool there = c0 + c < channels && p0 + p < plane;
    const T* from = x + base + std::int64_t{c0 + c} * plane + p0 + p;
    shared.v[p * kTurnStride + c] = there ? *from : T{};
  }
  __syncthreads();
  constexpr int kPacks = kTurn / kPack<T>;
#pragma unroll
  for (int i = thread; i < kTurn * kPacks; i += kTurnThreads) {
    const int p = i / kPacks, c = i % kPacks * kPack<T>;
    if (c0 + c >= channels || p0 + p >= plane) continue;  // channels are whole packs
    Pack<T> pack;
    memcpy(&pack, shared.v + p * kTurnStride + c, sizeof pack);
    store_pack(out + base + std::int64_t{p0 + p} * channels + c0 + c, pack, true);
  }
}

// ---- from the problem to calls ----------------------------------------------------------------------

struct ImageAxis {
  std::int64_t in, out, kernel, stride, pad, dilation;
  bool trivial() const { return in == 1 && out == 1 && kernel == 1 && pad == 0; }
};

// What a call has of an axis: positions `residue`, residue + step, ... of the result, and the places of the kernel
// that they meet. All of both but for gradients by x, which have a call for every residue modulo the stride.
struct Share {
  std::int64_t residue = 0, step = 1, positions = 1, first_place = 0, place_step = 1, places = 1;
};
struct Shares {
  Share d, h, w;
  std::int64_t positions() const { return d.positions * h.positions * w.positions; }
  std::int64_t places() const { return d.places * h.places * w.places; }
};

Share share_of(const ImageAxis& a, bool by_x, bool flip, std::int64_t residue) {
  if (!by_x) return {0, 1, a.out, 0, 1, a.kernel};
  Share s{residue, a.stride, ceil_div(a.in - residue, a.stride), 0, 1, 0};
  std::int64_t last = 0;
  for (std::int64_t t = 0; t < a.kernel; ++t) {
    const std::int64_t tap = flip ? a.kernel - 1 - t : t;
    if ((residue + a.pad - tap * a.dilation) % a.stride != 0) continue;
    if (s.places == 0) s.first_place = t;
    if (s.places == 1) s.place_step = t - last;  // and so on
    last = t;
    ++s.places;
  }
  return s;
}

// False where a map cannot tell of the axis, one of `axes`.
bool make_axis(const ImageAxis& a, bool by_x, bool flip, int axes, const Share& s, PatchAxis* axis,
               TensorImage* image, int index) {
  // Where the source is of the first position and the n-th place.
  const auto source_of = [&](std::int64_t n) {
    const std::int64_t t = s.first_place + n * s.place_step, tap = flip ? a.kernel - 1 - t : t;
    return by_x ? (s.residue + a.pad - tap * a.dilation) / a.stride : tap * a.dilation - a.pad;
  };
  const std::int64_t first = s.places > 0 ? source_of(0) : 0,
                     last = s.places > 0 ? source_of(s.places - 1) : 0;
  const std::int64_t source = by_x ? a.out : a.in, step = by_x ? 1 : a.stride;
  const std::int64_t lower = min_i(first, last), reach = max_i(first, last) - lower;
  const std::int64_t upper =
      s.places > 0 ? lower + (s.positions - 1) * step - (source - 1) : 0;  // not read from
  const std::int64_t most = most_image_corner(axes);
  if (step > kMostImageStep || reach > most_image_place(axes) || min_i(lower, upper) < -most ||
      max_i(lower, upper) >= most) {
    return false;
  }
  const auto i32 = [](std::int64_t v) { return static_cast<std::int32_t>(v); };
  *axis = {i32(lower), i32(step), i32(first - lower), s.places > 1 ? i32(source_of(1) - first) : 0};
  image->extent[index + 1] = static_cast<std::uint64_t>(source);
  image->lower[index] = i32(lower);
  image->upper[index] = i32(upper);
  image->step[index] = static_cast<std::uint32_t>(step);
  return true;
}

struct ImageAxes {
  ImageAxis d, h, w;
  explicit ImageAxes(const Conv2dProblem& p)
      : d{p.id, p.od, p.kd, p.stride_d, p.pad_d, p.dilation_d},
        h{p.ih, p.oh, p.kh, p.stride_h, p.pad_h, p.dilation_h},
        w{p.iw, p.ow, p.kw, p.stride_w, p.pad_w, p.dilation_w} {}
};

// f(shares) for all calls of a product, until it is false.
constexpr std::int64_t kMostShares = 27;
template <class F>
bool all_shares(const Conv2dProblem& p, bool by_x, const F& f) {
  const ImageAxes a(p);
  const auto residues = [&](const ImageAxis& axis) {
    return by_x ? min_i(axis.stride, axis.in) : 1;
  };
  if (residues(a.d) * residues(a.h) * residues(a.w) > kMostShares) return false;
  for (std::int64_t d = 0; d < residues(a.d); ++d) {
    for (std::int64_t h = 0; h < residues(a.h); ++h) {
      for (std::int64_t w = 0; w < residues(a.w); ++w) {
        const bool flip = p.flip_kernel;
        if (!f(Shares{share_of(a.d, by_x, flip, d), share_of(a.h, by_x, flip, h),
                      share_of(a.w, by_x, flip, w)})) {
          return false;
        }
      }
    }
  }
  return true;
}

// What a map has of the source of p, or with by_x of its gradient by x, but for its address and pixels.
bool make_image(const Conv2dProblem& p, bool by_x, const Shares& s, Patches* to,
                TensorImage* image) {
  const ImageAxes a(p);
  const std::int64_t channels = by_x ? p.oc : p.ic;
  if (!is_hopper() || channels % kUnit != 0 || p.n * max_i(p.in_size(), p.out_size()) == 0) {
    return false;
  }
  to->axes = !a.d.trivial() ? 3 : !a.h.trivial() ? 2 : 1;
  image->axes = to->axes;
  image->extent[0] = static_cast<std::uint64_t>(channels);
  image->extent[to->axes + 1] = static_cast<std::uint64_t>(p.n);
  image->channels = kBox;
  PatchAxis* const axes[] = {&to->w, &to->h, &to->d};
  const ImageAxis* const from[] = {&a.w, &a.h, &a.d};
  const Share* const shares[] = {&s.w, &s.h, &s.d};
  for (int i = 0; i < to->axes; ++i) {
    if (!make_axis(*from[i], by_x, p.flip_kernel, to->axes, *shares[i], axes[i], image, i)) {
      return false;
    }
  }
  to->pixels = {FastDiv(s.d.positions), FastDiv(s.h.positions), FastDiv(s.w.positions)};
  return true;
}

// `pixels` are copied at a time.
template <class T>
bool make_patches(const Conv2dProblem& p, bool by_x, const Shares& s, const T* source, int pixels,
                  Patches* to) {
  TensorImage image{};
  image.base = source;
  image.pixels = static_cast<std::uint32_t>(pixels);
  return is_packed(source) && make_image(p, by_x, s, to, &image) &&
         encode_image_map(&to->map, hopper::kElement<T>, image);
}

// A product of pixels by rows of weights.
struct ConvSizes {
  std::int64_t rows, channels, pixels, depth;  // of a group
  ConvSizes(const Conv2dProblem& p, bool by_x)
      : rows((by_x ? p.ic : p.oc) / p.groups),
        channels((by_x ? p.oc : p.ic) / p.groups),
        pixels(p.n * (by_x ? p.in_size() : p.out_size())),
        depth(p.taps() * round_up(channels, kDepth)) {}
};

template <class T, class Result>
bool launch_conv(const Conv2dProblem& p, bool by_x, const Shares& shares, const T* source,
                 const T* weights, std::int64_t stride, const ConvEpilogue<T>& e,
                 const Result& result, std::int64_t move) {
  const ConvSizes s(p, by_x);
  using Loader = PatchLoader<T>;
  hopper::Call<Loader, Result> call{};
  Loader& loader = call.loader;
  if (!make_patches(p, by_x, shares, source, hopper::RingTile<64>::kM, &loader.patches)) {
    return false;
  }
  const auto i32 = [](std::int64_t v) { return static_cast<int>(v); };
  const std::int64_t pixels = p.n * shares.positions();
  loader.channels = i32(s.channels);
  loader.rows = i32(s.rows);
  loader.places_w = i32(shares.w.places);
  loader.places_h = i32(shares.h.places);
  const std::int64_t row = p.kw * s.channels, plane = p.kh * row;
  loader.first_tap = i32(shares.d.first_place * plane + shares.h.first_place * row +
                         shares.w.first_place * s.channels);
  loader.tap_w = i32(shares.w.place_step * s.channels);
  loader.tap_h = i32(shares.h.place_step * row);
  loader.tap_d = i32(shares.d.place_step * plane);
  call.m = i32(pixels);
  call.n = i32(s.rows);
  call.depth = call.part = i32(shares.places() * round_up(s.channels, kDepth));
  call.groups = static_cast<unsigned>(p.groups);
  call.move_group = move;
  call.move_bias = s.rows;
  call.result = result;
  call.epilogue.bias = e.bias;
  call.epilogue.bias_axis = e.bias == nullptr ? BiasAxis::kNone : BiasAxis::kColumn;
  call.epilogue.activation = e.activation;
  const hopper::Matrix matrix{weights, p.groups * s.rows, s.channels * p.taps(), stride, true};
  return hopper::with_hopper_tile(pixels, s.rows, p.groups, [&]<class Tile>() {
    return hopper::make_map<T>(&loader.weights, matrix, Tile::kN) &&
           hopper::launch_ring<Tile>(call, p.groups);
  });
}

template <class T, bool kLast>
ScatteredResult<T, kLast> scattered(const Conv2dProblem& p, const Shares& s, T* out,
                                    const T* residual, bool packed) {
  const std::int64_t w = kLast ? p.ic : 1, h = p.iw * w, d = p.ih * h;
  const std::int64_t first = s.d.residue * d + s.h.residue * h + s.w.residue * w;
  return {out + first,
          residual == nullptr ? nullptr : residual + first,
          {FastDiv(s.d.positions), FastDiv(s.h.positions), FastDiv(s.w.positions)},
          p.ic * p.in_size(),
          s.d.step * d,
          s.h.step * h,
          s.w.step * w,
          kLast ? 1 : p.in_size(),
          packed};
}

}  // namespace

bool conv_fits_hopper(const Conv2dProblem& p, bool by_x) {
  const ConvSizes s(p, by_x);
  return s.channels % 16 == 0 &&
         max_i(max_i(s.pixels, s.depth), max_i(p.ic, p.oc)) <= hopper::kMostIndex &&
         all_shares(p, by_x, [&](const Shares& shares) {
           Patches patches{};
           TensorImage image{};
           return make_image(p, by_x, shares, &patches, &image);
         });
}

bool conv_weight_fits_hopper(const Conv2dProblem& p) {
  const std::int64_t columns = p.taps() * round_up(p.ic / p.groups, kBox);
  return p.oc % kUnit == 0 && p.ic / p.groups % kUnit == 0 &&
         max_i(max_i(p.n * p.out_size(), columns), max_i(p.oc, p.ic)) <= hopper::kMostIndex &&
         all_shares(p, false, [&](const Shares& shares) {
           Patches patches{};
           TensorImage image{};
           return make_image(p, false, shares, &patches, &image);
         });
}

template <class T>
void turn_planes(const T* x, std::int64_t n, std::int64_t channels, std::int64_t plane, T* out) {
  const Grid grid{n * ceil_div(channels, kTurn) * ceil_div(plane, kTurn), kTurnThreads};
  ARRAYNN_LAUNCH((turn_planes_kernel<T>), grid, x, static_cast<int>(channels),
                 static_cast<int>(plane), out);
}

template <class T>
bool conv_on_hopper(const Conv2dProblem& p, bool by_x, const T* source, const T* weights,
                    std::int64_t stride, const ConvEpilogue<T>& e, T* out) {
  const ConvSizes s(p, by_x);
  const std::int64_t all = p.groups * s.rows, plane = s.pixels / p.n;
  const bool packed = all % kUnit == 0 && s.rows % kUnit == 0 && is_packed(out) &&
                      (e.residual == nullptr || is_packed(e.residual));
  const std::int64_t move = p.channels_last ? s.rows : s.rows * plane;
  return all_shares(p, by_x, [&](const Shares& shares) {
    const auto launch = [&](const auto& result) {
      return launch_conv(p, by_x, shares, source, weights, stride, e, result, move);
    };
    const bool whole = shares.positions() == plane;
    if (!whole && p.channels_last) {
      return launch(scattered<T, true>(p, shares, out, e.residual, packed));
    }
    if (!whole) return launch(scattered<T, false>(p, shares, out, e.residual, false));
    if (p.channels_last) return launch(MatrixResult<T>{out, e.residual, all, all, packed});
    return launch(TurnedPlaneResult<T>{out, e.residual, {FastDiv(plane), all * plane}, false});
  });
}

template <class T>
bool conv_weight_on_hopper(const Conv2dProblem& p, const T* dy, const T* x, Parts parts,
                           float* sums) {
  const std::int64_t rows = p.oc / p.groups, channels = p.ic / p.groups, places = p.taps();
  const std::int64_t pixels = p.n * p.out_size(), width = round_up(channels, kBox);
  using Loader = PixelLoader<T>;
  hopper::Call<Loader, WeightResult<float>> call{};
  Loader& loader = call.loader;
  const hopper::Matrix matrix{dy, p.oc, pixels, p.oc, false};
  if (!hopper::make_map<T>(&loader.dy, matrix, kBox) ||
      !all_shares(p, false, [&](const Shares& shares) {
        return make_patches(p, false, shares, x, kDepth, &loader.patches);
      })) {
    return false;
  }
  const auto i32 = [](std::int64_t v) { return static_cast<int>(v); };
  loader.channels = i32(channels);
  loader.rows = i32(rows);
  loader.all_channels = i32(p.ic);
  loader.places = i32(places);
  loader.width = FastDiv(width);
  loader.boxes = FastDiv(width / kBox);
  loader.kernel_h = FastDiv(p.kh);
  loader.kernel_w = FastDiv(p.kw);
  call.m = i32(rows);
  call.n = i32(places * width);
  call.depth = i32(pixels);
  call.part = i32(parts.length);
  call.groups = static_cast<unsigned>(p.groups);
  call.move_group = rows * channels * places;
  call.move_part = p.groups * call.move_group;
  call.result = {sums, nullptr, channels * places, places, FastDiv(width), false};
  const std::int64_t count = p.groups * parts.count;
  return hopper::with_hopper_tile(rows, places * width, count, [&]<class Tile>() {
    return hopper::launch_ring<Tile>(call, count);
  });
}

#define ARRAYNN_INSTANTIATE(T)                                                                     \
  template void turn_planes<T>(const T* x, std::int64_t n, std::int64_t channels,                  \
                               std::int64_t plane, T* out);                                        \
  template bool conv_on_hopper<T>(const Conv2dProblem& p, bool by_x, const T* source,              \
                                  const T* weights, std::int64_t stride, const ConvEpilogue<T>& e, \
                                  T* out);                                                         \
  template bool conv_weight_on_hopper<T>(const Conv2dProblem& p, const T* dy, const T* x,          \
                                         Parts parts, float* sums);
ARRAYNN_INSTANTIATE(Half)
ARRAYNN_INSTANTIATE(Bfloat16)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn::cuda
