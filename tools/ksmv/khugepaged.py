# SPDX-License-Identifier: GPL-2.0
"""Where khugepaged undoes merges: it makes a huge page of a range, and so copies its merged pages.

References: Documentation/admin-guide/mm/transhuge.rst, collapse_scan_pmd() in mm/khugepaged.c.
"""

from dataclasses import dataclass
from pathlib import Path

PLACE = Path("/sys/kernel/mm/transparent_hugepage")


@dataclass(frozen=True)
class Undone:
    """The ranges (of 512 pages) of which khugepaged makes huge pages although pages are merged."""

    shared: int = 0
    """With up to this number of shared pages; 0: it leaves such ranges."""
    zero: int = 0
    """With up to this number of pages of zeroes; 0: it leaves such ranges."""


def undone(movable: bool, least_parts: int) -> Undone:
    """What khugepaged undoes of merges, if huge pages are split for `least_parts` parts."""
    if "[never]" in _read(PLACE / "enabled", "[never]"):
        return Undone()
    shared = int(_read(PLACE / "khugepaged/max_ptes_shared", "0"))
    zero = int(_read(PLACE / "khugepaged/max_ptes_none", "0"))
    # It finds merged pages only on the LRU lists, where those are that can be moved.
    is_shared_left = not movable or least_parts > shared
    return Undone(0 if is_shared_left else shared, 0 if least_parts > zero else zero)


def _read(path: Path, missing: str) -> str:
    try:
        return path.read_text()
    except OSError:
        return missing
