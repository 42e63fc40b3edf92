#include "conv/pairs.hpp"

#include <algorithm>
#include <utility>

#include "bind/wide.hpp"
#include "conv/arguments.hpp"
#include "conv/choice.hpp"
#include "conv/lanes.hpp"
#include "core/index.hpp"
#include "core/parallel.hpp"
#include "gemm/gemm.hpp"

namespace arraynn {
namespace {

// Copies run at a few elements a nanosecond.
constexpr double kElementsPerThread = 1 << 15;
constexpr std::int64_t kPair = 2;

// Forms of a packed weight beside those of gemm, which have a key of three numbers as well.
constexpr std::int64_t kNarrowForm = 2, kPairForm = 3;

const PairCopies& pair_copies() {
#if defined(__x86_64__)
  return avx512_bf16::pair_copies;
#else
  static const PairCopies none{};  // has_gemm() is false
  return none;
#endif
}

// Winograd's tiles in float32 have a quarter of the products. Where they are mostly pixels they were 1.1
// to 1.45 times as fast from 16x16 of 32 channels on; 0.95 at 26x26, whose last tiles are half empty, 1.0
// at 14x14 and 0.6 at 7x7 of 512 channels, where the transformed weights are most of the work.
constexpr std::int64_t kTiledChannels = 32, kTiles = 16, kTilePixels = 14;

bool goes_by_tiles(const Conv2dProblem& p, bool by_x) {
  const std::int64_t height = by_x ? p.ih : p.oh, width = by_x ? p.iw : p.ow;
  const std::int64_t tiles = ceil_div(height, 4) * ceil_div(width, 4);
  return p.algorithm == Algorithm::kAuto && !p.is_volume() && p.kh == 3 && p.kw == 3 &&
         p.stride_h == 1 && p.stride_w == 1 && p.dilation_h == 1 && p.dilation_w == 1 &&
         std::min(p.ic, p.oc) / p.groups >= kTiledChannels && tiles >= kTiles &&
         height * width >= kTilePixels * tiles;
}

bool takes_pairs(const Conv2dProblem& p, bool by_x) {
  const std::int64_t summed = by_x ? p.oc : p.ic, results = by_x ? p.ic : p.oc;
  return p.algorithm != Algorithm::kWinograd && !goes_by_tiles(p, by_x) &&
         summed / p.groups >= kPairedChannels && (!by_x || results / p.groups > kFewResults);
}

// An array of `count` elements of 32 bits in the place of `a`; `memory` keeps them.
void replace(Array* a, const void* data, std::int64_t count, py::object memory) {
  a->narrow = a->stored();
  a->wide = std::move(memory);
  TensorView& v = a->view;
  v.data = const_cast<void*>(data);
  v.ndim = 1;
  v.dtype = Dtype::kF32;
  v.writeable = false;
  v.contiguous = true;
  v.shape[0] = count;
  v.strides[0] = 1;
}

// copy(threads, dst) into `count` new elements.
template <class F>
void replace_by_copy(const char* op, Array* a, std::int64_t count, const F& copy) {
  TensorView memory;
  py::object object = new_array(op, Dtype::kF32, &count, 1, &memory);
  {
    const py::gil_scoped_release nogil;
    copy(threads_for(static_cast<double>(count), kElementsPerThread), memory.as<float>());
  }
  replace(a, memory.data, count, std::move(object));
}

// The form of a packed weight, which is float32 unless it was packed at this level.
template <class F>
const void* form_of(const char* op, const Weight& weight, std::int64_t kind, std::int64_t count,
                    const F& copy) {
  const py::gil_scoped_release nogil;
  const FormKey key{static_cast<std::int64_t>(current_isa()), kind, 0};
  const int threads = threads_for(static_cast<double>(count), kElementsPerThread);
  return weight.forms->form(op, key, count * static_cast<std::int64_t>(sizeof(float)),
                            [&](void* dst) { copy(threads, static_cast<float*>(dst)); });
}

void pair_x(const Conv2dProblem& p, bool by_x, const PairCopies& copies, Array* x) {
  const std::int64_t channels = (by_x ? p.oc : p.ic) / p.groups;
  const std::int64_t pairs = ceil_div(channels, kPair);
  const std::int64_t plane = by_x ? p.out_size() : p.in_size();
  const std::int64_t count = p.n * plane * p.groups * pairs;
  const auto* from = x->view.as<const Bfloat16>();
  const bool whole = channels % kPair == 0 && reinterpret_cast<std::uintptr_t>(from) % 4 == 0;
  if (p.channels_last && whole) return replace(x, from, count, x->owner);
  replace_by_copy(p.op, x, count, [&](int threads, float* dst) {
    if (p.channels_last) {
      copies.rows(from, p.n * plane * p.groups, channels, 1, threads, dst);
    } else {
      copies.planes(from, p.n, p.groups, channels, plane, threads, dst);
    }
  });
}

void pair_weight(const Conv2dProblem& p, bool by_x, const PairCopies& copies, Weight* weight) {
  const std::int64_t icg = p.ic / p.groups, ocg = p.oc / p.groups;
  const std::int64_t batch = by_x ? p.groups : p.oc, rows = by_x ? ocg : icg;
  const std::int64_t columns = (by_x ? icg : 1) * p.taps();
  const std::int64_t count = batch * ceil_div(rows, kPair) * columns;
  Array& w = weight->array;
  const auto copy = [&](int threads, float* dst) {
    if (w->dtype == Dtype::kBF16) {
      copies.rows(w->as<const Bfloat16>(), batch, rows, columns, threads, dst);
    } else {
      copies.wide_rows(w->as<const float>(), batch, rows, columns, threads, dst);
    }
  };
  if (weight->forms == nullptr) return replace_by_copy(p.op, &w, count, copy);
  replace(&w, form_of(p.op, *weight, kPairForm, count, copy), count, w.owner);
}

// Of a product: 16 bits.
void narrow_weight(const Conv2dProblem& p, const PairCopies& copies, Weight* weight) {
  Array& w = weight->array;
  if (w->dtype == Dtype::kBF16) return;
  const std::int64_t size = w->size();
  const void* form = form_of(
      p.op, *weight, kNarrowForm, ceil_div(size, kPair),
      [&](int n, float* dst) { copies.wide_rows(w->as<const float>(), 1, size, 1, n, dst); });
  w.wide = py::object();
  w.view.data = const_cast<void*>(form);
  w.view.dtype = Dtype::kBF16;
}

}  // namespace

bool multiplies_16_bits(const ConvArguments& a, bool by_x, const Array& x) {
  const Conv2dProblem& p = a.problem;
  return x->dtype == Dtype::kBF16 && has_gemm(Dtype::kBF16) && p.x_size() > 0 && p.y_size() > 0 &&
         (is_gemm(p) || takes_pairs(p, by_x));
}

void take_as_read(ConvArguments* a, bool by_x, Array* x, Weight* weight) {
  Conv2dProblem& p = a->problem;
  p.forms = weight->forms;
  if (!multiplies_16_bits(*a, by_x, *x)) {
    *x = widened(p.op, "x", std::move(*x));
    weight->array = widened(p.op, "weight", std::move(weight->array));
    return;
  }
  const PairCopies& copies = pair_copies();
  if (is_gemm(p)) return narrow_weight(p, copies, weight);
  pair_x(p, by_x, copies, x);
  pair_weight(p, by_x, copies, weight);
  std::int64_t& channels = by_x ? p.oc : p.ic;
  channels = p.groups * ceil_div(channels / p.groups, kPair);
  p.pairs = true;
  p.algorithm = Algorithm::kDirect;
}

bool gradient_of_16_bits(const ConvArguments& a, bool by_x, const Array& grad_out,
                         const Array& weight, const TensorView& dx) {
  if (dx.dtype == Dtype::kOther || !multiplies_16_bits(a, by_x, grad_out)) return false;
  ConvArguments own = a;
  Array dy = grad_out;
  Weight w{weight};
  take_as_read(&own, by_x, &dy, &w);
  TensorView result = dx;
  WideResults results;
  if (own.problem.pairs) results.add(a.problem.op, &result);
  const auto run = [&]<class T>(T* out) {
    const T *from = dy->as<const T>(), *kernel = w.array->as<const T>();
    const py::gil_scoped_release nogil;
    if (by_x) {
      conv_transpose2d(own.problem, from, kernel, ConvEpilogue<T>{}, out);
    } else {
      conv2d(own.problem, from, kernel, ConvEpilogue<T>{}, out);
    }
    results.narrow();
  };
  own.problem.pairs ? run(result.as<float>()) : run(result.as<Bfloat16>());
  return true;
}

}  // namespace arraynn
