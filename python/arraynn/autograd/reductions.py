"""Sums, means and extrema of tensors over axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from arraynn import _array
from arraynn.autograd.arithmetic import number_like, total
from arraynn.autograd.tape import Array, Node, edge_of, grad_mode, guard, make

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["logsumexp", "max", "mean", "min", "sum", "var"]

Axis: TypeAlias = int | tuple[int, ...] | None


def _axes(name: str, x: Array, axis: Axis) -> tuple[int, ...]:
    """Non-negative reduced axes, in order."""
    if axis is None:
        return tuple(range(x.ndim))
    given = axis if isinstance(axis, tuple | list) else (axis,)
    found = set()
    for one in given:
        if not -x.ndim <= one < x.ndim:
            raise ValueError(f"[{name}] axis: expected -{x.ndim}..{x.ndim - 1}, got {one}")
        if one % x.ndim in found:
            raise ValueError(f"[{name}] axis: expected different axes, got {axis}")
        found.add(one % x.ndim)
    return tuple(sorted(found))


def _kept_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


class SumNode(Node):
    """y = factor * sum(x); saves nothing."""

    __slots__ = ("factor", "kept", "shape")

    factor: float | None
    kept: tuple[int, ...]
    shape: tuple[int, ...]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        if self.factor is not None:
            grad = grad * number_like(self.factor, grad)
        return (np.broadcast_to(grad.reshape(self.kept), self.shape),)


def _sum(x: Tensor, out: Array, axes: tuple[int, ...], factor: float | None) -> Tensor:
    if not (grad_mode.enabled and x._requires_grad):
        return make(out, None)
    node = SumNode((edge_of(x),))
    node.shape = x.data.shape
    node.kept = _kept_shape(node.shape, axes)
    node.factor = factor
    return make(out, node)


def sum(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Return the sum over ``axis`` (all axes when None)."""
    axes = _axes("sum", x.data, axis)
    return _sum(x, total(x.data, axes, keepdims), axes, None)


def _count(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    count = 1
    for axis in axes:
        count *= shape[axis]
    return count


def mean(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Return the mean over ``axis`` (all axes when None); of nothing it is NaN."""
    data = x.data
    if not _array.is_floating(data.dtype):
        raise TypeError(f"[mean] x: expected a floating dtype, got {data.dtype}")
    axes = _axes("mean", data, axis)
    count = _count(data.shape, axes)
    factor = 1 / count if count else float("nan")
    return _sum(x, total(data, axes, keepdims, factor), axes, factor)


def var(x: Tensor, axis: Axis = None, correction: int = 1, keepdims: bool = False) -> Tensor:
    """Return the variance over ``axis``, divided by ``count - correction`` as PyTorch does."""
    data = x.data
    if not _array.is_floating(data.dtype):
        raise TypeError(f"[var] x: expected a floating dtype, got {data.dtype}")
    axes = _axes("var", data, axis)
    count = _count(data.shape, axes)
    if count <= correction:
        raise ValueError(f"[var] x: expected more than {correction} elements, got {count}")
    centred = x - mean(x, axes, keepdims=True)
    squares, factor = centred * centred, 1 / (count - correction)
    return _sum(squares, total(squares.data, axes, keepdims, factor), axes, factor)


class ExtremumNode(Node):
    """y = max(x) or min(x): saves the flat position of the element taken in each reduced block."""

    __slots__ = ("axes", "shape")
    fresh = True

    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        (index,) = self.saved
        rest = [i for i in range(len(self.shape)) if i not in self.axes]
        order = (*rest, *self.axes)
        index = index.reshape(-1)
        blocks = np.zeros_like(grad, shape=(index.size, _count(self.shape, self.axes)))
        rows = np.ones_like(index).cumsum() - 1  # 0, 1, ... in the library of the gradient
        blocks[rows, index] = grad.reshape(-1)
        moved = blocks.reshape([self.shape[i] for i in order])
        inverse = [order.index(i) for i in range(len(order))]
        return (moved.transpose(inverse),)


def _extremum(name: str, x: Tensor, axis: Axis, keepdims: bool) -> Tensor:
    data = x.data
    axes = _axes(name, data, axis)
    if _count(data.shape, axes) == 0:
        raise ValueError(f"[{name}] x: expected at least one element to reduce, got none")
    out = getattr(data, name)(axis=axes, keepdims=keepdims)
    if not (grad_mode.enabled and x._requires_grad):
        return make(out, None)
    rest = [i for i in range(data.ndim) if i not in axes]
    blocks = data.transpose(*rest, *axes).reshape([data.shape[i] for i in rest] + [-1])
    index = getattr(blocks, "arg" + name)(axis=-1)
    node = ExtremumNode((edge_of(x),), (index,))
    node.axes = axes
    node.shape = data.shape
    return make(out, node)


def max(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Return the largest element over ``axis``; the gradient goes to the first of equal ones."""
    return _extremum("max", x, axis, keepdims)


def min(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Return the smallest element over ``axis``; the gradient goes to the first of equal ones."""
    return _extremum("min", x, axis, keepdims)


class LogsumexpNode(Node):
    """y = log(sum(exp(x))); saves (x, y with kept axes)."""

    __slots__ = ()
    fresh = True

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        x, y = self.saved
        finite = np.where(np.isfinite(y), y, 0)
        return (grad.reshape(y.shape) * np.exp(x - finite),)


def logsumexp(x: Tensor, axis: Any, keepdims: bool = False) -> Tensor:
    """Return log(sum(exp(x))) over ``axis``, shifted by the maximum so that it cannot overflow."""
    data = x.data
    axes = _axes("logsumexp", data, axis)
    top = data.max(axis=axes, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)  # exp(inf - inf) is nan, exp(inf - 0) is inf
    with np.errstate(divide="ignore", over="ignore"):
        kept = np.log(np.exp(data - top).sum(axis=axes, keepdims=True)) + top
    out = kept if keepdims else kept.reshape([n for i, n in enumerate(data.shape) if i not in axes])
    if not (grad_mode.enabled and x._requires_grad):
        return make(out, None)
    return make(out, LogsumexpNode((edge_of(x),), (data, kept), guard(x)))
