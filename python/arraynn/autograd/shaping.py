"""Views, indexing and joining of tensors. Views share memory and version with their source."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from arraynn.autograd.arithmetic import unbroadcast
from arraynn.autograd.tape import (
    Array,
    Node,
    array_of,
    edge_of,
    grad_mode,
    make,
    recording,
)

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["broadcast_to", "concatenate", "flatten", "getitem", "permute", "reshape", "squeeze"]
__all__ += ["stack", "swapaxes", "transpose", "unsqueeze"]


class ReshapeNode(Node):
    """The same elements in another shape."""

    __slots__ = ("shape",)

    shape: tuple[int, ...]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (grad.reshape(self.shape),)


class PermuteNode(Node):
    """Axes in another order."""

    __slots__ = ("inverse",)

    inverse: tuple[int, ...]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (grad.transpose(self.inverse),)


class BroadcastNode(Node):
    """Elements repeated along new axes or axes of one."""

    __slots__ = ("shape",)

    shape: tuple[int, ...]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (unbroadcast(grad, self.shape),)


class GetitemNode(Node):
    """x[index]."""

    __slots__ = ("basic", "index", "shape")
    fresh = True

    basic: bool
    index: Any
    shape: tuple[int, ...]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        grad_x = np.zeros_like(grad, shape=self.shape)
        if self.basic:
            grad_x[self.index] = grad
        else:
            np.add.at(grad_x, self.index, grad)  # an index may name an element twice
        return (grad_x,)


class ConcatenateNode(Node):
    """Arrays joined along an existing axis; ``ends`` are where each but the last stops."""

    __slots__ = ("axis", "ends")

    axis: int
    ends: list[int]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return tuple(np.split(grad, self.ends, axis=self.axis))


class StackNode(Node):
    """Arrays joined along a new axis."""

    __slots__ = ("axis",)

    axis: int

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        moved = np.moveaxis(grad, self.axis, 0)
        return tuple(moved[i] for i in range(moved.shape[0]))


def _view(x: Tensor, out: Array, node: Node | None) -> Tensor:
    result = make(out, node)
    if np.may_share_memory(out, x.data) if isinstance(out, np.ndarray) else True:
        result.version = x.version
    return result


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the elements in ``shape`` (one length may be -1); a view where strides allow."""
    data = x.data
    try:
        out = data.reshape(shape)
    except ValueError:
        raise ValueError(
            f"[reshape] shape: expected {data.size} elements (x is {data.shape}), got {shape}"
        ) from None
    if not (grad_mode.enabled and x._requires_grad):
        return _view(x, out, None)
    node = ReshapeNode((edge_of(x),))
    node.shape = data.shape
    return _view(x, out, node)


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Join the axes ``start_dim`` to ``end_dim``, both included, into one."""
    shape = x.data.shape
    rank = len(shape)
    if rank == 0:
        return reshape(x, (1,))
    for name, value in (("start_dim", start_dim), ("end_dim", end_dim)):
        if not -rank <= value < rank:
            raise ValueError(f"[flatten] {name}: expected -{rank}..{rank - 1}, got {value}")
    first, last = start_dim % rank, end_dim % rank
    if first > last:
        raise ValueError(
            f"[flatten] end_dim: expected at least start_dim ({start_dim}), got {end_dim}"
        )
    joined = math.prod(shape[first : last + 1])  # not -1: undecidable for arrays of size 0
    return reshape(x, (*shape[:first], joined, *shape[last + 1 :]))


def squeeze(x: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Drop axes of length one: all of them, or those of ``axis`` that have that length."""
    shape = x.data.shape
    if axis is None:
        return reshape(x, tuple(n for n in shape if n != 1))
    rank = len(shape)
    dropped = set()
    for one in axis if isinstance(axis, tuple) else (axis,):
        if not -rank <= one < rank:
            raise ValueError(f"[squeeze] axis: expected -{rank}..{rank - 1}, got {one}")
        dropped.add(one % rank)
    return reshape(x, tuple(n for i, n in enumerate(shape) if i not in dropped or n != 1))


def unsqueeze(x: Tensor, axis: int) -> Tensor:
    """Insert an axis of length one before ``axis``."""
    shape = x.data.shape
    rank = len(shape) + 1
    if not -rank <= axis < rank:
        raise ValueError(f"[unsqueeze] axis: expected -{rank}..{rank - 1}, got {axis}")
    axis %= rank
    return reshape(x, (*shape[:axis], 1, *shape[axis:]))


def permute(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Return a view with the axes in the order ``axes``."""
    data = x.data
    rank = data.ndim
    order = tuple(a % rank if -rank <= a < rank else a for a in axes)
    if sorted(order) != list(range(rank)):
        raise ValueError(f"[permute] axes: expected an order of {rank} axes, got {tuple(axes)}")
    out = data.transpose(order)
    if not (grad_mode.enabled and x._requires_grad):
        return _view(x, out, None)
    node = PermuteNode((edge_of(x),))
    node.inverse = tuple(order.index(i) for i in range(rank))
    return _view(x, out, node)


def swapaxes(x: Tensor, axis0: int, axis1: int) -> Tensor:
    """Return a view with two axes exchanged."""
    rank = x.data.ndim
    for axis in (axis0, axis1):
        if not -rank <= axis < rank:
            raise ValueError(f"[transpose] axis: expected -{rank}..{rank - 1}, got {axis}")
    order = list(range(rank))
    order[axis0], order[axis1] = order[axis1], order[axis0]
    return permute(x, order)


def transpose(x: Tensor, *axes: int) -> Tensor:
    """Reverse the axes (none given), exchange two (PyTorch) or order all of them (NumPy)."""
    rank = x.data.ndim
    if not axes:
        return permute(x, range(rank)[::-1])
    return swapaxes(x, *axes) if len(axes) == 2 else permute(x, axes)


def broadcast_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a read-only view of ``x`` repeated to ``shape``; -1 keeps an axis."""
    data = x.data
    lead = len(shape) - data.ndim
    full = tuple(data.shape[i - lead] if n == -1 and i >= lead else n for i, n in enumerate(shape))
    try:
        out = np.broadcast_to(data, full)
    except ValueError:
        raise ValueError(
            f"[broadcast_to] shape: expected one that {data.shape} broadcasts to, got {shape}"
        ) from None
    if not (grad_mode.enabled and x._requires_grad):
        return _view(x, out, None)
    node = BroadcastNode((edge_of(x),))
    node.shape = data.shape
    return _view(x, out, node)


def _is_basic(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        part is None
        or part is Ellipsis
        or isinstance(part, slice)
        or (isinstance(part, int | np.integer) and not isinstance(part, bool))
        for part in parts
    )


def plain_index(index: Any) -> Any:
    """Replace tensors in an index by their arrays."""
    if isinstance(index, tuple):
        return tuple(array_of(part) for part in index)
    return array_of(index)


def getitem(x: Tensor, index: Any) -> Tensor:
    """Return ``x[index]`` by NumPy's rules: a view for slices and ints, else a copy."""
    index = plain_index(index)
    data = x.data
    out = data[index]
    basic = _is_basic(index)
    if isinstance(out, np.generic):
        # All axes were indexed by ints: an array keeps the link to the source's memory.
        out = data[(*index, ...)] if isinstance(index, tuple) else data[index, ...]
    node = None
    if grad_mode.enabled and x._requires_grad:
        node = GetitemNode((edge_of(x),))
        node.basic = basic
        node.index = index
        node.shape = data.shape
    return _view(x, out, node) if basic else make(out, node)


def _check_joined(name: str, tensors: Sequence[Any]) -> list[Array]:
    if not len(tensors):
        raise ValueError(f"[{name}] tensors: expected at least one, got none")
    arrays = [array_of(t) for t in tensors]
    for i, array in enumerate(arrays):
        if array.dtype != arrays[0].dtype:
            raise TypeError(
                f"[{name}] tensors[{i}]: expected {arrays[0].dtype} (as tensors[0]), "
                f"got {array.dtype}"
            )
    return arrays


def concatenate(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Join tensors along an existing axis.

    Parameters
    ----------
    tensors : sequence of Tensor or array
        Of one dtype, equal in every axis but ``axis``.
    axis : int

    Raises
    ------
    ValueError
        If none is given or the shapes do not fit.
    TypeError
        If the dtypes differ.

    Examples
    --------
    >>> import arraynn as ann
    >>> a = ann.Tensor([[1.0, 2.0]])
    >>> ann.autograd.concatenate([a, a * 2]).data
    array([[1., 2.],
           [2., 4.]], dtype=float32)
    """
    arrays = _check_joined("concatenate", tensors)
    out = np.concatenate(arrays, axis=axis)
    if not recording(*tensors):
        return make(out, None)
    node = ConcatenateNode(tuple(edge_of(t) for t in tensors))
    node.axis = axis
    node.ends = np.cumsum([a.shape[axis] for a in arrays[:-1]], dtype=np.int64).tolist()
    return make(out, node)


def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Join tensors of one shape and dtype along a new axis."""
    arrays = _check_joined("stack", tensors)
    out = np.stack(arrays, axis=axis)
    if not recording(*tensors):
        return make(out, None)
    node = StackNode(tuple(edge_of(t) for t in tensors))
    node.axis = axis
    return make(out, node)
