# SPDX-License-Identifier: GPL-2.0
"""The job for scripts/bench: started, compared, and left to the scanner.

All of it is registered with mainline KSM. Prints the process ids in one line, and in
a second line how many pages a perfect merger could save. For each line of its
standard input, prints how many pages merging has saved since, by a census of the
frames. The job ends with the input. Progress goes to standard error.
"""

import sys
import time

from demo import census, proc
from demo.jobs import Job, bound_of, start_job
from demo.report import own_output, step

# Redis gives freed memory back within ten seconds. A guest with --icount skips idle time.
STILL_SECONDS = 15
PATIENCE_SECONDS = 300


def start_registered() -> Job:
    """Starts the job, registered. This process is not: its memory is not part of the job."""
    proc.register(True)
    job = start_job()
    proc.register(False)
    missed = [pid for pid in job.pids if not proc.is_registered(pid)]
    if missed:
        raise RuntimeError(f"not registered with mainline KSM: {missed}")
    return job


def wait_until_still(job: Job) -> None:
    """Waits until the memory of the job is stable."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    resident = None
    while (now := proc.summed("Pss_Anon", job.pids)) != resident:
        if time.monotonic() > deadline:
            raise RuntimeError(f"memory does not hold still: {resident} KiB, then {now}")
        resident = now
        time.sleep(STILL_SECONDS)
    step(f"memory holds still: {resident} KiB")


def main() -> None:
    """Answers until the input ends."""
    with open(own_output(), "w", encoding="utf-8", buffering=1) as answers:
        proc.pause_khugepaged()
        job = start_registered()
        wait_until_still(job)
        savable, before = bound_of(job).savable, census.count(job.pids)
        print(*job.pids, file=answers)
        print(savable, file=answers)
        for _ in sys.stdin:
            print(census.count(job.pids).saved_since(before), file=answers)
        job.end()


if __name__ == "__main__":
    main()
