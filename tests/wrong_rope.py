"""Every wrong call of rope and its backward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from wrong_calls import (
    F64,
    TOO_LARGE,
    Case,
    T,
    V,
    f32,
    f64,
    huge,
    wrong_dtypes,
    wrong_outs,
)


def rope() -> Iterator[Case]:
    x, cos, sin = f32(2, 3, 5, 8), f32(9, 4), f32(9, 4)
    for op, first in (("rope", "x"), ("rope_backward", "grad_out")):
        yield from wrong_outs(op, (x, cos, sin), (2, 3, 5, 8))
        yield from wrong_dtypes(op, (x, cos, sin), (first, "cos", "sin"))
        long = 2**43
        many = huge(long, 4)
        yield Case(op, (huge(1, 1, long, 8), many, many), {}, TOO_LARGE, "")
        own = f32(2, 5, 4)
        rows: list[tuple[tuple[Any, ...], dict[str, Any], Any, str]] = [
            *(((v, cos, sin), {}, V, first) for v in (f32(), f32(5, 8), f32(1, 2, 3, 5, 8))),
            *(((x, v, sin), {}, V, "cos") for v in (f32(4), f32(9, 5), f32(1, 2, 5, 4))),
            *(((x, cos, v), {}, V, "sin") for v in (f32(4), f32(9, 3), f32(8, 4))),
            *(((x, v, v), {}, V, "cos") for v in (f32(2, 4, 4), f32(1, 5, 4), f32(2, 9, 4))),
            ((x, own, cos), {}, V, "sin"),
            ((x, own, own.astype(F64)), {}, T, "sin"),
            *(((x, own, own, v), {}, V, "positions") for v in (0, np.arange(5))),
            ((x, cos[:4], sin[:4]), {}, V, "positions: .* got 4"),
            *(((x, cos, sin, v), {}, V, "positions") for v in (5, -1, 2**70)),
            *(
                ((x, cos, sin, v), {}, V, "positions")
                for v in (
                    np.arange(4),
                    np.arange(5) + 5,
                    np.arange(5) - 1,
                    np.zeros((3, 5), np.int64),
                    np.zeros((2, 4), np.int64),
                    np.zeros((1, 2, 5), np.int64),
                    np.array(3),
                )
            ),
            *(
                ((x, cos, sin, v), {}, T, "positions")
                for v in (1.0, "0", [0, 1, 2, 3, 4], f64(5), np.arange(5, dtype=np.int16))
            ),
            ((x, cos, sin), {"interleaved": 1}, T, "interleaved"),
            ((x, cos, sin), {"interleaved": None}, T, "interleaved"),
            *(((x, cos, sin), {"layout": v}, V, "layout") for v in ("lbhd", "")),
            ((x, cos, sin), {"layout": None}, T, "layout"),
        ]
        yield from (Case(op, *row) for row in rows)
