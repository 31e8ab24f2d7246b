# SPDX-License-Identifier: GPL-2.0
"""One run: prepares, starts and judges the suites, and keeps their logs and results."""

from collections.abc import Sequence
from dataclasses import replace

import ktap
import names
import results
import shell
from errors import Failure
from pool import Job, Pool
from prepare import objection, prepare
from results import Result
from suites import Target

NOT_PREPARED = Result(0, 1, 0, "not run, what it needs could not be made")


class Run:
    """The suites of one run and their results, by name."""

    def __init__(self, targets: Sequence[Target], pool: Pool, updates_names: bool) -> None:
        self._targets = targets
        self._pool = pool
        self._updates_names = updates_names
        self._logs = shell.directory("LOG")
        # Each clone has its own result files: another clone may run the same suite.
        self._build = shell.directory("BUILD")
        self.results: dict[str, Result] = {}
        for target in targets:
            self._give(target, results.NOT_ENDED)

    def start_all(self) -> None:
        """Prepares and starts one suite after the other, when jobs are free."""
        for target in self._targets:
            if why := objection(target):
                self._give(target, Result(0, 0, 1))
                print(f"== {target}: skipped, {why}\n")
            elif not prepare(target):
                self._give(target, NOT_PREPARED)
            else:
                self._start(target)

    def _start(self, target: Target) -> None:
        try:
            command = target.command()
        except Failure as failure:
            self._give(target, Result(0, 1, 0, f"not run, {failure}"))
            return
        environment = {"KSM_V_KERNEL": target.kernel} if target.kernel else {}
        log = self._logs / f"test-{target}.log"

        def judge(output: bytes, status: int) -> Result:
            return self._judge(target, output, status, str(log))

        self._pool.start(Job(str(target), command, environment, log, judge))

    def _judge(self, target: Target, output: bytes, status: int, log: str) -> Result:
        """Gives the suite its result."""
        suite = target.suite.name
        lines = results.lines_of(output)
        tests = results.tests_of(lines)
        found = [test.name for test in tests]
        differences = [] if self._updates_names else names.objections(suite, found)
        result = results.judge(tests, status, differences, log)
        if result.why:
            result = replace(result, complaints=results.complaints_of(lines))
        elif self._updates_names:
            names.write(suite, found)
        text = ktap.text_of(tests, names.missing(suite, found), result.why)
        (self._logs / f"test-{target}.ktap").write_text(text, encoding="utf-8")
        self._give(target, result)
        return result

    def _give(self, target: Target, result: Result) -> None:
        """Keeps a result."""
        self.results[str(target)] = result
        (self._build / f"test-{target}.result").write_text(result.line(), encoding="utf-8")
