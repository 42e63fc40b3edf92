"""The convolution reference against hand-worked cases and finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from arraynn import reference
from tolerances import assert_gradient

X = np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
CORNERS = np.array([[[[1.0, 0.0], [0.0, 10.0]]]])


def test_by_hand() -> None:
    # 1*x[p, q] + 10*x[p + 1, q + 1]
    np.testing.assert_array_equal(reference.conv2d(X, CORNERS)[0, 0], [[51, 62], [84, 95]])
    np.testing.assert_array_equal(
        reference.conv2d(X, CORNERS, flip_kernel=True)[0, 0], [[15, 26], [48, 59]]
    )
    np.testing.assert_array_equal(reference.conv2d(X, CORNERS, dilation=2)[0, 0], [[91]])
    np.testing.assert_array_equal(
        reference.conv2d(X, CORNERS, np.array([0.5]), stride=2, padding=1)[0, 0],
        [[10.5, 30.5], [70.5, 95.5]],
    )


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation", "upper", "lower"),
    [
        (5, 3, 1, 1, (1, 1), (1, 1)),
        (5, 2, 1, 1, (0, 1), (1, 0)),
        (6, 3, 2, 1, (0, 1), (1, 0)),
        (5, 3, 2, 1, (1, 1), (1, 1)),
        (7, 1, 3, 1, (0, 0), (0, 0)),
        (4, 3, 1, 3, (3, 3), (3, 3)),
        (5, 4, 3, 1, (1, 1), (1, 1)),
        (7, 4, 3, 1, (1, 2), (2, 1)),
    ],
)
def test_same_padding_by_hand(
    size: int,
    kernel: int,
    stride: int,
    dilation: int,
    upper: tuple[int, int],
    lower: tuple[int, int],
    rng: np.random.Generator,
) -> None:
    x = rng.standard_normal((1, 1, size, size))
    weight = rng.standard_normal((1, 1, kernel, kernel))
    for name, explicit in (("same", upper), ("same_lower", lower)):
        y = reference.conv2d(x, weight, None, stride, name, dilation)
        assert y.shape[2:] == (-(-size // stride),) * 2
        expected = reference.conv2d(x, weight, None, stride, (explicit, explicit), dilation)
        np.testing.assert_array_equal(y, expected)


def test_groups_are_separate_convolutions(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 6, 5, 4))
    weight = rng.standard_normal((4, 3, 2, 2))
    y = reference.conv2d(x, weight, groups=2)
    np.testing.assert_allclose(y[:, :2], reference.conv2d(x[:, :3], weight[:2]))
    np.testing.assert_allclose(y[:, 2:], reference.conv2d(x[:, 3:], weight[2:]))


CASES: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (3, 1), "padding": ((0, 2), (1, 0)), "dilation": (1, 2)},
    {"groups": 2, "padding": "same", "stride": 2},
    {"groups": 4, "padding": "same_lower", "flip_kernel": True},
    {"padding": "valid", "dilation": 2, "layout": "channels_last"},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_backward_is_the_derivative(options: dict[str, Any], rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 4, 7, 6))
    if options.get("layout") == "channels_last":
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    weight = rng.standard_normal((4, 4 // options.get("groups", 1), 3, 2))
    bias = rng.standard_normal(4)
    grad = rng.standard_normal(reference.conv2d(x, weight, **options).shape)
    grad_x, grad_weight, grad_bias = reference.conv2d_backward(grad, x, weight, **options)
    assert grad_x is not None
    assert grad_weight is not None
    assert grad_bias is not None

    def loss(x: Any, weight: Any, bias: Any) -> Any:
        return np.sum(grad * reference.conv2d(x, weight, bias, **options))

    assert_gradient(lambda v: loss(v, weight, bias), x, grad_x, rng)
    assert_gradient(lambda v: loss(x, v, bias), weight, grad_weight, rng)
    assert_gradient(lambda v: loss(x, weight, v), bias, grad_bias, rng)


def test_epilogue_in_both_layouts(rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 3, 4, 5))
    weight, bias = rng.standard_normal((6, 3, 3, 3)), rng.standard_normal(6)
    residual = rng.standard_normal((2, 6, 2, 3))
    expected = np.tanh(reference.conv2d(x, weight) + bias[None, :, None, None] + residual)
    first = reference.conv2d(x, weight, bias, activation="tanh", residual=residual)
    last = reference.conv2d(
        np.moveaxis(x, 1, -1),
        weight,
        bias,
        activation="tanh",
        residual=np.moveaxis(residual, 1, -1),
        layout="channels_last",
    )
    np.testing.assert_allclose(first, expected, rtol=1e-12)
    np.testing.assert_allclose(np.moveaxis(last, -1, 1), expected, rtol=1e-12)


def test_batch_of_none_and_bad_arguments() -> None:
    weight = np.ones((2, 1, 3, 3))
    assert reference.conv2d(np.ones((0, 1, 5, 5)), weight).shape == (0, 2, 3, 3)
    for bad in ({"padding": "full"}, {"padding": -1}, {"stride": 0}, {"groups": 2}):
        with pytest.raises(ValueError, match="expected"):
            reference.conv2d(np.ones((1, 1, 5, 5)), weight, **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="window"):
        reference.conv2d(np.ones((1, 1, 2, 2)), weight)


def test_transposed_by_hand() -> None:
    x = np.array([[[[1.0, 2.0]]]])
    weight = np.array([[[[1.0, 10.0, 100.0]]]])
    for stride, expected in ((1, [1, 12, 120, 200]), (2, [1, 10, 102, 20, 200])):
        np.testing.assert_array_equal(
            reference.conv_transpose2d(x, weight, stride=stride)[0, 0], [expected]
        )
    np.testing.assert_array_equal(
        reference.conv_transpose2d(x, weight, stride=(1, 4), output_padding=(0, 1))[0, 0],
        [[1, 10, 100, 0, 2, 20, 200, 0]],
    )
    np.testing.assert_array_equal(
        reference.conv_transpose2d(x, weight, np.array([0.5]), padding=((0, 0), (1, 2)))[0, 0],
        [[12.5]],
    )
    np.testing.assert_array_equal(
        reference.conv_transpose1d(x[0], weight[0], dilation=2, padding=1), [[[2, 10, 20, 100]]]
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 3, "padding": 1},
        {"stride": (3, 1), "padding": ((0, 2), (1, 0)), "dilation": (1, 2), "output_padding": 1},
        {"groups": 2, "stride": 2, "output_padding": (1, 0)},
        {"groups": 4, "dilation": 2, "layout": "channels_last"},
    ],
    ids=str,
)
def test_transposed_is_the_gradient_by_x(options: dict[str, Any], rng: np.random.Generator) -> None:
    """<conv(x), y> = <x, conv_transpose(y)>, and its own gradients are derivatives."""
    y = rng.standard_normal((2, 4, 4, 3))
    if options.get("layout") == "channels_last":
        y = np.ascontiguousarray(np.moveaxis(y, 1, -1))
    weight = rng.standard_normal((4, 6 // options.get("groups", 1), 3, 2))
    if options.get("groups") == 4:
        weight = weight[:, :1]
    x = rng.standard_normal(reference.conv_transpose2d(y, weight, **options).shape)
    forward = {k: v for k, v in options.items() if k != "output_padding"}
    y_of_x = reference.conv2d(x, weight, **forward)
    corner = tuple(slice(n) for n in y.shape)  # more fit where a result is longer than it must be
    np.testing.assert_allclose(
        np.sum(y_of_x[corner] * y), np.sum(x * reference.conv_transpose2d(y, weight, **options))
    )
    grads = reference.conv_transpose2d_backward(x, y, weight, **options)

    def loss(y: Any, weight: Any) -> Any:
        return np.sum(x * reference.conv_transpose2d(y, weight, **options))

    assert grads[0] is not None
    assert grads[1] is not None
    assert_gradient(lambda v: loss(v, weight), y, grads[0], rng)
    assert_gradient(lambda v: loss(y, v), weight, grads[1], rng)


def test_one_dimension_is_a_height_of_one(rng: np.random.Generator) -> None:
    x, weight = rng.standard_normal((2, 4, 9)), rng.standard_normal((4, 2, 3))
    residual = rng.standard_normal((2, 4, 5))
    for layout in ("channels_first", "channels_last"):
        a, r = (np.moveaxis(v, 1, -1) if "last" in layout else v for v in (x, residual))
        axis = 1 if "last" in layout else 2
        y = reference.conv1d(a, weight, None, 2, "same", 1, 2, residual=r, layout=layout)
        image = reference.conv2d(
            np.expand_dims(a, axis),
            weight[:, :, None],
            None,
            (1, 2),
            "same",
            1,
            2,
            residual=np.expand_dims(r, axis),
            layout=layout,
        )
        np.testing.assert_array_equal(y, image.squeeze(axis))
        out = np.empty_like(y)
        assert (
            reference.conv1d(a, weight, None, 2, "same", 1, 2, residual=r, layout=layout, out=out)
            is out
        )
        np.testing.assert_array_equal(out, y)


def test_bad_arguments_of_the_transposed() -> None:
    x, weight = np.ones((1, 2, 3, 3)), np.ones((2, 2, 2, 2))
    for bad in (
        {"padding": "same"},
        {"padding": 2},
        {"padding": -1},
        {"stride": 0},
        {"output_padding": 1},
        {"output_padding": -1},
        {"groups": 4},
    ):
        with pytest.raises(ValueError, match="expected"):
            reference.conv_transpose2d(x, weight, **bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 3 input channels"):
        reference.conv_transpose2d(np.ones((1, 3, 3, 3)), weight)
    with pytest.raises(ValueError, match="got 'full'"):
        reference.conv1d(x[0], weight[0], padding="full")
