# SPDX-License-Identifier: GPL-2.0
"""What merging saves and costs, for whom, with which knobs: once or repeatedly."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ksmv import module, savings
from ksmv.pages import PAGE

_SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class Counts:
    """The values of the module's files at one moment."""

    at: float
    values: dict[str, str]
    settings: module.Settings

    @staticmethod
    def read() -> "Counts":
        """Reads the files."""
        values = module.read_all()
        return Counts(time.monotonic(), values, module.in_force(values))

    def number(self, name: str) -> int:
        """A count, by its file name."""
        return int(self.values[name])

    @property
    def saved(self) -> int:
        """Pages that merging saves."""
        return self.number("pages_sharing") + self.number("zero_pages")


@dataclass(frozen=True)
class Status:
    """The counts before and after a while, and the savings report."""

    before: Counts
    now: Counts
    report: savings.Report

    @property
    def seconds(self) -> float:
        """Time between the two reads of the counts."""
        return self.now.at - self.before.at

    @property
    def cpu_percent(self) -> float:
        """CPU time of the scanner between the two reads, in percent of one CPU."""
        used = self.now.number("cpu_ns") - self.before.number("cpu_ns")
        return used / 1e7 / self.seconds if self.seconds else 0

    @property
    def saved_percent(self) -> float:
        """Saved memory, in percent of all memory."""
        return 100 * self.now.saved * PAGE / memory_bytes()


def once() -> Status:
    """The status now; takes at least half a second, to measure the scanner's CPU time."""
    before = Counts.read()
    report = savings.report()
    time.sleep(max(0, before.at + _SAMPLE_SECONDS - time.monotonic()))
    return Status(before, Counts.read(), report)


def again(interval: float) -> Iterator[Status]:
    """The status, again and again.

    Waits at least as long as reading takes, to use at most half a CPU.
    """
    before = Counts.read()
    while True:
        report = savings.report()
        status = Status(before, Counts.read(), report)
        before = status.now
        yield status
        time.sleep(max(interval, report.seconds))


def memory_bytes() -> int:
    """The size of all memory."""
    match = re.search(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(match[1]) << 10 if match else 1
