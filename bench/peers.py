"""The libraries arraynn is held against: loading, versions, equal thread counts."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .case import Array

PEERS = ("numpy", "torch", "jax", "onnxruntime")
_NEEDS = {"onnxruntime": ("onnxruntime", "onnx")}
_INSTALL = {"onnxruntime": "onnxruntime onnx"}

# ONNX operator set 20 has Gelu and is the newest that ONNX Runtime 1.17 and later all run.
_OPSET, _IR_VERSION = 20, 9


def installed(name: str) -> bool:
    """Whether peer `name` can be imported."""
    return all(importlib.util.find_spec(need) for need in _NEEDS.get(name, (name,)))


def install_hint(name: str) -> str:
    """The command that installs peer `name`."""
    return f"pip install {_INSTALL.get(name, name)}"


@functools.cache
def load(name: str) -> Any:
    """Import peer `name` with the settings that every benchmark shares."""
    module = importlib.import_module(name)
    if name == "jax":
        module.config.update("jax_enable_x64", True)
    return module


def versions() -> dict[str, str]:
    """Versions of arraynn and of the peers that are installed."""
    found = {}
    for name in ("arraynn", *PEERS):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment(threads: int) -> dict[str, str]:
    """Environment of a process in which every library starts with `threads` threads.

    JAX reads its thread count only from NPROC and only once, hence a process per count.
    """
    count = str(threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")
    return {**dict.fromkeys(names, count), "JAX_PLATFORMS": "cpu"}


def set_threads(libraries: Sequence[str], threads: int) -> None:
    """Give every loaded library `threads` threads."""
    import arraynn

    arraynn.set_num_threads(threads)
    if "torch" in libraries:
        load("torch").set_num_threads(threads)
    if importlib.util.find_spec("threadpoolctl"):
        import threadpoolctl

        threadpoolctl.threadpool_limits(limits=threads, user_api="blas")


def tensor(array: Array) -> Any:
    """The array as a tensor of PyTorch, which takes none of bfloat16 from NumPy."""
    torch = load("torch")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view("uint16")).view(torch.bfloat16)
    return torch.from_numpy(array)


def onnx_call(
    op: str,
    inputs: Mapping[str, Array],
    threads: int,
    *,
    constants: Sequence[str] = (),
    opset: int = _OPSET,
    **attributes: Any,
) -> Callable[[], Any]:
    """Return a function that runs the one-node ONNX model ``op(**inputs)``.

    Parameters
    ----------
    op : operator of the default ONNX domain
    inputs : arrays in the operator's order
    threads : intra-op threads
    constants : inputs stored in the model; ONNX Runtime packs constant weights when it loads
    opset : operator set, where the operator is newer
    attributes : the node's attributes
    """
    ort, onnx = load("onnxruntime"), load("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    element = helper.np_dtype_to_tensor_dtype
    found = element(next(iter(inputs.values())).dtype)
    node = helper.make_node(op, list(inputs), ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "bench",
        [
            helper.make_tensor_value_info(name, element(array.dtype), list(array.shape))
            for name, array in inputs.items()
            if name not in constants
        ],
        [helper.make_tensor_value_info("y", found, None)],
        [numpy_helper.from_array(inputs[name], name) for name in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = _IR_VERSION if opset == _OPSET else 10
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its pool may spin as it does for its users (at these sizes that is worth up to 1.6x); the
    # timing waits until it sleeps before another library's turn.
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {name: array for name, array in inputs.items() if name not in constants}
    return lambda: session.run(None, feed)[0]
