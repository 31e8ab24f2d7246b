# SPDX-License-Identifier: GPL-2.0
"""Lets the module merge until it finds nothing more, and unmerge."""

import time
from collections.abc import Iterator
from typing import NamedTuple

from demo import census, proc
from demo.jobs import Job
from demo.report import claim, line
from ksmv.layout import in_mib

TABLE_SECONDS = 1
QUIET_SCANS = 2
QUIET_GROWTH = 0.001
PATIENCE_SECONDS = 240


class Row(NamedTuple):
    """The module's counts at one moment."""

    seconds: float
    scans: int
    shared: int
    sharing: int
    zero: int
    available: float
    cpu: float

    @property
    def saved(self) -> int:
        """Pages that no longer take a frame."""
        return self.sharing + self.zero


def rows() -> Iterator[Row]:
    """Yields the counts, again and again."""
    start = time.monotonic()
    while True:
        yield Row(
            time.monotonic() - start,
            proc.knob("full_scans"),
            proc.knob("pages_shared"),
            proc.knob("pages_sharing"),
            proc.knob("zero_pages"),
            proc.available() / 1024,
            proc.knob("cpu_ns") / 1e9,
        )
        time.sleep(TABLE_SECONDS)


def show(row: Row) -> None:
    """One line of the table."""
    line(
        f"{row.seconds:6.1f} {row.scans:6} {row.shared:8} {row.sharing:9} {row.zero:7}"
        f" {in_mib(row.saved):>10} {row.available:13.1f} {row.cpu:14.2f}"
    )


class Growth:
    """Tells when merging has ended: whole passes find nothing more."""

    def __init__(self) -> None:
        self._most = self._quiet_from = 0

    def has_ended(self, saved: int, scans: int) -> bool:
        """Returns whether it has, given the saved pages and the ended passes so far."""
        if saved > self._most * (1 + QUIET_GROWTH):
            # The current pass has seen growth: count from the next one.
            self._most, self._quiet_from = saved, scans + 1
        return self._most > 0 and scans >= self._quiet_from + QUIET_SCANS


def merge() -> tuple[bool, Row]:
    """Lets the module merge until it finds nothing more; returns whether it got there."""
    line("  time  scans   shared   sharing    zero  MiB saved  MemAvailable  scanner CPU")
    line("     s           pages     pages   pages                      MiB            s")
    proc.set_knob("run", 1)
    growth = Growth()
    for row in rows():
        show(row)
        if growth.has_ended(row.saved, row.scans):
            return True, row
        if row.seconds > PATIENCE_SECONDS:
            break
    return False, row


def unmerge(job: Job) -> None:
    """Breaks all merged pages apart."""
    start = time.monotonic()
    proc.set_knob("run", 2)
    took = time.monotonic() - start
    shared, sharing, zero = map(proc.knob, ("pages_shared", "pages_sharing", "zero_pages"))
    left = census.count(job.pids).merged
    claim(
        shared == sharing == zero == left == 0,
        f"run=2 took {took:.1f} s, now {shared} shared, {sharing} sharing, {zero} zero,"
        f" {left} merged pages in pagemap",
    )
