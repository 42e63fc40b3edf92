"""The example networks give PyTorch's outputs and gradients from PyTorch's state."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor
from arraynn.nn import functional as F

MODELS = Path(__file__).parents[2] / "examples" / "models"
# File, class, arguments, image size, number of keys and some of them.
NETWORKS = [
    (
        *("resnet18", "ResNet18", {"num_classes": 10}, 64, 122),
        ("bn1.num_batches_tracked", "layer2.0.downsample.1.running_var", "fc.bias"),
    ),
    (
        *("mobilenet_v2", "MobileNetV2", {"num_classes": 10, "dropout": 0.0}, 64, 314),
        ("features.1.conv.1.weight", "features.18.1.running_mean", "classifier.1.weight"),
    ),
    ("unet", "UNet", {"width": 4}, 32, 118, ("up1.up.bias", "inc.4.weight", "outc.weight")),
]


def twin(torch: Any, file: str, name: str) -> Any:
    """Return the class of an example, its layers taken from PyTorch instead."""
    source = (MODELS / f"{file}.py").read_text(encoding="utf-8")
    for ours in ("arraynn.autograd", "arraynn"):
        source = source.replace(f"from {ours} import", "from torch import")
    scope: dict[str, Any] = {"__name__": file}
    exec(compile(source, f"{file}.py in torch", "exec"), scope)
    assert issubclass(scope[name], torch.nn.Module)
    return scope[name]


@pytest.mark.parametrize(("file", "name", "options", "size", "count", "keys"), NETWORKS)
def test_torchs_state_outputs_and_gradients(
    file: str, name: str, options: Any, size: int, count: int, keys: Any, rng: Any
) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = twin(torch, file, name)(**options).double()
    for key, value in theirs.state_dict().items():
        if key.endswith(("running_mean", "bias")):
            value.normal_(0, 0.2)
        elif key.endswith("running_var"):
            value.uniform_(0.5, 2)
    ours = runpy.run_path(str(MODELS / f"{file}.py"))[name](**options).double()
    state = theirs.state_dict()
    assert list(ours.state_dict()) == list(state)
    assert len(state) == count
    assert set(keys) <= set(state)
    ours.load_state_dict(state)

    x = rng.standard_normal((2, 3, size, size))
    ours.eval()
    theirs.eval()
    with torch.no_grad(), ann.no_grad():
        y, expected = ours(Tensor(x)).data, theirs(torch.tensor(x)).numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max())

    ours.train()
    theirs.train()
    t, tt = Tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, ty = ours(t), theirs(tt)
    target = rng.integers(0, y.shape[1], (2, *y.shape[2:]))
    loss = F.cross_entropy(y, target)
    their_loss = torch.nn.functional.cross_entropy(ty, torch.tensor(target))
    loss.backward()
    their_loss.backward()
    np.testing.assert_allclose(loss.item(), their_loss.item(), rtol=1e-10)
    pairs = [("x", t.grad, tt.grad)]
    for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        pairs.append((key, a.grad, b.grad))
    # A bias in front of a batch norm has the gradient 0: its rounding is that of the largest one's.
    limit = 1e-10 * max(float(b.abs().max()) for _, _, b in pairs)
    for key, a, b in pairs:
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-6, atol=limit, err_msg=key)
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], value, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("file", [row[0] for row in NETWORKS])
def test_the_example_runs(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(MODELS / f"{file}.py"), run_name="__main__")
    assert "parameters\n(1, " in capsys.readouterr().out
