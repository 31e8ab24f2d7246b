# SPDX-License-Identifier: GPL-2.0
"""Runs workloads beside the module and beside ksmd, and prints what each saves.

usage: run.py [WORKLOAD]...

Runs in a guest, as root, beside ksm_v.ko and the folder ksmv. Prints the figures as JSON. The status
is 0 only if the module leaves at most 5% of what its rules allow to save.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import measure
import servers
from measure import KSMD, MODULE, mib
from servers import Workload

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
GROUP = "workload"
# The part of what the rules allow to save that may be left.
MOST_LEFT = 0.05
# The default of huge_min_parts.
DEFAULT_LEAST_PARTS = 64
# Before the memory is looked at, servers may come to rest.
REST_SECONDS = 5


@dataclass(frozen=True)
class Result:
    """A workload's figures, in MiB."""

    name: str
    title: str
    possible: float
    """What a perfect merger saves in one domain."""
    allowed: float
    """What a perfect merger saves by the default rules."""
    module: float
    """By the module's counts."""
    module_pss: float
    """By the fall of the processes' PSS."""
    left: float
    """Of `allowed`, what the module has not saved."""
    split: int
    """Large pages that the module has split for that."""
    module_for_one: float
    """By the module's counts, after large pages were split for one part, too."""
    split_for_one: int
    ksmd: float
    ksmd_pss: float

    @property
    def is_met(self) -> bool:
        """Whether the module saves what its rules allow, which must be something."""
        return 0 < self.allowed and self.left <= MOST_LEFT * self.allowed


def main(names: list[str]) -> int:
    """Runs the workloads of these names, or all."""
    known = {one.name: one for one in servers.WORKLOADS}
    if unknown := set(names) - set(known):
        print(f"run.py: no workload {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return 2
    servers.prepare_guest()
    results = [result_of(known[name]) for name in names or known]
    print(json.dumps([asdict(one) for one in results]))
    for one in results:
        print(f"test workloads::{one.name} ... {'ok' if one.is_met else 'FAILED'}")
    return 0 if all(one.is_met for one in results) else 1


def result_of(workload: Workload) -> Result:
    """Runs a workload twice: beside the module, and, registered with it, beside ksmd."""
    figures = beside_module(workload) | beside_ksmd(workload)
    result = Result(workload.name, workload.title, **figures)  # type: ignore[arg-type]
    print(f"{workload.name}: {result}", flush=True)
    return result


def stop(scanner: Path) -> None:
    """Stops a scanner, and khugepaged before it, which would undo merges while they are looked at."""
    HUGE_PAGES.write_text("never")
    measure.set_all(scanner, run=0)


def beside_module(workload: Workload) -> dict[str, float]:
    """Also estimates what could be saved. Nothing is registered with mainline KSM."""
    HUGE_PAGES.write_text("always")
    running = servers.begin(workload.begin, servers.CGROUPS / GROUP, opts_in=False)
    time.sleep(REST_SECONDS)
    possible = measure.savable(f"/{GROUP}", "--domain", "global", "--scope", "all")
    allowed = measure.savable(f"/{GROUP}")
    before, counted = measure.pss(running.pids()), measure.saved_by_module()
    split = measure.number(MODULE, "huge_pages_split")
    figures: dict[str, float] = {"possible": mib(possible), "allowed": mib(allowed)}
    for least_parts, suffix in ((DEFAULT_LEAST_PARTS, ""), (1, "_for_one")):
        measure.set_all(MODULE, huge_min_parts=least_parts, sleep_ms=0, scan_rate=100_000, run=1)
        HUGE_PAGES.write_text("always")
        passes = measure.converge(MODULE, measure.saved_by_module)
        stop(MODULE)
        figures[f"module{suffix}"] = mib(measure.saved_by_module() - counted)
        figures[f"split{suffix}"] = measure.number(MODULE, "huge_pages_split") - split
        print(f"{workload.name}: {passes} passes, {figures}", flush=True)
        if least_parts != 1:
            figures["module_pss"] = mib(before - measure.pss(running.pids()))
            figures["left"] = mib(measure.savable(f"/{GROUP}"))
    measure.set_all(MODULE, run=2)
    running.end()
    return figures


def beside_ksmd(workload: Workload) -> dict[str, float]:
    """The processes are registered with ksmd."""
    HUGE_PAGES.write_text("always")
    running = servers.begin(workload.begin, servers.CGROUPS / GROUP, opts_in=True)
    time.sleep(REST_SECONDS)
    before, counted = measure.pss(running.pids()), measure.saved_by_ksmd()
    measure.set_all(KSMD, use_zero_pages=1, smart_scan=0, sleep_millisecs=0)
    measure.set_all(KSMD, pages_to_scan=100_000, run=1)
    passes = measure.converge(KSMD, measure.saved_by_ksmd)
    stop(KSMD)
    saved, after = measure.saved_by_ksmd() - counted, measure.pss(running.pids())
    print(f"{workload.name}: ksmd took {passes} passes", flush=True)
    measure.set_all(KSMD, run=2)
    running.end()
    return {"ksmd": mib(saved), "ksmd_pss": mib(before - after)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
