// Pooling family: max and average pooling over windows, adaptive windows and whole planes, in one
// and two dimensions (three: volume.hpp), and their gradients.
//
//   max   y[n,c,h,w] = max over taps (i, j) inside the input of x[n, c, h sh - ph + i dh,
//                      w sw - pw + j dw]; the first NaN wins, then the first of equal maxima
//   avg   y[n,c,h,w] = (sum over the same taps) / divisor(h, w)
//   lp    y[n,c,h,w] = (sum over the same taps of x^p, times kernel / taps and padding)^(1 / p)
// Gradients: dy goes to the position that won (max), dy / divisor to every tap (avg),
// dy kernel / taps (x / y)^(p - 1) (lp): shares of the windows, their sums as those of an average
// with divisor 1, and the power of x.
//
// Plan. Both are bound by memory; every array is read or written once, in order.
//   channels_last   vectors over c, the taps of an output pixel reduced in registers
//   channels_first  vectors over the output row. The input rows of an output row are reduced, or
//                   taken one by one (indices), into a padded row in L1 that keeps the residues of
//                   the position modulo the stride apart (rows.hpp): each tap is a contiguous load,
//                   without border cases. 2 x 2 tiles and whole planes go along their memory.
//   staged          channels_first with short rows and enough planes for the vectors: bands of 16
//                   planes transposed to channels_last in cache and back (staged.hpp)
//   gradients       a thread owns rows of dx and writes each just ahead of its first window.
//                   Windows across two threads' rows are looked at by both: no two threads touch one
//                   element, and every element sums in one order for every team. Given indices are
//                   added to by threads that own planes, or channels of a sample; but see walk.hpp.
// Where a window holds +0 and -0 alone, the sign of the maximum may be either.
#pragma once
#include <cstdint>

#include "core/dispatch.hpp"
#include "core/index.hpp"

namespace arraynn {

// Output position o reads input positions o * stride - begin + t * dilation, t in [0, kernel).
// Adaptive windows (to > 0, dilation 1) cut `from` positions into `to` windows instead: output o
// reads [floor(q from / to), ceil((q + 1) from / to)) - begin with q = o + first, and kernel and
// stride are the largest length of a window and distance of two. `first` and `begin` are 0 except
// in a band of the plane.
struct PoolAxis {
  std::int64_t size, kernel, stride, dilation, begin, end, out;
  std::int64_t from = 0, to = 0, first = 0;
};

struct PoolProblem {
  std::int64_t n, c;
  PoolAxis h, w;
  bool channels_last;
};

// `plane` are the windows of one plane over n samples and c channels.
struct VolumeProblem {
  PoolProblem plane;
  PoolAxis d;

  [[gnu::always_inline]] std::int64_t in_plane() const { return plane.h.size * plane.w.size; }
  [[gnu::always_inline]] std::int64_t out_plane() const { return plane.h.out * plane.w.out; }
  [[gnu::always_inline]] std::int64_t in() const { return d.size * in_plane(); }
  [[gnu::always_inline]] std::int64_t out() const { return d.out * out_plane(); }
};

inline constexpr PoolAxis kUnitAxis = {1, 1, 1, 1, 0, 0, 1};

// Planes as volumes that are one plane deep.
ARRAYNN_INLINE VolumeProblem flat_volume(const PoolProblem& p) { return {p, kUnitAxis}; }
ARRAYNN_INLINE bool is_flat(const VolumeProblem& v) {
  return v.d.size == 1 && v.d.out == 1 && v.d.kernel == 1;
}

struct AverageDivisor {
  bool include_pad;
  std::int64_t fixed;  // 0: count the taps
};

ARRAYNN_INLINE std::int64_t window_span(const PoolAxis& a) {
  return (a.kernel - 1) * a.dilation + 1;
}

// Position of the first tap of output position o, inside the input or not.
ARRAYNN_INLINE std::int64_t window_first(const PoolAxis& a, std::int64_t o) {
  if (a.to > 0) return (o + a.first) * a.from / a.to - a.begin;
  return o * a.stride - a.begin;
}
// Position behind its last tap.
ARRAYNN_INLINE std::int64_t window_end(const PoolAxis& a, std::int64_t o) {
  if (a.to > 0) return ceil_div((o + a.first + 1) * a.from, a.to) - a.begin;
  return o * a.stride - a.begin + window_span(a);
}

// The taps of output position o that lie inside the input.
ARRAYNN_INLINE Range window_taps(const PoolAxis& a, std::int64_t o) {
  const std::int64_t first = window_first(a, o);
  if (a.to > 0) return {0, window_end(a, o) - first};  // never outside
  if (a.dilation == 1) {                               // without a division
    const std::int64_t end = max_i(0, min_i(a.kernel, a.size - first));
    return {min_i(max_i(0, -first), end), end};
  }
  const std::int64_t low = first >= 0 ? 0 : ceil_div(-first, a.dilation);
  const std::int64_t high =
      first >= a.size ? 0 : min_i(a.kernel, (a.size - 1 - first) / a.dilation + 1);
  return {min_i(low, high), high};
}

// The output positions whose windows can touch input positions [begin, end).
ARRAYNN_INLINE Range windows_touching(const PoolAxis& a, std::int64_t begin, std::int64_t end) {
  if (a.to > 0) {
    const std::int64_t last = ceil_div((end + a.begin) * a.to, a.from) - a.first;
    return {max_i(0, (begin + a.begin) * a.to / a.from - a.first), min_i(a.out, last)};
  }
  const std::int64_t low = begin + a.begin - window_span(a) + 1;
  const std::int64_t first = low <= 0 ? 0 : ceil_div(low, a.stride);
  return {first, min_i(a.out, (end - 1 + a.begin) / a.stride + 1)};
}

// The part of an axis that output positions `out` read; *in is where it begins.
ARRAYNN_INLINE PoolAxis band_of(const PoolAxis& a, Range out, std::int64_t* in) {
  PoolAxis b = a;
  *in = min_i(a.size, max_i(0, window_first(a, out.begin)));
  const std::int64_t end = max_i(*in, min_i(a.size, window_end(a, out.end - 1)));
  b.out = out.end - out.begin;
  b.size = end - *in;
  b.begin = a.begin + *in - (a.to > 0 ? 0 : out.begin * a.stride);
  b.end = a.end + a.size - end;
  b.first = a.first + out.begin;
  return b;
}

// Whether some window holds padding alone.
ARRAYNN_INLINE bool has_empty_windows(const PoolAxis& a) {
  for (std::int64_t o = 0; o < a.out; ++o) {
    const Range taps = window_taps(a, o);
    if (taps.begin == taps.end) return true;
  }
  return false;
}

// Taps of output position o that the divisor counts.
ARRAYNN_INLINE std::int64_t counted_taps(const PoolAxis& a, std::int64_t o, bool include_pad) {
  if (!include_pad || a.to > 0) {
    const Range taps = window_taps(a, o);
    return taps.end - taps.begin;
  }
  const std::int64_t room = a.size + a.end - (o * a.stride - a.begin);  // >= 1
  return min_i(a.kernel, a.dilation == 1 ? room : (room - 1) / a.dilation + 1);
}

// Every tap is one contiguous load up to this stride; beyond it rows are kept as they are and
// their taps read one by one.
inline constexpr std::int64_t kMaxPhases = 4;
// Room behind a row for the whole vectors of any ISA.
inline constexpr std::int64_t kRowSlack = 64;

// The padded row in L1: position p lies at (p % phases) * length + p / phases.
struct RowPlan {
  std::int64_t phases, length;
};

ARRAYNN_INLINE RowPlan row_plan(const PoolAxis& w) {
  const std::int64_t phases = w.stride <= kMaxPhases ? w.stride : 1;
  const std::int64_t reach = max_i(w.begin + w.size, (w.out - 1) * w.stride + window_span(w));
  return {phases, round_up(reach / phases + 1, 16) + kRowSlack};
}

// Elements of a thread's row, and of a vector over the output row.
ARRAYNN_INLINE std::int64_t row_elements(const PoolAxis& w) {
  const RowPlan plan = row_plan(w);
  return plan.phases * plan.length;
}
// A vector over the output row can be read a window beyond either end.
ARRAYNN_INLINE std::int64_t out_margin(const PoolAxis& w) {
  return round_up(window_span(w) / w.stride, 16) + kRowSlack;
}
ARRAYNN_INLINE std::int64_t out_elements(const PoolAxis& w) {
  return round_up(w.out, 16) + 2 * out_margin(w);
}

// A padded row with the offsets of its taps, and three vectors over the output row (largest value,
// its offset, the first offset; or the divisors and the shares).
ARRAYNN_INLINE std::int64_t row_scratch_bytes(const PoolAxis& w, std::int64_t item) {
  return round_up(w.kernel * 8, 64) + round_up((row_elements(w) + 3 * out_elements(w)) * item, 64);
}

// The padded rows that indices are found in: a ring of rows of a plane, two rows of windows high, or
// of planes of a volume, one box deep. Sizes of rings are powers of two.
struct RingPlan {
  std::int64_t rows, row_mask, planes, plane_mask;

  std::int64_t slots() const { return rows * planes; }
};
ARRAYNN_INLINE std::int64_t ring_size(std::int64_t wanted) {
  std::int64_t size = 1;
  while (size < wanted) size *= 2;
  return size;
}
ARRAYNN_INLINE RingPlan ring_plan(const VolumeProblem& v) {
  const PoolAxis& h = v.plane.h;
  if (is_flat(v)) {
    const std::int64_t rows = ring_size(min_i(h.size, window_span(h) + h.stride));
    return {rows, rows - 1, 1, 0};
  }
  const std::int64_t planes = ring_size(min_i(v.d.size, window_span(v.d)));
  return {h.size, ~std::int64_t{0}, planes, planes - 1};
}
// Of a thread that finds indices: the ring, or a row of maxima and their offsets.
ARRAYNN_INLINE std::int64_t find_bytes(const VolumeProblem& v, std::int64_t item) {
  if (v.plane.w.to > 0) return round_up(2 * round_up(v.plane.w.size, 16) * item, 64);
  const std::int64_t rows = ring_plan(v).slots() * row_elements(v.plane.w) * item;
  return row_scratch_bytes(v.plane.w, item) + round_up(rows, 64);
}

// What is asked of the kernels.
enum class PoolTask { kMax, kIndices, kSum, kMaxBackward, kSumBackward };

ARRAYNN_INLINE bool is_backward(PoolTask t) {
  return t == PoolTask::kMaxBackward || t == PoolTask::kSumBackward;
}

// Windows of 2 x 2 that tile planes of even size: pairs of a row are pairs of memory (tiles.hpp).
ARRAYNN_INLINE bool is_tiled(const PoolAxis& a) {
  return a.to == 0 && a.kernel == 2 && a.stride == 2 && a.dilation == 1 && a.begin == 0 &&
         a.size == 2 * a.out;
}
ARRAYNN_INLINE bool is_tiled(const PoolProblem& p, PoolTask t) {
  return t != PoolTask::kIndices && !p.channels_last && is_tiled(p.h) && is_tiled(p.w);
}

// One window over a whole plane: its memory in order (reduce.hpp).
ARRAYNN_INLINE bool is_one_window(const PoolAxis& a) {
  return a.to == 0 && a.out == 1 && a.kernel == a.size && a.dilation == 1 && a.begin == 0;
}
ARRAYNN_INLINE bool is_whole(const PoolProblem& p, PoolTask t) {
  const bool in_order = t == PoolTask::kMax || t == PoolTask::kSum || t == PoolTask::kSumBackward;
  return in_order && !p.channels_last && is_one_window(p.h) && is_one_window(p.w);
}

// Planes of a block that is pooled as channels_last: one or more vectors of any ISA.
inline constexpr std::int64_t kStagedPlanes = 16;
// A band of staged rows; twice that with its gradient stays in L2.
inline constexpr std::int64_t kStagedBytes = std::int64_t{128} << 10;

// The rows of a window, beyond which bands take too much memory.
inline constexpr std::int64_t kStagedWindow = std::int64_t{1} << 16;

// Rows of fewer outputs are staged.
inline constexpr std::int64_t kStagedWidth = 2 * kStagedPlanes;

// Long rows are faster as they are; adaptive windows have no common stride to keep apart in a row.
// Sums of the two ways differ in their last bits: the number of samples must not choose.
ARRAYNN_INLINE bool is_staged(const PoolProblem& p, PoolTask t) {
  if (p.channels_last || is_tiled(p, t) || is_whole(p, t)) return false;
  if (p.h.to > 0 || p.w.to > 0) return true;
  return p.c >= kStagedPlanes / 2 && p.w.out < kStagedWidth &&
         min_i(p.h.size, window_span(p.h)) * p.w.size <= kStagedWindow;
}
// Rows of dx of a band, or of y.
ARRAYNN_INLINE std::int64_t staged_rows(const PoolProblem& p, std::int64_t item, bool backward) {
  const std::int64_t row_bytes = max_i(1, p.w.size * kStagedPlanes * item);
  const std::int64_t rows = max_i(window_span(p.h), kStagedBytes / row_bytes);  // of the input
  return backward ? rows : (rows - window_span(p.h)) / p.h.stride + 1;
}
ARRAYNN_INLINE std::int64_t staged_bands(const PoolProblem& p, std::int64_t item, bool backward) {
  return ceil_div(backward ? p.h.size : p.h.out, staged_rows(p, item, backward));
}
ARRAYNN_INLINE std::int64_t staged_units(const PoolProblem& p, std::int64_t item, bool backward) {
  return ceil_div(p.n * p.c, kStagedPlanes) * staged_bands(p, item, backward);
}

// Adaptive windows so many rows high are reduced along memory, column by column (columns.hpp): that
// takes less than moving them. 4 rows of 28 columns do not yet.
inline constexpr std::int64_t kColumnRows = 6;

ARRAYNN_INLINE bool is_by_columns(const PoolProblem& p) {
  return !p.channels_last && p.h.to > 0 && p.w.to > 0 && p.h.size >= kColumnRows * p.h.out &&
         p.w.size >= kStagedPlanes;
}
// Elements of as many reduced rows as a vector of any ISA has lanes, and of their windows, as they
// are and transposed.
ARRAYNN_INLINE std::int64_t column_elements(const PoolAxis& w) {
  return 2 * kStagedPlanes * (round_up(w.size, kStagedPlanes) + round_up(w.out, kStagedPlanes));
}

// At most as many windows touch `rows` positions in a row.
ARRAYNN_INLINE std::int64_t windows_over(const PoolAxis& a, std::int64_t rows) {
  if (a.to > 0) return ceil_div(rows * a.to, a.from) + 2;
  return (rows + window_span(a)) / a.stride + 2;
}

// Elements of the longest band, its input and its output.
struct StagedSizes {
  std::int64_t in, out;
};
ARRAYNN_INLINE StagedSizes staged_sizes(const PoolProblem& p, std::int64_t item, bool backward) {
  const std::int64_t bands = staged_bands(p, item, backward), span = window_span(p.h);
  const std::int64_t rows = ceil_div(backward ? p.h.size : p.h.out, bands);
  const std::int64_t out = min_i(p.h.out, backward ? windows_over(p.h, rows) : rows);
  const std::int64_t in =
      min_i(p.h.size, backward ? rows + 2 * span : (rows - 1) * p.h.stride + span);
  return {in * p.w.size * kStagedPlanes, out * p.w.out * kStagedPlanes};
}

// The gradient of maxima, channels_last: small windows are looked through again.
ARRAYNN_INLINE bool is_walked(const PoolProblem& p) {
  return p.channels_last && p.h.kernel * p.w.kernel <= 9;
}
// Of others that are not tiles the positions are found for a band of windows, whose
// gradients are then added there. A band is a block of planes where those are staged, else rows of y
// of a plane or sample whose positions stay in L2.
inline constexpr std::int64_t kFoundBytes = std::int64_t{128} << 10;

ARRAYNN_INLINE std::int64_t found_row(const PoolProblem& p) {
  return p.w.out * (p.channels_last ? p.c : 1);
}
ARRAYNN_INLINE std::int64_t found_rows(const PoolProblem& p, std::int64_t item) {
  return min_i(p.h.out, max_i(1, kFoundBytes / (found_row(p) * (item + 8))));
}
// The problem of rows `out` of y of one plane or sample; *in is the row of the input where it begins.
ARRAYNN_INLINE PoolProblem found_band(const PoolProblem& p, Range out, std::int64_t* in) {
  return {1, p.channels_last ? p.c : 1, band_of(p.h, out, in), p.w, p.channels_last};
}
// And of a block of planes.
ARRAYNN_INLINE PoolProblem found_block(const PoolProblem& p, std::int64_t block) {
  const std::int64_t left = p.n * p.c - block * kStagedPlanes;
  return {1, min_i(kStagedPlanes, left), p.h, p.w, false};
}
// The largest values of a band, then their positions.
struct FoundBytes {
  std::int64_t values, indices;
};
ARRAYNN_INLINE FoundBytes found_bytes(const PoolProblem& p, std::int64_t item) {
  const std::int64_t elements = is_staged(p, PoolTask::kIndices)
                                    ? kStagedPlanes * p.h.out * p.w.out
                                    : found_rows(p, item) * found_row(p);
  return {round_up(elements * item, 64), round_up(elements * 8, 64)};
}

// Of a thread.
ARRAYNN_INLINE std::int64_t thread_scratch_bytes(const PoolProblem& p, std::int64_t item,
                                                 PoolTask t) {
  if (is_tiled(p, t) || is_whole(p, t)) return 0;
  if (t == PoolTask::kMaxBackward && is_walked(p)) return 0;
  if (t == PoolTask::kMaxBackward) {
    const FoundBytes found = found_bytes(p, item);
    const std::int64_t staged = thread_scratch_bytes(p, item, PoolTask::kIndices);
    // A last block of few planes goes by rows.
    return found.values + found.indices + max_i(staged, find_bytes(flat_volume(p), item));
  }
  if (p.channels_last) return 0;
  if (!is_staged(p, t)) {
    return t == PoolTask::kIndices ? find_bytes(flat_volume(p), item)
                                   : row_scratch_bytes(p.w, item);
  }
  if (is_by_columns(p) && t != PoolTask::kIndices) {
    return row_scratch_bytes(p.w, item) + column_elements(p.w) * item;
  }
  const StagedSizes s = staged_sizes(p, item, is_backward(t));
  return round_up((s.in + s.out) * item, 64) + (t == PoolTask::kIndices ? s.out * 8 : 0);
}

// What a team shares: units of a staged task, blocks of planes whose maxima are looked for, or rows
// of y or dx.
ARRAYNN_INLINE std::int64_t pool_shares(const PoolProblem& p, std::int64_t item, PoolTask t) {
  if (t == PoolTask::kMaxBackward && is_staged(p, t)) return ceil_div(p.n * p.c, kStagedPlanes);
  if (is_staged(p, t)) return staged_units(p, item, is_backward(t));
  return (p.channels_last ? p.n : p.n * p.c) * (is_backward(t) ? p.h.size : p.h.out);
}

// Moves `in` elements of every plane to positions out of `out`, or adds them there. A thread owns
// planes, or `block` channels of a sample (channels_last), so that of equal indices the last one
// wins, and sums have one order, for every team.
struct UnpoolProblem {
  std::int64_t n, c, in, out;
  bool channels_last;
  std::int64_t block = 1;
  // Of sums:
  bool has_empty = false;  // windows without elements, whose index is -1
  bool zeroed = false;     // the planes are
  std::int64_t first = 0;  // position of the first of the `out`: the others move nothing
};

ARRAYNN_INLINE std::int64_t unpool_units(const UnpoolProblem& p) {
  return p.n * ceil_div(p.c, p.block);
}

// Channels that a thread of channels_last takes: all of a sample, in order of memory, unless there
// are more threads than samples; then whole cache lines.
inline constexpr std::int64_t kScatterChannels = 16;
ARRAYNN_INLINE std::int64_t channels_of_unit(std::int64_t n, std::int64_t c, std::int64_t threads) {
  return min_i(c, round_up(ceil_div(c, ceil_div(threads, max_i(1, n))), kScatterChannels));
}

template <class T>
struct PoolTable {
  // [begin, end) are rows of y, over all planes (channels_first) or samples (channels_last), or
  // units of a staged task.
  void (*max)(const PoolProblem& p, const T* x, T* y, Range rows, void* scratch);
  // Of volumes rows of y as well.
  void (*max_indices)(const VolumeProblem& v, const T* x, T* y, std::int64_t* indices, Range rows,
                      void* scratch);
  void (*average)(const PoolProblem& p, const AverageDivisor& d, const T* x, T* y, Range rows,
                  void* scratch);
  // Likewise rows of dx; of maxima tiles, and channels_last.
  void (*max_of_tiles_backward)(const PoolProblem& p, const T* dy, const T* x, T* dx, Range rows);
  void (*max_backward)(const PoolProblem& p, const T* dy, const T* x, T* dx, Range rows);
  void (*average_backward)(const PoolProblem& p, const AverageDivisor& d, const T* dy, T* dx,
                           Range rows, void* scratch);
  // Without `root` the sums of the powers alone.
  void (*lp)(const PoolProblem& p, double norm, bool root, const T* x, T* y, Range rows,
             void* scratch);
  // What every tap of a window shares, for rows of y; then dx *= x^(norm - 1).
  void (*lp_shares)(const PoolProblem& p, double norm, const T* dy, const T* y, T* shares,
                    Range rows);
  void (*lp_slopes)(double norm, const T* x, T* dx, Range elements);
  // False when an index lies outside its plane.
  bool (*scatter)(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y,
                  Range units);
  bool (*unpool)(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y,
                 Range units);
  bool (*unpool_backward)(const UnpoolProblem& p, const T* dy, const std::int64_t* indices, T* dx,
                          Range units);
};
// Max pooling of integers: rows of y, over all planes.
template <class T>
using MaxInteger = void (*)(const VolumeProblem& v, const T* x, T* y, std::int64_t* indices,
                            Range rows);
struct PoolKernels : FloatKernels<PoolTable> {
  MaxInteger<std::uint8_t> max_u8;
  MaxInteger<std::int8_t> max_i8;
  MaxInteger<std::int16_t> max_i16;
  MaxInteger<std::int32_t> max_i32;
  MaxInteger<std::int64_t> max_i64;

  MaxInteger<std::uint8_t> integer(std::uint8_t) const { return max_u8; }
  MaxInteger<std::int8_t> integer(std::int8_t) const { return max_i8; }
  MaxInteger<std::int16_t> integer(std::int16_t) const { return max_i16; }
  MaxInteger<std::int32_t> integer(std::int32_t) const { return max_i32; }
  MaxInteger<std::int64_t> integer(std::int64_t) const { return max_i64; }
};

ARRAYNN_KERNEL_TABLE(PoolKernels, pool_kernels)

// Elements that one thread should have at least: about 10 us of memory traffic, the order of waking
// a team.
inline constexpr double kPoolGrain = 32768;

// Contiguous arrays in the problem's layout, for the function `op` of the module. `indices` may be
// null: not wanted, or not given. One spatial axis is two, one of them of size 1.
template <class T>
void max_pool(const char* op, const PoolProblem& p, const T* x, T* y, std::int64_t* indices);
template <class T>
bool max_pool_backward(const char* op, const PoolProblem& p, const T* dy, const T* x,
                       const std::int64_t* indices, T* dx);
template <class T>
void avg_pool(const char* op, const PoolProblem& p, const AverageDivisor& d, const T* x, T* y);
template <class T>
void avg_pool_backward(const char* op, const PoolProblem& p, const AverageDivisor& d, const T* dy,
                       T* dx);
template <class T>
void lp_pool(const char* op, const PoolProblem& p, double norm, const T* x, T* y);
template <class T>
void lp_pool_backward(const char* op, const PoolProblem& p, double norm, const T* dy, const T* x,
                      const T* y, T* dx);
// Adds the elements of x at their positions.
template <class T>
bool scatter(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y);
template <class T>
bool max_unpool(const UnpoolProblem& p, const T* x, const std::int64_t* indices, T* y);
template <class T>
bool max_unpool_backward(const UnpoolProblem& p, const T* dy, const std::int64_t* indices, T* dx);

}  // namespace arraynn
