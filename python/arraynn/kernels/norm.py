"""Normalisation of rows, channels and groups of channels.

Every function computes ``activation((x - mean) * rstd * weight + bias)`` with ``rstd = 1 /
sqrt(var + eps)`` and the biased variance; they differ in what the mean and the variance are taken
over. Statistics are found in blocks of which each is centred on its own mean, and merged in
float64, so that they hold for data far from 0; mean and rstd are float64 for either dtype. All
orders are fixed by the shape: the same bits for any number of threads, and, but for batch_norm in
training, for a sample alone and in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from arraynn import _core

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "group_norm",
    "group_norm_backward",
    "instance_norm",
    "instance_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
]

Array = np.ndarray[Any, Any]
Shape = int | Sequence[int]
Gradients = tuple[Array | None, Array | None, Array | None]


def layer_norm(
    x: Array,
    normalized_shape: Shape,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    return_stats: bool = False,
    out: Array | None = None,
) -> Any:
    r"""Normalise every row, a row being what lies along the last axes.

    .. math:: y = f\left(\frac{x - \bar x}{\sqrt{\mathrm{var}(x) + \epsilon}} w + b\right)

    Parameters
    ----------
    x : array (..., *normalized_shape), of a floating dtype
        Any strides; a non-contiguous ``x`` is copied.
    normalized_shape : int or sequence of int
        The last sizes of ``x``.
    weight, bias : array of normalized_shape and the dtype of ``x``, optional
    eps : float, default 1e-5
        Not negative.
    activation : str, optional
        The names are those of :func:`linear`.
    return_stats : bool, default False
        Return (y, mean, rstd), what :func:`layer_norm_backward` takes as ``stats``: float64, of
        the shape of ``x`` without its last axes.
    out : array of ``x``'s shape and dtype, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array of ``x``'s shape and dtype, or (y, mean, rstd)

    Raises
    ------
    ValueError
        For shapes that do not fit, a negative ``eps`` or an unknown activation.
    TypeError
        For other or mixed dtypes.

    Notes
    -----
    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", 2016 (arXiv:1607.06450).

    Examples
    --------
    >>> layer_norm(np.array([[1.0, 2.0, 3.0]]), 3).round(3)
    array([[-1.225,  0.   ,  1.225]])
    """
    return _core.layer_norm(x, normalized_shape, weight, bias, eps, activation, return_stats, out)


def layer_norm_backward(
    grad_out: Array,
    x: Array,
    normalized_shape: Shape,
    weight: Array | None = None,
    eps: float = 1e-5,
    *,
    stats: tuple[Array, Array] | None = None,
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> Gradients:
    r"""Gradients of :func:`layer_norm` by its input, weight and bias.

    With :math:`g = w \, dy` and :math:`\hat x = (x - \bar x) \, rstd`:
    :math:`dx = rstd \, (g - \bar g - \hat x \, \overline{g \hat x})`,
    :math:`dw = \sum dy \, \hat x`, :math:`db = \sum dy`, sums over the rows.

    Parameters
    ----------
    grad_out : array of the shape and dtype of ``x``
        The gradient before the activation.
    x, normalized_shape, weight, eps
        As in the forward call.
    stats : (mean, rstd), optional
        What the forward call returned; found again without it.
    needs : sequence of {"x", "weight", "bias"}
        The gradients to compute.

    Returns
    -------
    (grad_x, grad_weight, grad_bias)
        ``None`` where not needed.

    Raises
    ------
    ValueError, TypeError
        As :func:`layer_norm`, and for statistics of another shape or dtype than its own.

    Examples
    --------
    >>> x = np.array([[1.0, 2.0, 3.0]])
    >>> layer_norm_backward(np.ones((1, 3)), x, 3)[2]
    array([1., 1., 1.])
    """
    return _core.layer_norm_backward(grad_out, x, normalized_shape, weight, eps, stats, needs)


def rms_norm(
    x: Array,
    normalized_shape: Shape,
    weight: Array | None = None,
    eps: float | None = None,
    *,
    activation: str | None = None,
    return_stats: bool = False,
    out: Array | None = None,
) -> Any:
    r"""Divide every row by its root mean square, a row being what lies along the last axes.

    .. math:: y = f\left(\frac{x}{\sqrt{\overline{x^2} + \epsilon}} w\right)

    Parameters
    ----------
    x : array (..., *normalized_shape), of a floating dtype
        Any strides; a non-contiguous ``x`` is copied.
    normalized_shape : int or sequence of int
        The last sizes of ``x``.
    weight : array of normalized_shape and the dtype of ``x``, optional
    eps : float, optional
        Not negative; the machine epsilon of the dtype when None.
    activation : str, optional
        The names are those of :func:`linear`.
    return_stats : bool, default False
        Return (y, rstd), rstd in float64 of the shape of ``x`` without its last axes.
    out : array of ``x``'s shape and dtype, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array of ``x``'s shape and dtype, or (y, rstd)

    Raises
    ------
    ValueError
        For shapes that do not fit, a negative ``eps`` or an unknown activation.
    TypeError
        For other or mixed dtypes.

    Notes
    -----
    B. Zhang, R. Sennrich, "Root mean square layer normalization", NeurIPS 2019.

    Examples
    --------
    >>> rms_norm(np.array([[3.0, 4.0, 0.0, 0.0]]), 4).round(3)
    array([[1.2, 1.6, 0. , 0. ]])
    """
    return _core.rms_norm(x, normalized_shape, weight, eps, activation, return_stats, out)


def rms_norm_backward(
    grad_out: Array,
    x: Array,
    normalized_shape: Shape,
    weight: Array | None = None,
    eps: float | None = None,
    *,
    stats: Array | None = None,
    needs: Sequence[str] = ("x", "weight"),
) -> tuple[Array | None, Array | None]:
    r"""Gradients of :func:`rms_norm` by its input and weight.

    With :math:`g = w \, dy` and :math:`\hat x = x \, rstd`:
    :math:`dx = rstd \, (g - \hat x \, \overline{g \hat x})`, :math:`dw = \sum dy \, \hat x`.

    Parameters
    ----------
    grad_out : array of the shape and dtype of ``x``
        The gradient before the activation.
    x, normalized_shape, weight, eps
        As in the forward call.
    stats : array rstd, optional
        What the forward call returned; found again without it.
    needs : sequence of {"x", "weight"}
        The gradients to compute.

    Returns
    -------
    (grad_x, grad_weight)
        ``None`` where not needed.

    Raises
    ------
    ValueError, TypeError
        As :func:`rms_norm`, and for statistics of another shape or dtype than its own.

    Examples
    --------
    >>> rms_norm_backward(np.ones((2, 1)), np.array([[2.0], [-3.0]]), 1, eps=0.0)[1]
    array([0.])
    """
    return _core.rms_norm_backward(grad_out, x, normalized_shape, weight, eps, stats, needs)


def batch_norm(
    x: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    layout: str = "channels_first",
    return_stats: bool = False,
    out: Array | None = None,
) -> Any:
    r"""Normalise every channel by its statistics over the batch, or by running ones.

    .. math:: y = f\left(\frac{x - m_c}{\sqrt{v_c + \epsilon}} w_c + b_c\right)

    Parameters
    ----------
    x : array (n, c, ...), or (n, ..., c) with ``layout="channels_last"``; of a floating dtype
        Any strides; a non-contiguous ``x`` is copied.
    running_mean, running_var : array (c,) of the dtype of ``x``, optional
        Used in place of the batch's statistics unless ``training``; in training updated in place:
        ``(1 - momentum) * running + momentum * batch``, with the unbiased variance.
    weight, bias : array (c,) of the dtype of ``x``, optional
    training : bool, default False
    momentum : float, default 0.1
    eps : float, default 1e-5
        Not negative.
    activation : str, optional
        The names are those of :func:`linear`.
    layout : {"channels_first", "channels_last"}
    return_stats : bool, default False
        Return (y, mean, rstd), what :func:`batch_norm_backward` takes as ``stats``: float64 (c,).
    out : array of ``x``'s shape and dtype, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array of ``x``'s shape and dtype, or (y, mean, rstd)

    Raises
    ------
    ValueError
        For shapes that do not fit, one running statistic without the other or none where they are
        used, one value per channel in training, a negative ``eps`` or an unknown activation.
    TypeError
        For other or mixed dtypes.

    Notes
    -----
    S. Ioffe, C. Szegedy, "Batch normalization", ICML 2015 (arXiv:1502.03167). Blocks are merged
    by the rule of T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample
    variance", The American Statistician 37, 1983.

    Examples
    --------
    >>> x = np.array([[1.0, 10.0], [3.0, 10.0]])
    >>> batch_norm(x, training=True, eps=0.25).round(3)
    array([[-0.894,  0.   ],
           [ 0.894,  0.   ]])
    """
    return _core.batch_norm(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        momentum,
        eps,
        activation,
        layout,
        return_stats,
        out,
    )


def batch_norm_backward(
    grad_out: Array,
    x: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    training: bool = False,
    eps: float = 1e-5,
    *,
    layout: str = "channels_first",
    stats: tuple[Array, Array] | None = None,
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> Gradients:
    r"""Gradients of :func:`batch_norm` by its input, weight and bias.

    :math:`dw = \sum dy \, \hat x` and :math:`db = \sum dy` over a channel of the batch. In training
    :math:`dx = w \, rstd \, (dy - \overline{dy} - \hat x \, \overline{dy \, \hat x})`, else
    :math:`dx = w \, rstd \, dy`.

    Parameters
    ----------
    grad_out : array of the shape and dtype of ``x``
        The gradient before the activation.
    x, running_mean, running_var, weight, training, eps, layout
        As in the forward call; nothing is updated.
    stats : (mean, rstd), optional
        What the forward call returned; found again without it.
    needs : sequence of {"x", "weight", "bias"}
        The gradients to compute.

    Returns
    -------
    (grad_x, grad_weight, grad_bias)
        ``None`` where not needed.

    Raises
    ------
    ValueError, TypeError
        As :func:`batch_norm`, and for statistics of another shape or dtype than its own.

    Examples
    --------
    >>> x = np.array([[1.0], [3.0]])
    >>> batch_norm_backward(np.array([[1.0], [2.0]]), x, training=True, eps=0.0)[1]
    array([1.])
    """
    return _core.batch_norm_backward(
        grad_out, x, running_mean, running_var, weight, training, eps, layout, stats, needs
    )


def group_norm(
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    layout: str = "channels_first",
    return_stats: bool = False,
    out: Array | None = None,
) -> Any:
    r"""Normalise groups of channels by their statistics in every sample.

    .. math:: y = f\left(\frac{x - m_{ng}}{\sqrt{v_{ng} + \epsilon}} w_c + b_c\right)

    Parameters
    ----------
    x : array (n, c, ...), or (n, ..., c) with ``layout="channels_last"``; of a floating dtype
        Any strides; a non-contiguous ``x`` is copied.
    num_groups : int
        Divides c; a group is c / num_groups channels side by side.
    weight, bias : array (c,) of the dtype of ``x``, optional
    eps : float, default 1e-5
        Not negative.
    activation : str, optional
        The names are those of :func:`linear`.
    layout : {"channels_first", "channels_last"}
    return_stats : bool, default False
        Return (y, mean, rstd), what :func:`group_norm_backward` takes as ``stats``: float64
        (n, num_groups).
    out : array of ``x``'s shape and dtype, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array of ``x``'s shape and dtype, or (y, mean, rstd)

    Raises
    ------
    ValueError
        For shapes that do not fit, groups that do not divide the channels, a negative ``eps`` or
        an unknown activation.
    TypeError
        For other or mixed dtypes.

    Notes
    -----
    Y. Wu, K. He, "Group normalization", ECCV 2018 (arXiv:1803.08494).

    Examples
    --------
    >>> group_norm(np.array([[1.0, 3.0, 0.0, 8.0]]), 2, eps=0.0)
    array([[-1.,  1., -1.,  1.]])
    """
    return _core.group_norm(x, num_groups, weight, bias, eps, activation, layout, return_stats, out)


def group_norm_backward(
    grad_out: Array,
    x: Array,
    num_groups: int,
    weight: Array | None = None,
    eps: float = 1e-5,
    *,
    layout: str = "channels_first",
    stats: tuple[Array, Array] | None = None,
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> Gradients:
    r"""Gradients of :func:`group_norm` by its input, weight and bias.

    With :math:`g = w \, dy`: :math:`dx = rstd \, (g - \bar g - \hat x \, \overline{g \hat x})`,
    means over a group of a sample; :math:`dw = \sum dy \, \hat x`, :math:`db = \sum dy` over a
    channel of the batch.

    Parameters
    ----------
    grad_out : array of the shape and dtype of ``x``
        The gradient before the activation.
    x, num_groups, weight, eps, layout
        As in the forward call.
    stats : (mean, rstd), optional
        What the forward call returned; found again without it.
    needs : sequence of {"x", "weight", "bias"}
        The gradients to compute.

    Returns
    -------
    (grad_x, grad_weight, grad_bias)
        ``None`` where not needed.

    Raises
    ------
    ValueError, TypeError
        As :func:`group_norm`, and for statistics of another shape or dtype than its own.

    Examples
    --------
    >>> x = np.array([[1.0, 3.0]])
    >>> group_norm_backward(np.array([[5.0, 7.0]]), x, 1, eps=0.0)[1]
    array([-5.,  7.])
    """
    return _core.group_norm_backward(grad_out, x, num_groups, weight, eps, layout, stats, needs)


def instance_norm(
    x: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    layout: str = "channels_first",
    return_stats: bool = False,
    out: Array | None = None,
) -> Any:
    r"""Normalise every channel of every sample by its own statistics, or by running ones.

    .. math:: y = f\left(\frac{x - m_{nc}}{\sqrt{v_{nc} + \epsilon}} w_c + b_c\right)

    Parameters
    ----------
    x : array (n, c, ...), or (n, ..., c) with ``layout="channels_last"``; of a floating dtype
        Any strides; a non-contiguous ``x`` is copied.
    running_mean, running_var : array (c,) of the dtype of ``x``, optional
        Used in place of the input's statistics unless ``use_input_stats``; with it updated in
        place by the means over the batch of the samples' statistics, as :func:`batch_norm` does.
    weight, bias : array (c,) of the dtype of ``x``, optional
    use_input_stats : bool, default True
    momentum : float, default 0.1
    eps : float, default 1e-5
        Not negative.
    activation : str, optional
        The names are those of :func:`linear`.
    layout : {"channels_first", "channels_last"}
    return_stats : bool, default False
        Return (y, mean, rstd), what :func:`instance_norm_backward` takes as ``stats``: float64
        (n, c).
    out : array of ``x``'s shape and dtype, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array of ``x``'s shape and dtype, or (y, mean, rstd)

    Raises
    ------
    ValueError
        For shapes that do not fit, one running statistic without the other or none where they are
        used, one value per channel, a negative ``eps`` or an unknown activation.
    TypeError
        For other or mixed dtypes.

    Notes
    -----
    D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance normalization", 2016 (arXiv:1607.08022).

    Examples
    --------
    >>> instance_norm(np.array([[[1.0, 3.0], [0.0, 8.0]]]), eps=0.0)
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """
    return _core.instance_norm(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        use_input_stats,
        momentum,
        eps,
        activation,
        layout,
        return_stats,
        out,
    )


def instance_norm_backward(
    grad_out: Array,
    x: Array,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    use_input_stats: bool = True,
    eps: float = 1e-5,
    *,
    layout: str = "channels_first",
    stats: tuple[Array, Array] | None = None,
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> Gradients:
    r"""Gradients of :func:`instance_norm` by its input, weight and bias.

    With the input's statistics
    :math:`dx = w \, rstd \, (dy - \overline{dy} - \hat x \, \overline{dy \, \hat x})`, means over a
    channel of a sample; else :math:`dx = w \, rstd \, dy`. :math:`dw = \sum dy \, \hat x` and
    :math:`db = \sum dy` over a channel of the batch.

    Parameters
    ----------
    grad_out : array of the shape and dtype of ``x``
        The gradient before the activation.
    x, running_mean, running_var, weight, use_input_stats, eps, layout
        As in the forward call; nothing is updated.
    stats : (mean, rstd), optional
        What the forward call returned; found again without it.
    needs : sequence of {"x", "weight", "bias"}
        The gradients to compute.

    Returns
    -------
    (grad_x, grad_weight, grad_bias)
        ``None`` where not needed.

    Raises
    ------
    ValueError, TypeError
        As :func:`instance_norm`, and for statistics of another shape or dtype than its own.

    Examples
    --------
    >>> x = np.array([[[1.0, 3.0]]])
    >>> instance_norm_backward(np.array([[[5.0, 7.0]]]), x, eps=0.0)[1]
    array([2.])
    """
    return _core.instance_norm_backward(
        grad_out, x, running_mean, running_var, weight, use_input_stats, eps, layout, stats, needs
    )
