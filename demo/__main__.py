# SPDX-License-Identifier: GPL-2.0
"""The demo's story, told in a guest as root: see demo/run --help.

Starts the job, computes what a perfect merger would save, lets the module
merge, compares, and checks that nobody's data was harmed.
"""

import os
import sys
import traceback

from demo import census, proc
from demo.figures import figures, judge_bound, judge_counts, judge_gains, show_summary
from demo.integrity import CHANGED_KEYS, change_one, check_interpreters, check_servers
from demo.jobs import INSTANCES, Job, bound_of, start_job
from demo.merging import merge, unmerge
from demo.report import claim, heading, line, step, verdict
from ksmv.layout import mib

SCAN_RATE = 2000
SLEEP_MS = 20
CALM_SLEEP_MS = 100


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
