// Few source channels, channels_first: the first layers of networks, forward and transposed.
//
// Staging such an input as [column][channel] and transposing the result back costs more than the few
// products of a pixel. Here lanes are neighbouring columns of a row, in and out: a tile is MR output
// channels of NV vectors of pixels, and a tap reads a vector of the staged row at its own offset.
//   staged    [row][channel][phase][column / step]: columns that are equal modulo the stride lie
//             together, within their border of zeros, so that every tap is a contiguous load
//   packed    [tile of channels][tap][channel of the tile]
// Rows of less than kFlatColumns results, of stride 1, are one long row: for every kernel column
//   staged    [channel][kernel column][row][column], shifted and with zeros where it leaves a row
// so that lanes are neighbours in the plane of the result, whatever row they are in.
// Sums run over kernel row, kernel column, channel, as those of the direct convolution in one block;
// kernel rows beside the image are left out, and zeros beside its columns change no sum of numbers.
#include "conv/border.hpp"
#include "conv/conv.hpp"
#include "core/parallel.hpp"
#include "gemm/tile_table.hpp"
#include "simd/activation.hpp"
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Staged rows of a strip, which each tile of channels walks anew: most of an L2 of 512 KiB.
constexpr std::int64_t kStagedBytes = std::int64_t{192} << 10;

constexpr std::int64_t kFlatColumns = 24;

template <class T>
struct Layout {
  bool flat;
  std::int64_t phases, pitch, row;  // pitch: of a phase of a channel; row: of all channels
  std::int64_t cuts, width;         // parts of an output row, each a strip; their columns
  std::int64_t rows, staged;        // output rows of a strip; elements
  std::int64_t taps, tap_row;       // all, and those of a kernel row
  std::int64_t tiles, packed;       // of channels; elements
  std::int64_t bytes;               // of a member
};

template <class T>
Layout<T> make_layout(const DirectConv<T>& d, int threads) {
  Layout<T> l{};
  l.phases = d.w.step;
  const std::int64_t span = d.w.offset[d.w.taps - 1] - d.w.offset[0];
  const std::int64_t height = d.h.offset[d.h.taps - 1] - d.h.offset[0] + 1;
  const auto item = static_cast<std::int64_t>(sizeof(T));
  l.tap_row = d.w.taps * d.channels;
  l.taps = d.h.taps * l.tap_row;
  l.tiles = ceil_div(d.columns, kMR);
  l.packed = d.columns * l.taps;
  l.flat = d.w.count < kFlatColumns && d.w.step == 1 && d.h.step == 1;
  if (l.flat) {
    l.cuts = 1;
    l.row = l.width = d.w.count;
    l.rows = min_i(d.h.count, max_i(1, kStagedBytes / (l.tap_row * l.row * item) - height + 1));
    l.pitch = round_up(round_up(l.rows * l.row, kNR<T>) + (height - 1) * l.row, kLanes<T>);
    l.staged = l.tap_row * l.pitch + kLanes<T>;
    l.bytes = round_up(l.staged * item, 64) + round_up(l.taps * 8, 64);
    return l;
  }
  // Rows that are too long, or fewer than the team, are cut at whole tiles.
  const std::int64_t bytes = height * d.channels * l.phases * d.w.count * item;
  const std::int64_t parts =
      max_i(ceil_div(bytes, kStagedBytes), ceil_div(threads, d.n * d.h.count));
  l.width = round_up(ceil_div(d.w.count, parts), kNR<T>);
  l.cuts = ceil_div(d.w.count, l.width);
  l.pitch = l.width + round_up(span / l.phases + 1, kLanes<T>);
  l.row = d.channels * l.phases * l.pitch;
  const std::int64_t fitting = (kStagedBytes / (l.row * item) - height) / d.h.step + 1;
  l.rows = l.cuts > 1 ? 1 : min_i(d.h.count, max_i(1, fitting));
  l.staged = ((l.rows - 1) * d.h.step + height) * l.row;
  l.bytes = round_up(l.staged * item, 64) + round_up(l.taps * 8, 64);
  return l;
}

template <class T>
std::int64_t packed_bytes(const Layout<T>& l) {
  return round_up(l.packed * static_cast<std::int64_t>(sizeof(T)), 64);
}

template <class T>
std::int64_t first_scratch(const DirectConv<T>& d, int threads) {
  const Layout<T> l = make_layout(d, threads);
  return packed_bytes(l) + threads * l.bytes;
}

// One source row of one channel, phase by phase, as the results from `column` on read it.
template <class T>
void stage_row(const DirectConv<T>& d, const Layout<T>& l, const T* src, std::int64_t column,
               T* dst) {
  constexpr int kL = kLanes<T>;
  const std::int64_t step = l.phases;
  for (std::int64_t f = 0; f < step; ++f, dst += l.pitch) {
    // Element q is source column first + q step; those in [begin, end) exist.
    const std::int64_t first = d.w.offset[0] + column * step + f;
    const std::int64_t begin = min_i(l.pitch, first < 0 ? ceil_div(-first, step) : 0);
    const std::int64_t room = d.w.size - first;
    const std::int64_t end = max_i(begin, min_i(l.pitch, room > 0 ? ceil_div(room, step) : 0));
    __builtin_memset(dst, 0, static_cast<std::size_t>(begin) * sizeof(T));
    __builtin_memset(dst + end, 0, static_cast<std::size_t>(l.pitch - end) * sizeof(T));
    const T* p = src + first;
    if (step == 1) {
      __builtin_memcpy(dst + begin, p + begin, static_cast<std::size_t>(end - begin) * sizeof(T));
    } else if (step == 2) {
      for (std::int64_t q = begin; q < end; q += kL) {
        const std::int64_t n = min_i(kL, end - q);
        store_n(load_even(p + 2 * q, n), dst + q, n);
      }
    } else {
      for (std::int64_t q = begin; q < end; ++q) dst[q] = p[q * step];
    }
  }
}

// Where a tile of results goes, and what is added on the way.
template <class T>
struct TileTarget {
  T* out;
  const T* residual;  // like out, or null
  std::int64_t plane, columns;
  const T* bias;  // of the tile's first channel, or null
  const Activation* activation;
};

// out[i plane + b] = sum over taps of w[tap kRows + i] * staged[offset[tap] + b]
template <class T, int kRows, int kVectors>
[[gnu::noinline]] void first_ukernel(const T* staged, const std::int64_t* offset, std::int64_t taps,
                                     const T* w, const TileTarget<T>& t) {
  constexpr int kL = kLanes<T>;
  Vec<T> acc[kRows][kVectors];
  ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
    ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j] = Vec<T>::zero();
  }
  for (std::int64_t k = 0; k < taps; ++k) {
    const T* x = staged + offset[k];
    Vec<T> xv[kVectors];
    ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) xv[j] = Vec<T>::load(x + j * kL);
    ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
      const Vec<T> wv = Vec<T>::set1(w[i]);
      ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(wv, xv[j], acc[i][j]);
    }
    w += kRows;
  }
  ARRAYNN_UNROLL for (int i = 0; i < kRows; ++i) {
    if (t.bias != nullptr) {
      const Vec<T> bias = Vec<T>::set1(t.bias[i]);
      ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) acc[i][j] = acc[i][j] + bias;
    }
    if (t.residual != nullptr) {
      ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) {
        acc[i][j] = acc[i][j] + load_n(t.residual + i * t.plane + j * kL,
                                       max_i(0, min_i(kL, t.columns - j * kL)));
      }
    }
    activate_tile(*t.activation, acc[i]);
    T* out = t.out + i * t.plane;
    ARRAYNN_UNROLL for (int j = 0; j < kVectors; ++j) {
      const std::int64_t n = t.columns - j * kL;
      if (n >= kL) {
        acc[i][j].store(out + j * kL);
      } else if (n > 0) {
        store_n(acc[i][j], out + j * kL, n);
      }
    }
  }
}

template <class T>
struct FirstTiles {
  template <int kRows, int kVectors>
  static constexpr auto tile() {
    return &first_ukernel<T, kRows, kVectors>;
  }
};

// Packed weights of the tile of channels [j.begin, j.end).
template <class T>
void pack_tile(const DirectConv<T>& d, Range j, T* dst) {
  for (std::int64_t i = 0; i < d.h.taps; ++i) {
    for (std::int64_t k = 0; k < d.w.taps; ++k) {
      const T* w = d.weight + d.h.kernel[i] * d.kernel_w + d.w.kernel[k];
      for (std::int64_t c = 0; c < d.channels; ++c) {
        for (std::int64_t o = j.begin; o < j.end; ++o) {
          *dst++ = w[o * d.weight_j + c * d.weight_c];
        }
      }
    }
  }
}

template <class T>
void fill_offsets(const DirectConv<T>& d, const Layout<T>& l, std::int64_t* offset) {
  for (std::int64_t i = 0; i < d.h.taps; ++i) {
    for (std::int64_t k = 0; k < d.w.taps; ++k) {
      const std::int64_t column = d.w.offset[k] - d.w.offset[0];
      for (std::int64_t c = 0; c < d.channels; ++c) {
        *offset++ = (d.h.offset[i] - d.h.offset[0]) * l.row +
                    (l.flat ? (c * d.w.taps + k) * l.pitch
                            : (c * l.phases + column % l.phases) * l.pitch + column / l.phases);
      }
    }
  }
}

// Source rows of one channel from `top` on as one column of the kernel meets them.
template <class T>
void stage_flat(const DirectConv<T>& d, const T* src, std::int64_t top, std::int64_t rows,
                std::int64_t offset, T* dst) {
  constexpr int kL = kLanes<T>;
  const std::int64_t width = d.w.count;
  const std::int64_t begin = min_i(width, max_i(0, -offset));
  const std::int64_t end = max_i(begin, min_i(width, d.w.size - offset));
  for (std::int64_t r = top; r < top + rows; ++r, dst += width) {
    const bool inside = r >= 0 && r < d.h.size;
    // What a vector writes behind the row is the next one, not yet staged.
    for (std::int64_t q = 0; q < width; q += kL) {
      const std::int64_t from = max_i(0, min_i(kL, begin - q));
      const std::int64_t to = max_i(from, min_i(kL, end - q));
      const bool empty = !inside || from == to;
      (empty ? Vec<T>::zero() : load_between(src + (r * d.w.size + offset + q), from, to))
          .store(dst + q);
    }
  }
}

// Rows of the result of one sample, as one row.
template <class T>
void run_flat(const DirectConv<T>& d, const Layout<T>& l, std::int64_t sample, Range rows,
              const T* packed, const std::int64_t* offset, T* staged) {
  const std::int64_t in = d.h.size * d.w.size, plane = d.out_h * d.out_w;
  const std::int64_t count = rows.end - rows.begin, positions = count * d.w.count;
  const std::int64_t top = rows.begin + d.h.offset[0];
  const std::int64_t height = count + d.h.offset[d.h.taps - 1] - d.h.offset[0];
  for (std::int64_t c = 0; c < d.channels; ++c) {
    const T* src = d.src + (sample * d.src_channels + d.src_channel + c) * in;
    for (std::int64_t k = 0; k < d.w.taps; ++k) {
      stage_flat(d, src, top, height, d.w.offset[k], staged + (c * d.w.taps + k) * l.pitch);
    }
  }
  for (std::int64_t t = 0; t < l.tiles; ++t) {
    const Range j = split_range(d.columns, l.tiles, t);
    const std::int64_t first = (sample * d.out_channels + d.out_channel + j.begin) * plane;
    const auto& ukernels = kTileTable<FirstTiles<T>>.at[j.end - j.begin - 1];
    for (std::int64_t b = 0; b < positions; b += kNR<T>) {
      const std::int64_t at = first + rows.begin * d.w.count + b;
      const TileTarget<T> target{
          d.out + at,    d.residual != nullptr ? d.residual + at : nullptr, plane,
          positions - b, d.bias != nullptr ? d.bias + j.begin : nullptr,    &d.activation};
      ukernels[positions - b > kLanes<T> ? 1 : 0](staged + b, offset, l.taps,
                                                  packed + j.begin * l.taps, target);
    }
  }
}

// Rows and columns of the result of one sample.
template <class T>
void run_strip(const DirectConv<T>& d, const Layout<T>& l, std::int64_t sample, Range rows,
               Range columns, const T* packed, const std::int64_t* offset, T* staged) {
  if (l.flat) return run_flat(d, l, sample, rows, packed, offset, staged);
  const std::int64_t in = d.h.size * d.w.size, plane = d.out_h * d.out_w;
  const T* src = d.src + (sample * d.src_channels + d.src_channel) * in;
  const std::int64_t top = rows.begin * d.h.step + d.h.offset[0];
  const std::int64_t bottom = (rows.end - 1) * d.h.step + d.h.offset[d.h.taps - 1];
  for (std::int64_t r = max_i(0, top); r < min_i(d.h.size, bottom + 1); ++r) {
    for (std::int64_t c = 0; c < d.channels; ++c) {
      stage_row(d, l, src + c * in + r * d.w.size, columns.begin,
                staged + (r - top) * l.row + c * l.phases * l.pitch);
    }
  }
  for (std::int64_t t = 0; t < l.tiles; ++t) {
    const Range j = split_range(d.columns, l.tiles, t);
    const std::int64_t first = (sample * d.out_channels + d.out_channel + j.begin) * plane;
    const auto& ukernels = kTileTable<FirstTiles<T>>.at[j.end - j.begin - 1];
    for (std::int64_t a = rows.begin; a < rows.end; ++a) {
      const Segment seen = taps_at(d.h, a);
      const std::int64_t tap = seen.tap_begin * l.tap_row;
      const T* w = packed + j.begin * l.taps + tap * (j.end - j.begin);
      for (std::int64_t b = columns.begin; b < columns.end; b += kNR<T>) {
        const std::int64_t at = first + a * d.out_w + b, count = columns.end - b;
        const T* row = staged + (a - rows.begin) * d.h.step * l.row + b - columns.begin;
        const TileTarget<T> target{
            d.out + at, d.residual != nullptr ? d.residual + at : nullptr, plane,
            count,      d.bias != nullptr ? d.bias + j.begin : nullptr,    &d.activation};
        ukernels[count > kLanes<T> ? 1 : 0](row, offset + tap, seen.taps() * l.tap_row, w, target);
      }
    }
  }
}

template <class T>
void run_first(const DirectConv<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Layout<T> l = make_layout(d, nthreads);
    T* packed = static_cast<T*>(scratch);
    const Range tiles = split_range(l.tiles, nthreads, tid);
    for (std::int64_t t = tiles.begin; t < tiles.end; ++t) {
      const Range j = split_range(d.columns, l.tiles, t);
      pack_tile(d, j, packed + j.begin * l.taps);
    }
    char* base = static_cast<char*>(scratch) + packed_bytes(l) + tid * l.bytes;
    auto* offset = reinterpret_cast<std::int64_t*>(base);
    fill_offsets(d, l, offset);
    T* staged = reinterpret_cast<T*>(base + round_up(l.taps * 8, 64));
    team_barrier(nthreads);
    const Range units = split_range(d.n * d.h.count * l.cuts, nthreads, tid);
    for (std::int64_t u = units.begin; u < units.end;) {
      const std::int64_t row = u / l.cuts, begin = u % l.cuts * l.width, a = row % d.h.count;
      const std::int64_t count = min_i(l.rows, min_i(d.h.count - a, units.end - u));
      run_strip(d, l, row / d.h.count, {a, a + count}, {begin, min_i(d.w.count, begin + l.width)},
                packed, offset, staged);
      u += count;
    }
  });
}

}  // namespace

extern const FloatKernels<FirstTable> first_kernels = {
    {&first_scratch<float>, &run_first<float>}, {&first_scratch<double>, &run_first<double>}};

}  // namespace ARRAYNN_ISA_NAMESPACE
