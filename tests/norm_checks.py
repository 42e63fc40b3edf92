"""The norms held against the reference, for every device.

`kernels` is ``arraynn.kernels``, or something that calls it elsewhere.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from arraynn import reference
from kernels.problems import normal
from tolerances import (
    assert_close_to_reference,
    assert_same_bits,
    compute_dtype,
    finfo,
    native,
    widen,
)

ROW_NORMS = ("layer_norm", "rms_norm")
#: (n, c, positions): planes and columns around vectors and blocks, one position, one channel.
IMAGES = [
    (2, 1, (3,)),
    (3, 6, ()),
    (2, 4, (7, 7)),
    (1, 12, (65,)),
    (3, 34, (2, 2)),
    (2, 2, (4099,)),
]


class Problem:
    """A call of one of the norms over channels, the operands in any dtype."""

    def __init__(
        self, name: str, shape: Any, layout: str, rng: Any, dtype: Any, *, fixed: bool = False
    ) -> None:
        n, c, positions = shape
        full = (n, *positions, c) if layout == "channels_last" else (n, c, *positions)
        self.name, self.layout, self.fixed, self.n, self.c = name, layout, fixed, n, c
        self.groups = next(g for g in (4, 3, 2, 1) if c % g == 0)
        self.x, self.grad = 2 * normal(rng, dtype, *full) + dtype.type(3), normal(rng, dtype, *full)
        self.weight, self.bias = normal(rng, dtype, c), normal(rng, dtype, c)
        self.mean, self.var = normal(rng, dtype, c), rng.uniform(0.5, 2, c).astype(dtype)

    def operands(self) -> tuple[Any, ...]:
        """Everything that has a dtype."""
        return self.x, self.grad, self.weight, self.bias, self.mean, self.var

    def forward(self, module: Any, operands: Any, **options: Any) -> Any:
        x, _, weight, bias, mean, var = operands
        function = getattr(module, self.name)
        options["layout"] = self.layout
        if self.name == "group_norm":
            return function(x, self.groups, weight, bias, **options)
        return function(x, mean, var, weight, bias, not self.fixed, 0.3, **options)

    def backward(self, module: Any, operands: Any, **options: Any) -> Any:
        x, grad, weight, _, mean, var = operands
        function = getattr(module, f"{self.name}_backward")
        options["layout"] = self.layout
        if self.name == "group_norm":
            return function(grad, x, self.groups, weight, **options)
        return function(grad, x, mean, var, weight, not self.fixed, **options)

    def spread(self, a: Any) -> Any:
        """One number per channel, to broadcast with x."""
        tail = 0 if self.layout == "channels_last" else self.x.ndim - 2
        return np.asarray(a).reshape(-1, *[1] * tail)

    def statistics(self, stats: Any) -> Any:
        """(c,), (n, groups) or (n, c) as something that broadcasts with x."""
        if stats.ndim == 1:
            return self.spread(stats)
        full = stats.repeat(self.c // stats.shape[1], axis=1)
        middle = (1,) * (self.x.ndim - 2)
        if self.layout == "channels_last":
            return full.reshape(self.n, *middle, self.c)
        return full.reshape(self.n, self.c, *middle)


def check(kernels: Any, problem: Problem, activation: str | None = None) -> None:
    """Hold forward and backward against the reference."""
    ours = problem.operands()
    plain_ones = native(*(a.copy() for a in ours))
    wide = widen(*ours)
    label = f"{problem.name} of {problem.x.shape}, {problem.layout}, fixed {problem.fixed}"
    options: dict[str, Any] = {"activation": activation, "return_stats": True}
    y, mean, rstd = problem.forward(kernels, ours, **options)
    ref_y, ref_mean, ref_rstd = problem.forward(reference, wide, **options)
    plain_y, plain_mean, plain_rstd = problem.forward(reference, plain_ones, **options)
    assert mean.dtype == rstd.dtype == np.float64, label
    kind = compute_dtype(problem.x.dtype)
    # Statistics are float64 whatever the dtype: of a float32 input they are held in its units.
    size = np.abs(wide[0]).max()
    for got, ref, plain in ((mean, ref_mean, plain_mean), (rstd, ref_rstd, plain_rstd)):
        assert_close_to_reference(
            got.astype(kind), ref, plain.astype(kind), scale=np.abs(ref) + size, label=label
        )
    # |x| and |mean| meet in a difference, which rstd and the weight scale.
    level = np.abs(wide[0]) + np.abs(problem.statistics(ref_mean))
    scale = problem.spread(np.abs(wide[2])) * problem.statistics(ref_rstd)
    terms = level * scale + problem.spread(np.abs(wide[3]))
    assert_close_to_reference(y, ref_y, plain_y, scale=1.2 * terms, label=label)
    for got, ref, plain in zip(ours[4:], wide[4:], plain_ones[4:], strict=True):
        limit = np.abs(ref) + size + size**2
        assert_close_to_reference(got, ref, plain, scale=limit, label=f"{label}, running")

    got = problem.backward(kernels, ours, stats=(mean, rstd))
    again = problem.backward(kernels, ours)
    ref = problem.backward(reference, wide)
    plain = problem.backward(reference, plain_ones)
    positions = tuple(
        i
        for i in range(problem.x.ndim)
        if i != (problem.x.ndim - 1 if "last" in problem.layout else 1)
    )
    grad = np.abs(wide[1])
    rstd_wide = problem.statistics(ref_rstd)
    xhat = level * rstd_wide
    scales = (
        scale * (grad + grad.max() * (1 + xhat)),
        (grad * xhat).sum(positions),
        grad.sum(positions),
    )
    names = ("x", "weight", "bias")
    for i, name in enumerate(names):
        for result in (got[i], again[i]):
            assert_close_to_reference(
                result, ref[i], plain[i], scale=scales[i], label=f"{label}, backward by {name}"
            )
        for wanted in itertools.combinations(names, i):
            some = problem.backward(kernels, ours, stats=(mean, rstd), needs=wanted)
            for j, other in enumerate(names):
                if other in wanted:
                    assert_same_bits(some[j], got[j], f"{label}, needs {wanted}")
                else:
                    assert some[j] is None


def check_rows(
    kernels: Any, name: str, n: int, dtype: Any, rng: np.random.Generator, rows: int = 37
) -> None:
    """Hold a norm of rows of n elements and its backward against the reference."""
    centred = name == "layer_norm"
    x, grad = 2 * normal(rng, dtype, rows, n) + dtype.type(3), normal(rng, dtype, rows, n)
    w, b = normal(rng, dtype, n), normal(rng, dtype, n)
    for weight, bias, activation in (
        (w, b, "relu"),
        (w, None, None),
        (None, b, smooth("tanh", dtype)),
        (None,) * 3,
    ):
        if not centred and bias is not None and weight is None:
            continue
        vectors = (weight, bias) if centred else (weight,)
        forward, formula = getattr(kernels, name), getattr(reference, name)
        options: dict[str, Any] = {"activation": activation, "return_stats": True}
        y, *stats = forward(x, n, *vectors, **options)
        ref, *ref_stats = formula(widen(x), n, *widen_all(vectors), eps_of(name, dtype), **options)
        plain, *_ = formula(native(x), n, *map(native, vectors), eps_of(name, dtype), **options)
        assert all(s.dtype == np.float64 and s.shape == (rows,) for s in stats)
        mean = ref_stats[0][:, None] if centred else 0
        xhat = (np.abs(widen(x)) + np.abs(mean)) * ref_stats[-1][:, None]
        scale = xhat * (1 if weight is None else np.abs(widen(weight)))
        level = scale if bias is None else scale + np.abs(widen(bias))
        assert_close_to_reference(y, ref, plain, scale=1.2 * level, label=f"{name} of {n}")

        given: Any = tuple(stats) if centred else stats[0]
        backward, formula = (getattr(m, f"{name}_backward") for m in (kernels, reference))
        got, again = backward(grad, x, n, weight, stats=given), backward(grad, x, n, weight)
        ref = formula(*widen(grad, x), n, widen(weight), eps_of(name, dtype))
        plain = formula(*native(grad, x), n, native(weight), eps_of(name, dtype))
        g = np.abs(widen(grad)) * (1 if weight is None else np.abs(widen(weight)))
        sizes = np.abs(widen(grad))
        scales = (
            ref_stats[-1][:, None] * (g + g.max() * (1 + xhat)),
            (sizes * xhat).sum(0),
            sizes.sum(0),
        )
        for i, expected in enumerate(ref):
            for result in (got[i], again[i]):
                label = f"{name}_backward of {n}, {i}"
                assert_close_to_reference(result, expected, plain[i], scale=scales[i], label=label)
        assert_same_bits(backward(grad, x, n, weight, stats=given, needs=("x",))[0], got[0])
        alone = backward(grad, x, n, weight, stats=given, needs=("weight",))
        assert alone[0] is None
        assert_same_bits(alone[1], got[1])


def smooth(activation: str, dtype: Any) -> str:
    """Return it, or relu for 16 bits: those are rounded once more before any other activation."""
    return activation if compute_dtype(dtype) == dtype else "relu"


def eps_of(name: str, dtype: Any) -> float:
    """What the kernel takes by default; the oracle is of a wider dtype."""
    return float(finfo(dtype).eps) if name == "rms_norm" else 1e-5


def widen_all(arrays: Any) -> list[Any]:
    return [None if a is None else widen(a) for a in arrays]


def check_constant_data(kernels: Any, dtype: Any, layout: str) -> None:
    """Equal numbers are their own mean: nothing but its rounding is left."""
    x = np.full((3, 4, 37), 0.1, dtype)
    if layout == "channels_last":
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    for y in (
        kernels.layer_norm(x, x.shape[-1]),
        kernels.batch_norm(x, training=True, layout=layout),
        kernels.group_norm(x, 2, layout=layout),
        kernels.instance_norm(x, layout=layout),
    ):
        # The mean's own rounding, times rstd = 1 / sqrt(eps).
        assert np.abs(y).max() <= finfo(compute_dtype(dtype)).eps * 0.1 * 317


def check_specials(kernels: Any, dtype: Any) -> None:
    """NaN and infinity stay in the statistic that they belong to."""
    x = np.arange(2 * 4 * 40).astype(dtype).reshape(2, 4, 40)
    for bad in (np.nan, np.inf):
        y = x.copy()
        y[0, 1, 35] = bad
        got = kernels.layer_norm(y, 40)
        assert np.isnan(got[0, 1]).any()
        assert np.isfinite(got[0, 0]).all()
        assert np.isfinite(got[1]).all()
        got = kernels.batch_norm(y, training=True)
        assert np.isnan(got[0, 1, 35])
        assert np.isnan(kernels.batch_norm(y, training=True, activation="relu")[0, 1, 35])
        assert np.isfinite(got[:, [0, 2, 3]]).all()
        got = kernels.group_norm(y, 2)
        assert np.isnan(got[0, 1, 35])
        assert np.isfinite(got[0, 2:]).all()
        assert np.isfinite(got[1]).all()
    # Fixed statistics: a gradient does not look at x.
    y = np.full_like(x, np.inf)
    zero, one = np.zeros(4, dtype), np.ones(4, dtype)
    for layout in ("channels_first", "channels_last"):
        at = y if layout == "channels_first" else np.ascontiguousarray(np.moveaxis(y, 1, -1))
        dx = kernels.batch_norm_backward(np.ones_like(at), at, zero, one, layout=layout)[0]
        np.testing.assert_allclose(dx.astype(np.float64), 1, rtol=1e-5)


def check_nothing(kernels: Any, shape: Any, dtype: Any, layout: str) -> None:
    """Empty arrays give empty results, statistics that do not move and gradients of 0."""
    x = np.zeros(shape, dtype)
    channels = shape[-1 if layout == "channels_last" else 1]
    mean, var = np.ones(channels, dtype), np.ones(channels, dtype)
    assert kernels.batch_norm(x, mean, var, training=True, layout=layout).shape == shape
    np.testing.assert_array_equal(mean, 1)
    np.testing.assert_array_equal(var, 1)
    assert kernels.group_norm(x, 1, layout=layout).shape == shape
    assert kernels.instance_norm(x, layout=layout).shape == shape
    for grads in (
        kernels.batch_norm_backward(x, x, training=True, layout=layout),
        kernels.group_norm_backward(x, x, 1, layout=layout),
        kernels.instance_norm_backward(x, x, layout=layout),
    ):
        np.testing.assert_array_equal(grads[0], x)
        np.testing.assert_array_equal(grads[1], np.zeros(channels))
        np.testing.assert_array_equal(grads[2], np.zeros(channels))
    for name in ROW_NORMS:
        y, *stats = getattr(kernels, name)(x, shape[-1], return_stats=True)
        assert y.shape == shape
        assert all(np.isfinite(s).all() for s in stats)
        grads = getattr(kernels, f"{name}_backward")(x, x, shape[-1])
        assert grads[0].shape == shape
        np.testing.assert_array_equal(grads[1], np.zeros(shape[-1]))
