"""attention_varlen and attention_decode against the reference and attention, at every ISA."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from arraynn import kernels, reference
from memory import Guarded, snapshot
from tolerances import assert_close_to_reference, assert_gradient, assert_same_bits, widen

from .problems import normal, thread_counts

pytestmark = pytest.mark.usefixtures("isa")

EMPTY = np.array([0])


def ends(lengths: Any, dtype: Any = np.int64) -> Any:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(dtype)


def one(x: Any, cu: Any, b: int) -> Any:
    """Sequence b as (1, L, H, D)."""
    return x[cu[b] : cu[b + 1]][None]


@st.composite
def packed(draw: Any) -> tuple[Any, ...]:
    causal = draw(st.sampled_from([False, True, "top_left", "bottom_right"]))
    lengths_k = draw(st.lists(st.sampled_from([0, 1, 2, 17, 33, 130]), min_size=1, max_size=4))
    lengths_q = lengths_k
    if causal is not True:
        lengths_q = [draw(st.sampled_from([0, 1, 5, 32, 70])) for _ in lengths_k]
    options: dict[str, Any] = {"causal": causal}
    for name, values in (
        ("window", st.tuples(st.integers(-1, 20), st.integers(-1, 20))),
        ("softcap", st.just(4.0)),
        ("alibi_slopes", st.booleans()),
        ("sinks", st.just(True)),
        ("dropout", st.just(0.3)),
        ("scale", st.just(0.4)),
        ("mask", st.sampled_from(["full", "queries", "keys"])),
        ("bias", st.sampled_from(["full", "queries", "keys"])),
    ):
        if draw(st.booleans()):
            options[name] = draw(values)
    return lengths_q, lengths_k, options, draw(st.integers(1, 2)), draw(st.integers(1, 18))


def offsets(options: dict[str, Any], dtype: Any, full: tuple[int, ...], rng: Any) -> None:
    """Draw the mask and the bias that options name, along all axes of `full` or the last ones."""
    for name in ("mask", "bias"):
        kind = options.get(name)
        if kind is None:
            continue
        shape = {"full": full, "queries": (full[-2], 1), "keys": full[-1:]}[kind]
        bias = normal(rng, dtype, *shape)
        options[name] = bias < 0.7 if name == "mask" else np.where(bias > 1.5, -np.inf, bias)


def own_offset(x: Any, cu_q: Any, cu_k: Any, b: int) -> Any:
    """Rows and columns of sequence b, of a mask or bias of packed sequences."""
    if x.ndim > 1 and x.shape[-2] > 1:
        x = x[..., cu_q[b] : cu_q[b + 1], :]
    return x if x.shape[-1] == 1 else x[..., : cu_k[b + 1] - cu_k[b]]


@settings(max_examples=40)
@given(problem=packed(), seed=st.integers(0, 2**32))
def test_varlen_is_attention_on_each_sequence(dtype: Any, problem: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths_q, lengths_k, options, kv_heads, d = problem
    heads = 2 * kv_heads
    cu_q, cu_k = ends(lengths_q), ends(lengths_k, np.int32)
    q = normal(rng, dtype, cu_q[-1], heads, d)
    k, v = normal(rng, dtype, cu_k[-1], kv_heads, d), normal(rng, dtype, cu_k[-1], kv_heads, d + 1)
    if "alibi_slopes" in options:
        shape = (len(lengths_q), heads) if options["alibi_slopes"] else (heads,)
        options["alibi_slopes"] = rng.uniform(0, 0.2, shape).astype(dtype)
    if "sinks" in options:
        options["sinks"] = normal(rng, dtype, heads)
    if "dropout" in options:
        options["seed"] = 5
    offsets(options, dtype, (heads, int(cu_q[-1]), max(lengths_k)), rng)
    y, lse = kernels.attention_varlen(q, k, v, cu_q, cu_k, **options, return_lse=True)
    grad = normal(rng, dtype, *y.shape)
    grads = kernels.attention_varlen_backward(grad, q, k, v, y, lse, cu_q, cu_k, **options)
    # The reference in the same dtype stands within the rounding of a few hundred terms.
    near = {"rtol": 0, "atol": 2e3 * np.finfo(dtype).eps}
    ref = reference.attention_varlen(q, k, v, cu_q, cu_k, **options, return_lse=True)
    np.testing.assert_allclose(y, ref[0], **near)
    np.testing.assert_allclose(lse, ref[1], **near)
    expected = reference.attention_varlen_backward(grad, q, k, v, y, lse, cu_q, cu_k, **options)
    # That by a sink is a sum over all queries, of terms below 100; that by a bias one over what it
    # is broadcast along.
    scores = heads * int(cu_q[-1]) * max(lengths_k)
    terms = scores / max(1, np.size(options.get("bias", 0)))
    far = np.array([max(1, terms), 100 * max(1, cu_q[-1])]) * near["atol"]
    for g, e, atol in zip(grads, expected, (*[near["atol"]] * 3, *far), strict=True):
        assert (g is None) == (e is None)
        if g is not None:
            np.testing.assert_allclose(g, e, rtol=0, atol=atol)
    if "dropout" in options:
        return
    for b in range(len(lengths_q)):
        own = dict(options)
        if np.ndim(own.get("alibi_slopes")) == 2:
            own["alibi_slopes"] = own["alibi_slopes"][b : b + 1]
        for name in {"mask", "bias"} & set(own):
            own[name] = own_offset(own[name], cu_q, cu_k, b)
        args = one(q, cu_q, b), one(k, cu_k, b), one(v, cu_k, b)
        if args[0].shape[1] == 1:
            continue  # one query has a plan of its own
        alone, alone_lse = kernels.attention(*args, **own, layout="blhd", return_lse=True)
        assert_same_bits(one(y, cu_q, b), alone)
        assert_same_bits(lse[:, cu_q[b] : cu_q[b + 1]], alone_lse[0])
        parts = kernels.attention_backward(
            one(grad, cu_q, b), *args, alone, alone_lse, **own, layout="blhd"
        )
        for g, part, cu in zip(grads, parts, (cu_q, cu_k, cu_k), strict=False):
            assert_same_bits(one(g, cu, b), part)
        if np.ndim(options.get("bias")) == 3:
            assert_same_bits(own_offset(grads[3], cu_q, cu_k, b), parts[3])
            assert not grads[3][:, cu_q[b] : cu_q[b + 1], cu_k[b + 1] - cu_k[b] :].any()


def test_varlen_backward_is_the_derivative(rng: np.random.Generator) -> None:
    cu_q, cu_k = ends([3, 7, 0, 5]), ends([4, 9, 2, 5])
    q, k = rng.standard_normal((15, 4, 3)), rng.standard_normal((20, 2, 3))
    v = rng.standard_normal((20, 2, 5))
    options: dict[str, Any] = {"causal": "bottom_right", "softcap": 2.0, "dropout": 0.2, "seed": 1}
    sinks, bias = rng.standard_normal(4), rng.standard_normal((4, 15, 9))
    options |= {"sinks": sinks, "bias": bias, "mask": rng.random((15, 9)) < 0.8}
    y, lse = kernels.attention_varlen(q, k, v, cu_q, cu_k, **options, return_lse=True)
    grad = rng.standard_normal(y.shape)
    grads = kernels.attention_varlen_backward(grad, q, k, v, y, lse, cu_q, cu_k, **options)
    point = [q, k, v, bias, sinks]
    for i in range(5):

        def total(x: Any, i: int = i) -> Any:
            *args, options["bias"], options["sinks"] = (*point[:i], x, *point[i + 1 :])
            return np.sum(grad * kernels.attention_varlen(*args, cu_q, cu_k, **options))

        gradient = grads[i]
        assert gradient is not None
        assert_gradient(total, point[i], gradient, rng)


def test_varlen_bits_and_out(dtype: Any, rng: np.random.Generator) -> None:
    cu = ends([400, 3, 0, 130])
    q, k, v = (normal(rng, dtype, 533, 2, 16) for _ in range(3))
    y, lse = kernels.attention_varlen(q, k, v, cu, cu, causal=True, return_lse=True)
    grads = kernels.attention_varlen_backward(y, q, k, v, y, lse, cu, cu, causal=True)
    for n in thread_counts():
        guard = Guarded(y.shape, dtype)
        assert kernels.attention_varlen(q, k, v, cu, cu, causal=True, out=guard.out) is guard.out
        assert_same_bits(guard.out, y, f"{n} threads")
        guard.check()
        again = kernels.attention_varlen_backward(y, q, k, v, y, lse, cu, cu, causal=True)
        for g, e in zip(again[:3], grads[:3], strict=True):
            assert_same_bits(g, e, f"{n} threads")
    none = kernels.attention_varlen(q[:0], k[:0], v[:0], EMPTY, EMPTY)
    assert none.shape == (0, 2, 16)


def pages_of(
    cache: Any, size: int, layout: str, rng: np.random.Generator, table: Any = None
) -> tuple[Any, Any]:
    """Cut a cache (B, H, L, D) into pages in a random order; what no page holds is NaN."""
    b, h, length, d = cache.shape
    per = -(-length // size)
    if table is None:
        table = rng.permutation(b * per + 2)[: b * per].reshape(b, per)
    pages = np.full((b * per + 2, h, size, d), np.nan, cache.dtype)
    for i, row in enumerate(table):
        for j, page in enumerate(row):
            part = cache[i, :, j * size : (j + 1) * size]
            pages[page, :, : part.shape[1]] = part
    return pages if layout == "bhld" else np.ascontiguousarray(np.swapaxes(pages, 1, 2)), table


def to_layout(x: Any, layout: str) -> Any:
    return x if layout == "bhld" else np.ascontiguousarray(np.swapaxes(x, 1, 2))


#: Heads, new positions, positions of a page, layout.
CACHES: list[tuple[Any, int, Any, str]] = [
    ((6, 2), 0, None, "bhld"),
    ((9, 1), 3, None, "blhd"),
    ((1, 1), 1, 1, "bhld"),
    ((6, 2), 1, 16, "blhd"),
    ((9, 1), 0, 100, "bhld"),
    ((2, 2), 3, 100, "blhd"),
]


def check_decode(
    dtype: Any,
    heads: Any,
    new: int,
    page: Any,
    layout: str,
    rng: np.random.Generator,
    kernels: Any = kernels,
) -> None:
    """Hold decoding against the reference, and the cache as it leaves it."""
    (h, hkv), b, longest, d, dv = heads, 3, 600, 20, 33
    k, v = normal(rng, dtype, b, hkv, longest, d), normal(rng, dtype, b, hkv, longest, dv)
    lengths = np.array([longest - new, 0, 513])
    for lq in (1, 4):
        q = normal(rng, dtype, b, h, lq, d)
        for options in (
            {},
            {"window": (90, 0), "softcap": 3.0, "scale": 0.5, "mask": "full"},
            {"alibi": True},
            {"bias": "full", "mask": "keys"},
        ):
            how: dict[str, Any] = dict(options)
            rows = longest if page is None else -(-longest // page) * page
            offsets(how, dtype, (b, h, lq, rows), rng)
            if how.pop("alibi", False):
                how["alibi_slopes"] = rng.uniform(0, 0.1, h).astype(dtype)
                how["sinks"] = normal(rng, dtype, h)
            more: dict[str, Any] = {}
            if new:
                more["k"] = to_layout(normal(rng, dtype, b, hkv, new, d), layout)
                more["v"] = to_layout(normal(rng, dtype, b, hkv, new, dv), layout)
            if page is None:
                caches = [to_layout(x.copy(), layout) for x in (k, v)]
            else:
                first, table = pages_of(k, page, layout, rng)
                caches = [first, pages_of(v, page, layout, rng, table)[0]]
                more["block_table"] = table
            query = to_layout(q, layout)
            wide = {n: widen(x) for n, x in {**how, **more}.items()}
            theirs = [widen(x) for x in caches]
            native = [x.copy() for x in caches]
            before = snapshot(*caches) if not new else None
            y, lse = kernels.attention_decode(
                query, *caches, lengths, **how, **more, layout=layout, return_lse=True
            )
            ref, ref_lse = reference.attention_decode(
                widen(query), *theirs, lengths, **wide, layout=layout, return_lse=True
            )
            own, own_lse = reference.attention_decode(
                query, *native, lengths, **how, **more, layout=layout, return_lse=True
            )
            assert before is None or snapshot(*caches) == before
            for cache, expected in zip(caches, native, strict=True):
                assert_same_bits(cache, expected, "cache")
            # |scores| stay below 30 here, values below 5.
            label = f"decode {how} {lq}"
            assert_close_to_reference(y, ref, own, scale=np.full(y.shape, 150.0), label=label)
            assert_close_to_reference(
                lse, ref_lse, own_lse, scale=np.full(lse.shape, 30.0), label=label
            )


@pytest.mark.parametrize(("heads", "new", "page", "layout"), CACHES, ids=str)
def test_decode(
    dtype: Any, heads: Any, new: int, page: Any, layout: str, rng: np.random.Generator
) -> None:
    check_decode(dtype, heads, new, page, layout, rng)


def check_the_end(dtype: Any, rng: np.random.Generator, kernels: Any = kernels) -> None:
    """What is past the end of a sequence is not looked at."""
    k, v = normal(rng, dtype, 2, 1, 64, 8), normal(rng, dtype, 2, 1, 64, 8)
    q, lengths = normal(rng, dtype, 2, 2, 1, 8), np.array([40, 0])
    clean = kernels.attention_decode(q, k, v, lengths)
    k[0, :, 40:] = v[0, :, 40:] = k[1] = v[1] = np.nan
    assert_same_bits(kernels.attention_decode(q, k, v, lengths), clean)
    assert (clean[1] == 0).all()
    q = normal(rng, dtype, 2, 2, 5, 8)
    y = kernels.attention_decode(q, k, v, np.array([40, 2]))
    assert np.isfinite(y[0]).all()
    assert (y[1, :, :3] == 0).all()


def test_hidden_positions_stay_hidden(dtype: Any, rng: np.random.Generator) -> None:
    """NaN at a position of the cache that a mask hides, and in a packed key."""
    k, v, q = (normal(rng, dtype, 1, 1, n, 8) for n in (40, 40, 1))
    mask = np.arange(40) != 7
    clean = kernels.attention_decode(q, k, v, np.array([40]), mask=mask)
    cu_q, cu_k = np.array([0, 1, 1]), np.array([0, 20, 40])
    packed = (q[0, 0][:, None], k[0, 0][:, None], v[0, 0][:, None])
    own = kernels.attention_varlen(*packed, cu_q, cu_k, mask=mask[:20])
    k[:, :, 7] = v[:, :, 7] = np.nan
    assert_same_bits(kernels.attention_decode(q, k, v, np.array([40]), mask=mask), clean)
    bias = np.where(mask, 0, -np.inf).astype(dtype)
    assert_same_bits(kernels.attention_decode(q, k, v, np.array([40]), bias=bias), clean)
    assert np.isnan(k[0, 0, 7]).all()
    packed = (q[0, 0][:, None], k[0, 0][:, None], v[0, 0][:, None])
    assert_same_bits(kernels.attention_varlen(*packed, cu_q, cu_k, mask=mask[:20]), own)


def test_decode_reads_nothing_past_the_end(dtype: Any, rng: np.random.Generator) -> None:
    check_the_end(dtype, rng)


def test_steps_are_the_rows_of_causal_attention(dtype: Any, rng: np.random.Generator) -> None:
    q, k, v = (normal(rng, dtype, 2, 2, 30, 16) for _ in range(3))
    whole = kernels.attention(q, k, v, causal=True)
    caches = np.full_like(k, np.nan), np.full_like(v, np.nan)
    for t in range(30):
        row = slice(t, t + 1)
        y = kernels.attention_decode(
            q[:, :, row], *caches, np.full(2, t), k=k[:, :, row], v=v[:, :, row]
        )
        np.testing.assert_allclose(y, whole[:, :, row], rtol=0, atol=60 * np.finfo(dtype).eps)
    assert_same_bits(caches[0], k)


def check_turned(
    dtype: Any,
    new: int,
    interleaved: bool,
    layout: str,
    rng: np.random.Generator,
    kernels: Any = kernels,
) -> None:
    """Queries and new keys are turned by the angles of their positions."""
    b, h, d, half, longest = 3, 2, 14, 5, 40
    angles = np.arange(longest)[:, None] * 10.0 ** -np.arange(half)
    how: dict[str, Any] = {"interleaved": interleaved}
    cos, sin = np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)
    caches = [to_layout(normal(rng, dtype, b, h, longest, d), layout) for _ in range(2)]
    lengths, lq = np.array([longest - new, 0, 11]), max(new, 2)
    q, k, v = (to_layout(normal(rng, dtype, b, 2 * h, lq, d), layout) for _ in range(3))
    more: dict[str, Any] = {}
    if new:
        shape = (b, h, new, d) if layout == "bhld" else (b, new, h, d)
        k, v = k.reshape(-1)[: np.prod(shape)].reshape(shape), normal(rng, dtype, *shape)
        more = {"k": k, "v": v}
    end = (lengths + new)[:, None]
    at = np.maximum(end - lq + np.arange(lq), 0)
    turned = dict(more)
    if new:
        where = end - new + np.arange(new)
        turned["k"] = kernels.rope(k, cos, sin, where, layout=layout, **how)
    query = kernels.rope(q, cos, sin, at, layout=layout, **how)
    other = [x.copy() for x in caches]
    before = snapshot(q, k, v)
    expected = kernels.attention_decode(query, *other, lengths, **turned, layout=layout)
    got = kernels.attention_decode(
        q, *caches, lengths, **more, cos=cos, sin=sin, **how, layout=layout
    )
    assert_same_bits(got, expected)
    assert snapshot(q, k, v) == before
    for cache, wanted in zip(caches, other, strict=True):
        assert_same_bits(cache, wanted)
    wide = [widen(x) for x in caches]
    ref = reference.attention_decode(
        widen(q),
        *wide,
        lengths,
        **{n: widen(x) for n, x in more.items()},
        cos=widen(cos),
        sin=widen(sin),
        **how,
        layout=layout,
    )
    np.testing.assert_allclose(got, ref, rtol=0, atol=2e3 * np.finfo(dtype).eps)
    assert (to_layout(got, layout)[1, :, : lq - new] == 0).all()


@pytest.mark.parametrize("layout", ["bhld", "blhd"])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("new", [0, 1, 3])
def test_decode_turns_queries_and_new_keys(
    dtype: Any, new: int, interleaved: bool, layout: str, rng: np.random.Generator
) -> None:
    check_turned(dtype, new, interleaved, layout, rng)


@pytest.mark.parametrize(
    ("heads", "dim", "page"), [(4, 32, 64), (2, 64, 7), (14, 80, 16), (2, 128, 64), (6, 37, 5)]
)
def test_decode_bits(dtype: Any, heads: int, dim: int, page: int, rng: np.random.Generator) -> None:
    k, v = (normal(rng, dtype, 2, 2, 3000, dim) for _ in range(2))
    q, lengths = normal(rng, dtype, 2, heads, 1, dim), np.array([3000, 1700])
    y = kernels.attention_decode(q, k, v, lengths)
    # Pages of other lengths than those of the kernel's steps cut these elsewhere.
    pages, table = pages_of(k, page, "bhld", rng)
    paged = (pages, pages_of(v, page, "bhld", rng, table)[0])
    for n in thread_counts():
        guard = Guarded(y.shape, dtype, strided=True)
        kernels.attention_decode(q, k, v, lengths, out=guard.out)
        assert_same_bits(guard.out, y, f"{n} threads")
        guard.check()
        again = kernels.attention_decode(q, *paged, lengths, block_table=table)
        assert_same_bits(again, y, f"pages, {n} threads")
    for b in range(2):
        part = slice(b, b + 1)
        alone = kernels.attention_decode(q[part], k[part], v[part], lengths[part])
        assert_same_bits(alone, y[part], f"sequence {b} alone")
    plain = kernels.attention(q, k, v, kv_lengths=lengths)
    assert_same_bits(plain, y)
