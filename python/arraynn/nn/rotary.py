"""Rotary position embedding: as a function and as a layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraynn.autograd import rope as rope_ops
from arraynn.autograd.tape import Variable
from arraynn.autograd.tensor import Tensor
from arraynn.nn.module import Module, check_floating, check_positive

__all__ = ["RotaryEmbedding", "rope"]


def rope(
    input: Any,
    cos: Any,
    sin: Any,
    positions: Any = None,
    *,
    interleaved: bool = False,
    layout: str = "bhld",
) -> Any:
    """Turn pairs of elements of each vector by the angles of its position.

    Parameters
    ----------
    input : Tensor or array, (B, H, L, D) or (H, L, D)
    cos, sin : Tensor or array, (P, R/2) or (B, L, R/2)
        Without gradients.
    positions : int, or int array (L,) or (B, L), optional
        Rows of cos and sin; see :func:`arraynn.kernels.rope`.
    interleaved : bool
        Pair neighbours instead of halves.
    layout : {"bhld", "blhd"}

    Returns
    -------
    Tensor or array of the input's shape

    Raises
    ------
    ValueError, TypeError
        If shapes, positions or dtypes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> rope(np.array([[[1.0, 2.0]]]), np.zeros((1, 1)), np.ones((1, 1)))
    array([[[-2.,  1.]]])
    """
    result = rope_ops.rope(input, cos, sin, positions, interleaved=interleaved, layout=layout)
    return result if isinstance(input, Variable) else result.data


class RotaryEmbedding(Module):
    r"""Turns queries and keys by angles that grow with the position.

    .. math:: \theta_{p,i} = p \cdot \mathrm{base}^{-2i/R}, \quad i < R/2

    The product of a turned query and a turned key depends on the distance of their positions alone.

    Parameters
    ----------
    dim : int
        Elements of a vector that are turned, R; even. The others pass through.
    max_positions : int
        Positions at most.
    base : float
        What the slowest pair's angle follows from.
    interleaved : bool
        Pair neighbours (RoFormer, GPT-J) instead of halves (GPT-NeoX, Llama).
    layout : {"bhld", "blhd"}
        Order of the dimensions of inputs.
    dtype : dtype, optional
        float32 (default), float64, float16 or bfloat16.

    Attributes
    ----------
    cos, sin : Tensor, (max_positions, dim / 2)
        Buffers that are no part of the state: they follow from the arguments. Computed in float64
        and rounded once.

    Raises
    ------
    ValueError, TypeError
        If a size, the base, the layout or the dtype is not supported.

    Notes
    -----
    J. Su et al., "RoFormer: enhanced transformer with rotary position embedding", arXiv:2104.09864.

    Examples
    --------
    >>> import arraynn as ann, numpy as np
    >>> layer = ann.nn.RotaryEmbedding(8, 32)
    >>> layer
    RotaryEmbedding(8, max_positions=32, base=10000.0)
    >>> layer(np.ones((2, 4, 5, 8), np.float32)).shape
    (2, 4, 5, 8)
    >>> layer(np.ones((2, 4, 1, 8), np.float32), 5).shape  # one more position
    (2, 4, 1, 8)
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        dim: int,
        max_positions: int = 2048,
        base: float = 10000.0,
        *,
        interleaved: bool = False,
        layout: str = "bhld",
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_positive("RotaryEmbedding", dim=dim, max_positions=max_positions)
        kind = check_floating("RotaryEmbedding", dtype)
        if dim % 2 != 0:
            raise ValueError(f"[RotaryEmbedding] dim: expected an even number, got {dim}")
        if not 0 < base < np.inf:
            raise ValueError(f"[RotaryEmbedding] base: expected a finite value > 0, got {base}")
        if layout not in ("bhld", "blhd"):
            raise ValueError(f"[RotaryEmbedding] layout: expected 'bhld' or 'blhd', got {layout!r}")
        self.dim = dim
        self.max_positions = max_positions
        self.base = float(base)
        self.interleaved = interleaved
        self.layout = layout
        rates = self.base ** (-np.arange(0, dim, 2) / dim)
        angles = np.arange(max_positions)[:, None] * rates
        self.register_buffer("cos", Tensor(np.cos(angles).astype(kind)), persistent=False)
        self.register_buffer("sin", Tensor(np.sin(angles).astype(kind)), persistent=False)

    def forward(self, input: Any, positions: Any = None) -> Any:
        """Turn (B, H, L, D) or (H, L, D); ``positions`` as in :func:`arraynn.kernels.rope`."""
        return rope(
            input,
            self.cos,
            self.sin,
            positions,
            interleaved=self.interleaved,
            layout=self.layout,
        )

    def extra_repr(self) -> str:
        """Return the arguments that are not the defaults."""
        text = f"{self.dim}, max_positions={self.max_positions}, base={self.base}"
        text += ", interleaved=True" if self.interleaved else ""
        return text if self.layout == "bhld" else f"{text}, layout={self.layout!r}"
