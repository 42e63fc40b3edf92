"""The embedding layer: PyTorch's outputs and gradients, errors."""

import numpy as np
import pytest

from arraynn import Tensor, nn
from arraynn.nn import functional as F


@pytest.mark.parametrize("padding", [None, 2, -1])
def test_torchs_outputs_and_gradients(padding, rng):
    torch = pytest.importorskip("torch")
    ours = nn.Embedding(6, 5, padding, dtype=np.float64)
    theirs = torch.nn.Embedding(6, 5, padding, dtype=torch.float64)
    assert repr(ours) == repr(theirs)
    if padding is not None:
        assert (ours.weight.data[padding] == 0).all()
    ours.load_state_dict(theirs.state_dict())
    indices, grad = rng.integers(0, 6, (3, 4)), rng.standard_normal((3, 4, 5))
    y, ty = ours(Tensor(indices)), theirs(torch.tensor(indices))
    np.testing.assert_array_equal(y.data, ty.detach().numpy())
    y.backward(grad)
    ty.backward(torch.tensor(grad))
    np.testing.assert_allclose(ours.weight.grad, theirs.weight.grad.numpy(), rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(F.embedding(indices, ours.weight.data, padding), y.data)


def test_errors():
    with pytest.raises(ValueError, match=r"\[Embedding\] padding_idx: expected a row of a table"):
        nn.Embedding(4, 3, 4)
    with pytest.raises(ValueError, match=r"\[Embedding\] embedding_dim: expected an int of at"):
        nn.Embedding(4, 0)
    with pytest.raises(ValueError, match=r"\[embedding\] indices: expected rows .*, got 4"):
        nn.Embedding(4, 3)(np.array([0, 4]))
