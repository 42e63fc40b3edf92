"""Which algorithm a kernel takes for given arguments, why, and with how much scratch."""

from __future__ import annotations

from collections.abc import Callable
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
    geometry = (stride, padding, dilation, groups)
    return _as_plan(op, describe(x, weight, *geometry, layout, flip_kernel, algorithm))


def _plan_conv_pool(
    op: str,
    x: Any,
    weight: Any,
    bias: Any = None,  # noqa: ARG001
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    *,
    pool: str = "max",
    pool_size: Any = 2,
    pool_stride: Any = None,
    pool_padding: Any = 0,
    pool_dilation: Any = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,  # noqa: ARG001
    divisor_override: int | None = None,  # noqa: ARG001
    activation: str | None = None,  # noqa: ARG001
    layout: str = "channels_first",
    flip_kernel: bool = False,
    algorithm: str = "auto",
    out: Any = None,  # noqa: ARG001
) -> Plan:
    geometry = (stride, padding, dilation, groups)
    windows = (pool_size, pool_stride, pool_padding, pool_dilation)
    options = (ceil_mode, layout, flip_kernel, algorithm)
    describe: Any = _core.conv2d_pool_plan
    return _as_plan(op, describe(x, weight, *geometry, pool, *windows, *options))


def _as_plan(op: str, found: tuple[str | None, str | None, int, int]) -> Plan:
    name, reason, scratch, threads = found
    return Plan(op, name or "none", reason or "there is nothing to compute", scratch, threads)


_PLANNERS: dict[str, Callable[..., Plan]] = {
    "conv1d": _plan_conv,
    "conv2d": _plan_conv,
    "conv3d": _plan_conv,
    "conv2d_pool": _plan_conv_pool,
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
    planner = _PLANNERS.get(op)
    if planner is None:
        names = ", ".join(map(repr, _PLANNERS))
        raise NotImplementedError(f"[plan] op: expected one of {names}, got {op!r}")
    return planner(op, *args, **kwargs)
