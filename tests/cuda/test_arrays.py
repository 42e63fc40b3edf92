"""Arrays on a device: intake, errors, streams, memory, and the way between the two modules."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import kernels as K
from arraynn import reference
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


@pytest.mark.parametrize("case", CASES)
def test_wrong_calls(case: str, device: Any) -> None:
    cases = wrong_calls(device)
    assert list(cases) == CASES
    call, exception, message = cases[case]
    with pytest.raises(exception, match=re.escape(message)):
        call()


def test_an_operation_without_a_kernel_says_so(device: Any) -> None:
    with pytest.raises((TypeError, NotImplementedError), match=r"\[fold\].*kernels"):
        K.fold(device.put(np.zeros((1, 4, 4), np.float32)), (3, 3), 2)


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


class TestHostCuda:
    """What only the emulated device can show."""

    @pytest.fixture
    def device(self, device: Any) -> Any:
        if device.name != "host_cuda":
            pytest.skip("needs two devices, or memory that is not aligned")
        return device

    def test_another_device_is_refused(self, device: Any) -> None:
        import library

        here, there = device.put(X), library.ndarray.of(X.copy(), 1)
        message = "expected an array on the current device 0, got one on device 1"
        with pytest.raises(TypeError, match=rf"\[relu\] x: {message}"):
            K.relu(there)
        with pytest.raises(TypeError, match=rf"\[relu_backward\] x: {message}"):
            K.relu_backward(here, there)
        with pytest.raises(TypeError, match=rf"\[relu\] out: {message}"):
            K.relu(here, out=there)
        with library.device(1):
            assert K.relu(there).device.id == 1

    @pytest.mark.usefixtures("device")
    def test_elements_beside_their_alignment_are_refused(self) -> None:
        import library

        raw = np.zeros(4 * X.size + 1, np.uint8)
        beside = raw[1:].view(np.float32).reshape(X.shape)
        for x in (beside, np.zeros(8, "f4,i2")["f0"]):
            with pytest.raises(ValueError, match=r"\[relu\] x: .* multiples of their 4 bytes"):
                K.relu(library.ndarray.of(x))

    def test_other_libraries_on_the_device(self, device: Any) -> None:
        class Foreign:
            def __init__(self, held: Any) -> None:
                self.held = held
                self.__cuda_array_interface__ = held.__cuda_array_interface__

        grad, x = device.put(X), Foreign(device.put(X))
        got = device.get(K.relu_backward(grad, x))
        np.testing.assert_array_equal(got, reference.relu_backward(X, X))

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
