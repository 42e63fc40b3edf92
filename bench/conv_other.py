"""Convolutions of audio and of volumes, and transposed ones of decoders and vocoders.

FLOP: two for every product of a weight with an element of x (transposed) or of y (not), twice that
for the backward. Both layouts of ours are held against the best of the peers' layouts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from . import peers
from .case import Array, Candidate, Case, Prepared, collect, dot_bound, kernels, reference, uniform
from .conv import Data, from_last, part_of, to_last

# (operation, samples, input channels, output channels, kernel, stride, padding, size): the first
# three layers of wav2vec 2.0 on half a second, a residual block of HiFi-GAN and its upsampling, the
# decoders of U-Net and of DCGAN, layers of C3D on cubes and of a U-Net of volumes.
SHAPES = (
    ("conv1d", 1, 1, 512, 10, 5, 0, 8000),
    ("conv1d", 1, 512, 512, 3, 2, 0, 1599),
    ("conv1d", 1, 512, 512, 3, 2, 0, 799),
    ("conv1d", 8, 128, 128, 7, 1, 3, 1024),
    ("conv_transpose1d", 1, 512, 256, 16, 8, 4, 32),
    ("conv_transpose1d", 1, 128, 64, 4, 2, 1, 2048),
    ("conv_transpose2d", 1, 128, 64, 2, 2, 0, 96),
    ("conv_transpose2d", 1, 512, 256, 2, 2, 0, 24),
    ("conv_transpose2d", 8, 512, 256, 4, 2, 1, 8),
    ("conv_transpose2d", 8, 128, 3, 4, 2, 1, 32),
    ("conv_transpose2d", 8, 64, 64, 3, 1, 1, 28),
    ("conv3d", 1, 3, 64, 3, 1, 1, 32),
    ("conv3d", 1, 64, 128, 3, 1, 1, 16),
    ("conv3d", 1, 256, 256, 3, 1, 1, 8),
    ("conv3d", 8, 512, 512, 3, 1, 1, 4),
    ("conv3d", 1, 32, 64, 3, 2, 1, 32),
    ("conv_transpose3d", 1, 128, 64, 2, 2, 0, 12),
)
TINY = (
    ("conv1d", 2, 3, 5, 4, 2, 1, 11),
    ("conv_transpose1d", 2, 3, 5, 4, 2, 1, 7),
    ("conv_transpose2d", 2, 3, 5, 3, 2, 1, 6),
    ("conv_transpose2d", 2, 4, 6, 1, 1, 0, 5),
    ("conv3d", 2, 3, 5, 3, 1, 1, 4),
    ("conv_transpose3d", 1, 3, 5, 2, 2, 0, 3),
)


@dataclass(frozen=True)
class Problem:
    """One convolution of lengths, square images or cubes."""

    op: str
    n: int
    ic: int
    oc: int
    kernel: int
    stride: int
    padding: int
    size: int
    backward: bool
    dtype: str

    @property
    def axes(self) -> int:
        """Spatial axes."""
        return int(self.op[-2])

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution."""
        return "transpose" in self.op

    @property
    def out_size(self) -> int:
        """Length of the output along an axis."""
        if self.transposed:
            return (self.size - 1) * self.stride - 2 * self.padding + self.kernel
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def geometry(self) -> tuple[int, int]:
        """Stride and padding."""
        return self.stride, self.padding

    @property
    def name(self) -> str:
        """Name in tables, such as "fwd up n8 512->256 4x4/2 8"."""
        kind = "up" if self.transposed else ""
        kind += "" if self.axes == 2 else f"{self.axes}d"
        way = "bwd" if self.backward else "fwd"
        kernel = "x".join([str(self.kernel)] * self.axes)
        stride = f"/{self.stride}" if self.stride > 1 else ""
        return f"{way} {kind} n{self.n} {self.ic}->{self.oc} {kernel}{stride} {self.size}"


def run_arraynn(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """Our kernels in both layouts."""
    del threads
    k = kernels()
    found = []
    for layout in ("channels_first", "channels_last"):
        last = layout == "channels_last"
        x, grad = (to_last(a) if last else a for a in (d.x, d.grad))
        call: partial[Any]
        if p.backward:
            function = getattr(k, f"{p.op}_backward")
            call = partial(function, grad, x, d.weight, *p.geometry, layout=layout)
        else:
            call = partial(getattr(k, p.op), x, d.weight, d.bias, *p.geometry, layout=layout)
        arrays = partial(_first, last)
        found.append(Candidate("arraynn", call, layout, arrays=arrays))
        if not p.backward:
            rest = (k.pack(d.weight, p.op), d.bias, *p.geometry)
            packed = partial(getattr(k, p.op), x, *rest, layout=layout)
            found.append(Candidate("arraynn", packed, layout, "prepacked", arrays=arrays))
    return found


def _first(last: bool, result: Any) -> tuple[Array, ...]:
    """Return the output, or the gradients, with the channels of images and lengths first."""
    image, *rest = result if isinstance(result, tuple) else (result,)
    return (from_last(image) if last else np.asarray(image), *(np.asarray(a) for a in rest))


def run_numpy(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """The plain NumPy reference."""
    del threads
    if p.backward:
        function = getattr(reference(), f"{p.op}_backward")
        return [Candidate("numpy", partial(function, d.grad, d.x, d.weight, *p.geometry))]
    return [
        Candidate("numpy", partial(getattr(reference(), p.op), d.x, d.weight, d.bias, *p.geometry))
    ]


def run_torch(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """PyTorch eager; images in both memory formats, weights in the same format."""
    del threads
    torch = peers.load("torch")
    found = []
    last = "channels_last_3d" if p.axes == 3 else "channels_last"
    for variant in ("contiguous_format", last)[: p.axes]:
        form = getattr(torch, variant)
        x, weight, grad = (
            torch.from_numpy(a).contiguous(memory_format=form) for a in (d.x, d.weight, d.grad)
        )
        stride, padding, zeros = ([v] * p.axes for v in (p.stride, p.padding, 0))
        if p.backward:
            call = partial(
                torch.ops.aten.convolution_backward,
                *(grad, x, weight, [p.oc], stride, padding, [1] * p.axes, p.transposed, zeros, 1),
                [True, True, True],
            )
        else:
            function = getattr(torch.nn.functional, p.op)
            call = partial(function, x, weight, torch.from_numpy(d.bias), stride, padding)
        found.append(Candidate("torch", call, variant.replace("_format", "")))
    return found


def run_jax(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """JAX, jitted, in both layouts; a transposed convolution is one over a dilated input."""
    del threads
    jax = peers.load("jax")
    found = []
    spatial = "DHW"[-p.axes :]
    for last in (False, True):
        x, grad = (jax.numpy.asarray(to_last(a) if last else a) for a in (d.x, d.grad))
        w = jax.numpy.asarray(d.weight)
        bias = jax.numpy.asarray(d.bias if last else d.bias.reshape(-1, *[1] * p.axes))
        data = f"N{spatial}C" if last else f"NC{spatial}"
        numbers = (data, ("IO" if p.transposed else "OI") + spatial, data)

        def forward(x: Any, w: Any, b: Any, numbers: Any = numbers) -> Any:
            if not p.transposed:
                window: dict[str, Any] = {
                    "window_strides": [p.stride] * p.axes,
                    "padding": [(p.padding, p.padding)] * p.axes,
                }
            else:
                w = jax.numpy.flip(w, range(2, 2 + p.axes))
                border = p.kernel - 1 - p.padding
                window = {
                    "window_strides": [1] * p.axes,
                    "padding": [(border, border)] * p.axes,
                    "lhs_dilation": [p.stride] * p.axes,
                }
            return b + jax.lax.conv_general_dilated(x, w, **window, dimension_numbers=numbers)

        def backward(x: Any, w: Any, b: Any, g: Any, forward: Any = forward) -> Any:
            return jax.vjp(forward, x, w, b)[1](g)

        def arrays(result: Any, last: bool = last) -> tuple[Array, ...]:
            parts = _first(last, tuple(result) if p.backward else result)
            return (*parts[:2], parts[2].ravel()) if p.backward else parts

        function = jax.jit(backward if p.backward else forward)
        args = (x, w, bias, grad) if p.backward else (x, w, bias)

        def call(function: Any = function, args: Any = args) -> Any:
            return jax.block_until_ready(function(*args))

        found.append(Candidate("jax", call, data, arrays=arrays))
    return found


def run_onnxruntime(p: Problem, d: Data, threads: int) -> list[Candidate]:
    """ONNX Runtime, forward only; with constant weights it may change their layout as it loads."""
    if p.backward:
        return []
    inputs = {"x": d.x, "w": d.weight, "b": d.bias}
    op = "ConvTranspose" if p.transposed else "Conv"
    attributes: dict[str, Any] = {
        "strides": [p.stride] * p.axes,
        "pads": [p.padding] * (2 * p.axes),
    }
    plain = peers.onnx_call(op, inputs, threads, **attributes)
    packed = peers.onnx_call(op, inputs, threads, constants=("w", "b"), **attributes)
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
    rows, columns = (p.ic, p.oc) if p.transposed else (p.oc, p.ic)
    d = Data(
        uniform(p.dtype, p.n, p.ic, *[p.size] * p.axes, seed=1),
        uniform(p.dtype, rows, columns, *[p.kernel] * p.axes, seed=2),
        uniform(p.dtype, p.oc, seed=3),
        uniform(p.dtype, p.n, p.oc, *[p.out_size] * p.axes, seed=4),
    )
    x, weight, bias, grad = (a.astype(np.float64) for a in (d.x, d.weight, d.bias, d.grad))
    taps, pixels = p.kernel**p.axes, p.n * max(p.size, p.out_size) ** p.axes
    if p.backward:
        expected = getattr(reference(), f"{p.op}_backward")(grad, x, weight, *p.geometry)
        bounds = [
            dot_bound(p.oc * taps, p.dtype),
            dot_bound(pixels, p.dtype),
            dot_bound(pixels, p.dtype, factors=1),
        ]
    else:
        expected = (getattr(reference(), p.op)(x, weight, bias, *p.geometry),)
        bounds = [dot_bound(p.ic * taps + 1, p.dtype)]
    return Prepared(collect(RUNNERS, libraries, p, d, threads), expected, bounds)


def flops(p: Problem) -> float:
    """Multiply-adds count two; padding is counted as work."""
    pixels = p.size if p.transposed else p.out_size
    forward = 2.0 * p.n * pixels**p.axes * p.oc * p.ic * p.kernel**p.axes
    return 2 * forward if p.backward else forward


def nbytes(p: Problem) -> float:
    """Each operand read once and each result written once."""
    x, y = p.n * p.ic * p.size**p.axes, p.n * p.oc * p.out_size**p.axes
    weight = p.oc * p.ic * p.kernel**p.axes
    return float(
        np.dtype(p.dtype).itemsize * ((2 * x + 2 * weight + y) if p.backward else x + weight + y)
    )


def cases(dtype: str, tiny: bool = False) -> list[Case]:
    """Return these shapes of the family, or their tiny ones."""
    grid = TINY if tiny else SHAPES
    problems = [Problem(*shape, backward, dtype) for backward in (False, True) for shape in grid]
    return [
        Case(
            "conv", p.name, dtype, partial(prepare, p), flops(p), nbytes(p), "fma", part_of(p.name)
        )
        for p in problems
    ]
