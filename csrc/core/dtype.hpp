// Element types known to the kernels.
#pragma once
#include <cstddef>
#include <cstdint>

namespace arraynn {

enum class Dtype : std::uint8_t { kF32, kF64, kI32, kI64, kU8, kBool, kOther };

constexpr std::size_t dtype_size(Dtype t) {
  switch (t) {
    case Dtype::kF32:
    case Dtype::kI32:
      return 4;
    case Dtype::kF64:
    case Dtype::kI64:
      return 8;
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

}  // namespace arraynn
