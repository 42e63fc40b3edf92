"""How arrays of other libraries become CuPy's, by a stand-in for CuPy that needs no GPU."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import arraynn as ann
from arraynn import _array


class StandIn:
    """The functions of CuPy that the intake calls; it notes what was asked of the streams."""

    def __init__(self, current: int) -> None:
        self.log: list[Any] = []
        self.cuda = self
        self.runtime = self
        self.current = current

    def get_current_stream(self) -> Any:
        return SimpleNamespace(ptr=self.current)

    def Event(self, disable_timing: bool) -> Any:
        assert disable_timing
        return SimpleNamespace(ptr=77)

    def asarray(self, x: Any) -> Any:
        """CuPy waits, on the CPU, for the stream that it finds here."""
        assert x.__cuda_array_interface__["stream"] is None
        self.log.append(("asarray", x.__cuda_array_interface__["data"], x.held))
        return "array"

    def from_dlpack(self, x: Any) -> Any:
        self.log.append(("from_dlpack", x))
        return "array"

    def eventRecord(self, event: int, stream: int) -> None:
        self.log.append(("record", event, stream))

    def streamWaitEvent(self, stream: int, event: int) -> None:
        self.log.append(("wait", stream, event))


class TestIntakeByCuPy:
    """The current stream waits for the producer's, the CPU for neither."""

    @pytest.mark.parametrize(
        ("producer", "expected"),
        [
            (None, []),
            (5, []),  # the stream that is current
            (1, [("record", 77, 1), ("wait", 5, 77)]),
            (9, [("record", 77, 9), ("wait", 5, 77)]),
        ],
    )
    def test_interface(self, producer: int | None, expected: list[Any]) -> None:
        interface = {"data": (4096, False), "shape": (2,), "typestr": "<f4", "version": 3}
        x = SimpleNamespace(__cuda_array_interface__={**interface, "stream": producer})
        cupy = StandIn(5)
        assert _array.cupy_view(cupy, x) == "array"
        assert cupy.log == [("asarray", (4096, False), x), *expected]
        assert x.__cuda_array_interface__["stream"] == producer

    def test_interface_of_an_older_version(self) -> None:
        x = SimpleNamespace(__cuda_array_interface__={"data": (4096, False), "version": 2})
        cupy = StandIn(5)
        _array.cupy_view(cupy, x)
        assert cupy.log == [("asarray", (4096, False), x)]

    def test_dlpack_comes_first(self) -> None:
        """It has bfloat16, and the producer itself makes our stream wait."""
        x = SimpleNamespace(__dlpack__=None, __cuda_array_interface__={"stream": 9})
        cupy = StandIn(5)
        _array.cupy_view(cupy, x)
        assert cupy.log == [("from_dlpack", x)]


@pytest.mark.parametrize("cupy", [None, ModuleType("cupy")])
def test_availability_is_asked_without_an_error(
    cupy: ModuleType | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CuPy may be kept out of sys.modules by None, or be a module that came without a loader."""
    monkeypatch.setattr(ann.cuda, "_module", lambda: SimpleNamespace(device_count=lambda: 1))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert ann.cuda.is_available() is False
