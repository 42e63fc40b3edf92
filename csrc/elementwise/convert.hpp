// Whole arrays of 16-bit floats to float32 and back, for kernels that read their operands more often
// than once. The caller shares n among its threads.
#pragma once
#include <cstdint>

#include "core/arena.hpp"
#include "core/dispatch.hpp"
#include "core/dtype.hpp"

namespace arraynn {

template <class S>
struct ConvertTable {
  void (*widen)(const S* x, float* y, std::int64_t n);
  void (*narrow)(const float* x, S* y, std::int64_t n);  // to nearest even
};

struct ConvertKernels {
  ConvertTable<Half> f16;
  ConvertTable<Bfloat16> bf16;

  template <class S>
  const ConvertTable<S>& of() const {
    if constexpr (std::is_same_v<S, Half>) {
      return f16;
    } else {
      return bf16;
    }
  }
};

ARRAYNN_KERNEL_TABLE(ConvertKernels, convert_kernels)

template <class S>
inline constexpr bool kIsShort = sizeof(S) == 2;

// A short array, or null, in the type that is computed in: a copy where it has 16 bits.
template <class S>
class WideCopy {
 public:
  using T = Compute<S>;

  WideCopy(const char* op, const S* from, std::int64_t n)
      : scratch_(op, kIsShort<S> && from != nullptr ? static_cast<std::size_t>(n) * sizeof(T) : 0) {
    if constexpr (kIsShort<S>) {
      if (from == nullptr) return;
      auto* to = static_cast<T*>(scratch_.data());
      convert_kernels().of<S>().widen(from, to, n);
      data_ = to;
    } else {
      data_ = from;
    }
  }
  const T* data() const { return data_; }

 private:
  Scratch scratch_;
  const T* data_ = nullptr;
};

// Room for a short array, or null, that is rounded as it is finished.
template <class S>
class NarrowResult {
 public:
  using T = Compute<S>;

  NarrowResult(const char* op, S* to, std::int64_t n)
      : to_(to),
        n_(n),
        scratch_(op, kIsShort<S> && to != nullptr ? static_cast<std::size_t>(n) * sizeof(T) : 0) {
    if constexpr (kIsShort<S>) {
      data_ = to != nullptr ? static_cast<T*>(scratch_.data()) : nullptr;
    } else {
      data_ = to;
    }
  }
  T* data() const { return data_; }
  void finish() const {
    if constexpr (kIsShort<S>) {
      if (to_ != nullptr) convert_kernels().of<S>().narrow(data_, to_, n_);
    }
  }

 private:
  S* to_;
  std::int64_t n_;
  Scratch scratch_;
  T* data_ = nullptr;
};

// One element.
template <class S>
Compute<S> wide_of(S x) {
  if constexpr (kIsShort<S>) {
    float y;
    convert_kernels().of<S>().widen(&x, &y, 1);
    return y;
  } else {
    return x;
  }
}
template <class S>
S narrow_of(Compute<S> x) {
  if constexpr (kIsShort<S>) {
    S y;
    convert_kernels().of<S>().narrow(&x, &y, 1);
    return y;
  } else {
    return x;
  }
}

}  // namespace arraynn
