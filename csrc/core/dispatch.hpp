// One table of function pointers per family and ISA. ARRAYNN_KERNEL_TABLE(GemmKernels, gemm_kernels)
// declares arraynn::<isa>::gemm_kernels, defined by the unit compiled for that ISA, and
// arraynn::gemm_kernels(), the table of the level in force.
#pragma once
#include <type_traits>

#include "core/cpu_isa.hpp"
#include "core/dtype.hpp"

namespace arraynn {

// The table of a family whose kernels exist for both floating types.
template <template <class> class Table>
struct FloatKernels {
  Table<float> f32;
  Table<double> f64;

  template <class T>
  const Table<T>& of() const {
    if constexpr (std::is_same_v<T, float>) {
      return f32;
    } else {
      return f64;
    }
  }
};

// The table of a family whose kernels exist for every storage type.
template <template <class> class Table>
struct StorageKernels {
  Table<float> f32;
  Table<double> f64;
  Table<Half> f16;
  Table<Bfloat16> bf16;

  template <class T>
  const Table<T>& of() const {
    if constexpr (std::is_same_v<T, float>) {
      return f32;
    } else if constexpr (std::is_same_v<T, double>) {
      return f64;
    } else if constexpr (std::is_same_v<T, Half>) {
      return f16;
    } else {
      return bf16;
    }
  }
};

}  // namespace arraynn

#if defined(__x86_64__)
#define ARRAYNN_KERNEL_TABLE(Table, name)                    \
  namespace generic {                                        \
  extern const Table name;                                   \
  }                                                          \
  namespace avx2 {                                           \
  extern const Table name;                                   \
  }                                                          \
  namespace avx512 {                                         \
  extern const Table name;                                   \
  }                                                          \
  [[gnu::always_inline]] static inline const Table& name() { \
    switch (current_isa()) {                                 \
      case Isa::kAvx512Bf16:                                 \
      case Isa::kAvx512:                                     \
        return avx512::name;                                 \
      case Isa::kAvx2:                                       \
        return avx2::name;                                   \
      case Isa::kGeneric:                                    \
        break;                                               \
    }                                                        \
    return generic::name;                                    \
  }
#else
#define ARRAYNN_KERNEL_TABLE(Table, name) \
  namespace generic {                     \
  extern const Table name;                \
  }                                       \
  [[gnu::always_inline]] static inline const Table& name() { return generic::name; }
#endif
