# SPDX-License-Identifier: GPL-2.0
"""Prints the figures of run.py as a document.

usage: table.py RELEASE DATE COMMIT JSON
"""

import json
import sys

HEAD = """<!-- SPDX-License-Identifier: GPL-2.0 -->
<!-- Written by scripts/workloads --save. -->
# What servers save

Linux {release}, {date}, commit {commit}: a guest with 2 vCPUs of QEMU without KVM and 3.5 GiB,
huge pages `always`. MiB, once a scanner saves no more from pass to pass. khugepaged works beside the scanners, and
is stopped with them before the memory is looked at.

- possible: what a perfect merger saves in one domain (`ksmv estimate --exact --domain global`)
- allowed: what a perfect merger saves by the module's default rules (`ksmv estimate --exact`)
- ksm_v: with its default rules; nothing is registered, no program was changed
- left: of "allowed", what ksm_v has not saved
- ksmd: all processes are registered (`PR_SET_MEMORY_MERGE`); it merges across users
- by PSS: the fall of the processes' proportional set size, instead of the scanner's counts

| workload | possible | allowed | ksm_v | by PSS | left | ksmd | by PSS |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""
HUGE = """
## Huge pages

By default a huge page is split if 64 of its 512 parts can be merged. After that, `huge_min_parts` was
set to 1, and the scanner went on.

| workload | saved | pages split | saved with 1 | pages split |
| --- | ---: | ---: | ---: | ---: |
"""
COLUMNS = ("possible", "allowed", "module", "module_pss", "left", "ksmd", "ksmd_pss")


def main(release: str, date: str, commit: str, results: str) -> None:
    """Prints the document."""
    print(HEAD.format(release=release, date=date, commit=commit), end="")
    for one in json.loads(results):
        print(f"| {one['title']} | " + " | ".join(f"{one[name]:.1f}" for name in COLUMNS) + " |")
    print(HUGE, end="")
    for one in json.loads(results):
        print(f"| {one['title']} | {one['module']:.1f} | {one['split']} |"
              f" {one['module_for_one']:.1f} | {one['split_for_one']} |")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
