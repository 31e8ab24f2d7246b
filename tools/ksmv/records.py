# SPDX-License-Identifier: GPL-2.0
"""The answers of ksmv as JSON, for programs. ksmv(8) describes each field."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ksmv import text
from ksmv.errors import Failure
from ksmv.estimate import Domain, Estimate, Row, Totals
from ksmv.pages import PAGE
from ksmv.policy import OWNERS, Policy
from ksmv.processes import Process, Skipped, sees_all, title
from ksmv.reasons import findings
from ksmv.savings import Report, Saving
from ksmv.shared import Segment
from ksmv.sharers import Sharing
from ksmv.status import Status, memory_bytes
from ksmv.why import Facts

Record = dict[str, Any]


def to_json(record: Record) -> str:
    """One line of ASCII JSON, which every parser accepts, with any name in it."""
    return json.dumps(_exchangeable(record))


def _exchangeable(thing: Any) -> Any:
    if isinstance(thing, str):
        return text.exchangeable(thing)
    if isinstance(thing, dict):
        return {text.exchangeable(name): _exchangeable(value) for name, value in thing.items()}
    return list(map(_exchangeable, thing)) if isinstance(thing, (list, tuple)) else thing


def failure(failed: Failure) -> Record:
    """The message, the advice and the exit status."""
    return {"error": str(failed), "advice": list(failed.advice), "exit_status": failed.status}


def values(found: dict[str, str]) -> Record:
    """The values of knobs and counts, as numbers where possible."""
    return {name: int(value) if value.isdecimal() else value for name, value in found.items()}


def _process(process: Process) -> Record:
    """The fields that identify a process."""
    return {
        "pid": process.pid,
        "name": process.name,
        "command": title(process),
        "uid": process.uid,
        "cgroup": process.cgroup,
    }


def _skipped(skipped: Sequence[Skipped]) -> list[Record]:
    return [{"pid": one.pid, "reason": one.reason} for one in skipped]


# --- savings ----------------------------------------------------------------


def report(found: Report) -> Record:
    """All savings; leaves out processes and cgroups that save nothing."""
    return {
        "page_bytes": PAGE,
        **_saving(found.total),
        "processes": [
            _process(process) | _saving(saving) for process, saving in found.top_processes()
        ],
        "cgroups": [
            {"cgroup": cgroup, "processes": number} | _saving(saving)
            for cgroup, number, saving in found.top_domains("cgroup")
        ],
        "sees_all_processes": sees_all(),
        "skipped": _skipped(found.skipped),
        "seconds": round(found.seconds, 3),
    }


def _saving(saving: Saving) -> Record:
    return {
        "saved_pages": round(saving.saved_pages, 3),
        "saved_bytes": round(saving.saved_pages * PAGE),
        "merged_pages": saving.merged_pages,
        "zero_pages": saving.zero_pages,
        **({"left_alone_pages": dict(saving.left_alone)} if saving.left_alone else {}),
    }


# --- status -----------------------------------------------------------------


def status(found: Status) -> Record:
    """The whole status."""
    counts, progress = found.now, found.progress
    answer = {
        "page_bytes": PAGE,
        "memory_bytes": memory_bytes(),
        "saved_pages": counts.saved,
        "saved_bytes": counts.saved * PAGE,
        "saved_percent": round(found.saved_percent, 3),
        "cpu_percent": round(found.cpu_percent, 3),
        "sample_seconds": round(found.seconds, 3),
        "module": values(counts.values),
        "settings": values(counts.settings.values),
        "changed": values(counts.settings.changed),
        "undone_by_khugepaged": asdict(counts.undone),
        "pass": {
            "done_pages": progress.done,
            "pages": progress.length,
            "done_percent": round(progress.percent, 3),
            "pages_per_second": round(progress.rate, 3),
            "pass_seconds": _seconds(progress.pass_seconds),
            "saving_seconds": _seconds(progress.left_seconds),
        },
    }
    return answer | {"report": report(found.report)} if found.report else answer


def _seconds(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


# --- estimates --------------------------------------------------------------


def estimate(result: Estimate, policy: Policy) -> Record:
    """What merging would save."""
    return {
        "page_bytes": PAGE,
        "domain": policy.domain,
        "scope": policy.scope,
        **_totals(result.totals),
        "savable_error_pages": result.error,
        "sampled_percent": round(100 * result.part, 6),
        "shared_memory": _segments(result.segments),
        "left_alone_pages": dict(result.left_alone),
        "domains": [_domain(domain, policy) for domain in result.domains],
        "processes": list(map(_row, result.rows)),
        "sees_all_processes": sees_all(),
        "skipped": _skipped(result.skipped),
        "seconds": round(result.seconds, 3),
    }


def _totals(totals: Totals) -> Record:
    return {
        "candidate_frames": totals.frames,
        "distinct_contents": totals.distinct_contents,
        "zero_frames": totals.zero_frames,
        "savable_pages": totals.savable_pages,
        "savable_bytes": totals.savable_pages * PAGE,
    }


def _domain(domain: Domain, policy: Policy) -> Record:
    owner = dict(zip(OWNERS[policy.domain], domain.owner))
    return owner | {"processes": domain.processes} | _totals(domain.totals)


def _row(row: Row) -> Record:
    return _process(row.process) | {
        "candidate_pages": row.candidate_pages,
        "merged_pages": row.merged_pages,
        "savable_pages": round(row.savable_pages, 3),
        "savable_bytes": round(row.savable_pages * PAGE),
        "left_alone_pages": dict(row.left_alone),
        "unread_pages": row.unread_pages,
    }


# --- reasons ----------------------------------------------------------------


def why(facts: Facts) -> Record:
    """Why pages of a process are not merged."""
    return {
        "page_bytes": PAGE,
        **_process(facts.process),
        "domain": facts.policy.domain,
        "scope": facts.policy.scope,
        "merged_pages": facts.row.merged_pages,
        "zero_pages": facts.zero_pages,
        "partners": facts.partners,
        "sampled_percent": round(100 * facts.part, 6),
        "reasons": [
            {"reason": one.name, "pages": one.pages, "told": one.told, "cure": one.cure}
            for one in findings(facts)
        ],
        "shared_memory": _segments(facts.segments),
        "shared_zero_pages": facts.likeness.zero,
        "shared_equal_pages": facts.likeness.equal,
        "sees_all_processes": sees_all(),
        "skipped": _skipped(facts.skipped),
    }


def _segments(found: Sequence[Segment]) -> list[Record]:
    return [{"name": one.name, "pages": one.pages} for one in found]


# --- sharing ----------------------------------------------------------------


def sharing(found: Sharing) -> Record:
    """With whom a process shares."""
    return {
        "page_bytes": PAGE,
        **_process(found.process),
        "merged_pages": found.merged_pages,
        "zero_pages": found.zero_pages,
        "shared_frames": found.frames,
        "own_frames": found.alone,
        "mappings_not_found": found.elsewhere,
        "sharers": [
            _process(one.process) | {"shared_frames": one.frames, "mappings": one.mappings}
            for one in found.sharers
        ],
        "sees_all_processes": sees_all(),
        "skipped": _skipped(found.skipped),
    }
