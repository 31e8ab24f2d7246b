# SPDX-License-Identifier: GPL-2.0
"""Options of scripts/vm for the guests of suites.

An option is a string of words, or a function that returns the words for a kernel. Functions are
called only for a suite that runs: some need the kernel's modules.
"""

from collections.abc import Callable, Sequence

import shell

Option = str | Callable[[str], list[str]]


def expand(options: Sequence[Option], kernel: str) -> list[str]:
    """The words of options, for a guest of that kernel."""
    parts = [one.split() if isinstance(one, str) else one(kernel) for one in options]
    return [word for part in parts for word in part]


def program(name: str) -> Option:
    """Copies a guest program of the project."""
    return lambda kernel: ["--copy", f"root:{shell.line('guest_programs', kernel)}/{name}"]


def provoking(*names: str) -> Option:
    """Copies modules of tests/provoke."""
    return lambda kernel: [
        word for name in names for word in ("--copy", f"root:/build/{kernel}/ksm_v_{name}.ko")
    ]


def library(function: str, *arguments: str) -> Option:
    """Options that a function of scripts/lib.sh prints, given the kernel."""
    return lambda kernel: shell.lines(function, kernel, *arguments)


TESTS = program("ksm_v_guest_tests")
ATTACK_PROGRAM = program("ksm_v_attack")
SOAK_PROGRAM = program("ksm_v_soak")

SOAK = library("soak_options")
DISK = library("disk_options")
KSMV = library("ksmv_options")
KVM = library("kvm_options")
STRESS = library("stress_options")
WORKLOADS = library("workloads_options")
# Modules for swap space, and the module that heals poisoned pages.
ZRAM = library("zram_options")
POISON = library("modules_of", "hwpoison-inject")

DEVICE = provoking("device", "slow_device")
HOLD = provoking("hold_fork", "hold_exec")
LIVEPATCH = provoking("livepatch")
INJECT = provoking("fail_copy", "fail_frame", "contend")

# The CPU flag "hypervisor" is off: a guest that sees it, without KVM's paravirtual spinlocks, has
# spinlocks that do not show who waits. Five-level page tables (la57) are off: an interrupt while the
# kernel detects CPU features met KASAN's checks for four levels, and the debug kernel complained
# before init.
CONTENDED_CPU = "--cpu max,-hypervisor,-la57"

TWO_NODES = "--append numa=fake=2"
BASH = "--copy root:/usr/bin/bash:/usr/bin/bash"

# Scripts that apply the settings at boot and unload the module, and their tests.
SETTINGS = (
    "--copy root:/usr/bin/dash:/usr/bin/dash --copy scripts/settings --copy scripts/unload"
    " --copy package/ksm-veridian.conf"
    " --copy tests/packages/harness.sh --copy tests/packages/settings:/vm/settings-test"
)

# A guest with programs made for mainline's KSM, and with the kernel's own tests of KSM, which need
# two nodes and writes to write-protected memory (by /proc/PID/mem).
TOOLS = (
    "--tools --memory 2G --append numa=fake=2 --append proc_mem.force_override=always"
    " --copy root:/build/selftests:/run/selftests"
    " --copy Documentation/ksm_v-alerts.yaml --copy tests/tool/alerts.yaml"
)

# The kernel's own tests of memory management, and the table that explains differences.
JUDGES = (
    "--memory 2G --copy root:/build/judges:/judges --copy tests/judges/run"
    " --copy tests/judges/programs --copy Documentation/judges.md"
)
