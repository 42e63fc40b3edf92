"""Errors that are the user's to mend."""

from __future__ import annotations


class CliError(Exception):
    """Ends a command with one line on stderr and exit code `code`."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
