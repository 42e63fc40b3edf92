"""What the README says runs, and names what there is."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from arraynn import cli, kernels

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_example_prints_what_its_comment_says() -> None:
    (code,) = blocks("python")
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) == 12
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {})
    assert printed.getvalue().strip() == lines[-1].partition("# ")[2]


def test_there_are_two_commands_of_one_line_each() -> None:
    commands = [block.strip() for block in blocks("sh")]
    assert len(commands) == 2
    for command, extra in zip(commands, ("demo", "test"), strict=True):
        assert "\n" not in command
        assert f".venv/bin/pip install '.[{extra}]'" in command


def test_every_kernel_is_named() -> None:
    named = set(re.findall(r"`(\w+)`", README))
    for name in kernels.__all__:
        assert name in named or name.removesuffix("_backward") in named, name


@pytest.mark.parametrize(
    "command", ["info", "check", "bench", "demo", "train charlm", "train gpt", "train vit"]
)
def test_commands_and_their_options_exist(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = next(line for line in README.splitlines() if f"`python -m arraynn {command}`" in line)
    assert cli.main([*command.split(), "--help"]) == 0
    text = capsys.readouterr().out
    for option in re.findall(r"--[a-z]+", row):
        assert option in text


def test_links_lead_to_files() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).is_file(), target
