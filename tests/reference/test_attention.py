"""The reference of attention: hand-worked cases, PyTorch, and ONNX' published node cases."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from onnx_nodes import attributes_of, node_cases


def test_by_hand() -> None:
    q = np.zeros((1, 1, 3, 2))
    k, v = np.zeros((1, 1, 3, 2)), np.arange(3.0).reshape(1, 1, 3, 1)
    y, lse = reference.attention(q, k, v, return_lse=True)
    np.testing.assert_allclose(y.ravel(), [1, 1, 1])
    np.testing.assert_allclose(lse.ravel(), np.log([3, 3, 3]))
    y = reference.attention(q, k, v, causal=True)
    np.testing.assert_allclose(y.ravel(), [0, 0.5, 1])
    y = reference.attention(q[:, :, :1], k, v, causal="bottom_right")
    np.testing.assert_allclose(y.ravel(), [1])
    y = reference.attention(q, k, v, window=(0, 1))
    np.testing.assert_allclose(y.ravel(), [0.5, 1.5, 2])
    y = reference.attention(q, k, v, kv_lengths=np.array([2]))
    np.testing.assert_allclose(y.ravel(), [0.5, 0.5, 0.5])
    y, lse = reference.attention(q, k, v, mask=np.zeros((3, 3), np.bool_), return_lse=True)
    assert (y == 0).all()
    assert (lse == -np.inf).all()
    bias = np.log(np.array([1.0, 1.0, 2.0]))
    y = reference.attention(q, k, v, bias=bias)
    np.testing.assert_allclose(y.ravel(), [1.25, 1.25, 1.25])
    slopes = np.log([2.0])
    y = reference.attention(q, k, v, causal=True, alibi_slopes=slopes)
    np.testing.assert_allclose(y.ravel()[1:], [2 / 3, (0.5 * 1 + 1 * 2) / 1.75])
    with pytest.raises(ValueError, match="causal"):
        reference.attention(q[:, :, :1], k, v, causal=True)


def test_hidden_values_that_are_not_finite_take_no_part() -> None:
    q, k = np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2))
    v = np.array([1.0, np.nan]).reshape(1, 1, 2, 1)
    y = reference.attention(q, k, v, causal=True)
    assert y[0, 0, 0, 0] == 1
    assert np.isnan(y[0, 0, 1, 0])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", [None, "bool", "bias"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_torch(kind: Any, causal: bool, kv_heads: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    q = rng.standard_normal((2, 4, 6, 5))
    k, v = rng.standard_normal((2, kv_heads, 6, 5)), rng.standard_normal((2, kv_heads, 6, 3))
    options: dict[str, Any] = {"causal": causal, "scale": 0.4}
    extra = None
    if kind == "bool":
        options["mask"] = rng.random((2, 1, 6, 6)) < 0.6
        extra = torch.tensor(options["mask"])
    elif kind == "bias":
        options["bias"] = rng.standard_normal((4, 6, 6))
        extra = torch.tensor(options["bias"], requires_grad=True)
    mask = extra
    if causal and extra is not None:
        later = torch.triu(torch.full((6, 6), -np.inf, dtype=torch.float64), 1)
        mask = extra & (later == 0) if kind == "bool" else extra + later
    theirs = [torch.tensor(x, requires_grad=True) for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(
        *theirs, mask, 0.0, causal and extra is None, scale=0.4, enable_gqa=True
    )
    y, lse = reference.attention(q, k, v, **options, return_lse=True)
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-11, atol=1e-12)
    grad = rng.standard_normal(y.shape)
    expected.backward(torch.tensor(grad))
    grads = reference.attention_backward(grad, q, k, v, y, lse, **options)
    for got, tensor in zip(grads[:3], theirs, strict=True):
        np.testing.assert_allclose(got, tensor.grad, rtol=1e-10, atol=1e-12)
    if kind == "bias":
        np.testing.assert_allclose(grads[3], extra.grad, rtol=1e-10, atol=1e-12)


def test_window_softcap_and_alibi_against_written_out_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    q, k, v = (rng.standard_normal((2, 3, n, 4)) for n in (5, 9, 9))
    slopes = rng.random((2, 3))
    theirs = [torch.tensor(x, requires_grad=True) for x in (q, k, v)]
    tq, tk, tv = theirs
    distance = torch.arange(5)[:, None] + 4 - torch.arange(9)
    s = 2.0 * torch.tanh(tq @ tk.mT * 0.5 / 2.0)
    s = s - torch.tensor(slopes)[:, :, None, None] * distance.abs()
    s = s.masked_fill((distance > 3) | (distance < 0), -np.inf)
    expected = s.softmax(-1) @ tv
    options: dict[str, Any] = {"causal": "bottom_right", "window": (3, 5), "softcap": 2.0}
    options["alibi_slopes"] = slopes
    y, lse = reference.attention(q, k, v, **options, return_lse=True)
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(lse, s.logsumexp(-1).detach(), rtol=1e-11)
    grad = rng.standard_normal(y.shape)
    expected.backward(torch.tensor(grad))
    grads = reference.attention_backward(grad, q, k, v, y, lse, **options)
    for got, tensor in zip(grads[:3], theirs, strict=True):
        np.testing.assert_allclose(got, tensor.grad, rtol=1e-10, atol=1e-12)


def in_float32(case: Any) -> bool:
    """Tell whether no array of the case has 16 bits."""
    ((inputs, _),) = case.data_sets
    return all(x.dtype in (np.float32, np.bool_, np.int64) for x in inputs)


#: ONNX' own cases; of those that also return scores the output alone is ours to compare.
ONNX_CASES = {
    name: case for name, case in node_cases(attention="Attention").items() if in_float32(case)
}


def split_heads(x: Any, heads: int) -> Any:
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


@pytest.mark.parametrize("module", [kernels, reference], ids=["kernels", "reference"])
@pytest.mark.parametrize("name", ONNX_CASES)
def test_onnx(name: str, module: Any) -> None:
    case = ONNX_CASES[name]
    node = case.model.graph.node[0]
    how = attributes_of(case)
    ((inputs, outputs),) = case.data_sets
    names = ("q", "k", "v", "mask", "past_k", "past_v", "lengths")
    present = iter(inputs)
    given = {n: next(present) for n, used in zip(names, node.input, strict=False) if used}
    q, k, v = given["q"], given["k"], given["v"]
    flat = q.ndim == 3
    if flat:
        q = split_heads(q, how["q_num_heads"])
        k, v = (split_heads(x, how["kv_num_heads"]) for x in (k, v))
    past = given["past_k"].shape[2] if "past_k" in given else 0
    if past:
        k = np.concatenate([given["past_k"], k], axis=2)
        v = np.concatenate([given["past_v"], v], axis=2)
    size = k.shape[2]
    options: dict[str, Any] = {"scale": how.get("scale")}
    if how.get("softcap"):
        options["softcap"] = how["softcap"]
    reach = how.get("left_window_size", -1), how.get("right_window_size", -1)
    causal = bool(how.get("is_causal"))
    lengths = given.get("lengths")
    if lengths is not None:
        options["kv_lengths"] = lengths
    # There query i stands at position past + i, or counts from the end of the lengths.
    fits = lengths is not None or past == size - q.shape[2] or (past == 0 and causal)
    if fits and max(reach) >= 0:
        options["window"] = reach
    if fits and causal:
        options["causal"] = "bottom_right" if lengths is not None or past else "top_left"
    mask = given.get("mask")
    if mask is not None:
        short = size - mask.shape[-1]
        if short:  # keys that the mask does not reach are hidden
            pads = [(0, 0)] * (mask.ndim - 1) + [(0, short)]
            fill = False if mask.dtype == np.bool_ else -np.inf
            mask = np.pad(mask, pads, constant_values=fill)
        options["mask" if mask.dtype == np.bool_ else "bias"] = mask
    if not fits:
        distance = np.arange(size) - past - np.arange(q.shape[2])[:, None]
        seen = distance <= 0 if causal else np.ones(distance.shape, np.bool_)
        seen = seen & ((distance <= reach[1]) | (reach[1] < 0))
        seen = seen & ((distance >= -reach[0]) | (reach[0] < 0))
        options["mask"] = seen & options.get("mask", True)
    y = module.attention(q, np.ascontiguousarray(k), np.ascontiguousarray(v), **options)
    if flat:
        y = y.swapaxes(1, 2).reshape(*given["q"].shape[:2], -1)
    np.testing.assert_allclose(y, outputs[0], rtol=1e-5, atol=1e-6)


def test_onnx_has_cases() -> None:
    pytest.importorskip("onnx")
    assert len(ONNX_CASES) >= 82  # as many as onnx 1.23 publishes


def test_decode_is_attention_on_what_the_cache_holds() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, h, n, 4)) for h, n in ((4, 2), (2, 9), (2, 9)))
    lengths = np.array([5, 7])
    new = [x[:, :, :2] for x in (k, v)]
    caches = [np.where(np.arange(9)[:, None] < 7, x, np.nan) for x in (k, v)]
    y = reference.attention_decode(q, *caches, lengths, k=new[0], v=new[1])
    for b, n in enumerate(lengths):
        full = [
            np.concatenate([x[b : b + 1, :, :n], r[b : b + 1]], axis=2)
            for x, r in zip((k, v), new, strict=True)
        ]
        alone = reference.attention(q[b : b + 1], *full, causal="bottom_right")
        np.testing.assert_allclose(y[b : b + 1], alone, rtol=1e-13)
        for cache, x in zip(caches, full, strict=True):
            np.testing.assert_array_equal(cache[b, :, : n + 2], x[0])


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_varlen_is_attention_on_each_sequence(rate: float) -> None:
    rng = np.random.default_rng(0)
    ends = np.array([0, 3, 3, 8])
    q, k, v = (rng.standard_normal((8, h, 4)) for h in (4, 2, 2))
    y, lse = reference.attention_varlen(
        q, k, v, ends, ends, causal=True, dropout=rate, seed=3, return_lse=True
    )
    grads = reference.attention_varlen_backward(
        y, q, k, v, y, lse, ends, ends, causal=True, dropout=rate, seed=3
    )
    assert rate == 0 or not np.array_equal(y, reference.attention_varlen(q, k, v, ends, ends))
    for (a, b), x in itertools.product(itertools.pairwise(ends), range(rate == 0)):
        del x
        part = [z[None, a:b] for z in (q, k, v)]
        own, own_lse = reference.attention(*part, causal=True, layout="blhd", return_lse=True)
        np.testing.assert_allclose(y[a:b], own[0], rtol=1e-13)
        more = reference.attention_backward(own, *part, own, own_lse, causal=True, layout="blhd")
        for g, e in zip(grads[:3], more, strict=False):
            assert g is not None
            np.testing.assert_allclose(g[a:b], e[0], rtol=1e-12, atol=1e-14)
