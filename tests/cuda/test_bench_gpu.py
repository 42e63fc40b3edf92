"""Every case of the benchmark on a GPU, small, on the emulated device: its answers are right."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from arraynn.cli import _benchmarks

from .conftest import HostCuda, library

gpu = _benchmarks.load("gpu")
products, rows, sequences = (
    _benchmarks.load(f"gpu_{name}") for name in ("products", "rows", "sequences")
)


class Random:
    """CuPy's generator, as far as the cases use it."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        draw = getattr(self._generator, name)
        return lambda *arguments, **options: on_device(draw(*arguments, **options))


class Event:
    """A point of time."""

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        """Nothing runs behind the caller's back here."""


def on_device(a: Any) -> Any:
    """A copy of a NumPy array, at 512 bytes as CuPy's are."""
    return library.ndarray.of(np.asarray(a)).copy()


def function_of_host(name: str) -> Callable[..., Any]:
    """NumPy's function on arrays of the device."""
    function = getattr(np, name)

    def call(first: Any, *arguments: Any, **options: Any) -> Any:
        first = first.get() if isinstance(first, library.ndarray) else first
        return on_device(function(first, *arguments, **options))

    return call


@pytest.fixture
def cupy(device: Any) -> Any:
    """The functions of CuPy that the cases call, on the emulated device."""
    if not isinstance(device, HostCuda):
        pytest.skip("on a GPU it is the benchmark itself that runs")
    attributes = SimpleNamespace(attributes={"L2CacheSize": 1})
    names = ("ascontiguousarray", "asarray", "empty", "empty_like", "moveaxis", "ones")
    return SimpleNamespace(
        random=SimpleNamespace(default_rng=Random),
        cuda=SimpleNamespace(
            Device=lambda: attributes,
            Event=Event,
            get_elapsed_time=lambda first, last: 1e3 * (last.time - first.time),
        ),
        **{name: function_of_host(name) for name in names},
    )


#: Groups of cases, at sizes that cover what a tile leaves over.
GROUPS: dict[str, Callable[[Any, Any], list[Any]]] = {
    "elementwise": lambda cupy, t: gpu.elementwise_cases(cupy, None, t, 5000),
    "glu": lambda cupy, t: gpu.glu_cases(cupy, None, t, 6, 40),
    "lookup": lambda cupy, t: gpu.lookup_cases(cupy, None, t, 32, 50),
    "adam": lambda cupy, t: [gpu.adam_case(cupy, None, [101] * 3, "3 tensors", t)],
    "steps": lambda cupy, t: gpu.simple_step_cases(cupy, None, 101, t),
    "decode": lambda cupy, t: sequences.decode_cases(cupy, None, t, 2, 4, 2, 70, 32),
    "linear": lambda cupy, t: products.linear_cases(cupy, None, t, 33, 70, 40),
    "conv": lambda cupy, t: products.conv_cases(
        cupy, None, 2, 8, 6, groups=1, layout="channels_last", dtype=t
    ),
    "attention": lambda cupy, t: products.attention_cases(
        cupy, None, 2, 2, 70, 32, causal=True, dtype=t
    ),
    "rows": lambda cupy, t: rows.row_cases(cupy, None, t, 5, 300),
    "fold": lambda cupy, t: sequences.fold_cases(cupy, None, t, 2, 3, 7),
}
#: Those of float32 alone.
SINGLE: dict[str, Callable[[Any], list[Any]]] = {
    "pool first": lambda cupy: gpu.pool_cases(cupy, None, "channels_first", 2, 3, 14),
    "pool last": lambda cupy: gpu.pool_cases(cupy, None, "channels_last", 2, 3, 14),
    "depthwise": lambda cupy: products.conv_cases(
        cupy, None, 2, 8, 6, groups=8, layout="channels_first"
    ),
    "image first": lambda cupy: rows.image_cases(cupy, None, (2, 64, 5, 5), "channels_first"),
    "image last": lambda cupy: rows.image_cases(cupy, None, (2, 5, 5, 64), "channels_last"),
    "lstm": lambda cupy: sequences.lstm_cases(cupy, None, 5, 3, 10, 20),
}


@pytest.mark.parametrize("group", list(GROUPS))
def test_answers(cupy: Any, storage: np.dtype[Any], group: str) -> None:
    for case in GROUPS[group](cupy, storage):
        error, allowed = gpu.error_of(case)
        assert error < allowed, case.name


@pytest.mark.parametrize("group", list(SINGLE))
def test_answers_in_float32(cupy: Any, group: str) -> None:
    for case in SINGLE[group](cupy):
        error, allowed = gpu.error_of(case)
        assert error < allowed, case.name


def test_a_wrong_answer_is_not_timed(cupy: Any) -> None:
    (case,) = GROUPS["adam"](cupy, np.dtype(np.float32))
    got, expected = case.answer("arraynn")
    case.answer = lambda _: (got, expected + 1)
    with pytest.raises(gpu.WrongAnswer, match="adamw"):
        gpu.prove(case)


def test_times_and_their_row(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "TURN_SECONDS", 0.0)
    case = GROUPS["elementwise"](cupy, np.dtype(np.float32))[1]
    gpu.measure(cupy, case)
    assert case.microseconds["arraynn"] > 0
    assert case.name in gpu.row(case, 1e9)
