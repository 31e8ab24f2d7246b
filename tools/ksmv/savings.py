# SPDX-License-Identifier: GPL-2.0
"""What merging saves, divided among the processes whose pages are merged.

A shared frame that n page table entries map saves n - 1 frames; each of these entries gets
(n - 1) / n of a page. An entry that maps the zero page in place of a merged page saves a page.
The sum over all processes therefore equals the module's pages_sharing + zero_pages.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from ksmv import left_alone, pages, processes
from ksmv.frames import KPF_KSM, FrameTable, frame_flags, mapping_counts
from ksmv.policy import Policy
from ksmv.processes import Process, Skipped


@dataclass(frozen=True)
class Saving:
    """The savings of a process or a cgroup."""

    merged_pages: int = 0
    """Page table entries that map a merged frame."""
    zero_pages: int = 0
    """Page table entries that map the zero page in place of a merged page."""
    shared_pages_saved: float = 0
    """Its part of the frames that merging saves, without zero pages."""
    left_alone: Counter[str] = field(default_factory=Counter)
    """The pages that the module leaves alone, by reason, if these were asked for."""

    @property
    def saved_pages(self) -> float:
        """Its part of all frames that merging saves."""
        return self.shared_pages_saved + self.zero_pages

    @property
    def is_worth_a_row(self) -> bool:
        """Whether any page is merged, or left alone as far as was asked for."""
        return bool(self.merged_pages or self.zero_pages or self.left_alone)

    def __add__(self, other: "Saving") -> "Saving":
        return Saving(
            self.merged_pages + other.merged_pages,
            self.zero_pages + other.zero_pages,
            self.shared_pages_saved + other.shared_pages_saved,
            self.left_alone + other.left_alone,
        )


@dataclass(frozen=True)
class Report:
    """The savings of each process."""

    by_process: list[tuple[Process, Saving]]
    skipped: list[Skipped]
    seconds: float
    """The time that the report took."""

    @property
    def total(self) -> Saving:
        """The sum of all savings."""
        return _sum(saving for _, saving in self.by_process)

    def by_cgroup(self) -> list[tuple[str, int, Saving]]:
        """Each cgroup with the number of its processes and their savings."""
        return self._by(lambda process: process.cgroup)

    def by_user(self) -> list[tuple[str, int, Saving]]:
        """Each user id with the number of its processes and their savings."""
        return self._by(lambda process: str(process.uid))

    def _by(self, domain_of: Callable[[Process], str]) -> list[tuple[str, int, Saving]]:
        members: dict[str, list[Saving]] = {}
        for process, saving in self.by_process:
            members.setdefault(domain_of(process), []).append(saving)
        return [(domain, len(savings), _sum(savings)) for domain, savings in members.items()]

    def top_processes(
        self, limit: int | None = None, order: str = "saved"
    ) -> list[tuple[Process, Saving]]:
        """The processes with merged pages, largest savings first; if asked for, also those with
        pages that are left alone, most of these first."""
        rows = [row for row in self.by_process if row[1].is_worth_a_row]
        return sorted(rows, key=lambda row: (*_order(row[1], order), row[0].pid))[:limit]

    def top_domains(
        self, by: str, limit: int | None = None, order: str = "saved"
    ) -> list[tuple[str, int, Saving]]:
        """Like the processes, for each cgroup or user."""
        domains = self.by_cgroup() if by == "cgroup" else self.by_user()
        rows = [row for row in domains if row[2].is_worth_a_row]
        return sorted(rows, key=lambda row: (*_order(row[2], order), row[0]))[:limit]


_ORDERS: dict[str, Callable[[Saving], float]] = {
    "saved": lambda saving: -saving.saved_pages,
    "merged": lambda saving: -saving.merged_pages,
    "zero": lambda saving: -saving.zero_pages,
}


def _order(saving: Saving, order: str) -> tuple[float, float]:
    return -saving.left_alone.total(), _ORDERS[order](saving)


def _sum(savings: Iterable[Saving]) -> Saving:
    return sum(savings, Saving())


def report(policy: Policy | None = None) -> Report:
    """Reads the page tables of all processes. Processes that save nothing are included. With a
    policy, tells also what that leaves alone."""
    start = time.monotonic()
    flags, counts = frame_flags(), mapping_counts()

    def look(process: Process) -> tuple[Process, Saving]:
        saving = _saving_of(process, flags, counts)
        left = left_alone.of(process, policy, flags) if policy else Counter()
        return process, replace(saving, left_alone=left)

    measured, skipped = processes.visit(processes.every(), look)
    return Report(measured, skipped, time.monotonic() - start)


def merged_frames(process: Process, flags: FrameTable) -> Counter[int]:
    """The merged frames that a process maps, with the number of mappings."""
    space = pages.AddressSpace(process.path)
    return Counter(
        page.frame
        for area in space.areas()
        if area.private
        for page in space.pages(area)
        if flags.of(page.frame) & KPF_KSM
    )


def _saving_of(process: Process, flags: FrameTable, counts: FrameTable) -> Saving:
    frames = merged_frames(process, flags)
    saved = 0.0
    for frame, times in frames.items():
        # Other processes may have unmapped the frame meanwhile; this one still maps it.
        mappings = max(counts.of(frame), times)
        saved += times * (mappings - 1) / mappings
    return Saving(frames.total(), processes.merged_zero_pages(process), saved)
