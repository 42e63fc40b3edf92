"""Convolutions on a device are the matrix products of their patches, bit for bit.

Products are held against the reference in test_gemm.py and test_gemm_float32.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import kernels
from tolerances import assert_same_bits, assert_within, dot_bound, storage_bound, widen


@dataclass(frozen=True)
class Case:
    """Options are the same along every axis, ``kernel`` and ``size`` are not."""

    n: int
    channels: tuple[int, int]
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    flip: bool = False

    def __str__(self) -> str:
        return " ".join(map(str, vars(self).values()))

    @property
    def out(self) -> tuple[int, ...]:
        reach = [s + 2 * self.padding - self.dilation * (k - 1) for s, k in self.pairs()]
        return tuple((r - 1) // self.stride + 1 for r in reach)

    def pairs(self) -> Iterator[tuple[int, int]]:
        return zip(self.size, self.kernel, strict=True)

    def sums(self) -> tuple[int, int, int]:
        """Count the products of a sum of y, dx and dw."""
        taps, pixels = int(np.prod(self.kernel)), self.n * int(np.prod(self.out))
        return self.channels[0] * taps, self.channels[1] * taps, pixels

    def options(self, layout: str) -> dict[str, Any]:
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "flip_kernel": self.flip,
            "layout": layout,
        }


#: Whole packs of channels, of planes, and none; more stages than are in shared memory; small tiles
#: and large ones with rests; sums that are left to CUDA cores.
CASES = [
    Case(2, (8, 70), (12, 11), (3, 3), padding=1),
    Case(2, (5, 9), (9, 10), (3, 3), stride=2, padding=1),
    Case(1, (16, 8), (7, 8), (3, 2), dilation=2, padding=2, flip=True),
    Case(2, (24, 72), (10, 12), (1, 1)),
    Case(1, (3, 8), (13, 12), (5, 4), stride=3, padding=2),
    Case(3, (8, 12), (37,), (5,), stride=2, padding=2),
    Case(1, (4, 8), (4, 5, 6), (2, 3, 2), padding=1),
    Case(1, (2, 4), (6, 6), (2, 2)),
]


def taken(source: Any, indices: list[Any]) -> Any:
    """Gather ``source[n, c, i, j, ...]`` of indices [position, tap] an axis, 0 where one is -1.

    Return [n, position, ..., channel, tap, ...].
    """
    count = len(indices)
    for axis, index in enumerate(indices):
        edge = np.zeros_like(source.take([0], 2 + 2 * axis))
        padded = np.concatenate([source, edge], 2 + 2 * axis)
        source = np.moveaxis(padded, 2 + 2 * axis, -1)[..., index]
        source = np.moveaxis(source, (-2, -1), (2 + 2 * axis, 3 + 2 * axis))
    positions = [2 + 2 * axis for axis in range(count)]
    return source.transpose(0, *positions, 1, *(p + 1 for p in positions))


def sources(case: Case, *, by_x: bool) -> list[Any]:
    """Index the source of every position of the result and every tap, -1 where there is none."""
    found = []
    for axis, (size, kernel) in enumerate(case.pairs()):
        taps = np.arange(kernel)[::-1] if case.flip else np.arange(kernel)
        if by_x:
            at = np.arange(size)[:, None] + case.padding - taps * case.dilation
            whole, at, limit = at % case.stride == 0, at // case.stride, case.out[axis]
        else:
            at = np.arange(case.out[axis])[:, None] * case.stride - case.padding
            at, limit = at + taps * case.dilation, size
            whole = np.ones_like(at, bool)
        found.append(np.where(whole & (at >= 0) & (at < limit), at, -1))
    return found


def expected(case: Case, layout: str, device: Any, grad: Any, x: Any, weight: Any) -> list[Any]:
    """Return y, dx and dw by products of patches, in the order of the layout's taps."""
    last = layout == "channels_last"

    def product(a: Any, b: Any) -> Any:
        return device.get(kernels.matmul(device.put(a.copy()), device.put(b.copy())))

    def in_order(taps: Any) -> Any:
        """Flatten [row, channel, tap, ...]."""
        return (np.moveaxis(taps, 1, -1) if last else taps).reshape(len(taps), -1)

    def rows(source: Any, *, by_x: bool) -> Any:
        patches = taken(source, sources(case, by_x=by_x))
        return in_order(patches.reshape(-1, source.shape[1], *case.kernel))

    def convolved(source: Any, weights: Any, size: tuple[int, ...], *, by_x: bool) -> Any:
        patches, flat = rows(source, by_x=by_x), in_order(weights)
        if last:
            return product(patches, flat.T).reshape(case.n, *size, len(flat))
        return np.moveaxis(product(flat, patches.T).reshape(len(flat), case.n, *size), 0, 1)

    y = convolved(x, weight, case.out, by_x=False)
    dx = convolved(grad, weight.swapaxes(0, 1), case.size, by_x=True)
    flat = np.moveaxis(grad, 1, 0).reshape(case.channels[1], -1)
    dw = product(flat, rows(x, by_x=False))
    if last:
        dw = np.moveaxis(dw.reshape(-1, *case.kernel, case.channels[0]), -1, 1)
    return [y, dx, dw.reshape(weight.shape)]


def arrays(case: Case, dtype: Any, rng: np.random.Generator) -> list[Any]:
    """Return grad, x and weight in channels_first."""
    shapes = (
        (case.n, case.channels[1], *case.out),
        (case.n, case.channels[0], *case.size),
        (case.channels[1], case.channels[0], *case.kernel),
    )
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def arranged(x: Any, layout: str) -> Any:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout == "channels_last" else x


def results(case: Case, layout: str, device: Any, grad: Any, x: Any, weight: Any) -> list[Any]:
    name = f"conv{len(case.size)}d"
    grad, x = (device.put(arranged(v, layout)) for v in (grad, x))
    given, options = [grad, x, device.put(weight)], case.options(layout)
    y = getattr(kernels, name)(*given[1:], **options)
    dx, dw, _ = getattr(kernels, f"{name}_backward")(*given, **options, needs=("x", "weight"))
    return [device.get(v) for v in (y, dx, dw)]


class Host:
    """The CPU in the place of a device."""

    put = staticmethod(np.ascontiguousarray)
    get = staticmethod(np.asarray)


def check(case: Case, layout: str, device: Any, *given: Any) -> None:
    """Compare bits, and of 16-bit elements on a GPU bounds.

    There a Hopper may take one of the two to wgmma, whose sums of 16 products round in their own
    way, and taps of channels_first in another order.
    """
    got, of = results(case, layout, device, *given), expected(case, layout, device, *given)
    bits = device.name == "host_cuda" or given[0].dtype.itemsize > 2
    scales = [] if bits else results(case, layout, Host, *(np.abs(widen(v)) for v in given))
    for i, (name, k) in enumerate(zip(("y", "dx", "dw"), case.sums(), strict=True)):
        a, b, label = got[i], np.ascontiguousarray(of[i]), f"{name} of {case} {layout}"
        if bits:
            assert_same_bits(a, b, label)
            continue
        bound = 2 * dot_bound(k, np.float32, scales[i])
        wide = widen(b)
        assert_within(a, wide, bound + 2 * storage_bound(np.abs(wide) + bound, a.dtype), label)


@pytest.fixture(params=["highest", "tf32"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    ann.set_float32_precision(request.param)
    yield request.param
    ann.set_float32_precision("highest")


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_of_patches(
    storage: Any, layout: str, case: Case, device: Any, rng: np.random.Generator
) -> None:
    check(case, layout, device, *arrays(case, storage, rng))


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[5]], ids=str)
def test_the_cpu_has_the_same_numbers(
    dtype: Any, layout: str, case: Case, device: Any, rng: np.random.Generator
) -> None:
    """But for rounding: both are within the bound of their sums."""
    given = arrays(case, dtype, rng)
    got, of = (results(case, layout, on, *given) for on in (device, Host))
    scales = results(case, layout, Host, *(np.abs(v).astype(float) for v in given))
    for name, a, b, k, scale in zip(("y", "dx", "dw"), got, of, case.sums(), scales, strict=True):
        assert_within(a, b, 2 * dot_bound(k, dtype, scale), f"{name} of {case} {layout}")


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_what_is_not_finite(layout: str, device: Any, rng: np.random.Generator) -> None:
    """And what overflows in its leading bits alone: formed again by multiply-adds."""
    grad, x, weight = arrays(CASES[0], np.float32, rng)
    x[0, 1, 3, 3], x[1, 2, 4, 5], weight[3, 1, 1, 1] = np.inf, np.nan, -np.inf
    grad[0, 1, 2, 2] = np.finfo("f").max
    with np.errstate(all="ignore"):
        check(CASES[0], layout, device, grad, x, weight)


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_precision_of_float32(layout: str, device: Any, rng: np.random.Generator) -> None:
    check(CASES[0], layout, device, *arrays(CASES[0], np.float32, rng))
