# SPDX-License-Identifier: GPL-2.0
"""The tests in a suite's output, and the result of the suite."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

PASSED, FAILED, SKIPPED = "ok", "FAILED", "ignored"

_TEST = re.compile(r"test (?P<name>.+?) +\.\.\. (?P<outcome>ok|FAILED|ignored)\b[,:]? ?(?P<note>.*)")
# A test whose own output follows on the line; then its outcome has a line of its own.
_BEGUN = re.compile(r"test (?P<name>.+?) +\.\.\. ")
_ENDED = re.compile(r"(?P<outcome>ok|FAILED|ignored)(, (?P<note>.*))?$")
# cargo's headings of test programs.
_PROGRAM = re.compile(r" +Running (?P<unit>unittests )?\S+ \(\S+/(?P<program>\w+)-[0-9a-f]+\)")
_EXAMPLES = re.compile(r" +Doc-tests (?P<program>\w+)")
_END = "test result: "
# An example of the documentation is named by its line.
_LINE = re.compile(r" \(line \d+\)")

COMPLAINTS = 24
LAST_LINES = 8
_COMPLAINT = re.compile(r"vm: |  \| |.*\.\.\. FAILED")


@dataclass(frozen=True)
class Test:
    """A test that ended, or was skipped: its name, outcome, and what follows in its line."""

    name: str
    outcome: str
    note: str = ""


@dataclass(frozen=True)
class Result:
    """The result of a suite: numbers of tests, and why it failed."""

    passed: int
    failed: int
    skipped: int
    why: str = ""
    complaints: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"

    def line(self) -> str:
        """The line of a result file."""
        return f"{self.passed} {self.failed} {self.skipped} {self.why}".rstrip() + "\n"


# A suite that leaves no result counts as failed.
NOT_ENDED = Result(0, 1, 0, "not ended")


def lines_of(output: bytes) -> list[str]:
    """The lines of an output; a guest's end in \\r\\n."""
    return [one.rstrip("\r") for one in output.decode(errors="replace").split("\n")]


def _heading(line: str) -> str | None:
    """The prefix of the tests of a program of cargo; none at its end."""
    if line.startswith(_END):
        return ""
    if found := _PROGRAM.match(line):
        return f"{found['unit'] or ''}{found['program']}::"
    if found := _EXAMPLES.match(line):
        return f"examples {found['program']}::"
    return None


def _ended_tests(lines: Iterable[str]) -> Iterable[Test]:
    """The tests; several may have one name."""
    prefix = begun = ""
    for line in lines:
        heading = _heading(line)
        if heading is not None:
            prefix, begun = heading, ""
        elif found := _TEST.match(line) or (begun and _ENDED.match(line)):
            name = found.groupdict().get("name") or begun
            yield Test(prefix + _LINE.sub("", name), found["outcome"], found["note"] or "")
            begun = ""
        elif found := _BEGUN.match(line):
            begun = found["name"]


def tests_of(lines: Iterable[str]) -> list[Test]:
    """The tests that ran or were skipped. A name that comes again gets a number."""
    seen: Counter[str] = Counter()
    tests = []
    for test in _ended_tests(lines):
        seen[test.name] += 1
        number = seen[test.name]
        tests.append(test if number == 1 else replace(test, name=f"{test.name} ({number})"))
    return tests


def complaints_of(lines: Iterable[str]) -> tuple[str, ...]:
    """The failures in an output, or its end."""
    lines = list(lines)
    found, detailed = [], False
    for line in lines:
        detailed = bool(line) if detailed else line.startswith("---- ") and line.endswith(" ----")
        if detailed or _COMPLAINT.match(line):
            found.append(line)
    return tuple(found[:COMPLAINTS] or [one for one in lines if one][-LAST_LINES:])


def judge(tests: list[Test], status: int, objections: list[str], log: str) -> Result:
    """The result of a suite that ended with a status; `objections` are to the names of its tests."""
    count = Counter(test.outcome for test in tests)
    why = ""
    if count[FAILED]:
        why = f"{count[FAILED]} tests failed, see {log}"
    elif status:
        why = f"ended with status {status}, see {log}"
    elif not tests:
        why = f"ran no test, see {log}"
    else:
        why = "; ".join(objections)
    # A failure outside of the tests counts, too.
    failed = count[FAILED] or int(bool(why))
    return Result(count[PASSED], failed, count[SKIPPED], why)
