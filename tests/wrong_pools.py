"""Every wrong call of the pooling family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

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
    huge,
    wrong_dtypes,
    wrong_outs,
)


def wrong_grad_outs(op: str, args: tuple[Any, ...], shape: tuple[int, ...]) -> Iterator[Case]:
    """Yield the ways in which a gradient's `out` can be wrong; every array is of its shape."""
    yield from wrong_outs(op, args, shape)
    for i, a in enumerate(args[1:], 1):
        if not isinstance(a, np.ndarray):
            continue
        if a.dtype == F32:
            yield Case(op, args, {"out": a}, V, "out")
            continue
        wide = (args[0].astype(F64), *args[1:])
        yield Case(op, wide, {"out": args[i].view(F64)}, V, "out")
        # Nothing is written where an index is wrong.
        for bad in (a - 1, a + (1 << 40)):
            changed = (*args[:i], bad, *args[i + 1 :])
            yield Case(op, changed, {"out": f32(*shape)}, V, "indices")


def wrong_max_outs(op: str, args: tuple[Any, ...], shape: tuple[int, ...]) -> Iterator[Case]:
    """Yield those of the gradient of a maximum, by indices as well."""
    yield from wrong_grad_outs(op, args, shape)
    indices = np.zeros(shape, np.int64)
    wide = tuple(a.astype(F64) if isinstance(a, np.ndarray) else a for a in args)
    yield Case(op, wide, {"indices": indices, "out": indices.view(F64)}, V, "out")
    for bad in (indices - 1, indices + (1 << 40)):
        yield Case(op, args, {"indices": bad, "out": f32(*shape)}, V, "indices")


def pool() -> Iterator[Case]:
    x, y = f32(2, 3, 6, 6), f32(2, 3, 3, 3)
    for op in ("max_pool2d", "avg_pool2d"):
        yield from wrong_outs(op, (f32(1, 2, 3, 3), 1), (1, 2, 3, 3))
        yield from wrong_dtypes(op, (x, 2), ("x",), integers=op.startswith("max"))
    yield from wrong_dtypes("max_pool2d_backward", (y, x, 2), ("grad_out", "x"))
    yield from wrong_dtypes("avg_pool2d_backward", (y, x.shape, 2), ("grad_out",))
    same = f32(1, 2, 3, 3)
    yield from wrong_max_outs("max_pool2d_backward", (same, same + 1, 1), same.shape)
    yield from wrong_grad_outs("avg_pool2d_backward", (same, same.shape, 1), same.shape)
    for op, first in (
        ("max_pool2d", (x,)),
        ("avg_pool2d", (x,)),
        ("max_pool2d_backward", (y, x)),
        ("avg_pool2d_backward", (y, x.shape)),
    ):
        rows: list[tuple[tuple[Any, ...], dict[str, Any], Any, str]] = [
            *((((v,), {}, V, "kernel_size")) for v in (0, -1, (2, 0), (2, 2, 2), ())),
            *((((v,), {}, T, "kernel_size")) for v in (1.5, "2", None, (2, 1.5))),
            *(
                (((2,), {k: v}, V, k))
                for k in ("stride", "dilation")
                for v in (0, -1, (1, 0), (1, 1, 1))
            ),
            *((((2,), {k: v}, T, k)) for k in ("stride", "dilation") for v in (1.5, "1")),
            *(
                (((2,), {"padding": v}, V, "padding"))
                for v in (-1, 2, (0, 2), "full", ((0, -1), (0, 0)))
            ),
            *((((2,), {"padding": v}, T, "padding")) for v in (0.5, None)),
            ((7,), {}, V, "x|kernel_size|padding|x_shape"),
            ((2**62,), {}, TOO_LARGE, ""),
            ((3,), {"dilation": 2**62}, TOO_LARGE, ""),
            ((2,), {"layout": "NHWC"}, V, "layout"),
            ((2,), {"layout": None}, T, "layout"),
            ((2,), {"ceil_mode": "yes"}, T, "ceil_mode"),
        ]
        yield from (Case(op, (*first, *args), kw, e, n) for args, kw, e, n in rows)
    shape = x.shape
    indices = np.zeros(y.shape, np.int64)
    more: list[tuple[str, tuple[Any, ...], dict[str, Any], Any, str]] = [
        ("max_pool2d", (f32(3, 6, 6), 2), {}, V, "x"),
        ("avg_pool2d", (f32(1, 2, 3, 6, 6), 2), {}, V, "x"),
        ("avg_pool2d", (x, 2), {"divisor_override": 0}, V, "divisor_override"),
        ("avg_pool2d", (x, 2), {"divisor_override": 1.5}, T, "divisor_override"),
        ("avg_pool2d", (x, 2), {"count_include_pad": 3}, T, "count_include_pad"),
        ("max_pool2d", (x, 2), {"return_indices": 3}, T, "return_indices"),
        ("max_pool2d", (huge(2**50, 1, 2, 2), 1), {}, TOO_LARGE, ""),
        ("avg_pool2d", (huge(2**50, 1, 2, 2), 1), {}, TOO_LARGE, ""),
        ("max_pool2d_backward", (f32(2, 3, 3, 2), x, 2), {}, V, "grad_out"),
        ("max_pool2d_backward", (f32(2, 3, 9), x, 2), {}, V, "grad_out"),
        ("max_pool2d_backward", (y, x, 2), {"indices": indices[:1]}, V, "indices"),
        ("max_pool2d_backward", (y, x, 2), {"indices": indices.astype(F32)}, T, "indices"),
        ("max_pool2d_backward", (y, x, 2), {"indices": indices + 36}, V, "indices"),
        ("max_pool2d_backward", (y, x, 2), {"indices": indices - 2}, V, "indices"),
        ("avg_pool2d_backward", (f32(2, 3, 3, 2), shape, 2), {}, V, "grad_out"),
        ("avg_pool2d_backward", (y, shape[1:], 2), {}, V, "x_shape"),
        ("avg_pool2d_backward", (y, (2, 3, -6, 6), 2), {}, V, "x_shape"),
        ("avg_pool2d_backward", (y, (2, 3, 6.0, 6), 2), {}, T, "x_shape"),
        ("avg_pool2d_backward", (y, (2**40, 2**40, 6, 6), 2), {}, TOO_LARGE, ""),
    ]
    yield from (Case(*row) for row in more)


def signal_pool() -> Iterator[Case]:
    x, y = f32(2, 3, 6), f32(2, 3, 3)
    for op in ("max_pool1d", "avg_pool1d"):
        yield from wrong_outs(op, (f32(2, 2, 3), 1), (2, 2, 3))
        yield from wrong_dtypes(op, (x, 2), ("x",), integers=op.startswith("max"))
    yield from wrong_dtypes("max_pool1d_backward", (y, x, 2), ("grad_out", "x"))
    yield from wrong_dtypes("avg_pool1d_backward", (y, x.shape, 2), ("grad_out",))
    same = f32(2, 2, 3)
    yield from wrong_max_outs("max_pool1d_backward", (same, same + 1, 1), same.shape)
    yield from wrong_grad_outs("avg_pool1d_backward", (same, same.shape, 1), same.shape)
    for op, first in (
        ("max_pool1d", (x,)),
        ("avg_pool1d", (x,)),
        ("max_pool1d_backward", (y, x)),
        ("avg_pool1d_backward", (y, x.shape)),
    ):
        rows: list[tuple[tuple[Any, ...], dict[str, Any], Any, str]] = [
            *((((v,), {}, V, "kernel_size")) for v in (0, -1, (2, 2), ())),
            *((((v,), {}, T, "kernel_size")) for v in (1.5, "2", None)),
            *((((2,), {k: v}, V, k)) for k in ("stride", "dilation") for v in (0, (1, 1))),
            *((((2,), {"padding": v}, V, "padding")) for v in (-1, 2, (0, 1), ((0, 2),))),
            ((7,), {}, V, "kernel_size"),
            ((2,), {"layout": "NWC"}, V, "layout"),
            ((2,), {"ceil_mode": "yes"}, T, "ceil_mode"),
        ]
        yield from (Case(op, (*first, *args), kw, e, n) for args, kw, e, n in rows)
    indices = np.zeros(y.shape, np.int64)
    more: list[tuple[str, tuple[Any, ...], dict[str, Any], Any, str]] = [
        ("max_pool1d", (f32(1, 2, 6, 6), 2), {}, V, "x"),
        ("avg_pool1d", (f32(2, 6), 2), {}, V, "x"),
        ("avg_pool1d", (x, 2), {"divisor_override": 0}, V, "divisor_override"),
        ("max_pool1d_backward", (f32(2, 3, 4), x, 2), {}, V, "grad_out"),
        ("max_pool1d_backward", (y, x, 2), {"indices": indices[:1]}, V, "indices"),
        ("max_pool1d_backward", (y, x, 2), {"indices": indices - 1}, V, "indices"),
        ("avg_pool1d_backward", (y, (2, 3, 1, 6), 2), {}, V, "x_shape"),
    ]
    yield from (Case(*row) for row in more)


def volume_pool() -> Iterator[Case]:
    x, y = f32(2, 3, 6, 6, 6), f32(2, 3, 3, 3, 3)
    for op in ("max_pool3d", "avg_pool3d"):
        yield from wrong_outs(op, (f32(2, 2, 3, 3, 3), 1), (2, 2, 3, 3, 3))
        yield from wrong_dtypes(op, (x, 2), ("x",), integers=op.startswith("max"))
    yield from wrong_dtypes("max_pool3d_backward", (y, x, 2), ("grad_out", "x"))
    yield from wrong_dtypes("avg_pool3d_backward", (y, x.shape, 2), ("grad_out",))
    same = f32(2, 2, 3, 3, 3)
    yield from wrong_max_outs("max_pool3d_backward", (same, same + 1, 1), same.shape)
    yield from wrong_grad_outs("avg_pool3d_backward", (same, same.shape, 1), same.shape)
    for op, first in (
        ("max_pool3d", (x,)),
        ("avg_pool3d", (x,)),
        ("max_pool3d_backward", (y, x)),
        ("avg_pool3d_backward", (y, x.shape)),
    ):
        rows: list[tuple[tuple[Any, ...], dict[str, Any], Any, str]] = [
            *((((v,), {}, V, "kernel_size")) for v in (0, -1, (2, 2), (2, 2, 0), ())),
            *((((v,), {}, T, "kernel_size")) for v in (1.5, "2", None)),
            *((((2,), {k: v}, V, k)) for k in ("stride", "dilation") for v in (0, (1, 1))),
            *(
                (((2,), {"padding": v}, V, "padding"))
                for v in (-1, 2, (0, 1), (0, 0, 2), ((0, 2),))
            ),
            ((7,), {}, V, "kernel_size"),
            ((2,), {"layout": "NDHWC"}, V, "layout"),
            ((2,), {"ceil_mode": "yes"}, T, "ceil_mode"),
        ]
        yield from (Case(op, (*first, *args), kw, e, n) for args, kw, e, n in rows)
    indices = np.zeros(y.shape, np.int64)
    more: list[tuple[str, tuple[Any, ...], dict[str, Any], Any, str]] = [
        ("max_pool3d", (f32(1, 2, 6, 6), 2), {}, V, "x"),
        ("avg_pool3d", (f32(2, 3, 6, 6), 2), {}, V, "x"),
        ("avg_pool3d", (x, 2), {"divisor_override": 0}, V, "divisor_override"),
        ("max_pool3d_backward", (f32(2, 3, 3, 3, 4), x, 2), {}, V, "grad_out"),
        ("max_pool3d_backward", (y, x, 2), {"indices": indices[:1]}, V, "indices"),
        ("max_pool3d_backward", (y, x, 2), {"indices": indices - 1}, V, "indices"),
        ("avg_pool3d_backward", (y, (2, 3, 6, 6), 2), {}, V, "x_shape"),
    ]
    yield from (Case(*row) for row in more)


def adaptive_pool() -> Iterator[Case]:
    signal, image, volume = f32(2, 3, 5), f32(2, 3, 5, 7), f32(2, 3, 4, 5, 7)
    rows: list[tuple[str, tuple[Any, ...], dict[str, Any], Any, str]] = []
    for many, x in enumerate((signal, image, volume), 1):
        op = f"adaptive_{{}}_pool{many}d"
        y = f32(2, 3, *(3,) * many)
        for kind in ("max", "avg"):
            name = op.format(kind)
            back = f"{name}_backward"
            source = x if kind == "max" else x.shape
            yield from wrong_outs(name, (x, 3), y.shape)
            yield from wrong_dtypes(name, (x, 3), ("x",), integers=kind == "max")
            names = ("grad_out", "x")[: 2 if kind == "max" else 1]
            yield from wrong_dtypes(back, (y, source, 3), names)
            if kind == "max":
                yield from wrong_max_outs(back, (y, y + 1, 3), y.shape)
            else:
                yield from wrong_grad_outs(back, (y, y.shape, 3), y.shape)
            for call, first in ((name, (x,)), (back, (y, source))):
                rows += [(call, (*first, v), {}, V, "output_size") for v in (-1, (3,) * 4, ())]
                rows += [(call, (*first, v), {}, T, "output_size") for v in (1.5, "3")]
                rows += [
                    (call, (*first, 3), {"layout": "NHWC"}, V, "layout"),
                    (call, (*first, 2**62), {}, TOO_LARGE, ""),
                ]
            rows += [
                (name, (f32(3, 5), 3), {}, V, "x"),
                (name, (x[..., :0], 3), {}, V, "x"),
                (back, (y[..., :2], source, 3), {}, V, "grad_out"),
            ]
        indices = np.zeros(y.shape, np.int64)
        back = f"{op.format('max')}_backward"
        rows += [
            (op.format("max"), (x, 3), {"return_indices": 1}, T, "return_indices"),
            (back, (y, x, 3), {"indices": indices[:1]}, V, "indices"),
            (back, (y, x, 3), {"indices": indices - 1}, V, "indices"),
            (back, (y, x, 3), {"indices": y}, T, "indices"),
            (f"{op.format('avg')}_backward", (y, x.shape[1:], 3), {}, V, "x_shape"),
        ]
    for kind in ("max", "avg"):
        name = f"global_{kind}_pool"
        back = f"{name}_backward"
        for x in (signal, image, volume):
            y = f32(2, 3, *(1,) * (x.ndim - 2))
            source = x if kind == "max" else x.shape
            yield from wrong_outs(name, (x,), y.shape)
            yield from wrong_dtypes(name, (x,), ("x",), integers=kind == "max")
            names = ("grad_out", "x")[: 2 if kind == "max" else 1]
            yield from wrong_dtypes(back, (y, source), names)
            if kind == "max":
                yield from wrong_max_outs(back, (y, y + 1), y.shape)
            else:
                yield from wrong_grad_outs(back, (y, y.shape), y.shape)
            rows += [
                (name, (x[..., :0],), {}, V, "x"),
                (name, (x,), {"layout": 3}, T, "layout"),
                (back, (f32(2, 3, 2), source), {}, V, "grad_out"),
            ]
        rows += [(name, (f32(3, 5),), {}, V, "x"), (name, (f32(1, 1, 1, 1, 3, 5),), {}, V, "x")]
    indices = np.full((2, 3, 1), 5)
    rows += [
        ("global_max_pool", (signal,), {"return_indices": 1}, T, "return_indices"),
        ("global_max_pool_backward", (f32(2, 3, 1), signal), {"indices": indices}, V, "indices"),
        ("global_avg_pool_backward", (f32(2, 3, 1), (2, 3)), {}, V, "x_shape"),
        ("global_avg_pool_backward", (f32(2, 3, 1), (2, -3, 1)), {}, V, "x_shape"),
        ("global_avg_pool_backward", (f32(2, 3, 1), 3), {}, T, "x_shape"),
    ]
    yield from (Case(*row) for row in rows)


def lp_and_unpool() -> Iterator[Case]:
    rows: list[tuple[str, tuple[Any, ...], dict[str, Any], Any, str]] = []
    for axes, x in ((1, f32(2, 3, 6)), (2, f32(2, 3, 6, 6)), (3, f32(2, 3, 6, 6, 6))):
        y = f32(2, 3, *(3,) * axes)
        lp, back = f"lp_pool{axes}d", f"lp_pool{axes}d_backward"
        yield from wrong_outs(lp, (f32(2, 2, *(3,) * axes), 2, 1), (2, 2, *(3,) * axes))
        yield from wrong_dtypes(lp, (x, 2, 2), ("x",))
        yield from wrong_dtypes(back, (y, x, y, 2, 2), ("grad_out", "x", "y"))
        yield from wrong_grad_outs(back, (y, y + 1, y + 2, 2, 1), y.shape)
        for op, first in ((lp, (x,)), (back, (y, x, y))):
            rows += [(op, (*first, v, 2), {}, V, "norm_type") for v in (0, -1.0, INF, NAN)]
            rows += [(op, (*first, v, 2), {}, T, "norm_type") for v in ("2", None)]
            rows += [(op, (*first, 2, v), {}, V, "kernel_size") for v in (0, 7, (2, 2, 2, 2))]
            rows += [
                (op, (*first, 2, 2, 0), {}, V, "stride"),
                (op, (*first, 2, 2), {"ceil_mode": 1}, T, "ceil_mode"),
                (op, (*first, 2, 2), {"layout": "NHWC"}, V, "layout"),
                *((op, (*first, 2, 2), {"padding": v}, V, "padding") for v in (-1, 2, "full")),
                *((op, (*first, 2, 2), {"dilation": v}, V, "dilation") for v in (0, (1,) * 4)),
                *((op, (*first, 2, 2), {k: 1.5}, T, k) for k in ("padding", "dilation")),
                (op, (*first, 2, 2), {"dilation": 7}, V, "kernel_size"),
            ]
        rows += [
            (lp, (x[0], 2, 2), {}, V, "x"),
            (back, (y[..., :1], x, y, 2, 2), {}, V, "grad_out"),
            (back, (y, x, y[..., :1], 2, 2), {}, V, "y"),
        ]
        name, one = "global_lp_pool", f32(2, 3, *(1,) * axes)
        back = f"{name}_backward"
        yield from wrong_outs(name, (x, 2), one.shape)
        yield from wrong_dtypes(name, (x, 2), ("x",))
        yield from wrong_grad_outs(back, (one, one + 1, one + 2, 2), one.shape)
        yield from wrong_dtypes(back, (one, x, one, 2), ("grad_out", "x", "y"))
        for op, first in ((name, (x,)), (back, (one, x, one))):
            rows += [(op, (*first, v), {}, V, "norm_type") for v in (0, -1.0, INF, NAN)]
            rows += [(op, (*first, v), {}, T, "norm_type") for v in ("2", None)]
            rows += [(op, (*first, 2), {"layout": "NHWC"}, V, "layout")]
        rows += [
            (name, (x[..., :0], 2), {}, V, "x"),
            (name, (f32(3, 5), 2), {}, V, "x"),
            (back, (y, x, one, 2), {}, V, "grad_out"),
            (back, (one, x, y, 2), {}, V, "y"),
        ]
        up, back = f"max_unpool{axes}d", f"max_unpool{axes}d_backward"
        where = np.zeros(y.shape, np.int64)
        yield from wrong_outs(up, (f32(2, 3, *(3,) * axes), where, 1), y.shape)
        yield from wrong_dtypes(up, (y, where, 2), ("x",))
        yield from wrong_dtypes(back, (x, where), ("grad_out",))
        yield from wrong_grad_outs(back, (y, where), y.shape)
        for bad in (where - 1, where + 3**axes):
            yield Case(up, (y, bad, 1), {"out": f32(*y.shape)}, V, "indices")
        for wrong in (where.astype(np.int32), y, where.tolist(), None):
            rows += [(up, (y, wrong, 2), {}, T, "indices"), (back, (x, wrong), {}, T, "indices")]
        for bad in (where - 1, where + 6**axes, where + (1 << 40)):
            rows += [(up, (y, bad, 2), {}, V, "indices"), (back, (x, bad), {}, V, "indices")]
        rows += [(up, (y, where, v), {}, V, "kernel_size") for v in (0, (2,) * 4)]
        rows += [(up, (y, where, 2), {k: -1}, V, k) for k in ("stride", "padding")]
        rows += [
            (up, (y, where, 2), {"output_size": v}, V, "output_size") for v in (4, 8, (6,) * 4)
        ]
        rows += [
            (up, (y, where[:1], 2), {}, V, "indices"),
            (up, (y[0], where[0], 2), {}, V, "x"),
            (up, (y, where, 2), {"padding": 3}, V, "output_size"),
            (up, (y, where, 2), {"output_size": 6.0}, T, "output_size"),
            (up, (y, where, 2, 2**62), {}, TOO_LARGE, ""),
            (up, (y, where, 2), {"layout": 1}, T, "layout"),
            (back, (x, where[:1]), {}, V, "indices"),
            (back, (x, where[0]), {}, V, "indices"),
            (back, (x[0], where), {}, V, "grad_out"),
        ]
    yield from (Case(*row) for row in rows)
