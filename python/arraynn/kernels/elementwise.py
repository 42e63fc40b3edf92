"""Activations, their gradients, and dropout: one pass over contiguous memory.

Every ``<name>_backward(grad_out, x)`` is ``grad_out * f'(x)``, computed from the input ``x``. The
behaviour at NaN and the infinities is PyTorch's. Errors of the elementary functions are stated in
``csrc/simd/math.hpp``: at most 3 ULP, except 7 ULP for the normal distribution inside ``gelu``.
``relu`` and ``leaky_relu`` keep denormal numbers; the other functions flush them to zero.

All take arrays of any shape and strides (a non-contiguous one is copied), of a floating dtype:
float32, float64, or float16 and bfloat16, computed in float32 and rounded once. They
return a new C-ordered array or ``out``, which must have the result's shape and dtype, be writeable
and not overlap an input (ValueError). Other or mixed dtypes are a TypeError.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn import _core

__all__ = [
    "dropout",
    "dropout_backward",
    "elu",
    "elu_backward",
    "gelu",
    "gelu_backward",
    "hardsigmoid",
    "hardsigmoid_backward",
    "hardswish",
    "hardswish_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "mish",
    "mish_backward",
    "relu",
    "relu_backward",
    "selu",
    "selu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softplus",
    "softplus_backward",
    "tanh",
    "tanh_backward",
]

Array = np.ndarray[Any, Any]


def relu(x: Array, *, out: Array | None = None) -> Array:
    """``max(x, 0)``; NaN stays NaN.

    V. Nair, G. Hinton, "Rectified linear units improve restricted Boltzmann machines", ICML 2010.

    Parameters
    ----------
    x : array, of a floating dtype
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other dtypes, an ``out`` that does not fit.

    Examples
    --------
    >>> relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    return _core.relu(x, out)


def relu_backward(grad_out: Array, x: Array, *, out: Array | None = None) -> Array:
    """``grad_out`` where ``x > 0`` (or ``x`` is NaN), else 0.

    The output of :func:`relu` may be passed as ``x``: the result is the same.

    Parameters
    ----------
    grad_out, x : arrays of one shape, of a floating dtype
        ``x`` is the input of :func:`relu`.
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other or mixed dtypes, shapes that differ, an unfit ``out``.

    Examples
    --------
    >>> relu_backward(np.ones(2), np.array([-1.0, 2.0]))
    array([0., 1.])
    """
    return _core.relu_backward(grad_out, x, out)


def leaky_relu(x: Array, negative_slope: float = 0.01, *, out: Array | None = None) -> Array:
    """``x`` where ``x > 0``, else ``negative_slope * x``.

    A. Maas, A. Hannun, A. Ng, "Rectifier nonlinearities improve neural network acoustic models",
    ICML 2013.

    Parameters
    ----------
    x : array, of a floating dtype
    negative_slope : float, default 0.01
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other dtypes, an ``out`` that does not fit, a non-finite parameter.

    Examples
    --------
    >>> leaky_relu(np.array([-1.0, 2.0]), 0.25)
    array([-0.25,  2.  ])
    """
    return _core.leaky_relu(x, negative_slope, out)


def leaky_relu_backward(
    grad_out: Array, x: Array, *, negative_slope: float = 0.01, out: Array | None = None
) -> Array:
    """``grad_out`` where ``x > 0``, else ``negative_slope * grad_out``.

    For a positive slope the output of :func:`leaky_relu` may be passed as ``x``.

    Parameters
    ----------
    grad_out, x : arrays of one shape, of a floating dtype
        ``x`` is the input of :func:`leaky_relu`.
    negative_slope : float, default 0.01
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other or mixed dtypes, shapes that differ, an unfit ``out``, a non-finite parameter.

    Examples
    --------
    >>> leaky_relu_backward(np.ones(2), np.array([-1.0, 2.0]), negative_slope=0.25)
    array([0.25, 1.  ])
    """
    return _core.leaky_relu_backward(grad_out, x, negative_slope, out)


def elu(x: Array, alpha: float = 1.0, *, out: Array | None = None) -> Array:
    """``x`` where ``x > 0``, else ``alpha * (exp(x) - 1)``.

    D. Clevert, T. Unterthiner, S. Hochreiter, "Fast and accurate deep network learning by
    exponential linear units", ICLR 2016.

    Parameters
    ----------
    x : array, of a floating dtype
    alpha : float, default 1.0
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other dtypes, an ``out`` that does not fit, a non-finite parameter.

    Examples
    --------
    >>> elu(np.array([0.0, 2.0]))
    array([0., 2.])
    """
    return _core.elu(x, alpha, out)


def elu_backward(
    grad_out: Array, x: Array, *, alpha: float = 1.0, out: Array | None = None
) -> Array:
    """``grad_out`` where ``x > 0``, else ``grad_out * alpha * exp(x)``.

    Parameters
    ----------
    grad_out, x : arrays of one shape, of a floating dtype
        ``x`` is the input of :func:`elu`.
    alpha : float, default 1.0
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other or mixed dtypes, shapes that differ, an unfit ``out``, a non-finite parameter.

    Examples
    --------
    >>> elu_backward(np.ones(2), np.array([0.0, 2.0]), alpha=0.5)
    array([0.5, 1. ])
    """
    return _core.elu_backward(grad_out, x, alpha, out)


def selu(x: Array, *, out: Array | None = None) -> Array:
    """``scale * elu(x, alpha)`` with the constants that make activations self-normalising.

    ``scale = 1.0507009873554805``, ``alpha = 1.6732632423543772``.

    G. Klambauer et al., "Self-normalizing neural networks", NeurIPS 2017.

    Parameters
    ----------
    x : array, of a floating dtype
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other dtypes, an ``out`` that does not fit.

    Examples
    --------
    >>> selu(np.array([0.0, 1.0]))
    array([0.        , 1.05070099])
    """
    return _core.selu(x, out)


def selu_backward(grad_out: Array, x: Array, *, out: Array | None = None) -> Array:
    """``grad_out * scale`` where ``x > 0``, else ``grad_out * scale * alpha * exp(x)``.

    Parameters
    ----------
    grad_out, x : arrays of one shape, of a floating dtype
        ``x`` is the input of :func:`selu`.
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other or mixed dtypes, shapes that differ, an unfit ``out``.

    Examples
    --------
    >>> selu_backward(np.ones(2), np.array([0.0, 1.0]))
    array([1.75809934, 1.05070099])
    """
    return _core.selu_backward(grad_out, x, out)


def sigmoid(x: Array, *, out: Array | None = None) -> Array:
    """``1 / (1 + exp(-x))``.

    Computed without overflow for any ``x``.

    Parameters
    ----------
    x : array, of a floating dtype
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other dtypes, an ``out`` that does not fit.

    Examples
    --------
    >>> sigmoid(np.array([0.0, -1000.0]))
    array([0.5, 0. ])
    """
    return _core.sigmoid(x, out)


def sigmoid_backward(grad_out: Array, x: Array, *, out: Array | None = None) -> Array:
    """``grad_out * s (1 - s)`` with ``s = sigmoid(x)``.

    Taken as ``e / (1 + e)**2`` with ``e = exp(-|x|)``, which keeps its relative precision for
    large ``x``.

    Parameters
    ----------
    grad_out, x : arrays of one shape, of a floating dtype
        ``x`` is the input of :func:`sigmoid`.
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other or mixed dtypes, shapes that differ, an unfit ``out``.

    Examples
    --------
    >>> sigmoid_backward(np.ones(2), np.array([0.0, 2.0]))
    array([0.25      , 0.10499359])
    """
    return _core.sigmoid_backward(grad_out, x, out)


def tanh(x: Array, *, out: Array | None = None) -> Array:
    """Hyperbolic tangent.

    As ``m / (m + 2)`` with ``m = exp(2|x|) - 1``, which loses nothing near 0.

    Parameters
    ----------
    x : array, of a floating dtype
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other dtypes, an ``out`` that does not fit.

    Examples
    --------
    >>> tanh(np.array([0.0, 50.0]))
    array([0., 1.])
    """
    return _core.tanh(x, out)


def tanh_backward(grad_out: Array, x: Array, *, out: Array | None = None) -> Array:
    """``grad_out * (1 - tanh(x)**2)``.

    Taken as ``4 e / (1 + e)**2`` with ``e = exp(-2|x|)``, which keeps its relative precision for
    large ``x``.

    Parameters
    ----------
    grad_out, x : arrays of one shape, of a floating dtype
        ``x`` is the input of :func:`tanh`.
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other or mixed dtypes, shapes that differ, an unfit ``out``.

    Examples
    --------
    >>> tanh_backward(np.ones(2), np.array([0.0, 50.0]))
    array([1.00000000e+00, 1.48803039e-43])
    """
    return _core.tanh_backward(grad_out, x, out)


def hardsigmoid(x: Array, *, out: Array | None = None) -> Array:
    """``min(max(x + 3, 0), 6) / 6``.

    A. Howard et al., "Searching for MobileNetV3", ICCV 2019.

    Parameters
    ----------
    x : array, of a floating dtype
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other dtypes, an ``out`` that does not fit.

    Examples
    --------
    >>> hardsigmoid(np.array([-4.0, 0.0, 4.0]))
    array([0. , 0.5, 1. ])
    """
    return _core.hardsigmoid(x, out)


def hardsigmoid_backward(grad_out: Array, x: Array, *, out: Array | None = None) -> Array:
    """``grad_out / 6`` where ``-3 < x < 3``, else 0.

    Parameters
    ----------
    grad_out, x : arrays of one shape, of a floating dtype
        ``x`` is the input of :func:`hardsigmoid`.
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other or mixed dtypes, shapes that differ, an unfit ``out``.

    Examples
    --------
    >>> hardsigmoid_backward(np.ones(2), np.array([-4.0, 0.0]))
    array([0.        , 0.16666667])
    """
    return _core.hardsigmoid_backward(grad_out, x, out)


def hardswish(x: Array, *, out: Array | None = None) -> Array:
    """``x * min(max(x + 3, 0), 6) / 6``.

    A. Howard et al., "Searching for MobileNetV3", ICCV 2019.

    Parameters
    ----------
    x : array, of a floating dtype
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other dtypes, an ``out`` that does not fit.

    Examples
    --------
    >>> hardswish(np.array([0.0, 4.0]))
    array([0., 4.])
    """
    return _core.hardswish(x, out)


def hardswish_backward(grad_out: Array, x: Array, *, out: Array | None = None) -> Array:
    """0 where ``x <= -3``, ``grad_out`` where ``x >= 3``, else ``grad_out * (x / 3 + 1 / 2)``.

    Parameters
    ----------
    grad_out, x : arrays of one shape, of a floating dtype
        ``x`` is the input of :func:`hardswish`.
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other or mixed dtypes, shapes that differ, an unfit ``out``.

    Examples
    --------
    >>> hardswish_backward(np.ones(3), np.array([-4.0, 0.0, 4.0]))
    array([0. , 0.5, 1. ])
    """
    return _core.hardswish_backward(grad_out, x, out)


def silu(x: Array, *, out: Array | None = None) -> Array:
    """``x * sigmoid(x)``, also called swish.

    S. Elfwing, E. Uchibe, K. Doya, "Sigmoid-weighted linear units", Neural Networks 107, 2018.

    Parameters
    ----------
    x : array, of a floating dtype
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other dtypes, an ``out`` that does not fit.

    Examples
    --------
    >>> silu(np.array([0.0, 50.0]))
    array([ 0., 50.])
    """
    return _core.silu(x, out)


def silu_backward(grad_out: Array, x: Array, *, out: Array | None = None) -> Array:
    """``grad_out * s(x) * (1 + x s(-x))`` with ``s = sigmoid``.

    Parameters
    ----------
    grad_out, x : arrays of one shape, of a floating dtype
        ``x`` is the input of :func:`silu`.
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other or mixed dtypes, shapes that differ, an unfit ``out``.

    Examples
    --------
    >>> silu_backward(np.ones(2), np.array([0.0, 50.0]))
    array([0.5, 1. ])
    """
    return _core.silu_backward(grad_out, x, out)


def gelu(x: Array, approximate: str = "none", *, out: Array | None = None) -> Array:
    """Gaussian error linear unit.

    ``"none"``: ``x Φ(x)``, with ``Φ`` the normal distribution, precise in both tails.
    ``"tanh"``: ``x (1 + tanh u) / 2``, ``u = sqrt(2/π) (x + 0.044715 x³)``.

    D. Hendrycks, K. Gimpel, "Gaussian error linear units", 2016 (arXiv:1606.08415).

    Parameters
    ----------
    x : array, of a floating dtype
    approximate : {"none", "tanh"}, default "none"
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other dtypes, an ``out`` that does not fit, another word.

    Examples
    --------
    >>> gelu(np.array([0.0, 100.0]))
    array([  0., 100.])
    """
    return _core.gelu(x, approximate, out)


def gelu_backward(
    grad_out: Array, x: Array, *, approximate: str = "none", out: Array | None = None
) -> Array:
    """``grad_out`` times the derivative of :func:`gelu`.

    ``"none"``: ``Φ(x) + x φ(x)``, with ``φ`` the normal density.
    ``"tanh"``: ``s + x s (1 - s) 2u'`` with ``s = sigmoid(2u)``.

    Parameters
    ----------
    grad_out, x : arrays of one shape, of a floating dtype
        ``x`` is the input of :func:`gelu`.
    approximate : {"none", "tanh"}, default "none"
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other or mixed dtypes, shapes that differ, an unfit ``out``, another word.

    Examples
    --------
    >>> gelu_backward(np.ones(2), np.array([0.0, 100.0]), approximate="tanh")
    array([0.5, 1. ])
    """
    return _core.gelu_backward(grad_out, x, approximate, out)


def mish(x: Array, *, out: Array | None = None) -> Array:
    """``x * tanh(log(1 + exp(x)))``.

    D. Misra, "Mish: a self regularized non-monotonic activation function", BMVC 2020.

    Parameters
    ----------
    x : array, of a floating dtype
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other dtypes, an ``out`` that does not fit.

    Examples
    --------
    >>> mish(np.array([0.0, 50.0]))
    array([ 0., 50.])
    """
    return _core.mish(x, out)


def mish_backward(grad_out: Array, x: Array, *, out: Array | None = None) -> Array:
    """``grad_out * (t + x (1 - t²) sigmoid(x))`` with ``t = tanh(log(1 + exp(x)))``.

    Parameters
    ----------
    grad_out, x : arrays of one shape, of a floating dtype
        ``x`` is the input of :func:`mish`.
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other or mixed dtypes, shapes that differ, an unfit ``out``.

    Examples
    --------
    >>> mish_backward(np.ones(2), np.array([0.0, 50.0]))
    array([0.6, 1. ])
    """
    return _core.mish_backward(grad_out, x, out)


def softplus(
    x: Array, beta: float = 1.0, threshold: float = 20.0, *, out: Array | None = None
) -> Array:
    """``log(1 + exp(beta x)) / beta``, and ``x`` itself where ``beta x > threshold``.

    C. Dugas et al., "Incorporating second-order functional knowledge for better option pricing",
    NeurIPS 2000.

    Parameters
    ----------
    x : array, of a floating dtype
    beta : float, default 1.0
    threshold : float, default 20.0
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other dtypes, an ``out`` that does not fit,
        a non-finite parameter or ``beta <= 0``.

    Examples
    --------
    >>> softplus(np.array([0.0, 30.0]))
    array([ 0.69314718, 30.        ])
    """
    return _core.softplus(x, beta, threshold, out)


def softplus_backward(
    grad_out: Array,
    x: Array,
    *,
    beta: float = 1.0,
    threshold: float = 20.0,
    out: Array | None = None,
) -> Array:
    """``grad_out * sigmoid(beta x)``, and ``grad_out`` where ``beta x > threshold``.

    Parameters
    ----------
    grad_out, x : arrays of one shape, of a floating dtype
        ``x`` is the input of :func:`softplus`.
    beta : float, default 1.0
    threshold : float, default 20.0
    out : array like ``x``, optional

    Raises
    ------
    TypeError, ValueError
        For other or mixed dtypes, shapes that differ, an unfit ``out``,
        a non-finite parameter or ``beta <= 0``.

    Examples
    --------
    >>> softplus_backward(np.ones(2), np.array([0.0, 30.0]))
    array([0.5, 1. ])
    """
    return _core.softplus_backward(grad_out, x, beta, threshold, out)


def dropout(x: Array, p: float, seed: int, *, out: Array | None = None) -> Array:
    """``x / (1 - p)`` with probability ``1 - p``, else 0.

    Element ``i`` in C order looks at word ``i % 4`` of Philox4x32-10 with counter
    ``(i // 4 low 32 bits, i // 4 high 32 bits, 0, 0)`` and key ``(seed low 32 bits, seed high 32
    bits)``, and is kept when that word is at least ``floor(p * 2**32)``. The mask depends on the
    seed and the position alone, so it is the same on every machine and for every thread count
    (N. Srivastava et al., JMLR 15, 2014; J. Salmon et al., SC 2011).

    Parameters
    ----------
    x : array, of a floating dtype
        Any shape and strides; a non-contiguous ``x`` is copied.
    p : float in [0, 1]
        Probability that an element becomes 0.
    seed : int of 64 bits
    out : array of ``x``'s shape and dtype, optional
        Where the result goes. Must not overlap ``x``.

    Raises
    ------
    ValueError
        For ``p`` outside [0, 1], a seed of more than 64 bits, or an ``out`` that does not fit.
    TypeError
        For a dtype other than float32 and float64.

    Examples
    --------
    >>> dropout(np.ones(6), 0.5, seed=0)
    array([0., 2., 2., 2., 2., 0.])
    """
    return _core.dropout(x, p, seed, out)


def dropout_backward(grad_out: Array, p: float, seed: int, *, out: Array | None = None) -> Array:
    """Apply the mask and the scale of :func:`dropout` to ``grad_out``.

    Parameters
    ----------
    grad_out : array, of a floating dtype
    p : float in [0, 1]
    seed : int of 64 bits
        As in the forward call: the mask is made again, not stored.
    out : array of ``grad_out``'s shape and dtype, optional
        Where the result goes. Must not overlap ``grad_out``.

    Raises
    ------
    ValueError
        For ``p`` outside [0, 1], a seed of more than 64 bits, or an ``out`` that does not fit.
    TypeError
        For a dtype other than float32 and float64.

    Examples
    --------
    >>> dropout_backward(np.ones(6), 0.5, seed=0)
    array([0., 2., 2., 2., 2., 0.])
    """
    return _core.dropout_backward(grad_out, p, seed, out)
