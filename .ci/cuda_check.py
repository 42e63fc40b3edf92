#!/usr/bin/env python3
"""Compile every .cu file, with its host code, for one architecture, and read what ptxas reports.

Warnings are errors, and so is what ptxas says of wgmma that it serialises and of setmaxnreg that it
ignores. A kernel may not spill, and may not use more registers or shared memory than
its blocks per multiprocessor allow: a persistent grid would no longer be resident at once. Linked,
they may ask for no library of CUDA's.
Exits with 1 when a file or a kernel fails, with 0 where there is no nvcc.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = "sm_90"
#: Of files whose instructions no other architecture has.
ARCHITECTURES = {
    **{f"{family}/cuda_hopper.cu": "sm_90a" for family in ("attention", "conv", "gemm")},
    "attention/cuda_hopper_backward.cu": "sm_90a",
}
FLAGS = [
    *("-std=c++20", "-O3", "-fmad=false", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC"),
    *("-DARRAYNN_CUDA", "-DARRAYNN_HOPPER", "-Icsrc/lane", "-Icsrc"),
    *("-Werror", "all-warnings", "-Xptxas", "-v"),
]
#: Most registers of a thread, by kernel (and by a type that it is made for): 65536 registers over
#: the threads that are to be resident.
REGISTERS = {
    "attention_forward_kernel": 255,  # 2 blocks of 128
    "attention_gradient_kernel": 255,
    # Repairs are 1 block of 256, float64 is 2.
    "attention_kernel": 255,
    "attention_delta_kernel": 64,
    "attention_queries_kernel": 255,
    "attention_keys_kernel": 255,
    "attention_bias_kernel": 128,  # 2 blocks of 256
    "attention_sinks_kernel": 64,
    "attention_clear_kernel": 64,
    "attention_split_kernel": 128,  # 4 blocks of 128
    "attention_merge_kernel": 64,  # 8
    "extend_lengths_kernel": 32,  # 8 blocks of 256
    "last_positions_kernel": 32,
    "append_rows_kernel": 32,
    "longest_keys_kernel": 64,
    "gemm_kernel": 168,  # 2 blocks of 256, or 6 (double) and 8 of 64
    "gemm_kernel MmaTile": 255,  # 2 blocks of 128, or 3 and 4
    "hopper_attention_kernel": 168,  # 1 block of 384; setmaxnreg moves them between warpgroups
    "hopper_gradient_kernel": 168,  # the same
    "hopper_kernel": 168,
    "column_sums_kernel": 64,
    "conv_kernel": 255,  # 1 block of 256, or 3 (double) and 4 of 64
    "conv_kernel MmaTile": 255,  # 2 blocks of 128, or 3 (tf32) and 4 (16 bits)
    "conv_weight_kernel": 64,  # 4 blocks of 256
    "turn_planes_kernel": 32,  # 8 blocks of 256
    "stencil_kernel": 64,  # 4 blocks of 256
    "unfold_kernel": 64,
    "fold_kernel": 64,
    "plane_sums_kernel": 64,
    "activation_kernel": 64,  # 4 blocks of 256
    "activation_backward_kernel": 64,
    "dropout_kernel": 32,  # 8 blocks of 256
    "glu_kernel": 64,  # 4 blocks of 256
    "glu_backward_kernel": 64,
    "gather_kernel": 64,
    "key_kernel": 64,
    "histogram_kernel": 64,
    "scan_kernel": 64,
    "scatter_kernel": 64,
    "start_kernel": 64,
    "run_kernel": 128,  # 2 blocks of 256
    "combine_kernel": 64,
    "rope_kernel": 64,  # 4 blocks of 256
    "adam_kernel": 128,  # 2 or 3 blocks of 256: kStepBlocks
    "sgd_kernel": 80,  # 3 or 4
    "adagrad_kernel": 128,  # 2 to 4 blocks of 256: kRootBlocks
    "rmsprop_kernel": 128,
    "square_sum_kernel": 64,
    "clip_kernel": 64,
    # Poolings: 4 blocks of 256; 2 with positions of 64 bits, and for 16 bytes at a time.
    "pool_kernel": 128,
    "pool_shared_kernel": 128,
    "pool_backward_kernel": 128,
    "unpool_clear_kernel": 32,  # 8 blocks of 256
    "unpool_mark_kernel": 48,
    "unpool_kernel": 48,
    "unpool_backward_kernel": 48,
    "rnn_scan_kernel": 255,  # 1 block of 256, with most of the shared memory
    "rnn_scan_back_kernel": 255,
    "rnn_peephole_kernel": 64,  # 4
    "rnn_move_kernel": 32,  # 8 blocks of 256
    "rnn_ends_kernel": 32,
    "hold_lengths_kernel": 32,
    "put_lengths_kernel": 32,
    # Rows: 1024 threads a multiprocessor; 512 in double, which takes two registers an element.
    **dict.fromkeys(
        (
            "softmax_kernel",
            "softmax_stats_kernel",
            "softmax_finish_kernel",
            "softmax_backward_kernel",
            "softmax_sum_kernel",
            "softmax_backward_finish_kernel",
            "softmax_columns_kernel",
            "softmax_columns_backward_kernel",
            "cross_entropy_kernel",
            "cross_entropy_dense_kernel",
            "cross_entropy_finish_kernel",
            "cross_entropy_backward_kernel",
            "cross_entropy_backward_finish_kernel",
            "cross_entropy_columns_kernel",
            "cross_entropy_columns_backward_kernel",
            "row_norm_kernel",
            "row_moments_kernel",
            "row_apply_kernel",
            "row_norm_backward_kernel",
            "row_sums_kernel",
            "row_gradient_kernel",
            "run_moments_kernel",
            "run_sums_kernel",
        ),
        128,
    ),
    "loss_sum_kernel": 64,  # 2 blocks of 512
    "loss_sum_finish_kernel": 64,
    "weight_sum_kernel": 64,
    "fill_statistics_kernel": 64,
    "row_statistics_kernel": 64,  # 8 blocks of 128
    "row_weight_kernel": 64,
    "column_sum_kernel": 64,
    "column_moments_kernel": 128,  # 2 blocks of 256
    "column_gradient_sums_kernel": 64,  # 4 blocks of 256
    "channel_statistics_kernel": 64,
    "empty_statistics_kernel": 64,
    "fixed_statistics_kernel": 64,
    "move_running_kernel": 64,
    "affine_kernel": 64,
    "slope_kernel": 64,
    "weight_gradient_kernel": 64,
    "channel_apply_kernel": 64,
    "channel_gradient_kernel": 64,
    "channel_scale_kernel": 64,
    "nll_loss_kernel": 64,
    "nll_loss_backward_kernel": 64,
}
#: Most bytes of static shared memory of a block, by kernel; others have at most 4096.
SHARED = {
    "gemm_kernel": 40960,  # two stages of 128 x 16 and 16 x 128 float32 with their padding
    "conv_kernel": 40960,
    # Two operands of 64 x 16, a tile of 64 x 64 and its flags.
    "attention_kernel": 29440,
    "attention_queries_kernel": 29440,
    "attention_keys_kernel": 29440,
    "attention_bias_kernel": 29440,
    "attention_split_kernel": 20544,  # scores of 512 keys by 4 heads, and where the values are
    "turn_planes_kernel": 9216,  # 64 pixels of 66 elements, in whole KiB
    "scatter_kernel": 9248,  # counts of 256 digits by each of 8 warps, and their bases
    # What 16 threads know of each of 16 columns, in double.
    "cross_entropy_columns_kernel": 6144,
    "cross_entropy_columns_backward_kernel": 6144,
}
#: Kernels that may spill, with the reason.
SPILLS = {
    "gemm_kernel": "144 bytes, of large tiles for fewer than 32 products of float32",
    "gemm_kernel MmaTile": "28 bytes, of large tiles of float32 where neither operand is along k",
    "conv_kernel MmaTile": "at most 116 bytes, of large tiles of float32 in three products",
    "row_gradient_kernel": "8 bytes, of rows too long for one block and no multiple of 16 bytes",
    "softmax_kernel": "at most 24 bytes, three registers once a row, of rows that a cluster holds",
    "softmax_backward_kernel": "16 bytes, of long rows of 16 bits that are no multiple of 16 bytes",
    "row_norm_backward_kernel": "16 bytes, of rows of at most 1024 elements of 16 bits",
    "attention_gradient_kernel": "at most 116 bytes, around the exponentials of a tile",
    "attention_forward_kernel": "8 bytes, of float32 in three products, once a tile of keys",
    "move_running_kernel": "8 bytes around the divisions in float64, a thread a channel",
}


def object_of(path: Path, logs: Path) -> Path:
    """Name what a file is compiled to."""
    return logs / f"{path.parent.name}_{path.stem}.o"


def compile_file(path: Path, logs: Path) -> tuple[Path, int, str]:
    """Return the file, nvcc's exit code and all it said."""
    architecture = ARCHITECTURES.get(f"{path.parent.name}/{path.name}", ARCHITECTURE)
    code = f"-gencode=arch={architecture.replace('sm', 'compute')},code={architecture}"
    result = object_of(path, logs)
    command = ["nvcc", *FLAGS, code, "-c", "-o", str(result), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    result.with_suffix(".txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return path, done.returncode, done.stdout + done.stderr


def losses(report: str) -> list[str]:
    """Return what ptxas says of wgmma and setmaxnreg in a report, which is never good."""
    return [
        line for line in report.splitlines() if re.search(r"wgmma.*serialized|setmaxnreg", line)
    ]


def kernels(report: str) -> list[tuple[str, int, int, int]]:
    """Return (name, registers, bytes spilt, bytes of shared memory) of every kernel in a report."""
    found = []
    name, spilt = "", 0
    for line in report.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            mangled = match[1]
            names = [n for n in REGISTERS if all(f"{len(w)}{w}" in mangled for w in n.split())]
            name = max(names, key=len, default=mangled)
            spilt = 0
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilt += int(match[1]) + int(match[2])  # of the kernel and of what it calls
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            found.append((name, int(match[1]), spilt, int(shared[1]) if shared else 0))
    return found


def link(objects: list[Path], logs: Path) -> list[str]:
    """Link all kernels as the module is: a library that asks for CUDA's runtime or driver fails."""
    library = logs / "kernels.so"
    command = ["nvcc", "-shared", "-cudart", "static", "-o", str(library), *map(str, objects)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return [f"link failed\n{done.stderr}"]
    read = ["readelf", "--dynamic", "--wide", str(library)]
    text = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", text)
    return [f"{library.name} needs {name}" for name in needed if name.startswith("libcu")]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        default=ROOT / "build" / "ci",
        help="where objects and reports are kept (default: build/ci)",
    )
    directory = parser.parse_args().directory
    if shutil.which("nvcc") is None:
        print("no nvcc: not checked")
        return 0
    logs = directory.resolve()
    logs.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    most: dict[str, int] = {}
    count = 0
    objects: list[Path] = []
    sources = sorted(ROOT.glob("csrc/*/*.cu"))
    with ThreadPoolExecutor(2) as pool:
        for path, code, report in pool.map(lambda p: compile_file(p, logs), sources):
            if code != 0:
                failures.append(f"{path.relative_to(ROOT)}: nvcc failed\n{report}")
            else:
                objects.append(object_of(path, logs))
            failures += [f"{path.relative_to(ROOT)}: {line}" for line in losses(report)]
            for name, registers, spilt, shared in kernels(report):
                count += 1
                most[name] = max(most.get(name, 0), registers)
                if name not in REGISTERS:
                    failures.append(f"{name}: no line in REGISTERS")
                elif registers > REGISTERS[name]:
                    failures.append(f"{name}: {registers} registers, at most {REGISTERS[name]}")
                if shared > SHARED.get(name, 4096):
                    failures.append(f"{name}: {shared} bytes of shared memory")
                if spilt and name not in SPILLS:
                    failures.append(f"{name}: spills {spilt} bytes")
    failures += link(objects, logs)
    for name in REGISTERS:
        print(f"{name:32} {most.get(name, 0):4} of {REGISTERS[name]} registers")
        if name not in most:
            failures.append(f"{name}: no such kernel")
    print(*failures, sep="\n")
    print(
        f"{count} kernels of {len(sources)} files for {ARCHITECTURE}(a): {len(failures)} failures"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
