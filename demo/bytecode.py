# SPDX-License-Identifier: GPL-2.0
"""Makes Python accept its library's bytecode in a guest into which both were copied."""

import importlib.util
import os
import time
from pathlib import Path


def mark_bytecode_current() -> None:
    """Gives the library's sources the modification times that their bytecode records.

    Copying into the guest changed these times, and compiling again takes long.
    """
    for root, _, names in os.walk(os.path.dirname(os.__file__)):
        for name in names:
            if name.endswith(".pyc"):
                _mark_source(Path(root, name))


def _mark_source(bytecode: Path) -> None:
    with bytecode.open("rb") as file:
        head = file.read(12)
    try:
        source = importlib.util.source_from_cache(str(bytecode))
        os.utime(source, (time.time(), int.from_bytes(head[8:12], "little")))
    except (ValueError, FileNotFoundError):
        pass
