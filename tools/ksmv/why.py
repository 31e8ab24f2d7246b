# SPDX-License-Identifier: GPL-2.0
"""Why a process saves nothing, or not more: how many of its pages are not merged for which reason.

Collects the facts; reasons.py names the reasons and their cures.
"""

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ksmv import credentials, module, pages, processes, shared
from ksmv.credentials import Standing
from ksmv.estimate import DEFAULT_MAX_SHARING, Estimator, Met, Row
from ksmv.frames import HUGE, FrameTable, folio_of, frame_flags
from ksmv.knobs import least_parts
from ksmv.policy import OWNERS, Policy
from ksmv.processes import Process, Skipped
from ksmv.shared import Likeness, Segment

# Pages that change within this time are volatile.
_WATCHED_SECONDS = 1
# Pages to watch.
_WATCHED = 4096


@dataclass(frozen=True)
class Fate:
    """What becomes of the pages that may be merged, estimated for all from those remembered."""

    unwanted: float = 0
    """Not full of zeroes, and only such pages are merged."""
    different: float = 0
    """No other frame of the domain has their content."""
    volatile: float = 0
    """Equal to others, and changed while they were watched."""
    huge: float = 0
    """Equal to others, in huge pages that are not worth splitting."""
    crowded: float = 0
    """Equal to others, and needed because of the limits of sharing."""
    waiting: float = 0
    """Equal to others, and not merged yet."""


@dataclass(frozen=True)
class Facts:
    """All that is known about a process."""

    process: Process
    standing: Standing
    policy: Policy
    files: dict[str, str]
    """The module's files; empty if it is not loaded."""
    row: Row
    zero_pages: int
    """Entries that map the zero page in place of a merged page."""
    partners: int
    """Other processes of its domain with pages that may be merged."""
    fate: Fate
    segments: list[Segment]
    likeness: Likeness
    skipped: list[Skipped] = field(default_factory=list)
    part: float = 1
    """The part of the contents that stands for all."""

    def number(self, name: str, default: int = 0) -> int:
        """A number of the module's files."""
        return int(self.files.get(name, default))


def of(pid: int, progress: Callable[[int], None] = lambda compared: None) -> Facts:
    """Collects the facts; compares the process with the others of its domain."""
    files = module.read_if_loaded()
    policy, max_sharing = rules(files)
    estimator = Estimator(policy, max_sharing, progress=progress)
    return processes.read(pid, lambda process: _facts(process, files, policy, estimator))


def rules(files: dict[str, str]) -> tuple[Policy, int]:
    """The rules in force, and the largest number of mappings of a shared page; without the module,
    its defaults."""
    if not files:
        return Policy(), DEFAULT_MAX_SHARING
    values = module.in_force(files).values
    policy = Policy(values["scope"], values["domain"], files["undumpable"])
    return policy, int(values["max_page_sharing"])


def _facts(
    process: Process, files: dict[str, str], policy: Policy, estimator: Estimator
) -> Facts:
    standing = credentials.of(process)
    met = estimator.add(process, all_zeroes=True)
    since = time.monotonic()
    row = estimator.rows[0]
    skipped = _add_partners(process, policy.domain_of(process, standing), policy, estimator)
    partners = [one for one in estimator.rows[1:] if one.candidate_pages + one.merged_pages]
    fate = _fate(row, met, estimator, since, files)
    return Facts(
        process, standing, policy, files, row, processes.merged_zero_pages(process),
        len(partners), fate, shared.merged(row.segments), _likeness(process), skipped,
        1 / estimator.scale,
    )  # fmt: skip


def wants_zeroes_only(files: dict[str, str]) -> bool:
    """Whether only pages full of zeroes are merged; never, if mainline's settings are in force."""
    return bool(files) and files["profile"] == "own" and files.get("content") == "zero"


def _add_partners(
    process: Process, owner: tuple[int | str, ...], policy: Policy, estimator: Estimator
) -> list[Skipped]:
    """Adds the other processes of the domain, unless nothing is to be compared with them. Returns
    those that could not be read."""
    if not estimator.rows[0].candidate_pages:
        return []

    def add(other: Process) -> None:
        if policy.domain_of(other, credentials.of(other)) == owner:
            estimator.add(other)

    kind = len(OWNERS[policy.domain])
    others = [one for one in processes.every() if one.pid not in (process.pid, os.getpid())]
    likely = [one for one in others if policy.domain_of(one)[:kind] == owner[:kind]]
    return processes.visit(likely, add)[1]


def _likeness(process: Process) -> Likeness:
    """Compares the shared memory that a process maps."""
    space, flags = pages.AddressSpace(process.path), frame_flags()
    areas = [area for area in space.areas_with_flags() if shared.segment(space, area, flags)]
    return shared.likeness(shared.contents(space, areas))


def _fate(
    row: Row, met: list[Met], estimator: Estimator, since: float, files: dict[str, str]
) -> Fate:
    """Divides the pages that may be merged; each remembered page stands for `scale` pages."""
    scale = estimator.scale
    unmerged = [one for one in met if not one.merged and estimator.is_remembered(one)]
    wanted = [one for one in unmerged if not (one.digest and wants_zeroes_only(files))]
    alike = [one for one in wanted if _has_partner(row, one)]
    huge = kept_huge(alike, frame_flags(), scale, least_parts(files))
    calm = [one for one in alike if one.page.frame not in huge]
    volatile = len(calm) * _changed(row.process, calm, estimator, since)
    left = scale * (len(calm) - volatile)
    crowded = min(left, estimator.crowded(row))
    return Fate(
        unwanted=scale * (len(unmerged) - len(wanted)),
        different=scale * (len(wanted) - len(alike)),
        volatile=scale * volatile,
        huge=scale * (len(alike) - len(calm)),
        crowded=crowded,
        waiting=left - crowded,
    )


def _has_partner(row: Row, met: Met) -> bool:
    """Whether another frame has the content; the zero page always does."""
    content = row.domain and row.domain.of(met)
    return not met.digest or bool(content) and content.frames + content.shared > 1


def _changed(process: Process, met: list[Met], estimator: Estimator, since: float) -> float:
    """The part of these pages that changed since they were read, from evenly chosen ones."""
    chosen = met[:: len(met) // _WATCHED + 1]
    if not chosen:
        return 0
    time.sleep(max(0, since + _WATCHED_SECONDS - time.monotonic()))
    again = pages.AddressSpace(process.path).contents(one.page for one in chosen)
    changed = sum(
        content is None or estimator.digest(content) != one.digest
        for one, (_, content) in zip(chosen, again)
    )
    return changed / len(chosen)


def kept_huge(
    alike: list[Met], flags: FrameTable, scale: int, least_parts: int
) -> frozenset[int]:
    """The frames among these in huge pages of which too few parts may be merged to split them: less
    than `least_parts` of 512, in proportion for smaller ones; 0: none is ever split."""
    folios = {met.page.frame: folio_of(flags, met.page.frame) for met in alike}
    mergeable = Counter(folios.values())
    return frozenset(
        frame
        for frame, folio in folios.items()
        if folio.frames > 1
        and (least_parts == 0 or scale * mergeable[folio] * HUGE < least_parts * folio.frames)
    )
