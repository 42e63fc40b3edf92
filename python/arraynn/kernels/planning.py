"""Which algorithm a kernel takes for given arguments, why, and with how much scratch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from arraynn import _core
from arraynn.kernels.conv import conv1d, conv2d
from arraynn.kernels.conv_pool import conv2d_pool
from arraynn.kernels.conv_volume import conv3d

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


_GEOMETRY = ("x", "weight", "stride", "padding", "dilation", "groups")
_POOLING = ("pool", "pool_size", "pool_stride", "pool_padding", "pool_dilation", "ceil_mode")
_OPTIONS = ("layout", "flip_kernel", "algorithm")

#: Kernels with a plan, and those of their arguments that it follows from.
_PLANNED: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "conv1d": (conv1d, _GEOMETRY + _OPTIONS),
    "conv2d": (conv2d, _GEOMETRY + _OPTIONS),
    "conv3d": (conv3d, _GEOMETRY + _OPTIONS),
    "conv2d_pool": (conv2d_pool, _GEOMETRY + _POOLING + _OPTIONS),
}


def plan(op: str, *args: Any, **kwargs: Any) -> Plan:
    """Tell what a call of kernel ``op`` with these arguments would do; nothing is computed.

    Parameters
    ----------
    op : {"conv1d", "conv2d", "conv3d", "conv2d_pool"}
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
    planned = _PLANNED.get(op)
    if planned is None:
        names = ", ".join(map(repr, _PLANNED))
        raise NotImplementedError(f"[plan] op: expected one of {names}, got {op!r}")
    kernel, used = planned
    call = inspect.signature(kernel).bind(*args, **kwargs)
    call.apply_defaults()
    describe = getattr(_core, f"{op}_plan")
    algorithm, reason, scratch, threads = describe(*(call.arguments[name] for name in used))
    return Plan(op, algorithm or "none", reason or "there is nothing to compute", scratch, threads)
