# SPDX-License-Identifier: GPL-2.0
"""The module's knobs: their defaults, the values they accept, and why they refuse others."""

import errno
from dataclasses import dataclass


@dataclass(frozen=True)
class Knob:
    """A knob: a file that can be written."""

    default: str
    """Its value after loading the module; empty if it cannot be read."""
    allowed: str
    """The values it accepts."""
    words: tuple[str, ...] = ()
    """These, if they are few words or numbers."""


# Documentation/ABI/sysfs-kernel-mm-ksm_v describes each knob in full.
KNOBS = {
    "run": Knob("0", "0 (stop), 1 (merge), 2 (stop and unmerge everything)", ("0", "1", "2")),
    "scan_rate": Knob("100", "0 to 4294967295 pages a cycle, 0 means 1"),
    "sleep_ms": Knob("200", "0 to 4294967295 milliseconds"),
    "promote_after": Knob("3", "1 to 255 sightings"),
    "max_page_sharing": Knob("1024", "2 to 65536 mappings"),
    "movable": Knob("1", "0 or 1", ("0", "1")),
    "max_interval": Knob("8", "1, 2, 4 or 8 passes", ("1", "2", "4", "8")),
    "huge_min_parts": Knob("64", "0 to 512 pages, 0 splits no huge page"),
    "max_cpu": Knob("100", "1 to 100 percent of one CPU"),
    "governor": Knob("manual", "manual, auto", ("manual", "auto")),
    "threads": Knob("1", "1 to 64 threads"),
    "merge_now": Knob("", "PID, or PID START END with addresses as in /proc/PID/maps"),
    "scope": Knob("all", "all, registered", ("all", "registered")),
    "domain": Knob("user", "user, process, cgroup, global", ("user", "process", "cgroup", "global")),
    "undumpable": Knob("siblings", "siblings, leave", ("siblings", "leave")),
    "content": Knob("all", "all, zero", ("all", "zero")),
    "promise_floor": Knob("0", "0 to 4294967295 MiB, or 0 to 100% of RAM; 0 is no floor"),
    "promise_swap": Knob("0", "0 or 1", ("0", "1")),
}

# Mainline's settings, files of compat/, with their defaults.
MAINLINE = {
    "pages_to_scan": "100",
    "sleep_millisecs": "20",
    "merge_across_nodes": "1",
    "max_page_sharing": "256",
    "use_zero_pages": "0",
    "stable_node_chains_prune_millisecs": "2000",
    "smart_scan": "1",
    "advisor_mode": "none",
    "advisor_max_cpu": "70",
    "advisor_target_scan_time": "200",
    "advisor_min_pages_to_scan": "500",
    "advisor_max_pages_to_scan": "30000",
}

# Knobs that also apply in mainline's profile; the scope is fixed there.
COMMON = (
    "run",
    "max_cpu",
    "threads",
    "domain",
    "undumpable",
    "promise_floor",
    "promise_swap",
)
MAINLINES_SCOPE = {"scope": "registered"}

# What promote_after is in mainline's profile.
MAINLINES_PASSES = "2"

# Explanations of errors that mean more for this knob than the error's name says.
REFUSALS = {
    ("run", errno.ENOMEM): "there is not as much free memory as merging has saved",
    ("run", errno.EBUSY): "pages are left in an address space that no process has any more",
    ("run", errno.EINTR): "interrupted; what was broken apart stays so, the scanner is stopped",
    ("domain", errno.EBUSY): "pages are shared; unmerge them first: ksmv set run 2",
    ("threads", errno.ENOMEM): "no memory for more threads; there are as many as before",
    ("merge_now", errno.ESRCH): "there is no such process, or it has no memory of its own",
    ("merge_now", errno.EPERM): "none of that memory may be merged; ksmv why PID says why",
    ("merge_now", errno.ENOMEM): "less memory is available than promise_floor demands",
    ("merge_now", errno.EBUSY): "run is 2: everything is to be unmerged",
    ("merge_now", errno.EINTR): "interrupted; what was merged stays so",
    ("merge_now", errno.EAGAIN): "the process is changing its mappings; try again",
}


def least_parts(files: dict[str, str]) -> int:
    """For how many parts that may be merged a huge page is split; as in mainline, for one, if
    mainline's settings are in force."""
    if files and files["profile"] != "own":
        return 1
    return int(files.get("huge_min_parts", KNOBS["huge_min_parts"].default))
