# SPDX-License-Identifier: GPL-2.0
"""Prints the figures of neighbours.py as a document.

usage: neighbours_table.py RELEASE DATE COMMIT FILE
"""

import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from neighbours import CONDITIONS
from services import SERVICES

HEAD = """<!-- SPDX-License-Identifier: GPL-2.0 -->
<!-- Written by scripts/neighbours --save. -->
# What servers feel of a scanner

Linux {release}, {date}, commit {commit}: a guest with 2 vCPUs of QEMU without KVM. A server and its client are on one
CPU, and a scanner without pauses is on the other one, or on the same one; "auto": on the same one, at the module's
governor `auto`. All of the server's memory is registered, and each scanner scans all of it again and again
(`smart_scan` 0, `max_interval` 1). Requests come at a fixed rate, whether the server keeps up or not: the time of an
answer counts from when its request was due. The last column is of requests that follow each other.

Per cent of the same figure with both scanners stopped; in brackets the 95% confidence interval, by bootstrap over
{rounds} rounds. p50 and requests: the median of the rounds' ratios; p99 and p99.9: the ratio of the percentiles of all
answers. The first row has the figures themselves.
"""
TITLES = {
    "ksmd other": "ksmd, other CPU",
    "ksm_v other": "ksm_v, other CPU",
    "ksmd same": "ksmd, same CPU",
    "ksm_v same": "ksm_v, same CPU",
    "ksm_v auto": "ksm_v, same CPU, auto",
}
RESAMPLES = 400
LEVEL = 0.95


@dataclass(frozen=True)
class Turn:
    """What was seen beside a scanner, once."""

    per_second: float
    count: int
    p50: int
    longest: list[int]


@dataclass(frozen=True)
class Ratio:
    """A ratio and its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.0%} ({self.low:.0%} to {self.high:.0%})".replace("%", "")


def median_ratio(of: Callable[[Turn], float], beside: Sequence[Turn], idle: Sequence[Turn]) -> Ratio:
    """The median of the rounds' ratios."""
    ratios = sorted(of(one) / of(other) for one, other in zip(beside, idle, strict=True))
    drawn = random.Random(1)
    return Ratio(statistics.median(ratios), *_bootstrap(
        lambda: statistics.median(drawn.choices(ratios, k=len(ratios)))))  # fmt: skip


def percentile(one_in: int, turns: Sequence[Turn]) -> float:
    """The time that one in so many answers of these turns exceeded. It must be among their longest times."""
    count = sum(one.count for one in turns)
    longest = sorted((time for one in turns for time in one.longest), reverse=True)
    return longest[count // one_in]


def percentile_ratio(one_in: int, beside: Sequence[Turn], idle: Sequence[Turn]) -> Ratio:
    """The ratio of such percentiles of all rounds."""
    pairs, drawn = list(zip(beside, idle, strict=True)), random.Random(2)

    def resampled() -> float:
        chosen = drawn.choices(pairs, k=len(pairs))
        return percentile(one_in, [one for one, _ in chosen]) / percentile(
            one_in, [other for _, other in chosen]
        )

    value = percentile(one_in, beside) / percentile(one_in, idle)
    return Ratio(value, *_bootstrap(resampled))


def _bootstrap(resampled: Callable[[], float]) -> tuple[float, float]:
    found = sorted(resampled() for _ in range(RESAMPLES))
    outside = int(RESAMPLES * (1 - LEVEL) / 2)
    return found[outside], found[-1 - outside]


def rows(turns: dict[str, list[Turn]]) -> list[str]:
    """The rows of a service."""
    idle = turns["idle"]

    def middle(of: Callable[[Turn], float]) -> float:
        return statistics.median(of(one) for one in idle)

    found = [
        f"| neither | {middle(lambda one: one.p50):.0f} µs | {percentile(100, idle):.0f} µs"
        f" | {percentile(1000, idle):.0f} µs | {middle(lambda one: one.per_second):.0f}/s |"
    ]
    for name, title in TITLES.items():
        beside = turns[name]
        figures = (
            median_ratio(lambda one: one.p50, beside, idle),
            percentile_ratio(100, beside, idle),
            percentile_ratio(1000, beside, idle),
            median_ratio(lambda one: one.per_second, beside, idle),
        )
        found.append(f"| {title} | " + " | ".join(map(str, figures)) + " |")
    return found


def read(file: Path) -> dict[str, dict[str, list[Turn]]]:
    """The turns by service and condition, in the order of rounds."""
    found: dict[str, dict[str, list[Turn]]] = {}
    for line in file.read_text().split("\n"):
        if line.startswith('{"service"'):
            seen = json.loads(line)
            of_service = found.setdefault(seen.pop("service"), {one.name: [] for one in CONDITIONS})
            seen.pop("round")
            of_service[seen.pop("condition")].append(Turn(**seen))
    return found


def main(release: str, date: str, commit: str, file: str) -> None:
    """Prints the document."""
    found = read(Path(file))
    rounds = len(next(iter(found.values()))["idle"])
    print(HEAD.format(release=release, date=date, commit=commit, rounds=rounds))
    services = {one.name: one for one in SERVICES}
    for name, turns in found.items():
        service = services[name]
        print(f"## {service.title}\n\n{service.rate} requests per second.\n")
        print("| beside | p50 | p99 | p99.9 | requests |\n| --- | ---: | ---: | ---: | ---: |")
        print("\n".join(rows(turns)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
