"""Every wrong call of the norm family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from wrong_calls import (
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

Row = tuple[str, tuple[Any, ...], dict[str, Any], Any, str]


def row_norms() -> Iterator[Case]:
    x, w = f32(3, 4), f32(4)
    stat = np.ones(3)
    for name in ("layer_norm", "rms_norm"):
        back = f"{name}_backward"
        centred = name == "layer_norm"
        yield from wrong_outs(name, (x, 4), (3, 4))
        yield from wrong_dtypes(name, (x, 4), ("x",))
        yield from wrong_dtypes(back, (f32(3, 4), x, 4), ("grad_out", "x"))
        rows: list[Row] = []
        for op, first in ((name, ()), (back, (f32(3, 4),))):
            rows += [
                *(
                    (op, (*first, x, v), {}, V, "normalized_shape")
                    for v in (3, (4, 3), (1, 3, 4), ())
                ),
                *((op, (*first, x, v), {}, T, "normalized_shape") for v in (4.0, None, (4.0,))),
                *((op, (*first, x, 4, v), {}, V, "weight") for v in (f32(3), f32(1, 4), f32())),
                (op, (*first, x, 4, f64(4)), {}, T, "weight"),
                (op, (*first, x, 4, [1.0] * 4), {}, T, "weight"),
                *((op, (*first, x, 4), {"eps": v}, V, "eps") for v in (-1e-5, NAN, INF)),
                (op, (*first, x, 4), {"eps": "1"}, T, "eps"),
            ]
        given: Any = (stat, stat) if centred else stat
        rows += [
            (name, (f32(), 1), {}, V, "x"),
            (name, (huge(2**60), 2**60), {}, TOO_LARGE, ""),
            (name, (x, 4), {"activation": "swoosh"}, V, "activation"),
            (name, (x, 4), {"activation": 1}, T, "activation"),
            (name, (x, 4), {"return_stats": 1}, T, "return_stats"),
            (name, (x, 4), {"out": x}, V, "out"),
            (back, (f32(4, 3), x, 4), {}, V, "x|grad_out"),
            (back, (x, x, 4), {"needs": ("y",)}, V, "needs"),
            (back, (x, x, 4), {"needs": 1}, T, "needs"),
        ]
        wrong: list[tuple[Any, Any]] = [(np.ones(4), V), (np.ones((3, 1)), V), (f32(3), T)]
        for bad, exception in wrong:
            stats = (stat, bad) if centred else bad
            rows.append((back, (x, x, 4), {"stats": stats}, exception, "stats"))
        if centred:
            rows += [
                (back, (x, x, 4), {"stats": (stat,)}, V, "stats"),
                (back, (x, x, 4), {"stats": 3}, T, "stats"),
                (name, (x, 4, w, f32(3)), {}, V, "bias"),
                (name, (x, 4, w, f64(4)), {}, T, "bias"),
            ]
        else:
            rows.append((back, (x, x, 4), {"needs": ("bias",), "stats": given}, V, "needs"))
        yield from (Case(*row) for row in rows)


def channel_norms() -> Iterator[Case]:
    x, w, grad = f32(2, 6, 5), f32(6), f32(2, 6, 5)
    for name in ("batch_norm", "group_norm", "instance_norm"):
        back = f"{name}_backward"
        grouped = name == "group_norm"
        # Positional arguments between x and weight, and the flag that asks for x's statistics.
        middle: tuple[Any, ...] = (3,) if grouped else (None, None)
        own: dict[str, Any] = {"training": True} if name == "batch_norm" else {}
        size = {"batch_norm": (6,), "group_norm": (2, 3), "instance_norm": (2, 6)}[name]
        stat = np.ones(size)
        yield from wrong_outs(name, (x, *middle), (2, 6, 5), **own)
        yield from wrong_dtypes(name, (x, *middle), ("x",), **own)
        yield from wrong_dtypes(back, (grad, x, *middle), ("grad_out", "x"), **own)
        rows: list[Row] = []
        for op, first in ((name, ()), (back, (grad,))):
            rows += [
                *((op, (*first, x, *middle, v), own, V, "weight") for v in (f32(5), f32(6, 1))),
                (op, (*first, x, *middle, f64(6)), own, T, "weight"),
                *(
                    (op, (*first, x, *middle), {**own, "eps": v}, V, "eps")
                    for v in (-1.0, NAN, INF)
                ),
                (op, (*first, x, *middle), {**own, "eps": None}, T, "eps"),
                (op, (*first, x, *middle), {**own, "layout": "NCL"}, V, "layout"),
                (op, (*first, x, *middle), {**own, "layout": 0}, T, "layout"),
            ]
        rows += [
            (name, (f32(6), *middle), own, V, "x"),
            (back, (f32(6), f32(6), *middle), own, V, "x"),
            (back, (f32(2, 5, 6), x, *middle), own, V, "x|grad_out"),
            (name, (x, *middle, w, f32(5)), own, V, "bias"),
            (name, (x, *middle, w, f64(6)), own, T, "bias"),
            (name, (huge(2**50, 6, 1), *middle), own, TOO_LARGE, ""),
            (name, (x, *middle), {**own, "activation": "swoosh"}, V, "activation"),
            (name, (x, *middle), {**own, "activation": 1}, T, "activation"),
            (name, (x, *middle), {**own, "return_stats": None}, T, "return_stats"),
            (back, (grad, x, *middle), {**own, "needs": ("y",)}, V, "needs"),
            (back, (grad, x, *middle), {**own, "needs": 1}, T, "needs"),
            (back, (grad, x, *middle), {**own, "stats": (stat, stat[:1])}, V, "stats"),
            (back, (grad, x, *middle), {**own, "stats": (stat,)}, V, "stats"),
            (back, (grad, x, *middle), {**own, "stats": (stat, stat.astype("f4"))}, T, "stats"),
            (back, (grad, x, *middle), {**own, "stats": stat[0]}, T, "stats"),
        ]
        if grouped:
            for op, first in ((name, ()), (back, (grad,))):
                rows += [(op, (*first, x, v), {}, V, "num_groups") for v in (0, -2, 4, 12)]
                rows += [(op, (*first, x, v), {}, T, "num_groups") for v in (2.0, None, "3")]
        else:
            rows += running(name, x, own)
        yield from (Case(*row) for row in rows)


def running(name: str, x: Any, own: dict[str, Any]) -> Iterator[Row]:
    """Yield what running statistics add."""
    flag = "training" if name == "batch_norm" else "use_input_stats"
    fixed = {flag: False}
    mean, var = f32(6), f32(6)
    for op, first in ((name, ()), (f"{name}_backward", (x.copy(),))):
        yield op, (*first, x), fixed, V, "running_mean"
        for use in (own, fixed):
            yield op, (*first, x, mean), use, V, "running_var"
            yield op, (*first, x, None, var), use, V, "running_mean"
            yield op, (*first, x, f32(5), var), use, V, "running_mean"
            yield op, (*first, x, mean, f32(6, 1)), use, V, "running_var"
            yield op, (*first, x, mean, var.astype(F64)), use, T, "running_var"
            yield op, (*first, x, mean.tolist(), var), use, T, "running_mean"
        yield op, (*first, x), {flag: 1}, T, flag
        lone = f32(1, 6, 1)
        yield op, ((lone.copy(), lone) if first else (lone,)), own, V, "x: expected more than 1"
    yield name, (x, read_only(f32(6)), var), {flag: True}, V, "running_mean"
    yield name, (x, mean, read_only(f32(6))), {flag: True}, V, "running_var"
    for momentum, exception in ((NAN, V), (INF, V), ("0.1", T), (None, T)):
        yield name, (x, mean, var), {flag: True, "momentum": momentum}, exception, "momentum"
