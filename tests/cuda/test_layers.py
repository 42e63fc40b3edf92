"""Tensors, layers and optimizers on a device: what a user trains, beside the same on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor, _array, nn
from tolerances import assert_same_bits


def there(device: Any, x: Any) -> Any:
    """Copy an array to the device, and wrap it; what is no array is what it is."""
    return Tensor(device.put(x)) if isinstance(x, np.ndarray) else x


def assert_close(device: Any, got: Any, expected: Any, what: str) -> None:
    """Hold a device's array to the CPU's: the same sums in another order."""
    assert type(got) is device.ndarray, what
    assert got.dtype == expected.dtype, what
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(device.get(got), expected, 2e-4, 2e-5 * scale, err_msg=what)


class TestTo:
    def test_tensor_there_and_back(self, device: Any) -> None:
        x = Tensor(np.arange(6.0, dtype=np.float32).reshape(2, 3))
        assert x.device == "cpu"
        assert x.to("cpu") is x.to(np.float32) is x.to() is x
        moved = x.to(device.place)
        assert moved.device == f"{device.place}:0"
        assert type(moved.data) is device.ndarray
        assert moved.to(device.place) is moved.to(f"{device.place}:0") is moved
        assert_same_bits(moved.to("cpu").data, x.data)
        assert_same_bits(moved.numpy(), x.data)
        both = x.to(device.place, np.float64)
        assert (both.dtype, both.device) == (np.float64, moved.device)
        assert x.to(dtype="float64", device=device.place).dtype == np.float64
        assert x.to("float64").device == "cpu"

    def test_the_gradient_comes_back(self, device: Any) -> None:
        x = Tensor(np.array([1.0, -2.0, 3.0], np.float32), requires_grad=True)
        y = x.to(device.place).relu()
        assert y.node is not None
        (y * 2).to("cpu").sum().backward()
        assert_same_bits(x.grad, np.array([2, 0, 2], np.float32))
        with ann.no_grad():
            assert not x.to(device.place).requires_grad

    def test_a_module_keeps_its_parameters(self, device: Any) -> None:
        block = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        first = block[0].weight
        expected = {name: value.copy() for name, value in block.state_dict().items()}
        first.grad = np.ones_like(first.data)
        assert block.to(device.place) is block
        assert block[0].weight is first
        assert type(first.grad) is device.ndarray
        for name, value in block.state_dict().items():
            assert type(value) is device.ndarray, name
            assert_same_bits(device.get(value), expected[name], name)
        held = first.data
        block.to(device.place)
        assert first.data is held
        assert block.to(np.float64)[0].weight.device == f"{device.place}:0"
        assert first.grad is None
        assert block[1].num_batches_tracked.dtype == np.int64
        block.to("cpu", np.float32)
        for name, value in block.state_dict().items():
            assert_same_bits(value, expected[name], name)

    def test_states_cross(self, device: Any) -> None:
        here, far = nn.Linear(3, 2), nn.Linear(3, 2).to(device.place)
        far.load_state_dict(here.state_dict())
        assert_same_bits(device.get(far.weight.data), here.weight.data)
        other = nn.Linear(3, 2).to(device.place)
        other.load_state_dict(far.state_dict())
        assert_same_bits(device.get(other.weight.data), here.weight.data)
        back = nn.Linear(3, 2)
        back.load_state_dict(far.state_dict())
        assert_same_bits(back.weight.data, here.weight.data)

    def test_another_device(self, device: Any) -> None:
        if device.name != "host_cuda":
            pytest.skip("needs two devices")
        x = Tensor(np.ones(3, np.float32)).to("host_cuda:1")
        assert x.device == "host_cuda:1"
        assert x.relu().device == "host_cuda:1"
        assert x.to("host_cuda").device == "host_cuda:0"
        with pytest.raises(RuntimeError, match=r"\[to\] device: host_cuda:2 is not there: .* 2"):
            x.to("host_cuda:2")

    @pytest.mark.parametrize("wrong", ["gpu", "cuda:", "cuda:one", "cpu:1", "cuda0", 3])
    def test_what_is_no_device(self, wrong: Any) -> None:
        message = r"\[to\] device: expected cpu, cuda, cuda:N or a dtype, got"
        for target in (Tensor([1.0]), nn.Linear(1, 1)):
            with pytest.raises(ValueError, match=message):
                target.to(wrong)
            with pytest.raises(ValueError, match=message):
                target.to(np.float32, np.float64)

    def test_no_gpu_is_said(self) -> None:
        if ann.cuda.is_available():
            pytest.skip("there is a GPU")
        layer = nn.Linear(2, 1)
        before = layer.weight.data
        for target in (Tensor([1.0]), layer):
            with pytest.raises(RuntimeError, match=r"\[to\] device: cuda is not there: "):
                target.to("cuda")
        assert layer.weight.data is before

    def test_tensors_of_other_libraries(self, monkeypatch: pytest.MonkeyPatch, device: Any) -> None:
        if device.name != "host_cuda":
            pytest.skip("stands for CuPy")

        class Foreign:
            def __init__(self, held: Any) -> None:
                self.held = held
                self.__cuda_array_interface__ = held.__cuda_array_interface__

        monkeypatch.setattr(_array, "cuda_module", lambda: None)
        monkeypatch.setitem(_array._libraries, "cuda", _array._libraries["host_cuda"])
        x = Tensor(Foreign(device.put(np.arange(3.0))))
        assert type(x.data) is device.ndarray
        assert_same_bits(x.numpy(), np.arange(3.0))


def image(rng: np.random.Generator) -> Any:
    return rng.standard_normal((2, 3, 8, 8)).astype(np.float32)


def steps(rng: np.random.Generator) -> Any:
    return rng.standard_normal((5, 2, 6)).astype(np.float32)


def words(rng: np.random.Generator) -> Any:
    return rng.integers(0, 9, (2, 5))


#: A network by name: what makes it, and what makes its input.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any]]] = {
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 6, 3, groups=2), nn.GroupNorm(3, 6), nn.GELU(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 4), nn.LogSoftmax(-1),
        ),
        image,
    ),
    "padded": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.Dropout2d(0.5),
            nn.ConvTranspose2d(4, 3, 2, stride=2), nn.Sigmoid(), nn.AdaptiveAvgPool2d(3),
        ),
        image,
    ),
    "transformer": (
        lambda: nn.Sequential(
            nn.Embedding(9, 8), nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True),
            nn.LayerNorm(8), nn.Linear(8, 3),
        ),
        words,
    ),
    "attention": (lambda: SelfAttention(add_zero_attn=True, add_bias_kv=True), steps),
    "causal attention": (lambda: SelfAttention(dropout=0.2), steps),
    "recurrent": (lambda: Last(nn.LSTM(6, 5, 2, bidirectional=True)), steps),
    "gated": (lambda: Last(nn.GRU(6, 5, dropout=0.3, num_layers=2)), steps),
}  # fmt: skip


class Last(nn.Module):
    """The output of a recurrent network, of sequences of different lengths."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any) -> Any:
        """Return the output."""
        lengths = np.array([5, 3])
        if not isinstance(x.data, np.ndarray):
            lengths = _array.to_device("test", lengths, x.device)
        return self.network(x, lengths=lengths)[0]


class SelfAttention(nn.Module):
    """Attention with its weights, causal."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, **options)

    def forward(self, x: Any) -> Any:
        """Return the output and the weights."""
        out, weights = self.attention(x, x, x, is_causal=True)
        return out * weights.sum()


@pytest.mark.parametrize("name", NETWORKS)
def test_training(name: str, device: Any, rng: np.random.Generator) -> None:
    """Three steps of Adam: values, gradients, running statistics and parameters are the CPU's."""
    make, draw = NETWORKS[name]
    ann.manual_seed(1)
    here = make()
    ann.manual_seed(1)
    far = make().to(device.place)
    optimizers = [ann.optim.Adam(net.parameters(), 1e-3, max_norm=1.0) for net in (here, far)]
    for step in range(3):
        x = draw(rng)
        ann.manual_seed(step)
        y = here(Tensor(x))
        ann.manual_seed(step)
        z = far(there(device, x))
        assert_close(device, z.data, y.data, f"output {step}")
        for net, out, optimizer in zip((here, far), (y, z), optimizers, strict=True):
            optimizer.zero_grad()
            (out * out).mean().backward()
            assert all(p.grad is not None for p in net.parameters())
        for (key, p), q in zip(here.named_parameters(), far.parameters(), strict=True):
            assert_close(device, q.grad, p.grad, f"gradient of {key} {step}")
        for optimizer in optimizers:
            optimizer.step()
    here.eval()
    far.eval()
    with ann.no_grad():
        x = draw(rng)
        assert_close(device, far(there(device, x)).data, here(Tensor(x)).data, "evaluation")
        nn.utils.pack_weights(far)
        assert_close(device, far(there(device, x)).data, here(Tensor(x)).data, "packed")
    nn.utils.unpack_weights(far)


LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "cross_entropy": lambda x, t: nn.functional.cross_entropy(x, t),
    "nll_loss": lambda x, t: nn.functional.nll_loss(x.log_softmax(), t),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_classes(name: str, device: Any, rng: np.random.Generator) -> None:
    logits = rng.standard_normal((5, 7)).astype(np.float32)
    target = rng.integers(0, 7, 5)
    x = Tensor(logits, requires_grad=True)
    z = Tensor(device.put(logits), requires_grad=True)
    loss, far = LOSSES[name](x, target), LOSSES[name](z, device.put(target))
    assert_close(device, far.data, loss.data, "loss")
    loss.backward()
    far.backward()
    assert_close(device, z.grad, x.grad, "gradient")
