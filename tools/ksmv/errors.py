# SPDX-License-Identifier: GPL-2.0
"""Errors that end ksmv, and its exit statuses."""

FAILED = 1
USAGE = 2
NO_MODULE = 3
NOT_PERMITTED = 4
INTERRUPTED = 130


class Failure(Exception):
    """A failed operation: the message, the advice, and the exit status."""

    def __init__(self, message: str, *advice: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.advice = advice
        self.status = status


def not_permitted(message: str) -> Failure:
    """The failure of an operation that only an administrator may do."""
    return Failure(
        message,
        "run ksmv as root (CAP_SYS_ADMIN in the initial user namespace), say with sudo",
        status=NOT_PERMITTED,
    )
