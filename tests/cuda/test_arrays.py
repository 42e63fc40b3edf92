"""Arrays on a device: intake, errors, streams, memory, and the way between the two modules."""

from __future__ import annotations

import mmap
import re
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import _array, reference
from arraynn import kernels as K
from tolerances import assert_same_bits

X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6)


def test_results_are_the_librarys(device: Any) -> None:
    for dtype in (np.float32, np.float64):
        y = K.relu(device.put(X.astype(dtype)))
        assert type(y) is device.ndarray
        assert y.dtype == dtype
        assert_same_bits(device.get(y), reference.relu(X.astype(dtype)))


def test_inputs_are_not_changed(device: Any) -> None:
    x = device.put(X)
    K.gelu(x)
    K.dropout_backward(x, 0.5, 1)
    assert_same_bits(device.get(x), X)


def on_the_emulated_device() -> dict[str, tuple[Any, Any, str]]:
    """What needs two devices, memory that is not aligned, or a stream that may not be touched."""
    import library

    here, there = library.ndarray.of(X.copy()), library.ndarray.of(X.copy(), 1)
    raw = np.zeros(4 * X.size + 1, np.uint8)
    beside = library.ndarray.of(raw[1:].view(np.float32).reshape(X.shape))
    field = library.ndarray.of(np.zeros(8, "f4,i2")["f0"])
    module = library.load()

    def on_a_freed_stream() -> Any:
        stream = module.stream_create()
        module.stream_destroy(stream)
        with library.stream(stream):
            return K.relu(here)

    return {
        "another device": (
            lambda: K.relu_backward(here, there),
            TypeError,
            "[relu_backward] x: expected an array on device 0, as the first one is, "
            "got one on device 1",
        ),
        "current device": (
            lambda: K.relu_backward(there, here),
            TypeError,
            "[relu_backward] x: expected an array on device 1, as the first one is, "
            "got one on device 0",
        ),
        "out on another device": (
            lambda: K.relu(here, out=there),
            TypeError,
            "[relu] out: expected an array on device 0, as the first one is, got one on device 1",
        ),
        "a list on two devices": (
            lambda: K.sgd_step([here, here], [here, there], None, 1),
            TypeError,
            "[sgd_step] grads: expected an array on device 0, as the first one is, "
            "got one on device 1",
        ),
        "beside its alignment": (
            lambda: K.relu(beside),
            ValueError,
            "[relu] x: expected elements at multiples of their 4 bytes, got an array beside them",
        ),
        "strides beside elements": (
            lambda: K.relu(field),
            ValueError,
            "[relu] x: expected elements at multiples of their 4 bytes, got an array beside them",
        ),
        "a freed stream": (
            on_a_freed_stream,
            RuntimeError,
            "[relu] cudaErrorInvalidResourceHandle (invalid resource handle) from activation_",
        ),
        "too large a grid": (
            lambda: module.run_kernel("too_many_blocks", X, X.copy()),
            RuntimeError,
            "[run_kernel] cudaErrorInvalidConfiguration (invalid configuration argument) from "
            "reverse_kernel<Plant::kNone> with 2147483648 blocks of 128 threads",
        ),
    }


def wrong_calls(device: Any) -> dict[str, tuple[Any, Any, str]]:
    x, y = device.put(X), device.put(X)
    flat = device.put(np.zeros(100, np.float32))
    return {
        "host beside device": (
            lambda: K.relu_backward(x, X),
            TypeError,
            "[relu_backward] x: expected an array on the GPU, as the first one is, got numpy",
        ),
        "device beside host": (
            lambda: K.relu_backward(X, x),
            TypeError,
            r"[relu_backward] x: expected an array in CPU memory (",
        ),
        "a list": (
            lambda: K.relu_backward(x, X.tolist()),
            TypeError,
            "[relu_backward] x: expected an array on the GPU, as the first one is, got list",
        ),
        "host out": (
            lambda: K.relu(x, out=np.zeros_like(X)),
            TypeError,
            "[relu] out: expected a ",
        ),
        "device out": (
            lambda: K.relu(X, out=x),
            TypeError,
            "[relu] out: expected a numpy.ndarray",
        ),
        "integers": (
            lambda: K.relu(device.put(X.astype(np.int32))),
            TypeError,
            "[relu] x: expected float16, bfloat16, float32 or float64, got int32",
        ),
        "complex numbers": (
            lambda: K.relu(device.put(X.astype(np.complex64))),
            TypeError,
            "[relu] x: expected float16, bfloat16, float32 or float64, got complex64",
        ),
        "mixed dtypes": (
            lambda: K.relu_backward(x, device.put(X.astype(np.float64))),
            TypeError,
            "[relu_backward] x: expected float32 (the dtype of grad_out), got float64",
        ),
        "shapes": (
            lambda: K.relu_backward(x, flat),
            ValueError,
            "[relu_backward] x: expected shape (4, 6) (the shape of grad_out), got (100,)",
        ),
        "shape of out": (
            lambda: K.relu(x, out=flat),
            ValueError,
            "[relu] out: expected shape (4, 6), got (100,)",
        ),
        "dtype of out": (
            lambda: K.relu(x, out=device.put(X.astype(np.float64))),
            TypeError,
            "[relu] out: expected float32, got float64",
        ),
        "out is the input": (
            lambda: K.relu(x, out=x),
            ValueError,
            "[relu] out: expected memory of its own, got an array overlapping an input",
        ),
        "out overlaps": (
            lambda: K.relu_backward(y[:2], x[:2], out=x[1:3]),
            ValueError,
            "[relu_backward] out: expected memory of its own",
        ),
        **(on_the_emulated_device() if device.name == "host_cuda" else {}),
        "probability": (
            lambda: K.dropout(x, 1.5, 0),
            ValueError,
            "[dropout] p: expected a probability in [0, 1], got 1.5",
        ),
    }


CASES = [
    *("host beside device", "device beside host", "a list", "host out", "device out", "integers"),
    *("complex numbers", "mixed dtypes", "shapes", "shape of out", "dtype of out"),
    *("out is the input", "out overlaps", "probability"),
]
EMULATED = [
    *("another device", "current device", "out on another device", "a list on two devices"),
    *("beside its alignment", "strides beside elements", "a freed stream", "too large a grid"),
]


@pytest.mark.parametrize("case", CASES + EMULATED)
def test_wrong_calls(case: str, device: Any) -> None:
    emulated = device.name == "host_cuda"
    if case in EMULATED and not emulated:
        pytest.skip("needs the emulated device")
    cases = wrong_calls(device)
    assert sorted(cases) == sorted(CASES + EMULATED if emulated else CASES)
    call, exception, message = cases[case]
    with pytest.raises(exception, match=re.escape(message)):
        call()
    if emulated:
        import library

        assert library.current_device() == 0
        assert_same_bits(device.get(K.relu(device.put(X))), np.maximum(X, 0))


def test_an_operation_without_a_kernel_says_so(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = device.put(X)
    library = _array._library_of(x)
    assert library is not None
    monkeypatch.delattr(library.module, "relu")
    with pytest.raises(NotImplementedError, match=r"\[relu\] .*arraynn\.cuda\.kernels\(\)"):
        K.relu(x)


def test_debugging_waits_and_changes_nothing(device: Any) -> None:
    x = device.put(X)
    if device.name == "cupy":
        ann.cuda.debug(True)
    else:
        device.module.set_debug(True)
    try:
        assert_same_bits(device.get(K.relu(x)), reference.relu(X))
    finally:
        if device.name == "cupy":
            ann.cuda.debug(False)
        else:
            device.module.set_debug(False)


def test_calls_are_captured(device: Any, rng: np.random.Generator) -> None:
    """No call waits or allocates outside the pool: a graph takes it, scratch and all."""
    if device.name != "cupy":
        pytest.skip("needs CUDA's graphs")
    x, grad, weight = (
        device.put(rng.standard_normal(s).astype(np.float32))
        for s in ((2048, 70), (2048, 40), (40, 70))
    )
    target, words = (device.put(rng.integers(0, 40, 2048)) for _ in range(2))
    calls = (
        lambda: K.relu(x),
        lambda: K.softmax(x),
        lambda: K.layer_norm(x, 70),
        lambda: K.linear(x, weight),
        lambda: K.linear_backward(grad, x, weight, needs=("weight",))[1],
        lambda: K.cross_entropy(grad, target),
        lambda: K.embedding_backward(grad, words, 40),
    )
    stream = device.cupy.cuda.Stream(non_blocking=True)
    device.cupy.cuda.Device().synchronize()
    with stream:
        for call in calls:
            expected = device.get(call())  # loads the kernels, and leaves the pool their memory
            stream.begin_capture()
            got = call()
            graph = stream.end_capture()
            graph.launch(stream)
            assert_same_bits(device.get(got), expected)


class TestHostCuda:
    """What only the emulated device can show."""

    @pytest.fixture
    def device(self, device: Any) -> Any:
        if device.name != "host_cuda":
            pytest.skip("needs two devices, or memory that is not aligned")
        return device

    def test_the_call_is_made_on_the_device_of_its_first_array(self, device: Any) -> None:
        import library

        there = library.ndarray.of(X.copy(), 1)
        assert library.current_device() == 0
        for got in (K.relu(there), K.dropout(K.relu(there), 0.0, 1)):
            assert got.device.id == 1
            assert library.current_device() == 0
            assert_same_bits(got.get(), np.maximum(X, 0))
        with library.device(1):
            assert K.relu(device.put(X)).device.id == 1
            assert K.relu(library.ndarray.of(X.copy(), 0)).device.id == 0
            assert library.current_device() == 1

    def test_a_call_takes_the_stream_of_its_device(self, device: Any) -> None:
        import library

        freed = device.module.stream_create()
        device.module.stream_destroy(freed)
        here, there = device.put(X), library.ndarray.of(X.copy(), 1)
        with library.device(1):
            changed = library.stream(freed)
            changed.__enter__()
        try:
            assert_same_bits(device.get(K.relu(here)), np.maximum(X, 0))
            with pytest.raises(RuntimeError, match=r"\[relu\] cudaErrorInvalidResourceHandle"):
                K.relu(there)
            assert library.current_device() == 0
        finally:
            changed.__exit__(None, None, None)
        assert_same_bits(K.relu(there).get(), np.maximum(X, 0))

    def test_other_libraries_on_the_device(self, device: Any) -> None:
        class Foreign:
            def __init__(self, held: Any) -> None:
                self.held = held
                self.__cuda_array_interface__ = held.__cuda_array_interface__

        grad, x = device.put(X), Foreign(device.put(X))
        got = device.get(K.relu_backward(grad, x))
        np.testing.assert_array_equal(got, reference.relu_backward(X, X))

    def test_a_tensor_that_records_is_read_without_its_tape(self, device: Any) -> None:
        """PyTorch's raise RuntimeError when asked for an interface while they need a gradient."""

        class Recording:
            requires_grad = True

            def __init__(self, held: Any) -> None:
                self.held = held

            @property
            def __cuda_array_interface__(self) -> Any:
                raise RuntimeError("requires grad")

            def detach(self) -> Any:
                return self.held

        got = device.get(K.relu_backward(device.put(X), Recording(device.put(X))))
        np.testing.assert_array_equal(got, reference.relu_backward(X, X))
        # A first argument goes by the same question to CuPy's module, which is not here.
        with pytest.raises(TypeError, match=r"\[relu\] x: expected an array in CPU memory"):
            K.relu(Recording(device.put(X)))

    def test_an_output_costs_one_allocation_and_one_launch(self, device: Any) -> None:
        x = device.put(X)
        for call in (
            lambda: K.gelu(x),
            lambda: K.dropout(x, 0.5, 1),
            lambda: K.silu_backward(x, x),
        ):
            before = (device.ndarray.allocations, device.launches())
            call()
            assert device.ndarray.allocations == before[0] + 1
            assert device.launches() == before[1] + 1

    def test_an_empty_array_launches_nothing(self, device: Any) -> None:
        x = device.put(np.zeros((3, 0), np.float32))
        before = device.launches()
        assert K.relu(x).shape == (3, 0)
        assert K.dropout(x, 0.5, 1).shape == (3, 0)
        assert device.launches() == before

    def test_more_elements_than_32_bits_count(self, device: Any) -> None:
        """The last blocks of a grid over 2^31 elements; memory that nobody touches is not there."""
        n, tail = (1 << 31) + 12_345, 20_000
        no_reserve = getattr(mmap, "MAP_NORESERVE", 0x4000)  # what Linux calls it
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve
        arrays = [np.frombuffer(mmap.mmap(-1, 2 * n, flags), np.float16) for _ in range(3)]
        values = np.linspace(-3, 3, tail).astype(np.float16)
        arrays[0][-tail:] = values
        x, grad, y = (device.ndarray.of(a) for a in arrays)
        arrays[1][-tail:] = 1
        lists = [x], [grad], None, 1
        device.module.set_multiprocessors(1 << 20)  # a block for every tile
        device.module.set_last_blocks(16)
        try:
            for call, expected in (
                (lambda: K.relu(x, out=y), np.maximum(values, 0)),
                (lambda: K.relu_backward(grad, x, out=y), (values > 0).astype(np.float16)),
                (lambda: K.dropout(x, 0.0, 1, out=y), values),
                (lambda: K.sgd_step(*lists, lr=0.5), None),
            ):
                call()
                if expected is not None:
                    assert_same_bits(arrays[2][-tail:], expected)
                    assert not arrays[2][: 1 << 20].any()
                    arrays[2][-tail:] = 0
            assert_same_bits(arrays[0][-tail:], values - np.float16(0.5))
        finally:
            device.module.set_last_blocks(0)
            device.module.set_multiprocessors(2)
