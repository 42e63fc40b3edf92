// What the recurrent kernels of a GPU do with lengths.
#pragma once
#include <cstdint>

namespace arraynn::cuda {

// Those of an array on the GPU, of int64 or int32, held to [0, steps].
void hold_lengths(const void* from, bool wide, std::int64_t count, std::int64_t steps,
                  std::int64_t* to);
// Those of the host.
void put_lengths(const std::int64_t* from, std::int64_t count, std::int64_t* to);

}  // namespace arraynn::cuda
