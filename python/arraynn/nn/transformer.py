"""Transformers: stacks of layers, encoder and decoder together, and sinusoidal positions."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from arraynn.autograd.tape import Array, array_of, tensor_of
from arraynn.autograd.tensor import Tensor
from arraynn.nn import init
from arraynn.nn.activation import Dropout
from arraynn.nn.container import ModuleList
from arraynn.nn.module import Module, check_floating, check_positive
from arraynn.nn.norm import LayerNorm
from arraynn.nn.transformer_layer import (
    Activation,
    TransformerDecoderLayer,
    TransformerEncoderLayer,
)

__all__ = ["PositionalEncoding", "Transformer", "TransformerDecoder", "TransformerEncoder"]


def _copies(op: str, layer: Module, count: int) -> ModuleList:
    check_positive(op, num_layers=count)
    return ModuleList([copy.deepcopy(layer) for _ in range(count)])


class TransformerEncoder(Module):
    """A stack of encoder layers.

    Parameters
    ----------
    encoder_layer : TransformerEncoderLayer
        Copied with its values, as in PyTorch.
    num_layers : int
    norm : Module, optional
        Applied to the result.
    enable_nested_tensor, mask_check
        Accepted as in PyTorch and without effect.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> layer = ann.nn.TransformerEncoderLayer(16, 4, 32)
    >>> encoder = ann.nn.TransformerEncoder(layer, 2)
    >>> encoder(np.zeros((5, 2, 16), np.float32)).shape
    (5, 2, 16)
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        super().__init__()
        del enable_nested_tensor, mask_check
        self.layers = _copies("TransformerEncoder", encoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        src: Any,
        mask: Any = None,
        src_key_padding_mask: Any = None,
        is_causal: bool | None = None,
    ) -> Any:
        """Encode a sequence; the arguments are those of the layers, is_causal None is False."""
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal))
        return src if self.norm is None else self.norm(src)


class TransformerDecoder(Module):
    """A stack of decoder layers.

    Parameters
    ----------
    decoder_layer : TransformerDecoderLayer
        Copied with its values, as in PyTorch.
    num_layers : int
    norm : Module, optional
        Applied to the result.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> layer = ann.nn.TransformerDecoderLayer(16, 4, 32)
    >>> decoder = ann.nn.TransformerDecoder(layer, 2)
    >>> target, memory = np.zeros((3, 2, 16), np.float32), np.zeros((5, 2, 16), np.float32)
    >>> decoder(target, memory).shape
    (3, 2, 16)
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__()
        self.layers = _copies("TransformerDecoder", decoder_layer, num_layers)
        self.num_layers = num_layers
        self.norm = norm

    def forward(
        self,
        tgt: Any,
        memory: Any,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Any:
        """Decode a sequence; the arguments are those of the layers, tgt_is_causal None is False."""
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        for layer in self.layers:
            tgt = layer(tgt, memory, *masks, bool(tgt_is_causal), memory_is_causal)
        return tgt if self.norm is None else self.norm(tgt)


class Transformer(Module):
    """Encoder and decoder (Vaswani et al., 2017), with a normalisation behind each.

    Parameters
    ----------
    d_model, nhead : int
    num_encoder_layers, num_decoder_layers : int
    dim_feedforward, dropout, activation
        As in :class:`TransformerEncoderLayer`.
    custom_encoder, custom_decoder : Module, optional
        In place of the stacks.
    layer_norm_eps, batch_first, norm_first, bias, dtype
        As in :class:`TransformerEncoderLayer`.

    Attributes
    ----------
    encoder : TransformerEncoder
    decoder : TransformerDecoder

    Raises
    ------
    ValueError, TypeError
        If a size, a name or the dtype is not supported.

    Notes
    -----
    Weights of two dimensions are drawn by :func:`arraynn.nn.init.xavier_uniform_`.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> model = ann.nn.Transformer(16, 4, 2, 2, 32, batch_first=True)
    >>> source, target = np.zeros((2, 5, 16), np.float32), np.zeros((2, 3, 16), np.float32)
    >>> model(source, target, tgt_is_causal=True).shape
    (2, 3, 16)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Activation = "relu",
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        args = (
            *(d_model, nhead, dim_feedforward, dropout, activation),
            *(layer_norm_eps, batch_first, norm_first, bias),
        )

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, dtype=dtype)

        self.encoder = custom_encoder
        if custom_encoder is None:
            layer: Module = TransformerEncoderLayer(*args, dtype=dtype)
            self.encoder = TransformerEncoder(layer, num_encoder_layers, norm())
        self.decoder = custom_decoder
        if custom_decoder is None:
            layer = TransformerDecoderLayer(*args, dtype=dtype)
            self.decoder = TransformerDecoder(layer, num_decoder_layers, norm())
        self.d_model = d_model
        self.nhead = nhead
        self.batch_first = batch_first
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights of two dimensions anew."""
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Any,
        tgt: Any,
        src_mask: Any = None,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        src_key_padding_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Any:
        """Encode ``src`` and decode ``tgt`` with the result as memory.

        Returns
        -------
        Tensor of the target's shape
        """
        op = "Transformer"
        for name, x in (("src", src), ("tgt", tgt)):
            shape = array_of(x).shape
            if len(shape) not in (2, 3) or shape[-1] != self.d_model:
                raise ValueError(
                    f"[{op}] {name}: expected 2 or 3 dimensions, the last of {self.d_model}, "
                    f"got shape {shape}"
                )
        batch = 0 if self.batch_first else 1
        sizes = [array_of(x).shape[batch] if array_of(x).ndim == 3 else 1 for x in (src, tgt)]
        if sizes[0] != sizes[1] or array_of(src).ndim != array_of(tgt).ndim:
            raise ValueError(f"[{op}] tgt: expected {sizes[0]} samples as in src, got {sizes[1]}")
        assert self.encoder is not None
        assert self.decoder is not None
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        return self.decoder(
            *(tgt, memory, tgt_mask, memory_mask),
            *(tgt_key_padding_mask, memory_key_padding_mask),
            *(tgt_is_causal, memory_is_causal),
        )

    @staticmethod
    def generate_square_subsequent_mask(sz: int, *, dtype: Any = None) -> Array:
        """Return an array (sz, sz) to add to scores: -inf for the keys after the query, else 0."""
        later = np.triu(np.ones((sz, sz), np.bool_), 1)
        zero = np.zeros((), np.float32 if dtype is None else dtype)
        return np.where(later, -np.inf, zero).astype(zero.dtype)


class PositionalEncoding(Module):
    r"""Adds sines and cosines of the position to the features, then applies dropout.

    .. math:: pe[t, 2i] = \sin(t / 10000^{2i/d}), \quad pe[t, 2i+1] = \cos(t / 10000^{2i/d})

    Parameters
    ----------
    d_model : int
        Features, d.
    dropout : float in [0, 1]
    max_len : int
        Positions at most.
    batch_first : bool
        Whether inputs are (N, L, E) instead of (L, N, E).
    dtype : dtype, optional
        float32 (default), float64, float16 or bfloat16.

    Attributes
    ----------
    pe : Tensor, (max_len, 1, d_model)
        A buffer of the state.

    Raises
    ------
    ValueError, TypeError
        If a size or the dtype is not supported.

    Notes
    -----
    Section 3.5 of A. Vaswani et al., "Attention is all you need", NeurIPS 2017. PyTorch has no such
    layer; name, arguments and state are those of its tutorial on language models.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> ann.nn.PositionalEncoding(4, dropout=0.0)(np.zeros((2, 1, 4), np.float32))[0].data
    array([[0., 1., 0., 1.]], dtype=float32)
    """

    pe: Tensor

    def __init__(
        self,
        d_model: int,
        dropout: float = 0.1,
        max_len: int = 5000,
        *,
        batch_first: bool = False,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_positive("PositionalEncoding", d_model=d_model, max_len=max_len)
        kind = check_floating("PositionalEncoding", dtype)
        self.dropout = Dropout(dropout)
        self.max_len = max_len
        self.batch_first = batch_first
        rates = np.exp(np.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        angles = np.arange(max_len)[:, None] * rates
        table = np.empty((max_len, 1, d_model), kind)
        table[:, 0, 0::2] = np.sin(angles)
        table[:, 0, 1::2] = np.cos(angles)[:, : d_model // 2]
        self.register_buffer("pe", table)

    def forward(self, x: Any, offset: int = 0) -> Any:
        """Add the encoding of positions ``offset`` and following.

        Parameters
        ----------
        x : Tensor or array, (L, N, E); (N, L, E) with batch_first; (L, E) for one sample

        Returns
        -------
        Tensor of the input's shape
        """
        x = tensor_of(x)
        if x.ndim not in (2, 3):
            raise ValueError(f"[PositionalEncoding] x: expected 2 or 3 dimensions, got {x.ndim}")
        axis = 1 if self.batch_first and x.ndim == 3 else 0
        end = offset + x.shape[axis]
        if offset < 0 or end > self.max_len:
            raise ValueError(
                f"[PositionalEncoding] x: expected positions 0 to {self.max_len - 1}, "
                f"got {offset} to {end - 1}"
            )
        rows = self.pe.data[offset:end, 0]
        return self.dropout(x + (rows[:, None] if axis == 0 and x.ndim == 3 else rows))
