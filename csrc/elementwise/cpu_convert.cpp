#include "elementwise/convert.hpp"
#include "simd/storage.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class From, class To>
void convert(const From* x, To* y, std::int64_t n) {
  constexpr int kL = kLanes<float>;
  std::int64_t i = 0;
  for (; i + 2 * kL <= n; i += 2 * kL) {
    const Vec<float> a = load(x + i), b = load(x + i + kL);
    store(a, y + i);
    store(b, y + i + kL);
  }
  for (; i < n; i += kL) {
    const std::int64_t lanes = min_i(kL, n - i);
    store_lanes(load_lanes(x + i, lanes), y + i, lanes);
  }
}

}  // namespace

extern const ConvertKernels convert_kernels = {
    {&convert<Half, float>, &convert<float, Half>},
    {&convert<Bfloat16, float>, &convert<float, Bfloat16>},
};

}  // namespace ARRAYNN_ISA_NAMESPACE
