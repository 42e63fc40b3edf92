// Element types known to the kernels.
#pragma once
#include <cstddef>
#include <cstdint>

namespace arraynn {

// The 16-bit floats are known to the module of the GPU only; on the CPU they are kOther.
enum class Dtype : std::uint8_t { kF32, kF64, kI32, kI64, kU8, kBool, kF16, kBF16, kOther };

// 16-bit floats are storage: arithmetic is float32.
struct Half {
  std::uint16_t bits;
};
struct Bfloat16 {
  std::uint16_t bits;
};

constexpr std::size_t dtype_size(Dtype t) {
  switch (t) {
    case Dtype::kF32:
    case Dtype::kI32:
      return 4;
    case Dtype::kF64:
    case Dtype::kI64:
      return 8;
    case Dtype::kF16:
    case Dtype::kBF16:
      return 2;
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
