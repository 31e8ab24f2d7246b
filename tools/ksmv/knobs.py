# SPDX-License-Identifier: GPL-2.0
"""The module's knobs and counts, the files under /sys/kernel/mm/ksm_v."""

import difflib
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ksmv.errors import NO_MODULE, USAGE, Failure, not_permitted

DIRECTORY = Path("/sys/kernel/mm/ksm_v")


@dataclass(frozen=True)
class Knob:
    """A knob: a file that can be written."""

    default: str
    """Its value after loading the module; empty if it cannot be read."""
    allowed: str
    """The values it accepts."""


# Documentation/ABI/sysfs-kernel-mm-ksm_v describes each knob in full.
KNOBS = {
    "run": Knob("0", "0 (stop), 1 (merge), 2 (stop and unmerge everything)"),
    "scan_rate": Knob("100", "0 to 4294967295 pages a cycle, 0 means 1"),
    "sleep_ms": Knob("200", "0 to 4294967295 milliseconds"),
    "promote_after": Knob("3", "1 to 255 sightings"),
    "max_page_sharing": Knob("1024", "2 to 65536 mappings"),
    "movable": Knob("1", "0 or 1"),
    "max_interval": Knob("8", "1, 2, 4 or 8 passes"),
    "max_cpu": Knob("100", "1 to 100 percent of one CPU"),
    "governor": Knob("manual", "manual, auto"),
    "threads": Knob("1", "1 to 64 threads"),
    "merge_now": Knob("", "PID, or 'PID START END' with addresses as in /proc/PID/maps"),
    "scope": Knob("all", "all, registered"),
    "domain": Knob("user", "user, process, cgroup, global"),
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
_COMMON = ("run", "max_cpu", "threads", "domain")
_MAINLINES_SCOPE = {"scope": "registered"}

# Explanations of errors that mean more for this knob than the error's name says.
_REFUSALS = {
    ("run", errno.ENOMEM): "there is not as much free memory as merging has saved",
    ("run", errno.EBUSY): "pages are left in an address space that no process has any more",
    ("run", errno.EINTR): "interrupted; what was broken apart stays so, the scanner is stopped",
    ("domain", errno.EBUSY): "pages are shared; unmerge them first: ksmv set run 2",
    ("threads", errno.ENOMEM): "no memory for more threads; there are as many as before",
    ("merge_now", errno.ESRCH): "there is no such process, or it has no memory of its own",
    ("merge_now", errno.EPERM): "none of that memory may be merged; ksmv estimate PID says why",
    ("merge_now", errno.EBUSY): "run is 2: everything is to be unmerged",
    ("merge_now", errno.EINTR): "interrupted; what was merged stays so",
    ("merge_now", errno.EAGAIN): "the process is changing its mappings; try again",
}

_CHOSEN = re.compile(r"\[([^]]*)\]")


@dataclass(frozen=True)
class Settings:
    """The settings in force."""

    values: dict[str, str]
    defaults: dict[str, str]

    @property
    def changed(self) -> dict[str, str]:
        """The settings that differ from their defaults."""
        return {
            name: value for name, value in self.values.items() if value != self.defaults[name]
        }


def check_module() -> None:
    """Fails unless the module is loaded."""
    if not DIRECTORY.is_dir():
        raise Failure(
            f"the module ksm_v is not loaded: there is no {DIRECTORY}",
            "load it: modprobe ksm_v",
            status=NO_MODULE,
        )


def readable() -> list[str]:
    """The names of all readable files, knobs first, in the order of the table."""
    check_module()
    files = {path.name for path in DIRECTORY.iterdir() if path.is_file()}
    knobs = [name for name in KNOBS if name in files and KNOBS[name].default]
    return knobs + sorted(files - KNOBS.keys())


def get(name: str) -> str:
    """The value of a file; for a choice, the word in brackets."""
    check_module()
    _check_name(name)
    if name in KNOBS and not KNOBS[name].default:
        raise Failure(f"{name} can only be written: {KNOBS[name].allowed}", status=USAGE)
    try:
        return _value(DIRECTORY / name)
    except OSError as error:
        raise _refusal(name, error) from None


def set_value(name: str, value: str) -> None:
    """Writes a knob."""
    check_module()
    _check_name(name)
    if name not in KNOBS and not os.stat(DIRECTORY / name).st_mode & 0o200:
        raise Failure(f"{name} can only be read", status=USAGE)
    try:
        descriptor = os.open(DIRECTORY / name, os.O_WRONLY)
        try:
            os.write(descriptor, os.fsencode(value) + b"\n")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _refusal(name, error, value) from None


def read_all() -> dict[str, str]:
    """The values of all readable files."""
    return {name: get(name) for name in readable()}


def in_force(values: dict[str, str]) -> Settings:
    """The settings in force, out of all values: the module's own, or mainline's (compat)."""
    own = {name: knob.default for name, knob in KNOBS.items() if knob.default}
    if values["profile"] == "own":
        return Settings({name: values[name] for name in own}, own)
    files = {name: DIRECTORY / "compat" / name for name in MAINLINE}
    return Settings(
        {name: values[name] for name in _COMMON}
        | _MAINLINES_SCOPE
        # A kernel without NUMA lacks a file.
        | {name: _value(file) for name, file in files.items() if file.exists()},
        {name: own[name] for name in _COMMON} | _MAINLINES_SCOPE | MAINLINE,
    )


def _value(file: Path) -> str:
    text = file.read_text(encoding="ascii").strip()
    chosen = _CHOSEN.search(text)
    return chosen[1] if chosen else text


def _check_name(name: str) -> None:
    names = {path.name for path in DIRECTORY.iterdir() if path.is_file()}
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    advice = f"did you mean {' or '.join(near)}?" if near else "ksmv get lists them all"
    raise Failure(f"there is no knob '{name}'", advice, status=USAGE)


def _refusal(name: str, error: OSError, value: str = "") -> Failure:
    known = _REFUSALS.get((name, error.errno or 0))
    if known:
        return Failure(f"{name}: {known}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return not_permitted(f"{name}: not permitted")
    if error.errno == errno.EINVAL and name in KNOBS:
        return Failure(
            f"{name}: '{value}' is not allowed", f"allowed: {KNOBS[name].allowed}", status=USAGE
        )
    return Failure(f"{name}: {error.strerror}")
