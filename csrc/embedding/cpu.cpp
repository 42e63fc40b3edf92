#include "embedding/embedding.hpp"
#include "simd/storage.hpp"

namespace ARRAYNN_ISA_NAMESPACE {
namespace {

// The bits as they are, 16 of them in the vectors of float.
template <class T>
void gather(const EmbeddingShape& p, const std::int64_t* indices, const T* w, T* y,
            std::int64_t begin, std::int64_t end) {
  for (std::int64_t i = begin; i < end; ++i) {
    const std::int64_t row = indices[i];
    const T* from = w + row * p.columns;
    T* to = y + i * p.columns;
    std::int64_t j = 0;
    if constexpr (sizeof(T) == 2) {
      constexpr int kL = kLanes<float>;
      for (; j + kL <= p.columns; j += kL) store_shorts(load_shorts(from + j), to + j);
      if (const std::int64_t n = p.columns - j; n > 0) {
        store_shorts_n(load_shorts_n(from + j, n), to + j, n);
      }
    } else {
      for (; j + kLanes<T> <= p.columns; j += kLanes<T>) store(load(from + j), to + j);
      if (j < p.columns) store_n(load_n(from + j, p.columns - j), to + j, p.columns - j);
    }
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

template <class S>
void sum_rows(const EmbeddingShape& p, const SortedIndices& sorted, const S* dy, S* dw,
              std::int64_t begin, std::int64_t end) {
  using V = Vec<Compute<S>>;
  for (std::int64_t r = 0; r < p.rows; ++r) {
    const std::int64_t *first = sorted.order + sorted.begin[r],
                       *last = sorted.order + sorted.begin[r + 1];
    for (std::int64_t j = begin; j < end; j += V::kSize) {
      const std::int64_t lanes = min_i(V::kSize, end - j);
      V sum = V::zero();
      for (const std::int64_t* i = first; i != last; ++i) {
        sum = sum + load_lanes(dy + *i * p.columns + j, lanes);
      }
      store_lanes(sum, dw + r * p.columns + j, lanes);
    }
  }
}

template <class T>
constexpr EmbeddingTable<T> table() {
  if constexpr (sizeof(T) == 2) {
    return {&gather<T>, nullptr, &sum_rows<T>};
  } else {
    return {&gather<T>, &scatter_add<T>, nullptr};
  }
}

}  // namespace

extern const EmbeddingKernels embedding_kernels = {table<float>(), table<double>(), table<Half>(),
                                                   table<Bfloat16>()};

}  // namespace ARRAYNN_ISA_NAMESPACE
