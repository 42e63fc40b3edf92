// channels_first over a block of planes: a band of rows is transposed to [row][column][plane] in
// cache, pooled as channels_last, and the result is transposed back.
#pragma once
#include "pool/pool.hpp"
#include "simd/transpose.hpp"
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// The problem of one band; positions of its planes are `shift` behind those of the whole planes.
struct Band {
  PoolProblem p;
  std::int64_t plane, in_row, out_row;
  Range own;  // backward: rows of the band that it writes

  std::int64_t shift() const { return in_row * p.w.size; }
};

// Output rows `out` of a block of planes, with every input row that they read and rows `in`.
inline Band make_band(const PoolProblem& whole, std::int64_t block, Range out, Range in) {
  const PoolAxis& h = whole.h;
  Band b{whole, block * kStagedPlanes, in.begin, out.begin, {0, 0}};
  std::int64_t end = in.end;
  if (out.begin < out.end) {
    b.in_row = min_i(in.begin, max_i(0, window_first(h, out.begin)));
    end = max_i(end, min_i(h.size, window_end(h, out.end - 1)));
  }
  b.p.n = 1;
  b.p.c = min_i(kStagedPlanes, whole.n * whole.c - b.plane);
  b.p.channels_last = true;
  b.p.h.out = out.end - out.begin;
  b.p.h.size = end - b.in_row;
  b.p.h.begin = h.begin + b.in_row - (h.to > 0 ? 0 : out.begin * h.stride);
  b.p.h.first = h.first + out.begin;
  b.p.h.end = h.end + h.size - end;
  return b;
}

inline Band forward_band(const PoolProblem& p, std::int64_t unit, std::int64_t bands) {
  const Range out = split_range(p.h.out, bands, unit % bands);
  const std::int64_t first = min_i(p.h.size, max_i(0, window_first(p.h, out.begin)));
  return make_band(p, unit / bands, out, {first, first});
}

// dx rows of a band and the windows that touch them.
inline Band backward_band(const PoolProblem& p, std::int64_t unit, std::int64_t bands) {
  const Range rows = split_range(p.h.size, bands, unit % bands);
  const Range touching = windows_touching(p.h, rows.begin, rows.end);
  const Range windows = {min_i(touching.begin, touching.end), touching.end};
  Band b = make_band(p, unit / bands, windows, rows);
  b.own = {rows.begin - b.in_row, rows.end - b.in_row};
  return b;
}

template <class T>
struct StagedScratch {
  T *in, *out;
  std::int64_t* indices;
};
template <class T>
StagedScratch<T> staged_scratch(const PoolProblem& p, bool backward, void* scratch) {
  const StagedSizes s = staged_sizes(p, sizeof(T), backward);
  StagedScratch<T> r;
  r.in = static_cast<T*>(scratch);
  r.out = r.in + s.in;
  r.indices = reinterpret_cast<std::int64_t*>(r.out + s.out);
  return r;
}

// `rows` rows of `width` elements from row `row` on of every plane of the band, and back.
template <class T>
void stage_in(const Band& b, const T* planes, std::int64_t height, std::int64_t width,
              std::int64_t row, std::int64_t rows, T* staged) {
  transpose_copy(planes + (b.plane * height + row) * width, height * width, staged, b.p.c, b.p.c,
                 rows * width);
}
template <class T>
void stage_out(const Band& b, const T* staged, T* planes, std::int64_t height, std::int64_t width,
               std::int64_t row, std::int64_t rows) {
  transpose_copy(staged, b.p.c, planes + (b.plane * height + row) * width, height * width,
                 rows * width, b.p.c);
}

// pool(problem, x, y, indices) for every unit.
template <class T, class Pool>
void pool_staged(const PoolProblem& p, const T* x, T* y, std::int64_t* indices, Range units,
                 void* scratch, const Pool& pool) {
  const StagedScratch<T> s = staged_scratch<T>(p, false, scratch);
  const std::int64_t bands = staged_bands(p, sizeof(T), false);
  for (std::int64_t u = units.begin; u < units.end; ++u) {
    const Band b = forward_band(p, u, bands);
    stage_in(b, x, p.h.size, p.w.size, b.in_row, b.p.h.size, s.in);
    pool(b.p, s.in, s.out, s.indices);
    stage_out(b, s.out, y, p.h.out, p.w.out, b.out_row, b.p.h.out);
    if (indices == nullptr) continue;
    const std::int64_t count = b.p.h.out * p.w.out * b.p.c, shift = b.shift();
    for (std::int64_t i = 0; i < count; ++i) s.indices[i] += s.indices[i] < 0 ? 0 : shift;
    // Moved as doubles, bit for bit: no arithmetic touches them.
    stage_out(b, reinterpret_cast<const double*>(s.indices), reinterpret_cast<double*>(indices),
              p.h.out, p.w.out, b.out_row, b.p.h.out);
  }
}

// backward(problem, dy, dx, own rows) for every unit.
template <class T, class Backward>
void pool_staged_backward(const PoolProblem& p, const T* dy, T* dx, Range units, void* scratch,
                          const Backward& backward) {
  const StagedScratch<T> s = staged_scratch<T>(p, true, scratch);
  const std::int64_t bands = staged_bands(p, sizeof(T), true);
  for (std::int64_t u = units.begin; u < units.end; ++u) {
    const Band b = backward_band(p, u, bands);
    stage_in(b, dy, p.h.out, p.w.out, b.out_row, b.p.h.out, s.out);
    backward(b.p, s.out, s.in, b.own);
    stage_out(b, s.in + b.own.begin * p.w.size * b.p.c, dx, p.h.size, p.w.size,
              b.in_row + b.own.begin, b.own.end - b.own.begin);
  }
}

}  // namespace
}  // namespace ARRAYNN_ISA_NAMESPACE
