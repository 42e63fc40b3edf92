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
    "lstm": lambda cupy, t: sequences.lstm_cases(cupy, None, t, 5, 3, 10, 20),
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
    assert case.name in gpu.row(case, 1e9, {})


def test_shares_of_the_limits(cupy: Any) -> None:
    case = gpu.Case("a", 6000, 1, {}, lambda _: (None, None), microseconds={"arraynn": 2.0})
    assert gpu.share_of_limit(case, 6e9, {"float32": 1e12}) == pytest.approx(0.5)
    case.flop, case.products = 1e6, "float32"
    assert gpu.share_of_limit(case, 6e9, {"float32": 1e12}) == pytest.approx(0.5)
    assert gpu.share_of_limit(case, 6e9, {}) == pytest.approx(0.5)
    (products,) = GROUPS["linear"](cupy, np.dtype(np.float32))[:1]
    assert products.products == "float32"


class Torch:
    """PyTorch on the CPU, which sees the emulated device's memory as its own."""

    def __init__(self) -> None:
        self.torch = pytest.importorskip("torch")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.torch, name)

    def from_dlpack(self, a: Any) -> Any:
        return self.torch.from_numpy(a._host)


#: The groups that take PyTorch, with it.
PEERS: dict[str, Callable[[Any, Any], list[Any]]] = {
    "elementwise": lambda cupy, torch: gpu.elementwise_cases(cupy, torch, np.float32, 5000),
    "adam": lambda cupy, torch: [gpu.adam_case(cupy, torch, [101] * 3, "3 tensors")],
    "steps": lambda cupy, torch: gpu.simple_step_cases(cupy, torch, 101),
    "glu": lambda cupy, torch: gpu.glu_cases(cupy, torch, np.float64, 6, 40),
    "lookup": lambda cupy, torch: gpu.lookup_cases(cupy, torch, np.float32, 32, 50),
    "pool first": lambda cupy, torch: gpu.pool_cases(cupy, torch, "channels_first", 2, 3, 14),
    "pool last": lambda cupy, torch: gpu.pool_cases(cupy, torch, "channels_last", 2, 3, 14),
    "linear": lambda cupy, torch: products.linear_cases(cupy, torch, np.float32, 33, 70, 40),
    "conv": lambda cupy, torch: products.conv_cases(
        cupy, torch, 2, 8, 6, groups=1, layout="channels_last"
    ),
    "attention": lambda cupy, torch: products.attention_cases(
        cupy, torch, 2, 2, 70, 32, causal=True
    ),
    "rows": lambda cupy, torch: rows.row_cases(cupy, torch, np.float32, 5, 300),
    "image first": lambda cupy, torch: rows.image_cases(
        cupy, torch, (2, 64, 5, 5), "channels_first"
    ),
    "image last": lambda cupy, torch: rows.image_cases(cupy, torch, (2, 5, 5, 64), "channels_last"),
    "lstm": lambda cupy, torch: sequences.lstm_cases(cupy, torch, np.float32, 5, 3, 10, 20),
    "decode": lambda cupy, torch: sequences.decode_cases(cupy, torch, np.float32, 2, 4, 2, 70, 32),
    "fold": lambda cupy, torch: sequences.fold_cases(cupy, torch, np.float32, 2, 3, 7),
}


def test_rates_of_products(cupy: Any) -> None:
    rates = gpu.product_rates(cupy, Torch(), 64)
    assert sorted(rates) == ["bfloat16", "float16", "float32", "float64", "tf32"]
    assert all(rate > 0 for rate in rates.values())
    assert gpu.product_rates(cupy, None) == {}


def as_arrays(result: Any) -> list[Any]:
    """List the tensors or arrays of a result, as NumPy's."""
    if isinstance(result, tuple | list):
        return [a for part in result for a in as_arrays(part)]
    if isinstance(result, library.ndarray):
        return [result.get()]
    return [result.detach().numpy()] if hasattr(result, "detach") else []


@pytest.mark.parametrize("group", list(PEERS))
def test_peers_do_the_same(cupy: Any, group: str) -> None:
    """PyTorch's side of every case runs, on the same numbers, and gives what ours gives."""
    for case in PEERS[group](cupy, Torch()):
        if "torch" not in case.calls:
            assert case.name.startswith(("swiglu_backward", "rope")), case.name
            continue
        theirs, ours = (as_arrays(case.calls[name](0)) for name in ("torch", "arraynn"))
        if not theirs or not ours or case.name.startswith("dropout"):
            continue
        got, expected = ours[0], theirs[0]
        if got.shape != expected.shape:
            got = np.moveaxis(got, -1, 1)  # PyTorch's view of channels_last
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(got, expected, 1e-3, 1e-4 * scale, err_msg=case.name)
