"""Activations and dropout in plain NumPy.

Each ``<name>_backward(grad_out, x)`` is ``grad_out * f'(x)``, computed from the input `x`.
Arithmetic is done in the dtype of `x`; pass float64 for an oracle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from ._common import FloatArray, quiet, store

SELU_ALPHA: Final = 1.6732632423543772848170429916717
SELU_SCALE: Final = 1.0507009873554804934193349852946


def _erfc(x: FloatArray) -> FloatArray:
    """Complementary error function, element by element in float64, rounded to the dtype of x."""
    return np.asarray(np.vectorize(math.erfc, otypes=[np.float64])(x), dtype=x.dtype)


def _sigmoid(x: FloatArray) -> FloatArray:
    e = np.exp(-np.abs(x))  # never overflows
    return np.where(x < 0, e / (1 + e), 1 / (1 + e))


def _softplus(x: FloatArray) -> FloatArray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


@quiet
def relu(x: FloatArray, *, out: FloatArray | None = None) -> FloatArray:
    """``max(x, 0)``; NaN stays NaN.

    >>> relu(np.array([-1.0, 2.0]))
    array([0., 2.])
    """
    return store(np.maximum(x, 0), out)


@quiet
def relu_backward(
    grad_out: FloatArray, x: FloatArray, *, out: FloatArray | None = None
) -> FloatArray:
    """``grad_out`` where x > 0, else 0."""
    return store(np.where(x <= 0, 0, grad_out), out)


@quiet
def leaky_relu(
    x: FloatArray, negative_slope: float = 0.01, *, out: FloatArray | None = None
) -> FloatArray:
    """``x`` where x > 0, else ``negative_slope * x`` (Maas et al. 2013).

    >>> leaky_relu(np.array([-1.0, 2.0]), 0.25)
    array([-0.25,  2.  ])
    """
    return store(np.where(x > 0, x, negative_slope * x), out)


@quiet
def leaky_relu_backward(
    grad_out: FloatArray,
    x: FloatArray,
    *,
    negative_slope: float = 0.01,
    out: FloatArray | None = None,
) -> FloatArray:
    """``grad_out`` where x > 0, else ``negative_slope * grad_out``."""
    return store(np.where(x > 0, grad_out, negative_slope * grad_out), out)


@quiet
def elu(x: FloatArray, alpha: float = 1.0, *, out: FloatArray | None = None) -> FloatArray:
    """``x`` where x > 0, else ``alpha * (exp(x) - 1)`` (Clevert et al. 2015).

    >>> elu(np.array([0.0, 2.0]))
    array([0., 2.])
    """
    return store(np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))), out)


@quiet
def elu_backward(
    grad_out: FloatArray, x: FloatArray, *, alpha: float = 1.0, out: FloatArray | None = None
) -> FloatArray:
    """``grad_out`` where x > 0, else ``grad_out * alpha * exp(x)``."""
    return store(np.where(x > 0, grad_out, grad_out * (alpha * np.exp(np.minimum(x, 0)))), out)


@quiet
def selu(x: FloatArray, *, out: FloatArray | None = None) -> FloatArray:
    """``scale * elu(x, alpha)`` with the fixed-point constants of Klambauer et al. 2017.

    >>> round(float(selu(np.array(1.0))), 4)
    1.0507
    """
    return store(SELU_SCALE * elu(x, SELU_ALPHA), out)


@quiet
def selu_backward(
    grad_out: FloatArray, x: FloatArray, *, out: FloatArray | None = None
) -> FloatArray:
    """``scale * elu_backward(grad_out, x, alpha)``."""
    return store(SELU_SCALE * elu_backward(grad_out, x, alpha=SELU_ALPHA), out)


@quiet
def sigmoid(x: FloatArray, *, out: FloatArray | None = None) -> FloatArray:
    """``1 / (1 + exp(-x))``, without overflow for any x.

    >>> sigmoid(np.array([0.0, -1000.0]))
    array([0.5, 0. ])
    """
    return store(_sigmoid(x), out)


@quiet
def sigmoid_backward(
    grad_out: FloatArray, x: FloatArray, *, out: FloatArray | None = None
) -> FloatArray:
    """``grad_out * s(x) * s(-x)``, since ``1 - s(x) = s(-x)``."""
    return store(grad_out * (_sigmoid(x) * _sigmoid(-x)), out)


@quiet
def tanh(x: FloatArray, *, out: FloatArray | None = None) -> FloatArray:
    """Hyperbolic tangent.

    >>> tanh(np.array([0.0]))
    array([0.])
    """
    return store(np.tanh(x), out)


@quiet
def tanh_backward(
    grad_out: FloatArray, x: FloatArray, *, out: FloatArray | None = None
) -> FloatArray:
    """``grad_out * (1 - tanh(x)**2)``, as ``4 s(2x) s(-2x)`` to keep the tails."""
    return store(grad_out * (4 * (_sigmoid(2 * x) * _sigmoid(-2 * x))), out)


@quiet
def hardsigmoid(x: FloatArray, *, out: FloatArray | None = None) -> FloatArray:
    """``min(max(x + 3, 0), 6) / 6``.

    >>> hardsigmoid(np.array([-4.0, 0.0, 4.0]))
    array([0. , 0.5, 1. ])
    """
    return store(np.clip(x + 3, 0, 6) / 6, out)


@quiet
def hardsigmoid_backward(
    grad_out: FloatArray, x: FloatArray, *, out: FloatArray | None = None
) -> FloatArray:
    """``grad_out / 6`` where -3 < x < 3, else 0."""
    return store(np.where((x > -3) & (x < 3), grad_out / 6, 0), out)


@quiet
def hardswish(x: FloatArray, *, out: FloatArray | None = None) -> FloatArray:
    """``x * hardsigmoid(x)`` (Howard et al. 2019).

    >>> hardswish(np.array([-4.0, 0.0, 4.0]))
    array([-0.,  0.,  4.])
    """
    return store(x * (np.clip(x + 3, 0, 6) / 6), out)


@quiet
def hardswish_backward(
    grad_out: FloatArray, x: FloatArray, *, out: FloatArray | None = None
) -> FloatArray:
    """0 where x <= -3, ``grad_out`` where x >= 3, else ``grad_out * (x / 3 + 1 / 2)``."""
    slope = np.where(x <= -3, 0, np.where(x >= 3, 1, x / 3 + 0.5)).astype(x.dtype)
    return store(grad_out * slope, out)


@quiet
def silu(x: FloatArray, *, out: FloatArray | None = None) -> FloatArray:
    """``x * sigmoid(x)`` (Hendrycks and Gimpel 2016; Elfwing et al. 2017).

    >>> silu(np.array([0.0]))
    array([0.])
    """
    return store(x * _sigmoid(x), out)


@quiet
def silu_backward(
    grad_out: FloatArray, x: FloatArray, *, out: FloatArray | None = None
) -> FloatArray:
    """``grad_out * s(x) * (1 + x s(-x))``."""
    return store(grad_out * (_sigmoid(x) * (1 + x * _sigmoid(-x))), out)


_GELU_K: Final = math.sqrt(2 / math.pi)
_GELU_C: Final = 0.044715


def _check_approximate(approximate: str) -> None:
    if approximate not in ("none", "tanh"):
        raise ValueError(f"[gelu] approximate: expected 'none' or 'tanh', got {approximate!r}")


@quiet
def gelu(
    x: FloatArray,
    approximate: Literal["none", "tanh"] = "none",
    *,
    out: FloatArray | None = None,
) -> FloatArray:
    r"""Gaussian error linear unit (Hendrycks and Gimpel 2016).

    ``"none"``: :math:`x \Phi(x) = x\, \mathrm{erfc}(-x / \sqrt 2) / 2`.
    ``"tanh"``: :math:`x (1 + \tanh u) / 2 = x\,\sigma(2u)`,
    :math:`u = \sqrt{2/\pi}\,(x + 0.044715 x^3)`.

    >>> gelu(np.array([0.0, 100.0]))
    array([  0., 100.])
    """
    _check_approximate(approximate)
    if approximate == "tanh":
        return store(x * _sigmoid(2 * _GELU_K * (x + _GELU_C * x * x * x)), out)
    return store(x * (0.5 * _erfc(-x * math.sqrt(0.5))), out)


@quiet
def gelu_backward(
    grad_out: FloatArray,
    x: FloatArray,
    *,
    approximate: Literal["none", "tanh"] = "none",
    out: FloatArray | None = None,
) -> FloatArray:
    r"""``grad_out * d gelu / dx``.

    ``"none"``: :math:`\Phi(x) + x \phi(x)`.
    ``"tanh"``: :math:`s + x\, s (1 - s)\, 2u'` with :math:`s = \sigma(2u)`,
    :math:`u' = \sqrt{2/\pi}\,(1 + 3 \cdot 0.044715 x^2)`.
    """
    _check_approximate(approximate)
    if approximate == "tanh":
        z = 2 * _GELU_K * (x + _GELU_C * x * x * x)
        slope = 2 * _GELU_K * (1 + 3 * _GELU_C * x * x)
        s, bump = _sigmoid(z), _sigmoid(z) * _sigmoid(-z)
        # Far out bump is 0 while x**2 in the slope may be infinite.
        return store(grad_out * (s + np.where(bump == 0, 0, x * bump * slope)), out)
    density = np.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return store(grad_out * (0.5 * _erfc(-x * math.sqrt(0.5)) + x * density), out)


@quiet
def mish(x: FloatArray, *, out: FloatArray | None = None) -> FloatArray:
    """``x * tanh(softplus(x))`` (Misra 2019).

    >>> mish(np.array([0.0]))
    array([0.])
    """
    return store(x * np.tanh(_softplus(x)), out)


@quiet
def mish_backward(
    grad_out: FloatArray, x: FloatArray, *, out: FloatArray | None = None
) -> FloatArray:
    """``grad_out * (t + x (1 - t**2) sigmoid(x))`` with ``t = tanh(softplus(x))``."""
    p = _softplus(x)
    sech2 = 4 * (_sigmoid(2 * p) * _sigmoid(-2 * p))  # 1 - tanh(p)**2 without cancellation
    return store(grad_out * (np.tanh(p) + x * sech2 * _sigmoid(x)), out)


@quiet
def softplus(
    x: FloatArray,
    beta: float = 1.0,
    threshold: float = 20.0,
    *,
    out: FloatArray | None = None,
) -> FloatArray:
    """``log(1 + exp(beta x)) / beta``, and ``x`` itself where ``beta x > threshold``.

    >>> softplus(np.array([0.0, 30.0])).round(4)
    array([ 0.6931, 30.    ])
    """
    z = beta * x
    return store(np.where(z > threshold, x, _softplus(z) / beta), out)


@quiet
def softplus_backward(
    grad_out: FloatArray,
    x: FloatArray,
    *,
    beta: float = 1.0,
    threshold: float = 20.0,
    out: FloatArray | None = None,
) -> FloatArray:
    """``grad_out * sigmoid(beta x)``, and ``grad_out`` where ``beta x > threshold``."""
    z = beta * x
    return store(np.where(z > threshold, grad_out, grad_out * _sigmoid(z)), out)


def _gelu_tanh(x: FloatArray) -> FloatArray:
    return gelu(x, "tanh")


#: The activations an epilogue may name, with their default parameters.
ACTIVATIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "relu": relu,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "selu": selu,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "hardsigmoid": hardsigmoid,
    "hardswish": hardswish,
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": _gelu_tanh,
    "mish": mish,
    "softplus": softplus,
}


def epilogue(
    z: FloatArray, bias: FloatArray | None, residual: FloatArray | None, activation: str | None
) -> FloatArray:
    """``activation(z + bias + residual)``; `bias` must broadcast against `z`."""
    if bias is not None:
        z = z + bias
    if residual is not None:
        z = z + residual
    if activation is None:
        return z
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"activation: expected None or one of {sorted(ACTIVATIONS)}, got {activation!r}"
        )
    return np.asarray(ACTIVATIONS[activation](z))


def philox4x32(
    counter: NDArray[np.uint32], key: tuple[int, int], rounds: int = 10
) -> NDArray[np.uint32]:
    """Philox4x32: four random 32-bit words per counter (Salmon et al. 2011).

    Parameters
    ----------
    counter : uint32 array (..., 4)
    key : two 32-bit words
    rounds : int

    Returns
    -------
    uint32 array (..., 4)

    Examples
    --------
    >>> [hex(w) for w in philox4x32(np.zeros(4, np.uint32), (0, 0)).tolist()]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    low = np.uint64(0xFFFFFFFF)
    shift = np.uint64(32)
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, dtype=np.uint64), -1, 0)
    k0, k1 = key
    for _ in range(rounds):
        product0 = c0 * np.uint64(0xD2511F53)
        product1 = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (product1 >> shift) ^ c1 ^ np.uint64(k0),
            product1 & low,
            (product0 >> shift) ^ c3 ^ np.uint64(k1),
            product0 & low,
        )
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def dropout_mask(shape: tuple[int, ...], p: float, seed: int) -> NDArray[np.bool_]:
    """Return which elements :func:`dropout` keeps.

    Element ``i`` in C order looks at word ``i % 4`` of Philox4x32-10 with counter
    ``(i // 4 low 32, i // 4 high 32, 0, 0)`` and key ``(seed low 32, seed high 32)`` and is kept
    when that word is >= ``floor(p * 2**32)``.
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"[dropout] p: expected a probability in [0, 1], got {p}")
    n = math.prod(shape)
    block = np.arange((n + 3) // 4, dtype=np.uint64)
    counter = np.zeros((block.size, 4), dtype=np.uint32)
    counter[:, 0] = block & np.uint64(0xFFFFFFFF)
    counter[:, 1] = block >> np.uint64(32)
    words = philox4x32(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))
    threshold = np.uint64(math.floor(p * 2**32))
    return (words.reshape(-1)[:n].astype(np.uint64) >= threshold).reshape(shape)


def dropout(x: FloatArray, p: float, seed: int, *, out: FloatArray | None = None) -> FloatArray:
    """``x / (1 - p)`` where :func:`dropout_mask` keeps, else 0 (Srivastava et al. 2014).

    >>> dropout(np.ones(4), 1.0, seed=0)
    array([0., 0., 0., 0.])
    """
    keep = dropout_mask(x.shape, p, seed)
    scale = 1.0 / (1.0 - p) if p < 1.0 else 0.0
    return store(np.where(keep, x * scale, 0), out)


def dropout_backward(
    grad_out: FloatArray, p: float, seed: int, *, out: FloatArray | None = None
) -> FloatArray:
    """Apply the mask and scale of :func:`dropout` to `grad_out`."""
    return dropout(grad_out, p, seed, out=out)
