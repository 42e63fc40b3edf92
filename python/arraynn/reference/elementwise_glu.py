"""Gated linear units in plain NumPy."""

from __future__ import annotations

import numpy as np

from . import elementwise
from ._common import FloatArray, quiet, store


def _slope(b: FloatArray, activation: str | None) -> FloatArray:
    """Return f'(b)."""
    ones = np.ones_like(b)
    if activation is None:
        return ones
    if activation == "gelu_tanh":
        return elementwise.gelu_backward(ones, b, approximate="tanh")
    slope: FloatArray = getattr(elementwise, f"{activation}_backward")(ones, b)
    return slope


@quiet
def glu(
    x: FloatArray,
    axis: int = -1,
    *,
    activation: str | None = "sigmoid",
    out: FloatArray | None = None,
) -> FloatArray:
    """Multiply the first half of `axis` by an activation of the second.

    >>> glu(np.array([2.0, 0.0]))
    array([1.])
    """
    a, b = np.split(x, 2, axis)
    return store(a * (b if activation is None else elementwise.ACTIVATIONS[activation](b)), out)


@quiet
def glu_backward(
    grad_out: FloatArray,
    x: FloatArray,
    axis: int = -1,
    *,
    activation: str | None = "sigmoid",
    out: FloatArray | None = None,
) -> FloatArray:
    """``[grad_out f(b), grad_out a f'(b)]`` along `axis`."""
    a, b = np.split(x, 2, axis)
    gate = b if activation is None else elementwise.ACTIVATIONS[activation](b)
    parts = (grad_out * gate, grad_out * a * _slope(b, activation))
    return store(np.concatenate(parts, axis), out)
