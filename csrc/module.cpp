#include "bind/binders.hpp"
#include "bind/module_parts.hpp"

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled kernels of arraynn. Private: call arraynn.kernels instead.";
  arraynn::bind_errors(m);
  arraynn::bind_devices(m);
  arraynn::bind_runtime(m);
  arraynn::bind_packed_weight(m);
  arraynn::bind_gemm(m);
  arraynn::bind_attention(m);
  arraynn::bind_optim(m);
  arraynn::bind_conv(m);
  arraynn::bind_conv_plans(m);
  arraynn::bind_conv_pool(m);
  arraynn::bind_fold(m);
  arraynn::bind_pool(m);
  arraynn::bind_lp_pool(m);
  arraynn::bind_unpool(m);
  arraynn::bind_elementwise(m);
  arraynn::bind_glu(m);
  arraynn::bind_elementwise_math(m);
  arraynn::bind_rnn(m);
  arraynn::bind_softmax(m);
  arraynn::bind_row_norms(m);
  arraynn::bind_channel_norms(m);
  arraynn::bind_embedding(m);
  arraynn::bind_rope(m);
}
