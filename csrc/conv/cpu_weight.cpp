// Gradients by the weight and by the bias.
#include "conv/strip.hpp"
#include "conv/tables.hpp"
#include "core/parallel.hpp"
#include "gemm/blocking.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// acc[i][j] += sum over rows r, over pixels p of row r: a[row_offset[r] + p a_step + i] b[p' ldb + j]
// with p' running on over the rows.   a: rows of consecutive elements, b: NV vectors a pixel.
template <class T, int kRows, int kVectors>
[[gnu::noinline]] static void pixel_ukernel(const T* a, const std::int64_t* row_offset,
                                            std::int64_t rows, std::int64_t pixels,
                                            std::int64_t a_step, const T* b, std::int64_t ldb,
                                            T* acc_out, std::int64_t ld_acc) {
  constexpr int kL = kLanes<T>;
  Vec<T> acc[kRows][kVectors];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVectors; ++j) acc[i][j] = Vec<T>::zero();
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* x = a + row_offset[r];
    for (std::int64_t p = 0; p < pixels; ++p) {
      Vec<T> bv[kVectors];
      for (int j = 0; j < kVectors; ++j) bv[j] = Vec<T>::load(b + j * kL);
      b += ldb;
      for (int i = 0; i < kRows; ++i) {
        const Vec<T> av = Vec<T>::set1(x[i]);
        for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(av, bv[j], acc[i][j]);
      }
      x += a_step;
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVectors; ++j) {
      T* out = acc_out + i * ld_acc + j * kL;
      (Vec<T>::load(out) + acc[i][j]).store(out);
    }
  }
}

template <class T>
using PixelUkernel = void (*)(const T*, const std::int64_t*, std::int64_t, std::int64_t,
                              std::int64_t, const T*, std::int64_t, T*, std::int64_t);
template <class T>
struct PixelUkernels {
  PixelUkernel<T> table[kMR][kNV];
};
template <class T, int kRows>
ARRAYNN_INLINE constexpr void fill_pixel_ukernels(PixelUkernels<T>& u) {
  u.table[kRows - 1][0] = &pixel_ukernel<T, kRows, 1>;
  u.table[kRows - 1][1] = &pixel_ukernel<T, kRows, 2>;
  if constexpr (kRows > 1) fill_pixel_ukernels<T, kRows - 1>(u);
}
template <class T>
ARRAYNN_INLINE constexpr PixelUkernels<T> make_pixel_ukernels() {
  PixelUkernels<T> u{};
  fill_pixel_ukernels<T, kMR>(u);
  return u;
}
template <class T>
constexpr PixelUkernels<T> kPixelUkernels = make_pixel_ukernels<T>();

template <class T>
struct Plan {
  StripLayout strip;
  Runs runs;
  bool dy_in_place;
  std::int64_t ld_dy, ld_acc;
  std::int64_t acc_elements, dy_elements, table_entries;
};

template <class T>
StripSource<T> source_of(const WeightGradient<T>& d) {
  return {d.x, d.x_channels, d.x_channel, d.channels, &d.h, &d.w, d.channels_last};
}

template <class T>
Plan<T> make_plan(const WeightGradient<T>& d) {
  Plan<T> p{};
  p.strip = make_strip_layout(source_of(d), d.n);
  p.runs = make_runs(d.h, d.w, d.channels, p.strip.pixel);
  p.dy_in_place = d.channels_last && d.columns % kLanes<T> == 0;
  p.ld_acc = round_up(d.columns, kLanes<T>);
  p.ld_dy = p.dy_in_place ? d.dy_channels : p.ld_acc;
  p.acc_elements = p.runs.taps * p.runs.run * p.ld_acc;
  p.dy_elements = p.dy_in_place ? 0 : p.strip.rows * d.w.count * p.ld_dy;
  p.table_entries = round_up(p.runs.taps + d.kernel_h * d.kernel_w + p.strip.rows, 8);
  return p;
}

// Scratch of a team: [accumulators][staged x][staged dy], then the tables of every member.
template <class T>
std::int64_t weight_scratch(const WeightGradient<T>& d, int threads) {
  const Plan<T> p = make_plan(d);
  const auto item = static_cast<std::int64_t>(sizeof(T));
  return round_up(p.acc_elements * item, 64) + round_up(p.strip.staged_elements * item, 64) +
         round_up(p.dy_elements * item, 64) + threads * p.table_entries * 8;
}

// This member's share of dy of output rows [g0, g1) as [pixel][column].
template <class T>
void stage_dy(const WeightGradient<T>& d, const Plan<T>& p, std::int64_t g0, std::int64_t g1,
              T* staged, int part, int parts) {
  const std::int64_t width = d.w.count, plane = d.h.count * width;
  const Range mine = split_range(g1 - g0, parts, part);
  for (std::int64_t g = g0 + mine.begin; g < g0 + mine.end;) {
    const std::int64_t sample = g / d.h.count, a = g % d.h.count;
    const std::int64_t rows = min_i(g0 + mine.end - g, d.h.count - a);
    T* dst = staged + (g - g0) * width * p.ld_dy;
    if (d.channels_last) {
      const T* src = d.dy + (sample * plane + a * width) * d.dy_channels + d.dy_channel;
      for (std::int64_t i = 0; i < rows * width; ++i) {
        __builtin_memcpy(dst + i * p.ld_dy, src + i * d.dy_channels,
                         static_cast<std::size_t>(d.columns) * sizeof(T));
      }
    } else {
      const T* src = d.dy + (sample * d.dy_channels + d.dy_channel) * plane + a * width;
      transpose_copy(src, plane, dst, p.ld_dy, d.columns, rows * width);
    }
    g += rows;
  }
}

// dw[j][c][tap] from acc[tap_row * channels + c][j], for this member's columns.
template <class T>
void store_weights(const WeightGradient<T>& d, const Plan<T>& p, const std::int64_t* tap_row,
                   const T* acc, int part, int parts) {
  constexpr int kL = kLanes<T>;
  const std::int64_t taps = d.kernel_h * d.kernel_w, length = d.channels * taps;
  const Range mine = split_range(ceil_div(d.columns, kL), parts, part);
  for (std::int64_t v = mine.begin; v < mine.end; ++v) {
    const std::int64_t j0 = v * kL, count = min_i(kL, d.columns - j0);
    std::int64_t c = 0, tap = 0;
    for (std::int64_t f0 = 0; f0 < length; f0 += kL) {
      const std::int64_t depth = min_i(kL, length - f0);
      Vec<T> rows[kL];
      for (int q = 0; q < kL; ++q) {
        if (q >= depth) {
          rows[q] = Vec<T>::zero();
          continue;
        }
        rows[q] = Vec<T>::load(acc + (tap_row[tap] * d.channels + c) * p.ld_acc + j0);
        if (++tap == taps) {
          tap = 0;
          ++c;
        }
      }
      transpose(rows);
      for (int r = 0; r < kL; ++r) {
        if (r < count) store_n(rows[r], d.dw + (j0 + r) * length + f0, depth);
      }
    }
  }
}

template <class T>
void run_weight(const WeightGradient<T>& d, int threads, void* scratch) {
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Plan<T> p = make_plan(d);
    const auto item = static_cast<std::int64_t>(sizeof(T));
    char* base = static_cast<char*>(scratch);
    T* acc = reinterpret_cast<T*>(base);
    base += round_up(p.acc_elements * item, 64);
    T* staged = reinterpret_cast<T*>(base);
    base += round_up(p.strip.staged_elements * item, 64);
    T* staged_dy = reinterpret_cast<T*>(base);
    base += round_up(p.dy_elements * item, 64);
    auto* tap_offsets = reinterpret_cast<std::int64_t*>(base) + tid * p.table_entries;
    std::int64_t* tap_row = tap_offsets + p.runs.taps;
    std::int64_t* row_offset = tap_row + d.kernel_h * d.kernel_w;
    fill_tap_offsets(d.h, d.w, p.runs, p.strip, tap_offsets);
    fill_tap_rows(d.h, d.w, d.kernel_h, d.kernel_w, tap_row);
    const Range to_clear = split_range(p.acc_elements, nthreads, tid);
    __builtin_memset(acc + to_clear.begin, 0,
                     static_cast<std::size_t>((to_clear.end - to_clear.begin) * item));

    // A member owns tiles of the accumulators, and with them their whole sum.
    const std::int64_t row_tiles = ceil_div(p.runs.run, kMR);
    const std::int64_t panels = ceil_div(d.columns, kNR<T>);
    const Range tiles = split_range(p.runs.taps * row_tiles * panels, nthreads, tid);
    const StripSource<T> source = source_of(d);
    const std::int64_t rows = d.n * d.h.count, strips = ceil_div(rows, p.strip.rows);
    const std::int64_t step = p.strip.step_w * p.strip.pixel;
    for (std::int64_t s = 0; s < strips; ++s) {
      const Range strip = split_range(rows, strips, s);
      const T* x =
          stage_strip(source, p.strip, strip.begin, strip.end, staged, row_offset, tid, nthreads);
      const T* dy = d.dy + strip.begin * d.w.count * d.dy_channels + d.dy_channel;
      if (!p.dy_in_place) {
        stage_dy(d, p, strip.begin, strip.end, staged_dy, tid, nthreads);
        dy = staged_dy;
      }
      team_barrier(nthreads);
      for (std::int64_t q = tiles.begin; q < tiles.end; ++q) {
        const std::int64_t panel = q % panels, tile = q / panels % row_tiles;
        const std::int64_t tap = q / panels / row_tiles;
        const Range i = split_range(p.runs.run, row_tiles, tile);
        const std::int64_t j0 = panel * kNR<T>;
        const int vectors = d.columns - j0 > kLanes<T> ? 1 : 0;
        kPixelUkernels<T>.table[i.end - i.begin - 1][vectors](
            x + tap_offsets[tap] + i.begin, row_offset, strip.end - strip.begin, d.w.count, step,
            dy + j0, p.ld_dy, acc + (tap * p.runs.run + i.begin) * p.ld_acc + j0, p.ld_acc);
      }
      team_barrier(nthreads);
    }
    store_weights(d, p, tap_row, acc, tid, nthreads);
  });
}

template <class T>
void plane_sums(const T* x, std::int64_t n, std::int64_t c, std::int64_t plane, int threads,
                T* out) {
  constexpr int kL = kLanes<T>;
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    const Range mine = split_range(c, nthreads, tid);
    for (std::int64_t channel = mine.begin; channel < mine.end; ++channel) {
      T total = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        const T* p = x + (i * c + channel) * plane;
        Vec<T> even = Vec<T>::zero(), odd = Vec<T>::zero();
        std::int64_t q = 0;
        for (; q + 2 * kL <= plane; q += 2 * kL) {
          even = even + Vec<T>::load(p + q);
          odd = odd + Vec<T>::load(p + q + kL);
        }
        for (; q < plane; q += kL) even = even + load_n(p + q, min_i(kL, plane - q));
        total += reduce_add(even + odd);
      }
      out[channel] = total;
    }
  });
}

}  // namespace

extern const ConvKernels conv_kernels = {
    &direct_scratch_f32,    &direct_scratch_f64,     &direct_f32,        &direct_f64,
    &weight_scratch<float>, &weight_scratch<double>, &run_weight<float>, &run_weight<double>,
    &plane_sums<float>,     &plane_sums<double>,
};

}  // namespace ARRAYNN_ISA_NAMESPACE
