# SPDX-License-Identifier: GPL-2.0
"""Runs commands, some at a time, each in a session of its own, which ends as a whole."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shell import PROJECT

# How long programs may take to end by themselves.
END_SECONDS = 10
CHUNK = 1 << 16


@dataclass(frozen=True)
class Job:
    """A command to run."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    # Gets the output and the status, and returns the text that is shown at the end.
    judge: Callable[[bytes, int], object]


class Pool:
    """Runs up to `jobs` commands at a time, and shows the output of each when it has ended; with one
    job, as it comes."""

    def __init__(self, jobs: int) -> None:
        self._free = threading.Semaphore(jobs)
        self._streams = jobs == 1
        self._threads: list[threading.Thread] = []
        # Guards what follows, and keeps the output of commands apart.
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._is_ended = False

    def start(self, job: Job) -> None:
        """Runs a command when it is its turn."""
        self._free.acquire()
        thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def wait(self) -> None:
        """Waits until all have ended."""
        for thread in self._threads:
            thread.join()

    def end(self) -> None:
        """Ends all that still run, with everything that they started."""
        with self._lock:
            self._is_ended = True
            running = list(self._running)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in running:
                _signal_group(process, number)
            _await_groups(running)

    def _run(self, job: Job) -> None:
        start = time.monotonic()
        try:
            if process := self._launch(job):
                with process:
                    output = self._follow(process, job.log)
                self._conclude(job, process, output, round(time.monotonic() - start))
        finally:
            self._free.release()

    def _launch(self, job: Job) -> subprocess.Popen[bytes] | None:
        """Starts a command, unless all are to end."""
        with self._lock:
            if self._is_ended:
                return None
            print(f"== {job.name}")
            process = subprocess.Popen(
                job.command, cwd=PROJECT, env=os.environ | job.environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            self._running.add(process)
            return process

    def _follow(self, process: subprocess.Popen[bytes], log: Path) -> bytes:
        """Keeps the output of a command in the log, and returns it."""
        output = bytearray()
        with log.open("wb") as file:
            while chunk := process.stdout.read1(CHUNK):
                file.write(chunk)
                file.flush()
                output += chunk
                if self._streams:
                    _show(chunk)
        return bytes(output)

    def _conclude(
        self, job: Job, process: subprocess.Popen[bytes], output: bytes, seconds: int
    ) -> None:
        """Judges a command that has ended by itself."""
        with self._lock:
            self._running.discard(process)
            if self._is_ended:
                return
            if not self._streams:
                _show(output)
            # A signal has the status that it has in a shell.
            status = process.returncode
            text = job.judge(output, status if status >= 0 else 128 - status)
            print(f"== {job.name}: {text} in {seconds} s\n")


def _show(output: bytes) -> None:
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


def _signal_group(process: subprocess.Popen[bytes], number: int) -> bool:
    """Sends a signal to all processes of a command's group; returns whether there are any."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _await_groups(processes: list[subprocess.Popen[bytes]]) -> None:
    """Waits until nothing of the commands runs, but not for long."""
    deadline = time.monotonic() + END_SECONDS
    while any([_signal_group(one, 0) for one in processes]) and time.monotonic() < deadline:
        time.sleep(0.1)
