"""Dropout of elements and of whole channels, and the one that keeps mean and variance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from arraynn import kernels as K
from arraynn.autograd import elementwise
from arraynn.autograd.tape import Array, Variable, array_of
from arraynn.nn import _random

__all__ = [
    "alpha_dropout",
    "check_probability",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
]

#: What SELU tends to for large negative x, with the other sign (Klambauer et al., 2017).
_ALPHA = 1.7580993408473766


def check_probability(op: str, p: float) -> None:
    """Raise unless ``p`` lies in [0, 1]."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"[{op}] p: expected a probability in [0, 1], got {p}")


def _seed(seed: int | None) -> int:
    """Draw a seed where none is given."""
    return _random.next_seed() if seed is None else seed


def _mask(input: Any, p: float, seed: int | None, axes: int | None) -> Array:
    """Return 0 or 1 / (1 - p) for each element of the first ``axes`` axes, None: of all."""
    data = array_of(input)
    if axes is not None:
        data = data[(slice(None),) * axes + (slice(0, 1),) * (data.ndim - axes)]
    return K.dropout(np.ones_like(data), p, _seed(seed))


def dropout(
    input: Any,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | None = None,
) -> Any:
    """Zero each element with probability ``p`` and scale the others by 1 / (1 - p).

    Parameters
    ----------
    input : Tensor or array
    p : float in [0, 1]
    training : bool
        False returns the input itself.
    seed : int, optional
        Of the mask; drawn from the generator of :func:`arraynn.manual_seed` when None.

    Raises
    ------
    ValueError
        If ``p`` is outside [0, 1].
    """
    del inplace
    check_probability("dropout", p)
    if not training or p == 0.0:
        return input
    seed = _seed(seed)
    if isinstance(input, Variable):
        return elementwise.dropout(input, p, seed)  # type: ignore[arg-type]
    return K.dropout(input, p, seed)


def _channels(
    op: str, input: Any, p: float, training: bool, seed: int | None, shapes: dict[int, int]
) -> Any:
    """Zero whole channels; ``shapes``: numbers of dimensions, and of axes up to the channels."""
    check_probability(op, p)
    ndim = array_of(input).ndim
    if ndim not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ValueError(f"[{op}] input: expected {expected} dimensions, got {ndim}")
    if not training or p == 0.0:
        return input
    return input * _mask(input, p, seed, shapes[ndim])


def dropout1d(
    input: Any,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | None = None,
) -> Any:
    """Zero each channel with probability ``p``, scale the others by 1 / (1 - p).

    Parameters
    ----------
    input : Tensor or array, (N, C, L) or (C, L)
    p : float in [0, 1]
    training : bool
        False returns the input itself.
    seed : int, optional
        Of the mask; drawn from the generator of :func:`arraynn.manual_seed` when None.

    Raises
    ------
    ValueError
        If ``p`` is outside [0, 1], or the input has another number of dimensions.

    Notes
    -----
    J. Tompson et al., "Efficient object localization using convolutional networks", CVPR 2015.
    """
    del inplace
    return _channels("dropout1d", input, p, training, seed, {2: 1, 3: 2})


def dropout2d(
    input: Any,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | None = None,
) -> Any:
    """Zero whole channels as :func:`dropout1d`, of (N, C, H, W) or, as in PyTorch, (N, C, L)."""
    del inplace
    return _channels("dropout2d", input, p, training, seed, {3: 2, 4: 2})


def dropout3d(
    input: Any,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    seed: int | None = None,
) -> Any:
    """Zero whole channels as :func:`dropout1d`, of (N, C, D, H, W) or (C, D, H, W)."""
    del inplace
    return _channels("dropout3d", input, p, training, seed, {4: 1, 5: 2})


def _alpha(
    op: str, input: Any, p: float, training: bool, seed: int | None, axes: int | None
) -> Any:
    check_probability(op, p)
    if not training or p == 0.0:
        return input
    if p == 1.0:
        return input * 0.0
    kept = (_mask(input, p, seed, axes) != 0).astype(array_of(input).dtype)
    scale = 1.0 / math.sqrt((_ALPHA * _ALPHA * p + 1.0) * (1.0 - p))
    return input * (kept * scale) + (kept - (1.0 - p)) * (_ALPHA * scale)


def alpha_dropout(
    input: Any,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    seed: int | None = None,
) -> Any:
    """Set elements to SELU's limit with probability ``p``, keeping mean 0 and variance 1.

    ``y = a (x m + alpha' (m - 1)) + a alpha' p`` with m = 0 for a dropped element and 1 elsewhere,
    ``alpha' = 1.7581`` and ``a = ((alpha'^2 p + 1) (1 - p))^(-1/2)``; 0 for ``p`` = 1.

    Parameters
    ----------
    input : Tensor or array
    p : float in [0, 1]
    training : bool
        False, PyTorch's default here, returns the input itself.
    seed : int, optional
        Of the mask; drawn from the generator of :func:`arraynn.manual_seed` when None.

    Raises
    ------
    ValueError
        If ``p`` is outside [0, 1].

    Notes
    -----
    G. Klambauer et al., "Self-normalizing neural networks", 2017.
    """
    del inplace
    return _alpha("alpha_dropout", input, p, training, seed, None)


def feature_alpha_dropout(
    input: Any,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    seed: int | None = None,
) -> Any:
    """Drop whole channels of (N, C, ...) as :func:`alpha_dropout` drops elements."""
    del inplace
    if array_of(input).ndim < 2:
        raise ValueError("[feature_alpha_dropout] input: expected at least 2 dimensions")
    return _alpha("feature_alpha_dropout", input, p, training, seed, 2)
