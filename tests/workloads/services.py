# SPDX-License-Identifier: GPL-2.0
"""Servers that are asked at a fixed rate, to see what they feel of a scanner."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import configs
from servers import PLACE, Running, as_user, ask_redis, start_postgresql, wait_port

# As in tests/bench/src/load.rs.
REDIS_KEYS = 100_000
REDIS_PORT, JAVA_PORT = 8500, 8501
# Scale of pgbench: 100,000 rows each.
SCALE = 2


@dataclass(frozen=True)
class Answers:
    """What a client saw for a while."""

    per_second: float
    micros: list[int]
    """The time of each answer, from when its request was due."""


@dataclass(frozen=True)
class Service:
    """A server and its client."""

    name: str
    title: str
    rate: int
    """Requests per second: about a quarter of what it can do in a guest without KVM."""
    seconds: int
    """How long to ask in a turn."""
    begin: Callable[[Running], None]
    ask: Callable[[int, float], Answers]
    """Asks at this rate (0: as fast as it answers) for this many seconds."""


def _load(protocol: str, port: int) -> Callable[[int, float], Answers]:
    def ask(rate: int, seconds: float) -> Answers:
        command = ("./ksm_v_load", protocol, str(port), str(rate), str(seconds))
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        per_second, *micros = found.stdout.split()
        return Answers(float(per_second), [int(one) for one in micros])

    return ask


def _begin_redis(run: Running) -> None:
    run.start(*as_user("redis", "redis-server", "--port", str(REDIS_PORT), "--save", ""))
    wait_port(REDIS_PORT)
    commands = (configs.REDIS.format(number=number) for number in range(REDIS_KEYS))
    ask_redis(REDIS_PORT, "".join(commands), REDIS_KEYS)


def _pgbench(*options: str) -> tuple[str, ...]:
    program = next(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    return as_user("postgres", str(program), "-h", str(PLACE / "postgresql"), *options, "postgres")


def _begin_postgresql(run: Running) -> None:
    start_postgresql(run)
    subprocess.run(_pgbench("-i", "-q", "-s", str(SCALE)), check=True, stderr=subprocess.DEVNULL)


def _ask_postgresql(rate: int, seconds: float) -> Answers:
    """With a rate, pgbench counts times from when a transaction was due (pgbench(1))."""
    log = PLACE / "postgresql/load"
    for old in log.parent.glob("load.*"):
        old.unlink()
    options = ["-n", "-S", "-T", str(max(1, round(seconds))), "-l", f"--log-prefix={log}"]
    if rate:
        options.append(f"--rate={rate}")
    found = subprocess.run(_pgbench(*options), check=True, stdout=subprocess.PIPE, text=True)
    [tps] = [line.split()[2] for line in found.stdout.split("\n") if line.startswith("tps = ")]
    [written] = log.parent.glob("load.*")
    lines = written.read_text().strip().split("\n")
    return Answers(float(tps), [int(line.split()[2]) for line in lines])


def _begin_java(run: Running) -> None:
    run.start("java", "-Xms64m", "-Xmx64m", "-XX:+UseSerialGC", "-XX:+AlwaysPreTouch",
              "-m", "jdk.httpserver", "-b", "127.0.0.1", "-p", str(JAVA_PORT),
              "-d", "/usr/share/doc/base-files", "-o", "none")  # fmt: skip
    wait_port(JAVA_PORT)
    # The compiler of the JVM comes to rest.
    _load("http", JAVA_PORT)(0, 20)


SERVICES = (
    Service("redis", f"Redis with {REDIS_KEYS:,} keys, one request in ten writes", 150, 3,
            _begin_redis, _load("redis", REDIS_PORT)),
    Service("postgresql", f"PostgreSQL, `pgbench -S` of scale {SCALE}", 30, 4,
            _begin_postgresql, _ask_postgresql),
    Service("java", "a JVM's HTTP server with a heap of 64 MiB", 5, 4,
            _begin_java, _load("http", JAVA_PORT)),
)  # fmt: skip
