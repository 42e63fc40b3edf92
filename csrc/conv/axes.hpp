// The axes of a convolution as its kernels take them, with the storage of their taps.
#pragma once
#include <algorithm>
#include <vector>

#include "conv/conv.hpp"

namespace arraynn {

// An axis with the storage of its taps.
struct Axis {
  std::vector<std::int64_t> offset, kernel, plane;
  DirectAxis view{};

  const DirectAxis& finish() {
    view.taps = static_cast<std::int64_t>(offset.size());
    view.offset = offset.data();
    view.kernel = kernel.data();
    view.plane = plane.empty() ? nullptr : plane.data();
    return view;
  }
};

struct AxisSizes {
  std::int64_t in, out, kernel, stride, pad, dilation;
};

inline AxisSizes axis_h(const Conv2dProblem& p) {
  return {p.ih, p.oh, p.kh, p.stride_h, p.pad_h, p.dilation_h};
}
inline AxisSizes axis_d(const Conv2dProblem& p) {
  return {p.id, p.od, p.kd, p.stride_d, p.pad_d, p.dilation_d};
}
inline AxisSizes axis_w(const Conv2dProblem& p) {
  return {p.iw, p.ow, p.kw, p.stride_w, p.pad_w, p.dilation_w};
}

inline Axis forward_axis(const AxisSizes& s, bool flip) {
  Axis axis;
  axis.view = {s.out, s.stride, s.in, 1, 0, 0, nullptr, nullptr};
  for (std::int64_t t = 0; t < s.kernel; ++t) {
    axis.offset.push_back(t * s.dilation - s.pad);
    axis.kernel.push_back(flip ? s.kernel - 1 - t : t);
  }
  return axis;
}

// Input positions i = residue + stride a get dy[a + (residue + pad - t dilation) / stride] from
// every tap t for which that division is exact.
inline Axis backward_axis(const AxisSizes& s, bool flip, std::int64_t residue) {
  Axis axis;
  const std::int64_t count = residue < s.in ? (s.in - residue + s.stride - 1) / s.stride : 0;
  axis.view = {count, 1, s.out, s.stride, residue, 0, nullptr, nullptr};
  for (std::int64_t t = s.kernel - 1; t >= 0; --t) {  // descending: ascending offsets
    const std::int64_t distance = residue + s.pad - t * s.dilation;
    if (distance % s.stride != 0) continue;
    axis.offset.push_back(distance / s.stride);
    axis.kernel.push_back(flip ? s.kernel - 1 - t : t);
  }
  return axis;
}

// The rows of the kernel at all its depths, row by row: offsets stay ascending.
inline Axis with_depth(const Axis& h, const Axis& depth, std::int64_t kernel_h) {
  Axis axis;
  axis.view = h.view;
  for (std::size_t i = 0; i < h.offset.size(); ++i) {
    for (std::size_t k = 0; k < depth.offset.size(); ++k) {
      axis.offset.push_back(h.offset[i]);
      axis.kernel.push_back(depth.kernel[k] * kernel_h + h.kernel[i]);
      axis.plane.push_back(static_cast<std::int64_t>(k));
    }
  }
  return axis;
}

inline DirectDepth depth_of(const Axis& d, std::int64_t out_size) {
  return {d.view.count,
          d.view.step,
          d.view.size,
          out_size,
          d.view.out_step,
          d.view.out_begin,
          static_cast<std::int64_t>(d.offset.size()),
          d.offset.data()};
}

// Positions [begin, end) of an axis with the taps that see the source from one of them.
inline Axis part_of(const Axis& axis, std::int64_t begin, std::int64_t end) {
  Axis part;
  part.view = axis.view;
  part.view.count = end - begin;
  part.view.out_begin += begin * axis.view.out_step;
  for (std::size_t t = 0; t < axis.offset.size(); ++t) {
    const std::int64_t first = begin * axis.view.step + axis.offset[t];
    if (first >= axis.view.size || first + (end - begin - 1) * axis.view.step < 0) continue;
    part.offset.push_back(first);
    part.kernel.push_back(axis.kernel[t]);
  }
  return part;
}

// Planes smaller than this are cheaper with products with the padding than with weights packed again.
inline constexpr std::int64_t kBorderPlane = 64;

// f(depth) for runs of output planes that see the same planes of the source.
template <class F>
void for_depths(const Axis& depth, std::int64_t plane, const F& f) {
  const std::int64_t count = depth.view.count;
  for (std::int64_t begin = 0, end = 0; begin < count; begin = end) {
    end = plane < kBorderPlane ? count : begin + 1;
    const auto taps = part_of(depth, begin, end).kernel;
    while (end < count && part_of(depth, end, end + 1).kernel == taps) ++end;
    f(part_of(depth, begin, end));
  }
}

// Whether some input positions along the axis meet no tap at all.
inline bool skips_positions(const AxisSizes& s) {
  for (std::int64_t residue = 0; residue < std::min(s.stride, s.in); ++residue) {
    if (backward_axis(s, false, residue).offset.empty()) return true;
  }
  return false;
}

// All residues of an axis, of which the first has most positions.
inline std::vector<Axis> residues_of(const AxisSizes& s, bool flip) {
  std::vector<Axis> axes;
  for (std::int64_t r = 0; r < std::min(s.stride, s.in); ++r) {
    axes.push_back(backward_axis(s, flip, r));
  }
  return axes;
}

inline std::vector<DirectAxis> finish(std::vector<Axis>& axes) {
  std::vector<DirectAxis> views;
  for (Axis& axis : axes) views.push_back(axis.finish());
  return views;
}

// From the first to the last position that the taps of all residues see.
inline DirectAxis span_of(const std::vector<DirectAxis>& residues, std::int64_t (&ends)[2]) {
  DirectAxis all = residues[0];
  all.taps = 0;
  all.offset = ends;
  all.plane = nullptr;
  for (const DirectAxis& one : residues) {
    if (one.taps == 0) continue;
    const std::int64_t first = one.offset[0], last = one.offset[one.taps - 1];
    ends[0] = all.taps == 0 ? first : std::min(ends[0], first);
    ends[1] = all.taps == 0 ? last : std::max(ends[1], last);
    all.taps = 2;
  }
  return all;
}

}  // namespace arraynn
