"""Weights in the safetensors format: names, shapes and raw bytes, no code.

A file is the header's length (8 bytes, little endian), the header (JSON: for each name a dtype, a
shape and two offsets; texts under ``__metadata__``), and the bytes of all arrays in C order without
gaps. Source: the format section of https://huggingface.co/docs/safetensors.

What is read is not trusted: every length, offset and product is checked against the size of the
file before anything is allocated, and whatever does not fit raises ValueError.
"""

from __future__ import annotations

import contextlib
import json
import mmap as mmap_module
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

import numpy as np

__all__ = ["load", "load_file", "load_metadata", "save", "save_file"]

AnyArray: TypeAlias = np.ndarray[Any, Any]

#: Longest header that is read, the limit of the format's own library.
MAX_HEADER_BYTES = 100_000_000
_LENGTH_BYTES = 8
_MAX_AXES = 64  # NumPy's limit

_NUMPY_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
    "C64": "<c8",
}
_ML_DTYPES = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


class _Entry(NamedTuple):
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def _dtype_of(name: str, code: Any) -> np.dtype[Any]:
    """Return the NumPy dtype of a format's dtype."""
    if isinstance(code, str) and code in _NUMPY_DTYPES:
        return np.dtype(_NUMPY_DTYPES[code])
    if isinstance(code, str) and code in _ML_DTYPES:
        try:
            import ml_dtypes
        except ImportError:
            raise NotImplementedError(
                f"[load_file] {name}: dtype {code} is supported with ml_dtypes installed"
            ) from None
        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _ML_DTYPES[code]))
        return found
    raise ValueError(
        f"[load_file] {name}: expected one of the dtypes "
        f"{' '.join([*_NUMPY_DTYPES, *_ML_DTYPES])}, got {code!r}"
    )


def _code_of(name: str, dtype: np.dtype[Any]) -> str:
    """Return the format's name of a NumPy dtype."""
    for code, kind in _NUMPY_DTYPES.items():
        if dtype.newbyteorder("<") == np.dtype(kind):
            return code
    for code, kind in _ML_DTYPES.items():
        if dtype.name == kind:
            return code
    raise TypeError(
        f"[save_file] {name}: expected a dtype of the format "
        f"({' '.join([*_NUMPY_DTYPES, *_ML_DTYPES])}), got {dtype}"
    )


# ---- reading ---------------------------------------------------------------------------------


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("[load_file] header: expected every name once, got one twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"[load_file] header: expected JSON without {text}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _parse_entry(name: str, raw: Any, data_bytes: int) -> _Entry:
    """Check one entry of the header against the number of data bytes in the file."""
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(
            f"[load_file] {name}: expected dtype, shape and data_offsets, got "
            f"{sorted(raw) if isinstance(raw, dict) else type(raw).__name__}"
        )
    shape, offsets = raw["shape"], raw["data_offsets"]
    if not isinstance(shape, list) or not all(map(_is_size, shape)) or len(shape) > _MAX_AXES:
        raise ValueError(
            f"[load_file] {name}: expected a shape of at most {_MAX_AXES} sizes of at least 0, "
            f"got {str(shape)[:80]}"
        )
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise ValueError(
            f"[load_file] {name}: expected two data_offsets of at least 0, got {str(offsets)[:80]}"
        )
    begin, end = offsets
    if not begin <= end <= data_bytes:
        raise ValueError(
            f"[load_file] {name}: expected data_offsets within the file's {data_bytes} bytes of "
            f"data, got {begin} to {end}"
        )
    dtype = _dtype_of(name, raw["dtype"])
    needed = dtype.itemsize
    for size in shape:  # Python's ints do not overflow
        needed *= size
    if needed != end - begin:
        raise ValueError(
            f"[load_file] {name}: expected {needed} bytes for {dtype}{tuple(shape)}, "
            f"got {end - begin}"
        )
    if max(shape, default=0) > np.iinfo(np.int64).max:  # a size of 0 hides any other
        raise ValueError(f"[load_file] {name}: expected sizes of 63 bits, got {str(shape)[:80]}")
    return _Entry(name, dtype, tuple(shape), begin, end)


def _parse_header(header: bytes, data_bytes: int) -> tuple[list[_Entry], dict[str, str]]:
    """Return the checked entries in the order of their data, and the metadata."""
    if header[:1] != b"{":
        raise ValueError("[load_file] header: expected JSON that begins with '{'")
    try:
        raw = json.loads(
            header.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except RecursionError:
        raise ValueError("[load_file] header: expected flat JSON, got deep nesting") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"[load_file] header: expected JSON in UTF-8: {error}") from None
    metadata = raw.pop("__metadata__", None)
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("[load_file] __metadata__: expected texts by name")
    entries = [_parse_entry(name, value, data_bytes) for name, value in raw.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    position = 0
    for entry in entries:
        if entry.begin != position:
            fault = "overlap" if entry.begin < position else "gap"
            raise ValueError(
                f"[load_file] {entry.name}: expected data from byte {position}, got an {fault}: "
                f"data from byte {entry.begin}".replace("an gap", "a gap")
            )
        position = entry.end
    if position != data_bytes:
        raise ValueError(
            f"[load_file] file: expected {position} bytes of data (the header's), got {data_bytes}"
        )
    return entries, metadata


def _header_length(prefix: bytes, file_bytes: int) -> int:
    if file_bytes < _LENGTH_BYTES or len(prefix) < _LENGTH_BYTES:
        raise ValueError(
            f"[load_file] file: expected at least {_LENGTH_BYTES} bytes, got {file_bytes}"
        )
    length = int.from_bytes(prefix, "little")
    limit = min(MAX_HEADER_BYTES, file_bytes - _LENGTH_BYTES)
    if length > limit:
        raise ValueError(
            f"[load_file] header: expected at most {limit} bytes, got a length of {length}"
        )
    return length


def _check_bools(entry: _Entry, array: AnyArray) -> None:
    if entry.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
        raise ValueError(f"[load_file] {entry.name}: expected bools of 0 or 1, got another byte")


def _view(entry: _Entry, buffer: Any, data_start: int) -> AnyArray:
    """Return an entry's array over the buffer; a copy where its address does not suit the dtype."""
    array: AnyArray = (
        np.ndarray(entry.shape, entry.dtype, buffer=buffer, offset=data_start + entry.begin)
        if entry.end > entry.begin
        else np.empty(entry.shape, entry.dtype)
    )
    _check_bools(entry, array)
    return array if array.flags.aligned else array.copy()


def load(data: bytes) -> dict[str, AnyArray]:
    """Return the arrays of safetensors bytes, as :func:`load_file` does of a file.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    dict of str to numpy.ndarray
        Copies, which can be written to.

    Raises
    ------
    ValueError
        If the bytes are not of the format.

    Examples
    --------
    >>> import numpy as np
    >>> load(save({"w": np.arange(3)}))
    {'w': array([0, 1, 2])}
    """
    length = _header_length(data[:_LENGTH_BYTES], len(data))
    start = _LENGTH_BYTES + length
    entries, _ = _parse_header(data[_LENGTH_BYTES:start], len(data) - start)
    return {e.name: np.array(_view(e, data, start)) for e in entries}


def _open_header(file: BinaryIO) -> tuple[list[_Entry], dict[str, str], int]:
    file_bytes = os.fstat(file.fileno()).st_size
    length = _header_length(file.read(_LENGTH_BYTES), file_bytes)
    start = _LENGTH_BYTES + length
    entries, metadata = _parse_header(file.read(length), file_bytes - start)
    return entries, metadata, start


def load_file(path: str | os.PathLike[str], *, mmap: bool = False) -> dict[str, AnyArray]:
    """Return the arrays of a safetensors file.

    Parameters
    ----------
    path : str or path
    mmap : bool
        Map the file in place of reading it: arrays are then read-only views of it, and their
        pages are read when they are used. The file must not be changed meanwhile.

    Returns
    -------
    dict of str to numpy.ndarray
        In the order of their data. BF16 and F8 need ml_dtypes.

    Raises
    ------
    ValueError
        If the file is not of the format: truncated, overlapping, too large a header, ...
    NotImplementedError
        If a dtype needs a package that is not installed.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import os, tempfile, numpy as np
    >>> path = os.path.join(tempfile.mkdtemp(), "weights.safetensors")
    >>> save_file({"w": np.zeros((2, 2), np.float32)}, path, metadata={"epoch": "3"})
    >>> load_file(path)["w"]
    array([[0., 0.],
           [0., 0.]], dtype=float32)
    """
    with open(path, "rb") as file:
        entries, _, start = _open_header(file)
        if mmap:
            # The arrays keep the mapping alive; it closes with the last of them.
            mapped = mmap_module.mmap(file.fileno(), 0, access=mmap_module.ACCESS_READ)
            return {e.name: _view(e, mapped, start) for e in entries}
        arrays: dict[str, AnyArray] = {}
        for entry in entries:
            array = np.empty(entry.shape, entry.dtype)
            if array.size:
                got = file.readinto(array.reshape(-1).view(np.uint8).data)
                if got != entry.end - entry.begin:
                    raise ValueError(
                        f"[load_file] {entry.name}: expected {entry.end - entry.begin} bytes, got "
                        f"{got}: the file changed while it was read"
                    )
            _check_bools(entry, array)
            arrays[entry.name] = array
        return arrays


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the texts that were saved with the arrays of a file, without reading the arrays."""
    with open(path, "rb") as file:
        return _open_header(file)[1]


# ---- writing ---------------------------------------------------------------------------------


def _plain(name: str, value: Any) -> AnyArray:
    """Return a little-endian array in C order for a tensor or array."""
    if hasattr(value, "numpy"):
        value = value.numpy()
    elif hasattr(value, "get") and hasattr(value, "__cuda_array_interface__"):
        value = value.get()
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(
            f"[save_file] {name}: expected a tensor or array, got {type(value).__name__}"
        )
    array = np.asarray(value, order="C")
    _code_of(name, array.dtype)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array


def _chunks(
    tensors: Mapping[str, Any], metadata: Mapping[str, str] | None
) -> Iterator[bytes | AnyArray]:
    """Return the parts of a file: its head, then the bytes of every array."""
    arrays = {}
    for name, value in tensors.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise ValueError(f"[save_file] tensors: expected names as texts, got {name!r}")
        arrays[name] = _plain(name, value)
    header: dict[str, Any] = {}
    if metadata is not None:
        for key, note in metadata.items():
            if not isinstance(key, str) or not isinstance(note, str):
                raise TypeError(
                    f"[save_file] metadata: expected texts by name, got {key!r}: {note!r}"
                )
        header["__metadata__"] = dict(metadata)
    # The widest elements first, so that every array begins at a multiple of its element's size.
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    position = 0
    for name in order:
        array = arrays[name]
        end = position + array.nbytes
        header[name] = {
            "dtype": _code_of(name, array.dtype),
            "shape": list(array.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % _LENGTH_BYTES)
    if len(text) > MAX_HEADER_BYTES:
        raise ValueError(
            f"[save_file] header: expected at most {MAX_HEADER_BYTES} bytes, got {len(text)}"
        )
    head = len(text).to_bytes(_LENGTH_BYTES, "little") + text
    return iter([head, *(arrays[name].reshape(-1).view(np.uint8) for name in order)])


def save(tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return arrays as safetensors bytes; parameters as for :func:`save_file`."""
    return b"".join(
        part if isinstance(part, bytes) else part.tobytes() for part in _chunks(tensors, metadata)
    )


def save_file(
    tensors: Mapping[str, Any],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays to a safetensors file; it appears whole, or stays as it was.

    Parameters
    ----------
    tensors : mapping of str to array or Tensor
        Such as ``model.state_dict()``.
    path : str or path
        An existing file is replaced once the new one is complete on the disk.
    metadata : mapping of str to str, optional
        Texts kept with the arrays.

    Raises
    ------
    TypeError
        If a value is no array, or of a dtype the format does not have.
    ValueError
        If a name is no text.
    OSError
        If the file cannot be written.
    """
    parts = _chunks(tensors, metadata)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            for part in parts:
                file.write(part if isinstance(part, bytes) else part.data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
