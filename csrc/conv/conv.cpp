#include "conv/conv.hpp"

#include <algorithm>
#include <vector>

#include "conv/axes.hpp"
#include "conv/choice.hpp"
#include "conv/conv_pool.hpp"
#include "conv/lanes.hpp"
#include "conv/product.hpp"
#include "conv/residues.hpp"
#include "core/arena.hpp"
#include "core/index.hpp"
#include "core/parallel.hpp"
#include "gemm/gemm.hpp"

namespace arraynn {
namespace {

constexpr double kFlopPerThread = 1.5e6;
// Storing an element takes the time of so many operations: what counts where products are few.
constexpr double kFlopPerElement = 24;

// Runs the kernel, or says of it what a plan says.
template <class Problem>
void run_kernel(const Conv2dProblem& p, const ConvKernel<Problem>& kernel, const Problem& d,
                int threads, const char* name, const char* reason) {
  const std::int64_t bytes = kernel.scratch(d, threads);
  if (p.plan != nullptr) return p.plan->note(name, reason, bytes, threads);
  const Scratch scratch(p.op, static_cast<std::size_t>(bytes));
  kernel.run(d, threads, scratch.data());
}

// What tells apart the forms of one weight: the algorithm, the group and its taps in order.
template <class T>
FormKey form_key(Algorithm algorithm, const ResidueConv<T>& d) {
  FormKey key{static_cast<std::int64_t>(current_isa()), static_cast<std::int64_t>(algorithm),
              d.out_channel, d.columns, d.channels};
  for (std::int64_t i = 0; i < d.residues(); ++i) {
    for (const DirectAxis* axis : {&d.h_at(i), &d.w_at(i)}) {
      key.push_back(axis->taps);
      key.insert(key.end(), axis->kernel, axis->kernel + axis->taps);
    }
  }
  return key;
}

template <class T>
void run_conv(const Conv2dProblem& p, const ResidueConv<T>& call) {
  if (call.n == 0 || call.columns == 0 || call.h.count == 0 || call.w.count == 0) return;
  ResidueConv<T> d = call;
  const double flop = 2.0 * static_cast<double>(d.channels * d.taps()) +
                      kFlopPerElement * static_cast<double>(d.residues());
  const int threads = threads_for(
      static_cast<double>(d.n * d.h.count * d.w.count * d.columns) * flop, kFlopPerThread);
  const bool winograd = is_winograd(p.algorithm, d);
  if (!winograd && is_first(d)) {
    return run_kernel<DirectConv<T>>(p, first_kernels().of<T>(), d, threads, "first",
                                     "few channels: vectors lie along the rows of planes");
  }
  const auto& by_tiles = winograd_kernels().of<T>();
  const auto& direct = direct_table<T>(p.pairs);
  const auto run = [&] {
    const char* const pooled = "rows of a strip pooled in cache, where they were formed";
    if (winograd) {
      return run_kernel<DirectConv<T>>(p, by_tiles, d, threads, "winograd",
                                       d.pool != nullptr ? pooled : kWinogradReason);
    }
    run_kernel<ResidueConv<T>>(
        p, direct, d, threads, "direct",
        d.pool != nullptr ? pooled
                          : "strips staged once and walked in place by the matrix microkernel");
  };
  if (p.forms != nullptr && p.plan == nullptr) {
    const std::int64_t elements = winograd ? by_tiles.prepared(d) : direct.prepared(d);
    const auto key = form_key(winograd ? Algorithm::kWinograd : Algorithm::kDirect, d);
    const void* form =
        p.forms->form(p.op, key, elements * static_cast<std::int64_t>(sizeof(T)), [&](void* data) {
          d.prepared = static_cast<T*>(data);
          d.prepare = data != nullptr;
          run();
        });
    if (d.prepare) return;  // the first call was that one
    d.prepared = static_cast<T*>(const_cast<void*>(form));
  }
  run();
}

template <class T>
DepthwiseConv<T> depthwise_of(const Conv2dProblem& p, const DirectAxis& depth, const DirectAxis& h,
                              const DirectAxis& w, const T* src, const T* weight,
                              const ConvEpilogue<T>& e, T* out, bool by_x) {
  const std::int64_t channels = by_x ? p.ic : p.oc;
  return DepthwiseConv<T>{p.n,
                          channels,
                          channels / p.groups,
                          depth,
                          h,
                          w,
                          src,
                          out,
                          by_x ? p.id : p.od,
                          by_x ? p.ih : p.oh,
                          by_x ? p.iw : p.ow,
                          weight,
                          p.kd,
                          p.kh,
                          p.kw,
                          !by_planes(p),
                          e.bias,
                          e.residual,
                          e.activation};
}

template <class T>
void run_depthwise(const Conv2dProblem& p, const DepthwiseResidues<T>& d,
                   const ConvEpilogue<T>& e) {
  if (d.n == 0 || d.channels == 0 || d.out_h == 0 || d.out_w == 0) return;
  const auto results = static_cast<double>(d.n * d.channels * d.out_d * d.out_h * d.out_w);
  const int threads = threads_for(p.flop() + kFlopPerElement * results, kFlopPerThread);
  if (e.pool != nullptr) return pool_depthwise(p, d, *e.pool, threads);
  run_kernel(p, depthwise_kernels().of<T>(), d, threads, "depthwise",
             "an output channel reads one input channel: a stencil");
}

// Arrays of a direct convolution, forward, or by x, where dy is the source and the weights are read across.
template <class T, class Conv>
void set_arrays(const Conv2dProblem& p, bool by_x, const T* src, const ConvEpilogue<T>& e, T* out,
                Conv& d) {
  const std::int64_t icg = p.ic / p.groups, ocg = p.oc / p.groups, taps = p.taps();
  d.src = src;
  d.src_channels = by_x ? p.oc : p.ic;
  d.channels = by_x ? ocg : icg;
  d.out = out;
  d.out_h = by_x ? p.ih : p.oh;
  d.out_w = by_x ? p.iw : p.ow;
  d.out_channels = by_x ? p.ic : p.oc;
  d.columns = by_x ? icg : ocg;
  d.weight_j = by_x ? taps : icg * taps;
  d.weight_c = by_x ? icg * taps : taps;
  d.kernel_h = p.kd * p.kh;
  d.kernel_w = p.kw;
  d.channels_last = p.channels_last;
  d.residual = e.residual;
  d.activation = e.activation;
  d.pool = e.pool;
}

// f(d) for every group in turn.
template <class T, class Conv, class F>
void for_groups(const Conv2dProblem& p, const T* weight, const ConvEpilogue<T>& e, Conv& d,
                const F& f) {
  for (std::int64_t g = 0; g < p.groups; ++g) {
    d.src_channel = g * d.channels;
    d.out_channel = g * d.columns;
    d.weight = weight + g * d.channels * d.columns * p.taps();
    d.bias = e.bias == nullptr ? nullptr : e.bias + g * d.columns;
    f(d);
    if (p.plan != nullptr) return;  // the groups are alike
  }
}

// `d` has its axes.
template <class T>
void run_groups(const Conv2dProblem& p, bool by_x, const T* src, const T* weight,
                const ConvEpilogue<T>& e, T* out, ResidueConv<T>& d) {
  d.n = p.n * d.depth.count;
  set_arrays(p, by_x, src, e, out, d);
  for_groups(p, weight, e, d, [&](const ResidueConv<T>& one) { run_conv(p, one); });
}

template <class T>
void forward(const Conv2dProblem& p, const T* x, const T* weight, const ConvEpilogue<T>& e, T* y) {
  if (p.y_size() == 0) return;
  const bool pooled = e.pool != nullptr;
  if (is_gemm(p)) {
    return pooled ? pool_by_samples(p, x, weight, e, y) : forward_gemm(p, x, weight, e, y);
  }
  if (is_gathered(p)) {
    return pooled ? pool_by_samples(p, x, weight, e, y) : forward_gathered(p, x, weight, e, y);
  }
  Axis h = forward_axis(axis_h(p), p.flip_kernel), w = forward_axis(axis_w(p), p.flip_kernel);
  if (is_depthwise(p, false)) {
    Axis depth = forward_axis(axis_d(p), p.flip_kernel);
    return run_depthwise(p,
                         DepthwiseResidues<T>{depthwise_of(p, depth.finish(), h.finish(),
                                                           w.finish(), x, weight, e, y, false)},
                         e);
  }
  if (pooled && is_tall(*e.pool, p.oc / p.groups)) return pool_by_samples(p, x, weight, e, y);
  ResidueConv<T> d{};
  d.w = w.finish();
  if (p.is_volume()) {
    const Axis depth = forward_axis(axis_d(p), p.flip_kernel);
    return for_depths(depth, p.oh * p.ow, [&](const Axis& planes) {
      Axis rows = with_depth(h, planes, p.kh);
      d.h = rows.finish();
      d.depth = depth_of(planes, p.od);
      run_groups(p, false, x, weight, e, y, d);
    });
  }
  d.h = h.finish();
  run_groups(p, false, x, weight, e, y, d);
}

template <class T>
void fill_zero(T* out, std::int64_t count) {
  parallel(threads_for(static_cast<double>(count), 1 << 18), Denormals::kKeep,
           [&](int tid, int nthreads) {
             const std::int64_t begin = count * tid / nthreads, end = count * (tid + 1) / nthreads;
             std::fill_n(out + begin, end - begin, T(0));
           });
}

// dx of positions without a tap: activation(bias + residual), everywhere.
template <class T>
void fill_epilogue(const Conv2dProblem& p, const ConvEpilogue<T>& e, T* dx) {
  if (e.bias == nullptr && e.residual == nullptr && e.activation.kind == ActivationKind::kNone) {
    return fill_zero(dx, p.x_size());
  }
  ResidueConv<T> d{};
  d.n = p.n;
  const std::int64_t height = p.id * p.ih;  // no tap tells planes from rows
  d.h = {height, 1, height, 1, 0, 0, nullptr, nullptr};
  d.w = {p.iw, 1, p.iw, 1, 0, 0, nullptr, nullptr};
  d.out = dx;
  d.out_h = height;
  d.out_w = p.iw;
  d.out_channels = d.columns = p.ic;
  d.channels_last = p.channels_last;
  d.bias = e.bias;
  d.residual = e.residual;
  d.activation = e.activation;
  run_conv(p, d);
}

template <class T>
void backward_x_depthwise(const Conv2dProblem& p, const T* dy, const T* weight,
                          const ConvEpilogue<T>& e, T* dx) {
  std::vector<Axis> depths = residues_of(axis_d(p), p.flip_kernel);
  std::vector<Axis> rows = residues_of(axis_h(p), p.flip_kernel);
  std::vector<Axis> columns = residues_of(axis_w(p), p.flip_kernel);
  const std::vector<DirectAxis> depth = finish(depths), h = finish(rows), w = finish(columns);
  DepthwiseResidues<T> d{depthwise_of(p, depth[0], h[0], w[0], dy, weight, e, dx, true)};
  d.d_residues = depth.data();
  d.h_residues = h.data();
  d.w_residues = w.data();
  d.d_count = std::ssize(depth);
  d.h_count = std::ssize(h);
  d.w_count = std::ssize(w);
  run_depthwise(p, d, e);
}

// Residues of both axes, and what they span.
struct Residues {
  std::vector<DirectAxis> h, w;
  std::int64_t ends_h[2] = {}, ends_w[2] = {};

  template <class T>
  ResidueConv<T> conv() {
    ResidueConv<T> d{};
    d.h = h.size() == 1 ? h[0] : span_of(h, ends_h);
    d.w = w.size() == 1 ? w[0] : span_of(w, ends_w);
    d.h_residues = h.data();
    d.w_residues = w.data();
    d.h_count = std::ssize(h);
    d.w_count = std::ssize(w);
    return d;
  }
};

// By x, planes that see the same planes of dy: all residues of h and w.
template <class T>
void run_few(const Conv2dProblem& p, const T* dy, const T* weight, const ConvEpilogue<T>& e, T* dx,
             Residues residues, const DirectDepth& depth) {
  auto d = residues.conv<T>();
  d.n = p.n * depth.count;
  d.depth = depth;
  if (d.taps() == 0) return;  // the epilogue was all
  set_arrays(p, true, dy, e, dx, d);
  const double work = p.flop() + kFlopPerElement * static_cast<double>(p.x_size());
  const double calls = static_cast<double>(p.groups * p.id) / static_cast<double>(depth.count);
  for_groups(p, weight, e, d, [&](const ResidueConv<T>& one) {
    run_kernel(p, few_kernels().of<T>(), one, threads_for(work / calls, kFlopPerThread), "few",
               "few results: vectors lie along the rows of planes");
  });
}

// False if there is a better way.
template <class T>
bool backward_x_few(const Conv2dProblem& p, const T* dy, const T* weight, const ConvEpilogue<T>& e,
                    T* dx) {
  if (!is_few(p)) return false;
  std::vector<Axis> rows = residues_of(axis_h(p), p.flip_kernel);
  std::vector<Axis> columns = residues_of(axis_w(p), p.flip_kernel);
  const std::vector<DirectAxis> h = finish(rows), w = finish(columns);
  if (p.algorithm == Algorithm::kWinograd && three_in_a_row(h[0]) && three_in_a_row(w[0])) {
    return false;
  }
  const auto for_planes = [&](const auto& f) {
    for (const Axis& depth : residues_of(axis_d(p), p.flip_kernel)) {
      for_depths(depth, p.ih * p.iw, f);
    }
  };
  bool sees = true;  // some plane of dy from every plane
  for_planes([&](const Axis& planes) { sees = sees && !planes.offset.empty(); });
  if (!sees) return false;
  for_planes([&](const Axis& planes) {
    std::vector<Axis> lines;
    for (const Axis& axis : rows) lines.push_back(with_depth(axis, planes, p.kh));
    run_few(p, dy, weight, e, dx, {finish(lines), w}, depth_of(planes, p.id));
  });
  return true;
}

// By x, residues of a call: the results of a strip wait for one another. Those of a row stay together.
constexpr std::int64_t kMostResidues = 16;

// Rows of results that no tap reaches are left out, and in channels_last columns, which no row has to wait for.
template <class T>
void run_residues(const Conv2dProblem& p, const T* dy, const T* weight, const ConvEpilogue<T>& e,
                  T* dx, std::vector<Axis>& rows, std::vector<Axis>& columns,
                  const DirectDepth& depth) {
  const std::vector<DirectAxis> h = finish(rows);
  std::vector<DirectAxis> w = finish(columns);
  if (p.channels_last) std::erase_if(w, [](const DirectAxis& axis) { return axis.taps == 0; });
  if (w.empty()) return;
  const std::int64_t most = std::max<std::int64_t>(1, kMostResidues / std::ssize(w));
  // Planes that no depth of the kernel reaches are in a call as well.
  const auto reached = [&](const DirectAxis& axis) { return axis.taps > 0 || depth.taps == 0; };
  for (auto first = h.begin(); first != h.end();) {
    auto end = first;
    while (end != h.end() && reached(*end) && end - first < most) ++end;
    if (end == first) {
      ++first;
      continue;
    }
    Residues residues{{first, end}, w};
    auto d = residues.conv<T>();
    d.depth = depth;
    run_groups(p, true, dy, weight, e, dx, d);
    first = end;
  }
}

template <class T>
void backward_x(const Conv2dProblem& p, const T* dy, const T* weight, const ConvEpilogue<T>& e,
                T* dx) {
  if (is_gemm(p)) return backward_x_gemm(p, dy, weight, e, dx);
  const bool skips =
      skips_positions(axis_h(p)) || skips_positions(axis_w(p)) || skips_positions(axis_d(p));
  if (skips && p.plan == nullptr) fill_epilogue(p, e, dx);
  if (is_depthwise(p, true)) return backward_x_depthwise(p, dy, weight, e, dx);
  if (backward_x_few(p, dy, weight, e, dx)) return;
  std::vector<Axis> h = residues_of(axis_h(p), p.flip_kernel);
  std::vector<Axis> w = residues_of(axis_w(p), p.flip_kernel);
  if (!p.is_volume()) return run_residues(p, dy, weight, e, dx, h, w, DirectDepth{});
  for (const Axis& depth : residues_of(axis_d(p), p.flip_kernel)) {
    if (depth.offset.empty()) continue;
    for_depths(depth, p.ih * p.iw, [&](const Axis& planes) {
      std::vector<Axis> rows;
      for (const Axis& axis : h) rows.push_back(with_depth(axis, planes, p.kh));
      run_residues(p, dy, weight, e, dx, rows, w, depth_of(planes, p.id));
    });
  }
}

template <class T>
void backward_weight(const Conv2dProblem& p, const T* dy, const T* x, T* dw) {
  const std::int64_t icg = p.ic / p.groups, ocg = p.oc / p.groups, taps = p.taps();
  if (p.y_size() == 0) {
    if (p.plan == nullptr) std::fill_n(dw, p.oc * icg * taps, T(0));
    return;
  }
  // Of a single sample the few pixels of a small plane are the sum, and fill no vector themselves.
  if (is_product(p) && (p.n == 1 || fills_vectors(p))) return backward_weight_gemm(p, dy, x, dw);
  Axis h = forward_axis(axis_h(p), p.flip_kernel), w = forward_axis(axis_w(p), p.flip_kernel);
  Axis depth = forward_axis(axis_d(p), p.flip_kernel);
  if (is_depthwise(p, false)) {
    const DepthwiseGradient<T> d{
        p.n,  p.oc, p.oc / p.groups, depth.finish(), h.finish(), w.finish(), x, dy, dw, p.kd,
        p.kh, p.kw, !by_planes(p)};
    const int threads =
        threads_for(p.flop() + kFlopPerElement * static_cast<double>(p.y_size()), kFlopPerThread);
    return run_kernel(p, depthwise_gradient_kernels().of<T>(), d, threads, "depthwise",
                      "an output channel reads one input channel: its products stay in lanes");
  }
  if (p.is_volume()) h = with_depth(h, depth, p.kh);
  for (std::int64_t g = 0; g < p.groups; ++g) {
    WeightGradient<T> d{};
    d.n = p.n * p.od;
    d.depth = depth_of(depth, p.od);
    d.h = h.finish();
    d.w = w.finish();
    d.x = x;
    d.x_channels = p.ic;
    d.x_channel = g * icg;
    d.channels = icg;
    d.dy = dy;
    d.dy_channels = p.oc;
    d.dy_channel = g * ocg;
    d.columns = ocg;
    d.dw = dw + g * ocg * icg * taps;
    d.kernel_h = p.kd * p.kh;
    d.kernel_w = p.kw;
    d.channels_last = p.channels_last;
    const int threads = threads_for(p.flop() / static_cast<double>(p.groups), kFlopPerThread);
    const bool few =
        p.algorithm == Algorithm::kAuto && d.n * tiles_of(d.h) * tiles_of(d.w) < kFewTiles;
    const bool winograd = is_winograd(p.algorithm, d) && !few;
    run_kernel(p, (winograd ? winograd_weight_kernels() : weight_kernels()).of<T>(), d, threads,
               winograd ? "winograd" : "direct",
               winograd ? kWinogradReason
                        : "pixels of staged strips times those of grad_out, strip after strip");
    if (p.plan != nullptr) return;  // the groups are alike
  }
}

// db[c] = sum of dy over samples and pixels.
template <class T>
void backward_bias(const Conv2dProblem& p, const T* dy, std::int64_t channels, std::int64_t plane,
                   T* db) {
  if (p.channels_last) return column_sums(dy, p.n * plane, channels, db);
  const int threads = threads_for(static_cast<double>(p.n * channels * plane), 1 << 16);
  plane_kernels().of<T>().sums(dy, p.n, channels, plane, threads, db);
}

template <class T>
void backward(const Conv2dProblem& p, const T* dy, const T* x, const T* weight,
              const ConvGradients<T>& grads) {
  if (grads.dx != nullptr && p.x_size() > 0) {
    if (p.y_size() > 0) {
      backward_x(p, dy, weight, ConvEpilogue<T>{}, grads.dx);
    } else if (p.plan == nullptr) {
      std::fill_n(grads.dx, p.x_size(), T(0));
    }
  }
  if (grads.dw != nullptr) backward_weight(p, dy, x, grads.dw);
  if (grads.db != nullptr) backward_bias(p, dy, p.oc, p.out_size(), grads.db);
}

template <class T>
void transpose(const Conv2dProblem& p, const T* x, const T* weight, const ConvEpilogue<T>& e,
               T* y) {
  if (p.x_size() > 0) backward_x(p, x, weight, e, y);
}

// x and dy change places: dy is what the convolution of `p` reads.
template <class T>
void transpose_backward(const Conv2dProblem& p, const T* dy, const T* x, const T* weight,
                        const ConvGradients<T>& grads) {
  if (grads.dx != nullptr) forward(p, dy, weight, ConvEpilogue<T>{}, grads.dx);
  if (grads.dw != nullptr) backward_weight(p, x, dy, grads.dw);
  if (grads.db != nullptr) backward_bias(p, dy, p.ic, p.in_size(), grads.db);
}

}  // namespace

// What conv.hpp declares for both dtypes.
#define ARRAYNN_CONV_OF(T)                                                                         \
  void conv2d(const Conv2dProblem& p, const T* x, const T* weight, const ConvEpilogue<T>& e,       \
              T* y) {                                                                              \
    forward(p, x, weight, e, y);                                                                   \
  }                                                                                                \
  void conv2d_backward(const Conv2dProblem& p, const T* dy, const T* x, const T* weight,           \
                       const ConvGradients<T>& grads) {                                            \
    backward(p, dy, x, weight, grads);                                                             \
  }                                                                                                \
  void conv_transpose2d(const Conv2dProblem& p, const T* x, const T* weight,                       \
                        const ConvEpilogue<T>& e, T* y) {                                          \
    transpose(p, x, weight, e, y);                                                                 \
  }                                                                                                \
  void conv_transpose2d_backward(const Conv2dProblem& p, const T* dy, const T* x, const T* weight, \
                                 const ConvGradients<T>& grads) {                                  \
    transpose_backward(p, dy, x, weight, grads);                                                   \
  }
ARRAYNN_CONV_OF(float)
ARRAYNN_CONV_OF(double)

void conv2d(const Conv2dProblem& p, const Bfloat16* x, const Bfloat16* weight,
            const ConvEpilogue<Bfloat16>& e, Bfloat16* y) {
  if (p.y_size() > 0) forward_gemm(p, x, weight, e, y);
}
void conv_transpose2d(const Conv2dProblem& p, const Bfloat16* x, const Bfloat16* weight,
                      const ConvEpilogue<Bfloat16>& e, Bfloat16* y) {
  if (p.x_size() > 0) backward_x_gemm(p, x, weight, e, y);
}

}  // namespace arraynn
