// Segments: runs of output positions along one axis that see the same taps. At a border the other
// taps would read zero padding, and their products are left out: 30 % of a 3x3 on a 4x4 image.
#pragma once
#include "conv/conv.hpp"
#include "core/index.hpp"
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {

struct Segment {
  std::int64_t begin, end;  // positions
  std::int64_t tap_begin, tap_end;

  std::int64_t size() const { return end - begin; }
  std::int64_t taps() const { return tap_end - tap_begin; }
};

struct Segments {
  static constexpr int kMost = 5;  // a 5x5 with padding 2; a longer border is not cut
  int count;
  Segment at[kMost];
};

static inline Segments one_segment(const DirectAxis& axis) {
  return {1, {{0, axis.count, 0, axis.taps}}};
}

// Taps of one position that fall inside the source.
static inline Segment taps_at(const DirectAxis& axis, std::int64_t a) {
  Segment s{a, a + 1, 0, axis.taps};
  const std::int64_t first = a * axis.step;
  while (s.tap_begin < s.tap_end && first + axis.offset[s.tap_begin] < 0) ++s.tap_begin;
  while (s.tap_begin < s.tap_end && first + axis.offset[s.tap_end - 1] >= axis.size) --s.tap_end;
  return s;
}

// Positions that read nothing but the source, with all taps.
static inline Segment inside_positions(const DirectAxis& axis) {
  const std::int64_t begin = min_i(axis.count, max_i(0, ceil_div(-axis.offset[0], axis.step)));
  const std::int64_t room = axis.size - axis.offset[axis.taps - 1];
  const std::int64_t end = max_i(begin, min_i(axis.count, ceil_div(max_i(0, room), axis.step)));
  return {begin, end, 0, axis.taps};
}

static inline Segments make_segments(const DirectAxis& axis) {
  if (axis.taps == 0 || axis.count == 0) return one_segment(axis);
  const Segment inside = inside_positions(axis);
  Segments s{};
  for (std::int64_t a = 0; a < axis.count;) {
    Segment next = taps_at(axis, a);
    if (a == inside.begin && inside.size() > 0) next.end = inside.end;
    a = next.end;
    Segment* last = s.count > 0 ? &s.at[s.count - 1] : nullptr;
    if (last != nullptr && last->tap_begin == next.tap_begin && last->tap_end == next.tap_end) {
      last->end = next.end;
    } else if (s.count == Segments::kMost) {
      return one_segment(axis);
    } else {
      s.at[s.count++] = next;
    }
  }
  return s;
}

// Positions at which tap t reads the source.
static inline Range tap_positions(const DirectAxis& axis, std::int64_t t) {
  const std::int64_t offset = axis.offset[t];
  const std::int64_t begin = min_i(axis.count, max_i(0, ceil_div(-offset, axis.step)));
  const std::int64_t end = ceil_div(max_i(0, axis.size - offset), axis.step);
  return {begin, max_i(begin, min_i(axis.count, end))};
}

// Columns are cut in narrow images only: the pixels of a cut must still fill tiles.
inline constexpr std::int64_t kNarrow = 32;

static inline Segments make_column_segments(const DirectAxis& axis) {
  return axis.count <= kNarrow ? make_segments(axis) : one_segment(axis);
}

}  // namespace ARRAYNN_ISA_NAMESPACE
