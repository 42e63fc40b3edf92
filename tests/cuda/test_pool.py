"""Every pooling on a device against the reference: the cases of the CPU, and what blocks share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from arraynn import kernels, reference
from halves import RoundedOnce
from kernels.problems import arranged, normal
from kernels.test_pool import CASES as IMAGES
from kernels.test_pool import DIVISORS
from kernels.test_pool_family import (
    ADAPTIVE,
    GLOBAL,
    SIGNALS,
    Call,
    check_average,
    check_max,
    pools,
    single_results,
)
from kernels.test_pool_integers import CALLS as INTEGERS
from kernels.test_pool_integers import DTYPES, values
from kernels.test_pool_lp import LP, NORMS, check_lp, check_lp_of_signs
from kernels.test_pool_unpool import UNPOOL, check_unpool
from kernels.test_pool_volume import ADAPTIVE as ADAPTIVE_VOLUMES
from kernels.test_pool_volume import WINDOWS as VOLUMES
from tolerances import assert_same_bits, native

#: Windows that lanes share: of 32 taps and more, along rows and across them, cut by padding.
LONG: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((3, 2, 300), {"kernel_size": 40, "stride": 37, "padding": 11}),
    ((2, 8, 300), {"kernel_size": 100, "ceil_mode": True}),
    ((1, 2, 90, 20), {"kernel_size": (9, 7), "stride": (5, 9), "padding": (2, 3)}),
    ((1, 4, 41, 43), {"kernel_size": (13, 17), "stride": 20, "dilation": (3, 2), "padding": 9}),
    ((2, 33, 9, 11), {"kernel_size": (9, 10), "padding": (0, 1), "stride": 5}),
    ((1, 3, 7, 8, 40), {"kernel_size": (5, 2, 9), "stride": (3, 1, 10), "padding": (2, 1, 4)}),
    ((1, 5, 7, 8, 9), {"kernel_size": (7, 7, 9), "padding": (0, 1, 0)}),
]


def names(x: Any, kind: str) -> str:
    return f"{kind}_pool{x.ndim - 2}d"


@pytest.mark.parametrize(("shape", "options"), [*SIGNALS, *IMAGES, *VOLUMES, *LONG], ids=str)
def test_windows(
    dtype: Any,
    layout: str,
    shape: tuple[int, ...],
    options: dict[str, Any],
    device: Any,
    rng: np.random.Generator,
) -> None:
    distinct = arranged(normal(rng, dtype, *shape), layout)
    equal = arranged(rng.integers(0, 3, shape).astype(dtype), layout)
    call: Call = (names(distinct, "{}"), (), {**options, "layout": layout})
    for x in (distinct, equal, -np.abs(distinct)):
        check_max(x, call, rng, device.kernels)
    for divisor in DIVISORS:
        check_average(distinct, (call[0], (), {**call[2], **divisor}), rng, device.kernels)


@pytest.mark.parametrize(("shape", "size"), [*ADAPTIVE, *ADAPTIVE_VOLUMES], ids=str)
def test_adaptive(
    dtype: Any,
    layout: str,
    shape: tuple[int, ...],
    size: Any,
    device: Any,
    rng: np.random.Generator,
) -> None:
    distinct = arranged(normal(rng, dtype, *shape), layout)
    equal = arranged(rng.integers(0, 3, shape).astype(dtype), layout)
    call: Call = ("adaptive_" + names(distinct, "{}"), (size,), {"layout": layout})
    for x in (distinct, equal):
        check_max(x, call, rng, device.kernels)
    check_average(distinct, call, rng, device.kernels)


@pytest.mark.parametrize("shape", [*GLOBAL, (2, 3, 1, 1, 1), (1, 19, 3, 4, 5), (1, 2, 5, 9, 34)])
def test_global(
    dtype: Any, layout: str, shape: tuple[int, ...], device: Any, rng: np.random.Generator
) -> None:
    x = arranged(normal(rng, dtype, *shape), layout)
    call: Call = ("global_{}_pool", (), {"layout": layout})
    check_max(x, call, rng, device.kernels)
    check_average(x, call, rng, device.kernels)


def every_kernel(dtype: Any, layout: str) -> list[tuple[tuple[int, ...], Call]]:
    """One call of each kernel: a thread a window, and lanes that share one; c by packs or not."""
    wide = {"kernel_size": (9, 7), "stride": (5, 9), "padding": (2, 3), "layout": layout}
    narrow = {"kernel_size": 3, "stride": 2, "padding": 1, "layout": layout}
    pack = 16 // np.dtype(dtype).itemsize
    return [
        ((2, pack, 20, 19), ("{}_pool2d", (), narrow)),
        ((2, pack + 1, 11, 19), ("{}_pool2d", (), narrow)),
        ((2, 3, 30, 20), ("{}_pool2d", (), wide)),
        ((2, 2 * pack, 9, 13), ("global_{}_pool", (), {"layout": layout})),
        ((1, 5, 6, 9), ("adaptive_{}_pool2d", ((4, 5),), {"layout": layout})),
    ]


def test_nan_and_infinities(dtype: Any, layout: str, device: Any, rng: np.random.Generator) -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0], dtype)
    for shape, call in every_kernel(dtype, layout):
        for choice in (special, special[2:], special[2:3]):
            x = arranged(rng.choice(choice, shape), layout)
            check_max(x, call, rng, device.kernels)
        x = np.ones(shape, dtype)
        x[0, 0, 1, 1], x[0, 1, 4, 4], x[0, 1, 5, 5] = np.nan, np.inf, -np.inf
        x = arranged(x, layout)
        mean, ref, *_ = pools("avg", call, device.kernels)
        np.testing.assert_allclose(mean(x, *call[1], **call[2]), ref(x, *call[1], **call[2]), 1e-6)


@pytest.mark.parametrize("position", [0, 1, 255, 256, 1000, 1001])
def test_lanes_find_the_first_nan_and_the_first_maximum(
    dtype: Any, layout: str, position: int, device: Any
) -> None:
    x = np.zeros((1, 2, 1003), dtype)
    x[0, 0, position:] = 1
    x[0, 1, position::7] = np.nan
    on = device.kernels
    for _ in device.schedules():
        y, indices = on.global_max_pool(arranged(x, layout), True, layout=layout)
        np.testing.assert_array_equal(y.ravel(), np.array([1, np.nan], dtype))
        np.testing.assert_array_equal(indices.ravel(), [position, position])


def test_empty_windows(dtype: Any, layout: str, device: Any) -> None:
    """A dilated window can miss the input altogether: the average is 0 and no gradient flows."""
    on, x = device.kernels, arranged(np.full((1, 17, 1, 1), 5, dtype), layout)
    args, options = (2, 1, ((2, 2), (2, 2))), {"dilation": 3, "layout": layout}
    y = on.avg_pool2d(x, *args, count_include_pad=False, **options)
    np.testing.assert_array_equal(y, np.zeros_like(y))
    back = on.avg_pool2d_backward(y + 1, x.shape, *args, count_include_pad=False, **options)
    np.testing.assert_array_equal(back, np.zeros_like(x))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_positions_of_64_bits(
    dtype: Any, layout: str, axis: int, device: Any, rng: np.random.Generator
) -> None:
    """A stride that int32 does not hold."""
    for kernel in ((3, 2, 3), (4, 5, 4)):
        stride, padding = [2, 1, 9], [1, 1, 1]
        stride[axis], padding[axis] = 1 << 40, 0
        options = {"stride": tuple(stride), "padding": tuple(padding), "layout": layout}
        for shape in ((2, 4, 7, 6, 21), (1, 3, 6, 5, 20)):
            x = arranged(normal(rng, dtype, *shape), layout)
            check_max(x, ("{}_pool3d", (kernel,), options), rng, device.kernels)
            check_average(x, ("{}_pool3d", (kernel,), options), rng, device.kernels)
            more = {"stride": tuple(stride), "layout": layout, "kernel_size": kernel}
            check_lp(x, 2, rng, device.kernels, **more)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        *LP,
        ((2, 3, 4, 6, 8), {"kernel_size": 2}),
        ((1, 17, 5, 7, 9), {"kernel_size": (2, 3, 2), "stride": 2, "ceil_mode": True}),
        ((1, 3, 5, 5, 5), {"kernel_size": 5}),
        ((1, 4, 9, 9, 11), {"kernel_size": 3, "dilation": (2, 1, 3), "padding": (2, 1, 3)}),
        ((1, 3, 5, 8, 7), {"kernel_size": (2, 3, 4), "stride": 2, "padding": "same"}),
        ((2, 8, 300), {"kernel_size": 100, "padding": 9, "ceil_mode": True}),
    ],
    ids=str,
)
def test_lp(
    dtype: Any,
    layout: str,
    shape: tuple[int, ...],
    options: dict[str, Any],
    norm: float,
    device: Any,
    rng: np.random.Generator,
) -> None:
    x = arranged(normal(rng, dtype, *shape), layout)
    x = x if norm in (1, 2) else np.abs(x) + np.asarray(0.01, dtype)
    check_lp(x, norm, rng, device.kernels, **options, layout=layout)


@pytest.mark.parametrize("norm", NORMS)
def test_global_lp(
    dtype: Any, layout: str, norm: float, device: Any, rng: np.random.Generator
) -> None:
    for shape in (*GLOBAL, (1, 19, 3, 4, 5), (1, 2, 5, 9, 34), (0, 3, 4, 4)):
        x = np.abs(arranged(normal(rng, dtype, *shape), layout)) + np.asarray(0.01, dtype)
        check_lp(x, norm, rng, device.kernels, "global_lp_pool", layout=layout)


def test_lp_of_signs_zeros_and_infinities(dtype: Any, layout: str, device: Any) -> None:
    check_lp_of_signs(dtype, layout, device.kernels)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        *UNPOOL,
        ((2, 17, 4, 6, 8), {"kernel_size": 2}),
        ((1, 5, 5, 6, 7), {"kernel_size": 3, "stride": (2, 3, 2), "padding": (1, 0, 1)}),
    ],
    ids=str,
)
def test_unpool(
    dtype: Any,
    layout: str,
    shape: tuple[int, ...],
    options: dict[str, Any],
    device: Any,
    rng: np.random.Generator,
) -> None:
    x = arranged(normal(rng, dtype, *shape), layout)
    check_unpool(x, layout, rng, device.kernels, **options)


def test_sixteen_bits_are_rounded_once(
    half: Any, layout: str, device: Any, rng: np.random.Generator
) -> None:
    on = RoundedOnce(device.kernels, half)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -1.0], np.float32)
    for shape, call in every_kernel(half, layout):
        x = arranged(normal(rng, np.float32, *shape), layout)
        check_average(x, call, rng, on)
        for numbers in (x, arranged(rng.choice(special, shape), layout)):
            check_max(numbers, call, rng, on)
    for shape, options in ((2, 16, 9, 8), {"kernel_size": 3}), ((1, 3, 40), {"kernel_size": 35}):
        x = np.abs(arranged(normal(rng, np.float32, *shape), layout)) + np.float32(0.01)
        for norm in NORMS:
            check_lp(x, norm, rng, on, **options, layout=layout)
            check_lp(x, norm, rng, on, "global_lp_pool", layout=layout)
            check_lp(x, norm, rng, on, **options, padding=1, layout=layout)
    for shape in ((2, 9, 8, 6), (1, 16, 4, 6, 8)):
        x = arranged(normal(rng, np.float32, *shape), layout)
        check_unpool(x, layout, rng, on, kernel_size=2)


def test_of_equal_indices_the_last_element_wins(
    dtype: Any, layout: str, device: Any, rng: np.random.Generator
) -> None:
    for shape in ((2, 19, 7), (2, 5, 24, 13), (1, 1, 1200)):
        x = arranged(normal(rng, dtype, *shape), layout)
        name, indices = f"max_unpool{x.ndim - 2}d", rng.integers(0, 6, x.shape)
        for schedule in device.schedules():
            got = getattr(device.kernels, name)(x, indices, 3, 2, 1, layout=layout)
            expected = getattr(reference, name)(x, indices, 3, 2, 1, layout=layout)
            assert_same_bits(got, expected, schedule)


def test_indices_outside_move_nothing(dtype: Any, layout: str, device: Any) -> None:
    """On a device their check would have to be waited for."""
    on, x = device.kernels, arranged(np.ones((2, 3, 8, 8), dtype), layout)
    y, indices = on.max_pool2d(x, 2, return_indices=True, layout=layout)
    for wrong in (-1, 64, 1 << 40, -(1 << 40)):
        bad = np.full_like(indices, wrong)
        for result in (
            on.max_pool2d_backward(y, x, 2, indices=bad, layout=layout),
            on.max_unpool2d(y, bad, 2, layout=layout),
            on.max_unpool2d_backward(x, bad, layout=layout),
        ):
            np.testing.assert_array_equal(result, np.zeros_like(result))


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(("name", "shape", "args", "options"), INTEGERS, ids=str)
def test_integers(
    kind: str,
    layout: str,
    name: str,
    shape: tuple[int, ...],
    args: tuple[Any, ...],
    options: dict[str, Any],
    device: Any,
    rng: np.random.Generator,
) -> None:
    kernel, ref = getattr(device.kernels, name), getattr(reference, name)
    options = {**options, "layout": layout}
    for channels in (shape[1], 16):
        for numbers in values(rng, kind, (shape[0], channels, *shape[2:])):
            x = arranged(numbers, layout)
            y, indices = ref(x, *args, **options, return_indices=True)
            got, where = kernel(x, *args, **options, return_indices=True)
            assert (got.dtype, where.dtype) == (kind, np.int64)
            np.testing.assert_array_equal(got, y)
            np.testing.assert_array_equal(where, indices)
            np.testing.assert_array_equal(kernel(x, *args, **options), y)


def results(x: Any, grad: Any, call: Call) -> dict[str, Any]:
    """Everything that a call and its gradients give, from device arrays."""
    largest = getattr(kernels, call[0].format("max"))
    y, indices = largest(x, *call[1], return_indices=True, **call[2])
    singles = {k: result() for k, result in single_results(x, grad, call).items()}
    return {"max with indices": y, "indices": indices, **singles}


def test_same_bits_at_every_schedule_and_in_any_memory(
    storage: Any, layout: str, device: Any, rng: np.random.Generator
) -> None:
    for shape, call in every_kernel(storage, layout):
        x = arranged(normal(rng, storage, *shape), layout)
        y = getattr(reference, call[0].format("max"))(native(x), *call[1], **call[2])
        grad = normal(rng, storage, *y.shape)
        there, grad_there = device.put(x), device.put(grad)
        first = {k: device.get(v) for k, v in results(there, grad_there, call).items()}
        for schedule in device.schedules():
            for k, v in results(there, grad_there, call).items():
                assert_same_bits(device.get(v), first[k], f"{k}, {schedule}")
        for step in (1, 2):  # beside 16 bytes; strided
            beside, grad_beside = (
                device.put(np.zeros(step * a.size + 1, storage))[1::step] for a in (x, grad)
            )
            for a, flat in ((x, beside), (grad, grad_beside)):
                flat[...] = device.put(a.ravel())
            shaped = [
                reshaped(device, flat, a.shape) for flat, a in ((beside, x), (grad_beside, grad))
            ]
            for k, v in results(*shaped, call).items():
                assert_same_bits(device.get(v), first[k], f"{k}, step {step}")


def reshaped(device: Any, flat: Any, shape: tuple[int, ...]) -> Any:
    """Return a view of a device array, which may be strided, in another shape."""
    if device.name == "cupy":
        return flat.reshape(shape)
    strides = np.cumprod((1, *shape[:0:-1]))[::-1] * flat.strides[0]
    host = np.lib.stride_tricks.as_strided(flat._host, shape, strides)
    return type(flat).of(host)


@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_and_nothing_beside_it(
    storage: Any, layout: str, strided: bool, device: Any, rng: np.random.Generator
) -> None:
    calls: list[Callable[..., Any]] = []
    for shape, call in every_kernel(storage, layout):
        x = arranged(normal(rng, storage, *shape), layout)
        y = getattr(reference, call[0].format("max"))(native(x), *call[1], **call[2])
        grad = normal(rng, storage, *y.shape)
        calls += single_results(device.put(x), device.put(grad), call).values()
    x = device.put(arranged(np.abs(normal(rng, storage, 2, 3, 8, 6)), layout))
    y, indices = kernels.max_pool2d(x, 2, return_indices=True, layout=layout)
    calls += [
        partial(kernels.lp_pool2d, x, 3, 2, layout=layout),
        partial(kernels.lp_pool2d_backward, y, x, y, 3, 2, layout=layout),
        partial(kernels.global_lp_pool, x, 3, layout=layout),
        partial(kernels.max_unpool2d, y, indices, 2, layout=layout),
        partial(kernels.max_unpool2d_backward, x, indices, layout=layout),
    ]
    for result in calls:
        expected = device.get(result())
        step = 2 if strided else 1
        host = np.full((*expected.shape[:-1], step * expected.shape[-1]), 7, storage)
        whole = device.put(np.stack([host, host, host]))
        out = whole[1][..., ::step]
        assert result(out=out) is out
        got = device.get(whole)
        assert_same_bits(got[1][..., ::step], expected)
        assert (got[[0, 2]] == 7).all()
        assert step == 1 or (got[1][..., 1::step] == 7).all()


def test_a_sample_alone(storage: Any, layout: str, device: Any, rng: np.random.Generator) -> None:
    """Samples of one launch, of several, and alone."""
    for shape, call in every_kernel(storage, layout):
        x = arranged(normal(rng, storage, 7, *shape[1:]), layout)
        y = getattr(reference, call[0].format("max"))(native(x), *call[1], **call[2])
        grad = normal(rng, storage, *y.shape)
        whole = results(device.put(x), device.put(grad), call)
        for samples in (slice(1), slice(2, 5)):
            alone = results(device.put(x[samples]), device.put(grad[samples]), call)
            for k, v in alone.items():
                assert_same_bits(device.get(v), device.get(whole[k])[samples], k)


def test_wrong_calls(device: Any) -> None:
    x, host = device.put(np.zeros((1, 2, 4, 4), np.float32)), np.zeros((1, 2, 2, 2), np.float32)
    y, indices = kernels.max_pool2d(x, 2, return_indices=True)
    wrong: list[tuple[Any, type[Exception], str]] = [
        (lambda: kernels.max_pool2d(x, 5), ValueError, "kernel_size: expected a window that fits"),
        (lambda: kernels.max_pool2d(x, 2, padding=2), ValueError, "padding: expected less than"),
        (lambda: kernels.avg_pool2d(x, 2, out=x), ValueError, "out: expected shape"),
        (lambda: kernels.avg_pool2d(x, 1, out=x), ValueError, "out: expected memory of its own"),
        (lambda: kernels.max_pool2d(x, 2, out=host), TypeError, "out: expected a "),
        (lambda: kernels.max_pool2d_backward(x, x, 1, out=x), ValueError, "out: expected memory"),
        (lambda: kernels.avg_pool2d_backward(x, x.shape, 1, out=y), ValueError, "out: expected sh"),
        (lambda: kernels.max_pool2d_backward(x, x, 2), ValueError, "grad_out: expected shape"),
        (lambda: kernels.max_pool2d_backward(host, x, 2), TypeError, "x: expected an array in CPU"),
        (lambda: kernels.max_unpool2d(y, y, 2), TypeError, "indices: expected int64"),
        (lambda: kernels.max_unpool2d(x, indices, 2), ValueError, "indices: expected shape"),
        (lambda: kernels.lp_pool2d(x, 0, 2), ValueError, "norm_type: expected a value > 0"),
    ]
    for call, exception, message in wrong:
        with pytest.raises(exception, match=message):
            call()


def test_launches_and_allocations(device: Any) -> None:
    if device.name != "host_cuda":
        pytest.skip("counted by the emulated device only")
    x = device.put(np.zeros((1, 2, 8, 8), np.float32))
    y, indices = kernels.max_pool2d(x, 2, return_indices=True)
    calls: list[tuple[Any, int, int]] = [
        (lambda: kernels.max_pool2d(x, 2), 1, 1),
        (lambda: kernels.max_pool2d(x, 2, return_indices=True), 1, 2),
        (lambda: kernels.global_avg_pool(x), 1, 1),
        (lambda: kernels.avg_pool2d_backward(y, x.shape, 2), 1, 1),
        (lambda: kernels.max_pool2d_backward(y, x, 2, indices=indices), 1, 1),
        (lambda: kernels.max_pool2d_backward(y, x, 2), 2, 2),  # finds the maxima first
        (lambda: kernels.max_unpool2d(y, indices, 2), 3, 2),
        (lambda: kernels.max_pool2d(x[:0], 2), 0, 1),
    ]
    for call, launches, allocations in calls:
        before = (device.launches(), device.ndarray.allocations)
        call()
        found = (device.launches() - before[0], device.ndarray.allocations - before[1])
        assert found == (launches, allocations)


@settings(max_examples=60)
@given(data=st.data())
def test_property(data: st.DataObject, device: Any) -> None:
    draw = data.draw
    dtype = np.dtype(draw(st.sampled_from(["f4", "f8"]), "dtype"))
    layout = draw(st.sampled_from(["channels_first", "channels_last"]), "layout")
    axes = draw(st.integers(1, 3), "axes")
    n, c = draw(st.integers(0, 3), "n"), draw(st.integers(0, 9), "c")
    each = st.integers(1, 3)
    sizes = [draw(st.integers(1, 12), "size") for _ in range(axes)]
    kernel = tuple(draw(st.integers(1, 5), "kernel") for _ in range(axes))
    pads = tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in kernel)
    options: dict[str, Any] = {
        "kernel_size": kernel,
        "stride": draw(st.one_of(st.none(), st.tuples(*[each] * axes)), "stride"),
        "padding": draw(st.sampled_from([0, pads, "same", "same_lower"]), "padding"),
        "ceil_mode": draw(st.booleans(), "ceil_mode"),
        "layout": layout,
    }
    if options["padding"] == 0:
        options["dilation"] = draw(st.tuples(*[each] * axes), "dilation")
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    numbers = normal(rng, dtype, n, c, *sizes)
    if draw(st.booleans(), "many equal values"):
        numbers = np.round(numbers)
    x = arranged(numbers, layout)
    call: Call = (names(x, "{}"), (), options)
    try:
        getattr(reference, names(x, "max"))(x, **options)
    except ValueError:
        with pytest.raises(ValueError, match=r"^\[max_pool"):
            getattr(device.kernels, names(x, "max"))(x, **options)
        assume(False)
    check_max(x, call, rng, device.kernels)
    divisor = draw(st.sampled_from(DIVISORS), "divisor")
    check_average(x, (call[0], (), {**options, **divisor}), rng, device.kernels)
