# SPDX-License-Identifier: GPL-2.0
"""The versions of ksmv and of the loaded module."""

from pathlib import Path

# Beside the installed package; in a checkout, at its top.
_PLACES = [Path(__file__).resolve().parents[number] / "VERSION" for number in (1, 2)]
_MODULE = Path("/sys/module/ksm_v/version")


def versions() -> str:
    """The versions, one in each line. They differ if only one of the two was updated."""
    own = next(place for place in _PLACES if place.exists()).read_text(encoding="ascii").strip()
    try:
        module = _MODULE.read_text(encoding="ascii").strip()
    except OSError:
        module = "(not loaded)"
    return f"ksmv {own}\nksm_v {module}"
