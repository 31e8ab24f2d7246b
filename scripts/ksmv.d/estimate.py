# SPDX-License-Identifier: GPL-2.0
"""What merging would save, found out by comparing pages, without merging any.

Pages are known by a keyed hash of 128 bits whose key is drawn for each run.
"""

import hashlib
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pages
import processes
from pages import Page
from policy import Policy
from processes import Process, Skipped

DEFAULT_MAX_SHARING = 1024
# Entries of one process that map one frame, at most: PER_SPACE in rust/engine/seats.rs.
_MAX_OF_PROCESS = 256
_DIGEST_BYTES = 16
_PROGRESS_PAGES = 1024

# What a content, or its absence, is known by.
_FULL_OF_ZEROES = b""


class _Met(NamedTuple):
    """A page that would be merged if another equals it, or is already."""

    digest: bytes
    frame: int
    exclusive: bool
    merged: bool


class _Content:
    """A content that pages of one domain have."""

    __slots__ = ("frames", "mappings", "most_of_process", "shared", "shared_mappings")

    def __init__(self) -> None:
        self.frames = 0
        """Unmerged frames that have it."""
        self.mappings = 0
        """Entries that map these."""
        self.most_of_process = 0
        """The most of them that one process has."""
        self.shared = 0
        """Merged frames that have it already."""
        self.shared_mappings = 0

    def savable(self, max_sharing: int) -> int:
        """Frames that would be given back: all but as many as the sharers need, at least."""
        needed = -(-(self.mappings + self.shared_mappings) // max_sharing)
        of_process = -(-self.most_of_process // _MAX_OF_PROCESS)
        return max(0, self.frames - max(0, max(needed, of_process) - self.shared))


@dataclass
class Row:
    """What merging would save in one process."""

    process: Process
    candidate_pages: int
    """Entries of its page tables that map an unmerged page which may be merged."""
    merged_pages: int
    """Entries that map a merged page already."""
    left_alone: Counter[str]
    """Anonymous pages that the module leaves alone, by reason."""
    unread_pages: int
    """Candidates that could not be read: gone meanwhile."""
    savable_pages: float = 0
    """Its part of the frames that merging would give back."""
    contents: list[_Content] = field(default_factory=list, repr=False)
    """The content of each candidate; those full of zeroes count in `zeroes`."""
    zeroes: list[_Content] = field(default_factory=list, repr=False)


class Totals(NamedTuple):
    """What merging would save in some domains."""

    frames: int = 0
    """Unmerged frames that may be merged, each counted once."""
    distinct_contents: int = 0
    """Different contents of these, zeroes left out."""
    zero_frames: int = 0
    """Those full of zeroes."""
    savable_pages: int = 0
    """Frames that would be given back."""


@dataclass(frozen=True)
class Domain:
    """What merging would save among those who may share."""

    owner: tuple[int | str, ...]
    """As Policy.domain_of()."""
    processes: int
    totals: Totals


@dataclass(frozen=True)
class Estimate:
    """What merging would save in some processes, in addition to what is merged already."""

    rows: list[Row]
    skipped: list[Skipped]
    domains: list[Domain]
    seconds: float

    @property
    def totals(self) -> Totals:
        """Of all domains."""
        return Totals(*map(sum, zip(Totals(), *(domain.totals for domain in self.domains))))


class Estimator:
    """Takes in processes and compares their pages, whole content by whole content."""

    def __init__(
        self,
        policy: Policy,
        max_sharing: int = DEFAULT_MAX_SHARING,
        progress: Callable[[int], None] = lambda compared: None,
    ) -> None:
        """`progress` is told now and then how many pages have been compared."""
        self._policy = policy
        self._progress = progress
        self._compared = 0
        self._max_sharing = max_sharing
        self._key = secrets.token_bytes(hashlib.blake2b.MAX_KEY_SIZE)
        self._contents: dict[tuple[int | str, ...], dict[bytes, _Content]] = {}
        # Frames that others may map, too, in each state that was met.
        self._known: set[tuple[int, bool]] = set()
        self._rows: list[Row] = []

    def add(self, process: Process) -> None:
        """Takes in the pages of a process; nothing of one that exits meanwhile (OSError)."""
        row = Row(process, 0, 0, Counter(), 0)
        met = list(self._meet(process, row))
        domain = self._contents.setdefault(self._policy.domain_of(process), {})
        for one in met:
            self._note(one, domain.setdefault(one.digest, _Content()), row)
        for content, times in Counter(row.contents).items():
            content.most_of_process = max(content.most_of_process, times)
        self._rows.append(row)

    def result(self, skipped: Iterable[Skipped] = (), seconds: float = 0) -> Estimate:
        """What was found."""
        for row in self._rows:
            row.savable_pages = sum(map(self._part, row.contents)) + sum(map(_part, row.zeroes))
        sizes = Counter(self._policy.domain_of(row.process) for row in self._rows)
        domains = [
            Domain(owner, sizes[owner], self._totals(contents))
            for owner, contents in self._contents.items()
        ]
        return Estimate(self._rows, list(skipped), domains, seconds)

    def _totals(self, domain: dict[bytes, _Content]) -> Totals:
        zeroes = domain.get(_FULL_OF_ZEROES, _Content()).frames
        contents = [
            content
            for digest, content in domain.items()
            if digest != _FULL_OF_ZEROES and content.frames
        ]
        return Totals(
            zeroes + sum(content.frames for content in contents),
            len(contents),
            zeroes,
            zeroes + sum(content.savable(self._max_sharing) for content in contents),
        )

    def _meet(self, process: Process, row: Row) -> Iterator[_Met]:
        """The pages that may be merged, or are."""
        flags = pages.flags()
        space = pages.AddressSpace(process.path)
        dumpable = processes.is_dumpable(process)
        for area in space.areas_with_flags():
            objection = self._policy.objection(area, dumpable, process.several_ids)
            mapped = _anonymous(space.pages(area), flags)
            if objection:
                row.left_alone[objection] += sum(1 for _ in mapped)
                continue
            for page, content in space.contents(mapped):
                self._tell_progress()
                if content is None:
                    row.unread_pages += 1
                    continue
                merged = bool(flags.of(page.frame) & pages.KPF_KSM)
                yield _Met(self._digest(content), page.frame, page.exclusive, merged)

    def _tell_progress(self) -> None:
        self._compared += 1
        if self._compared % _PROGRESS_PAGES == 0:
            self._progress(self._compared)

    def _note(self, met: _Met, content: _Content, row: Row) -> None:
        is_new = self._is_new(met)
        if met.merged:
            content.shared += is_new
            content.shared_mappings += 1
            row.merged_pages += 1
            return
        content.frames += is_new
        content.mappings += 1
        row.candidate_pages += 1
        (row.contents if met.digest else row.zeroes).append(content)

    def _is_new(self, met: _Met) -> bool:
        """Whether the frame has not been met: only one that is not exclusive can have been."""
        if met.exclusive:
            return True
        before = len(self._known)
        self._known.add((met.frame, met.merged))
        return len(self._known) > before

    def _digest(self, content: bytes) -> bytes:
        if content == pages.ZEROES:
            return _FULL_OF_ZEROES
        return hashlib.blake2b(content, digest_size=_DIGEST_BYTES, key=self._key).digest()

    def _part(self, content: _Content) -> float:
        """What one mapping is given of what its content would save."""
        return content.savable(self._max_sharing) / content.mappings


def _part(zeroes: _Content) -> float:
    """As Estimator._part(): of zeroes no frame needs to stay."""
    return zeroes.frames / zeroes.mappings


def _anonymous(mapped: Iterable[Page], flags: pages.FrameTable) -> Iterator[Page]:
    """Of some pages those that are anonymous, merged or not, and can be read."""
    for page in mapped:
        kind = flags.of(page.frame)
        if kind & pages.KPF_ANON and not kind & (pages.KPF_HUGE | pages.KPF_HWPOISON):
            yield page


def estimate(wanted: list[Process], estimator: Estimator) -> Estimate:
    """Compares the pages of these processes with each other; this one is left out."""
    start = time.monotonic()
    _, skipped = processes.visit(
        [process for process in wanted if process.pid != os.getpid()], estimator.add
    )
    return estimator.result(skipped, time.monotonic() - start)
