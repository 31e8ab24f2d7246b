# SPDX-License-Identifier: GPL-2.0
"""What `ksmv top` shows: a terminal's screen, with keys; elsewhere, the status again and again."""

import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ksmv import access, layout, lines, text
from ksmv.status import Status
from ksmv.view import KEYS, QUIT, View

_ENTER, _LEAVE = "\x1b[?1049h", "\x1b[?1049l"
_CLEAR = "\x1b[H\x1b[J"


class Screen:
    """Shows one status after the other."""

    def __init__(self, limit: int | None) -> None:
        self.view = View(by="process" if limit else "")
        self._limit = limit
        self._last: Status | None = None
        self.is_over = False

    def show(self, found: Status) -> None:
        """Shows a status; reuses the screen of a terminal."""
        self._last = found
        if not sys.stdout.isatty():
            text.say([*lines.status(found, self._limit), ""], sys.stdout)
            return
        width, height = shutil.get_terminal_size()
        layout.limit_width(width)
        rows = fitted(lines.top(found, self.view, self._limit), width, height)
        text.say(rows, sys.stdout, before=_CLEAR)

    def wait(self, seconds: float) -> None:
        """Waits; obeys keys meanwhile, if they come from a terminal."""
        if not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
            time.sleep(seconds)
            return
        until = time.monotonic() + seconds
        while not self.is_over and select.select([sys.stdin], [], [], max(0, until - time.monotonic()))[0]:
            # Unbuffered: select() does not see what Python has buffered.
            key = os.read(sys.stdin.fileno(), 1).decode("ascii", "replace")
            self.is_over = key in (QUIT, "")
            before, self.view = self.view, self.view.after(key)
            if self.view.by and not before.by:
                # The status that was read lacks the table.
                access.check()
                return
            if self._last:
                self.show(self._last)


def fitted(rows: Sequence[str], width: int, height: int) -> list[str]:
    """As many rows as fit, and the keys, which stay in sight. Names are escaped before rows are
    cut: that makes them longer."""
    keys = ["", *layout.wrapped(KEYS, width)]
    shown = [*rows[: max(0, height - 1 - len(keys))], *keys]
    return [text.printable(row)[:width] for row in shown]


@contextmanager
def of_terminal() -> Iterator[None]:
    """Takes the terminal's alternate screen, and its keys without echo; gives both back."""
    if not sys.stdout.isatty():
        yield
        return
    keys = sys.stdin.fileno() if sys.stdin and sys.stdin.isatty() else None
    before = termios.tcgetattr(keys) if keys is not None else None
    signal.signal(signal.SIGTERM, _interrupt)
    text.say([], sys.stdout, before=_ENTER, end="")
    try:
        if keys is not None:
            tty.setcbreak(keys)
        yield
    finally:
        if keys is not None and before is not None:
            termios.tcsetattr(keys, termios.TCSADRAIN, before)
        text.say([], sys.stdout, before=_LEAVE, end="")


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
