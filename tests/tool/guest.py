# SPDX-License-Identifier: GPL-2.0
"""Tests of ksmv with the real module and real processes, in a guest, as root.

Run in the directory of ksm_v.ko and ksmv: python3 tool/guest.py [TEST]... Ends
with a line like that of Rust's test harness.
"""

import contextlib
import fcntl
import io
import json
import mmap
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import unittest
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from demo import proc  # noqa: E402
from demo.bytecode import mark_bytecode_current  # noqa: E402
from demo.proc import KNOBS  # noqa: E402
from ksmv import cli, knobs, module, pages, processes, text  # noqa: E402
from member import ODD_FILE, ODD_NAME  # noqa: E402

TOOL = HERE.parent / "ksmv" / "ksmv"
CGROUPS = Path("/sys/fs/cgroup")
ALICE, BOB, LONER = 1000, 1001, 1002
QUIET_PASSES = 4
PATIENCE_SECONDS = 240


# --- the tool, the module, the processes ------------------------------------


def ksmv(*arguments: object, status: int = 0) -> str:
    """Runs the tool in this process, which is quick; as `run_ksmv`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            found = cli.main([str(one) for one in arguments])
        except SystemExit as exit_of_argparse:
            found = exit_of_argparse.code
    return _checked(arguments, status, found, out.getvalue(), err.getvalue())


def run_ksmv(*arguments: object, status: int = 0, user: int = 0, wrapper: tuple = ()) -> str:
    """Runs the tool as a user does; returns standard output, or standard error if it must fail
    with a status and a message."""
    command = [*wrapper, str(TOOL), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, user=user)
    return _checked(command, status, done.returncode, done.stdout, done.stderr)


def _checked(command: object, wanted: int, found: int, out: str, err: str) -> str:
    if found != wanted:
        raise AssertionError(f"{command}: status {found}, not {wanted}: {out}{err}")
    return err or out if wanted else out


def ksmv_json(*arguments: object) -> dict:
    """The tool's JSON output."""
    return json.loads(ksmv(*arguments, "--json"))


def load() -> None:
    """Loads the module anew."""
    unload()
    proc.load_module()


def unload() -> None:
    """Unmerges everything and unloads the module, if it is loaded."""
    if KNOBS.exists():
        (KNOBS / "run").write_text("2")
        subprocess.run(["rmmod", "ksm_v"], check=True)


def changed() -> dict[str, str]:
    """The settings in force that differ from their defaults."""
    return module.in_force(module.read_all()).changed


def owner(user: int) -> dict[str, int]:
    """The owner of a user's domain; the group has the same number."""
    return {"uid": user, "gid": user}


def merge_all() -> None:
    """Merges until several passes find nothing more, and stops the scanner."""
    for name, value in (("scan_rate", 20000), ("sleep_ms", 1), ("promote_after", 1)):
        (KNOBS / name).write_text(str(value))
    (KNOBS / "max_interval").write_text("1")
    (KNOBS / "run").write_text("1")
    deadline = time.monotonic() + PATIENCE_SECONDS
    most, since = -1, 0
    while time.monotonic() < deadline:
        now, passes = proc.saved_pages(), proc.knob("full_scans")
        if now != most:
            most, since = now, passes
        elif passes >= since + QUIET_PASSES:
            (KNOBS / "run").write_text("0")
            return
        time.sleep(0.1)
    raise AssertionError(f"still merging after {PATIENCE_SECONDS} s")


class Member:
    """A process that runs member.py; its memory is ready after the constructor."""

    def __init__(self, *areas: str, user: int = ALICE, program: str = sys.executable) -> None:
        self._process = subprocess.Popen(
            [program, "-I", "-S", str(HERE / "member.py"), *areas],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=user, group=user, extra_groups=[],
        )  # fmt: skip
        self.pid = self._process.pid
        if self._process.stdout.readline() != b"ready\n":
            raise AssertionError(f"{areas} is not in place")

    def end(self) -> None:
        """Ends it, if it is still running."""
        if self._process.poll() is None:
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def children(self) -> list[int]:
        """Its children."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(one) for one in children.split()]

    def child(self) -> int:
        """Its only child."""
        [child] = self.children()
        return child


class Case(unittest.TestCase):
    """A test with processes; loads the module anew for each test, unless it says otherwise."""

    loaded = True

    def setUp(self) -> None:
        load() if self.loaded else unload()

    def start(self, *areas: str, user: int = ALICE, program: str = sys.executable) -> Member:
        """Starts a process that ends with the test."""
        member = Member(*areas, user=user, program=program)
        self.addCleanup(member.end)
        return member

    def assert_fails(self, status: int, said: str, *arguments: object) -> None:
        """Expects that the tool ends with this status and this message."""
        self.assertIn(said, ksmv(*arguments, status=status))


def row_of(answer: dict, pid: int) -> dict:
    """The row of a process; a row of zeroes if it has none."""
    rows = [row for row in answer["processes"] if row["pid"] == pid]
    return rows[0] if rows else dict.fromkeys(("saved_pages", "merged_pages", "zero_pages"), 0)


# --- without the module -----------------------------------------------------


class WithoutModule(Case):
    """Commands that need the module say so, all others work."""

    loaded = False

    def test_tells_that_the_module_is_absent(self) -> None:
        for command in (["status"], ["top"], ["get"], ["get", "run"], ["set", "run", "1"]):
            self.assert_fails(3, "ksm_v is not loaded", *command)
            self.assert_fails(3, "modprobe ksm_v", *command)
            told = json.loads(ksmv(*command, "--json", status=3))
            self.assertIn("ksm_v is not loaded", told["error"])
            self.assertEqual(told["advice"], ["load it: modprobe ksm_v"])
            self.assertEqual(told["exit_status"], 3)

    def test_estimate_of_known_contents(self) -> None:
        # 2 + 3 pages a: 4 frames saved. 4 + 5 zero pages: 9 saved. 3 + 2 own pages: none saved.
        one = self.start("2*a,4*zero,3*own:registered")
        other = self.start("3*a,5*zero,2*own:registered")
        found = ksmv_json("estimate", one.pid, other.pid, "--scope", "registered")
        self.assertEqual(found["candidate_frames"], 9 + 10)
        self.assertEqual(found["distinct_contents"], 1 + 5)
        self.assertEqual(found["zero_frames"], 9)
        self.assertEqual(found["savable_pages"], 4 + 9)
        self.assertEqual(found["savable_bytes"], 13 * pages.PAGE)
        self.assertEqual(row_of(found, one.pid)["candidate_pages"], 9)
        self.assertEqual(row_of(found, one.pid)["savable_pages"], 4 + 2 * 4 / 5)
        self.assertEqual(row_of(found, other.pid)["savable_pages"], 5 + round(3 * 4 / 5, 3))

    def test_estimate_keeps_domains_apart(self) -> None:
        pids = [self.start("5*a:registered", user=user).pid for user in (ALICE, ALICE, BOB)]
        wanted = ["estimate", *pids, "--scope", "registered"]
        for domain, savable in (("user", 9 + 4), ("process", 12), ("cgroup", 14), ("global", 14)):
            found = ksmv_json(*wanted, "--domain", domain)
            self.assertEqual((domain, found["savable_pages"]), (domain, savable))
            total = sum(one["savable_pages"] for one in found["domains"])
            self.assertEqual((domain, total), (domain, savable))
        self.assertEqual(ksmv_json(*wanted), ksmv_json(*wanted, "--domain", "user") | {
            "seconds": mock.ANY})  # fmt: skip

    def test_estimate_of_each_domain(self) -> None:
        first, second = self.start("5*a,2*zero:registered"), self.start("5*a:registered")
        third = self.start("4*a,1*own:registered", user=BOB)
        wanted = ["estimate", first.pid, second.pid, third.pid, "--scope", "registered"]
        alice = {"processes": 2, "candidate_frames": 12, "distinct_contents": 1, "zero_frames": 2}
        bob = {"processes": 1, "candidate_frames": 5, "distinct_contents": 2, "zero_frames": 0}
        alice |= {"savable_pages": 11, "savable_bytes": 11 * pages.PAGE}
        bob |= {"savable_pages": 3, "savable_bytes": 3 * pages.PAGE}
        found = ksmv_json(*wanted)["domains"]
        self.assertEqual(found, [owner(ALICE) | alice, owner(BOB) | bob])
        self.assertRegex(
            ksmv(*wanted),
            rf" uid:gid\n +11 +0\.0 +12 +2 +{ALICE}:{ALICE}\n +3 +0\.0 +5 +1 +{BOB}:{BOB}\n$",
        )
        for domain, name in (("process", "pid"), ("cgroup", "cgroup"), ("global", None)):
            found = ksmv_json(*wanted, "--domain", domain)
            for one in found["domains"]:
                same = [row for row in found["processes"] if not name or row[name] == one[name]]
                self.assertEqual(one["processes"], len(same))

    def test_estimate_counts_a_frame_once(self) -> None:
        forked = self.start("6*a,2*zero:registered", "fork")
        found = ksmv_json("estimate", forked.pid, forked.child(), "--scope", "registered")
        self.assertEqual(found["candidate_frames"], 8)
        self.assertEqual(found["savable_pages"], 5 + 2)
        self.assertEqual([row["savable_pages"] for row in found["processes"]], [3.5, 3.5])

    def test_estimate_counts_an_address_space_once(self) -> None:
        cloned = self.start("6*a:registered", "clone")
        found = ksmv_json("estimate", "--all", "--scope", "registered")
        rows = [row for row in found["processes"] if row["pid"] in (cloned.pid, cloned.child())]
        self.assertEqual([row["pid"] for row in rows], [cloned.pid])
        self.assertEqual(found["savable_pages"], 5)

    def test_estimate_sees_what_threads_keep(self) -> None:
        leaderless = self.start("6*a:registered", "leaderless")
        found = ksmv_json("estimate", leaderless.pid, "--scope", "registered")
        self.assertEqual(found["savable_pages"], 5)

    def test_estimate_leaves_alone_what_the_module_does(self) -> None:
        plain = self.start("10*zero")
        base = ksmv_json("estimate", plain.pid)
        self.assertEqual(base["left_alone_pages"].get("locked"), None)
        for option, reason in (("locked", "locked"), ("dontdump", "not_dumped")):
            found = ksmv_json("estimate", self.start(f"10*zero:{option}").pid)
            self.assertEqual(found["left_alone_pages"][reason], 10)
            self.assertLess(found["zero_frames"], base["zero_frames"] - 5)
            registered = ksmv_json("estimate", self.start(f"10*zero:{option}:registered").pid)
            self.assertEqual(registered["left_alone_pages"].get(reason), None)

    def test_estimate_leaves_undumpable_processes_alone(self) -> None:
        for user in (ALICE, 0):
            hidden = self.start("10*zero", "7*zero:registered", "undumpable", user=user)
            found = ksmv_json("estimate", hidden.pid)
            self.assertEqual(found["candidate_frames"], 7)
            self.assertGreaterEqual(found["left_alone_pages"]["not_dumpable"], 10)

    def test_estimate_of_a_cgroup(self) -> None:
        for name in ("ksmv", "ksmv/below", "ksmv-other"):
            (CGROUPS / name).mkdir(exist_ok=True)
        for name in ("ksmv", "ksmv/below", "ksmv-other"):
            member = self.start("4*a:registered")
            (CGROUPS / name / "cgroup.procs").write_text(str(member.pid))
        for path in ("ksmv", "/ksmv", "/sys/fs/cgroup/ksmv/"):
            found = ksmv_json("estimate", "--cgroup", path, "--scope", "registered")
            self.assertEqual(found["savable_pages"], 7)
            self.assertEqual({row["cgroup"] for row in found["processes"]}, {"/ksmv", "/ksmv/below"})
        self.assert_fails(1, "there is no cgroup '/none'", "estimate", "--cgroup", "none")

    def test_estimate_knows_the_sharing_limit(self) -> None:
        member = self.start("10*a:registered")
        wanted = ["estimate", member.pid, "--scope", "registered", "--max-page-sharing"]
        self.assertEqual(ksmv_json(*wanted, 4)["savable_pages"], 7)
        self.assertEqual(ksmv_json(*wanted, 10)["savable_pages"], 9)

    def test_names_what_is_no_process(self) -> None:
        for command in ("estimate", "who"):
            self.assert_fails(1, "there is no process 999999", command, 999999)
            self.assert_fails(1, "process 2 has no memory", command, 2)
            self.assert_fails(2, "invalid number above 0 value: 'x'", command, "x")

    def test_copes_with_processes_that_exit(self) -> None:
        gone, left = self.start("1*a"), self.start("1*a")
        found = [processes.one(member.pid) for member in (gone, left)]
        gone.end()
        with mock.patch("ksmv.processes.every", return_value=found):
            report = ksmv_json("report")
            guess = ksmv_json("estimate")
        for answer in (report, guess):
            self.assertEqual(answer["skipped"], [{"pid": gone.pid, "reason": "exited"}])
        self.assertEqual([row["pid"] for row in guess["processes"]], [left.pid])

    def test_copes_with_processes_that_deny_it(self) -> None:
        member = self.start("1*a")
        without_ptrace = ("setpriv", "--bounding-set", "-sys_ptrace")
        said = run_ksmv("estimate", member.pid, status=1, wrapper=without_ptrace)
        self.assertIn(f"process {member.pid}: denied", said)

    def test_tells_what_the_kernel_hides(self) -> None:
        unprivileged = ("setpriv", "--bounding-set", "-sys_admin")
        for command in (["report"], ["estimate"], ["who", 1]):
            self.assertIn(
                "hides frame numbers", run_ksmv(*command, status=4, wrapper=unprivileged)
            )
            self.assertIn("run ksmv as root", run_ksmv(*command, status=4, user=ALICE))

    def test_names_that_a_terminal_obeys(self) -> None:
        cgroup = CGROUPS / os.fsdecode(b"ksmv\x1b[2J\r0::\xff")
        cgroup.mkdir(exist_ok=True)
        odd, plain = self.start("3*a:registered", "odd"), self.start("3*a:registered")
        (cgroup / "cgroup.procs").write_text(str(odd.pid))
        found = processes.one(odd.pid)
        self.assertEqual(found.name, text.decode(ODD_NAME))
        self.assertEqual(found.cgroup, f"/{cgroup.name}")
        self.assertEqual((found.uid, processes.one(plain.pid).name), (ALICE, "python3"))
        wanted = ["estimate", odd.pid, plain.pid, "--domain", "cgroup"]
        answer = ksmv_json(*wanted)["processes"][0]
        self.assertEqual(answer["name"], ODD_NAME.decode("utf-8", "replace"))
        self.assertEqual(answer["cgroup"], "/ksmv\x1b[2J\r0::\ufffd")
        said = ksmv(*wanted)
        self.assertIn(r"\x1b[2Ja)\x0d1\x0b\x0a" + "\\" + r"\x9b\xff -I -S", said)
        self.assertIn(r"/ksmv\x1b[2J\x0d0::\xff" + "\n", said)
        for line in said.split("\n"):
            self.assertEqual(line, text.printable(line))
        of_cgroup = ksmv_json("estimate", "--cgroup", cgroup.name, "--scope", "registered")
        self.assertEqual([row["pid"] for row in of_cgroup["processes"]], [odd.pid])

    def test_names_of_files_are_no_areas(self) -> None:
        odd = self.start("3*a:registered", "odd")
        self.addCleanup(os.unlink, ODD_FILE)
        found = ksmv_json("estimate", odd.pid, "--scope", "registered")
        self.assertEqual((found["candidate_frames"], found["savable_pages"]), (3, 2))
        maps = Path(f"/proc/{odd.pid}/maps").read_bytes()
        self.assertIn(ODD_FILE, maps)
        areas = list(pages.AddressSpace(f"/proc/{odd.pid}").areas())
        # The mapping above the end of user space (vsyscall) does not count.
        self.assertEqual(len(areas), maps.count(b"\n") - maps.count(b"[vsyscall]"))

    def test_pagemap_scan_finds_all_pages(self) -> None:
        space = pages.AddressSpace(f"/proc/{self.start('9*a,9*zero', '3*own').pid}")

        def seen() -> list[pages.Page]:
            return [page for area in space.areas() for page in space.pages(area)]

        scanned = seen()
        with mock.patch("fcntl.ioctl", side_effect=OSError(25, "ENOTTY")):
            self.assertEqual(seen(), scanned)
        self.assertGreater(len(scanned), 21)


# --- reasons ----------------------------------------------------------------

# A program with this attribute has CAP_NET_BIND_SERVICE.
CAPABLE = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)


def reasons(pid: int) -> dict[str, tuple[int, str]]:
    """The pages and the cure of each reason why pages of a process are not merged."""
    return {one["reason"]: (one["pages"], one["cure"]) for one in ksmv_json("why", pid)["reasons"]}


class Why(Case):
    """ksmv why, without the module: what /proc tells."""

    loaded = False

    def program(self, mode: int, attribute: bytes = b"") -> str:
        """A copy of Python with this mode; with this capability, if any."""
        place = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, place)
        os.chmod(place, 0o755)
        path = shutil.copy(os.path.realpath(sys.executable), place)
        os.chmod(path, mode)
        if attribute:
            os.setxattr(path, "security.capability", attribute)
        return path

    def assert_reason(self, member: Member, reason: str, least: int, cure: str) -> None:
        """Expects that so many pages or a few more are left alone, with this cure."""
        found = reasons(member.pid)
        self.assertIn(reason, found)
        self.assertGreaterEqual(found[reason][0], least)
        self.assertIn(cure, found[reason][1])

    def test_areas_that_are_left_alone(self) -> None:
        for option, reason in (
            ("locked", "locked"), ("dontdump", "not_dumped"), ("wipeonfork", "wipe_on_fork"),
            ("dontfork", "not_forked"),
        ):  # fmt: skip
            found = reasons(self.start(f"40*a:{option}").pid)
            self.assertEqual((reason, found[reason][0]), (reason, 40))
            self.assertIn("MemoryKSM=yes", found[reason][1])

    def test_who_is_not_dumpable_and_by_what(self) -> None:
        worker = self.start("40*a", f"user={ALICE}", user=0)
        self.assert_reason(worker, "not_dumpable_changed_ids", 40, "MemoryKSM=yes")
        hidden = self.start("40*a", "undumpable")
        self.assert_reason(hidden, "not_dumpable_made_itself_undumpable", 40, "MemoryKSM=yes")
        unreadable = self.program(0o711)
        self.assert_reason(
            self.start("40*a", program=unreadable),
            "not_dumpable_unreadable_program", 40, f"chmod o+r {unreadable}",
        )  # fmt: skip

    def test_who_got_privileges_by_an_exec(self) -> None:
        for mode, attribute, kind in ((0o4755, b"", "set-ID"), (0o755, CAPABLE, "file-capability")):
            program = self.program(mode, attribute)
            member = self.start("40*a", f"user={ALICE}", program=program)
            self.assert_reason(member, "not_dumpable_secure_exec", 40, "none, by design")
            self.assertIn(f"({program} is a {kind} program)", ksmv("why", member.pid))

    def test_registration_is_no_cure_for_a_privileged_exec(self) -> None:
        program = self.program(0o4755)
        member = self.start("40*a:registered", f"user={ALICE}", program=program)
        self.assert_reason(member, "not_dumpable_secure_exec", 40, "none, by design")

    def test_who_acts_as_several_users(self) -> None:
        program = self.program(0o4755)
        member = self.start("40*a", program=program)
        self.assert_reason(member, "several_ids", 40, "User=")

    def test_shared_memory(self) -> None:
        member = self.start("100*zero,60*a,40*own:memfd")
        self.assert_reason(member, "shared", 200, "MAP_PRIVATE")
        found = ksmv_json("why", member.pid)
        self.assertEqual(found["shared_memory"], [{"name": "memfd:member", "pages": 200}])
        self.assertEqual((found["shared_zero_pages"], found["shared_equal_pages"]), (100, 59))
        self.assertIn("shared memory: 100 pages of zeroes, 59 equal", ksmv("why", member.pid))
        guess = ksmv_json("estimate", member.pid)
        self.assertEqual(guess["shared_memory"], [{"name": "memfd:member", "pages": 200}])
        self.assertEqual(guess["left_alone_pages"]["shared"], 200)

    def test_report_tells_what_is_left_alone(self) -> None:
        locked, memfd = self.start("400*a:locked"), self.start("500*a:memfd")
        found = {row["pid"]: row for row in ksmv_json("report", "--why")["processes"]}
        self.assertEqual(found[locked.pid]["left_alone_pages"]["locked"], 400)
        self.assertEqual(found[memfd.pid]["left_alone_pages"]["shared"], 500)
        self.assertRegex(ksmv("report", "--why"), rf" 50\d +2\.0 +shared +{ALICE} +{memfd.pid} ")
        without = {row["pid"] for row in ksmv_json("report")["processes"]}
        self.assertNotIn(memfd.pid, without)

    def test_a_process_alone_and_with_others(self) -> None:
        lonely = self.start("40*own", user=LONER)
        self.assert_reason(lonely, "alone", 40, "ksmv set domain global")
        self.start("40*own", user=LONER)
        found = reasons(lonely.pid)
        self.assertNotIn("alone", found)
        self.assertGreaterEqual(found["different"][0], 40)

    def test_equal_pages(self) -> None:
        one = self.start("40*a,20*zero,500*own", user=LONER)
        waiting = reasons(one.pid)["waiting"]
        self.assertGreaterEqual(waiting[0], 60)
        self.assertIn("modprobe ksm_v", waiting[1])
        self.start("300*own,1*b", user=LONER)
        other = self.start("1*b", user=LONER)
        self.assertGreater(reasons(other.pid)["waiting"][0], 0)

    def test_workers_are_merged_among_siblings(self) -> None:
        files = {name: knob.default for name, knob in knobs.KNOBS.items()} | {"profile": "own"}
        master = self.start("300*a", "fork=1002", "fork=1002", user=0)
        stranger = self.start("300*a", f"user={LONER}", user=0)
        workers = master.children()
        for undumpable, name in (("leave", "not_dumpable_changed_ids"), ("siblings", "waiting")):
            files["undumpable"] = undumpable
            with (
                mock.patch("ksmv.module.is_loaded", return_value=True),
                mock.patch("ksmv.module.read_all", return_value=files),
            ):
                for worker in workers:
                    found = ksmv_json("why", worker)
                    pages = {one["reason"]: one["pages"] for one in found["reasons"]}
                    self.assertGreaterEqual(pages[name], 300)
                    self.assertEqual(found["partners"], undumpable == "siblings")
                alone = ksmv_json("why", stranger.pid)
                self.assertEqual(alone["partners"], 0)
                found = {one["reason"]: one["told"] for one in alone["reasons"]}
                self.assertIn("not_dumpable_changed_ids", found)

    def start_huge(self, area: str) -> Member:
        """Starts a process that has a huge page, as soon as one is free."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            member = self.start(area, user=LONER)
            rollup = Path(f"/proc/{member.pid}/smaps_rollup").read_text()
            if re.search(r"AnonHugePages: +[1-9]", rollup):
                return member
            member.end()
        raise AssertionError("there is no huge page")

    def test_huge_pages_below_the_threshold(self) -> None:
        self.start("60*a", user=LONER)
        member = self.start_huge("60*a,452*own:huge")
        files = {name: knob.default for name, knob in knobs.KNOBS.items()} | {"profile": "own"}
        for least, reason in ((0, "huge"), (90, "huge"), (60, "waiting"), (1, "waiting")):
            files["huge_min_parts"] = str(least)
            with (
                mock.patch("ksmv.module.is_loaded", return_value=True),
                mock.patch("ksmv.module.read_all", return_value=files),
            ):
                found = reasons(member.pid)
            self.assertIn(reason, found, least)
            # Pages of the heap may equal a page or two of the huge page.
            self.assertGreaterEqual((least, found[reason][0]), (least, 60))
            self.assertLess(sum(found.get(one, (0,))[0] for one in ("huge", "waiting")), 400)
            self.assertEqual((least, "huge" in found), (least, reason == "huge"))

    def test_content_is_zero(self) -> None:
        self.start("60*a", user=LONER)
        member = self.start("60*a,30*zero", user=LONER)
        files = {name: knob.default for name, knob in knobs.KNOBS.items()} | {"profile": "own"}
        for content, waiting in (("all", 90), ("zero", 30)):
            files["content"] = content
            with (
                mock.patch("ksmv.module.is_loaded", return_value=True),
                mock.patch("ksmv.module.read_all", return_value=files),
            ):
                found = reasons(member.pid)
            self.assertGreaterEqual((content, found["waiting"][0]), (content, waiting))
            self.assertEqual("content" in found, content == "zero")
        self.assertGreaterEqual(found["content"][0], 60)
        self.assertLess(found["waiting"][0], 60)
        self.assertIn("ksmv set content all", found["content"][1])

    def test_volatile_pages(self) -> None:
        member = self.start("900*a:volatile", user=LONER)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while reasons(member.pid).get("volatile", (0,))[0] < 800:
            self.assertLess(time.monotonic(), deadline)

    def test_names_what_cannot_be_asked(self) -> None:
        self.assert_fails(1, "there is no process 999999", "why", 999999)
        self.assert_fails(1, "process 2 has no memory", "why", 2)
        without_ptrace = ("setpriv", "--bounding-set", "-sys_ptrace")
        member = self.start("1*a")
        said = run_ksmv("why", member.pid, status=1, wrapper=without_ptrace)
        self.assertIn(f"process {member.pid}: denied", said)
        self.assertIn("CAP_SYS_PTRACE", said)


# --- knobs ------------------------------------------------------------------


class Knobs(Case):
    """ksmv get and set."""

    def test_defaults_are_the_modules(self) -> None:
        writable = {path.name for path in KNOBS.iterdir() if path.stat().st_mode & 0o200}
        self.assertEqual(knobs.KNOBS.keys(), {name for name in writable if (KNOBS / name).is_file()})
        for name, knob in knobs.KNOBS.items():
            if knob.default:
                self.assertEqual((name, module.get(name)), (name, knob.default))

    def test_get(self) -> None:
        self.assertEqual(ksmv("get", "domain"), "user\n")
        self.assertEqual(json.loads(ksmv("get", "scan_rate", "--json")), {"scan_rate": 100})
        every = ksmv_json("get")
        self.assertEqual(every["governor"], "manual")
        self.assertEqual(every["run"], 0)
        self.assertEqual(every.keys(), set(os.listdir(KNOBS)) - {"merge_now", "compat"})
        self.assertRegex(ksmv("get"), r"(?m)^ *200 +200  sleep_ms")

    def test_set(self) -> None:
        for name, value in (("scan_rate", "2000"), ("domain", "cgroup"), ("max_interval", "1")):
            self.assertEqual(ksmv("set", name, value), "")
            self.assertEqual(module.get(name), value)
        self.assertEqual(json.loads(ksmv("set", "run", "0", "--json")), {"run": 0})
        self.assertEqual(changed().keys(), {"scan_rate", "domain", "max_interval"})

    def test_bad_values_change_nothing(self) -> None:
        for name, knob in knobs.KNOBS.items():
            for value in ("x", "", "99999999999"):
                self.assert_fails(2, f"allowed: {knob.allowed}", "set", name, value)
        self.assertEqual(changed(), {})

    def test_unknown_knobs(self) -> None:
        self.assert_fails(2, "did you mean scan_rate", "set", "scanrate", "1")
        self.assert_fails(2, "did you mean scan_rate", "set", "scanrate")
        self.assert_fails(2, "allowed: 1, 2, 4 or 8 passes", "set", "max_interval")
        for line in (r"run +0 +0 \(stop\)", "domain +user +user, process", "merge_now +- +PID"):
            self.assertRegex(ksmv("set"), line)
        self.assert_fails(2, "did you mean scan_rate", "get", "scan_rat")
        self.assert_fails(2, "ksmv get lists them all", "get", "xyzzy")
        self.assert_fails(2, "there is no knob '../ksm/run'", "set", "../ksm/run", "1")

    def test_wrong_way_round(self) -> None:
        self.assert_fails(2, "cpu_ns can only be read", "set", "cpu_ns", "1")
        self.assert_fails(2, "merge_now can only be written", "get", "merge_now")

    def test_refusals(self) -> None:
        self.start("9*a", user=BOB)
        merge_all()
        self.assert_fails(1, "pages are shared; unmerge them first", "set", "domain", "global")
        self.assertEqual(module.get("domain"), "user")
        for words in (["999999"], ["999999 0 1000"], ["999999", "0", "1000"]):
            self.assert_fails(1, "there is no such process", "set", "merge_now", *words)
        hidden = self.start("4*a", "undumpable")
        self.assert_fails(1, "none of that memory may be merged", "set", "merge_now", hidden.pid)
        ksmv("set", "run", "2")
        self.assert_fails(1, "everything is to be unmerged", "set", "merge_now", hidden.pid)

    def test_users_may_get_and_not_set(self) -> None:
        self.assertEqual(run_ksmv("get", "run", user=ALICE), "0\n")
        self.assertIn("run: not permitted", run_ksmv("set", "run", "1", status=4, user=ALICE))
        self.assertIn("ksm_v on", run_ksmv("status", user=ALICE))
        said = run_ksmv("status", "--rows", 3, status=4, user=ALICE)
        self.assertIn("run ksmv as root", said)
        self.assertEqual(module.get("run"), "0")


class Settings(Case):
    """scripts/settings, which applies a file of settings."""

    program = HERE.parent / "settings"
    installed = Path("/usr/sbin/ksmv")

    def setUp(self) -> None:
        super().setUp()
        self.installed.parent.mkdir(parents=True, exist_ok=True)
        self.installed.symlink_to(TOOL)
        self.addCleanup(self.installed.unlink)

    def assert_refused(self, line: str, said: str) -> None:
        """Expects that this line is refused with this explanation, and that nothing changes."""
        before = ksmv_json("get")
        with tempfile.TemporaryDirectory() as place:
            file = Path(place, "conf")
            file.write_text(f"sleep_ms = 7\n{line}\n")
            done = subprocess.run([self.program, "apply", file], check=False, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertEqual(done.stderr.removesuffix("  (nothing was changed)\n"), f"{file}:2: {said}")
        for name in knobs.KNOBS.keys() & before.keys():
            self.assertEqual(module.get(name), str(before[name]))

    def test_explanations_are_ksmvs(self) -> None:
        self.start("9*a", user=BOB)
        merge_all()
        for line, status in (
            ("max_cpu = 101", 2), ("scope = some", 2), ("run = 3", 2), ("scan_rate = -x", 2), ("domain = global", 1),
        ):  # fmt: skip
            name, value = line.split(" = ")
            self.assert_refused(line, ksmv("set", "--", name, value, status=status).removeprefix("ksmv: "))
        self.assert_refused("scan_rat = 1", "there is no knob 'scan_rat'; did you mean scan_rate?\n")

    def test_needs_no_ksmv(self) -> None:
        self.installed.unlink()
        self.installed.symlink_to(TOOL.parent / "nothing")
        for way in ("absent", "broken"):
            with self.subTest(way):
                if way == "broken":
                    self.installed.unlink()
                    self.installed.write_text("#!/bin/sh\necho Traceback\nexit 1\n")
                    self.installed.chmod(0o755)
                self.assert_refused("max_cpu = 101", "max_cpu = 101 was refused: Invalid argument\n")
                self.assert_refused("scan_rat = 1", 'there is no setting "scan_rat"\n')
                self.assert_refused("cpu_ns = 1", 'there is no setting "cpu_ns"\n')


# --- what merging saves -----------------------------------------------------


class Merged(Case):
    """estimate, report, who and status, compared with the module's results."""

    def test_estimate_equals_what_is_saved(self) -> None:
        members = [
            self.start("120*a,20*b,50*zero,100*own"),
            self.start("80*a,30*b,40*zero,100*own"),
            self.start("200*c,10*d", "60*zero:locked"),
            self.start("100*a,200*c,11*d", user=BOB),
        ]
        pids = [member.pid for member in members]
        before = ksmv_json("estimate", *pids)
        self.assertGreater(before["savable_pages"], 199 + 49 + 90 + 199 + 9 + 99 + 199 + 10)
        merge_all()
        after = ksmv_json("report")
        for pid in pids:
            expected, found = row_of(before, pid), row_of(after, pid)
            self.assertAlmostEqual(found["saved_pages"], expected["savable_pages"], delta=0.01)
        total = sum(row_of(after, pid)["saved_pages"] for pid in pids)
        self.assertAlmostEqual(total, before["savable_pages"], delta=0.01)
        self.assertEqual(ksmv_json("estimate", *pids)["savable_pages"], 0)

    def test_estimate_adds_to_what_is_merged(self) -> None:
        self.start("10*a:registered")
        (KNOBS / "scope").write_text("registered")
        merge_all()
        late = self.start("6*a,3*zero:registered")
        found = ksmv_json("estimate", "--scope", "registered")
        self.assertEqual(found["savable_pages"], 6 + 3)
        before = proc.saved_pages()
        merge_all()
        self.assertEqual(proc.saved_pages() - before, 9)
        self.assertEqual(row_of(ksmv_json("report"), late.pid)["merged_pages"], 6)

    def test_report_adds_up_to_what_the_module_counts(self) -> None:
        self.start("300*a,50*zero,10*own")
        self.start("200*a,40*zero", "fork")
        self.start("100*a", user=BOB)
        merge_all()
        report = ksmv_json("report")
        self.assertGreater(proc.saved_pages(), 200 + 299 + 90)
        self.assertAlmostEqual(report["saved_pages"], proc.saved_pages(), delta=0.01)
        self.assertEqual(report["zero_pages"], proc.knob("zero_pages"))
        self.assertEqual(
            report["merged_pages"], proc.knob("pages_shared") + proc.knob("pages_sharing")
        )
        for rows in (report["processes"], report["cgroups"]):
            total = sum(row["saved_pages"] for row in rows)
            self.assertAlmostEqual(total, proc.saved_pages(), delta=0.1)
        self.assertEqual(report["skipped"], [])

    def test_report_divides_a_frame_among_its_mappings(self) -> None:
        (KNOBS / "scope").write_text("registered")
        one = self.start("3*a,2*zero:registered")
        other = self.start("1*a:registered")
        merge_all()
        report = ksmv_json("report")
        self.assertEqual(row_of(report, one.pid)["saved_pages"], 3 * 3 / 4 + 2)
        self.assertEqual(row_of(report, one.pid)["saved_bytes"], (3 * 3 / 4 + 2) * pages.PAGE)
        self.assertEqual(row_of(report, other.pid)["saved_pages"], 3 / 4)
        self.assertEqual(report["saved_pages"], 5)

    def test_report_by_cgroup(self) -> None:
        (KNOBS / "scope").write_text("registered")
        for name in ("one", "two"):
            (CGROUPS / name).mkdir(exist_ok=True)
            for _ in range(2):
                member = self.start("2*a:registered")
                (CGROUPS / name / "cgroup.procs").write_text(str(member.pid))
        merge_all()
        rows = {row["cgroup"]: row for row in ksmv_json("report")["cgroups"]}
        self.assertEqual(rows.keys(), {"/one", "/two"})
        self.assertEqual(rows["/one"]["processes"], 2)
        self.assertEqual(rows["/one"]["saved_pages"], 3.5)
        self.assertRegex(ksmv("report", "--by", "cgroup"), r"3\.5 +0\.0 +4 +0 +2 +/two\n")

    def test_report_needs_no_module(self) -> None:
        (KNOBS / "scope").write_text("registered")
        member = self.start("8*a:registered")
        merge_all()
        self.assertEqual(row_of(ksmv_json("report"), member.pid)["saved_pages"], 7)
        unload()
        rows = [row for row in ksmv_json("report")["processes"] if row["pid"] == member.pid]
        self.assertEqual([row["saved_pages"] for row in rows if row["saved_pages"]], [])

    def test_who(self) -> None:
        (KNOBS / "scope").write_text("registered")
        one = self.start("5*a,2*b,3*c,1*zero,2*d,2*own:registered")
        other = self.start("4*a,1*b:registered")
        third = self.start("1*c:registered")
        self.start("5*a,5*b:registered", user=BOB)
        merge_all()
        found = ksmv_json("who", one.pid)
        self.assertEqual((found["merged_pages"], found["zero_pages"]), (12, 1))
        self.assertEqual((found["shared_frames"], found["own_frames"]), (4, 1))
        self.assertEqual(found["mappings_not_found"], 0)
        rows = [(row["pid"], row["shared_frames"], row["mappings"]) for row in found["sharers"]]
        self.assertEqual(rows, [(other.pid, 2, 5), (third.pid, 1, 1)])
        self.assertRegex(ksmv("who", one.pid), rf"2 +0\.0 +5 +1000 +{other.pid} +python3 .*\n")

    def test_status(self) -> None:
        member = self.start("3000*a,1000*zero", user=BOB)
        merge_all()
        self.assertNotIn("report", ksmv_json("status"))
        status = ksmv_json("status", "--rows", 5)
        self.assertEqual(status["saved_pages"], proc.saved_pages())
        self.assertEqual(status["saved_bytes"], proc.saved_pages() * pages.PAGE)
        self.assertEqual(status["module"]["pages_shared"], proc.knob("pages_shared"))
        self.assertEqual(status["changed"]["scan_rate"], 20000)
        self.assertEqual(status["cpu_percent"], 0)
        self.assertGreaterEqual(status["sample_seconds"], 0.4)
        # A process has at most 256 entries of one frame: 3000 pages need 12 frames.
        found = row_of(status["report"], member.pid)["saved_pages"]
        self.assertGreaterEqual(found, 4000 - 12)
        memory = next(line for line in text.lines_of("/proc/meminfo"))
        self.assertEqual(status["memory_bytes"], int(memory.split()[1]) << 10)
        percent = 100 * proc.saved_pages() * pages.PAGE / status["memory_bytes"]
        self.assertAlmostEqual(status["saved_percent"], percent, delta=0.01)
        shown = ksmv("status", "--rows", 5)
        self.assertIn(f"saved    {proc.saved_pages()} pages", shown)
        self.assertIn("scan_rate 20000", shown)
        self.assertRegex(shown, rf"\n +\d+\.\d +\d+\.\d +\d+ +\d+ +1001 +{member.pid} +python3 .*/member.py 3000\*a,1000\*zero\n")

    def test_status_tells_mainlines_settings(self) -> None:
        for name, value in (("scan_rate", "2000"), ("max_cpu", "50"), ("compat/pages_to_scan", "77")):
            (KNOBS / name).write_text(value)
        (KNOBS / "compat/run").write_text("1")
        found = ksmv_json("status")
        self.assertEqual((found["module"]["profile"], found["settings"]["scope"]), ("compat", "registered"))
        self.assertEqual(found["settings"]["sleep_millisecs"], 20)
        self.assertEqual(found["changed"], {"run": 1, "max_cpu": 50, "pages_to_scan": 77})
        shown = ksmv("status")
        self.assertIn(": merging, domain user, scope registered,", shown)
        self.assertIn("changed  run 1, max_cpu 50, pages_to_scan 77 of mainline's (compat)", shown)
        (KNOBS / "run").write_text("0")
        found = ksmv_json("status")
        self.assertEqual((found["module"]["profile"], found["settings"]["scope"]), ("own", "all"))
        self.assertEqual(found["changed"], {"scan_rate": 2000, "max_cpu": 50})
        self.assertIn("scope all,", ksmv("status"))

    def test_status_knows_mainlines_defaults(self) -> None:
        (KNOBS / "compat/run").write_text("0")
        self.assertEqual(changed(), {})
        found = module.in_force(module.read_all()).values
        self.assertLessEqual(knobs.MAINLINE.keys(), found.keys())
        writable = {path.name for path in (KNOBS / "compat").iterdir() if path.stat().st_mode & 0o200}
        self.assertEqual(writable, knobs.MAINLINE.keys() | {"run"})

    def test_status_tells_where_the_pass_is(self) -> None:
        self.start("3000*own")
        for _ in range(PATIENCE_SECONDS):
            (KNOBS / "scan_rate").write_text("2000")
            (KNOBS / "sleep_ms").write_text("10")
            (KNOBS / "run").write_text("1")
            while not proc.knob("full_scans"):
                time.sleep(0.01)
            (KNOBS / "run").write_text("0")
            if proc.knob("full_scans") == 1:
                break
            load()
        met = proc.knob("pages_scanned") + proc.knob("pages_skipped")
        found = ksmv_json("status")["pass"]
        self.assertEqual(found["pages"], proc.knob("last_pass_pages"))
        self.assertEqual(found["pages"] + found["done_pages"], met)
        self.assertGreater(found["pages"], 1000)
        self.assertEqual((found["pages_per_second"], found["pass_seconds"]), (0, None))
        self.assertIn("the scanner is stopped: ksmv set run 1", ksmv("status"))

    def test_status_sees_the_scanner_work(self) -> None:
        (KNOBS / "sleep_ms").write_text("0")
        (KNOBS / "max_interval").write_text("1")
        (KNOBS / "run").write_text("1")
        found = ksmv_json("status")
        self.assertGreater(found["cpu_percent"], 0)
        self.assertGreater(found["pass"]["pages_per_second"], 0)
        self.assertIn(": merging, domain user, scope all,", ksmv("status"))


class Metrics(Case):
    """ksmv metrics, against the module's counts."""

    def values(self, *arguments: object) -> dict[str, float]:
        """The value of each sample."""
        samples = (line.rpartition(" ") for line in ksmv("metrics", *arguments).split("\n"))
        return {name: float(value) for name, _, value in samples if name and name[0] != "#"}

    def test_equal_the_counts(self) -> None:
        self.start("300*a,100*zero")
        merge_all()
        found = self.values()
        for name, file in (
            ("scanned_pages_total", "pages_scanned"), ("passes_total", "full_scans"),
            ("shared_pages", "pages_shared"), ("zero_pages", "zero_pages"),
            ("pass_pages", "last_pass_pages"), ("index_bytes", "index_bytes"),
            ("huge_pages_split_total", "huge_pages_split"),
        ):  # fmt: skip
            self.assertEqual((name, found[f"ksm_v_{name}"]), (name, proc.knob(file)))
        saved = sum(found[f'ksm_v_saved_bytes{{by="{by}"}}'] for by in ("sharing", "zeroes"))
        self.assertEqual(saved, proc.saved_pages() * pages.PAGE)
        self.assertGreater(proc.saved_pages(), 390)
        self.assertAlmostEqual(found["ksm_v_cpu_seconds_total"], proc.knob("cpu_ns") / 1e9)
        self.assertNotIn("ksm_v_pass_seconds", found)

    def test_savings_by_domain(self) -> None:
        self.start("300*a,100*zero")
        merge_all()
        for by in ("user", "cgroup"):
            found = self.values("--by", by)
            parts = [value for name, value in found.items() if name.startswith("ksm_v_domain_")]
            self.assertTrue(parts)
            self.assertAlmostEqual(sum(parts), proc.saved_pages() * pages.PAGE, delta=1)
        self.assertFalse([one for one in self.values() if one.startswith("ksm_v_domain_")])
        run_ksmv("metrics", "--by", "user", user=ALICE, status=4)

    def test_refusals_by_reason(self) -> None:
        told = Path("/sys/kernel/debug/ksm_v/refusals").read_text().split("\n")
        reasons = [line.split()[0] for line in told if line and line[0] != "#"]
        found = self.values()
        names = [f'ksm_v_refusals_total{{reason="{one}"}}' for one in reasons]
        self.assertGreater(len(names), 10)
        self.assertLessEqual(set(names), found.keys())

    def test_for_users_and_without_the_module(self) -> None:
        shown = run_ksmv("metrics", user=ALICE)
        self.assertIn("ksm_v_loaded 1\n", shown)
        self.assertNotIn("ksm_v_refusals", shown)
        unload()
        self.assertEqual(self.values(), {"ksm_v_loaded": 0})

    def test_into_a_file(self) -> None:
        path = Path("/tmp/ksm_v.prom")
        self.assertEqual(ksmv("metrics", "--output", path), "")
        self.assertTrue(path.read_text().endswith("# EOF\n"))
        self.assert_fails(1, "No such file", "metrics", "--output", "/tmp/none/ksm_v.prom")


class Top(Case):
    """ksmv top, in a pipe and on a terminal."""

    def test_in_a_pipe(self) -> None:
        shown = run_ksmv("top", "--count", 2, "--interval", 0.1)
        self.assertEqual(shown.count("ksm_v on"), 2)
        self.assertNotIn("\x1b", shown)
        rows = ksmv("top", "--count", 3, "--interval", 0.1, "--json").rstrip("\n").split("\n")
        self.assertEqual([json.loads(row)["saved_pages"] for row in rows], [0, 0, 0])

    def test_bad_options(self) -> None:
        self.assert_fails(2, "at least 0.1", "top", "--interval", "0")
        self.assert_fails(2, "invalid number above 0", "top", "--count", "-1")

    ENTER, LEAVE, CLEAR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[H\x1b[J"

    def on_terminal(self, columns: int = 80) -> tuple[subprocess.Popen, int]:
        """Starts top on a terminal; returns also the other side of the terminal."""
        leader, follower = pty.openpty()
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))
        self.before = termios.tcgetattr(follower)
        top = subprocess.Popen(
            [sys.executable, str(TOOL), "top", "--interval", "0.1"], stdout=follower, stdin=follower
        )
        self.addCleanup(os.close, leader)
        self.addCleanup(os.close, follower)
        self.follower = follower
        return top, leader

    def read_until(self, leader: int, wanted: str, count: int = 1) -> str:
        """What is shown until this was shown so often."""
        shown = ""
        while shown.count(wanted) < count:
            shown += os.read(leader, 1 << 16).decode()
        return shown

    def assert_given_back(self, leader: int) -> None:
        """Expects that the terminal is as it was."""
        self.read_until(leader, self.LEAVE)
        self.assertEqual(termios.tcgetattr(self.follower), self.before)

    def test_on_a_terminal(self) -> None:
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 130)):
            top, leader = self.on_terminal()
            shown = self.read_until(leader, self.CLEAR, 3)
            self.assertTrue(shown.startswith(self.ENTER))
            self.assertIn("ksm_v on", shown)
            top.send_signal(number)
            self.assertEqual(top.wait(PATIENCE_SECONDS), status)
            self.assert_given_back(leader)

    def test_keys(self) -> None:
        self.start("300*a")
        self.start("300*a")
        merge_all()
        for columns in (40, 120):
            top, leader = self.on_terminal(columns)
            self.read_until(leader, self.CLEAR)
            for key, head in ((b"p", "PID  process"), (b"u", "user"), (b"c", "cgroup"), (b"z", "cgroup")):
                os.write(leader, key)
                shown = self.read_until(leader, f"  {head}\r\n") + self.read_until(leader, self.CLEAR)
                widths = [len(line) for line in re.split(r"\r\n|\x1b\[[^a-zA-Z]*[a-zA-Z]", shown)]
                self.assertLessEqual(max(widths), columns)
            os.write(leader, b"q")
            self.assertEqual(top.wait(PATIENCE_SECONDS), 0)
            self.assert_given_back(leader)

    def test_ends_with_its_reader(self) -> None:
        top = subprocess.Popen(
            [str(TOOL), "top", "--interval", "0.1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.assertTrue(top.stdout.readline().startswith("ksm_v on"))
        top.stdout.close()
        self.assertEqual((top.wait(PATIENCE_SECONDS), top.stderr.read()), (0, ""))


class Results(unittest.TextTestResult):
    """One line for each test, like Rust's test harness."""

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._start = time.monotonic()

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        took = time.monotonic() - self._start
        bad = any(test in (one, getattr(one, "test_case", None))
                  for one, _ in self.failures + self.errors)  # fmt: skip
        name = test.id().removeprefix("__main__.")
        print(f"test {name} ... {'FAILED' if bad else 'ok'} ({took:.1f} s)", flush=True)


def main() -> int:
    """Runs the tests; returns the exit status."""
    # Keeps the memory of this process from being merged.
    proc.hide_from_scanner()
    mark_bytecode_current()
    proc.pause_khugepaged()
    assert pages.PAGE == mmap.PAGESIZE
    loader = unittest.TestLoader()
    loader.testNamePatterns = [f"*{one}*" for one in sys.argv[1:]] or None
    tests = loader.loadTestsFromModule(sys.modules[__name__])
    result = unittest.TextTestRunner(
        stream=sys.stdout, resultclass=Results, verbosity=0
    ).run(tests)
    failed = len(result.failures) + len(result.errors)
    word = "FAILED" if failed else "ok"
    passed, skipped = result.testsRun - failed, len(result.skipped)
    print(f"test result: {word}. {passed} passed; {failed} failed; {skipped} ignored")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
