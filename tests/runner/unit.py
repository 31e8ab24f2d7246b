# SPDX-License-Identifier: GPL-2.0
"""Tests of the runner of scripts/test that need no root and no guest.

Run anywhere: python3 tests/runner/unit.py.
"""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path
from unittest import mock

sys.dont_write_bytecode = True
PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT / "scripts" / "test.d"))

import cli  # noqa: E402
import ktap  # noqa: E402
import names  # noqa: E402
import options  # noqa: E402
import prepare  # noqa: E402
import results  # noqa: E402
import run  # noqa: E402
import shell  # noqa: E402
import suites  # noqa: E402
from errors import Failure  # noqa: E402
from pool import Job, Pool  # noqa: E402
from report import summary  # noqa: E402
from results import FAILED, PASSED, SKIPPED, Result, Test  # noqa: E402

PATIENCE_SECONDS = 60


def parsed(text: str) -> list[tuple[str, str, str]]:
    """The tests in an output."""
    lines = results.lines_of(text.encode())
    return [(one.name, one.outcome, one.note) for one in results.tests_of(lines)]


class Lines(unittest.TestCase):
    """Tests in the output of a suite."""

    def test_of_each_harness(self) -> None:
        for line, wanted in (
            ("test merge::a       ... ok\r", ("merge::a", PASSED, "")),
            ("test merge::a ... FAILED", ("merge::a", FAILED, "")),
            ("test merge::a ... ignored", ("merge::a", SKIPPED, "")),
            ("test merge::a ... ignored, no huge pages", ("merge::a", SKIPPED, "no huge pages")),
            ("test pins ... ok (seed 0x1f, 3.1 s)", ("pins", PASSED, "(seed 0x1f, 3.1 s)")),
            ("test pins ... ignored: no memory", ("pins", SKIPPED, "no memory")),
            ("test module::a_b ... ignored, idle none passes", ("module::a_b", SKIPPED, "idle none passes")),
            ("test kasan ... FAILED: it was not run", ("kasan", FAILED, "it was not run")),
            ("test instrumented a/b.o ... ok", ("instrumented a/b.o", PASSED, "")),
        ):  # fmt: skip
            self.assertEqual(parsed(line), [wanted])

    def test_other_lines_are_no_tests(self) -> None:
        for line in (
            "test result: ok. 1 passed; 0 failed; 0 ignored", "  | test a ... ok", "ok", "running 2 tests",
            "test a", "ignored", "failures:",
        ):  # fmt: skip
            self.assertEqual(parsed(line), [])

    def test_output_within_the_line_of_a_test(self) -> None:
        text = "test a ... cleaning up: busy\nok\ntest b ... more\nmore\nignored, why\nok\n"
        self.assertEqual(parsed(text), [("a", PASSED, ""), ("b", SKIPPED, "why")])

    def test_of_programs_of_cargo(self) -> None:
        text = """
     Running unittests src/lib.rs (/build/target/debug/deps/engine-0123456789abcdef)
test a ... ok
test result: ok. 1 passed
     Running engine.rs (/build/target/debug/deps/engine-fedcba9876543210)
test a ... ok
test result: ok. 1 passed
   Doc-tests engine
test rust/engine/a.rs - a::B (line 12) ... ok
test rust/engine/a.rs - a::B (line 34) ... ok
test result: ok. 2 passed
test coverage ... ok
"""
        self.assertEqual(
            [name for name, _, _ in parsed(text)],
            ["unittests engine::a", "engine::a", "examples engine::rust/engine/a.rs - a::B",
             "examples engine::rust/engine/a.rs - a::B (2)", "coverage"],
        )  # fmt: skip

    def test_complaints(self) -> None:
        text = "a\n---- merge::a ----\nwhy\n\nb\n  | splat\nvm: failed\ntest a ... FAILED"
        found = results.complaints_of(text.split("\n"))
        self.assertEqual(found, ("---- merge::a ----", "why", "  | splat", "vm: failed", "test a ... FAILED"))
        last = results.complaints_of([str(one) for one in range(20)])
        self.assertEqual(last, tuple(str(one) for one in range(12, 20)))
        many = results.complaints_of(["vm: x"] * 99)
        self.assertEqual(len(many), results.COMPLAINTS)


class Judging(unittest.TestCase):
    """The result of a suite."""

    def result(self, outcomes: list[str], status: int = 0, objections: tuple = ()) -> Result:
        tests = [Test(f"t{number}", outcome) for number, outcome in enumerate(outcomes)]
        return results.judge(tests, status, list(objections), "LOG")

    def test_all_is_well(self) -> None:
        self.assertEqual(self.result([PASSED, PASSED, SKIPPED]), Result(2, 0, 1))

    def test_a_failed_test(self) -> None:
        wanted = Result(1, 2, 0, "2 tests failed, see LOG")
        self.assertEqual(self.result([FAILED, PASSED, FAILED], 1, ("missing: a",)), wanted)

    def test_a_status(self) -> None:
        wanted = Result(1, 1, 0, "ended with status 124, see LOG")
        self.assertEqual(self.result([PASSED], 124, ("missing: a",)), wanted)

    def test_other_names(self) -> None:
        self.assertEqual(self.result([PASSED], 0, ("missing: a", "b")), Result(1, 1, 0, "missing: a; b"))

    def test_nothing(self) -> None:
        self.assertEqual(self.result([]), Result(0, 1, 0, "ran no test, see LOG"))

    def test_sums(self) -> None:
        for given, wanted, passed in (
            ({"a": Result(3, 0, 1), "b@k": Result(4, 0, 0)}, "7 passed, 0 failed, 1 skipped\n", True),
            ({"a": Result(3, 0, 1), "b@k": Result(1, 2, 0, "why", ("line",))},
             "FAILED b@k: why\n    line\n4 passed, 2 failed, 1 skipped\n", False),
        ):  # fmt: skip
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                self.assertEqual(summary(given), passed)
            self.assertEqual(out.getvalue(), wanted)


class WithLists(unittest.TestCase):
    """A directory of lists, with one list."""

    def setUp(self) -> None:
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.place = Path(place.name)
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        stack.enter_context(mock.patch("names.PLACE", self.place))
        names.write("merge", ["b", "a", "b"])


class Lists(WithLists):
    """Names of tests."""

    def test_are_sorted(self) -> None:
        self.assertEqual((self.place / "merge").read_text(encoding="utf-8"), f"{names.HEADER}a\nb\n")
        self.assertEqual(names.read("merge"), {"a", "b"})

    def test_that_are_missing_or_new(self) -> None:
        new = "not in tests/names/merge: c: run scripts/test --update-names merge"
        for found, wanted in (
            ("ab", []), ("a", ["missing: b"]), ("abc", [new]), ("bc", ["missing: a", new]),
        ):  # fmt: skip
            self.assertEqual(names.objections("merge", found), wanted)

    def test_without_a_list(self) -> None:
        self.assertIn("not in tests/names/cow: a: run", names.objections("cow", "a")[0])

    def test_message_is_not_endless(self) -> None:
        names.write("merge", [f"{one:03}" for one in range(99)])
        self.assertTrue(names.objections("merge", [])[0].endswith(", 011 and 87 more"))


class CheckedIn(unittest.TestCase):
    """The lists of this project."""

    def test_each_suite_has_one(self) -> None:
        lists = {one.name for one in names.PLACE.iterdir()}
        self.assertEqual(lists, {one.name for one in suites.SUITES})

    def test_are_as_the_runner_writes_them(self) -> None:
        for suite in suites.SUITES:
            found = sorted(names.read(suite.name))
            wanted = names.HEADER + "".join(f"{name}\n" for name in found)
            self.assertTrue(found)
            self.assertEqual(names.file_of(suite.name).read_text(encoding="utf-8"), wanted)

    def test_names_do_not_vary(self) -> None:
        varying = re.compile(r"(^|\s)/|0x[0-9a-f]|[0-9a-f]{8}|line \d|\d s\b")
        for suite in suites.SUITES:
            found = [one for one in names.read(suite.name) if varying.search(one)]
            self.assertEqual(found, [])


class Ktap(unittest.TestCase):
    """The protocol."""

    def test_text(self) -> None:
        tests = [
            Test("a", PASSED, "(3 s)"), Test("b#", FAILED), Test("c", SKIPPED, "why"), Test("d", SKIPPED),
        ]  # fmt: skip
        wanted = """KTAP version 1
1..5
ok 1 a
not ok 2 b_
ok 3 c # SKIP why
ok 4 d # SKIP
not ok 5 e # ERROR missing
# 1 tests failed
"""
        self.assertEqual(ktap.text_of(tests, ["e"], "1 tests failed"), wanted)
        self.assertEqual(ktap.text_of([], [], ""), "KTAP version 1\n1..0\n")


class Table(unittest.TestCase):
    """The suites and their names."""

    @staticmethod
    def chosen(*wanted: str) -> list[str]:
        return [str(one) for one in suites.targets(wanted)]

    def test_names(self) -> None:
        with mock.patch("shell.holds", lambda _, kernel: kernel in ("stock", "debug")):
            found = self.chosen("merge", "merge@debug", "host")
            self.assertEqual(found, ["merge@stock", "merge@debug", "host"])
            self.assertEqual(self.chosen("movable_short", "judges"), ["movable_short@debug", "judges@stock"])
            self.assertEqual(self.chosen("merge", "merge@stock"), ["merge@stock"])
            for name in ("none", "merge@none", "merge@", "host@stock", ""):
                with self.assertRaisesRegex(Failure, f"^there is no suite '{name}'$"):
                    self.chosen("merge", name)

    def test_names_of_many(self) -> None:
        self.assertEqual(self.chosen("uml"), [f"{one}@uml" for one in ("merge", "cow", "unmerge", "reload")])
        self.assertEqual(self.chosen()[:3], ["host", "lint", "control@stock"])
        self.assertEqual(self.chosen()[2:], self.chosen("guest"))
        self.assertEqual({one.partition("@")[2] for one in self.chosen("debug")}, {"debug"})
        for name in ("tools", "judges", "stress", "dkms", "prebuilt"):
            self.assertFalse([one for one in self.chosen() + self.chosen("debug") if one.startswith(name)])

    def test_names_are_unique(self) -> None:
        self.assertEqual(len({one.name for one in suites.SUITES}), len(suites.SUITES))

    def test_options_are_expanded_only_for_a_suite_that_runs(self) -> None:
        calls = []

        def lines(function: str, *arguments: str) -> list[str]:
            calls.append((function, *arguments))
            return ["--some", function]

        with mock.patch("shell.lines", lines), mock.patch("shell.holds", return_value=True):
            found = suites.Target(next(one for one in suites.SUITES if one.name == "cow"), "debug").command()
        self.assertEqual(calls, [("guest_programs", "debug"), ("zram_options", "debug")])
        self.assertEqual(found, [
            "scripts/vm", "--kernel", "debug", "--timeout", str(600 * 5 * 4),
            "--copy", "root:--some/ksm_v_guest_tests", "--some", "zram_options",
            "--", "./ksm_v_guest_tests", "cow",
        ])  # fmt: skip

    def test_options(self) -> None:
        given = ("--a b", options.provoking("x", "y"), lambda kernel: [f"a word of {kernel}"])
        self.assertEqual(options.expand(given, "k"), [
            "--a", "b", "--copy", "root:/build/k/ksm_v_x.ko", "--copy", "root:/build/k/ksm_v_y.ko",
            "a word of k",
        ])  # fmt: skip

    def test_commands_on_this_host(self) -> None:
        commands = {str(one): one.command() for one in suites.targets(["host", "packages", "vm"])}
        self.assertEqual(commands["packages@stock"], ["tests/packages/run", "deb"])
        self.assertEqual(commands["host"][:2], ["sh", "-ec"])


class Preparing(unittest.TestCase):
    """Suites that are skipped, and what they need."""

    @staticmethod
    def target(name: str) -> suites.Target:
        plain, _, kernel = name.partition("@")
        return suites.Target(next(one for one in suites.SUITES if one.name == plain), kernel)

    def test_suites_of_x86_are_skipped_on_arm64(self) -> None:
        with mock.patch("shell.line", lambda _, kernel: "arm64" if kernel == "arm64" else "amd64"):
            for name, skipped in (
                ("kvm@arm64", True), ("merge@arm64", False), ("kvm@stock", False), ("host", False),
            ):  # fmt: skip
                self.assertEqual((name, bool(prepare.objection(self.target(name)))), (name, skipped))

    def test_a_kernel_that_has_gone(self) -> None:
        calls = []

        def succeeds(*command: str) -> bool:
            calls.append(command[0])
            return command[-1] != "--offered"

        with mock.patch("shell.line", return_value="/none"), mock.patch("shell.succeeds", succeeds):
            target = self.target(f"flood@{suites.PREVIOUS}")
            self.assertEqual(prepare.objection(target), "there is no such kernel any more")
            self.assertEqual(prepare.objection(self.target("flood@stock")), "")
        self.assertEqual(calls, ["scripts/setup", "scripts/root"])

    def test_errors_of_a_build(self) -> None:
        text = ["make", "error[E1]: bad", *map(str, range(20)), "a.c:1: error: x", "y"]
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("\n".join(text))
            file.flush()
            found = prepare.errors_of(Path(file.name))
        self.assertEqual(found, ["error[E1]: bad", *map(str, range(12)), "a.c:1: error: x", "y"])


class Running(WithLists):
    """Whole runs, with a command in place of the suite merge."""

    def setUp(self) -> None:
        super().setUp()
        self.target = suites.Target(next(one for one in suites.SUITES if one.name == "merge"), "k")
        self.out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)

    def run_script(self, script: str, updates_names: bool = False, jobs: int = 2) -> Result:
        """The result of a suite that runs a script."""
        command = ["bash", "-c", script]
        with (
            contextlib.redirect_stdout(self.out),
            mock.patch("shell.directory", return_value=self.place),
            mock.patch("run.objection", return_value=""),
            mock.patch("run.prepare", return_value=True),
            mock.patch("suites.Target.command", return_value=command),
        ):
            pool = Pool(jobs)
            one = run.Run([self.target], pool, updates_names)
            one.start_all()
            pool.wait()
        return one.results["merge@k"]

    def text(self, name: str) -> str:
        return (self.place / name).read_text(encoding="utf-8")

    def shown(self) -> str:
        return self.out.buffer.getvalue().decode()

    def test_passes(self) -> None:
        script = "echo test a ... ok; echo test b ... ignored, $KSM_V_KERNEL >&2"
        self.assertEqual(self.run_script(script), Result(1, 0, 1))
        log = "test a ... ok\ntest b ... ignored, k\n"
        self.assertEqual(self.text("test-merge@k.log"), log)
        self.assertEqual(self.text("test-merge@k.ktap"), "KTAP version 1\n1..2\nok 1 a\nok 2 b # SKIP k\n")
        self.assertEqual(self.text("test-merge@k.result"), "1 0 1\n")
        self.assertRegex(
            self.shown(), rf"^== merge@k\n{log}== merge@k: 1 passed, 0 failed, 1 skipped in \d+ s\n\n$"
        )

    def test_fails(self) -> None:
        for script, why in (
            ("echo test a ... ok; echo test b ... FAILED; exit 1", "1 tests failed, see .*/test-merge@k.log"),
            ("echo test a ... ok; echo test b ... ok; exit 3", "ended with status 3, see .*"),
            ("kill -TERM $$", "ended with status 143, see .*"),
            ("echo test a ... ok", "missing: b"),
            ("printf 'test %s ... ok\\n' a b c", "not in tests/names/merge: c: run .*"),
        ):
            found = self.run_script(script)
            self.assertRegex(found.why, f"^{why}$")
            self.assertEqual(found.failed, 1)
            self.assertEqual(self.text("test-merge@k.result").split(" ", 3)[3], f"{found.why}\n")
        self.assertIn("# not in", self.text("test-merge@k.ktap"))

    def test_streams_the_output_of_one_job(self) -> None:
        script = "printf 'test a ... '; read <fifo; echo ok; echo test b ... ok"
        os.mkfifo(self.place / "fifo")
        script = script.replace("fifo", str(self.place / "fifo"))
        thread = threading.Thread(target=self.run_script, args=(script, False, 1))
        thread.start()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.shown().endswith("test a ... ") and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(self.shown(), "== merge@k\ntest a ... ")
        (self.place / "fifo").write_text("\n", encoding="utf-8")
        thread.join()
        self.assertIn("test a ... ok\n", self.shown())

    def test_updates_names(self) -> None:
        self.assertEqual(self.run_script("printf 'test %s ... ok\\n' d c", True), Result(2, 0, 0))
        self.assertEqual(names.read("merge"), {"c", "d"})
        self.assertTrue(self.run_script("echo test a ... ok; exit 1", True).why)
        self.assertEqual(names.read("merge"), {"c", "d"})

    def test_a_suite_whose_options_fail(self) -> None:
        with mock.patch("run.Run._judge") as judge:
            with (
                contextlib.redirect_stdout(self.out),
                mock.patch("shell.directory", return_value=self.place),
                mock.patch("run.objection", return_value=""),
                mock.patch("run.prepare", return_value=True),
                mock.patch("suites.Target.command", side_effect=Failure("no python3")),
            ):
                one = run.Run([self.target], Pool(1), False)
                one.start_all()
        judge.assert_not_called()
        self.assertEqual(one.results["merge@k"], Result(0, 1, 0, "not run, no python3"))


class Ending(unittest.TestCase):
    """A pool that is ended."""

    def test_ends_what_a_command_started(self) -> None:
        with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
            pool, judge = Pool(2), mock.Mock()
            for name in ("one", "other"):
                script = f"trap '' TERM; sleep 600 & echo $! $$ >{place}/{name}; wait; wait"
                pool.start(Job(name, ["bash", "-c", script], {}, Path(place, f"{name}.log"), judge))
            files = [Path(place, one) for one in ("one", "other")]
            while not all(one.exists() and one.read_text(encoding="utf-8") for one in files):
                time.sleep(0.01)
            with mock.patch("pool.END_SECONDS", 1):
                pool.end()
            pool.wait()
            judge.assert_not_called()
            for pid in [int(word) for one in files for word in one.read_text(encoding="utf-8").split()]:
                self.assertFalse(_runs(pid))

    def test_starts_nothing_more(self) -> None:
        pool, judge = Pool(1), mock.Mock()
        pool.end()
        pool.start(Job("one", ["false"], {}, Path("/dev/null"), judge))
        pool.wait()
        judge.assert_not_called()


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended may still wait for its parent."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False


class CommandLine(unittest.TestCase):
    """The command line."""

    @staticmethod
    def said(*arguments: str) -> tuple[int, str, str]:
        """The status, the output and the errors of scripts/test."""
        done = subprocess.run(
            [sys.executable, "-I", str(PROJECT / "scripts/test"), *arguments],
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def test_help_and_list(self) -> None:
        status, out, err = self.said("--help")
        self.assertEqual((status, err), (0, ""))
        self.assertTrue(out.startswith("usage: scripts/test "))
        status, out, err = self.said("--list")
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(out.split("\n")[:3], ["host", "lint", "control@stock"])

    def test_order(self) -> None:
        found = cli.parse(["merge", "--jobs", "2", "cow", "--update-names"])
        self.assertEqual((found.suites, found.jobs, found.update_names), (["merge", "cow"], 2, True))

    def test_errors(self) -> None:
        for arguments, text in (
            (["--jobs", "0"], "--jobs '0' is not a number above 0"),
            (["--jobs", "x"], "--jobs 'x' is not a number above 0"),
            (["--jobs"], "argument --jobs: expected one argument"),
            (["--none"], "unrecognized arguments: --none"),
        ):
            status, out, err = self.said(*arguments)
            self.assertEqual((status, out), (1, ""))
            self.assertTrue(err.startswith(f"test: error: {text}\n"), err)


class Bench(unittest.TestCase):
    """scripts/bench, as far as it needs neither a root nor a guest."""

    def said(self, *words: str) -> tuple[int, str, str]:
        """The exit status and the outputs of scripts/bench, where nothing can be built."""
        with tempfile.TemporaryDirectory() as place:
            # In the root, and outside of it.
            Path(place, "cargo").symlink_to("/bin/false")
            places = {"KSM_V_CACHE": f"{place}/cache", "PATH": f"{place}:{os.environ['PATH']}"}
            done = subprocess.run(
                [PROJECT / "scripts/bench", *words], check=False, capture_output=True, text=True,
                env=os.environ | places,
            )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def test_list(self) -> None:
        for words, guests in ((("--list",), "counting demo named parallel"), (("--native", "--list"), "native")):
            code, out, err = self.said(*words)
            self.assertEqual((code, err), (0, ""))
            lines = [line.split() for line in out.split("\n")[:-1]]
            self.assertEqual({guest for _, guest in lines}, set(guests.split()))
            self.assertIn("unique-64", [name for name, _ in lines])

    def test_names_that_are_no_works(self) -> None:
        for words, name in ((["unique"], "unique"), (["unique-64", "x"], "x"), (["--native", "zero-64"], "zero-64")):
            said = f"bench: error: there is no work '{name}'\n  see scripts/bench --list\n"
            self.assertEqual(self.said(*words), (1, "", said))

    def test_works_are_built(self) -> None:
        code, out, err = self.said("unique-64")
        self.assertNotEqual(code, 0)
        self.assertNotIn("there is no work", err)
        self.assertEqual(out, "")


def main() -> int:
    """Runs the tests; returns the exit status."""
    return not unittest.main(exit=False).result.wasSuccessful()


if __name__ == "__main__":
    sys.exit(main())
