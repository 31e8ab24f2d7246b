# SPDX-License-Identifier: GPL-2.0
"""Checks that the data of no process was harmed, by reading and by changing it."""

import hashlib
from collections.abc import Iterable, Sequence

from demo import proc
from demo.jobs import INSTANCES, Job, Server, answers
from demo.report import claim
from demo.resp import Data, Value, encode

CHANGED_KEYS = 200


def checksum(values: Iterable[Value]) -> str:
    """A checksum of values in order; a missing value changes it."""
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        digest.update(b"none" if value is None else b"%d:" % len(value))
        digest.update(value or b"")
    return digest.hexdigest()


def check_servers(servers: Sequence[Server], data: Data, what: str) -> None:
    """Reads everything back from each Redis."""
    expected = checksum(data.values())
    for server in servers:
        client = server.connect()
        found = checksum(client.read_back(data))
        size = client.size()
        claim(
            found == expected and size == len(data),
            f"{server.name}: {size} keys read back, checksum {found}: {what}",
        )


def check_interpreters(job: Job, when: str) -> None:
    """Lets each interpreter compute its answers."""
    right = [i for i in job.interpreters if answers(i) == job.expected]
    claim(
        len(right) == INSTANCES,
        f"{len(right)} of {INSTANCES} Python answer as before, {when};"
        f" checksum of their code {job.expected[0]}",
    )


def changed(data: Data) -> tuple[Data, bytes]:
    """The data with some values changed, and the commands that change them.

    Half are overwritten in place, on the merged page, and half are replaced.
    """
    new = dict(data)
    commands = []
    step_size = len(data) // CHANGED_KEYS
    for number, key in enumerate(list(data)[::step_size][:CHANGED_KEYS]):
        value = data[key]
        new[key] = bytes(byte ^ 0xFF for byte in value)
        if number % 2:
            commands.append(encode(b"SETRANGE", key, b"0", new[key]))
        else:
            commands.append(encode(b"SET", key, new[key]))
    return new, b"".join(commands)


def change_one(job: Job) -> Data:
    """Changes the data of the first Redis; returns its new expected data."""
    writer = job.servers[0]
    new, commands = changed(job.data)
    faults = proc.minor_faults(writer.pid)
    merged = proc.summed("KSM", [writer.pid])
    writer.connect().run(commands, CHANGED_KEYS)
    faults = proc.minor_faults(writer.pid) - faults
    copied = (merged - proc.summed("KSM", [writer.pid])) // 4
    claim(
        faults >= copied > 0,
        f"{writer.name}: {CHANGED_KEYS} values changed, {faults} page faults,"
        f" {copied} merged pages became its own",
    )
    return new
