"""Scaled dot-product attention as a function, with PyTorch's signature."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from arraynn import kernels as K
from arraynn.autograd import attention as attention_ops
from arraynn.autograd.tape import Array, Variable, array_of
from arraynn.nn import _random

__all__ = ["scaled_dot_product_attention"]

_OP = "scaled_dot_product_attention"


def _as_heads(name: str, x: Any) -> Any:
    """Return (..., H, L, E) as (B, H, L, E)."""
    shape = np.shape(array_of(x))
    if len(shape) < 2:
        raise ValueError(f"[{_OP}] {name}: expected at least 2 dimensions, got {len(shape)}")
    if len(shape) == 4:
        return x
    heads = shape[-3] if len(shape) > 2 else 1
    return x.reshape((math.prod(shape[:-3]), heads, *shape[-2:]))


def _split_mask(attn_mask: Any, shape: tuple[int, ...]) -> tuple[Array | None, Any]:
    """Return the mask as (bool mask, additive bias), for scores of ``shape``."""
    if attn_mask is None:
        return None, None
    data = array_of(attn_mask)
    if len(shape) > 4 and data.ndim > 3:
        # Leading axes become one: a mask that is broadcast along some of them cannot stay so.
        whole = getattr(attn_mask, "expand", None)  # a tensor's
        attn_mask = np.broadcast_to(data, shape) if whole is None else whole(*shape)
        attn_mask = attn_mask.reshape((math.prod(shape[:-3]), *shape[-3:]))
        data = array_of(attn_mask)
    return (data, None) if data.dtype == np.bool_ else (None, attn_mask)


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    sinks: Any = None,
    seed: int | None = None,
) -> Any:
    """Return ``softmax(scale * query @ key.T + attn_mask) @ value`` over the last two axes.

    Parameters
    ----------
    query : Tensor or array, (..., H, L, E)
    key : Tensor or array, (..., H, S, E)
    value : Tensor or array, (..., H, S, Ev)
        The leading axes are those of the query. One of length 1, or a shorter shape, is not
        broadcast.
    attn_mask : Tensor or array that broadcasts to (..., H, L, S), optional
        bool: True = attend. Of the query's dtype: added to the scores; it gets a gradient.
    dropout_p : float in [0, 1]
        Applied whenever it is not 0: pass 0 in evaluation.
    is_causal : bool
        Query i attends to keys up to i, counted from the start. May be given with a mask.
    scale : float, optional
        1 / sqrt(E) when None.
    enable_gqa : bool
        Lets each head of key and value serve several heads of the query.
    sinks : Tensor or array (H,), optional
        A logit of each head that takes a share of the softmax and has no value.
    seed : int, optional
        Of the dropout; drawn from the generator of :func:`arraynn.manual_seed` when None.

    Returns
    -------
    Tensor or array, (..., H, L, Ev)
        A query that may attend to nothing gets 0.

    Raises
    ------
    ValueError, TypeError
        For shapes, values and dtypes that do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.zeros((2, 5, 4))
    >>> scaled_dot_product_attention(x, x, x, is_causal=True).shape
    (2, 5, 4)
    """
    shape = np.shape(array_of(query))
    q, k, v = (_as_heads(n, x) for n, x in (("query", query), ("key", key), ("value", value)))
    heads, kv_heads = array_of(q).shape[1], array_of(k).shape[1]
    if heads != kv_heads and not enable_gqa:
        raise ValueError(
            f"[{_OP}] key: expected {heads} heads (those of query) without enable_gqa, "
            f"got {kv_heads}"
        )
    mask, bias = _split_mask(attn_mask, (*shape[:-1], array_of(k).shape[2]))
    options: dict[str, Any] = {
        "mask": mask,
        "causal": "top_left" if is_causal else False,
        "scale": scale,
    }
    if dropout_p != 0:
        options["dropout"] = dropout_p
        options["seed"] = _random.next_seed() if seed is None else seed
    if any(isinstance(x, Variable) for x in (q, k, v, bias, sinks)):
        out: Any = attention_ops.attention(q, k, v, bias, sinks, **options)
    else:
        out = K.attention(q, k, v, bias=bias, sinks=sinks, **options)
    if len(shape) == 4:
        return out
    return out.reshape((*shape[:-1], array_of(out).shape[-1]))
