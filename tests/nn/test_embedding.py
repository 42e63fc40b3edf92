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


@pytest.mark.parametrize(("norm", "longest"), [(2.0, 1.5), (1.0, 2.0), (np.inf, 0.5)])
def test_rows_that_are_too_long_are_scaled_in_the_table(norm, longest, rng):
    torch = pytest.importorskip("torch")
    how = {"max_norm": longest, "norm_type": norm, "scale_grad_by_freq": True}
    ours = nn.Embedding(6, 5, dtype=np.float64, **how)
    theirs = torch.nn.Embedding(6, 5, dtype=torch.float64, **how)
    assert repr(ours) == repr(theirs)
    ours.load_state_dict(theirs.state_dict())
    before = ours.weight.data.copy()
    indices, grad = np.array([[0, 4, 4], [0, 2, 0]]), rng.standard_normal((2, 3, 5))
    y, ty = ours(indices), theirs(torch.tensor(indices))
    np.testing.assert_allclose(y.data, ty.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours.weight.data, theirs.weight.detach().numpy(), rtol=1e-12)
    lengths = np.linalg.norm(ours.weight.data, norm, axis=1)
    assert (lengths[[0, 2, 4]] < longest * (1 + 1e-12)).all()
    assert not np.array_equal(ours.weight.data, before)
    np.testing.assert_array_equal(ours.weight.data[[1, 3, 5]], before[[1, 3, 5]])
    y.backward(grad)
    ty.backward(torch.tensor(grad))
    np.testing.assert_allclose(ours.weight.grad, theirs.weight.grad.numpy(), rtol=1e-12)
    table = before.copy()
    np.testing.assert_array_equal(F.embedding(indices, table, None, longest, norm), y.data)
    np.testing.assert_array_equal(table, ours.weight.data)


def test_a_table_that_is_scaled_is_told_to_the_tape():
    table = Tensor(np.full((3, 2), 4.0), requires_grad=True)
    square = (table * table).sum()
    F.embedding(np.array([1]), table, max_norm=1.0)
    with pytest.raises(RuntimeError, match="it was modified in place"):
        square.backward()


def test_errors():
    with pytest.raises(ValueError, match=r"\[Embedding\] padding_idx: expected a row of a table"):
        nn.Embedding(4, 3, 4)
    with pytest.raises(ValueError, match=r"\[Embedding\] embedding_dim: expected an int of at"):
        nn.Embedding(4, 0)
    with pytest.raises(ValueError, match=r"\[embedding\] indices: expected rows .*, got 4"):
        nn.Embedding(4, 3)(np.array([0, 4]))
    with pytest.raises(
        ValueError, match=r"\[Embedding\] max_norm: expected a number above 0, got 0"
    ):
        nn.Embedding(4, 3, max_norm=0)
    with pytest.raises(NotImplementedError, match=r"\[Embedding\] sparse: only False"):
        nn.Embedding(4, 3, sparse=True)
    table = np.full((4, 3), 9.0)
    with pytest.raises(ValueError, match=r"\[embedding\] indices: expected rows .*, got 4"):
        F.embedding(np.array([0, 4]), table, max_norm=1.0)
    assert (table == 9).all()
