"""Every wrong call of the conversion of recurrent weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from wrong_calls import Case, V, f32


def rnn_weights() -> Iterator[Case]:
    good = [f32(8, 3), f32(8, 2), f32(8), f32(8)]
    to_keras = {"src": "torch", "dst": "keras"}
    rows: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((good, "mgu"), to_keras, "cell"),
        ((good, "lstm"), {"src": "caffe", "dst": "torch"}, "src"),
        ((good, "lstm"), {"src": "torch", "dst": "caffe"}, "dst"),
        ((good[:1], "lstm"), to_keras, "weights"),
        ((good[2:], "lstm"), to_keras, "weights"),
        (([*good, f32(8)], "lstm"), to_keras, "weights"),
        (([*good[:2], f32(7)], "lstm"), to_keras, "weights"),
        (([f32(8, 3), f32(8, 3)], "lstm"), to_keras, "weights"),
        ((good, "gru"), to_keras, "weights"),
        ((good, "lstm"), {"src": "onnx", "dst": "torch"}, "weights"),
        ((good, "lstm"), {"src": "cudnn", "dst": "torch"}, "weights"),
        (([f32()], "rnn"), to_keras, "weights"),
        (([f32(8, 3), f32(8, 1), f32(1, 2)], "lstm"), to_keras, "weights"),
        ((good, "lstm"), {"src": "torch", "dst": "onnx", "bidirectional": True}, "weights"),
    ]
    for args, kwargs, names in rows:
        yield Case("convert_rnn_weights", args, kwargs, V, names)
