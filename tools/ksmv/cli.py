# SPDX-License-Identifier: GPL-2.0
"""The command line of ksmv."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import NoReturn, TypeVar

from ksmv import (
    estimate,
    knobs,
    lines,
    pages,
    policy,
    processes,
    records,
    savings,
    screen,
    sharers,
    status,
    text,
)
from ksmv.errors import USAGE, Failure
from ksmv.progress import Progress
from ksmv.records import Record

_Found = TypeVar("_Found")

_INTERRUPTED = 130


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError
    return number


def _seconds(word: str) -> float:
    number = float(word)
    if not 0.1 <= number < 1e6:
        raise argparse.ArgumentTypeError(f"{word}: at least 0.1")
    return number


# argparse's names of invalid values.
_positive.__name__ = "number above 0"
_seconds.__name__ = "number of seconds"


# --- commands ---------------------------------------------------------------


def _answer(
    options: argparse.Namespace,
    found: _Found,
    record: Callable[[_Found], Record],
    shown: Callable[[_Found], Sequence[str]],
) -> None:
    """Prints what was found, for programs or for people."""
    if options.json:
        print(records.to_json(record(found)))
    else:
        text.say(shown(found), sys.stdout)


def _get(options: argparse.Namespace) -> None:
    if options.knob:
        values = {options.knob: knobs.get(options.knob)}
        _answer(options, values, records.values, lambda found: [*found.values()])
    else:
        _answer(options, knobs.read_all(), records.values, lines.values)


def _set(options: argparse.Namespace) -> None:
    knobs.set_value(options.knob, options.value)
    if options.json:
        print(records.to_json(records.values({options.knob: options.value})))


def _status(options: argparse.Namespace) -> None:
    knobs.check_module()
    pages.check_access()
    _answer(options, status.once(), records.status, lines.status)


def _top(options: argparse.Namespace) -> None:
    knobs.check_module()
    pages.check_access()
    for found in islice(status.again(options.interval), options.count):
        if options.json:
            print(records.to_json(records.status(found)), flush=True)
        else:
            screen.show(found)


def _report(options: argparse.Namespace) -> None:
    pages.check_access()
    shown = partial(lines.report, by=options.by, limit=options.rows)
    _answer(options, savings.report(), records.report, shown)


def _estimate(options: argparse.Namespace) -> None:
    pages.check_access()
    rules = policy.Policy(options.scope, options.domain)
    progress = Progress()
    estimator = estimate.Estimator(rules, options.max_page_sharing, progress.tell)
    result = estimate.estimate(_wanted(options), estimator)
    progress.end()
    if options.pid and not result.rows:
        raise Failure(f"process {options.pid[0]}: {result.skipped[0].reason}")
    shown = partial(lines.estimate, policy=rules, limit=options.rows)
    _answer(options, result, partial(records.estimate, policy=rules), shown)


def _wanted(options: argparse.Namespace) -> list[processes.Process]:
    """The processes to estimate: those that are named, or all."""
    if options.pid:
        return [processes.one(pid) for pid in dict.fromkeys(options.pid)]
    if options.cgroup:
        return processes.in_cgroup(options.cgroup)
    return processes.every()


def _who(options: argparse.Namespace) -> None:
    pages.check_access()
    shown = partial(lines.sharing, limit=options.rows)
    _answer(options, sharers.of(options.pid), records.sharing, shown)


# --- arguments --------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser that reports its errors as Failure, like all other errors."""

    def error(self, message: str) -> NoReturn:
        raise Failure(message, " ".join(self.format_usage().split()), status=USAGE)


def parser() -> argparse.ArgumentParser:
    """Defines the command line."""
    main = _Parser(
        prog="ksmv",
        description="Tells what kernel same-page merging by ksm_v saves, or would save,"
        " and sets its knobs. See ksmv(8).",
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _command(commands, "status", _status, "what is saved, by whom, at what cost")

    top = _command(commands, "top", _top, "the same, again and again")
    top.add_argument("--interval", type=_seconds, default=2, metavar="SECONDS", help="default 2")
    top.add_argument("--count", type=_positive, metavar="N", help="number of times (default: without end)")

    get = _command(commands, "get", _get, "show a knob or count, or all")
    get.add_argument("knob", nargs="?", metavar="KNOB")

    change = _command(commands, "set", _set, "set a knob")
    change.add_argument("knob", metavar="KNOB")
    change.add_argument("value", metavar="VALUE")

    report = _command(commands, "report", _report, "how much each process or cgroup saves")
    report.add_argument("--by", choices=("process", "cgroup"), default="process")
    _add_rows(report)

    guess = _command(commands, "estimate", _estimate, "what merging would save, without merging")
    chosen = guess.add_mutually_exclusive_group()
    chosen.add_argument("pid", nargs="*", type=_positive, metavar="PID", default=[])
    chosen.add_argument("--cgroup", metavar="PATH", help="the processes in it and below")
    chosen.add_argument("--all", action="store_true", help="all processes (the default)")
    guess.add_argument("--domain", choices=policy.DOMAINS, default=policy.Policy.domain)
    guess.add_argument("--scope", choices=policy.SCOPES, default=policy.Policy.scope)
    guess.add_argument(
        "--max-page-sharing", type=_positive, default=estimate.DEFAULT_MAX_SHARING, metavar="N",
        help="as the knob max_page_sharing (default %(default)s)",
    )  # fmt: skip
    _add_rows(guess)

    who = _command(commands, "who", _who, "with whom a process shares pages")
    who.add_argument("pid", type=_positive, metavar="PID")
    _add_rows(who)
    return main


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], None],
    purpose: str,
) -> argparse.ArgumentParser:
    """Adds a command."""
    command = commands.add_parser(name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.")
    command.set_defaults(run=run)
    command.add_argument("--json", action="store_true", help="one line of JSON, see ksmv(8)")
    return command


def _add_rows(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--rows", type=_positive, metavar="N", help="lines of the table (default: all; not of JSON)"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command, by default the one of the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = parser().parse_args(arguments)
        options.run(options)
        sys.stdout.flush()
    except Failure as failure:
        return _tell(failure, "--json" in arguments)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader closed the pipe; nobody reads what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _tell(Failure(str(error)), "--json" in arguments)
    return 0


def _tell(failure: Failure, as_json: bool) -> int:
    """Prints what failed; returns the exit status."""
    if as_json:
        print(records.to_json(records.failure(failure)))
    else:
        advice = [f"  {one}" for one in failure.advice]
        text.say([f"ksmv: {failure}", *advice], sys.stderr)
    return failure.status
