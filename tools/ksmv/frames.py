# SPDX-License-Identifier: GPL-2.0
"""The frames of memory, as /proc shows them, with or without the module.

  kpageflags   what each frame is: anonymous, merged (KSM), part of a huge page, the zero page
  kpagecount   how many page table entries map each frame

Documentation/admin-guide/mm/pagemap.rst of the kernel describes both.
"""

import os
from array import array
from typing import NamedTuple

KPF_ANON = 1 << 12
_KPF_COMPOUND_HEAD = 1 << 15
_KPF_COMPOUND_TAIL = 1 << 16
KPF_SWAPBACKED = 1 << 14
KPF_HUGE = 1 << 17
KPF_HWPOISON = 1 << 19
KPF_KSM = 1 << 21
KPF_THP = 1 << 22
KPF_ZERO_PAGE = 1 << 24

# Frames of a huge page.
HUGE = 512

_WORD = 8
_BLOCK_BITS = 9
# Parts to keep, of 4 KiB each: what a machine of any size may take is bounded.
_BLOCKS = 1 << 12


class FrameTable:
    """One of the kernel's tables with a word for each frame; reads parts on demand, and keeps those
    that were read last."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._blocks: dict[int, array[int]] = {}

    def of(self, frame: int) -> int:
        """The word of a frame; 0 if there is no such frame."""
        number = frame >> _BLOCK_BITS
        block = self._blocks.get(number)
        if block is None:
            if len(self._blocks) == _BLOCKS:
                del self._blocks[next(iter(self._blocks))]
            block = self._blocks[number] = self._read(number)
        return block[frame & (1 << _BLOCK_BITS) - 1]

    def _read(self, number: int) -> "array[int]":
        size = _WORD << _BLOCK_BITS
        with open(self._path, "rb", buffering=0) as file:
            return array("Q", os.pread(file.fileno(), size, number * size).ljust(size, b"\0"))


def frame_flags() -> FrameTable:
    """The flags of each frame, read at the first use."""
    return FrameTable("/proc/kpageflags")


def mapping_counts() -> FrameTable:
    """The number of page table entries that map each frame, read at the first use."""
    return FrameTable("/proc/kpagecount")


class Folio(NamedTuple):
    """A page of one or more frames, which the kernel manages as one."""

    head: int
    frames: int


def folio_of(flags: FrameTable, frame: int) -> Folio:
    """The folio that a frame is part of. Folios are as aligned as they are large."""
    if not flags.of(frame) & (_KPF_COMPOUND_HEAD | _KPF_COMPOUND_TAIL):
        return Folio(frame, 1)
    size = 1
    while size < HUGE and not flags.of(frame & -size) & _KPF_COMPOUND_HEAD:
        size *= 2
    head = frame & -size
    while flags.of(head + size) & _KPF_COMPOUND_TAIL:
        size *= 2
    return Folio(head, size)
