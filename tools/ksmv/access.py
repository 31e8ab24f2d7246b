# SPDX-License-Identifier: GPL-2.0
"""Whether the kernel lets ksmv see the frames of memory."""

from ksmv.errors import Failure, not_permitted
from ksmv.pages import AddressSpace


def check() -> None:
    """Fails unless the kernel shows frame numbers and page flags."""
    try:
        with open("/proc/kpageflags", "rb"), open("/proc/kpagecount", "rb"):
            pass
    except FileNotFoundError:
        raise Failure(
            "the kernel has no /proc/kpageflags", "it needs CONFIG_PROC_PAGE_MONITOR"
        ) from None
    except PermissionError:
        raise not_permitted("not permitted to see what is on the frames of memory") from None
    own = AddressSpace("/proc/self")
    if all(page.frame == 0 for area in own.areas() for page in own.pages(area)):
        raise not_permitted("the kernel hides frame numbers")
