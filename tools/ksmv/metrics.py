# SPDX-License-Identifier: GPL-2.0
"""The module's counts as metrics: OpenMetrics text.

node_exporter's textfile collector reads the older Prometheus format, which differs: it knows no
type `info`, and takes UNIT and EOF for comments. So all metrics here are counters and gauges.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ksmv import module, savings, text
from ksmv.pages import PAGE
from ksmv.savings import Report
from ksmv.status import Status, memory_bytes

Labels = Mapping[str, str]
Sample = tuple[Labels, float]

_REFUSALS = Path("/sys/kernel/debug/ksm_v/refusals")
_NS = 1e9


@dataclass(frozen=True)
class Facts:
    """What the metrics are made of."""

    status: Status
    refusals: dict[str, int] = field(default_factory=dict)
    """How often pages were refused, by reason; empty if only root may know."""
    by: str = ""
    """Whose savings were looked for: those of each cgroup, or user."""
    savings: Report | None = None

    def number(self, name: str) -> int:
        """A count of the module."""
        return self.status.now.number(name)

    def has(self, name: str) -> bool:
        """Whether the module has this count."""
        return name in self.status.now.values


@dataclass(frozen=True)
class Family:
    """A metric family: its name, which ends with its unit, and how to get its samples."""

    name: str
    kind: str
    unit: str
    help: str
    samples: Callable[[Facts], Iterable[Sample]]


def read(status: Status, by: str) -> Facts:
    """Reads what the status lacks; who saves how much, if asked for."""
    return Facts(status, _refusals(), by, savings.report() if by else None)


def lines(facts: Facts | None) -> list[str]:
    """The metrics; without facts, only that the module is not loaded."""
    shown = [line for family in FAMILIES for line in _family(family, facts)] if facts else []
    return [*_family_lines(LOADED, [({}, float(facts is not None))]), *shown, "# EOF"]


def write(path: str, metrics: Iterable[str]) -> None:
    """Replaces a file at once, so that no reader sees a part of it."""
    place = os.path.dirname(os.path.abspath(path))
    # The collector takes files with another ending for none of its own.
    descriptor, name = tempfile.mkstemp(dir=place, prefix=".ksmv-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in metrics))
            os.fchmod(file.fileno(), 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _family(family: Family, facts: Facts) -> list[str]:
    return _family_lines(family, family.samples(facts))


def _family_lines(family: Family, samples: Iterable[Sample]) -> list[str]:
    suffix = "_total" if family.kind == "counter" else ""
    found = [f"{family.name}{suffix}{_labels(labels)} {value:.17g}" for labels, value in samples]
    if not found:
        return []
    unit = [f"# UNIT {family.name} {family.unit}"] if family.unit else []
    about = [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
    return [*about, *unit, *found]


def _labels(labels: Labels) -> str:
    told = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{told}}}" if told else ""


def _escaped(value: str) -> str:
    value = text.exchangeable(value).replace("\\", r"\\")
    return value.replace('"', r"\"").replace("\n", r"\n")


def _refusals() -> dict[str, int]:
    try:
        found = [line.split() for line in text.lines_of(_REFUSALS) if not line.startswith("#")]
    except OSError:
        return {}
    return {reason: int(count) for reason, count in found}


def _count(name: str, scale: float = 1) -> Callable[[Facts], Iterator[Sample]]:
    """The value of a file of the module, if it has that."""

    def samples(facts: Facts) -> Iterator[Sample]:
        if facts.has(name):
            yield {}, facts.number(name) * scale

    return samples


def _saved(facts: Facts) -> Iterator[Sample]:
    yield {"by": "sharing"}, facts.number("pages_sharing") * PAGE
    yield {"by": "zeroes"}, facts.number("zero_pages") * PAGE


def _saved_by(facts: Facts) -> Iterator[Sample]:
    found = facts.savings
    if not found:
        return
    for domain, _, saving in found.top_domains(facts.by):
        yield {facts.by: domain}, saving.saved_pages * PAGE


def _pass_seconds(facts: Facts) -> Iterator[Sample]:
    seconds = facts.status.progress.pass_seconds
    if seconds is not None:
        yield {}, seconds


def _settings(facts: Facts) -> Iterator[Sample]:
    settings = facts.status.now.settings.values
    named = {name: settings[name] for name in ("domain", "scope", "governor") if name in settings}
    yield {"profile": facts.status.now.values["profile"], **named}, 1


LOADED = Family("ksm_v_loaded", "gauge", "", "Whether the module is loaded.", lambda facts: [])

FAMILIES = (
    Family("ksm_v_run", "gauge", "", "0: stopped, 1: merging, 2: stopped and unmerged.",
           _count("run")),
    Family("ksm_v_settings", "gauge", "", "1; the labels are settings in force.", _settings),
    Family("ksm_v_saved_bytes", "gauge", "bytes", "Memory that merging saves.", _saved),
    Family("ksm_v_domain_saved_bytes", "gauge", "bytes",
           "Of ksm_v_saved_bytes, the part of each cgroup or user; only with --by.", _saved_by),
    Family("ksm_v_memory_bytes", "gauge", "bytes", "All memory.",
           lambda facts: [({}, memory_bytes())]),
    Family("ksm_v_shared_pages", "gauge", "pages", "Shared pages in use.", _count("pages_shared")),
    Family("ksm_v_sharing_pages", "gauge", "pages",
           "Page table entries that map a shared page, beyond the first of each.",
           _count("pages_sharing")),
    Family("ksm_v_zero_pages", "gauge", "pages",
           "Page table entries that map the zero page in place of a merged page.",
           _count("zero_pages")),
    Family("ksm_v_unshared_pages", "gauge", "pages", "Contents that are remembered, not merged.",
           _count("pages_unshared")),
    Family("ksm_v_scanned_pages", "counter", "pages", "Pages scanned.", _count("pages_scanned")),
    Family("ksm_v_skipped_pages", "counter", "pages", "Pages skipped: their regions were not due.",
           _count("pages_skipped")),
    Family("ksm_v_passes", "counter", "", "Completed passes over all memory.",
           _count("full_scans")),
    Family("ksm_v_pass_done_pages", "gauge", "pages", "Pages of the present pass so far.",
           _count("pass_pages")),
    Family("ksm_v_pass_pages", "gauge", "pages", "Pages of the last completed pass.",
           _count("last_pass_pages")),
    Family("ksm_v_pass_seconds", "gauge", "seconds",
           "How long a pass takes at the present rate; absent while there is no progress.",
           _pass_seconds),
    Family("ksm_v_cpu_seconds", "counter", "seconds", "Run time of the scanner's threads.",
           _count("cpu_ns", 1 / _NS)),
    Family("ksm_v_index_bytes", "gauge", "bytes", "Memory of the scanner's tables.",
           _count("index_bytes")),
    Family("ksm_v_index_failures", "counter", "", "Contents not remembered for lack of memory.",
           _count("index_failures")),
    Family("ksm_v_refusals", "counter", "",
           "Pages that were to be merged and were not, by reason; locked counts areas.",
           lambda facts: [({"reason": one}, count) for one, count in facts.refusals.items()]),
    Family("ksm_v_huge_pages_split", "counter", "",
           "Large pages split to merge their parts; refusals of kept_huge count parts that stayed.",
           _count("huge_pages_split")),
    Family("ksm_v_promise_held", "gauge", "",
           "1 while merging is held: less memory is available than promise_floor demands.",
           _count("promise_held")),
    Family("ksm_v_promise_worst_pages", "gauge", "pages",
           "Merged pages copied in the worst minute since promise_floor was set.",
           _count("promise_worst")),
)  # fmt: skip


def current(status: Callable[[], Status], by: str = "") -> list[str]:
    """The metrics now; also the savings of each cgroup or user, if asked for."""
    return lines(read(status(), by) if module.is_loaded() else None)
