"""One fixture for two devices: the emulated one of tests/host_cuda, and a GPU through CuPy."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arraynn import kernels

sys.path.insert(0, str(Path(__file__).parents[1] / "host_cuda"))

import library

#: (order of threads, asynchronous copies late) of the emulated device.
SCHEDULES = [("oldest", True), ("newest", False), ("random", True), ("starve", False)]


class Kernels:
    """``arraynn.kernels`` on copies of NumPy arrays: results come back as NumPy arrays.

    What a call writes into its arguments comes back as well.
    """

    def __init__(self, device: Any) -> None:
        self.device = device

    def __getattr__(self, name: str) -> Any:
        function = getattr(kernels, name)

        def call(*arguments: Any, **options: Any) -> Any:
            copies: list[tuple[Any, Any]] = []

            def put(a: Any) -> Any:
                if isinstance(a, np.ndarray):
                    copies.append((a, self.device.put(a)))
                    return copies[-1][1]
                return type(a)(map(put, a)) if type(a) in (tuple, list) else a

            result = function(*map(put, arguments), **{k: put(v) for k, v in options.items()})
            for host, there in copies:
                if host.flags.writeable:
                    host[...] = self.device.get(there)
            return self.get(result)

        return call

    def get(self, result: Any) -> Any:
        """Copy arrays from the device; None and strings are what they are."""
        if type(result) in (tuple, list):
            return type(result)(map(self.get, result))
        return self.device.get(result) if type(result) is self.device.ndarray else result


class HostCuda:
    """The device of tests/host_cuda."""

    name = place = "host_cuda"
    ndarray = library.ndarray

    def __init__(self, seed: int) -> None:
        self.module = library.load()
        self.kernels = Kernels(self)
        self.seed = seed
        self.module.set_multiprocessors(2)
        self.module.set_schedule("random", True, seed)

    def put(self, a: Any) -> Any:
        """Copy an array to the device."""
        array = library.ndarray(np.shape(a), np.asarray(a).dtype)
        array[...] = np.asarray(a)
        return array

    def get(self, a: Any) -> Any:
        """Copy an array from the device."""
        assert type(a) is library.ndarray
        return a.get()

    def schedules(self) -> Iterator[str]:
        """Run the body of a loop under every schedule."""
        for order, late in SCHEDULES:
            self.module.set_schedule(order, late, self.seed)
            yield f"{order}, copies {'late' if late else 'early'}"

    def launches(self) -> int:
        """Count the kernels launched so far."""
        return int(self.module.counters()["launches"])

    def copies(self) -> int:
        """Count the asynchronous copies so far: of a Hopper, its boxes."""
        return int(self.module.counters()["async_copies"])


class CuPy:
    """A GPU."""

    name = "cupy"
    place = "cuda"

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy
        self.kernels = Kernels(self)
        self.ndarray = cupy.ndarray

    def put(self, a: Any) -> Any:
        try:
            return self.cupy.asarray(np.ascontiguousarray(a)).reshape(np.shape(a))
        except (TypeError, ValueError, NotImplementedError) as error:
            if np.asarray(a).dtype.name == "bfloat16":
                pytest.skip(f"this CuPy has no bfloat16: {error}")
            raise

    def get(self, a: Any) -> Any:
        assert type(a) is self.cupy.ndarray
        return a.get()

    def copies(self) -> int:
        pytest.skip("counters are the emulated device's")

    def schedules(self) -> Iterator[str]:
        for i in range(3):
            yield f"run {i}"


@pytest.fixture(params=["host_cuda", pytest.param("cupy", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> Any:
    """Every device that there is."""
    if request.param == "cupy":
        import arraynn as ann

        if not ann.cuda.is_available():
            pytest.skip("no GPU, or this build has no CUDA kernels")
        return CuPy()
    try:
        return HostCuda(zlib.crc32(request.node.nodeid.encode()))
    except library.MissingTool as error:
        pytest.skip(f"the kernels cannot be compiled for the CPU: {error}")


@pytest.fixture
def hopper(device: Any) -> Iterator[Any]:
    """Emulate a Hopper; a GPU is what it is, and gives the same products."""
    if device.name != "host_cuda":
        yield device
        return
    device.module.set_capability(9, 0)
    yield device
    device.module.set_capability(8, 0)
