# SPDX-License-Identifier: GPL-2.0
"""The pages that the module leaves alone, by the reason."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ksmv import credentials, shared
from ksmv.frames import KPF_ANON, KPF_HUGE, KPF_HWPOISON, FrameTable
from ksmv.pages import AddressSpace, Area, Page
from ksmv.policy import Policy
from ksmv.processes import Process
from ksmv.shared import Segment


class Left(NamedTuple):
    """What is left alone of an area."""

    pages: Counter[str]
    """By reason; shared memory that the area maps counts as `shared`."""
    segment: Segment | None


def of_area(space: AddressSpace, area: Area, objection: str | None, flags: FrameTable) -> Left:
    """What is left alone of an area, if the policy has this objection to it."""
    found: Counter[str] = Counter()
    if objection:
        found[objection] += area.hugetlb + sum(1 for _ in anonymous(space.pages(area), flags))
    segment = shared.segment(space, area, flags)
    if segment:
        found["shared"] += segment.pages
    return Left(+found, segment)


def of(process: Process, policy: Policy, flags: FrameTable) -> Counter[str]:
    """What is left alone of a process."""
    space, standing = AddressSpace(process.path), credentials.of(process)
    parts = (
        of_area(space, area, policy.objection(area, standing), flags).pages
        for area in space.areas_with_flags()
    )
    return sum(parts, Counter())


def anonymous(mapped: Iterable[Page], flags: FrameTable) -> Iterator[Page]:
    """The anonymous pages among these, merged or not, that can be read."""
    for page in mapped:
        kind = flags.of(page.frame)
        if kind & KPF_ANON and not kind & (KPF_HUGE | KPF_HWPOISON):
            yield page
