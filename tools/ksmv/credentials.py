# SPDX-License-Identifier: GPL-2.0
"""What decides by a process's credentials whether its memory may be merged, from /proc.

The facts behind the rules of rust/mm/credentials.rs; policy.py applies them. The table of
Documentation/security.md, "Whose memory it is", says what follows from each.
"""

import os
import stat
import struct
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from ksmv import text
from ksmv.errors import Failure
from ksmv.processes import Process, has_registered, is_dumpable, one, parent

# Keys of the auxiliary vector, from <linux/auxvec.h>. The vector is as the last exec left it, also
# in the children that were forked since.
_AT_UID, _AT_GID, _AT_SECURE = 11, 13, 23

# How far above a worker its master may be.
_GENERATIONS = 8


class Cause(Enum):
    """What made a process undumpable."""

    SECURE_EXEC = "secure_exec"
    """Its last exec gave it privileges: set-user-ID, set-group-ID, or file capabilities."""
    UNREADABLE = "unreadable_program"
    """Its user may not read the file of its program."""
    CHANGED_IDS = "changed_ids"
    """It changed its ids since its last exec, or its master did before it forked."""
    ITSELF = "made_itself_undumpable"
    """PR_SET_DUMPABLE, as far as can be told."""


@dataclass(frozen=True)
class Standing:
    """The facts about a process; the defaults are those of an ordinary one."""

    several_ids: bool = False
    """Whether its user ids differ, or its group ids."""
    dumpable: bool = True
    secure_exec: bool = False
    """Whether its last exec gave it privileges, or that can't be told."""
    readable: bool = True
    """Whether everybody may read its program."""
    capable: bool = False
    """Whether it has capabilities that its user's other processes may lack."""
    changed_ids: bool = False
    """Whether its ids are others than at its last exec."""
    family: str = ""
    """Equal for the workers that one master forked without an exec since, that changed their ids to
    the same ones and have the same capabilities; empty if it has no master any more, or has
    registered memory."""

    @property
    def cause(self) -> Cause:
        """What made it undumpable."""
        if self.secure_exec:
            return Cause.SECURE_EXEC
        if not self.readable:
            return Cause.UNREADABLE
        return Cause.CHANGED_IDS if self.changed_ids else Cause.ITSELF

    @property
    def may_register(self) -> bool:
        """Whether registering its memory lets that be merged."""
        may = not self.capable and not self.secure_exec and self.readable
        return not self.several_ids and (self.dumpable or may)

    @property
    def is_worker(self) -> bool:
        """Whether it is undumpable only because it changed its ids since its master forked it."""
        may = not self.dumpable and not self.several_ids and self.cause is Cause.CHANGED_IDS
        return may and bool(self.family)


def of(process: Process) -> Standing:
    """Reads the facts. What matters only for undumpable processes is read only for these."""
    several, capable = process.several_ids, bool(process.capabilities)
    if is_dumpable(process):
        return Standing(several_ids=several, capable=capable)
    auxv = _auxiliary_vector(process.path)
    return Standing(
        several_ids=several,
        dumpable=False,
        secure_exec=auxv.get(_AT_SECURE, 1) != 0,
        readable=bool(_mode(process) & stat.S_IROTH),
        capable=capable,
        changed_ids=_were(process, auxv) != (process.uid, process.gid),
        family="" if has_registered(process) else _family(process, auxv),
    )


def _family(process: Process, auxv: dict[int, int]) -> str:
    """The family of a worker: its master is the nearest ancestor that is dumpable, if that is not
    too far above, and if there was no exec since it forked."""
    ancestor = process
    for _ in range(_GENERATIONS):
        try:
            ancestor = one(parent(ancestor))
            if is_dumpable(ancestor):
                # The vector contains addresses that are drawn at each exec.
                same = _auxiliary_vector(ancestor.path) == auxv
                ids = f"{process.uid}:{process.gid}:{process.capabilities}"
                return f"{ancestor.pid}:{ids}" if same else ""
        except (OSError, Failure):
            return ""
    return ""


def has_set_id(process: Process) -> bool:
    """Whether the program that it executes is a set-user-ID or set-group-ID program."""
    return bool(_mode(process) & (stat.S_ISUID | stat.S_ISGID))


def program(process: Process) -> str:
    """The path of the program that it executes; empty if that can't be read."""
    try:
        return text.decode(os.readlink(os.fsencode(f"{process.path}/exe")))
    except OSError:
        return ""


def _mode(process: Process) -> int:
    """The mode of its program's file; 0 if there is none."""
    try:
        return os.stat(f"{process.path}/exe").st_mode
    except FileNotFoundError:
        return 0


def _auxiliary_vector(path: str) -> dict[int, int]:
    """The vector of a 64-bit program; that of a 32-bit program makes no sense, as to the module."""
    words = Path(path, "auxv").read_bytes()
    return dict(struct.iter_unpack("QQ", words[: len(words) // 16 * 16]))


def _were(process: Process, auxv: dict[int, int]) -> tuple[int, int]:
    """The user and group id at the last exec, as this process sees ids."""
    uid, gid = auxv.get(_AT_UID, process.uid), auxv.get(_AT_GID, process.gid)
    return _mapped(f"{process.path}/uid_map", uid), _mapped(f"{process.path}/gid_map", gid)


def _mapped(path: str, number: int) -> int:
    """An id of the process's user namespace, as an id of this process's; itself if unmapped."""
    for line in text.lines_of(path):
        inside, outside, count = map(int, line.split() or (0, 0, 0))
        if inside <= number < inside + count:
            return outside + number - inside
    return number
