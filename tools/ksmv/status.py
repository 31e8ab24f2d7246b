# SPDX-License-Identifier: GPL-2.0
"""What merging saves and costs, for whom, with which knobs: once or repeatedly."""

import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ksmv import knobs, output, savings, text
from ksmv.output import Json
from ksmv.pages import PAGE

_SAMPLE_SECONDS = 0.5
_TOP = 10
_HEAD_LINES = 7
_CLEAR = "\x1b[H\x1b[J"
_DOING = {0: "stopped", 1: "merging", 2: "stopped, unmerged"}


@dataclass(frozen=True)
class Counts:
    """The values of the module's files at one moment."""

    at: float
    values: dict[str, str]
    settings: knobs.Settings

    @staticmethod
    def read() -> "Counts":
        """Reads the files."""
        values = knobs.read_all()
        return Counts(time.monotonic(), values, knobs.in_force(values))

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
        return 100 * self.now.saved * PAGE / _memory_bytes()

    def head(self) -> list[str]:
        """The module's state, for people."""
        counts = self.now
        values = counts.values
        table_mib = counts.number("index_bytes") / (1 << 20)
        table_percent = 100 * counts.number("index_bytes") / _memory_bytes()
        settings = counts.settings.values
        changed = ", ".join(f"{name} {value}" for name, value in counts.settings.changed.items())
        whose = "" if values["profile"] == "own" else " of mainline's (compat), which are in force"
        return [
            f"ksm_v on {os.uname().release}: {_DOING.get(counts.number('run'), '?')},"
            f" domain {settings['domain']}, scope {settings['scope']},"
            f" {output.plural(counts.number('full_scans'), 'pass')}",
            f"  saved    {counts.saved} pages, {output.mib(counts.saved)},"
            f" {self.saved_percent:.1f}% of memory:"
            f" {values['pages_sharing']} by sharing, {values['zero_pages']} of zeroes",
            f"  shared   {values['pages_shared']} frames by"
            f" {counts.number('pages_shared') + counts.number('pages_sharing')} mappings",
            f"  cost     {counts.number('cpu_ns') / 1e9:.1f} s of CPU since loaded,"
            f" {self.cpu_percent:.1f}% of one CPU now; tables {table_mib:.1f} MiB"
            f" ({table_percent:.2f}% of memory)",
            f"  changed  {changed or 'no knob'}{whose}",
        ]

    def lines(self, rows: int = _TOP) -> list[str]:
        """The whole status, on one screen."""
        found = self.report.total.saved_pages
        return [
            *self.head(),
            f"  found    {found:.0f} of the saved pages in"
            f" {output.plural(len(self.report.by_process), 'process')},"
            f" in {self.report.seconds:.1f} s",
            *output.skipped_line(self.report.skipped),
            "",
            *output.process_table(self.report.top_processes(rows)),
            "",
            *output.cgroup_table(self.report.top_cgroups(rows)),
        ]

    def json(self) -> Json:
        """The whole status, for programs."""
        counts = self.now
        return {
            "page_bytes": PAGE,
            "memory_bytes": _memory_bytes(),
            "saved_pages": counts.saved,
            "saved_bytes": counts.saved * PAGE,
            "saved_percent": round(self.saved_percent, 3),
            "cpu_percent": round(self.cpu_percent, 3),
            "sample_seconds": round(self.seconds, 3),
            "module": output.values_json(counts.values),
            "settings": output.values_json(counts.settings.values),
            "changed": output.values_json(counts.settings.changed),
            "report": output.report_json(self.report),
        }


def once() -> Status:
    """The status now; takes at least half a second, to measure the scanner's CPU time."""
    before = Counts.read()
    report = savings.report()
    time.sleep(max(0, before.at + _SAMPLE_SECONDS - time.monotonic()))
    return Status(before, Counts.read(), report)


def top(interval: float, count: int | None, as_json: bool) -> None:
    """Prints the status `count` times; reuses the screen of a terminal.

    Waits at least as long as reading takes, to use at most half a CPU.
    """
    before = Counts.read()
    while count is None or count > 0:
        report = savings.report()
        status = Status(before, Counts.read(), report)
        before = status.now
        if as_json:
            print(output.to_json(status.json()), flush=True)
        else:
            _show(status)
        if count is not None:
            count -= 1
        if count != 0:
            time.sleep(max(interval, report.seconds))


def _show(status: Status) -> None:
    if not sys.stdout.isatty():
        text.say([*status.lines(), ""], sys.stdout)
        return
    width, height = shutil.get_terminal_size()
    rows = status.head() + [""]
    rows += output.process_table(status.report.top_processes(height - _HEAD_LINES - 1))
    cut = [text.printable(row)[:width] for row in rows[: height - 1]]
    text.say(cut, sys.stdout, before=_CLEAR)


def _memory_bytes() -> int:
    match = re.search(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(match[1]) << 10 if match else 1
