# SPDX-License-Identifier: GPL-2.0
"""The pages of processes, as the files in /proc/PID show them, with or without the module.

  maps, smaps  the areas of the address space
  pagemap      the frame behind each page: see admin-guide/mm/pagemap.rst of the kernel
  mem          the content of a page
"""

import errno
import fcntl
import mmap
import os
import re
import struct
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TextIO

PAGE = mmap.PAGESIZE
ZEROES = bytes(PAGE)

_ENTRY = 8
_PRESENT = 1 << 63
_FILE = 1 << 61
_EXCLUSIVE = 1 << 56
_FRAME = (1 << 55) - 1

# Page table entries to read at once.
_CHUNK = 1 << 16
_CONTENTS = 64

# PAGEMAP_SCAN of <linux/fs.h>: struct pm_scan_arg has 12 words, struct page_region 3.
_PAGEMAP_SCAN = 0xC0606610
_PAGE_IS_FILE = 1 << 2
_PAGE_IS_PRESENT = 1 << 3
_SCAN_WORDS = 12
_WALK_END = 4
_REGION_WORDS = 3
_REGIONS = 1024

_AREA = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ...([ps]) [0-9a-f]+ (\S+ \d+) *([^\n]*)")
_HUGETLB = re.compile(r"(?:Shared|Private)_Hugetlb: +(\d+) kB")
_USER_END = 1 << 63


class Area(NamedTuple):
    """An area of an address space."""

    start: int
    end: int
    private: bool
    flags: frozenset[str]
    """The two-letter VmFlags of smaps; empty if only maps was read."""
    file: str = ""
    """Device and inode of its file."""
    name: str = ""
    """The path of its file, or a name in brackets, as maps shows it."""
    hugetlb: int = 0
    """Pages of hugetlbfs that it maps; 0 if only maps was read."""


class Page(NamedTuple):
    """A page table entry that maps a page."""

    address: int
    frame: int
    exclusive: bool
    """Nothing else maps the frame."""


class AddressSpace:
    """An address space, in a process's directory of /proc.

    Reading raises OSError if the process has exited or may not be read.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def areas(self) -> Iterator[Area]:
        """The areas, without their flags."""
        with _open_lines(f"{self._path}/maps") as maps:
            for line in maps:
                area = _area(line)
                if area:
                    yield area

    def areas_with_flags(self) -> Iterator[Area]:
        """The areas with their flags. The kernel walks the page tables for this."""
        area, hugetlb = None, 0
        with _open_lines(f"{self._path}/smaps") as smaps:
            for line in smaps:
                if line.startswith("VmFlags:") and area:
                    flags = frozenset(line.split()[1:])
                    yield area._replace(flags=flags, hugetlb=hugetlb)
                    hugetlb = 0
                elif found := _HUGETLB.match(line):
                    hugetlb += (int(found[1]) << 10) // PAGE
                else:
                    area = _area(line) or area

    def pages(self, area: Area) -> Iterator[Page]:
        """The present pages of an area, without file pages: anonymous, merged, or the zero page."""
        return self._pages(area, 0)

    def file_pages(self, area: Area) -> Iterator[Page]:
        """The present pages of an area that are a file's, or shared memory."""
        return self._pages(area, _FILE)

    def _pages(self, area: Area, kind: int) -> Iterator[Page]:
        pagemap = os.open(f"{self._path}/pagemap", os.O_RDONLY)
        try:
            for start, end in _populated(pagemap, area.start, area.end, kind):
                yield from _read_pagemap(pagemap, start, end, kind)
        finally:
            os.close(pagemap)

    def contents(self, pages: Iterable[Page]) -> Iterator[tuple[Page, bytes | None]]:
        """Each page with its content; None if it can no longer be read."""
        mem = os.open(f"{self._path}/mem", os.O_RDONLY)
        try:
            for run in _runs(pages):
                content = _read_mem(mem, run[0].address, len(run))
                for number, page in enumerate(run):
                    part = content[number * PAGE : (number + 1) * PAGE]
                    yield page, part if len(part) == PAGE else None
        finally:
            os.close(mem)


def _open_lines(path: str) -> TextIO:
    """Opens a file that may be too long to read at once. Only newlines end its lines: the kernel
    escapes newlines in file names, but not carriage returns."""
    return open(path, encoding="utf-8", errors="surrogateescape", newline="\n")


def _area(line: str) -> Area | None:
    match = _AREA.match(line)
    if not match or int(match[1], 16) >= _USER_END:
        return None
    start, end = int(match[1], 16), int(match[2], 16)
    return Area(start, end, match[3] == "p", frozenset(), match[4], match[5])


def _populated(pagemap: int, start: int, end: int, kind: int) -> Iterator[tuple[int, int]]:
    """The ranges with present pages of a kind: _FILE, or 0 for all others; before Linux 6.7, the
    whole area."""
    inverted = 0 if kind else _PAGE_IS_FILE
    regions = array("Q", bytes(_REGION_WORDS * _ENTRY * _REGIONS))
    while start < end:
        scan = bytearray(
            struct.pack(
                f"{_SCAN_WORDS}Q",
                _SCAN_WORDS * _ENTRY, 0, start, end, 0, regions.buffer_info()[0], _REGIONS, 0,
                inverted, _PAGE_IS_PRESENT | _PAGE_IS_FILE, 0, _PAGE_IS_PRESENT,
            )  # fmt: skip
        )
        try:
            found = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, scan)
        except OSError as error:
            if error.errno != errno.ENOTTY:
                raise
            yield start, end
            return
        for number in range(found):
            yield regions[_REGION_WORDS * number], regions[_REGION_WORDS * number + 1]
        start = struct.unpack_from("Q", scan, _WALK_END * _ENTRY)[0]


def _read_pagemap(pagemap: int, start: int, end: int, kind: int) -> Iterator[Page]:
    while start < end:
        count = min((end - start) // PAGE, _CHUNK)
        data = os.pread(pagemap, count * _ENTRY, start // PAGE * _ENTRY)
        if not data:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
        for entry in array("Q", data):
            if entry & (_PRESENT | _FILE) == _PRESENT | kind:
                yield Page(start, entry & _FRAME, bool(entry & _EXCLUSIVE))
            start += PAGE


def _runs(pages: Iterable[Page]) -> Iterator[list[Page]]:
    """Consecutive pages, in pieces of limited size."""
    run: list[Page] = []
    for page in pages:
        if run and (page.address != run[-1].address + PAGE or len(run) == _CONTENTS):
            yield run
            run = []
        run.append(page)
    if run:
        yield run


def _read_mem(mem: int, address: int, count: int) -> bytes:
    """Reads the pages that are present; returns nothing if the process has exited."""
    try:
        return os.pread(mem, count * PAGE, address)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""
