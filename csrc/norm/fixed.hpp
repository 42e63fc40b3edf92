// The fixed statistics of inference.
#pragma once
#include "norm/norm.hpp"

namespace arraynn {

// mean and rstd, one per channel for each of `samples`, from the running statistics.
template <class T>
void fixed_statistics(const Running<T>& running, std::int64_t samples, std::int64_t channels,
                      double eps, double* mean, double* rstd);

}  // namespace arraynn
