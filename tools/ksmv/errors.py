# SPDX-License-Identifier: GPL-2.0
"""Errors that end ksmv, and its exit statuses."""

import errno
import os

FAILED = 1
USAGE = 2
NO_MODULE = 3
NOT_PERMITTED = 4


class Failure(Exception):
    """A failed operation: the message, the advice, and the exit status."""

    def __init__(self, message: str, *advice: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.advice = advice
        self.status = status


def reason_of(error: OSError) -> str:
    """Why a process could not be read, in a word or two."""
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return "exited"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "denied"
    return os.strerror(error.errno) if error.errno else str(error)
