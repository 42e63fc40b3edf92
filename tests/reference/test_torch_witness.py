"""PyTorch as a second witness of the references; this module needs it and nothing else does."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from arraynn import reference

torch = pytest.importorskip("torch")
F = torch.nn.functional


def leaf(a: Any) -> Any:
    return torch.from_numpy(np.array(a)).requires_grad_()


def close(got: Any, tensor: Any, rtol: float = 1e-11) -> None:
    expected = tensor.detach().numpy()
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [
        ((3, 3), 1, 1, 1, 1),
        ((3, 2), (2, 1), (1, 2), (1, 2), 2),
        ((1, 1), 1, 0, 1, 1),
        ((1, 1), 2, 0, 1, 4),
        ((5, 1), (1, 3), (4, 0), (2, 1), 4),
    ],
)
def test_conv2d(
    kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int, rng: np.random.Generator
) -> None:
    x, weight = rng.standard_normal((2, 4, 9, 8)), rng.standard_normal((8, 4 // groups, *kernel))
    bias = rng.standard_normal(8)
    tx, tw, tb = leaf(x), leaf(weight), leaf(bias)
    ty = F.conv2d(tx, tw, tb, stride, padding, dilation, groups)
    close(reference.conv2d(x, weight, bias, stride, padding, dilation, groups), ty)
    grad = rng.standard_normal(ty.shape)
    ty.backward(torch.from_numpy(grad))
    grads = reference.conv2d_backward(grad, x, weight, stride, padding, dilation, groups)
    for got, tensor in zip(grads, (tx, tw, tb), strict=True):
        close(got, tensor.grad)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "output_padding", "groups", "dilation"),
    [
        ((3, 3), 1, 0, 0, 1, 1),
        ((3, 2), (2, 3), (1, 0), (1, 2), 2, (1, 2)),
        ((2, 2), 5, 1, 3, 1, 1),
        ((1, 1), 3, 0, 2, 4, 1),
        ((3, 3), 2, 4, 1, 2, 3),
        ((2, 3), 1, 1, (2, 0), 1, (3, 1)),
    ],
)
@pytest.mark.parametrize("axes", [1, 2])
def test_conv_transpose(
    axes: int,
    kernel: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
    rng: np.random.Generator,
) -> None:
    geometry = [
        v[-axes:] if isinstance(v, tuple) else v
        for v in (stride, padding, output_padding, groups, dilation)
    ]
    name = f"conv_transpose{axes}d"
    x = rng.standard_normal((2, 4, *(5, 6)[-axes:]))
    weight = rng.standard_normal((4, 3, *kernel[-axes:]))
    bias = rng.standard_normal(3 * groups)
    leaves = [leaf(a) for a in (x, weight, bias)]
    ty = getattr(F, name)(*leaves, *geometry)
    close(getattr(reference, name)(x, weight, bias, *geometry), ty)
    grad = rng.standard_normal(ty.shape)
    ty.backward(torch.from_numpy(grad))
    grads = getattr(reference, f"{name}_backward")(grad, x, weight, *geometry)
    for got, tensor in zip(grads, leaves, strict=True):
        close(got, tensor.grad)


POOLS = [
    (2, None, 0, 1),
    (3, 2, 1, 1),
    ((2, 3), (3, 1), (1, 1), (2, 1)),
    (1, 4, 0, 1),
    ((1, 4), (2, 3), (0, 2), 1),
]


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), POOLS)
def test_max_pool2d(
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    rng: np.random.Generator,
) -> None:
    x = rng.integers(0, 6, (2, 3, 10, 11)).astype(np.float64)  # many equal maxima
    x[0, 0, 4, 4] = np.nan  # of several, PyTorch takes the last and we the first
    tx = leaf(x)
    ty, ti = F.max_pool2d(tx, kernel, stride, padding, dilation, ceil_mode, return_indices=True)
    y, indices = reference.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode, True)
    close(y, ty)
    np.testing.assert_array_equal(indices, ti.numpy())
    grad = rng.standard_normal(y.shape)
    ty.backward(torch.from_numpy(grad))
    close(
        reference.max_pool2d_backward(grad, x, kernel, stride, padding, dilation, ceil_mode),
        tx.grad,
    )


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [p[:3] for p in POOLS])
def test_avg_pool2d(
    kernel: Any, stride: Any, padding: Any, ceil_mode: bool, rng: np.random.Generator
) -> None:
    for include, override in itertools.product((True, False), (None, 7)):
        options = (kernel, stride, padding, ceil_mode, include, override)
        x = rng.standard_normal((2, 3, 10, 11))
        tx = leaf(x)
        ty = F.avg_pool2d(tx, *options)
        close(reference.avg_pool2d(x, *options), ty)
        grad = rng.standard_normal(ty.shape)
        ty.backward(torch.from_numpy(grad))
        close(reference.avg_pool2d_backward(grad, x.shape, *options), tx.grad)


def test_pooling_of_signals(rng: np.random.Generator) -> None:
    for kernel, stride, padding, ceil_mode in (
        (2, None, 0, True),
        (3, 2, 1, False),
        (5, 1, 2, True),
    ):
        x = rng.standard_normal((2, 3, 16))
        args = (kernel, stride, padding)
        tx = leaf(x)
        ty, ti = F.max_pool1d(tx, *args, 1, ceil_mode, return_indices=True)
        y, indices = reference.max_pool1d(x, *args, 1, ceil_mode, True)
        close(y, ty)
        np.testing.assert_array_equal(indices, ti.numpy())
        grad = rng.standard_normal(y.shape)
        ty.backward(torch.from_numpy(grad))
        close(reference.max_pool1d_backward(grad, x, *args, 1, ceil_mode), tx.grad)
        for include in (True, False):
            tx = leaf(x)
            ty = F.avg_pool1d(tx, *args, ceil_mode, include)
            close(reference.avg_pool1d(x, *args, ceil_mode, include), ty)
            ty.backward(torch.from_numpy(grad))
            got = reference.avg_pool1d_backward(grad, x.shape, *args, ceil_mode, include)
            close(got, tx.grad)


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 3, 7), 3),
        ((2, 3, 3), 8),
        ((2, 3, 7, 10), (3, 4)),
        ((2, 3, 7, 10), (None, 5)),
        ((2, 3, 4, 5), 9),
    ],
)
def test_adaptive_pooling(shape: Any, size: Any, rng: np.random.Generator) -> None:
    axes = len(shape) - 2
    x = rng.integers(0, 6, shape).astype(np.float64)  # many equal maxima
    for kind in ("max", "avg"):
        name = f"adaptive_{kind}_pool{axes}d"
        tx = leaf(x)
        ty = getattr(F, name)(tx, size)
        close(getattr(reference, name)(x, size), ty)
        grad = rng.standard_normal(ty.shape)
        ty.backward(torch.from_numpy(grad))
        source = x if kind == "max" else x.shape
        close(getattr(reference, f"{name}_backward")(grad, source, size), tx.grad)
    _, ti = getattr(F, f"adaptive_max_pool{axes}d")(tx, size, return_indices=True)
    _, indices = getattr(reference, f"adaptive_max_pool{axes}d")(x, size, True)
    np.testing.assert_array_equal(indices, ti.numpy())


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 7, 6)])
def test_global_pooling(shape: Any, rng: np.random.Generator) -> None:
    x = rng.standard_normal(shape)
    axes = tuple(range(2, len(shape)))
    tx = leaf(x)
    grad = rng.standard_normal((2, 3, *(1,) * len(axes)))
    for ty, name in (
        (tx.mean(axes, keepdim=True), "global_avg_pool"),
        (tx.amax(axes, keepdim=True), "global_max_pool"),
    ):
        close(getattr(reference, name)(x), ty)
        tx.grad = None
        ty.backward(torch.from_numpy(grad))
        source = x if "max" in name else x.shape
        close(getattr(reference, f"{name}_backward")(grad, source), tx.grad)


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0, 0.7])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_lp_pooling(norm: float, ceil_mode: bool, rng: np.random.Generator) -> None:
    for shape, kernel, stride in (((2, 3, 10), 3, 2), ((2, 3, 9, 8), (2, 3), None)):
        name = f"lp_pool{len(shape) - 2}d"
        x = rng.standard_normal(shape)
        if norm not in (1.0, 2.0):
            x = np.abs(x)
        tx = leaf(x)
        ty = getattr(F, name)(tx, norm, kernel, stride, ceil_mode)
        y = getattr(reference, name)(x, norm, kernel, stride, ceil_mode)
        close(y, ty)
        grad = rng.standard_normal(y.shape)
        ty.backward(torch.from_numpy(grad))
        got = getattr(reference, f"{name}_backward")(grad, x, y, norm, kernel, stride, ceil_mode)
        close(got, tx.grad, rtol=1e-10)


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0, 0.7])
def test_lp_pooling_over_zeros(norm: float, rng: np.random.Generator) -> None:
    """Padding, which PyTorch's has not, is its own zeros; so is a window over everything."""
    for shape in ((2, 3, 10), (2, 3, 9, 8), (1, 2, 5, 6, 7)):
        axes = len(shape) - 2
        x = rng.uniform(0.5, 2.0, shape)
        pads = ((1, 1), (0, 1), (1, 0))[:axes]
        tx = leaf(x)
        wide = F.pad(tx, [p for pair in pads[::-1] for p in pair])
        whole = torch.linalg.vector_norm(tx, norm, tuple(range(2, axes + 2)), keepdim=True)
        calls: list[tuple[str, Any, tuple[Any, ...], dict[str, Any]]] = [
            (
                f"lp_pool{axes}d",
                getattr(F, f"lp_pool{axes}d")(wide, norm, 3, 2),
                (3, 2),
                {"padding": pads},
            ),
            ("global_lp_pool", whole, (), {}),
        ]
        for name, ty, window, more in calls:
            y = getattr(reference, name)(x, norm, *window, **more)
            close(y, ty)
            grad = rng.standard_normal(y.shape)
            tx.grad = None
            ty.backward(torch.from_numpy(grad), retain_graph=True)
            back = getattr(reference, f"{name}_backward")
            close(back(grad, x, y, norm, *window, **more), tx.grad, rtol=1e-10)


@pytest.mark.parametrize("size", [None, 11])
def test_max_unpooling(size: Any, rng: np.random.Generator) -> None:
    for axes in (1, 2):
        x = rng.standard_normal((2, 3, *(11,) * axes))
        y, indices = getattr(reference, f"max_pool{axes}d")(x, 3, 2, return_indices=True)
        ty = leaf(y)
        sizes = None if size is None else [size] * axes
        tz = getattr(F, f"max_unpool{axes}d")(ty, torch.from_numpy(indices), 3, 2, 0, sizes)
        close(getattr(reference, f"max_unpool{axes}d")(y, indices, 3, 2, 0, size), tz)
        grad = rng.standard_normal(tz.shape)
        tz.backward(torch.from_numpy(grad))
        close(getattr(reference, f"max_unpool{axes}d_backward")(grad, indices), ty.grad)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("relu", {}),
        ("leaky_relu", {"negative_slope": 0.2}),
        ("elu", {"alpha": 1.7}),
        ("selu", {}),
        ("sigmoid", {}),
        ("tanh", {}),
        ("hardsigmoid", {}),
        ("hardswish", {}),
        ("silu", {}),
        ("gelu", {}),
        ("gelu", {"approximate": "tanh"}),
        ("mish", {}),
        ("softplus", {"beta": 0.7, "threshold": 3.0}),
    ],
)
def test_activations(name: str, options: dict[str, Any], rng: np.random.Generator) -> None:
    x, grad = 5 * rng.standard_normal((2, 2000))
    tx = leaf(x)
    module = torch if name in ("sigmoid", "tanh") else F
    ty = getattr(module, name)(tx, **options)
    ty.backward(torch.from_numpy(grad))
    close(getattr(reference, name)(x, **options), ty)
    # PyTorch multiplies by 1/6 rounded to float32 in the backward of hardsigmoid.
    rtol = 1e-7 if name == "hardsigmoid" else 1e-11
    close(getattr(reference, f"{name}_backward")(grad, x, **options), tx.grad, rtol)
    special = np.array([np.inf, -np.inf, np.nan])
    close(
        getattr(reference, name)(special, **options),
        getattr(module, name)(torch.from_numpy(special), **options),
    )


@pytest.mark.parametrize("shape", [(4, 5), (5,), (2, 5, 3)])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_cross_entropy(shape: tuple[int, ...], reduction: str, rng: np.random.Generator) -> None:
    for weighted, smoothing, soft in itertools.product((0, 1), (0.0, 0.2), (0, 1)):
        logits = 3 * rng.standard_normal(shape)
        sample_shape = () if len(shape) == 1 else (shape[0], *shape[2:])
        target: Any = rng.random(shape) if soft else rng.integers(0, 5, sample_shape)
        if not soft and sample_shape:
            target.flat[0] = -100
        weight = rng.random(5) if weighted else None
        options: dict[str, Any] = {"label_smoothing": smoothing, "reduction": reduction}
        tz = leaf(logits)
        loss = F.cross_entropy(
            tz,
            torch.from_numpy(np.asarray(target)),
            None if weight is None else torch.from_numpy(weight),
            **options,
        )
        close(reference.cross_entropy(logits, np.asarray(target), weight=weight, **options), loss)
        grad = rng.standard_normal(tuple(loss.shape))
        loss.backward(torch.as_tensor(grad))
        close(
            reference.cross_entropy_backward(
                grad, logits, np.asarray(target), weight=weight, **options
            ),
            tz.grad,
        )


@pytest.mark.parametrize("shape", [(4, 5), (5,), (2, 5, 3)])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_nll_loss(shape: tuple[int, ...], reduction: str, rng: np.random.Generator) -> None:
    for weighted, ignored in itertools.product((False, True), (-100, 2)):
        z = rng.standard_normal(shape)
        target = np.asarray(rng.integers(0, 5, () if len(shape) == 1 else (shape[0], *shape[2:])))
        if target.shape:
            target.flat[:2] = 4, ignored
        weight = rng.random(5) if weighted else None
        tz = leaf(z)
        loss = F.nll_loss(
            tz,
            torch.from_numpy(target),
            None if weight is None else torch.from_numpy(weight),
            ignore_index=ignored,
            reduction=reduction,
        )
        how: dict[str, Any] = {"weight": weight, "ignore_index": ignored, "reduction": reduction}
        close(reference.nll_loss(z, target, **how), loss)
        grad = rng.standard_normal(tuple(loss.shape))
        loss.backward(torch.as_tensor(grad))
        close(reference.nll_loss_backward(grad, z, target, **how), tz.grad)


def run_torch(
    kind: Any, params: list[Any], grads: list[list[Any]], max_norm: Any, **kw: Any
) -> Any:
    tensors = [leaf(p) for p in params]
    optimizer = kind(tensors, **kw)
    for step in grads:
        for tensor, g in zip(tensors, step, strict=True):
            tensor.grad = torch.from_numpy(g.copy())
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors, max_norm)
        optimizer.step()
    return tensors


@pytest.mark.parametrize("max_norm", [None, 2.0])
@pytest.mark.parametrize("maximize", [False, True])
def test_optimizers(max_norm: Any, maximize: bool, rng: np.random.Generator) -> None:
    shapes = [(3,), (4, 2), (1, 2, 3)]
    start = [rng.standard_normal(s) for s in shapes]
    grads = [[rng.standard_normal(s) for s in shapes] for _ in range(5)]
    for amsgrad, decay, decoupled in itertools.product((False, True), (0.0, 0.1), (False, True)):
        params, m, v, top = ([p.copy() * k for p in start] for k in (1, 0, 0, 0))
        for step, g in enumerate(grads, start=1):
            reference.adam_step(
                params,
                g,
                m,
                v,
                step,
                lr=0.1,
                weight_decay=decay,
                decoupled=decoupled,
                max_exp_avg_sqs=top if amsgrad else None,
                maximize=maximize,
                max_norm=max_norm,
            )
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        expected = run_torch(
            kind,
            start,
            grads,
            max_norm,
            lr=0.1,
            weight_decay=decay,
            amsgrad=amsgrad,
            maximize=maximize,
        )
        for got, tensor in zip(params, expected, strict=True):
            close(got, tensor)
    for momentum, nesterov, decay in ((0, False, 0.1), (0.9, False, 0), (0.9, True, 0.1)):
        params, buffers = [p.copy() for p in start], [p * 0 for p in start]
        options: dict[str, Any] = {
            "lr": 0.1,
            "momentum": momentum,
            "dampening": 0 if nesterov else 0.2,
            "weight_decay": decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        for step, g in enumerate(grads, start=1):
            reference.sgd_step(params, g, buffers, step, max_norm=max_norm, **options)
        expected = run_torch(torch.optim.SGD, start, grads, max_norm, **options)
        for got, tensor in zip(params, expected, strict=True):
            close(got, tensor)
