# SPDX-License-Identifier: GPL-2.0
"""Amounts, words and columns, as people read them."""

import textwrap
from collections.abc import Iterable, Sequence

from ksmv.pages import PAGE

_MIB = 1 << 20
# So much of a command tells it from others.
_WORD = 12


def in_mib(pages: float) -> str:
    """A number of pages in MiB, without the unit."""
    return f"{pages * PAGE / _MIB:.1f}"


def mib(pages: float) -> str:
    """A number of pages as MiB."""
    return f"{in_mib(pages)} MiB"


def duration(seconds: float) -> str:
    """A time, in the largest unit of which it has two or more."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def plural(number: int, what: str) -> str:
    """1 page, 2 pages, 2 processes."""
    if number == 1:
        return f"{number} {what}"
    return f"{number} {what}{'es' if what.endswith('s') else 's'}"


# Columns that a narrow terminal does not show, the least useful one first.
_LEAST_USEFUL = (
    "default", "zero", "merged", "mappings", "of pages", "processes", "left alone",
    "would save", "saved pages", "shared frames", "uid",
)  # fmt: skip

_width: int | None = None


def limit_width(columns: int | None) -> None:
    """From now on tables fit into so many columns; None: they are as wide as they are."""
    global _width
    _width = columns


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "  ") -> list[str]:
    """Lines of columns: the last one is aligned left, all others right. If they are too wide,
    columns are left out, and the last one is cut."""
    cells = [tuple(heads), *map(tuple, rows)]
    for name in _LEAST_USEFUL:
        if _width is None or len(indent) + _needed(cells) <= _width:
            break
        if name in cells[0][:-1]:
            place = cells[0].index(name)
            cells = [row[:place] + row[place + 1 :] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        indent + "  ".join([*(c.rjust(w) for c, w in zip(row[:-1], widths)), row[-1]]).rstrip()
        for row in cells
    ]
    return [line[:_width] for line in lines]


def _needed(cells: Sequence[Sequence[str]]) -> int:
    """The width of the columns, if the last one is cut to a word."""
    *widths, last = [max(map(len, column)) for column in zip(*cells)]
    return sum(width + 2 for width in widths) + min(last, _WORD)


def wrapped(line: str, width: int | None) -> list[str]:
    """A line of text in lines of at most this width; the further ones are indented."""
    if width is None or len(line) <= width:
        return [line]
    inset = len(line) - len(line.lstrip())
    return textwrap.wrap(
        line, max(width, 2 * _WORD), initial_indent=" " * inset, subsequent_indent=" " * (inset + 2)
    )


def of_width(lines: Iterable[str]) -> list[str]:
    """Lines of text, wrapped where the terminal is narrow."""
    return [part for line in lines for part in wrapped(line, _width)]
