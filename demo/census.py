# SPDX-License-Identifier: GPL-2.0
"""Counts the private anonymous pages of processes, from /proc alone.

The kernel's pagemap and kpageflags do not depend on the module, so they can
verify what the module did. Uses the same reader as ksmv.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ksmv import pages
from ksmv.frames import KPF_ANON, KPF_KSM, KPF_ZERO_PAGE, FrameTable, frame_flags


@dataclass(frozen=True)
class Census:
    """Number of pages that some processes map, and of the frames behind them."""

    mapped: int
    """Page table entries that map an anonymous page, merged or not."""
    frames: int
    """Frames behind these entries, each counted once."""
    merged: int
    """Page table entries that map a merged (KSM) page."""
    zero: int
    """Page table entries that map the kernel's zero page."""

    def saved_since(self, before: "Census") -> int:
        """Frames saved by merging since `before`.

        Pages that the processes allocate or free meanwhile change nothing: the
        result is the frames that sharing saves of the pages they have now.
        """
        return self._shared() - before._shared()

    def _shared(self) -> int:
        return self.mapped - self.frames + self.zero


@dataclass(frozen=True)
class Bound:
    """What could be saved by comparing all pages with each other."""

    frames: int
    distinct: int
    zero: int

    @property
    def savable(self) -> int:
        """One frame stays for each content, none for zeroes."""
        return self.frames - self.distinct


def _present(pid: int) -> Iterator[pages.Page]:
    """The present pages of private areas, without file pages."""
    space = pages.AddressSpace(f"/proc/{pid}")
    for area in space.areas():
        if area.private:
            yield from space.pages(area)


def count(pids: Iterable[int]) -> Census:
    """Counts the pages that the processes map."""
    flags = frame_flags()
    mapped = merged = zero = 0
    frames = set()
    for pid in pids:
        for page in _present(pid):
            kind = flags.of(page.frame)
            if kind & (KPF_ANON | KPF_KSM):
                mapped += 1
                merged += bool(kind & KPF_KSM)
                frames.add(page.frame)
            elif kind & KPF_ZERO_PAGE:
                zero += 1
    return Census(mapped, len(frames), merged, zero)


class Comparison:
    """Compares the whole contents of all anonymous pages of processes."""

    def __init__(self) -> None:
        self._frames: set[int] = set()
        self._contents: set[bytes] = set()
        self._zero = 0

    def add(self, pid: int) -> None:
        """Adds the pages of a process."""
        flags = frame_flags()
        space = pages.AddressSpace(f"/proc/{pid}")
        for _, content in space.contents(self._new(_present(pid), flags)):
            if content is not None:
                self._add_content(content)

    def _new(self, present: Iterable[pages.Page], flags: FrameTable) -> Iterator[pages.Page]:
        for page in present:
            if page.frame not in self._frames and flags.of(page.frame) & KPF_ANON:
                self._frames.add(page.frame)
                yield page

    def _add_content(self, content: bytes) -> None:
        if content == pages.ZEROES:
            self._zero += 1
        else:
            self._contents.add(hashlib.blake2b(content, digest_size=16).digest())

    def bound(self) -> Bound:
        """The savings of a perfect merger."""
        return Bound(len(self._frames), len(self._contents), self._zero)
