"""Functions of one tensor, element by element, through NumPy's own ufuncs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from arraynn import _array
from arraynn.autograd.tape import (
    Array,
    Node,
    Variable,
    array_of,
    edge_of,
    grad_mode,
    guard,
    make,
)

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

_F = TypeVar("_F", bound=Callable[..., Any])

__all__ = [
    "absolute",
    "astype",
    "clip",
    "cos",
    "exp",
    "hardtanh",
    "in_float32",
    "log",
    "log1p",
    "sin",
    "sqrt",
    "square",
]


class PointwiseNode(Node):
    """y = f(x); saves x or y, whichever the slope is written in."""

    __slots__ = ("_name", "slope")
    fresh = True

    _name: str
    slope: Callable[[Array, Array], Array]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (self.slope(grad, self.saved[0]),)

    @property
    def name(self) -> str:
        """Name of the function."""
        return self._name


def _apply(
    x: Tensor, name: str, out: Array, slope: Callable[[Array, Array], Array], saves_out: bool
) -> Tensor:
    if not _array.is_floating(out.dtype) and x._requires_grad:
        raise TypeError(f"[{name}] x: expected a floating result, got {out.dtype}")
    result = make(out, None)
    if grad_mode.enabled and x._requires_grad:
        saved = result if saves_out else x
        node = PointwiseNode((edge_of(x),), (saved.data,), guard(saved))
        node.slope = slope
        node._name = name
        result.node = node
        result._requires_grad = True
    return result


def exp(x: Tensor) -> Tensor:
    """Return e to the power of every element."""
    return _apply(x, "exp", np.exp(x.data), lambda g, y: g * y, True)


def log(x: Tensor) -> Tensor:
    """Return the natural logarithm of every element."""
    return _apply(x, "log", np.log(x.data), lambda g, v: g / v, False)


def log1p(x: Tensor) -> Tensor:
    """Return log(1 + x) of every element, exact near 0."""
    return _apply(x, "log1p", np.log1p(x.data), lambda g, v: g / (1 + v), False)


def sqrt(x: Tensor) -> Tensor:
    """Return the square root of every element."""
    return _apply(x, "sqrt", np.sqrt(x.data), lambda g, y: g / (2 * y), True)


def square(x: Tensor) -> Tensor:
    """Return the square of every element."""
    return _apply(x, "square", np.square(x.data), lambda g, v: g * (2 * v), False)


def sin(x: Tensor) -> Tensor:
    """Return the sine of every element, in radians."""
    return _apply(x, "sin", np.sin(x.data), lambda g, v: g * np.cos(v), False)


def cos(x: Tensor) -> Tensor:
    """Return the cosine of every element, in radians."""
    return _apply(x, "cos", np.cos(x.data), lambda g, v: -g * np.sin(v), False)


def absolute(x: Tensor) -> Tensor:
    """Return the absolute value of every element; the slope at 0 is 0."""
    return _apply(x, "abs", np.abs(x.data), lambda g, v: g * np.sign(v), False)


def _limited(x: Array, low: float | None, high: float | None) -> Array:
    out = np.clip(x, low, high)
    # A float beside bfloat16 is float32.
    return out.astype(x.dtype) if x.dtype.kind == "V" else out


def clip(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """Limit every element to ``[low, high]``; the gradient passes where the limit is not exceeded.

    Raises
    ------
    ValueError
        If neither limit is given.
    """
    if low is None and high is None:
        raise ValueError("[clip] low, high: expected at least one number, got None and None")

    def slope(grad: Array, v: Array) -> Array:
        inside = np.ones_like(v, dtype=bool)
        if low is not None:
            inside &= v >= low
        if high is not None:
            inside &= v <= high
        return grad * inside

    return _apply(x, "clip", _limited(x.data, low, high), slope, False)


def hardtanh(x: Tensor, low: float, high: float) -> Tensor:
    """Limit every element to ``[low, high]``; the gradient passes strictly between the limits.

    Raises
    ------
    ValueError
        If the limits are not in order.
    """
    if not low < high:
        raise ValueError(f"[hardtanh] max_val: expected more than min_val ({low}), got {high}")

    def slope(grad: Array, v: Array) -> Array:
        return grad * ((v > low) & (v < high))

    return _apply(x, "hardtanh", _limited(x.data, low, high), slope, True)


class CastNode(Node):
    """A change of dtype; the gradient is cast back."""

    __slots__ = ("dtype",)
    fresh = True

    dtype: Any

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (grad.astype(self.dtype),)


def astype(x: Tensor, dtype: Any) -> Tensor:
    """Return a copy of ``x`` in ``dtype``; between floating dtypes the gradient passes."""
    out = x.data.astype(dtype)
    if not (grad_mode.enabled and x._requires_grad) or not _array.is_floating(out.dtype):
        return make(out, None)
    node = CastNode((edge_of(x),))
    node.dtype = x.data.dtype
    return make(out, node)


def in_float32(loss: _F) -> _F:
    """Compute a loss of 16-bit arrays in float32: sums would overflow or stand still."""

    @functools.wraps(loss)
    def call(x: Any, target: Any, *rest: Any, **options: Any) -> Tensor:
        dtype = array_of(x).dtype
        if not _array.has_16_bits(dtype) or array_of(target).dtype != dtype:
            return cast("Tensor", loss(x, target, *rest, **options))

        def wide(value: Any) -> Any:
            if getattr(value, "dtype", None) != dtype:
                return value
            if isinstance(value, Variable):
                return astype(cast("Tensor", value), np.float32)
            return value.astype(np.float32)

        named = {name: wide(value) for name, value in options.items()}
        found: Tensor = loss(wide(x), wide(target), *map(wide, rest), **named)
        return astype(found, dtype)

    return cast(_F, call)
