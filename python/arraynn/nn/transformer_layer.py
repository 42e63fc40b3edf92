"""Layers of Transformers: attention and a feed-forward network with residuals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from arraynn.autograd.elementwise import ACTIVATIONS
from arraynn.autograd.tape import tensor_of
from arraynn.nn import functional as F
from arraynn.nn.activation import Dropout, _Activation
from arraynn.nn.attention import MultiheadAttention
from arraynn.nn.linear import Linear
from arraynn.nn.module import Module, check_positive
from arraynn.nn.norm import LayerNorm

__all__ = ["TransformerDecoderLayer", "TransformerEncoderLayer"]

Activation: TypeAlias = str | Callable[[Any], Any]


def _gelu_tanh(x: Any) -> Any:
    return F.gelu(x, "tanh")


#: Activations by the name that the layer before knows them under.
_NAMED: dict[str, Callable[[Any], Any]] = {
    name: _gelu_tanh if name == "gelu_tanh" else getattr(F, name) for name in ACTIVATIONS
}
_NAMES: dict[Any, str] = {function: name for name, function in _NAMED.items()}


def _is_plain(module: Module) -> bool:
    """Whether only ``forward`` is in a call, so that it may be part of another one."""
    return not module._forward_hooks and not module._forward_pre_hooks


class _Layer(Module):
    """What the layers of encoder and decoder share: attention, the feed-forward network."""

    linear1: Linear
    linear2: Linear
    dropout: Dropout
    norm_first: bool

    def _make(
        self,
        sizes: tuple[int, int, int],
        dropout: float,
        activation: Activation,
        options: dict[str, Any],
        batch_first: bool,
        norm_first: bool,
        attentions: tuple[str, ...],
        eps: float,
    ) -> None:
        """Make the submodules in PyTorch's order, which is that of the state."""
        d_model, nhead, dim_feedforward = sizes
        op = type(self).__name__
        check_positive(op, d_model=d_model, nhead=nhead, dim_feedforward=dim_feedforward)
        if isinstance(activation, str) and activation not in _NAMED:
            raise ValueError(
                f"[{op}] activation: expected a function or one of {' '.join(_NAMED)}, "
                f"got {activation!r}"
            )
        for name in attentions:
            attention = MultiheadAttention(
                d_model, nhead, dropout, batch_first=batch_first, **options
            )
            self.add_module(name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, **options)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, **options)
        self.norm_first = norm_first
        for i in range(1, len(attentions) + 2):
            self.add_module(f"norm{i}", LayerNorm(d_model, eps, **options))
        for i in range(1, len(attentions) + 2):
            self.add_module(f"dropout{i}", Dropout(dropout))
        self.activation = _NAMED[activation] if isinstance(activation, str) else activation

    def feed_forward(self, x: Any) -> Any:
        """Return linear2(dropout(activation(linear1(x))))."""
        activation = self.activation
        name = _NAMES.get(activation)
        if isinstance(activation, _Activation) and _is_plain(activation):
            name = activation.fused_name()
        if name is not None and _is_plain(self.linear1):
            hidden = self.linear1.forward_with(x, name)
        else:
            hidden = activation(self.linear1(x))
        return self.linear2(self.dropout(hidden))

    def _add(self, x: Any, block: Callable[[Any], Any], i: int) -> Any:
        """Return the residual sum of a block with its normalisation before or after it."""
        norm: LayerNorm = self.__dict__[f"norm{i}"]
        dropout: Dropout = self.__dict__[f"dropout{i}"]
        if self.norm_first:
            return x + dropout(block(norm(x)))
        return norm(x + dropout(block(x)))


class TransformerEncoderLayer(_Layer):
    r"""Self-attention and a feed-forward network, each with a residual and a normalisation.

    .. math:: x \leftarrow \mathrm{norm}(x + f(x)) \quad\text{or, with norm_first,}\quad
              x \leftarrow x + f(\mathrm{norm}(x))

    for f self-attention and for f(x) = W2 activation(W1 x + b1) + b2.

    Parameters
    ----------
    d_model, nhead, dim_feedforward : int
        Features, heads (a divisor of d_model) and hidden features.
    dropout : float in [0, 1]
        Of the attention weights, of the hidden features and of both results.
    activation : str or function
        A name that :func:`arraynn.nn.functional.linear` takes, an activation layer or any function
        of a Tensor.
    layer_norm_eps : float
    batch_first : bool
        Whether inputs are (N, L, E) instead of (L, N, E).
    norm_first : bool
        Whether the normalisation is before attention and network instead of after the sums.
    bias : bool
        Whether projections and normalisations have one.
    dtype : dtype, optional
        float32 (default), float64, float16 or bfloat16.

    Attributes
    ----------
    self_attn : MultiheadAttention
    linear1, linear2 : Linear
    norm1, norm2 : LayerNorm
    dropout, dropout1, dropout2 : Dropout

    Raises
    ------
    ValueError, TypeError
        If a size, a name or the dtype is not supported.

    Notes
    -----
    A. Vaswani et al., "Attention is all you need", NeurIPS 2017; R. Xiong et al., "On layer
    normalization in the Transformer architecture", ICML 2020, for norm_first.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> layer = ann.nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    >>> layer(np.zeros((2, 5, 16), np.float32)).shape
    (2, 5, 16)
    """

    self_attn: MultiheadAttention
    norm1: LayerNorm
    norm2: LayerNorm

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self._make(
            (d_model, nhead, dim_feedforward),
            dropout,
            activation,
            {"bias": bias, "dtype": dtype},
            batch_first,
            norm_first,
            ("self_attn",),
            layer_norm_eps,
        )

    def forward(
        self,
        src: Any,
        src_mask: Any = None,
        src_key_padding_mask: Any = None,
        is_causal: bool = False,
    ) -> Any:
        """Encode a sequence.

        Parameters
        ----------
        src : Tensor or array, (L, N, E); (N, L, E) with batch_first; (L, E) for one sample
        src_mask : Tensor or array (L, L) or (N * nhead, L, L), optional
            bool: True = do not attend. Of the input's dtype: added to the scores.
        src_key_padding_mask : array (N, L) or (L,), optional
            bool: True = ignore the position. Of the input's dtype: added to the scores.
        is_causal : bool
            Hides the positions after each one; no src_mask is needed for it.

        Returns
        -------
        Tensor of the input's shape
        """

        def attend(x: Any) -> Any:
            return self.self_attn(
                *(x, x, x, src_key_padding_mask),
                need_weights=False,
                attn_mask=src_mask,
                is_causal=is_causal,
            )[0]

        x = self._add(tensor_of(src), attend, 1)
        return self._add(x, self.feed_forward, 2)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to a memory and a feed-forward network, as in the encoder's layer.

    Parameters
    ----------
    d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first,
    bias, dtype
        As in :class:`TransformerEncoderLayer`.

    Attributes
    ----------
    self_attn, multihead_attn : MultiheadAttention
        Within the target, and from it to the memory.
    linear1, linear2 : Linear
    norm1, norm2, norm3 : LayerNorm
    dropout, dropout1, dropout2, dropout3 : Dropout

    Raises
    ------
    ValueError, TypeError
        If a size, a name or the dtype is not supported.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> layer = ann.nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
    >>> target, memory = np.zeros((2, 3, 16), np.float32), np.zeros((2, 5, 16), np.float32)
    >>> layer(target, memory, tgt_is_causal=True).shape
    (2, 3, 16)
    """

    self_attn: MultiheadAttention
    multihead_attn: MultiheadAttention

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self._make(
            (d_model, nhead, dim_feedforward),
            dropout,
            activation,
            {"bias": bias, "dtype": dtype},
            batch_first,
            norm_first,
            ("self_attn", "multihead_attn"),
            layer_norm_eps,
        )

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Any:
        """Decode a sequence.

        Parameters
        ----------
        tgt : Tensor or array, (T, N, E); (N, T, E) with batch_first; (T, E) for one sample
        memory : likewise, (S, N, E)
            What the encoder made.
        tgt_mask, memory_mask : (T, T) and (T, S), or with N * nhead in front, optional
        tgt_key_padding_mask, memory_key_padding_mask : (N, T) and (N, S), optional
        tgt_is_causal, memory_is_causal : bool
            All as in :class:`TransformerEncoderLayer`.

        Returns
        -------
        Tensor of the target's shape
        """
        memory = tensor_of(memory)

        def attend(x: Any) -> Any:
            return self.self_attn(
                *(x, x, x, tgt_key_padding_mask),
                need_weights=False,
                attn_mask=tgt_mask,
                is_causal=tgt_is_causal,
            )[0]

        def look_up(x: Any) -> Any:
            return self.multihead_attn(
                *(x, memory, memory, memory_key_padding_mask),
                need_weights=False,
                attn_mask=memory_mask,
                is_causal=memory_is_causal,
            )[0]

        x = self._add(tensor_of(tgt), attend, 1)
        x = self._add(x, look_up, 2)
        return self._add(x, self.feed_forward, 3)
