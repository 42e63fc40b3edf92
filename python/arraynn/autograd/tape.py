"""The tape: recorded operations, the backward pass over them, and the switch that stops recording.

A forward operation on tensors that need a gradient makes one :class:`Node`. The node keeps the
arrays its gradient needs (``saved``) and one edge per input. Node numbers grow with time, so an
input's number is always smaller than its consumer's: taking the largest waiting number first is a
topological order, with no recursion and no second pass over the graph.

Recording costs well under a microsecond: nodes are small slotted objects, not closures.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

import numpy as np

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

Array: TypeAlias = Any  # numpy.ndarray or cupy.ndarray
_F = TypeVar("_F", bound=Callable[..., Any])

__all__ = ["Array", "Node", "Variable", "enable_grad", "is_grad_enabled", "no_grad"]


class Variable:
    """Fields of a value on the tape. :class:`arraynn.Tensor` adds the operators.

    ``version`` is a one-element list counting in-place changes. Views and detached tensors share
    it, and nodes hold it instead of the tensor, which would tie a reference cycle.
    """

    __slots__ = ("__weakref__", "_requires_grad", "data", "grad", "node", "version")

    data: Array
    grad: Array | None
    node: Node | None
    version: list[int]
    _requires_grad: bool


Edge: TypeAlias = "Node | Variable | None"

_order = itertools.count()


class Node:
    """One recorded operation with one differentiable output; :func:`make_outputs` is for several.

    Parameters
    ----------
    edges : tuple of Node, Variable or None
        One per input: the node that made it, the leaf itself, or None where no gradient goes.
    saved : tuple
        What ``backward`` needs. Emptied once used, unless the graph is retained.
    guards : tuple
        Version cells of the saved arrays and their values: ``(cell, value, cell, value, ...)``.
    """

    __slots__ = ("edges", "guards", "order", "saved")

    #: True when ``backward`` returns arrays that nothing else refers to. Others are copied
    #: before they become a leaf's ``.grad``.
    fresh: ClassVar[bool] = False

    saved: Any  # a tuple; None once freed

    def __init__(
        self, edges: tuple[Edge, ...], saved: tuple[Any, ...] = (), guards: tuple[Any, ...] = ()
    ) -> None:
        self.edges = edges
        self.saved = saved
        self.guards = guards
        self.order = next(_order)

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        """Return the gradient of each input from the gradient of the output."""
        raise NotImplementedError(type(self).__name__)

    @property
    def name(self) -> str:
        """Name of the operation in messages, ``conv2d`` for ``Conv2dNode``."""
        return type(self).__name__.removesuffix("Node").lower()


class Grads:
    """Gradients of the outputs of one operation, None where none has come."""

    __slots__ = ("parts",)

    def __init__(self, parts: tuple[Array | None, ...]) -> None:
        self.parts = parts

    def __add__(self, other: Grads) -> Grads:
        """Put together what came through different outputs."""
        return Grads(
            tuple(
                b if a is None else a if b is None else a + b
                for a, b in zip(self.parts, other.parts, strict=True)
            )
        )


class OutputNode(Node):
    """One of several outputs of ``source``: a later node, so all of them run before it.

    What they send it is added up as any gradient is; ``source.backward`` gets :class:`Grads`.
    """

    __slots__ = ("count", "index")

    def __init__(self, source: Node, index: int, count: int) -> None:
        super().__init__((source,))
        self.index = index
        self.count = count

    def backward(self, grad: Array) -> tuple[Any, ...]:
        parts: list[Array | None] = [None] * self.count
        parts[self.index] = grad
        return (Grads(tuple(parts)),)

    @property
    def name(self) -> str:
        """Name of the operation in messages."""
        (source,) = self.edges
        return source.name  # type: ignore[union-attr]


class _GradMode(threading.local):
    """Whether operations of this thread are recorded."""

    enabled = True


grad_mode = _GradMode()


class _SetGrad:
    """Context manager and decorator that sets the thread's recording switch."""

    __slots__ = ("_previous",)
    _value: ClassVar[bool]

    def __init__(self) -> None:
        self._previous: list[bool] = []

    def __enter__(self) -> None:
        self._previous.append(grad_mode.enabled)
        grad_mode.enabled = self._value

    def __exit__(self, *exc: object) -> None:
        grad_mode.enabled = self._previous.pop()

    def __call__(self, function: _F) -> _F:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with type(self)():
                return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]


class no_grad(_SetGrad):
    """Stop recording, as a context manager or decorator; for the calling thread only.

    Examples
    --------
    >>> import arraynn as ann
    >>> w = ann.Tensor([1.0, 2.0], requires_grad=True)
    >>> with ann.no_grad():
    ...     w -= 0.5
    >>> w.data
    array([0.5, 1.5], dtype=float32)
    >>> @ann.no_grad()
    ... def predict(x):
    ...     return x * w
    >>> predict(ann.Tensor([1.0, 1.0])).requires_grad
    False
    """

    __slots__ = ()
    _value = False


class enable_grad(_SetGrad):
    """Record again inside a :class:`no_grad` block, as a context manager or decorator."""

    __slots__ = ()
    _value = True


def is_grad_enabled() -> bool:
    """Whether operations of the calling thread are recorded."""
    return grad_mode.enabled


_tensor_class: type[Tensor]


def register_tensor_class(cls: type[Tensor]) -> type[Tensor]:
    """Name the class that :func:`make` builds (a decorator on that class)."""
    global _tensor_class
    _tensor_class = cls
    return cls


_new = object.__new__


def make(data: Array, node: Node | None) -> Tensor:
    """Wrap the result of an operation; ``node`` None means that no gradient is needed."""
    tensor = _new(_tensor_class)
    # NumPy's ufuncs return scalars where an array of no dimensions is meant.
    tensor.data = np.asarray(data) if isinstance(data, np.generic) else data
    tensor.grad = None
    tensor.node = node
    tensor.version = [0]
    tensor._requires_grad = node is not None
    return tensor


def make_outputs(arrays: Sequence[Array], node: Node | None) -> list[Tensor]:
    """Wrap the results of an operation with several; its ``backward`` takes :class:`Grads`."""
    if node is None:
        return [make(array, None) for array in arrays]
    count = len(arrays)
    return [make(array, OutputNode(node, i, count)) for i, array in enumerate(arrays)]


def edge_of(value: object) -> Edge:
    """Where a gradient of ``value`` goes: its node, itself when a leaf, else None."""
    if isinstance(value, Variable) and value._requires_grad:
        return value.node or value
    return None


def array_of(value: Any) -> Array:
    """Return the array of a tensor; anything else unchanged."""
    return value.data if isinstance(value, Variable) else value


def tensor_of(value: Any) -> Variable:
    """Return the tensor itself, or one of an array or of what NumPy makes an array of."""
    if isinstance(value, Variable):
        return value
    return make(value if hasattr(value, "__array_ufunc__") else np.asarray(value), None)


def recording(*values: object) -> bool:
    """Whether an operation on these values has to be recorded."""
    if not grad_mode.enabled:
        return False
    return any(isinstance(value, Variable) and value._requires_grad for value in values)


def guard(*values: object) -> tuple[Any, ...]:
    """Version cells and present versions of those values that are tensors."""
    cells: tuple[Any, ...] = ()
    for value in values:
        if isinstance(value, Variable):
            cells += (value.version, value.version[0])
    return cells


def _check_guards(node: Node) -> None:
    guards = node.guards
    for i in range(0, len(guards), 2):
        if guards[i][0] != guards[i + 1]:
            raise RuntimeError(
                f"[backward] {node.name}: expected its saved array unchanged since the forward "
                f"pass (version {guards[i + 1]}), got version {guards[i][0]}: it was modified in "
                "place before backward"
            )


def run_backward(root: Variable, grad: Array, retain_graph: bool) -> None:
    """Propagate ``grad`` from ``root`` to the leaves and add to their ``.grad``.

    Gradients of leaves are stored at the end: a failing call leaves every ``.grad`` as it was.
    """
    leaves: dict[int, tuple[Variable, Array]] = {}
    if root.node is None:
        leaves[id(root)] = (root, grad.copy())
        heap: list[int] = []
        waiting: dict[int, tuple[Node, Array]] = {}
    else:
        heap = [-root.node.order]
        waiting = {root.node.order: (root.node, grad)}
    push, pop = heapq.heappush, heapq.heappop
    while heap:
        node, grad = waiting.pop(-pop(heap))
        if isinstance(grad, np.generic):  # arithmetic on arrays of no axes gives scalars
            grad = np.asarray(grad)
        if node.saved is None:
            raise RuntimeError(
                f"[backward] {node.name}: expected its saved values, got a graph that an earlier "
                "backward has freed; pass retain_graph=True to that call to go through it again"
            )
        if node.guards:
            _check_guards(node)
        fresh = node.fresh
        for edge, part in zip(node.edges, node.backward(grad), strict=True):
            if edge is None or part is None:
                continue
            if isinstance(edge, Node):
                order = edge.order
                held = waiting.get(order)
                if held is None:
                    waiting[order] = (edge, part)
                    push(heap, -order)
                else:
                    waiting[order] = (edge, held[1] + part)
            else:
                leaf = leaves.get(id(edge))
                if leaf is not None:
                    leaves[id(edge)] = (edge, leaf[1] + part)
                else:
                    leaves[id(edge)] = (edge, part if fresh else part.copy())
        if not retain_graph and node.saved:
            node.saved = None
            node.guards = ()
    for tensor, total in leaves.values():
        if tensor.grad is not None:
            total = tensor.grad + total
        tensor.grad = np.asarray(total) if isinstance(total, np.generic) else total
