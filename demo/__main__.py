# SPDX-License-Identifier: GPL-2.0
"""The demo's main program, run in a guest as root: see demo/run --help.

Starts the job, computes what a perfect merger would save, lets the module
merge, compares, and checks that nobody's data was harmed.
"""

import hashlib
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from demo import census, proc
from demo.jobs import INSTANCES, Job, Server, answers, bound_of, start_job
from demo.report import PAGES_PER_MIB, claim, heading, line, mib, step, verdict
from demo.resp import Data, Value, encode

REQUIRED_PERCENT = 90
VISIBLE_PERCENT = 90
SCAN_RATE = 2000
SLEEP_MS = 20
CALM_SLEEP_MS = 100
TABLE_SECONDS = 1
QUIET_SCANS = 2
QUIET_GROWTH = 0.001
PATIENCE_SECONDS = 240
CHANGED_KEYS = 200


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


# --- merging ----------------------------------------------------------------


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
        f" {row.saved / PAGES_PER_MIB:10.1f} {row.available:13.1f} {row.cpu:14.2f}"
    )


def merge() -> tuple[bool, Row]:
    """Lets the module merge until it finds nothing more; returns whether it got there."""
    line("  time  scans   shared   sharing    zero  MiB saved  MemAvailable  scanner CPU")
    line("     s           pages     pages   pages                      MiB            s")
    proc.set_knob("run", 1)
    counts = rows()
    quiet_from = most = 0
    while True:
        row = next(counts)
        show(row)
        if row.saved > most * (1 + QUIET_GROWTH):
            # The current pass has seen growth: count from the next one.
            most, quiet_from = row.saved, row.scans + 1
        if most and row.scans >= quiet_from + QUIET_SCANS:
            return True, row
        if row.seconds > PATIENCE_SECONDS:
            return False, row


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


# --- nobody's data was harmed -----------------------------------------------


def checksum(values: Iterable[Value]) -> str:
    """A checksum of values in order; a missing value changes it."""
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        digest.update(b"none" if value is None else b"%d:" % len(value))
        digest.update(value or b"")
    return digest.hexdigest()


def check_servers(servers: Sequence[Server], data: Data, what: str) -> None:
    """Reads everything back from each Redis."""
    expected = checksum(data.values())
    for server in servers:
        client = server.connect()
        found = checksum(client.read_back(data))
        size = client.size()
        claim(
            found == expected and size == len(data),
            f"{server.name}: {size} keys read back, checksum {found}: {what}",
        )


def check_interpreters(job: Job, when: str) -> None:
    """Lets each interpreter compute its answers."""
    right = [i for i in job.interpreters if answers(i) == job.expected]
    claim(
        len(right) == INSTANCES,
        f"{len(right)} of {INSTANCES} Python answer as before, {when};"
        f" checksum of their code {job.expected[0]}",
    )


def changed(data: Data) -> tuple[Data, bytes]:
    """The data with some values changed, and the commands that change them.

    Half are overwritten in place, on the merged page, and half are replaced.
    """
    new = dict(data)
    commands = []
    step_size = len(data) // CHANGED_KEYS
    for number, key in enumerate(list(data)[::step_size][:CHANGED_KEYS]):
        value = data[key]
        new[key] = bytes(byte ^ 0xFF for byte in value)
        if number % 2:
            commands.append(encode(b"SETRANGE", key, b"0", new[key]))
        else:
            commands.append(encode(b"SET", key, new[key]))
    return new, b"".join(commands)


def change_one(job: Job) -> Data:
    """Changes the data of the first Redis; returns its new expected data."""
    writer = job.servers[0]
    new, commands = changed(job.data)
    faults = proc.minor_faults(writer.pid)
    merged = proc.summed("KSM", [writer.pid])
    writer.connect().run(commands, CHANGED_KEYS)
    faults = proc.minor_faults(writer.pid) - faults
    copied = (merged - proc.summed("KSM", [writer.pid])) // 4
    claim(
        faults >= copied > 0,
        f"{writer.name}: {CHANGED_KEYS} values changed, {faults} page faults,"
        f" {copied} merged pages became its own",
    )
    return new


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


# --- the story --------------------------------------------------------------


def tell_job() -> tuple[Job, census.Bound]:
    """Starts the job; prints what could be saved."""
    heading(
        f"{INSTANCES} Redis and {INSTANCES} Python on the stock kernel {os.uname().release},"
        " merging stopped"
    )
    proc.load_module()
    step("ksm_v.ko is loaded")
    proc.pause_khugepaged()
    step("khugepaged pauses, so that memory holds still while it is compared")
    job = start_job()
    bound = bound_of(job)
    line(
        f"  {bound.frames} anonymous pages ({mib(bound.frames)}), {bound.distinct} different"
        f" contents, {bound.zero} pages of zeroes"
    )
    line(f"  a perfect merger could save {bound.savable} pages, {mib(bound.savable)}")
    return job, bound


def tell_merging(job: Job, bound: census.Bound) -> None:
    """Lets the module merge; prints what it saved."""
    before = figures(job)
    heading(
        f"merging: run=1 scan_rate={SCAN_RATE} sleep_ms={SLEEP_MS}"
        f" promote_after={proc.knob('promote_after')}"
    )
    proc.set_knob("scan_rate", SCAN_RATE)
    proc.set_knob("sleep_ms", SLEEP_MS)
    converged, row = merge()
    proc.set_knob("run", 0)
    after = figures(job)

    heading("what it saved, from /proc")
    show_summary(before, after)
    claim(
        converged,
        f"nothing more to merge after {row.scans} scans, {row.seconds:.0f} s,"
        f" {row.cpu:.1f} s of them on a CPU",
    )
    saved = after.pages.saved_since(before.pages)
    judge_bound(bound, saved)
    judge_gains(before, after, saved)
    judge_counts(after)


def tell_data(job: Job) -> None:
    """Checks that nobody's data was harmed, and nobody sees another process's writes."""
    writer, *others = job.servers
    heading(f"all data is right, with the scanner running: run=1 sleep_ms={CALM_SLEEP_MS}")
    proc.set_knob("sleep_ms", CALM_SLEEP_MS)
    proc.set_knob("run", 1)
    step("reading all data back")
    check_servers(job.servers, job.data, "as loaded")
    check_interpreters(job, "while merged")

    heading("copy-on-write: one Redis is changed")
    step(f"changing {CHANGED_KEYS} of its {len(job.data)} values")
    new = change_one(job)
    check_servers([writer], new, "with its changes")
    check_servers(others, job.data, "without them")

    heading("unmerging and unloading")
    step("unmerging")
    unmerge(job)
    check_servers([writer], new, "with its changes")
    check_servers(others, job.data, "without them")
    check_interpreters(job, "unmerged")
    claim(proc.unload_module(), "the module is unloaded")


def main() -> int:
    """Runs the demo; returns the exit status."""
    proc.hide_from_scanner()
    try:
        job, bound = tell_job()
        tell_merging(job, bound)
        tell_data(job)
    except Exception as error:  # The last line names any failure.
        traceback.print_exc()
        claim(False, f"the demo could not go on: {error}")
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
