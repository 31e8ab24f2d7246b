# SPDX-License-Identifier: GPL-2.0
"""Results in the Kernel Test Anything Protocol: the kernel's Documentation/dev-tools/ktap.rst."""

from collections.abc import Iterable

from results import FAILED, SKIPPED, Test


def _line(test: Test) -> str:
    """The result line of a test, after its number."""
    # Only a directive may follow a hash sign.
    name = test.name.replace("#", "_")
    return f"{name} # SKIP {test.note}".rstrip() if test.outcome == SKIPPED else name


def text_of(tests: Iterable[Test], missing: Iterable[str], why: str) -> str:
    """The whole text: the tests, those that are missing, and why the suite failed."""
    results = [("not ok" if one.outcome == FAILED else "ok", _line(one)) for one in tests]
    results += [("not ok", f"{_line(Test(name, FAILED))} # ERROR missing") for name in missing]
    lines = [f"{result} {number} {text}" for number, (result, text) in enumerate(results, 1)]
    end = [f"# {why}"] if why else []
    return "\n".join(["KTAP version 1", f"1..{len(lines)}", *lines, *end, ""])
