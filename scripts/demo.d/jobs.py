# SPDX-License-Identifier: GPL-2.0
"""The job whose memory is merged: Redis servers and Python interpreters.

All of them run as one ordinary user, as merging stays within a user by default.
"""

import subprocess
import sys
from pathlib import Path

from resp import Redis, RedisError

USER = 1000
FIRST_PORT = 6379
INTERPRETER = Path(__file__).with_name("interpreter.py")


def _start(*command: str, pipe: int | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        user=USER,
        group=USER,
        extra_groups=[],
        cwd="/tmp",
        text=True,
        stdin=pipe,
        stdout=pipe,
    )


class Server:
    """A Redis server that keeps everything in memory."""

    def __init__(self, number: int) -> None:
        self.port = FIRST_PORT + number
        self.log = Path(f"/tmp/redis-{self.port}.log")
        self.name = f"Redis {self.port}"
        self.process = _start(
            "redis-server", "--port", str(self.port), "--bind", "127.0.0.1",
            "--save", "", "--appendonly", "no", "--logfile", str(self.log),
            "--loglevel", "warning",
        )  # fmt: skip
        self.pid = self.process.pid
        self.client: Redis | None = None

    def connect(self) -> Redis:
        """The connection, made when first asked for."""
        if self.client is None:
            try:
                self.client = Redis(self.port)
            except RedisError as error:
                log = self.log.read_text() if self.log.exists() else "none"
                raise RedisError(f"{error}; its log: {log}") from None
        return self.client


class Interpreter:
    """A Python interpreter that imported much and answers over a pipe."""

    def __init__(self, number: int) -> None:
        self.name = f"Python {number + 1}"
        self.process = _start(sys.executable, str(INTERPRETER), pipe=subprocess.PIPE)
        assert self.process.stdin and self.process.stdout
        self._questions, self._answers = self.process.stdin, self.process.stdout
        self.pid = self.process.pid

    def wait(self) -> None:
        """Waits until all is imported."""
        answer = self._read()
        if answer != "ready":
            raise RuntimeError(f"{self.name} did not start: {answer!r}")

    def evaluate(self, expression: str) -> str:
        """The value of an expression."""
        self._questions.write(expression + "\n")
        self._questions.flush()
        return self._read()

    def _read(self) -> str:
        return self._answers.readline().strip()
