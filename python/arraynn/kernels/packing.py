"""Weights packed once for many calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from numpy.typing import NDArray

from arraynn import _core
from arraynn._core import PackedWeight, PackedWeights

__all__ = ["PackedWeight", "PackedWeights", "pack"]


@overload
def pack(weight: NDArray[Any], op: str) -> PackedWeight: ...
@overload
def pack(weight: Sequence[NDArray[Any]], op: str) -> PackedWeights: ...
def pack(weight: Any, op: str) -> Any:
    """Copy a weight for repeated calls of ``op``, which then no longer rearrange it.

    The kernels read a weight as panels of a few columns, or as the tiles of a transform. For one
    call they make these on the way; with few rows, pixels or steps that is much of the time. A
    packed weight makes each form at the first call that needs it and keeps it. Results have the
    same bits.

    Parameters
    ----------
    weight : array, or list of arrays for a recurrent network; of a floating dtype
        In the shape that ``op`` takes. It is copied: later changes of it are not seen.
    op : str
        ``linear``, ``matmul``, ``conv1d``, ``conv2d``, ``conv3d``, ``conv_transpose1d``,
        ``conv_transpose2d`` or ``conv_transpose3d``: the function whose ``weight`` (``b`` of
        ``matmul``) it becomes, whatever the other arguments of the calls are. With ``rnn``,
        ``lstm`` or ``gru`` the list becomes the ``weights`` of that function and of its cell.

    Returns
    -------
    PackedWeight, or PackedWeights of a list
        With ``op``, ``shape`` (``shapes``), ``dtype`` and ``nbytes``, the bytes held now: the copy
        and the forms made so far, each about as large as the weight, Winograd's 4 times. Several
        threads may call with one.

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
