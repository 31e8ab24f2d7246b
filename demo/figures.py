# SPDX-License-Identifier: GPL-2.0
"""The memory of the job, as /proc shows it, before and after merging."""

from typing import NamedTuple

from demo import census, proc
from demo.jobs import Job
from demo.report import claim, line
from ksmv.layout import mib

REQUIRED_PERCENT = 90
VISIBLE_PERCENT = 90


class Figures(NamedTuple):
    """The figures in /proc at one moment."""

    available: int
    on_free_lists: int
    pss: int
    ksm: int
    pages: census.Census

    @property
    def free(self) -> int:
        """Memory available at once, in KiB."""
        return self.available + self.on_free_lists


def figures(job: Job) -> Figures:
    """Reads the figures; reading takes the same memory each time."""
    pids = job.pids
    pages = census.count(pids)
    return Figures(
        proc.available(),
        proc.on_free_lists(),
        proc.summed("Pss", pids),
        proc.summed("KSM", pids),
        pages,
    )


def show_summary(before: Figures, after: Figures) -> None:
    """Prints the kernel's memory figures."""
    line(f"  {'':26}{'before':>12}{'after':>12}{'change':>12}")
    table = (
        ("MemAvailable", before.available, after.available),
        ("+ free lists of the CPUs", before.free, after.free),
        ("PSS of the processes", before.pss, after.pss),
        ("KSM: of their smaps", before.ksm, after.ksm),
        ("frames behind their pages", before.pages.frames * 4, after.pages.frames * 4),
    )
    for name, old, new in table:
        line(f"  {name:26}" + "".join(f"{n / 1024:8.1f} MiB" for n in (old, new, new - old)))


def judge_bound(bound: census.Bound, saved: int) -> None:
    """Compares the savings with the bound."""
    percent = 100 * saved / bound.savable if bound.savable else 0
    claim(
        percent >= REQUIRED_PERCENT,
        f"saved {saved} pages ({mib(saved)}) of {bound.savable} ({mib(bound.savable)}) that a"
        f" perfect merger could: {percent:.1f}%, required {REQUIRED_PERCENT}%",
    )


def judge_gains(before: Figures, after: Figures, saved: int) -> None:
    """Checks that the kernel's memory figures show the savings."""
    gains = (
        ("PSS fell", before.pss - after.pss),
        ("MemAvailable with the free lists of the CPUs rose", after.free - before.free),
    )
    for name, gain in gains:
        percent = 100 * gain / max(4 * saved, 1)
        claim(
            percent >= VISIBLE_PERCENT,
            f"{name} by {gain / 1024:.1f} MiB, {percent:.0f}% of that, required {VISIBLE_PERCENT}%",
        )


def judge_counts(after: Figures) -> None:
    """Compares the counts of the stopped module, which are exact, with the kernel's."""
    sharing, shared = proc.knob("pages_sharing"), proc.knob("pages_shared")
    pages = after.pages
    counted = proc.knob("zero_pages")
    line(f"  note    {pages.zero} mappings of the zero page; zero_pages counts {counted} of them,")
    line("          the others are empty parts of huge pages that were split")
    claim(
        abs(shared + sharing - pages.merged) <= pages.merged // 100,
        f"the module counts {shared} pages shared and {sharing} sharing them,"
        f" pagemap has {pages.merged} mappings of merged pages",
    )
    claim(
        abs(after.ksm - pages.merged * 4) <= pages.merged * 4 // 100,
        f"KSM: of their smaps is {after.ksm / 1024:.1f} MiB, that is {after.ksm // 4} pages",
    )
