# SPDX-License-Identifier: GPL-2.0
"""Tests of the parts of ksmv that need no kernel, of its manual, and of `make install-tools`.

Run anywhere: python3 tests/tool/unit.py.
"""

import argparse
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import unittest
from collections import Counter
from dataclasses import replace
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True
PROJECT = Path(__file__).resolve().parents[2]
TOOL = PROJECT / "tools" / "ksmv"
sys.path.insert(0, str(TOOL.parent))

from ksmv import cli, estimate, layout, lines, module, pages, processes, records, text  # noqa: E402
from ksmv.arguments import parser  # noqa: E402
from ksmv.errors import Failure  # noqa: E402
from ksmv.knobs import KNOBS  # noqa: E402
from ksmv.policy import Policy  # noqa: E402
from ksmv.processes import Process, Skipped  # noqa: E402
from ksmv.savings import Report, Saving  # noqa: E402
from ksmv.sharers import Sharer, Sharing  # noqa: E402
from ksmv.status import Counts, Status  # noqa: E402

COMMANDS = next(one for one in parser()._actions if one.dest == "command").choices
PROCESS = Process(7, "name", 1000, 100, False, "/a", "/proc/7")

# Names that a user may choose, and how ksmv shows them.
NAMES = {
    b"a b:c)": "a b:c)",
    "M\u00fcller \u6f22".encode(): "M\u00fcller \u6f22",
    b"\x1b]0;t\x07\x1b[2J": r"\x1b]0;t\x07\x1b[2J",
    b"\r\n\t\v\f\x1c\x7f": r"\x0d\x0a\x09\x0b\x0c\x1c\x7f",
    b"\xff\xc3": r"\xff\xc3",
    "\x85\x9b".encode(): r"\u0085\u009b",
    "\u2028\u2029\xa0".encode(): r"\u2028\u2029\u00a0",
    "\u202e\u2066\u200b\ufeff\xad".encode(): r"\u202e\u2066\u200b\ufeff\u00ad",
    "\u3164\u2800\ufe0f\u034f".encode(): r"\u3164\u2800\ufe0f\u034f",
    "\U000e0041\ue000".encode(): r"\U000e0041\ue000",
}
NASTY = text.decode(b"".join(NAMES))


def area(flags: str, private: bool = True) -> pages.Area:
    """An area with these VmFlags."""
    return pages.Area(0, pages.PAGE, private, frozenset(flags.split()))


class Rules(unittest.TestCase):
    """Memory that the module leaves alone."""

    def test_plain_memory_is_taken(self) -> None:
        self.assertIsNone(Policy().objection(area("rd wr mr mw me ac"), True))

    def test_what_is_kept_private(self) -> None:
        for flag, reason in (
            ("lo", "locked"), ("wf", "wipe_on_fork"), ("dd", "not_dumped"), ("ss", "shadow_stack"),
            ("dc", "not_forked"),
            ("um", "userfaultfd"), ("uw", "userfaultfd"), ("ui", "userfaultfd"),
        ):  # fmt: skip
            self.assertEqual(Policy().objection(area(f"rd {flag}"), True), reason)
            self.assertIsNone(Policy().objection(area(f"mg {flag}"), False))

    def test_what_is_impossible(self) -> None:
        for flag, reason in (
            ("sh", "shared"), ("ht", "hugetlb"), ("dp", "droppable"), ("pf", "special"),
            ("io", "special"), ("mm", "special"), ("de", "special"),
        ):  # fmt: skip
            self.assertEqual(Policy().objection(area(f"mg {flag}"), True), reason)
        self.assertEqual(Policy().objection(area("mg", private=False), True), "shared")

    def test_who_is_not_dumpable(self) -> None:
        self.assertEqual(Policy().objection(area("rd"), False), "not_dumpable")

    def test_who_has_several_ids(self) -> None:
        for flags in ("rd", "mg"):
            self.assertEqual(Policy().objection(area(flags), True, True), "several_ids")

    def test_users_are_told_apart_by_group_too(self) -> None:
        other = replace(PROCESS, pid=8, gid=101)
        self.assertNotEqual(Policy().domain_of(PROCESS), Policy().domain_of(other))
        same = replace(PROCESS, pid=8)
        self.assertEqual(Policy().domain_of(PROCESS), Policy().domain_of(same))

    def test_scope(self) -> None:
        self.assertEqual(Policy("registered").objection(area("rd"), True), "not_registered")
        self.assertIsNone(Policy("registered").objection(area("rd mg"), False))


class Sums(unittest.TestCase):
    """The savings of a content."""

    @staticmethod
    def content(frames: int, mappings: int, shared: int = 0, shared_mappings: int = 0):
        content = estimate._Content()
        content.frames, content.mappings = frames, mappings
        content.shared, content.shared_mappings = shared, shared_mappings
        return content

    def test_one_frame_stays(self) -> None:
        self.assertEqual(self.content(1, 1).savable(100), 0)
        self.assertEqual(self.content(5, 5).savable(100), 4)
        self.assertEqual(self.content(5, 9).savable(100), 4)

    def test_none_stays_where_one_is_shared(self) -> None:
        self.assertEqual(self.content(5, 5, 1, 3).savable(100), 5)

    def test_more_stay_beyond_the_limit(self) -> None:
        self.assertEqual(self.content(10, 10).savable(4), 7)
        self.assertEqual(self.content(6, 6, 1, 3).savable(4), 4)

    def test_frames_counted_elsewhere(self) -> None:
        self.assertEqual(self.content(0, 3).savable(100), 0)

    def test_domains_add_up(self) -> None:
        domains = [
            estimate.Domain((1000, 100), 2, estimate.Totals(9, 3, 2, 5)),
            estimate.Domain((1001, 100), 1, estimate.Totals(4, 2, 1, 2)),
        ]
        result = estimate.Estimate([], [], domains, 0)
        self.assertEqual(result.totals, estimate.Totals(13, 5, 3, 7))
        self.assertEqual(estimate.Estimate([], [], [], 0).totals, estimate.Totals())
        text = "\n".join(lines.estimate(result, Policy(), 1))
        self.assertRegex(text, r"\n  +would save +MiB +of pages +processes +uid:gid\n +5 +0\.0 +9 +2 +1000:100$")

    def test_savings_add_up(self) -> None:
        report = Report([(PROCESS, Saving(3, 1, 1.5)), (PROCESS, Saving(3, 0, 1.5))], [], 0)
        self.assertEqual(report.total.saved_pages, 4)
        self.assertEqual(report.by_cgroup(), [("/a", 2, Saving(6, 1, 3))])


class Words(unittest.TestCase):
    """The output."""

    def test_tables(self) -> None:
        found = layout.table(("pages", "who"), (("1", "b"), ("1234567", "longer")), indent="")
        self.assertEqual(found, ["  pages  who", "      1  b", "1234567  longer"])

    def test_plurals(self) -> None:
        found = [layout.plural(*one) for one in ((1, "page"), (2, "page"), (2, "pass"))]
        self.assertEqual(found, ["1 page", "2 pages", "2 passes"])

    @staticmethod
    def said(*arguments: str) -> tuple[int, str, str]:
        """The exit status, the standard output and the standard error of a command."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main(arguments)
        return status, out.getvalue(), err.getvalue()

    def test_names_are_escaped(self) -> None:
        for name, shown in NAMES.items():
            self.assertEqual(text.printable(text.decode(name)), shown)

    def test_nothing_that_is_said_is_obeyed(self) -> None:
        process = Process(7, NASTY, 1000, 100, False, f"/{NASTY}", "/proc/7")
        skipped = [Skipped(8, NASTY)]
        values = dict.fromkeys(("pages_sharing", "zero_pages", "cpu_ns"), "1")
        counts = Counts(1, values, module.Settings({}, {"run": NASTY}))
        report = Report([(process, Saving(1, 1, 1))], skipped, 0)
        row = estimate.Row(process, 1, 1, Counter({NASTY: 1}), 0)
        domain = estimate.Domain((process.cgroup,), 1, estimate.Totals(1))
        guess = estimate.Estimate([row], skipped, [domain], 0)
        sharing = Sharing(process, 1, 1, 0, 0, 1, [Sharer(process, 1, 1)], skipped)
        refusal = Failure(NASTY, NASTY)
        with mock.patch("ksmv.savings.report", return_value=report), contextlib.ExitStack() as stack:
            for one in ("module.check_loaded", "module._check_name", "access.check"):
                stack.enter_context(mock.patch(f"ksmv.{one}"))
            for one, answer in (
                ("estimate.estimate", guess), ("sharers.of", sharing), ("module.get", NASTY),
                ("module.read_all", {NASTY: NASTY}), ("status.Counts.read", counts),
            ):  # fmt: skip
                stack.enter_context(mock.patch(f"ksmv.{one}", return_value=answer))
            stack.enter_context(mock.patch("ksmv.lines.status_head", return_value=[NASTY]))
            stack.enter_context(mock.patch("ksmv.module.set_value", side_effect=refusal))
            for arguments in (
                ["report"], ["report", "--by", "cgroup"], ["estimate", "--domain", "cgroup"],
                ["who", "7"], ["get", "run"], ["get"], ["status"], ["top", "--count", "1"],
                ["set", "run", "1"],
            ):  # fmt: skip
                _, out, err = self.said(*arguments)
                self.assertIn("".join(NAMES.values()), out + err)
                for line in (out + err).split("\n"):
                    self.assertEqual(line, text.printable(line))
            self.assertEqual(json.loads(self.said("get", "run", "--json")[1]), {"run": mock.ANY})

    def test_a_terminal_without_unicode(self) -> None:
        raw = io.BytesIO()
        with io.TextIOWrapper(raw, encoding="latin-1") as file:
            text.say(["\u6f22 \xfc \x1b"], file)
            self.assertEqual(raw.getvalue(), b"\\u6f22 \xfc \\x1b\n")

    def test_json_keeps_names(self) -> None:
        told = json.loads(records.to_json({NASTY: [NASTY, {"a": (1, NASTY)}]}))
        kept = b"".join(NAMES).decode("utf-8", "replace")
        self.assertEqual(told, {kept: [kept, {"a": [1, kept]}]})

    def test_errors(self) -> None:
        for arguments in (["who", "x"], ["who"], ["get", "a", "b"], ["set", "run"], ["sit"], []):
            status, out, err = self.said(*arguments)
            self.assertEqual((status, out), (2, ""))
            self.assertRegex(err, r"^ksmv: .+\n  usage: ksmv ")
            status, out, err = self.said(*arguments, "--json")
            self.assertEqual((status, err), (2, ""))
            told = json.loads(out)
            self.assertEqual(told["exit_status"], 2)
            self.assertIn("usage: ksmv", told["advice"][0])
            self.assertTrue(told["error"])


class Lines(unittest.TestCase):
    """Files of the kernel: only newlines end a line."""

    def setUp(self) -> None:
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.place = Path(place.name)

    def write(self, name: str, *lines: bytes) -> None:
        """Makes a file of these lines."""
        (self.place / name).write_bytes(b"".join(line + b"\n" for line in lines))

    def test_of_maps(self) -> None:
        odd = b"/tmp/a\r3000-4000 rw-p 0 00:00 0 \x0b\x1c\x85\xe2\x80\xa8\xff"
        areas = [b"1000-2000 rw-p 00000000 00:00 7 " + odd, b"2000-3000 r--s 00000000 00:00 0 "]
        self.write("maps", *areas)
        self.write("smaps", areas[0] + b"\rVmFlags: mg", b"VmFlags: rd", areas[1], b"VmFlags: sh")
        space = pages.AddressSpace(str(self.place))
        found = [(one.start, one.end, one.private) for one in space.areas()]
        self.assertEqual(found, [(0x1000, 0x2000, True), (0x2000, 0x3000, False)])
        self.assertEqual([set(one.flags) for one in space.areas_with_flags()], [{"rd"}, {"sh"}])

    def test_of_status(self) -> None:
        name = b"a\rUid:\t0 )\xff\n"
        self.write("status", b"Name:\ta\rUid:\t0 )\xff\\n", b"Uid:\t7\t7\t7\t7", b"Gid:\t8\t9\t8\t8", b"VmSize:\t1 kB")
        self.write("cgroup", b"1:name=systemd:/0::/x", b"0::/a\r0::/b\x85 \xff")
        self.write("comm", name)
        with mock.patch("ksmv.processes._directories", return_value=[str(self.place)]):
            found = processes.one(7)
        self.assertEqual((found.name, found.uid, found.gid), (text.decode(name), 7, 8))
        self.assertTrue(found.several_ids)
        self.assertEqual(found.cgroup, text.decode(b"/a\r0::/b\x85 \xff"))


def options_of(command: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The options of a command, without the options for help."""
    return {
        name: action
        for name, action in command._option_string_actions.items()
        if name not in ("-h", "--help")
    }


class Completion(unittest.TestCase):
    """bash completion by the installed script, on a machine with known knobs and PIDs."""

    machine = """
        _ksmv_knobs() { case $1 in -400) echo run domain cpu_ns ;; -200) echo run domain ;; esac; }
        _ksmv_pids() { echo 1 23; }
    """

    def offered(self, *words: str) -> list[str]:
        """The completions of the last word, sorted."""
        last = len(words)
        script = f"""
            source "$0" && {self.machine}
            COMP_WORDS=(ksmv "$@") COMP_CWORD={last} COMPREPLY=()
            _ksmv ksmv "${{COMP_WORDS[{last}]}}" "${{COMP_WORDS[{last - 1}]}}"
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        command = ["bash", "-euc", script, str(TOOL / "completion.bash"), *words]
        return sorted(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())

    def assert_offered(self, words: str, offered: str) -> None:
        """Expects these completions of the last of the words, which may be empty."""
        self.assertEqual((words, self.offered(*words.split(" "))), (words, sorted(offered.split())))

    def test_commands_and_their_options(self) -> None:
        self.assert_offered("", " ".join(COMMANDS))
        self.assert_offered("s", "status set")
        for name, command in COMMANDS.items():
            self.assert_offered(f"{name} -", " ".join(options_of(command)))

    def test_values_of_options(self) -> None:
        for name, command in COMMANDS.items():
            for option, action in options_of(command).items():
                if action.nargs != 0 and option != "--cgroup":
                    self.assert_offered(f"{name} {option} ", " ".join(action.choices or ()))
        self.assertIn("/proc", self.offered("estimate", "--cgroup", "/"))

    def test_knobs(self) -> None:
        for command, files in (("get", "run domain cpu_ns"), ("set", "run domain")):
            self.assert_offered(f"{command} ", files)
            self.assert_offered(f"{command} --json ", files)
            self.assert_offered(f"{command} r", "run")
        for knob in ("run", "domain", "cpu_ns"):
            self.assert_offered(f"get {knob} ", "")

    def test_values_of_knobs(self) -> None:
        for knob, values in (("run", "0 1 2"), ("max_interval", "1 2 4 8"), ("scan_rate", "")):
            self.assert_offered(f"set {knob} ", values)
            self.assert_offered(f"set {knob} 1 ", "")
        choices = {
            name: knob.allowed.replace(",", "")
            for name, knob in KNOBS.items()
            if re.fullmatch(r"[a-z]+(, [a-z]+)+", knob.allowed)
        }
        self.assertLessEqual({"governor", "scope", "domain"}, choices.keys())
        for knob, values in choices.items():
            self.assert_offered(f"set {knob} ", values)
        self.assert_offered("set --json domain p", "process")

    def test_processes(self) -> None:
        for command in ("who ", "who --rows 3 ", "estimate ", "estimate 1 ", "estimate --all "):
            self.assert_offered(command, "1 23")
        self.assert_offered("who 1 ", "")
        self.assert_offered("estimate --domain user 2", "23")


class Manual(unittest.TestCase):
    """ksmv(8) documents everything."""

    manual = (PROJECT / "Documentation" / "ksmv.8").read_text(encoding="utf-8").replace("\\-", "-")

    def fields(self, value: object) -> set[str]:
        """The names of all fields of a JSON value."""
        if isinstance(value, dict):
            return set(value).union(*map(self.fields, value.values()))
        return set().union(*map(self.fields, value)) if isinstance(value, list) else set()

    def test_has_all_fields(self) -> None:
        skipped = [Skipped(1, "exited")]
        row = estimate.Row(PROCESS, 1, 1, Counter(locked=1), 0)
        domain = estimate.Domain((1000, 100), 1, estimate.Totals())
        values = dict.fromkeys(("pages_sharing", "zero_pages", "cpu_ns"), "1")
        counts = Counts(1, values, module.Settings({}, {}))
        report = Report([(PROCESS, Saving(1, 1, 1))], skipped, 0)
        answers = [
            {name: None for name in records.status(Status(counts, counts, report))},
            records.report(report),
            records.estimate(estimate.Estimate([row], skipped, [domain], 0), Policy()),
            records.failure(Failure("this", "that")),
            records.sharing(Sharing(PROCESS, 1, 1, 0, 0, 1, [Sharer(PROCESS, 1, 1)], skipped)),
        ]
        for name in self.fields(answers):
            self.assertRegex(self.manual, rf"\b{name}\b")

    def test_has_all_commands_and_options(self) -> None:
        for name, command in COMMANDS.items():
            self.assertRegex(self.manual, rf"ksmv {name}\b")
            for option in options_of(command):
                self.assertIn(option, self.manual)


class Installation(unittest.TestCase):
    """make install-tools, which `make install` also runs."""

    def setUp(self) -> None:
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.place = Path(place.name)

    def install(self) -> None:
        """Installs below the test's directory."""
        command = ["make", "-s", "-C", str(PROJECT), "install-tools", f"DESTDIR={self.place}"]
        subprocess.run(command, check=True)

    def test_keeps_settings_that_are_there(self) -> None:
        settings = self.place / "etc/ksm-veridian.conf"
        self.install()
        shipped = (PROJECT / "package/ksm-veridian.conf").read_text(encoding="utf-8")
        self.assertEqual(settings.read_text(encoding="utf-8"), shipped)
        settings.write_text("max_cpu = 50\n", encoding="utf-8")
        self.install()
        self.assertEqual(settings.read_text(encoding="utf-8"), "max_cpu = 50\n")

    def test_replaces_an_earlier_version(self) -> None:
        modules = self.place / "usr/local/lib/ksmv"
        modules.mkdir(parents=True)
        for name in ("ksmv", "cli.py"):
            (modules / name).touch()
        self.install()
        self.assertEqual([path.name for path in modules.iterdir()], ["ksmv"])
        tool = [sys.executable, "-I", str(self.place / "usr/local/sbin/ksmv"), "--help"]
        said = subprocess.run(tool, check=True, capture_output=True, text=True).stdout
        self.assertTrue(said.startswith("usage: ksmv "))
        self.assertFalse(list(modules.rglob("*.pyc")))


def main() -> int:
    """Runs the tests; returns the exit status."""
    return not unittest.main(exit=False).result.wasSuccessful()


if __name__ == "__main__":
    sys.exit(main())
