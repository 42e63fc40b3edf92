"""Every compiled kernel is public, documented, has a reference, and is tested."""

from __future__ import annotations

import doctest
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from arraynn import _core, kernels, reference

ROWS = _core.kernels()
NAMES = sorted({row["name"] for row in ROWS})
SOURCES = "\n".join(
    path.read_text(encoding="utf-8")
    for path in sorted((Path(__file__).parents[1] / "kernels").glob("test_*.py"))
)
#: Public names that compute nothing.
PLAIN = {"PackedWeight", "PackedWeights", "convert_rnn_weights", "pack", "plan"}


#: With a row at avx512_bf16 as well.
PRODUCTS_OF_BF16 = {"linear", "linear_backward", "matmul", "attention", "attention_varlen"} | {
    f"{op}{axes}d{way}"
    for op in ("conv", "conv_transpose")
    for axes in (1, 2, 3)
    for way in ("", "_backward")
}


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Names, kinds and defaults; annotations may differ."""
    signature = inspect.signature(function)
    return [(p.name, p.kind, p.default) for p in signature.parameters.values()]


def test_registered_and_public_names_are_the_same() -> None:
    assert sorted(set(kernels.__all__) - PLAIN) == NAMES
    assert sorted(kernels.__all__) == kernels.__all__


def test_every_kernel_has_a_row_per_level() -> None:
    levels = ["generic", "avx2", "avx512"]
    for name in NAMES:
        compiled = [row["isa"] for row in ROWS if row["name"] == name]
        own = name in PRODUCTS_OF_BF16 and len(compiled) > 1
        assert compiled == levels[: len(compiled) - own] + ["avx512_bf16"] * own
        assert set(_core.available_isas()) - {"avx512_bf16"} <= set(compiled)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['name']}-{row['isa']}")
def test_rows_are_complete(row: dict[str, Any]) -> None:
    assert set(row) == {"family", "name", "isa", "dtypes", "tile"}
    if row["isa"] == "avx512_bf16":
        assert row["dtypes"] == ["bfloat16"]
    else:
        assert row["dtypes"][:2] == ["float32", "float64"]
        assert row["dtypes"][2:] in ([], ["float16", "bfloat16"])
    assert len(row["tile"].split()) == len(row["dtypes"])


@pytest.mark.parametrize("name", NAMES)
class TestKernel:
    def test_is_in_the_module_of_its_family(self, name: str) -> None:
        family = next(row["family"] for row in ROWS if row["name"] == name)
        # A family's module, or a further one named after it: pool, pool_adaptive.
        module = getattr(kernels, name).__module__.removeprefix("arraynn.kernels.")
        assert module == family or module.startswith(f"{family}_")

    def test_has_a_reference_with_the_same_signature(self, name: str) -> None:
        assert name in reference.__all__
        assert parameters(getattr(reference, name)) == parameters(getattr(kernels, name))

    def test_is_named_by_the_kernel_tests(self, name: str) -> None:
        # Tests that are parametrized by an activation build the name of its gradient.
        forward = name.removesuffix("_backward")
        built = forward != name and "_backward" in SOURCES and forward in kernels.__all__
        assert re.search(rf"\b{name if not built else forward}\b", SOURCES)

    def test_documentation_has_its_sections(self, name: str) -> None:
        text = inspect.getdoc(getattr(kernels, name)) or ""
        for section in ("Parameters", "Raises", "Examples"):
            assert re.search(rf"^{section}\n-+$", text, re.MULTILINE), section

    def test_documented_example_runs(self, name: str) -> None:
        function = getattr(kernels, name)
        tests = doctest.DocTestFinder(recurse=False).find(function, name)
        assert sum(len(test.examples) for test in tests) > 0
        for test in tests:
            results = doctest.DocTestRunner().run(test)
            assert results.failed == 0
