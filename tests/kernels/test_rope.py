"""rope and its backward against the reference, PyTorch and ONNX' node cases, at every ISA."""

from __future__ import annotations

from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from arraynn import kernels, reference
from memory import Guarded, mixed_layouts
from onnx_nodes import attributes_of, node_cases
from tolerances import assert_gradient, assert_same_bits, assert_within, dot_bound, widen

from .problems import normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

HALVES = [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65]


def tables(dtype: Any, positions: int, half: int) -> tuple[Any, Any]:
    """Return cosines and sines as a layer has them."""
    angles = np.arange(positions)[:, None] * 10000.0 ** (-np.arange(half) / max(half, 1))
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def check(x: Any, cos: Any, sin: Any, positions: Any = None, **how: Any) -> Any:
    """Hold both directions against the reference and return the forward."""
    y = kernels.rope(x, cos, sin, positions, **how)
    dx = kernels.rope_backward(x, cos, sin, positions, **how)
    # Two products of an element each: both are at most what they are for |x| and all angles 1.
    ones = np.ones_like(cos)
    wide, angles = widen(x), widen(cos, sin)
    magnitude = np.abs(reference.rope(np.abs(wide), ones, -ones, positions, **how))
    size = np.maximum(magnitude, reference.rope(np.abs(wide), ones, ones, positions, **how))
    bound = dot_bound(2, x.dtype, size)
    assert_within(y, reference.rope(wide, *angles, positions, **how), bound)
    assert_within(dx, reference.rope_backward(wide, *angles, positions, **how), bound)
    turned = 2 * cos.shape[-1]
    assert_same_bits(y[..., turned:], x[..., turned:])
    return y


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("half", HALVES)
def test_values(dtype: Any, half: int, interleaved: bool, rng: np.random.Generator) -> None:
    cos, sin = tables(dtype, 40, half)
    for more in (0, 1, 19):
        x = normal(rng, dtype, 2, 3, 5, 2 * half + more)
        y = check(x, cos, sin, interleaved=interleaved)
        swapped = np.ascontiguousarray(x.swapaxes(1, 2))
        other = kernels.rope(swapped, cos, sin, interleaved=interleaved, layout="blhd")
        assert_same_bits(other, y.swapaxes(1, 2))


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
@pytest.mark.parametrize("kind", [np.int64, np.int32])
def test_positions(dtype: Any, layout: str, kind: Any, rng: np.random.Generator) -> None:
    cos, sin = tables(dtype, 50, 9)
    x = normal(rng, dtype, 3, 4, 4, 20)
    length = 4
    own = rng.integers(0, 50, (3, length)).astype(kind)
    y = check(x, cos, sin, own, layout=layout)
    for b in range(3):
        one = check(x[b], cos, sin, own[b], layout=layout)
        assert_same_bits(one, y[b], "a sample alone")
    assert_same_bits(kernels.rope(x, cos[own], sin[own], layout=layout), y, "tables of samples")
    check(x, cos[own], sin[own], layout=layout)
    shared = np.arange(7, 7 + length, dtype=kind)
    y = check(x, cos, sin, shared, layout=layout)
    assert_same_bits(kernels.rope(x, cos, sin, 7, layout=layout), y, "an offset")
    assert_same_bits(kernels.rope(x, cos[7:], sin[7:], layout=layout), y, "rows from 0")


@hypothesis.given(data=st.data())
def test_any_call(isa: str, data: Any) -> None:
    del isa
    draw = data.draw
    batch, heads, length = (draw(st.integers(0, 4)) for _ in range(3))
    half, more = draw(st.integers(0, 20)), draw(st.integers(0, 5))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    layout = draw(st.sampled_from(["bhld", "blhd"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    sizes = (heads, length) if layout == "bhld" else (length, heads)
    x = normal(rng, dtype, batch, *sizes, 2 * half + more)
    cos, sin = tables(dtype, 30, half)
    positions = draw(st.sampled_from(["none", "start", "shared", "own", "table"]))
    args: dict[str, Any] = {
        "none": (cos, sin),
        "start": (cos, sin, 3),
        "shared": (cos, sin, rng.integers(0, 30, length)),
        "own": (cos, sin, rng.integers(0, 30, (batch, length))),
        "table": tuple(normal(rng, dtype, batch, length, half) for _ in range(2)),
    }
    check(x, *args[positions], interleaved=draw(st.booleans()), layout=layout)


def test_infinities_and_denormals(dtype: Any) -> None:
    cos, sin = tables(dtype, 2, 1)
    x = np.array([[[np.inf, 1.0, np.nan], [np.nan, np.inf, -np.inf]]], dtype)
    np.testing.assert_array_equal(kernels.rope(x, cos, sin), reference.rope(x, cos, sin))
    tiny = np.full((1, 1, 3), np.finfo(dtype).smallest_subnormal, dtype)
    assert kernels.rope(tiny, cos, sin).ravel().tolist()[2] == tiny[0, 0, 0]  # copied, not computed


def test_any_memory(dtype: Any, rng: np.random.Generator) -> None:
    cos, sin = tables(dtype, 9, 5)
    x, positions = normal(rng, dtype, 2, 3, 6, 13), rng.integers(0, 9, (2, 6))
    y, dx = kernels.rope(x, cos, sin, positions), kernels.rope_backward(x, cos, sin, positions)
    for memory, (a, c, s, p) in mixed_layouts(x, cos, sin, positions):
        assert_same_bits(kernels.rope(a, c, s, p), y, memory)
        assert_same_bits(kernels.rope_backward(a, c, s, p), dx, memory)
    packed = normal(rng, dtype, 2, 6, 3, 3, 13)  # slices of a projection are read where they lie
    for i in range(3):
        part = packed[:, :, i]
        got = kernels.rope(part, cos, sin, layout="blhd")
        assert_same_bits(got, kernels.rope(part.copy(), cos, sin, layout="blhd"))


@pytest.mark.parametrize("strided", [False, True])
def test_out_is_filled_and_nothing_beside_it(
    dtype: Any, strided: bool, rng: np.random.Generator
) -> None:
    for half, interleaved in ((5, False), (5, True), (16, True)):
        cos, sin = tables(dtype, 9, half)
        x = normal(rng, dtype, 2, 3, 6, 2 * half + 3)
        for function in (kernels.rope, kernels.rope_backward):
            guard = Guarded(x.shape, dtype, strided=strided)
            got = function(x, cos, sin, interleaved=interleaved, out=guard.out)
            assert got is guard.out
            assert_same_bits(guard.out, function(x, cos, sin, interleaved=interleaved))
            guard.check()


def test_same_bits_for_every_thread_count(dtype: Any, rng: np.random.Generator) -> None:
    cos, sin = tables(dtype, 300, 32)
    x = normal(rng, dtype, 2, 5, 300, 70)
    y = kernels.rope(x, cos, sin)
    for n in thread_counts():
        assert_same_bits(kernels.rope(x, cos, sin), y, f"{n} threads")
    assert_same_bits(kernels.rope(x[1:], cos, sin), y[1:], "a sample alone")


@pytest.mark.parametrize("interleaved", [False, True])
def test_backward_is_the_derivative(interleaved: bool, rng: np.random.Generator) -> None:
    cos, sin = tables(np.float64, 6, 4)
    x, grad = rng.standard_normal((2, 2, 6, 11)), rng.standard_normal((2, 2, 6, 11))
    gradient = kernels.rope_backward(grad, cos, sin, interleaved=interleaved)

    def loss(v: Any) -> Any:
        return np.sum(grad * kernels.rope(v, cos, sin, interleaved=interleaved))

    assert_gradient(loss, x, gradient, rng)


def test_products_depend_on_the_distance_alone(rng: np.random.Generator) -> None:
    cos, sin = tables(np.float64, 64, 8)
    q, k = rng.standard_normal((2, 1, 1, 16))
    products = [
        np.sum(kernels.rope(q[None], cos, sin, i + 5) * kernels.rope(k[None], cos, sin, i))
        for i in (0, 1, 17, 58)
    ]
    np.testing.assert_allclose(products, products[0], rtol=1e-12)


def test_pytorchs_product_of_complex_numbers(dtype: Any, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    cos, sin = tables(dtype, 7, 12)
    x = normal(rng, dtype, 2, 3, 7, 24)
    pairs = torch.view_as_complex(torch.from_numpy(x).reshape(2, 3, 7, 12, 2))
    angles = torch.complex(torch.from_numpy(cos), torch.from_numpy(sin))
    expected = torch.view_as_real(pairs * angles).flatten(3).numpy()
    bound = 2 * dot_bound(2, dtype, 2 * np.abs(x).max())
    assert_within(kernels.rope(x, cos, sin, interleaved=True), expected, bound)


ONNX_CASES = node_cases(rotaryembedding="RotaryEmbedding")


@pytest.mark.parametrize("name", ONNX_CASES)
def test_onnx(name: str) -> None:
    options = attributes_of(ONNX_CASES[name])
    ((x, cos, sin, *positions), (expected,)) = ONNX_CASES[name].data_sets[0]
    how: dict[str, Any] = {"interleaved": bool(options.get("interleaved", 0))}
    if x.ndim == 3:
        x = x.reshape(*x.shape[:2], options["num_heads"], -1)
        how["layout"] = "blhd"
    assert cos.shape[-1] == (options.get("rotary_embedding_dim") or x.shape[-1]) // 2
    got = kernels.rope(x, cos, sin, *positions, **how).reshape(expected.shape)
    # The tolerance of ONNX' own runner.
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-7)


def test_onnx_has_cases() -> None:
    pytest.importorskip("onnx")
    assert len(ONNX_CASES) >= 8
