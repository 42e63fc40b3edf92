#include "norm/fixed.hpp"

#include <cmath>

#include "elementwise/convert.hpp"

namespace arraynn {

template <class T>
void fixed_statistics(const Running<T>& running, std::int64_t samples, std::int64_t channels,
                      double eps, double* mean, double* rstd) {
  for (std::int64_t i = 0; i < samples * channels; ++i) {
    const std::int64_t c = i % channels;
    mean[i] = static_cast<double>(wide_of(running.mean[c * running.mean_stride]));
    const auto spread = static_cast<double>(wide_of(running.var[c * running.var_stride]));
    rstd[i] = 1.0 / std::sqrt(spread + eps);
  }
}

#define ARRAYNN_INSTANTIATE(T)                                                             \
  template void fixed_statistics<T>(const Running<T>&, std::int64_t, std::int64_t, double, \
                                    double*, double*);
ARRAYNN_FOR_EACH_STORAGE(ARRAYNN_INSTANTIATE)
#undef ARRAYNN_INSTANTIATE

}  // namespace arraynn
