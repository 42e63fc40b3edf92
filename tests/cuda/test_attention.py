"""attention and attention_varlen on a device, forward and backward, against the reference."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import arraynn as ann
from arraynn import kernels, reference
from attention_device import OPTIONS, check, put_all
from attention_problems import fill, normal, problems
from tolerances import (
    assert_close_to_reference,
    assert_gradient,
    assert_same_bits,
    native,
    widen,
)

#: (batch, heads, kv_heads, Lq, Lk, D, Dv) around the tiles of 64 (32 keys in float32, 32 in
#: float64), their chunks of 64 elements (float32: 32, float64: 16) and 128 columns.
SIZES = [
    (1, 1, 1, 1, 1, 1, 1),
    (1, 2, 1, 31, 33, 16, 17),
    (1, 2, 2, 65, 130, 15, 66),
    (2, 3, 1, 64, 64, 33, 16),
    (1, 1, 1, 5, 67, 70, 3),
    (1, 2, 2, 9, 40, 64, 130),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("causal", [False, "bottom_right"])
def test_sizes_around_the_tiles(
    storage: Any, sizes: Any, causal: Any, device: Any, rng: np.random.Generator
) -> None:
    q, k, v, options = fill(rng, storage, sizes, {"causal": causal})
    check(device, rng, q, k, v, options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(
    dtype: Any, options: dict[str, Any], device: Any, rng: np.random.Generator
) -> None:
    length = 37 if options.get("causal") is True else 70
    q, k, v, options = fill(rng, dtype, (2, 4, 2, 37, length, 9, 11), options)
    check(device, rng, q, k, v, options)


@pytest.mark.parametrize("options", [*OPTIONS[2:8], *OPTIONS[-6::3]], ids=str)
def test_options_in_sixteen_bits(
    options: dict[str, Any], half: Any, device: Any, rng: np.random.Generator
) -> None:
    length = 20 if options.get("causal") is True else 70
    q, k, v, options = fill(rng, half, (2, 4, 2, 20, length, 9, 11), options)
    check(device, rng, q, k, v, options)


def test_sixteen_bits_are_rounded_once(half: Any, device: Any, rng: np.random.Generator) -> None:
    """What `check` allows is float32's error and half a unit of the result."""
    for options in ({"causal": True}, {"bias": "plane", "softcap": 3.0}, {"dropout": 0.3}):
        check(device, rng, *fill(rng, half, (2, 2, 1, 67, 67, 24, 17), options))
    q, k, v = (normal(rng, half, 1, 1, 5, 8) for _ in range(3))
    y, lse = device.kernels.attention(q, k, v, return_lse=True)
    assert (y.dtype, lse.dtype) == (half, np.float32)
    with pytest.raises(TypeError, match=rf"lse: expected float32, got {half.name}"):
        device.kernels.attention_backward(y, q, k, v, y, lse.astype(half))


@pytest.mark.parametrize("factor", [2.0**-9, 2.0**9])
def test_factors_keep_their_bits_in_sixteen_bits(
    factor: float, half: Any, device: Any, rng: np.random.Generator
) -> None:
    """Gradients of scores beyond the range of float16 take part as those of float32 would."""
    q, k, v, options = fill(rng, half, (1, 2, 1, 70, 150, 20, 12), {"causal": "bottom_right"})
    q, k, v = (q * factor).astype(half), (k / factor).astype(half), (v * factor).astype(half)
    check(device, rng, q, k, v, options, gradient=factor)


@pytest.mark.parametrize(
    "sizes", [(1, 2, 1, 9, 40, 300, 200), (1, 1, 1, 67, 20, 512, 512), (1, 1, 1, 3, 70, 7, 270)]
)
def test_long_heads(storage: Any, sizes: Any, device: Any, rng: np.random.Generator) -> None:
    """Rows that fit shared memory and rows that do not."""
    q, k, v, options = fill(rng, storage, sizes, {"causal": "bottom_right"})
    check(device, rng, q, k, v, options)


def test_heads_that_are_not_aligned(storage: Any, device: Any, rng: np.random.Generator) -> None:
    """Vectors that begin anywhere give the bits of vectors that begin at 16 bytes."""
    # On a Hopper vectors of whole 16 bytes go another way where they begin at those.
    dim = 24 if device.name == "host_cuda" else 20
    arrays = [normal(rng, storage, 1, 2, 40, 25) for _ in range(4)]
    aligned = [device.put(a)[..., :dim] for a in arrays]
    copies = [device.put(np.ascontiguousarray(a[..., :dim])) for a in arrays]
    results = []
    for q, k, v, grad in (aligned, copies):
        y, lse = kernels.attention(q, k, v, causal=True, return_lse=True)
        back = kernels.attention_backward(grad, q, k, v, y, lse, causal=True)[:3]
        results.append([device.get(a) for a in (y, lse, *back)])
    for a, b in zip(*results, strict=True):
        assert_same_bits(a, b)


@settings(max_examples=30)
@given(problem=problems(), seed=st.integers(0, 2**32))
def test_options_compose(storage: Any, device: Any, problem: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    check(device, rng, *fill(rng, storage, *problem))


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_tf32(dropout: float, device: Any, rng: np.random.Generator) -> None:
    """Operands of 11 bits: results are those of float32 to about three digits, and others."""
    q, k, v, options = fill(
        rng, np.float32, (1, 4, 2, 67, 70, 24, 40), {"causal": "bottom_right", "dropout": dropout}
    )
    grad = normal(rng, np.float32, 1, 4, 67, 40)

    def run() -> list[Any]:
        y, lse = device.kernels.attention(q, k, v, **options, return_lse=True)
        return [y, lse, *device.kernels.attention_backward(grad, q, k, v, y, lse, **options)[:3]]

    exact = run()
    ann.set_float32_precision("tf32")
    try:
        rounded = run()
    finally:
        ann.set_float32_precision("highest")
    for a, b in zip(rounded, exact, strict=True):
        assert not np.array_equal(a, b)
        np.testing.assert_allclose(a, b, rtol=0, atol=0.01 * np.abs(b).max())


def test_the_mask_of_dropout_is_that_of_the_cpu(
    dtype: Any, device: Any, rng: np.random.Generator
) -> None:
    """Values that are unit vectors show every element of the mask."""
    q, k, _, _ = fill(rng, dtype, (2, 2, 1, 6, 40, 8, 1), {})
    v = np.broadcast_to(np.eye(40, dtype=dtype), (2, 1, 40, 40)).copy()
    options: dict[str, Any] = {"dropout": 0.4, "seed": 2**50 + 3}
    got = device.get(kernels.attention(*(device.put(a) for a in (q, k, v)), **options))
    np.testing.assert_array_equal(got == 0, kernels.attention(q, k, v, **options) == 0)


def test_the_same_bits_at_every_schedule_and_alone(
    storage: Any, device: Any, rng: np.random.Generator
) -> None:
    q, k, v, options = fill(
        rng, storage, (3, 2, 1, 70, 70, 17, 20), {"causal": True, "mask": "full", "bias": "plane"}
    )
    grad = device.put(normal(rng, storage, 3, 2, 70, 20))
    given, qkv = put_all(device, options), [device.put(a) for a in (q, k, v)]

    def run(*arrays: Any, **given: Any) -> list[Any]:
        y, lse = kernels.attention(*arrays[1:], **given, return_lse=True)
        back = kernels.attention_backward(*arrays, y, lse, **given, needs=("q", "k", "v", "bias"))
        return [device.get(a) for a in (y, lse, *back[:4])]

    first = run(grad, *qkv, **given)
    for schedule in device.schedules():
        for a, b in zip(run(grad, *qkv, **given), first, strict=True):
            assert_same_bits(a, b, schedule)
    for b in range(3):
        one = {**given, "mask": given["mask"][b : b + 1]}
        alone = run(grad[b : b + 1], *(a[b : b + 1] for a in qkv), **one)
        for a, whole in zip(alone[:5], first[:5], strict=True):
            assert_same_bits(a[0], whole[b], f"sample {b}")


def test_nan_of_hidden_keys_does_not_show(
    dtype: Any, device: Any, rng: np.random.Generator
) -> None:
    q, k, v, _ = fill(rng, dtype, (1, 1, 1, 5, 80, 6, 7), {})
    lengths = np.array([71])
    expected = kernels.attention(q, k[:, :, :71], v[:, :, :71])
    k[:, :, 71:] = v[:, :, 71:] = np.nan
    given = [device.put(a) for a in (q, k, v)]
    options = {"kv_lengths": device.put(lengths)}
    y, lse = kernels.attention(*given, **options, return_lse=True)
    np.testing.assert_allclose(device.get(y), expected, rtol=1e-5)
    grad = device.put(normal(rng, dtype, 1, 1, 5, 7))
    dq, dk, dv, _, _ = kernels.attention_backward(grad, *given, y, lse, **options)
    assert np.isfinite(device.get(dq)).all()
    for g in (device.get(dk), device.get(dv)):
        assert np.isfinite(g[:, :, :71]).all()
        assert (g[:, :, 71:] == 0).all()


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_packed_sequences(
    dtype: Any, dropout: float, device: Any, rng: np.random.Generator
) -> None:
    lengths_q, lengths_k = [5, 0, 70, 1], [9, 3, 66, 2]
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(n)]) for n in (lengths_q, lengths_k))
    q = normal(rng, dtype, cu_q[-1], 4, 12)
    k, v = normal(rng, dtype, cu_k[-1], 2, 12), normal(rng, dtype, cu_k[-1], 2, 10)
    given = [device.put(a) for a in (q, k, v, cu_q, cu_k)]
    options: dict[str, Any] = {"causal": "bottom_right", "softcap": 4.0}
    options |= {"dropout": dropout, "seed": 3}
    y, lse = kernels.attention_varlen(*given, **options, return_lse=True)
    ref = reference.attention_varlen(*widen(q, k, v), cu_q, cu_k, **options)
    np.testing.assert_allclose(device.get(y), ref, rtol=1e-4, atol=1e-5)
    grad = normal(rng, dtype, *y.shape)
    back = [device.put(grad), *given[:3], y, lse, *given[3:]]
    got = kernels.attention_varlen_backward(*back, **options)
    args = (*widen(grad, q, k, v, device.get(y), device.get(lse)), cu_q, cu_k)
    expected = reference.attention_varlen_backward(*args, **options)
    for name, g, e in zip("qkv", got, expected, strict=False):
        np.testing.assert_allclose(device.get(g), e, rtol=1e-4, atol=1e-5, err_msg=name)


#: Of a bias, and of a mask, that broadcast to (heads, queries, keys of the longest sequence).
@pytest.mark.parametrize(
    ("bias", "mask"),
    [
        ((4, 76, 70), (4, 76, 70)),
        ((76, 70), None),
        (None, (1, 76, 70)),
        ((4, 1, 70), (76, 1)),
        ((1, 76, 1), (70,)),
        ((4, 1, 1), (1, 1)),
    ],
    ids=str,
)
def test_scores_of_packed_sequences(
    storage: Any, bias: Any, mask: Any, device: Any, rng: np.random.Generator
) -> None:
    lengths_q, lengths_k = [5, 0, 70, 1], [9, 3, 70, 2]
    cu_q, cu_k = (np.concatenate([[0], np.cumsum(n)]) for n in (lengths_q, lengths_k))
    q = normal(rng, storage, cu_q[-1], 4, 12)
    k, v = normal(rng, storage, cu_k[-1], 2, 12), normal(rng, storage, cu_k[-1], 2, 10)
    scores: dict[str, Any] = {}
    if bias is not None:
        scores["bias"] = normal(rng, storage, *bias)
        scores["bias"].reshape(-1)[:: max(3, scores["bias"].size // 40)] = -np.inf
    if mask is not None:
        scores["mask"] = rng.random(mask) < 0.8
    there = {name: device.put(a) for name, a in scores.items()}
    given = [device.put(a) for a in (q, k, v, cu_q, cu_k)]
    options: dict[str, Any] = {"causal": "bottom_right", "window": (60, -1)}
    y, lse = kernels.attention_varlen(*given, **options, **there, return_lse=True)
    wide = {name: widen(a) for name, a in scores.items()}
    plain = {name: native(a) for name, a in scores.items()}
    # Factors in two parts of bfloat16 are off by at most 2^-17 of themselves.
    eps = float(np.finfo(np.float32).eps)
    floor = 4 + (2.0**-17 / eps if q.dtype.name == "bfloat16" else 0)

    def compare(name: str, got: Any, ref: Any, near: Any, scale: Any) -> None:
        scale = np.broadcast_to(scale, ref.shape)
        assert_close_to_reference(device.get(got), ref, near, scale=scale, floor=floor, label=name)

    args: Any = (q, k, v)
    ref = reference.attention_varlen(*widen(*args), cu_q, cu_k, **options, **wide)
    near = reference.attention_varlen(*native(*args), cu_q, cu_k, **options, **plain)
    compare("out", y, ref, near, 1.0)
    grad = normal(rng, storage, *y.shape)
    back = [device.put(grad), *given[:3], y, lse, *given[3:]]
    needs = ("q", "k", "v", "bias")
    got = kernels.attention_varlen_backward(*back, **options, **there, needs=needs)
    args = (grad, q, k, v, device.get(y), device.get(lse))
    backward = reference.attention_varlen_backward
    ref = backward(*widen(*args), cu_q, cu_k, **options, **wide)
    near = backward(*native(*args), cu_q, cu_k, **options, **plain)
    for name, g, r, n in zip("qkv", got, ref, near, strict=False):
        compare(name, g, r, n, np.abs(r).max())
    if bias is None:
        assert got[3] is None
        return
    # What is added up for an element, which may cancel.
    wide["bias"] = np.broadcast_to(wide["bias"], (4, 76, 70)).copy()
    terms = np.abs(backward(*widen(*args), cu_q, cu_k, **options, **wide)[3])
    shape = (*(1,) * (3 - len(bias)), *bias)
    axes = tuple(i for i in range(3) if shape[i] == 1)
    scale = terms.max() + terms.sum(axes, keepdims=True).reshape(bias)
    compare("bias", got[3], ref[3], near[3], scale)


def test_keys_that_a_bias_of_packed_sequences_lacks(device: Any, rng: np.random.Generator) -> None:
    """Nobody reads on the host how many there should be: who sees such a key is NaN, no other."""
    cu = np.array([0, 4, 10])
    q, k, v = (device.put(normal(rng, np.float32, 10, 2, 8)) for _ in range(3))
    offsets = device.put(np.array([0, 4, 10]))
    bias = normal(rng, np.float32, 10, 5)
    wide = np.zeros((10, 6), np.float32)
    wide[:, :5] = bias
    given = (q, k, v, offsets, offsets)
    expected = device.get(kernels.attention_varlen(*given, bias=device.put(wide), causal=True))
    for scores in ({"bias": device.put(bias)}, {"mask": device.put(np.ones((10, 5), bool))}):
        got = device.get(kernels.attention_varlen(*given, **scores, causal=True))
        assert np.isnan(got[cu[2] - 1]).all()
        assert np.isfinite(got[: cu[2] - 1]).all()
        if "bias" in scores:
            assert_same_bits(got[:9], expected[:9])
    both = {"bias": device.put(bias), "mask": device.put(np.ones((10, 4), bool))}
    with pytest.raises(ValueError, match=r"bias: expected a shape that broadcasts to \(2, 10, 4\)"):
        kernels.attention_varlen(*given, **both)


def test_sequences_stay_within_the_arrays(device: Any, rng: np.random.Generator) -> None:
    # Elements are not looked at before the launch: what is beyond an array is its end.
    q, k, v = (normal(rng, np.float32, n, 2, 8) for n in (70, 90, 90))
    wrong = [np.array([-(10**12), 30, 10**12]), np.array([-7, 40, 10**15])]
    right = [np.array([0, 30, 70]), np.array([0, 40, 90])]
    outputs = []
    for cu_q, cu_k in (wrong, right):
        given = [device.put(a) for a in (q, k, v, cu_q, cu_k)]
        y, lse = kernels.attention_varlen(*given, return_lse=True)
        back = [y, *given[:3], y, lse, *given[3:]]
        gradients = kernels.attention_varlen_backward(*back)[:3]
        outputs.append([device.get(a) for a in (y, lse, *gradients)])
    for a, b in zip(*outputs, strict=True):
        assert_same_bits(a, b)


def test_finite_differences(device: Any, rng: np.random.Generator) -> None:
    q, k, v, options = fill(
        rng, np.float64, (1, 2, 1, 5, 7, 4, 3), {"softcap": 2.0, "bias": "plane", "causal": False}
    )
    bias = options.pop("bias")
    bias[~np.isfinite(bias)] = 0

    def forward(q: Any, k: Any, v: Any, bias: Any) -> Any:
        given = [device.put(a) for a in (q, k, v)]
        return kernels.attention(*given, bias=device.put(bias), **options, return_lse=True)

    y, lse = forward(q, k, v, bias)
    grad = normal(rng, np.float64, *y.shape)
    given = [device.put(a) for a in (grad, q, k, v)]
    got = kernels.attention_backward(
        *given, y, lse, bias=device.put(bias), **options, needs=("q", "k", "v", "bias")
    )

    def loss(*values: Any) -> float:
        return float((device.get(forward(*values)[0]) * grad).sum())

    values = [q, k, v, bias]
    for i, g in enumerate(got[:4]):
        assert_gradient(
            lambda x, i=i: loss(*values[:i], x, *values[i + 1 :]), values[i], device.get(g), rng
        )


@pytest.mark.parametrize(
    "sizes", [(0, 1, 1, 3, 4, 2, 2), (1, 2, 1, 0, 4, 2, 2), (1, 2, 1, 3, 0, 2, 2)]
)
def test_nothing_to_see(storage: Any, sizes: Any, device: Any, rng: np.random.Generator) -> None:
    q, k, v, options = fill(rng, storage, sizes, {"sinks": False, "bias": "plane"})
    check(device, rng, q, k, v, options)


def test_errors(device: Any) -> None:
    q = device.put(np.zeros((1, 2, 4, 8), np.float32))
    with pytest.raises(ValueError, match=r"\[attention\] k: expected a head dimension of 8"):
        kernels.attention(q, q[..., :4], q)
    with pytest.raises(TypeError, match=r"\[attention\] mask: expected bool"):
        kernels.attention(q, q, q, mask=q)
    with pytest.raises(TypeError, match=r"\[attention\] k"):
        kernels.attention(q, np.zeros((1, 2, 4, 8), np.float32), q)
