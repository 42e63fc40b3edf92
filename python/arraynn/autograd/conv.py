"""Convolutions on the tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from arraynn import kernels as K
from arraynn.autograd.elementwise import activation_of
from arraynn.autograd.gemm import FusedNode, fused_edges, record_fused
from arraynn.autograd.pool import max_pool
from arraynn.autograd.tape import Array, Node, Variable, array_of, edge_of, grad_mode, make

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["conv", "conv_pool", "fold", "pad", "unfold"]


class ConvNode(FusedNode):
    """f(op(x, weight) + bias + residual), op a convolution or a transposed one."""

    __slots__ = ("geometry", "op", "options")

    geometry: tuple[Any, ...]
    op: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the operation in messages."""
        return self.op

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        x, weight, _ = self.saved
        grad = self.before_activation(grad)
        gradients = getattr(K, f"{self.op}_backward")
        parts = gradients(grad, x, weight, *self.geometry, **self.options, needs=self.needs)
        return self.finish(grad, parts)


def conv(
    op: str,
    x: Any,
    weight: Any,
    bias: Any,
    geometry: tuple[Any, ...],
    activation: str | None = None,
    residual: Any = None,
    **options: Any,
) -> Tensor:
    """Return f(op(x, weight) + bias + residual), differentiable in all four.

    ``geometry`` is what follows the bias in the kernel's positional arguments, ``options`` is what
    forward and backward have in common beyond them.
    """
    kind = None if activation is None else activation_of(op, activation)
    edges = fused_edges(x, weight, bias, residual)
    # One pass with the activation, unless its backward needs what goes into it.
    fused = activation if edges is None or (kind is not None and kind.from_output) else None
    out = getattr(K, op)(
        array_of(x),
        array_of(weight),
        array_of(bias),
        *geometry,
        activation=fused,
        residual=array_of(residual),
        **options,
    )
    if edges is None:
        return make(out, None)
    result, node = record_fused(ConvNode, edges, x, weight, kind, out)
    node.op = op
    node.geometry = geometry
    node.options = options
    return result


def conv_pool(
    x: Any,
    weight: Any,
    bias: Any,
    geometry: tuple[Any, ...],
    activation: str | None,
    window: tuple[Any, ...],
    layout: str,
) -> Tensor:
    """Return the maxima of f(conv2d(x, weight) + bias) over windows, differentiable in all three.

    One kernel where nothing is recorded; gradients need the convolution's result, which that
    kernel never forms. ``window`` is what follows x in ``max_pool2d``, up to ``ceil_mode``.
    """
    if fused_edges(x, weight, bias, None) is not None:
        y = conv("conv2d", x, weight, bias, geometry, activation, layout=layout)
        return max_pool("max_pool2d", y, window, False, {"layout": layout})  # type: ignore[no-any-return]
    size, stride, padding, dilation, ceil_mode = window
    out = K.conv2d_pool(
        array_of(x),
        array_of(weight),
        array_of(bias),
        *geometry,
        pool_size=size,
        pool_stride=stride,
        pool_padding=padding,
        pool_dilation=dilation,
        ceil_mode=ceil_mode,
        activation=activation,
        layout=layout,
    )
    return make(out, None)


#: PyTorch's names of the borders that repeat pixels, and NumPy's.
_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class PadNode(Node):
    """Axes lengthened by elements of their own; each is what ``borders`` says."""

    __slots__ = ("borders",)
    fresh = True

    borders: list[tuple[int, int, Array]]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        for axis, begin, source in self.borders:
            moved = np.moveaxis(grad, axis, 0)
            size = int(source.max()) + 1
            inner = moved[begin : begin + size].copy()
            for position in (*range(begin), *range(begin + size, len(source))):
                inner[source[position]] += moved[position]
            grad = np.moveaxis(inner, 0, axis)
        return (np.ascontiguousarray(grad),)


def pad(op: str, x: Any, pads: dict[int, tuple[int, int]], mode: str) -> Any:
    """Lengthen axes of x by (begin, end) elements that repeat its own.

    ``mode`` is "reflect" (about the first and the last element), "replicate" or "circular".
    """
    data = out = array_of(x)
    borders: list[tuple[int, int, Array]] = []
    for axis, (begin, end) in pads.items():
        size = data.shape[axis]
        most = {"reflect": size - 1, "circular": size}.get(mode, max(begin, end))
        if max(begin, end) > most or size == 0:
            raise ValueError(
                f"[{op}] padding: expected at most {max(most, 0)} elements of a {mode} border for "
                f"a length of {size}, got {(begin, end)}"
            )
        source = np.pad(np.arange(size), (begin, end), mode=_MODES[mode])  # type: ignore[call-overload]
        out = np.take(out, np.asarray(source, like=data), axis=axis)
        borders.insert(0, (axis, begin, source))  # the last one is undone first
    edge = edge_of(x) if grad_mode.enabled else None
    if edge is None:
        return make(out, None) if isinstance(x, Variable) else out
    node = PadNode((edge,))
    node.borders = borders
    return make(out, node)


class UnfoldNode(Node):
    """Windows as columns; the gradient folds them."""

    __slots__ = ("sizes", "window")
    fresh = True

    sizes: tuple[int, ...]
    window: tuple[Any, ...]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (K.fold(grad, self.sizes, *self.window),)


class FoldNode(Node):
    """Columns added to images; the gradient unfolds them."""

    __slots__ = ("window",)
    fresh = True

    window: tuple[Any, ...]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (K.unfold(grad, *self.window),)


def unfold(x: Tensor, window: tuple[Any, ...]) -> Tensor:
    """Return the windows of images as columns; ``window`` follows x in the kernel's arguments."""
    out = K.unfold(x.data, *window)
    if not (grad_mode.enabled and x._requires_grad):
        return make(out, None)
    node = UnfoldNode((x.node or x,))
    node.sizes = x.data.shape[2:]
    node.window = window
    return make(out, node)


def fold(x: Tensor, output_size: Any, window: tuple[Any, ...]) -> Tensor:
    """Return columns added to images; ``window`` follows the size in the kernel's arguments."""
    out = K.fold(x.data, output_size, *window)
    if not (grad_mode.enabled and x._requires_grad):
        return make(out, None)
    node = FoldNode((x.node or x,))
    node.window = window
    return make(out, node)
