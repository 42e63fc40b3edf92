"""The tensor's construction, state, operators and in-place changes."""

import copy
import threading

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor


def test_takes_arrays_without_a_copy():
    array = np.arange(6.0).reshape(2, 3)
    tensor = Tensor(array, requires_grad=True)
    assert tensor.data is array
    assert tensor.numpy() is array
    assert (tensor.shape, tensor.ndim, tensor.size, tensor.dtype) == ((2, 3), 2, 6, np.float64)


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        ([1.0, 2.0], np.float32),
        (1.5, np.float32),
        ([1, 2], np.int64),
        (True, np.bool_),
        (np.float64(2.0), np.float64),
        (np.ones(2, np.float32), np.float32),
    ],
)
def test_dtype_of_what_it_takes(data, dtype):
    assert Tensor(data).dtype == dtype


def test_takes_a_foreign_tensor_through_dlpack():
    torch = pytest.importorskip("torch")
    foreign = torch.arange(4, dtype=torch.float32)
    tensor = Tensor(foreign)
    foreign[0] = 7
    assert tensor.data[0] == 7


def test_refuses_what_is_no_number():
    with pytest.raises(TypeError, match=r"\[Tensor\] data: expected numbers or bools, got <U1"):
        Tensor("a")
    with pytest.raises(TypeError, match=r"\[Tensor\] requires_grad: expected a floating dtype"):
        Tensor([1, 2], requires_grad=True)
    with pytest.raises(TypeError, match="floating dtype"):
        Tensor([1, 2]).requires_grad_()


def test_item_float_int_bool_len_iter_contains():
    assert Tensor([2.5]).item() == 2.5
    assert float(Tensor(2.5)) == 2.5
    assert int(Tensor(3)) == 3
    assert bool(Tensor(1.0)) is True
    assert len(Tensor([[1.0], [2.0]])) == 2
    assert [t.item() for t in Tensor([1.0, 2.0])] == [1.0, 2.0]
    assert Tensor([[1.0, 2.0]]).tolist() == [[1.0, 2.0]]
    with pytest.raises(ValueError, match=r"\[item\] tensor: expected one element"):
        Tensor([1.0, 2.0]).item()
    with pytest.raises(TypeError, match="scalar"):
        iter(Tensor(1.0))


def test_repr_names_what_matters():
    leaf = Tensor([1.0, 2.0], requires_grad=True)
    assert repr(leaf) == "Tensor([1., 2.], dtype=float32, requires_grad=True)"
    assert repr(leaf + 1) == "Tensor([2., 3.], dtype=float32, node=add)"
    assert repr(Tensor([1])) == "Tensor([1], dtype=int64)"


def test_comparisons_return_arrays():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    two = Tensor([2.0, 2.0, 2.0])
    for result, expected in [
        (x == two, [0, 1, 0]),
        (x != 2, [1, 0, 1]),
        (x < two, [1, 0, 0]),
        (x <= 2, [1, 1, 0]),
        (x > 2, [0, 0, 1]),
        (x >= two, [0, 1, 1]),
    ]:
        assert type(result) is np.ndarray
        assert result.tolist() == list(map(bool, expected))


def test_arrays_give_way_to_tensors():
    array = np.array([1.0, 2.0], np.float32)
    x = Tensor([3.0, 4.0], requires_grad=True)
    for result, expected in [
        (array + x, [4, 6]),
        (array - x, [-2, -2]),
        (array * x, [3, 8]),
        (array / x, [1 / 3, 0.5]),
        (array**x, [1, 16]),
        (array @ x, 11),
        (2 - x, [-1, -2]),
        (np.float64(2) * x, [6, 8]),
    ]:
        assert isinstance(result, Tensor)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result.data, expected, rtol=1e-6)


def test_scalar_results_are_arrays_of_no_axes():
    x = Tensor([1.0, 2.0])
    for result in (x.sum(), x.mean(), x[0], x.max(), Tensor(1.0) + 1, Tensor(2.0).exp(), x @ x):
        assert type(result.data) is np.ndarray
        assert result.shape == ()


@pytest.mark.parametrize("name", ["__add__", "__sub__", "__mul__", "__truediv__", "__pow__"])
def test_mixed_floating_dtypes_raise(name):
    single, double = Tensor(np.ones(2, np.float32)), Tensor(np.ones(2))
    for a, b in ((single, double), (double, single)):
        with pytest.raises(TypeError, match=r"expected one floating dtype, got float\d\d and"):
            getattr(a, name)(b)
    with pytest.raises(TypeError, match="float32 into float64"):
        getattr(single, name)(np.arange(2))


def test_bool_and_small_int_operands_keep_the_dtype():
    x = Tensor(np.array([1.0, 2.0], np.float32), requires_grad=True)
    masked = x * np.array([True, False])
    assert masked.dtype == np.float32
    masked.sum().backward()
    assert x.grad.tolist() == [1.0, 0.0]
    assert (x + np.array([1, 2], np.int8)).dtype == np.float32


def test_foreign_operands_raise_type_error():
    with pytest.raises(TypeError, match="unsupported operand"):
        Tensor([1.0]) + "a"
    with pytest.raises(TypeError, match="unsupported operand"):
        [1.0] - Tensor([1.0])


def test_in_place_under_no_grad_keeps_the_leaf():
    w = Tensor([1.0, 2.0], requires_grad=True)
    memory = w.data
    with ann.no_grad():
        w += 1
        w -= Tensor([1.0, 1.0])
        w *= 3
        w /= np.array([2.0, 2.0], np.float32)
        w[0] = 5
    assert w.data is memory
    assert w.requires_grad
    assert w.data.tolist() == [5.0, 3.0]


def test_in_place_on_a_recorded_leaf_raises_and_changes_nothing():
    w = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(RuntimeError, match=r"\[subtract\] tensor: expected no in-place change"):
        w -= 1
    with pytest.raises(RuntimeError, match=r"\[setitem\] tensor: expected no in-place change"):
        w[0] = 1
    assert w.data.tolist() == [1.0, 2.0]
    with ann.no_grad(), pytest.raises(TypeError, match="expected a tensor, array or number"):
        w += "a"


def test_in_place_on_a_result_is_recorded():
    w = Tensor([1.0, 2.0], requires_grad=True)
    y = w * 2
    y *= w
    y.sum().backward()
    assert w.grad.tolist() == [4.0, 8.0]


def test_detach_shares_memory_and_clone_does_not():
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert x.detach().data is x.data
    assert not x.detach().requires_grad
    copied = x.clone()
    assert copied.data is not x.data
    (copied * 3).sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_requires_grad_of_a_result_cannot_be_turned_off():
    y = Tensor([1.0], requires_grad=True) * 2
    with pytest.raises(RuntimeError, match="only a leaf's can be turned off"):
        y.requires_grad = False
    leaf = Tensor([1.0], requires_grad=True)
    leaf.requires_grad = False
    assert not (leaf * 2).requires_grad


def test_numpy_functions_read_a_tensor():
    x = Tensor([[1.0, 2.0]], requires_grad=True)
    np.testing.assert_array_equal(np.asarray(x), [[1.0, 2.0]])
    assert np.array(x, dtype=np.float64).dtype == np.float64


def test_keyword_aliases_of_reductions():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    assert x.sum(dim=0).tolist() == x.sum(axis=0).tolist() == x.sum(0).tolist() == [3, 5, 7]
    assert x.mean(dim=1, keepdim=True).shape == x.mean(1, keepdims=True).shape == (2, 1)
    with pytest.raises(TypeError, match=r"\[sum\] axis, dim: expected one of the two"):
        x.sum(axis=0, dim=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: x.reshape(4), ValueError, r"\[reshape\] shape: expected 6 elements"),
        (lambda x: x.sum(2), ValueError, r"\[sum\] axis: expected -2..1, got 2"),
        (lambda x: x.sum((0, -2)), ValueError, r"\[sum\] axis: expected different axes"),
        (lambda x: x.permute(0, 0), ValueError, r"\[permute\] axes: expected an order of 2"),
        (lambda x: x.transpose(0, 2), ValueError, r"\[transpose\] axis: expected -2..1, got 2"),
        (lambda x: x.unsqueeze(3), ValueError, r"\[unsqueeze\] axis: expected -3..2, got 3"),
        (lambda x: x.squeeze(2), ValueError, r"\[squeeze\] axis: expected -2..1, got 2"),
        (lambda x: x.flatten(1, 0), ValueError, r"\[flatten\] end_dim: expected at least"),
        (lambda x: x.flatten(2), ValueError, r"\[flatten\] start_dim: expected -2..1, got 2"),
        (lambda x: x.expand(4, 4), ValueError, r"\[broadcast_to\] shape: expected one that"),
        (lambda x: x.clip(), ValueError, r"\[clip\] low, high: expected at least one"),
        (lambda x: x.var(correction=6), ValueError, r"\[var\] x: expected more than 6"),
        (lambda x: x[:0].max(), ValueError, r"\[max\] x: expected at least one element"),
        (lambda x: x.astype(int).mean(), TypeError, r"\[mean\] x: expected a floating dtype"),
        (
            lambda x: ann.autograd.stack(list(x)[:0]),
            ValueError,
            r"\[stack\] tensors: expected at least one",
        ),
        (
            lambda x: ann.autograd.concatenate([x, x.float()]),
            TypeError,
            r"\[concatenate\] tensors\[1\]: expected float64",
        ),
        (
            lambda x: ann.autograd.where(x, x, x),
            TypeError,
            r"\[where\] condition: expected an array of bool, got float64",
        ),
        (
            lambda x: ann.autograd.maximum(x, "a"),
            TypeError,
            r"\[maximum\] a, b: expected tensors, arrays or numbers, got Tensor and str",
        ),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True))


def test_deepcopy_gives_an_independent_leaf():
    x = Tensor([1.0, 2.0], requires_grad=True)
    other = copy.deepcopy(x)
    with ann.no_grad():
        other += 1
    assert x.data.tolist() == [1.0, 2.0]
    assert other.requires_grad


def test_no_grad_is_of_one_thread():
    seen = []
    with ann.no_grad():
        worker = threading.Thread(target=lambda: seen.append(ann.autograd.is_grad_enabled()))
        worker.start()
        worker.join()
        assert not ann.autograd.is_grad_enabled()
    assert seen == [True]
    assert ann.autograd.is_grad_enabled()


def test_no_grad_nests_decorates_and_survives_errors():
    w = Tensor([1.0], requires_grad=True)

    @ann.no_grad()
    def quiet():
        with ann.autograd.enable_grad():
            inner = (w * 2).requires_grad
        return inner, (w * 2).requires_grad

    assert quiet() == (True, False)
    with pytest.raises(ZeroDivisionError), ann.no_grad():
        raise ZeroDivisionError
    assert (w * 2).requires_grad
