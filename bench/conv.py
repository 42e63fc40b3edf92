"""2-D convolution: every distinct 1x1 and 3x3 shape of ResNet-50, and the demo network's.

With "vgg", "first" and "depthwise" in their names: the 3x3 shapes of VGG-16, first layers on 3
channels, and the depthwise shapes of MobileNetV2.

FLOP: 2 n oh ow oc (ic/groups) kh kw, twice that for the backward (gradients of input and
weight). Both layouts of ours are held against the best of the peers' layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import peers
from .case import Array, Candidate, Case, Prepared, collect, dot_bound, kernels, reference, uniform

# (input channels, output channels, kernel, stride, input height and width), stride on the 3x3
# as torchvision builds the network (He et al. 2015, table 1, has it on the first 1x1).
RESNET50 = (
    (64, 64, 1, 1, 56),
    (64, 64, 3, 1, 56),
    (64, 256, 1, 1, 56),
    (256, 64, 1, 1, 56),
    (256, 128, 1, 1, 56),
    (128, 128, 3, 2, 56),
    (256, 512, 1, 2, 56),
    (128, 512, 1, 1, 28),
    (512, 128, 1, 1, 28),
    (128, 128, 3, 1, 28),
    (512, 256, 1, 1, 28),
    (256, 256, 3, 2, 28),
    (512, 1024, 1, 2, 28),
    (256, 1024, 1, 1, 14),
    (1024, 256, 1, 1, 14),
    (256, 256, 3, 1, 14),
    (1024, 512, 1, 1, 14),
    (512, 512, 3, 2, 14),
    (1024, 2048, 1, 2, 14),
    (512, 2048, 1, 1, 7),
    (2048, 512, 1, 1, 7),
    (512, 512, 3, 1, 7),
)
DEMO = ((1, 32, 3, 1, 8), (32, 64, 3, 1, 4))
# Simonyan and Zisserman 2014, table 1, configuration D.
VGG16 = (
    (64, 64, 3, 1, 224),
    (128, 128, 3, 1, 112),
    (256, 256, 3, 1, 56),
    (512, 512, 3, 1, 28),
    (512, 512, 3, 1, 14),
)
# Of ResNet-50, MobileNetV2 and VGG-16.
FIRST = ((3, 64, 7, 2, 224), (3, 32, 3, 2, 224), (3, 64, 3, 1, 224))
# Sandler et al. 2018, table 2.
MOBILENET_V2 = (
    (32, 32, 3, 1, 112),
    (96, 96, 3, 2, 112),
    (144, 144, 3, 1, 56),
    (144, 144, 3, 2, 56),
    (192, 192, 3, 1, 28),
    (192, 192, 3, 2, 28),
    (384, 384, 3, 1, 14),
    (576, 576, 3, 1, 14),
    (576, 576, 3, 2, 14),
    (960, 960, 3, 1, 7),
)
TINY = ((3, 5, 3, 2, 7), (4, 6, 1, 1, 5))


@dataclass(frozen=True)
class Problem:
    """One square convolution with padding kernel // 2; a `tag` stands in its name."""

    n: int
    ic: int
    oc: int
    kernel: int
    stride: int
    size: int
    backward: bool
    dtype: str
    groups: int = 1
    tag: str = ""

    @property
    def padding(self) -> int:
        """Padding that keeps the size at stride 1."""
        return self.kernel // 2

    @property
    def out_size(self) -> int:
        """Height and width of the output."""
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def name(self) -> str:
        """Name in tables, such as "fwd n8 64->256 1x1 56"."""
        stride = f"/{self.stride}" if self.stride > 1 else ""
        way = "bwd" if self.backward else "fwd"
        k = self.kernel
        tag = f" {self.tag}" if self.tag else ""
        return f"{way}{tag} n{self.n} {self.ic}->{self.oc} {k}x{k}{stride} {self.size}"


@dataclass(frozen=True)
class Data:
    """x (n, ic, h, w), weight (oc, ic / groups, kh, kw), bias (oc,), grad (n, oc, oh, ow)."""

    x: Array
    weight: Array
    bias: Array
    grad: Array


def part_of(name: str) -> str:
    """Direction and batch, or direction and kind: the first two words of a name."""
    return " ".join(name.split()[:2])


def to_last(a: Array) -> Array:
    """(n, c, h, w) to contiguous (n, h, w, c)."""
    return np.ascontiguousarray(np.moveaxis(a, 1, -1))


def from_last(a: Any) -> Array:
    """(n, h, w, c) viewed as (n, c, h, w)."""
    return np.moveaxis(np.asarray(a), -1, 1)


def _grads_from_last(grads: Any) -> tuple[Array, ...]:
    return (from_last(grads[0]), np.asarray(grads[1]), np.asarray(grads[2]))


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernels in both layouts."""
    del threads
    k = kernels()
    found = []
    for layout in ("channels_first", "channels_last"):
        last = layout == "channels_last"
        x = to_last(d.x) if last else d.x
        grad = to_last(d.grad) if last else d.grad
        call: Callable[[], Any]
        if p.backward:
            args = (grad, x, d.weight, p.stride, p.padding, 1, p.groups)
            call = partial(k.conv2d_backward, *args, layout=layout)
            arrays = _grads_from_last if last else tuple
        else:
            rest = (d.bias, p.stride, p.padding, 1, p.groups)
            call = partial(k.conv2d, x, d.weight, *rest, layout=layout)
            arrays = (lambda y: (from_last(y),)) if last else (lambda y: (y,))
        found.append(Candidate("arraynn", call, layout, arrays=arrays))
        if not p.backward:
            packed = partial(k.conv2d, x, k.pack(d.weight, "conv2d"), *rest, layout=layout)
            found.append(Candidate("arraynn", packed, layout, "prepacked", arrays=arrays))
    return found


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    ref = reference()
    if p.backward:
        args = (d.grad, d.x, d.weight, p.stride, p.padding, 1, p.groups)
        call = partial(ref.conv2d_backward, *args)
    else:
        args = (d.x, d.weight, d.bias, p.stride, p.padding, 1, p.groups)
        call = partial(ref.conv2d, *args)
    return [Candidate("numpy", call)]


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch eager (oneDNN) in both memory formats, weights in the same format."""
    del threads
    torch = peers.load("torch")
    found = []
    for variant in ("contiguous_format", "channels_last"):
        form = getattr(torch, variant)
        x, weight, grad = (
            peers.tensor(a).contiguous(memory_format=form) for a in (d.x, d.weight, d.grad)
        )
        bias = peers.tensor(d.bias)
        stride, padding = [p.stride] * 2, [p.padding] * 2
        if p.backward:
            call = partial(
                torch.ops.aten.convolution_backward,
                *(grad, x, weight, [p.oc], stride, padding, [1, 1], False, [0, 0], p.groups),
                [True, True, True],
            )
        else:
            args = (x, weight, bias, stride, padding, 1, p.groups)
            call = partial(torch.nn.functional.conv2d, *args)
        found.append(Candidate("torch", call, variant.replace("_format", "")))
    return found


def run_jax(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """JAX, jitted, in both layouts."""
    del threads
    jax = peers.load("jax")
    found = []
    for layout in ("NCHW", "NHWC"):
        last = layout == "NHWC"
        x, grad = (jax.numpy.asarray(to_last(a) if last else a) for a in (d.x, d.grad))
        # HWIO is the weight layout of the JAX libraries that use NHWC.
        w = jax.numpy.asarray(
            np.ascontiguousarray(d.weight.transpose(2, 3, 1, 0)) if last else d.weight
        )
        bias = jax.numpy.asarray(d.bias if last else d.bias[:, None, None])
        numbers = (layout, "HWIO" if last else "OIHW", layout)

        def forward(x: Any, w: Any, b: Any, numbers: Any = numbers) -> Any:
            pad = [(p.padding, p.padding)] * 2
            return b + jax.lax.conv_general_dilated(
                x,
                w,
                [p.stride] * 2,
                pad,
                dimension_numbers=numbers,
                feature_group_count=p.groups,
            )

        def backward(x: Any, w: Any, b: Any, g: Any, forward: Any = forward) -> Any:
            return jax.vjp(forward, x, w, b)[1](g)

        def arrays(result: Any, last: bool = last) -> tuple[Array, ...]:
            if not p.backward:
                return (from_last(result) if last else np.asarray(result),)
            gx, gw, gb = (np.asarray(g) for g in result)
            return (from_last(gx), gw.transpose(3, 2, 0, 1), gb) if last else (gx, gw, gb.ravel())

        function = jax.jit(backward if p.backward else forward)
        args = (x, w, bias, grad) if p.backward else (x, w, bias)

        def call(function: Any = function, args: Any = args) -> Any:
            return jax.block_until_ready(function(*args))

        found.append(Candidate("jax", call, layout, arrays=arrays))
    return found


def run_onnxruntime(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """ONNX Runtime, forward only; with constant weights it changes their layout when it loads."""
    if p.backward:
        return []
    inputs = {"x": d.x, "w": d.weight, "b": d.bias}
    attributes: dict[str, Any] = {"strides": [p.stride] * 2, "pads": [p.padding] * 4}
    attributes["group"] = p.groups
    plain = peers.onnx_call("Conv", inputs, threads, **attributes)
    packed = peers.onnx_call("Conv", inputs, threads, constants=("w", "b"), **attributes)
    return [
        Candidate("onnxruntime", plain),
        Candidate("onnxruntime", packed, group="prepacked"),
    ]


RUNNERS = {
    "arraynn": run_arraynn,
    "numpy": run_numpy,
    "torch": run_torch,
    "jax": run_jax,
    "onnxruntime": run_onnxruntime,
}


def prepare(p: Problem, libraries: Sequence[str], threads: int) -> Prepared:
    """Make the data, the candidates and the reference answer of `p`."""
    d = Data(
        uniform(p.dtype, p.n, p.ic, p.size, p.size, seed=1),
        uniform(p.dtype, p.oc, p.ic // p.groups, p.kernel, p.kernel, seed=2),
        uniform(p.dtype, p.oc, seed=3),
        uniform(p.dtype, p.n, p.oc, p.out_size, p.out_size, seed=4),
    )
    x, weight, bias, grad = (a.astype(np.float64) for a in (d.x, d.weight, d.bias, d.grad))
    ref = reference()
    pixels, window = p.n * p.out_size**2, p.kernel**2
    if p.backward:
        expected = ref.conv2d_backward(grad, x, weight, p.stride, p.padding, 1, p.groups)
        bounds = [
            dot_bound(p.oc // p.groups * window, p.dtype),
            dot_bound(pixels, p.dtype),
            dot_bound(pixels, p.dtype, factors=1),
        ]
    else:
        expected = (ref.conv2d(x, weight, bias, p.stride, p.padding, 1, p.groups),)
        bounds = [dot_bound(p.ic // p.groups * window + 1, p.dtype)]
    return Prepared(collect(RUNNERS, libraries, p, d, threads), expected, bounds)


def flops(p: Problem) -> float:
    """Multiply-adds count two; padding is counted as work."""
    forward = 2.0 * p.n * p.out_size**2 * p.oc * p.ic // p.groups * p.kernel**2
    return 2 * forward if p.backward else forward


def nbytes(p: Problem) -> float:
    """Each operand read once and each result written once."""
    x, y = p.n * p.ic * p.size**2, p.n * p.oc * p.out_size**2
    weight = p.oc * p.ic // p.groups * p.kernel**2
    return float(
        np.dtype(p.dtype).itemsize * ((2 * x + 2 * weight + y) if p.backward else x + weight + y)
    )


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return the family's grid, or its tiny shapes."""
    shapes: list[tuple[tuple[int, ...], int, str]]  # sizes, groups, tag
    if tiny:
        shapes = [((2, *s), 1, "") for s in TINY] + [((2, 4, 4, 3, 1, 5), 4, "depthwise")]
    else:
        shapes = [((64, *s), 1, "") for s in DEMO]
        for n in (1, 8):
            shapes += [((n, *s), 1, "") for s in RESNET50]
        for n in (1, 8):
            shapes += [((n, *s), 1, "first") for s in FIRST]
            shapes += [((n, *s), s[0], "depthwise") for s in MOBILENET_V2]
        shapes += [((1, *s), 1, "vgg") for s in VGG16]
    problems = [
        Problem(*sizes, backward, dtype, groups, tag)
        for backward in (False, True)
        for sizes, groups, tag in shapes
    ]
    return [
        Case(
            "conv", p.name, dtype, partial(prepare, p), flops(p), nbytes(p), "fma", part_of(p.name)
        )
        for p in problems
    ]
