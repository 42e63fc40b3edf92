#include "machine/machine.hpp"
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// 12 independent chains cover latency 4 x 2 pipes on the machines known so far.
constexpr int kChains = 12;

template <class T>
double fma_chains(std::int64_t iterations) {
  Vec<T> acc[kChains];
  for (int j = 0; j < kChains; ++j) acc[j] = Vec<T>::set1(T(j + 1));
  Vec<T> x = Vec<T>::set1(T(0.999)), y = Vec<T>::set1(T(1e-3));
  __asm__ volatile("" : "+m"(x), "+m"(y));  // not known to the optimiser
  for (std::int64_t i = 0; i < iterations; ++i) {
    for (int j = 0; j < kChains; ++j) acc[j] = fma(acc[j], x, y);
  }
  Vec<T> sum = acc[0];
  for (int j = 1; j < kChains; ++j) sum = sum + acc[j];
  __asm__ volatile("" : : "m"(sum));
  return 2.0 * kChains * kLanes<T> * static_cast<double>(iterations);
}

void copy(float* dst, const float* src, std::int64_t n) {
  constexpr int kL = kLanes<float>;
  std::int64_t i = 0;
  for (; i + 4 * kL <= n; i += 4 * kL) {
    const auto a = Vec<float>::load(src + i), b = Vec<float>::load(src + i + kL);
    const auto c = Vec<float>::load(src + i + 2 * kL), d = Vec<float>::load(src + i + 3 * kL);
    a.store(dst + i);
    b.store(dst + i + kL);
    c.store(dst + i + 2 * kL);
    d.store(dst + i + 3 * kL);
  }
  for (; i < n; ++i) dst[i] = src[i];
}

// Eight chains: an addition takes less than a load from memory.
float sum(const float* src, std::int64_t n) {
  constexpr int kL = kLanes<float>, kAtOnce = 8;
  Vec<float> acc[kAtOnce];
  for (int j = 0; j < kAtOnce; ++j) acc[j] = Vec<float>::zero();
  std::int64_t i = 0;
  for (; i + kAtOnce * kL <= n; i += kAtOnce * kL) {
    for (int j = 0; j < kAtOnce; ++j) acc[j] = acc[j] + Vec<float>::load(src + i + j * kL);
  }
  float total = 0;
  for (; i < n; ++i) total += src[i];
  for (int j = 1; j < kAtOnce; ++j) acc[0] = acc[0] + acc[j];
  return total + reduce_add(acc[0]);
}

}  // namespace

extern const MachineKernels machine_kernels = {&fma_chains<float>, &fma_chains<double>, &copy,
                                               &sum};

}  // namespace ARRAYNN_ISA_NAMESPACE
