# SPDX-License-Identifier: GPL-2.0
"""Completion of words by the shell, through argcomplete.

argcomplete takes commands, options and choices from the parser; the functions here offer the rest. Shells
ask by running ksmv with `_ARGCOMPLETE` in its environment, as completion.bash, .zsh and .fish tell them.
"""

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from ksmv import module, processes, text
from ksmv.errors import FAILED
from ksmv.knobs import KNOBS

# The words that a completer offers, or these with descriptions, which zsh and fish show.
_Offered: TypeAlias = "Iterable[str] | dict[str, str]"

_ASKED = "_ARGCOMPLETE"
_PROGRAM = "ksmv"


def is_asked() -> bool:
    """Whether a shell asks for completion."""
    return _ASKED in os.environ


def answer(parser: argparse.ArgumentParser) -> int:
    """Tells the shell what may follow, and exits; without argcomplete, returns the exit status."""
    try:
        import argcomplete
        from argcomplete.lexers import split_line
    except ImportError:
        return FAILED
    line, point = os.environ.get("COMP_LINE", ""), os.environ.get("COMP_POINT", "0")
    words = split_line(line, int(point))[3]
    os.environ[_ASKED] = str(_place_of_command(words) + 1)
    argcomplete.autocomplete(
        parser, always_complete_options=False, exclude=["-h"], default_completer=_offer_nothing
    )
    return FAILED


def _place_of_command(words: list[str]) -> int:
    """The place of ksmv in a line that may begin with other commands, or with sudo: zsh passes all of it."""
    ends = [place + 1 for place, word in enumerate(words) if word.endswith((";", "&", "|", "("))]
    start = ends[-1] if ends else 0
    names = [os.path.basename(word) for word in words[start:]]
    return start + names.index(_PROGRAM) if _PROGRAM in names else 0


def by(action: argparse.Action, completer: Callable[..., _Offered]) -> None:
    """Lets the completer offer the values of an argument."""
    action.completer = completer  # type: ignore[attr-defined]


def _offer_nothing(**_: object) -> _Offered:
    return ()


def files_to_read(**_: object) -> _Offered:
    """The module's files that can be read."""
    return module.readable() if module.is_loaded() else ()


def knobs(**_: object) -> _Offered:
    """The knobs, with the values that they accept."""
    return {name: knob.allowed for name, knob in KNOBS.items()}


def values(parsed_args: argparse.Namespace, **_: object) -> _Offered:
    """The values of the knob; of merge_now, the processes."""
    if parsed_args.value or parsed_args.knob not in KNOBS:
        return ()
    return pids() if parsed_args.knob == "merge_now" else KNOBS[parsed_args.knob].words


def pids(**_: object) -> _Offered:
    """The processes that have an address space, with their names; without this one."""
    found = processes.names()
    found.pop(os.getpid(), None)
    return {str(pid): text.printable(name) for pid, name in found.items()}


def more_pids(parsed_args: argparse.Namespace, **_: object) -> _Offered:
    """The same, without those that are given."""
    given = set(map(str, parsed_args.pid))
    return {pid: name for pid, name in pids().items() if pid not in given}


def paths(prefix: str, **_: object) -> _Offered:
    """Files, and directories with a slash."""
    start = prefix[: prefix.rfind("/") + 1]
    return [
        f"{start}{one.name}/" if one.is_dir() else f"{start}{one.name}"
        for one in _entries(Path(start))
    ]


def cgroups(prefix: str, **_: object) -> _Offered:
    """Cgroups, from the root of their tree or from that of the file system."""
    start = prefix[: prefix.rfind("/") + 1] or "/"
    place = processes.CGROUPS / start.removeprefix(str(processes.CGROUPS)).strip("/")
    return [f"{start}{one.name}/" for one in _entries(place) if one.is_dir()]


def _entries(directory: Path) -> Iterator[Path]:
    """The files of a directory whose names no shell or terminal can take for more than a name."""
    try:
        found = sorted(directory.iterdir())
    except OSError:
        return iter(())
    return (one for one in found if text.printable(one.name) == one.name)
