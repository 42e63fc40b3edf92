// Arguments that the bindings of the norm family share.
#pragma once
#include "bind/array.hpp"
#include "norm/norm.hpp"

namespace arraynn {

// One row per element of the leading shape; a weight has the trailing one.
struct RowArguments {
  RowNorm norm;
  const std::int64_t* shape;  // of x
  int leading, trailing;
};
// eps: None for the machine epsilon of x's dtype.
RowArguments take_rows(const char* op, const Array& x, py::handle normalized_shape, py::handle eps,
                       bool centred, py::handle activation);
// weight or bias of the trailing shape, or None.
Array take_row_vector(const char* op, const char* arg, py::handle h, const RowArguments& rows,
                      const Array& x);

struct ChannelArguments {
  ChannelNorm norm;
  std::int64_t channels, samples;
  std::int64_t stats_shape[2];
  int stats_ndim;
};
enum class ChannelKind : std::uint8_t { kBatch, kGroup, kInstance };
// x (n, c, ...) or (n, ..., c). num_groups is looked at for kGroup.
ChannelArguments take_channels(const char* op, ChannelKind kind, const Array& x,
                               py::handle num_groups, py::handle eps, py::handle layout,
                               py::handle activation);
// (c,) of x's dtype, or None.
Array take_channel_vector(const char* op, const char* arg, py::handle h, std::int64_t channels,
                          const Array& x);

// mean and rstd in float64: fresh ones to be filled, or the caller's `stats`.
class Statistics {
 public:
  Statistics(const char* op, const std::int64_t* shape, int ndim, bool mean);
  // None, or (mean, rstd), or rstd where there is no mean. True: given.
  bool take(const char* op, py::handle stats);
  py::object hand_over(const Array& like, py::object y) const;
  double* mean() const { return has_mean_ ? mean_view_.as<double>() : nullptr; }
  double* rstd() const { return rstd_view_.as<double>(); }

 private:
  Array take_one(const char* op, py::handle h) const;

  bool has_mean_;
  int ndim_;
  std::int64_t shape_[kMaxDims];
  TensorView mean_view_, rstd_view_;
  py::object mean_array_, rstd_array_;
};

// The gradients that `needs` names, allocated; hand_over gives None for the others.
class NormGradients {
 public:
  NormGradients(const char* op, const Array& x, py::handle needs, const std::int64_t* vector_shape,
                int vector_ndim, bool bias);
  template <class T>
  T* x() const {
    return x_view_.as<T>();
  }
  template <class T>
  T* weight() const {
    return weight_view_.as<T>();
  }
  template <class T>
  T* bias() const {
    return bias_view_.as<T>();
  }
  py::tuple hand_over(const Array& like) const;

 private:
  bool has_bias_;
  TensorView x_view_, weight_view_, bias_view_;
  py::object x_array_, weight_array_, bias_array_;
};

}  // namespace arraynn
