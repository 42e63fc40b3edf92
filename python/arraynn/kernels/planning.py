"""Which algorithm a kernel takes for given arguments, why, and with how much scratch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from arraynn import _core

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


def _plan_conv(
    op: str,
    x: Any,
    weight: Any,
    bias: Any = None,  # noqa: ARG001
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    activation: str | None = None,  # noqa: ARG001
    residual: Any = None,  # noqa: ARG001
    layout: str = "channels_first",
    flip_kernel: bool = False,
    algorithm: str = "auto",
    out: Any = None,  # noqa: ARG001
) -> Plan:
    describe = getattr(_core, f"{op}_plan")
    name, reason, scratch, threads = describe(
        x, weight, stride, padding, dilation, groups, layout, flip_kernel, algorithm
    )
    return Plan(op, name or "none", reason or "there is nothing to compute", scratch, threads)


_PLANNERS = {"conv1d": _plan_conv, "conv2d": _plan_conv, "conv3d": _plan_conv}


def plan(op: str, *args: Any, **kwargs: Any) -> Plan:
    """Tell what a call of kernel ``op`` with these arguments would do; nothing is computed.

    Parameters
    ----------
    op : {"conv1d", "conv2d", "conv3d"}
        Name of the kernel.
    *args, **kwargs
        The arguments of the call. Only shapes, dtypes and options of arrays are looked at.

    Returns
    -------
    Plan
        ``algorithm``, ``reason``, ``scratch_bytes`` of the call (of its largest part, where it
        has several) and ``threads`` of the team, for the thread limit in force.

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
    """
    planner = _PLANNERS.get(op)
    if planner is None:
        names = ", ".join(map(repr, _PLANNERS))
        raise NotImplementedError(f"[plan] op: expected one of {names}, got {op!r}")
    return planner(op, *args, **kwargs)
