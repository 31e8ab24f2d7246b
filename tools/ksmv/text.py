# SPDX-License-Identifier: GPL-2.0
"""Text that any user may choose: names of processes, cgroups and files.

The kernel accepts nearly all bytes in names. Reading here loses no byte and ends lines only
at newlines; text is escaped here before people see it.
"""

import os
from collections.abc import Iterable
from typing import TextIO

# Invisible characters that Unicode counts as letters, marks or symbols: joiners, fillers,
# variation selectors, the blank Braille pattern.
_INVISIBLE = frozenset(
    map(
        chr,
        (
            0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0,
            *range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0),
        ),
    )
)  # fmt: skip
# A byte that is not UTF-8 is read as this value plus its own.
_LONE_BYTE = 0xDC00


def decode(content: bytes) -> str:
    """The text of a kernel file; keeps bytes that are not UTF-8."""
    return content.decode("utf-8", "surrogateescape")


def lines_of(path: "str | os.PathLike[str]") -> list[str]:
    """The lines of a kernel file. Only newlines end a line: Python's own splitting of
    lines would split names at other characters, too."""
    with open(path, "rb") as file:
        return decode(file.read().removesuffix(b"\n")).split("\n")


def printable(text: str) -> str:
    """The text, with control characters and invisible characters escaped as Python does."""
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() and character not in _INVISIBLE:
        return character
    code = ord(character)
    if _LONE_BYTE + 0x80 <= code <= _LONE_BYTE + 0xFF:
        return f"\\x{code - _LONE_BYTE:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def exchangeable(text: str) -> str:
    """The text for programs: U+FFFD replaces each byte that is not UTF-8. All else is kept."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def say(lines: Iterable[str], file: TextIO, before: str = "", end: str = "\n") -> None:
    """Prints lines for people, after `before`, which is not escaped. All output of ksmv for
    people goes through here."""
    text = "\n".join(map(printable, lines))
    encoding = file.encoding or "utf-8"
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    put(before + text, file, end)


class UnwritableError(Exception):
    """The output can't be written: its reader is gone, or its disk is full."""

    def __init__(self, file: TextIO, error: OSError) -> None:
        super().__init__(f"{file.name}: {error.strerror}".replace("<stdout>", "standard output"))
        self.is_pipe = isinstance(error, BrokenPipeError)


def put(text: str, file: TextIO, end: str = "\n") -> None:
    """Writes text as it is. All output of ksmv goes through here."""
    try:
        print(text, end=end, file=file, flush=True)
    except OSError as error:
        # What is still buffered can't be written when Python ends, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        raise UnwritableError(file, error) from error
