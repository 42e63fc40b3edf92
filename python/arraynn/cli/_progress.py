"""A progress bar: tqdm's where installed, a plain one otherwise, lines where nobody watches."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """Counts to `total` on stderr.

    On a terminal it is a bar (tqdm's when installed); elsewhere some ten lines, so that a log
    stays readable.

    Examples
    --------
    >>> with Progress(2, "epochs") as bar:
    ...     bar.advance("loss 1.0")
    ...     bar.advance("loss 0.5")
    """

    def __init__(self, total: int, label: str) -> None:
        self.total, self.label, self.done = total, label, 0
        self._start = time.perf_counter()
        self._terminal = sys.stderr.isatty()
        self._bar: Any = None
        if self._terminal:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(total=total, desc=label, file=sys.stderr, dynamic_ncols=True)

    def advance(self, note: str) -> None:
        """Count one more and show `note`."""
        self.done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update()
            return
        seconds = time.perf_counter() - self._start
        text = f"{self.label} {self.done}/{self.total}  {note}  {seconds:.1f} s"
        if self._terminal:
            filled = 30 * self.done // self.total
            end = "\n" if self.done == self.total else ""
            bar = "#" * filled + "." * (30 - filled)
            sys.stderr.write(f"\r\x1b[K[{bar}] {text}{end}")
            sys.stderr.flush()
        elif self.done == self.total or self.done % max(1, self.total // 10) == 0:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._terminal and self.done < self.total:
            sys.stderr.write("\n")
