"""Modules: what they contain, their state, modes, hooks and text."""

import copy

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor, nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.scale = nn.Parameter([2.0])
        self.register_buffer("shift", [1.0])
        self.register_buffer("counter", np.zeros(1, np.int64), persistent=False)
        self.second = nn.Linear(4, 2, bias=False)

    def forward(self, x):
        return self.second(self.first(x)) * self.scale + self.shift


def test_contents_in_order():
    block = Block()
    assert [n for n, _ in block.named_parameters()] == [
        "scale",
        "first.weight",
        "first.bias",
        "second.weight",
    ]
    assert [n for n, _ in block.named_parameters(recurse=False)] == ["scale"]
    assert [n for n, _ in block.named_parameters("net", recurse=False)] == ["net.scale"]
    assert [n for n, _ in block.named_buffers()] == ["shift", "counter"]
    assert [n for n, _ in block.named_children()] == ["first", "second"]
    assert [n for n, _ in block.named_modules()] == ["", "first", "second"]
    assert list(block.children()) == [block.first, block.second]
    assert next(block.modules()) is block
    assert len(list(block.parameters())) == 4
    assert len(list(block.buffers())) == 2


def test_state_keys_as_in_torch():
    torch = pytest.importorskip("torch")

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(3, 4)
            self.scale = torch.nn.Parameter(torch.tensor([2.0]))
            self.register_buffer("shift", torch.tensor([1.0]))
            self.register_buffer("counter", torch.zeros(1), persistent=False)
            self.second = torch.nn.Linear(4, 2, bias=False)

    theirs = Theirs()
    assert list(Block().state_dict()) == list(theirs.state_dict())
    assert [n for n, _ in Block().named_parameters()] == [n for n, _ in theirs.named_parameters()]


def test_shared_parameters_are_listed_once_and_saved_twice():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert len(list(net.parameters())) == 3
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    twice = nn.ModuleList([net[0], net[0]])
    assert len(list(twice.parameters())) == 2
    assert len(list(twice.modules())) == 2


def test_state_is_the_models_memory_and_loading_copies():
    a, b = Block(), Block()
    state = a.state_dict()
    assert state["scale"] is a.scale.data
    before = b.first.weight.data
    result = b.load_state_dict(state)
    assert repr(result) == "<All keys matched successfully>"
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    assert b.first.weight.data is before
    assert not np.shares_memory(before, state["first.weight"])
    np.testing.assert_array_equal(before, state["first.weight"])
    a.load_state_dict(a.state_dict())


def test_loading_reports_everything_wrong_and_changes_nothing():
    block = Block()
    before = {name: array.copy() for name, array in block.state_dict().items()}
    state = {name: array + 1 for name, array in block.state_dict().items()}
    del state["scale"]
    state["extra"] = np.zeros(1)
    state["first.bias"] = np.zeros(5)
    with pytest.raises(RuntimeError) as caught:
        block.load_state_dict(state)
    text = str(caught.value)
    assert text.startswith("Error(s) in loading state_dict for Block:")
    assert 'Missing key(s) in state_dict: "scale".' in text
    assert 'Unexpected key(s) in state_dict: "extra".' in text
    assert "size mismatch for first.bias" in text
    with pytest.raises(RuntimeError, match=r"size mismatch for first\.bias") as caught:
        block.load_state_dict(state, strict=False)
    assert "Missing" not in str(caught.value)
    with pytest.raises(TypeError, match=r"\[load_state_dict\] scale: expected a tensor or array"):
        block.load_state_dict({**block.state_dict(), "scale": "x"})
    for name, array in block.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_loading_not_strictly():
    block = Block()
    result = block.load_state_dict({"scale": Tensor([5.0]), "extra": 1}, strict=False)
    assert result.missing_keys == ["shift", "first.weight", "first.bias", "second.weight"]
    assert result.unexpected_keys == ["extra"]
    assert block.scale.item() == 5.0


def test_loading_is_seen_by_the_tape():
    layer = nn.Linear(2, 2)
    y = layer(Tensor(np.ones((1, 2), np.float32), requires_grad=True)).sum()
    layer.load_state_dict({"weight": np.ones((2, 2)), "bias": np.ones(2)})
    with pytest.raises(RuntimeError, match="modified in place"):
        y.backward()


def test_modes_reach_all_modules():
    net = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    x = Tensor(np.ones((4, 100), np.float32))
    assert net.eval() is net
    assert not net[1][0].training
    assert net(x) is x
    assert net.train() is net
    assert net[1][0].training
    assert (net(x).data == 0).any()


def test_zero_grad_and_requires_grad():
    layer = nn.Linear(2, 2)
    layer(Tensor(np.ones((1, 2), np.float32))).sum().backward()
    layer.zero_grad(set_to_none=False)
    assert layer.weight.grad.tolist() == [[0, 0], [0, 0]]
    layer.zero_grad()
    assert layer.weight.grad is None
    assert layer.requires_grad_(False) is layer
    assert not layer(Tensor(np.ones((1, 2), np.float32))).requires_grad


def test_apply_visits_children_first():
    seen = []
    net = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.ReLU()))
    assert net.apply(lambda m: seen.append(type(m).__name__)) is net
    assert seen == ["Linear", "ReLU", "Sequential", "Sequential"]


def test_dtype_conversion_keeps_the_parameters():
    block = Block()
    weight = block.first.weight
    optimizer = ann.optim.SGD(block.parameters())
    assert block.double() is block
    assert block.first.weight is weight
    assert weight.dtype == block.shift.dtype == np.float64
    assert block.counter.dtype == np.int64
    assert any(p is weight for p in optimizer.param_groups[0]["params"])
    assert block.float().scale.dtype == np.float32
    with pytest.raises(TypeError, match=r"\[to\] dtype: expected a floating dtype, got int32"):
        block.to(np.int32)


def test_hooks():
    layer = nn.Linear(2, 2)
    x = Tensor(np.ones((1, 2), np.float32))
    plain = layer(x).data
    calls = []
    before = layer.register_forward_pre_hook(lambda _, args: calls.append(args) or (args[0] * 0,))
    after = layer.register_forward_hook(lambda *args: calls.append(args) or args[-1] + 1)
    np.testing.assert_array_equal(layer(x).data, layer.bias.data[None] + 1)
    assert len(calls) == 2
    before.remove()
    before.remove()
    after.remove()
    np.testing.assert_array_equal(layer(x).data, plain)


def test_a_parameter_is_not_replaced_by_accident():
    layer = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"\[Linear\] weight: expected a Parameter or None"):
        layer.weight = np.ones((2, 2))
    layer.bias = None
    assert list(layer.state_dict()) == ["weight"]
    assert "bias=False" in repr(layer)
    with pytest.raises(TypeError, match=r"\[Sequential\] 0: expected a Module, got int"):
        nn.Sequential(3)


def test_forward_has_to_be_defined():
    with pytest.raises(NotImplementedError, match=r"\[Module\] forward: expected the class"):
        nn.Module()(1)


def test_deepcopy_is_independent():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    other = copy.deepcopy(net)
    with ann.no_grad():
        other[0].weight += 1
    assert (net[0].weight.data != other[0].weight.data).all()
    assert list(other.state_dict()) == list(net.state_dict())


def test_repr_as_in_torch():
    torch = pytest.importorskip("torch")

    def build(n):
        class Net(n.Module):
            def __init__(self):
                super().__init__()
                self.features = n.Sequential(
                    n.Conv2d(1, 4, 3, padding=1),
                    n.ReLU(),
                    n.MaxPool2d(2),
                    n.Conv2d(4, 8, (3, 1), stride=2, dilation=2, groups=2, bias=False),
                    n.LeakyReLU(0.2),
                    n.AvgPool2d(2),
                    n.Flatten(),
                    n.Dropout(0.25),
                )
                self.head = n.ModuleList([n.Linear(8, 2)])
                self.loss = n.CrossEntropyLoss()
                self.tail = n.Sequential(n.GELU(), n.Identity(), n.Softplus(), n.ELU())

        return Net()

    assert _normal(repr(build(nn))) == _normal(repr(build(torch.nn)))


def _normal(text):
    """PyTorch folds equal neighbours of a list; ``(0): `` lines are the same otherwise."""
    return text.replace("(0-0): 1 x ", "(0): ")


def test_containers():
    a, b, c = nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 3)
    net = nn.Sequential({"a": a, "b": b})
    assert list(net.state_dict()) == ["a.weight", "a.bias"]
    assert net.append(c) is net
    assert len(net) == 3
    assert list(net) == [a, b, c]
    assert net[-1] is c
    assert list(net[1:]) == [b, c]
    net[0] = c
    assert net.a is c
    layers = nn.ModuleList([a]).extend([b])
    layers.insert(1, c)
    assert list(layers) == [a, c, b]
    assert [n for n, _ in layers.named_children()] == ["0", "1", "2"]
    assert isinstance(layers[:2], nn.ModuleList)
    with pytest.raises(IndexError, match=r"\[ModuleList\] index: expected -3..2, got 3"):
        layers[3]
