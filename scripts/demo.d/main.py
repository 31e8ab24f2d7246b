# SPDX-License-Identifier: GPL-2.0
"""The demo's story, told in a guest as root: see scripts/demo --help.

Starts the job, computes what a perfect merger would save, lets the module
merge, compares, and checks that nobody's data was harmed.
"""

import hashlib
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import census
import proc
from jobs import Interpreter, Server
from report import PAGES_PER_MIB, claim, heading, line, mib, step, verdict
from resp import Data, data_set, encode, load_commands

INSTANCES = 6
REQUIRED_PERCENT = 90
SCAN_RATE = 2000
SLEEP_MS = 20
TABLE_SECONDS = 1
QUIET_SCANS = 2
QUIET_GROWTH = 0.001
PATIENCE_SECONDS = 240
CHANGED_KEYS = 200
EXPRESSIONS = (
    "fingerprint()",
    "json.dumps([decimal.Decimal(2).sqrt() > 1, 2 ** 100, 'ü'])",
    "xml.etree.ElementTree.fromstring('<a><b>42</b></a>').find('b').text",
    "query('1 + 1')",
)


class Job(NamedTuple):
    """All processes of the job, and what they are to hold."""

    servers: list[Server]
    interpreters: list[Interpreter]
    data: Data

    @property
    def pids(self) -> list[int]:
        """Of all of them."""
        return [process.pid for process in (*self.servers, *self.interpreters)]


class Figures(NamedTuple):
    """What /proc says at one moment."""

    available: int
    pss: int
    ksm: int
    pages: census.Census


def figures(job: Job) -> Figures:
    """Reads them."""
    pids = job.pids
    return Figures(
        proc.available(), proc.summed("Pss", pids), proc.summed("KSM", pids), census.count(pids)
    )


# --- the job ----------------------------------------------------------------


def mark_bytecode_current() -> None:
    """Gives the library's sources the times that their bytecode was made for.

    Copying them into the guest did not keep these, and compiling anew takes long.
    """
    for root, _, names in os.walk(os.path.dirname(os.__file__)):
        for name in names:
            if name.endswith(".pyc"):
                _mark_source(Path(root, name))


def _mark_source(bytecode: Path) -> None:
    with bytecode.open("rb") as file:
        head = file.read(12)
    try:
        source = importlib.util.source_from_cache(str(bytecode))
        os.utime(source, (time.time(), int.from_bytes(head[8:12], "little")))
    except (ValueError, FileNotFoundError):
        pass


def start_job() -> Job:
    """Starts everything, loads the data, waits until all is quiet."""
    mark_bytecode_current()
    servers = [Server(number) for number in range(INSTANCES)]
    interpreters = [Interpreter(number) for number in range(INSTANCES)]
    data = data_set()
    load(servers, data)
    for number, interpreter in enumerate(interpreters, 1):
        interpreter.wait()
        step(f"Python interpreters that have imported their modules: {number}/{INSTANCES}")
    return Job(servers, interpreters, data)


def load(servers: Sequence[Server], data: Data) -> None:
    """Loads the same data into each Redis."""
    commands = load_commands(data)
    for number, server in enumerate(servers, 1):
        server.connect().run(commands, len(data))
        step(f"loading 16 MiB in {len(data)} keys into {INSTANCES} Redis: {number}/{INSTANCES}")


def bound_of(job: Job) -> census.Bound:
    """Compares all pages."""
    comparison = census.Comparison()
    for number, pid in enumerate(job.pids, 1):
        comparison.add(pid)
        if number % 3 == 0:
            step(f"comparing all pages of {len(job.pids)} processes: {number}/{len(job.pids)}")
    return comparison.bound()


# --- merging ----------------------------------------------------------------


class Row(NamedTuple):
    """The module's counts at one moment."""

    seconds: float
    scans: int
    shared: int
    sharing: int
    zero: int
    cpu: float

    @property
    def saved(self) -> int:
        """Pages that take no frame any more."""
        return self.sharing + self.zero


def rows() -> Iterator[Row]:
    """The counts, again and again."""
    start = time.monotonic()
    while True:
        yield Row(
            time.monotonic() - start,
            proc.knob("full_scans"),
            proc.knob("pages_shared"),
            proc.knob("pages_sharing"),
            proc.knob("zero_pages"),
            proc.knob("cpu_ns") / 1e9,
        )
        time.sleep(TABLE_SECONDS)


def show(row: Row) -> None:
    """One line of the table."""
    line(
        f"{row.seconds:6.1f} {row.scans:6} {row.shared:8} {row.sharing:9} {row.zero:7}"
        f" {row.saved / PAGES_PER_MIB:10.1f} {row.cpu:12.2f}"
    )


def merge() -> tuple[bool, Row]:
    """Lets the module merge until it finds nothing more; returns whether that came."""
    line("  time  scans   shared   sharing    zero  MiB saved  scanner CPU s")
    proc.set_knob("run", 1)
    quiet_from = most = 0
    for row in rows():
        show(row)
        if row.saved > most * (1 + QUIET_GROWTH):
            # The pass that is under way has seen growth: count from the next one.
            most, quiet_from = row.saved, row.scans + 1
        if most and row.scans >= quiet_from + QUIET_SCANS:
            return True, row
        if row.seconds > PATIENCE_SECONDS:
            return False, row


def show_summary(before: Figures, after: Figures) -> None:
    """What the kernel says about memory."""
    line(f"  {'':26}{'before':>12}{'after':>12}{'change':>12}")
    table = (
        ("MemAvailable", before.available, after.available),
        ("PSS of the processes", before.pss, after.pss),
        ("KSM: of their smaps", before.ksm, after.ksm),
        ("frames behind their pages", before.pages.frames * 4, after.pages.frames * 4),
    )
    for name, old, new in table:
        line(f"  {name:26}" + "".join(f"{n / 1024:8.1f} MiB" for n in (old, new, new - old)))


def judge(bound: census.Bound, before: Figures, after: Figures, row: Row) -> None:
    """Compares what was saved with what could be."""
    saved = after.pages.saved_since(before.pages)
    percent = 100 * saved / bound.savable if bound.savable else 0
    claim(
        percent >= REQUIRED_PERCENT,
        f"saved {saved} pages ({mib(saved)}) of {bound.savable} ({mib(bound.savable)}) that a"
        f" perfect merger could: {percent:.1f}%, required {REQUIRED_PERCENT}%",
    )
    claim(
        abs(row.saved - saved) <= saved // 20,
        f"the module counts {row.saved} pages saved, /proc shows {saved}",
    )
    kib = saved * 4
    for name, gain in (
        ("PSS fell", before.pss - after.pss),
        ("MemAvailable rose", after.available - before.available),
    ):
        claim(gain >= kib * 9 // 10, f"{name} by {gain / 1024:.1f} MiB, {100 * gain // kib}% of what was saved")
    claim(
        after.ksm == after.pages.merged * 4,
        f"smaps shows {after.ksm / 1024:.1f} MiB as KSM, {after.pages.merged} merged pages",
    )


# --- nobody's data was harmed -----------------------------------------------


def checksum(values: Iterator[bytes | None]) -> str:
    """Of values in order; one that is missing counts."""
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        digest.update(b"-" if value is None else b"%d:%b" % (len(value), value))
    return digest.hexdigest()


def check_servers(servers: Sequence[Server], data: Data, what: str) -> None:
    """Reads everything back from each Redis."""
    expected = checksum(iter(data.values()))
    for server in servers:
        client = server.connect()
        found = checksum(client.read_back(data))
        size = client.call(b"DBSIZE")
        claim(
            found == expected and size == len(data),
            f"{server.name}: {size} keys read back, checksum {found}: {what}",
        )


def check_interpreters(job: Job, expected: Sequence[str], when: str) -> None:
    """Lets each interpreter compute something."""
    right = [i for i in job.interpreters if answers(i) == expected]
    claim(
        len(right) == INSTANCES,
        f"{len(right)} of {INSTANCES} Python interpreters answer {when} as before,"
        f" checksum of their code {expected[0]}",
    )


def answers(interpreter: Interpreter) -> list[str]:
    """What an interpreter says to each of the expressions."""
    return [interpreter.evaluate(expression) for expression in EXPRESSIONS]


def changed(data: Data) -> tuple[Data, bytes]:
    """The data with some values changed, and the commands that change them.

    Half are overwritten in place, where the merged page is, half replaced.
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


def check_copy_on_write(job: Job) -> None:
    """Changes the data of one Redis and looks at all of them."""
    writer, *others = job.servers
    new, commands = changed(job.data)
    faults = proc.minor_faults(writer.pid)
    merged = proc.summed("KSM", [writer.pid])
    writer.connect().run(commands, CHANGED_KEYS)
    faults = proc.minor_faults(writer.pid) - faults
    gone = (merged - proc.summed("KSM", [writer.pid])) // 4
    claim(
        gone > 0 and faults >= gone,
        f"{writer.name}: changing {CHANGED_KEYS} values took {faults} page faults and gave it"
        f" {gone} merged pages back as its own",
    )
    check_servers([writer], new, "with its changes")
    check_servers(others, job.data, "without them")


def check_unmerge(job: Job) -> None:
    """Breaks everything that is merged."""
    start = time.monotonic()
    proc.set_knob("run", 2)
    took = time.monotonic() - start
    left = [proc.knob(name) for name in ("pages_shared", "pages_sharing", "zero_pages")]
    pages = census.count(job.pids)
    claim(
        left == [0, 0, 0] and pages.merged == 0,
        f"run=2 unmerged all in {took:.1f} s: {left[0]} shared, {left[1]} sharing,"
        f" {left[2]} zero, {pages.merged} merged pages in smaps",
    )


# --- main -------------------------------------------------------------------


def main() -> int:
    """Tells the story; returns the exit status."""
    proc.hide_from_scanner()
    release = os.uname().release
    heading(f"6 Redis and 6 Python on the stock kernel {release}, merging stopped")
    proc.load_module()
    step("ksm_v.ko is loaded")
    job = start_job()
    expected = answers(job.interpreters[0])
    for interpreter in job.interpreters[1:]:
        answers(interpreter)
    bound = bound_of(job)
    before = figures(job)
    line(
        f"  {bound.frames} anonymous pages ({mib(bound.frames)}), {bound.distinct} different"
        f" contents, {bound.zero} pages of zeroes"
    )
    line(f"  a perfect merger could save {bound.savable} pages, {mib(bound.savable)}")

    heading(f"merging: run=1 scan_rate={SCAN_RATE} sleep_ms={SLEEP_MS}"
            f" promote_after={proc.knob('promote_after')}")
    proc.set_knob("scan_rate", SCAN_RATE)
    proc.set_knob("sleep_ms", SLEEP_MS)
    converged, row = merge()
    after = figures(job)

    heading("what it saved")
    show_summary(before, after)
    claim(converged, f"nothing more to merge after {row.scans} scans, {row.seconds:.0f} s,"
          f" {row.cpu:.1f} s of them on a CPU")
    judge(bound, before, after, row)

    heading("everybody still has the right data, with the scanner running")
    check_servers(job.servers, job.data, "as loaded")
    check_interpreters(job, expected, "while merged")

    heading("copy-on-write: one Redis is changed")
    check_copy_on_write(job)

    heading("unmerging and unloading")
    check_unmerge(job)
    check_servers(job.servers[1:], job.data, "as loaded")
    check_interpreters(job, expected, "when unmerged")
    claim(proc.unload_module(), "the module is unloaded")
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
