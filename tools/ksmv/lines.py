# SPDX-License-Identifier: GPL-2.0
"""The answers of ksmv as lines, for people. ksmv(8) describes them."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence

from ksmv import khugepaged
from ksmv.estimate import Domain, Estimate, Row
from ksmv.knobs import KNOBS
from ksmv.layout import duration, in_mib, mib, of_width, plural, table
from ksmv.pages import PAGE
from ksmv.policy import OWNERS, Policy
from ksmv.processes import Process, Skipped, sees_all, title
from ksmv.reasons import findings
from ksmv.savings import Report, Saving
from ksmv.shared import Segment
from ksmv.sharers import Sharer, Sharing
from ksmv.status import Counts, Status, memory_bytes
from ksmv.view import View
from ksmv.why import Facts

_SEGMENTS = 4
# Savings that take longer than this are worth a hint.
_LONG_SECONDS = 600
_KHUGEPAGED = "khugepaged makes huge pages of ranges with up to"
_OUT_OF_SIGHT = (
    "  only processes of this PID namespace are seen; run ksmv on the host to see all"
)
_DOING = {0: "stopped", 1: "merging", 2: "stopped, unmerged"}
_PROCESS = ("uid", "PID", "process")


def _process(process: Process) -> tuple[str, str, str]:
    """The last columns of each table of processes."""
    return str(process.uid), str(process.pid), title(process)


def _skipped(skipped: Sequence[Skipped]) -> list[str]:
    """A note on the processes that could not be read, if any, and on those out of sight."""
    reasons = Counter(one.reason for one in skipped)
    told = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    notes = [] if sees_all() else [_OUT_OF_SIGHT]
    if skipped:
        notes += [f"  not looked at: {plural(len(skipped), 'process')} ({told})"]
    return notes


# --- knobs and counts -------------------------------------------------------


def values(found: dict[str, str]) -> list[str]:
    """The values of knobs and counts, with the defaults of knobs."""
    return table(("value", "default", "knob"), map(_value, found, found.values()))


def _value(name: str, value: str) -> tuple[str, str, str]:
    default = KNOBS[name].default if name in KNOBS else "-"
    return value, default, name


def knobs(found: dict[str, str]) -> list[str]:
    """The values of knobs, and those that they accept."""
    rows = ((name, value or "-", KNOBS[name].allowed) for name, value in found.items())
    return table(("knob", "value", "allowed"), rows)


# --- savings ----------------------------------------------------------------


def report(found: Report, by: str, limit: int | None) -> list[str]:
    """What each process saves, or each cgroup."""
    total = found.total.saved_pages
    return [
        f"saved: {total:.0f} pages, {mib(total)},"
        f" found in {plural(len(found.by_process), 'process')}",
        *_skipped(found.skipped),
        *(processes(found, limit) if by == "process" else _domains_savings(found, by, limit)),
    ]


def processes(found: Report, limit: int | None, order: str = "saved") -> list[str]:
    """The table of what processes save."""
    why = bool(found.total.left_alone)
    return table(
        (*_saving_heads(why), *_PROCESS),
        (
            (*_saving(saving, why), *_process(process))
            for process, saving in found.top_processes(limit, order)
        ),
    )


def _domains_savings(found: Report, by: str, limit: int | None, order: str = "saved") -> list[str]:
    """The table of what cgroups or users save."""
    why = bool(found.total.left_alone)
    return table(
        (*_saving_heads(why), "processes", by),
        (
            (*_saving(saving, why), str(number), domain)
            for domain, number, saving in found.top_domains(by, limit, order)
        ),
    )


def _saving_heads(why: bool) -> tuple[str, ...]:
    heads = ("saved pages", "MiB", "merged", "zero")
    return (*heads, "left alone", "MiB", "mostly") if why else heads


def _saving(saving: Saving, why: bool) -> tuple[str, ...]:
    return (*_saved(saving), *(_left_alone(saving) if why else ()))


def _left_alone(saving: Saving) -> tuple[str, ...]:
    pages = saving.left_alone.total()
    reasons = [reason for reason, _ in saving.left_alone.most_common(1)]
    return str(pages), in_mib(pages), *(reasons or ["-"])


def _saved(saving: Saving) -> tuple[str, ...]:
    return (
        f"{saving.saved_pages:.1f}",
        in_mib(saving.saved_pages),
        str(saving.merged_pages),
        str(saving.zero_pages),
    )


# --- status -----------------------------------------------------------------


def status(found: Status, limit: int | None = None) -> list[str]:
    """The whole status; with the largest savers if these were looked for."""
    savings = found.report
    if not savings:
        return status_head(found)
    return [
        *status_head(found),
        f"  found    {savings.total.saved_pages:.0f} of the saved pages in"
        f" {plural(len(savings.by_process), 'process')}, in {savings.seconds:.1f} s",
        *_skipped(savings.skipped),
        "",
        *processes(savings, limit),
        "",
        *_domains_savings(savings, "cgroup", limit),
    ]


def top(found: Status, view: View, limit: int | None) -> list[str]:
    """The status for a terminal: the state, and one table if there is one in view."""
    head, savings = of_width(status_head(found)), found.report
    if not savings or not view.by:
        return head
    if view.by == "process":
        rows = processes(savings, limit, view.order)
    else:
        rows = _domains_savings(savings, view.by, limit, view.order)
    return [*head, *of_width(_skipped(savings.skipped)), "", *rows]


def status_head(found: Status) -> list[str]:
    """The module's state."""
    counts = found.now
    files = counts.values
    settings = counts.settings.values
    tables = counts.number("index_bytes")
    changed = ", ".join(f"{name} {value}" for name, value in counts.settings.changed.items())
    whose = "" if files["profile"] == "own" else " of mainline's (compat), which are in force"
    return [
        f"ksm_v on {os.uname().release}: {_DOING.get(counts.number('run'), '?')},"
        f" domain {settings['domain']}, scope {settings['scope']},"
        f" {plural(counts.number('full_scans'), 'pass')}",
        f"  saved    {counts.saved} pages, {mib(counts.saved)},"
        f" {found.saved_percent:.1f}% of memory:"
        f" {files['pages_sharing']} by sharing, {files['zero_pages']} of zeroes",
        f"  shared   {files['pages_shared']} frames by"
        f" {counts.number('pages_shared') + counts.number('pages_sharing')} mappings",
        f"  cost     {counts.number('cpu_ns') / 1e9:.1f} s of CPU since loaded,"
        f" {found.cpu_percent:.1f}% of one CPU now; tables {mib(tables / PAGE)}"
        f" ({100 * tables / memory_bytes():.2f}% of memory)",
        f"  pass     {_pass(found)}",
        *_hints(found),
        f"  changed  {changed or 'no knob'}{whose}",
        "  who      --rows N shows who saves most; ksmv why PID, why a process saves nothing",
    ]


def _pass(found: Status) -> str:
    """Where the pass is, how long it takes, and when the saving is there."""
    progress = found.progress
    about = "about " if progress.is_guess else ""
    place = f"{progress.percent:.0f}% of {about}{mib(progress.length)} done"
    if found.now.number("run") != 1:
        return f"{place}; the scanner is stopped: ksmv set run 1"
    if found.now.number("promise_held"):
        return f"{place}; {_held(found.now)}"
    if progress.pass_seconds is None:
        return f"{place}; no progress in {found.seconds:.1f} s"
    place += f", {duration(progress.pass_seconds)} a pass at this rate"
    if not progress.left_seconds:
        return f"{place}; what was there {plural(progress.needed, 'pass')} ago is merged"
    needed, left = plural(progress.needed, "pass"), duration(progress.left_seconds)
    return f"{place}; most of the saving is there after {needed}, in {left}"


def _held(now: Counts) -> str:
    """Why nothing is merged, though memory could be saved."""
    floor = now.values["promise_floor"]
    floor = floor if floor.endswith("%") else f"{floor} MiB"
    return (
        f"held: less memory is available than promise_floor ({floor}) or the worst minute of"
        f" copies ({mib(now.number('promise_worst'))}) demands"
    )


def _hints(found: Status) -> list[str]:
    """What may help, if anything."""
    if found.now.number("run") != 1 or found.now.number("promise_held"):
        return []
    left, hints = found.progress.left_seconds, []
    if (left is None or left > _LONG_SECONDS) and _is_manual(found):
        hints.append("ksmv set governor auto: faster while it merges much, up to max_cpu")
    undone = found.now.undone
    if undone.shared:
        hints.append(f"{_KHUGEPAGED} {undone.shared} shared pages, and undoes their merges:"
                     f" ksmv set huge_min_parts {undone.shared + 1}, or"
                     f" echo 0 >{khugepaged.PLACE}/khugepaged/max_ptes_shared")  # fmt: skip
    if undone.zero:
        hints.append(f"{_KHUGEPAGED} {undone.zero} pages of zeroes, and undoes their merges:"
                     f" echo 0 >{khugepaged.PLACE}/khugepaged/max_ptes_none")  # fmt: skip
    return [f"  hint     {hint}" for hint in hints]


def _is_manual(found: Status) -> bool:
    return found.now.settings.values.get("governor") == "manual"


# --- estimates --------------------------------------------------------------


def estimate(result: Estimate, policy: Policy, limit: int | None) -> list[str]:
    """What merging would save, in all and in each process and domain."""
    rows = [row for row in result.rows if row.candidate_pages]
    rows.sort(key=lambda row: (-row.savable_pages, row.process.pid))
    return [
        *_estimate_head(result, policy),
        "",
        *table(("would save", "MiB", "of pages", *_PROCESS), map(_row, rows[:limit])),
        *_domains(result.domains, policy, limit),
    ]


def _estimate_head(result: Estimate, policy: Policy) -> list[str]:
    within = "all with all" if policy.domain == "global" else f"within each {policy.domain}"
    totals = result.totals
    left_alone = result.left_alone.most_common()
    told = ", ".join(f"{number} {reason}" for reason, number in left_alone)
    return [
        f"merging {within}, scope {policy.scope}:",
        f"  {totals.frames} pages ({mib(totals.frames)}) may be merged:"
        f" {totals.distinct_contents} different contents, {totals.zero_frames} pages of zeroes",
        f"  would save {totals.savable_pages} pages, {mib(totals.savable_pages)}{_error(result)}",
        *_merged_already(result),
        *([f"  left alone: {told}"] if told else []),
        *_segments(result.segments),
        *_skipped(result.skipped),
    ]


def _merged_already(result: Estimate) -> list[str]:
    """Why this is not what `ksmv status` says, if pages are merged."""
    merged = sum(row.merged_pages for row in result.rows)
    if not merged:
        return []
    return [
        f"  merged already: {merged} entries, whose saving ksmv status shows, comes on top of that;"
        " what is left is not visited yet, changes, or is in huge pages with too few such parts"
        " (huge_min_parts): ksmv why PID"
    ]


def _error(result: Estimate) -> str:
    """How far off the estimate may be."""
    if result.part == 1:
        return ""
    return (
        f", give or take {mib(result.error)}"
        f" (from 1 of {1 / result.part:.0f} contents; --exact: from all)"
    )


def _segments(segments: Sequence[Segment]) -> list[str]:
    """A note on shared memory, if any."""
    if not segments:
        return []
    told = [f"{mib(one.pages)} of {one.name}" for one in segments[:_SEGMENTS]]
    more = [f"{len(segments) - _SEGMENTS} more"] if len(segments) > _SEGMENTS else []
    total = sum(one.pages for one in segments)
    return [f"  shared memory, never merged: {mib(total)}: {', '.join(told + more)}"]


def _row(row: Row) -> tuple[str, ...]:
    return (
        f"{row.savable_pages:.1f}",
        in_mib(row.savable_pages),
        str(row.candidate_pages),
        *_process(row.process),
    )


def _domains(found: Iterable[Domain], policy: Policy, limit: int | None) -> list[str]:
    """The domains with several processes, largest savings first."""
    if policy.domain not in ("user", "cgroup"):
        return []
    heads = ("would save", "MiB", "of pages", "processes", ":".join(OWNERS[policy.domain]))
    domains = [domain for domain in found if domain.totals.frames]
    domains.sort(key=lambda domain: (-domain.totals.savable_pages, domain.owner))
    return ["", *table(heads, map(_domain, domains[:limit]))]


def _domain(domain: Domain) -> tuple[str, ...]:
    return (
        str(domain.totals.savable_pages),
        in_mib(domain.totals.savable_pages),
        str(domain.totals.frames),
        str(domain.processes),
        ":".join(map(str, domain.owner)),
    )


# --- reasons ----------------------------------------------------------------


def why(facts: Facts) -> list[str]:
    """Why pages of a process are not merged, with a line below each reason that tells the cure."""
    process, row = facts.process, facts.row
    merged = row.merged_pages + facts.zero_pages
    head = (
        f"{process.name} (PID {process.pid}, uid {process.uid}), domain {facts.policy.domain},"
        f" scope {facts.policy.scope}: {merged} of its pages are merged ({mib(merged)});"
        f" not merged are{_of_part(facts.part)}"
    )
    rows = (
        line
        for one in findings(facts)
        for line in (
            (str(one.pages), in_mib(one.pages), one.told), ("", "", f"  cure: {one.cure}")
        )
    )  # fmt: skip
    return [
        head,
        *table(("pages", "MiB", "because"), rows),
        *_segments(facts.segments),
        *_skipped(facts.skipped),
    ]


def _of_part(part: float) -> str:
    return "" if part == 1 else f" (from 1 of {1 / part:.0f} contents)"


# --- sharing ----------------------------------------------------------------


def sharing(found: Sharing, limit: int | None) -> list[str]:
    """With whom a process shares."""
    process = found.process
    elsewhere = f", {found.elsewhere} mappings of them not found" if found.elsewhere else ""
    return [
        f"{process.name} (PID {process.pid}, uid {process.uid}):"
        f" {plural(found.merged_pages, 'merged page')} on {plural(found.frames, 'frame')},"
        f" {found.alone} of them its own{elsewhere}; {plural(found.zero_pages, 'zero page')}",
        *_skipped(found.skipped),
        *table(
            ("shared frames", "MiB", "mappings", *_PROCESS), map(_sharer, found.sharers[:limit])
        ),
        f"  its other pages: ksmv why {process.pid}",
    ]


def _sharer(sharer: Sharer) -> tuple[str, ...]:
    return (
        str(sharer.frames),
        in_mib(sharer.frames),
        str(sharer.mappings),
        *_process(sharer.process),
    )
