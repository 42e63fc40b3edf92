#include "norm/fixed.hpp"

#include <cmath>

namespace arraynn {

template <class T>
void fixed_statistics(const Running<T>& running, std::int64_t samples, std::int64_t channels,
                      double eps, double* mean, double* rstd) {
  for (std::int64_t i = 0; i < samples * channels; ++i) {
    const std::int64_t c = i % channels;
    mean[i] = static_cast<double>(running.mean[c * running.mean_stride]);
    const auto spread = static_cast<double>(running.var[c * running.var_stride]);
    rstd[i] = 1.0 / std::sqrt(spread + eps);
  }
}

template void fixed_statistics<float>(const Running<float>&, std::int64_t, std::int64_t, double,
                                      double*, double*);
template void fixed_statistics<double>(const Running<double>&, std::int64_t, std::int64_t, double,
                                       double*, double*);

}  // namespace arraynn
