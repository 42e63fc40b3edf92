"""Every case of the benchmark on a GPU, small, on the emulated device: its answers are right."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from operator import attrgetter
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from arraynn import reference
from arraynn.cli import _benchmarks

from .conftest import HostCuda, library

gpu = _benchmarks.load("gpu")
elements, products, rows, sequences, steps = (
    _benchmarks.load(f"gpu_{name}")
    for name in ("elements", "products", "rows", "sequences", "steps")
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
    function = attrgetter(name)(np)

    def call(first: Any, *arguments: Any, **options: Any) -> Any:
        first = first.get() if isinstance(first, library.ndarray) else first
        return on_device(function(first, *arguments, **options))

    return call


def scatter_add(sums: Any, indices: Any, values: Any) -> None:
    np.add.at(sums._host, indices._host, values._host)


def softmax(x: Any, axis: int) -> Any:
    return on_device(reference.softmax(x.get(), axis))


@pytest.fixture
def cupy(device: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The functions of CuPy that the cases call, on the emulated device."""
    if not isinstance(device, HostCuda):
        pytest.skip("on a GPU it is the benchmark itself that runs")
    attributes = SimpleNamespace(attributes={"L2CacheSize": 1})
    names = ("ascontiguousarray", "asarray", "empty", "empty_like", "exp", "moveaxis", "ones")
    special = ModuleType("cupyx.scipy.special")
    special.erf = lambda x: on_device(np.vectorize(math.erf)(x.get()).astype(x.dtype))
    special.softmax = softmax
    for name in ("cupyx", "cupyx.scipy"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, special.__name__, special)
    windows = SimpleNamespace(
        sliding_window_view=function_of_host("lib.stride_tricks.sliding_window_view")
    )
    return SimpleNamespace(
        add=SimpleNamespace(at=scatter_add),
        fuse=lambda: lambda function: function,
        lib=SimpleNamespace(stride_tricks=windows),
        random=SimpleNamespace(default_rng=Random),
        cuda=SimpleNamespace(
            Device=lambda: attributes,
            Event=Event,
            get_elapsed_time=lambda first, last: 1e3 * (last.time - first.time),
        ),
        **{name: function_of_host(name) for name in (*names, "maximum", "pad", "sqrt", "zeros")},
    )


#: Groups of cases, at sizes that cover what a tile leaves over.
GROUPS: dict[str, Callable[[Any, Any], list[Any]]] = {
    "elementwise": lambda cupy, t: elements.elementwise_cases(cupy, None, t, 5000),
    "glu": lambda cupy, t: elements.glu_cases(cupy, None, t, 6, 40),
    "lookup": lambda cupy, t: elements.lookup_cases(cupy, None, t, 32, 50),
    "adam": lambda cupy, t: [steps.adam_case(cupy, None, [101] * 3, "3 tensors", t)],
    "steps": lambda cupy, t: steps.simple_step_cases(cupy, None, 101, t),
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

    def compile(self, function: Any, dynamic: bool) -> Any:
        assert not dynamic
        return function


#: The groups that take PyTorch, with it, and a compiler that changes nothing.
PEERS: dict[str, Callable[..., list[Any]]] = {
    "elementwise": lambda *to: elements.elementwise_cases(*to, np.float32, 5000, compiled=True),
    "adam": lambda *to: [steps.adam_case(*to, [101] * 3, "3 tensors", compiled=True)],
    "adam of one": lambda *to: [steps.adam_case(*to, [101], "1 tensor", compiled=True)],
    "steps": lambda *to: steps.simple_step_cases(*to, 101, compiled=True),
    "glu": lambda *to: elements.glu_cases(*to, np.float64, 6, 40, compiled=True),
    "lookup": lambda *to: elements.lookup_cases(*to, np.float32, 32, 50, compiled=True),
    "pool first": lambda *to: gpu.pool_cases(*to, "channels_first", 2, 3, 14, compiled=True),
    "pool last": lambda *to: gpu.pool_cases(*to, "channels_last", 2, 3, 14, compiled=True),
    "linear": lambda *to: products.linear_cases(*to, np.float32, 33, 70, 40, compiled=True),
    "conv": lambda *to: products.conv_cases(
        *to, 2, 8, 6, groups=1, layout="channels_last", compiled=True
    ),
    "attention": lambda *to: products.attention_cases(
        *to, 2, 2, 70, 32, causal=True, compiled=True
    ),
    "rows": lambda *to: rows.row_cases(*to, np.float32, 5, 300, compiled=True),
    "image first": lambda *to: rows.image_cases(
        *to, (2, 64, 5, 5), "channels_first", compiled=True
    ),
    "image last": lambda *to: rows.image_cases(*to, (2, 5, 5, 64), "channels_last", compiled=True),
    "lstm": lambda *to: sequences.lstm_cases(*to, np.float32, 5, 3, 10, 20),
    "decode": lambda *to: sequences.decode_cases(*to, np.float32, 2, 4, 2, 70, 32, compiled=True),
    "fold": lambda *to: sequences.fold_cases(*to, np.float32, 2, 3, 7, compiled=True),
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
    """Every peer of every case runs, on the same numbers, and gives what ours gives."""
    for case in PEERS[group](cupy, Torch()):
        assert "torch" in case.calls, case.name
        if group not in ("lstm", "adam"):
            assert "torch.compile" in case.calls, case.name
        for name in case.calls:
            if name.startswith("arraynn"):
                continue
            theirs, ours = (as_arrays(case.calls[n](0)) for n in (name, "arraynn"))
            if not theirs or not ours or case.name.startswith("dropout"):
                continue
            got, expected = ours[0], theirs[0]
            if got.shape != expected.shape:
                got = np.moveaxis(got, -1, 1)  # PyTorch's view of channels_last
            scale = max(1.0, float(np.abs(expected).max()))
            message = f"{case.name}, {name}"
            np.testing.assert_allclose(got, expected, 1e-3, 1e-4 * scale, err_msg=message)


@pytest.mark.parametrize("peer", ["torch.compile", "cupy"])
def test_peers_take_the_same_steps(cupy: Any, peer: str) -> None:
    """From the same state: the parameter afterwards."""

    def cases() -> list[Any]:
        return [
            *PEERS["adam of one"](cupy, Torch()),
            *PEERS["steps"](cupy, Torch()),
        ]

    for ours, theirs in zip(cases(), cases(), strict=True):
        ours.calls["arraynn"](0)
        expected, _ = ours.answer("arraynn")
        got = theirs.calls[peer](0)
        got = got[0].get() if peer == "cupy" else theirs.answer("arraynn")[0]
        np.testing.assert_allclose(got, expected, 1e-5, 1e-6, err_msg=ours.name)


def test_a_compiler_that_fails_is_no_peer(cupy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    torch = Torch()

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler")

    torch.compile = lambda *_, **__: fail
    cases = [case for group in ("glu", "attention") for case in PEERS[group](cupy, torch)]
    assert all("torch.compile" not in case.calls and "torch" in case.calls for case in cases)
    assert "torch.compile: RuntimeError" in capsys.readouterr().err


def test_groups_of_cases(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the benchmark are of sizes for a GPU: only that they are found."""
    monkeypatch.setattr(gpu, "sixteen_bits", lambda _: [np.dtype(np.float16)])
    compiled, plain = gpu.compiled_makers(cupy, None), gpu.plain_makers(cupy, None)
    assert len(compiled) >= 12
    assert len(plain) >= 35
