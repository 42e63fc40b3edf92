# Hand-kept: the compiled module takes everything positionally, the wrappers in arraynn.kernels and
# arraynn._runtime hold the documentation.
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

_Array = np.ndarray[Any, Any]
_Gradients = tuple[_Array | None, _Array | None, _Array | None]
_ConvPlan = tuple[str | None, str | None, int, int]
_Arrays = Sequence[_Array]
_Size = int | Sequence[int]
_OutputSize = int | Sequence[int | None] | None
_Padding = int | str | Sequence[int] | Sequence[Sequence[int]]

version: str
cuda_built: bool
compiler: str

def isa() -> str: ...
def available_isas() -> list[str]: ...
def isa_extensions() -> list[str]: ...
def set_isa(level: str) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def register_device(type: type, module: ModuleType) -> None: ...
def push_threads(n: int) -> int: ...
def pop_threads(former: int) -> None: ...
def default_threads_reason() -> str: ...
def cgroup_quota(root: str = ...) -> int: ...  # CPUs, 0 for none; root holds proc and sys
def kernels() -> list[dict[str, Any]]: ...
def block_cache() -> dict[str, int]: ...
def set_block_cache_limit(bytes: int) -> None: ...
def measure_fma_rate(dtype: str, threads: int, rounds: int = 20) -> float: ...
def measure_copy_bandwidth(bytes: int, threads: int) -> float: ...
def measure_read_bandwidth(bytes: int, threads: int) -> float: ...

class PackedWeight:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    @property
    def op(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def nbytes(self) -> int: ...

class PackedWeights:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    @property
    def op(self) -> str: ...
    @property
    def shapes(self) -> list[tuple[int, ...]]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def nbytes(self) -> int: ...

def pack(weight: _Array | _Arrays, op: str) -> Any: ...
def linear(
    x: _Array,
    weight: _Array | PackedWeight,
    bias: _Array | None,
    activation: str | None,
    residual: _Array | None,
    out: _Array | None,
) -> _Array: ...
def linear_backward(
    grad_out: _Array, x: _Array, weight: _Array, needs: Sequence[str]
) -> _Gradients: ...
def matmul(a: _Array, b: _Array | PackedWeight, out: _Array | None) -> _Array: ...
def conv1d(
    x: _Array,
    weight: _Array | PackedWeight,
    bias: _Array | None,
    stride: _Size,
    padding: _Padding,
    dilation: _Size,
    groups: int,
    activation: str | None,
    residual: _Array | None,
    layout: str,
    flip_kernel: bool,
    algorithm: str,
    out: _Array | None,
) -> _Array: ...

conv2d = conv1d
conv3d = conv1d

def conv1d_plan(
    x: _Array,
    weight: _Array | PackedWeight,
    stride: _Size,
    padding: _Padding,
    dilation: _Size,
    groups: int,
    layout: str,
    flip_kernel: bool,
    algorithm: str,
) -> _ConvPlan: ...

conv2d_plan = conv1d_plan
conv3d_plan = conv1d_plan

def conv1d_backward_plan(
    grad_out: _Array,
    x: _Array,
    weight: _Array,
    stride: _Size,
    padding: _Padding,
    dilation: _Size,
    groups: int,
    layout: str,
    flip_kernel: bool,
    algorithm: str,
    needs: Sequence[str],
) -> tuple[_ConvPlan | None, _ConvPlan | None, None]: ...

conv2d_backward_plan = conv1d_backward_plan
conv3d_backward_plan = conv1d_backward_plan

def conv_transpose1d_plan(
    x: _Array,
    weight: _Array | PackedWeight,
    stride: _Size,
    padding: _Padding,
    output_padding: _Size,
    groups: int,
    dilation: _Size,
    layout: str,
    algorithm: str,
) -> _ConvPlan: ...

conv_transpose2d_plan = conv_transpose1d_plan
conv_transpose3d_plan = conv_transpose1d_plan

def conv_transpose1d_backward_plan(
    grad_out: _Array,
    x: _Array,
    weight: _Array,
    stride: _Size,
    padding: _Padding,
    output_padding: _Size,
    groups: int,
    dilation: _Size,
    layout: str,
    algorithm: str,
    needs: Sequence[str],
) -> tuple[_ConvPlan | None, _ConvPlan | None, None]: ...

conv_transpose2d_backward_plan = conv_transpose1d_backward_plan
conv_transpose3d_backward_plan = conv_transpose1d_backward_plan

def conv1d_backward(
    grad_out: _Array,
    x: _Array,
    weight: _Array,
    stride: _Size,
    padding: _Padding,
    dilation: _Size,
    groups: int,
    layout: str,
    flip_kernel: bool,
    algorithm: str,
    needs: Sequence[str],
) -> _Gradients: ...

conv2d_backward = conv1d_backward
conv3d_backward = conv1d_backward

def conv2d_pool(
    x: _Array,
    weight: _Array | PackedWeight,
    bias: _Array | None,
    stride: _Size,
    padding: _Padding,
    dilation: _Size,
    groups: int,
    pool: str,
    pool_size: _Size,
    pool_stride: _Size | None,
    pool_padding: _Padding,
    pool_dilation: _Size,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    activation: str | None,
    layout: str,
    flip_kernel: bool,
    algorithm: str,
    out: _Array | None,
) -> _Array: ...
def conv2d_pool_plan(
    x: _Array,
    weight: _Array | PackedWeight,
    stride: _Size,
    padding: _Padding,
    dilation: _Size,
    groups: int,
    pool: str,
    pool_size: _Size,
    pool_stride: _Size | None,
    pool_padding: _Padding,
    pool_dilation: _Size,
    ceil_mode: bool,
    layout: str,
    flip_kernel: bool,
    algorithm: str,
) -> _ConvPlan: ...
def conv_transpose1d(
    x: _Array,
    weight: _Array | PackedWeight,
    bias: _Array | None,
    stride: _Size,
    padding: _Padding,
    output_padding: _Size,
    groups: int,
    dilation: _Size,
    activation: str | None,
    residual: _Array | None,
    layout: str,
    algorithm: str,
    out: _Array | None,
) -> _Array: ...

conv_transpose2d = conv_transpose1d
conv_transpose3d = conv_transpose1d

def conv_transpose1d_backward(
    grad_out: _Array,
    x: _Array,
    weight: _Array,
    stride: _Size,
    padding: _Padding,
    output_padding: _Size,
    groups: int,
    dilation: _Size,
    layout: str,
    algorithm: str,
    needs: Sequence[str],
) -> _Gradients: ...

conv_transpose2d_backward = conv_transpose1d_backward
conv_transpose3d_backward = conv_transpose1d_backward

def unfold(
    x: _Array,
    kernel_size: _Size,
    dilation: _Size,
    padding: _Padding,
    stride: _Size,
    out: _Array | None,
) -> _Array: ...
def fold(
    x: _Array,
    output_size: _Size,
    kernel_size: _Size,
    dilation: _Size,
    padding: _Padding,
    stride: _Size,
    out: _Array | None,
) -> _Array: ...
def max_pool2d(
    x: _Array,
    kernel_size: _Size,
    stride: _Size | None,
    padding: _Padding,
    dilation: _Size,
    ceil_mode: bool,
    return_indices: bool,
    layout: str,
    out: _Array | None,
) -> Any: ...

max_pool1d = max_pool2d
max_pool3d = max_pool2d

def max_pool2d_backward(
    grad_out: _Array,
    x: _Array,
    kernel_size: _Size,
    stride: _Size | None,
    padding: _Padding,
    dilation: _Size,
    ceil_mode: bool,
    layout: str,
    indices: _Array | None,
    out: _Array | None,
) -> _Array: ...

max_pool1d_backward = max_pool2d_backward
max_pool3d_backward = max_pool2d_backward

def avg_pool2d(
    x: _Array,
    kernel_size: _Size,
    stride: _Size | None,
    padding: _Padding,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    dilation: _Size,
    layout: str,
    out: _Array | None,
) -> _Array: ...

avg_pool1d = avg_pool2d
avg_pool3d = avg_pool2d

def avg_pool2d_backward(
    grad_out: _Array,
    x_shape: Sequence[int],
    kernel_size: _Size,
    stride: _Size | None,
    padding: _Padding,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
    dilation: _Size,
    layout: str,
    out: _Array | None,
) -> _Array: ...

avg_pool1d_backward = avg_pool2d_backward
avg_pool3d_backward = avg_pool2d_backward

def adaptive_max_pool1d(
    x: _Array, output_size: _OutputSize, return_indices: bool, layout: str, out: _Array | None
) -> Any: ...

adaptive_max_pool2d = adaptive_max_pool1d
adaptive_max_pool3d = adaptive_max_pool1d

def adaptive_max_pool1d_backward(
    grad_out: _Array,
    x: _Array,
    output_size: _OutputSize,
    layout: str,
    indices: _Array | None,
    out: _Array | None,
) -> _Array: ...

adaptive_max_pool2d_backward = adaptive_max_pool1d_backward
adaptive_max_pool3d_backward = adaptive_max_pool1d_backward

def adaptive_avg_pool1d(
    x: _Array, output_size: _OutputSize, layout: str, out: _Array | None
) -> _Array: ...

adaptive_avg_pool2d = adaptive_avg_pool1d
adaptive_avg_pool3d = adaptive_avg_pool1d

def adaptive_avg_pool1d_backward(
    grad_out: _Array,
    x_shape: Sequence[int],
    output_size: _OutputSize,
    layout: str,
    out: _Array | None,
) -> _Array: ...

adaptive_avg_pool2d_backward = adaptive_avg_pool1d_backward
adaptive_avg_pool3d_backward = adaptive_avg_pool1d_backward

def global_max_pool(x: _Array, return_indices: bool, layout: str, out: _Array | None) -> Any: ...
def global_max_pool_backward(
    grad_out: _Array, x: _Array, layout: str, indices: _Array | None, out: _Array | None
) -> _Array: ...
def global_avg_pool(x: _Array, layout: str, out: _Array | None) -> _Array: ...
def global_avg_pool_backward(
    grad_out: _Array, x_shape: Sequence[int], layout: str, out: _Array | None
) -> _Array: ...
def global_lp_pool(x: _Array, norm_type: float, layout: str, out: _Array | None) -> _Array: ...
def global_lp_pool_backward(
    grad_out: _Array,
    x: _Array,
    y: _Array,
    norm_type: float,
    layout: str,
    out: _Array | None,
) -> _Array: ...
def lp_pool1d(
    x: _Array,
    norm_type: float,
    kernel_size: _Size,
    stride: _Size | None,
    ceil_mode: bool,
    padding: _Padding,
    dilation: _Size,
    layout: str,
    out: _Array | None,
) -> _Array: ...

lp_pool2d = lp_pool1d
lp_pool3d = lp_pool1d

def lp_pool1d_backward(
    grad_out: _Array,
    x: _Array,
    y: _Array,
    norm_type: float,
    kernel_size: _Size,
    stride: _Size | None,
    ceil_mode: bool,
    padding: _Padding,
    dilation: _Size,
    layout: str,
    out: _Array | None,
) -> _Array: ...

lp_pool2d_backward = lp_pool1d_backward
lp_pool3d_backward = lp_pool1d_backward

def max_unpool1d(
    x: _Array,
    indices: _Array,
    kernel_size: _Size,
    stride: _Size | None,
    padding: _Size,
    output_size: _Size | None,
    layout: str,
    out: _Array | None,
) -> _Array: ...

max_unpool2d = max_unpool1d
max_unpool3d = max_unpool1d

def max_unpool1d_backward(
    grad_out: _Array, indices: _Array, layout: str, out: _Array | None
) -> _Array: ...

max_unpool2d_backward = max_unpool1d_backward
max_unpool3d_backward = max_unpool1d_backward

def elementwise_convert(x: _Array, out: _Array, flush: bool) -> _Array: ...
def elementwise_unary(name: str, x: _Array) -> _Array: ...
def relu(x: _Array, out: _Array | None) -> _Array: ...
def relu_backward(grad_out: _Array, x: _Array, out: _Array | None) -> _Array: ...
def leaky_relu(x: _Array, negative_slope: float, out: _Array | None) -> _Array: ...
def leaky_relu_backward(
    grad_out: _Array, x: _Array, negative_slope: float, out: _Array | None
) -> _Array: ...
def elu(x: _Array, alpha: float, out: _Array | None) -> _Array: ...
def elu_backward(grad_out: _Array, x: _Array, alpha: float, out: _Array | None) -> _Array: ...
def selu(x: _Array, out: _Array | None) -> _Array: ...
def selu_backward(grad_out: _Array, x: _Array, out: _Array | None) -> _Array: ...
def sigmoid(x: _Array, out: _Array | None) -> _Array: ...
def sigmoid_backward(grad_out: _Array, x: _Array, out: _Array | None) -> _Array: ...
def tanh(x: _Array, out: _Array | None) -> _Array: ...
def tanh_backward(grad_out: _Array, x: _Array, out: _Array | None) -> _Array: ...
def hardsigmoid(x: _Array, out: _Array | None) -> _Array: ...
def hardsigmoid_backward(grad_out: _Array, x: _Array, out: _Array | None) -> _Array: ...
def hardswish(x: _Array, out: _Array | None) -> _Array: ...
def hardswish_backward(grad_out: _Array, x: _Array, out: _Array | None) -> _Array: ...
def silu(x: _Array, out: _Array | None) -> _Array: ...
def silu_backward(grad_out: _Array, x: _Array, out: _Array | None) -> _Array: ...
def gelu(x: _Array, approximate: str, out: _Array | None) -> _Array: ...
def gelu_backward(grad_out: _Array, x: _Array, approximate: str, out: _Array | None) -> _Array: ...
def mish(x: _Array, out: _Array | None) -> _Array: ...
def mish_backward(grad_out: _Array, x: _Array, out: _Array | None) -> _Array: ...
def softplus(x: _Array, beta: float, threshold: float, out: _Array | None) -> _Array: ...
def softplus_backward(
    grad_out: _Array, x: _Array, beta: float, threshold: float, out: _Array | None
) -> _Array: ...
def dropout(x: _Array, p: float, seed: int, out: _Array | None) -> _Array: ...
def dropout_backward(grad_out: _Array, p: float, seed: int, out: _Array | None) -> _Array: ...
def layer_norm(
    x: _Array,
    normalized_shape: _Size,
    weight: _Array | None,
    bias: _Array | None,
    eps: float,
    activation: str | None,
    return_stats: bool,
    out: _Array | None,
) -> Any: ...
def layer_norm_backward(
    grad_out: _Array,
    x: _Array,
    normalized_shape: _Size,
    weight: _Array | None,
    eps: float,
    stats: tuple[_Array, _Array] | None,
    needs: Sequence[str],
) -> _Gradients: ...
def rms_norm(
    x: _Array,
    normalized_shape: _Size,
    weight: _Array | None,
    eps: float | None,
    activation: str | None,
    return_stats: bool,
    out: _Array | None,
) -> Any: ...
def rms_norm_backward(
    grad_out: _Array,
    x: _Array,
    normalized_shape: _Size,
    weight: _Array | None,
    eps: float | None,
    stats: _Array | None,
    needs: Sequence[str],
) -> tuple[_Array | None, _Array | None]: ...
def batch_norm(
    x: _Array,
    running_mean: _Array | None,
    running_var: _Array | None,
    weight: _Array | None,
    bias: _Array | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: str | None,
    layout: str,
    return_stats: bool,
    out: _Array | None,
) -> Any: ...
def batch_norm_backward(
    grad_out: _Array,
    x: _Array,
    running_mean: _Array | None,
    running_var: _Array | None,
    weight: _Array | None,
    training: bool,
    eps: float,
    layout: str,
    stats: tuple[_Array, _Array] | None,
    needs: Sequence[str],
) -> _Gradients: ...
def instance_norm(
    x: _Array,
    running_mean: _Array | None,
    running_var: _Array | None,
    weight: _Array | None,
    bias: _Array | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    activation: str | None,
    layout: str,
    return_stats: bool,
    out: _Array | None,
) -> Any: ...
def instance_norm_backward(
    grad_out: _Array,
    x: _Array,
    running_mean: _Array | None,
    running_var: _Array | None,
    weight: _Array | None,
    use_input_stats: bool,
    eps: float,
    layout: str,
    stats: tuple[_Array, _Array] | None,
    needs: Sequence[str],
) -> _Gradients: ...
def group_norm(
    x: _Array,
    num_groups: int,
    weight: _Array | None,
    bias: _Array | None,
    eps: float,
    activation: str | None,
    layout: str,
    return_stats: bool,
    out: _Array | None,
) -> Any: ...
def group_norm_backward(
    grad_out: _Array,
    x: _Array,
    num_groups: int,
    weight: _Array | None,
    eps: float,
    layout: str,
    stats: tuple[_Array, _Array] | None,
    needs: Sequence[str],
) -> _Gradients: ...
def glu(x: _Array, axis: int, activation: str | None, out: _Array | None) -> _Array: ...
def glu_backward(
    grad_out: _Array, x: _Array, axis: int, activation: str | None, out: _Array | None
) -> _Array: ...
def embedding(
    indices: _Array, weight: _Array, padding_idx: int | None, out: _Array | None
) -> _Array: ...
def embedding_backward(
    grad_out: _Array,
    indices: _Array,
    num_embeddings: int,
    padding_idx: int | None,
    out: _Array | None,
) -> _Array: ...
def rope(
    x: _Array,
    cos: _Array,
    sin: _Array,
    positions: _Array | int | None,
    interleaved: bool,
    layout: str,
    out: _Array | None,
) -> _Array: ...
def rope_backward(
    grad_out: _Array,
    cos: _Array,
    sin: _Array,
    positions: _Array | int | None,
    interleaved: bool,
    layout: str,
    out: _Array | None,
) -> _Array: ...
def softmax(x: _Array, axis: int, out: _Array | None) -> _Array: ...
def log_softmax(x: _Array, axis: int, out: _Array | None) -> _Array: ...
def softmax_backward(grad_out: _Array, y: _Array, axis: int, out: _Array | None) -> _Array: ...
def log_softmax_backward(grad_out: _Array, y: _Array, axis: int, out: _Array | None) -> _Array: ...
def cross_entropy(
    logits: _Array,
    target: _Array,
    weight: _Array | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    out: _Array | None,
) -> _Array: ...
def cross_entropy_backward(
    grad_out: _Array | float,
    logits: _Array,
    target: _Array,
    weight: _Array | None,
    ignore_index: int,
    label_smoothing: float,
    reduction: str,
    out: _Array | None,
) -> _Array: ...
def nll_loss(
    log_probs: _Array,
    target: _Array,
    weight: _Array | None,
    ignore_index: int,
    reduction: str,
    out: _Array | None,
) -> _Array: ...
def nll_loss_backward(
    grad_out: _Array | float,
    log_probs: _Array,
    target: _Array,
    weight: _Array | None,
    ignore_index: int,
    reduction: str,
    out: _Array | None,
) -> _Array: ...
def adam_step(
    params: _Arrays,
    grads: _Arrays,
    exp_avgs: _Arrays,
    exp_avg_sqs: _Arrays,
    step: int | _Array,
    lr: float | _Array,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    decoupled: bool,
    max_exp_avg_sqs: _Arrays | None,
    maximize: bool,
    eps_mode: str,
    grad_scale: float | None,
    max_norm: float | None,
) -> float | None: ...
def sgd_step(
    params: _Arrays,
    grads: _Arrays,
    momentum_buffers: _Arrays | None,
    step: int | _Array,
    lr: float | _Array,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
    grad_scale: float | None,
    max_norm: float | None,
) -> float | None: ...
def adagrad_step(
    params: _Arrays,
    grads: _Arrays,
    state_sums: _Arrays,
    step: int | _Array,
    lr: float | _Array,
    lr_decay: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    grad_scale: float | None,
    max_norm: float | None,
) -> float | None: ...
def rmsprop_step(
    params: _Arrays,
    grads: _Arrays,
    square_avgs: _Arrays,
    lr: float | _Array,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
    grad_avgs: _Arrays | None,
    momentum_buffers: _Arrays | None,
    maximize: bool,
    grad_scale: float | None,
    max_norm: float | None,
) -> float | None: ...
def attention(
    q: _Array,
    k: _Array,
    v: _Array,
    mask: _Array | None,
    bias: _Array | None,
    causal: bool | str,
    scale: float | None,
    window: Sequence[int] | None,
    softcap: float | None,
    alibi_slopes: _Array | None,
    sinks: _Array | None,
    kv_lengths: _Array | None,
    dropout: float,
    seed: int | None,
    layout: str,
    return_lse: bool,
    out: _Array | None,
) -> Any: ...
def attention_backward(
    grad_out: _Array,
    q: _Array,
    k: _Array,
    v: _Array,
    out: _Array,
    lse: _Array,
    mask: _Array | None,
    bias: _Array | None,
    causal: bool | str,
    scale: float | None,
    window: Sequence[int] | None,
    softcap: float | None,
    alibi_slopes: _Array | None,
    sinks: _Array | None,
    kv_lengths: _Array | None,
    dropout: float,
    seed: int | None,
    layout: str,
    needs: Sequence[str],
) -> tuple[_Array | None, ...]: ...
def attention_varlen(
    q: _Array,
    k: _Array,
    v: _Array,
    cu_seqlens_q: _Array,
    cu_seqlens_k: _Array,
    mask: _Array | None,
    bias: _Array | None,
    causal: bool | str,
    scale: float | None,
    window: Sequence[int] | None,
    softcap: float | None,
    alibi_slopes: _Array | None,
    sinks: _Array | None,
    dropout: float,
    seed: int | None,
    return_lse: bool,
    out: _Array | None,
) -> Any: ...
def attention_varlen_backward(
    grad_out: _Array,
    q: _Array,
    k: _Array,
    v: _Array,
    out: _Array,
    lse: _Array,
    cu_seqlens_q: _Array,
    cu_seqlens_k: _Array,
    mask: _Array | None,
    bias: _Array | None,
    causal: bool | str,
    scale: float | None,
    window: Sequence[int] | None,
    softcap: float | None,
    alibi_slopes: _Array | None,
    sinks: _Array | None,
    dropout: float,
    seed: int | None,
    needs: Sequence[str],
) -> tuple[_Array | None, ...]: ...
def attention_decode(
    q: _Array,
    k_cache: _Array,
    v_cache: _Array,
    lengths: _Array,
    block_table: _Array | None,
    k: _Array | None,
    v: _Array | None,
    mask: _Array | None,
    bias: _Array | None,
    scale: float | None,
    window: Sequence[int] | None,
    softcap: float | None,
    alibi_slopes: _Array | None,
    sinks: _Array | None,
    cos: _Array | None,
    sin: _Array | None,
    interleaved: bool,
    layout: str,
    return_lse: bool,
    out: _Array | None,
) -> Any: ...
def rnn(
    x: _Array,
    weights: _Arrays | PackedWeights,
    h0: _Array | None,
    nonlinearity: str,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    lengths: Any,
    mask: Any,
    reverse: bool,
    dropout: float,
    recurrent_dropout: float,
    weight_dropout: float,
    zoneout: float,
    seed: int | None,
    clip: float | None,
    layer_norm: _Arrays | None,
    layer_norm_eps: float,
    return_workspace: bool,
) -> Any: ...
def lstm(
    x: _Array,
    weights: _Arrays | PackedWeights,
    state: tuple[_Array, _Array] | None,
    activation: str,
    recurrent_activation: str,
    output_activation: str | None,
    peepholes: _Arrays | None,
    input_forget: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    lengths: Any,
    mask: Any,
    reverse: bool,
    dropout: float,
    recurrent_dropout: float,
    weight_dropout: float,
    zoneout: float,
    zoneout_cell: float,
    seed: int | None,
    clip: float | None,
    cell_clip: float | None,
    layer_norm: _Arrays | None,
    layer_norm_eps: float,
    return_cells: bool,
    return_workspace: bool,
) -> Any: ...
def gru(
    x: _Array,
    weights: _Arrays | PackedWeights,
    h0: _Array | None,
    activation: str,
    recurrent_activation: str,
    reset_after: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    lengths: Any,
    mask: Any,
    reverse: bool,
    dropout: float,
    recurrent_dropout: float,
    weight_dropout: float,
    zoneout: float,
    seed: int | None,
    clip: float | None,
    layer_norm: _Arrays | None,
    layer_norm_eps: float,
    return_workspace: bool,
) -> Any: ...
def rnn_backward(
    grad_y: _Array | None, grad_state: _Array | None, workspace: Any
) -> tuple[_Array, _Array, list[_Array]]: ...
def lstm_backward(
    grad_y: _Array | None,
    grad_state: tuple[_Array | None, _Array | None] | None,
    workspace: Any,
    grad_cells: _Array | None,
) -> tuple[Any, ...]: ...
def gru_backward(
    grad_y: _Array | None, grad_state: _Array | None, workspace: Any
) -> tuple[_Array, _Array, list[_Array]]: ...
def rnn_cell(
    x: _Array,
    weights: _Arrays | PackedWeights,
    h0: _Array | None,
    nonlinearity: str,
    clip: float | None,
    layer_norm: _Arrays | None,
    layer_norm_eps: float,
    return_workspace: bool,
) -> Any: ...
def lstm_cell(
    x: _Array,
    weights: _Arrays | PackedWeights,
    state: tuple[_Array, _Array] | None,
    activation: str,
    recurrent_activation: str,
    output_activation: str | None,
    peepholes: _Array | None,
    input_forget: bool,
    clip: float | None,
    cell_clip: float | None,
    layer_norm: _Arrays | None,
    layer_norm_eps: float,
    return_workspace: bool,
) -> Any: ...
def gru_cell(
    x: _Array,
    weights: _Arrays | PackedWeights,
    h0: _Array | None,
    activation: str,
    recurrent_activation: str,
    reset_after: bool,
    clip: float | None,
    layer_norm: _Arrays | None,
    layer_norm_eps: float,
    return_workspace: bool,
) -> Any: ...
def rnn_cell_backward(grad_h: _Array, workspace: Any) -> tuple[_Array, _Array, list[_Array]]: ...
def lstm_cell_backward(
    grad_state: tuple[_Array | None, _Array | None] | None, workspace: Any
) -> tuple[Any, ...]: ...
def gru_cell_backward(grad_h: _Array, workspace: Any) -> tuple[_Array, _Array, list[_Array]]: ...
