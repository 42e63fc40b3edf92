"""What the instructions of csrc/ptx give on a GPU: ``python -m bench.golden FILE [--arch 90a]``.

Compiles tests/host_cuda/golden.cu with nvcc, runs its kernels through CuPy and writes operands and
results to FILE. As tests/host_cuda/golden.json they are what the meanings of these functions on the
host are held to.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "tests" / "host_cuda"
#: Items of a kernel: sixteen for every lane of its warp.
ITEMS = 512


@dataclass(frozen=True)
class Wrapper:
    """A function of csrc/ptx."""

    name: str
    kind: str
    words: int  # of the operands of an item
    results: int


#: (wrapper, operands (items, words)) -> results (items, results), uint32
Run = Callable[[Wrapper, Any], Any]


def wrappers() -> list[Wrapper]:
    """List them as golden.inc does."""
    text = (HERE / "golden.inc").read_text(encoding="utf-8")
    rows = re.findall(r"^GOLDEN\((\w+), (\w+), (\d+), (\d+)\)$", text, re.MULTILINE)
    return [Wrapper(name, kind, int(a), int(b)) for name, kind, a, b in rows]


def halves(kind: str, x: Any) -> Any:
    """Round float32 numbers to the bits of a 16-bit type."""
    if kind == "f16":
        return x.astype(np.float16).view(np.uint16).astype(np.uint32)
    # The upper half: any bfloat16 will do.
    return x.view(np.uint32) >> 16


def operands(wrapper: Wrapper) -> Any:
    """Make the operands of all items, the same every time."""
    rng = np.random.default_rng(zlib.crc32(wrapper.name.encode()))
    shape = (ITEMS, wrapper.words)
    if wrapper.kind == "bits":
        return rng.integers(0, 1 << 32, shape, dtype=np.uint32)
    if wrapper.kind == "halves":  # every exponent, both signs
        return (np.arange(ITEMS, dtype=np.uint32) * 128 + rng.integers(0, 128, ITEMS)).astype(
            np.uint32
        )[:, None]
    if wrapper.kind == "floats":
        exponents = np.linspace(-30, 18, ITEMS)
        x = (rng.choice([-1.0, 1.0], ITEMS) * 2.0**exponents * rng.uniform(1, 2, ITEMS)).astype("f")
        x[:8] = [0.0, -0.0, np.inf, -np.inf, 65519.0, 65520.0, 2.0**-24, 2.0**-25]
        ties = x[8:136].view(np.uint32)
        ties[:64] = (ties[:64] & 0xFFFFE000) | 0x1000  # halfway between two of float16
        ties[64:] = (ties[64:] & 0xFFFF0000) | 0x8000  # and of bfloat16
        # The second of two is that of another item.
        return np.stack([np.roll(x, 7 * i) for i in range(wrapper.words)], axis=1).view(np.uint32)
    if wrapper.kind == "exponents":  # denormal results, 0 and infinity among them
        x = rng.uniform(-160, 130, ITEMS).astype(np.float32)
        x[256:] = rng.uniform(-2, 2, ITEMS - 256)
        x[:6] = [0.0, -0.0, np.inf, -np.inf, 127.99, -126.0]
        return x.view(np.uint32)[:, None]
    x = rng.standard_normal((ITEMS, 16)).astype(np.float32)
    sums = x[:, :4].view(np.uint32)
    if wrapper.kind == "tf32":
        return np.concatenate([x[:, 4:10].view(np.uint32), sums], axis=1)
    low, high = (halves(wrapper.kind, np.ascontiguousarray(x[:, i:16:2])) for i in (4, 5))
    return np.concatenate([low | high << np.uint32(16), sums], axis=1)


def magnitudes(wrapper: Wrapper, given: Any) -> Any:
    """Clear the signs of the operands of a product."""
    mask = np.full(given.shape[1], 0x7FFFFFFF, np.uint32)
    if wrapper.kind in ("f16", "bf16"):
        mask[:6] = 0x7FFF7FFF
    return given & mask


def to_text(words: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(words, "<u4").tobytes()).decode()


def from_text(text: str, columns: int) -> Any:
    words = np.frombuffer(base64.b64decode(text), "<u4").astype(np.uint32)
    return words.reshape(-1, columns)


def record(run: Run) -> dict[str, dict[str, str]]:
    """Run every wrapper on its operands."""
    kept = {}
    for wrapper in wrappers():
        given = operands(wrapper)
        kept[wrapper.name] = {"in": to_text(given), "out": to_text(run(wrapper, given))}
    return kept


def on_device(arch: str) -> Run:
    """Compile the kernels, and return what runs one."""
    import cupy

    cubin = Path(tempfile.mkdtemp()) / "golden.cubin"
    flags = ["-std=c++20", "-O3", "-fmad=false", "--expt-relaxed-constexpr"]
    flags.append(f"-gencode=arch=compute_{arch},code=sm_{arch}")
    include = [f"-I{ROOT / 'csrc' / 'lane'}", f"-I{ROOT / 'csrc'}", f"-I{HERE}"]
    source = str(HERE / "golden.cu")
    command = ["nvcc", *flags, "-DARRAYNN_CUDA", *include, "-cubin", "-o", str(cubin), source]
    subprocess.run(command, check=True)
    module = cupy.RawModule(path=str(cubin))

    def run(wrapper: Wrapper, given: Any) -> Any:
        there, out = cupy.asarray(given), cupy.zeros((ITEMS, wrapper.results), np.uint32)
        function = module.get_function(f"golden_{wrapper.name}")
        function((1,), (32,), (there, out, np.int32(ITEMS)))
        return cupy.asnumpy(out)

    return run


def main(arguments: Sequence[str] | None = None) -> int:
    """Record on the GPU of this machine."""
    parser = argparse.ArgumentParser(prog="python -m bench.golden", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--arch", default="90a")
    options = parser.parse_args(arguments)
    kept = record(on_device(options.arch))
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    found = {"device": name, "arch": options.arch, "vectors": kept}
    options.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{len(kept)} functions, {ITEMS} items each, on {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
