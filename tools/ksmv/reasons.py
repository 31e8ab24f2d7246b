# SPDX-License-Identifier: GPL-2.0
"""The reasons why pages are not merged, in words, each with its cure.

A reason is a line of the table: to add one, add a line. `pages`, `told` and `cure` are functions of
the facts about a process, and of nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ksmv import credentials
from ksmv.credentials import Cause
from ksmv.frames import HUGE
from ksmv.knobs import least_parts
from ksmv.why import Facts

_Words = Callable[[Facts], str]

_REGISTER = "MemoryKSM=yes in the [Service] of its unit, or madvise(MADV_MERGEABLE) in the program"
_NO_CURE = "none, by design"


@dataclass(frozen=True)
class Reason:
    """A reason why pages of a process are not merged."""

    name: str
    """Its name in JSON."""
    pages: Callable[[Facts], float]
    """How many pages are not merged for this reason."""
    told: _Words
    """The reason, in a few words."""
    cure: _Words
    """What to do about it, in one line."""


@dataclass(frozen=True)
class Finding:
    """A reason that holds for a process."""

    name: str
    pages: int
    told: str
    cure: str


def findings(facts: Facts) -> list[Finding]:
    """The reasons that hold, most pages first."""
    found = [
        Finding(one.name, round(one.pages(facts)), one.told(facts), one.cure(facts))
        for one in REASONS
        if round(one.pages(facts))
    ]
    return sorted(found, key=lambda one: (-one.pages, one.name))


def _words(words: str) -> _Words:
    """The same words for every process."""
    return lambda facts: words


# --- areas that are left alone ----------------------------------------------


def _area(name: str, told: str, cure: str = _REGISTER) -> Reason:
    """A reason that policy.py finds for an area, whatever the process is."""
    return Reason(name, lambda facts: facts.row.left_alone[name], _words(told), _words(cure))


def _shared_told(facts: Facts) -> str:
    alike = facts.likeness
    return (
        f"shared memory: {alike.zero} pages of zeroes, {alike.equal} equal to another of its pages"
    )


def _shared_cure(facts: Facts) -> str:
    if facts.process.name.startswith("qemu"):
        return "memory-backend-ram,share=off, unless vhost-user needs it shared"
    return "private memory: MAP_PRIVATE | MAP_ANONYMOUS; a file of tmpfs can have holes for zeroes"


# --- processes that are left alone ------------------------------------------

_CAUSES = {
    Cause.SECURE_EXEC: "its last exec gave it privileges",
    Cause.UNREADABLE: "its user may not read its program",
    Cause.CHANGED_IDS: "it or its master changed ids without an exec since",
    Cause.ITSELF: "it made itself so (PR_SET_DUMPABLE)",
}


def _undumpable(cause: Cause) -> Reason:
    """A process that is not dumpable for this cause."""

    def pages(facts: Facts) -> float:
        return facts.row.left_alone["not_dumpable"] if facts.standing.cause is cause else 0

    def told(facts: Facts) -> str:
        by = _secure_exec(facts) if cause is Cause.SECURE_EXEC else _CAUSES[cause]
        return f"not dumpable: {by}{_orphan(facts)}"

    return Reason(f"not_dumpable_{cause.value}", pages, told, _undumpable_cure)


def _orphan(facts: Facts) -> str:
    """Why a worker is not merged with its siblings, where the module merges such."""
    is_worker = facts.standing.cause is Cause.CHANGED_IDS
    is_orphan = is_worker and facts.files.get("undumpable") == "siblings"
    return "; its master has exited, or runs another program" if is_orphan else ""


def _secure_exec(facts: Facts) -> str:
    kind = "set-ID" if credentials.has_set_id(facts.process) else "file-capability"
    program = credentials.program(facts.process)
    return f"{_CAUSES[Cause.SECURE_EXEC]} ({program} is a {kind} program)"


def _undumpable_cure(facts: Facts) -> str:
    standing = facts.standing
    if standing.cause is Cause.SECURE_EXEC:
        return _NO_CURE
    if standing.cause is Cause.UNREADABLE:
        return f"chmod o+r {credentials.program(facts.process)}"
    if standing.capable:
        return f"{_NO_CURE}: it has capabilities that its user's other processes lack"
    if standing.cause is Cause.CHANGED_IDS:
        return _changed_ids_cure(facts)
    return _REGISTER


def _changed_ids_cure(facts: Facts) -> str:
    if facts.files.get("undumpable") == "leave":
        return "ksmv set undumpable siblings"
    return "MemoryKSM=yes in the [Service] of its unit, or User= there instead of root"


# --- pages that may be merged -----------------------------------------------


def _different(facts: Facts) -> float:
    return facts.fate.different if facts.partners else 0


def _alone(facts: Facts) -> float:
    return 0 if facts.partners else facts.fate.different


_ALONE = {
    "user": "no other process of its user and group may be merged",
    "cgroup": "no other process of its cgroup may be merged",
    "process": "each process is a domain",
    "global": "no other process may be merged",
}
_WIDER = {
    "user": "global, if all users of this machine trust each other",
    "cgroup": "user, if containers and machines of one user trust each other",
    "process": "user, if processes of one user trust each other",
}


def _alone_told(facts: Facts) -> str:
    if facts.policy.is_sibling(facts.standing):
        return "alone in its domain: only processes forked from its master could share with it"
    return f"alone in its domain: {_ALONE[facts.policy.domain]}"


def _alone_cure(facts: Facts) -> str:
    if facts.policy.is_sibling(facts.standing):
        return _changed_ids_cure(facts)
    wider = _WIDER.get(facts.policy.domain)
    return f"ksmv set run 2; ksmv set domain {wider}" if wider else "none is needed"


def _huge_told(facts: Facts) -> str:
    least = least_parts(facts.files)
    if not least:
        return "equal, in huge pages: none is split"
    return f"equal, in huge pages with less than {least} of {HUGE} parts to merge"


def _huge_cure(facts: Facts) -> str:
    return f"ksmv set huge_min_parts 1, or at once: ksmv set merge_now {facts.process.pid}"


def _crowded_told(facts: Facts) -> str:
    return "equal, beyond the number of mappings that one shared page may have"


def _waiting_told(facts: Facts) -> str:
    if not facts.files:
        return "could be merged; the module is not loaded"
    if facts.number("run") != 1:
        return "could be merged; the scanner is stopped"
    passes, wanted = facts.number("full_scans"), facts.number("promote_after")
    if passes < wanted:
        return f"could be merged; not seen often enough yet: pass {passes + 1} of {wanted} or more"
    return "could be merged; not seen often enough yet, or refused (debugfs: ksm_v/refusals)"


def _waiting_cure(facts: Facts) -> str:
    if not facts.files:
        return "modprobe ksm_v; ksmv set run 1"
    if facts.number("run") == 2:
        return "ksmv set run 1"
    at_once = f"ksmv set merge_now {facts.process.pid}"
    if facts.number("run") == 0:
        return f"ksmv set run 1, or at once: {at_once}"
    faster = "" if facts.files.get("governor") == "auto" else "ksmv set governor auto, or "
    return f"{faster}at once: {at_once}"


def _fate(name: str) -> Callable[[Facts], float]:
    return lambda facts: getattr(facts.fate, name)


REASONS = (
    *map(_undumpable, Cause),
    _area("several_ids", "acts as several users or groups (its ids differ)",
          f"{_NO_CURE}; a program that needs one user gets it by User= in its unit"),
    _area("not_registered", "not registered, and the scope is registered",
          "MemoryKSM=yes in the [Service] of its unit, or ksmv set scope all"),
    Reason("shared", lambda facts: facts.row.left_alone["shared"], _shared_told, _shared_cure),
    _area("hugetlb", "memory of hugetlbfs", "transparent huge pages instead of hugetlbfs"),
    _area("droppable", "droppable memory (vDSO random state)", _NO_CURE),
    _area("special", "memory of devices, or that must not be expanded", _NO_CURE),
    _area("locked", "locked (mlock, mlockall)"),
    _area("not_dumped", "kept out of core dumps (MADV_DONTDUMP)"),
    _area("wipe_on_fork", "wiped on fork (MADV_WIPEONFORK)"),
    _area("not_forked", "kept from forks (MADV_DONTFORK)"),
    _area("shadow_stack", "shadow stacks", _NO_CURE),
    _area("userfaultfd", "watched by userfaultfd for writes or accesses"),
    Reason("content", _fate("unwanted"), _words("not full of zeroes, and content is zero"),
           _words("ksmv set content all")),
    Reason("alone", _alone, _alone_told, _alone_cure),
    Reason("different", _different, _words("no other page of its domain is equal"),
           _words("none is needed; ksmv estimate --domain tells what a wider domain would save")),
    Reason("volatile", _fate("volatile"), _words("equal, but they change between visits"),
           _words("none: merging them would cost more copies than it saves")),
    Reason("huge", _fate("huge"), _huge_told, _huge_cure),
    Reason("crowded", _fate("crowded"), _crowded_told, _words("ksmv set max_page_sharing 65536")),
    Reason("waiting", _fate("waiting"), _waiting_told, _waiting_cure),
)  # fmt: skip
