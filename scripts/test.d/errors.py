# SPDX-License-Identifier: GPL-2.0
"""The error that ends the runner, or a suite before it starts."""


class Failure(Exception):
    """A failed operation: the message and the advice."""

    def __init__(self, message: str, *advice: str) -> None:
        super().__init__(message)
        self.advice = advice
