"""Layers and losses as functions, with PyTorch's names and argument orders.

Every function takes tensors or arrays: with a tensor among its arguments the result is a tensor
and is recorded, with arrays alone it is an array straight from :mod:`arraynn.kernels`. ``inplace``
is accepted where PyTorch has it and has no effect: the result is what is returned.

>>> import numpy as np
>>> import arraynn.nn.functional as F
>>> F.relu(np.array([-1.0, 2.0], dtype=np.float32))
array([0., 2.], dtype=float32)
"""

from __future__ import annotations

from typing import Any

from arraynn import kernels as K
from arraynn.autograd import arithmetic, elementwise, gemm, pointwise, shaping
from arraynn.autograd import embedding as embedding_ops
from arraynn.autograd import softmax as softmax_ops
from arraynn.autograd.tape import Variable, array_of, make
from arraynn.nn._attention import scaled_dot_product_attention
from arraynn.nn._conv import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    fold,
    unfold,
)
from arraynn.nn._dropout import (
    alpha_dropout,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    feature_alpha_dropout,
)
from arraynn.nn._loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    huber_loss,
    kl_div,
    l1_loss,
    smooth_l1_loss,
)
from arraynn.nn._norm import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from arraynn.nn._pool import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    adaptive_max_pool3d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    lp_pool1d,
    lp_pool2d,
    lp_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
    max_unpool1d,
    max_unpool2d,
    max_unpool3d,
)
from arraynn.nn._rnn import gru, gru_cell, lstm, lstm_cell, rnn, rnn_cell
from arraynn.nn.rotary import rope

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "alpha_dropout",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "elu",
    "embedding",
    "feature_alpha_dropout",
    "flatten",
    "fold",
    "gelu",
    "glu",
    "group_norm",
    "gru",
    "gru_cell",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "huber_loss",
    "instance_norm",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "lp_pool1d",
    "lp_pool2d",
    "lp_pool3d",
    "lstm",
    "lstm_cell",
    "matmul",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_unpool1d",
    "max_unpool2d",
    "max_unpool3d",
    "mish",
    "mse_loss",
    "nll_loss",
    "relu",
    "relu6",
    "rms_norm",
    "rnn",
    "rnn_cell",
    "rope",
    "scaled_dot_product_attention",
    "selu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "tanh",
    "unfold",
]

_ACTIVATIONS = elementwise.ACTIVATIONS


def _any_tensor(*values: Any) -> bool:
    return any(isinstance(value, Variable) for value in values)


def linear(
    input: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: str | None = None,
    residual: Any = None,
) -> Any:
    """Return ``activation(input @ weight.T + bias + residual)`` in one pass.

    Parameters
    ----------
    input : Tensor or array, (..., in_features)
    weight : Tensor or array, (out_features, in_features)
    bias : Tensor or array, (out_features,), optional
    activation : str, optional
        One of ``arraynn.autograd.elementwise.ACTIVATIONS``. With a gradient, relu and leaky_relu
        stay fused (their slope follows from the output); others run as a kernel of their own.
    residual : Tensor or array of the output's shape, optional

    Returns
    -------
    Tensor or array, (..., out_features)

    Raises
    ------
    ValueError
        If shapes do not fit, or the activation has no such name.
    TypeError
        If dtypes differ.

    Examples
    --------
    >>> import numpy as np
    >>> linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [-1.0, 0.0]]), activation="relu")
    array([[11.,  0.]])
    """
    if _any_tensor(input, weight, bias, residual):
        return gemm.linear(input, weight, bias, activation, residual)
    return K.linear(input, weight, bias, activation=activation, residual=residual)


def matmul(input: Any, other: Any) -> Any:
    """Return the matrix product, batched and broadcast as ``np.matmul``."""
    if _any_tensor(input, other):
        return arithmetic.matmul(input, other)
    return K.matmul(input, other)


def _activate(name: str, input: Any, options: dict[str, Any] | None = None) -> Any:
    kind = _ACTIVATIONS[name]
    if isinstance(input, Variable):
        return elementwise.activate(input, kind, options)  # type: ignore[arg-type]
    return kind.forward(input, **(options or kind.options))


def relu(input: Any, inplace: bool = False) -> Any:
    """Return max(x, 0); the slope at 0 is 0."""
    del inplace
    return _activate("relu", input)


def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    """Return x for x > 0, ``negative_slope * x`` elsewhere."""
    del inplace
    return _activate("leaky_relu", input, {"negative_slope": negative_slope})


def elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """Return x for x > 0, ``alpha * (exp(x) - 1)`` elsewhere (Clevert et al., 2015)."""
    del inplace
    return _activate("elu", input, {"alpha": alpha})


def selu(input: Any, inplace: bool = False) -> Any:
    """Return the self-normalising ELU (Klambauer et al., 2017)."""
    del inplace
    return _activate("selu", input)


def sigmoid(input: Any) -> Any:
    """Return 1 / (1 + exp(-x))."""
    return _activate("sigmoid", input)


def tanh(input: Any) -> Any:
    """Return the hyperbolic tangent."""
    return _activate("tanh", input)


def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    """Return x limited to ``[min_val, max_val]``; the slope at the limits is 0."""
    del inplace
    if isinstance(input, Variable):
        return pointwise.hardtanh(input, min_val, max_val)  # type: ignore[arg-type]
    return pointwise.hardtanh(make(input, None), min_val, max_val).data


def relu6(input: Any, inplace: bool = False) -> Any:
    """Return min(max(x, 0), 6)."""
    del inplace
    return hardtanh(input, 0.0, 6.0)


def hardsigmoid(input: Any, inplace: bool = False) -> Any:
    """Return min(max(x + 3, 0), 6) / 6."""
    del inplace
    return _activate("hardsigmoid", input)


def hardswish(input: Any, inplace: bool = False) -> Any:
    """Return x * min(max(x + 3, 0), 6) / 6 (Howard et al., 2019)."""
    del inplace
    return _activate("hardswish", input)


def silu(input: Any, inplace: bool = False) -> Any:
    """Return x * sigmoid(x), also known as swish."""
    del inplace
    return _activate("silu", input)


def gelu(input: Any, approximate: str = "none") -> Any:
    """Return x * Phi(x), Phi the normal distribution function (Hendrycks and Gimpel, 2016).

    ``approximate="tanh"`` takes the paper's approximation by tanh.
    """
    return _activate("gelu", input, {"approximate": approximate})


def mish(input: Any, inplace: bool = False) -> Any:
    """Return x * tanh(softplus(x)) (Misra, 2019)."""
    del inplace
    return _activate("mish", input)


def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Return log(1 + exp(beta * x)) / beta; x itself where beta * x > threshold."""
    return _activate("softplus", input, {"beta": beta, "threshold": threshold})


def glu(input: Any, dim: int = -1, *, activation: str | None = "sigmoid") -> Any:
    """Return the first half of ``dim`` times an activation of the second.

    PyTorch's ``glu`` gates by a sigmoid; ``activation`` ``"silu"`` is SwiGLU, ``"gelu"`` GEGLU,
    ``"relu"`` ReGLU, None bilinear (:func:`arraynn.kernels.glu`).

    Examples
    --------
    >>> import numpy as np
    >>> glu(np.array([2.0, 0.0]))
    array([1.])
    """
    if isinstance(input, Variable):
        return elementwise.glu(input, dim, activation)  # type: ignore[arg-type]
    return K.glu(input, dim, activation=activation)


def softmax(input: Any, dim: int = -1) -> Any:
    """Return exp(x) / sum(exp(x)) over ``dim``.

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.zeros((1, 4)))
    array([[0.25, 0.25, 0.25, 0.25]])
    """
    if isinstance(input, Variable):
        return softmax_ops.softmax(input, dim)  # type: ignore[arg-type]
    return K.softmax(input, dim)


def log_softmax(input: Any, dim: int = -1) -> Any:
    """Return the logarithm of :func:`softmax` over ``dim``."""
    if isinstance(input, Variable):
        return softmax_ops.log_softmax(input, dim)  # type: ignore[arg-type]
    return K.log_softmax(input, dim)


def embedding(
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
) -> Any:
    """Return the rows of ``weight`` that the integers of ``input`` name.

    Parameters
    ----------
    input : Tensor or array of int64 or int32, any shape
    weight : Tensor or array, (rows, columns)
    padding_idx : int, optional
        A row without a gradient.
    max_norm : float, optional
        Rows of ``input`` with a larger norm are scaled down to it first, in ``weight`` itself.
    norm_type : float
        p of that norm.
    scale_grad_by_freq : bool
        Divide the gradient of a row by the number of times that ``input`` names it.

    Returns
    -------
    Tensor or array, (*input.shape, columns)

    Raises
    ------
    ValueError, TypeError
        If an index lies outside the table, or a dtype is not supported.
    """
    if max_norm is not None:
        embedding_ops.renormalise(input, weight, max_norm, norm_type)
    if _any_tensor(input, weight):
        return embedding_ops.embedding(input, weight, padding_idx, scale_grad_by_freq)
    return K.embedding(input, weight, padding_idx)


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Join the axes ``start_dim`` to ``end_dim``, both included, into one."""
    if isinstance(input, Variable):
        return shaping.flatten(input, start_dim, end_dim)  # type: ignore[arg-type]
    return shaping.flatten(make(input, None), start_dim, end_dim).data


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """Return the cross entropy of logits against class indices or probabilities.

    Parameters
    ----------
    input : Tensor or array of logits, (C,) or (N, C, d1, ...)
    target : class indices (N, d1, ...), integers; or probabilities of the logits' shape
    weight : array, (C,), optional
        Weight of each class.
    ignore_index : int
        Targets of this value take no part.
    reduction : {"mean", "sum", "none"}
        The mean is weighted, as in PyTorch.
    label_smoothing : float in [0, 1]

    Examples
    --------
    >>> import numpy as np
    >>> loss = cross_entropy(np.zeros((2, 4)), np.array([0, 3]))
    >>> round(float(loss), 6) == round(float(np.log(4)), 6)
    True
    """
    if isinstance(input, Variable):
        return softmax_ops.cross_entropy(
            input, target, weight, ignore_index, label_smoothing, reduction
        )
    return K.cross_entropy(
        input,
        array_of(target),
        weight=array_of(weight),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


def nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Any:
    """Return the negative log-likelihood of class indices under log-probabilities.

    Parameters
    ----------
    input : Tensor or array of log-probabilities, (C,) or (N, C, d1, ...)
    target : class indices (N, d1, ...), integers
    weight : array, (C,), optional
        Weight of each class.
    ignore_index : int
        Targets of this value take no part.
    reduction : {"mean", "sum", "none"}
        The mean is weighted, as in PyTorch.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.array([[1.0, 2.0], [0.0, 3.0]]), np.array([1, 0])
    >>> bool(np.isclose(nll_loss(log_softmax(x), y), cross_entropy(x, y)))
    True
    """
    if isinstance(input, Variable):
        return softmax_ops.nll_loss(input, target, weight, ignore_index, reduction)
    return K.nll_loss(
        input,
        array_of(target),
        weight=array_of(weight),
        ignore_index=ignore_index,
        reduction=reduction,
    )


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """Return ``(input - target)**2``, its sum or its mean; the shapes must be equal.

    Examples
    --------
    >>> import numpy as np
    >>> float(mse_loss(np.array([1.0, 2.0]), np.array([0.0, 4.0])))
    2.5
    """
    result = softmax_ops.mse_loss(input, target, reduction)
    return result if _any_tensor(input, target) else result.data
