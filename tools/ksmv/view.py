# SPDX-License-Identifier: GPL-2.0
"""What the table of `ksmv top` shows, and the keys that change it."""

from dataclasses import dataclass, replace

QUIT = "q"
KEYS = "q quit; p processes, u users, c cgroups; sort by: s saved, m merged, z zero"
_TABLES = {"p": "process", "u": "user", "c": "cgroup"}
_ORDERS = {"s": "saved", "m": "merged", "z": "zero"}


@dataclass(frozen=True)
class View:
    """A table, or none, and its order."""

    by: str = ""
    """Whose savings: process, user or cgroup; empty for no table, which costs nothing."""
    order: str = "saved"
    """Largest first: saved pages, merged pages or zero pages."""

    def after(self, key: str) -> "View":
        """The view after a key was pressed."""
        if key in _TABLES:
            return replace(self, by=_TABLES[key])
        if key in _ORDERS:
            return replace(self, by=self.by or "process", order=_ORDERS[key])
        return self
