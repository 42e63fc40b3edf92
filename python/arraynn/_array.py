"""Arrays of other libraries: intake without a copy, and the way back. The one place for CuPy.

NumPy arrays are the bindings' own affair. Arrays on a GPU belong to one library, CuPy, whose module
of kernels, ``arraynn._cuda``, is loaded with the first of them; arrays that other libraries have on
a GPU are seen as CuPy's. A :class:`DeviceLibrary` is what such a module must know.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from arraynn import _core

#: Device types of DLPack that CUDA kernels can read: CUDA and CUDA managed memory.
_CUDA_DEVICES = (2, 13)


@dataclass(frozen=True)
class DeviceLibrary:
    """An array library for a GPU, and the compiled module that works on its arrays.

    Attributes
    ----------
    name : str
        Of the array type, for messages.
    ndarray : type
        ``ndarray(shape, dtype)`` takes memory from the library's pool. Its arrays have ``shape``,
        ``strides``, ``dtype``, ``data.ptr``, ``device.id`` and ``copy()``, as CuPy's do.
    current_stream : callable
        Returns the ``cudaStream_t`` of this thread's current stream, as an int.
    current_device : callable
        Returns this thread's current device.
    set_device : callable
        Makes a device this thread's current one.
    view : callable
        Returns an array of the library on the memory of another library's array.
    place : str
        What ``to`` calls its devices: ``place``, or ``place:number``.
    put : callable
        Copies an array, NumPy's or the library's, to a device by its number; None is the current.
    module : module
        The kernels.
    """

    name: str
    ndarray: type
    current_stream: Callable[[], int]
    current_device: Callable[[], int]
    set_device: Callable[[int], None]
    view: Callable[[Any], Any]
    place: str
    put: Callable[[Any, int | None], Any]
    module: ModuleType


_libraries: dict[str, DeviceLibrary] = {}  # those that are registered, by place
_tf32 = False


def tf32_products() -> bool:
    """Whether products of float32 are those of tf32 on a device."""
    return _tf32


def set_tf32_products(on: bool) -> None:
    """Tell the modules that are loaded, and those that will be."""
    global _tf32
    _tf32 = on
    for library in _libraries.values():
        library.module.set_tf32_products(on)


def register(library: DeviceLibrary) -> None:
    """Send calls with arrays of ``library`` to its module."""

    def wrap(op: str, arg: str, x: Any) -> tuple[Any, bool]:
        x = _detached(x)
        if not _on_device(x):
            raise TypeError(
                f"[{op}] {arg}: expected an array on the GPU, as the first one is, got "
                f"{_type_name(x)}"
            )
        interface = getattr(x, "__cuda_array_interface__", None)
        writeable = interface is not None and not interface["data"][1]
        try:
            return library.view(x), writeable
        except (BufferError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(
                f"[{op}] {arg}: expected an array that can be seen as a {library.name}, got {error}"
            ) from error

    library.module.set_library(
        library.name,
        library.ndarray,
        library.current_stream,
        library.current_device,
        library.set_device,
        wrap,
    )
    library.module.set_tf32_products(_tf32)
    _libraries[library.place] = library
    _core.register_device(library.ndarray, library.module)
    _core.register_device(library.module.RnnWorkspace, library.module)


class _Interface:
    """Memory of another library without its stream, for which CuPy would block the CPU."""

    def __init__(self, held: Any) -> None:
        self.held = held
        self.__cuda_array_interface__ = {**held.__cuda_array_interface__, "stream": None}


def cupy_view(cupy: Any, x: Any) -> Any:
    """See another library's array on the GPU as CuPy's, whose current stream waits for its stream.

    The CPU waits for neither.
    """
    if hasattr(x, "__dlpack__"):
        return cupy.from_dlpack(x)
    array, producer = cupy.asarray(_Interface(x)), x.__cuda_array_interface__.get("stream")
    current = cupy.cuda.get_current_stream().ptr
    if producer is not None and producer != current:
        event = cupy.cuda.Event(disable_timing=True)
        cupy.cuda.runtime.eventRecord(event.ptr, producer)
        cupy.cuda.runtime.streamWaitEvent(current, event.ptr)
    return array


_cuda: ModuleType | None = None


def cuda_module() -> ModuleType:
    """Load the CUDA kernels and CuPy.

    Raises
    ------
    ImportError
        If this build has no CUDA kernels, or CuPy is not installed.
    """
    global _cuda
    if _cuda is None:
        if not _core.cuda_built:
            raise ImportError("this build has no CUDA kernels")
        module = importlib.import_module("arraynn._cuda")
        try:
            import cupy
        except ImportError as error:
            raise ImportError("CuPy is needed: pip install 'arraynn[cuda13]'") from error

        def put(x: Any, number: int | None) -> Any:
            with cupy.cuda.Device(number):
                return cupy.asarray(x)

        register(
            DeviceLibrary(
                name="cupy.ndarray",
                ndarray=cupy.ndarray,
                current_stream=lambda: int(cupy.cuda.get_current_stream().ptr),
                current_device=cupy.cuda.runtime.getDevice,
                set_device=cupy.cuda.runtime.setDevice,
                view=lambda x: cupy_view(cupy, x),
                place="cuda",
                put=put,
                module=module,
            )
        )
        _cuda = module
    return _cuda


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether these are numbers that have gradients; bfloat16 is no dtype of NumPy's own."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def has_16_bits(dtype: np.dtype[Any]) -> bool:
    """Whether these are stored in 16 bits and computed in float32."""
    return dtype.itemsize == 2 and is_floating(dtype)


def device_of(x: Any) -> str:
    """Tell where an array of NumPy or CuPy is: ``cpu``, or ``cuda`` with a number."""
    if isinstance(x, np.ndarray):
        return "cpu"
    library = _library_of(x)
    return f"{library.place if library else 'cuda'}:{x.device.id}"


def _library_of(x: Any) -> DeviceLibrary | None:
    for library in _libraries.values():
        if library.ndarray is type(x):
            return library
    return None


@contextmanager
def beside(x: Any) -> Iterator[None]:
    """Make the device of an array current: CuPy's own functions work and allocate there alone."""
    library = _library_of(x)
    before = library.current_device() if library else None
    if library is None or before is None or before == x.device.id:
        yield
        return
    library.set_device(x.device.id)
    try:
        yield
    finally:
        library.set_device(before)


def split_target(op: str, device: Any, dtype: Any) -> tuple[str | None, np.dtype[Any] | None]:
    """Sort what ``to`` was given: PyTorch takes a device or a dtype in the first place."""
    wrong = ValueError(f"[{op}] device: expected cpu, cuda, cuda:N or a dtype, got {device!r}")
    if isinstance(device, str):
        place, colon, number = device.partition(":")
        if place == "cpu" and not colon:
            return device, None if dtype is None else np.dtype(dtype)
        if place in ("cuda", *_libraries):
            if colon and not number.isdecimal():
                raise wrong
            return device, None if dtype is None else np.dtype(dtype)
    if device is None:
        return None, None if dtype is None else np.dtype(dtype)
    if dtype is not None:
        raise wrong
    try:
        return None, np.dtype(device)
    except TypeError:
        raise wrong from None


def to_device(op: str, x: Any, device: str) -> Any:
    """Copy an array of NumPy or CuPy to a device; itself where it is there already.

    Raises
    ------
    RuntimeError
        If there is no such device: no CUDA kernels in this build, no CuPy, no driver, no GPU.
    """
    place, _, number = device.partition(":")
    if place == "cpu":
        return x if isinstance(x, np.ndarray) else x.get()
    if place not in _libraries:
        try:
            cuda_module()
        except ImportError as error:
            raise RuntimeError(f"[{op}] device: {device} is not there: {error}") from error
    library = _libraries[place]
    count = library.module.device_count()
    wanted = int(number) if number else None
    if (wanted or 0) >= count:
        raise RuntimeError(f"[{op}] device: {device} is not there: the driver offers {count}")
    here = library.current_device() if wanted is None else wanted
    if not isinstance(x, np.ndarray) and x.device.id == here:
        return x
    return library.put(x, wanted)


def device_view(x: Any) -> Any | None:
    """See an array that another library has on a GPU as CuPy's; None for any other object."""
    x = _detached(x)
    if not _on_device(x):
        return None
    cuda_module()
    return _libraries["cuda"].view(x)


def device_module(x: Any) -> ModuleType | None:
    """Find the kernels for ``x``: None for anything in CPU memory.

    Called by the bindings for first arguments that are neither NumPy's nor of a registered type.
    """
    if not _on_device(_detached(x)):
        return None
    try:
        return cuda_module()
    except ImportError:
        return None  # as_numpy, which knows the argument's name, refuses it


def _type_name(x: Any) -> str:
    return f"{type(x).__module__}.{type(x).__name__}".removeprefix("builtins.")


def _why_not_on_gpu() -> str:
    try:
        cuda_module()
    except ImportError as error:
        return str(error)
    return "as the first one is, or arraynn.cuda.kernels() has no such kernel"


def _on_device(x: Any) -> bool:
    if hasattr(x, "__cuda_array_interface__"):
        return True
    # Asked of what may be on either; the rest of the world has no such method.
    place = getattr(x, "__dlpack_device__", None)
    return place is not None and int(place()[0]) in _CUDA_DEVICES


def _detached(x: Any) -> Any:
    """Leave an outside tensor's own tape: we read its values only.

    First of all: PyTorch's tensors that record raise when they are asked for an interface.
    """
    return x.detach() if getattr(x, "requires_grad", False) and hasattr(x, "detach") else x


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
    x = _detached(x)
    if hasattr(x, "__cuda_array_interface__"):
        raise TypeError(
            f"[{op}] {arg}: expected an array in CPU memory ({_why_not_on_gpu()}), "
            f"got {_type_name(x)} on a GPU"
        )
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
