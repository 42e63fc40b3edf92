// Element types known to the kernels.
#pragma once
#include <cstddef>
#include <cstdint>

namespace arraynn {

enum class Dtype : std::uint8_t {
  kF32,
  kF64,
  kI8,
  kI16,
  kI32,
  kI64,
  kU8,
  kBool,
  kF16,
  kBF16,
  kOther
};

// 16-bit floats are storage: arithmetic is float32.
struct Half {
  std::uint16_t bits;
};
struct Bfloat16 {
  std::uint16_t bits;
};

// The type that arithmetic on a storage type is done in.
template <class T>
struct ComputeOf {
  using type = T;
};
template <>
struct ComputeOf<Half> {
  using type = float;
};
template <>
struct ComputeOf<Bfloat16> {
  using type = float;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

// What kernels are instantiated for.
#define ARRAYNN_FOR_EACH_STORAGE(instantiate) \
  instantiate(float) instantiate(double) instantiate(Half) instantiate(Bfloat16)

constexpr std::size_t dtype_size(Dtype t) {
  switch (t) {
    case Dtype::kF32:
    case Dtype::kI32:
      return 4;
    case Dtype::kF64:
    case Dtype::kI64:
      return 8;
    case Dtype::kI16:
    case Dtype::kF16:
    case Dtype::kBF16:
      return 2;
    case Dtype::kI8:
    case Dtype::kU8:
    case Dtype::kBool:
      return 1;
    case Dtype::kOther:
      break;
  }
  return 0;
}

constexpr const char* dtype_name(Dtype t) {
  switch (t) {
    case Dtype::kF32:
      return "float32";
    case Dtype::kF64:
      return "float64";
    case Dtype::kI8:
      return "int8";
    case Dtype::kI16:
      return "int16";
    case Dtype::kI32:
      return "int32";
    case Dtype::kI64:
      return "int64";
    case Dtype::kU8:
      return "uint8";
    case Dtype::kBool:
      return "bool";
    case Dtype::kF16:
      return "float16";
    case Dtype::kBF16:
      return "bfloat16";
    case Dtype::kOther:
      break;
  }
  return "unsupported";
}

constexpr bool is_integer(Dtype t) {
  return t == Dtype::kI8 || t == Dtype::kI16 || t == Dtype::kI32 || t == Dtype::kI64 ||
         t == Dtype::kU8;
}

// The dtype of Compute<T>.
constexpr Dtype compute_dtype(Dtype t) {
  return t == Dtype::kF16 || t == Dtype::kBF16 ? Dtype::kF32 : t;
}

// The distance from 1 to the next number of a floating dtype.
constexpr double dtype_epsilon(Dtype t) {
  return t == Dtype::kF64    ? 0x1p-52
         : t == Dtype::kF16  ? 0x1p-10
         : t == Dtype::kBF16 ? 0x1p-7
                             : 0x1p-23;
}

template <class T>
struct DtypeOf;
template <>
struct DtypeOf<float> {
  static constexpr Dtype value = Dtype::kF32;
};
template <>
struct DtypeOf<double> {
  static constexpr Dtype value = Dtype::kF64;
};
template <>
struct DtypeOf<Half> {
  static constexpr Dtype value = Dtype::kF16;
};
template <>
struct DtypeOf<Bfloat16> {
  static constexpr Dtype value = Dtype::kBF16;
};

}  // namespace arraynn
