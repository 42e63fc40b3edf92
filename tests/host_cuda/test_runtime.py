"""The emulated device itself: kernels that are right at every schedule, and planted faults."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import library
import numpy as np
import pytest

from tolerances import assert_same_bits

HERE = Path(__file__).parent
ORDERS = ["oldest", "newest", "random", "starve"]
X = np.arange(3 * 512, dtype=np.float32)
EXPECTED = {
    "reverse": X[:128][::-1],
    "sum": X[:128].sum(keepdims=True),
    "pipeline": 2 * X,
    "rounds": X[:256] + 4,
}


@pytest.fixture(scope="module")
def module() -> Any:
    try:
        return library.load()
    except library.MissingTool as error:
        pytest.skip(f"the kernels cannot be compiled for the CPU: {error}")


def cut_off(x: Any) -> Any:
    """Round to float32, towards zero."""
    f = x.astype(np.float32)
    return np.where(np.abs(f) > np.abs(x), np.nextafter(f, np.float32(0)), f)


def outcome(module: Any, kernel: str, order: str, late: bool, seed: int = 1) -> str:
    """Run a kernel of kernels.cu: "right", "wrong", or the fault that the runtime reports."""
    module.set_schedule(order, late, seed)
    y = np.full_like(X, np.nan)
    expected = EXPECTED[kernel.partition(" ")[0]]
    try:
        module.run_kernel(kernel, X, y)
    except module.Fault as error:
        return str(error)
    return "right" if np.array_equal(y[: expected.size], expected) else "wrong"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kernel", ["reverse", "sum", "pipeline", "rounds"])
def test_right_kernels(module: Any, kernel: str, order: str, late: bool) -> None:
    for seed in range(1, 6):
        assert outcome(module, kernel, order, late, seed) == "right"


#: Faults that give wrong numbers: under some schedule at least, by design of the schedules.
@pytest.mark.parametrize(
    ("kernel", "orders", "late"),
    [
        ("reverse no_barrier", ORDERS, True),
        ("reverse off_by_one", ORDERS, True),
        ("reverse uninitialised", ORDERS, True),
        ("pipeline no_wait", ORDERS, True),  # copies come as late as they may
        ("pipeline early_reuse", ["oldest", "random"], False),  # and as early
    ],
)
def test_faults_in_numbers(module: Any, kernel: str, orders: list[str], late: bool) -> None:
    for order in orders:
        assert outcome(module, kernel, order, late) == "wrong", order


#: Faults that the runtime itself reports, with the line of the source.
@pytest.mark.parametrize(
    ("kernel", "report", "marked"),
    [
        (
            "reverse divergent_barrier",
            "threads of one block wait at different __syncthreads()",
            "__syncthreads();",
        ),
        (
            "reverse thread_leaves",
            "a thread leaves the kernel while others wait at __syncthreads()",
            "__syncthreads();",
        ),
        ("sum wrong_mask", "without being in its mask", "__shfl_xor_sync(0x0000FFFFu"),
        (
            "sum missing_lane",
            "lanes of one warp wait at different warp operations",
            "__shfl_xor_sync(kWholeWarp, v, 1)",
        ),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_faults_in_order(module: Any, kernel: str, report: str, marked: str, order: str) -> None:
    text = outcome(module, kernel, order, True)
    assert report in text
    assert f"{kernel.partition(' ')[0]}_kernel" in text
    lines = (HERE / "kernels.cu").read_text(encoding="utf-8").splitlines()
    numbers = [str(i) for i, line in enumerate(lines, 1) if marked in line]
    assert any(f"kernels.cu:{n}" in text for n in numbers), text


@pytest.mark.parametrize("order", ORDERS)
def test_blocks_that_wait_for_each_other(module: Any, order: str) -> None:
    """Without a barrier of all blocks the numbers show it; one that cannot open is reported."""
    assert "wrong" in {outcome(module, "rounds no_barrier", order, True, s) for s in range(4)}
    for fault in ("missing_block", "one_by_one"):
        text = outcome(module, f"rounds {fault}", order, True)
        assert "wait for a change of memory" in text
        assert "cuda_grid.hpp" in text
    with pytest.raises(RuntimeError, match="cudaErrorCooperativeLaunchTooLarge"):
        module.run_kernel("rounds too_many_blocks", X, np.zeros_like(X))


def test_a_launch_that_the_device_refuses(module: Any) -> None:
    y = np.zeros_like(X)
    with pytest.raises(RuntimeError, match=r"cudaErrorInvalidConfiguration.*2048 threads"):
        module.run_kernel("too_many_threads", X, y)
    module.run_kernel("reverse", X, y)  # and the next call knows nothing of it
    assert_same_bits(y[:128], EXPECTED["reverse"])


def test_counters(module: Any) -> None:
    before = module.counters()
    outcome(module, "sum", "oldest", True)
    after = module.counters()
    moved = {name: after[name] - before[name] for name in after}
    assert moved["launches"] == moved["blocks"] == 1
    assert moved["barriers"] == 128
    assert moved["warp_operations"] == 5 * 128
    assert moved["async_copies"] == 0


class TestInstructions:
    """The host meanings of csrc/ptx against NumPy."""

    def test_conversions(self, module: Any) -> None:
        bits = np.arange(1 << 16, dtype=np.uint16)
        halves = bits.view(np.float16)
        wide = np.array([module.cvt_f32_f16(int(b)) for b in bits], np.float32)
        np.testing.assert_array_equal(wide, halves.astype(np.float32))
        number = ~np.isnan(halves)
        back = np.array([module.cvt_rn_f16_f32(float(w)) for w in wide[number]], np.uint16)
        assert_same_bits(back, bits[number])

    def test_every_bfloat16(self, module: Any) -> None:
        bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
        bits = np.arange(1 << 16, dtype=np.uint16)
        wide = np.array([module.cvt_f32_bf16(int(b)) for b in bits], np.float32)
        np.testing.assert_array_equal(wide, bits.view(bfloat16).astype(np.float32))
        number = ~np.isnan(wide)
        back = np.array([module.cvt_rn_bf16_f32(float(w)) for w in wide[number]], np.uint16)
        assert_same_bits(back, bits[number])

    @pytest.mark.parametrize("name", ["f16", "bf16"])
    def test_ties_are_rounded_to_even(self, module: Any, name: str) -> None:
        """Halfway between any two neighbours, and on either side of there."""
        bf16 = name == "bf16"
        dtype = pytest.importorskip("ml_dtypes").bfloat16 if bf16 else np.float16
        wide = np.arange(0x7F7F if bf16 else 0x7BFF, dtype=np.uint16).view(dtype).astype(np.float64)
        middle = ((wide[:-1] + wide[1:]) / 2).astype(np.float32)
        round_to = getattr(module, f"cvt_rn_{name}_f32")
        for x in (middle, np.nextafter(middle, np.float32(0)), np.nextafter(middle, np.float32(9))):
            for signed in (x, -x):
                got = np.array([round_to(float(v)) for v in signed], np.uint16)
                assert_same_bits(got, signed.astype(dtype).view(np.uint16))

    def test_rounding(self, module: Any, rng: np.random.Generator) -> None:
        ml_dtypes = pytest.importorskip("ml_dtypes")
        exponents = rng.uniform(-26, 17, 4000)
        x = (rng.standard_normal(4000) * 2.0**exponents).astype(np.float32)
        # Halfway between two of the 16-bit numbers, where ties go to even.
        x = np.concatenate([x, 1 + np.arange(64, dtype=np.float32) / 2048, [65519.0, 65520.0]])
        x = x.astype(np.float32)
        with np.errstate(over="ignore"):
            half, bf16 = x.astype(np.float16), x.astype(ml_dtypes.bfloat16)
        got = np.array([module.cvt_rn_f16_f32(float(v)) for v in x], np.uint16)
        assert_same_bits(got, half.view(np.uint16))
        got = np.array([module.cvt_rn_bf16_f32(float(v)) for v in x], np.uint16)
        assert_same_bits(got, bf16.view(np.uint16))

    @pytest.mark.parametrize("order", ORDERS)
    def test_matrix_products(self, module: Any, order: str, rng: np.random.Generator) -> None:
        module.set_schedule(order, True, 3)
        ml_dtypes = pytest.importorskip("ml_dtypes")
        for bf16, dtype in ((False, np.float16), (True, ml_dtypes.bfloat16)):
            a = rng.standard_normal((16, 16)).astype(dtype)
            b = rng.standard_normal((16, 8)).astype(dtype)
            d = np.zeros((16, 8), np.float32)
            module.mma_16bit(bf16, a.view(np.uint16), b.view(np.uint16), d)
            exact = a.astype(np.float64) @ b.astype(np.float64)
            assert_same_bits(d, cut_off(exact))
        a = rng.standard_normal((16, 8)).astype(np.float32)
        b = rng.standard_normal((8, 8)).astype(np.float32)
        module.mma_tf32(a, b, d)
        short = [(m.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for m in (a, b)]
        exact = short[0].astype(np.float64) @ short[1].astype(np.float64)
        assert_same_bits(d, cut_off(exact))

    def test_tf32_rounds_to_nearest(self, module: Any, rng: np.random.Generator) -> None:
        """Ties away from zero; the largest numbers become infinite."""
        x = rng.standard_normal(256).astype(np.float32)
        ties = (x.view(np.uint32) & np.uint32(0xFFFFE000)) | np.uint32(0x1000)
        special = np.array([0.0, -0.0, np.inf, -np.inf, np.finfo("f").max, 1e-40], np.float32)
        x = np.concatenate([x, ties.view(np.float32), special])
        expected = (x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
        expected[np.isinf(x)] = x.view(np.uint32)[np.isinf(x)]
        got = module.golden("cvt_rna_tf32_f32", np.resize(x.view(np.uint32), (544, 1)))
        assert_same_bits(got[: len(x), 0], expected)
        nan = module.golden("cvt_rna_tf32_f32", np.full((32, 1), 0x7FFFFFFF, np.uint32))
        assert np.isnan(nan.view(np.float32)).all()


def compiled(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Compile a line of device code for the host."""
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    source = tmp_path / "unit.cpp"
    text = '#include "ptx/ptx.hpp"\nnamespace arraynn::ptx {\n' + body + "\n}\n"
    source.write_text(text, encoding="utf-8")
    include = [f"-I{HERE / 'include'}", f"-I{HERE.parents[1] / 'csrc'}"]
    command = [compiler, "-std=c++20", "-fsyntax-only", *include, str(source)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ('ARRAYNN_PTX_FUNCTION void nop() { ARRAYNN_PTX((void)0, asm volatile("nop;")); }', ""),
        (
            "ARRAYNN_PTX_FUNCTION void nop() "
            '{ ARRAYNN_PTX(host_ptx::nop(), asm volatile("nop;")); }',
            "nop",
        ),
        ("void f() { __shared__ float x[3]; }", "shared_storage"),
        ("void f(float* p) { atomicAdd(p, 1.0f); }", "atomicAdd"),
    ],
    ids=[
        "with a meaning",
        "without a meaning",
        "shared memory beside the runtime",
        "float atomics",
    ],
)
def test_what_does_not_compile(tmp_path: Path, body: str, complaint: str) -> None:
    done = compiled(tmp_path, body)
    assert (done.returncode != 0) == bool(complaint), done.stderr
    assert complaint in done.stderr


class TestSanitizers:
    """What the sanitizers find, whatever the results are."""

    def run(self, sanitizer: str, kernel: str, copies: str = "late") -> Any:
        try:
            program = library.build_program(f"sanitized_{sanitizer}")
        except library.MissingTool as error:
            pytest.skip(str(error))
        # ThreadSanitizer wants its addresses where few bits of them are random.
        fixed = [s, "-R"] if (s := shutil.which("setarch")) else []
        command = [*fixed, str(program), kernel, copies]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    @pytest.mark.parametrize("sanitizer", ["thread", "address"])
    @pytest.mark.parametrize("kernel", ["reverse", "sum", "pipeline", "rounds"])
    def test_right_kernels_pass(self, sanitizer: str, kernel: str) -> None:
        for copies in ("early", "late"):
            done = self.run(sanitizer, kernel, copies)
            assert done.returncode == 0, done.stderr
            assert done.stdout == "right\n"

    def test_a_missing_barrier_is_a_race(self) -> None:
        done = self.run("thread", "reverse no_barrier")
        assert "data race" in done.stderr
        lines = (HERE / "kernels.cu").read_text(encoding="utf-8").splitlines()
        for marked in ("shared.values[t] = x[t];", "y[t] = shared.values[from];"):
            (number,) = (i for i, line in enumerate(lines, 1) if marked in line)
            assert f"kernels.cu:{number}" in done.stderr

    def test_blocks_that_do_not_wait_for_each_other_race(self) -> None:
        done = self.run("thread", "rounds no_barrier")
        assert "data race" in done.stderr
        assert "rounds_kernel" in done.stderr

    def test_a_buffer_filled_too_early_is_a_race(self) -> None:
        done = self.run("thread", "pipeline early_reuse", "early")
        assert "data race" in done.stderr

    def test_an_index_beyond_shared_memory(self) -> None:
        done = self.run("address", "reverse off_by_one")
        assert "heap-buffer-overflow" in done.stderr
        assert "kernels.cu" in done.stderr


class TestWarpgroups:
    """Bulk copies, mbarriers and wgmma: the meanings against NumPy, and what their misuse shows."""

    @pytest.fixture
    def hopper(self, module: Any) -> Any:
        module.set_capability(9, 0)
        yield module
        module.set_capability(8, 0)

    def product(self, module: Any, fault: str, bf16: bool, along: tuple[bool, bool]) -> str:
        """Return "right", "wrong" or what the runtime reports."""
        dtype = pytest.importorskip("ml_dtypes").bfloat16 if bf16 else np.float16
        rng = np.random.default_rng(5)
        a = rng.standard_normal((64, 32)).astype(dtype)
        b = rng.standard_normal((32, 64)).astype(dtype)
        stored = [np.ascontiguousarray(m.view(np.uint16)) for m in (a, b)]
        stored[0] = stored[0] if along[0] else np.ascontiguousarray(stored[0].T)
        stored[1] = np.ascontiguousarray(stored[1].T) if along[1] else stored[1]
        d = np.full((64, 64), np.nan, np.float32)
        try:
            module.warpgroup_product(fault, bf16, *along, *stored, d)
        except module.Fault as error:
            return str(error)
        wide = a.astype(np.float64), b.astype(np.float64)
        first = cut_off(wide[0][:, :16] @ wide[1][:16]).astype(np.float64)
        expected = cut_off(first + wide[0][:, 16:] @ wide[1][16:])
        return "right" if np.array_equal(d, expected) else "wrong"

    @pytest.mark.parametrize("bf16", [False, True])
    @pytest.mark.parametrize("along", [(True, True), (True, False), (False, True), (False, False)])
    def test_products(self, hopper: Any, bf16: bool, along: tuple[bool, bool]) -> None:
        """Every layout of the operands, at every schedule."""
        for order in ORDERS:
            for late in (False, True):
                hopper.set_schedule(order, late, 2)
                assert self.product(hopper, "", bf16, along) == "right"

    @pytest.mark.parametrize("bf16", [False, True])
    @pytest.mark.parametrize("along_b", [True, False])
    def test_products_from_registers(self, hopper: Any, bf16: bool, along_b: bool) -> None:
        for order in ORDERS:
            hopper.set_schedule(order, True, 2)
            assert self.product(hopper, "registers", bf16, (True, along_b)) == "right"
            assert self.product(hopper, "registers_reused", bf16, (True, along_b)) == "wrong"

    @pytest.mark.parametrize(
        ("fault", "report"),
        [
            # Nothing needs the copies, and they are not made.
            ("no_barrier", "a block ends with a bulk copy in flight"),
            ("no_wait", "wrong"),  # sums are read before they are there
            ("no_product_fence", "wgmma without a wgmma.fence"),
            ("no_proxy_fence", "no fence.proxy.async"),
            # The first copy ends no phase: its bytes are not those that are left.
            ("few_bytes", "threads wait for an mbarrier"),
            ("half_group", "wgmma of less than a whole warpgroup"),
        ],
    )
    def test_faults(self, hopper: Any, fault: str, report: str) -> None:
        hopper.set_schedule("random", True, 2)
        found = self.product(hopper, fault, True, (True, False))
        assert report in found
