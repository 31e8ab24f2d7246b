# SPDX-License-Identifier: GPL-2.0
"""Which memory the module would look at, and whose may be merged with whose.

The same rules as in rust/mm/policy.rs and credentials.rs, from what /proc tells; for what it does
not tell (pages that a device or another part of the kernel refers to, DAX) see ksmv(8).
"""

from dataclasses import dataclass

from pages import Area
from processes import Process

SCOPES = ("all", "registered")
DOMAINS = ("user", "process", "cgroup", "global")

_REGISTERED = "mg"

# What can't be merged, whatever the owner says.
_IMPOSSIBLE = {
    "sh": "shared",
    "ms": "shared",
    "ht": "hugetlb",
    "dp": "droppable",
    "io": "special",
    "de": "special",
    "pf": "special",
    "mm": "special",
}
# What its owner keeps to itself, unless it has registered it.
_PRIVATE = {
    "lo": "locked",
    "wf": "wipe_on_fork",
    "dd": "not_dumped",
    "dc": "not_forked",
    "ss": "shadow_stack",
    "um": "userfaultfd",
    "uw": "userfaultfd",
    "ui": "userfaultfd",
    "ur": "userfaultfd",
}


@dataclass(frozen=True)
class Policy:
    """The rules in force; the defaults are the module's."""

    scope: str = "all"
    domain: str = "user"

    def objection(self, area: Area, dumpable: bool, several_ids: bool = False) -> str | None:
        """Why an area of a process is left alone; None: it is not."""
        if several_ids:
            return "several_ids"
        impossible = _first(_IMPOSSIBLE, area.flags)
        if impossible or not area.private:
            return impossible or "shared"
        if _REGISTERED in area.flags:
            return None
        if self.scope == "registered":
            return "not_registered"
        private = _first(_PRIVATE, area.flags)
        if private or dumpable:
            return private
        return "not_dumpable"

    def domain_of(self, process: Process) -> tuple[int | str, ...]:
        """What has to be equal for two processes to share."""
        owners: dict[str, tuple[int | str, ...]] = {
            "user": (process.uid, process.gid),
            "process": (process.pid,),
            "cgroup": (process.cgroup,),
            "global": (),
        }
        return owners[self.domain]


def _first(reasons: dict[str, str], flags: frozenset[str]) -> str | None:
    return next((reason for flag, reason in reasons.items() if flag in flags), None)
