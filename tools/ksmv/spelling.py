# SPDX-License-Identifier: GPL-2.0
"""Misspelt names: the nearest one that exists."""

import difflib
from collections.abc import Iterable


def hint(word: str, names: Iterable[str], otherwise: str) -> str:
    """Asks for the nearest of these names; if none is near, gives other advice."""
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else otherwise
