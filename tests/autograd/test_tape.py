"""The backward pass itself: order, accumulation, what is kept and for how long."""

import gc
import weakref

import numpy as np
import pytest

import arraynn as ann
from arraynn import Tensor
from arraynn.autograd.tape import Node, make, make_outputs


def test_gradients_accumulate_over_uses_and_calls():
    x = Tensor([1.0, 2.0], requires_grad=True)
    (x * x + 3 * x).sum().backward()
    assert x.grad.tolist() == [5.0, 7.0]
    (2 * x).sum().backward()
    assert x.grad.tolist() == [7.0, 9.0]


def test_diamond_is_visited_once_per_node():
    visits = []

    class CountNode(Node):
        __slots__ = ()

        def backward(self, grad):
            visits.append(float(grad))
            return (grad,)

    x = Tensor(1.0, requires_grad=True)
    middle = make(x.data, CountNode((x,)))
    total = middle
    for _ in range(20):  # 2**20 paths
        total = total + total
    total.backward()
    assert visits == [2.0**20]
    assert x.grad == 2.0**20


def test_leaf_as_root():
    x = Tensor([2.0], requires_grad=True)
    seed = np.array([3.0], np.float32)
    x.backward(seed)
    assert x.grad.tolist() == [3.0]
    assert x.grad is not seed


def test_gradients_of_leaves_share_no_memory():
    a = Tensor([1.0, 2.0], requires_grad=True)
    b = Tensor([1.0, 2.0], requires_grad=True)
    seed = np.ones(2, np.float32)
    (a + b).backward(seed)
    arrays = [a.grad, b.grad, seed]
    for i, one in enumerate(arrays):
        assert one.flags.writeable
        for other in arrays[i + 1 :]:
            assert not np.shares_memory(one, other)
    c = Tensor(np.zeros((2, 3)), requires_grad=True)
    c.sum().backward()
    c.grad[0, 0] = 5  # not a view with strides of 0
    assert c.grad[1, 2] == 1


def test_second_backward_raises_and_leaves_gradients():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match=r"\[backward\] multiply: expected its saved values"):
        y.backward()
    assert x.grad.tolist() == [2.0, 4.0]


def test_retain_graph_allows_a_second_backward():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).exp().sum()
    y.backward(retain_graph=True)
    first = x.grad.copy()
    y.backward()
    np.testing.assert_array_equal(x.grad, 2 * first)
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        y.backward()


def test_saved_arrays_are_freed_by_backward():
    x = Tensor(np.ones(1000), requires_grad=True)
    y = x.exp()
    kept = weakref.ref(y.data)
    z = y.sum()
    del y
    assert kept() is not None
    z.backward()
    assert kept() is None


def test_a_graph_is_freed_without_the_garbage_collector():
    x = Tensor(np.ones((4, 4)), requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        y = (x @ x).exp().softmax().tanh().relu() ** 2
        kept = weakref.ref(y)
        array = weakref.ref(y.data)
        del y
        assert kept() is None
        assert array() is None
    finally:
        gc.enable()


def test_long_chains_need_no_recursion():
    x = Tensor(np.ones(1), requires_grad=True)
    y = x
    for _ in range(100_000):
        y = y + 1.0
    y.backward()
    assert x.grad.tolist() == [1.0]
    del y


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.__iadd__(1),
        lambda t: t.__setitem__(0, 9.0),
        lambda t: t.detach().__imul__(2),
        lambda t: t.reshape(-1).__isub__(1),
        lambda t: t[0:1].__itruediv__(2),
        ann.nn.init.zeros_,
    ],
)
def test_a_saved_input_changed_in_place_is_noticed(change):
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x * x).sum()
    with ann.no_grad():
        change(x)
    with pytest.raises(RuntimeError, match=r"\[backward\] multiply: expected its saved array unch"):
        y.backward()
    assert x.grad is None


def test_a_saved_output_changed_in_place_is_noticed():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = x.exp()
    z = y.sum()
    with ann.no_grad():
        y *= 2
    with pytest.raises(RuntimeError, match=r"\[backward\] exp: expected its saved array unchanged"):
        z.backward()


def test_an_unsaved_input_may_change():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x + 1).sum()
    with ann.no_grad():
        x += 1
    y.backward()
    assert x.grad.tolist() == [1.0, 1.0]


def test_backward_of_what_was_not_recorded():
    for tensor in (
        Tensor(1.0),
        Tensor(1.0, requires_grad=True).detach(),
    ):
        with pytest.raises(RuntimeError, match="expected one that requires a gradient"):
            tensor.backward()
    with ann.no_grad():
        y = Tensor(1.0, requires_grad=True) * 2
    with pytest.raises(RuntimeError, match="under no_grad"):
        y.backward()


@pytest.mark.parametrize(
    ("grad", "error", "message"),
    [
        (None, ValueError, r"\[backward\] grad: expected an array of shape \(2,\), got None"),
        (np.ones(3, np.float32), ValueError, r"grad: expected shape \(2,\), got \(3,\)"),
        (np.ones(2), TypeError, r"grad: expected float32, got float64"),
    ],
)
def test_bad_seed(grad, error, message):
    x = Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(error, match=message):
        (x * 2).backward(grad)
    assert x.grad is None


def test_one_element_of_any_rank_needs_no_seed():
    x = Tensor([[2.0]], requires_grad=True)
    (x * x).backward()
    assert x.grad.tolist() == [[4.0]]


def test_gradient_keeps_the_dtype_of_its_leaf():
    for dtype in (np.float32, np.float64):
        x = Tensor(np.array([0.5, 1.5], dtype), requires_grad=True)
        y = (x**2 + x.exp() / (1 + x.abs()) - x.sqrt() * x.log()).mean() + x.max() ** 0.5
        (y + (2.0**x).sum() + x.var() + x.logsumexp(0)).backward()
        assert x.grad.dtype == dtype
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    x.double().sum().backward()
    assert x.grad.dtype == np.float32


def test_integer_results_do_not_require_gradients():
    x = Tensor([1.0, 2.0], requires_grad=True)
    assert not x.astype(np.int64).requires_grad
    assert x.argmax() == 1


def test_nodes_get_arrays_of_no_axes_not_scalars():
    kinds = []

    class SpyNode(Node):
        __slots__ = ()

        def backward(self, grad):
            kinds.append(type(grad))
            return (grad,)

    x = Tensor(2.0, requires_grad=True)
    y = make(x.data, SpyNode((x,)))
    (y * 0.5 + y * y - y / 3).backward()
    assert kinds == [np.ndarray]
    assert type(x.grad) is np.ndarray


def test_an_infinite_slope_is_no_warning():
    x = Tensor([0.0, 4.0], requires_grad=True)
    x.sqrt().sum().backward()
    assert x.grad.tolist() == [np.inf, 0.25]


def test_gradients_do_not_depend_on_the_order_of_creation_across_runs():
    def run():
        rng = np.random.default_rng(0)
        x = Tensor(rng.standard_normal((5, 5)).astype(np.float32), requires_grad=True)
        parts = [(x * float(i + 1)).tanh() for i in range(10)]
        sum(parts[1:], parts[0]).sum().backward()
        return x.grad

    assert run().tobytes() == run().tobytes()


class _SplitNode(Node):
    """Outputs x[:n] and x[n:]; counts its visits."""

    __slots__ = ("sizes", "visits")

    def backward(self, grad):
        self.visits.append([part is not None for part in grad.parts])
        parts = [
            np.zeros(n) if p is None else p for n, p in zip(self.sizes, grad.parts, strict=True)
        ]
        return (np.concatenate(parts) * self.saved[0],)


def split(x, n, visits):
    node = _SplitNode((x.node or x,), (2.0,))
    node.sizes, node.visits = (n, x.size - n), visits
    return make_outputs([2.0 * x.data[:n], 2.0 * x.data[n:]], node)


def test_node_of_several_outputs_runs_once_with_all_gradients():
    visits = []
    x = Tensor(np.arange(5.0), requires_grad=True)
    middle = x * 1.0
    head, tail = split(middle, 2, visits)
    # head reaches the end by two ways, one of them through tail's consumer.
    (head.sum() * tail.sum() + (3 * head).sum()).backward()
    assert visits == [[True, True]]
    assert x.grad.tolist() == [2 * (18 + 3)] * 2 + [2 * 2.0] * 3


def test_outputs_that_are_not_used_have_no_gradient():
    visits = []
    x = Tensor(np.arange(5.0), requires_grad=True)
    head, tail = split(x, 2, visits)
    assert head.node.name == "_split"
    tail.sum().backward(retain_graph=True)
    assert visits == [[False, True]]
    assert x.grad.tolist() == [0, 0, 2, 2, 2]
    head.sum().backward()
    assert visits == [[False, True], [True, False]]
    assert x.grad.tolist() == [2] * 5
    with pytest.raises(RuntimeError, match=r"\[backward\] _split: expected its saved values"):
        tail.sum().backward()


def test_outputs_without_recording_are_plain():
    first, second = make_outputs([np.ones(2), np.zeros(3)], None)
    assert not first.requires_grad
    assert second.is_leaf
