# SPDX-License-Identifier: GPL-2.0
"""Progress of a command that takes long."""

import contextlib
import sys
import time

from ksmv import text
from ksmv.layout import mib


class Progress:
    """Prints progress on standard error once it takes long; reuses the line on a terminal."""

    _EVERY_SECONDS = 2

    def __init__(self) -> None:
        self._next = time.monotonic() + self._EVERY_SECONDS
        self._told = False

    def tell(self, compared: int) -> None:
        """Reports the number of compared pages."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._EVERY_SECONDS
        self._told = True
        start, end = ("\r", "") if sys.stderr.isatty() else ("", "\n")
        self._put(f"{start}ksmv: compared {mib(compared)}", end)

    def end(self) -> None:
        """Ends the line on a terminal."""
        if self._told and sys.stderr.isatty():
            self._put("", "\n")

    @staticmethod
    def _put(told: str, end: str) -> None:
        """Prints if that is possible: the answer does not depend on it."""
        with contextlib.suppress(text.UnwritableError):
            text.put(told, sys.stderr, end)
