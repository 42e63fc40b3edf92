"""Normalisation as functions of tensors or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from arraynn.autograd.norm import norm
from arraynn.autograd.tape import Variable

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]


def _unwrapped(result: Any, *values: Any) -> Any:
    """Return a tensor when one was among the arguments, else its array."""
    return result if any(isinstance(value, Variable) for value in values) else result.data


def layer_norm(
    input: Any,
    normalized_shape: int | Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
) -> Any:
    """Normalise along the last axes, those of ``normalized_shape``.

    Parameters
    ----------
    input : Tensor or array, (..., *normalized_shape)
    normalized_shape : int or sequence of int
    weight, bias : Tensor or array of normalized_shape, optional
    eps : float
    activation : str, optional
        Applied in the same pass; see :func:`arraynn.kernels.layer_norm`.

    Returns
    -------
    Tensor or array of the input's shape

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> layer_norm(np.array([[1.0, 2.0, 3.0]]), 3).round(3)
    array([[-1.225,  0.   ,  1.225]])
    """
    size = (normalized_shape,)
    result = norm("layer_norm", input, weight, bias, size, activation=activation, eps=eps)
    return _unwrapped(result, input, weight, bias)


def rms_norm(
    input: Any,
    normalized_shape: int | Sequence[int],
    weight: Any = None,
    eps: float | None = None,
    *,
    activation: str | None = None,
) -> Any:
    """Divide by the root mean square along the last axes; see :func:`layer_norm`.

    ``eps`` None is the machine epsilon of the dtype.
    """
    size = (normalized_shape,)
    result = norm("rms_norm", input, weight, None, size, activation=activation, eps=eps)
    return _unwrapped(result, input, weight)


def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    layout: str = "channels_first",
) -> Any:
    """Normalise every channel over the batch (``training``), or by running statistics.

    Parameters
    ----------
    input : Tensor or array, (n, c, ...), or (n, ..., c) with ``layout="channels_last"``
    running_mean, running_var : Tensor or array (c,), or None
        Updated in place in training.
    weight, bias : Tensor or array (c,), optional
    training : bool
    momentum : float
        Share of the batch in the running statistics.
    eps : float
    activation : str, optional
        Applied in the same pass; see :func:`arraynn.kernels.batch_norm`.
    layout : {"channels_first", "channels_last"}

    Returns
    -------
    Tensor or array of the input's shape

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit, or statistics are missing.

    Examples
    --------
    >>> import numpy as np
    >>> batch_norm(np.array([[1.0], [3.0]]), None, None, training=True, eps=0.0)
    array([[-1.],
           [ 1.]])
    """
    result = norm(
        "batch_norm",
        input,
        weight,
        bias,
        running=(running_mean, running_var),
        own=training,
        momentum=momentum,
        activation=activation,
        eps=eps,
        layout=layout,
    )
    return _unwrapped(result, input, weight, bias)


def group_norm(
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    layout: str = "channels_first",
) -> Any:
    """Normalise groups of channels in every sample; shapes as in :func:`batch_norm`."""
    result = norm(
        "group_norm",
        input,
        weight,
        bias,
        (num_groups,),
        activation=activation,
        eps=eps,
        layout=layout,
    )
    return _unwrapped(result, input, weight, bias)


def instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    layout: str = "channels_first",
) -> Any:
    """Normalise every channel of every sample, or by running statistics.

    Shapes are those of :func:`batch_norm`.
    """
    result = norm(
        "instance_norm",
        input,
        weight,
        bias,
        running=(running_mean, running_var),
        own=use_input_stats,
        momentum=momentum,
        activation=activation,
        eps=eps,
        layout=layout,
    )
    return _unwrapped(result, input, weight, bias)
