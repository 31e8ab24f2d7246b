# SPDX-License-Identifier: GPL-2.0
"""The output of ksmv: tables for people, JSON for programs. ksmv(8) documents both."""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from ksmv import text
from ksmv.errors import Failure
from ksmv.estimate import Domain, Estimate, Totals
from ksmv.pages import PAGE
from ksmv.policy import OWNERS, Policy
from ksmv.processes import Process, Skipped
from ksmv.savings import Report, Saving
from ksmv.sharers import Sharing

Json = dict[str, Any]

_MIB = 1 << 20


def mib(pages: float) -> str:
    """A number of pages as MiB."""
    return f"{pages * PAGE / _MIB:.1f} MiB"


def plural(number: int, what: str) -> str:
    """1 page, 2 pages, 2 processes."""
    if number == 1:
        return f"{number} {what}"
    return f"{number} {what}{'es' if what.endswith('s') else 's'}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "  ") -> list[str]:
    """Lines of columns: the last one is aligned left, all others right."""
    cells = [tuple(heads), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return [
        indent + "  ".join([*(c.rjust(w) for c, w in zip(row[:-1], widths)), row[-1]]).rstrip()
        for row in cells
    ]


def process_table(rows: Iterable[tuple[Process, Saving]]) -> list[str]:
    """What processes save, for people."""
    return table(
        ("saved pages", "MiB", "merged", "zero", "uid", "PID", "process"),
        (
            (*_amounts(saving), str(process.uid), str(process.pid), process.name)
            for process, saving in rows
        ),
    )


def cgroup_table(rows: Iterable[tuple[str, int, Saving]]) -> list[str]:
    """What cgroups save, for people."""
    return table(
        ("saved pages", "MiB", "merged", "zero", "processes", "cgroup"),
        ((*_amounts(saving), str(number), cgroup) for cgroup, number, saving in rows),
    )


def _amounts(saving: Saving) -> tuple[str, ...]:
    return (
        f"{saving.saved_pages:.1f}",
        f"{saving.saved_pages * PAGE / _MIB:.1f}",
        str(saving.merged_pages),
        str(saving.zero_pages),
    )


def skipped_line(skipped: Sequence[Skipped]) -> list[str]:
    """A note on the processes that could not be read, if any."""
    reasons = Counter(one.reason for one in skipped)
    told = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    return [f"  not looked at: {plural(len(skipped), 'process')} ({told})"] if skipped else []


def estimate_lines(result: Estimate, policy: Policy, limit: int | None) -> list[str]:
    """An estimate, for people."""
    rows = sorted(result.rows, key=lambda row: (-row.savable_pages, row.process.pid))
    rows = [row for row in rows if row.candidate_pages][:limit]
    left_alone = _left_alone(result)
    told = ", ".join(f"{number} {reason}" for reason, number in left_alone.most_common())
    totals = result.totals
    return [
        f"merging within each {policy.domain}, scope {policy.scope}:"
        if policy.domain != "global"
        else f"merging all with all, scope {policy.scope}:",
        f"  {totals.frames} pages ({mib(totals.frames)}) may be merged:"
        f" {totals.distinct_contents} different contents, {totals.zero_frames} pages of zeroes",
        f"  would save {totals.savable_pages} pages, {mib(totals.savable_pages)}",
        *([f"  left alone: {told}"] if told else []),
        *skipped_line(result.skipped),
        "",
        *table(
            ("would save", "MiB", "of pages", "uid", "PID", "process"),
            (
                (
                    f"{row.savable_pages:.1f}",
                    f"{row.savable_pages * PAGE / _MIB:.1f}",
                    str(row.candidate_pages),
                    str(row.process.uid),
                    str(row.process.pid),
                    row.process.name,
                )
                for row in rows
            ),
        ),
        *_domain_lines(result, policy, limit),
    ]


def _domain_lines(result: Estimate, policy: Policy, limit: int | None) -> list[str]:
    """The domains with several processes, largest savings first."""
    if policy.domain not in ("user", "cgroup"):
        return []
    domains = [domain for domain in result.domains if domain.totals.frames]
    domains.sort(key=lambda domain: (-domain.totals.savable_pages, domain.owner))
    return [
        "",
        *table(
            ("would save", "MiB", "of pages", "processes", ":".join(OWNERS[policy.domain])),
            (
                (
                    str(domain.totals.savable_pages),
                    f"{domain.totals.savable_pages * PAGE / _MIB:.1f}",
                    str(domain.totals.frames),
                    str(domain.processes),
                    ":".join(map(str, domain.owner)),
                )
                for domain in domains[:limit]
            ),
        ),
    ]


def _left_alone(result: Estimate) -> Counter[str]:
    return sum((row.left_alone for row in result.rows), Counter())


def sharing_lines(sharing: Sharing, limit: int | None) -> list[str]:
    """With whom a process shares, for people."""
    process = sharing.process
    elsewhere = f", {sharing.elsewhere} mappings of them not found" if sharing.elsewhere else ""
    return [
        f"{process.name} (PID {process.pid}, uid {process.uid}):"
        f" {plural(sharing.merged_pages, 'merged page')} on {plural(sharing.frames, 'frame')},"
        f" {sharing.alone} of them its own{elsewhere}; {plural(sharing.zero_pages, 'zero page')}",
        *skipped_line(sharing.skipped),
        *table(
            ("shared frames", "MiB", "mappings", "uid", "PID", "process"),
            (
                (
                    str(one.frames),
                    f"{one.frames * PAGE / _MIB:.1f}",
                    str(one.mappings),
                    str(one.process.uid),
                    str(one.process.pid),
                    one.process.name,
                )
                for one in sharing.sharers[:limit]
            ),
        ),
    ]


# --- JSON -------------------------------------------------------------------


def to_json(thing: Json) -> str:
    """One line of ASCII JSON, which every parser accepts, with any name in it."""
    return json.dumps(_exchangeable(thing))


def _exchangeable(thing: Any) -> Any:
    if isinstance(thing, str):
        return text.exchangeable(thing)
    if isinstance(thing, dict):
        return {text.exchangeable(name): _exchangeable(value) for name, value in thing.items()}
    return list(map(_exchangeable, thing)) if isinstance(thing, (list, tuple)) else thing


def process_json(process: Process) -> Json:
    """The fields that identify a process."""
    return {
        "pid": process.pid,
        "name": process.name,
        "uid": process.uid,
        "cgroup": process.cgroup,
    }


def saving_json(saving: Saving) -> Json:
    """The savings of a process or cgroup."""
    return {
        "saved_pages": round(saving.saved_pages, 3),
        "saved_bytes": round(saving.saved_pages * PAGE),
        "merged_pages": saving.merged_pages,
        "zero_pages": saving.zero_pages,
    }


def report_json(report: Report) -> Json:
    """All savings; leaves out processes and cgroups that save nothing."""
    return {
        "page_bytes": PAGE,
        **saving_json(report.total),
        "processes": [
            process_json(process) | saving_json(saving)
            for process, saving in report.top_processes()
        ],
        "cgroups": [
            {"cgroup": cgroup, "processes": number} | saving_json(saving)
            for cgroup, number, saving in report.top_cgroups()
        ],
        "skipped": _skipped_json(report.skipped),
        "seconds": round(report.seconds, 3),
    }


def estimate_json(result: Estimate, policy: Policy) -> Json:
    """An estimate."""
    return {
        "page_bytes": PAGE,
        "domain": policy.domain,
        "scope": policy.scope,
        **_totals_json(result.totals),
        "left_alone_pages": dict(_left_alone(result)),
        "domains": [
            _owner_json(domain, policy)
            | {"processes": domain.processes}
            | _totals_json(domain.totals)
            for domain in result.domains
        ],
        "processes": [
            process_json(row.process)
            | {
                "candidate_pages": row.candidate_pages,
                "merged_pages": row.merged_pages,
                "savable_pages": round(row.savable_pages, 3),
                "savable_bytes": round(row.savable_pages * PAGE),
                "left_alone_pages": dict(row.left_alone),
                "unread_pages": row.unread_pages,
            }
            for row in result.rows
        ],
        "skipped": _skipped_json(result.skipped),
        "seconds": round(result.seconds, 3),
    }


def _totals_json(totals: Totals) -> Json:
    return {
        "candidate_frames": totals.frames,
        "distinct_contents": totals.distinct_contents,
        "zero_frames": totals.zero_frames,
        "savable_pages": totals.savable_pages,
        "savable_bytes": totals.savable_pages * PAGE,
    }


def _owner_json(domain: Domain, policy: Policy) -> Json:
    return dict(zip(OWNERS[policy.domain], domain.owner))


def sharing_json(sharing: Sharing) -> Json:
    """The sharers of a process."""
    return {
        "page_bytes": PAGE,
        **process_json(sharing.process),
        "merged_pages": sharing.merged_pages,
        "zero_pages": sharing.zero_pages,
        "shared_frames": sharing.frames,
        "own_frames": sharing.alone,
        "mappings_not_found": sharing.elsewhere,
        "sharers": [
            process_json(one.process) | {"shared_frames": one.frames, "mappings": one.mappings}
            for one in sharing.sharers
        ],
        "skipped": _skipped_json(sharing.skipped),
    }


def failure_json(failure: Failure) -> Json:
    """The failure: message, advice and exit status."""
    return {"error": str(failure), "advice": list(failure.advice), "exit_status": failure.status}


def values_json(values: dict[str, str]) -> Json:
    """The values of knobs and counts, as numbers where possible."""
    return {name: int(value) if value.isdecimal() else value for name, value in values.items()}


def _skipped_json(skipped: Sequence[Skipped]) -> list[Json]:
    return [{"pid": one.pid, "reason": one.reason} for one in skipped]


# --- progress ---------------------------------------------------------------


class Progress:
    """Prints progress on standard error once it takes long; reuses the line on a terminal."""

    _EVERY_SECONDS = 2

    def __init__(self) -> None:
        self._next = time.monotonic() + self._EVERY_SECONDS
        self._told = False

    def tell(self, compared: int) -> None:
        """Reports the number of compared pages."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._EVERY_SECONDS
        self._told = True
        start, end = ("\r", "") if sys.stderr.isatty() else ("", "\n")
        print(f"{start}ksmv: compared {mib(compared)}", end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Ends the line on a terminal."""
        if self._told and sys.stderr.isatty():
            print(file=sys.stderr)
