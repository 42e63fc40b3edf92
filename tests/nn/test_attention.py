"""Attention on the tape and MultiheadAttention: gradients, PyTorch as witness, bad arguments."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor, nn
from arraynn.autograd import gradcheck
from arraynn.autograd.attention import packed_attention
from arraynn.nn import functional as F


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def close(got: Any, expected: Any, tolerance: float = 1e-10) -> None:
    if got is None and expected is None:
        return
    expected = expected.detach().numpy()
    data = got.data if isinstance(got, Tensor) else got
    assert data.shape == expected.shape
    np.testing.assert_allclose(data, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_the_function(causal: bool) -> None:
    q, k, v, bias = (
        leaf(2, 4, 3, 5),
        leaf(2, 2, 6, 5, seed=1),
        leaf(2, 2, 6, 4, seed=2),
        leaf(4, 1, 6),
    )
    assert gradcheck(
        lambda *a: F.scaled_dot_product_attention(
            *a, dropout_p=0.3, is_causal=causal, enable_gqa=True, seed=3
        ),
        [q, k, v, bias],
    )


def test_gradients_of_packed_projections() -> None:
    qkv = leaf(2, 5, 3, 2, 4)
    assert gradcheck(lambda x: packed_attention(x, causal=True), [qkv])
    turned = leaf(5, 2, 3, 2, 4)
    assert gradcheck(lambda x: packed_attention(x.swapaxes(0, 1), scale=0.3), [turned])


def test_a_saved_array_changed_in_place_is_noticed() -> None:
    q = leaf(1, 1, 2, 3)
    y = F.scaled_dot_product_attention(q * 1.0, q, q)
    with ann.no_grad():
        q += 1.0
    with pytest.raises(RuntimeError, match="modified in place"):
        y.sum().backward()


@pytest.mark.parametrize(
    "shapes",
    [
        ((5, 4), (6, 4), (6, 3)),
        ((3, 5, 4), (3, 6, 4), (3, 6, 3)),
        ((2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 3)),
        ((2, 2, 3, 5, 4), (2, 2, 3, 6, 4), (2, 2, 3, 6, 3)),
    ],
    ids=lambda s: f"{len(s[0])}d",
)
@pytest.mark.parametrize("mask", [None, "bool", "float", "full"])
def test_the_function_against_torch(shapes: Any, mask: Any) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in shapes]
    extra: Any = None
    if mask == "bool":
        extra = rng.random((5, 6)) < 0.7
    elif mask is not None:
        extra = rng.standard_normal((*shapes[0][:-1], 6) if mask == "full" else (5, 6))
    for causal, scale in itertools.product(
        (False, True) if mask is None else (False,), (None, 0.3)
    ):
        ours = [Tensor(a, requires_grad=True) for a in arrays]
        theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
        m, tm = extra, None if extra is None else torch.tensor(extra)
        if mask in ("float", "full"):
            m, tm = Tensor(extra, requires_grad=True), tm.requires_grad_()
        y = F.scaled_dot_product_attention(*ours, m, 0.0, causal, scale)
        ty = torch.nn.functional.scaled_dot_product_attention(*theirs, tm, 0.0, causal, scale=scale)
        close(y, ty)
        grad = rng.standard_normal(y.shape)
        y.backward(grad)
        ty.backward(torch.tensor(grad))
        pairs = zip([*ours, m], [*theirs, tm], strict=True)
        for a, b in pairs:
            if isinstance(a, Tensor):
                close(a.grad, b.grad)
        plain = m.data if isinstance(m, Tensor) else m
        got = F.scaled_dot_product_attention(*arrays, plain, 0.0, causal, scale)
        assert isinstance(got, np.ndarray)
        np.testing.assert_array_equal(got, y.data)


def test_grouped_heads_against_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, h, 5, 4)) for h in (6, 2, 2))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *map(torch.tensor, (q, k, v)), enable_gqa=True
    )
    close(F.scaled_dot_product_attention(q, k, v, enable_gqa=True), expected)
    with pytest.raises(ValueError, match=r"\[scaled_dot_product_attention\] key: expected 6 heads"):
        F.scaled_dot_product_attention(q, k, v)
    with pytest.raises(ValueError, match="query: expected at least 2 dimensions"):
        F.scaled_dot_product_attention(q[0, 0, 0], k, v)


def test_dropout_of_the_function_follows_the_seed() -> None:
    x = np.ones((1, 1, 8, 4))
    call = F.scaled_dot_product_attention
    ann.manual_seed(1)
    first = call(x, x, x, None, 0.5)
    assert not np.array_equal(first, call(x, x, x, None, 0.5))
    ann.manual_seed(1)
    np.testing.assert_array_equal(first, call(x, x, x, None, 0.5))
    np.testing.assert_array_equal(
        call(x, x, x, None, 0.5, seed=4), call(x, x, x, None, 0.5, seed=4)
    )


LAYERS: list[dict[str, Any]] = [
    {},
    {"batch_first": True},
    {"bias": False, "batch_first": True},
    {"kdim": 5, "vdim": 3},
    {"add_bias_kv": True, "add_zero_attn": True, "batch_first": True},
    {"add_zero_attn": True},
]


def pair_of_layers(torch: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    ours = nn.MultiheadAttention(8, 2, **options).double()
    theirs = torch.nn.MultiheadAttention(8, 2, **options).double()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("options", LAYERS, ids=str)
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_the_layer_against_torch(options: Any, need_weights: bool, same: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    ours, theirs = pair_of_layers(torch, options)
    rng = np.random.default_rng(0)
    n, length, size = 3, 5, 5 if same else 6
    kdim, vdim = options.get("kdim", 8), options.get("vdim", 8)
    same = same and kdim == vdim == 8
    first = options.get("batch_first", False)

    def data(size: int, dim: int) -> Any:
        return rng.standard_normal((n, size, dim) if first else (size, n, dim))

    arrays = [data(length, 8)] if same else [data(length, 8), data(size, kdim), data(size, vdim)]
    padding = np.zeros((n, size), np.bool_)
    padding[0, 3:] = padding[2, 0] = True
    later = np.triu(np.ones((length, size), np.bool_), 1)
    shift = rng.standard_normal((n * 2, length, size))
    masks: list[dict[str, Any]] = [
        {},
        {"key_padding_mask": padding},
        {"attn_mask": later},
        {"attn_mask": shift},
        {"attn_mask": shift[0], "key_padding_mask": rng.standard_normal((n, size))},
        {"attn_mask": later, "is_causal": True},
    ]
    if "add_zero_attn" in options and not need_weights:
        # There PyTorch hides the added keys from causal queries, and shows them where weights are
        # asked for; ours are visible in both.
        del masks[-1]
    for mask in masks:
        mine = [Tensor(a, requires_grad=True) for a in arrays]
        other = [torch.tensor(a, requires_grad=True) for a in arrays]
        ours.zero_grad()
        theirs.zero_grad()
        wrapped = {k: torch.tensor(v) if np.ndim(v) else v for k, v in mask.items()}
        for average in (True, False):
            how = {"need_weights": need_weights, "average_attn_weights": average}
            out, weights = ours(*(mine * 3 if same else mine), **mask, **how)
            expected, other_weights = theirs(*(other * 3 if same else other), **wrapped, **how)
            close(out, expected)
            close(weights, other_weights)
        total, expected_total = (out * out).sum(), (expected * expected).sum()
        if need_weights:
            total = total + (weights * weights).sum()
            expected_total = expected_total + (other_weights * other_weights).sum()
        total.backward()
        expected_total.backward()
        for a, b in zip(mine, other, strict=True):
            close(a.grad, b.grad, 1e-8)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            close(a.grad, b.grad, 1e-8)


def test_the_layer_of_one_sample_and_of_arrays() -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = pair_of_layers(torch, {})
    x = np.random.default_rng(0).standard_normal((5, 8))
    for need in (True, False):
        out, weights = ours(x, x, x, need_weights=need)
        expected, other = theirs(*[torch.tensor(x)] * 3, need_weights=need)
        close(out, expected)
        close(weights, other)


@pytest.mark.parametrize("options", LAYERS[:4], ids=str)
def test_causal_without_a_mask_and_both_paths_agree(options: Any) -> None:
    layer = nn.MultiheadAttention(8, 2, dropout=0.4, **options).double()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 5, 8))
    key, value = x[..., : options.get("kdim", 8)], x[..., : options.get("vdim", 8)]
    later = np.triu(np.ones((5, 5), np.bool_), 1)
    for training in (False, True):
        layer.train(training)
        results = []
        for how in ({"is_causal": True}, {"attn_mask": later}):
            for need in (True, False):
                ann.manual_seed(3)
                results.append(layer(x, key, value, need_weights=need, **how)[0].data)
        for other in results[1:]:
            np.testing.assert_allclose(other, results[0], rtol=1e-11, atol=1e-12)


def test_a_query_without_keys_gets_nothing() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True, bias=False)
    x = Tensor(np.ones((2, 3, 8), np.float32), requires_grad=True)
    padding = np.array([[True] * 3, [False] * 3])
    for need in (True, False):
        out, weights = layer(x, x, x, padding, need_weights=need)
        assert (out.data[0] == 0).all()
        assert np.isfinite(out.data).all()
        assert weights is None or (weights.data[0] == 0).all()
        x.grad = None
        out.sum().backward()
        assert x.grad is not None
        assert (x.grad[0] == 0).all()
        assert np.isfinite(x.grad).all()


def test_initialisation_is_torchs() -> None:
    ann.manual_seed(0)
    layer = nn.MultiheadAttention(64, 4, add_bias_kv=True)
    bound = np.sqrt(6 / (64 + 192))
    assert layer.in_proj_weight is not None
    assert layer.in_proj_bias is not None
    assert layer.out_proj.bias is not None
    assert 0.99 * bound < np.abs(layer.in_proj_weight.data).max() <= bound
    assert (layer.in_proj_bias.data == 0).all()
    assert (layer.out_proj.bias.data == 0).all()
    assert repr(layer).startswith("MultiheadAttention(\n  embed_dim=64, num_heads=4") or (
        "embed_dim=64, num_heads=4" in repr(layer)
    )


@pytest.mark.parametrize(
    ("arguments", "exception", "message"),
    [
        ({"embed_dim": 0, "num_heads": 1}, ValueError, "embed_dim: expected"),
        ({"embed_dim": 8, "num_heads": 3}, ValueError, "num_heads: expected a divisor"),
        ({"embed_dim": 8, "num_heads": 2.0}, TypeError, "num_heads: expected an int"),
        ({"embed_dim": 8, "num_heads": 2, "dropout": 1.5}, ValueError, "dropout: expected"),
        ({"embed_dim": 8, "num_heads": 2, "dtype": np.int32}, TypeError, "dtype: expected"),
    ],
)
def test_wrong_layers(arguments: Any, exception: Any, message: str) -> None:
    with pytest.raises(exception, match=rf"\[MultiheadAttention\] {message}"):
        nn.MultiheadAttention(**arguments)


def test_wrong_calls() -> None:
    layer = nn.MultiheadAttention(8, 2)
    x = np.ones((5, 3, 8), np.float32)
    for masks, exception, name in (
        ({"key_padding_mask": np.ones((5, 3), np.bool_)}, ValueError, "key_padding_mask"),
        ({"attn_mask": np.ones((5, 6), np.bool_)}, ValueError, "attn_mask"),
        ({"attn_mask": np.ones((3, 5, 5), np.bool_)}, ValueError, "attn_mask"),
        ({"attn_mask": np.ones((5, 5))}, TypeError, "attn_mask"),
    ):
        with pytest.raises(exception, match=rf"\[MultiheadAttention\] {name}: expected"):
            layer(x, x, x, **masks)
    with pytest.raises(ValueError, match="query: expected 2 or 3 dimensions"):
        layer(x[None], x, x)


def test_sinks_take_a_share_and_have_a_gradient(rng: np.random.Generator) -> None:
    q, k, v = (Tensor(rng.standard_normal((2, 3, 5, 4)), requires_grad=True) for _ in range(3))
    sinks = Tensor(rng.standard_normal(3), requires_grad=True)

    def call(q: Any, k: Any, v: Any, z: Any) -> Any:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, sinks=z)

    assert gradcheck(call, [q, k, v, sinks])
    arrays = [x.data for x in (q, k, v, sinks)]
    np.testing.assert_array_equal(call(q, k, v, sinks).data, call(*arrays))
    *plain, z = arrays
    # The sink as one more key of torch's softmax.
    torch = pytest.importorskip("torch")
    given = [torch.tensor(x, requires_grad=True) for x in plain]
    scores = given[0] @ given[1].mT / 2 + torch.full((5, 5), -np.inf).double().triu(1)
    sink = torch.tensor(z, requires_grad=True)
    column = sink[:, None, None].expand(2, 3, 5, 1)
    expected = torch.cat((scores, column), -1).softmax(-1)[..., :-1] @ given[2]
    np.testing.assert_allclose(call(*arrays), expected.detach().numpy(), rtol=1e-12)
    grad = rng.standard_normal(expected.shape)
    expected.backward(torch.tensor(grad))
    for x in (q, k, v, sinks):
        x.grad = None
    call(q, k, v, sinks).backward(grad)
    for x, t in zip((q, k, v, sinks), (*given, sink), strict=True):
        np.testing.assert_allclose(x.grad, t.grad.numpy(), rtol=1e-10, atol=1e-12)
