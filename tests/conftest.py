"""Fixtures, markers and settings for every test; tests may run in any order."""

from __future__ import annotations

import signal
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest

# Test modules import `tolerances` and `memory` from here whatever pytest's import mode is.
sys.path.insert(0, str(Path(__file__).parent))

from tolerances import CONTEXT

hypothesis.settings.register_profile(
    "arraynn",
    derandomize=True,  # the same examples on every machine and run
    deadline=None,
    max_examples=100,
    print_blob=True,
    # The fixtures that property tests share (isa) do not change between examples.
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)
hypothesis.settings.load_profile("arraynn")


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background job begins with SIGINT ignored, and so would runs that tests interrupt.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # What Hypothesis imports to print a failing example warns of its own dependencies.
    config.addinivalue_line(
        "filterwarnings", "ignore:mypy_extensions.TypedDict is deprecated:DeprecationWarning"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `isa` at every level this machine and this build have.

    But avx512_bf16, where products of bfloat16 alone are others than at avx512: test_gemm_bf16.py.
    """
    if "isa" in metafunc.fixturenames:
        from arraynn import _core

        levels = [level for level in _core.available_isas() if level != "avx512_bf16"]
        metafunc.parametrize("isa", levels, indirect=True)


@pytest.fixture(autouse=True)
def _fresh_context() -> Iterator[None]:
    CONTEXT.clear()
    yield
    CONTEXT.clear()


@pytest.fixture
def isa(request: pytest.FixtureRequest, _fresh_context: None) -> Iterator[str]:
    """Dispatch to one ISA level for the length of a test."""
    yield from _at_level(request.param)


@pytest.fixture
def avx512_bf16(_fresh_context: None) -> Iterator[str]:
    """Dispatch to the level that multiplies bfloat16, on a CPU that does."""
    from arraynn import _core

    if "avx512_bf16" not in _core.available_isas():
        pytest.skip("no CPU with AVX512_BF16")
    yield from _at_level("avx512_bf16")


def _at_level(level: str) -> Iterator[str]:
    from arraynn import _core

    before = _core.isa()
    _core.set_isa(level)
    CONTEXT["isa"] = level
    yield level
    _core.set_isa(before)


@pytest.fixture
def rng(request: pytest.FixtureRequest, _fresh_context: None) -> np.random.Generator:
    """Return a generator whose seed depends on the test's name alone, not on the order of tests."""
    seed = zlib.crc32(request.node.nodeid.encode())
    CONTEXT["seed"] = seed
    return np.random.default_rng(seed)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> np.dtype[np.floating]:
    """Both dtypes that kernels compute in."""
    return np.dtype(request.param)


def sixteen_bits(name: str) -> np.dtype[Any]:
    """Return the dtype; NumPy has bfloat16 from ml_dtypes."""
    if name == "float16":
        return np.dtype(np.float16)
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)


@pytest.fixture(params=["float16", "bfloat16"])
def half(request: pytest.FixtureRequest) -> np.dtype[Any]:
    """The dtypes that kernels store and do not compute in."""
    return sixteen_bits(request.param)


@pytest.fixture(params=["float32", "float64", "float16", "bfloat16"])
def storage(request: pytest.FixtureRequest) -> np.dtype[Any]:
    """All dtypes of arrays that kernels take."""
    name = request.param
    return np.dtype(name) if name.startswith(("float3", "float6")) else sixteen_bits(name)


@pytest.fixture(params=["channels_first", "channels_last"])
def layout(request: pytest.FixtureRequest) -> str:
    """Both layouts of images."""
    value: str = request.param
    return value
