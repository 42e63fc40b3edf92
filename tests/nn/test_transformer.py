"""Transformer layers and stacks: PyTorch as witness, gradients, state, bad arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor, nn
from arraynn.autograd import gradcheck
from arraynn.nn import functional as F

LENGTH, MEMORY, BATCH, FEATURES, HEADS = 5, 6, 3, 8, 2

LAYERS: list[dict[str, Any]] = [
    {},
    {"batch_first": True, "activation": "gelu"},
    {"norm_first": True},
    {"norm_first": True, "batch_first": True, "bias": False, "layer_norm_eps": 1e-3},
]


def close(got: Any, expected: Any, tolerance: float = 1e-10) -> None:
    expected = expected.detach().numpy()
    data = got.data if isinstance(got, Tensor) else got
    assert data.shape == expected.shape
    np.testing.assert_allclose(data, expected, rtol=tolerance, atol=tolerance)


def fill(torch: Any, ours: Any, theirs: Any) -> tuple[Any, Any]:
    """Give both modules the same random parameters, in float64."""
    ours, theirs = ours.double(), theirs.double()
    torch.manual_seed(0)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    return ours, theirs


def arranged(x: Any, batch_first: bool) -> Any:
    return np.ascontiguousarray(x.swapaxes(0, 1)) if batch_first else x


def compare(
    torch: Any, ours: Any, theirs: Any, arrays: list[Any], masks: dict[str, Any], **only: Any
) -> None:
    """Values, gradients by the inputs and by all parameters; `only` is for ours alone."""
    mine = [Tensor(a, requires_grad=True) for a in arrays]
    other = [torch.tensor(a, requires_grad=True) for a in arrays]
    ours.zero_grad()
    theirs.zero_grad()
    wrapped = {k: torch.tensor(v) if np.ndim(v) else v for k, v in masks.items()}
    out, expected = ours(*mine, **{**masks, **only}), theirs(*other, **wrapped)
    close(out, expected)
    grad = np.random.default_rng(1).standard_normal(out.shape)
    out.backward(grad)
    expected.backward(torch.tensor(grad))
    for a, b in zip(mine, other, strict=True):
        close(a.grad, b.grad, 1e-8)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(a.grad, b.grad, 1e-8)


def padding(size: int) -> Any:
    hidden = np.zeros((BATCH, size), np.bool_)
    hidden[0, 3:] = hidden[2, size - 1] = True
    return hidden


LATER = np.triu(np.ones((LENGTH, LENGTH), np.bool_), 1)


@pytest.mark.parametrize("options", LAYERS, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_encoder_layer_against_torch(options: Any, training: bool) -> None:
    """In evaluation PyTorch takes another path; dropout of 0 has both agree in training."""
    torch = pytest.importorskip("torch")
    how = {"dropout": 0.0 if training else 0.3, **options}
    ours, theirs = fill(
        torch,
        nn.TransformerEncoderLayer(FEATURES, HEADS, 12, **how),
        torch.nn.TransformerEncoderLayer(FEATURES, HEADS, 12, **how),
    )
    ours.train(training)
    theirs.train(training)
    rng = np.random.default_rng(0)
    first = options.get("batch_first", False)
    x = arranged(rng.standard_normal((LENGTH, BATCH, FEATURES)), first)
    shift = rng.standard_normal((BATCH * HEADS, LENGTH, LENGTH))
    for masks in (
        {},
        {"src_mask": LATER},
        {"src_mask": LATER, "is_causal": True},
        {"src_key_padding_mask": padding(LENGTH)},
        {"src_mask": shift},
        {"src_mask": shift[0], "src_key_padding_mask": rng.standard_normal((BATCH, LENGTH))},
    ):
        compare(torch, ours, theirs, [x], masks)
    out = ours(x, is_causal=True).data  # no mask is needed
    np.testing.assert_allclose(out, ours(x, LATER).data, rtol=1e-12, atol=1e-12)
    single = x[0] if first else np.ascontiguousarray(x[:, 0])
    close(ours(single), theirs(torch.tensor(single)))


@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_decoder_layer_against_torch(options: Any) -> None:
    torch = pytest.importorskip("torch")
    how = {"dropout": 0.0, **options}
    ours, theirs = fill(
        torch,
        nn.TransformerDecoderLayer(FEATURES, HEADS, 12, **how),
        torch.nn.TransformerDecoderLayer(FEATURES, HEADS, 12, **how),
    )
    rng = np.random.default_rng(0)
    first = options.get("batch_first", False)
    target = arranged(rng.standard_normal((LENGTH, BATCH, FEATURES)), first)
    memory = arranged(rng.standard_normal((MEMORY, BATCH, FEATURES)), first)
    wide = np.triu(np.ones((LENGTH, MEMORY), np.bool_), 2)
    for masks in (
        {},
        {"tgt_mask": LATER, "tgt_is_causal": True},
        {"tgt_mask": LATER, "memory_mask": wide},
        {"tgt_key_padding_mask": padding(LENGTH), "memory_key_padding_mask": padding(MEMORY)},
        {"memory_mask": rng.standard_normal((LENGTH, MEMORY))},
    ):
        compare(torch, ours, theirs, [target, memory], masks)
    causal = ours(target, memory, tgt_is_causal=True, memory_is_causal=True).data
    later = np.triu(np.ones((LENGTH, MEMORY), np.bool_), 1)
    expected = ours(target, memory, LATER, later).data
    np.testing.assert_allclose(causal, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # PyTorch's, of its own fast path
@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_stacks_against_torch(options: Any) -> None:
    torch = pytest.importorskip("torch")
    how = {"dim_feedforward": 12, "dropout": 0.0, **options}
    ours, theirs = fill(
        torch,
        nn.Transformer(FEATURES, HEADS, 2, 3, **how),
        torch.nn.Transformer(FEATURES, HEADS, 2, 3, **how),
    )
    rng = np.random.default_rng(0)
    first = options.get("batch_first", False)
    source = arranged(rng.standard_normal((MEMORY, BATCH, FEATURES)), first)
    target = arranged(rng.standard_normal((LENGTH, BATCH, FEATURES)), first)
    hidden = padding(MEMORY)
    masks = {
        "tgt_mask": nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=np.float64),
        "src_key_padding_mask": hidden,
        "memory_key_padding_mask": hidden,
    }
    wrapped = {**masks, "tgt_mask": LATER}  # PyTorch wants both masks of one kind
    for chosen in ({}, wrapped):
        compare(torch, ours, theirs, [source, target], chosen)
    with_numbers = ours(source, target, **masks).data
    close(with_numbers, theirs(*map(torch.tensor, (source, target)), **as_torch(torch, wrapped)))
    masks = {"src_key_padding_mask": hidden, "memory_key_padding_mask": hidden}
    causal = ours(source, target, **masks, tgt_is_causal=True).data
    np.testing.assert_allclose(causal, with_numbers, rtol=1e-12, atol=1e-12)


def as_torch(torch: Any, masks: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.tensor(mask) for name, mask in masks.items()}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_stacks_without_a_norm_against_torch() -> None:
    torch = pytest.importorskip("torch")

    def make(library: Any) -> Any:
        encoder = library.TransformerEncoderLayer(FEATURES, HEADS, 12, 0.0)
        decoder = library.TransformerDecoderLayer(FEATURES, HEADS, 12, 0.0)
        stacks = (library.TransformerEncoder(encoder, 2), library.TransformerDecoder(decoder, 2))
        return library.Transformer(
            FEATURES, HEADS, custom_encoder=stacks[0], custom_decoder=stacks[1]
        )

    ours, theirs = fill(torch, make(nn), make(torch.nn))
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((n, BATCH, FEATURES)) for n in (MEMORY, LENGTH)]
    compare(torch, ours, theirs, arrays, {})


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["gelu_tanh", "relu", nn.SiLU(), F.tanh, lambda x: x * x])
def test_gradients(norm_first: bool, activation: Any) -> None:
    """Dropout with masks of a seed, activations in the epilogue and as calls of their own."""
    ann.manual_seed(0)
    layer = nn.TransformerDecoderLayer(
        *(4, 2, 6, 0.25, activation), norm_first=norm_first, dtype=np.float64
    )
    rng = np.random.default_rng(0)
    target = Tensor(rng.standard_normal((3, 2, 4)), requires_grad=True)
    memory = Tensor(rng.standard_normal((2, 2, 4)), requires_grad=True)

    def call(*inputs: Any) -> Any:
        ann.manual_seed(3)
        return layer(inputs[0], inputs[1], tgt_is_causal=True)

    assert gradcheck(call, [target, memory, *layer.parameters()])


def test_dropout_is_of_training_only() -> None:
    layer = nn.TransformerEncoderLayer(FEATURES, HEADS, 12, 0.5)
    x = np.ones((LENGTH, BATCH, FEATURES), np.float32)
    assert not np.array_equal(layer(x).data, layer(x).data)
    ann.manual_seed(1)
    first = layer(x).data
    ann.manual_seed(1)
    np.testing.assert_array_equal(layer(x).data, first)
    layer.eval()
    np.testing.assert_array_equal(layer(x).data, layer(x).data)


def test_hooks_see_their_module_called() -> None:
    layer = nn.TransformerEncoderLayer(FEATURES, HEADS, 12, 0.0)
    x = np.random.default_rng(0).standard_normal((LENGTH, BATCH, FEATURES)).astype(np.float32)
    expected = layer(x).data
    seen: list[Any] = []
    layer.linear1.register_forward_hook(lambda _m, _a, result: seen.append(result.data))
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-6, atol=1e-6)
    assert len(seen) == 1
    assert (seen[0] < 0).any()  # before the activation


def test_copies_are_independent_and_initialisation_is_torchs() -> None:
    ann.manual_seed(0)
    model = nn.Transformer(64, 4, 2, 2, 128)
    first, second = model.encoder.layers
    np.testing.assert_array_equal(
        nn.TransformerEncoder(first, 2).layers[1].linear1.weight.data, first.linear1.weight.data
    )
    assert not np.array_equal(first.linear1.weight.data, second.linear1.weight.data)
    bound = np.sqrt(6 / (64 + 128))
    for layer in (first, second):
        assert 0.99 * bound < np.abs(layer.linear1.weight.data).max() <= bound
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len(set(names)) == 2 * 12 + 2 * 18 + 4


def test_positional_encoding() -> None:
    layer = nn.PositionalEncoding(7, 0.0, 50, dtype=np.float64)
    assert {name: value.shape for name, value in layer.state_dict().items()} == {"pe": (50, 1, 7)}
    assert not list(layer.parameters())
    position, i = np.arange(50)[:, None], np.arange(7)
    angles = position / 10000.0 ** ((i - i % 2) / 7)
    expected = np.where(i % 2 == 0, np.sin(angles), np.cos(angles))
    x = np.random.default_rng(0).standard_normal((9, 2, 7))
    np.testing.assert_allclose(layer(x).data, x + expected[:9, None], rtol=1e-12)
    np.testing.assert_allclose(layer(x[:, 0], 41).data, x[:, 0] + expected[41:], rtol=1e-12)
    first = nn.PositionalEncoding(7, 0.0, 50, batch_first=True, dtype=np.float64)
    turned = np.ascontiguousarray(x.swapaxes(0, 1))
    np.testing.assert_array_equal(first(turned, 5).data, layer(x, 5).data.swapaxes(0, 1))
    ann.manual_seed(0)
    dropped = nn.PositionalEncoding(7, 0.5)(np.ones((4, 2, 7), np.float32)).data
    assert (dropped == 0).any()
    for bad, offset in ((x, 42), (x, -1)):
        with pytest.raises(
            ValueError, match=r"\[PositionalEncoding\] x: expected positions 0 to 49"
        ):
            layer(bad, offset)
    with pytest.raises(ValueError, match="x: expected 2 or 3 dimensions, got 1"):
        layer(x[0, 0])


@pytest.mark.parametrize(
    ("kind", "arguments", "exception", "message"),
    [
        ("EncoderLayer", {"d_model": 0, "nhead": 1}, ValueError, "d_model: expected"),
        ("EncoderLayer", {"d_model": 8, "nhead": 2.0}, TypeError, "nhead: expected an int"),
        (
            "DecoderLayer",
            {"d_model": 8, "nhead": 2, "dim_feedforward": 0},
            ValueError,
            "dim_feedforward: expected",
        ),
        (
            "DecoderLayer",
            {"d_model": 8, "nhead": 2, "activation": "swoosh"},
            ValueError,
            "activation: expected a function or one of relu",
        ),
        ("", {"d_model": 8, "nhead": 2, "num_encoder_layers": 0}, ValueError, ""),
    ],
)
def test_wrong_layers(kind: str, arguments: Any, exception: Any, message: str) -> None:
    name = f"Transformer{kind}"
    prefix = rf"\[{name}\] {message}" if kind else r"\[TransformerEncoder\] num_layers: expected"
    with pytest.raises(exception, match=prefix):
        getattr(nn, name)(**arguments)


def test_wrong_calls() -> None:
    model = nn.Transformer(8, 2, 1, 1, 12)
    source, target = np.ones((5, 3, 8), np.float32), np.ones((4, 3, 8), np.float32)
    for args, message in (
        ((source[..., :7], target), "src: expected 2 or 3 dimensions, the last of 8"),
        ((source, target[None]), "tgt: expected 2 or 3 dimensions"),
        ((source, target[:, :2]), "tgt: expected 3 samples as in src, got 2"),
        ((source, target[:, 0]), "tgt: expected 3 samples as in src, got 1"),
    ):
        with pytest.raises(ValueError, match=rf"\[Transformer\] {message}"):
            model(*args)
