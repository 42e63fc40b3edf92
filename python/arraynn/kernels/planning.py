"""Which algorithm a kernel takes for given arguments, why, and with how much scratch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, overload

from arraynn import _core
from arraynn.kernels import conv, conv_volume
from arraynn.kernels.conv_pool import conv2d_pool

__all__ = ["Plan", "plan"]


@dataclass(frozen=True)
class Plan:
    """The answer of :func:`plan`. Printing it gives one line."""

    op: str
    algorithm: str
    reason: str
    scratch_bytes: int
    threads: int

    def __str__(self) -> str:
        return (
            f"{self.op}: {self.algorithm} ({self.reason}), "
            f"{self.scratch_bytes / 2**20:.2f} MiB of scratch, threads: {self.threads}"
        )


_Forward = Literal[
    "conv1d",
    "conv2d",
    "conv3d",
    "conv2d_pool",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]
_Backward = Literal[
    "conv1d_backward",
    "conv2d_backward",
    "conv3d_backward",
    "conv_transpose1d_backward",
    "conv_transpose2d_backward",
    "conv_transpose3d_backward",
]
#: Of the input, the weight and the bias.
_Gradients = tuple[Plan | None, Plan | None, None]

_GEOMETRY = ("x", "weight", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("x", "weight", "stride", "padding", "output_padding", "groups", "dilation")
_POOLING = ("pool", "pool_size", "pool_stride", "pool_padding", "pool_dilation", "ceil_mode")
_OPTIONS = ("layout", "flip_kernel", "algorithm")
_TRANSPOSED_OPTIONS = ("layout", "algorithm")


def _of_gradients(arguments: tuple[str, ...]) -> tuple[str, ...]:
    return ("grad_out", *arguments, "needs")


#: Kernels with a plan, and those of their arguments that it follows from.
_PLANNED: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {}
for _module, _axes in ((conv, "1d"), (conv, "2d"), (conv_volume, "3d")):
    for _name, _used in (
        (f"conv{_axes}", _GEOMETRY + _OPTIONS),
        (f"conv_transpose{_axes}", _TRANSPOSED + _TRANSPOSED_OPTIONS),
    ):
        _PLANNED[_name] = (getattr(_module, _name), _used)
        _backward = f"{_name}_backward"
        _PLANNED[_backward] = (getattr(_module, _backward), _of_gradients(_used))
_PLANNED["conv2d_pool"] = (conv2d_pool, _GEOMETRY + _POOLING + _OPTIONS)


@overload
def plan(op: _Forward, *args: Any, **kwargs: Any) -> Plan: ...
@overload
def plan(op: _Backward, *args: Any, **kwargs: Any) -> _Gradients: ...
def plan(op: str, *args: Any, **kwargs: Any) -> Plan | _Gradients:
    """Tell what a call of kernel ``op`` with these arguments would do; nothing is computed.

    Parameters
    ----------
    op : str
        Name of the kernel: ``"conv2d_pool"``, or ``"conv"`` or ``"conv_transpose"`` with
        ``"1d"``, ``"2d"`` or ``"3d"`` behind it, and ``"_backward"`` for the gradients.
    *args, **kwargs
        The arguments of the call. Only shapes, dtypes and options of arrays are looked at.

    Returns
    -------
    Plan, or tuple of (Plan or None, Plan or None, None)
        ``algorithm``, ``reason``, ``scratch_bytes`` of the call (of its largest part, where it
        has several) and ``threads`` of the team, for the thread limit in force: 0 on a GPU, and
        ``scratch_bytes`` what is held there at one time. Of gradients
        one for the input's and one for the weight's, None for those that ``needs`` does not
        name; the bias's is a sum that takes neither a choice nor scratch, and has none.

    Raises
    ------
    NotImplementedError
        For a kernel that has one algorithm or no plan to show.
    ValueError, TypeError
        As the call itself.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, w = np.zeros((1, 64, 56, 56), "f4"), np.zeros((64, 64, 3, 3), "f4")
    >>> K.plan("conv2d", x, w, padding=1).algorithm
    'winograd'
    >>> K.plan("conv2d", x, w, padding=1, algorithm="direct").algorithm
    'direct'
    >>> [p and p.algorithm for p in K.plan("conv2d_backward", x, x, w, padding=1)]
    ['winograd', 'winograd', None]
    """
    planned = _PLANNED.get(op)
    if planned is None:
        names = ", ".join(map(repr, _PLANNED))
        raise NotImplementedError(f"[plan] op: expected one of {names}, got {op!r}")
    kernel, used = planned
    call = inspect.signature(kernel).bind(*args, **kwargs)
    call.apply_defaults()
    told = getattr(_core, f"{op}_plan")(*(call.arguments[name] for name in used))
    if not op.endswith("_backward"):
        return _plan(op, told)
    by_x, by_weight, _ = told
    return (by_x and _plan(op, by_x), by_weight and _plan(op, by_weight), None)


def _plan(op: str, told: tuple[str | None, str | None, int, int]) -> Plan:
    algorithm, reason, scratch, threads = told
    return Plan(op, algorithm or "none", reason or "there is nothing to compute", scratch, threads)
