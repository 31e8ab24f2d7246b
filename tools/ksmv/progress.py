# SPDX-License-Identifier: GPL-2.0
"""Progress of a command that takes long."""

import sys
import time

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
        print(f"{start}ksmv: compared {mib(compared)}", end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Ends the line on a terminal."""
        if self._told and sys.stderr.isatty():
            print(file=sys.stderr)
