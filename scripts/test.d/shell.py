# SPDX-License-Identifier: GPL-2.0
"""Calls functions of scripts/lib.sh, and programs that prepare the suites."""

import os
import subprocess
from pathlib import Path

from errors import Failure

PROJECT = Path(__file__).resolve().parents[2]


def _bash(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a script that may use scripts/lib.sh."""
    command = ["bash", "-c", f". scripts/lib.sh; {script}", "scripts/test", *arguments]
    return subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False)


def lines(function: str, *arguments: str) -> list[str]:
    """The lines that a function prints."""
    done = _bash('"$@"', function, *arguments)
    if done.returncode:
        raise Failure(f"{function} of scripts/lib.sh failed")
    return done.stdout.split("\n")[:-1]


def line(function: str, *arguments: str) -> str:
    """The line that a function prints."""
    return lines(function, *arguments)[0]


def holds(function: str, *arguments: str) -> bool:
    """Whether a function returns success."""
    return _bash('"$@"', function, *arguments).returncode == 0


def directory(variable: str) -> Path:
    """The directory that a variable of scripts/lib.sh names; makes it."""
    done = _bash('mkdir -p "${!1}" && printf %s "${!1}"', variable)
    if done.returncode:
        raise Failure(f"there is no directory {variable}")
    return Path(done.stdout)


def succeeds(*command: str) -> bool:
    """Runs a program of the project; returns whether it succeeded."""
    return subprocess.run(command, cwd=PROJECT, check=False).returncode == 0


def succeeds_logged(log: Path, *command: str, **environment: str) -> bool:
    """As `succeeds`, with more variables and the output in a file."""
    with log.open("wb") as file:
        done = subprocess.run(
            command, cwd=PROJECT, env=os.environ | environment, stdout=file,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    return done.returncode == 0
