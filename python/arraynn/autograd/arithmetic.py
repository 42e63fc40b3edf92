"""Arithmetic of tensors with broadcasting: NumPy's operators forward, sums backward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arraynn import _array
from arraynn import kernels as K
from arraynn.autograd.tape import (
    Array,
    Edge,
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

__all__ = ["add", "divide", "matmul", "maximum", "minimum", "multiply", "negative", "power"]
__all__ += ["subtract", "where"]

_PYTHON_NUMBERS = frozenset((bool, int, float))


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum ``grad`` over the axes along which an operand of ``shape`` was repeated."""
    if grad.shape == shape:
        return grad
    lead = grad.ndim - len(shape)
    axes = [*range(lead)]
    axes += [lead + i for i, n in enumerate(shape) if n == 1 and grad.shape[lead + i] != 1]
    return total(grad, tuple(axes)).reshape(shape)


def total(
    x: Array, axes: tuple[int, ...], keepdims: bool = False, factor: float | None = None
) -> Array:
    """Sum over axes, times a factor; 16 bits in float32, rounded once."""
    wide = x.astype(np.float32) if _array.has_16_bits(x.dtype) else x
    out = wide.sum(axis=axes, keepdims=keepdims)
    if factor is not None:
        out = out * factor
    return out if wide is x else out.astype(x.dtype)


def number_like(value: Any, like: Any) -> Any:
    """Return a Python number as what leaves the dtype of ``like`` alone.

    NumPy's own dtypes win over it; a float beside bfloat16 is float32.
    """
    if type(value) is float and hasattr(like, "dtype") and like.dtype.kind == "V":
        return np.asarray(value, like.dtype)
    return value


def plain_operand(value: Any) -> Any:
    """Return an array or Python number for ``value``, None when it is neither.

    NumPy's scalars become Python numbers: as in PyTorch, a scalar never changes a tensor's dtype.
    """
    if isinstance(value, Variable):
        return value.data
    if type(value) in _PYTHON_NUMBERS:
        return value
    if isinstance(value, np.generic):
        return value.item()
    return value if hasattr(value, "dtype") and hasattr(value, "shape") else None


def operands(name: str, a: Any, b: Any) -> tuple[Any, Any] | None:
    """Arrays or numbers of both operands, checked to keep floating dtypes; None: not for us."""
    x, y = plain_operand(a), plain_operand(b)
    if x is None or y is None:
        return None
    if type(x) in _PYTHON_NUMBERS or type(y) in _PYTHON_NUMBERS:
        return number_like(x, y), number_like(y, x)
    if x.dtype is y.dtype:
        return x, y
    both = np.result_type(x.dtype, y.dtype)
    for this, other in ((x, y), (y, x)):
        if _array.is_floating(this.dtype) and both != this.dtype:
            raise TypeError(
                f"[{name}] operands: expected one floating dtype, got {x.dtype} and {y.dtype}; "
                f"convert one with .astype, as {other.dtype} would turn {this.dtype} into {both}"
            )
    return x, y


def _edges(a: Any, b: Any) -> tuple[Edge, Edge] | None:
    """Edges of both operands, None when nothing is recorded."""
    if not grad_mode.enabled:
        return None
    edge_a, edge_b = edge_of(a), edge_of(b)
    return None if edge_a is None and edge_b is None else (edge_a, edge_b)


def _shape(x: Any) -> tuple[int, ...]:
    return x.shape if hasattr(x, "shape") else ()


class _BinaryNode(Node):
    """Keeps both operand shapes, to which gradients are summed back."""

    __slots__ = ("shape_a", "shape_b")

    shape_a: tuple[int, ...]
    shape_b: tuple[int, ...]

    def __init__(
        self, edges: tuple[Edge, Edge], x: Any, y: Any, saved: tuple[Any, ...], guards: Any
    ) -> None:
        super().__init__(edges, saved, guards)
        self.shape_a = _shape(x)
        self.shape_b = _shape(y)


class AddNode(_BinaryNode):
    """a + b."""

    __slots__ = ()

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        edge_a, edge_b = self.edges
        return (
            None if edge_a is None else unbroadcast(grad, self.shape_a),
            None if edge_b is None else unbroadcast(grad, self.shape_b),
        )


class SubtractNode(_BinaryNode):
    """a - b."""

    __slots__ = ()

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        edge_a, edge_b = self.edges
        return (
            None if edge_a is None else unbroadcast(grad, self.shape_a),
            None if edge_b is None else -unbroadcast(grad, self.shape_b),
        )


class MultiplyNode(_BinaryNode):
    """a * b; saves (a, b)."""

    __slots__ = ()

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        edge_a, edge_b = self.edges
        x, y = self.saved
        return (
            None if edge_a is None else unbroadcast(grad * y, self.shape_a),
            None if edge_b is None else unbroadcast(grad * x, self.shape_b),
        )


class DivideNode(_BinaryNode):
    """a / b; saves (a, b)."""

    __slots__ = ()

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        edge_a, edge_b = self.edges
        x, y = self.saved
        quotient = grad / y
        return (
            None if edge_a is None else unbroadcast(quotient, self.shape_a),
            None if edge_b is None else unbroadcast(-quotient * (x / y), self.shape_b),
        )


class PowerNode(_BinaryNode):
    """a ** b; saves (a, b, a ** b)."""

    __slots__ = ()

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        edge_a, edge_b = self.edges
        x, y, out = self.saved
        grad_a = grad_b = None
        if edge_a is not None:
            # d/da a**0 is 0 everywhere, at a = 0 too, where 0 * a**-1 would say nan.
            slope = (
                np.where(y == 0, 0, y * x ** (y - 1))
                if hasattr(y, "dtype")
                else (y * x ** (y - 1) if y != 0 else np.zeros_like(x))
            )
            grad_a = unbroadcast(grad * slope, self.shape_a)
        if edge_b is not None:
            # a**b is constant 0 near a = 0 for b >= 0: its slope in b is 0, not 0 * -inf.
            slope = np.where((x == 0) & (y >= 0), 0, out * np.log(x))
            grad_b = unbroadcast((grad * slope).astype(y.dtype), self.shape_b)
        return grad_a, grad_b


class NegativeNode(Node):
    """-a."""

    __slots__ = ()
    fresh = True

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (-grad,)


class SelectNode(_BinaryNode):
    """a where a condition holds, else b; saves (condition,)."""

    __slots__ = ()

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        edge_a, edge_b = self.edges
        (condition,) = self.saved
        return (
            None if edge_a is None else unbroadcast(grad * condition, self.shape_a),
            None if edge_b is None else unbroadcast(grad * ~condition, self.shape_b),
        )


def _transposed(x: Array) -> Array:
    return x.swapaxes(-1, -2)


class MatmulNode(_BinaryNode):
    """a @ b with batch broadcasting; saves (a, b)."""

    __slots__ = ()

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        edge_a, edge_b = self.edges
        x, y = self.saved
        # A vector takes part as a matrix of one row (left) or one column (right).
        if x.ndim == 1:
            x, grad = x[None, :], grad[..., None, :] if y.ndim > 1 else grad[None]
        if y.ndim == 1:
            y, grad = y[:, None], grad[..., None]
        grad_a = grad_b = None
        if edge_a is not None:
            grad_a = unbroadcast(K.matmul(grad, _transposed(y)), x.shape).reshape(self.shape_a)
        if edge_b is not None:
            if y.ndim == 2 and x.ndim > 2:  # one product of all rows, not a sum of one per batch
                x, grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
            grad_b = unbroadcast(K.matmul(_transposed(x), grad), y.shape).reshape(self.shape_b)
        return grad_a, grad_b


def add(a: Any, b: Any) -> Tensor:
    """Return a + b."""
    pair = operands("add", a, b)
    if pair is None:
        return NotImplemented  # type: ignore[no-any-return]
    x, y = pair
    edges = _edges(a, b)
    return make(x + y, AddNode(edges, x, y, (), ()) if edges else None)


def subtract(a: Any, b: Any) -> Tensor:
    """Return a - b."""
    pair = operands("subtract", a, b)
    if pair is None:
        return NotImplemented  # type: ignore[no-any-return]
    x, y = pair
    edges = _edges(a, b)
    return make(x - y, SubtractNode(edges, x, y, (), ()) if edges else None)


def multiply(a: Any, b: Any) -> Tensor:
    """Return a * b."""
    pair = operands("multiply", a, b)
    if pair is None:
        return NotImplemented  # type: ignore[no-any-return]
    x, y = pair
    edges = _edges(a, b)
    return make(x * y, MultiplyNode(edges, x, y, (x, y), guard(a, b)) if edges else None)


def divide(a: Any, b: Any) -> Tensor:
    """Return a / b."""
    pair = operands("divide", a, b)
    if pair is None:
        return NotImplemented  # type: ignore[no-any-return]
    x, y = pair
    edges = _edges(a, b)
    return make(x / y, DivideNode(edges, x, y, (x, y), guard(a, b)) if edges else None)


def power(a: Any, b: Any) -> Tensor:
    """Return a ** b."""
    pair = operands("power", a, b)
    if pair is None:
        return NotImplemented  # type: ignore[no-any-return]
    x, y = pair
    edges = _edges(a, b)
    out = x**y
    if not edges:
        return make(out, None)
    result = make(out, None)
    result.node = PowerNode(edges, x, y, (x, y, result.data), guard(a, b, result))
    result._requires_grad = True
    return result


def matmul(a: Any, b: Any) -> Tensor:
    """Return the matrix product a @ b, batched and broadcast as ``np.matmul``."""
    pair = operands("matmul", a, b)
    if pair is None:
        return NotImplemented  # type: ignore[no-any-return]
    x, y = pair
    edges = _edges(a, b)
    out = K.matmul(x, y)
    return make(out, MatmulNode(edges, x, y, (x, y), guard(a, b)) if edges else None)


def negative(a: Any) -> Tensor:
    """Return -a."""
    recorded = grad_mode.enabled and a._requires_grad
    return make(-a.data, NegativeNode((edge_of(a),)) if recorded else None)


def _select(a: Any, b: Any, condition: Any, x: Any, y: Any) -> Tensor:
    edges = _edges(a, b)
    out = np.where(condition, x, y)
    if _array.is_floating(out.dtype):
        # np.where takes Python numbers as float64; a tensor's dtype wins over a number's.
        dtypes = [v.dtype for v in (x, y) if hasattr(v, "dtype") and _array.is_floating(v.dtype)]
        if dtypes and out.dtype != dtypes[0]:
            out = out.astype(dtypes[0])
    return make(out, SelectNode(edges, x, y, (condition,), ()) if edges else None)


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """Return ``a`` where ``condition`` (bool) holds and ``b`` elsewhere.

    Parameters
    ----------
    condition : array or Tensor of bool
    a, b : Tensor, array or number
        Broadcast against the condition; gradients go to the chosen elements.

    Raises
    ------
    TypeError
        If the condition is not bool, or ``a`` and ``b`` are of two floating dtypes.

    Examples
    --------
    >>> import arraynn as ann
    >>> x = ann.Tensor([-1.0, 2.0])
    >>> ann.autograd.where(x > 0, x, 0.0).data
    array([0., 2.], dtype=float32)
    """
    mask = array_of(condition)
    if getattr(mask, "dtype", None) != np.bool_:
        kind = getattr(mask, "dtype", type(mask).__name__)
        raise TypeError(f"[where] condition: expected an array of bool, got {kind}")
    pair = operands("where", a, b)
    if pair is None:
        raise TypeError(
            f"[where] a, b: expected tensors, arrays or numbers, got {type(a).__name__} and "
            f"{type(b).__name__}"
        )
    return _select(a, b, mask, *pair)


def _extremum(name: str, a: Any, b: Any) -> Tensor:
    pair = operands(name, a, b)
    if pair is None:
        raise TypeError(
            f"[{name}] a, b: expected tensors, arrays or numbers, got {type(a).__name__} and "
            f"{type(b).__name__}"
        )
    x, y = pair
    # The first operand wins ties, and NaN wins over numbers (x != x), as in np.maximum.
    chosen = (x >= y if name == "maximum" else x <= y) | (x != x)
    return _select(a, b, chosen, x, y)


def maximum(a: Any, b: Any) -> Tensor:
    """Return the larger of ``a`` and ``b`` element by element; NaN propagates, ties take ``a``."""
    return _extremum("maximum", a, b)


def minimum(a: Any, b: Any) -> Tensor:
    """Return the smaller of ``a`` and ``b`` element by element; NaN propagates, ties take ``a``."""
    return _extremum("minimum", a, b)
