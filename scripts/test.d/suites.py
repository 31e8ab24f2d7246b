# SPDX-License-Identifier: GPL-2.0
"""The table of suites, and the names that choose from it."""

import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

import shell
from errors import Failure
from options import (
    ATTACK_PROGRAM, BASH, CONTENDED_CPU, DEVICE, DISK, HOLD, INJECT, JUDGES, KSMV, KVM, LIVEPATCH,
    POISON, SETTINGS, SOAK, SOAK_PROGRAM, STRESS, TESTS, TOOLS, TWO_NODES, WORKLOADS, ZRAM, Option, expand,
)  # fmt: skip

# Debian's kernel of the series before the newest: its suites are skipped when the mirror no
# longer has it.
PREVIOUS = "stock-7.2"

# A suite is ended, as hung, when it takes this many times its time on an idle machine. Tests have
# no other deadlines that a busy machine could miss.
PATIENCE = 5

# A suite may take this many times longer on a kernel with KASAN.
KASAN_SLOWNESS = 4

# Seconds that stress-ng and trinity run, each.
STRESS_SECONDS = int(os.environ.get("STRESS_SECONDS") or 300)

# Soak suites that finish within minutes on the debug kernel.
SHORT_SOAK = "life_cycle address_space pins fault_handlers"


@dataclass(frozen=True)
class Suite:
    """A suite that runs in a guest, or on this host."""

    name: str
    # The kernels it runs on by default, the first one also if only the suite is named; none if it
    # needs no kernel.
    kernels: str
    # The command in the guest; on this host if there is no `seconds`.
    command: str
    # Options of scripts/vm for its guest.
    options: tuple[Option, ...] = ()
    # How long it may take on an idle machine. A suite on this host has no limit of its own: it
    # boots guests itself, if any.
    seconds: int | None = None
    # Runs only if named.
    by_name: bool = False
    # Needs programs of the root in the guest, or x86.
    x86: bool = False
    # Can run on User-Mode Linux: it needs no x86 page tables, no failing or offline memory, and no
    # precise clock.
    uml: bool = False
    # Needs the root of scripts/setup --tools.
    tools: bool = False
    # The part of scripts/build that it needs besides the module and the guest programs.
    build: str = ""


def _tests(
    name: str, kernels: str, seconds: int, arguments: str, *options: Option, **more: object
) -> Suite:
    """A suite of the guest test program."""
    command = f"./ksm_v_guest_tests {arguments}"
    return Suite(name, kernels, command, (TESTS, *options), seconds, **more)


SERIES = f"stock {PREVIOUS}"
ALL = f"{SERIES} debug"

SUITES = (
    Suite("host", "", "sh -ec 'scripts/root -- cargo test --workspace --locked --offline; scripts/coverage'"),
    Suite("lint", "", "scripts/root -- scripts/lint"),
    # Tests of the guest test program: name, kernels, seconds, arguments, options of the guest.
    _tests("control", "stock", 600, "control"),
    _tests("compat", "stock", 600, "compat", TWO_NODES),
    _tests("merge", ALL, 600, "merge", uml=True),
    _tests("scalar", "stock", 300, "scalar", "--append clearcpuid=avx2", x86=True),
    _tests("cow", "stock", 600, "cow", ZRAM, uml=True),
    _tests("unmerge", "stock", 600, "unmerge", uml=True),
    _tests("unmerge_short", "debug", 300, "unmerge waits"),
    _tests("reload", "stock", 600, "reload", uml=True),
    _tests("movable", SERIES, 900, "movable", SOAK, DEVICE, DISK, LIVEPATCH),
    _tests("movable_short", "debug", 900, "movable move", SOAK, DEVICE, LIVEPATCH),
    _tests("left_alone", "stock", 600, "left_alone"),
    _tests("tracing", SERIES, 600, "tracing"),
    _tests("survive", "stock", 900, "survive", ZRAM),
    _tests("security", "stock", 900, "security"),
    _tests("flood", "stock", 600, "flood", "--icount"),
    _tests("lockdown", "stock", 300, "lockdown"),
    _tests("integrity", "stock", 300, "locked", "--append lockdown=integrity"),
    _tests("confidential", "stock", 300, "locked", "--append lockdown=confidentiality"),
    _tests("fork", "stock debug", 300, "fork", HOLD),
    _tests("device", ALL, 300, "device", DEVICE),
    _tests("inject", "stock debug", 300, "inject", CONTENDED_CPU, INJECT, x86=True),
    _tests("kvm", "stock", 600, "kvm", KVM, x86=True),
    # Other programs in guests: name, kernels, command, options of the guest, seconds.
    Suite("soak", "stock", "./ksm_v_soak --seconds 3", (SOAK_PROGRAM, SOAK), 900),
    Suite("soak_short", "debug", f"./ksm_v_soak --seconds 3 {SHORT_SOAK}", (SOAK_PROGRAM, SOAK), 900),
    # One attack in each case; scripts/attack has a million trials.
    Suite("attack", "stock", "./ksm_v_attack --trials 1", (ATTACK_PROGRAM,), 300),
    Suite("settings", "stock", "./settings-test", (SETTINGS,), 300, x86=True),
    Suite("packages", "stock", "tests/packages/run deb", x86=True),
    # Builds the trees of two kernels.
    Suite("dkms", "stock", "tests/packages/run dkms", by_name=True, x86=True),
    Suite("prebuilt", "stock", "tests/packages/run prebuilt", by_name=True, x86=True),
    # These have a root of their own.
    _tests("tools", "stock", 900, "tools", TOOLS, by_name=True, x86=True, tools=True, build="selftests"),
    Suite("judges", "stock debug", "bash run", (JUDGES, TWO_NODES, BASH, ZRAM, POISON), 1800,
          by_name=True, x86=True, tools=True, build="judges"),
    Suite("stress", "debug", f"bash stress {STRESS_SECONDS} stress-ng trinity",
          ("--memory 3G", STRESS, ZRAM), STRESS_SECONDS * 2 + 600, by_name=True, x86=True, tools=True),
    Suite("workloads", "stock", "python3 -B workloads/run.py", ("--memory 3500M", WORKLOADS), 7200,
          by_name=True, x86=True, tools=True),
    Suite("ksmv", "stock", "python3 tool/guest.py", (KSMV,), 900, x86=True),
    Suite("vm", "stock", "scripts/guest/selftest", x86=True),
    Suite("checkers", "debug", "scripts/guest/checkers", x86=True),
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A suite on a kernel; on none if the suite needs none."""

    suite: Suite
    kernel: str = ""

    def __str__(self) -> str:
        return f"{self.suite.name}@{self.kernel}" if self.kernel else self.suite.name

    def seconds(self) -> int:
        """How long its guest may run."""
        slowness = KASAN_SLOWNESS if shell.holds("kernel_has", self.kernel, "KASAN") else 1
        return self.suite.seconds * PATIENCE * slowness

    def command(self) -> list[str]:
        """The command to run on this host."""
        words = shlex.split(self.suite.command)
        if self.suite.seconds is None:
            return words
        options = expand(self.suite.options, self.kernel)
        timeout = str(self.seconds())
        return ["scripts/vm", "--kernel", self.kernel, "--timeout", timeout, *options, "--", *words]


def guest_targets(kernel: str = "") -> list[Target]:
    """All suites that need a kernel, on that kernel or on those of the table."""
    return [
        Target(suite, one)
        for suite in SUITES
        if suite.kernels and not suite.by_name
        for one in (kernel or suite.kernels).split()
    ]


def all_targets() -> list[Target]:
    """All suites that run without being named."""
    alone = [Target(suite) for suite in SUITES if not suite.kernels]
    return alone + guest_targets()


def _named(name: str) -> list[Target]:
    """The targets of a name of the command line; none if it is unknown."""
    match name:
        case "guest":
            return guest_targets()
        case "debug":
            return guest_targets("debug")
        case "uml":
            return [Target(suite, "uml") for suite in SUITES if suite.uml]
    plain, at, kernel = name.partition("@")
    suite = next((one for one in SUITES if one.name == plain), None)
    if not suite:
        return []
    if not at:
        return [Target(suite, *suite.kernels.split()[:1])]
    known = suite.kernels and shell.holds("is_kernel", kernel)
    return [Target(suite, kernel)] if known else []


def targets(names: Iterable[str]) -> list[Target]:
    """The targets of the names of the command line, each once; without names, all."""
    chosen: dict[Target, None] = {}
    for name in names:
        found = _named(name)
        if not found:
            known = " ".join(map(str, all_targets()))
            raise Failure(f"there is no suite '{name}'", f"known: guest debug uml {known}")
        chosen |= dict.fromkeys(found)
    return list(chosen) or all_targets()
