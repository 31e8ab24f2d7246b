# SPDX-License-Identifier: GPL-2.0
"""The demo's output: steps, figures and claims, as plain lines.

Every line is written at once and never overwritten, so that a terminal and a log
show the same. A claim is a sentence that either held or did not; the demo
succeeds only if all did.
"""

import os
import time

_start = time.monotonic()
_failed = 0
_made = 0


def own_output() -> int:
    """A descriptor of standard output; from now on, the demo's lines go to standard error."""
    output = os.dup(1)
    os.dup2(2, 1)
    return output


def line(text: str = "") -> None:
    """Writes one line."""
    print(text, flush=True)


def step(text: str) -> None:
    """Prints the next step, with the time."""
    line(f"[{time.monotonic() - _start:4.0f} s] {text}")


def heading(text: str) -> None:
    """Begins a part of the demo."""
    line()
    line(f"== {text}")


def claim(held: bool, text: str) -> None:
    """Prints whether a claim held; a claim that did not makes the demo fail."""
    global _failed, _made
    _made += 1
    _failed += not held
    line(f"  {'ok    ' if held else 'FAILED'}  {text}")


def verdict() -> int:
    """Ends the report; returns the exit status."""
    line()
    if _failed or not _made:
        line(f"demo: FAILED: {_failed} of {_made} claims did not hold")
        return 1
    line(f"demo: ok: all {_made} claims held")
    return 0
