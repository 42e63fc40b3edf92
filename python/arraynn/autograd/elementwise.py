"""Activations and dropout on the tape: the kernels' own forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from arraynn import kernels as K
from arraynn.autograd.tape import Array, Node, edge_of, grad_mode, guard, make

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["ACTIVATIONS", "Activation", "activate", "activation_of", "dropout", "glu"]


class Activation(NamedTuple):
    """An activation's kernels.

    ``from_output`` tells that its backward takes the output in place of the input, so that a fused
    layer has nothing else to keep.
    """

    forward: Callable[..., Array]
    backward: Callable[..., Array]
    from_output: bool
    options: Mapping[str, Any]


def _pair(name: str, from_output: bool = False, **options: Any) -> Activation:
    return Activation(getattr(K, name), getattr(K, name + "_backward"), from_output, options)


#: The names that the fused layers take as ``activation=``; parameters are the defaults.
ACTIVATIONS: dict[str, Activation] = {
    "relu": _pair("relu", from_output=True),
    "leaky_relu": _pair("leaky_relu", from_output=True),
    "elu": _pair("elu"),
    "selu": _pair("selu"),
    "sigmoid": _pair("sigmoid"),
    "tanh": _pair("tanh"),
    "hardsigmoid": _pair("hardsigmoid"),
    "hardswish": _pair("hardswish"),
    "silu": _pair("silu"),
    "gelu": _pair("gelu"),
    "gelu_tanh": _pair("gelu", approximate="tanh"),
    "mish": _pair("mish"),
    "softplus": _pair("softplus"),
}


def activation_of(op: str, name: str) -> Activation:
    """Look up an activation by the name that ``op`` was given."""
    found = ACTIVATIONS.get(name)
    if found is None:
        raise ValueError(
            f"[{op}] activation: expected None or one of {' '.join(ACTIVATIONS)}, got {name!r}"
        )
    return found


class ActivationNode(Node):
    """y = f(x); saves x, or y where the slope follows from it."""

    __slots__ = ("kernel", "options")
    fresh = True

    kernel: Callable[..., Array]
    options: Mapping[str, Any]

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (self.kernel(grad, self.saved[0], **self.options),)

    @property
    def name(self) -> str:
        """Name of the activation."""
        return str(self.kernel.__name__).removesuffix("_backward")


def activate(x: Tensor, kind: Activation, options: Mapping[str, Any] | None = None) -> Tensor:
    """Apply an activation; ``options`` replace its default parameters."""
    if options is None:
        options = kind.options
    result = make(kind.forward(x.data, **options), None)
    if grad_mode.enabled and x._requires_grad:
        # A negative slope of zero or less does not tell the input's sign from the output's.
        source = result if kind.from_output and not options else x
        node = ActivationNode((x.node or x,), (source.data,), guard(source))
        node.kernel = kind.backward
        node.options = options
        result.node = node
        result._requires_grad = True
    return result


class DropoutNode(Node):
    """Elements zeroed by a counter-based random mask, made again from its seed in the backward."""

    __slots__ = ("p", "seed")
    fresh = True

    p: float
    seed: int

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (K.dropout_backward(grad, self.p, self.seed),)


def dropout(x: Tensor, p: float, seed: int) -> Tensor:
    """Zero each element with probability ``p``, scale the others by 1 / (1 - p)."""
    out = K.dropout(x.data, p, seed)
    if not (grad_mode.enabled and x._requires_grad):
        return make(out, None)
    node = DropoutNode((edge_of(x),))
    node.p = p
    node.seed = seed
    return make(out, node)


class GluNode(Node):
    """Half of an axis times an activation of the other; saves (x,)."""

    __slots__ = ("activation", "axis")
    fresh = True

    activation: str | None
    axis: int

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        return (K.glu_backward(grad, self.saved[0], self.axis, activation=self.activation),)


def glu(x: Tensor, axis: int, activation: str | None) -> Tensor:
    """Multiply the first half of ``axis`` by an activation of the second."""
    out = K.glu(x.data, axis, activation=activation)
    if not (grad_mode.enabled and x._requires_grad):
        return make(out, None)
    node = GluNode((edge_of(x),), (x.data,), guard(x))
    node.axis = axis
    node.activation = activation
    return make(out, node)
