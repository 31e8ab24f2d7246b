# SPDX-License-Identifier: GPL-2.0
"""Runs ksmv: a command, and the exit status."""

import os
import sys
from collections.abc import Sequence

from ksmv import arguments, records, text
from ksmv.errors import Failure

_INTERRUPTED = 130


def main(words: Sequence[str]) -> int:
    """Runs the command of these words; returns the exit status."""
    try:
        options = arguments.parser().parse_args(words)
        options.run(options)
        sys.stdout.flush()
    except Failure as failure:
        return _tell(failure, "--json" in words)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader closed the pipe; nobody reads what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _tell(Failure(str(error)), "--json" in words)
    return 0


def _tell(failure: Failure, as_json: bool) -> int:
    """Prints what failed; returns the exit status."""
    if as_json:
        print(records.to_json(records.failure(failure)))
    else:
        advice = [f"  {one}" for one in failure.advice]
        text.say([f"ksmv: {failure}", *advice], sys.stderr)
    return failure.status
