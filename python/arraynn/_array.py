"""Arrays of other libraries: intake without a copy, and the way back. The one place for CuPy."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np


def as_numpy(op: str, arg: str, x: Any) -> np.ndarray[Any, Any]:
    """View ``x`` as a NumPy array without copying.

    Called by the bindings for everything that is not exactly a ``numpy.ndarray``: subclasses
    give their base array, other objects go through DLPack, then the array interface and the
    buffer protocol.

    Raises
    ------
    TypeError
        For objects that hold no array memory on the CPU (lists, scalars, device arrays), and
        for masked arrays: no kernel looks at a mask.
    """
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"[{op}] {arg}: expected an array without a mask, got a MaskedArray; fill it"
        )
    if isinstance(x, np.ndarray):
        return np.asarray(x)
    if hasattr(x, "__cuda_array_interface__"):
        raise TypeError(
            f"[{op}] {arg}: expected an array in CPU memory (this build has no CUDA kernels), "
            f"got {type(x).__module__}.{type(x).__name__} on a GPU"
        )
    if getattr(x, "requires_grad", False) and hasattr(x, "detach"):
        x = x.detach()  # an outside tensor on its own tape: we read its values only
    if hasattr(x, "__dlpack__"):
        try:
            return np.from_dlpack(x)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(f"[{op}] {arg}: expected a CPU array, got {error}") from error
    if hasattr(x, "__array_interface__"):
        return np.asarray(x)
    try:
        return np.asarray(memoryview(x))
    except TypeError:
        raise TypeError(f"[{op}] {arg}: expected a numpy.ndarray, got {type(x).__name__}") from None


def wrap_like(result: np.ndarray[Any, Any], like: Any) -> Any:
    """Hand ``result`` back in the library of ``like``, which the first argument came from."""
    name = type(like).__module__.partition(".")[0]
    library = sys.modules.get("jax" if name == "jaxlib" else name)
    for place in (library, getattr(library, "dlpack", None)):
        from_dlpack = getattr(place, "from_dlpack", None)
        if from_dlpack is not None:
            return from_dlpack(result)
    return result
