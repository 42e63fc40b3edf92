"""kernels.plan on a device: the scratch that a call takes there, told without launching it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from device_conv import arranged, normal

#: x, weight, options; what is read is copied or not, sums are in parts or not.
CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 8, 8), (16, 3, 3, 3), {"padding": 1}),
    ((2, 16, 9, 8), (24, 16, 3, 3), {"padding": 1}),
    ((2, 16, 9, 8), (24, 16, 1, 1), {}),
    ((2, 32, 9, 8), (16, 16, 2, 3), {"groups": 2, "stride": 2}),
    ((1, 9, 8, 8), (9, 1, 3, 3), {"groups": 9}),
    ((3, 8, 27, 27), (8, 8, 1, 1), {"padding": 1}),
    ((0, 3, 8, 8), (5, 3, 3, 3), {"padding": 1}),
]


@pytest.fixture
def taken(device: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], int]:
    """Return the most bytes of scratch that a call holds."""
    if device.name != "host_cuda":
        pytest.skip("counted by the emulated device only")
    import library

    held = {"now": 0, "most": 0}
    init = library.ndarray.__init__

    def bytes_of(array: Any) -> int:
        return array.nbytes if array.dtype == np.uint8 else 0

    def begin(array: Any, *arguments: Any) -> None:
        init(array, *arguments)
        held["now"] += bytes_of(array)
        held["most"] = max(held.values())

    def end(array: Any) -> None:
        held["now"] -= bytes_of(array)

    monkeypatch.setattr(library.ndarray, "__init__", begin)
    monkeypatch.setattr(library.ndarray, "__del__", end, raising=False)

    def most(call: Callable[[], Any]) -> int:
        held.update(now=0, most=0)
        call()
        return held["most"]

    return most


def check(device: Any, taken: Any, name: str, *arguments: Any, **options: Any) -> Any:
    before = device.launches()
    plan = kernels.plan(name, *arguments, **options)
    assert device.launches() == before
    if name.endswith("_backward"):
        (plan,) = (p for p in plan if p is not None)
    call = getattr(kernels, name)
    assert plan.scratch_bytes == taken(lambda: call(*arguments, **options)), (name, plan, options)
    return plan


@pytest.mark.parametrize("capability", [8, 9])
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_scratch(
    storage: Any,
    capability: int,
    layout: str,
    case: Any,
    device: Any,
    taken: Any,
    rng: np.random.Generator,
) -> None:
    device.module.set_capability(capability, 0)
    try:
        x_shape, w_shape, given = case
        options = {**given, "layout": layout}
        x = device.put(arranged(normal(rng, storage, *x_shape), layout))
        weight = device.put(normal(rng, storage, *w_shape))
        check(device, taken, "conv2d", x, weight, **options)
        check(device, taken, "conv2d_pool", x, weight, **options)
        y_shape = reference.conv2d(np.zeros(x_shape), np.zeros(w_shape), **given).shape
        grad = device.put(arranged(normal(rng, storage, *y_shape), layout))
        for needs in (("x",), ("weight",)):
            check(device, taken, "conv2d_backward", grad, x, weight, **options, needs=needs)
        if "stride" not in given:
            check(device, taken, "conv_transpose2d", grad, weight, **options)
            check(
                device,
                taken,
                "conv_transpose2d_backward",
                *(x, grad, weight),
                **options,
                needs=("weight",),
            )
    finally:
        device.module.set_capability(8, 0)


def test_what_is_told(device: Any) -> None:
    if device.name != "host_cuda":
        pytest.skip("of a device that is a Hopper or none")

    def zeros(*shape: int) -> Any:
        return device.put(np.zeros(shape, np.float16))

    last = {"layout": "channels_last"}
    x, weight = zeros(2, 8, 8, 64), zeros(32, 64, 3, 3)
    plan = kernels.plan("conv2d", x, weight, padding=1, **last)
    assert plan.scratch_bytes == 32 * 64 * 9 * 2  # the weight in the order of the taps
    device.module.set_capability(9, 0)
    try:
        assert "bulk" in kernels.plan("conv2d", x, weight, padding=1, **last).reason
        first = kernels.plan("conv2d", zeros(2, 64, 8, 8), weight, padding=1)
        assert first.scratch_bytes == (32 * 64 * 9 + 2 * 64 * 64) * 2  # and x in channels_last
        assert kernels.plan("conv2d", x, zeros(32, 64, 1, 1), **last).algorithm == "gemm"
    finally:
        device.module.set_capability(8, 0)
    pooled = kernels.plan("conv2d_pool", x, weight, padding=1, **last)
    assert pooled.scratch_bytes == plan.scratch_bytes + 2 * 64 * 32 * 2
    stencil = kernels.plan("conv2d", zeros(1, 9, 8, 8), zeros(9, 1, 3, 3), groups=9)
    assert (stencil.algorithm, stencil.scratch_bytes) == ("depthwise", 0)
    empty = kernels.plan("conv2d", zeros(0, 3, 8, 8), zeros(9, 3, 3, 3))
    assert (empty.algorithm, empty.reason) == ("none", "there is nothing to compute")
    with pytest.raises(NotImplementedError, match="on a GPU, got 'winograd'"):
        kernels.plan("conv2d", x, weight, algorithm="winograd", **last)
    before = device.launches()
    kernels.conv2d(x, weight, **last)  # what raised is no longer described
    assert device.launches() > before
