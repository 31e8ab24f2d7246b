# SPDX-License-Identifier: GPL-2.0
"""The frames of memory, as /proc shows them, with or without the module.

  kpageflags   what each frame is: anonymous, merged (KSM), the zero page
  kpagecount   how many page table entries map each frame

Documentation/admin-guide/mm/pagemap.rst of the kernel describes both.
"""

import os
from array import array

KPF_ANON = 1 << 12
KPF_HUGE = 1 << 17
KPF_HWPOISON = 1 << 19
KPF_KSM = 1 << 21
KPF_ZERO_PAGE = 1 << 24

_WORD = 8
_BLOCK_BITS = 9


class FrameTable:
    """One of the kernel's tables with a word for each frame; reads parts on demand."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._blocks: dict[int, array[int]] = {}

    def of(self, frame: int) -> int:
        """The word of a frame; 0 if there is no such frame."""
        number = frame >> _BLOCK_BITS
        block = self._blocks.get(number)
        if block is None:
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
