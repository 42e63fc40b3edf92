"""Layers of which a call uses a few rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn.nn import functional as F
from arraynn.nn import init
from arraynn.nn.module import Module, Parameter, check_floating, check_positive

__all__ = ["Embedding"]


class Embedding(Module):
    """A table of vectors, looked up by index.

    Parameters
    ----------
    num_embeddings : int
        Rows of the table.
    embedding_dim : int
        Length of a vector.
    padding_idx : int, optional
        A row, negative from the end, that starts as zeros and has no gradient.
    max_norm : float, optional
        Rows with a larger norm are scaled down to it whenever they are looked up, in the table.
    norm_type : float
        p of that norm.
    scale_grad_by_freq : bool
        Divide the gradient of a row by the number of times it was looked up.
    sparse : bool
        False; gradients are dense arrays.
    dtype : dtype, optional
        float32 (default), float64, float16 or bfloat16.

    Attributes
    ----------
    weight : Parameter, (num_embeddings, embedding_dim)
        Drawn from the standard normal distribution.

    Raises
    ------
    ValueError, TypeError
        If a size or the dtype is not supported.
    NotImplementedError
        If ``sparse`` is True.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> layer = ann.nn.Embedding(10, 3, padding_idx=0)
    >>> layer
    Embedding(10, 3, padding_idx=0)
    >>> layer(np.array([[1, 2, 0]])).shape
    (1, 3, 3)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        *,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_positive("Embedding", num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        kind = check_floating("Embedding", dtype)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(
                    f"[Embedding] padding_idx: expected a row of a table of {num_embeddings}, "
                    f"got {padding_idx}"
                )
            padding_idx %= num_embeddings
        for name, value in (("max_norm", max_norm), ("norm_type", norm_type)):
            if value is not None and not value > 0:
                raise ValueError(f"[Embedding] {name}: expected a number above 0, got {value}")
        if sparse:
            raise NotImplementedError("[Embedding] sparse: only False is supported, got True")
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.max_norm = max_norm
        self.norm_type = norm_type
        self.scale_grad_by_freq = scale_grad_by_freq
        self.weight = Parameter(np.empty((num_embeddings, embedding_dim), kind))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table anew; the padding row is 0."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.data[self.padding_idx] = 0

    def forward(self, input: Any) -> Any:
        """Look up the rows of integer indices of any shape."""
        return F.embedding(
            input,
            self.weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
        )

    def extra_repr(self) -> str:
        """Return sizes and what differs from the default."""
        text = f"{self.num_embeddings}, {self.embedding_dim}"
        for name in ("padding_idx", "max_norm"):
            value = getattr(self, name)
            text += f", {name}={value}" if value is not None else ""
        text += f", norm_type={self.norm_type}" if self.norm_type != 2 else ""
        return text + (", scale_grad_by_freq=True" if self.scale_grad_by_freq else "")
