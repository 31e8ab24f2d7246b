# SPDX-License-Identifier: GPL-2.0
"""Runs ksmv: a command, and the exit status."""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence

from ksmv import arguments, completion, records, text
from ksmv.errors import INTERRUPTED, Failure


def main(words: Sequence[str]) -> int:
    """Runs the command of these words; returns the exit status."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    if completion.is_asked():
        return completion.answer(arguments.parser())
    if sys.stdout is None:
        return _tell(Failure("standard output is closed"), False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = _run(words)
        text.put("", sys.stdout, end="")
    except KeyboardInterrupt:
        status = INTERRUPTED
    except text.UnwritableError as error:
        if error.is_pipe:
            # The reader has seen enough.
            return 0
        # Not even as JSON: that goes to the standard output.
        status = _tell(Failure(str(error)), False)
    return status


def _run(words: Sequence[str]) -> int:
    """Runs the command; returns the exit status."""
    as_json = "--json" in words
    try:
        options = arguments.parser().parse_args(words)
        options.run(options)
    except SystemExit:
        # The help was printed.
        return 0
    except Failure as failure:
        return _tell(failure, as_json)
    except OSError as error:
        return _tell(Failure(str(error)), as_json)
    return 0


def _tell(failure: Failure, as_json: bool) -> int:
    """Prints what failed; returns the exit status."""
    if as_json:
        text.put(records.to_json(records.failure(failure)), sys.stdout)
    else:
        advice = [f"  {one}" for one in failure.advice]
        with contextlib.suppress(text.UnwritableError):
            text.say([f"ksmv: {failure}", *advice], sys.stderr)
    return failure.status
