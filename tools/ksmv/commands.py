# SPDX-License-Identifier: GPL-2.0
"""The commands of ksmv: each function runs one, with its options."""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TypeVar

from ksmv import (
    access,
    estimate,
    lines,
    metrics,
    module,
    processes,
    records,
    savings,
    screen,
    sharers,
    status,
    text,
    why,
)
from ksmv.errors import Failure
from ksmv.progress import Progress
from ksmv.records import Record

_Found = TypeVar("_Found")


def _answer(
    options: Namespace,
    found: _Found,
    record: Callable[[_Found], Record],
    shown: Callable[[_Found], Sequence[str]],
) -> None:
    """Prints what was found, for programs or for people."""
    if options.json:
        text.put(records.to_json(record(found)), sys.stdout)
    else:
        text.say(shown(found), sys.stdout)


def show_values(options: Namespace) -> None:
    """Shows a knob or count, or all."""
    if options.knob:
        values = {options.knob: module.get(options.knob)}
        _answer(options, values, records.values, lambda found: [*found.values()])
    else:
        _answer(options, module.read_all(), records.values, lines.values)


def set_value(options: Namespace) -> None:
    """Sets a knob; without one, shows all with the values that they accept."""
    if not options.knob:
        _answer(options, module.read_knobs(), records.values, lines.knobs)
        return
    if not options.value:
        raise module.no_value(options.knob)
    value = " ".join(options.value)
    module.set_value(options.knob, value)
    if options.json:
        text.put(records.to_json(records.values({options.knob: value})), sys.stdout)


def show_status(options: Namespace) -> None:
    """Shows what is saved, at what cost, and how far it is; by whom, if asked."""
    _check_status(options)
    shown = partial(lines.status, limit=options.rows)
    _answer(options, status.once(bool(options.rows)), records.status, shown)


def _check_status(options: Namespace) -> None:
    """Fails if the status can't be read."""
    module.check_loaded()
    if options.rows:
        access.check()


def show_top(options: Namespace) -> None:
    """Shows the same, again and again."""
    _check_status(options)
    shown = screen.Screen(options.rows)
    found_each = status.again(options.interval, lambda: bool(shown.view.by), shown.wait)
    if options.json:
        for found in islice(found_each, options.count):
            text.put(records.to_json(records.status(found)), sys.stdout)
        return
    with screen.of_terminal():
        for found in islice(found_each, options.count):
            if shown.is_over:
                break
            shown.show(found)


def show_metrics(options: Namespace) -> None:
    """Prints the metrics, or writes them into a file."""
    if options.by:
        access.check()
    found = metrics.current(status.once, options.by or "")
    if options.output:
        metrics.write(options.output, found)
    else:
        text.put("\n".join(found), sys.stdout)


def show_report(options: Namespace) -> None:
    """Shows how much each process or cgroup saves."""
    access.check()
    shown = partial(lines.report, by=options.by, limit=options.rows)
    rules = why.rules(module.read_if_loaded())[0] if options.why else None
    _answer(options, savings.report(rules), records.report, shown)


def show_estimate(options: Namespace) -> None:
    """Shows what merging would save."""
    access.check()
    rules = replace(
        why.rules(module.read_if_loaded())[0], scope=options.scope, domain=options.domain
    )
    progress = Progress()
    sample = 0 if options.exact else options.sample
    estimator = estimate.Estimator(rules, options.max_page_sharing, sample, progress.tell)
    result = estimate.estimate(_wanted(options), estimator)
    progress.end()
    if options.pid and not result.rows:
        raise Failure(f"process {options.pid[0]}: {result.skipped[0].reason}")
    shown = partial(lines.estimate, policy=rules, limit=options.rows)
    _answer(options, result, partial(records.estimate, policy=rules), shown)


def _wanted(options: Namespace) -> list[processes.Process]:
    """The processes to estimate: those that are named, or all."""
    if options.pid:
        return [processes.one(pid) for pid in dict.fromkeys(options.pid)]
    if options.cgroup:
        return processes.in_cgroup(options.cgroup)
    return processes.every()


def show_why(options: Namespace) -> None:
    """Shows why pages of a process are not merged."""
    access.check()
    progress = Progress()
    facts = why.of(options.pid, progress.tell)
    progress.end()
    _answer(options, facts, records.why, lines.why)


def show_sharers(options: Namespace) -> None:
    """Shows with whom a process shares pages."""
    access.check()
    shown = partial(lines.sharing, limit=options.rows)
    _answer(options, processes.read(options.pid, sharers.of), records.sharing, shown)
