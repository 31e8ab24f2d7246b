# SPDX-License-Identifier: GPL-2.0
"""What merging saves and costs, how far it is, with which knobs: once or repeatedly."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ksmv import khugepaged, module, savings
from ksmv.knobs import MAINLINES_PASSES, least_parts
from ksmv.pages import PAGE

_SAMPLE_SECONDS = 0.4


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
    def undone(self) -> khugepaged.Undone:
        """What khugepaged undoes of the merges, by its settings."""
        return khugepaged.undone(self.values.get("movable") == "1", least_parts(self.values))

    @property
    def saved(self) -> int:
        """Pages that merging saves."""
        return self.number("pages_sharing") + self.number("zero_pages")


@dataclass(frozen=True)
class Progress:
    """The progress of the scanner."""

    passes: int
    """Completed passes."""
    needed: int
    """Passes after which most of what can be saved is merged: promote_after."""
    done: int
    """Pages of the present pass."""
    length: int
    """Pages of the last pass; before the first one is complete, all anonymous pages."""
    is_guess: bool
    rate: float
    """Pages a second, now."""

    @property
    def percent(self) -> float:
        """How much of the present pass is done."""
        return min(100, 100 * self.done / max(1, self.length))

    @property
    def pass_seconds(self) -> float | None:
        """How long a pass takes at this rate; None if the scanner makes no progress."""
        return self.length / self.rate if self.rate else None

    @property
    def left_seconds(self) -> float | None:
        """How long it takes until most of what can be saved is merged; 0: it is."""
        if self.passes >= self.needed:
            return 0
        left = (self.needed - self.passes) * self.length - min(self.done, self.length)
        return left / self.rate if self.rate else None


@dataclass(frozen=True)
class Status:
    """The counts before and after a while, and the savings report if that was asked for."""

    before: Counts
    now: Counts
    report: savings.Report | None = None

    @property
    def seconds(self) -> float:
        """Time between the two reads of the counts."""
        return self.now.at - self.before.at

    @property
    def cpu_percent(self) -> float:
        """CPU time of the scanner between the two reads, in percent of one CPU."""
        return self._rate("cpu_ns") / 1e7

    @property
    def saved_percent(self) -> float:
        """Saved memory, in percent of all memory."""
        return 100 * self.now.saved * PAGE / memory_bytes()

    @property
    def progress(self) -> Progress:
        """Where the pass is, and at which rate it goes on."""
        length = self.now.number("last_pass_pages")
        return Progress(
            passes=self.now.number("full_scans"),
            needed=int(self.now.settings.values.get("promote_after", MAINLINES_PASSES)),
            done=self.now.number("pass_pages"),
            length=length or anonymous_pages(),
            is_guess=not length,
            rate=self._rate("pages_scanned") + self._rate("pages_skipped"),
        )

    def _rate(self, name: str) -> float:
        """How fast a count grows, per second."""
        grown = self.now.number(name) - self.before.number(name)
        return grown / self.seconds if self.seconds else 0


def once(with_report: bool = False) -> Status:
    """The status now; takes half a second, to measure the scanner's speed, and more with the
    report, for which the page tables of all processes are read."""
    before = Counts.read()
    report = savings.report() if with_report else None
    time.sleep(max(0, before.at + _SAMPLE_SECONDS - time.monotonic()))
    return Status(before, Counts.read(), report)


def again(
    interval: float, with_report: Callable[[], bool], wait: Callable[[float], None]
) -> Iterator[Status]:
    """The status, again and again, with the report whenever that is wanted.

    Waits at least as long as reading takes, to use at most half a CPU.
    """
    before = Counts.read()
    while True:
        start = time.monotonic()
        status = Status(before, Counts.read(), savings.report() if with_report() else None)
        before = status.now
        yield status
        wait(max(interval, time.monotonic() - start))


def memory_bytes() -> int:
    """The size of all memory."""
    return _meminfo("MemTotal") or 1


def anonymous_pages() -> int:
    """Pages of anonymous memory of all processes."""
    return _meminfo("AnonPages") // PAGE


def _meminfo(name: str) -> int:
    """A size of /proc/meminfo in bytes; 0 if the kernel does not tell."""
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(match[1]) << 10 if match else 0
