"""What the kernels take as an array, and what they refuse."""

from __future__ import annotations

import array
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import kernels as K
from memory import LAYOUTS, Guarded, in_layout, snapshot
from tolerances import assert_same_bits

X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6)
W = np.linspace(-1, 1, 30, dtype=np.float32).reshape(5, 6)


class Subclass(np.ndarray[Any, Any]):
    """A subclass with nothing of its own."""


class Interface:
    """An object that has memory but is no array."""

    def __init__(self, held: np.ndarray[Any, Any]) -> None:
        self.held = held

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.held.__array_interface__


class OnGpu:
    """An object that says it is in GPU memory."""

    __cuda_array_interface__: dict[str, Any] = {}  # noqa: RUF012


class TestTaken:
    def test_subclass_gives_a_plain_array(self) -> None:
        got = K.relu(X.view(Subclass))
        assert type(got) is np.ndarray
        assert_same_bits(got, K.relu(X))

    def test_memory_map(self, tmp_path: Path) -> None:
        X.tofile(tmp_path / "x.bin")
        mapped = np.memmap(tmp_path / "x.bin", dtype=np.float32, mode="r", shape=X.shape)
        assert_same_bits(K.linear(mapped, W), K.linear(X, W))

    @pytest.mark.parametrize("wrap", [memoryview, Interface], ids=["memoryview", "interface"])
    def test_objects_with_memory(self, wrap: Any) -> None:
        got = K.linear(wrap(X), wrap(W))
        assert type(got) is np.ndarray
        assert_same_bits(got, K.linear(X, W))

    def test_buffer_of_the_standard_library(self) -> None:
        assert_same_bits(K.relu(array.array("d", [-1.0, 2.0])), np.array([0.0, 2.0]))

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("shape", [(4, 6), (1, 1), (3, 2, 5)], ids=str)
    def test_any_strides(self, layout: str, shape: tuple[int, ...]) -> None:
        plain = np.linspace(-2, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)
        assert_same_bits(K.relu(in_layout(layout, plain)), np.maximum(plain, 0))

    def test_strides_of_no_whole_element(self) -> None:
        records = np.zeros(7, dtype=[("flag", "u1"), ("value", "<f4")])
        records["value"] = np.arange(7) - 3
        assert_same_bits(
            K.relu(records["value"]), np.array([0, 0, 0, 0, 1, 2, 3], dtype=np.float32)
        )

    def test_broadcast_view(self) -> None:
        wide = np.broadcast_to(X[:1], (3, 6))
        assert_same_bits(K.linear(wide, W), np.repeat(K.linear(X[:1], W), 3, axis=0))

    def test_equivalent_descriptors(self) -> None:
        for spelling in ("<f4", "f4", "single", np.dtype(np.float32).newbyteorder("=")):
            got = K.relu(np.array([-1, 1], dtype=spelling))
            assert_same_bits(got, np.array([0, 1], dtype=np.float32))

    def test_zero_dimensions(self) -> None:
        got = K.relu(np.array(-1.5))
        assert isinstance(got, np.ndarray)
        assert (got.shape, got.dtype, float(got)) == ((), np.float64, 0.0)

    @pytest.mark.parametrize("shape", [(0,), (0, 6), (3, 0, 6), (0, 0)], ids=str)
    def test_nothing_gives_nothing(self, shape: tuple[int, ...]) -> None:
        got = K.relu(np.zeros(shape, dtype=np.float32))
        assert (got.shape, got.dtype) == (shape, np.float32)


class TestTensorsOfOthers:
    def test_torch_in_torch_out(self) -> None:
        torch = pytest.importorskip("torch")
        got = K.linear(torch.from_numpy(X), torch.from_numpy(W))
        assert isinstance(got, torch.Tensor)
        assert_same_bits(got.numpy(), K.linear(X, W))

    def test_first_argument_decides_the_library(self) -> None:
        torch = pytest.importorskip("torch")
        assert type(K.linear(X, torch.from_numpy(W))) is np.ndarray
        assert isinstance(K.linear(torch.from_numpy(X), W), torch.Tensor)

    def test_torch_views_and_tapes(self) -> None:
        torch = pytest.importorskip("torch")
        transposed = torch.from_numpy(np.ascontiguousarray(X.T)).T
        recorded = torch.from_numpy(W.copy()).requires_grad_()
        got = K.linear(transposed, recorded)
        assert not got.requires_grad
        assert_same_bits(got.numpy(), K.linear(X, W))

    def test_torch_dtypes_are_checked(self) -> None:
        torch = pytest.importorskip("torch")
        half = torch.tensor([1.5, -1], dtype=torch.float16)
        assert torch.equal(K.relu(half), torch.relu(half))
        for dtype in (torch.bfloat16, torch.int32):  # NumPy does not take PyTorch's bfloat16
            with pytest.raises(TypeError, match=r"^\[relu\] x: expected "):
                K.relu(torch.ones(3, dtype=dtype))

    def test_result_owns_its_memory(self) -> None:
        torch = pytest.importorskip("torch")
        results = [K.relu(torch.full((1 << 16,), float(i))) for i in range(4)]
        assert [float(r[0]) for r in results] == [0.0, 1.0, 2.0, 3.0]

    def test_jax_in_jax_out(self) -> None:
        jnp = pytest.importorskip("jax.numpy")
        got = K.relu(jnp.asarray(X))
        assert isinstance(got, jnp.ndarray)
        assert_same_bits(np.asarray(got), K.relu(X))


class TestRefused:
    @pytest.mark.parametrize(
        ("x", "named"),
        [
            ([1.0, 2.0], "list"),
            ((1.0,), "tuple"),
            (1.0, "float"),
            (None, "NoneType"),
            ("1.0", "str"),
            (object(), "object"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_no_array(self, x: object, named: str) -> None:
        with pytest.raises(TypeError, match=rf"^\[relu\] x: expected .*, got {named}$"):
            K.relu(x)  # type: ignore[arg-type]

    def test_array_on_a_gpu(self) -> None:
        with pytest.raises(TypeError, match=r"^\[relu\] x: expected an array in CPU memory"):
            K.relu(OnGpu())  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "dtype",
        [">f4", ">f8", ">f2", "g", "i4", "i8", "u1", "?", "c8", "O", "U3", "M8[s]", "V4"],
    )
    def test_dtypes(self, dtype: str) -> None:
        x = np.zeros(3, dtype=dtype)
        with pytest.raises(
            TypeError, match=r"^\[relu\] x: expected float16, bfloat16, float32 or float64, got "
        ):
            K.relu(x)

    def test_mixed_dtypes_name_both(self) -> None:
        with pytest.raises(
            TypeError, match=r"^\[linear\] weight: expected float32 .*, got float64$"
        ):
            K.linear(X, W.astype(np.float64))

    def test_too_many_dimensions(self) -> None:
        with pytest.raises(ValueError, match=r"^\[relu\] x: expected at most 16 dimensions"):
            K.relu(np.zeros((1,) * 17, dtype=np.float32))

    def test_inputs_stay_as_they_are(self) -> None:
        x, w = X.copy(), W.copy()
        before = snapshot(x, w)
        with pytest.raises(ValueError, match=r"^\[linear\] "):
            K.linear(x, w[:, :3])
        assert snapshot(x, w) == before


class TestOut:
    @pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
    def test_fills_and_returns_the_given_array(self, strided: bool) -> None:
        guarded = Guarded((4, 6), np.float32, strided=strided)
        got = K.relu(X, out=guarded.out)
        assert got is guarded.out
        assert_same_bits(got, K.relu(X))
        guarded.check()

    @pytest.mark.parametrize(
        ("out", "error", "message"),
        [
            (np.zeros((4, 6)), TypeError, "expected float32, got float64"),
            (np.zeros((4, 6), dtype=">f4"), TypeError, "expected float32, got >f4"),
            (np.zeros((6, 4), np.float32), ValueError, r"expected shape \(4, 6\), got \(6, 4\)"),
            (np.zeros(24, np.float32), ValueError, r"expected shape \(4, 6\), got \(24,\)"),
            ([0.0] * 24, TypeError, "expected a numpy.ndarray, got list"),
            (
                np.broadcast_to(np.float32(0), (4, 6)),
                ValueError,
                "expected a writeable array, got a read-only one",
            ),
        ],
        ids=["dtype", "byte_order", "shape", "dimensions", "list", "read_only"],
    )
    def test_refuses(self, out: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=rf"^\[relu\] out: {message}$"):
            K.relu(X, out=out)

    def test_refuses_the_memory_of_an_input(self) -> None:
        buffer = np.ones(40, dtype=np.float32)
        before = snapshot(buffer)
        for out in (buffer[:24], buffer[1:25], buffer[23:39][::-1][:1]):
            x = buffer[: out.size]
            if not np.shares_memory(x, out):
                assert np.all(K.relu(x, out=out) == 1)
                continue
            with pytest.raises(ValueError, match=r"^\[relu\] out: expected memory of its own"):
                K.relu(x, out=out)
        assert snapshot(buffer) == before


class TestConcurrency:
    def test_many_python_threads_give_the_same_bits(self, rng: np.random.Generator) -> None:
        a = rng.standard_normal((160, 160), dtype=np.float32)
        x = rng.standard_normal((2, 8, 20, 20), dtype=np.float32)
        w = rng.standard_normal((16, 8, 3, 3), dtype=np.float32)

        def work(threads: int) -> list[bytes]:
            with ann.threads(threads):
                return [
                    K.matmul(a, a).tobytes(),
                    K.conv2d(x, w, padding=1).tobytes(),
                    K.gelu(a).tobytes(),
                ]

        expected = work(1)
        barrier = threading.Barrier(8)

        def worker(index: int) -> bool:
            barrier.wait(timeout=60)
            return all(work(1 + (index + i) % 3) == expected for i in range(20))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(worker, range(8)))
