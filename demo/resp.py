# SPDX-License-Identifier: GPL-2.0
"""A small client of Redis, and the data set the demo loads into it.

Speaks RESP, the protocol of Redis, over a socket; commands are sent many at a
time and answered in order.
"""

import random
import socket
import time
from collections.abc import Iterable, Iterator

DATA_SIZE = 16 << 20
SMALLEST = 1000
LARGEST = 12000
KEYS_AT_ONCE = 128
BUFFER = 1 << 18

Data = dict[bytes, bytes]
Value = bytes | None


def data_set(seed: int = 1, size: int = DATA_SIZE) -> Data:
    """Documents of 1 to 12 kB with pseudo-random bytes, the same in each run."""
    source = random.Random(seed)
    data: Data = {}
    left = size
    while left > 0:
        length = min(left, source.randint(SMALLEST, LARGEST))
        data[b"document:%06d" % len(data)] = source.randbytes(length)
        left -= length
    return data


def encode(*words: bytes) -> bytes:
    """One encoded command."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        parts += [b"$%d\r\n" % len(word), word, b"\r\n"]
    return b"".join(parts)


def load_commands(data: Data) -> bytes:
    """The commands that load a data set."""
    return b"".join(encode(b"SET", key, value) for key, value in data.items())


class RedisError(Exception):
    """Redis answered with an error, or did not answer."""


class Redis:
    """A connection to a Redis server on this machine."""

    def __init__(self, port: int, patience: float = 60) -> None:
        self.port = port
        self._socket = _connect(port, patience)
        self._answers = self._socket.makefile("rb", buffering=BUFFER)

    def size(self) -> int:
        """How many keys it has."""
        self._socket.sendall(encode(b"DBSIZE"))
        return self._number(b":")

    def run(self, commands: bytes, count: int) -> None:
        """Sends encoded commands; each must be answered without error."""
        self._socket.sendall(commands)
        for _ in range(count):
            self._head()

    def read_back(self, keys: Iterable[bytes]) -> Iterator[Value]:
        """The values of keys."""
        keys = list(keys)
        for start in range(0, len(keys), KEYS_AT_ONCE):
            self._socket.sendall(encode(b"MGET", *keys[start : start + KEYS_AT_ONCE]))
            for _ in range(self._number(b"*")):
                yield self._value()

    def _head(self) -> tuple[bytes, bytes]:
        """The first line of an answer: its kind and the rest."""
        line = self._answers.readline()
        if not line or line.startswith(b"-"):
            text = line.decode(errors="replace").strip() or "closed"
            raise RedisError(f"the Redis of port {self.port} answers: {text}")
        return line[:1], line[1:-2]

    def _number(self, kind: bytes) -> int:
        found, rest = self._head()
        if found != kind:
            raise RedisError(f"the Redis of port {self.port} answers {found!r} for {kind!r}")
        return int(rest)

    def _value(self) -> Value:
        length = self._number(b"$")
        return None if length < 0 else self._answers.read(length + 2)[:-2]


def _connect(port: int, patience: float) -> socket.socket:
    """Connects, as soon as the server is up."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise RedisError(f"port {port}: no server within {patience} s") from None
            time.sleep(0.1)
