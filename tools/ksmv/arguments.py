# SPDX-License-Identifier: GPL-2.0
"""The arguments of ksmv: its commands and their options."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn, TypeAlias

from ksmv import commands, completion, spelling, text
from ksmv.errors import USAGE, Failure
from ksmv.estimate import DEFAULT_MAX_SHARING, DEFAULT_SAMPLE
from ksmv.policy import DOMAINS, SCOPES, Policy
from ksmv.version import versions

_Group: TypeAlias = "argparse._SubParsersAction[_Parser]"


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


class _Parser(argparse.ArgumentParser):
    """A parser that reports its errors as Failure, like all other errors."""

    def error(self, message: str) -> NoReturn:
        raise Failure(message, " ".join(self.format_usage().split()), status=USAGE)

    def _check_value(self, action: argparse.Action, value: str) -> None:
        """Fails, in argparse's place, unless the value is one of the choices."""
        if action.choices is None or value in action.choices:
            return
        if action.option_strings:
            about, advice = f"{action.option_strings[0]}: '{value}' is not allowed", "allowed: "
            advice += ", ".join(action.choices)
        else:
            about, advice = f"there is no command '{value}'", "ksmv --help lists them all"
        hint = spelling.hint(value, action.choices, advice)
        raise Failure(f"{about}; {hint}", status=USAGE)


class _Versions(argparse.Action):
    """Shows the versions instead of running a command."""

    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        text.say(versions().split("\n"), sys.stdout)
        parser.exit()


def _command(
    group: _Group, name: str, run: Callable[[argparse.Namespace], None], purpose: str
) -> _Parser:
    """Adds a command."""
    description = f"{purpose[0].upper()}{purpose[1:]}."
    command = group.add_parser(name, help=purpose, description=description)
    command.set_defaults(run=run)
    command.add_argument("--json", action="store_true", help="one line of JSON, see ksmv(8)")
    return command


def _add_pid(command: _Parser) -> None:
    pid = command.add_argument("pid", type=_positive, metavar="PID")
    completion.by(pid, completion.pids)


def _add_rows(command: _Parser) -> None:
    command.add_argument(
        "--rows", type=_positive, metavar="N", help="lines of the table (default: all; not of JSON)"
    )


def _add_savers(command: _Parser) -> None:
    command.add_argument(
        "--rows", type=_positive, metavar="N",
        help="also the N processes and cgroups that save most (reads all page tables)",
    )  # fmt: skip


def _add_estimate(group: _Group) -> None:
    guess = _command(
        group, "estimate", commands.show_estimate, "what merging would save, without merging"
    )
    chosen = guess.add_mutually_exclusive_group()
    several = chosen.add_argument("pid", nargs="*", type=_positive, metavar="PID", default=[])
    completion.by(several, completion.more_pids)
    cgroup = chosen.add_argument("--cgroup", metavar="PATH", help="the processes in it and below")
    completion.by(cgroup, completion.cgroups)
    chosen.add_argument("--all", action="store_true", help="all processes (the default)")
    guess.add_argument("--domain", choices=DOMAINS, default=Policy.domain)
    guess.add_argument("--scope", choices=SCOPES, default=Policy.scope)
    guess.add_argument(
        "--max-page-sharing", type=_positive, default=DEFAULT_MAX_SHARING, metavar="N",
        help="as the knob max_page_sharing (default %(default)s)",
    )  # fmt: skip
    size = guess.add_mutually_exclusive_group()
    size.add_argument(
        "--sample", type=_positive, default=DEFAULT_SAMPLE, metavar="N",
        help="contents to remember (default %(default)s); with more, the estimate is a sample's",
    )  # fmt: skip
    size.add_argument("--exact", action="store_true", help="remember all contents")
    _add_rows(guess)


def parser() -> _Parser:
    """Defines the command line."""
    main = _Parser(
        prog="ksmv",
        description="Tells what kernel same-page merging by ksm_v saves, or would save,"
        " and sets its knobs. See ksmv(8).",
    )
    main.add_argument("--version", action=_Versions, help="the versions of ksmv and of the module")
    group = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    state = _command(
        group, "status", commands.show_status, "what is saved, at what cost, and how far it is"
    )
    _add_savers(state)

    top = _command(group, "top", commands.show_top, "the same, again and again")
    top.add_argument("--interval", type=_seconds, default=2, metavar="SECONDS", help="default 2")
    top.add_argument(
        "--count", type=_positive, metavar="N", help="number of times (default: without end)"
    )

    _add_savers(top)

    get = _command(group, "get", commands.show_values, "show a knob or count, or all")
    completion.by(get.add_argument("knob", nargs="?", metavar="KNOB"), completion.files_to_read)

    change = _command(group, "set", commands.set_value, "set a knob, or show what can be set")
    completion.by(change.add_argument("knob", nargs="?", metavar="KNOB"), completion.knobs)
    value = change.add_argument(
        "value", nargs="*", metavar="VALUE", help="words are joined: set merge_now PID START END"
    )
    completion.by(value, completion.values)

    report = _command(
        group, "report", commands.show_report, "how much each process or cgroup saves"
    )
    report.add_argument("--by", choices=("process", "cgroup"), default="process")
    report.add_argument(
        "--why", action="store_true", help="also how much is left alone, and mostly for what reason"
    )
    _add_rows(report)

    export = group.add_parser(
        "metrics", help="the counts as metrics, in OpenMetrics' format",
        description="The counts as metrics, in OpenMetrics' format.",
    )  # fmt: skip
    export.set_defaults(run=commands.show_metrics)
    output = export.add_argument("--output", metavar="FILE", help="replaces this file, at once")
    completion.by(output, completion.paths)
    export.add_argument(
        "--by", choices=("user", "cgroup"),
        help="also what each user or cgroup saves (reads all page tables)",
    )  # fmt: skip

    _add_estimate(group)

    why = _command(group, "why", commands.show_why, "why pages of a process are not merged")
    _add_pid(why)

    who = _command(group, "who", commands.show_sharers, "with whom a process shares pages")
    _add_pid(who)
    _add_rows(who)
    return main
