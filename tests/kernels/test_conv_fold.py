"""unfold and fold against the reference and PyTorch, at every ISA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arraynn import kernels, reference
from memory import LAYOUTS, Guarded, in_layout, mixed_layouts
from tolerances import assert_close_to_reference, assert_gradient, assert_same_bits, widen

from .problems import normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

CASES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((1, 1, 1, 1), {"kernel_size": 1}),
    ((2, 3, 7, 9), {"kernel_size": 3, "padding": 1}),
    ((2, 3, 8, 70), {"kernel_size": (2, 3), "stride": (2, 1)}),
    ((1, 5, 9, 10), {"kernel_size": (3, 2), "stride": 2, "dilation": (1, 3), "padding": (2, 1)}),
    ((1, 2, 4, 5), {"kernel_size": 3, "padding": ((4, 0), (0, 5)), "stride": (1, 3)}),
    ((0, 3, 5, 5), {"kernel_size": 2}),
    ((2, 0, 5, 5), {"kernel_size": 2}),
]


def check(
    x: Any, rng: np.random.Generator, kernels: Any = kernels, **options: Any
) -> tuple[Any, Any]:
    """Unfold moves numbers; fold adds them: both results, the second one of other numbers."""
    y = kernels.unfold(x, **options)
    assert y.flags.c_contiguous
    assert_same_bits(y, reference.unfold(x, **options))
    columns, sizes = normal(rng, x.dtype, *y.shape), x.shape[2:]
    got = kernels.fold(columns, sizes, **options)
    wide, native = (reference.fold(v, sizes, **options) for v in (widen(columns), columns))
    scale = reference.fold(np.abs(widen(columns)), sizes, **options)
    assert_close_to_reference(got, wide, native, scale=scale, label="fold")
    return y, got


def check_property(data: st.DataObject, kernels: Any, widest: int) -> None:
    """Windows of any kind over images up to `widest` columns, in any memory, also wrong ones."""
    draw = data.draw
    dtype = draw(st.sampled_from([np.float32, np.float64]), "dtype")
    n, c, h, w = (draw(st.integers(*r)) for r in ((0, 2), (0, 5), (1, 12), (1, widest)))
    pad = st.integers(0, 3)
    options = {
        "kernel_size": tuple(draw(st.integers(1, 4)) for _ in range(2)),
        "stride": tuple(draw(st.integers(1, 4)) for _ in range(2)),
        "dilation": draw(st.integers(1, 3), "dilation"),
        "padding": draw(st.one_of(pad, st.tuples(*[st.tuples(pad, pad)] * 2)), "padding"),
    }
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), "seed"))
    x = in_layout(draw(st.sampled_from(sorted(LAYOUTS))), normal(rng, dtype, n, c, h, w))
    try:
        reference.unfold(x, **options)
    except ValueError:
        with pytest.raises(ValueError, match=r"^\[unfold\]"):
            kernels.unfold(x, **options)
        assume(False)
    check(x, rng, kernels, **options)


@pytest.mark.parametrize(("shape", "options"), CASES, ids=str)
def test_values(
    dtype: Any, shape: tuple[int, ...], options: dict[str, Any], rng: np.random.Generator
) -> None:
    check(normal(rng, dtype, *shape), rng, **options)


def test_each_is_the_gradient_of_the_other(rng: np.random.Generator) -> None:
    options: dict[str, Any] = {"kernel_size": (3, 2), "stride": 2, "padding": 1}
    x = normal(rng, np.float64, 2, 3, 7, 8)
    grad = normal(rng, np.float64, *kernels.unfold(x, **options).shape)
    grad_x = kernels.fold(grad, (7, 8), **options)
    assert_gradient(lambda v: np.sum(grad * kernels.unfold(v, **options)), x, grad_x, rng)
    grad_y = kernels.unfold(x, **options)
    assert_gradient(lambda v: np.sum(x * kernels.fold(v, (7, 8), **options)), grad, grad_y, rng)


def test_any_memory_and_out(dtype: Any, rng: np.random.Generator) -> None:
    x = normal(rng, dtype, 2, 3, 7, 9)
    y = kernels.unfold(x, 3, 1, 1, 2)
    image = kernels.fold(y, (7, 9), 3, 1, 1, 2)
    for label, (a, b) in mixed_layouts(x, y):
        assert_same_bits(kernels.unfold(a, 3, 1, 1, 2), y, label)
        assert_same_bits(kernels.fold(b, (7, 9), 3, 1, 1, 2), image, label)
    for strided in (False, True):
        guard = Guarded(y.shape, dtype, strided=strided)
        assert kernels.unfold(x, 3, 1, 1, 2, out=guard.out) is guard.out
        assert_same_bits(guard.out, y)
        guard.check()
        guard = Guarded(image.shape, dtype, strided=strided)
        assert kernels.fold(y, (7, 9), 3, 1, 1, 2, out=guard.out) is guard.out
        assert_same_bits(guard.out, image)
        guard.check()


def test_same_bits_for_every_thread_count_and_batch(dtype: Any, rng: np.random.Generator) -> None:
    x = normal(rng, dtype, 3, 20, 40, 41)
    y = kernels.unfold(x, 3, 1, 1)
    image = kernels.fold(y, (40, 41), 3, 1, 1)
    for n in thread_counts():
        assert_same_bits(kernels.unfold(x, 3, 1, 1), y, f"{n} threads")
        assert_same_bits(kernels.fold(y, (40, 41), 3, 1, 1), image, f"{n} threads")
        assert_same_bits(kernels.fold(y[1:2], (40, 41), 3, 1, 1), image[1:2], "alone")


def test_nan_and_infinity_are_moved(dtype: Any) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1], dtype).reshape(1, 1, 2, 2)
    assert_same_bits(kernels.unfold(x, 1, padding=1), reference.unfold(x, 1, padding=1))
    columns = kernels.unfold(x, 2, padding=1)
    np.testing.assert_array_equal(
        kernels.fold(columns, 2, 2, padding=1), reference.fold(columns, 2, 2, padding=1)
    )


@given(data=st.data())
def test_property(data: st.DataObject) -> None:
    check_property(data, kernels, 40)


def test_torch_is_a_second_witness(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((2, 3, 7, 9))
    args = ((3, 2), (1, 2), (1, 0), (2, 1))
    y = torch.nn.functional.unfold(torch.from_numpy(x), *args)
    np.testing.assert_array_equal(reference.unfold(x, *args), y.numpy())
    folded = torch.nn.functional.fold(y, (7, 9), *args).numpy()
    np.testing.assert_allclose(reference.fold(y.numpy(), (7, 9), *args), folded, rtol=1e-12)
