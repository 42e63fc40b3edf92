"""Multi-head attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn.autograd import arithmetic, shaping
from arraynn.autograd import attention as attention_ops
from arraynn.autograd.tape import Array, Variable, array_of, tensor_of
from arraynn.nn import _random, init
from arraynn.nn import functional as F
from arraynn.nn.linear import Linear
from arraynn.nn.module import Module, Parameter, check_floating, check_positive

__all__ = ["MultiheadAttention"]

_OP = "MultiheadAttention"


class _Scores:
    """What hides or shifts scores (N, H, L, S): a mask (True = attend) and a bias, or None."""

    def __init__(self, like: Array) -> None:
        self.mask: Array | None = None
        self.bias: Any = None
        self.dtype = like.dtype
        self.like = like  # whose library makes what is added here

    def add(self, name: str, value: Any, shape: tuple[int, ...], to: tuple[int, ...]) -> None:
        """Take a mask in PyTorch's sense: True = ignore, or numbers to add."""
        if value is None:
            return
        data = array_of(value)
        if data.shape != shape:
            raise ValueError(f"[{_OP}] {name}: expected shape {shape}, got {data.shape}")
        if data.dtype == np.bool_:
            attend = ~data.reshape(to)
            self.mask = attend if self.mask is None else self.mask & attend
            return
        if data.dtype != self.dtype:
            raise TypeError(f"[{_OP}] {name}: expected bool or {self.dtype}, got {data.dtype}")
        bias = value.reshape(to)
        self.bias = bias if self.bias is None else arithmetic.add(self.bias, bias)

    def lengthen(self, more: int) -> None:
        """Let every query see `more` keys behind the others."""
        pads = [(0, 0), (0, 0), (0, 0), (0, more)]
        if self.mask is not None:
            self.mask = np.pad(self.mask, pads, constant_values=True)
        if self.bias is not None:
            zeros = np.zeros((*array_of(self.bias).shape[:3], more), self.dtype, like=self.like)
            self.bias = shaping.concatenate([self.bias, zeros], axis=3)

    def visible(self, shape: tuple[int, ...]) -> Array:
        """Return which scores count, (N, H, L, S)."""
        visible = self.mask
        if visible is None:
            visible = np.ones(shape, np.bool_, like=self.like)
        if self.bias is not None:
            visible = visible & (array_of(self.bias) != -np.inf)
        return np.broadcast_to(visible, shape)


class MultiheadAttention(Module):
    r"""Attention of several heads between linear projections.

    .. math:: \mathrm{concat}_h\, \mathrm{softmax}(q_h k_h^T / \sqrt{d} + m)\, v_h \; W_o^T + b_o

    Parameters
    ----------
    embed_dim, num_heads : int
        Each head has embed_dim / num_heads features.
    dropout : float in [0, 1]
        Of the attention weights, in training.
    bias : bool
        Whether the projections have one.
    add_bias_kv : bool
        Whether a learned key and value follow those of the input.
    add_zero_attn : bool
        Whether a key and a value of zeros follow them.
    kdim, vdim : int, optional
        Features of key and value; embed_dim when None.
    batch_first : bool
        Whether inputs are (N, L, E) instead of (L, N, E).
    dtype : dtype, optional
        float32 (default), float64, float16 or bfloat16.

    Attributes
    ----------
    in_proj_weight : Parameter, (3 embed_dim, embed_dim), or None
    q_proj_weight, k_proj_weight, v_proj_weight : Parameter, or None
        Instead of it, where kdim or vdim differ from embed_dim.
    in_proj_bias : Parameter, (3 embed_dim,), or None
    bias_k, bias_v : Parameter, (1, 1, embed_dim), or None
    out_proj : Linear

    Raises
    ------
    ValueError, TypeError
        If a size or the dtype is not supported.

    Notes
    -----
    A. Vaswani et al., "Attention is all you need", NeurIPS 2017. With ``need_weights=False`` no
    array of L x S is made. A query that may attend to nothing gets weights of 0 (PyTorch: NaN
    where weights are asked for).

    Examples
    --------
    >>> import numpy as np
    >>> import arraynn as ann
    >>> layer = ann.nn.MultiheadAttention(8, 2, batch_first=True)
    >>> x = ann.Tensor(np.ones((3, 5, 8), np.float32))
    >>> y, weights = layer(x, x, x)
    >>> y.shape, weights.shape
    ((3, 5, 8), (3, 5, 5))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        kdim = embed_dim if kdim is None else kdim
        vdim = embed_dim if vdim is None else vdim
        check_positive(_OP, embed_dim=embed_dim, num_heads=num_heads, kdim=kdim, vdim=vdim)
        if embed_dim % num_heads != 0:
            raise ValueError(
                f"[{_OP}] num_heads: expected a divisor of embed_dim = {embed_dim}, got {num_heads}"
            )
        if not 0.0 <= dropout <= 1.0:
            raise ValueError(f"[{_OP}] dropout: expected a probability in [0, 1], got {dropout}")
        kind = check_floating(_OP, dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.kdim = kdim
        self.vdim = vdim
        self.batch_first = batch_first
        self.add_zero_attn = add_zero_attn

        def parameter(wanted: bool, *shape: int) -> Parameter | None:
            return Parameter(np.empty(shape, kind)) if wanted else None

        same = kdim == vdim == embed_dim
        self.in_proj_weight = parameter(same, 3 * embed_dim, embed_dim)
        self.q_proj_weight = parameter(not same, embed_dim, embed_dim)
        self.k_proj_weight = parameter(not same, embed_dim, kdim)
        self.v_proj_weight = parameter(not same, embed_dim, vdim)
        self.in_proj_bias = parameter(bias, 3 * embed_dim)
        self.bias_k = parameter(add_bias_kv, 1, 1, embed_dim)
        self.bias_v = parameter(add_bias_kv, 1, 1, embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: Xavier's distributions, biases 0 as in PyTorch."""
        weights = (
            self.in_proj_weight,
            self.q_proj_weight,
            self.k_proj_weight,
            self.v_proj_weight,
        )
        for weight in weights:
            if weight is not None:
                init.xavier_uniform_(weight)
        for row in (self.bias_k, self.bias_v):
            if row is not None:
                init.xavier_normal_(row)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Any, Any]:
        """Attend from query to key and value.

        Parameters
        ----------
        query : Tensor or array, (L, N, E); (N, L, E) with batch_first; (L, E) for one sample
        key : likewise, (S, N, kdim)
        value : likewise, (S, N, vdim)
        key_padding_mask : array (N, S) or (S,), optional
            bool: True = ignore the key. Of the input's dtype: added to the scores.
        need_weights : bool
            Whether to return the weights. Without them the call is faster and needs less memory.
        attn_mask : Tensor or array (L, S) or (N * num_heads, L, S), optional
            bool: True = do not attend. Of the input's dtype: added to the scores.
        average_attn_weights : bool
            Whether the weights are averaged over the heads.
        is_causal : bool
            Hides the keys after the query; no attn_mask is needed for it.

        Returns
        -------
        tuple of Tensor and Tensor or None
            The output, of the query's shape, and the weights (N, L, S) or (N, H, L, S).
        """
        packed = query is key and key is value and self.in_proj_weight is not None
        batched = array_of(query).ndim == 3
        if array_of(query).ndim not in (2, 3):
            raise ValueError(
                f"[{_OP}] query: expected 2 or 3 dimensions, got {array_of(query).ndim}"
            )

        def batch_first(x: Any) -> Any:
            x = tensor_of(x)
            if not batched:
                return x.unsqueeze(0)
            return x if self.batch_first else x.swapaxes(0, 1)

        query = batch_first(query)
        key, value = (query, query) if packed else (batch_first(key), batch_first(value))
        n, length, _ = query.shape
        size = key.shape[1]
        scores = _Scores(query.data)
        shape = (n, size) if batched else (size,)
        scores.add("key_padding_mask", key_padding_mask, shape, (n, 1, 1, size))
        if attn_mask is not None and array_of(attn_mask).ndim == 3:
            heads = self.num_heads
            to = (n, heads, length, size)
            scores.add("attn_mask", attn_mask, (n * heads, length, size), to)
        else:
            scores.add("attn_mask", attn_mask, (length, size), (1, 1, length, size))
        options: dict[str, Any] = {}
        if is_causal:
            options["causal"] = "top_left"
        if self.training and self.dropout > 0:
            options["dropout"] = self.dropout
            options["seed"] = _random.next_seed()

        weights = None
        extended = self.bias_k is not None or self.add_zero_attn
        if packed and not need_weights and not extended and not isinstance(scores.bias, Variable):
            qkv = F.linear(query, self.in_proj_weight, self.in_proj_bias)
            qkv = qkv.reshape(n, length, 3, self.num_heads, self.head_dim)
            out = attention_ops.packed_attention(qkv, mask=scores.mask, bias=scores.bias, **options)
        else:
            q, k, v = self._project(query, key, value, packed)
            if extended:
                if is_causal:
                    # Added keys are seen by every query.
                    later = np.triu(np.ones((length, size), np.bool_, like=query.data), 1)
                    scores.add("is_causal", later, (length, size), (1, 1, length, size))
                    del options["causal"]
                k, v = self._extend(k, v)
                scores.lengthen(k.shape[1] - size)
            if need_weights:
                out, weights = self._explicit(q, k, v, scores, options)
            else:
                out = attention_ops.attention(
                    q, k, v, scores.bias, mask=scores.mask, layout="blhd", **options
                )
        out = self.out_proj(out.reshape(n, length, self.embed_dim))
        if weights is not None and average_attn_weights:
            weights = weights.mean(axis=1)
        if not batched:
            return out[0], None if weights is None else weights[0]
        return (out if self.batch_first else out.swapaxes(0, 1)), weights

    def _project(self, query: Any, key: Any, value: Any, packed: bool) -> tuple[Any, Any, Any]:
        """Return q, k, v as (N, L, H, D)."""
        e = self.embed_dim
        if packed:
            both = F.linear(query, self.in_proj_weight, self.in_proj_bias)
            parts = [both[..., i * e : (i + 1) * e] for i in range(3)]
        else:
            if self.in_proj_weight is not None:
                weights: Any = [self.in_proj_weight[i * e : (i + 1) * e] for i in range(3)]
            else:
                weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            bias = self.in_proj_bias
            parts = [
                F.linear(x, weight, None if bias is None else bias[i * e : (i + 1) * e])
                for i, (x, weight) in enumerate(zip((query, key, value), weights, strict=True))
            ]
        q, k, v = (x.reshape(*x.shape[:2], self.num_heads, self.head_dim) for x in parts)
        return q, k, v

    def _extend(self, k: Any, v: Any) -> tuple[Any, Any]:
        """Add the learned and the zero position behind keys and values."""
        n = k.shape[0]
        shape = (n, 1, self.num_heads, self.head_dim)
        if self.bias_k is not None and self.bias_v is not None:
            own = (1, 1, self.num_heads, self.head_dim)
            rows = [b.reshape(*own).expand(*shape) for b in (self.bias_k, self.bias_v)]
            k, v = (shaping.concatenate([x, r], axis=1) for x, r in zip((k, v), rows, strict=True))
        if self.add_zero_attn:
            zeros = np.zeros(shape, k.dtype, like=k.data)
            k, v = (shaping.concatenate([x, zeros], axis=1) for x in (k, v))
        return k, v

    def _explicit(
        self, q: Any, k: Any, v: Any, scores: _Scores, options: dict[str, Any]
    ) -> tuple[Any, Any]:
        """Attention that makes its weights, (N, H, L, S)."""
        q, k, v = (x.permute(0, 2, 1, 3) for x in (q, k, v))
        shape = (*q.shape[:3], k.shape[2])
        visible = scores.visible(shape)
        if options.get("causal"):
            visible = visible & np.tril(np.ones(shape[2:], np.bool_, like=scores.like))
        nothing = ~visible.any(axis=-1, keepdims=True)
        s = (q * (self.head_dim**-0.5)) @ k.swapaxes(2, 3)
        if scores.bias is not None:
            s = s + scores.bias
        # Of a query without keys any finite scores will do: its weights become 0.
        s = arithmetic.where(visible, s, np.where(nothing, 0, -np.inf).astype(s.dtype))
        weights = F.softmax(s, -1) * (~nothing).astype(s.dtype)
        if "dropout" in options:
            weights = F.dropout(weights, options["dropout"], seed=options["seed"])
        return (weights @ v).permute(0, 2, 1, 3), weights

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"
