# SPDX-License-Identifier: GPL-2.0
"""What `ksmv top` shows: one screen of a terminal, or the status again and again."""

import shutil
import sys

from ksmv import lines, text
from ksmv.status import Status

_CLEAR = "\x1b[H\x1b[J"


def show(found: Status, limit: int | None = None) -> None:
    """Prints the status; reuses the screen of a terminal."""
    if not sys.stdout.isatty():
        text.say([*lines.status(found, limit), ""], sys.stdout)
        return
    width, height = shutil.get_terminal_size()
    rows = lines.status(found, limit)
    cut = [text.printable(row)[:width] for row in rows[: height - 1]]
    text.say(cut, sys.stdout, before=_CLEAR)
