# SPDX-License-Identifier: GPL-2.0
"""The job whose memory is merged: Redis servers and Python interpreters.

All of them run as one ordinary user, because merging stays within a user by default.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from demo import census
from demo.bytecode import mark_bytecode_current
from demo.report import step
from demo.resp import Data, Redis, RedisError, data_set, load_commands

INSTANCES = 6
USER = 1000
FIRST_PORT = 6379
INTERPRETER = Path(__file__).with_name("interpreter.py")
EXPRESSIONS = (
    "fingerprint()",
    "json.dumps([decimal.Decimal(2).sqrt() > 1, 2 ** 100, 'ü'])",
    "xml.etree.ElementTree.fromstring('<a><b>42</b></a>').find('b').text",
    "query('1 + 1')",
)


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
        """The connection, made at its first use."""
        if self.client is None:
            try:
                self.client = Redis(self.port)
            except RedisError as error:
                log = self.log.read_text() if self.log.exists() else "none"
                raise RedisError(f"{error}; its log: {log}") from None
        return self.client


class Interpreter:
    """A Python interpreter with many imported modules that answers over a pipe."""

    def __init__(self, number: int) -> None:
        self.name = f"Python {number + 1}"
        self.process = _start(sys.executable, str(INTERPRETER), pipe=subprocess.PIPE)
        assert self.process.stdin and self.process.stdout
        self._questions, self._answers = self.process.stdin, self.process.stdout
        self.pid = self.process.pid

    def wait(self) -> None:
        """Waits until all modules are imported."""
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


class Job(NamedTuple):
    """All processes of the job, their expected data and their expected answers."""

    servers: list[Server]
    interpreters: list[Interpreter]
    data: Data
    expected: list[str]

    @property
    def pids(self) -> list[int]:
        """The process ids of all of them."""
        servers = [server.pid for server in self.servers]
        return servers + [interpreter.pid for interpreter in self.interpreters]

    def end(self) -> None:
        """Ends all of them."""
        for one in [*self.servers, *self.interpreters]:
            one.process.terminate()
            one.process.wait()


def answers(interpreter: Interpreter) -> list[str]:
    """An interpreter's answers to all expressions."""
    return [interpreter.evaluate(expression) for expression in EXPRESSIONS]


def start_job() -> Job:
    """Starts everything, loads the data, and waits until memory is stable."""
    mark_bytecode_current()
    step(f"starting {INSTANCES} Redis and {INSTANCES} Python")
    servers = [Server(number) for number in range(INSTANCES)]
    interpreters = [Interpreter(number) for number in range(INSTANCES)]
    data = data_set()
    step(f"made 16 MiB of data in {len(data)} keys")
    load(servers, data)
    for interpreter in interpreters:
        interpreter.wait()
    step(f"all {INSTANCES} Python have imported their modules")
    # Asks each interpreter once: later answers then make no new objects of the same kind.
    expected = [answers(interpreter) for interpreter in interpreters]
    return Job(servers, interpreters, data, expected[0])


def load(servers: Sequence[Server], data: Data) -> None:
    """Loads the same data into each Redis."""
    commands = load_commands(data)
    for number, server in enumerate(servers, 1):
        server.connect().run(commands, len(data))
        step(f"loading 16 MiB into {INSTANCES} Redis: {number}/{INSTANCES}")


def bound_of(job: Job) -> census.Bound:
    """Compares all pages of the job."""
    comparison = census.Comparison()
    for number, pid in enumerate(job.pids, 1):
        comparison.add(pid)
        if number % 3 == 0:
            step(f"comparing all pages of {len(job.pids)} processes: {number} done")
    return comparison.bound()
