# SPDX-License-Identifier: GPL-2.0
"""Measures what servers feel of a scanner: the times of their answers beside ksmd and beside the module.

usage: neighbours.py [--rounds N] [SERVICE]...

Runs in a guest with two CPUs, as root, beside ksm_v.ko and ksm_v_load. The server and its client run on the first
CPU, with all of their memory registered. A scanner runs on the other CPU, or on the same one. All take turns of a few
seconds, in an order that is drawn for each round, because the host is fast for a while and then slow for a while.
Prints one JSON object for each turn.
"""

import argparse
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import servers
import services
from measure import KSMD, MODULE, set_all
from services import Answers, Service

SERVER_CPU, OTHER_CPU = 0, 1
ROUNDS = 16
# How long a scanner scans before it is measured beside, and how long requests come without a rate.
WARM_UP_SECONDS, CLOSED_SECONDS = 0.3, 0.5
# Of the times of a turn, the longest are printed: the 99th percentile of all turns is among them.
PRINTED_PART = 0.1


@dataclass(frozen=True)
class Condition:
    """What a server runs beside."""

    name: str
    scanner: Path | None = None
    cpu: int = OTHER_CPU
    governor: str = "manual"

    @contextmanager
    def holding(self) -> Iterator[None]:
        """The scanner runs meanwhile."""
        if self.scanner is None:
            yield
            return
        if self.scanner == MODULE:
            set_all(MODULE, governor=self.governor)
        for pid in threads(self.scanner):
            os.sched_setaffinity(pid, {self.cpu})
        set_all(self.scanner, run=1)
        try:
            yield
        finally:
            set_all(self.scanner, run=0)


CONDITIONS = (
    Condition("idle"),
    Condition("ksmd other", KSMD),
    Condition("ksm_v other", MODULE),
    Condition("ksmd same", KSMD, SERVER_CPU),
    Condition("ksm_v same", MODULE, SERVER_CPU),
    Condition("ksm_v auto", MODULE, SERVER_CPU, "auto"),
)


def threads(scanner: Path) -> list[int]:
    """The kernel threads of a scanner."""
    name = "ksmd" if scanner == KSMD else "ksm_v"
    found = []
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().startswith(name):
                found.append(int(comm.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def prepare() -> None:
    """Loads the module. Both scanners scan registered memory only, all of it in each pass, and never pause."""
    servers.prepare_guest()
    set_all(MODULE, scope="registered", max_interval=1, sleep_ms=0, scan_rate=100_000)
    set_all(KSMD, use_zero_pages=1, smart_scan=0, sleep_millisecs=0, pages_to_scan=1000)
    os.sched_setaffinity(0, {SERVER_CPU})


def fill_in() -> subprocess.Popen[bytes]:
    """Keeps the other CPU busy where no scanner is, so that the host has the same load in each turn."""

    def become_idle() -> None:
        os.sched_setaffinity(0, {OTHER_CPU})
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    return subprocess.Popen(("sh", "-c", "while :; do :; done"), preexec_fn=become_idle)


def turn(service: Service, condition: Condition) -> dict[str, object]:
    """Asks the server beside a scanner."""
    with condition.holding():
        time.sleep(WARM_UP_SECONDS)
        answers = service.ask(service.rate, service.seconds)
        closed = service.ask(0, CLOSED_SECONDS)
    return {"condition": condition.name, "per_second": closed.per_second} | summary(answers)


def summary(answers: Answers) -> dict[str, object]:
    """The median of a turn, and its longest times."""
    times = sorted(answers.micros)
    longest = times[-max(1, int(len(times) * PRINTED_PART)) :]
    return {"count": len(times), "p50": times[len(times) // 2], "longest": longest}


def measure(service: Service, rounds: int) -> None:
    """Starts a server, lets all conditions take turns, and prints what was seen."""
    running = servers.begin(service.begin, servers.CGROUPS / "service", opts_in=True)
    # Both scanners merge what can be merged before anything is measured.
    for condition in CONDITIONS:
        turn(service, condition)
    for number in range(rounds):
        order = random.Random(number).sample(CONDITIONS, len(CONDITIONS))
        for condition in order:
            seen = {"service": service.name, "round": number} | turn(service, condition)
            print(json.dumps(seen), flush=True)
    running.end()


def main() -> None:
    """Measures the services of these names, or all."""
    known = {one.name: one for one in services.SERVICES}
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("service", nargs="*", choices=[*known, []])
    arguments = parser.parse_args()
    prepare()
    filler = fill_in()
    for name in arguments.service or known:
        measure(known[name], arguments.rounds)
    filler.kill()


if __name__ == "__main__":
    main()
