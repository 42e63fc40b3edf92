"""Threads, fork, instruction set levels, denormals and the block cache."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import _core
from arraynn import kernels as K

MIB = 1 << 20


def run_python(code: str, *, timeout: float = 60, **environment: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "ARRAYNN_MAX_ISA")}
    package = str(Path(ann.__file__).parents[1])
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [package, env.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture
def default_threads() -> Iterator[int]:
    """The number of threads in force; whatever the test sets is undone."""
    before = ann.get_num_threads()
    yield before
    ann.set_num_threads(before)


class TestThreads:
    @pytest.mark.usefixtures("default_threads")
    def test_set(self) -> None:
        ann.set_num_threads(3)
        assert ann.get_num_threads() == 3
        ann.set_num_threads(1)
        assert ann.get_num_threads() == 1

    @pytest.mark.parametrize("n", [0, -1, 4097, 2**40])
    def test_set_refuses_counts_out_of_range(self, default_threads: int, n: int) -> None:
        with pytest.raises(ValueError, match=r"^\[set_num_threads\] n: expected 1 to 4096, got"):
            ann.set_num_threads(n)
        with (
            pytest.raises(ValueError, match=r"^\[threads\] n: expected 1 to 4096, got"),
            ann.threads(n),
        ):
            pass
        assert ann.get_num_threads() == default_threads

    @pytest.mark.parametrize("n", [2.0, "2", None, True])
    def test_set_refuses_what_is_no_int(self, default_threads: int, n: object) -> None:
        with pytest.raises(TypeError, match=r"^\[set_num_threads\] n: expected an int, got"):
            ann.set_num_threads(n)  # type: ignore[arg-type]
        assert ann.get_num_threads() == default_threads

    @pytest.mark.usefixtures("default_threads")
    def test_contexts_nest_and_end(self) -> None:
        ann.set_num_threads(2)
        with ann.threads(3):
            assert ann.get_num_threads() == 3
            with ann.threads(1):
                assert ann.get_num_threads() == 1
                ann.set_num_threads(4)
                assert ann.get_num_threads() == 1, "the context wins inside"
            assert ann.get_num_threads() == 3
        assert ann.get_num_threads() == 4

    def test_a_team_larger_than_the_machine_waits_for_its_members(self) -> None:
        # Hundreds of barriers; two Python threads have teams of their own.
        x = np.ones((400, 1, 1), np.float32)
        weights = [np.full((n, m), 0.01, np.float32) for n, m in ((1600, 1), (1600, 400))]
        weights[1][::7] = -0.02
        with ann.threads(1):
            expected, _ = K.lstm(x, weights)

        def run(_: int) -> Any:
            with ann.threads(7):
                return K.lstm(x, weights)[0]

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for y in pool.map(run, range(2)):
                np.testing.assert_array_equal(y, expected)

    def test_context_ends_with_an_exception(self, default_threads: int) -> None:
        with pytest.raises(KeyError), ann.threads(default_threads + 1):
            raise KeyError("x")
        assert ann.get_num_threads() == default_threads

    def test_context_is_of_one_python_thread(self, default_threads: int) -> None:
        seen: list[int] = []
        with ann.threads(default_threads + 5):
            worker = threading.Thread(target=lambda: seen.append(ann.get_num_threads()))
            worker.start()
            worker.join()
        assert seen == [default_threads]

    def test_default_stays_within_the_affinity(self) -> None:
        code = (
            "import os; cpus = sorted(os.sched_getaffinity(0)); {0}; import arraynn as ann;"
            "print(ann.get_num_threads(), len(cpus))"
        )
        default, cpus = map(int, run_python(code.format("pass")).split())
        assert 1 <= default <= cpus
        pinned, _ = run_python(code.format("os.sched_setaffinity(0, cpus[:1])")).split()
        assert pinned == "1"

    def test_default_honours_omp_num_threads(self) -> None:
        code = "import arraynn as ann; print(ann.get_num_threads())"
        free = int(run_python(code))
        assert run_python(code, OMP_NUM_THREADS="1") == "1"
        assert int(run_python(code, OMP_NUM_THREADS="999")) == free, "never above the machine"

    @pytest.mark.parametrize(
        ("groups", "files", "cpus"),
        [
            ("0::/box/job", {"box/job/cpu.max": "150000 100000"}, 2),
            ("0::/box/job", {"box/job/cpu.max": "max 100000"}, 0),
            ("0::/box/job", {"box/job/cpu.max": "400000 100000", "box/cpu.max": "50000 100000"}, 1),
            ("0::/", {"cpu.max": "300000 100000"}, 3),
            ("0::/../of/another/namespace", {"cpu.max": "300000 100000"}, 3),
            ("0::/box", {"box/cpu.max": "300000 0"}, 0),
            ("0::/box", {"box/cpu.max": "junk"}, 0),
            ("0::/box", {}, 0),
            (
                "4:memory:/box\n3:cpuset:/box\n2:cpu,cpuacct:/box\n0::/",
                {"cpu/box/cpu.cfs_quota_us": "250000", "cpu/box/cpu.cfs_period_us": "100000"},
                3,
            ),
            (
                "2:cpu:/box",
                {"cpu/box/cpu.cfs_quota_us": "-1", "cpu/box/cpu.cfs_period_us": "100000"},
                0,
            ),
            (
                "3:cpuset:/box",
                {"cpu/box/cpu.cfs_quota_us": "250000", "cpu/box/cpu.cfs_period_us": "100000"},
                0,
            ),
            ("no line of the format", {"cpu.max": "300000 100000"}, 0),
        ],
    )
    def test_cgroup_quota(
        self, tmp_path: Path, groups: str, files: dict[str, str], cpus: int
    ) -> None:
        listing = tmp_path / "proc/self/cgroup"
        listing.parent.mkdir(parents=True)
        listing.write_text(groups + "\n")
        for name, text in files.items():
            file = tmp_path / "sys/fs/cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        assert _core.cgroup_quota(str(tmp_path)) == cpus

    def test_reason_names_its_parts(self) -> None:
        reason = ann.show_config()["threads_reason"]
        for part in ("affinity", "physical cores", "cgroup quota"):
            assert part in reason

    def test_threadpoolctl_sees_and_limits_one_runtime(self) -> None:
        pytest.importorskip("threadpoolctl")
        code = """
import threadpoolctl
import arraynn as ann
pools = [p for p in threadpoolctl.threadpool_info() if p["user_api"] == "openmp"]
assert [p["prefix"] for p in pools] == ["libgomp"], pools
with threadpoolctl.threadpool_limits(1, user_api="openmp"):
    print(ann.get_num_threads())
"""
        assert run_python(code) == "1"


class TestFork:
    # The team of two is asleep in the parent and missing in the child, which must not wait for it.
    CODE = """
import os, sys
import numpy as np
import arraynn as ann
from arraynn import kernels as K
a = np.random.default_rng(0).standard_normal((384, 384), dtype=np.float32)
x = np.random.default_rng(1).standard_normal((4, 16, 32, 32), dtype=np.float32)
w = np.random.default_rng(2).standard_normal((32, 16, 3, 3), dtype=np.float32)
def results():
    with ann.threads(2):
        return [K.matmul(a, a).tobytes(), K.conv2d(x, w, padding=1).tobytes(),
                K.gelu(a).tobytes()]
expected = results()
pid = os.fork()
if pid == 0:
    with ann.threads(2):
        alone = ann.get_num_threads() == 1
    os._exit(0 if results() == expected and alone else 1)
_, status = os.waitpid(pid, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert results() == expected
with ann.threads(2):
    print(ann.get_num_threads())
"""
    # Scratch comes from the block cache: some of these forks fall into its lock.
    BUSY = """
import os, threading, time
import numpy as np
import arraynn as ann
from arraynn import kernels as K
ann.set_num_threads(1)
x, w = np.ones((5, 8), np.float32), np.ones((4096, 8), np.float32)
stop = threading.Event()
def work():
    while not stop.is_set():
        K.linear(x, w)
workers = [threading.Thread(target=work) for _ in range(3)]
for worker in workers:
    worker.start()
stuck = 0
for _ in range(150):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if K.linear(x, w)[0, 0] == 8 else 1)
    deadline = time.monotonic() + 10
    done, status = os.waitpid(pid, os.WNOHANG)
    while not done and time.monotonic() < deadline:
        time.sleep(0.001)
        done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        stuck += 1
        break
    assert status == 0, status
stop.set()
print(stuck)
"""

    def test_child_computes_the_same_bits(self) -> None:
        assert run_python(self.CODE) == "2"

    def test_child_of_a_busy_process_does_not_hang(self) -> None:
        assert run_python(self.BUSY) == "0"


LEVELS = ["generic", "avx2", "avx512", "avx512_bf16"]


class TestIsa:
    def test_levels_are_ordered(self) -> None:
        levels = _core.available_isas()
        assert levels == LEVELS[: len(levels)]
        assert _core.isa() in levels

    @pytest.mark.parametrize("limit", LEVELS)
    def test_environment_lowers_the_level(self, limit: str) -> None:
        levels = _core.available_isas()
        got = run_python("import arraynn._core as c; print(c.isa())", ARRAYNN_MAX_ISA=limit)
        assert got == (limit if limit in levels else levels[-1])

    @pytest.mark.parametrize("limit", ["", "AVX2", "sse9", "avx512 ", "0"])
    def test_nonsense_in_the_environment_is_told(self, limit: str) -> None:
        code = "import arraynn as ann; c = ann.show_config(); print(c['isa'], '|', c['isa_limit'])"
        isa, told = run_python(code, ARRAYNN_MAX_ISA=limit).split(" | ")
        assert isa == _core.available_isas()[-1]
        assert told == f"{limit!r} is no level and was ignored"

    def test_extensions_are_among_those_of_the_machine(self) -> None:
        found = _core.isa_extensions()
        assert ann.show_config()["isa_extensions"] == (" ".join(found) or "none")
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
        assert set(found) <= flags & {"amx_bf16"}
        if "avx512" in _core.available_isas():
            assert ("avx512_bf16" in _core.available_isas()) == ("avx512_bf16" in flags)

    def test_set_isa_refuses_other_names(self) -> None:
        before = _core.isa()
        with pytest.raises(ValueError, match=r"^\[set_isa\] level: expected .*, got 'neon'$"):
            _core.set_isa("neon")
        assert _core.isa() == before

    def test_levels_agree_to_rounding(self, isa: str, rng: np.random.Generator) -> None:
        a, b = rng.standard_normal((2, 33, 33))
        assert _core.isa() == isa
        np.testing.assert_allclose(K.matmul(a, b), a @ b, rtol=1e-12, atol=1e-12)


class TestDenormals:
    @pytest.mark.usefixtures("isa")
    @pytest.mark.parametrize("threads", [1, 2])
    def test_mode_is_restored(self, threads: int) -> None:
        tiny = np.full(4, 1e-40, dtype=np.float32)
        big = np.ones((256, 256), dtype=np.float32)
        with ann.threads(threads):
            K.matmul(big, big)
            K.sigmoid(np.ones(1 << 17, dtype=np.float32))
        assert np.all(tiny * np.float32(0.5) > 0)

    @pytest.mark.usefixtures("isa")
    def test_arithmetic_flushes(self) -> None:
        x, w = np.full((1, 1), 1e-30, dtype=np.float32), np.full((1, 1), 1e-10, dtype=np.float32)
        assert K.linear(x, w)[0, 0] == 0
        assert (x @ w)[0, 0] > 0, "NumPy beside it does not"

    @pytest.mark.usefixtures("isa")
    def test_kernels_that_move_data_do_not(self) -> None:
        x = np.full(19, 1e-40, dtype=np.float32)
        assert np.array_equal(K.relu(x), x)


class TestBlockCache:
    @pytest.fixture
    def limit(self) -> Iterator[None]:
        before = _core.block_cache()["limit_bytes"]
        yield
        _core.set_block_cache_limit(before)

    @pytest.mark.usefixtures("limit")
    def test_blocks_are_reused(self) -> None:
        _core.set_block_cache_limit(0)  # lets go of the blocks that other tests left
        _core.set_block_cache_limit(64 * MIB)
        x = np.ones(MIB // 4, dtype=np.float32)
        y = K.relu(x)
        address, before = y.ctypes.data, _core.block_cache()
        del y
        again = K.relu(x)
        after = _core.block_cache()
        assert again.ctypes.data == address
        assert (after["hits"], after["misses"]) == (before["hits"] + 1, before["misses"])

    @pytest.mark.usefixtures("limit")
    def test_arrays_that_live_do_not_share_memory(self) -> None:
        x = np.ones(MIB // 4, dtype=np.float32)
        live = [K.relu(x) for _ in range(8)]
        view = live[0][::2]
        del live[0]
        fresh = K.relu(x)
        assert not any(np.shares_memory(fresh, y) for y in [*live, view])

    @pytest.mark.usefixtures("limit")
    def test_cache_is_bounded(self) -> None:
        _core.set_block_cache_limit(4 * MIB)
        x = np.ones(MIB // 4, dtype=np.float32)
        live = [K.relu(x) for _ in range(16)]
        live.clear()
        kept = _core.block_cache()
        assert 0 < kept["cached_bytes"] <= kept["limit_bytes"] == 4 * MIB
        _core.set_block_cache_limit(0)
        empty = _core.block_cache()
        assert (empty["cached_bytes"], empty["cached_blocks"]) == (0, 0)

    def test_limit_refuses_negative_sizes(self) -> None:
        with pytest.raises(ValueError, match=r"^\[set_block_cache_limit\] bytes: expected >= 0"):
            _core.set_block_cache_limit(-1)

    def test_large_outputs_are_aligned(self) -> None:
        assert K.relu(np.ones(MIB, dtype=np.float32)).ctypes.data % 64 == 0

    def test_calls_do_not_leak(self) -> None:
        # In a process of its own: the heap of this one holds what other tests left.
        code = """
import resource
import numpy as np
from arraynn import kernels as K
x, w = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)
def calls(n):
    for _ in range(n):
        K.linear(x, w)
        K.relu(x, out=None)
        K.linear(x.T, w[:, :2])
        try:
            K.linear(x, x.T)
        except ValueError:
            pass
def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()
calls(2000)
before = resident()
calls(25000)
print(resident() - before)
"""
        # AddressSanitizer would hold back what was freed.
        options = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=0"
        assert int(run_python(code, ASAN_OPTIONS=options)) < MIB


class TestConfig:
    def test_keys(self) -> None:
        config = ann.show_config()
        assert set(config) == {
            "arraynn", "python", "numpy", "platform", "compiler", "isa", "isa_available",
            "isa_limit", "isa_extensions", "threads", "threads_reason", "cuda",
            "float32_precision", "kernels", "block_cache",
        }  # fmt: skip
        assert config["arraynn"] == ann.__version__
        assert config["isa"] == _core.isa()
        assert config["kernels"] == len(_core.kernels())

    def test_prints_one_line_per_key(self) -> None:
        config = ann.show_config()
        lines = repr(config).splitlines()
        assert [line.split()[0] for line in lines] == list(config)

    def test_imports_stay_light(self) -> None:
        code = "import sys, arraynn; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
        loaded = set(run_python(code).split())
        assert "numpy" in loaded
        optional = {"torch", "jax", "onnx", "onnxruntime", "tqdm", "sklearn", "matplotlib", "cupy"}
        assert not loaded & (optional | {"ml_dtypes", "threadpoolctl"})

    def test_float32_precision(self) -> None:
        assert ann.get_float32_precision() == "highest"
        ann.set_float32_precision("tf32")
        try:
            assert ann.get_float32_precision() == "tf32"
            assert ann.show_config()["float32_precision"] == "tf32 (GPU)"
        finally:
            ann.set_float32_precision("highest")
        message = r"^\[set_float32_precision\] precision: expected 'highest' or 'tf32', got 'high'"
        with pytest.raises(ValueError, match=message):
            ann.set_float32_precision("high")
        assert ann.get_float32_precision() == "highest"

    def test_batch_invariant_is_a_context(self, rng: np.random.Generator) -> None:
        x, w = rng.standard_normal((65, 40)), rng.standard_normal((30, 40))
        with ann.batch_invariant():
            whole = K.linear(x, w)
            for i in (0, 31, 64):
                assert K.linear(x[i : i + 1], w).tobytes() == whole[i].tobytes()
