// Few result channels: the gradient of a first layer by x, and transposed convolutions to an image.
//
// As columns of a matrix product three channels fill a tenth of a vector. Here lanes are neighbouring
// columns of a row, and a vector of the source serves all results at once:
//   staged    [plane of the kernel's depth][row][channel][column] of a block of channels, with its border
//             of zeros; this is where channels_last becomes planes
//   packed    [block][residue][tap][channel of the block][result]
//   sums      [residue][row][result][column] of a strip, over the blocks of channels in order
// Within a block sums run over kernel row, kernel column, channel.
#include "conv/lanes.hpp"
#include "conv/residues.hpp"
#include "core/index.hpp"
#include "core/parallel.hpp"
#include "gemm/blocking.hpp"
#include "simd/activation.hpp"
#include "simd/transpose.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// Channels that are staged together: a block of many rows, so that few are staged twice.
constexpr std::int64_t kChannels = 16;
// Staged rows of a strip and its sums, most of an L2 of 512 KiB.
constexpr std::int64_t kStripBytes = std::int64_t{320} << 10;
// Vectors of a row of a tile: 4 x 4 sums + 4 of the source + 1 weight of 32 registers, or 4 x 3 + 3 + 1
// of 16. Four sums and fewer would wait for one another: such a tile has several rows, unlike one of
// three results of two vectors (measured: 0.8x with two rows).
constexpr int kVectors = kVectorRegisters == 32 ? 4 : 3;
constexpr int kSums = kVectorRegisters == 32 ? 16 : 8;
constexpr int lines_of(int sums) {
  return sums > 4 ? 1 : 8 * sums <= kSums ? 8 : 4 * sums <= kSums ? 4 : 2;
}

template <class T>
struct Layout {
  std::int64_t vectors;       // of a row of the result that fills less than a tile, else of a tile
  std::int64_t width;         // elements of a row of sums
  std::int64_t pitch, row;    // elements: of a line, of all channels of a block
  std::int64_t plane;         // elements: of the rows that a strip sees of a plane
  std::int64_t span_h, rows;  // source rows that a result sees; rows of a strip
  std::int64_t taps, blocks;  // of the kernel, that of all residues; of channels
  std::int64_t staged, sums;  // elements
  std::int64_t packed, tables;  // bytes of the team; of a member's offsets
  std::int64_t bytes;           // of a member
};

template <class T>
Layout<T> make_layout(const ResidueConv<T>& d) {
  constexpr int kL = kLanes<T>;
  const auto item = static_cast<std::int64_t>(sizeof(T));
  Layout<T> l{};
  const std::int64_t span_w = d.w.offset[d.w.taps - 1] - d.w.offset[0] + 1;
  const std::int64_t vectors = ceil_div(d.w.count, kL);
  l.vectors = vectors <= 2 ? vectors : kVectors;
  l.width = round_up(d.w.count, l.vectors * kL);
  l.pitch = l.width + round_up(span_w - 1, kL);
  // Lines a power of two apart would share cache sets.
  if (rows_alias<T>(l.pitch * 4)) l.pitch += kL;
  l.row = min_i(kChannels, d.channels) * l.pitch;
  l.span_h = d.h.offset[d.h.taps - 1] - d.h.offset[0] + 1;
  const std::int64_t sums = d.residues() * d.columns * l.width;
  const std::int64_t deep = d.depth.taps * l.row;
  const std::int64_t fitting = (kStripBytes / item - (l.span_h - 1) * deep) / (deep + sums);
  l.rows = min_i(d.h.count, max_i(1, fitting));
  l.taps = d.taps();
  l.blocks = ceil_div(d.channels, kChannels);
  l.plane = (l.rows - 1 + l.span_h) * l.row;
  l.staged = d.depth.taps * l.plane;
  l.sums = l.rows * sums;
  l.packed = round_up(d.channels * l.taps * d.columns * item, 64);
  l.tables = round_up(l.taps * kChannels * 8, 64);
  l.bytes = l.tables + round_up(l.staged * item, 64) + round_up(l.sums * item, 64);
  return l;
}

template <class T>
std::int64_t few_scratch(const ResidueConv<T>& d, int threads) {
  const Layout<T> l = make_layout(d);
  return l.packed + threads * l.bytes;
}

Range block_range(std::int64_t channels, std::int64_t block) {
  return {block * kChannels, min_i(channels, (block + 1) * kChannels)};
}

// One row of source plane `image` of the channels of a block.
template <class T>
void stage_row(const ResidueConv<T>& d, const Layout<T>& l, std::int64_t image, std::int64_t row,
               Range channels, T* dst) {
  const std::int64_t count = channels.end - channels.begin, first = d.w.offset[0];
  const bool inside = image >= 0 && row >= 0 && row < d.h.size;
  const std::int64_t begin = inside ? min_i(l.pitch, max_i(0, -first)) : l.pitch;
  const std::int64_t end = inside ? max_i(begin, min_i(l.pitch, d.w.size - first)) : l.pitch;
  const std::int64_t source = d.src_channel + channels.begin;
  const std::int64_t size = d.h.size * d.w.size, plane = d.depth.size * size;
  const T* src = d.src;
  if (!d.channels_last && begin < end) {
    const std::int64_t sample = image / d.depth.size;
    src +=
        (sample * d.src_channels + source) * plane + image % d.depth.size * size + row * d.w.size;
  }
  for (std::int64_t q = 0; q < l.pitch; q += kLanes<T>) {
    const std::int64_t from = max_i(0, min_i(kLanes<T>, begin - q));
    const std::int64_t to = max_i(from, min_i(kLanes<T>, end - q));
    const bool whole = to - from == kLanes<T>;
    T* line = dst + q;
    if (from == to || (d.channels_last && !whole)) {
      for (std::int64_t c = 0; c < count; ++c) Vec<T>::zero().store(line + c * l.pitch);
    } else if (!d.channels_last) {
      for (std::int64_t c = 0; c < count; ++c) {
        const T* p = src + (c * plane + first + q);
        (whole ? Vec<T>::load(p) : load_between(p, from, to)).store(line + c * l.pitch);
      }
    }
  }
  if (!d.channels_last || begin == end) return;
  const std::int64_t pixel = (image * d.h.size + row) * d.w.size + first + begin;
  transpose_copy(d.src + pixel * d.src_channels + source, d.src_channels, dst + begin, l.pitch,
                 end - begin, count);
}

// sums[(r kResults + i) ld + b] (+)= sum over k of w[k kResults + i] staged[r line + offset[k] + b],
// from 0 or from what is there.
template <class T, int kResults, int kLines, int kCount>
[[gnu::noinline]] void few_ukernel(const T* staged, std::int64_t line, const std::int64_t* offset,
                                   std::int64_t count, const T* w, bool add, T* sums,
                                   std::int64_t ld) {
  constexpr int kL = kLanes<T>;
  Vec<T> acc[kLines][kResults][kCount];
  ARRAYNN_UNROLL for (int r = 0; r < kLines; ++r) {
    ARRAYNN_UNROLL for (int i = 0; i < kResults; ++i) {
      ARRAYNN_UNROLL for (int j = 0; j < kCount; ++j) {
        acc[r][i][j] = add ? Vec<T>::load(sums + (r * kResults + i) * ld + j * kL) : Vec<T>::zero();
      }
    }
  }
  for (std::int64_t k = 0; k < count; ++k) {
    const T* x = staged + offset[k];
    if constexpr (kLines == 1) {
      Vec<T> xv[kCount];
      ARRAYNN_UNROLL for (int j = 0; j < kCount; ++j) xv[j] = Vec<T>::load(x + j * kL);
      ARRAYNN_UNROLL for (int i = 0; i < kResults; ++i) {
        const Vec<T> wv = Vec<T>::set1(w[i]);
        ARRAYNN_UNROLL for (int j = 0; j < kCount; ++j) {
          acc[0][i][j] = fma(wv, xv[j], acc[0][i][j]);
        }
      }
    } else {
      Vec<T> wv[kResults];
      ARRAYNN_UNROLL for (int i = 0; i < kResults; ++i) wv[i] = Vec<T>::set1(w[i]);
      ARRAYNN_UNROLL for (int r = 0; r < kLines; ++r) {
        ARRAYNN_UNROLL for (int j = 0; j < kCount; ++j) {
          const Vec<T> xv = Vec<T>::load(x + j * kL);
          ARRAYNN_UNROLL for (int i = 0; i < kResults; ++i) {
            acc[r][i][j] = fma(wv[i], xv, acc[r][i][j]);
          }
        }
        x += line;
      }
    }
    w += kResults;
  }
  ARRAYNN_UNROLL for (int r = 0; r < kLines; ++r) {
    ARRAYNN_UNROLL for (int i = 0; i < kResults; ++i) {
      ARRAYNN_UNROLL for (int j = 0; j < kCount; ++j) {
        acc[r][i][j].store(sums + (r * kResults + i) * ld + j * kL);
      }
    }
  }
}

// Of `lines` rows, and of those that are left.
template <class T>
struct FewUkernel {
  using Tile = void (*)(const T*, std::int64_t, const std::int64_t*, std::int64_t, const T*, bool,
                        T*, std::int64_t);
  int lines;
  Tile many, one;
};
template <class T, int kResults, int kCount>
FewUkernel<T> few_at() {
  constexpr int kLines = lines_of(kResults * kCount);
  return {kLines, &few_ukernel<T, kResults, kLines, kCount>, &few_ukernel<T, kResults, 1, kCount>};
}
template <class T, int kResults>
FewUkernel<T> few_of(std::int64_t vectors) {
  return vectors == 1   ? few_at<T, kResults, 1>()
         : vectors == 2 ? few_at<T, kResults, 2>()
                        : few_at<T, kResults, kVectors>();
}
template <class T>
FewUkernel<T> few_of(std::int64_t results, std::int64_t vectors) {
  static_assert(kFewResults == 4);
  return results == 1   ? few_of<T, 1>(vectors)
         : results == 2 ? few_of<T, 2>(vectors)
         : results == 3 ? few_of<T, 3>(vectors)
                        : few_of<T, 4>(vectors);
}

// f(h, w, number) of every residue with taps.
template <class T, class F>
ARRAYNN_INLINE void for_residues(const ResidueConv<T>& d, const F& f) {
  for (std::int64_t i = 0; i < d.residues(); ++i) {
    const DirectAxis &h = d.h_at(i), &w = d.w_at(i);
    if (h.taps > 0 && w.taps > 0) f(h, w, i);
  }
}

// Packed weights of one block of channels.
template <class T>
void pack_block(const ResidueConv<T>& d, Range channels, T* dst) {
  for_residues(d, [&](const DirectAxis& h, const DirectAxis& w, std::int64_t) {
    for (std::int64_t i = 0; i < h.taps; ++i) {
      for (std::int64_t k = 0; k < w.taps; ++k) {
        const T* weight = d.weight + h.kernel[i] * d.kernel_w + w.kernel[k];
        for (std::int64_t c = channels.begin; c < channels.end; ++c) {
          for (std::int64_t j = 0; j < d.columns; ++j) {
            *dst++ = weight[j * d.weight_j + c * d.weight_c];
          }
        }
      }
    }
  });
}

// Where the products of a block of `channels` meet the staged rows; returns their number.
template <class T>
std::int64_t fill_offsets(const ResidueConv<T>& d, const Layout<T>& l, const DirectAxis& h,
                          const DirectAxis& w, std::int64_t channels, std::int64_t* offset) {
  const std::int64_t* const first = offset;
  for (std::int64_t i = 0; i < h.taps; ++i) {
    const std::int64_t plane = h.plane == nullptr ? 0 : h.plane[i] * l.plane;
    const std::int64_t line = plane + (h.offset[i] - d.h.offset[0]) * l.row;
    for (std::int64_t k = 0; k < w.taps; ++k) {
      for (std::int64_t c = 0; c < channels; ++c) {
        *offset++ = line + c * l.pitch + w.offset[k] - d.w.offset[0];
      }
    }
  }
  return offset - first;
}

// A row of sums of one result goes to its pixels, `step` elements apart.
template <class T>
void finish_row(const ResidueConv<T>& d, T* sums, std::int64_t count, std::int64_t j,
                std::int64_t at, std::int64_t step) {
  constexpr int kL = kLanes<T>;
  const Vec<T> bias = Vec<T>::set1(d.bias != nullptr ? d.bias[j] : T(0));
  for (std::int64_t b = 0; b < count; b += kL) (Vec<T>::load(sums + b) + bias).store(sums + b);
  if (d.residual != nullptr) {
    for (std::int64_t b = 0; b < count; ++b) sums[b] += d.residual[at + b * step];
  }
  for (std::int64_t b = 0; b < count; b += kL) {
    Vec<T> v[1] = {Vec<T>::load(sums + b)};
    activate_tile(d.activation, v);
    if (step == 1) {
      store_n(v[0], d.out + at + b, min_i(kL, count - b));
    } else {
      v[0].store(sums + b);
    }
  }
  if (step == 1) return;
  for (std::int64_t b = 0; b < count; ++b) d.out[at + b * step] = sums[b];
}

template <class T>
void run_strip(const ResidueConv<T>& d, const Layout<T>& l, std::int64_t image, Range rows,
               const T* packed, std::int64_t* offset, T* staged, T* sums) {
  constexpr int kL = kLanes<T>;
  const std::int64_t ld = l.width, residue = l.rows * d.columns * ld;
  const std::int64_t top = rows.begin + d.h.offset[0], lines = rows.end - rows.begin - 1 + l.span_h;
  for (std::int64_t block = 0; block < l.blocks; ++block) {
    const Range channels = block_range(d.channels, block);
    for (std::int64_t k = 0; k < d.depth.taps; ++k) {
      const std::int64_t source = d.depth.source(image, k);
      for (std::int64_t r = 0; r < lines; ++r) {
        stage_row(d, l, source, top + r, channels, staged + k * l.plane + r * l.row);
      }
    }
    const T* weights = packed + channels.begin * l.taps * d.columns;
    for_residues(d, [&](const DirectAxis& h, const DirectAxis& w, std::int64_t i) {
      const std::int64_t count = fill_offsets(d, l, h, w, channels.end - channels.begin, offset);
      const std::int64_t count_h = min_i(rows.end, h.count) - rows.begin;
      for (std::int64_t b = 0; b < w.count; b += l.vectors * kL) {
        const std::int64_t left = ceil_div(w.count - b, kL);
        const FewUkernel<T> kernel = few_of<T>(d.columns, min_i(l.vectors, left));
        for (std::int64_t a = 0; a < count_h;) {
          const bool many = a + kernel.lines <= count_h;
          (many ? kernel.many : kernel.one)(staged + a * l.row + b, l.row, offset, count, weights,
                                            block > 0, sums + i * residue + a * d.columns * ld + b,
                                            ld);
          a += many ? kernel.lines : 1;
        }
      }
      weights += count * d.columns;
    });
  }
  const std::int64_t pixel = d.channels_last ? d.out_channels : 1, target = d.depth.target(image);
  const std::int64_t sample = target / d.depth.out_size, depth = target % d.depth.out_size;
  for_residues(d, [&](const DirectAxis& h, const DirectAxis& w, std::int64_t i) {
    for (std::int64_t a = rows.begin; a < min_i(rows.end, h.count); ++a) {
      const std::int64_t row = a * h.out_step + h.out_begin;
      for (std::int64_t j = 0; j < d.columns; ++j) {
        const std::int64_t channel = d.out_channel + j;
        const std::int64_t plane = (sample * d.out_channels + channel) * d.depth.out_size + depth;
        const std::int64_t at =
            d.channels_last ? ((target * d.out_h + row) * d.out_w + w.out_begin) * pixel + channel
                            : (plane * d.out_h + row) * d.out_w + w.out_begin;
        T* const line = sums + i * residue + ((a - rows.begin) * d.columns + j) * ld;
        finish_row(d, line, w.count, j, at, w.out_step * pixel);
      }
    }
  });
}

template <class T>
void run_few(const ResidueConv<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Layout<T> l = make_layout(d);
    T* packed = static_cast<T*>(scratch);
    const Range blocks = split_range(l.blocks, nthreads, tid);
    for (std::int64_t b = blocks.begin; b < blocks.end; ++b) {
      const Range channels = block_range(d.channels, b);
      pack_block(d, channels, packed + channels.begin * l.taps * d.columns);
    }
    char* base = static_cast<char*>(scratch) + l.packed + tid * l.bytes;
    auto* offset = reinterpret_cast<std::int64_t*>(base);
    T* staged = reinterpret_cast<T*>(base + l.tables);
    T* sums = staged + round_up(l.staged * static_cast<std::int64_t>(sizeof(T)), 64) /
                           static_cast<std::int64_t>(sizeof(T));
    team_barrier(nthreads);
    const Range rows = split_range(d.n * d.h.count, nthreads, tid);
    for (std::int64_t g = rows.begin; g < rows.end;) {
      const std::int64_t image = g / d.h.count, a = g % d.h.count;
      const std::int64_t count = min_i(l.rows, min_i(d.h.count - a, rows.end - g));
      run_strip(d, l, image, {a, a + count}, packed, offset, staged, sums);
      g += count;
    }
  });
}

}  // namespace

extern const FloatKernels<FewTable> few_kernels = {{&few_scratch<float>, &run_few<float>},
                                                   {&few_scratch<double>, &run_few<double>}};

}  // namespace ARRAYNN_ISA_NAMESPACE
