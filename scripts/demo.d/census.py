# SPDX-License-Identifier: GPL-2.0
"""Counts the private anonymous pages of processes, from /proc alone.

What the kernel says in pagemap and kpageflags does not depend on the module,
so it can be used to judge what the module did:

  pagemap     the frame behind each page of a process
  kpageflags  what each frame is: anonymous, merged (KSM), the zero page
  mem         the content of a page

Documentation/admin-guide/mm/pagemap.rst of the kernel describes the first two.
"""

import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from report import PAGE

ENTRY = 8
CHUNK = ENTRY << 17
PRESENT = 1 << 63
FRAME = (1 << 55) - 1
KPF_ANON = 1 << 12
KPF_KSM = 1 << 21
KPF_ZERO_PAGE = 1 << 24

ZEROES = bytes(PAGE)
PRIVATE_AREA = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ...p ")


@dataclass(frozen=True)
class Census:
    """How many pages some processes map, and how many frames that takes."""

    mapped: int
    """Entries of page tables that map an anonymous page, merged or not."""
    frames: int
    """Frames behind these, each counted once."""
    merged: int
    """Entries that map a merged (KSM) page."""
    zero: int
    """Entries that map the kernel's zero page."""

    def saved_since(self, before: "Census") -> int:
        """Frames saved by merging, in addition to what was before.

        Pages the processes got or gave back meanwhile change nothing: what
        counts is what the pages of today would take without sharing.
        """
        return self._shared() - before._shared()

    def _shared(self) -> int:
        return self.mapped - self.frames + self.zero


@dataclass(frozen=True)
class Bound:
    """What somebody could save who compares all pages with each other."""

    frames: int
    distinct: int
    zero: int

    @property
    def savable(self) -> int:
        """One frame has to stay for each content, none for zeroes."""
        return self.frames - self.distinct


class Frames:
    """The flags of all frames of the machine at one moment."""

    def __init__(self) -> None:
        self._flags = array("Q", _read_all("/proc/kpageflags"))

    def of(self, frame: int) -> int:
        """The flags of a frame, 0 if there is no such."""
        return self._flags[frame] if frame < len(self._flags) else 0


def _read_all(path: str) -> bytes:
    # The kernel takes only reads of whole entries.
    with open(path, "rb", buffering=0) as file:
        return b"".join(iter(lambda: file.read(CHUNK), b""))


def _private_areas(pid: int) -> Iterator[tuple[int, int]]:
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        for area in maps:
            match = PRIVATE_AREA.match(area)
            if match and "[vsyscall]" not in area:
                yield int(match[1], 16), int(match[2], 16)


def _present(pid: int) -> Iterator[tuple[int, int]]:
    """The address and the frame of each present page of private areas."""
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        for start, end in _private_areas(pid):
            size = (end - start) // PAGE * ENTRY
            entries = array("Q", os.pread(pagemap, size, start // PAGE * ENTRY))
            for index, entry in enumerate(entries):
                if entry & PRESENT:
                    yield start + index * PAGE, entry & FRAME
    finally:
        os.close(pagemap)


def count(pids: Iterable[int]) -> Census:
    """Counts what the processes map."""
    flags = Frames()
    mapped = merged = zero = 0
    frames = set()
    for pid in pids:
        for _, frame in _present(pid):
            kind = flags.of(frame)
            if kind & (KPF_ANON | KPF_KSM):
                mapped += 1
                merged += bool(kind & KPF_KSM)
                frames.add(frame)
            elif kind & KPF_ZERO_PAGE:
                zero += 1
    return Census(mapped, len(frames), merged, zero)


class Comparison:
    """Compares the anonymous pages of processes, whole content by whole content."""

    def __init__(self) -> None:
        self._frames: set[int] = set()
        self._contents: set[bytes] = set()
        self._zero = 0

    def add(self, pid: int) -> None:
        """Takes in the pages of a process."""
        flags = Frames()
        mem = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        try:
            for address, frame in _present(pid):
                if frame not in self._frames and flags.of(frame) & KPF_ANON:
                    self._frames.add(frame)
                    self._add_content(os.pread(mem, PAGE, address))
        finally:
            os.close(mem)

    def _add_content(self, content: bytes) -> None:
        if content == ZEROES:
            self._zero += 1
        else:
            self._contents.add(hashlib.blake2b(content, digest_size=16).digest())

    def bound(self) -> Bound:
        """What a perfect merger would leave of them."""
        return Bound(len(self._frames), len(self._contents), self._zero)
