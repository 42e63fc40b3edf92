"""The forward of attention in 16 bits on a Hopper: two rings and wgmma (attention/cuda_hopper.hpp)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from arraynn import kernels, reference
from attention_device import OPTIONS, check_forward, put_all
from attention_problems import fill, normal
from tolerances import assert_same_bits, widen


@pytest.fixture
def hopper(device: Any) -> Iterator[Any]:
    """Emulate a Hopper; a GPU is what it is, and gives the same results."""
    if device.name != "host_cuda":
        yield device
        return
    device.module.set_capability(9, 0)
    yield device
    device.module.set_capability(8, 0)


def boxes(device: Any) -> int:
    """Count the asynchronous copies so far: of a forward here, the boxes."""
    return int(device.module.counters()["async_copies"])


#: (batch, heads, kv_heads, Lq, Lk, D, Dv) of every class of head dimensions: keys in one tile, in
#: several, more tiles of the result than the emulated device has multiprocessors.
SIZES = [
    (1, 1, 1, 2, 1, 8, 8),
    (2, 3, 1, 130, 64, 64, 40),
    (1, 2, 2, 65, 600, 32, 64),
    (1, 4, 2, 129, 300, 128, 128),
    (2, 1, 1, 70, 257, 72, 96),
    (1, 2, 1, 64, 270, 192, 128),
    (1, 2, 2, 200, 200, 256, 256),
    (1, 1, 1, 40, 90, 16, 136),
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("causal", [False, "bottom_right"])
def test_sizes(half: Any, sizes: Any, causal: Any, hopper: Any, rng: np.random.Generator) -> None:
    q, k, v, options = fill(rng, half, sizes, {"causal": causal})
    check_forward(hopper, q, k, v, options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options: dict[str, Any], half: Any, hopper: Any, rng: np.random.Generator) -> None:
    """What every tile sees, and no pair of a warpgroup; a tile of one query."""
    length = 129 if options.get("causal") is True else 150
    q, k, v, options = fill(rng, half, (2, 4, 2, 129, length, 24, 40), options)
    check_forward(hopper, q, k, v, options)
