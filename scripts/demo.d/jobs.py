# SPDX-License-Identifier: GPL-2.0
"""The job whose memory is merged: Redis servers and Python interpreters.

All of them run as one ordinary user, as merging stays within a user by default.
"""

import subprocess
import sys
from pathlib import Path

from resp import Redis

USER = 1000
FIRST_PORT = 6379
INTERPRETER = Path(__file__).with_name("interpreter.py")


def _start(*command: str, **pipes: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, user=USER, group=USER, extra_groups=[], cwd="/tmp", text=True, **pipes
    )


class Server:
    """A Redis server that keeps everything in memory."""

    def __init__(self, number: int) -> None:
        self.port = FIRST_PORT + number
        self.name = f"Redis {self.port}"
        self.process = _start(
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1",
            "--save", "", "--appendonly", "no", "--logfile", f"/tmp/redis-{self.port}.log",
            "--loglevel", "warning",
        )  # fmt: skip
        self.pid = self.process.pid
        self.client: Redis | None = None

    def connect(self) -> Redis:
        """The connection, made when first asked for."""
        if self.client is None:
            self.client = Redis(self.port)
        return self.client


class Interpreter:
    """A Python interpreter that imported much and answers over a pipe."""

    def __init__(self, number: int) -> None:
        self.name = f"Python {number + 1}"
        self.process = _start(
            sys.executable, str(INTERPRETER), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self.process.pid

    def wait(self) -> None:
        """Waits until all is imported."""
        answer = self._read()
        if answer != "ready":
            raise RuntimeError(f"{self.name} did not start: {answer!r}")

    def evaluate(self, expression: str) -> str:
        """The value of an expression."""
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> str:
        return self.process.stdout.readline().strip()
