"""The command line: ``python -m arraynn {info,check,bench,demo,train}``.

Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 interrupted. Errors are one line on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from arraynn.cli import bench, check, demo, info, train
from arraynn.cli._errors import CliError

__all__ = ["CliError", "build_parser", "main"]

_COMMANDS = {"info": info, "check": check, "bench": bench, "demo": demo, "train": train}

_EPILOG = """\
examples:
  python -m arraynn info              what is installed and in force
  python -m arraynn check             kernels against NumPy on this machine
  python -m arraynn demo              train a small network on handwritten digits
  python -m arraynn train charlm      train a language model of characters
  python -m arraynn train vit         train a vision Transformer on handwritten digits
  python -m arraynn bench gemm        time matrix products

`python -m arraynn COMMAND --help` tells each command's options.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="python -m arraynn",
        description="Neural-network kernels for NumPy arrays.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in _COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as end:
        # argparse has printed its message: 0 after --help, 2 after wrong arguments.
        return end.code if isinstance(end.code, int) else 2
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except CliError as error:
        print(f"arraynn {args.command}: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(f"arraynn {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe is gone; Python's own flush at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, MemoryError) as error:
        print(f"arraynn {args.command}: {error or type(error).__name__}", file=sys.stderr)
        return 1
