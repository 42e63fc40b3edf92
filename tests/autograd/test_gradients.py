"""Gradients of every operation against finite differences in float64."""

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor
from arraynn.autograd import concatenate, gradcheck, maximum, minimum, stack, where
from arraynn.autograd.pointwise import PointwiseNode
from arraynn.autograd.tape import make


def leaf(*shape, low=-1.5, high=1.61, seed=0):
    """Distinct values away from 0 and from those of other seeds, in a shuffled order."""
    size = int(np.prod(shape))
    values = np.linspace(low, high, size + 1)[1:] if size else np.zeros(0)
    rng = np.random.default_rng(seed)
    return Tensor(rng.permutation(values).reshape(shape) + 1e-3 * seed, requires_grad=True)


def positive(*shape, seed=0):
    return leaf(*shape, low=0.3, high=2.0, seed=seed)


UNARY = {
    "neg": (lambda x: -x, leaf),
    "exp": (lambda x: x.exp(), leaf),
    "log": (lambda x: x.log(), positive),
    "log1p": (lambda x: x.log1p(), positive),
    "sqrt": (lambda x: x.sqrt(), positive),
    "square": (lambda x: x.square(), leaf),
    "sin": (lambda x: x.sin(), leaf),
    "cos": (lambda x: x.cos(), leaf),
    "abs": (abs, leaf),
    "clip": (lambda x: x.clip(-0.71, 0.83), leaf),
    "clip_low": (lambda x: x.clip(low=0.1), leaf),
    "relu": (lambda x: x.relu(), leaf),
    "sigmoid": (lambda x: x.sigmoid(), leaf),
    "tanh": (lambda x: x.tanh(), leaf),
    "softmax": (lambda x: x.softmax(0), leaf),
    "log_softmax": (lambda x: x.log_softmax(-1), leaf),
    "pow3": (lambda x: x**3, leaf),
    "pow-1.5": (lambda x: x**-1.5, positive),
    "pow0": (lambda x: x**0 + x, leaf),
    "rpow": (lambda x: 2.5**x, leaf),
    "radd": (lambda x: 2 + x, leaf),
    "rsub": (lambda x: 2 - x, leaf),
    "rmul": (lambda x: 2 * x, leaf),
    "rdiv": (lambda x: 2 / x, positive),
    "sum": (lambda x: x.sum(), leaf),
    "sum_axis": (lambda x: x.sum(1), leaf),
    "sum_axes_kept": (lambda x: x.sum((0, -1), keepdims=True), leaf),
    "mean": (lambda x: x.mean(), leaf),
    "mean_axis": (lambda x: x.mean(0), leaf),
    "var": (lambda x: x.var(), leaf),
    "var_axis": (lambda x: x.var(1, correction=0, keepdims=True), leaf),
    "max": (lambda x: x.max(), leaf),
    "max_axis": (lambda x: x.max(0), leaf),
    "max_axes": (lambda x: x.max((0, 2), keepdims=True), leaf),
    "min": (lambda x: x.min(-1), leaf),
    "logsumexp": (lambda x: x.logsumexp(1), leaf),
    "logsumexp_all": (lambda x: x.logsumexp((0, 1, 2), keepdims=True), leaf),
    "reshape": (lambda x: x.reshape(4, -1) * 2, leaf),
    "view_tuple": (lambda x: x.view((6, 4)), leaf),
    "flatten": (lambda x: x.flatten(1), leaf),
    "squeeze": (lambda x: x[:1].squeeze(), leaf),
    "squeeze_axis": (lambda x: x[:1].squeeze(0), leaf),
    "unsqueeze": (lambda x: x.unsqueeze(-2), leaf),
    "transpose": (lambda x: x.transpose(), leaf),
    "transpose_pair": (lambda x: x.transpose(0, 2), leaf),
    "transpose_all": (lambda x: x.transpose(1, 2, 0), leaf),
    "T": (lambda x: x.T, leaf),
    "swapaxes": (lambda x: x.swapaxes(0, -1), leaf),
    "permute": (lambda x: x.permute(2, 0, 1), leaf),
    "permute_negative": (lambda x: x.permute((-1, 0, -2)), leaf),
    "expand": (lambda x: x[:, :1].expand(5, 2, 3, -1), leaf),
    "clone": (lambda x: x.clone(), leaf),
    "index_int": (lambda x: x[1], leaf),
    "index_scalar": (lambda x: x[1, 2, 3], leaf),
    "index_slices": (lambda x: x[:, ::2, None, 1:], leaf),
    "index_negative_step": (lambda x: x[..., ::-1], leaf),
    "index_array": (lambda x: x[np.array([1, 0, 1])], leaf),
    "index_pairs": (lambda x: x[[0, 0, 1], [2, 2, 0]], leaf),
    "index_mask": (lambda x: x[np.arange(24).reshape(2, 3, 4) % 3 == 0], leaf),
    "index_tensor": (lambda x: x[:, Tensor([2, 2])], leaf),
    "double": (lambda x: x.double(), leaf),
}


@pytest.mark.parametrize("name", UNARY)
def test_unary(name):
    function, make_input = UNARY[name]
    assert gradcheck(function, make_input(2, 3, 4))


@pytest.mark.parametrize("name", UNARY)
def test_unary_on_strided_input(name):
    function, make_input = UNARY[name]
    x = make_input(2, 4, 3, seed=1)
    assert gradcheck(lambda t: function(t.transpose(1, 2)), x)


SHAPES = [((2, 3), (2, 3)), ((2, 3), (3,)), ((3,), (4, 2, 3)), ((2, 1), (1, 3)), ((), (2, 2))]
BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": lambda a, b: a**b,
    "maximum": maximum,
    "minimum": minimum,
    "where": lambda a, b: where(np.array([[True], [False]]), a, b),
}


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_binary_with_broadcasting(name, shapes):
    a, b = positive(*shapes[0]), positive(*shapes[1], seed=1)
    assert gradcheck(BINARY[name], [a, b])


@pytest.mark.parametrize("name", BINARY)
def test_binary_with_one_gradient(name):
    a, b = positive(2, 3), positive(2, 3, seed=1)
    assert gradcheck(BINARY[name], [a, b.detach()])
    assert gradcheck(BINARY[name], [a.detach(), b])
    assert gradcheck(lambda t: BINARY[name](t, t * 1.5), a)


MATMULS = [
    ((3, 4), (4, 5)),
    ((4,), (4, 5)),
    ((3, 4), (4,)),
    ((4,), (4,)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (5, 4, 2)),
    ((2, 3, 1, 4), (4, 2)),
    ((2, 3, 4), (4,)),
    ((4,), (2, 4, 3)),
]


@pytest.mark.parametrize("shapes", MATMULS, ids=str)
def test_matmul(shapes):
    a, b = leaf(*shapes[0]), leaf(*shapes[1], seed=1)
    np.testing.assert_allclose((a @ b).data, np.matmul(a.data, b.data), rtol=1e-12)
    assert gradcheck(lambda a, b: a @ b, [a, b])


def test_joining():
    a, b = leaf(2, 3), leaf(4, 3, seed=1)
    assert gradcheck(lambda a, b: concatenate([a, b, a]), [a, b])
    assert gradcheck(lambda a, b: concatenate([a, b[:2]], axis=-1), [a, b])
    assert gradcheck(lambda a, b: stack([a, b[2:]], axis=1), [a, b])
    assert gradcheck(lambda a: concatenate([a, np.ones((1, 3))]), a)


def test_power_at_zero_has_finite_slopes():
    x = Tensor(np.array([0.0, 2.0]), requires_grad=True)
    (x**0 + x**1 + x**2).sum().backward()
    assert x.grad.tolist() == [1.0, 5.0]
    base = Tensor(np.array([0.0, 2.0]), requires_grad=True)
    power = Tensor(np.array([2.0, 0.0]), requires_grad=True)
    (base**power).sum().backward()
    assert base.grad.tolist() == [0.0, 0.0]
    np.testing.assert_allclose(power.grad, [0.0, np.log(2)])


def test_ties_go_to_the_first():
    x = Tensor(np.array([[3.0, 3.0, 1.0], [0.0, 2.0, 2.0]]), requires_grad=True)
    x.max(1).sum().backward()
    assert x.grad.tolist() == [[1, 0, 0], [0, 1, 0]]
    a = Tensor(np.array([1.0]), requires_grad=True)
    b = Tensor(np.array([1.0]), requires_grad=True)
    maximum(a, b).sum().backward()
    assert (a.grad.tolist(), b.grad.tolist()) == ([1.0], [0.0])


def test_extremes_propagate_nan():
    x = Tensor([1.0, np.nan, 3.0])
    assert np.isnan(x.max().data)
    np.testing.assert_array_equal(maximum(x, 2.0).data, np.array([2, np.nan, 3], np.float32))
    np.testing.assert_array_equal(minimum(2.0, x).data, np.array([1, np.nan, 2], np.float32))


def test_logsumexp_neither_overflows_nor_warns():
    x = Tensor(np.array([1e4, 1e4, -np.inf]), requires_grad=True)
    y = x.logsumexp(0)
    np.testing.assert_allclose(y.data, 1e4 + np.log(2))
    y.backward()
    np.testing.assert_allclose(x.grad, [0.5, 0.5, 0.0])
    nothing = Tensor(np.full(2, -np.inf))
    assert nothing.logsumexp(0).item() == -np.inf


def test_empty_tensors_have_empty_gradients():
    x = Tensor(np.zeros((0, 3)), requires_grad=True)
    (x.exp() * 2 + x.sum(0)).sum().backward()
    assert x.grad.shape == (0, 3)


def test_against_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((4, 3)), rng.standard_normal((3, 5))

    def compute(x, y, cat):
        z = (x @ y).tanh()
        z = cat([z, z.exp()]) / (1 + z.abs().sum())
        return ((z * z).mean() + z[1:, 2].max() + z.transpose(0, 1)[0].var()) ** 1.5

    ours = [Tensor(v, requires_grad=True) for v in (a, b)]
    result = compute(*ours, concatenate)
    result.backward()
    theirs = [torch.tensor(v, requires_grad=True) for v in (a, b)]
    expected = compute(*theirs, torch.cat)
    expected.backward()
    np.testing.assert_allclose(result.item(), expected.item(), rtol=1e-12)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.grad, other.grad.numpy(), rtol=1e-10, atol=1e-14)


# ---- gradcheck itself --------------------------------------------------------------------


def _wrong(x, slope):
    result = make(np.sin(x.data), None)
    node = PointwiseNode((x,), (x.data,), ())
    node.slope = slope
    node._name = "wrong"
    result.node = node
    result._requires_grad = True
    return result


@pytest.mark.parametrize("size", [3, 500])
def test_gradcheck_finds_a_wrong_slope(size):
    x = leaf(size)
    assert gradcheck(lambda t: _wrong(t, lambda g, v: g * np.cos(v)), x)
    with pytest.raises(AssertionError, match=r"\[gradcheck\] inputs\[0\]: expected slope"):
        gradcheck(lambda t: _wrong(t, lambda g, v: g * np.cos(v) * 1.001), x)


def test_gradcheck_finds_one_wrong_element():
    def slope(g, v):
        right = g * np.cos(v)
        right[2] += 1e-3
        return right

    with pytest.raises(AssertionError, match="gradcheck"):
        gradcheck(lambda t: _wrong(t, slope), leaf(8))


def test_gradcheck_finds_a_missing_gradient():
    with pytest.raises(AssertionError, match="expected slope"):
        gradcheck(lambda t: t.detach() * 2 + t, leaf(4))


def test_gradcheck_leaves_the_inputs_alone():
    x = leaf(3)
    before = x.data.copy()
    gradcheck(lambda t: t * t, x)
    assert x.grad is None
    np.testing.assert_array_equal(x.data, before)


def test_gradcheck_refuses_bad_inputs():
    with pytest.raises(ValueError, match="expected one that requires a gradient"):
        gradcheck(lambda x: x, Tensor(np.ones(2)))
    with pytest.raises(TypeError, match=r"inputs\[0\]: expected float64, got float32"):
        gradcheck(lambda x: x, Tensor([1.0], requires_grad=True))
    with pytest.raises(ValueError, match="expected a floating Tensor, got none"):
        gradcheck(lambda x: x.argmax(), leaf(3))


def test_gradcheck_of_several_outputs():
    assert gradcheck(lambda x: (x * 2, x.exp(), x.argmax()), leaf(3))
    assert ann.autograd.is_grad_enabled()
