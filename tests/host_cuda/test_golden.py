"""The host meanings of csrc/ptx beside what a GPU gave, where bench/golden.py has recorded it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import library
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench import golden

HERE = Path(__file__).parent
RECORDED = HERE / "golden.json"
WRAPPERS = {wrapper.name: wrapper for wrapper in golden.wrappers()}
#: Functions without a result of their own; those of a copy show that they do their part.
WITHOUT = {"shared_address", "cp_async_commit_group", "cp_async_wait_group"}
#: What blocks wait for each other with, of which test_runtime.py has kernels.
WITHOUT |= {"ld_acquire_gpu", "red_release_gpu_add"}
#: What changes nothing but the time.
WITHOUT |= {"prefetch_global_l2"}


#: Hopper's, for which one warp is not enough: TestWarpgroups of test_runtime.py.
HOPPER = {"mbarrier.hpp", "bulk.hpp", "wgmma.hpp", "cluster.hpp"}


@pytest.fixture(scope="module")
def run() -> golden.Run:
    try:
        module = library.load()
    except library.MissingTool as error:
        pytest.skip(f"the kernels cannot be compiled for the CPU: {error}")
    module.set_schedule("random", True, 5)
    return lambda wrapper, given: module.golden(wrapper.name, np.ascontiguousarray(given))


def compare(run: golden.Run, wrapper: golden.Wrapper, kept: dict[str, str]) -> None:
    """Hold the host to recorded results: the same bits, but for the sums of a product.

    Those are rounded by hardware in a way of its own: 32 units of float32's last place of the sum
    of magnitudes are far below one wrong element.
    """
    given = golden.from_text(kept["in"], wrapper.words)
    expected = golden.from_text(kept["out"], wrapper.results)
    got = run(wrapper, given)
    if wrapper.kind == "exponents":
        got, expected = got.view(np.float32), expected.view(np.float32)
        np.testing.assert_allclose(got, expected, rtol=2.0**-21, atol=0)  # 2^-22 either
        return
    if wrapper.kind not in ("f16", "bf16", "tf32"):
        if wrapper.kind == "halves":  # which NaN it is may differ
            nan = np.isnan(expected.view(np.float32))
            assert np.isnan(got.view(np.float32)[nan]).all()
            got, expected = got[~nan], expected[~nan]
        np.testing.assert_array_equal(got, expected)
        return
    scale = run(wrapper, golden.magnitudes(wrapper, given)).view(np.float32)
    error = np.abs(got.view(np.float32).astype(np.float64) - expected.view(np.float32))
    assert (error <= 32 * 2.0**-24 * scale).all(), float((error / scale).max())


def test_every_function_is_recorded() -> None:
    files = [p for p in HERE.parents[1].glob("csrc/ptx/*.hpp") if p.name not in HOPPER]
    sources = "".join(p.read_text(encoding="utf-8") for p in files)
    functions = set(re.findall(r"ARRAYNN_PTX_FUNCTION [\w:]+ (\w+)\(", sources))
    assert functions - WITHOUT == set(WRAPPERS)


@pytest.mark.parametrize("name", WRAPPERS)
def test_host_beside_gpu(run: golden.Run, name: str) -> None:
    if not RECORDED.is_file():
        pytest.skip("nothing was recorded on a GPU yet: bench/gpu.sh")
    compare(run, WRAPPERS[name], json.loads(RECORDED.read_text(encoding="utf-8"))["vectors"][name])


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrong_result_is_found(run: golden.Run, name: str) -> None:
    """Operands and results survive being written, and one that differs does not pass."""
    wrapper = WRAPPERS[name]
    kept = {n: k for n, k in golden.record(run).items() if n == name}[name]
    compare(run, wrapper, kept)
    results: Any = golden.from_text(kept["out"], wrapper.results)
    assert len(np.unique(results)) > golden.ITEMS // 8
    results = results.copy()
    results[77, -1] ^= np.uint32(1 << 21)
    with pytest.raises(AssertionError):
        compare(run, wrapper, {**kept, "out": golden.to_text(results)})
