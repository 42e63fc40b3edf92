"""Weights packed once for many calls."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from arraynn import _core
from arraynn._core import PackedWeight

__all__ = ["PackedWeight", "pack"]


def pack(weight: NDArray[Any], op: str) -> PackedWeight:
    """Copy a weight for repeated calls of ``op``, which then no longer rearrange it.

    The kernels read a weight as panels of a few columns, or as the tiles of a transform. For one
    call they make these on the way; with few rows or pixels that is much of the time. A packed
    weight makes each form at the first call that needs it and keeps it. Results have the same bits.

    Parameters
    ----------
    weight : array, float32 or float64
        In the shape that ``op`` takes. It is copied: later changes of it are not seen.
    op : str
        ``linear``, ``matmul``, ``conv1d``, ``conv2d``, ``conv3d``, ``conv_transpose1d``,
        ``conv_transpose2d`` or ``conv_transpose3d``: the function whose ``weight`` (``b`` of
        ``matmul``) it becomes, whatever the other arguments of the calls are.

    Returns
    -------
    PackedWeight
        With ``op``, ``shape``, ``dtype`` and ``nbytes``, the bytes held now: the copy and the forms
        made so far, each about as large as the weight, Winograd's 4 times. Several threads may
        call with one.

    Raises
    ------
    ValueError
        For another operation, or a weight of other dimensions.
    TypeError
        For arrays of other dtypes.

    Examples
    --------
    >>> import numpy as np
    >>> from arraynn import kernels as K
    >>> x, w = np.ones((1, 3), np.float32), np.ones((2, 3), np.float32)
    >>> packed = K.pack(w, "linear")
    >>> K.linear(x, packed)
    array([[3., 3.]], dtype=float32)
    """
    return _core.pack(weight, op)
