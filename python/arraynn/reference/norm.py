"""Layer, RMS, batch, group and instance normalisation in plain NumPy.

Every one is ``activation((x - mean) * rstd * weight + bias)``; they differ in the axes of the
statistics, which are kept with length 1 here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._common import FloatArray, quiet, store
from .elementwise import ACTIVATIONS

Shape = int | Sequence[int]
Gradients = tuple[FloatArray | None, FloatArray | None, FloatArray | None]
Stats = tuple[FloatArray, FloatArray]


def _activate(y: FloatArray, activation: str | None) -> FloatArray:
    return y if activation is None else ACTIVATIONS[activation](y)


def _statistics(x: FloatArray, axes: tuple[int, ...], eps: float, centred: bool = True) -> Stats:
    """Mean and ``1 / sqrt(var + eps)`` over `axes`, which stay with length 1."""
    count = int(np.prod([x.shape[axis] for axis in axes]))
    mean = x.sum(axes, keepdims=True) / max(count, 1)
    if not centred:
        mean = np.zeros_like(mean)
    var = np.square(x - mean).sum(axes, keepdims=True) / max(count, 1)
    return mean, 1 / np.sqrt(var + x.dtype.type(eps))


def _stored(stat: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Return a statistic as the caller gets it: at least float64."""
    return stat.reshape(shape).astype(np.promote_types(stat.dtype, np.float64))


def _gradient(
    g: FloatArray, xhat: FloatArray, rstd: FloatArray, axes: tuple[int, ...], centred: bool = True
) -> FloatArray:
    """``rstd * (g - mean(g) - xhat * mean(g * xhat))`` with means over `axes`."""
    count = max(int(np.prod([g.shape[axis] for axis in axes])), 1)
    along = (g * xhat).sum(axes, keepdims=True) / count
    level = g.sum(axes, keepdims=True) / count if centred else 0
    return np.asarray(rstd * (g - level - xhat * along), dtype=g.dtype)


def _trailing(x: FloatArray, normalized_shape: Shape) -> tuple[int, ...]:
    """Axes of `normalized_shape`, the last ones of x."""
    shape = (
        (normalized_shape,) if isinstance(normalized_shape, int | np.integer) else normalized_shape
    )
    return tuple(range(x.ndim - len(tuple(shape)), x.ndim))


def _machine(x: FloatArray, eps: float | None) -> float:
    """Machine epsilon of x unless given; wider oracles take that of float64."""
    kind = x.dtype if x.dtype.itemsize <= 8 else np.dtype(np.float64)
    return float(np.finfo(kind).eps) if eps is None else eps


@quiet
def layer_norm(
    x: FloatArray,
    normalized_shape: Shape,
    weight: FloatArray | None = None,
    bias: FloatArray | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    return_stats: bool = False,
    out: FloatArray | None = None,
) -> Any:
    """Normalise along the last axes.

    >>> layer_norm(np.array([[1.0, 2.0, 3.0]]), 3).round(3)
    array([[-1.225,  0.   ,  1.225]])
    """
    axes = _trailing(x, normalized_shape)
    mean, rstd = _statistics(x, axes, eps)
    y: Any = (x - mean) * rstd
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    y = store(_activate(y, activation), out)
    rows = x.shape[: x.ndim - len(axes)]
    return (y, _stored(mean, rows), _stored(rstd, rows)) if return_stats else y


def _backward_rows(
    grad_out: FloatArray,
    x: FloatArray,
    weight: FloatArray | None,
    axes: tuple[int, ...],
    mean: FloatArray,
    rstd: FloatArray,
    centred: bool,
    needs: Sequence[str],
) -> Gradients:
    xhat = ((x - mean) * rstd).astype(x.dtype)
    g = grad_out if weight is None else grad_out * weight
    rows = tuple(range(x.ndim - len(axes)))
    return (
        _gradient(g, xhat, rstd, axes, centred) if "x" in needs else None,
        (grad_out * xhat).sum(rows) if "weight" in needs else None,
        grad_out.sum(rows) if "bias" in needs else None,
    )


@quiet
def layer_norm_backward(
    grad_out: FloatArray,
    x: FloatArray,
    normalized_shape: Shape,
    weight: FloatArray | None = None,
    eps: float = 1e-5,
    *,
    stats: Stats | None = None,
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> Gradients:
    """Gradients of layer_norm by x, weight and bias."""
    axes = _trailing(x, normalized_shape)
    if stats is None:
        mean, rstd = _statistics(x, axes, eps)
    else:
        mean, rstd = (np.expand_dims(s, axes) for s in stats)
    return _backward_rows(grad_out, x, weight, axes, mean, rstd, True, needs)


@quiet
def rms_norm(
    x: FloatArray,
    normalized_shape: Shape,
    weight: FloatArray | None = None,
    eps: float | None = None,
    *,
    activation: str | None = None,
    return_stats: bool = False,
    out: FloatArray | None = None,
) -> Any:
    """Divide by the root mean square along the last axes.

    >>> rms_norm(np.array([[3.0, 4.0, 0.0, 0.0]]), 4).round(3)
    array([[1.2, 1.6, 0. , 0. ]])
    """
    axes = _trailing(x, normalized_shape)
    rstd = _statistics(x, axes, _machine(x, eps), centred=False)[1]
    y: Any = x * rstd if weight is None else x * rstd * weight
    y = store(_activate(y, activation), out)
    return (y, _stored(rstd, x.shape[: x.ndim - len(axes)])) if return_stats else y


@quiet
def rms_norm_backward(
    grad_out: FloatArray,
    x: FloatArray,
    normalized_shape: Shape,
    weight: FloatArray | None = None,
    eps: float | None = None,
    *,
    stats: FloatArray | None = None,
    needs: Sequence[str] = ("x", "weight"),
) -> tuple[FloatArray | None, FloatArray | None]:
    """Gradients of rms_norm by x and weight."""
    axes = _trailing(x, normalized_shape)
    if stats is None:
        rstd = _statistics(x, axes, _machine(x, eps), centred=False)[1]
    else:
        rstd = np.expand_dims(stats, axes)
    zero = np.zeros_like(rstd)
    return _backward_rows(grad_out, x, weight, axes, zero, rstd, False, needs)[:2]


# ---- channels ----------------------------------------------------------------------------


def _to_groups(x: FloatArray, layout: str, groups: int) -> FloatArray:
    """(n, c, ...) or (n, ..., c) as (n, groups, c / groups, positions)."""
    if layout not in ("channels_first", "channels_last"):
        raise ValueError(f"layout: expected 'channels_first' or 'channels_last', got {layout!r}")
    first = np.moveaxis(x, -1, 1) if layout == "channels_last" else x
    n, c = first.shape[:2]
    return first.reshape(n, groups, c // max(groups, 1), int(np.prod(first.shape[2:])))


def _from_groups(y: FloatArray, shape: tuple[int, ...], layout: str) -> FloatArray:
    """Undo `_to_groups` for the original `shape`."""
    if layout == "channels_first":
        return y.reshape(shape)
    return np.ascontiguousarray(np.moveaxis(y.reshape(shape[0], shape[-1], *shape[1:-1]), 1, -1))


def _channels(x: FloatArray, layout: str) -> int:
    return int(x.shape[-1 if layout == "channels_last" else 1])


def _per_channel(v: FloatArray, grouped: FloatArray) -> FloatArray:
    """A vector over the channels, to broadcast with (n, groups, c / groups, positions)."""
    return v.reshape(1, grouped.shape[1], grouped.shape[2], 1)


#: Axes of (n, groups, c / groups, positions) that one statistic is taken over.
_OVER_BATCH = (0, 2, 3)  # with one channel in a group
_OVER_GROUP = (2, 3)


def _forward(
    x: FloatArray,
    groups: int,
    axes: tuple[int, ...],
    weight: FloatArray | None,
    bias: FloatArray | None,
    eps: float,
    activation: str | None,
    layout: str,
    running: Stats | None,
    update: tuple[FloatArray | None, FloatArray | None, float],
    return_stats: bool,
    out: FloatArray | None,
) -> Any:
    grouped = _to_groups(x, layout, groups)
    if running is None:
        mean, rstd = _statistics(grouped, axes, eps)
        _move_running(grouped, axes, mean, *update)
    else:
        mean, rstd = _fixed(running, grouped, axes, eps)
    y: Any = (grouped - mean) * rstd
    if weight is not None:
        y = y * _per_channel(weight, grouped)
    if bias is not None:
        y = y + _per_channel(bias, grouped)
    y = store(_from_groups(_activate(y, activation), x.shape, layout), out)
    shape = (groups,) if axes == _OVER_BATCH else (x.shape[0], groups)
    return (y, _stored(mean, shape), _stored(rstd, shape)) if return_stats else y


def _fixed(running: Stats, grouped: FloatArray, axes: tuple[int, ...], eps: float) -> Stats:
    """Running statistics of the channels in place of the input's."""
    mean = running[0].reshape(1, -1, 1, 1)
    rstd = 1 / np.sqrt(running[1].reshape(1, -1, 1, 1) + running[1].dtype.type(eps))
    samples = 1 if axes == _OVER_BATCH else grouped.shape[0]
    return mean.repeat(samples, 0), rstd.repeat(samples, 0)


def _move_running(
    grouped: FloatArray,
    axes: tuple[int, ...],
    mean: FloatArray,
    running_mean: FloatArray | None,
    running_var: FloatArray | None,
    momentum: float,
) -> None:
    """``(1 - momentum) * running + momentum * new``, new being the mean over the samples."""
    if running_mean is None or running_var is None or grouped.size == 0:
        return
    count = int(np.prod([grouped.shape[axis] for axis in axes]))
    var = np.square(grouped - mean).sum(axes, keepdims=True) / (count - 1)
    for running, new in ((running_mean, mean), (running_var, var)):
        running[...] = (1 - momentum) * running + momentum * new.mean(0).reshape(-1)


def _backward(
    grad_out: FloatArray,
    x: FloatArray,
    groups: int,
    axes: tuple[int, ...],
    weight: FloatArray | None,
    eps: float,
    layout: str,
    running: Stats | None,
    stats: Stats | None,
    needs: Sequence[str],
) -> Gradients:
    grouped, g = _to_groups(x, layout, groups), _to_groups(grad_out, layout, groups)
    if stats is not None:
        shape = (1 if axes == _OVER_BATCH else x.shape[0], groups, 1, 1)
        mean, rstd = (s.reshape(shape) for s in stats)
    elif running is not None:
        mean, rstd = _fixed(running, grouped, axes, eps)
    else:
        mean, rstd = _statistics(grouped, axes, eps)
    xhat = ((grouped - mean) * rstd).astype(x.dtype)
    weighted = g if weight is None else g * _per_channel(weight, grouped)
    if running is None:
        dx = _gradient(weighted, xhat, rstd, axes)
    else:
        dx = (weighted * rstd).astype(x.dtype)
    return (
        _from_groups(dx, x.shape, layout) if "x" in needs else None,
        (g * xhat).sum((0, 3)).reshape(-1) if "weight" in needs else None,
        g.sum((0, 3)).reshape(-1) if "bias" in needs else None,
    )


def _running(
    own: bool, running_mean: FloatArray | None, running_var: FloatArray | None
) -> Stats | None:
    """The statistics to use in place of the input's; None to take those."""
    if own:
        return None
    if running_mean is None or running_var is None:
        raise ValueError("running_mean, running_var: expected arrays, got None")
    return running_mean, running_var


@quiet
def batch_norm(
    x: FloatArray,
    running_mean: FloatArray | None = None,
    running_var: FloatArray | None = None,
    weight: FloatArray | None = None,
    bias: FloatArray | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    layout: str = "channels_first",
    return_stats: bool = False,
    out: FloatArray | None = None,
) -> Any:
    """Normalise every channel over the batch, or by running statistics.

    >>> batch_norm(np.array([[1.0], [3.0]]), training=True, eps=0.0)
    array([[-1.],
           [ 1.]])
    """
    return _forward(
        x,
        _channels(x, layout),
        _OVER_BATCH,
        weight,
        bias,
        eps,
        activation,
        layout,
        _running(training, running_mean, running_var),
        (running_mean, running_var, momentum),
        return_stats,
        out,
    )


@quiet
def batch_norm_backward(
    grad_out: FloatArray,
    x: FloatArray,
    running_mean: FloatArray | None = None,
    running_var: FloatArray | None = None,
    weight: FloatArray | None = None,
    training: bool = False,
    eps: float = 1e-5,
    *,
    layout: str = "channels_first",
    stats: Stats | None = None,
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> Gradients:
    """Gradients of batch_norm by x, weight and bias."""
    running = None if training else stats or _running(False, running_mean, running_var)
    groups = _channels(x, layout)
    return _backward(grad_out, x, groups, _OVER_BATCH, weight, eps, layout, running, stats, needs)


@quiet
def group_norm(
    x: FloatArray,
    num_groups: int,
    weight: FloatArray | None = None,
    bias: FloatArray | None = None,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    layout: str = "channels_first",
    return_stats: bool = False,
    out: FloatArray | None = None,
) -> Any:
    """Normalise groups of channels in every sample.

    >>> group_norm(np.array([[1.0, 3.0, 0.0, 8.0]]), 2, eps=0.0)
    array([[-1.,  1., -1.,  1.]])
    """
    return _forward(
        x,
        num_groups,
        _OVER_GROUP,
        weight,
        bias,
        eps,
        activation,
        layout,
        None,
        (None, None, 0.0),
        return_stats,
        out,
    )


@quiet
def group_norm_backward(
    grad_out: FloatArray,
    x: FloatArray,
    num_groups: int,
    weight: FloatArray | None = None,
    eps: float = 1e-5,
    *,
    layout: str = "channels_first",
    stats: Stats | None = None,
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> Gradients:
    """Gradients of group_norm by x, weight and bias."""
    return _backward(grad_out, x, num_groups, _OVER_GROUP, weight, eps, layout, None, stats, needs)


@quiet
def instance_norm(
    x: FloatArray,
    running_mean: FloatArray | None = None,
    running_var: FloatArray | None = None,
    weight: FloatArray | None = None,
    bias: FloatArray | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: str | None = None,
    layout: str = "channels_first",
    return_stats: bool = False,
    out: FloatArray | None = None,
) -> Any:
    """Normalise every channel of every sample.

    >>> instance_norm(np.array([[[1.0, 3.0], [0.0, 8.0]]]), eps=0.0)
    array([[[-1.,  1.],
            [-1.,  1.]]])
    """
    return _forward(
        x,
        _channels(x, layout),
        _OVER_GROUP,
        weight,
        bias,
        eps,
        activation,
        layout,
        _running(use_input_stats, running_mean, running_var),
        (running_mean, running_var, momentum),
        return_stats,
        out,
    )


@quiet
def instance_norm_backward(
    grad_out: FloatArray,
    x: FloatArray,
    running_mean: FloatArray | None = None,
    running_var: FloatArray | None = None,
    weight: FloatArray | None = None,
    use_input_stats: bool = True,
    eps: float = 1e-5,
    *,
    layout: str = "channels_first",
    stats: Stats | None = None,
    needs: Sequence[str] = ("x", "weight", "bias"),
) -> Gradients:
    """Gradients of instance_norm by x, weight and bias."""
    running = None if use_input_stats else stats or _running(False, running_mean, running_var)
    groups = _channels(x, layout)
    return _backward(grad_out, x, groups, _OVER_GROUP, weight, eps, layout, running, stats, needs)
