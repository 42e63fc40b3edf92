"""What ``check`` runs for each registered kernel.

Each entry yields (results, expected, bounds): the kernel's arrays in the dtype under test, the
reference's in float64, and the error allowed, whose derivation stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import numpy as np

import arraynn.kernels
import arraynn.reference
from arraynn._proof import Array, Arrays, distinct, dot_bound, uniform, unit_roundoff
from arraynn.cli._attention_checks import ATTENTION_CHECKS
from arraynn.cli._norm_checks import NORM_CHECKS
from arraynn.cli._recurrent_checks import RECURRENT_CHECKS

# Arguments come from tables, so their types are checked when they are called.
kernels: Any = arraynn.kernels
reference: Any = arraynn.reference

Outcome: TypeAlias = tuple[Arrays, Arrays, list[Any]]
Check: TypeAlias = Callable[[str], Iterator[Outcome]]

# One below, at and one above the register tiles, with a k that leaves a remainder.
_PRODUCTS = ((1, 1, 1), (1, 130, 67), (5, 7, 3), (14, 64, 32), (29, 65, 67), (64, 300, 33))
# (n, ic, oc, kernel, stride, padding, dilation, groups, height, width). The last is by Winograd's
# algorithm in float32: with 12 channels and more its errors stay below the bound of the sum.
_CONVOLUTIONS = (
    (2, 3, 5, (3, 3), 1, 1, 1, 1, 9, 7),
    (1, 6, 8, (3, 2), (2, 1), (1, 0), (1, 2), 2, 11, 8),
    (3, 17, 33, (1, 1), 1, 0, 1, 1, 5, 6),
    (1, 4, 4, (3, 3), 2, ((0, 1), (1, 0)), 1, 4, 8, 9),
    (2, 24, 17, (3, 3), 1, 1, 1, 1, 9, 10),
)
_CONV_OPS = tuple((f"{op}{axes}d", axes) for op in ("conv", "conv_transpose") for axes in (1, 2, 3))
# (kernel, stride, padding, ceil_mode)
_POOLS = ((2, 2, 0, False), (3, 2, 1, False), ((3, 2), (2, 1), (1, 0), True))
_LAYOUTS = ("channels_first", "channels_last")
_ACTIVATIONS = ("relu", "leaky_relu", "gelu", "gelu_tanh", "tanh", "softplus")


def _wide(*arrays: Array) -> Arrays:
    return tuple(a.astype(np.float64) for a in arrays)


def _linear(dtype: str) -> Iterator[Outcome]:
    for i, (m, k, n) in enumerate(_PRODUCTS):
        x, w = uniform(dtype, m, k, seed=1), uniform(dtype, n, k, seed=2)
        b, r = uniform(dtype, n, seed=3), uniform(dtype, m, n, seed=4)
        act = _ACTIVATIONS[i % len(_ACTIVATIONS)]
        got = kernels.linear(x, w, b, activation=act, residual=r)
        wx, ww, wb, wr = _wide(x, w, b, r)
        want = reference.linear(wx, ww, wb, activation=act, residual=wr)
        # The slopes of the activations are below 1.2; their own error is a few ULP.
        bound = 1.2 * dot_bound(k + 2, dtype) + 8 * unit_roundoff(dtype) * (1 + np.abs(want))
        yield (got,), (want,), [bound]


def _linear_backward(dtype: str) -> Iterator[Outcome]:
    for m, k, n in _PRODUCTS:
        g, x, w = (
            uniform(dtype, *shape, seed=i) for i, shape in enumerate(((m, n), (m, k), (n, k)))
        )
        want = reference.linear_backward(*_wide(g, x, w))
        bounds = [dot_bound(n, dtype), dot_bound(m, dtype), dot_bound(m, dtype, factors=1)]
        yield kernels.linear_backward(g, x, w), want, bounds


def _matmul(dtype: str) -> Iterator[Outcome]:
    for m, k, n in _PRODUCTS:
        a, b = uniform(dtype, 2, 1, m, k, seed=1), uniform(dtype, 3, k, n, seed=2)
        want = reference.matmul(*_wide(a, b))
        yield (kernels.matmul(a, b),), (want,), [dot_bound(k, dtype)]


def _conv_data(
    dtype: str, case: Any, layout: str, axes: int, transposed: bool
) -> tuple[Array, Array, Array, tuple[Any, ...]]:
    """Return x, weight, bias and the geometry of a case, for one axis its last.

    A depth has the numbers of the height.
    """
    n, ic, oc, window, *sizes, groups, height, width = case
    if axes == 3:
        window = (window[0], *window)
        sizes = [(v[0], *v) if isinstance(v, tuple) else v for v in sizes]
    spatial = {1: (height * width,), 2: (height, width), 3: (height - 2, height, width)}[axes]
    shape = (n, ic, *spatial) if layout == "channels_first" else (n, *spatial, ic)
    rows, columns = (ic, oc // groups) if transposed else (oc, ic // groups)
    x = uniform(dtype, *shape, seed=1)
    w = uniform(dtype, rows, columns, *window[-axes:], seed=2)
    stride, padding, dilation = (v[-axes:] if isinstance(v, tuple) else v for v in sizes)
    more = int(np.min(stride) > 1)
    transpose = (stride, padding, more, groups, dilation)
    geometry = transpose if transposed else (stride, padding, dilation, groups)
    return x, w, uniform(dtype, oc, seed=3), geometry


def _terms(w: Array, groups: int, transposed: bool) -> int:
    """Return how many products meet in an output, at most."""
    return int(w.size // w.shape[1] // groups if transposed else w[0].size)


def _conv(op: str, axes: int, dtype: str) -> Iterator[Outcome]:
    transposed = "transpose" in op
    for i, case in enumerate(_CONVOLUTIONS):
        for layout in _LAYOUTS:
            x, w, b, geometry = _conv_data(dtype, case, layout, axes, transposed)
            act = _ACTIVATIONS[i % len(_ACTIVATIONS)]
            how: dict[str, Any] = {"layout": layout, "activation": act}
            if not transposed:
                how["flip_kernel"] = i == 1
            got = getattr(kernels, op)(x, w, b, *geometry, **how)
            want = getattr(reference, op)(*_wide(x, w, b), *geometry, **how)
            terms = _terms(w, case[7], transposed) + 1
            bound = 1.2 * dot_bound(terms, dtype) + 8 * unit_roundoff(dtype) * (1 + np.abs(want))
            yield (got,), (want,), [bound]


def _conv_backward(op: str, axes: int, dtype: str) -> Iterator[Outcome]:
    transposed = "transpose" in op
    for case in _CONVOLUTIONS:
        for layout in _LAYOUTS:
            x, w, b, geometry = _conv_data(dtype, case, layout, axes, transposed)
            wx, ww = _wide(x, w)
            shape = getattr(reference, op)(wx, ww, None, *geometry, layout=layout).shape
            g = uniform(dtype, *shape, seed=4)
            (wg,) = _wide(g)
            got = getattr(kernels, f"{op}_backward")(g, x, w, *geometry, layout=layout)
            want = getattr(reference, f"{op}_backward")(wg, wx, ww, *geometry, layout=layout)
            pixels = max(g.size // len(b), x.size // case[1])
            bounds = [
                dot_bound(_terms(w, case[7], not transposed), dtype),
                dot_bound(pixels, dtype),
                dot_bound(pixels, dtype, factors=1),
            ]
            yield got, want, bounds


def _conv2d_pool(dtype: str) -> Iterator[Outcome]:
    for i, case in enumerate(_CONVOLUTIONS):
        for layout in _LAYOUTS:
            for pool in ("max", "avg"):
                x, w, b, geometry = _conv_data(dtype, case, layout, 2, False)
                size, stride, padding, ceil = _POOLS[i % len(_POOLS)]
                act = _ACTIVATIONS[i % len(_ACTIVATIONS)]
                how: dict[str, Any] = {
                    "pool": pool,
                    "pool_size": size,
                    "pool_stride": stride,
                    "pool_padding": padding,
                    "ceil_mode": ceil,
                    "activation": act,
                    "layout": layout,
                }
                got = kernels.conv2d_pool(x, w, b, *geometry, **how)
                want = reference.conv2d_pool(*_wide(x, w, b), *geometry, **how)
                # A maximum errs like what it is taken of; a mean rounds 9 times more.
                terms = _terms(w, case[7], False) + 1 + (9 if pool == "avg" else 0)
                grain = 8 * unit_roundoff(dtype) * (1 + np.abs(want))
                yield (got,), (want,), [1.2 * dot_bound(terms, dtype) + grain]


# (kernel, dilation, padding, stride)
_WINDOWS = ((3, 1, 1, 1), ((2, 3), (1, 2), ((0, 1), (2, 0)), (2, 1)))


def _unfold(dtype: str) -> Iterator[Outcome]:
    for window in _WINDOWS:
        x = uniform(dtype, 2, 3, 9, 17, seed=1)
        # Moving a value rounds nothing.
        yield (kernels.unfold(x, *window),), (reference.unfold(x, *window),), [0.0]


def _fold(dtype: str) -> Iterator[Outcome]:
    for window in _WINDOWS:
        shape = reference.unfold(uniform(dtype, 2, 3, 9, 17, seed=1), *window).shape
        x = uniform(dtype, *shape, seed=1)
        want = reference.fold(*_wide(x), (9, 17), *window)
        # At most 9 windows meet in one element.
        yield (kernels.fold(x, (9, 17), *window),), (want,), [dot_bound(9, dtype, factors=1)]


def _pool_input(dtype: str, layout: str) -> Array:
    shape = (2, 19, 9, 7) if layout == "channels_first" else (2, 9, 7, 19)
    return distinct(dtype, *shape, seed=1)


def _max_pool2d(dtype: str) -> Iterator[Outcome]:
    for kernel, stride, padding, ceil in _POOLS:
        for layout in _LAYOUTS:
            x = _pool_input(dtype, layout)
            args = (kernel, stride, padding, 1, ceil, True)
            got = kernels.max_pool2d(x, *args, layout=layout)
            want = reference.max_pool2d(x, *args, layout=layout)
            # Selecting a value rounds nothing.
            yield got, want, [0.0, 0.0]


def _max_pool2d_backward(dtype: str) -> Iterator[Outcome]:
    for kernel, stride, padding, ceil in _POOLS:
        for layout in _LAYOUTS:
            x = _pool_input(dtype, layout)
            args = (kernel, stride, padding, 1, ceil)
            y, indices = reference.max_pool2d(x, *args, True, layout=layout)
            g = uniform(dtype, *y.shape, seed=2)
            want = reference.max_pool2d_backward(*_wide(g, x), *args, layout=layout)
            # At most 6 windows of _POOLS meet in one element.
            bound = dot_bound(6, dtype, factors=1)
            for given in (None, indices):
                got = kernels.max_pool2d_backward(g, x, *args, layout=layout, indices=given)
                yield (got,), (want,), [bound]


def _avg_pool2d(dtype: str) -> Iterator[Outcome]:
    for kernel, stride, padding, ceil in _POOLS:
        for layout in _LAYOUTS:
            x = _pool_input(dtype, layout)
            for include in (True, False):
                args = (kernel, stride, padding, ceil, include)
                got = kernels.avg_pool2d(x, *args, layout=layout)
                want = reference.avg_pool2d(*_wide(x), *args, layout=layout)
                # A mean of at most 9 numbers in [-1, 1].
                yield (got,), (want,), [11 * unit_roundoff(dtype)]


def _avg_pool2d_backward(dtype: str) -> Iterator[Outcome]:
    for kernel, stride, padding, ceil in _POOLS:
        for layout in _LAYOUTS:
            x = _pool_input(dtype, layout)
            for include in (True, False):
                args = (kernel, stride, padding, ceil, include)
                shape = reference.avg_pool2d(*_wide(x), *args, layout=layout).shape
                g = uniform(dtype, *shape, seed=2)
                got = kernels.avg_pool2d_backward(g, x.shape, *args, layout=layout)
                want = reference.avg_pool2d_backward(*_wide(g), x.shape, *args, layout=layout)
                # At most 6 windows meet, each share rounded once before it is added.
                yield (got,), (want,), [dot_bound(12, dtype, factors=1)]


# (output size of 1-d, output size of 2-d): windows that overlap, that tile, and all in one.
_ADAPTIVE = ((5, (4, 5)), (3, (3, 7)), (1, (1, None)))


def _signal(x: Array, layout: str) -> Array:
    """One row of every image."""
    return np.ascontiguousarray(x[:, 0] if layout == "channels_last" else x[:, :, 0])


def _volume(dtype: str, layout: str) -> Array:
    shape = (2, 19, 5, 9, 7) if layout == "channels_first" else (2, 5, 9, 7, 19)
    return distinct(dtype, *shape, seed=1)


def _pool_cases(
    name: str, dtype: str
) -> Iterator[tuple[Array, tuple[Any, ...], dict[str, Any], int]]:
    """Yield input, arguments, options and taps of one further pooling."""
    for layout in _LAYOUTS:
        image = _pool_input(dtype, layout)
        signal = _signal(image, layout)
        x = {"1d": signal, "3d": _volume(dtype, layout)}.get(name[-2:], image)
        where = {"layout": layout}
        if name.startswith("global"):
            yield image, (), where, 63
            yield signal, (), where, 7
            yield _volume(dtype, layout), (), where, 315
        elif name.startswith("adaptive"):
            for one, two in _ADAPTIVE:
                size = {"1d": one, "2d": two, "3d": (one, *two)}[name[-2:]]
                yield x, (size,), where, 315
        else:
            taps = 9 if name.endswith("3d") else 3
            yield from (
                (x, (k, s, p), where, taps) for k, s, p in ((2, 2, 0), (3, 2, 1), (3, 1, 1))
            )


def _max_pool(name: str, dtype: str) -> Iterator[Outcome]:
    for x, args, where, _ in _pool_cases(name, dtype):
        got = getattr(kernels, name)(x, *args, return_indices=True, **where)
        # Selecting a value rounds nothing.
        yield got, getattr(reference, name)(x, *args, return_indices=True, **where), [0.0, 0.0]


def _max_pool_backward(name: str, dtype: str) -> Iterator[Outcome]:
    back = f"{name}_backward"
    for x, args, where, _ in _pool_cases(name, dtype):
        y, indices = getattr(reference, name)(x, *args, return_indices=True, **where)
        g = uniform(dtype, *y.shape, seed=2)
        want = getattr(reference, back)(*_wide(g, x), *args, **where)
        for given in (None, indices):
            got = getattr(kernels, back)(g, x, *args, indices=given, **where)
            # At most 27 windows meet in one element.
            yield (got,), (want,), [dot_bound(27, dtype, factors=1)]


def _avg_pool(name: str, dtype: str) -> Iterator[Outcome]:
    for x, args, where, taps in _pool_cases(name, dtype):
        got = getattr(kernels, name)(x, *args, **where)
        # A mean of numbers in [-1, 1].
        bound = (taps + 2) * unit_roundoff(dtype)
        yield (got,), (getattr(reference, name)(*_wide(x), *args, **where),), [bound]


def _avg_pool_backward(name: str, dtype: str) -> Iterator[Outcome]:
    back = f"{name}_backward"
    for x, args, where, _ in _pool_cases(name, dtype):
        shape = getattr(reference, name)(*_wide(x), *args, **where).shape
        g = uniform(dtype, *shape, seed=2)
        got = getattr(kernels, back)(g, x.shape, *args, **where)
        want = getattr(reference, back)(*_wide(g), x.shape, *args, **where)
        # At most 27 windows meet, each share rounded once before it is added.
        yield (got,), (want,), [dot_bound(54, dtype, factors=1)]


def _lp_cases(
    name: str, dtype: str
) -> Iterator[tuple[Array, tuple[Any, ...], dict[str, Any], int]]:
    """Yield input, arguments, options and the most taps of a window, for two norms."""
    for x, window, where, taps in _pool_cases(name, dtype):
        for norm in (1.0, 2.0):
            if window:
                *sizes, padding = window
                yield x, (norm, *sizes, True), {**where, "padding": padding}, taps**2
            else:
                yield x, (norm,), where, taps


def _lp_pool(name: str, dtype: str) -> Iterator[Outcome]:
    for x, args, where, taps in _lp_cases(name, dtype):
        got = getattr(kernels, name)(x, *args, **where)
        want = getattr(reference, name)(*_wide(x), *args, **where)
        # A sum of terms of at most 1; a root halves its relative error.
        error = (taps + 6) * unit_roundoff(dtype)
        yield (got,), (want,), [error * (taps if args[0] == 1 else np.abs(want))]


def _lp_pool_backward(name: str, dtype: str) -> Iterator[Outcome]:
    back = f"{name}_backward"
    for x, args, where, taps in _lp_cases(name, dtype):
        y = getattr(reference, name)(*_wide(x), *args, **where).astype(dtype)
        g = uniform(dtype, *y.shape, seed=2)
        got = getattr(kernels, back)(g, x, y, *args, **where)
        want = getattr(reference, back)(*_wide(g, x, y), *args, **where)
        # |x / y| <= 1, gradients at most 1; as many windows meet as one has taps, which scale them.
        meet = taps if len(args) > 1 else 1
        yield (got,), (want,), [meet * (meet + 8) * meet * unit_roundoff(dtype)]


def _max_unpool(name: str, dtype: str) -> Iterator[Outcome]:
    pool = name.replace("unpool", "pool")
    for x, args, where, _ in _pool_cases(pool, dtype):
        y, indices = getattr(reference, pool)(x, *args, return_indices=True, **where)
        size = x.shape[1:-1] if where["layout"] == "channels_last" else x.shape[2:]
        got = getattr(kernels, name)(y, indices, *args, size, **where)
        # Moving a value rounds nothing.
        yield (got,), (getattr(reference, name)(y, indices, *args, size, **where),), [0.0]


def _max_unpool_backward(name: str, dtype: str) -> Iterator[Outcome]:
    pool, back = name.replace("unpool", "pool"), f"{name}_backward"
    for x, args, where, _ in _pool_cases(pool, dtype):
        _, indices = getattr(reference, pool)(x, *args, return_indices=True, **where)
        got = getattr(kernels, back)(x, indices, **where)
        yield (got,), (getattr(reference, back)(x, indices, **where),), [0.0]


def _activation(name: str, extra: dict[str, Any], dtype: str) -> Iterator[Outcome]:
    u = unit_roundoff(dtype)
    for size in (1, 15, 16, 17, 1003):
        x = uniform(dtype, size, seed=1) * np.dtype(dtype).type(9)
        (wx,) = _wide(x)
        got = getattr(kernels, name)(x, **extra)
        want = getattr(reference, name)(wx, **extra)
        # A few ULP of the result; 1 + erf(x) and products with x lose a rounding of 1 and |x|.
        yield (got,), (want,), [8 * u * (np.abs(want) + np.abs(wx) + 1)]


def _activation_backward(name: str, extra: dict[str, Any], dtype: str) -> Iterator[Outcome]:
    u = unit_roundoff(dtype)
    for size in (1, 15, 16, 17, 1003):
        x = uniform(dtype, size, seed=1) * np.dtype(dtype).type(9)
        g = uniform(dtype, size, seed=2)
        wx, wg = _wide(x, g)
        got = getattr(kernels, f"{name}_backward")(g, x, **extra)
        want = getattr(reference, f"{name}_backward")(wg, wx, **extra)
        # The derivative has terms of size |x|, each with a few roundings.
        yield (got,), (want,), [16 * u * np.abs(wg) * (np.abs(wx) + 1)]


def _dropout(name: str, dtype: str) -> Iterator[Outcome]:
    for size in (1, 3, 16, 1003):
        x = uniform(dtype, size, seed=1)
        got = getattr(kernels, name)(x, 0.3, 2**40 + 5)
        want = getattr(reference, name)(*_wide(x), 0.3, 2**40 + 5)
        # The mask is exact; the scale and the product are rounded.
        yield (got,), (want,), [4 * unit_roundoff(dtype) * np.abs(want)]


def _glu(name: str, dtype: str) -> Iterator[Outcome]:
    u = unit_roundoff(dtype)
    for shape in ((2,), (3, 34), (5, 6, 130)):
        x = uniform(dtype, *shape, seed=1) * np.dtype(dtype).type(9)
        (wx,) = _wide(x)
        for act in (None, "sigmoid", *_ACTIVATIONS, "silu"):
            g = uniform(dtype, *shape[:-1], shape[-1] // 2, seed=2)
            args, wide = (g,) * (name != "glu"), _wide(g)[: name != "glu"]
            got = getattr(kernels, name)(*args, x, activation=act)
            want = getattr(reference, name)(*wide, wx, activation=act)
            # As of the activations and their gradients, times the other half, |grad_out| <= 1.
            a, b = np.split(np.abs(wx) + 1, 2, -1)
            yield (
                (got,),
                (want,),
                [16 * u * (a * b if name == "glu" else np.concatenate((a * b,) * 2, -1))],
            )


_ROWS = ((1, 1), (3, 10), (5, 257), (2, 3, 37))
_SPREAD = 20.0


def _softmax(name: str, dtype: str) -> Iterator[Outcome]:
    u = unit_roundoff(dtype)
    for shape in _ROWS:
        x = uniform(dtype, *shape, seed=1) * np.dtype(dtype).type(_SPREAD)
        for axis in (-1, 0):
            got = getattr(kernels, name)(x, axis)
            want = getattr(reference, name)(*_wide(x), axis)
            # The argument x - max <= 2 spread is rounded before the exponential, which has a
            # few ULP; the sum of n terms loses 8 sqrt(n) u (Higham and Mary 2019).
            relative = (2 * _SPREAD + 8 + 8 * shape[axis] ** 0.5) * u
            scale = np.abs(want) if name == "softmax" else 1 + np.abs(want)
            yield (got,), (want,), [relative * scale + np.finfo(dtype).tiny]


def _softmax_backward(name: str, dtype: str) -> Iterator[Outcome]:
    u = unit_roundoff(dtype)
    forward = name.removesuffix("_backward")
    for shape in _ROWS:
        x = uniform(dtype, *shape, seed=1) * np.dtype(dtype).type(_SPREAD)
        g = uniform(dtype, *shape, seed=2)
        for axis in (-1, 0):
            y = getattr(reference, forward)(*_wide(x), axis).astype(dtype)
            wg, wy = _wide(g, y)
            got = getattr(kernels, name)(g, y, axis)
            want = getattr(reference, name)(wg, wy, axis)
            # One sum over the axis, of g y or of g, then a product with the probability.
            n = shape[axis]
            share = wy if forward == "softmax" else np.exp(wy)
            total = 1.0 if forward == "softmax" else float(n)
            # exp(y) carries the rounding of y, at most 2 spread + log n.
            grain = 8 * n**0.5 + 16 + (2 * _SPREAD + 8 if forward == "log_softmax" else 0)
            yield (got,), (want,), [grain * u * (share * total + np.abs(wg) * (share + u)) + 2 * u]


def _losses(dtype: str) -> Iterator[tuple[Array, Any, dict[str, Any]]]:
    for shape in ((4,), (5, 7), (3, 11, 4), (64, 10)):
        x = uniform(dtype, *shape, seed=1) * np.dtype(dtype).type(5)
        axis = 0 if len(shape) == 1 else 1
        where = tuple(s for i, s in enumerate(shape) if i != axis)
        rng = np.random.default_rng(2)
        target = rng.integers(0, shape[axis], where)
        weight = np.abs(uniform(dtype, shape[axis], seed=3)) + np.dtype(dtype).type(0.1)
        for reduction in ("mean", "sum", "none"):
            yield x, target, {"reduction": reduction}
            how = {"weight": weight, "label_smoothing": 0.1, "ignore_index": 1}
            yield x, target, {"reduction": reduction, **how}


def _widen(how: dict[str, Any]) -> dict[str, Any]:
    return {k: v.astype(np.float64) if isinstance(v, np.ndarray) else v for k, v in how.items()}


def _loss_grain(x: Array, dtype: str) -> float:
    """Relative error of one row's log-softmax, times the roundings of a sum over all rows."""
    classes = int(x.shape[0 if x.ndim == 1 else 1])
    rows = x.size // classes
    return float((20 + 8 * classes**0.5 + 8 * rows**0.5) * unit_roundoff(dtype))


def _cross_entropy(dtype: str) -> Iterator[Outcome]:
    for x, target, how in _losses(dtype):
        got = np.asarray(kernels.cross_entropy(x, target, **how))
        want = np.asarray(reference.cross_entropy(*_wide(x), target, **_widen(how)))
        # Each loss is at most the spread of the logits plus log of the classes, times a weight.
        rows = 1 if how["reduction"] != "sum" else max(1, np.size(target))
        if np.isnan(want).all():
            yield (np.isnan(got),), (np.isnan(want),), [0.0]
            continue
        yield (got,), (want,), [_loss_grain(x, dtype) * 15 * rows]


def _cross_entropy_backward(dtype: str) -> Iterator[Outcome]:
    for x, target, how in _losses(dtype):
        wx, wide = x.astype(np.float64), _widen(how)
        shape = np.shape(reference.cross_entropy(wx, target, **wide))
        g = np.asarray(uniform(dtype, *shape, seed=4))
        got = kernels.cross_entropy_backward(g, x, target, **how)
        want = reference.cross_entropy_backward(g.astype(np.float64), wx, target, **wide)
        if np.isnan(want).any():
            yield (np.isnan(got),), (np.isnan(want),), [0.0]
            continue
        # grad * weight * (softmax - target): both in [0, 1], weights below 1.1.
        yield (got,), (want,), [_loss_grain(x, dtype) * 1.1]


def _nll_loss(name: str, dtype: str) -> Iterator[Outcome]:
    u = unit_roundoff(dtype)
    for x, target, given in _losses(dtype):
        how = {key: value for key, value in given.items() if key != "label_smoothing"}
        (wx,), wide = _wide(x), _widen(how)
        loss = np.asarray(reference.nll_loss(wx, target, **wide))
        backward = name == "nll_loss_backward"
        g = np.asarray(uniform(dtype, *loss.shape, seed=4))
        args, wide_args = (g,) * backward, (g.astype(np.float64),) * backward
        want = np.asarray(getattr(reference, name)(*wide_args, wx, target, **wide))
        got = np.asarray(getattr(kernels, name)(*args, x, target, **how))
        if np.isnan(want).all():
            yield (np.isnan(got),), (np.isnan(want),), [0.0]
            continue
        # A product below 6, the sum over the samples and the division by their weights.
        rows = max(1, np.size(target))
        yield (got,), (want,), [(4 + 8 * rows**0.5) * u * 6 * rows]


_SIZES = (1, 7, 16, 33, 1003)


def _optimizer(
    name: str, states: int, options: list[dict[str, Any]], dtype: str
) -> Iterator[Outcome]:
    u = unit_roundoff(dtype)
    for how in options:
        params, grads = (
            [uniform(dtype, n, seed=s + i) for i, n in enumerate(_SIZES)] for s in (0, 50)
        )
        buffers = [[np.zeros(n, dtype) for n in _SIZES] for _ in range(states)]
        ours = [[a.copy() for a in arrays] for arrays in (params, *buffers)]
        wide = [list(_wide(*arrays)) for arrays in (params, *buffers)]
        wide_grads = list(_wide(*grads))
        steps = (1, 2, 3)
        for step in steps:
            number = () if name == "rmsprop_step" else (step,)
            getattr(kernels, name)(ours[0], grads, *ours[1:], *number, **how)
            getattr(reference, name)(wide[0], wide_grads, *wide[1:], *number, **how)
        got = tuple(a for arrays in ours for a in arrays)
        want = tuple(a for arrays in wide for a in arrays)
        # A dozen roundings per step, of values that stay below 1 + steps * lr. The clipping
        # factor carries those of a sum of all squares.
        grain = 16 * len(steps) + (8 * sum(_SIZES) ** 0.5 if "max_norm" in how else 0)
        yield got, want, [grain * u * (1 + np.abs(w)) for w in want]


def _embedding(dtype: str) -> Iterator[Outcome]:
    for rows, columns, count in ((3, 1, 4), (50, 33, 400)):
        indices = np.random.default_rng(1).integers(0, rows, count)
        w = uniform(dtype, rows, columns, seed=2)
        # Nothing is rounded.
        yield (kernels.embedding(indices, w),), (reference.embedding(indices, w),), [0.0]


def _embedding_backward(dtype: str) -> Iterator[Outcome]:
    for rows, columns, count in ((3, 1, 4), (50, 33, 400)):
        indices = np.random.default_rng(1).integers(0, rows, count)
        g = uniform(dtype, count, columns, seed=2)
        got = kernels.embedding_backward(g, indices, rows, 0)
        want = reference.embedding_backward(*_wide(g), indices, rows, 0)
        most = int(np.bincount(indices).max())
        yield (got,), (want,), [dot_bound(most, dtype, factors=1)]


_ADAM: list[dict[str, Any]] = [
    {"lr": 0.01},
    {"lr": 0.01, "weight_decay": 0.1, "decoupled": True},
    {"lr": 0.01, "weight_decay": 0.1, "eps_mode": "hat", "maximize": True, "eps": 1e-4},
    {"lr": 0.01, "grad_scale": 4.0, "max_norm": 0.5},
]
_SGD: list[dict[str, Any]] = [
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"lr": 0.1, "momentum": 0.5, "dampening": 0.5, "maximize": True, "max_norm": 0.5},
]
_ADAGRAD: list[dict[str, Any]] = [
    {"lr": 0.1, "eps": 1e-3},
    {"lr": 0.1, "eps": 1e-3, "lr_decay": 0.1, "weight_decay": 0.1, "maximize": True},
    {"lr": 0.1, "eps": 1e-3, "grad_scale": 4.0, "max_norm": 0.5},
]
_RMSPROP: list[dict[str, Any]] = [
    {"lr": 0.01, "eps": 1e-2},
    {"lr": 0.01, "eps": 1e-2, "alpha": 0.9, "weight_decay": 0.1, "max_norm": 0.5},
]

CHECKS: dict[str, Check] = {
    "linear": _linear,
    "linear_backward": _linear_backward,
    "matmul": _matmul,
    **{op: partial(_conv, op, axes) for op, axes in _CONV_OPS},
    **{f"{op}_backward": partial(_conv_backward, op, axes) for op, axes in _CONV_OPS},
    "conv2d_pool": _conv2d_pool,
    "unfold": _unfold,
    "fold": _fold,
    "max_pool2d": _max_pool2d,
    "max_pool2d_backward": _max_pool2d_backward,
    "avg_pool2d": _avg_pool2d,
    "avg_pool2d_backward": _avg_pool2d_backward,
    "softmax": partial(_softmax, "softmax"),
    "log_softmax": partial(_softmax, "log_softmax"),
    "softmax_backward": partial(_softmax_backward, "softmax_backward"),
    "log_softmax_backward": partial(_softmax_backward, "log_softmax_backward"),
    "cross_entropy": _cross_entropy,
    "cross_entropy_backward": _cross_entropy_backward,
    "nll_loss": partial(_nll_loss, "nll_loss"),
    "nll_loss_backward": partial(_nll_loss, "nll_loss_backward"),
    "glu": partial(_glu, "glu"),
    "glu_backward": partial(_glu, "glu_backward"),
    "dropout": partial(_dropout, "dropout"),
    "dropout_backward": partial(_dropout, "dropout_backward"),
    "adam_step": partial(_optimizer, "adam_step", 2, _ADAM),
    "sgd_step": partial(_optimizer, "sgd_step", 1, _SGD),
    "adagrad_step": partial(_optimizer, "adagrad_step", 1, _ADAGRAD),
    "rmsprop_step": partial(_optimizer, "rmsprop_step", 1, _RMSPROP),
    **ATTENTION_CHECKS,
    **NORM_CHECKS,
    "embedding": _embedding,
    "embedding_backward": _embedding_backward,
    **RECURRENT_CHECKS,
}


def _both(first: Check, second: Check) -> Check:
    def check(dtype: str) -> Iterator[Outcome]:
        yield from first(dtype)
        yield from second(dtype)

    return check


_VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((n, {}) for n in ("relu", "selu", "sigmoid", "tanh", "hardsigmoid", "hardswish", "silu")),
    ("leaky_relu", {"negative_slope": 0.02}),
    ("elu", {"alpha": 1.5}),
    ("gelu", {"approximate": "none"}),
    ("mish", {}),
    ("softplus", {"beta": 1.5}),
)
for _name, _extra in _VARIANTS:
    CHECKS[_name] = partial(_activation, _name, _extra)
    CHECKS[f"{_name}_backward"] = partial(_activation_backward, _name, _extra)

for _name, _forward, _backward in (
    ("lp_pool", _lp_pool, _lp_pool_backward),
    ("max_unpool", _max_unpool, _max_unpool_backward),
):
    for _axes in ("1d", "2d", "3d"):
        CHECKS[_name + _axes] = partial(_forward, _name + _axes)
        CHECKS[f"{_name}{_axes}_backward"] = partial(_backward, _name + _axes)
CHECKS["global_lp_pool"] = partial(_lp_pool, "global_lp_pool")
CHECKS["global_lp_pool_backward"] = partial(_lp_pool_backward, "global_lp_pool")

for _kind, _forward, _backward in (
    ("max", _max_pool, _max_pool_backward),
    ("avg", _avg_pool, _avg_pool_backward),
):
    for _stem in (
        "{}_pool1d",
        "{}_pool3d",
        "adaptive_{}_pool1d",
        "adaptive_{}_pool2d",
        "adaptive_{}_pool3d",
        "global_{}_pool",
    ):
        _name = _stem.format(_kind)
        CHECKS[_name] = partial(_forward, _name)
        CHECKS[f"{_name}_backward"] = partial(_backward, _name)

_TANH = {"approximate": "tanh"}
CHECKS["gelu"] = _both(CHECKS["gelu"], partial(_activation, "gelu", _TANH))
CHECKS["gelu_backward"] = _both(
    CHECKS["gelu_backward"], partial(_activation_backward, "gelu", _TANH)
)
