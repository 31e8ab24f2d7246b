# SPDX-License-Identifier: GPL-2.0
"""Estimates what merging would save, by comparing pages, without merging any.

A page's content is identified by a keyed 128-bit hash; each run draws its own key.
"""

import hashlib
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ksmv import pages, processes
from ksmv.frames import KPF_ANON, KPF_HUGE, KPF_HWPOISON, KPF_KSM, FrameTable, frame_flags
from ksmv.pages import Page
from ksmv.policy import Policy
from ksmv.processes import Process, Skipped

DEFAULT_MAX_SHARING = 1024
# Most entries of one process that map one frame: PER_SPACE in rust/engine/seats.rs.
_MAX_OF_PROCESS = 256
_DIGEST_BYTES = 16
_PROGRESS_PAGES = 1024

# The digest of pages full of zeroes.
_FULL_OF_ZEROES = b""


class _Met(NamedTuple):
    """A page that is merged, or would be if another page had the same content."""

    digest: bytes
    frame: int
    exclusive: bool
    merged: bool


class _Content:
    """A content of pages of one domain."""

    __slots__ = ("frames", "mappings", "most_of_process", "shared", "shared_mappings")

    def __init__(self) -> None:
        self.frames = 0
        """Unmerged frames with this content."""
        self.mappings = 0
        """Page table entries that map these frames."""
        self.most_of_process = 0
        """The largest number of these entries in one process."""
        self.shared = 0
        """Merged frames with this content."""
        self.shared_mappings = 0

    def savable(self, max_sharing: int) -> int:
        """Frames that merging would free: all but the minimum that the sharing limits need."""
        needed = -(-(self.mappings + self.shared_mappings) // max_sharing)
        of_process = -(-self.most_of_process // _MAX_OF_PROCESS)
        return max(0, self.frames - max(0, max(needed, of_process) - self.shared))


@dataclass
class Row:
    """What merging would save in one process."""

    process: Process
    candidate_pages: int
    """Page table entries that map an unmerged page which may be merged."""
    merged_pages: int
    """Page table entries that map a merged page."""
    left_alone: Counter[str]
    """Anonymous pages that the module leaves alone, by reason."""
    unread_pages: int
    """Candidates that could not be read, because they were gone."""
    savable_pages: float = 0
    """Its part of the frames that merging would free."""
    contents: list[_Content] = field(default_factory=list, repr=False)
    """The content of each candidate; zero pages are counted in `zeroes`."""
    zeroes: list[_Content] = field(default_factory=list, repr=False)


class Totals(NamedTuple):
    """The totals of one or more domains."""

    frames: int = 0
    """Unmerged frames that may be merged, each counted once."""
    distinct_contents: int = 0
    """Different contents of these frames, without zeroes."""
    zero_frames: int = 0
    """Frames full of zeroes."""
    savable_pages: int = 0
    """Frames that merging would free."""


@dataclass(frozen=True)
class Domain:
    """The estimate for one domain."""

    owner: tuple[int | str, ...]
    """The result of Policy.domain_of()."""
    processes: int
    totals: Totals


@dataclass(frozen=True)
class Estimate:
    """What merging would save in some processes, in addition to the pages merged already."""

    rows: list[Row]
    skipped: list[Skipped]
    domains: list[Domain]
    seconds: float

    @property
    def totals(self) -> Totals:
        """The totals of all domains."""
        return Totals(*map(sum, zip(Totals(), *(domain.totals for domain in self.domains))))

    @property
    def left_alone(self) -> Counter[str]:
        """Anonymous pages that the module leaves alone, by reason."""
        return sum((row.left_alone for row in self.rows), Counter())


class Estimator:
    """Collects processes and compares the whole contents of their pages."""

    def __init__(
        self,
        policy: Policy,
        max_sharing: int = DEFAULT_MAX_SHARING,
        progress: Callable[[int], None] = lambda compared: None,
    ) -> None:
        """Calls `progress` from time to time with the number of compared pages."""
        self._policy = policy
        self._progress = progress
        self._compared = 0
        self._max_sharing = max_sharing
        self._key = secrets.token_bytes(hashlib.blake2b.MAX_KEY_SIZE)
        self._contents: dict[tuple[int | str, ...], dict[bytes, _Content]] = {}
        # Frames that other processes may also map, once for each state they were found in.
        self._known: set[tuple[int, bool]] = set()
        self._rows: list[Row] = []

    def add(self, process: Process) -> None:
        """Adds the pages of a process; adds nothing if it exits meanwhile (OSError)."""
        row = Row(process, 0, 0, Counter(), 0)
        met = list(self._meet(process, row))
        domain = self._contents.setdefault(self._policy.domain_of(process), {})
        for one in met:
            self._note(one, domain.setdefault(one.digest, _Content()), row)
        for content, times in Counter(row.contents).items():
            content.most_of_process = max(content.most_of_process, times)
        self._rows.append(row)

    def result(self, skipped: Iterable[Skipped] = (), seconds: float = 0) -> Estimate:
        """Returns the estimate."""
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
        """The pages that may be merged, or are merged."""
        flags = frame_flags()
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
                merged = bool(flags.of(page.frame) & KPF_KSM)
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
        """Returns whether the frame is new; exclusive frames always are."""
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
        """One mapping's part of what merging its content would save."""
        return content.savable(self._max_sharing) / content.mappings


def _part(zeroes: _Content) -> float:
    """Like Estimator._part(), for zeroes: no frame stays."""
    return zeroes.frames / zeroes.mappings


def _anonymous(mapped: Iterable[Page], flags: FrameTable) -> Iterator[Page]:
    """The anonymous pages among these, merged or not, that can be read."""
    for page in mapped:
        kind = flags.of(page.frame)
        if kind & KPF_ANON and not kind & (KPF_HUGE | KPF_HWPOISON):
            yield page


def estimate(wanted: list[Process], estimator: Estimator) -> Estimate:
    """Compares the pages of these processes with each other; skips this process."""
    start = time.monotonic()
    _, skipped = processes.visit(
        [process for process in wanted if process.pid != os.getpid()], estimator.add
    )
    return estimator.result(skipped, time.monotonic() - start)
