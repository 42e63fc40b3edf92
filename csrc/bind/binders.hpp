// One binder per family; each adds its functions to the module.
#pragma once
#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace arraynn {

void bind_attention(py::module_& m);
void bind_channel_norms(py::module_& m);
void bind_conv(py::module_& m);
void bind_conv_plans(py::module_& m);
void bind_conv_pool(py::module_& m);
void bind_fold(py::module_& m);
void bind_elementwise(py::module_& m);
void bind_embedding(py::module_& m);
void bind_gemm(py::module_& m);
void bind_glu(py::module_& m);
void bind_lp_pool(py::module_& m);
void bind_optim(py::module_& m);
void bind_packed_weight(py::module_& m);
void bind_pool(py::module_& m);
void bind_row_norms(py::module_& m);
void bind_rnn(py::module_& m);
void bind_rope(py::module_& m);
void bind_runtime(py::module_& m);
void bind_softmax(py::module_& m);
void bind_unpool(py::module_& m);

}  // namespace arraynn
