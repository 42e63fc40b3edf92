"""Arrays as awkward as users have them: strided, reversed, unaligned, read-only, guarded."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]


def _filler(a: Array) -> Any:
    """Return what must not be read: NaN, or a large index for integers."""
    return np.nan if np.issubdtype(a.dtype, np.floating) else np.iinfo(a.dtype).max


def _fortran(a: Array) -> Array:
    return np.asfortranarray(a)


def _every_other(a: Array) -> Array:
    """View with a step of 2 along every axis, nonsense in between."""
    big = np.full([2 * n + 1 for n in a.shape], _filler(a), dtype=a.dtype)
    view = big[tuple(slice(1, 2 * n + 1, 2) for n in a.shape)]
    view[...] = a
    return view


def _reversed(a: Array) -> Array:
    """View with negative strides along every axis."""
    back = tuple(slice(None, None, -1) for _ in a.shape)
    return np.ascontiguousarray(a[back])[back]


def _window(a: Array) -> Array:
    """View of the middle of a larger array: rows are contiguous, the leading stride is not."""
    big = np.full([n + 3 for n in a.shape], _filler(a), dtype=a.dtype)
    view = big[tuple(slice(1, n + 1) for n in a.shape)]
    view[...] = a
    return view


def _unaligned(a: Array) -> Array:
    """Contiguous array one byte off its dtype's alignment."""
    raw = np.zeros(a.nbytes + 1, dtype=np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape) if a.size else a
    view[...] = a
    return view


def _read_only(a: Array) -> Array:
    copy = a.copy()
    copy.flags.writeable = False
    return copy


LAYOUTS = {
    "contiguous": np.ascontiguousarray,
    "fortran": _fortran,
    "every_other": _every_other,
    "reversed": _reversed,
    "window": _window,
    "unaligned": _unaligned,
    "read_only": _read_only,
}


def in_layout(name: str, a: Array) -> Array:
    """Return the values of `a` laid out in memory as `name` says."""
    view = LAYOUTS[name](np.asarray(a)) if np.ndim(a) else np.asarray(a)
    assert np.array_equal(view, a, equal_nan=True)
    return np.asarray(view)


def mixed_layouts(*arrays: Array) -> Iterator[tuple[str, list[Array]]]:
    """Give every layout to every array once, and each time a different one to its neighbours."""
    names = list(LAYOUTS)
    for start in range(len(names)):
        chosen = [names[(start + 2 * i) % len(names)] for i in range(len(arrays))]
        yield "-".join(chosen), [in_layout(n, a) for n, a in zip(chosen, arrays, strict=True)]


class Guarded:
    """An output array surrounded by bytes that must not change.

    Parameters
    ----------
    shape, dtype
        Of :attr:`out`.
    strided : bool
        Also leave gaps inside, between rows and columns.
    """

    PATTERN = 0xA5

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, *, strided: bool = False) -> None:
        itemsize = np.dtype(dtype).itemsize
        if strided:
            big = [2 * n + 3 for n in shape]
            self._raw = np.full(int(np.prod(big)) * itemsize, self.PATTERN, dtype=np.uint8)
            self.out = self._raw.view(dtype).reshape(big)[
                tuple(slice(1, 2 * n + 1, 2) for n in shape)
            ]
        else:
            size, pad = int(np.prod(shape)) * itemsize, 64 * itemsize
            self._raw = np.full(size + 2 * pad, self.PATTERN, dtype=np.uint8)
            self.out = self._raw[pad : pad + size].view(dtype).reshape(shape)
        assert self.out.shape == tuple(shape)

    def check(self) -> None:
        """Assert that nothing outside :attr:`out` was written."""
        copy = self._raw.copy()
        start = self.out.__array_interface__["data"][0] - self._raw.__array_interface__["data"][0]
        inside = np.ndarray(
            self.out.shape,
            dtype=f"V{self.out.itemsize}",
            buffer=copy,
            offset=start if self.out.size else 0,
            strides=self.out.strides,
        )
        if inside.size:
            inside[...] = np.void(bytes([self.PATTERN]) * self.out.itemsize)
        changed = np.flatnonzero(copy != self.PATTERN)
        assert changed.size == 0, f"{changed.size} guard bytes changed, first at {changed[:4]}"


def snapshot(*arrays: Any) -> list[bytes]:
    """Record the bits of arrays (lists of arrays are flattened)."""
    flat = [b for a in arrays for b in (a if isinstance(a, list | tuple) else [a])]
    return [np.asarray(a).tobytes() for a in flat if isinstance(a, np.ndarray)]


def at_page_edge(a: Array, *, end: bool) -> Array:
    """Copy of an array that ends, or begins, where the next byte belongs to a page that faults."""
    page = mmap.PAGESIZE
    size = -(-a.nbytes // page) * page
    whole = np.frombuffer(mmap.mmap(-1, size + 2 * page), dtype=np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for edge in (0, page + size):
        address = ctypes.c_void_p(whole.ctypes.data + edge)
        if protect(address, ctypes.c_size_t(page), 0):  # PROT_NONE
            raise OSError(ctypes.get_errno(), "mprotect")
    begin = page + (size - a.nbytes if end else 0)
    copy = whole[begin : begin + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy
