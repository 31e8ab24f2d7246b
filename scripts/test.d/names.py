# SPDX-License-Identifier: GPL-2.0
"""The checked-in names of each suite's tests: tests/names/SUITE, one a line, sorted.

A suite fails if one of its tests is neither run nor reported as skipped, or is not in the list.
"""

from collections.abc import Iterable
from pathlib import Path

from shell import PROJECT

PLACE = PROJECT / "tests" / "names"
HEADER = "# SPDX-License-Identifier: GPL-2.0\n"
# Most names in a message.
SHOWN = 12


def file_of(suite: str) -> Path:
    """The list of a suite."""
    return PLACE / suite


def read(suite: str) -> set[str]:
    """The names in the list; none without a list."""
    file = file_of(suite)
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return {line for line in text.split("\n") if line and not line.startswith("#")}


def write(suite: str, names: Iterable[str]) -> None:
    """Writes the list."""
    text = HEADER + "".join(f"{name}\n" for name in sorted(set(names)))
    file_of(suite).write_text(text, encoding="utf-8")


def missing(suite: str, found: Iterable[str]) -> list[str]:
    """Tests in the list that were neither run nor skipped."""
    return sorted(read(suite) - set(found))


def _some(names: list[str]) -> str:
    """The names, or the first ones and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def objections(suite: str, found: Iterable[str]) -> list[str]:
    """How the names of tests that ran or were skipped differ from the list."""
    lost = missing(suite, found)
    new = sorted(set(found) - read(suite))
    texts = []
    if lost:
        texts.append(f"missing: {_some(lost)}")
    if new:
        texts.append(
            f"not in tests/names/{suite}: {_some(new)}: run scripts/test --update-names {suite}"
        )
    return texts
