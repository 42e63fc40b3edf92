"""Pooling on the tape: one node for each kind, by the kernel's name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from arraynn import kernels as K
from arraynn.autograd.tape import Array, Node, array_of, grad_mode, guard, make

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["avg_pool", "lp_pool", "max_pool", "max_unpool"]


class _PoolNode(Node):
    """``op`` is the name of the kernel, ``window`` its positional arguments after the array."""

    __slots__ = ("op", "options", "window")
    fresh = True

    op: str
    window: tuple[Any, ...]
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the operation in messages."""
        return self.op


class MaxPoolNode(_PoolNode):
    """Largest element of each window; saves (x, indices), None where they are found again."""

    __slots__ = ()

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        x, indices = self.saved
        kernel = getattr(K, f"{self.op}_backward")
        return (kernel(grad, x, *self.window, indices=indices, **self.options),)


class AvgPoolNode(_PoolNode):
    """Mean of each window; needs the shape of x only."""

    __slots__ = ("shape",)

    shape: tuple[int, ...]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        kernel = getattr(K, f"{self.op}_backward")
        return (kernel(grad, self.shape, *self.window, **self.options),)


class LpPoolNode(_PoolNode):
    """Norm of each window; saves (x, y)."""

    __slots__ = ()

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        x, y = self.saved
        kernel = getattr(K, f"{self.op}_backward")
        return (kernel(grad, x, y, *self.window, **self.options),)


class MaxUnpoolNode(_PoolNode):
    """Elements put at their indices; saves (indices,)."""

    __slots__ = ()

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        (indices,) = self.saved
        return (getattr(K, f"{self.op}_backward")(grad, indices, **self.options),)


# Taps of a window whose gradient is found from x as fast as from indices, channels last.
_FEW_TAPS = 9


def _sizes(size: Any, axes: int) -> tuple[int, ...]:
    """One size for each axis; none of what the kernel is to refuse."""
    sizes = tuple(size) if isinstance(size, tuple | list) else (size,) * axes
    return sizes if all(isinstance(s, int | np.integer) for s in sizes) else ()


def _keeps_indices(op: str, window: tuple[Any, ...], layout: str) -> bool:
    """Whether writing and reading indices takes less time than finding the maxima twice.

    It does for adaptive windows, for boxes, and for windows that overlap unless channels lie last
    and taps are few. The gradients of the others look through x as it goes by.
    """
    if op.startswith("adaptive"):
        return True
    axes = int(op[-2])
    kernel = _sizes(window[0], axes)
    stride = window[1] if len(window) > 1 else None
    if axes == 3 and kernel and kernel[0] > 1:
        return True
    if layout == "channels_last":
        return math.prod(kernel) > _FEW_TAPS
    return stride is not None and kernel != _sizes(stride, axes)


def max_pool(
    op: str, x: Tensor, window: tuple[Any, ...], return_indices: bool, options: dict[str, Any]
) -> Any:
    """Pooling by maximum with the kernel ``op``.

    With ``return_indices`` the result is (output, indices), the indices a plain tensor.
    """
    taped = grad_mode.enabled and x._requires_grad
    found = return_indices
    if taped and isinstance(x.data, np.ndarray):  # as measured on the CPU
        found |= _keeps_indices(op, window, options.get("layout", "channels_first"))
    out = getattr(K, op)(x.data, *window, return_indices=found, **options)
    indices = None
    if found:
        out, indices = out
    node = None
    if taped:
        node = MaxPoolNode((x.node or x,), (x.data, indices), guard(x))
        node.op = op
        node.window = window
        node.options = options
    result = make(out, node)
    return (result, make(indices, None)) if return_indices else result


def avg_pool(op: str, x: Tensor, window: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """Pooling by mean with the kernel ``op``."""
    out = getattr(K, op)(x.data, *window, **options)
    if not (grad_mode.enabled and x._requires_grad):
        return make(out, None)
    node = AvgPoolNode((x.node or x,))
    node.op = op
    node.shape = x.data.shape
    node.window = window
    node.options = options
    return make(out, node)


def lp_pool(op: str, x: Tensor, window: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    """Pooling by norm with the kernel ``op``."""
    result = make(getattr(K, op)(x.data, *window, **options), None)
    if grad_mode.enabled and x._requires_grad:
        node = LpPoolNode((x.node or x,), (x.data, result.data), guard(x, result))
        node.op = op
        node.window = window
        node.options = options
        result.node = node
        result._requires_grad = True
    return result


def max_unpool(
    op: str, x: Tensor, indices: Any, window: tuple[Any, ...], options: dict[str, Any]
) -> Tensor:
    """Undo a pooling by maximum with the kernel ``op``; ``indices`` are a tensor or an array."""
    where = array_of(indices)
    out = getattr(K, op)(x.data, where, *window, **options)
    if not (grad_mode.enabled and x._requires_grad):
        return make(out, None)
    node = MaxUnpoolNode((x.node or x,), (where,), guard(indices))
    node.op = op
    node.window = window
    node.options = options
    return make(out, node)
