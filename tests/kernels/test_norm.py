"""Layer, RMS, batch, group and instance normalisation against the reference, at every ISA."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from arraynn import kernels
from memory import Guarded, mixed_layouts
from norm_checks import (
    IMAGES,
    ROW_NORMS,
    Problem,
    check,
    check_constant_data,
    check_nothing,
    check_rows,
    check_specials,
)
from tolerances import assert_gradient, assert_same_bits

from .problems import normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")


@pytest.mark.parametrize("shape", IMAGES, ids=str)
@pytest.mark.parametrize("name", ["batch_norm", "group_norm", "instance_norm"])
def test_channels(name: str, shape: Any, layout: str, dtype: Any, rng: np.random.Generator) -> None:
    if name == "instance_norm" and not shape[2]:
        shape = (*shape[:2], (2,))
    check(kernels, Problem(name, shape, layout, rng, dtype))
    if name != "group_norm":
        check(kernels, Problem(name, shape, layout, rng, dtype, fixed=True), "relu")


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=25)
def test_channels_of_any_shape(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["batch_norm", "group_norm", "instance_norm"]))
    positions = data.draw(st.lists(st.integers(1, 9), max_size=3))
    shape = (data.draw(st.integers(1, 5)), data.draw(st.integers(1, 70)), tuple(positions))
    fixed = name != "group_norm" and data.draw(st.booleans())
    count = int(np.prod(positions)) * (shape[0] if name == "batch_norm" else 1)
    hypothesis.assume(fixed or count > 1 or name == "group_norm")
    problem = Problem(
        name,
        shape,
        data.draw(st.sampled_from(["channels_first", "channels_last"])),
        np.random.default_rng(data.draw(st.integers(0, 9))),
        np.dtype(data.draw(st.sampled_from([np.float32, np.float64]))),
        fixed=fixed,
    )
    check(kernels, problem, data.draw(st.sampled_from([None, "relu", "silu", "gelu_tanh"])))


@pytest.mark.parametrize("name", ROW_NORMS)
@pytest.mark.parametrize("n", [1, 2, 7, 16, 33, 130, 4096, 9001])
def test_rows(name: str, n: int, dtype: Any, rng: np.random.Generator) -> None:
    check_rows(kernels, name, n, dtype, rng)


def test_rows_over_several_axes(dtype: Any, rng: np.random.Generator) -> None:
    x, w, b = normal(rng, dtype, 4, 3, 5, 6), normal(rng, dtype, 5, 6), normal(rng, dtype, 5, 6)
    flat = kernels.layer_norm(x.reshape(12, 30), 30, w.reshape(30), b.reshape(30))
    assert_same_bits(kernels.layer_norm(x, (5, 6), w, b), flat.reshape(x.shape))
    _, mean, rstd = kernels.layer_norm(x, [5, 6], return_stats=True)
    assert mean.shape == rstd.shape == (4, 3)
    dw = kernels.layer_norm_backward(x, x, (5, 6), w)[1]
    assert dw is not None
    assert dw.shape == (5, 6)
    whole = kernels.layer_norm(x, x.shape, return_stats=True)
    assert whole[1].shape == ()


@pytest.mark.parametrize("name", ["layer_norm", "batch_norm", "group_norm", "instance_norm"])
def test_a_large_mean_costs_no_precision(
    name: str, layout: str, dtype: Any, rng: np.random.Generator
) -> None:
    # x is exact: the output's error must be that of a few roundings of y, not of x.
    offset = dtype.type(2.0**12)
    step = 2.0**-8
    x = (rng.integers(-1000, 1000, (4, 6, 5000)) * step).astype(dtype) + offset
    if layout == "channels_last":
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    wide = np.moveaxis(x, -1, 1) if layout == "channels_last" else x
    exact = wide.astype(np.longdouble) - offset
    shapes = {
        "layer_norm": (x.shape[-1:], -1),
        "batch_norm": ((), (0, 2)),
        "group_norm": ((2,), (2, 3)),
        "instance_norm": ((), 2),
    }
    args, axes = shapes[name]
    if name == "layer_norm":
        exact, y = x.astype(np.longdouble) - offset, kernels.layer_norm(x, *args)
    elif name == "group_norm":
        exact = exact.reshape(4, 2, 3, -1)
        y = kernels.group_norm(x, 2, layout=layout)
    elif name == "batch_norm":
        y = kernels.batch_norm(x, training=True, layout=layout)
    else:
        y = kernels.instance_norm(x, layout=layout)
    spread = exact.var(axes, keepdims=True)
    expected = (exact - exact.mean(axes, keepdims=True)) / np.sqrt(spread + np.longdouble(1e-5))
    if name != "layer_norm" and layout == "channels_last":
        y = np.moveaxis(y, -1, 1)
    error = np.abs(y.reshape(expected.shape) - expected)
    # y is below 2; m2 is a sum of thousands of squares in chains of at most 64. In float64 the mean
    # is rounded whenever blocks, of 64 positions at least, are merged.
    merges = x.size / x.shape[-1 if "last" in layout else 1] / 64
    rounded = merges * float(offset / np.sqrt(spread).min()) if dtype == np.float64 else 0
    assert error.max() < (64 + rounded / 2) * np.finfo(dtype).eps


def test_constant_data(dtype: Any, layout: str) -> None:
    check_constant_data(kernels, dtype, layout)


def test_nan_and_infinity_stay_in_their_statistic(dtype: Any) -> None:
    check_specials(kernels, dtype)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_nothing_in_nothing_out(dtype: Any, shape: Any, layout: str) -> None:
    check_nothing(kernels, shape, dtype, layout)


def calls(rng: np.random.Generator, dtype: Any) -> dict[str, tuple[Any, Any]]:
    """By name: a function of arrays, and the arrays."""
    x, grad = normal(rng, dtype, 3, 6, 5, 7), normal(rng, dtype, 3, 6, 5, 7)
    w, b, rw = normal(rng, dtype, 6), normal(rng, dtype, 6), normal(rng, dtype, 7)
    rb, var = normal(rng, dtype, 7), rng.uniform(0.5, 2, 6).astype(dtype)
    k = kernels
    return {
        "layer_norm": (lambda x, w, b, **o: k.layer_norm(x, 7, w, b, **o), (x, rw, rb)),
        "layer_norm_backward": (lambda g, x, w: k.layer_norm_backward(g, x, 7, w), (grad, x, rw)),
        "rms_norm": (lambda x, w, **o: k.rms_norm(x, 7, w, **o), (x, rw)),
        "rms_norm_backward": (lambda g, x, w: k.rms_norm_backward(g, x, 7, w), (grad, x, rw)),
        "batch_norm": (
            lambda x, w, b, **o: k.batch_norm(x, None, None, w, b, True, **o),
            (x, w, b),
        ),
        "batch_norm, fixed": (k.batch_norm, (x, b, var, w, b)),
        "batch_norm_backward": (
            lambda g, x, w: k.batch_norm_backward(g, x, None, None, w, True),
            (grad, x, w),
        ),
        "group_norm": (lambda x, w, b, **o: k.group_norm(x, 3, w, b, **o), (x, w, b)),
        "group_norm_backward": (lambda g, x, w: k.group_norm_backward(g, x, 3, w), (grad, x, w)),
        "instance_norm": (
            lambda x, w, b, **o: k.instance_norm(x, None, None, w, b, **o),
            (x, w, b),
        ),
        "instance_norm_backward": (
            lambda g, x, w: k.instance_norm_backward(g, x, None, None, w),
            (grad, x, w),
        ),
    }


def results(got: Any) -> tuple[Any, ...]:
    """Return what a kernel gave as a tuple of arrays."""
    return (got,) if isinstance(got, np.ndarray) else tuple(got)


def test_any_memory(dtype: Any, rng: np.random.Generator) -> None:
    for name, (function, arrays) in calls(rng, dtype).items():
        expected = function(*arrays)
        for memory, moved in mixed_layouts(*arrays):
            for a, b in zip(results(function(*moved)), results(expected), strict=True):
                assert_same_bits(a, b, f"{name}, {memory}")


def test_running_statistics_in_any_memory(dtype: Any, rng: np.random.Generator) -> None:
    x = normal(rng, dtype, 4, 5, 3)
    for name in ("batch_norm", "instance_norm"):
        plain = np.zeros(5, dtype), np.ones(5, dtype)
        getattr(kernels, name)(x, *plain, None, None, True)
        big = np.full((2, 16), 7, dtype)
        views = big[0, 1:11:2], big[1, 14:4:-2]
        views[0][...], views[1][...] = 0, 1
        getattr(kernels, name)(x, *views, None, None, True)
        assert_same_bits(views[0], plain[0])
        assert_same_bits(views[1], plain[1])
        assert (np.delete(big[0], range(1, 11, 2)) == 7).all()


@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_and_nothing_beside_it(
    dtype: Any, strided: bool, rng: np.random.Generator
) -> None:
    for name, (function, arrays) in calls(rng, dtype).items():
        if "backward" in name:
            continue
        guard = Guarded(arrays[0].shape, dtype, strided=strided)
        assert function(*arrays, out=guard.out) is guard.out
        assert_same_bits(guard.out, function(*arrays), name)
        guard.check()


def test_backward_is_the_derivative(layout: str, rng: np.random.Generator) -> None:
    for name, shape in itertools.product(
        ("batch_norm", "group_norm", "instance_norm"), ((3, 4, (5,)), (2, 6, (3, 3)))
    ):
        problem = Problem(name, shape, layout, rng, np.dtype(np.float64))
        operands = list(problem.operands())
        gradients = problem.backward(kernels, operands)
        for i, at in enumerate((0, 2, 3)):

            def total(v: Any, at: int = at, operands: Any = operands, p: Any = problem) -> Any:
                changed = [*operands[:at], v, *operands[at + 1 :]]
                return np.sum(operands[1] * p.forward(kernels, changed))

            assert_gradient(total, operands[at], gradients[i], rng, label=name)
    x, grad, w = rng.standard_normal((3, 6, 9))
    dx, dw = kernels.rms_norm_backward(grad, x, 9, w[0])
    assert dx is not None
    assert dw is not None
    assert_gradient(lambda v: np.sum(grad * kernels.rms_norm(v, 9, w[0])), x, dx, rng)
    assert_gradient(lambda v: np.sum(grad * kernels.rms_norm(x, 9, v)), w[0], dw, rng)
    dx, dw, db = kernels.layer_norm_backward(grad, x, 9, w[0])
    for i, (at, gradient) in enumerate(((x, dx), (w[0], dw), (w[1], db))):
        assert gradient is not None

        def rows(v: Any, i: int = i) -> Any:
            arguments = [x, w[0], w[1]]
            arguments[i] = v
            return np.sum(grad * kernels.layer_norm(arguments[0], 9, *arguments[1:]))

        assert_gradient(rows, at, gradient, rng, label="layer_norm")


def test_same_bits_for_every_thread_count_and_batch(
    dtype: Any, layout: str, rng: np.random.Generator
) -> None:
    # Boxes of a thread, and phases of the team; short planes and blocks of long ones.
    shapes = [(8, 24, (33, 33)), (2, 3, (230, 230)), (40, 130, (5, 7))]
    for name, shape in itertools.product(("batch_norm", "group_norm", "instance_norm"), shapes):
        problem = Problem(name, shape, layout, rng, dtype)
        operands = problem.operands()
        y = problem.forward(kernels, operands)
        grads = problem.backward(kernels, operands)
        for n in thread_counts():
            assert_same_bits(problem.forward(kernels, operands), y, f"{name}, {n} threads")
            for a, b in zip(
                results(problem.backward(kernels, operands)), results(grads), strict=True
            ):
                assert_same_bits(a, b, f"{name}_backward, {n} threads")
        if name != "batch_norm":
            one = (operands[0][1:2], *operands[1:])
            assert_same_bits(problem.forward(kernels, one), y[1:2], f"{name} of one sample")
    for rows, n in ((3000, 70), (5, 40_000)):
        x, grad, w = normal(rng, dtype, rows, n), normal(rng, dtype, rows, n), normal(rng, dtype, n)
        for name in ROW_NORMS:
            forward, backward = getattr(kernels, name), getattr(kernels, f"{name}_backward")
            y, grads = forward(x, n, w), backward(grad, x, n, w)
            for threads in thread_counts():
                assert_same_bits(forward(x, n, w), y, f"{name}, {threads} threads")
                for a, b in zip(results(backward(grad, x, n, w)), results(grads), strict=True):
                    assert_same_bits(a, b, f"{name}_backward, {threads} threads")
            assert_same_bits(forward(x[1:2], n, w), y[1:2], f"{name} of one row")
