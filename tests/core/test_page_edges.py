"""No kernel touches memory before or behind its arrays: pages that fault lie there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import arraynn as ann
from arraynn import _core

# Runs in a process of its own, which a fault ends.
PROGRAM = """
import ctypes, itertools, sys
from types import SimpleNamespace
import numpy as np
import arraynn.kernels
from arraynn import _core
from arraynn.cli import _attention_checks, _checks, _norm_checks, _recurrent_checks
from arraynn.cli.check import CHECKED, check_kernel
from memory import at_page_edge

def at_edge(function, end):
    def call(*args, **options):
        moved = []
        def move(value):
            if type(value) is np.ndarray and value.ndim:
                moved.append((value, at_page_edge(value, end=end)))
                return moved[-1][1]
            return type(value)(map(move, value)) if type(value) in (list, tuple) else value
        result = function(*map(move, args), **{k: move(v) for k, v in options.items()})
        for value, copy in moved:  # what a call updates in place
            if value.flags.writeable:
                value[...] = copy
        return result
    return call

def kernels_at_edge(end):
    return SimpleNamespace(
        **{name: at_edge(getattr(arraynn.kernels, name), end) for name in arraynn.kernels.__all__}
    )

def registered():
    for row, end in itertools.product(_core.kernels(), (False, True)):
        for module in (_checks, _attention_checks, _norm_checks, _recurrent_checks):
            module.kernels = kernels_at_edge(end)
        if row["isa"] == sys.argv[2]:
            for dtype in CHECKED:
                print(row["name"], dtype, "end" if end else "begin", flush=True)
                complaint, _ = check_kernel(row["name"], dtype)
                assert complaint is None, complaint

def rows():
    rng = np.random.default_rng(0)
    for dtype, end, width in itertools.product("fd", (False, True), range(1, 41)):
        k = kernels_at_edge(end)
        print(dtype, "end" if end else "begin", "width", width, flush=True)
        for channels, layout in itertools.product((1, 3, 17), ("channels_first", "channels_last")):
            x = rng.standard_normal((1, channels, 3, width)).astype(dtype)
            x = x if layout == "channels_first" else np.moveaxis(x, 1, -1).copy()
            w = rng.standard_normal((channels, 1, 3, 3)).astype(dtype)
            for stride in (1, 2):
                y = k.conv2d(x, w, None, stride, 1, 1, channels, layout=layout)
                k.conv2d_backward(y, x, w, stride, 1, 1, channels, layout=layout)
                x3 = np.stack([x, x], 2 if layout == "channels_first" else 1)
                w3 = np.stack([w, w], 2)
                y = k.conv3d(x3, w3, None, stride, 1, 1, channels, layout=layout)
                k.conv3d_backward(y, x3, w3, stride, 1, 1, channels, layout=layout)
            if channels <= 3:  # a first layer
                w = rng.standard_normal((5, channels, 3, 3)).astype(dtype)
                y = k.conv2d(x, w, None, 1, 1, layout=layout)
                k.conv2d_backward(y, x, w, 1, 1, layout=layout)
            for stride in (1, 2):
                y, at = k.max_pool2d(x, 3, stride, 1, return_indices=True, layout=layout)
                for indices in (None, at):
                    k.max_pool2d_backward(y, x, 3, stride, 1, indices=indices, layout=layout)
                y = k.avg_pool2d(x, 3, stride, 1, layout=layout)
                k.avg_pool2d_backward(y, x.shape, 3, stride, 1, layout=layout)
            y = k.global_avg_pool(x, layout=layout)
            k.global_avg_pool_backward(y, x.shape, layout=layout)
            tall = np.repeat(x, 5, axis=2 if layout == "channels_first" else 1)
            k.adaptive_max_pool2d(tall, (2, min(width, 3)), layout=layout)
            y = k.adaptive_avg_pool2d(tall, (2, min(width, 3)), layout=layout)
            k.adaptive_avg_pool2d_backward(y, tall.shape, (2, min(width, 3)), layout=layout)

def halves():
    import ml_dtypes
    rng = np.random.default_rng(0)
    kinds = (np.float16, ml_dtypes.bfloat16)
    for dtype, end, n in itertools.product(kinds, (False, True), range(1, 41)):
        k = kernels_at_edge(end)
        print(dtype, "end" if end else "begin", n, flush=True)
        x, even = (rng.standard_normal(s).astype(dtype) for s in ((3, n), (3, 2 * n)))
        one, index = x[0].copy(), np.array([0, 2, 2])
        for lines in (x, np.repeat(x, 6, axis=0)):
            y = k.linear(lines, x, np.ones(3, dtype), activation="relu")
            k.linear_backward(y, lines, x)
            k.linear(lines, x, residual=y)
            k.matmul(x.T, lines[:3])
        k.gelu_backward(k.gelu(x), x)
        k.dropout(x, 0.5, 1)
        k.glu_backward(k.glu(even), even)
        for interleaved in (False, True):
            k.rope(even[None], x, x, interleaved=interleaved)
        k.embedding_backward(k.embedding(index, x), index, 3)
        for axis in (0, 1):
            k.softmax_backward(x, k.softmax(x, axis), axis)
            k.log_softmax_backward(x, k.log_softmax(x, axis), axis)
        for target in (np.zeros(3, int), k.softmax(x)):
            k.cross_entropy_backward(1.0, x, target, label_smoothing=0.1)
        k.nll_loss_backward(1.0, x, np.zeros(3, int))
        k.layer_norm_backward(k.layer_norm(x, n, one, one), x, n, one)
        k.rms_norm_backward(k.rms_norm(x, n, one), x, n, one)
        for a, layout in ((x[:, None], "channels_first"), (x[:, None], "channels_last")):
            y = k.batch_norm(a, training=True, layout=layout)
            k.batch_norm_backward(y, a, training=True, layout=layout)
            k.group_norm_backward(k.group_norm(a, 1, layout=layout), a, 1, layout=layout)
        lists = [[x.copy()] for _ in range(5)]
        k.adam_step(*lists[:4], 1, max_exp_avg_sqs=lists[4])
        k.sgd_step(*lists[:3], 2, momentum=0.9, max_norm=1.0)
        k.adagrad_step(*lists[:3], 1)
        k.rmsprop_step(*lists[:3], momentum=0.9, momentum_buffers=lists[3])

def outside():
    a = at_page_edge(np.ones(3, "f"), end=True)
    print("inside", a[2], flush=True)
    print(ctypes.cast(a.ctypes.data, ctypes.POINTER(ctypes.c_float))[3])

_core.set_isa(sys.argv[2])
{"registered": registered, "rows": rows, "halves": halves, "outside": outside}[sys.argv[1]]()
"""


def run(part: str, level: str) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(__file__).parents[1]), str(Path(ann.__file__).parents[1])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", PROGRAM, part, level]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_the_pages_fault() -> None:
    done = run("outside", "generic")
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "inside 1.0\n")


#: The kernels of float32 and float64 at avx512_bf16 are those of avx512.
PARTS = [
    (part, level)
    for part in ("registered", "rows", "halves")
    for level in _core.available_isas()
    if part == "halves" or level != "avx512_bf16"
]


@pytest.mark.parametrize(("part", "level"), PARTS)
def test_kernels_stay_inside(part: str, level: str) -> None:
    if part == "halves":
        pytest.importorskip("ml_dtypes")
    done = run(part, level)
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, (last, done.stderr[-2000:])
