# SPDX-License-Identifier: GPL-2.0
"""The processes that have an address space, and the facts that decide who may share."""

import bisect
import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import platform
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ksmv import text
from ksmv.errors import Failure

_Result = TypeVar("_Result")

CGROUPS = Path("/sys/fs/cgroup")
_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "ppc64le": 354, "s390x": 343}
_KCMP_VM = 1

# Of <linux/nsfs.h>: the user who created a user namespace.
_NS_GET_OWNER_UID = 0xB704

# The most of a command line that is worth reading.
_TITLE = 100

# PROC_PID_INIT_INO of <linux/proc_ns.h>.
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC

# PIDFD_GET_INFO of <linux/pidfd.h> with its second struct, of 72 bytes.
_PIDFD_GET_INFO = 0xC048FF0B
_PIDFD_INFO_SIZE = 72
_PIDFD_INFO_COREDUMP = 1 << 4
_PIDFD_COREDUMP_USER = 1 << 2
_COREDUMP_MASK = 64


@dataclass(frozen=True)
class Process:
    """A process that has an address space, as it was when it was read."""

    pid: int
    name: str
    uid: int
    """The real user id."""
    gid: int
    """The real group id."""
    several_ids: bool
    """Whether its user ids (real, effective, saved, file system) differ, or its group ids."""
    cgroup: str
    """Its cgroup in the unified hierarchy."""
    path: str
    """Its directory in /proc, or the directory of a thread if the main thread has exited."""
    capabilities: str = ""
    """Capabilities that its user's other processes may lack, and its user namespace; or nothing."""


@dataclass(frozen=True)
class Skipped:
    """A process that could not be read."""

    pid: int
    reason: str


def sees_all() -> bool:
    """Whether /proc shows the processes of all PID namespaces."""
    return os.stat("/proc/self/ns/pid").st_ino == _INITIAL_PID_NAMESPACE


def every() -> list[Process]:
    """All processes, each address space once: after vfork(), only the parent."""
    found: list[Process] = []
    spaces = []
    for pid in _pids():
        process = _look(pid)
        if process is None:
            continue
        space = _Space(pid)
        place = bisect.bisect_left(spaces, space)
        if place == len(spaces) or spaces[place] != space:
            spaces.insert(place, space)
            found.append(process)
    return found


def names() -> dict[int, str]:
    """The names of the processes that have an address space; any user may read them."""
    found = {}
    for pid in _pids():
        with contextlib.suppress(OSError):
            if any("VmSize" in _status(path) for path in _directories(pid)):
                found[pid] = _name(f"/proc/{pid}")
    return found


def _pids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def one(pid: int) -> Process:
    """The process with this id."""
    process = _look(pid)
    if process:
        return process
    if os.path.exists(f"/proc/{pid}"):
        raise Failure(f"process {pid} has no memory: a kernel thread, or it is exiting")
    raise Failure(f"there is no process {pid}")


def title(process: Process) -> str:
    """The name, and the arguments that tell it from other processes of this name."""
    try:
        command = text.decode(Path(process.path, "cmdline").read_bytes())
    except OSError:
        return process.name
    # A program may set a title of its own, which has no end of arguments.
    program, *arguments = command.rstrip("\0 ").split("\0")
    shown = program if not arguments and " " in program else " ".join([process.name, *arguments])
    return shown[:_TITLE]


def parent(process: Process) -> int:
    """The id of the parent of a process."""
    return int(_status(process.path)["PPid"])


def in_cgroup(cgroup: str) -> list[Process]:
    """The processes of a cgroup and of its descendants, by its path under /sys/fs/cgroup."""
    path = "/" + str(Path("/", cgroup)).removeprefix(str(CGROUPS)).strip("/")
    if not (CGROUPS / path[1:] / "cgroup.procs").exists():
        raise Failure(f"there is no cgroup '{path}'", f"the cgroups are the directories of {CGROUPS}")
    below = path.rstrip("/") + "/"
    found = [process for process in every() if (process.cgroup + "/").startswith(below)]
    if not found:
        raise Failure(f"no process is in the cgroup '{path}'")
    return found


def visit(
    processes: list[Process], look: Callable[[Process], _Result]
) -> tuple[list[_Result], list[Skipped]]:
    """The result of `look` for each process, and the processes that exit or may not be read."""
    results, skipped = [], []
    for process in processes:
        try:
            results.append(look(process))
        except OSError as error:
            skipped.append(Skipped(process.pid, _reason_of(error)))
    return results, skipped


def read(pid: int, look: Callable[[Process], _Result]) -> _Result:
    """The result of `look` for one process; fails if it exits or may not be read."""
    try:
        return look(one(pid))
    except OSError as error:
        raise Failure(f"process {pid}: {_reason_of(error)}", *_advice(error)) from None


def _advice(error: OSError) -> list[str]:
    """What helps if a process could not be read."""
    if error.errno not in (errno.EACCES, errno.EPERM):
        return []
    return ["its memory is protected even from this user: CAP_SYS_PTRACE is needed"]


def _reason_of(error: OSError) -> str:
    """Why a process could not be read, in a word or two."""
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return "exited"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "denied"
    return os.strerror(error.errno) if error.errno else str(error)


def is_dumpable(process: Process) -> bool:
    """Whether the process is dumpable by its user. Exact since Linux 6.16; on older kernels,
    processes of root count as dumpable."""
    info = bytearray(struct.pack("Q", _PIDFD_INFO_COREDUMP).ljust(_PIDFD_INFO_SIZE, b"\0"))
    try:
        descriptor = os.pidfd_open(process.pid)
        try:
            fcntl.ioctl(descriptor, _PIDFD_GET_INFO, info)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise
        info = bytearray(_PIDFD_INFO_SIZE)
    if struct.unpack_from("Q", info)[0] & _PIDFD_INFO_COREDUMP:
        return bool(struct.unpack_from("I", info, _COREDUMP_MASK)[0] & _PIDFD_COREDUMP_USER)
    return process.uid == 0 or os.stat(f"{process.path}/maps").st_uid != 0


def merged_zero_pages(process: Process) -> int:
    """Entries that map the zero page in place of a merged one; 0 if the kernel does not tell."""
    return max(0, int(_ksm_stat(process).get("ksm_zero_pages", 0)))


def has_registered(process: Process) -> bool:
    """Whether it has registered memory for merging; False if the kernel does not tell."""
    return _ksm_stat(process).get("ksm_mergeable") == "yes"


def _ksm_stat(process: Process) -> dict[str, str]:
    try:
        lines = text.lines_of(f"{process.path}/ksm_stat")
    except FileNotFoundError:
        return {}
    return dict(line.replace(":", "").split(maxsplit=1) for line in lines)


def _look(pid: int) -> Process | None:
    try:
        for path in _directories(pid):
            status = _status(path)
            if "VmSize" in status:
                uids, gids = status["Uid"].split(), status["Gid"].split()
                several = len(set(uids)) > 1 or len(set(gids)) > 1
                name, cgroup = _name(path), _cgroup(path)
                more = _capabilities(path, int(uids[0]), status.get("CapPrm", "0"))
                return Process(pid, name, int(uids[0]), int(gids[0]), several, cgroup, path, more)
    except OSError:
        pass
    return None


def _directories(pid: int) -> Iterator[str]:
    yield f"/proc/{pid}"
    for thread in os.listdir(f"/proc/{pid}/task"):
        if thread != str(pid):
            yield f"/proc/{pid}/task/{thread}"


def _status(path: str) -> dict[str, str]:
    fields = (line.partition(":") for line in text.lines_of(f"{path}/status"))
    return {name: value.strip() for name, _, value in fields}


def _name(path: str) -> str:
    """The exact name: status escapes some of its characters."""
    return text.decode(Path(path, "comm").read_bytes().removesuffix(b"\n"))


def _capabilities(path: str, uid: int, permitted: str) -> str:
    """Like exceed_the_users() in rust/mm/credentials.rs: nothing if the user is root of the user
    namespace, or has created it."""
    if uid == 0 or not int(permitted, 16):
        return ""
    namespace = os.open(f"{path}/ns/user", os.O_RDONLY)
    try:
        creator = bytearray(4)
        fcntl.ioctl(namespace, _NS_GET_OWNER_UID, creator)
        number = os.fstat(namespace).st_ino
    finally:
        os.close(namespace)
    maps = (line.split() for line in text.lines_of(f"{path}/uid_map"))
    roots = [int(one[1]) for one in maps if one and one[0] == "0"]
    return "" if uid in (*roots, *struct.unpack("I", creator)) else f"{permitted}@{number}"


def _cgroup(path: str) -> str:
    try:
        lines = text.lines_of(f"{path}/cgroup")
    except FileNotFoundError:
        return "/"
    return next((line[3:] for line in lines if line.startswith("0::")), "/")


def _compare_spaces(one_pid: int, other_pid: int) -> int:
    """Orders processes for sorting, by kcmp(2): equal (0) if they have one address space. Never
    returns 0 if the kernel does not support kcmp()."""
    number = _KCMP.get(platform.machine(), -1)
    return {0: 0, 1: -1}.get(_libc().syscall(number, one_pid, other_pid, _KCMP_VM, 0, 0), 1)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


_Space = functools.cmp_to_key(_compare_spaces)
