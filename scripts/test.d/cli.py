# SPDX-License-Identifier: GPL-2.0
"""usage: scripts/test [--jobs N] [--update-names] [SUITE]...

Runs all suites (except tools, judges, stress, workloads, dkms and prebuilt) or those named, and ends with
the line "N passed, N failed, N skipped". The status is 0 only if no test and no suite
failed, and the tests of each suite are those of its list in tests/names.

  --jobs N how many suites run at a time (default: 3, with one processor 1). Each shows
           its output when it has ended; with 1, as it comes
  host     cargo test of the crates that need no kernel, coverage of the engine
  lint     formatting, clippy, shellcheck, licenses, the project's own rules
  guest    all guest suites, each on the kernels that the table names
  debug    all guest suites on the debug kernel, the slow ones too
  uml      the suites that User-Mode Linux can run, on User-Mode Linux
  tools    programs made for mainline's KSM, see Documentation/tools.md
  judges   the kernel's own tests of memory management, see Documentation/judges.md
  stress   stress-ng and trinity, STRESS_SECONDS (default: 300) each, see Documentation/judges.md
  workloads
           servers beside the module and beside ksmd, see scripts/workloads
  --update-names
           write the lists of the suites that run without a failure
  --list   list all suites
  --help   this text

A guest suite also has its own name, and @KERNEL runs it on that kernel, which is
set up if needed: merge, merge@debug.

The output of each suite is in the log directory of the cache, as test-SUITE.log, and
its results are beside it, as test-SUITE.ktap.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

import shell
from errors import Failure
from pool import Pool
from report import summary
from run import Run
from suites import all_targets, targets

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Parser(argparse.ArgumentParser):
    """Reports errors as the scripts do."""

    def error(self, message: str) -> None:
        raise Failure(message, "see scripts/test --help")


def jobs(text: str) -> int:
    """The number of jobs."""
    if not text.isdecimal() or int(text) == 0:
        raise Failure(f"--jobs '{text}' is not a number above 0")
    return int(text)


def default_jobs() -> int:
    """Guests wait part of the time: three keep two processors busy."""
    return 3 if len(os.sched_getaffinity(0)) > 1 else 1


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options and the names of suites."""
    parser = Parser(add_help=False, allow_abbrev=False)
    for option in ("--help", "--list", "--update-names"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("--jobs", type=jobs, default=default_jobs())
    parser.add_argument("suites", nargs="*")
    return parser.parse_intermixed_args(arguments)


class Interrupted(BaseException):
    """A signal ends the run."""


def _interrupt(number: int, _: object) -> None:
    for one in ENDING:
        signal.signal(one, signal.SIG_IGN)
    raise Interrupted(number)


def catch_signals() -> None:
    """Makes signals end the run, except those that the caller ignores, as nohup does."""
    for one in ENDING:
        if signal.getsignal(one) != signal.SIG_IGN:
            signal.signal(one, _interrupt)


def run(wanted: argparse.Namespace) -> int:
    """Runs the suites; returns the exit status."""
    if shell.holds("in_root"):
        raise Failure("scripts/test runs on the host", "leave the root first")
    pool = Pool(wanted.jobs)
    suites = Run(targets(wanted.suites), pool, wanted.update_names)
    catch_signals()
    try:
        suites.start_all()
        pool.wait()
        return 0 if summary(suites.results) else 1
    except Interrupted as interrupted:
        # Ends also programs that prepare a suite.
        os.killpg(0, signal.SIGTERM)
        return 128 + interrupted.args[0]
    finally:
        pool.end()


def main() -> int:
    """Runs the command line; returns the exit status."""
    sys.stdout.reconfigure(line_buffering=True, errors="replace")
    try:
        wanted = parse(sys.argv[1:])
        if wanted.help:
            print(__doc__, end="")
        elif wanted.list:
            print(*all_targets(), sep="\n")
        else:
            return run(wanted)
    except Failure as failure:
        print(f"test: error: {failure}", *(f"  {one}" for one in failure.advice), sep="\n", file=sys.stderr)
        return 1
    return 0
