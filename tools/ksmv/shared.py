# SPDX-License-Identifier: GPL-2.0
"""Shared memory: pages of memfd, of tmpfs, of System V segments, of MAP_SHARED and anonymous areas.

The kernel merges none of it: a frame of shared memory belongs to a file, not to page tables. This
tells how much there is, and how much of it is equal, so that nobody is left to wonder.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ksmv.frames import KPF_ANON, KPF_SWAPBACKED, FrameTable
from ksmv.pages import ZEROES, AddressSpace, Area

_DELETED = " (deleted)"
_MEMFD = "/memfd:"
_UNNAMED = {"/dev/zero": "MAP_SHARED"}
# Contents to remember when pages are compared.
_SAMPLE = 20_000


@dataclass(frozen=True)
class Segment:
    """A part of shared memory."""

    file: str
    """Device and inode, the same for all who map it."""
    name: str
    """memfd:NAME, a path, or MAP_SHARED for an anonymous segment."""
    pages: int
    """The pages that an address space maps."""


@dataclass(frozen=True)
class Likeness:
    """How alike the pages of shared memory are."""

    pages: int = 0
    zero: int = 0
    equal: int = 0
    """Pages that have the content of another one before them; estimated if there are many."""


def segment(space: AddressSpace, area: Area, flags: FrameTable) -> Segment | None:
    """The shared memory that an area maps; None if it maps none. Programs and libraries on tmpfs,
    which are mapped privately, are none."""
    is_private = area.private and not area.name.startswith(_MEMFD)
    if is_private or "ht" in area.flags or area.file.startswith("00:00 0"):
        return None
    mapped = space.file_pages(area)
    first = next(mapped, None)
    if first is None or flags.of(first.frame) & (KPF_SWAPBACKED | KPF_ANON) != KPF_SWAPBACKED:
        return None
    return Segment(area.file, _name(area.name), 1 + sum(1 for _ in mapped))


def _name(path: str) -> str:
    name = path.removesuffix(_DELETED)
    return _UNNAMED.get(name, name.removeprefix("/") if name.startswith(_MEMFD) else name)


def merged(segments: Iterable[Segment]) -> list[Segment]:
    """Each part of shared memory once, with the most pages that anybody maps; largest first."""
    found: dict[str, Segment] = {}
    for one in segments:
        known = found.get(one.file, one)
        found[one.file] = replace(known, pages=max(known.pages, one.pages))
    return sorted(found.values(), key=lambda one: (-one.pages, one.name))


def likeness(contents: Iterable[bytes], sample: int = _SAMPLE) -> Likeness:
    """Compares pages. Contents are chosen by their hash, so that equal ones are chosen together."""
    pages = zero = mask = 0
    chosen: Counter[int] = Counter()
    for content in contents:
        pages += 1
        if content == ZEROES:
            zero += 1
            continue
        lot = hash(content)
        if lot & mask:
            continue
        chosen[lot] += 1
        while len(chosen) > sample:
            mask = mask << 1 | 1
            chosen = Counter({one: times for one, times in chosen.items() if not one & mask})
    equal = (chosen.total() - len(chosen)) * (mask + 1)
    return Likeness(pages, zero, min(equal, pages - zero))


def contents(space: AddressSpace, areas: Iterable[Area]) -> Iterator[bytes]:
    """The pages of shared memory in these areas."""
    for area in areas:
        for _, content in space.contents(space.file_pages(area)):
            if content is not None:
                yield content
