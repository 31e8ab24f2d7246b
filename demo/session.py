# SPDX-License-Identifier: GPL-2.0
"""Plays a terminal session with ksmv and the demo's processes, in a guest: see scripts/session.

Writes the session to standard output, and everything else to standard error.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from demo import proc
from demo.jobs import start_job
from demo.merging import Growth
from demo.report import own_output, step

TOOL = Path(__file__).resolve().parents[1] / "ksmv" / "ksmv"
PROMPT = "# "
PATIENCE_SECONDS = 300
LOOK_SECONDS = 5


def play(session: int, command: str) -> None:
    """Runs a command of the session; its output follows it."""
    step(command)
    os.write(session, f"{PROMPT}{command}\n".encode())
    tool = f"ksmv() {{ {sys.executable} {TOOL} \"$@\"; }}"
    subprocess.run(["sh", "-ec", f"{tool}\n{command}"], stdout=session, check=True)


def wait_until_merged() -> int:
    """Waits until merging has ended; returns the seconds that this took."""
    start = time.monotonic()
    growth = Growth()
    while time.monotonic() < start + PATIENCE_SECONDS:
        if growth.has_ended(proc.saved_pages(), proc.knob("full_scans")):
            return round(time.monotonic() - start)
        time.sleep(LOOK_SECONDS)
    raise RuntimeError(f"still merging after {PATIENCE_SECONDS} s")


def main() -> None:
    """Plays the session."""
    session = own_output()
    proc.hide_from_scanner()
    proc.load_module()
    proc.pause_khugepaged()
    job = start_job()
    play(session, "ksmv estimate --rows 4")
    play(session, "ksmv set governor auto")
    play(session, f"echo 1 > {proc.KNOBS}/run")
    os.write(session, f"{PROMPT}sleep {wait_until_merged()}\n".encode())
    play(session, "ksmv status --rows 6")
    play(session, f"ksmv who {job.servers[0].pid} --rows 4")
    job.end()


if __name__ == "__main__":
    main()
