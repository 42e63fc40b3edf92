"""Optimizer steps on a device, against the reference and in any list."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import Tensor, kernels, optim, reference
from memory import snapshot
from optimizer_state import (
    COMMON,
    State,
    assert_same_state,
    check_state,
    combinations,
    rmsprop_state,
)
from tolerances import assert_same_bits, widen

#: Around packs, the loads of a block and a chunk of 16384 elements; nothing, and no dimensions.
SHAPES: list[tuple[int, ...]] = [(1,), (5,), (1023,), (1024,), (2049,), (), (2, 0), (7, 33)]
LARGE: list[tuple[int, ...]] = [(16_384,), (16_385,), (3, 11_000)]


def on(device: Any, state: State) -> State:
    return state.mapped(device.put)


def back(device: Any, state: State) -> State:
    return state.mapped(device.get)


def check_norm(device: Any, got: Any, expected: Any, dtype: Any) -> None:
    """The norm stays on the device, in an array of its own."""
    if expected is None:
        assert got is None
        return
    assert type(got) is device.ndarray
    assert got.shape == ()
    assert got.dtype == np.float64
    value = float(device.get(got))
    assert abs(value - expected) <= 4 * float(np.finfo(dtype).eps) * expected


@pytest.mark.parametrize("eps_mode", ["outside", "hat"])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
def test_adam(
    dtype: Any,
    decoupled: bool,
    amsgrad: bool,
    eps_mode: str,
    device: Any,
    rng: np.random.Generator,
) -> None:
    before = State(rng, dtype, SHAPES)
    for options in combinations(**COMMON):
        options |= {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-3}
        options |= {"decoupled": decoupled, "eps_mode": eps_mode}
        there, ref, native = on(device, before), before.mapped(widen), before.copy()
        norm = there.adam(kernels, 3, amsgrad, **options)
        check_norm(device, norm, ref.adam(reference, 3, amsgrad, **options), dtype)
        native.adam(reference, 3, amsgrad, **options)
        got = back(device, there)
        check_state(got, ref, native, before, **options)
        assert snapshot(got.grads) == snapshot(before.grads)
        if not amsgrad:
            assert snapshot(got.largest) == snapshot(before.largest)


@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov"),
    [(0.0, 0.0, False), (0.9, 0.0, False), (0.9, 0.3, False), (0.9, 0.0, True)],
)
def test_sgd(
    dtype: Any,
    momentum: float,
    dampening: float,
    nesterov: bool,
    device: Any,
    rng: np.random.Generator,
) -> None:
    before = State(rng, dtype, SHAPES)
    for options in combinations(**COMMON, step=(1, 2)):
        options |= {"lr": 0.05, "momentum": momentum, "dampening": dampening, "nesterov": nesterov}
        there, ref, native = on(device, before), before.mapped(widen), before.copy()
        check_norm(device, there.sgd(kernels, **options), ref.sgd(reference, **options), dtype)
        native.sgd(reference, **options)
        got = back(device, there)
        check_state(got, ref, native, before, **options)
        assert snapshot(got.grads) == snapshot(before.grads)
        if momentum == 0:
            assert snapshot(got.first) == snapshot(before.first)


@pytest.mark.parametrize("lr_decay", [0.0, 0.3])
def test_adagrad(dtype: Any, lr_decay: float, device: Any, rng: np.random.Generator) -> None:
    before = State(rng, dtype, SHAPES)
    for options in combinations(**COMMON, step=(1, 3)):
        options |= {"lr": 0.05, "lr_decay": lr_decay, "eps": 1e-3}
        there, ref, native = on(device, before), before.mapped(widen), before.copy()
        norm = there.adagrad(kernels, **options)
        check_norm(device, norm, ref.adagrad(reference, **options), dtype)
        native.adagrad(reference, **options)
        check_state(back(device, there), ref, native, before, **options)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop(
    dtype: Any, centred: bool, momentum: float, device: Any, rng: np.random.Generator
) -> None:
    before = rmsprop_state(rng, dtype, SHAPES)
    for options in combinations(**COMMON):
        options |= {"lr": 0.05, "alpha": 0.8, "eps": 1e-3}
        there, ref, native = on(device, before), before.mapped(widen), before.copy()
        norm = there.rmsprop(kernels, centred, momentum, **options)
        check_norm(device, norm, ref.rmsprop(reference, centred, momentum, **options), dtype)
        native.rmsprop(reference, centred, momentum, **options)
        got = back(device, there)
        check_state(got, ref, native, before, **options)
        if momentum == 0:
            assert snapshot(got.first) == snapshot(before.first)


def test_same_bits_in_any_list_and_at_every_schedule(
    storage: Any, device: Any, rng: np.random.Generator
) -> None:
    start = State(rng, storage, LARGE + SHAPES)
    for max_norm in (None, 0.1):
        first: State | None = None
        for schedule in device.schedules():
            state = on(device, start)
            norm = state.adam(kernels, 5, True, max_norm=max_norm, weight_decay=0.1)
            again = state.sgd(kernels, 5, momentum=0.9, max_norm=max_norm)
            state.adagrad(kernels, 5, max_norm=max_norm)
            state.rmsprop(kernels, True, 0.9, max_norm=max_norm)
            got = back(device, state)
            norms = [None if n is None else float(device.get(n)) for n in (norm, again)]
            if first is None:
                first, first_norms = got, norms
            assert norms == first_norms
            assert_same_state(got, first, schedule)
    # Without a global norm an array's update does not depend on its neighbours in the list.
    whole = on(device, start)
    whole.adam(kernels, 5, True)
    for i in (0, 1, 4, 8):
        alone = start.mapped(np.copy)
        for name, arrays in vars(alone).items():
            setattr(alone, name, [arrays[i]])
        there = on(device, alone)
        there.adam(kernels, 5, True)
        assert_same_bits(device.get(there.params[0]), device.get(whole.params[i]), f"{i}")


def test_long_lists(dtype: Any, device: Any, rng: np.random.Generator) -> None:
    """More tensors than one table holds, with a norm over all of them."""
    shapes: list[tuple[int, ...]] = [(1 + i % 5,) for i in range(1700)]
    start = State(rng, dtype, shapes)
    there, ref, native = on(device, start), start.mapped(widen), start.copy()
    options = {"max_norm": 3.0, "lr": 0.05}
    got_norm = there.adam(kernels, 3, False, **options)
    check_norm(device, got_norm, ref.adam(reference, 3, False, **options), dtype)
    native.adam(reference, 3, False, **options)
    check_state(back(device, there), ref, native, start, **options)


def test_slices_and_strides(storage: Any, device: Any, rng: np.random.Generator) -> None:
    """Arrays that begin beside 16 bytes are stepped in place, strided ones through a copy."""
    start = State(rng, storage, [(2100,), (9, 21)])
    expected = on(device, start)
    expected.adam(kernels, 2, True, weight_decay=0.1, max_norm=0.5)
    expected.sgd(kernels, 2, momentum=0.9, nesterov=True)
    expected.adagrad(kernels, 2)
    expected.rmsprop(kernels, False, 0.9)

    def window(a: Any) -> Any:
        big = np.full([2 * n + 3 for n in a.shape], 7, a.dtype)
        if a.ndim == 1:
            big[1 : 1 + a.size] = a
            return device.put(big)[1 : 1 + a.size]
        inside = tuple(slice(1, 2 * n + 1, 2) for n in a.shape)
        big[inside] = a
        return device.put(big)[inside]

    views = start.mapped(window)
    views.adam(kernels, 2, True, weight_decay=0.1, max_norm=0.5)
    views.sgd(kernels, 2, momentum=0.9, nesterov=True)
    views.adagrad(kernels, 2)
    views.rmsprop(kernels, False, 0.9)
    assert_same_state(back(device, views), back(device, expected), "views")


def test_no_arrays_and_empty_arrays(dtype: Any, device: Any) -> None:
    empty = [[device.put(np.zeros((0, 3), dtype))] for _ in range(4)]
    assert kernels.adam_step(*empty, 1) is None
    assert float(device.get(kernels.adam_step(*empty, 1, max_norm=1.0))) == 0.0


def test_nan_and_infinity_in_gradients(dtype: Any, device: Any) -> None:
    grads = [np.array([1, np.nan, np.inf, -np.inf] * 9, dtype)]
    for name in ("sgd", "adam"):
        states = []
        for module in (kernels, reference):
            state = State(np.random.default_rng(0), dtype, [(36,)])
            state.grads = grads
            moved = on(device, state) if module is kernels else state
            if name == "sgd":
                moved.sgd(module, 2, momentum=0.5)
            else:
                moved.adam(module, 2, False)
            states.append(back(device, moved) if module is kernels else moved)
        np.testing.assert_allclose(states[0].params[0], states[1].params[0], rtol=1e-5)


@pytest.mark.parametrize("numbers", ["int64", "int32", "float32", "float64"])
def test_step_and_rate_on_the_device(
    storage: Any, numbers: str, device: Any, rng: np.random.Generator
) -> None:
    """Read when the step runs: the same bits as given by the host, and nothing more launched."""
    floats = numbers if numbers.startswith("float") else "float64"
    rate = float(np.dtype(floats).type(0.05))
    for options in ({"decoupled": True, "weight_decay": 0.1}, {"max_norm": 0.5}):
        known = on(device, State(rng, storage, [(5,), (), (1025,)]))
        read = known.mapped(lambda a: device.put(device.get(a)))
        step, lr = device.put(np.array(3, numbers)), device.put(np.array(rate, floats))
        known.adam(kernels, 3, True, lr=rate, **options)
        read.adam(kernels, step, True, lr=lr, **options)
        options.pop("decoupled", None)
        for t in (1, 2):
            known.sgd(kernels, t, lr=rate, momentum=0.9, **options)
            read.sgd(kernels, device.put(np.array(t, numbers)), lr=lr, momentum=0.9, **options)
        known.sgd(kernels, 4, lr=rate, **options)
        read.sgd(kernels, 4, lr=lr, **options)
        known.adagrad(kernels, 3, lr=rate, lr_decay=0.25, **options)
        read.adagrad(kernels, step, lr=lr, lr_decay=0.25, **options)
        known.rmsprop(kernels, True, 0.9, lr=rate, **options)
        read.rmsprop(kernels, True, 0.9, lr=lr, **options)
        if device.name == "host_cuda":
            assert_same_state(back(device, read), back(device, known), str(options))
        else:  # powers of a GPU and of the host may differ in their last bit
            for (name, a), (_, b) in zip(
                back(device, read).arrays(), back(device, known).arrays(), strict=True
            ):
                np.testing.assert_allclose(a.astype(float), b.astype(float), 1e-2, 1e-2, name)


def test_a_number_on_the_device_costs_no_launch(device: Any, rng: np.random.Generator) -> None:
    if device.name != "host_cuda":
        pytest.skip("counted by the emulated device only")
    there, step = on(device, State(rng, np.float32, SHAPES)), device.put(np.array(2))
    before = (device.launches(), device.ndarray.allocations)
    there.adam(kernels, step, False, lr=device.put(np.array(0.1)))
    assert (device.launches(), device.ndarray.allocations) == (before[0] + 1, before[1] + 1)


def test_a_captured_graph_reads_step_and_rate_again(device: Any, rng: np.random.Generator) -> None:
    if device.name != "cupy":
        pytest.skip("needs CUDA's graphs")
    start = State(rng, np.float32, SHAPES)
    there, expected = on(device, start), on(device, start)
    step, lr = device.put(np.array(1)), device.put(np.array(0.1))
    stream = device.cupy.cuda.Stream(non_blocking=True)
    device.cupy.cuda.Device().synchronize()
    with stream:
        on(device, start).adam(kernels, step, False, lr=lr)  # loads the kernel
        stream.synchronize()
        stream.begin_capture()
        there.adam(kernels, step, False, lr=lr)
        graph = stream.end_capture()
        for t in (1, 2, 3):
            step[...], lr[...] = t, 0.1 / t
            graph.launch(stream)
        stream.synchronize()
    for t in (1, 2, 3):
        expected.adam(kernels, t, False, lr=0.1 / t)
    for (name, a), (_, b) in zip(there.arrays(), expected.arrays(), strict=True):
        np.testing.assert_allclose(device.get(a), device.get(b), 1e-5, 1e-6, err_msg=name)


def test_wrong_numbers(device: Any, rng: np.random.Generator) -> None:
    there = on(device, State(rng, np.float32, [(4,)]))
    vector, half = device.put(np.ones(2)), device.put(np.array(1, np.float16))
    for step, lr, exception, message in (
        (vector, 0.1, ValueError, r"\[adam_step\] step: expected 0 dimensions, got 1"),
        (1, vector, ValueError, r"\[adam_step\] lr: expected 0 dimensions, got 1"),
        (half, 0.1, TypeError, r"\[adam_step\] step: expected int32, int64, .* got float16"),
        (1, half, TypeError, r"\[adam_step\] lr: expected float32 or float64, got float16"),
        (1, device.put(np.array(1)), TypeError, r"\[adam_step\] lr: .*, got int64"),
    ):
        with pytest.raises(exception, match=message):
            there.adam(kernels, step, False, lr=lr)


def test_wrong_lists(device: Any, rng: np.random.Generator) -> None:
    start = State(rng, np.float32, [(4,), (3,)])
    there = on(device, start)
    lists = (there.params, there.grads, there.first, there.second)
    with pytest.raises(TypeError, match=r"\[adam_step\] grads: expected an array on the GPU"):
        kernels.adam_step(there.params, start.grads, there.first, there.second, 1)
    with pytest.raises(TypeError, match=r"\[adam_step\] grads: expected an array in CPU memory"):
        kernels.adam_step(start.params, there.grads, start.first, start.second, 1)
    with pytest.raises(ValueError, match=r"\[adam_step\] grads: .* overlapping params at index 0"):
        kernels.adam_step(there.params, there.params, there.first, there.second, 1)
    with pytest.raises(ValueError, match=r"\[adam_step\] exp_avgs: expected 2 arrays"):
        kernels.adam_step(there.params, there.grads, there.first[:1], there.second, 1)
    whole = [device.put(np.ones(4, np.int32))]
    with pytest.raises(TypeError, match=r"\[adam_step\] params: expected float16, .*, got int32"):
        kernels.adam_step(whole, whole, whole, whole, 1)
    half = [device.put(np.ones(s, np.float16)) for s in (4, 3)]
    message = r"\[adam_step\] grads: expected float32 \(the dtype of params\), got float16"
    with pytest.raises(TypeError, match=message):
        kernels.adam_step(there.params, half, there.first, there.second, 1)
    assert_same_state(back(device, there), start, "untouched")
    assert lists[0] is there.params


def test_launches(device: Any, rng: np.random.Generator) -> None:
    if device.name != "host_cuda":
        pytest.skip("counted by the emulated device only")

    def launches(count: int, **options: Any) -> int:
        there = on(device, State(rng, np.float32, [(5,)] * count))
        before = device.launches()
        there.adam(kernels, 1, False, **options)
        return int(device.launches() - before)

    assert launches(1015) == 1  # what a table holds
    assert launches(1016) == 2
    assert launches(1015, max_norm=1.0) == 3
    assert launches(2030) == 2


class TestSeveralDevices:
    """An optimizer whose parameters lie on the CPU and on two devices."""

    SHAPES = ((3, 4), (5,), (2, 3))
    KINDS = (
        (optim.SGD, {"momentum": 0.9}),
        (optim.Adam, {"amsgrad": True}),
        (optim.Adagrad, {"initial_accumulator_value": 0.5}),
        (optim.RMSprop, {"centered": True, "momentum": 0.5}),
    )

    @pytest.fixture
    def places(self, device: Any) -> list[str]:
        if device.name != "host_cuda":
            pytest.skip("needs two devices")
        return ["cpu", f"{device.place}:0", f"{device.place}:1"]

    def tensors(self, places: list[str]) -> list[Tensor]:
        rng = np.random.default_rng(0)
        data = [rng.standard_normal(shape).astype(np.float32) for shape in self.SHAPES]
        return [
            Tensor(Tensor(x).to(place).data, requires_grad=True)
            for x, place in zip(data, places, strict=True)
        ]

    def step(self, optimizer: Any, params: list[Tensor], seed: int) -> None:
        rng = np.random.default_rng(seed)
        for param in params:
            grad = Tensor(rng.standard_normal(param.shape).astype(np.float32))
            param.grad = grad.to(param.device).data
        optimizer.step()

    @pytest.mark.parametrize("max_norm", [None, 0.5])
    def test_step(self, places: list[str], max_norm: float | None) -> None:
        for kind, options in self.KINDS:
            params, expected = self.tensors(places), self.tensors(["cpu"] * 3)
            mixed = kind(params, lr=0.05, max_norm=max_norm, **options)
            alone = kind(expected, lr=0.05, max_norm=max_norm, **options)
            for seed in range(3):
                self.step(mixed, params, seed)
                self.step(alone, expected, seed)
            for param, other, place in zip(params, expected, places, strict=True):
                assert param.device == place
                np.testing.assert_allclose(param.to("cpu").data, other.data, 1e-5, 1e-6)
                for name, array in mixed.state[param].items():
                    if name != "step":
                        assert Tensor(array).device == place, name

    def test_state_goes_to_the_parameters(self, places: list[str]) -> None:
        """A state that was saved on one device is loaded on others."""
        for kind, options in self.KINDS:
            source, target = self.tensors(["cpu"] * 3), self.tensors(places)
            saved = kind(source, lr=0.05, **options)
            self.step(saved, source, 0)
            for param, other in zip(target, source, strict=True):
                param.data[...] = other.to(param.device).data
            loaded = kind(target, lr=0.05, **options)
            loaded.load_state_dict(saved.state_dict())
            self.step(saved, source, 1)
            self.step(loaded, target, 1)
            loaded.zero_grad(set_to_none=False)
            for param, other in zip(target, source, strict=True):
                np.testing.assert_allclose(param.to("cpu").data, other.data, 1e-5, 1e-6)
                assert not Tensor(param.grad).to("cpu").data.any()

    def test_a_gradient_elsewhere(self, places: list[str]) -> None:
        params = self.tensors(places)
        optimizer = optim.SGD(params)
        for param in params:
            param.grad = Tensor(np.ones(param.shape, np.float32)).to(param.device).data
        params[2].grad = Tensor(np.ones(params[2].shape, np.float32)).to(places[1]).data
        before = [param.to("cpu").data.copy() for param in params]
        message = rf"\[SGD\] grad: expected an array on {places[2]} .*, got {places[1]}"
        with pytest.raises(TypeError, match=message):
            optimizer.step()
        for param, data in zip(params, before, strict=True):
            assert_same_bits(param.to("cpu").data, data)
