"""An array library whose "device" is the CPU: NumPy memory that NumPy's kernels cannot see.

Its arrays have the attributes of CuPy's arrays that the bindings use, so that a call of a kernel
takes the whole way: intake, checks, launch, kernel. `load` compiles the kernels' own sources.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
#: Where the module is built; an environment variable takes one that was built with a sanitizer.
BUILD = Path(os.environ.get("ARRAYNN_HOST_CUDA_BUILD", ROOT / "build" / "host_cuda"))


class MissingTool(Exception):
    """There is no compiler, or nothing that drives it."""


def _tool(name: str) -> str:
    """Find a program beside this Python (a virtual environment need not be active) or in PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise MissingTool(f"{name} is not installed")
    return found


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}")


@cache
def _configure() -> str:
    """Return the program that builds."""
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        raise MissingTool("a C++ compiler is not installed")
    if importlib.util.find_spec("pybind11") is None:
        raise MissingTool("pybind11 is not installed")
    cmake, ninja = _tool("cmake"), _tool("ninja")
    options = ["ARRAYNN_CUDA=OFF", "ARRAYNN_HOST_CUDA=ON", "CMAKE_BUILD_TYPE=Release"]
    options += [f"CMAKE_MAKE_PROGRAM={ninja}", f"Python_EXECUTABLE={sys.executable}"]
    defines = [f"-D{option}" for option in options]
    _run(cmake, "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja", *defines)
    return cmake


def build_program(target: str) -> Path:
    """Compile what has changed of one target."""
    _run(_configure(), "--build", str(BUILD), "--target", target)
    return BUILD / target


@cache
def load() -> ModuleType:
    """Build and import ``_host_cuda``, and tell arraynn of it.

    Raises
    ------
    MissingTool
        If it cannot be built here.
    """
    if "ARRAYNN_HOST_CUDA_BUILD" not in os.environ:
        build_program("_host_cuda")
    (path,) = BUILD.glob("_host_cuda.*.so")
    spec = importlib.util.spec_from_file_location("_host_cuda", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_host_cuda"] = module
    spec.loader.exec_module(module)

    from arraynn import _array

    _array.register(
        _array.DeviceLibrary(
            name="host_cuda.ndarray",
            ndarray=ndarray,
            current_stream=lambda: _streams[_current["device"]],
            current_device=lambda: _current["device"],
            set_device=_set_device,
            view=_view,
            place="host_cuda",
            put=_put,
            module=module,
        )
    )
    return module


_current = {"device": 0}
_streams = {0: 0, 1: 0}  # of each device, the current one


def current_device() -> int:
    return _current["device"]


def _set_device(number: int) -> None:
    _current["device"] = number


@contextmanager
def device(number: int) -> Any:
    """Make another device current."""
    before = _current["device"]
    _current["device"] = number
    try:
        yield
    finally:
        _current["device"] = before


@contextmanager
def stream(handle: int) -> Any:
    """Make another stream that of the current device."""
    number = _current["device"]
    before = _streams[number]
    _streams[number] = handle
    try:
        yield
    finally:
        _streams[number] = before


class Device:
    def __init__(self, number: int) -> None:
        self.id = number


class MemoryPointer:
    """An address, and the memory that it keeps alive."""

    def __init__(self, memory: np.ndarray[Any, Any], device_id: int) -> None:
        self.memory = memory
        self.ptr = memory.__array_interface__["data"][0]
        self.device_id = device_id


#: Methods of NumPy's arrays, on the device's.
_METHODS = {
    *("all", "any", "argmax", "argmin", "clip", "cumsum", "max", "mean", "min", "prod", "ravel"),
    *("repeat", "squeeze", "std", "sum", "swapaxes", "take", "transpose", "var"),
}


def _on_host(value: Any) -> Any:
    """Unwrap arguments of a function of NumPy; like CuPy, take no array of the host for one."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return type(value)(map(_on_host, value)) if type(value) in (tuple, list) else value


def _wrapped(value: Any) -> Any:
    """Wrap results, on the current device as CuPy's: a scalar of NumPy is an array without axes."""
    if isinstance(value, np.ndarray | np.generic):
        return ndarray.of(np.asarray(value))
    return [_wrapped(v) for v in value] if isinstance(value, tuple | list) else value


#: Of AddressSanitizer, where Python runs under it: what no kernel may touch.
_forbid = getattr(ctypes.CDLL(None), "__asan_poison_memory_region", None)


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):  # the name that array libraries use
    """An array in "device" memory; fresh ones are full of NaN and of guard bytes at the end.

    NumPy's functions and operators work on it as on CuPy's arrays: never on both kinds at once.
    """

    allocations = 0

    def __init__(self, shape: Any, dtype: Any = float) -> None:
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        # Device memory comes at multiples of 512 bytes, and is not cleared.
        block = np.full(size + 1024, 0xFF, np.uint8)
        start = -block.__array_interface__["data"][0] % 512
        self._host = block[start : start + size].view(dtype).reshape(shape)
        self._block = block
        if _forbid is not None:
            address = block.__array_interface__["data"][0]
            _forbid(ctypes.c_void_p(address), ctypes.c_size_t(start))
            end = start + size
            _forbid(ctypes.c_void_p(address + end), ctypes.c_size_t(block.size - end))
        self._device = _current["device"]
        ndarray.allocations += 1

    @classmethod
    def of(cls, host: np.ndarray[Any, Any], number: int | None = None) -> ndarray:
        """Take NumPy memory, strides and all, as the device's."""
        array = cls.__new__(cls)
        array._host = host
        array._block = host
        array._device = _current["device"] if number is None else number
        return array

    @property
    def shape(self) -> tuple[int, ...]:
        return self._host.shape

    @property
    def strides(self) -> tuple[int, ...]:
        return self._host.strides

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._host.dtype

    @property
    def size(self) -> int:
        return self._host.size

    @property
    def nbytes(self) -> int:
        return self._host.nbytes

    @property
    def T(self) -> ndarray:
        return ndarray.of(self._host.T, self._device)

    def reshape(self, *shape: int) -> ndarray:
        return ndarray.of(self._host.reshape(*shape), self._device)

    @property
    def data(self) -> MemoryPointer:
        return MemoryPointer(self._host, self._device)

    @property
    def device(self) -> Device:
        return Device(self._device)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self._host.__array_interface__, "version": 3, "stream": 1}

    def copy(self) -> ndarray:
        new = ndarray(self.shape, self.dtype)
        new._host[...] = self._host
        return new

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        if not copy and self.dtype == dtype:
            return self
        new = ndarray(self.shape, dtype)
        new._host[...] = self._host
        return new

    def get(self) -> np.ndarray[Any, Any]:
        return self._host.copy()

    def __getitem__(self, key: Any) -> ndarray:
        key = key._host if isinstance(key, ndarray) else key
        return ndarray.of(self._host[key], self._device)

    def __setitem__(self, key: Any, value: Any) -> None:
        key = key._host if isinstance(key, ndarray) else key
        self._host[key] = value._host if isinstance(value, ndarray) else value

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed; use .get()")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        given = {name: _on_host(value) for name, value in options.items()}
        result = getattr(ufunc, method)(*map(_on_host, inputs), **given)
        out = options.get("out")
        return out[0] if out else _wrapped(result)

    def __array_function__(self, function: Any, _: Any, inputs: Any, options: Any) -> Any:
        if function is np.asarray:  # a copy to the device that is asked for
            return _put(inputs[0], None)
        given = {name: _on_host(value) for name, value in options.items()}
        return _wrapped(function(*map(_on_host, inputs), **given))

    def __getattr__(self, name: str) -> Any:
        if name not in _METHODS:
            raise AttributeError(name)
        method = getattr(self._host, name)
        return lambda *inputs, **options: _wrapped(method(*inputs, **options))

    def __len__(self) -> int:
        return len(self._host)

    def __bool__(self) -> bool:
        return bool(self._host)

    def __float__(self) -> float:
        return float(self._host)

    def __int__(self) -> int:
        return int(self._host)

    @property
    def ndim(self) -> int:
        return self._host.ndim

    def item(self) -> Any:
        return self._host.item()

    def tolist(self) -> Any:
        return self._host.tolist()

    def set(self, host: np.ndarray[Any, Any]) -> None:
        assert type(host) is np.ndarray
        assert host.shape == self.shape
        assert host.dtype == self.dtype
        self._host[...] = host


def _put(x: Any, number: int | None) -> ndarray:
    """Copy an array to a device."""
    with device(_current["device"] if number is None else number):
        new = ndarray(x.shape, x.dtype)
    new[...] = x
    return new


def _view(x: Any) -> ndarray:
    """Read another library's interface, as CuPy does."""
    interface = x.__cuda_array_interface__
    holder = type("Holder", (), {"__array_interface__": {**interface, "version": 3}})()
    holder.__array_interface__.pop("stream", None)
    holder.owner = x
    return ndarray.of(np.asarray(holder))
