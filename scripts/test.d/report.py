# SPDX-License-Identifier: GPL-2.0
"""The end of the output: failures, and the sums."""

from results import Result


def summary(results: dict[str, Result]) -> bool:
    """Prints what failed, and the sums; returns whether all passed."""
    for name, result in results.items():
        if result.why:
            print(f"FAILED {name}: {result.why}")
            for line in result.complaints:
                print(f"    {line}")
    parts = [(one.passed, one.failed, one.skipped) for one in results.values()]
    sums = Result(*map(sum, zip(*parts)))
    print(sums)
    return sums.failed == 0
