# SPDX-License-Identifier: GPL-2.0
"""The module's files under /sys/kernel/mm/ksm_v: reads and writes knobs, and reads counts."""

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ksmv import spelling
from ksmv.errors import NO_MODULE, USAGE, Failure, not_permitted
from ksmv.knobs import COMMON, KNOBS, MAINLINE, MAINLINES_SCOPE, REFUSALS

DIRECTORY = Path("/sys/kernel/mm/ksm_v")

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


def is_loaded() -> bool:
    """Whether the module is loaded."""
    return DIRECTORY.is_dir()


def check_loaded() -> None:
    """Fails unless the module is loaded."""
    if not is_loaded():
        raise Failure(
            f"the module ksm_v is not loaded: there is no {DIRECTORY}",
            "load it: modprobe ksm_v",
            status=NO_MODULE,
        )


def readable() -> list[str]:
    """The names of all readable files, knobs first, in the order of the table."""
    check_loaded()
    files = {path.name for path in DIRECTORY.iterdir() if path.is_file()}
    known = [name for name in KNOBS if name in files and KNOBS[name].default]
    return known + sorted(files - KNOBS.keys())


def get(name: str) -> str:
    """The value of a file; for a choice, the word in brackets."""
    check_loaded()
    _check_name(name)
    if name in KNOBS and not KNOBS[name].default:
        raise Failure(f"{name} can only be written: {KNOBS[name].allowed}", status=USAGE)
    try:
        return _value(DIRECTORY / name)
    except OSError as error:
        raise _refusal(name, error) from None


def set_value(name: str, value: str) -> None:
    """Writes a knob."""
    check_loaded()
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


def read_knobs() -> dict[str, str]:
    """The values of all knobs; empty for those that can only be written."""
    check_loaded()
    return {name: get(name) if knob.default else "" for name, knob in KNOBS.items()}


def no_value(name: str) -> Failure:
    """The failure to say what a knob is to be set to."""
    known = KNOBS.get(name)
    if known:
        return Failure(f"{name}: no value given", f"allowed: {known.allowed}", status=USAGE)
    check_loaded()
    _check_name(name)
    return Failure(f"{name} can only be read", status=USAGE)


def read_if_loaded() -> dict[str, str]:
    """The values of all readable files; none if the module is not loaded."""
    return read_all() if is_loaded() else {}


def in_force(values: dict[str, str]) -> Settings:
    """The settings in force, out of all values: the module's own, or mainline's (compat)."""
    own = {name: knob.default for name, knob in KNOBS.items() if knob.default}
    if values["profile"] == "own":
        return Settings({name: values[name] for name in own}, own)
    files = {name: DIRECTORY / "compat" / name for name in MAINLINE}
    return Settings(
        {name: values[name] for name in COMMON}
        | MAINLINES_SCOPE
        # A kernel without NUMA lacks a file.
        | {name: _value(file) for name, file in files.items() if file.exists()},
        {name: own[name] for name in COMMON} | MAINLINES_SCOPE | MAINLINE,
    )


def _value(file: Path) -> str:
    text = file.read_text(encoding="ascii").strip()
    chosen = _CHOSEN.search(text)
    return chosen[1] if chosen else text


def _check_name(name: str) -> None:
    names = {path.name for path in DIRECTORY.iterdir() if path.is_file()}
    if name in names:
        return
    advice = spelling.hint(name, names, "ksmv get lists them all")
    raise Failure(f"there is no knob '{name}'; {advice}", status=USAGE)


def _refusal(name: str, error: OSError, value: str = "") -> Failure:
    known = REFUSALS.get((name, error.errno or 0))
    if known:
        return Failure(f"{name}: {known}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return not_permitted(f"{name}: not permitted")
    if error.errno == errno.EINVAL and name in KNOBS:
        return Failure(
            f"{name}: '{value}' is not allowed", f"allowed: {KNOBS[name].allowed}", status=USAGE
        )
    return Failure(f"{name}: {error.strerror}")
