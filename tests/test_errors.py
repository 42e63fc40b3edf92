"""Every wrong call: which exception, naming which argument; and that the inputs stay as they were.

One table per family: (operation, arguments, keywords, exception, the argument the message names).
Messages read ``[operation] argument: expected ..., got ...``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from arraynn import kernels
from wrong_attention import attention
from wrong_calls import (
    F32,
    F64,
    INF,
    NAN,
    TOO_LARGE,
    Case,
    T,
    V,
    f32,
    f64,
    huge,
    read_only,
    wrong_dtypes,
    wrong_outs,
)
from wrong_norms import channel_norms, row_norms
from wrong_pools import adaptive_pool, lp_and_unpool, pool, signal_pool, volume_pool
from wrong_rnn import recurrent
from wrong_rnn_weights import rnn_weights
from wrong_rope import rope


def gemm() -> Iterator[Case]:
    x, w, b, r = f32(3, 4), f32(5, 4), f32(5), f32(3, 5)
    yield from wrong_outs("linear", (f32(4, 5), w[:, :1].repeat(5, 1)), (4, 5))
    yield from wrong_dtypes("linear", (x, w, b), ("x", "weight", "bias"))
    yield from wrong_outs("matmul", (f32(4, 4), f32(4, 3)), (4, 3))
    yield from wrong_dtypes("matmul", (x, w.T), ("a", "b"))
    yield from wrong_dtypes("linear_backward", (r, x, w), ("grad_out", "x", "weight"))
    rows: list[tuple[str, tuple[Any, ...], dict[str, Any], Any, str]] = [
        ("linear", (f32(), w), {}, V, "x"),
        ("linear", (x, f32(4)), {}, V, "weight"),
        ("linear", (x, f32(1, 5, 4)), {}, V, "weight"),
        ("linear", (x, f32(5, 3)), {}, V, "weight|x"),
        ("linear", (x, w, f32(4)), {}, V, "bias"),
        ("linear", (x, w, f32(1, 5)), {}, V, "bias"),
        ("linear", (x, w, b), {"residual": f32(5)}, V, "residual"),
        ("linear", (x, w, b), {"residual": f32(3, 4)}, V, "residual"),
        ("linear", (x, w, b), {"residual": f64(3, 5)}, T, "residual"),
        ("linear", (x, w, b), {"activation": "swoosh"}, V, "activation"),
        ("linear", (x, w, b), {"activation": 3}, T, "activation"),
        ("linear", (x, w, b), {"residual": r, "out": r}, V, "out"),
        ("linear", (huge(2**50, 1), huge(2**50, 1)), {}, TOO_LARGE, ""),
        ("linear", (np.zeros((2**40, 0), F32), np.zeros((2**40, 0), F32)), {}, TOO_LARGE, ""),
        ("linear_backward", (f32(3, 4), x, w), {}, V, "grad_out"),
        ("linear_backward", (f32(2, 5), x, w), {}, V, "grad_out|x"),
        ("linear_backward", (r, x, f32(5, 3)), {}, V, "weight|x"),
        ("linear_backward", (r, x, w), {"needs": ("x", "y")}, V, "needs"),
        ("linear_backward", (r, x, w), {"needs": 3}, T, "needs"),
        ("matmul", (f32(), w), {}, V, "a"),
        ("matmul", (w, f32()), {}, V, "b"),
        ("matmul", (x, w), {}, V, "b|a"),
        ("matmul", (f32(2, 3, 4), f32(3, 4, 5)), {}, V, "b|a"),
        ("matmul", (huge(2**50, 1), huge(1, 2**50)), {}, TOO_LARGE, ""),
        ("matmul", (huge(2, 2**43), huge(2**43, 2)), {}, TOO_LARGE, "a|b"),
        ("matmul", (np.zeros((2**40, 0), F32), np.zeros((0, 2**40), F32)), {}, TOO_LARGE, ""),
    ]
    yield from (Case(*row) for row in rows)


#: Said of a convolution that Winograd's algorithm is not for.
NO_TILES = r"algorithm: expected 'auto' or 'direct' unless the kernel is 3 x 3 .*, got 'winograd'"


def wrong_algorithms(args: tuple[Any, ...], how: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield names that no convolution knows, and what is no name."""
    for name in ("fft", "Winograd", "", "auto "):
        names = f"algorithm: expected 'auto', 'direct' or 'winograd', got '{name}'"
        yield args, {**how, "algorithm": name}, V, names
    for wrong in (None, 1, b"auto", ("auto",)):
        yield args, {**how, "algorithm": wrong}, T, "algorithm"


def conv() -> Iterator[Case]:
    x, w, b = f32(2, 6, 5, 5), f32(4, 3, 3, 3), f32(4)
    two = {"groups": 2}
    yield from wrong_outs("conv2d", (f32(1, 4, 3, 3), f32(4, 4, 1, 1)), (1, 4, 3, 3))
    yield from wrong_dtypes("conv2d", (x, w, b), ("x", "weight", "bias"), groups=2)
    grad = f32(2, 4, 3, 3)
    yield from wrong_dtypes("conv2d_backward", (grad, x, w), ("grad_out", "x", "weight"), groups=2)
    for op, first in (("conv2d", ()), ("conv2d_backward", (grad,))):
        rows: list[tuple[tuple[Any, ...], dict[str, Any], Any, str]] = [
            ((f32(6, 5, 5), w), two, V, "x"),
            ((f32(1, 2, 6, 5, 5), w), two, V, "x"),
            ((x, f32(4, 3, 3)), two, V, "weight"),
            ((x, w), {}, V, "weight"),
            ((x, f32(5, 3, 3, 3)), two, V, "weight|groups"),
            ((x, w), {"groups": 4}, V, "weight|groups"),
            ((x, w), {"groups": 0}, V, "groups"),
            ((x, w), {"groups": -2}, V, "groups"),
            ((x, w), {"groups": 2.0}, T, "groups"),
            ((x, f32(4, 3, 0, 3)), two, V, "weight"),
            ((x, f32(4, 3, 6, 3)), two, V, "x|weight|padding"),
            ((x, w), {**two, "dilation": 3}, V, "x|weight|padding|dilation"),
            ((x, w), {**two, "dilation": 2**62}, TOO_LARGE, ""),
            ((x, w), {**two, "padding": 2**40}, TOO_LARGE, ""),
            ((x, w), {**two, "padding": 2**62}, TOO_LARGE, ""),
            ((x, w), {**two, "padding": 2**80}, V, "padding"),
            ((huge(2**40, 6, 2**10, 5), w), {**two, "padding": 2**20}, TOO_LARGE, ""),
            ((x, w), {**two, "flip_kernel": "yes"}, T, "flip_kernel"),
            *(
                (((x, w), {**two, k: v}, V, k))
                for k in ("stride", "dilation")
                for v in (0, -1, (1, 0), (1, 1, 1), ())
            ),
            *(
                (((x, w), {**two, k: v}, T, k))
                for k in ("stride", "dilation")
                for v in (1.5, "1", None, (1, 1.5))
            ),
            *(
                (((x, w), {**two, "padding": v}, V, "padding"))
                for v in (
                    -1,
                    (0, -1),
                    "full",
                    "SAME",
                    ((0, 1),),
                    ((0, 1), (0, -1)),
                    (1, 1, 1),
                    ((1, 1, 1), (1, 1, 1)),
                )
            ),
            *(
                (((x, w), {**two, "padding": v}, T, "padding"))
                for v in (1.5, None, ((0.5, 1), (1, 1)))
            ),
            ((x, w), {**two, "layout": "NCHW"}, V, "layout"),
            ((x, w), {**two, "layout": 1}, T, "layout"),
            ((x, w), {**two, "layout": "channels_last"}, V, "weight|groups"),
            *wrong_algorithms((x, w), two),
            *(
                ((x, weight), {**two, "algorithm": "winograd"}, V, NO_TILES)
                for weight in (f32(4, 3, 1, 1), f32(4, 3, 3, 2), f32(4, 3, 5, 3))
            ),
            *(
                ((x, w), {**two, "algorithm": "winograd", k: v}, V, NO_TILES)
                for k in ("stride", "dilation")
                for v in (2, (1, 2), (2, 1))
            ),
        ]
        yield from (Case(op, (*first, *args), kw, e, n) for args, kw, e, n in rows)
    y = f32(2, 4, 3, 3)
    more: list[tuple[str, tuple[Any, ...], dict[str, Any], Any, str]] = [
        ("conv2d", (x, w, f32(3)), two, V, "bias"),
        ("conv2d", (x, w, f32(4, 1)), two, V, "bias"),
        ("conv2d", (x, w, b), {**two, "residual": f32(2, 4, 3, 4)}, V, "residual"),
        ("conv2d", (x, w, b), {**two, "residual": f32(2, 4, 1, 1)}, V, "residual"),
        ("conv2d", (x, w, b), {**two, "residual": f64(2, 4, 3, 3)}, T, "residual"),
        ("conv2d", (x, w, b), {**two, "residual": y, "out": y}, V, "out"),
        ("conv2d", (x, w, b), {**two, "activation": "swoosh"}, V, "activation"),
        ("conv2d_backward", (f32(2, 4, 3, 2), x, w), two, V, "grad_out"),
        ("conv2d_backward", (f32(4, 3, 3), x, w), two, V, "grad_out"),
        ("conv2d_backward", (grad, x, w), {**two, "needs": ("weights",)}, V, "needs"),
    ]
    yield from (Case(*row) for row in more)


def conv_pools() -> Iterator[Case]:
    """Yield what the pooling adds to the table of conv2d, under its own names."""
    op, x, w, b = "conv2d_pool", f32(2, 6, 9, 9), f32(4, 3, 3, 3), f32(4)
    two = {"groups": 2}
    yield from wrong_outs(op, (f32(1, 4, 6, 6), f32(4, 4, 1, 1)), (1, 4, 3, 3))
    yield from wrong_dtypes(op, (x, w, b), ("x", "weight", "bias"), groups=2)
    rows: list[tuple[dict[str, Any], Any, str]] = [
        *(({"pool": v}, V, "pool: expected 'max' or 'avg'") for v in ("mean", "", "MAX")),
        *(({"pool": v}, T, "pool") for v in (None, 2)),
        *(({"pool_size": v}, V, "pool_size") for v in (0, -1, (2, 0), (2, 2, 2), (), 8)),
        *(({"pool_size": v}, T, "pool_size") for v in (1.5, "2", None)),
        *(({k: v}, V, k) for k in ("pool_stride", "pool_dilation") for v in (0, -1, (1, 1, 1))),
        *(({k: v}, T, k) for k in ("pool_stride", "pool_dilation") for v in (1.5, "1")),
        *(({"pool_padding": v}, V, "pool_padding") for v in (-1, 2, (0, 2), "full")),
        *(({"pool_padding": v}, T, "pool_padding") for v in (0.5, None)),
        ({"pool_size": 2**62}, TOO_LARGE, ""),
        ({"ceil_mode": "yes"}, T, "ceil_mode"),
        ({"count_include_pad": 3}, T, "count_include_pad"),
        ({"divisor_override": 0}, V, "divisor_override"),
        ({"divisor_override": 1.5}, T, "divisor_override"),
        ({"activation": "swoosh"}, V, "activation"),
        ({"layout": "NCHW"}, V, "layout"),
        ({"stride": 0}, V, "stride"),
        ({"padding": -1}, V, "padding"),
        ({"algorithm": "winograd", "stride": 2}, V, NO_TILES),
    ]
    yield from (Case(op, (x, w, b), {**two, **how}, e, n) for how, e, n in rows)
    yield Case(op, (x, w), {}, V, r"weight: expected 6 input channels")
    yield Case(op, (x, w, f32(3)), two, V, "bias")
    yield Case(op, (x[0], w), two, V, "x")


def conv_others() -> Iterator[Case]:
    """Yield what conv1d and the transposed convolutions add to the table of conv2d."""
    x, w, b, grad = f32(2, 6, 9), f32(4, 3, 3), f32(4), f32(2, 4, 7)
    two = {"groups": 2}
    yield from wrong_outs("conv1d", (f32(1, 4, 9), f32(4, 4, 1)), (1, 4, 9))
    yield from wrong_dtypes("conv1d", (x, w, b), ("x", "weight", "bias"), groups=2)
    yield from wrong_dtypes("conv1d_backward", (grad, x, w), ("grad_out", "x", "weight"), groups=2)
    for op, first in (("conv1d", ()), ("conv1d_backward", (grad,))):
        for bad in (f32(6, 9), f32(2, 6, 3, 3)):
            yield Case(op, (*first, bad, w), two, V, "x")
        yield Case(op, (*first, x, f32(4, 3, 1, 3)), two, V, "weight")
        yield Case(op, (*first, x, w), {}, V, r"weight: expected 6 input channels \(x has 6 in 1")
        yield Case(op, (*first, x, f32(4, 3, 0)), two, V, "weight")
        yield Case(op, (*first, x, f32(4, 3, 10)), two, V, "weight: .* padded input of length 9")
        yield Case(op, (*first, x, w), {**two, "stride": (1, 1)}, V, "stride: .* 1 int,")
        yield Case(op, (*first, x, w), {**two, "dilation": 0}, V, "dilation")
        for padding in ((1, 1), ((1, 1), (0, 0)), ((1,),), -1, "full"):
            yield Case(op, (*first, x, w), {**two, "padding": padding}, V, "padding")
        yield Case(op, (*first, x, w), {**two, "layout": "NWC"}, V, "layout")
        yield Case(op, (*first, x, w), {**two, "flip_kernel": 1}, T, "flip_kernel")
        for args, how, exception, names in wrong_algorithms((x, w), two):
            yield Case(op, (*first, *args), how, exception, names)
        yield Case(op, (*first, x, w), {**two, "algorithm": "winograd"}, V, NO_TILES)
    yield Case("conv1d", (x, w, f32(3)), two, V, "bias")
    yield Case("conv1d", (x, w, b), {**two, "residual": f32(2, 4, 1, 7)}, V, "residual")
    yield Case("conv1d", (x, w, b), {**two, "activation": "swoosh"}, V, "activation")
    yield Case("conv1d_backward", (f32(2, 4, 6), x, w), two, V, "grad_out")
    yield Case("conv1d_backward", (grad, x, w), {**two, "needs": ("y",)}, V, "needs")
    yield from conv_transpose(2, f32(2, 6, 4, 5), f32(6, 2, 3, 3), f32(4), f32(2, 4, 6, 7))
    yield from conv_transpose(1, f32(2, 6, 5), f32(6, 2, 3), f32(4), f32(2, 4, 7))
    volume, kernel = f32(2, 6, 4, 5, 6), f32(6, 2, 2, 3, 3)
    yield from conv_transpose(3, volume, kernel, f32(4), f32(2, 4, 5, 7, 8))
    yield from conv_volumes()


def folds() -> Iterator[Case]:
    x, y = f32(2, 3, 5, 6), f32(2, 12, 20)
    yield from wrong_outs("unfold", (f32(1, 2, 3, 3), 1), (1, 2, 9))
    yield from wrong_outs("fold", (f32(1, 2, 9), 3, 1), (1, 2, 3, 3))
    yield from wrong_dtypes("unfold", (x, 2), ("x",))
    yield from wrong_dtypes("fold", (y, (5, 6), 2), ("x",))
    for op, first in (("unfold", (x,)), ("fold", (y, (5, 6)))):
        rows: list[tuple[tuple[Any, ...], dict[str, Any], Any, str]] = [
            *(((v,), {}, V, "kernel_size") for v in (0, (2, 2, 2), 7)),
            *(((v,), {}, T, "kernel_size") for v in (1.5, None)),
            *(((2,), {k: v}, V, k) for k in ("stride", "dilation") for v in (0, (1, 1, 1))),
            *(((2,), {"padding": v}, V, "padding") for v in (-1, "same", (1, 1, 1))),
            ((2,), {"padding": 2**62}, TOO_LARGE, ""),
            ((2**62,), {}, TOO_LARGE, ""),
        ]
        yield from (Case(op, (*first, *args), kw, e, n) for args, kw, e, n in rows)
    yield Case("unfold", (x[0], 2), {}, V, "x")
    yield Case("fold", (y[0], (5, 6), 2), {}, V, "x")
    yield Case("fold", (y[:, :11], (5, 6), 2), {}, V, "x")
    yield Case("fold", (y[..., :19], (5, 6), 2), {}, V, "x")
    yield Case("fold", (y, (0, 6), 2), {}, V, "output_size")
    yield Case("fold", (y, 2**62, 2), {}, TOO_LARGE, "")


def conv_volumes() -> Iterator[Case]:
    x, w, b, grad = f32(2, 6, 4, 5, 6), f32(4, 3, 2, 3, 3), f32(4), f32(2, 4, 3, 3, 4)
    two = {"groups": 2}
    yield from wrong_outs("conv3d", (f32(1, 4, 2, 3, 3), f32(4, 4, 1, 1, 1)), (1, 4, 2, 3, 3))
    yield from wrong_dtypes("conv3d", (x, w, b), ("x", "weight", "bias"), groups=2)
    yield from wrong_dtypes("conv3d_backward", (grad, x, w), ("grad_out", "x", "weight"), groups=2)
    for op, first in (("conv3d", ()), ("conv3d_backward", (grad,))):
        rows: list[tuple[tuple[Any, ...], dict[str, Any], Any, str]] = [
            ((f32(6, 4, 5, 6), w), two, V, "x"),
            ((x, w[0]), two, V, "weight"),
            ((x, f32(4, 3, 2, 0, 3)), two, V, "weight"),
            ((x, f32(4, 3, 5, 3, 3)), two, V, "weight"),
            ((x, w), {}, V, "weight"),
            ((x, w), {"groups": 4}, V, "groups"),
            *(((x, w), {**two, "stride": v}, V, "stride") for v in (0, (1, 1), (1, 1, 0))),
            *(((x, w), {**two, "dilation": v}, V, "dilation") for v in (0, (1,) * 4)),
            *(((x, w), {**two, "padding": v}, V, "padding") for v in (-1, (1, 1), "full")),
            ((x, w), {**two, "padding": 2**62}, TOO_LARGE, ""),
            ((x, w), {**two, "layout": "NDHWC"}, V, "layout"),
            *wrong_algorithms((x, w), two),
            ((x, w), {**two, "algorithm": "winograd"}, V, NO_TILES),
            ((x, w[:, :, :1]), {**two, "algorithm": "winograd"}, V, NO_TILES),
        ]
        yield from (Case(op, (*first, *args), kw, e, n) for args, kw, e, n in rows)
    yield Case("conv3d", (x, w, f32(3)), two, V, "bias")
    yield Case("conv3d", (x, w, b), {**two, "residual": f32(2, 4, 3, 3)}, V, "residual")
    yield Case("conv3d_backward", (f32(2, 4, 3, 3, 3), x, w), two, V, "grad_out")
    yield Case("conv3d_backward", (grad, x, w), {**two, "needs": ("y",)}, V, "needs")


def conv_transpose(axes: int, x: Any, w: Any, b: Any, grad: Any) -> Iterator[Case]:
    plain, gradient = f"conv_transpose{axes}d", f"conv_transpose{axes}d_backward"
    two = {"groups": 2}
    ones = (1,) * axes
    size = (9,) * axes
    yield from wrong_outs(plain, (f32(1, 4, *size), f32(4, 4, *ones)), (1, 4, *size))
    yield from wrong_dtypes(plain, (x, w, b), ("x", "weight", "bias"), groups=2)
    yield from wrong_dtypes(gradient, (grad, x, w), ("grad_out", "x", "weight"), groups=2)
    for op, first in ((plain, ()), (gradient, (grad,))):
        rows: list[tuple[tuple[Any, ...], dict[str, Any], Any, str]] = [
            ((x[0], w), two, V, "x"),
            ((x[None], w), two, V, "x"),
            ((x[..., :0], w), two, V, "x"),
            ((x, w[0]), two, V, "weight"),
            ((x, w[:4]), two, V, r"weight: expected 6 input channels \(those of x\), got 4"),
            ((x, w[..., :0]), two, V, "weight"),
            ((x, w), {"groups": 4}, V, "groups"),
            ((x, w), {"groups": 0}, V, "groups"),
            ((x, w), {"groups": 1.0}, T, "groups"),
            ((x, w), {**two, "padding": 4}, V, "padding"),
            ((x, w), {**two, "padding": -1}, V, "padding"),
            ((x, w), {**two, "padding": "same"}, V, "padding"),
            ((x, w), {**two, "padding": (1,) * (axes + 1)}, V, "padding"),
            ((x, w), {**two, "padding": 1.5}, T, "padding"),
            ((x, w), {**two, "padding": 2**62}, TOO_LARGE, ""),
            ((x, w), {**two, "output_padding": 1}, V, "output_padding"),
            ((x, w), {**two, "output_padding": -1}, V, "output_padding"),
            ((x, w), {**two, "output_padding": 2, "stride": 2}, V, "output_padding"),
            ((x, w), {**two, "output_padding": "1"}, T, "output_padding"),
            ((x, w), {**two, "stride": 0}, V, "stride"),
            ((x, w), {**two, "stride": 2**62}, TOO_LARGE, ""),
            ((x, w), {**two, "stride": 2**40, "output_padding": 2**39}, TOO_LARGE, ""),
            ((x, w), {**two, "dilation": 0}, V, "dilation"),
            ((x, w), {**two, "dilation": 2**62}, TOO_LARGE, ""),
            ((x, w), {**two, "layout": "NCHW"}, V, "layout"),
            *wrong_algorithms((x, w), two),
            ((x, w[..., :2]), {**two, "algorithm": "winograd"}, V, NO_TILES),
            *(
                ((x, w), {**two, "algorithm": "winograd", k: 2}, V, NO_TILES)
                for k in ("stride", "dilation")
            ),
        ]
        yield from (Case(op, (*first, *args), kw, e, n) for args, kw, e, n in rows)
    more: list[tuple[str, tuple[Any, ...], dict[str, Any], Any, str]] = [
        (plain, (x, w, f32(2)), two, V, "bias"),
        (plain, (x, w, b), {**two, "residual": x}, V, "residual"),
        (plain, (x, w, b), {**two, "residual": grad.astype(F64)}, T, "residual"),
        (plain, (x, w, b), {**two, "residual": grad, "out": grad}, V, "out"),
        (plain, (x, w, b), {**two, "activation": "swoosh"}, V, "activation"),
        (gradient, (x, x, w), two, V, "grad_out"),
        (gradient, (grad[0], x, w), two, V, "grad_out"),
        (gradient, (grad, x, w), {**two, "needs": ("weights",)}, V, "needs"),
    ]
    yield from (Case(*row) for row in more)


ACTIVATIONS = [
    *("relu", "leaky_relu", "elu", "selu", "sigmoid", "tanh"),
    *("hardsigmoid", "hardswish", "silu", "gelu", "mish", "softplus"),
]


def elementwise() -> Iterator[Case]:
    x = f32(3, 4)
    for name in ACTIVATIONS:
        yield from wrong_outs(name, (x,), (3, 4))
        yield from wrong_dtypes(name, (x,), ("x",))
        backward = f"{name}_backward"
        yield from wrong_outs(backward, (x, f32(3, 4)), (3, 4))
        yield from wrong_dtypes(backward, (x, f32(3, 4)), ("grad_out", "x"))
        yield Case(backward, (x, f32(4, 3)), {}, V, "x|grad_out")
        yield Case(backward, (x, f32(4)), {}, V, "x|grad_out")
        yield Case(name, (huge(2**60),), {}, TOO_LARGE, "")
        yield Case(name, (x,), {"out": x}, V, "out")
    hyper = [
        *(("leaky_relu", {"negative_slope": v}, V, "negative_slope") for v in (NAN, INF)),
        ("leaky_relu", {"negative_slope": "0.1"}, T, "negative_slope"),
        *(("elu", {"alpha": v}, V, "alpha") for v in (NAN, -INF)),
        ("gelu", {"approximate": "erf"}, V, "approximate"),
        ("gelu", {"approximate": True}, T, "approximate"),
        *(("softplus", {"beta": v}, V, "beta") for v in (NAN, INF, 0.0)),
        ("softplus", {"threshold": NAN}, V, "threshold"),
    ]
    for name, kwargs, exception, argument in hyper:
        yield Case(name, (x,), kwargs, exception, argument)
        yield Case(f"{name}_backward", (x, f32(3, 4)), kwargs, exception, argument)
    for op, first in (("dropout", "x"), ("dropout_backward", "grad_out")):
        yield from wrong_outs(op, (x, 0.5, 1), (3, 4))
        yield from wrong_dtypes(op, (x, 0.5, 1), (first,))
        for p in (-0.1, 1.5, NAN, INF):
            yield Case(op, (x, p, 1), {}, V, "p")
        yield Case(op, (x, "0.5", 1), {}, T, "p")
        for seed in (2**64, 2**80):
            yield Case(op, (x, 0.5, seed), {}, V, "seed")
        for seed in (1.5, None, "1"):
            yield Case(op, (x, 0.5, seed), {}, T, "seed")


def glu() -> Iterator[Case]:
    x, half = f32(3, 4), f32(3, 2)
    yield from wrong_outs("glu", (x,), (3, 2))
    yield from wrong_dtypes("glu", (x,), ("x",))
    yield from wrong_outs("glu_backward", (f32(3, 6), f32(3, 12)), (3, 12))
    yield from wrong_dtypes("glu_backward", (half, x), ("grad_out", "x"))
    yield Case("glu", (huge(2**60),), {}, TOO_LARGE, "")
    rows: list[tuple[tuple[Any, ...], dict[str, Any], Any, str]] = [
        *(((x, v), {}, V, "axis") for v in (2, -3, 2**70)),
        *(((x, v), {}, T, "axis") for v in (1.0, "0", None)),
        ((x, 0), {}, V, "x"),
        ((f32(),), {}, V, "axis"),
        ((x,), {"activation": "swish"}, V, "activation"),
        *(((x,), {"activation": v}, T, "activation") for v in (1, b"relu")),
    ]
    for args, kwargs, exception, names in rows:
        yield Case("glu", args, kwargs, exception, names)
        yield Case("glu_backward", (half, *args), kwargs, exception, names)
    for wrong in (f32(3, 4), f32(3, 1), f32(6), f32(1, 3, 2)):
        yield Case("glu_backward", (wrong, x), {}, V, "grad_out")


def softmax() -> Iterator[Case]:
    x = f32(3, 4)
    for name in ("softmax", "log_softmax"):
        yield from wrong_outs(name, (x,), (3, 4))
        yield from wrong_dtypes(name, (x,), ("x",))
        yield from wrong_outs(f"{name}_backward", (x, f32(3, 4)), (3, 4))
        yield from wrong_dtypes(f"{name}_backward", (x, f32(3, 4)), ("grad_out", "y"))
        yield Case(f"{name}_backward", (x, f32(4, 3)), {}, V, "y|grad_out")
        yield Case(name, (huge(2**60),), {}, TOO_LARGE, "")
        for op, args in ((name, (x,)), (f"{name}_backward", (x, f32(3, 4)))):
            for axis in (2, -3, 2**70):
                yield Case(op, args, {"axis": axis}, V, "axis")
            for wrong in (1.0, "0", None):
                yield Case(op, args, {"axis": wrong}, T, "axis")
    z, t, one = f32(3, 4), np.array([0, 3, 1]), np.ones((), F32)
    losses = (
        ("cross_entropy", (), "logits"),
        ("cross_entropy_backward", (one,), "logits"),
        ("nll_loss", (), "log_probs"),
        ("nll_loss_backward", (one,), "log_probs"),
    )
    for op, first, name in losses:
        soft = name == "logits"
        rows: list[tuple[tuple[Any, ...], dict[str, Any], Any, str]] = [
            ((z.astype(np.int64), t), {}, T, name),
            ((z.tolist(), t), {}, T, name),
            ((f32(), t), {}, V, name),
            ((f32(3, 0), t), {}, V, name),
            ((z, t[:2]), {}, V, "target"),
            ((z, t[:, None]), {}, V, "target"),
            ((z, t.tolist()), {}, T, "target"),
            ((z, t + 1), {}, V, "target"),
            ((z, t - 1), {}, V, "target"),
            ((z, t.astype(np.bool_)), {}, T, "target"),
            ((z, t.astype(np.int16)), {}, T, "target"),
            ((z, f32(3)), {}, V if soft else T, "target"),
            ((z, f64(3, 4)), {}, T, "target"),
            ((z, t), {"weight": f32(3)}, V, "weight"),
            ((z, t), {"weight": f32(3, 4)}, V, "weight"),
            ((z, t), {"weight": f64(4)}, T, "weight"),
            ((z, t), {"weight": [1.0] * 4}, T, "weight"),
            ((z, t), {"reduction": "avg"}, V, "reduction"),
            ((z, t), {"reduction": None}, T, "reduction"),
            ((z, t), {"ignore_index": 1.5}, T, "ignore_index"),
        ]
        smoothing = [(v, V) for v in (-0.1, 1.5, NAN)] + [("0", T)]
        if soft:
            rows += [((z, t), {"label_smoothing": v}, e, "label_smoothing") for v, e in smoothing]
        else:
            rows += [((z, f32(3, 4)), {}, T, "target")]
        yield from (Case(op, (*first, *args), kw, e, n) for args, kw, e, n in rows)
        if first:
            yield from wrong_outs(op, (f32(3), z, t), (3, 4), reduction="none")
            yield Case(op, (f32(3), z, t), {}, V, "grad_out")
            yield Case(op, (one, z, t), {"reduction": "none"}, V, "grad_out")
            yield Case(op, (np.asarray(f64()), z, t), {}, T, "grad_out")
        else:
            yield from wrong_outs(op, (z, t), (3,), reduction="none")
            yield Case(op, (z, t), {"out": f32(1)}, V, "out")


def embedding() -> Iterator[Case]:
    w, i, g = f32(5, 3), np.array([0, 4, 2]), f32(3, 3)
    rows: list[tuple[str, tuple[Any, ...], dict[str, Any], Any, str]] = [
        *(("embedding", (i, v), {}, T, "weight") for v in (w.astype(np.int64), w.tolist(), None)),
        *(("embedding", (i, v), {}, V, "weight") for v in (f32(5), f32(5, 3, 1))),
        *(
            ("embedding", (v, w), {}, T, "indices")
            for v in (g, i.tolist(), i.astype(np.int16), i > 0, None)
        ),
        *(("embedding", (v, w), {}, V, "indices") for v in (i + 1, i - 1, i + (1 << 40))),
        *(("embedding", (i, w, v), {}, V, "padding_idx") for v in (5, -6)),
        *(("embedding", (i, w), {"out": v}, V, "out") for v in (f32(3, 2), f32(9), w[:3], w[1:4])),
        *(("embedding", (i, w), {"out": v}, T, "out") for v in (f64(3, 3), f32(3, 3).tolist())),
        ("embedding", (i, w), {"out": read_only(f32(3, 3))}, V, "out"),
        ("embedding", (i, w, 1.0), {}, T, "padding_idx"),
        ("embedding", (i.reshape((3,) + (1,) * 15), w), {}, V, "indices"),
        *(
            ("embedding_backward", (v, i, 5), {}, V, "grad_out")
            for v in (f32(3), f32(2, 3), f32(3, 1, 3))
        ),
        *(
            ("embedding_backward", (v, i, 5), {}, T, "grad_out")
            for v in (g.astype(np.int64), g.tolist(), None)
        ),
        ("embedding_backward", (g, g, 5), {}, T, "indices"),
        *(("embedding_backward", (g, v, 5), {}, V, "indices") for v in (i + 1, i - 1)),
        ("embedding_backward", (g, i, 4), {}, V, "indices"),
        ("embedding_backward", (g, i, -1), {}, V, "num_embeddings"),
        ("embedding_backward", (g, i, 2**60), {}, TOO_LARGE, ""),
        *(("embedding_backward", (g, i, v), {}, T, "num_embeddings") for v in (5.0, None)),
        *(("embedding_backward", (g, i, 5, v), {}, V, "padding_idx") for v in (5, -6)),
    ]
    yield from wrong_outs("embedding_backward", (g, i, 5), (5, 3))
    yield from (Case(*row) for row in rows)


def optim() -> Iterator[Case]:
    def state(n: int) -> list[Any]:
        return [[f32(3), f32(2, 2), f32(5)] for _ in range(n)]

    for op, n, lists in (
        ("adam_step", 4, ("params", "grads", "exp_avgs", "exp_avg_sqs")),
        ("sgd_step", 3, ("params", "grads", "momentum_buffers")),
        ("adagrad_step", 3, ("params", "grads", "state_sums")),
        ("rmsprop_step", 3, ("params", "grads", "square_avgs")),
    ):
        last = () if op == "rmsprop_step" else (1,)
        base: dict[str, Any] = {"momentum": 0.9} if op == "sgd_step" else {}
        for i, name in enumerate(lists):
            for change, exception in (
                (lambda a: a[:2], V),
                (lambda a: [*a[:2], f32(4)], V),
                (lambda a: [*a[:2], f32(5, 1)], V),
                (lambda a: [*a[:2], f64(5)], T),
                (lambda a: [*a[:2], a[2].astype(np.int64)], T),
                (lambda a: [*a[:2], a[2].tolist()], T),
                (lambda a: [*a[:2], None], T),
                (lambda _: 3, T),
            ):
                arrays = state(n)
                arrays[i] = change(arrays[i])
                # A list that differs from params may be blamed on either.
                yield Case(
                    op,
                    (*arrays, *last),
                    base,
                    exception,
                    f"{name}|{'|'.join(lists)}" if i == 0 else name,
                )
            if name != "grads":
                arrays = state(n)
                read_only(arrays[i][2])
                yield Case(op, (*arrays, *last), base, V, name)
        rows: list[tuple[dict[str, Any], Any, str]] = [
            *(({"lr": v}, V, "lr") for v in (NAN, INF, -INF, -1.0)),
            ({"lr": "1"}, T, "lr"),
            *(({"weight_decay": v}, V, "weight_decay") for v in (NAN, INF, -1.0)),
            *(({"grad_scale": v}, V, "grad_scale") for v in (NAN, INF, 0.0)),
            *(({"max_norm": v}, V, "max_norm") for v in (NAN, -1.0)),
            ({"maximize": 2}, T, "maximize"),
        ]
        if op == "adam_step":
            rows += [
                *(({"betas": (v, 0.9)}, V, "betas") for v in (1.0, 1.5, -0.1, NAN)),
                *(({"betas": (0.9, v)}, V, "betas") for v in (1.0, 1.5, -0.1, NAN)),
                ({"betas": (0.9,)}, V, "betas"),
                ({"betas": 0.9}, T, "betas"),
                *(({"eps": v}, V, "eps") for v in (-1e-8, NAN, INF)),
                ({"eps_mode": "inside"}, V, "eps_mode"),
                ({"eps_mode": 1}, T, "eps_mode"),
                ({"decoupled": "no"}, T, "decoupled"),
                ({"max_exp_avg_sqs": [f32(3)]}, V, "max_exp_avg_sqs"),
                ({"max_exp_avg_sqs": [f32(3), f32(2, 2), f64(5)]}, T, "max_exp_avg_sqs"),
                ({"max_exp_avg_sqs": 1.0}, T, "max_exp_avg_sqs"),
            ]
        elif op == "adagrad_step":
            rows += [
                *(({"lr_decay": v}, V, "lr_decay") for v in (-0.1, NAN, INF)),
                *(({"eps": v}, V, "eps") for v in (-1e-8, NAN, INF)),
            ]
        elif op == "rmsprop_step":
            rows += [
                *(({"alpha": v}, V, "alpha") for v in (-0.1, 1.5, NAN, INF)),
                *(({"eps": v}, V, "eps") for v in (-1e-8, NAN, INF)),
                *(({"momentum": v}, V, "momentum") for v in (NAN, INF, -0.5)),
                ({"momentum": 0.5}, V, "momentum_buffers"),
                ({"grad_avgs": [f32(3)]}, V, "grad_avgs"),
                ({"grad_avgs": [f32(3), f32(2, 2), f64(5)]}, T, "grad_avgs"),
                ({"momentum_buffers": 1.0}, T, "momentum_buffers"),
            ]
        else:
            rows += [
                *(({"momentum": v}, V, "momentum") for v in (NAN, INF, -0.5)),
                *(({"dampening": v}, V, "dampening") for v in (NAN, INF)),
                ({"nesterov": True, "momentum": 0.0}, V, "nesterov|momentum"),
                ({"nesterov": True, "dampening": 0.5}, V, "nesterov|dampening"),
                ({"nesterov": 1.0}, T, "nesterov"),
            ]
        for kwargs, exception, argument in rows:
            yield Case(op, (*state(n), *last), base | kwargs, exception, argument)
        for step, exception in () if not last else ((0, V), (-1, V), (1.5, T), (None, T), ("1", T)):
            yield Case(op, (*state(n), step), base, exception, "step")
    params, grads = state(2)
    yield Case("sgd_step", (params, grads), {"momentum": 0.9}, V, "momentum_buffers")


def plans() -> Iterator[Case]:
    """Errors of the planned call itself name that call (tests/kernels/test_plan.py)."""
    for op in ("relu", "linear", "", 2):
        yield Case("plan", (op, f32(1, 2, 5, 5), f32(3, 2, 3, 3)), {}, NotImplementedError, "op")


def packs() -> Iterator[Case]:
    """A packed weight in a wrong place is tested in tests/kernels/test_pack.py."""
    for op, exception in (("relu", V), ("", V), ("linear_backward", V), (2, T), (None, T)):
        yield Case("pack", (f32(3, 4), op), {}, exception, "op")
    for weight, op in (
        (f32(4), "linear"),
        (f32(3, 2, 3), "linear"),
        (f32(3, 2, 3), "conv2d"),
        (f32(3, 2, 3, 3), "conv_transpose1d"),
    ):
        yield Case("pack", (weight, op), {}, V, "weight")
    for wrong in (np.ones((3, 4), np.int64), f32(3, 4).astype(">f4"), [[1.0]], None, "w"):
        yield Case("pack", (wrong, "linear"), {}, T, "weight")
    w = [f32(20, 3), f32(20, 5)]
    yield Case("pack", ([], "lstm"), {}, V, "weight")
    yield Case("pack", ([*w, f32(2, 2, 2)], "lstm"), {}, V, r"weight\[2\]")
    for several in (w[0], None, "w"):
        yield Case("pack", (several, "rnn"), {}, T, "weight")
    for first in (np.ones((20, 3), np.int64), [[1.0]], f64(20, 3)):
        yield Case("pack", ([w[1], first], "gru"), {}, T, r"weight\[1\]")


TABLE = [
    *gemm(),
    *conv(),
    *conv_others(),
    *conv_pools(),
    *folds(),
    *pool(),
    *signal_pool(),
    *volume_pool(),
    *adaptive_pool(),
    *lp_and_unpool(),
    *elementwise(),
    *glu(),
    *softmax(),
    *row_norms(),
    *channel_norms(),
    *embedding(),
    *rope(),
    *optim(),
    *attention(),
    *recurrent(),
    *rnn_weights(),
    *plans(),
    *packs(),
]


def describe(value: Any) -> str:
    """Spell an argument for the name of a test."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}".replace(" ", "")
    if isinstance(value, list):
        return f"list{len(value)}"
    return repr(value)


def name_of(case: Case) -> str:
    arguments = [describe(a) for a in case.args]
    arguments += [f"{k}={describe(v)}" for k, v in case.kwargs.items()]
    return f"{case.op}({', '.join(arguments)})"


def arrays_in(value: Any) -> list[Any]:
    """Return the arrays of an argument; of a huge view, the one number behind it."""
    if isinstance(value, np.ndarray):
        return [value.base if value.base is not None and 0 in value.strides else value]
    if isinstance(value, list | tuple):
        return [a for v in value for a in arrays_in(v)]
    return []


@pytest.mark.parametrize("case", TABLE, ids=name_of)
def test_wrong_call(case: Case) -> None:
    arrays = arrays_in([*case.args, *case.kwargs.values()])
    before = [(a.tobytes(), a.shape, a.dtype) for a in arrays]
    pattern = rf"^\[{case.op}\] (?:{case.names})" if case.names else rf"^\[{case.op}\] \w+"
    with pytest.raises(case.exception, match=pattern) as caught:
        getattr(kernels, case.op)(*case.args, **case.kwargs)
    assert "expected" in str(caught.value) or case.exception is TOO_LARGE
    assert [(a.tobytes(), a.shape, a.dtype) for a in arrays] == before


def test_the_table_names_every_kernel() -> None:
    assert {case.op for case in TABLE} == {
        name for name in kernels.__all__ if not isinstance(getattr(kernels, name), type)
    }
