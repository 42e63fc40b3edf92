"""`kernels.plan`: the algorithm that a call takes, told without running it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import _core, kernels
from arraynn.cli import _benchmarks

pytestmark = pytest.mark.usefixtures("isa")


def arrays(x: tuple[int, ...], weight: tuple[int, ...], dtype: Any = np.float32) -> Any:
    return np.ones(x, dtype), np.ones(weight, dtype)


_plan_of: Any = kernels.plan  # called with names from tables


@pytest.mark.parametrize(
    ("x", "weight", "options", "algorithm"),
    [
        ((1, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}, "winograd"),
        ((1, 64, 28, 28), (64, 64, 3, 3), {"padding": 1, "algorithm": "direct"}, "direct"),
        ((1, 64, 28, 28), (64, 64, 3, 3), {"stride": 2}, "direct"),
        ((1, 64, 28, 28), (32, 64, 1, 1), {}, "gemm"),
        ((3, 64, 28, 28), (32, 64, 1, 1), {}, "gemm"),
        ((1, 28, 28, 64), (32, 64, 1, 1), {"layout": "channels_last"}, "gemm"),
        ((1, 64, 28, 28), (64, 1, 3, 3), {"groups": 64}, "depthwise"),
        ((1, 8, 9, 9), (4, 4, 3, 3), {"groups": 2}, "first"),
        ((1, 10, 9, 9), (4, 5, 3, 3), {"groups": 2}, "direct"),
        ((0, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}, "none"),
    ],
    ids=str,
)
def test_algorithm_of_conv2d(x: Any, weight: Any, options: dict[str, Any], algorithm: str) -> None:
    got = kernels.plan("conv2d", *arrays(x, weight), **options)
    assert got.algorithm == algorithm
    assert got.op == "conv2d"
    assert got.reason
    # A stencil of 3x3 reads its planes where they lie.
    assert (got.scratch_bytes == 0) == (algorithm in ("none", "depthwise"))
    assert str(got).startswith(f"conv2d: {algorithm} (")


#: Shapes of x and weight, options, and the algorithms of the gradients by the two.
GRADIENTS: list[tuple[Any, Any, dict[str, Any], tuple[str, str]]] = [
    ((2, 64, 28, 28), (64, 64, 3, 3), {"padding": 1}, ("winograd", "winograd")),
    (
        (2, 64, 28, 28),
        (64, 64, 3, 3),
        {"padding": 1, "algorithm": "direct"},
        ("direct", "direct"),
    ),
    ((2, 64, 28, 28), (64, 64, 3, 3), {"stride": 2}, ("direct", "direct")),
    ((2, 64, 28, 28), (32, 64, 1, 1), {}, ("gemm", "gemm")),
    ((2, 64, 28, 28), (64, 1, 3, 3), {"groups": 64, "stride": 2}, ("depthwise", "depthwise")),
    ((2, 64, 28, 28), (128, 1, 3, 3), {"groups": 64}, ("few", "depthwise")),
    ((2, 3, 28, 28), (32, 3, 3, 3), {"padding": 1}, ("few", "direct")),
    ((1, 64, 7, 7), (32, 64, 1, 1), {}, ("direct", "gemm")),
    ((0, 64, 28, 28), (64, 64, 3, 3), {}, ("none", "none")),
]


@pytest.mark.parametrize(("x", "weight", "options", "algorithms"), GRADIENTS, ids=str)
def test_algorithms_of_gradients(
    x: Any, weight: Any, options: dict[str, Any], algorithms: tuple[str, str]
) -> None:
    """Of conv2d, and of the transposed one, whose gradient by x is the forward convolution."""
    pair = arrays(x, weight)
    grad = kernels.conv2d(*pair, **options)
    got = kernels.plan("conv2d_backward", grad, *pair, **options)
    assert tuple(p and p.algorithm for p in got) == (*algorithms, None)
    for name, p in zip(("x", "weight"), got, strict=False):
        assert p is not None
        assert p.op == "conv2d_backward"
        assert p.reason
        alone = kernels.plan("conv2d_backward", grad, *pair, **options, needs=(name,))
        assert [q for q in alone if q is not None] == [p]
    assert kernels.plan("conv2d_backward", grad, *pair, **options, needs=()) == (None,) * 3
    if x[0] == 0:
        return
    up = {"output_padding": 1, **options} if "stride" in options else options
    got_up = kernels.plan("conv_transpose2d", grad, pair[1], **up)
    assert (got_up.algorithm, got_up.op) == (algorithms[0], "conv_transpose2d")
    back = kernels.plan("conv_transpose2d_backward", pair[0], grad, pair[1], **up)
    forward = kernels.plan("conv2d", *pair, **options)
    assert back[0] is not None
    assert back[1] is not None
    assert (back[0].algorithm, back[0].scratch_bytes) == (forward.algorithm, forward.scratch_bytes)
    assert back[1].algorithm == algorithms[1]


def test_other_axes_and_float64() -> None:
    line, box = arrays((2, 8, 30), (8, 8, 3)), arrays((1, 8, 9, 9, 9), (8, 8, 3, 3, 3))
    for op, pair in (("conv_transpose1d", line), ("conv_transpose3d", box)):
        assert _plan_of(op, *pair).algorithm == "direct"
        assert _plan_of(op, *pair, stride=2).scratch_bytes
    for op, pair in (("conv1d_backward", line), ("conv3d_backward", box)):
        grad = getattr(kernels, op.replace("_backward", ""))(*pair)
        assert [p and p.algorithm for p in _plan_of(op, grad, *pair)] == ["direct", "direct", None]

    assert kernels.plan("conv1d", *arrays((1, 8, 30), (8, 8, 3))).algorithm == "direct"
    assert kernels.plan("conv3d", *arrays((1, 8, 9, 9, 9), (8, 8, 3, 3, 3))).algorithm == "direct"
    lanes = arrays((1, 8, 9, 9, 9), (8, 1, 3, 3, 3))
    assert kernels.plan("conv3d", *lanes, groups=8).algorithm == "depthwise"
    assert kernels.plan("conv_transpose3d", *lanes, groups=8).algorithm == "depthwise"
    wide = arrays((1, 64, 28, 28), (64, 64, 3, 3), np.float64)
    assert kernels.plan("conv2d", *wide, padding=1).algorithm == "direct"
    assert kernels.plan("conv2d", *arrays((1, 64, 9, 9), (64, 1, 5, 5)), groups=64).scratch_bytes


def forward_cases() -> list[Any]:
    """Every forward convolution of the benchmarks."""
    families = [_benchmarks.load(name) for name in ("conv", "conv_other")]
    found = [case.prepare.args[0] for f in families for case in f.cases("float32")]
    return [p for p in found if not p.backward and "transpose" not in getattr(p, "op", "")]


def test_scratch_of_other_algorithms_is_bounded(dtype: Any, layout: str) -> None:
    """Under 8 MiB, for one and for two, at all shapes of the benchmarks."""
    algorithms = set()
    for p in forward_cases():
        op, groups = getattr(p, "op", "conv2d"), getattr(p, "groups", 1)
        sizes = (p.size,) * int(op[-2])
        shape = (p.n, *sizes, p.ic) if layout == "channels_last" else (p.n, p.ic, *sizes)
        weight = (p.oc, p.ic // groups, *(p.kernel for _ in sizes))
        pair = [np.broadcast_to(np.zeros((), dtype), s) for s in (shape, weight)]
        more: dict[str, Any] = {"padding": p.padding, "groups": groups, "layout": layout}
        for n in (1, 2):
            with ann.threads(n):
                got = _plan_of(op, *pair, stride=p.stride, **more)
            algorithms.add(got.algorithm)
            assert got.algorithm == "winograd" or got.scratch_bytes < 8 << 20, (p.name, got)
    assert {"direct", "gemm", "depthwise"} <= algorithms


@pytest.mark.parametrize(
    ("op", "x", "weight", "options"),
    [
        ("conv1d", (1, 512, 1599), (512, 512, 3), {"stride": 2}),
        ("conv2d", (8, 256, 14, 14), (512, 256, 3, 3), {"padding": 1, "stride": 2}),
        ("conv2d", (8, 256, 14, 14), (256, 256, 3, 3), {"padding": 1}),
        ("conv3d", (8, 512, 4, 4, 4), (512, 512, 3, 3, 3), {"padding": 1}),
    ],
    ids=str,
)
def test_scratch_is_what_the_call_takes(
    op: str, x: Any, weight: Any, options: dict[str, Any], layout: str
) -> None:
    """The one block that a call leaves in the cache; blocks are up to an eighth larger."""
    pair = arrays(np.moveaxis(np.empty(x), 1, -1).shape if layout == "channels_last" else x, weight)
    run = getattr(kernels, op)
    before = _core.block_cache()["limit_bytes"]
    for n in (1, 2):
        with ann.threads(n):
            planned = _plan_of(op, *pair, **options, layout=layout).scratch_bytes
            out = run(*pair, **options, layout=layout)
            try:
                _core.set_block_cache_limit(0)
                _core.set_block_cache_limit(before)
                run(*pair, **options, layout=layout, out=out)
                left = _core.block_cache()
            finally:
                _core.set_block_cache_limit(before)
        assert left["cached_blocks"] == 1
        assert planned <= left["cached_bytes"] <= planned * 9 // 8


@pytest.mark.parametrize("name", ["x", "weight"])
@pytest.mark.parametrize(
    ("x", "weight", "options"),
    [
        ((8, 256, 14, 14), (512, 256, 3, 3), {"padding": 1, "algorithm": "direct"}),
        ((8, 256, 14, 14), (256, 256, 3, 3), {"padding": 1}),
        ((2, 64, 64, 64), (64, 1, 5, 5), {"padding": 2, "groups": 64}),
        ((8, 3, 64, 64), (64, 3, 7, 7), {"padding": 3}),
    ],
    ids=str,
)
def test_scratch_of_gradients_is_what_they_take(
    x: Any, weight: Any, options: dict[str, Any], name: str
) -> None:
    """Of stride 1, where a gradient is one call."""
    pair = arrays(x, weight)
    grad = kernels.conv2d(*pair, **options)
    how: dict[str, Any] = {**options, "needs": (name,)}
    before = _core.block_cache()["limit_bytes"]
    for n in (1, 2):
        with ann.threads(n):
            told = [p for p in kernels.plan("conv2d_backward", grad, *pair, **how) if p is not None]
            kept = kernels.conv2d_backward(grad, *pair, **how)
            try:
                _core.set_block_cache_limit(0)
                _core.set_block_cache_limit(before)
                again = kernels.conv2d_backward(grad, *pair, **how)
                left = _core.block_cache()["cached_bytes"]
            finally:
                _core.set_block_cache_limit(before)
        del kept, again
        assert told[0].scratch_bytes <= left <= told[0].scratch_bytes * 9 // 8


def test_threads_are_those_of_the_limit() -> None:
    pair = arrays((8, 64, 56, 56), (64, 64, 3, 3))
    for count in (1, 2):
        with ann.threads(count):
            assert kernels.plan("conv2d", *pair, padding=1).threads == count


def test_errors_are_those_of_the_call() -> None:
    x, weight = arrays((1, 6, 8, 8), (4, 3, 3, 3))
    with pytest.raises(ValueError, match=r"\[conv2d\] weight: expected 6 input channels"):
        kernels.plan("conv2d", x, weight)
    with pytest.raises(NotImplementedError, match=r"\[plan\] op: expected one of 'conv1d'"):
        _plan_of("relu", x)
    with pytest.raises(ValueError, match=r"\[conv2d_backward\] grad_out: expected"):
        kernels.plan("conv2d_backward", x, x, weight, groups=2)
    with pytest.raises(ValueError, match=r"\[conv_transpose2d\] weight: expected 6 input"):
        kernels.plan("conv_transpose2d", x, weight)
