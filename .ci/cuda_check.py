#!/usr/bin/env python3
"""Compile every .cu file for one architecture, warnings as errors, and read what ptxas reports.

A kernel may not spill, and may not use more registers than its blocks per multiprocessor allow: a
persistent grid would no longer be resident at once. `python3 .ci/cuda_check.py [DIRECTORY]` keeps
the reports in DIRECTORY. Exits with 1 when a file or a kernel fails, with 0 where there is no nvcc.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = "sm_90"
FLAGS = [
    *("-std=c++20", f"-arch={ARCHITECTURE}", "-O3", "-fmad=false", "--expt-relaxed-constexpr"),
    *("-DARRAYNN_CUDA", "-Icsrc/lane", "-Icsrc", "-Werror", "all-warnings", "-Xptxas", "-v"),
]
#: Most registers of a thread, by kernel: 65536 registers over the threads that are to be resident.
REGISTERS = {
    "activation_kernel": 64,  # 4 blocks of 256
    "activation_backward_kernel": 64,
    "dropout_kernel": 32,  # 8 blocks of 256
    "adam_kernel": 128,  # 2 to 4 blocks of 256: kStepBlocks
    "sgd_kernel": 80,  # 3 or 4
    "square_sum_kernel": 64,
    "clip_kernel": 64,
}
#: Kernels that may spill, with the reason. None so far.
SPILLS: dict[str, str] = {}


def compile_file(path: Path, logs: Path) -> tuple[Path, int, str]:
    """Return the file, nvcc's exit code and all it said."""
    command = ["nvcc", *FLAGS, "-cubin", "-o", str(logs / f"{path.parent.name}.cubin"), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (logs / f"{path.parent.name}.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return path, done.returncode, done.stdout + done.stderr


def kernels(report: str) -> list[tuple[str, int, int]]:
    """Return (name, registers, bytes spilt) of every kernel in a report."""
    found = []
    name, spilt = "", 0
    for line in report.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            mangled = match[1]
            names = [n for n in REGISTERS if f"{len(n)}{n}" in mangled]
            name = names[0] if names else mangled
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilt = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            found.append((name, int(match[1]), spilt))
    return found


def main() -> int:
    if shutil.which("nvcc") is None:
        print("no nvcc: not checked")
        return 0
    logs = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "ci").resolve()
    logs.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    most: dict[str, int] = {}
    count = 0
    sources = sorted(ROOT.glob("csrc/*/*.cu"))
    with ThreadPoolExecutor(2) as pool:
        for path, code, report in pool.map(lambda p: compile_file(p, logs), sources):
            if code != 0:
                failures.append(f"{path.relative_to(ROOT)}: nvcc failed\n{report}")
            for name, registers, spilt in kernels(report):
                count += 1
                most[name] = max(most.get(name, 0), registers)
                if name not in REGISTERS:
                    failures.append(f"{name}: no line in REGISTERS")
                elif registers > REGISTERS[name]:
                    failures.append(f"{name}: {registers} registers, at most {REGISTERS[name]}")
                if spilt and name not in SPILLS:
                    failures.append(f"{name}: spills {spilt} bytes")
    for name in REGISTERS:
        print(f"{name:32} {most.get(name, 0):4} of {REGISTERS[name]} registers")
        if name not in most:
            failures.append(f"{name}: no such kernel")
    print(*failures, sep="\n")
    print(f"{count} kernels of {len(sources)} files for {ARCHITECTURE}: {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
