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
        ((1, 8, 9, 9), (4, 4, 3, 3), {"groups": 2}, "direct"),
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


def test_other_axes_and_float64() -> None:
    assert kernels.plan("conv1d", *arrays((1, 8, 30), (8, 8, 3))).algorithm == "direct"
    assert kernels.plan("conv3d", *arrays((1, 8, 9, 9, 9), (8, 8, 3, 3, 3))).algorithm == "direct"
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
                got = kernels.plan(op, *pair, stride=p.stride, **more)
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
            planned = kernels.plan(op, *pair, **options, layout=layout).scratch_bytes
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
        kernels.plan("relu", x)
