#include "bind/wide.hpp"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "core/index.hpp"
#include "core/parallel.hpp"
#include "elementwise/convert.hpp"

namespace arraynn {
namespace {

// Elements that one thread should convert at least: about 10 us of memory traffic.
constexpr double kGrain = 32768;
// Elements of a run that go to one thread.
constexpr std::int64_t kChunk = 8192;

bool is_half(Dtype t) { return t == Dtype::kF16 || t == Dtype::kBF16; }

// f(convert_kernels of the dtype, a null pointer of its type).
template <class F>
void dispatch_half(Dtype t, const F& f) {
  const ConvertKernels& k = convert_kernels();
  t == Dtype::kF16 ? f(k.of<Half>(), static_cast<Half*>(nullptr))
                   : f(k.of<Bfloat16>(), static_cast<Bfloat16*>(nullptr));
}

// What an array has in memory, each element once: runs of a unit stride along axes, the outermost
// first. Runs lie densely in the copy.
struct Runs {
  struct Axis {
    std::int64_t size, stride;
  };
  Axis axes[kMaxDims];
  int ndim = 0;
  std::int64_t length = 1, count = 1;

  // Sets the strides of the copy.
  Runs(const TensorView& from, TensorView* to) {
    int order[kMaxDims];
    int n = 0;
    for (int i = 0; i < from.ndim; ++i) {
      to->strides[i] = 0;
      if (from.shape[i] != 1 && from.strides[i] != 0) order[n++] = i;
    }
    std::stable_sort(order, order + n, [&](int a, int b) {
      return std::abs(from.strides[a]) > std::abs(from.strides[b]);
    });
    std::int64_t stride = 1;
    for (int i = n - 1; i >= 0; --i) {
      to->strides[order[i]] = stride;
      stride *= from.shape[order[i]];
    }
    for (int i = 0; i < n; ++i) {
      const Axis axis{from.shape[order[i]], from.strides[order[i]]};
      if (ndim > 0 && axes[ndim - 1].stride == axis.size * axis.stride) {
        axes[ndim - 1] = {axes[ndim - 1].size * axis.size, axis.stride};
      } else {
        axes[ndim++] = axis;
      }
    }
    if (ndim > 0 && axes[ndim - 1].stride == 1) length = axes[--ndim].size;
    for (int i = 0; i < ndim; ++i) count *= axes[i].size;
  }

  std::int64_t size() const { return count * length; }
  std::int64_t offset(std::int64_t run) const {
    std::int64_t at = 0;
    for (int i = ndim - 1; i >= 0; --i) {
      at += run % axes[i].size * axes[i].stride;
      run /= axes[i].size;
    }
    return at;
  }
};

void widen_runs(const TensorView& from, const Runs& runs, float* to) {
  dispatch_half(from.dtype, [&]<class S>(const ConvertTable<S>& k, S*) {
    const S* x = from.as<const S>();
    const std::int64_t chunks = ceil_div(runs.length, kChunk), units = runs.count * chunks;
    const int threads = threads_for(static_cast<double>(runs.size()), kGrain);
    parallel(threads, Denormals::kKeep, [&](int tid, int team) {
      for (std::int64_t u = units * tid / team; u < units * (tid + 1) / team; ++u) {
        const std::int64_t run = u / chunks, begin = u % chunks * kChunk;
        k.widen(x + runs.offset(run) + begin, to + run * runs.length + begin,
                std::min(kChunk, runs.length - begin));
      }
    });
  });
}

}  // namespace

Array widened(const char* op, const char* arg, Array a) {
  if (!is_half(a->dtype)) return a;
  TensorView wide = a.view;
  const Runs runs(a.view, &wide);
  const std::int64_t size = a->size() == 0 ? 0 : runs.size();
  checked_mul(op, arg, size, static_cast<std::int64_t>(sizeof(float)));
  TensorView memory;
  a.wide = new_array(op, Dtype::kF32, &size, 1, &memory);
  {
    const py::gil_scoped_release nogil;
    if (size > 0) widen_runs(a.view, runs, memory.as<float>());
  }
  a.narrow = a->dtype;
  wide.data = memory.data;
  wide.dtype = Dtype::kF32;
  wide.writeable = false;  // what is written there would not reach the caller
  a.view = wide;
  return a;
}

std::int64_t wide_bytes(Dtype stored, std::int64_t size) {
  return is_half(stored) ? size * static_cast<std::int64_t>(sizeof(float)) : 0;
}

void WideResults::add(const char* op, TensorView* result) {
  if (!is_half(result->dtype)) return;
  // Never null, which would be a result that nobody asked for.
  const auto bytes =
      static_cast<std::size_t>(std::max<std::int64_t>(1, result->size())) * sizeof(float);
  results_.push_back({*result, std::make_unique<const Scratch>(op, bytes)});
  result->data = results_.back().wide->data();
  result->dtype = Dtype::kF32;
}

void WideResults::narrow() const {
  for (const Result& r : results_) {
    const auto* from = static_cast<const float*>(r.wide->data());
    const std::int64_t size = r.narrow.size(), chunks = ceil_div(size, kChunk);
    dispatch_half(r.narrow.dtype, [&]<class S>(const ConvertTable<S>& k, S*) {
      const int threads = threads_for(static_cast<double>(size), kGrain);
      parallel(threads, Denormals::kKeep, [&](int tid, int team) {
        const std::int64_t begin = chunks * tid / team * kChunk,
                           end = std::min(size, chunks * (tid + 1) / team * kChunk);
        if (begin < end) k.narrow(from + begin, r.narrow.as<S>() + begin, end - begin);
      });
    });
  }
}

}  // namespace arraynn
