"""ONNX' published node cases of convolution, pooling, softmax and losses, by the onnx package."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from arraynn import kernels as K
from onnx_nodes import attributes_of, node_cases

pytestmark = pytest.mark.usefixtures("isa")
pytest.importorskip("onnx")

MODULES = {
    "averagepool": "AveragePool",
    "conv": "Conv",
    "convtranspose": "ConvTranspose",
    "globalaveragepool": "GlobalAveragePool",
    "globalmaxpool": "GlobalMaxPool",
    "logsoftmax": "LogSoftmax",
    "lppool": "LpPool",
    "maxpool": "MaxPool",
    "maxunpool": "MaxUnpool",
    "negativeloglikelihoodloss": "NegativeLogLikelihoodLoss",
    "softmax": "Softmax",
    "softmax_cross_entropy_loss": "SoftmaxCrossEntropyLoss",
}
AUTO = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower", "VALID": "valid"}


def collect() -> list[Any]:
    """Return (operator, attributes, inputs, outputs) of every case."""
    found = []
    for name, case in node_cases(**MODULES).items():
        ((inputs, outputs),) = case.data_sets
        operator = case.model.graph.node[0].op_type
        found.append(pytest.param(operator, attributes_of(case), inputs, outputs, id=name))
    return found


def padding(attributes: dict[str, Any], axes: int) -> Any:
    """Return auto_pad by our names, or pairs."""
    auto = attributes.get("auto_pad", "NOTSET")
    if auto != "NOTSET":
        return AUTO[auto]
    pads = attributes.get("pads", [0] * (2 * axes))
    return tuple(zip(pads[:axes], pads[axes:], strict=True))


def geometry(attributes: dict[str, Any], axes: int) -> dict[str, Any]:
    ones = [1] * axes
    return {
        "stride": tuple(attributes.get("strides", ones)),
        "padding": padding(attributes, axes),
        "dilation": tuple(attributes.get("dilations", ones)),
    }


def conv(a: dict[str, Any], x: Any, w: Any, b: Any = None) -> Any:
    function = getattr(K, f"conv{x.ndim - 2}d")
    return function(x, w, b, groups=a.get("group", 1), **geometry(a, x.ndim - 2))


def conv_transpose(a: dict[str, Any], x: Any, w: Any, b: Any = None) -> Any:
    axes = x.ndim - 2
    options = geometry(a, axes)
    more = list(a.get("output_padding", [0] * axes))
    auto, wanted = a.get("auto_pad", "NOTSET"), a.get("output_shape")
    if wanted is None and auto.startswith("SAME"):
        wanted = [n * s for n, s in zip(x.shape[2:], options["stride"], strict=True)]
    if wanted is not None:
        pads = []
        for i, size in enumerate(wanted):
            reach = (w.shape[2 + i] - 1) * options["dilation"][i] + 1
            total = options["stride"][i] * (x.shape[2 + i] - 1) + more[i] + reach - size
            more[i] += max(0, -total)
            small, large = max(0, total) // 2, max(0, total) - max(0, total) // 2
            pads.append((large, small) if auto == "SAME_LOWER" else (small, large))
        options["padding"] = tuple(pads)
    function = getattr(K, f"conv_transpose{axes}d")
    return function(x, w, b, groups=a.get("group", 1), output_padding=tuple(more), **options)


def max_pool(a: dict[str, Any], x: Any) -> Any:
    function = getattr(K, f"max_pool{x.ndim - 2}d")
    y, indices = function(
        x,
        tuple(a["kernel_shape"]),
        **geometry(a, x.ndim - 2),
        ceil_mode=bool(a.get("ceil_mode", 0)),
        return_indices=True,
    )
    size = int(np.prod(x.shape[2:]))
    if a.get("storage_order", 0):  # columns first
        height, width = x.shape[2:]
        indices = indices % width * height + indices // width
    planes = np.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
    return y, indices + planes * size  # over the whole tensor


def average_pool(a: dict[str, Any], x: Any) -> Any:
    return getattr(K, f"avg_pool{x.ndim - 2}d")(
        x,
        tuple(a["kernel_shape"]),
        **geometry(a, x.ndim - 2),
        ceil_mode=bool(a.get("ceil_mode", 0)),
        count_include_pad=bool(a.get("count_include_pad", 0)),
    )


def lp_pool(a: dict[str, Any], x: Any) -> Any:
    """Powers of the magnitude: ours are of x itself."""
    function = getattr(K, f"lp_pool{x.ndim - 2}d")
    kernel, norm = tuple(a["kernel_shape"]), float(a.get("p", 2))
    return function(np.abs(x), norm, kernel, **geometry(a, x.ndim - 2))


def max_unpool(a: dict[str, Any], x: Any, indices: Any, shape: Any = None) -> Any:
    axes = x.ndim - 2
    options = geometry(a, axes)
    pads = tuple(begin for begin, _ in options["padding"])
    function = getattr(K, f"max_unpool{axes}d")
    # Flat over the whole tensor; the cases have one plane.
    y = function(x, indices, tuple(a["kernel_shape"]), options["stride"], pads)
    if shape is None:
        return y
    return np.pad(y, [(0, large - small) for small, large in zip(y.shape, shape, strict=True)])


def cross_entropy(a: dict[str, Any], x: Any, target: Any, weight: Any = None) -> Any:
    how = {name: a[name] for name in ("reduction", "ignore_index") if name in a}
    return K.cross_entropy(x, target, weight=weight, **how), K.log_softmax(x, 1)


def nll_loss(a: dict[str, Any], x: Any, target: Any, weight: Any = None) -> Any:
    how = {name: a[name] for name in ("reduction", "ignore_index") if name in a}
    return K.nll_loss(x, target, weight=weight, **how)


RUN: dict[str, Any] = {
    "AveragePool": average_pool,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "GlobalAveragePool": lambda _, x: K.global_avg_pool(x),
    "GlobalMaxPool": lambda _, x: K.global_max_pool(x),
    "LogSoftmax": lambda a, x: K.log_softmax(x, a.get("axis", -1)),
    "LpPool": lp_pool,
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
    "NegativeLogLikelihoodLoss": nll_loss,
    "Softmax": lambda a, x: K.softmax(x, a.get("axis", -1)),
    "SoftmaxCrossEntropyLoss": cross_entropy,
}
CASES = collect()


def test_every_operator_has_cases() -> None:
    counts = Counter(case.values[0] for case in CASES)
    assert set(counts) == set(RUN) == set(MODULES.values())
    # As many as onnx 1.23 publishes of the large ones; later versions may have more.
    assert counts["AveragePool"] >= 20
    assert counts["MaxPool"] >= 19
    assert counts["ConvTranspose"] >= 11
    assert counts["SoftmaxCrossEntropyLoss"] >= 34


@pytest.mark.parametrize(("operator", "attributes", "inputs", "outputs"), CASES)
def test_node(operator: str, attributes: dict[str, Any], inputs: Any, outputs: Any) -> None:
    got = RUN[operator](attributes, *inputs)
    got = got[: len(outputs)] if isinstance(got, tuple) else (got,)
    for array, expected in zip(got, outputs, strict=True):
        assert array.shape == expected.shape
        assert array.dtype == expected.dtype
        # The tolerance of ONNX' own runner.
        np.testing.assert_allclose(array, expected, rtol=1e-3, atol=1e-7)
