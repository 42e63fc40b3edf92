"""Softmax attention, forward and backward, over whole sequences and against a cache.

No array of queries times keys is ever made: scores live in tiles that stay in cache, and the
backward makes them again from the logarithm of the sums that the forward returns. Sums are taken in
the dtype of the input in an order fixed by the shape of one sample, so results are the same bits
for any number of threads, and forward for any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from arraynn import _core

__all__ = [
    "attention",
    "attention_backward",
    "attention_decode",
    "attention_varlen",
    "attention_varlen_backward",
]

Array = np.ndarray[Any, Any]
Needs = tuple[Array | None, ...]


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    causal: bool | str = False,
    scale: float | None = None,
    window: Sequence[int] | None = None,
    softcap: float | None = None,
    alibi_slopes: Array | None = None,
    sinks: Array | None = None,
    kv_lengths: Array | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    layout: str = "bhld",
    return_lse: bool = False,
    out: Array | None = None,
) -> Any:
    r"""Scaled dot-product attention; every option goes with every other.

    .. math::

        s_{ij} = \mathrm{cap}(\mathrm{scale}\; q_i \cdot k_j) + b_{ij} - m_h |i + o - j|, \qquad
        y_i = \sum_j d_{ij} \frac{e^{s_{ij}}}{e^{z_h} + \sum_l e^{s_{il}}} v_j

    over the keys j that mask, causal mask, window and length leave to query i. Query i stands at
    position ``i + o`` among the keys: o is 0 for ``"top_left"`` and True, the number of keys
    (``kv_lengths`` where given) less that of queries for ``"bottom_right"``, ``Lk - Lq`` when not
    causal. :math:`e^{z_h}` is there only with ``sinks``. A query without any key has the output 0
    and a lse of -inf, or of the sink. NaN in a hidden key or value stays there.

    Parameters
    ----------
    q : array (B, H, Lq, D), of a floating dtype
        Any strides; with a contiguous last dimension (a slice of packed projections, for example)
        nothing is copied.
    k : array (B, Hkv, Lk, D)
        Hkv divides H: each head of k and v serves H / Hkv heads of q, without being repeated.
    v : array (B, Hkv, Lk, Dv)
    mask : bool array that broadcasts to (B, H, Lq, Lk), optional
        True = attend.
    bias : array that broadcasts to (B, H, Lq, Lk), of the dtype of q, optional
        Added to the scores; -inf hides a key.
    causal : bool, "top_left" or "bottom_right"
        Keys after the query are hidden. True wants Lq == Lk.
    scale : float, optional
        1 / sqrt(D) when None.
    window : (left, right), optional
        How far a visible key may be before and after the query; -1 is no limit.
    softcap : float > 0, optional
        ``cap(s) = softcap * tanh(s / softcap)``.
    alibi_slopes : array (H,) or (B, H) of the dtype of q, optional
        The slope m of each head.
    sinks : array (H,) of the dtype of q, optional
        A logit z of each head that joins the sum of the exponentials and has no value: a query may
        attend to nothing.
    kv_lengths : int array (B,), optional
        Keys from there on are hidden.
    dropout : float in [0, 1]
        Probability of dropping a probability; the others are divided by 1 - dropout. The mask is
        that of :func:`dropout` on an array (B, H, Lq, Lk).
    seed : int, optional
        Of the mask; needed where dropout is not 0.
    layout : {"bhld", "blhd"}
        Order of the dimensions of q, k, v and the result.
    return_lse : bool
        Also return the logarithm of the sums of exponentials, (B, H, Lq); float32 where the arrays
        have 16 bits.
    out : array of the result's shape and dtype, optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array (B, H, Lq, Dv), or the pair of it and lse

    Raises
    ------
    ValueError
        For shapes that do not fit, values out of range, ``causal=True`` with Lq != Lk, or dropout
        without a seed.
    TypeError
        For other or mixed dtypes.

    Notes
    -----
    Tiles with a running maximum: M. Milakov, N. Gimelshein, arXiv:1805.02867; T. Dao et al.,
    "FlashAttention", NeurIPS 2022. ALiBi: O. Press et al., ICLR 2022. Shared key heads: J. Ainslie
    et al., "GQA", EMNLP 2023. Sinks: G. Xiao et al., arXiv:2309.17453, as logits that are learned.

    Examples
    --------
    >>> q = np.ones((1, 1, 1, 2))
    >>> attention(q, np.zeros((1, 1, 2, 2)), np.array([[[[1.0], [3.0]]]]))
    array([[[[2.]]]])
    """
    return _core.attention(
        q,
        k,
        v,
        mask,
        bias,
        causal,
        scale,
        window,
        softcap,
        alibi_slopes,
        sinks,
        kv_lengths,
        dropout,
        seed,
        layout,
        return_lse,
        out,
    )


def attention_backward(
    grad_out: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    causal: bool | str = False,
    scale: float | None = None,
    window: Sequence[int] | None = None,
    softcap: float | None = None,
    alibi_slopes: Array | None = None,
    sinks: Array | None = None,
    kv_lengths: Array | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    layout: str = "bhld",
    needs: Sequence[str] = ("q", "k", "v", "bias", "sinks"),
) -> Needs:
    r"""Gradients of :func:`attention`.

    .. math::

        ds_{ij} = p_{ij} (d_{ij}\; \bar y_i \cdot v_j - \bar y_i \cdot y_i), \qquad
        p_{ij} = e^{s_{ij} - \mathrm{lse}_i}

    from which ``dq = scale ds k``, ``dk = scale ds^T q``, ``dv = (d p)^T grad_out``, and the
    gradient by bias is ds, summed over what bias is broadcast along. That by a sink is the sum of
    :math:`-e^{z_h - \mathrm{lse}_i}\; \bar y_i \cdot y_i` over its queries.

    Parameters
    ----------
    grad_out : array of the shape and dtype of the forward's result
    q, k, v : arrays
        As given to the forward.
    out, lse : arrays
        As the forward returned them.
    mask, bias, causal, scale, window, softcap, alibi_slopes, sinks, kv_lengths
        As given to the forward.
    dropout, seed, layout
        As given to the forward.
    needs : names out of "q", "k", "v", "bias", "sinks"
        Which gradients to compute.

    Returns
    -------
    tuple of 5
        Gradients by q, k, v, bias and sinks, of their shapes; None for those not needed, and for a
        bias and sinks that are not given.

    Raises
    ------
    ValueError, TypeError
        As :func:`attention`, and for a grad_out, out or lse that does not fit.

    Examples
    --------
    >>> q, k, v = np.zeros((3, 1, 1, 2, 1))
    >>> y, lse = attention(q, k, v, return_lse=True)
    >>> attention_backward(np.ones_like(y), q, k, v, y, lse, needs=("v",))[2].ravel()
    array([1., 1.])
    """
    return _core.attention_backward(
        grad_out,
        q,
        k,
        v,
        out,
        lse,
        mask,
        bias,
        causal,
        scale,
        window,
        softcap,
        alibi_slopes,
        sinks,
        kv_lengths,
        dropout,
        seed,
        layout,
        needs,
    )


def attention_varlen(
    q: Array,
    k: Array,
    v: Array,
    cu_seqlens_q: Array,
    cu_seqlens_k: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    causal: bool | str = False,
    scale: float | None = None,
    window: Sequence[int] | None = None,
    softcap: float | None = None,
    alibi_slopes: Array | None = None,
    sinks: Array | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    return_lse: bool = False,
    out: Array | None = None,
) -> Any:
    """:func:`attention` over sequences of several lengths, one behind the other.

    Sequence b has the queries ``cu_seqlens_q[b]`` to ``cu_seqlens_q[b + 1]`` and the keys
    ``cu_seqlens_k[b]`` to ``cu_seqlens_k[b + 1]``. The result of a sequence is that of
    :func:`attention` on it alone, bit by bit where it has more than one query.

    Parameters
    ----------
    q : array (Tq, H, D), of a floating dtype
    k : array (Tk, Hkv, D)
    v : array (Tk, Hkv, Dv)
    cu_seqlens_q, cu_seqlens_k : int arrays (B + 1,)
        Ascending from 0 to Tq and Tk.
    mask : bool array that broadcasts to (H, Tq, longest sequence of keys), optional
        True = attend. A sequence uses the first columns of its rows. On a GPU nobody looks how many
        there should be: a query that sees a key beyond them is NaN.
    bias : array that broadcasts to (H, Tq, longest sequence of keys), of the dtype of q, optional
        Added to the scores; -inf hides a key. Its columns as those of mask.
    causal : bool, "top_left" or "bottom_right"
        True wants every sequence to have as many queries as keys.
    scale, window, softcap, alibi_slopes, sinks
        As in :func:`attention`.
    dropout, seed
        As in :func:`attention`; the mask is that of :func:`dropout` on an array (H, Tq, longest
        sequence of keys), of which a sequence uses its first columns.
    return_lse : bool
        Also return lse, (H, Tq).
    out : array (Tq, H, Dv), optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array (Tq, H, Dv), or the pair of it and lse

    Raises
    ------
    ValueError, TypeError
        As :func:`attention`, and for offsets that do not ascend to the number of rows.

    Examples
    --------
    >>> x = np.ones((5, 1, 2))
    >>> attention_varlen(x, x, x, np.array([0, 2, 5]), np.array([0, 2, 5])).shape
    (5, 1, 2)
    """
    return _core.attention_varlen(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        mask,
        bias,
        causal,
        scale,
        window,
        softcap,
        alibi_slopes,
        sinks,
        dropout,
        seed,
        return_lse,
        out,
    )


def attention_varlen_backward(
    grad_out: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    cu_seqlens_q: Array,
    cu_seqlens_k: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    causal: bool | str = False,
    scale: float | None = None,
    window: Sequence[int] | None = None,
    softcap: float | None = None,
    alibi_slopes: Array | None = None,
    sinks: Array | None = None,
    dropout: float = 0.0,
    seed: int | None = None,
    needs: Sequence[str] = ("q", "k", "v", "bias", "sinks"),
) -> Needs:
    """Gradients of :func:`attention_varlen`.

    Parameters
    ----------
    grad_out : array (Tq, H, Dv)
    q, k, v, cu_seqlens_q, cu_seqlens_k : arrays
        As given to the forward.
    out, lse : arrays
        As the forward returned them.
    mask, bias, causal, scale, window, softcap, alibi_slopes, sinks, dropout, seed
        As given to the forward.
    needs : names out of "q", "k", "v", "bias", "sinks"
        Which gradients to compute.

    Returns
    -------
    tuple of 5
        Gradients by q, k, v, bias and sinks, of their shapes; None for those not needed, and for a
        bias and sinks that are not given.

    Raises
    ------
    ValueError, TypeError
        As :func:`attention_varlen`, and for a grad_out, out or lse that does not fit.

    Examples
    --------
    >>> x, ends = np.zeros((2, 1, 1)), np.array([0, 2])
    >>> y, lse = attention_varlen(x, x, x, ends, ends, return_lse=True)
    >>> attention_varlen_backward(np.ones_like(y), x, x, x, y, lse, ends, ends)[2].ravel()
    array([1., 1.])
    """
    return _core.attention_varlen_backward(
        grad_out,
        q,
        k,
        v,
        out,
        lse,
        cu_seqlens_q,
        cu_seqlens_k,
        mask,
        bias,
        causal,
        scale,
        window,
        softcap,
        alibi_slopes,
        sinks,
        dropout,
        seed,
        needs,
    )


def attention_decode(
    q: Array,
    k_cache: Array,
    v_cache: Array,
    lengths: Array,
    *,
    block_table: Array | None = None,
    k: Array | None = None,
    v: Array | None = None,
    mask: Array | None = None,
    bias: Array | None = None,
    scale: float | None = None,
    window: Sequence[int] | None = None,
    softcap: float | None = None,
    alibi_slopes: Array | None = None,
    sinks: Array | None = None,
    cos: Array | None = None,
    sin: Array | None = None,
    interleaved: bool = False,
    layout: str = "bhld",
    return_lse: bool = False,
    out: Array | None = None,
) -> Any:
    """Causal :func:`attention` of the last positions of sequences whose keys are in a cache.

    Sequence b has the first ``lengths[b]`` positions of its cache, and those of ``k`` and ``v``,
    which are written behind them first. Its queries are its last Lq positions. With a block table,
    position j of sequence b is row ``j % page`` of page ``block_table[b, j // page]``.

    One query without mask and bias is computed by splits of 512 keys: the cache is read once, for
    all heads that share a head of it.

    Parameters
    ----------
    q : array (B, H, Lq, D), of a floating dtype
    k_cache, v_cache : arrays (B, Hkv, Lmax, D) and (B, Hkv, Lmax, Dv)
        Or (pages, Hkv, page, D) and (pages, Hkv, page, Dv) with a block table. The last dimension
        is contiguous. Changed where ``k`` and ``v`` are given; nothing else is.
    lengths : int array (B,)
        Positions in the cache, without ``k`` and ``v``.
    block_table : int array (B, pages of a sequence), optional
        Entries past the end of a sequence are not looked at.
    k, v : arrays (B, Hkv, Lnew, D) and (B, Hkv, Lnew, Dv), optional
        Keys and values to append.
    mask : bool array that broadcasts to (B, H, Lq, Lmax), optional
        True = attend. Column j is position j of a sequence; with a block table Lmax is what the
        pages of one hold.
    bias : array that broadcasts to (B, H, Lq, Lmax), of the dtype of q, optional
        Added to the scores; -inf hides a position.
    scale, window, softcap, alibi_slopes, sinks
        As in :func:`attention`.
    cos, sin : arrays (P, R/2) of the dtype of q, optional
        q and ``k`` are turned by the angles of their positions, as by :func:`rope`: the cache holds
        turned keys. A row for every position.
    interleaved : bool
        Pair neighbours instead of halves.
    layout : {"bhld", "blhd"}
        Order of the dimensions of q, the caches, k, v and the result.
    return_lse : bool
        Also return the logarithm of the sums of exponentials, (B, H, Lq).
    out : array (B, H, Lq, Dv), optional
        Where the result goes. Must not overlap an input.

    Returns
    -------
    array (B, H, Lq, Dv), or the pair of it and lse

    Raises
    ------
    ValueError
        For shapes that do not fit, lengths beyond the cache or the angles, pages that it does not
        have, or a read-only cache to append to.
    TypeError
        For other or mixed dtypes.

    Notes
    -----
    Pages: W. Kwon et al., "Efficient memory management for large language model serving with
    PagedAttention", SOSP 2023.

    Examples
    --------
    >>> cache = np.zeros((2, 1, 1, 4, 1))
    >>> new = np.full((1, 1, 1, 1), 3.0)
    >>> attention_decode(new, cache[0], cache[1], np.array([2]), k=0 * new, v=new)
    array([[[[1.]]]])
    >>> cache[1].ravel()
    array([0., 0., 3., 0.])
    """
    return _core.attention_decode(
        q,
        k_cache,
        v_cache,
        lengths,
        block_table,
        k,
        v,
        mask,
        bias,
        scale,
        window,
        softcap,
        alibi_slopes,
        sinks,
        cos,
        sin,
        interleaved,
        layout,
        return_lse,
        out,
    )
