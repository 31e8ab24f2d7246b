# SPDX-License-Identifier: GPL-2.0
"""Makes what suites need: kernels, the module, the programs of guests."""

import functools
import re
from pathlib import Path

import shell
from suites import PREVIOUS, Suite, Target

_ERROR = re.compile(r"(error|warning)|.*(error:|\*\*\*)")
_CONTEXT = 12
_SHOWN = 60


def errors_of(log: Path) -> list[str]:
    """The first errors of a build, each with the lines that follow it."""
    shown, left = [], 0
    for line in log.read_text(encoding="utf-8", errors="replace").split("\n"):
        left = _CONTEXT + 1 if _ERROR.match(line) else left - 1
        if left > 0:
            shown.append(line)
    return shown[:_SHOWN]


def _build(what: str, name: str, kernel: str) -> bool:
    """Builds a part for a kernel; returns whether that worked."""
    log = shell.directory("LOG") / f"test-build-{name}.log"
    print(f"building the {what} ...")
    if shell.succeeds_logged(log, "scripts/build", name, KSM_V_KERNEL=kernel):
        return True
    print(*errors_of(log), f"the {what} could not be built, the whole log is {log}", sep="\n")
    return False


@functools.cache
def _kernel(kernel: str) -> bool:
    """Makes a kernel, and the module and the programs for its guests, once."""
    return (
        shell.succeeds("scripts/setup", "--kernel", kernel)
        and _build(f"module for the kernel {kernel}", kernel, kernel)
        and _build("guest programs", "guest", shell.line("programs_for", kernel))
    )


def _others(suite: Suite, kernel: str) -> bool:
    """Makes the other parts that a suite needs."""
    if not suite.tools:
        return True
    return shell.succeeds("scripts/setup", "--kernel", kernel, "--tools") and (
        not suite.build or _build("kernel's own tests", suite.build, kernel)
    )


def _is_gone(kernel: str) -> bool:
    """Whether the mirror no longer has a kernel, which is not set up either."""
    return (
        kernel == PREVIOUS
        and not Path(shell.line("kernel_dir", kernel), "done").exists()
        and shell.succeeds("scripts/setup")
        and not shell.succeeds("scripts/root", "--kernel", kernel, "scripts/kernel/stock", "--offered")
    )


def objection(target: Target) -> str:
    """Why a suite is to be skipped on its kernel; empty if it is not."""
    if not target.kernel:
        return ""
    if target.suite.x86 and shell.line("architecture_of", target.kernel) != "amd64":
        return "its guests have programs of x86 or are such"
    if _is_gone(target.kernel):
        return "there is no such kernel any more"
    return ""


def prepare(target: Target) -> bool:
    """Makes all that a suite needs; returns whether that worked."""
    if not target.kernel:
        return True
    return _kernel(target.kernel) and _others(target.suite, target.kernel)
