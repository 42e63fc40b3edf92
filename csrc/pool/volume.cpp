#include "pool/volume.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "core/arena.hpp"
#include "core/parallel.hpp"
#include "pool/walk.hpp"

namespace arraynn {
namespace {

// z of a unit: with the planes it is made of, a share of L2.
constexpr std::int64_t kUnitBytes = std::int64_t{128} << 10;
// Long rows of channels_first are reduced plane by plane anyway; its volumes are cut later.
constexpr std::int64_t kVolumeBytes = std::int64_t{1} << 20;

// Positions of maxima that wait for their gradients, a thread's.
constexpr std::int64_t kFoundVolumeBytes = std::int64_t{256} << 10;

bool is_empty(const VolumeProblem& v) { return v.plane.n * v.plane.c == 0 || v.out() == 0; }

// Planes one after another: the problem of windows that are one plane deep.
PoolProblem as_planes(const VolumeProblem& v) {
  PoolProblem p = v.plane;
  (p.channels_last ? p.n : p.c) *= v.d.size;
  return p;
}

// Boxes that tile the depth are volumes of their own, where positions do not count.
VolumeProblem cut_depth(const VolumeProblem& v) {
  const PoolAxis& d = v.d;
  const bool tiles = d.to == 0 && d.dilation == 1 && d.begin == 0 && d.stride == d.kernel &&
                     d.size == d.out * d.kernel;
  if (!tiles) return v;
  VolumeProblem parts = v;
  (v.plane.channels_last ? parts.plane.n : parts.plane.c) *= d.out;
  parts.d = {d.kernel, d.kernel, d.kernel, 1, 0, 0, 1};
  return parts;
}

// A block of volumes (channels_first) or a sample (channels_last), and its output rows.
struct Unit {
  std::int64_t first, volumes;
  Range rows;
  bool whole;            // all output rows
  PoolProblem plane;     // of one call: all planes if whole, else one
  std::int64_t in_row;   // of the input where the band begins
  std::int64_t width;    // elements of an output row
  std::int64_t z_plane;  // and of the unit's part of an output plane
};

struct Units {
  std::int64_t block, bands, count;
};

// `rows` of the axis that bands are cut from, `row_bytes` of z for each.
Units make_units(const VolumeProblem& v, std::int64_t rows, std::int64_t row_bytes, bool cut) {
  const PoolProblem& p = v.plane;
  const std::int64_t bytes = max_i(1, rows * row_bytes);
  Units u{1, 1, 0};
  if (!p.channels_last) u.block = max_i(1, min_i(p.c, kUnitBytes / bytes));
  const std::int64_t limit = p.channels_last ? kUnitBytes : kVolumeBytes;
  if (cut && bytes > limit) u.bands = min_i(rows, ceil_div(bytes, limit));
  u.count = p.n * (p.channels_last ? 1 : ceil_div(p.c, u.block)) * u.bands;
  return u;
}

std::int64_t row_elements(const VolumeProblem& v) {
  return v.plane.w.out * (v.plane.channels_last ? v.plane.c : 1);
}

Units forward_units(const VolumeProblem& v, std::int64_t item) {
  return make_units(v, v.plane.h.out, v.d.size * row_elements(v) * item, true);
}

// The volumes of unit i; its rows are set by the caller.
Unit unit_at(const VolumeProblem& v, const Units& u, std::int64_t i) {
  Unit unit{};
  const std::int64_t group = i / u.bands;
  unit.first = group;
  unit.volumes = 1;
  unit.plane = v.plane;
  unit.width = row_elements(v);
  if (!v.plane.channels_last) {
    const std::int64_t blocks = ceil_div(v.plane.c, u.block), sample = group / blocks;
    const Range channels = split_range(v.plane.c, blocks, group % blocks);
    unit.first = sample * v.plane.c + channels.begin;
    unit.volumes = channels.end - channels.begin;
  }
  return unit;
}

// Puts `planes` planes of the unit into one problem.
void set_planes(std::int64_t planes, Unit* u) {
  u->plane.n = u->plane.channels_last ? planes : 1;
  if (!u->plane.channels_last) u->plane.c = planes;
}

Unit forward_unit(const VolumeProblem& v, const Units& u, std::int64_t i) {
  Unit unit = unit_at(v, u, i);
  unit.rows = split_range(v.plane.h.out, u.bands, i % u.bands);
  unit.whole = u.bands == 1;
  if (!unit.whole) unit.plane.h = band_of(v.plane.h, unit.rows, &unit.in_row);
  unit.z_plane = (unit.rows.end - unit.rows.begin) * unit.width;
  set_planes(unit.whole ? unit.volumes * v.d.size : 1, &unit);
  return unit;
}

// Windows of depth alone over positions that are channels.
PoolProblem depth_problem(const PoolAxis& d, std::int64_t n, std::int64_t positions) {
  return {n, positions, d, kUnitAxis, true};
}

// The largest z and the largest scratch of a plane's call over all units.
struct Sizes {
  std::int64_t z = 0, scratch = 0, volumes = 0;
};
template <class MakeUnit>
Sizes largest(const VolumeProblem& v, const Units& u, std::int64_t item, PoolTask task,
              const MakeUnit& make) {
  Sizes s;
  // Bands differ by a row, blocks by a channel: those of one sample are all there are.
  for (std::int64_t i = 0; i < u.count / v.plane.n; ++i) {
    const Unit unit = make(i);
    s.z = max_i(s.z, unit.volumes * v.d.size * unit.z_plane);
    s.scratch = max_i(s.scratch, thread_scratch_bytes(unit.plane, item, task));
    s.volumes = max_i(s.volumes, unit.volumes);
  }
  return s;
}

int team_of(const VolumeProblem& v, std::int64_t units) {
  const double work =
      static_cast<double>(v.plane.n * v.plane.c) * static_cast<double>(v.in() + 2 * v.out());
  return static_cast<int>(min_i(threads_for(work, kPoolGrain), max_i(units, 1)));
}

// plane(problem, x, z, scratch) for the planes of every unit, depth(problem, z, y) for the boxes,
// then finish(unit, od, y) for every output plane's rows of the unit, all of one volume: `y` is its
// part of the output.
template <class T, class Plane, class Depth, class Finish>
void pool_boxes(const char* op, const VolumeProblem& v, Denormals mode, const T* x, T* y,
                const Plane& plane, const Depth& depth, const Finish& finish) {
  const PoolProblem& p = v.plane;
  const std::int64_t item = sizeof(T), channels = p.channels_last ? p.c : 1;
  const std::int64_t in_plane = v.in_plane() * channels, out_plane = v.out_plane() * channels;
  const Units units = forward_units(v, item);
  const Sizes sizes = largest(v, units, item, PoolTask::kSum,
                              [&](std::int64_t i) { return forward_unit(v, units, i); });
  const std::int64_t z_bytes = round_up(sizes.z * item, 64);
  const std::int64_t bytes = z_bytes + round_up(sizes.scratch, 64);
  const int threads = team_of(v, units.count);
  const Scratch scratch(op, static_cast<std::size_t>(bytes * threads));
  parallel(threads, mode, [&](int tid, int nthreads) {
    char* base = static_cast<char*>(scratch.data()) + bytes * tid;
    T* z = reinterpret_cast<T*>(base);
    void* rest = base + z_bytes;
    const Range mine = split_range(units.count, nthreads, tid);
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
      const Unit u = forward_unit(v, units, i);
      const T* in = x + u.first * v.d.size * in_plane + u.in_row * p.w.size * channels;
      T* out = y + u.first * v.d.out * out_plane + u.rows.begin * u.width;
      const std::int64_t calls = u.whole ? 1 : v.d.size;
      for (std::int64_t d = 0; d < calls; ++d) {
        plane(u.plane, in + d * in_plane, z + d * u.z_plane, rest);
      }
      if (u.whole) {
        depth(depth_problem(v.d, u.volumes, u.z_plane), z, out);
      } else {
        for (std::int64_t od = 0; od < v.d.out; ++od) {
          std::int64_t first = 0;
          const PoolAxis d = band_of(v.d, {od, od + 1}, &first);
          depth(depth_problem(d, 1, u.z_plane), z + first * u.z_plane, out + od * out_plane);
        }
      }
      for (std::int64_t q = 0; q < u.volumes * v.d.out; ++q) {
        finish(u, q % v.d.out, out + q * out_plane);
      }
    }
  });
}

// Taps counted along one axis, and whether they are the same everywhere.
struct AxisCounts {
  std::vector<std::int64_t> at;
  bool uniform;

  AxisCounts(const PoolAxis& a, bool include_pad) {
    for (std::int64_t o = 0; o < a.out; ++o) at.push_back(counted_taps(a, o, include_pad));
    uniform = std::all_of(at.begin(), at.end(), [&](std::int64_t n) { return n == at[0]; });
  }
};

struct BoxCounts {
  AxisCounts d, h, w;

  BoxCounts(const VolumeProblem& v, bool include_pad)
      : d(v.d, include_pad), h(v.plane.h, include_pad), w(v.plane.w, include_pad) {}
  bool uniform() const { return d.uniform && h.uniform && w.uniform; }
  // An empty window sums to 0 and stays 0.
  std::int64_t taps(std::int64_t od, std::int64_t oh, std::int64_t ow) const {
    return std::max<std::int64_t>(1, d.at[static_cast<std::size_t>(od)] *
                                         h.at[static_cast<std::size_t>(oh)] *
                                         w.at[static_cast<std::size_t>(ow)]);
  }
};

// f(taps, offset, count) for every piece of rows `rows` of output plane od: one position, or the
// channels of a pixel.
template <class F>
void for_counts(const VolumeProblem& v, const BoxCounts& counts, std::int64_t od, Range rows,
                const F& f) {
  const std::int64_t channels = v.plane.channels_last ? v.plane.c : 1;
  std::int64_t offset = 0;
  for (std::int64_t oh = rows.begin; oh < rows.end; ++oh) {
    for (std::int64_t ow = 0; ow < v.plane.w.out; ++ow, offset += channels) {
      f(counts.taps(od, oh, ow), offset, channels);
    }
  }
}

// out = in / divisor over rows of an output plane.
template <class T>
void divide(const VolumeProblem& v, const BoxCounts& counts, const AverageDivisor& d,
            std::int64_t od, Range rows, const T* in, T* out) {
  if (d.fixed != 0) {
    const std::int64_t n = (rows.end - rows.begin) * row_elements(v);
    for (std::int64_t i = 0; i < n; ++i) out[i] = in[i] / static_cast<T>(d.fixed);
    return;
  }
  for_counts(v, counts, od, rows, [&](std::int64_t taps, std::int64_t at, std::int64_t n) {
    for (std::int64_t i = at; i < at + n; ++i) out[i] = in[i] / static_cast<T>(taps);
  });
}

template <class T>
T power_of(T x, double p) {
  if (p == 1) return x;
  if (p == 2) return x * x;
  return static_cast<T>(std::pow(x, static_cast<T>(p)));
}

// What the sum of a window is multiplied by: padding counts, what ceil_mode reads beyond it does not.
template <class T>
T full_over_taps(const VolumeProblem& v, std::int64_t taps) {
  return static_cast<T>(v.d.kernel * v.plane.h.kernel * v.plane.w.kernel) / static_cast<T>(taps);
}

constexpr AverageDivisor kSum = {false, 1};

// dx of sums by way of the gradient of z. share(od, rows, dy, out) writes what rows of output plane
// od pass on.
template <class T, class Share>
void spread_boxes(const char* op, const VolumeProblem& v, const T* dy, T* dx,
                  const Share& share_rows) {
  const PoolProblem& p = v.plane;
  const PoolTable<T>& k = pool_kernels().of<T>();
  constexpr PoolTask task = PoolTask::kSumBackward;
  const std::int64_t item = sizeof(T), channels = p.channels_last ? p.c : 1;
  const std::int64_t in_plane = v.in_plane() * channels, out_plane = v.out_plane() * channels;
  // Bands are rows of dx from one window's first to another's; a staged plane is not cut.
  const Units units = make_units(v, p.h.out, v.d.size * row_elements(v) * item, p.channels_last);
  const auto first_row = [&](std::int64_t oh) {
    if (oh == 0) return std::int64_t{0};
    return oh == p.h.out ? p.h.size : min_i(p.h.size, max_i(0, window_first(p.h, oh)));
  };
  const auto rows_of = [&](std::int64_t i) {
    const Range windows = split_range(p.h.out, units.bands, i % units.bands);
    return Range{first_row(windows.begin), first_row(windows.end)};
  };
  const auto make = [&](std::int64_t i) {
    Unit u = unit_at(v, units, i);
    u.rows = {0, p.h.out};
    u.whole = units.bands == 1;
    if (!u.whole) {
      const Range own = rows_of(i), touching = windows_touching(p.h, own.begin, own.end);
      u.rows = {min_i(touching.begin, touching.end), touching.end};
    }
    u.z_plane = (u.rows.end - u.rows.begin) * u.width;
    set_planes(u.whole ? u.volumes * v.d.size : 1, &u);
    return u;
  };
  const Sizes sizes = largest(v, units, item, task, make);
  const std::int64_t z_bytes = round_up(sizes.z * item, 64);
  const std::int64_t share_bytes = round_up(ceil_div(sizes.z, v.d.size) * v.d.out * item, 64);
  const std::int64_t bytes = z_bytes + share_bytes + round_up(sizes.scratch, 64);
  const int threads = team_of(v, units.count);
  const Scratch scratch(op, static_cast<std::size_t>(bytes * threads));
  parallel(threads, Denormals::kFlush, [&](int tid, int nthreads) {
    char* base = static_cast<char*>(scratch.data()) + bytes * tid;
    T* dz = reinterpret_cast<T*>(base);
    T* share = reinterpret_cast<T*>(base + z_bytes);
    void* rest = base + z_bytes + share_bytes;
    const Range mine = split_range(units.count, nthreads, tid);
    for (std::int64_t i = mine.begin; i < mine.end; ++i) {
      Unit u = make(i);
      Range own = {0, p.h.size};
      std::int64_t in_row = 0;
      if (!u.whole) {
        own = rows_of(i);
        if (own.begin == own.end) continue;
      }
      const std::int64_t volume = u.first * v.d.size * in_plane;
      if (u.z_plane == 0) {
        for (std::int64_t d = 0; d < v.d.size; ++d) {
          std::fill_n(dx + volume + d * in_plane + own.begin * p.w.size * channels,
                      (own.end - own.begin) * p.w.size * channels, T(0));
        }
        continue;
      }
      if (!u.whole) {  // the windows that touch the band, counted from the first of them
        std::int64_t first = 0;
        u.plane.h = band_of(p.h, u.rows, &first);
        in_row = min_i(own.begin, first);
        const std::int64_t end = max_i(own.end, first + u.plane.h.size);
        u.plane.h.size = end - in_row;
        u.plane.h.begin += in_row - first;
        u.plane.h.end = p.h.end + p.h.size - end;
        own = {own.begin - in_row, own.end - in_row};
      }
      const std::int64_t at = volume + in_row * p.w.size * channels;
      const std::int64_t calls = u.whole ? 1 : v.d.size;
      const T* g = dy + u.first * v.d.out * out_plane + u.rows.begin * u.width;
      for (std::int64_t q = 0; q < u.volumes * v.d.out; ++q) {
        share_rows(q % v.d.out, u.rows, g + q * out_plane, share + q * u.z_plane);
      }
      const PoolProblem deep = depth_problem(v.d, u.volumes, u.z_plane);
      k.average_backward(deep, kSum, share, dz, {0, pool_shares(deep, item, task)}, nullptr);
      const Range rows = u.whole ? Range{0, pool_shares(u.plane, item, task)} : own;
      for (std::int64_t d = 0; d < calls; ++d) {
        k.average_backward(u.plane, kSum, dz + d * u.z_plane, dx + at + d * in_plane, rows, rest);
      }
    }
  });
}

}  // namespace

template <class T>
void find_maxima(const char* op, const VolumeProblem& v, const T* x, T* y, std::int64_t* indices) {
  const PoolProblem& p = v.plane;
  if (is_flat(v)) return max_pool(op, p, x, y, indices);
  const std::int64_t rows = (p.channels_last ? p.n : p.n * p.c) * v.d.out * p.h.out;
  const std::int64_t bytes = p.channels_last || finds_in_tiles(v) ? 0 : find_bytes(v, sizeof(T));
  const int threads = team_of(v, rows);
  const Scratch scratch(op, static_cast<std::size_t>(bytes * threads));
  parallel(threads, Denormals::kKeep, [&](int tid, int nthreads) {
    pool_kernels().of<T>().max_indices(v, x, y, indices, split_range(rows, nthreads, tid),
                                       static_cast<char*>(scratch.data()) + bytes * tid);
  });
}

template <class T>
void max_pool(const char* op, const VolumeProblem& whole, const T* x, T* y, std::int64_t* indices) {
  if (is_empty(whole)) return;
  if (indices != nullptr) return find_maxima(op, whole, x, y, indices);
  if (keeps_positions(whole.d)) return max_pool(op, as_planes(whole), x, y, indices);
  const PoolTable<T>& k = pool_kernels().of<T>();
  pool_boxes(
      op, cut_depth(whole), Denormals::kKeep, x, y,
      [&](const PoolProblem& p, const T* in, T* out, void* scratch) {
        k.max(p, in, out, {0, pool_shares(p, sizeof(T), PoolTask::kMax)}, scratch);
      },
      [&](const PoolProblem& p, const T* in, T* out) {
        k.max(p, in, out, {0, pool_shares(p, sizeof(T), PoolTask::kMax)}, nullptr);
      },
      [](const Unit&, std::int64_t, T*) {});
}

template <class T>
bool max_pool_backward(const char* op, const VolumeProblem& whole, const T* dy, const T* x,
                       const std::int64_t* indices, T* dx) {
  const PoolProblem& p = whole.plane;
  if (is_empty(whole)) {
    std::fill_n(dx, p.n * p.c * whole.in(), T(0));
    return true;
  }
  UnpoolProblem u{p.n, p.c, whole.out(), whole.in(), p.channels_last};
  if (indices != nullptr) {
    u.has_empty = has_empty_windows(whole.d) || has_empty_windows(p.h) || has_empty_windows(p.w);
    return scatter(u, dy, indices, dx);
  }
  if (keeps_positions(whole.d)) return max_pool_backward(op, as_planes(whole), dy, x, indices, dx);
  // Some volumes, or a sample, after another: their positions are found, then added to.
  VolumeProblem v = cut_depth(whole);
  const std::int64_t all = v.plane.channels_last ? v.plane.n : v.plane.n * v.plane.c;
  const std::int64_t channels = v.plane.channels_last ? v.plane.c : 1;
  const std::int64_t in = v.in() * channels, out = v.out() * channels;
  const std::int64_t bytes = round_up(out * static_cast<std::int64_t>(sizeof(T)), 64) + out * 8;
  const std::int64_t team = team_of(v, all);
  const std::int64_t some = min_i(all, max_i(1, kFoundVolumeBytes / bytes) * team);
  const Scratch scratch(op, static_cast<std::size_t>(some * bytes));
  auto* found = static_cast<std::int64_t*>(scratch.data());
  T* largest = reinterpret_cast<T*>(found + some * out);
  for (std::int64_t i = 0; i < all; i += some) {
    const std::int64_t count = min_i(some, all - i);
    v.plane.n = v.plane.channels_last ? count : 1;
    if (!v.plane.channels_last) v.plane.c = count;
    find_maxima(op, v, x + i * in, largest, found);
    const UnpoolProblem part{v.plane.n, v.plane.c, v.out(), v.in(), v.plane.channels_last};
    scatter(part, dy + i * out, found, dx + i * in);
  }
  return true;
}

template <class T>
void avg_pool(const char* op, const VolumeProblem& whole, const AverageDivisor& d, const T* x,
              T* y) {
  if (is_empty(whole)) return;
  if (keeps_positions(whole.d)) return avg_pool(op, as_planes(whole), d, x, y);
  const VolumeProblem v = cut_depth(whole);
  const PoolTable<T>& k = pool_kernels().of<T>();
  const BoxCounts counts(v, d.include_pad);
  const bool uniform = d.fixed != 0 || counts.uniform();
  // Of the sums over the depth.
  const AverageDivisor last = {false, d.fixed != 0 ? d.fixed
                                      : uniform    ? counts.taps(0, 0, 0)
                                                   : kSum.fixed};
  pool_boxes(
      op, v, Denormals::kFlush, x, y,
      [&](const PoolProblem& p, const T* in, T* out, void* scratch) {
        k.average(p, kSum, in, out, {0, pool_shares(p, sizeof(T), PoolTask::kSum)}, scratch);
      },
      [&](const PoolProblem& p, const T* in, T* out) {
        k.average(p, last, in, out, {0, pool_shares(p, sizeof(T), PoolTask::kSum)}, nullptr);
      },
      [&](const Unit& u, std::int64_t od, T* out) {
        if (!uniform) divide(v, counts, d, od, u.rows, out, out);
      });
}

template <class T>
void avg_pool_backward(const char* op, const VolumeProblem& v, const AverageDivisor& d, const T* dy,
                       T* dx) {
  if (is_empty(v)) {
    std::fill_n(dx, v.plane.n * v.plane.c * v.in(), T(0));
    return;
  }
  if (keeps_positions(v.d)) return avg_pool_backward(op, as_planes(v), d, dy, dx);
  const VolumeProblem parts = cut_depth(v);
  const BoxCounts counts(parts, d.include_pad);
  spread_boxes<T>(op, parts, dy, dx, [&](std::int64_t od, Range rows, const T* g, T* share) {
    divide(parts, counts, d, od, rows, g, share);
  });
}

template <class T>
void lp_pool(const char* op, const VolumeProblem& whole, double norm, const T* x, T* y) {
  if (is_empty(whole)) return;
  if (keeps_positions(whole.d)) return lp_pool(op, as_planes(whole), norm, x, y);
  const VolumeProblem v = cut_depth(whole);
  const PoolTable<T>& k = pool_kernels().of<T>();
  const BoxCounts counts(v, true);
  pool_boxes(
      op, v, Denormals::kFlush, x, y,
      [&](const PoolProblem& p, const T* in, T* out, void* scratch) {
        k.lp(p, norm, false, in, out, {0, pool_shares(p, sizeof(T), PoolTask::kSum)}, scratch);
      },
      [&](const PoolProblem& p, const T* in, T* out) {
        k.average(p, kSum, in, out, {0, pool_shares(p, sizeof(T), PoolTask::kSum)}, nullptr);
      },
      [&](const Unit& u, std::int64_t od, T* out) {
        for_counts(v, counts, od, u.rows, [&](std::int64_t taps, std::int64_t at, std::int64_t n) {
          const T scale = full_over_taps<T>(v, taps);
          for (std::int64_t i = at; i < at + n; ++i) {
            const T total = out[i] * scale;
            out[i] = norm == 2 ? std::sqrt(total) : power_of(total, 1 / norm);
          }
        });
      });
}

template <class T>
void lp_pool_backward(const char* op, const VolumeProblem& v, double norm, const T* dy, const T* x,
                      const T* y, T* dx) {
  const PoolProblem& p = v.plane;
  const std::int64_t volumes = p.n * p.c, in = volumes * v.in();
  if (is_empty(v)) {
    std::fill_n(dx, in, T(0));
    return;
  }
  const std::int64_t outputs = volumes * v.out();
  const Scratch shares(op, static_cast<std::size_t>(outputs) * sizeof(T));
  T* share = static_cast<T*>(shares.data());
  const BoxCounts counts(v, true);
  const std::int64_t planes = (p.channels_last ? p.n : volumes) * v.d.out;
  const std::int64_t plane = v.out_plane() * (p.channels_last ? p.c : 1);
  const auto team = [](std::int64_t elements) {
    return threads_for(static_cast<double>(elements), kPoolGrain);
  };
  // dy k/taps y^(1 - p): what every tap of a window shares. 0 where y is, unless p = 1.
  parallel(team(outputs), Denormals::kFlush, [&](int tid, int nthreads) {
    const Range mine = split_range(planes, nthreads, tid);
    for (std::int64_t q = mine.begin; q < mine.end; ++q) {
      for_counts(v, counts, q % v.d.out, {0, p.h.out},
                 [&](std::int64_t taps, std::int64_t at, std::int64_t n) {
                   const T scale = full_over_taps<T>(v, taps);
                   for (std::int64_t i = q * plane + at; i < q * plane + at + n; ++i) {
                     const T g = dy[i] * scale;
                     share[i] = norm == 1   ? g
                                : y[i] == 0 ? T(0)
                                : norm == 2 ? g / y[i]
                                            : g * power_of(y[i], 1 - norm);
                   }
                 });
    }
  });
  avg_pool_backward(op, v, kSum, share, dx);
  if (norm == 1) return;
  parallel(team(in), Denormals::kFlush, [&](int tid, int nthreads) {
    pool_kernels().of<T>().lp_slopes(norm, x, dx, split_range(in, nthreads, tid));
  });
}

template <class T>
void max_pool_integer(const VolumeProblem& v, const T* x, T* y, std::int64_t* indices) {
  if (is_empty(v)) return;
  const MaxInteger<T> run = pool_kernels().integer(T{});
  const std::int64_t outer = v.plane.channels_last ? v.plane.n : v.plane.n * v.plane.c;
  const std::int64_t rows = outer * v.d.out * v.plane.h.out;
  parallel(team_of(v, rows), Denormals::kKeep,
           [&](int tid, int nthreads) { run(v, x, y, indices, split_range(rows, nthreads, tid)); });
}
#define ARRAYNN_INSTANTIATE(T) \
  template void max_pool_integer(const VolumeProblem&, const T*, T*, std::int64_t*);
ARRAYNN_FOR_EACH_POOLED_INTEGER(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

#define ARRAYNN_INSTANTIATE(T)                                                                     \
  template void max_pool<T>(const char*, const VolumeProblem&, const T*, T*, std::int64_t*);       \
  template bool max_pool_backward<T>(const char*, const VolumeProblem&, const T*, const T*,        \
                                     const std::int64_t*, T*);                                     \
  template void avg_pool<T>(const char*, const VolumeProblem&, const AverageDivisor&, const T*,    \
                            T*);                                                                   \
  template void avg_pool_backward<T>(const char*, const VolumeProblem&, const AverageDivisor&,     \
                                     const T*, T*);                                                \
  template void lp_pool<T>(const char*, const VolumeProblem&, double, const T*, T*);               \
  template void lp_pool_backward<T>(const char*, const VolumeProblem&, double, const T*, const T*, \
                                    const T*, T*);
ARRAYNN_INSTANTIATE(float)
ARRAYNN_INSTANTIATE(double)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
