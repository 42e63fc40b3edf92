"""Normalisation on the tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arraynn import kernels as K
from arraynn.autograd.elementwise import activation_of
from arraynn.autograd.gemm import FusedNode, fused_edges, record_fused
from arraynn.autograd.tape import Array, Variable, array_of, make

if TYPE_CHECKING:
    from arraynn.autograd.tensor import Tensor

__all__ = ["norm"]


class NormNode(FusedNode):
    """f(op(x) * weight + bias); keeps the statistics of the forward pass.

    ``before`` and ``after`` are the arguments of the backward kernel around the weight.
    """

    __slots__ = ("after", "before", "op", "options", "stats")

    before: tuple[Any, ...]
    after: tuple[Any, ...]
    op: str
    options: dict[str, Any]
    stats: Any

    @property
    def name(self) -> str:
        """Name of the operation in messages."""
        return self.op

    def backward(self, grad: Array) -> tuple[Array | None, ...]:
        x, weight, _ = self.saved
        grad = self.before_activation(grad)
        parts = getattr(K, f"{self.op}_backward")(
            grad,
            x,
            *self.before,
            weight,
            *self.after,
            **self.options,
            stats=self.stats,
            needs=self.needs,
        )
        return parts if len(parts) == 3 else (*parts, None)


def norm(
    op: str,
    x: Any,
    weight: Any,
    bias: Any,
    size: tuple[Any, ...] = (),
    running: tuple[Any, Any] | None = None,
    own: bool = True,
    momentum: float = 0.1,
    activation: str | None = None,
    **options: Any,
) -> Tensor:
    """Return f(op(x) * weight + bias), differentiable in x, weight and bias.

    ``size`` is what the kernel takes between x and the weight, or ``running`` the two running
    statistics, used unless ``own``. ``options`` is what forward and backward have in common.
    """
    kind = None if activation is None else activation_of(op, activation)
    edges = fused_edges(x, weight, bias, None)
    # One pass with the activation, unless its backward needs what goes into it.
    fused = activation if edges is None or (kind is not None and kind.from_output) else None
    args = [array_of(x), *size, array_of(weight)]
    if running is not None:
        args[1:1] = [array_of(value) for value in running]
        args += [array_of(bias), own, momentum]
        for value in running:
            if own and isinstance(value, Variable):
                value.version[0] += 1
    elif op != "rms_norm":
        args.append(array_of(bias))
    kept = edges is not None
    out = getattr(K, op)(*args, activation=fused, return_stats=kept, **options)
    if edges is None:
        return make(out, None)
    out, *stats = out
    result, node = record_fused(NormNode, edges, x, weight, kind, out)
    node.op = op
    node.before = size if running is None else (None, None)
    node.after = () if running is None else (own,)
    node.options = options
    node.stats = stats[0] if op == "rms_norm" else tuple(stats)
    return result
