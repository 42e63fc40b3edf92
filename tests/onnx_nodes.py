"""ONNX' published node cases, made by the onnx package of the extra `test`."""

from __future__ import annotations

import importlib
import warnings
from typing import Any


def node_cases(**modules: str) -> dict[str, Any]:
    """Return the cases of one node by name; none without the package.

    ``conv="Conv"``: those of the operator Conv, from the package's module conv. Making the cases of
    all operators takes seconds. ``collect_testcases`` with a filter is of no use: one list serves
    every operator, and what a filter leaves out is never made in that process.
    """
    try:
        from onnx.backend.test.case import node

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for module in modules:
                importlib.import_module(f"onnx.backend.test.case.node.{module}")
    except ImportError:
        return {}
    found = {}
    for case in node._NodeTestCases:
        nodes = case.model.graph.node
        # Others are a node's expansion into primitive operators.
        if len(nodes) == 1 and nodes[0].op_type in modules.values():
            found[case.name] = case
    return found


def attributes_of(case: Any) -> dict[str, Any]:
    """Return the attributes of a case's node, text as str."""
    import onnx

    (node,) = case.model.graph.node
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: v.decode() if isinstance(v, bytes) else v for name, v in found.items()}
