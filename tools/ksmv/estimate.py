# SPDX-License-Identifier: GPL-2.0
"""Estimates what merging would save, by comparing pages, without merging any.

A page's content is identified by a keyed 128-bit hash; each run draws its own key.

All pages are read. If there are more contents than shall be remembered, a random part of the
contents stands for all, chosen by a second hash: pages of one content are either all in the part or
all outside. Contents are dropped from the part as it grows, so memory is bounded for any number of
pages. Pages of zeroes are always counted, all of them.
"""

import hashlib
import math
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ksmv import credentials, left_alone, pages, processes, shared
from ksmv.credentials import Standing
from ksmv.frames import KPF_KSM, frame_flags
from ksmv.left_alone import anonymous
from ksmv.pages import Page
from ksmv.policy import Policy
from ksmv.processes import Process, Skipped
from ksmv.shared import Segment

DEFAULT_MAX_SHARING = 1024
# Contents to remember, and pages of one process: some 60 MB.
DEFAULT_SAMPLE = 30_000
# Most entries of one process that map one frame: PER_SPACE in rust/engine/seats.rs.
_MAX_OF_PROCESS = 256
_DIGEST_BYTES = 16
_PROGRESS_PAGES = 1024
# Standard errors on each side of an estimate, for 95% of all runs.
_ERRORS = 2

# The digest of pages full of zeroes.
FULL_OF_ZEROES = b""


class Met(NamedTuple):
    """A page that is merged, or would be if another page had the same content."""

    digest: bytes
    lot: int
    """Decides whether it is in the part that stands for all: equal for equal contents."""
    page: Page
    merged: bool


class Content:
    """A content of pages of one domain."""

    __slots__ = ("forked", "lot", "mappings", "most_of_process", "own", "shared", "shared_mappings")

    def __init__(self, lot: int = 0) -> None:
        self.lot = lot
        self.own = 0
        """Unmerged frames with this content that nothing else maps."""
        self.forked = 0
        """Unmerged frames with this content that several processes map."""
        self.mappings = 0
        """Page table entries that map these frames."""
        self.most_of_process = 0
        """The largest number of these entries in one process."""
        self.shared = 0
        """Merged frames with this content."""
        self.shared_mappings = 0

    @property
    def frames(self) -> int:
        """Unmerged frames with this content."""
        return self.own + self.forked

    def crowded(self, max_sharing: int) -> int:
        """Frames that only the sharing limits keep from being freed."""
        return max(0, self.frames - (not self.shared)) - self.savable(max_sharing)

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
    """Anonymous pages that the module leaves alone, and shared memory, by reason."""
    unread_pages: int
    """Candidates that could not be read, because they were gone."""
    savable_pages: float = 0
    """Its part of the frames that merging would free."""
    zero_pages: int = 0
    """Candidates that are full of zeroes."""
    own_pages: int = 0
    """Candidates that nothing else maps, without zeroes."""
    own_zero_pages: int = 0
    """Candidates full of zeroes that nothing else maps."""
    segments: list[Segment] = field(default_factory=list, repr=False)
    """The shared memory that it maps."""
    domain: "Contents | None" = field(default=None, repr=False)
    """What was met in all processes of its domain."""
    contents: Counter[Content] = field(default_factory=Counter, repr=False)
    """How many candidates have each content of the part that stands for all, without zeroes."""


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
    variance: float = 0
    """Of the number of savable pages."""


@dataclass(frozen=True)
class Estimate:
    """What merging would save in some processes, in addition to the pages merged already."""

    rows: list[Row]
    skipped: list[Skipped]
    domains: list[Domain]
    seconds: float
    part: float = 1
    """The part of the contents that stands for all; 1: the estimate is exact."""

    @property
    def totals(self) -> Totals:
        """The totals of all domains."""
        return Totals(*map(sum, zip(Totals(), *(domain.totals for domain in self.domains))))

    @property
    def error(self) -> int:
        """The number of savable pages is within this distance, in 95% of all runs."""
        return round(_ERRORS * math.sqrt(sum(domain.variance for domain in self.domains)))

    @property
    def left_alone(self) -> Counter[str]:
        """Pages that the module leaves alone, by reason."""
        return sum((row.left_alone for row in self.rows), Counter())

    @property
    def segments(self) -> list[Segment]:
        """The shared memory that the processes map, each once, the largest first."""
        return shared.merged(segment for row in self.rows for segment in row.segments)


class _Part:
    """The part of all contents that stands for all."""

    def __init__(self, limit: int) -> None:
        """Remembers up to `limit` contents; any number if that is 0."""
        self._limit = limit
        self._mask = 0

    @property
    def scale(self) -> int:
        """For how many contents one of the part stands."""
        return self._mask + 1

    def has(self, lot: int) -> bool:
        """Whether a content is in the part."""
        return not lot & self._mask

    def is_exceeded(self, count: int) -> bool:
        """Whether this number is too large."""
        return bool(self._limit) and count > self._limit

    def halve(self) -> None:
        """Drops about half of the contents."""
        self._mask = self._mask << 1 | 1


class Contents:
    """What was met in the processes of one domain."""

    def __init__(self) -> None:
        self.processes = 0
        self.own_pages = 0
        self.zeroes = Content()
        self.by_digest: dict[bytes, Content] = {}

    def add(self, row: Row) -> None:
        """Adds the counts of a process."""
        self.processes += 1
        self.own_pages += row.own_pages
        self.zeroes.own += row.own_zero_pages
        self.zeroes.mappings += row.zero_pages

    def of(self, met: Met) -> Content | None:
        """The content of a page; None if it is not in the part that stands for all."""
        return self.by_digest.get(met.digest) if met.digest else self.zeroes

    def drop(self, part: _Part) -> None:
        """Drops the contents that are no longer in the part."""
        kept = {one: content for one, content in self.by_digest.items() if part.has(content.lot)}
        self.by_digest = kept

    def totals(self, scale: int, max_sharing: int) -> Totals:
        """The totals; frames that nothing else maps are counted, the others estimated."""
        found = [content for content in self.by_digest.values() if content.frames]
        zeroes = self.zeroes.own + scale * self.zeroes.forked
        return Totals(
            zeroes + self.own_pages + scale * sum(content.forked for content in found),
            scale * len(found),
            zeroes,
            zeroes + scale * sum(content.savable(max_sharing) for content in found),
        )

    def variance(self, scale: int, max_sharing: int) -> float:
        """The variance of the number of savable pages: each content is in the part with the
        probability 1 / scale, whatever others are."""
        squares = sum(content.savable(max_sharing) ** 2 for content in self.by_digest.values())
        return scale * (scale - 1) * (squares + self.zeroes.forked)


class Estimator:
    """Collects processes and compares the whole contents of their pages."""

    def __init__(
        self,
        policy: Policy,
        max_sharing: int = DEFAULT_MAX_SHARING,
        sample: int = DEFAULT_SAMPLE,
        progress: Callable[[int], None] = lambda compared: None,
    ) -> None:
        """Remembers up to `sample` contents; all if that is 0. Calls `progress` from time to time
        with the number of compared pages."""
        self._policy = policy
        self._progress = progress
        self._compared = 0
        self._max_sharing = max_sharing
        self._part = _Part(sample)
        self._key = secrets.token_bytes(hashlib.blake2b.MAX_KEY_SIZE)
        self._domains: dict[tuple[int | str, ...], Contents] = {}
        # Frames that other processes may also map, once for each state they were found in, with the
        # lot and the content.
        self._known: dict[tuple[int, bool], tuple[int, Content]] = {}
        self._rows: list[Row] = []
        # How many contents all rows remember together.
        self._of_rows = 0
        # The scale of the part when contents were last dropped.
        self._shrunk_to = 1

    def add(self, process: Process, all_zeroes: bool = False) -> list[Met]:
        """Adds the pages of a process; adds nothing if it exits meanwhile (OSError). Returns the
        pages in the part that stands for all; of pages of zeroes, only if asked all of these."""
        row = Row(process, 0, 0, Counter(), 0)
        standing = credentials.of(process)
        try:
            met = self._chosen(process, standing, row, all_zeroes)
        finally:
            # The part may have become smaller, even if the process exited meanwhile.
            self._shrink()
        self._rows.append(row)
        owner = self._policy.domain_of(process, standing)
        row.domain = domain = self._domains.setdefault(owner, Contents())
        domain.add(row)
        for one in met:
            self._note(one, domain, row)
        for content, times in row.contents.items():
            content.most_of_process = max(content.most_of_process, times)
        self._of_rows += len(row.contents)
        self._shrink()
        return met

    def _chosen(
        self, process: Process, standing: Standing, row: Row, all_zeroes: bool
    ) -> list[Met]:
        """The pages in the part that stands for all, which becomes smaller if they are too many."""
        met: list[Met] = []
        for one in self._meet(process, standing, row):
            if self._part.has(one.lot) and (one.digest or all_zeroes or not one.page.exclusive):
                met.append(one)
                if self._part.is_exceeded(len(met)):
                    self._part.halve()
                    met = [one for one in met if self._part.has(one.lot)]
        return met

    def _shrink(self) -> None:
        """Drops what is no longer in the part, which becomes smaller until it is small enough."""
        while True:
            if self._part.is_exceeded(self._of_rows + len(self._known)):
                self._part.halve()
            elif self._shrunk_to == self._part.scale:
                return
            self._shrunk_to = self._part.scale
            self._drop()

    def _drop(self) -> None:
        for domain in self._domains.values():
            domain.drop(self._part)
        for row in self._rows:
            kept = {one: times for one, times in row.contents.items() if self._part.has(one.lot)}
            row.contents = Counter(kept)
        self._of_rows = sum(len(row.contents) for row in self._rows)
        for frame, (lot, content) in list(self._known.items()):
            if not self._part.has(lot):
                del self._known[frame]
                content.forked -= not frame[1]

    @property
    def scale(self) -> int:
        """For how many contents one that is remembered stands."""
        return self._part.scale

    def is_remembered(self, met: Met) -> bool:
        """Whether a page is still in the part that stands for all."""
        return self._part.has(met.lot)

    @property
    def rows(self) -> list[Row]:
        """The processes that were added."""
        return self._rows

    def crowded(self, row: Row) -> float:
        """A process's part of the frames that only the sharing limits keep from being freed."""
        parts = (
            times * content.crowded(self._max_sharing) / content.mappings
            for content, times in row.contents.items()
        )
        return self.scale * sum(parts)

    def result(self, skipped: Iterable[Skipped] = (), seconds: float = 0) -> Estimate:
        """Returns the estimate."""
        for row in self._rows:
            row.savable_pages = self._savable(row)
        scale, limit = self._part.scale, self._max_sharing
        domains = [
            Domain(owner, one.processes, one.totals(scale, limit), one.variance(scale, limit))
            for owner, one in self._domains.items()
        ]
        return Estimate(self._rows, list(skipped), domains, seconds, 1 / scale)

    def _savable(self, row: Row) -> float:
        """A process's part of what merging its contents would save; of zeroes, no frame stays."""
        parts = (
            times * content.savable(self._max_sharing) / content.mappings
            for content, times in row.contents.items()
        )
        zeroes = row.domain.zeroes if row.domain else Content()
        frames = zeroes.own + self._part.scale * zeroes.forked
        of_zeroes = row.zero_pages * frames / zeroes.mappings if zeroes.mappings else 0
        return self._part.scale * sum(parts) + of_zeroes

    def _meet(self, process: Process, standing: Standing, row: Row) -> Iterator[Met]:
        """The pages that may be merged, or are merged; counts them."""
        flags = frame_flags()
        space = pages.AddressSpace(process.path)
        for area in space.areas_with_flags():
            objection = self._policy.objection(area, standing)
            left = left_alone.of_area(space, area, objection, flags)
            row.left_alone += left.pages
            row.segments += [left.segment] if left.segment else []
            if objection:
                continue
            for page, content in space.contents(anonymous(space.pages(area), flags)):
                met = self._met(page, content, bool(flags.of(page.frame) & KPF_KSM), row)
                if met:
                    yield met

    def _met(self, page: Page, content: bytes | None, merged: bool, row: Row) -> Met | None:
        """Counts a page in the row of its process."""
        self._compared += 1
        if self._compared % _PROGRESS_PAGES == 0:
            self._progress(self._compared)
        if content is None:
            row.unread_pages += 1
            return None
        is_zero = content == pages.ZEROES
        row.merged_pages += merged
        if not merged:
            row.candidate_pages += 1
            row.zero_pages += is_zero
            row.own_pages += page.exclusive and not is_zero
            row.own_zero_pages += page.exclusive and is_zero
        # Python's own hash of bytes is keyed, too: nobody can choose contents by their lots.
        lot = hash((self._key, page.frame if is_zero else content))
        if not self._part.has(lot):
            return None
        return Met(self.digest(content), lot, page, merged)

    def _note(self, met: Met, domain: Contents, row: Row) -> None:
        """Counts a page of the part that stands for all."""
        if not met.digest and not met.merged:
            if not met.page.exclusive and self._is_new(met, domain.zeroes):
                domain.zeroes.forked += 1
            return
        content = domain.by_digest.setdefault(met.digest, Content(met.lot))
        is_new = met.page.exclusive or self._is_new(met, content)
        if met.merged:
            content.shared += is_new
            content.shared_mappings += 1
            return
        content.own += met.page.exclusive
        content.forked += is_new and not met.page.exclusive
        content.mappings += 1
        row.contents[content] += 1

    def _is_new(self, met: Met, content: Content) -> bool:
        """Returns whether a frame that several processes may map is new."""
        before = len(self._known)
        self._known.setdefault((met.page.frame, met.merged), (met.lot, content))
        return len(self._known) > before

    def digest(self, content: bytes) -> bytes:
        """Identifies a content."""
        if content == pages.ZEROES:
            return FULL_OF_ZEROES
        return hashlib.blake2b(content, digest_size=_DIGEST_BYTES, key=self._key).digest()


def estimate(wanted: list[Process], estimator: Estimator) -> Estimate:
    """Compares the pages of these processes with each other; skips this process."""
    start = time.monotonic()
    _, skipped = processes.visit(
        [process for process in wanted if process.pid != os.getpid()], estimator.add
    )
    return estimator.result(skipped, time.monotonic() - start)
