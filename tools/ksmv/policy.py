# SPDX-License-Identifier: GPL-2.0
"""Which memory the module scans, and which processes may share.

The same rules as in rust/mm/policy.rs and credentials.rs, from /proc. For facts that /proc does
not show (pages that a device or another part of the kernel refers to, DAX) see ksmv(8).
"""

from dataclasses import dataclass

from ksmv.credentials import Standing
from ksmv.knobs import KNOBS
from ksmv.pages import Area
from ksmv.processes import Process

SCOPES = KNOBS["scope"].words
# What processes of one domain have in common, by the kind of domain.
OWNERS = {"user": ("uid", "gid"), "process": ("pid",), "cgroup": ("cgroup",), "global": ()}
DOMAINS = tuple(OWNERS)

_REGISTERED = "mg"

# Areas that cannot be merged, even if registered.
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
# Areas that the module leaves alone unless they are registered.
_PRIVATE = {
    "lo": "locked",
    "wf": "wipe_on_fork",
    "dd": "not_dumped",
    "dc": "not_forked",
    "ss": "shadow_stack",
    "uw": "userfaultfd",
    "ui": "userfaultfd",
    "ur": "userfaultfd",
}


@dataclass(frozen=True)
class Policy:
    """The rules in force; the defaults are the module's."""

    scope: str = "all"
    domain: str = "user"
    undumpable: str = KNOBS["undumpable"].default
    """The knob of that name."""

    def objection(self, area: Area, standing: Standing) -> str | None:
        """Why the module leaves an area of a process alone; None if it does not."""
        if standing.several_ids:
            return "several_ids"
        impossible = _first(_IMPOSSIBLE, area.flags)
        if impossible or not area.private:
            return impossible or "shared"
        if _REGISTERED in area.flags:
            return None if standing.may_register else "not_dumpable"
        if self.scope == "registered":
            return "not_registered"
        private = _first(_PRIVATE, area.flags)
        if private or standing.dumpable or self.is_sibling(standing):
            return private
        return "not_dumpable"

    def is_sibling(self, standing: Standing) -> bool:
        """Whether a process shares only with those forked from the same master."""
        return self.undumpable == "siblings" and standing.is_worker

    def domain_of(
        self, process: Process, standing: Standing = Standing()
    ) -> tuple[int | str, ...]:
        """The key of a domain: equal for processes that may share."""
        owner = tuple(getattr(process, part) for part in OWNERS[self.domain])
        if self.domain == "user" and process.capabilities:
            owner += (process.capabilities,)
        if self.is_sibling(standing):
            owner += (standing.family,)
        return owner


def _first(reasons: dict[str, str], flags: frozenset[str]) -> str | None:
    return next((reason for flag, reason in reasons.items() if flag in flags), None)
