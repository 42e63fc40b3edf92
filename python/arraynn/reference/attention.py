"""Softmax attention in plain NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._common import FloatArray, quiet, store
from .elementwise import dropout_mask
from .rope import rope

Lse = tuple[FloatArray, FloatArray]


class _Options(NamedTuple):
    """What one call has in common for all of its samples."""

    causal: bool | str
    scale: float | None
    window: Sequence[int] | None
    softcap: float | None
    rate: float = 0.0


def _heads_first(x: FloatArray, layout: str) -> FloatArray:
    if layout not in ("bhld", "blhd"):
        raise ValueError(f"layout: expected 'bhld' or 'blhd', got {layout!r}")
    return x if layout == "bhld" else np.swapaxes(x, 1, 2)


def _offset(options: _Options, seqlen_q: int, seqlen_k: int, length: int) -> int:
    """Position of query 0 among the keys."""
    if options.causal is True and seqlen_q != seqlen_k:
        raise ValueError("causal: expected 'top_left' or 'bottom_right' for these lengths")
    if options.causal in (True, "top_left"):
        return 0
    return (length if options.causal == "bottom_right" else seqlen_k) - seqlen_q


def _in_reach(options: _Options, seqlen_q: int, seqlen_k: int, length: int) -> NDArray[np.bool_]:
    """Return (Lq, Lk): which keys length, causal mask and window leave to each query."""
    query = np.arange(seqlen_q)[:, None] + _offset(options, seqlen_q, seqlen_k, length)
    key = np.arange(seqlen_k)
    visible = np.broadcast_to(key < length, (seqlen_q, seqlen_k))
    if options.causal:
        visible = visible & (key <= query)
    left, right = options.window if options.window is not None else (-1, -1)
    if left >= 0:
        visible = visible & (key >= query - left)
    if right >= 0:
        visible = visible & (key <= query + right)
    return np.asarray(visible)


def _visible_product(
    weights: FloatArray, visible: NDArray[np.bool_], values: FloatArray
) -> FloatArray:
    """``weights @ values`` in which hidden values take no part, even when they are not finite."""
    clean = np.where(np.isfinite(values), values, 0).astype(values.dtype)
    result = weights @ clean
    rest = values - clean
    for j in np.flatnonzero(~np.isfinite(values).all(axis=(0, 1, 3))):
        term = weights[..., j, None] * rest[:, :, None, j]
        result += np.where(visible[..., j, None], term, 0)
    return np.asarray(result)


class _Forward(NamedTuple):
    """Scores after masks (B, H, Lq, Lk), which of them count, and the slope of the soft cap."""

    scores: FloatArray
    visible: NDArray[np.bool_]
    slope: FloatArray | float
    scale: float


def _scores(
    q: FloatArray,
    k: FloatArray,
    mask: NDArray[np.bool_] | None,
    bias: FloatArray | None,
    slopes: FloatArray | None,
    lengths: NDArray[Any],
    options: _Options,
) -> _Forward:
    batch, heads, seqlen_q, dim = q.shape
    seqlen_k = k.shape[2]
    scale = 1 / np.sqrt(dim) if options.scale is None else options.scale
    scores = (q * q.dtype.type(scale)) @ np.swapaxes(k, 2, 3)
    slope: FloatArray | float = 1.0
    if options.softcap is not None:
        t = np.tanh(scores / q.dtype.type(options.softcap))
        scores, slope = t * q.dtype.type(options.softcap), 1 - t * t
    visible = np.empty((batch, heads, seqlen_q, seqlen_k), np.bool_)
    for b, length in enumerate(lengths):
        visible[b] = _in_reach(options, seqlen_q, seqlen_k, int(length))
        if slopes is not None:
            query = np.arange(seqlen_q)[:, None] + _offset(options, seqlen_q, seqlen_k, int(length))
            distance = np.abs(query - np.arange(seqlen_k)).astype(q.dtype)
            own = slopes[b] if slopes.ndim == 2 else slopes
            scores[b] -= own[:, None, None] * distance
    if mask is not None:
        visible &= mask
    if bias is not None:
        visible &= bias != -np.inf
        scores = scores + bias
    scores = np.where(visible, scores, -np.inf).astype(q.dtype)
    return _Forward(scores, visible, slope, float(scale))


def _keep(shape: tuple[int, ...], rate: float, seed: int | None, dtype: Any) -> Any:
    """Return the factors of dropout, or 1."""
    if rate == 0:
        return np.asarray(1, dtype)
    if seed is None:
        raise ValueError("seed: expected an int where dropout is not 0, got None")
    factor = 1 / (1 - rate) if rate < 1 else 0.0
    return dropout_mask(shape, rate, seed).astype(dtype) * dtype.type(factor)


def _attend(forward: _Forward, v: FloatArray, keep: Any, sinks: FloatArray | None) -> Lse:
    # A sink is one more score without a value; -inf takes no share.
    sink = v.dtype.type(-np.inf) if sinks is None else sinks[:, None, None]
    top = np.maximum(forward.scores.max(axis=-1, keepdims=True, initial=-np.inf), sink)
    shift = np.where(top == -np.inf, 0, top)
    e = np.exp(forward.scores - shift)
    total = e.sum(axis=-1, keepdims=True) + np.exp(sink - shift)
    nothing = ~forward.visible.any(axis=-1, keepdims=True) & (sink == -np.inf)
    p = np.where(nothing, 0, e / total).astype(v.dtype)
    lse = np.where(nothing, -np.inf, top + np.log(total)).astype(v.dtype)
    return _visible_product(p * keep, forward.visible, v), lse[..., 0]


def _sink_gradient(
    grad_out: FloatArray, out: FloatArray, lse: FloatArray, sinks: FloatArray
) -> FloatArray:
    """Return -sum(exp(sink - lse) grad_out . out) over samples and queries of each head."""
    share = np.where(lse == -np.inf, 0, np.exp(sinks[:, None] - lse))
    delta = (grad_out * out).sum(axis=-1)
    return np.asarray(-(share * delta).sum(axis=(0, 2)), dtype=sinks.dtype)


def _gradients(
    forward: _Forward,
    grad_out: FloatArray,
    q: FloatArray,
    k: FloatArray,
    v: FloatArray,
    out: FloatArray,
    lse: FloatArray,
    keep: Any,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return dq, dk, dv and the gradient of the scores, k and v with as many heads as q."""
    visible = forward.visible
    p = np.where(visible, np.exp(forward.scores - lse[..., None]), 0).astype(q.dtype)
    delta = (grad_out * out).sum(axis=-1, keepdims=True)
    dp = (grad_out @ np.swapaxes(v, 2, 3)) * keep
    ds = np.where(visible, p * (dp - delta), 0).astype(q.dtype)
    du = ds * forward.slope * q.dtype.type(forward.scale)
    du = np.where(visible, du, 0).astype(q.dtype)
    turned = np.swapaxes(visible, 2, 3)
    dv = _visible_product(np.swapaxes(p * keep, 2, 3), turned, grad_out)
    dk = _visible_product(np.swapaxes(du, 2, 3), turned, q)
    return _visible_product(du, visible, k), dk, dv, ds


def _repeat_heads(x: FloatArray, heads: int) -> FloatArray:
    return np.repeat(x, heads // x.shape[1], axis=1)


def _join_heads(x: FloatArray, kv_heads: int) -> FloatArray:
    batch, heads, *rest = x.shape
    return np.asarray(x.reshape(batch, kv_heads, heads // kv_heads, *rest).sum(axis=2))


def _summed_to(shape: tuple[int, ...], x: FloatArray) -> FloatArray:
    """Sum what an array of `shape` is broadcast along."""
    full = (1,) * (x.ndim - len(shape)) + shape
    axes = tuple(i for i, n in enumerate(full) if n == 1)
    return np.asarray(x.sum(axis=axes, keepdims=True).reshape(shape))


def _lengths(kv_lengths: NDArray[Any] | None, k: FloatArray) -> NDArray[Any]:
    return np.full(k.shape[0], k.shape[2]) if kv_lengths is None else np.asarray(kv_lengths)


@quiet
def attention(
    q: FloatArray,
    k: FloatArray,
    v: FloatArray,
    *,
    mask: NDArray[np.bool_] | None = None,
    bias: FloatArray | None = None,
    causal: bool | str = False,
    scale: float | None = None,
    window: Sequence[int] | None = None,
    softcap: float | None = None,
    alibi_slopes: FloatArray | None = None,
    sinks: FloatArray | None = None,
    kv_lengths: NDArray[Any] | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    layout: str = "bhld",
    return_lse: bool = False,
    out: FloatArray | None = None,
) -> Any:
    """``softmax(softcap(scale q k^T) + bias - alibi) v`` over the keys that are not masked.

    >>> q = np.ones((1, 1, 1, 2))
    >>> attention(q, np.zeros((1, 1, 2, 2)), np.array([[[[1.0], [3.0]]]]))
    array([[[[2.]]]])
    """
    q, k, v = (_heads_first(x, layout) for x in (q, k, v))
    options = _Options(causal, scale, window, softcap, dropout)
    heads = q.shape[1]
    lengths = _lengths(kv_lengths, k)
    forward = _scores(q, _repeat_heads(k, heads), mask, bias, alibi_slopes, lengths, options)
    keep = _keep(forward.scores.shape, dropout, seed, q.dtype)
    y, lse = _attend(forward, _repeat_heads(v, heads), keep, sinks)
    y = store(np.ascontiguousarray(_heads_first(y, layout)), out)
    return (y, lse) if return_lse else y


@quiet
def attention_backward(
    grad_out: FloatArray,
    q: FloatArray,
    k: FloatArray,
    v: FloatArray,
    out: FloatArray,
    lse: FloatArray,
    *,
    mask: NDArray[np.bool_] | None = None,
    bias: FloatArray | None = None,
    causal: bool | str = False,
    scale: float | None = None,
    window: Sequence[int] | None = None,
    softcap: float | None = None,
    alibi_slopes: FloatArray | None = None,
    sinks: FloatArray | None = None,
    kv_lengths: NDArray[Any] | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    layout: str = "bhld",
    needs: Sequence[str] = ("q", "k", "v", "bias", "sinks"),
) -> tuple[FloatArray | None, ...]:
    """Gradients by q, k, v, bias and sinks; None for what is not in `needs`."""
    grad_out, q, k, v, out = (_heads_first(x, layout) for x in (grad_out, q, k, v, out))
    options = _Options(causal, scale, window, softcap, dropout)
    heads, kv_heads = q.shape[1], k.shape[1]
    lengths = _lengths(kv_lengths, k)
    all_k, all_v = _repeat_heads(k, heads), _repeat_heads(v, heads)
    forward = _scores(q, all_k, mask, bias, alibi_slopes, lengths, options)
    keep = _keep(forward.scores.shape, dropout, seed, q.dtype)
    dq, dk, dv, ds = _gradients(forward, grad_out, q, all_k, all_v, out, lse, keep)
    dbias = _summed_to(bias.shape, ds) if bias is not None and "bias" in needs else None
    grads = dq, _join_heads(dk, kv_heads), _join_heads(dv, kv_heads)
    wanted = [
        np.ascontiguousarray(_heads_first(g, layout)) if name in needs else None
        for name, g in zip("qkv", grads, strict=True)
    ]
    dsinks = None
    if sinks is not None and "sinks" in needs:
        dsinks = _sink_gradient(grad_out, out, lse, sinks)
    return (*wanted, dbias, dsinks)


def _sequences(cu_seqlens_q: NDArray[Any], cu_seqlens_k: NDArray[Any]) -> list[tuple[slice, slice]]:
    pairs = zip(cu_seqlens_q, cu_seqlens_q[1:], cu_seqlens_k, cu_seqlens_k[1:], strict=False)
    return [(slice(int(a), int(b)), slice(int(c), int(d))) for a, b, c, d in pairs]


def _packed_keep(
    q: FloatArray, cu_seqlens_k: NDArray[Any], rate: float, seed: int | None
) -> FloatArray:
    """Return factors of dropout of (heads, all queries, longest key sequence)."""
    longest = int(np.diff(cu_seqlens_k).max(initial=0))
    keep = _keep((q.shape[1], q.shape[0], longest), rate, seed, q.dtype)
    return np.broadcast_to(keep, (q.shape[1], q.shape[0], longest))


def _own(full: tuple[int, ...], part: tuple[slice, ...], mask: Any, bias: Any) -> tuple[Any, Any]:
    """Return the part of mask and bias, which broadcast to `full`, that belongs to one sample."""
    mask, bias = (x if x is None else np.broadcast_to(x, full)[part] for x in (mask, bias))
    return mask, bias


def _one(x: FloatArray, rows: slice) -> FloatArray:
    """Return one packed sequence as (1, H, L, D)."""
    return np.swapaxes(x[rows], 0, 1)[None]


@quiet
def attention_varlen(
    q: FloatArray,
    k: FloatArray,
    v: FloatArray,
    cu_seqlens_q: NDArray[Any],
    cu_seqlens_k: NDArray[Any],
    *,
    mask: NDArray[np.bool_] | None = None,
    bias: FloatArray | None = None,
    causal: bool | str = False,
    scale: float | None = None,
    window: Sequence[int] | None = None,
    softcap: float | None = None,
    alibi_slopes: FloatArray | None = None,
    sinks: FloatArray | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    return_lse: bool = False,
    out: FloatArray | None = None,
) -> Any:
    """Apply `attention` to each sequence of (total, H, D) arrays."""
    options = _Options(causal, scale, window, softcap, dropout)
    heads = q.shape[1]
    keep = _packed_keep(q, cu_seqlens_k, dropout, seed)
    y = np.zeros((*q.shape[:2], v.shape[2]), q.dtype)
    lse = np.zeros((heads, q.shape[0]), q.dtype)
    for b, (rows, cols) in enumerate(_sequences(cu_seqlens_q, cu_seqlens_k)):
        slopes = alibi_slopes
        if slopes is not None and slopes.ndim == 2:
            slopes = slopes[b]
        own_k, own_v = (_repeat_heads(_one(x, cols), heads) for x in (k, v))
        lengths = np.array([own_k.shape[2]])
        part = slice(None), rows, slice(own_k.shape[2])
        masks = _own(keep.shape, part, mask, bias)
        forward = _scores(_one(q, rows), own_k, *masks, slopes, lengths, options)
        own, own_lse = _attend(forward, own_v, keep[part], sinks)
        y[rows] = np.swapaxes(own[0], 0, 1)
        lse[:, rows] = own_lse[0]
    y = store(y, out)
    return (y, lse) if return_lse else y


@quiet
def attention_varlen_backward(
    grad_out: FloatArray,
    q: FloatArray,
    k: FloatArray,
    v: FloatArray,
    out: FloatArray,
    lse: FloatArray,
    cu_seqlens_q: NDArray[Any],
    cu_seqlens_k: NDArray[Any],
    *,
    mask: NDArray[np.bool_] | None = None,
    bias: FloatArray | None = None,
    causal: bool | str = False,
    scale: float | None = None,
    window: Sequence[int] | None = None,
    softcap: float | None = None,
    alibi_slopes: FloatArray | None = None,
    sinks: FloatArray | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    needs: Sequence[str] = ("q", "k", "v", "bias", "sinks"),
) -> tuple[FloatArray | None, ...]:
    """Gradients of `attention_varlen` by q, k, v, bias and sinks."""
    options = _Options(causal, scale, window, softcap, dropout)
    heads, kv_heads = q.shape[1], k.shape[1]
    keep = _packed_keep(q, cu_seqlens_k, dropout, seed)
    grads = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    ds = np.zeros(keep.shape, q.dtype)
    for b, (rows, cols) in enumerate(_sequences(cu_seqlens_q, cu_seqlens_k)):
        slopes = alibi_slopes
        if slopes is not None and slopes.ndim == 2:
            slopes = slopes[b]
        own_q, own_grad, own_out = (_one(x, rows) for x in (q, grad_out, out))
        own_k, own_v = (_repeat_heads(_one(x, cols), heads) for x in (k, v))
        lengths = np.array([own_k.shape[2]])
        part = slice(None), rows, slice(own_k.shape[2])
        masks = _own(keep.shape, part, mask, bias)
        forward = _scores(own_q, own_k, *masks, slopes, lengths, options)
        dq, dk, dv, own_ds = _gradients(
            forward, own_grad, own_q, own_k, own_v, own_out, lse[None, :, rows], keep[part]
        )
        ds[part] = own_ds[0]
        grads[0][rows] = np.swapaxes(dq[0], 0, 1)
        grads[1][cols] = np.swapaxes(_join_heads(dk, kv_heads)[0], 0, 1)
        grads[2][cols] = np.swapaxes(_join_heads(dv, kv_heads)[0], 0, 1)
    wanted = [g if n in needs else None for n, g in zip("qkv", grads, strict=True)]
    dsinks = None
    if sinks is not None and "sinks" in needs:
        own_grad, own_out = (np.swapaxes(x, 0, 1)[None] for x in (grad_out, out))
        dsinks = _sink_gradient(own_grad, own_out, lse[None], sinks)
    dbias = _summed_to(bias.shape, ds) if bias is not None and "bias" in needs else None
    return (*wanted, dbias, dsinks)


def _turned(
    x: FloatArray, cos: FloatArray, sin: FloatArray, ends: NDArray[Any], interleaved: bool
) -> FloatArray:
    """Turn (B, H, L, D) whose last positions are those before `ends`."""
    positions = np.maximum(ends[:, None] - x.shape[2] + np.arange(x.shape[2]), 0)
    return rope(x, cos, sin, positions, interleaved=interleaved)


@quiet
def attention_decode(
    q: FloatArray,
    k_cache: FloatArray,
    v_cache: FloatArray,
    lengths: NDArray[Any],
    *,
    block_table: NDArray[Any] | None = None,
    k: FloatArray | None = None,
    v: FloatArray | None = None,
    mask: NDArray[np.bool_] | None = None,
    bias: FloatArray | None = None,
    scale: float | None = None,
    window: Sequence[int] | None = None,
    softcap: float | None = None,
    alibi_slopes: FloatArray | None = None,
    sinks: FloatArray | None = None,
    cos: FloatArray | None = None,
    sin: FloatArray | None = None,
    interleaved: bool = False,
    layout: str = "bhld",
    return_lse: bool = False,
    out: FloatArray | None = None,
) -> Any:
    """Append k and v to the cache, then apply causal `attention` of its last positions."""
    q, caches = _heads_first(q, layout), [_heads_first(x, layout) for x in (k_cache, v_cache)]
    batch, heads = q.shape[:2]
    page = caches[0].shape[2]
    options = _Options("bottom_right", scale, window, softcap)
    if cos is not None and sin is not None:
        # Queries before the first position see nothing, however they are turned.
        q = _turned(
            q,
            cos,
            sin,
            lengths + (0 if k is None else _heads_first(k, layout).shape[2]),
            interleaved,
        )
        if k is not None:
            own = _heads_first(k, layout)
            k = _heads_first(_turned(own, cos, sin, lengths + own.shape[2], interleaved), layout)
    most = page if block_table is None else page * np.shape(block_table)[1]
    y = np.zeros((*q.shape[:3], caches[1].shape[3]), q.dtype)
    lse = np.zeros(q.shape[:3], q.dtype)
    for b in range(batch):
        count = int(lengths[b]) + (0 if k is None else _heads_first(k, layout).shape[2])
        position = np.arange(count)
        if block_table is None:
            block, row = np.full(count, b), position
        else:
            block, row = np.asarray(block_table)[b, position // page], position % page
        if k is not None and v is not None:
            new = slice(int(lengths[b]), None)
            for cache, rows in zip(caches, (k, v), strict=True):
                own = _heads_first(rows, layout)[b]
                cache[block[new], :, row[new]] = np.swapaxes(own, 0, 1)
        own_k, own_v = (
            _repeat_heads(np.moveaxis(cache[block, :, row], 1, 0)[None], heads) for cache in caches
        )
        slopes = alibi_slopes
        if slopes is not None and slopes.ndim == 2:
            slopes = slopes[b]
        part = slice(b, b + 1), slice(None), slice(None), slice(count)
        masks = _own((*q.shape[:3], most), part, mask, bias)
        forward = _scores(q[b : b + 1], own_k, *masks, slopes, np.array([count]), options)
        y[b : b + 1], lse[b : b + 1] = _attend(forward, own_v, 1, sinks)
    y = store(np.ascontiguousarray(_heads_first(y, layout)), out)
    return (y, lse) if return_lse else y
