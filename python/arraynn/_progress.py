"""Progress of long loops: a bar on a terminal (tqdm's when installed), nothing elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

__all__ = ["ProgressBar", "format_logs"]

_SECONDS_BETWEEN_REDRAWS = 0.1


def format_logs(logs: Mapping[str, float]) -> str:
    """Return ``name value`` pairs with four significant digits."""
    return "  ".join(f"{name} {value:.4g}" for name, value in logs.items())


class ProgressBar:
    """Counts steps to ``total`` on one line, which disappears at the end.

    Nothing is written unless the stream is a terminal.

    Parameters
    ----------
    total : int
    label : str
        Text before the bar.
    enabled : bool
    stream : text file, optional
        Standard error when None.

    Examples
    --------
    >>> import io
    >>> with ProgressBar(3, "epoch 1/1", stream=io.StringIO()) as bar:
    ...     for _ in range(3):
    ...         bar.update()
    >>> bar.count
    3
    """

    def __init__(
        self, total: int, label: str = "", enabled: bool = True, stream: TextIO | None = None
    ) -> None:
        self.total = total
        self.label = label
        self.count = 0
        self._stream = sys.stderr if stream is None else stream
        self._shown = enabled and self._stream.isatty()
        self._tqdm: Any = None
        self._drawn_at = 0.0
        self._width = 0

    def __enter__(self) -> ProgressBar:
        if self._shown:
            try:
                from tqdm import tqdm
            except ImportError:
                self._draw("")
            else:
                self._tqdm = tqdm(
                    total=self.total,
                    desc=self.label,
                    leave=False,
                    file=self._stream,
                    dynamic_ncols=True,
                )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._tqdm is not None:
            self._tqdm.close()
        elif self._shown and self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()

    def update(self, text: str = "") -> None:
        """Count one step; ``text`` stands behind the bar."""
        self.count += 1
        if not self._shown:
            return
        if self._tqdm is not None:
            self._tqdm.set_postfix_str(text, refresh=False)
            self._tqdm.update()
            return
        now = time.monotonic()
        if now - self._drawn_at >= _SECONDS_BETWEEN_REDRAWS or self.count == self.total:
            self._drawn_at = now
            self._draw(text)

    def write(self, line: str) -> None:
        """Write a line to the stream; a bar that is shown stays below it."""
        if self._tqdm is not None:
            self._tqdm.write(line, file=self._stream)
            return
        wiped = "\r" + " " * self._width + "\r" if self._width else ""
        self._stream.write(f"{wiped}{line}\n")
        self._width = 0
        self._stream.flush()

    def _draw(self, text: str) -> None:
        columns = shutil.get_terminal_size().columns - 1
        part = self.count / self.total if self.total else 1.0
        filled = round(20 * min(part, 1.0))
        bar = "#" * filled + "." * (20 - filled)
        line = f"{self.label} [{bar}] {self.count}/{self.total} {text}"[:columns]
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)
