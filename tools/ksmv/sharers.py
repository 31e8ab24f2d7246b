# SPDX-License-Identifier: GPL-2.0
"""Finds the processes that share merged pages with a process."""

import os
from collections import Counter
from dataclasses import dataclass

from ksmv import processes
from ksmv.frames import frame_flags, mapping_counts
from ksmv.processes import Process, Skipped
from ksmv.savings import merged_frames


@dataclass(frozen=True)
class Sharer:
    """Another process that maps merged frames of the given process."""

    process: Process
    frames: int
    """Frames that both processes map."""
    mappings: int
    """Its page table entries that map these frames."""


@dataclass(frozen=True)
class Sharing:
    """The sharing of a process; its sharers are sorted by the number of shared frames."""

    process: Process
    merged_pages: int
    """Its page table entries that map a merged frame."""
    frames: int
    """These frames, each counted once."""
    alone: int
    """The frames that no other process maps."""
    elsewhere: int
    """Entries that map one of its frames in a process that could not be read."""
    zero_pages: int
    sharers: list[Sharer]
    skipped: list[Skipped]


def of(process: Process) -> Sharing:
    """Looks for the merged frames of a process in all other processes."""
    flags, counts = frame_flags(), mapping_counts()
    mine = merged_frames(process, flags)
    mappings = {frame: counts.of(frame) for frame in mine}
    others = [other for other in processes.every() if other.pid not in (process.pid, os.getpid())]
    theirs, skipped = processes.visit(
        others, lambda other: (other, _common(merged_frames(other, flags), mine))
    )
    found = mine + sum((common for _, common in theirs), Counter())
    return Sharing(
        process,
        mine.total(),
        len(mine),
        sum(mappings[frame] <= times for frame, times in mine.items()),
        sum(max(0, mappings[frame] - times) for frame, times in found.items()),
        processes.merged_zero_pages(process),
        sorted(
            (Sharer(other, len(common), common.total()) for other, common in theirs if common),
            key=lambda sharer: (-sharer.frames, sharer.process.pid),
        ),
        skipped,
    )


def _common(theirs: Counter[int], mine: Counter[int]) -> Counter[int]:
    """How often they map the given frames."""
    return Counter({frame: times for frame, times in theirs.items() if frame in mine})
