#include "embedding/embedding.hpp"
#include "simd/vec.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

template <class T>
void gather(const EmbeddingShape& p, const std::int64_t* indices, const T* w, T* y,
            std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t row = indices[i];
    const T* from = w + row * p.columns;
    T* to = y + i * p.columns;
    std::int64_t j = 0;
    for (; j + kLanes<T> <= p.columns; j += kLanes<T>) Vec<T>::load(from + j).store(to + j);
    if (j < p.columns) store_n(load_n(from + j, p.columns - j), to + j, p.columns - j);
  }
}

template <class T>
void scatter_add(const EmbeddingShape& p, const std::int64_t* indices, const T* dy, T* dw,
                 std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = 0; i < p.count; ++i) {
    if (indices[i] == p.padding) continue;
    const T* from = dy + i * p.columns;
    T* to = dw + indices[i] * p.columns;
    std::int64_t j = begin;
    for (; j + kLanes<T> <= end; j += kLanes<T>) {
      (Vec<T>::load(to + j) + Vec<T>::load(from + j)).store(to + j);
    }
    if (j < end) store_n(load_n(to + j, end - j) + load_n(from + j, end - j), to + j, end - j);
  }
}

template <class T>
constexpr EmbeddingTable<T> table() {
  return {&gather<T>, &scatter_add<T>};
}

}  // namespace

extern const EmbeddingKernels embedding_kernels = {table<float>(), table<double>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
