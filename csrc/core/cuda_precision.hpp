// How products of float32 are formed on tensor cores, for all calls of this process.
#pragma once
#include <atomic>

namespace arraynn::cuda {

inline std::atomic<bool> tf32_is_on{false};

// ann.set_float32_precision("tf32"): operands are rounded to tf32.
inline bool tf32_products() { return tf32_is_on.load(std::memory_order_relaxed); }
inline void set_tf32_products(bool on) { tf32_is_on.store(on, std::memory_order_relaxed); }

}  // namespace arraynn::cuda
