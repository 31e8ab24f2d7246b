# SPDX-License-Identifier: GPL-2.0
"""Amounts, words and columns, as people read them."""

from collections.abc import Iterable, Sequence

from ksmv.pages import PAGE

_MIB = 1 << 20


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


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "  ") -> list[str]:
    """Lines of columns: the last one is aligned left, all others right."""
    cells = [tuple(heads), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return [
        indent + "  ".join([*(c.rjust(w) for c, w in zip(row[:-1], widths)), row[-1]]).rstrip()
        for row in cells
    ]
