# SPDX-License-Identifier: GPL-2.0
"""What the two scanners save, as the kernel and ksmv count it."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

MODULE = Path("/sys/kernel/mm/ksm_v")
KSMD = Path("/sys/kernel/mm/ksm")
PAGE = 4096
# Passes without a change, after which a scanner has converged, and the most that it gets.
CALM_PASSES, MOST_PASSES = 3, 40
PATIENCE_SECONDS = 3600


def mib(pages: float) -> float:
    """Pages of 4 KiB in MiB."""
    return pages * PAGE / (1 << 20)


def pss(pids: list[int]) -> int:
    """The memory of these processes, in pages; what processes share is divided among them."""
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if found := re.search(r"^Pss:\s+(\d+) kB", rollup, re.M):
            total += int(found[1]) * 1024 // PAGE
    return total


def savable(cgroup: str, *rules: str) -> int:
    """What a perfect merger would still save of a cgroup by these rules, in pages."""
    command = ("ksmv/ksmv", "estimate", "--exact", "--json", "--cgroup", cgroup, *rules)
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return int(json.loads(found.stdout)["savable_pages"])


def number(place: Path, name: str) -> int:
    """A count of a scanner."""
    return int((place / name).read_text())


def set_all(place: Path, **values: object) -> None:
    """Writes knobs."""
    for name, value in values.items():
        (place / name).write_text(str(value))


def saved_by_module() -> int:
    """Pages that the module has saved, by its counts."""
    return number(MODULE, "pages_sharing") + number(MODULE, "zero_pages")


def saved_by_ksmd() -> int:
    """Pages that ksmd has saved, by its counts."""
    return number(KSMD, "pages_sharing") + number(KSMD, "ksm_zero_pages")


def converge(place: Path, saved: Callable[[], int]) -> int:
    """Waits until a scanner saves no more from pass to pass. Returns the number of passes."""
    first, calm, before = number(place, "full_scans"), 0, -1
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        passes = number(place, "full_scans") - first
        if calm >= CALM_PASSES or passes >= MOST_PASSES or time.monotonic() > deadline:
            return passes
        wait_pass(place, first + passes + 1, deadline)
        now = saved()
        calm = calm + 1 if abs(now - before) * 200 <= now else 0
        before = now


def wait_pass(place: Path, wanted: int, deadline: float) -> None:
    """Waits until so many passes have ended."""
    while number(place, "full_scans") < wanted and time.monotonic() < deadline:
        time.sleep(0.2)
