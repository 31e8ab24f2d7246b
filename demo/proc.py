# SPDX-License-Identifier: GPL-2.0
"""Figures from /proc, and the module's knobs under /sys/kernel/mm/ksm_v."""

import ctypes
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ksmv.pages import PAGE

KNOBS = Path("/sys/kernel/mm/ksm_v")
KHUGEPAGED_SLEEP = Path("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs")
LONG_MS = 1 << 30
PR_SET_DUMPABLE = 4
PR_SET_MEMORY_MERGE = 67


def load_module() -> None:
    """Loads ksm_v.ko from the current directory."""
    subprocess.run(["insmod", "ksm_v.ko"], check=True)


def unload_module() -> bool:
    """Unloads it; returns whether it is gone."""
    done = subprocess.run(["rmmod", "ksm_v"], check=False)
    return done.returncode == 0 and not KNOBS.exists()


def knob(name: str) -> int:
    """Reads a number."""
    return int((KNOBS / name).read_text())


def saved_pages() -> int:
    """Pages that the module counts as saved."""
    return knob("pages_sharing") + knob("zero_pages")


def set_knob(name: str, value: int) -> None:
    """Writes a number."""
    (KNOBS / name).write_text(f"{value}\n")


def hide_from_scanner() -> None:
    """Makes the module leave this process alone: its memory is not part of the job."""
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def register(wanted: bool) -> None:
    """Registers or unregisters this process with mainline KSM; its children inherit that."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_MEMORY_MERGE, int(wanted), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_MEMORY_MERGE)")


def is_registered(pid: int) -> bool:
    """Returns whether all memory of a process is registered with mainline KSM."""
    return "ksm_merge_any: yes" in Path(f"/proc/{pid}/ksm_stat").read_text()


def pause_khugepaged() -> None:
    """Keeps khugepaged from making huge pages: that adds empty pages to a process."""
    KHUGEPAGED_SLEEP.write_text(f"{LONG_MS}\n")


def _field(path: str, name: str) -> int:
    """A line "Name:  N kB" of a file, in KiB; 0 if there is no such line."""
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path(path).read_text(), re.MULTILINE)
    return int(match[1]) if match else 0


def available() -> int:
    """MemAvailable, in KiB."""
    return _field("/proc/meminfo", "MemAvailable")


def on_free_lists() -> int:
    """Free pages on the CPUs' lists, in KiB; MemAvailable does not count them."""
    counts = re.findall(r"^\s+count:\s+(\d+)$", Path("/proc/zoneinfo").read_text(), re.MULTILINE)
    return sum(map(int, counts)) * PAGE // 1024


def summed(name: str, pids: Iterable[int]) -> int:
    """The sum of a field of smaps_rollup, such as Pss or KSM, over the processes, in KiB."""
    return sum(_field(f"/proc/{pid}/smaps_rollup", name) for pid in pids)


def minor_faults(pid: int) -> int:
    """Minor page faults of a process."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[7])
