# SPDX-License-Identifier: GPL-2.0
"""Tests of the parts of ksmv that need no kernel, of its manual, and of `make install-tools`.

Run anywhere: python3 tests/tool/unit.py.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
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

from ksmv import cli, completion, estimate, frames, layout, lines, metrics, module, pages  # noqa: E402
from ksmv import policy, processes, progress, reasons, records, shared  # noqa: E402
from ksmv import screen, status, text, view, why  # noqa: E402
from ksmv.arguments import parser  # noqa: E402
from ksmv.credentials import Cause, Standing  # noqa: E402
from ksmv.errors import Failure  # noqa: E402
from ksmv.knobs import KNOBS  # noqa: E402
from ksmv.policy import Policy  # noqa: E402
from ksmv.processes import Process, Skipped  # noqa: E402
from ksmv.savings import Report, Saving  # noqa: E402
from ksmv.sharers import Sharer, Sharing  # noqa: E402
from ksmv.status import Counts, Status  # noqa: E402

COMMANDS = next(one for one in parser()._actions if one.dest == "command").choices
PROCESS = Process(7, "name", 1000, 100, False, "/a", "/nowhere/7")
ORDINARY, UNDUMPABLE = Standing(), Standing(dumpable=False)

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
        self.assertIsNone(Policy().objection(area("rd wr mr mw me ac"), ORDINARY))

    def test_what_is_kept_private(self) -> None:
        for flag, reason in (
            ("lo", "locked"), ("wf", "wipe_on_fork"), ("dd", "not_dumped"), ("ss", "shadow_stack"),
            ("dc", "not_forked"),
            ("uw", "userfaultfd"), ("ui", "userfaultfd"), ("ur", "userfaultfd"), ("um", None),
        ):  # fmt: skip
            self.assertEqual(Policy().objection(area(f"rd {flag}"), ORDINARY), reason)
            self.assertIsNone(Policy().objection(area(f"mg {flag}"), UNDUMPABLE))

    def test_what_is_impossible(self) -> None:
        for flag, reason in (
            ("sh", "shared"), ("ht", "hugetlb"), ("dp", "droppable"), ("pf", "special"),
            ("io", "special"), ("mm", "special"), ("de", "special"),
        ):  # fmt: skip
            self.assertEqual(Policy().objection(area(f"mg {flag}"), ORDINARY), reason)
        self.assertEqual(Policy().objection(area("mg", private=False), ORDINARY), "shared")

    def test_who_is_not_dumpable(self) -> None:
        self.assertEqual(Policy().objection(area("rd"), UNDUMPABLE), "not_dumpable")

    def test_who_may_register(self) -> None:
        self.assertIsNone(Policy().objection(area("mg"), replace(UNDUMPABLE, changed_ids=True)))
        for fact in ({"secure_exec": True}, {"readable": False}, {"capable": True}):
            standing = replace(UNDUMPABLE, **fact)
            self.assertEqual(Policy().objection(area("mg"), standing), "not_dumpable")
            self.assertIsNone(Policy().objection(area("mg"), replace(standing, dumpable=True)))

    def test_workers_are_merged_among_siblings(self) -> None:
        policy = Policy(undumpable="siblings")
        worker = replace(UNDUMPABLE, changed_ids=True, family="1")
        self.assertIsNone(policy.objection(area("rd"), worker))
        self.assertEqual(policy.objection(area("rd lo"), worker), "locked")
        leave = Policy(undumpable="leave")
        self.assertEqual(leave.objection(area("rd"), worker), "not_dumpable")
        for fact in (
            {"secure_exec": True}, {"readable": False}, {"changed_ids": False}, {"family": ""},
        ):  # fmt: skip
            standing = replace(worker, **fact)
            self.assertEqual(policy.objection(area("rd"), standing), "not_dumpable")
        # As credentials.rs: its capabilities are a part of its family, and bar registering only.
        capable = replace(worker, capable=True)
        self.assertIsNone(policy.objection(area("rd"), capable))
        self.assertEqual(policy.objection(area("mg"), capable), "not_dumpable")
        self.assertEqual(policy.domain_of(PROCESS, worker), policy.domain_of(PROCESS, worker))
        for other in (ORDINARY, replace(worker, family="2")):
            self.assertNotEqual(policy.domain_of(PROCESS, worker), policy.domain_of(PROCESS, other))

    def test_rules_in_force(self) -> None:
        files = {name: knob.default for name, knob in KNOBS.items()} | {"profile": "own"}
        files |= {"scope": "registered", "domain": "cgroup", "max_page_sharing": "7"}
        for undumpable in ("leave", "siblings"):
            found = why.rules(files | {"undumpable": undumpable})
            self.assertEqual(found, (Policy("registered", "cgroup", undumpable), 7))
        self.assertEqual(why.rules({}), (Policy(), 1024))
        for known, least in (
            (files | {"huge_min_parts": "9"}, 9), (files | {"profile": "compat"}, 1),
            ({}, int(KNOBS["huge_min_parts"].default)),
        ):  # fmt: skip
            self.assertEqual(why.least_parts(known), least)
            told = Reasons().only(fate=why.Fate(huge=2), files=known).told
            self.assertIn(f"less than {least} of 512 parts", told)

    def test_causes(self) -> None:
        for fact, cause in (
            ({"secure_exec": True, "changed_ids": True}, Cause.SECURE_EXEC),
            ({"readable": False, "changed_ids": True}, Cause.UNREADABLE),
            ({"changed_ids": True}, Cause.CHANGED_IDS), ({}, Cause.ITSELF),
        ):  # fmt: skip
            self.assertIs(replace(UNDUMPABLE, **fact).cause, cause)

    def test_who_has_several_ids(self) -> None:
        for flags in ("rd", "mg"):
            standing = Standing(several_ids=True)
            self.assertEqual(Policy().objection(area(flags), standing), "several_ids")

    def test_capabilities_are_a_domain(self) -> None:
        capable = replace(PROCESS, capabilities="400@1")
        self.assertNotEqual(Policy().domain_of(PROCESS), Policy().domain_of(capable))
        policy = Policy(domain="global")
        self.assertEqual(policy.domain_of(PROCESS), policy.domain_of(capable))

    def test_users_are_told_apart_by_group_too(self) -> None:
        other = replace(PROCESS, pid=8, gid=101)
        self.assertNotEqual(Policy().domain_of(PROCESS), Policy().domain_of(other))
        same = replace(PROCESS, pid=8)
        self.assertEqual(Policy().domain_of(PROCESS), Policy().domain_of(same))

    def test_scope(self) -> None:
        self.assertEqual(Policy("registered").objection(area("rd"), ORDINARY), "not_registered")
        self.assertIsNone(Policy("registered").objection(area("rd mg"), UNDUMPABLE))


class Sums(unittest.TestCase):
    """The savings of a content."""

    @staticmethod
    def content(frames: int, mappings: int, shared: int = 0, shared_mappings: int = 0):
        content = estimate.Content()
        content.own, content.mappings = frames, mappings
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

    def test_what_is_left_alone_adds_up(self) -> None:
        other = replace(PROCESS, pid=8)
        rows = [(PROCESS, Saving(3, 1, 1.5, Counter(locked=5))),
                (other, Saving(0, 0, 0, Counter(locked=1, shared=300)))]  # fmt: skip
        report = Report(rows, [], 0)
        self.assertEqual(report.total.left_alone, {"locked": 6, "shared": 300})
        self.assertEqual([row[0].pid for row in report.top_processes()], [8, 7])
        [heads, first, second] = lines.processes(report, None)
        self.assertEqual(heads.split()[5:8], ["left", "alone", "MiB"])
        self.assertEqual(first.split(), "0.0 0.0 0 0 301 1.2 shared 1000 8 name".split())
        self.assertEqual(second.split(), "2.5 0.0 3 1 5 0.0 locked 1000 7 name".split())
        self.assertEqual(records.report(report)["cgroups"][0]["left_alone_pages"]["shared"], 300)
        plain = Report([(PROCESS, Saving(3, 1, 1.5)), (other, Saving())], [], 0)
        self.assertEqual(len(lines.processes(plain, None)), 2)
        self.assertNotIn("left alone", lines.processes(plain, None)[0])

    def test_savings_add_up(self) -> None:
        report = Report([(PROCESS, Saving(3, 1, 1.5)), (PROCESS, Saving(3, 0, 1.5))], [], 0)
        self.assertEqual(report.total.saved_pages, 4)
        self.assertEqual(report.by_cgroup(), [("/a", 2, Saving(6, 1, 3))])


class Sampling(unittest.TestCase):
    """Estimates from a part of the contents."""

    @staticmethod
    def estimated(
        sample: int, contents: list[bytes], times: int = 3, exclusive: bool = True, same: bool = False
    ) -> estimate.Estimate:
        """The estimate for processes that each have these contents, in the same frames or in
        frames of their own, exclusive or not."""
        estimator = estimate.Estimator(Policy(), sample=sample)
        for number in range(times):
            met = [
                (pages.Page(0, frame + (not same) * number * len(contents), exclusive), content)
                for frame, content in enumerate(contents)
            ]
            meet = lambda process, standing, row, met=met: (  # noqa: E731
                one for one in (estimator._met(*page, False, row) for page in met) if one
            )
            with (
                mock.patch.object(estimator, "_meet", side_effect=meet),
                mock.patch("ksmv.credentials.of", return_value=ORDINARY),
            ):
                kept = estimator.add(replace(PROCESS, pid=number + 1))
            if sample and len(kept) > sample:
                raise AssertionError(f"{len(kept)} pages were kept")
        return estimator.result()

    def test_is_exact_while_all_is_remembered(self) -> None:
        contents = [bytes([number]) * pages.PAGE for number in range(100)]
        found = self.estimated(1000, contents)
        self.assertEqual(found.totals, estimate.Totals(300, 99, 3, 201))
        self.assertEqual((found.part, found.error), (1, 0))
        for row in found.rows:
            self.assertAlmostEqual(row.savable_pages, 67)

    def test_a_part_stands_for_all(self) -> None:
        contents = [number.to_bytes(8, "big") * 512 for number in range(2048)]
        outside = 0
        for _ in range(20):
            found = self.estimated(256, contents)
            self.assertLessEqual(found.part, 256 * 3 / len(contents))
            self.assertEqual(found.totals.frames, 3 * 2048)
            self.assertEqual(found.totals.zero_frames, 3)
            self.assertGreater(found.error, 0)
            outside += abs(found.totals.savable_pages - 2 * 2048 - 1) > found.error
            parts = sum(row.savable_pages for row in found.rows)
            self.assertAlmostEqual(parts, found.totals.savable_pages, delta=1)
        # One run in 20 is outside on average; that 8 are has a probability below 1 in 10,000.
        self.assertLess(outside, 8)

    def test_frames_of_forks_count_once(self) -> None:
        contents = [number.to_bytes(8, "big") * 512 for number in range(4096)]
        found = self.estimated(0, contents, exclusive=False, same=True)
        self.assertEqual(found.totals, estimate.Totals(4096, 4095, 1, 1))
        found = self.estimated(512, contents, exclusive=False, same=True)
        self.assertLess(found.part, 1)
        self.assertTrue(2048 < found.totals.frames < 8192, found.totals)
        self.assertLess(found.totals.savable_pages, 4096 / 8)
        found = self.estimated(256, [bytes(pages.PAGE)] * 200, times=20, exclusive=False)
        self.assertTrue(2000 < found.totals.zero_frames < 8000, found.totals)

    def test_a_process_that_exits_changes_nothing(self) -> None:
        def meet(process, standing, row):
            lots = range(256) if process.pid == 1 else range(256, 8000)
            for lot in lots:
                page = pages.Page(0, lot, True)
                yield estimate.Met(lot.to_bytes(8, "big"), lot, page, False)
            if process.pid == 2:
                raise ProcessLookupError

        estimator = estimate.Estimator(Policy(), sample=512)
        with (
            mock.patch.object(estimator, "_meet", side_effect=meet),
            mock.patch("ksmv.credentials.of", return_value=ORDINARY),
        ):
            estimator.add(replace(PROCESS, pid=1))
            with self.assertRaises(ProcessLookupError):
                estimator.add(replace(PROCESS, pid=2))
        found = estimator.result()
        self.assertEqual(len(found.rows), 1)
        self.assertLess(found.part, 1 / 8)
        self.assertEqual(found.totals.distinct_contents, 256)

    def test_memory_is_bounded(self) -> None:
        contents = [number.to_bytes(8, "big") * 512 for number in range(4096)]
        found = self.estimated(100, contents, times=2)
        self.assertLessEqual(sum(len(row.contents) for row in found.rows), 100)
        self.assertEqual(sum(len(row.contents) for row in self.estimated(0, contents).rows), 3 * 4095)

    def test_which_areas_are_shared_memory(self) -> None:
        swapbacked, of_file = 1 << 14, 1 << 11
        for name, private, word, found in (
            ("/memfd:ram (deleted)", False, swapbacked, "memfd:ram"),
            ("/memfd:ram (deleted)", True, swapbacked, "memfd:ram"),
            ("/dev/zero (deleted)", False, swapbacked, "MAP_SHARED"),
            ("/dev/shm/a", False, swapbacked, "/dev/shm/a"), ("/tmp/lib.so", True, swapbacked, None),
            ("/var/db", False, of_file, None), ("/memfd:ram (deleted)", False, 1 << 12, None),
        ):  # fmt: skip
            mapped = pages.Area(0, pages.PAGE, private, frozenset(), "00:01 7", name)
            space = mock.Mock(file_pages=lambda area: iter([pages.Page(0, 1, False)] * 3))
            segment = shared.segment(space, mapped, mock.Mock(of=lambda frame: word))
            self.assertEqual(segment, found and shared.Segment("00:01 7", found, 3))
            hugetlb = mapped._replace(flags=frozenset(["ht"]))
            self.assertIsNone(shared.segment(space, hugetlb, mock.Mock(of=lambda frame: word)))

    def test_likeness(self) -> None:
        contents = [number.to_bytes(8, "big") * 512 for number in range(1, 1001)]
        zeroes = [bytes(pages.PAGE)] * 7
        self.assertEqual(shared.likeness(contents + contents + zeroes), shared.Likeness(2007, 7, 1000))
        self.assertEqual(shared.likeness([]), shared.Likeness())
        found = shared.likeness((contents + contents) * 8, sample=400)
        self.assertTrue(0.5 * 15000 < found.equal < 1.5 * 15000, found)


class Reasons(unittest.TestCase):
    """The reasons why pages are not merged, and their cures."""

    @staticmethod
    def facts(left_alone: str = "", **more) -> why.Facts:
        """The facts of a process with a page left alone for one reason."""
        given = {
            "process": PROCESS, "standing": ORDINARY, "policy": Policy(), "files": {},
            "row": estimate.Row(PROCESS, 9, 2, Counter([left_alone] if left_alone else []), 0),
            "zero_pages": 1, "partners": 1, "fate": why.Fate(), "segments": [],
            "likeness": shared.Likeness(),
        }  # fmt: skip
        return why.Facts(**given | more)

    def only(self, *arguments, **more) -> reasons.Finding:
        """The only reason that holds."""
        [found] = reasons.findings(self.facts(*arguments, **more))
        return found

    def test_each_objection_of_the_policy_has_a_reason(self) -> None:
        objections = {*policy._IMPOSSIBLE.values(), *policy._PRIVATE.values()}
        for objection in objections | {"several_ids", "not_registered", "not_dumpable"}:
            found = self.only(objection)
            self.assertTrue(found.name.startswith(objection), found)
            self.assertTrue(found.cure and found.told)
            self.assertNotIn("\n", found.cure)

    def test_names_differ(self) -> None:
        names = [one.name for one in reasons.REASONS]
        self.assertEqual(len(names), len(set(names)))

    def test_nothing_holds(self) -> None:
        self.assertEqual(reasons.findings(self.facts()), [])

    def test_most_pages_first(self) -> None:
        fate = why.Fate(different=3, volatile=5, huge=4, crowded=2, waiting=1)
        found = [(one.name, one.pages) for one in reasons.findings(self.facts(fate=fate))]
        wanted = [("volatile", 5), ("huge", 4), ("different", 3), ("crowded", 2), ("waiting", 1)]
        self.assertEqual(found, wanted)

    def test_cures_of_workers(self) -> None:
        worker = replace(UNDUMPABLE, changed_ids=True)
        for files, cure in (
            ({}, "MemoryKSM=yes"), ({"undumpable": "leave"}, "ksmv set undumpable siblings"),
            ({"undumpable": "siblings"}, "MemoryKSM=yes"),
        ):  # fmt: skip
            found = self.only("not_dumpable", standing=worker, files=files)
            self.assertIn(cure, found.cure)
            self.assertEqual("its master has exited" in found.told, "siblings" in files.values())
        capable = replace(worker, capable=True)
        self.assertIn("none, by design", self.only("not_dumpable", standing=capable).cure)

    def test_who_is_alone(self) -> None:
        fate = why.Fate(different=3)
        for domain, cure in (
            ("user", "ksmv set domain global"), ("cgroup", "ksmv set domain user"),
            ("process", "ksmv set domain user"), ("global", "none is needed"),
        ):  # fmt: skip
            found = self.only(fate=fate, partners=0, policy=Policy(domain=domain))
            self.assertEqual((found.name, cure in found.cure), ("alone", True))
        worker = replace(UNDUMPABLE, changed_ids=True, family="1")
        rules = Policy(undumpable="siblings")
        found = self.only(fate=fate, partners=0, policy=rules, standing=worker)
        self.assertIn("forked from its master", found.told)

    def test_who_waits(self) -> None:
        fate = why.Fate(waiting=3)
        files = {"run": "1", "full_scans": "1", "promote_after": "3", "governor": "manual"}
        for change, told, cure in (
            ({"run": "0"}, "the scanner is stopped", "ksmv set run 1, or at once: ksmv set merge_now 7"),
            ({"run": "2"}, "the scanner is stopped", "ksmv set run 1"),
            ({}, "pass 2 of 3", "ksmv set governor auto, or at once: ksmv set merge_now 7"),
            ({"full_scans": "3", "governor": "auto"}, "ksm_v/refusals", "at once: ksmv set merge_now 7"),
        ):  # fmt: skip
            found = self.only(fate=fate, files=files | change)
            self.assertIn(told, found.told)
            self.assertEqual(found.cure, cure)
        self.assertIn("modprobe", self.only(fate=fate).cure)

    def test_shared_memory(self) -> None:
        guest = replace(PROCESS, name="qemu-system-x86")
        for process, cure in ((guest, "memory-backend-ram,share=off"), (PROCESS, "MAP_PRIVATE")):
            found = self.only("shared", process=process, likeness=shared.Likeness(9, 4, 2))
            self.assertIn(cure, found.cure)
            self.assertIn("4 pages of zeroes, 2 equal", found.told)

    def test_huge_pages_worth_splitting(self) -> None:
        head, tail = 1 << 15, 1 << 16
        words = {512: head} | dict.fromkeys(range(513, 1024), tail) | {1024: head, 1028: head}
        words |= dict.fromkeys((1025, 1026, 1027), tail)
        flags = mock.Mock(of=lambda frame: words.get(frame, 0))
        self.assertEqual([frames.folio_of(flags, one) for one in (600, 1026, 7)],
                         [(512, 512), (1024, 4), (7, 1)])  # fmt: skip
        met = [estimate.Met(b"a", 0, pages.Page(0, frame, True), False)
               for frame in (*range(520, 580), 1025, 7)]  # fmt: skip
        huge = frozenset(range(520, 580))
        for scale, least, kept in (
            (1, 1, frozenset()), (1, 60, frozenset()), (1, 61, huge), (2, 61, frozenset()),
            (1, 129, huge | {1025}), (1, 0, huge | {1025}),
        ):  # fmt: skip
            self.assertEqual((least, why.kept_huge(met, flags, scale, least)), (least, kept))

    def test_lines(self) -> None:
        shown = lines.why(self.facts("locked", segments=[shared.Segment("0:1 2", "memfd:x", 256)]))
        self.assertEqual(shown[0], "name (PID 7, uid 1000), domain user, scope all: 3 of its pages are"
                         " merged (0.0 MiB); not merged are")  # fmt: skip
        self.assertEqual(shown[2].split()[:2], ["1", "0.0"])
        self.assertIn("  cure: MemoryKSM=yes", shown[3])
        self.assertEqual(shown[4], "  shared memory, never merged: 1.0 MiB: 1.0 MiB of memfd:x")


def counted(at: float = 1, **changes: object) -> Counts:
    """The module's counts at some moment: all 1 but these, with some settings."""
    names = (
        "pages_sharing", "zero_pages", "cpu_ns", "pages_scanned", "pages_skipped", "full_scans",
        "pass_pages", "last_pass_pages", "run", "pages_shared", "index_bytes",
    )  # fmt: skip
    values = dict.fromkeys(names, "1") | {"profile": "own", "movable": "1", "promise_held": "0"}
    values |= {name: str(value) for name, value in changes.items()}
    settings = {"promote_after": "3", "governor": "manual", "domain": "user", "scope": "all"}
    settings = {name: values.get(name, value) for name, value in settings.items()}
    return Counts(at, values, module.Settings(settings, settings))


class Progress(unittest.TestCase):
    """Where the scanner is, and when the saving is there."""

    @staticmethod
    def status(**changes: object) -> Status:
        """The status after 10 s in which 900 pages were scanned and 100 skipped."""
        before = counted(5, pages_scanned=100, pages_skipped=50, cpu_ns=0)
        wanted = {"pages_scanned": 1000, "pages_skipped": 150, "cpu_ns": 10**9, "full_scans": 1,
                  "pass_pages": 2000, "last_pass_pages": 8000}  # fmt: skip
        return Status(before, counted(15, **wanted | changes))

    def line(self, **changes: object) -> str:
        """The line on the pass."""
        shown = lines.status(self.status(**changes))
        return next(line for line in shown if line.startswith("  pass "))

    def test_rate_and_times(self) -> None:
        found = self.status().progress
        self.assertEqual((found.rate, found.percent), (100, 25))
        self.assertEqual((found.pass_seconds, found.left_seconds), (80, (2 * 8000 - 2000) / 100))
        self.assertEqual(self.status().cpu_percent, 10)

    def test_it_never_exceeds_a_pass(self) -> None:
        found = self.status(pass_pages=9000, full_scans=2).progress
        self.assertEqual((found.percent, found.left_seconds), (100, 0))

    def test_before_the_first_pass_ends(self) -> None:
        with mock.patch("ksmv.status.anonymous_pages", return_value=4000):
            found = self.status(last_pass_pages=0, full_scans=0)
            self.assertEqual((found.progress.length, found.progress.is_guess), (4000, True))
            self.assertIn("50% of about 15.6 MiB done", self.line(last_pass_pages=0, full_scans=0))

    def test_line(self) -> None:
        for changes, told in (
            ({}, "25% of 31.2 MiB done, 80 s a pass at this rate; most of the saving is there after"
                 " 3 passes, in 2 min"),
            ({"full_scans": 3}, "80 s a pass at this rate; what was there 3 passes ago is merged"),
            ({"run": 0}, "25% of 31.2 MiB done; the scanner is stopped: ksmv set run 1"),
            ({"pages_scanned": 100, "pages_skipped": 50}, "no progress in 10.0 s"),
            ({"promise_held": 1, "promise_floor": "10%", "promise_worst": 512},
             "held: less memory is available than promise_floor (10%) or the worst minute of"
             " copies (2.0 MiB) demands"),
            ({"promise_held": 1, "promise_floor": "64", "promise_worst": 0},
             "promise_floor (64 MiB) or the worst minute of copies (0.0 MiB) demands"),
        ):  # fmt: skip
            self.assertEqual(self.line(**changes).endswith(told), True, self.line(**changes))

    def test_hint_at_the_governor(self) -> None:
        for changes, hinted in (
            ({}, False), ({"last_pass_pages": 800_000}, True),
            ({"last_pass_pages": 800_000, "governor": "auto"}, False),
            ({"last_pass_pages": 800_000, "run": 0}, False),
            ({"last_pass_pages": 800_000, "full_scans": 3}, False),
            ({"pages_scanned": 100, "pages_skipped": 50}, True),
            ({"promise_held": 1, "promise_floor": "1", "promise_worst": 0}, False),
        ):  # fmt: skip
            shown = "\n".join(lines.status(self.status(**changes)))
            self.assertEqual((changes, "ksmv set governor auto" in shown), (changes, hinted))

    def test_hint_at_khugepaged(self) -> None:
        for enabled, changes, shared, zero in (
            ("[always] madvise never", {}, 256, 511), ("always madvise [never]", {}, 0, 0),
            ("always [madvise] never", {"huge_min_parts": 256}, 256, 511),
            ("[always] madvise never", {"huge_min_parts": 257}, 0, 511),
            ("[always] madvise never", {"huge_min_parts": 512}, 0, 0),
            ("[always] madvise never", {"movable": 0}, 0, 511),
            ("[always] madvise never", {"run": 0}, 0, 0),
        ):  # fmt: skip
            with tempfile.TemporaryDirectory() as name:
                place = Path(name)
                (place / "khugepaged").mkdir()
                (place / "enabled").write_text(enabled)
                (place / "khugepaged/max_ptes_shared").write_text("256\n")
                (place / "khugepaged/max_ptes_none").write_text("511\n")
                with mock.patch("ksmv.khugepaged.PLACE", place):
                    shown = "\n".join(lines.status(self.status(**changes)))
            self.assertEqual((changes, f"up to {shared} shared" in shown), (changes, shared > 0))
            self.assertEqual((changes, f"up to {zero} pages of" in shown), (changes, zero > 0))

    def test_durations(self) -> None:
        found = [layout.duration(one) for one in (0.4, 119, 120, 7199, 7200, 172799, 172800)]
        self.assertEqual(found, ["0 s", "119 s", "2 min", "120 min", "2 h", "48 h", "2 d"])

    def test_processes_only_on_demand(self) -> None:
        with mock.patch("ksmv.savings.report", side_effect=AssertionError), \
                mock.patch("ksmv.status.Counts.read", side_effect=[counted(1), counted(2)]), \
                mock.patch("time.sleep"):  # fmt: skip
            found = status.once()
        self.assertNotIn("report", records.status(found))
        self.assertIn("--rows N", lines.status(found)[-1])

    def test_namespaces(self) -> None:
        for number, seen in ((0xEFFFFFFC, True), (4026532000, False)):
            with mock.patch("os.stat", return_value=mock.Mock(st_ino=number)):
                self.assertEqual(processes.sees_all(), seen)
                self.assertEqual(records.report(Report([], [], 0))["sees_all_processes"], seen)
                told = "\n".join(lines.report(Report([], [], 0), "process", None))
                self.assertEqual("only processes of this PID namespace" in told, not seen)


# The rules of OpenMetrics 1.0 that hold for counters and gauges.
_METADATA = re.compile(r"# (HELP|TYPE|UNIT) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,(?!$)|$)')
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")


class MetricFamily:
    """A metric family of an OpenMetrics text."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.about: dict[str, str] = {}
        self.samples: dict[tuple[tuple[str, str], ...], float] = {}

    def add_about(self, what: str, told: str) -> None:
        """Adds metadata, which precede samples."""
        expect(what not in self.about and not self.samples, f"{what} of {self.name}")
        if what == "TYPE":
            expect(told in ("counter", "gauge"), f"{told}: a type unknown to node_exporter")
        if what == "UNIT":
            expect(self.name.endswith(f"_{told}"), f"{self.name} does not end with {told}")
        if what == "HELP":
            expect(re.fullmatch(r'(?:[^\\"]|\\[\\"n])*', told), f"bad escapes in {told}")
        self.about[what] = told

    def add_sample(self, name: str, labels: str, value: str) -> None:
        """Adds a sample."""
        expect(name == self.name + "_total" * (self.about["TYPE"] == "counter"), name)
        found = _LABEL.findall(labels)
        expect(_LABEL.sub("", labels) == "", f"labels {labels}")
        expect(len(dict(found)) == len(found), f"a label twice: {labels}")
        number = float(value)
        expect(self.about["TYPE"] == "gauge" or number >= 0, f"{name} is {value}")
        expect(tuple(sorted(found)) not in self.samples, f"{name} {labels} twice")
        self.samples[tuple(sorted(found))] = number


def expect(holds: object, told: str) -> None:
    """Fails if a rule of the format does not hold."""
    if not holds:
        raise ValueError(told)


def parse_metrics(shown: str) -> dict[str, MetricFamily]:
    """The families of an OpenMetrics text, by their names."""
    *told, end, nothing = shown.split("\n")
    expect((end, nothing) == ("# EOF", ""), f"ends with {end} {nothing}")
    families: dict[str, MetricFamily] = {}
    last = ""
    for line in told:
        if about := _METADATA.fullmatch(line):
            what, last, value = about.groups()
            is_new = last not in families
            expect(not is_new or not families or list(families.values())[-1].samples, line)
            expect(is_new or last == list(families)[-1], f"{last} in two places")
            families.setdefault(last, MetricFamily(last)).add_about(what, value)
        else:
            sample = _SAMPLE.fullmatch(line)
            expect(sample and last, f"no sample: {line}")
            families[last].add_sample(sample[1], sample[2] or "", sample[3])
    for name, family in families.items():
        expect(set(family.about) >= {"HELP", "TYPE"} and family.samples, name)
        expect(f"{name}_total" not in families, f"{name}_total is a sample of another, too")
    return families


class Metrics(unittest.TestCase):
    """ksmv metrics."""

    def facts(self) -> metrics.Facts:
        """The facts of a module with all counts."""
        files = {"pages_unshared": 7, "index_failures": 0, "cpu_ns": 1_500_000_000,
                 "pages_sharing": 3, "zero_pages": 2, "huge_pages_split": 9,
                 "promise_worst": 4}  # fmt: skip
        found = Report([(PROCESS, Saving(3, 1, 1.5)), (PROCESS, Saving(1, 0, 0.5))], [], 0)
        return metrics.Facts(Progress.status(**files), {"pinned": 5, "busy": 0}, "user", found)

    def test_keep_the_rules_of_the_format(self) -> None:
        found = parse_metrics("\n".join(metrics.lines(self.facts())) + "\n")
        wanted = {one.name for one in (*metrics.FAMILIES, metrics.LOADED)}
        self.assertEqual(found.keys(), wanted)

    def test_values(self) -> None:
        found = parse_metrics("\n".join(metrics.lines(self.facts())) + "\n")
        for name, labels, value in (
            ("loaded", (), 1), ("run", (), 1), ("cpu_seconds", (), 1.5),
            ("saved_bytes", (("by", "sharing"),), 3 * pages.PAGE),
            ("saved_bytes", (("by", "zeroes"),), 2 * pages.PAGE),
            ("refusals", (("reason", "pinned"),), 5), ("scanned_pages", (), 1000),
            ("pass_done_pages", (), 2000), ("pass_pages", (), 8000), ("pass_seconds", (), 80),
            ("huge_pages_split", (), 9), ("passes", (), 1), ("promise_held", (), 0),
            ("promise_worst_pages", (), 4),
            ("domain_saved_bytes", (("user", "1000"),), 3 * pages.PAGE),
        ):  # fmt: skip
            self.assertEqual((name, found[f"ksm_v_{name}"].samples[labels]), (name, value))
        [labels] = found["ksm_v_settings"].samples
        self.assertEqual(dict(labels)["scope"], "all")

    def test_savings_by_domain(self) -> None:
        other = replace(PROCESS, uid=2, cgroup="/b")
        nothing = replace(PROCESS, uid=3, cgroup="/c")
        rows = [(PROCESS, Saving(2, 0, 1)), (other, Saving(2, 0, 1)), (nothing, Saving())]
        for by, expected in (("user", {"1000", "2"}), ("cgroup", {"/a", "/b"})):
            facts = replace(self.facts(), by=by, savings=Report(rows, [], 0))
            found = {labels[by]: value for labels, value in metrics._saved_by(facts)}
            self.assertEqual(found, dict.fromkeys(expected, pages.PAGE))
        self.assertFalse([*metrics._saved_by(replace(self.facts(), savings=None))])

    def test_without_the_module(self) -> None:
        found = parse_metrics("\n".join(metrics.lines(None)) + "\n")
        self.assertEqual({name: one.samples for name, one in found.items()}, {"ksm_v_loaded": {(): 0}})

    def test_odd_labels(self) -> None:
        family = metrics.Family("a", "gauge", "", "b", lambda facts: [({"c": '"\\\n,d="'}, 1)])
        shown = "\n".join([*metrics._family(family, self.facts()), "# EOF", ""])
        self.assertEqual(parse_metrics(shown)["a"].samples, {(("c", '\\"\\\\\\n,d=\\"'),): 1})

    def test_the_checks_find_faults(self) -> None:
        about = "# HELP a_x b\n# TYPE a_x counter\n"
        self.assertEqual(parse_metrics(about + "a_x_total 1\n# EOF\n")["a_x"].samples, {(): 1})
        for wrong in (
            about + "a_x_total 1\n", about + "a_x_total 1\n# EOF\n\n", about + "a_x 1\n# EOF\n",
            about + "a_x_total -1\n# EOF\n", about + "# UNIT a_x y\na_x_total 1\n# EOF\n",
            about + "a_x_total 1\na_x_total 1\n# EOF\n", about + "# EOF\n", "a 1\n# EOF\n",
            about + 'a_x_total{b="1",b="2"} 1\n# EOF\n', about + "a_x_total one\n# EOF\n",
            about + "a_x_total{b=1} 1\n# EOF\n", "# HELP a b\n# TYPE a info\na 1\n# EOF\n",
            about + 'a_x_total{b="1",} 1\n# EOF\n', "# HELP a b\na 1\n# EOF\n",
            "# TYPE a gauge\na 1\n# EOF\n", about + "\na_x_total 1\n# EOF\n",
        ):  # fmt: skip
            with self.assertRaises((ValueError, KeyError), msg=wrong):
                parse_metrics(wrong)

    def test_a_file_is_replaced_at_once(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, "ksm_v.prom")
            path.write_text("before")
            with open(path, encoding="utf-8") as before:
                metrics.write(str(path), ["a", "# EOF"])
                self.assertEqual(before.read(), "before")
            self.assertEqual((path.read_text(), path.stat().st_mode & 0o777), ("a\n# EOF\n", 0o644))
            with mock.patch("os.replace", side_effect=OSError), self.assertRaises(OSError):
                metrics.write(str(path), ["b"])
            self.assertEqual([one.name for one in Path(place).iterdir()], ["ksm_v.prom"])

    def test_alerts_are_about_metrics_that_exist(self) -> None:
        alerts = (PROJECT / "Documentation/ksm_v-alerts.yaml").read_text(encoding="utf-8")
        exprs = re.findall(r"expr: (?:>-\n)?((?:.|\n)*?)\n        for|expr: (.*)\n", alerts)
        names = set(re.findall(r"\bksm_v_\w+", " ".join(map("".join, exprs))))
        samples = {one.name + "_total" * (one.kind == "counter") for one in metrics.FAMILIES}
        self.assertGreater(len(names), 5)
        self.assertLessEqual(names, samples)

    def test_dashboard_shows_metrics_that_exist(self) -> None:
        dashboard = json.loads((PROJECT / "Documentation/ksm_v-dashboard.json").read_text())
        exprs = [one["expr"] for panel in dashboard["panels"] for one in panel["targets"]]
        hosts = [one["query"]["query"] for one in dashboard["templating"]["list"] if one["name"] == "instance"]
        shown = set(re.findall(r"\bksm_v_\w+", " ".join(exprs + hosts)))
        families = (*metrics.FAMILIES, metrics.LOADED)
        samples = {one.name + "_total" * (one.kind == "counter") for one in families}
        self.assertLessEqual(shown, samples)
        self.assertGreater(len(shown), 15)
        for expr in exprs:
            counters = re.findall(r"(\w*\(?)(ksm_v_\w+_total)", expr)
            self.assertEqual([one for one in counters if one[0] != "rate("], [], expr)
        ids = [panel["id"] for panel in dashboard["panels"]]
        self.assertEqual(len(ids), len(set(ids)))


class Words(unittest.TestCase):
    """The output."""

    def test_tables(self) -> None:
        found = layout.table(("pages", "who"), (("1", "b"), ("1234567", "longer")), indent="")
        self.assertEqual(found, ["  pages  who", "      1  b", "1234567  longer"])

    def test_narrow_tables_keep_who_it_is(self) -> None:
        heads = ("saved pages", "MiB", "merged", "zero", "uid", "PID", "process")
        row = ("123456.5", "482.3", "123456", "7", "1000", "123456", "python3 /usr/bin/gunicorn app")
        self.addCleanup(layout.limit_width, None)
        for width, kept in ((120, heads), (60, heads[:3] + heads[4:]), (40, ("MiB", "uid", "PID", "process"))):  # fmt: skip
            layout.limit_width(width)
            head, line = layout.table(heads, [row])
            self.assertEqual([one for one in heads if one in head.split("  ") or f" {one}" in head], [*kept])
            self.assertLessEqual(len(line), width)

    def test_narrow_text_is_wrapped(self) -> None:
        line = "  cost     1.0 s of CPU since loaded, 3.0% of one CPU now"
        self.assertEqual(layout.wrapped(line, 80), [line])
        found = layout.wrapped(line, 40)
        self.assertEqual(" ".join(found).split(), line.split())
        self.assertLessEqual(max(map(len, found)), 40)
        self.assertTrue(all(one.startswith("    ") for one in found[1:]))

    def test_titles(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            process = replace(PROCESS, name="python3", path=place)
            self.assertEqual(processes.title(process), "python3")
            for command, title in (
                (b"/usr/bin/python3\0/usr/bin/gunicorn\0app:app\0", "python3 /usr/bin/gunicorn app:app"),
                (b"nginx: worker process\0\0\0", "nginx: worker process"), (b"", "python3"),
                (b"/usr/bin/python3\0", "python3"), (b"a\0" + b"b" * 200, "python3 " + "b" * 92),
            ):  # fmt: skip
                Path(place, "cmdline").write_bytes(command)
                self.assertEqual(processes.title(process), title)

    def test_a_screen_has_its_size_and_all_keys(self) -> None:
        rows = ["saved", "\x1b" * 39 + "x", *["row"] * 50]
        for width, height in ((40, 24), (120, 24), (40, 3)):
            found = screen.fitted(rows, width, height)
            self.assertLessEqual(max(map(len, found)), width)
            if height > 3:
                self.assertEqual(len(found), height - 1)
                self.assertTrue(found[1].startswith("\\x1b"))
            self.assertEqual(" ".join(" ".join(found).split())[-len(view.KEYS) :], view.KEYS)

    def test_keys_of_top(self) -> None:
        shown = view.View()
        self.assertEqual(shown.after("x"), shown)
        self.assertEqual(shown.after("u"), view.View("user", "saved"))
        self.assertEqual(shown.after("z"), view.View("process", "zero"))
        self.assertEqual(shown.after("c").after("m"), view.View("cgroup", "merged"))

    def test_orders_of_top(self) -> None:
        rows = [(replace(PROCESS, pid=pid), Saving(*saving)) for pid, saving in
                ((1, (5, 0, 4.0)), (2, (3, 9, 2.0)), (3, (6, 1, 1.0)))]  # fmt: skip
        report = Report(rows, [], 0)
        for order, pids in (("saved", [2, 1, 3]), ("merged", [3, 1, 2]), ("zero", [2, 3, 1])):
            found = [process.pid for process, _ in report.top_processes(order=order)]
            self.assertEqual((order, found), (order, pids))

    def test_plurals(self) -> None:
        found = [layout.plural(*one) for one in ((1, "page"), (2, "page"), (2, "pass"))]
        self.assertEqual(found, ["1 page", "2 pages", "2 passes"])

    @staticmethod
    def said(*arguments: str) -> tuple[int, str, str]:
        """The exit status, the standard output and the standard error of a command."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(arguments)
        return code, out.getvalue(), err.getvalue()

    def test_names_are_escaped(self) -> None:
        for name, shown in NAMES.items():
            self.assertEqual(text.printable(text.decode(name)), shown)

    def test_nothing_that_is_said_is_obeyed(self) -> None:
        process = Process(7, NASTY, 1000, 100, False, f"/{NASTY}", "/nowhere/7")
        skipped = [Skipped(8, NASTY)]
        counts = counted()
        report = Report([(process, Saving(1, 1, 1))], skipped, 0)
        row = estimate.Row(process, 1, 1, Counter({NASTY: 1}), 0)
        domain = estimate.Domain((process.cgroup,), 1, estimate.Totals(1))
        guess = estimate.Estimate([row], skipped, [domain], 0)
        sharing = Sharing(process, 1, 1, 0, 0, 1, [Sharer(process, 1, 1)], skipped)
        segments = [shared.Segment("0:1 2", NASTY, 1)]
        facts = Reasons.facts(process=process, segments=segments, skipped=skipped)
        refusal = Failure(NASTY, NASTY)
        with mock.patch("ksmv.savings.report", return_value=report), contextlib.ExitStack() as stack:
            for one in ("module.check_loaded", "module._check_name", "access.check"):
                stack.enter_context(mock.patch(f"ksmv.{one}"))
            for one, answer in (
                ("estimate.estimate", guess), ("module.get", NASTY), ("why.of", facts),
                ("processes.read", sharing),
                ("module.read_all", {NASTY: NASTY}), ("module.read_if_loaded", {}), ("status.Counts.read", counts),
            ):  # fmt: skip
                stack.enter_context(mock.patch(f"ksmv.{one}", return_value=answer))
            stack.enter_context(mock.patch("ksmv.lines.status_head", return_value=[NASTY]))
            stack.enter_context(mock.patch("ksmv.module.set_value", side_effect=refusal))
            for arguments in (
                ["report"], ["report", "--by", "cgroup"], ["estimate", "--domain", "cgroup"],
                ["who", "7"], ["why", "7"], ["get", "run"], ["get"], ["status", "--rows", "1"],
                ["top", "--rows", "1", "--count", "1"],
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
        for arguments in (["who", "x"], ["who"], ["get", "a", "b"], []):
            code, out, err = self.said(*arguments)
            self.assertEqual((code, out), (2, ""))
            self.assertRegex(err, r"^ksmv: .+\n  usage: ksmv ")
            code, out, err = self.said(*arguments, "--json")
            self.assertEqual((code, err), (2, ""))
            told = json.loads(out)
            self.assertEqual(told["exit_status"], 2)
            self.assertIn("usage: ksmv", told["advice"][0])
            self.assertTrue(told["error"])

    def test_misspelt_names(self) -> None:
        with tempfile.TemporaryDirectory() as place, mock.patch("ksmv.module.DIRECTORY", Path(place)):
            for name in ("run", "scan_rate", "sleep_ms"):
                (Path(place) / name).touch()
            for words, said in (
                ("staus", "there is no command 'staus'; did you mean status?"),
                ("xyzzy", "there is no command 'xyzzy'; ksmv --help lists them all"),
                ("report --by proces", "--by: 'proces' is not allowed; did you mean process?"),
                ("report --by x", "--by: 'x' is not allowed; allowed: process, cgroup"),
                ("set scanrate 1", "there is no knob 'scanrate'; did you mean scan_rate?"),
                ("set scanrate", "there is no knob 'scanrate'; did you mean scan_rate?"),
                ("get scanrate", "there is no knob 'scanrate'; did you mean scan_rate?"),
                ("get xyzzy", "there is no knob 'xyzzy'; ksmv get lists them all"),
            ):  # fmt: skip
                self.assertEqual(self.said(*words.split()), (2, "", f"ksmv: {said}\n"))


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
    """Completion by the installed scripts of the shells, on a machine with known files and processes."""

    # Runs ksmv there.
    MACHINE = """#!{python} -I
import sys
from pathlib import Path
sys.dont_write_bytecode = True
sys.path.insert(0, {tools!r})
from ksmv import cli, module, processes
module.DIRECTORY = processes.CGROUPS = Path({place!r})
processes.names = lambda: {{1: "init", 23: {name!r}}}
sys.exit(cli.main(sys.argv[1:]))
"""

    # Each prints what is offered for the words $1 ..., of which the last is to be completed.
    SHELLS = {
        "bash": """
            source "$SCRIPT"
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_LINE="$*" COMP_POINT=$(expr length "$*")
            hook=$(complete -p ksmv)
            hook=${hook#*-F } && ${hook%% *} ksmv "${@: -1}"
            printf '%s\\n' "${COMPREPLY[@]}"
        """,
        "zsh": """
            fpath=(${SCRIPT:h} $fpath) && autoload -U compinit && compinit -D -u
            _describe() { print -l -- ${${(P)2}%%:*} }
            words=("$@") BUFFER="$*" && CURSOR=${#BUFFER}
            $_comps[ksmv]
        """,
        "fish": """source $SCRIPT; complete -C "$argv" | string replace -r '\\t.*' ''""",
    }

    @classmethod
    def setUpClass(cls) -> None:
        if not importlib.util.find_spec("argcomplete") or not shutil.which("register-python-argcomplete"):
            raise unittest.SkipTest("needs argcomplete")
        place = tempfile.TemporaryDirectory()
        cls.addClassCleanup(place.cleanup)
        cls.place = Path(place.name)
        cls.files = cls.place / "files"
        (cls.files / "a cgroup/below").mkdir(parents=True)
        (cls.files / "odd\v1").mkdir()
        for name in ("run", "domain", "cpu_ns"):
            (cls.files / name).touch()
        program = cls.MACHINE.format(
            python=sys.executable, tools=str(TOOL.parent), place=str(cls.files), name=NASTY
        )
        (cls.place / "ksmv").write_text(program, encoding="utf-8", errors="surrogateescape")
        (cls.place / "ksmv").chmod(0o755)
        for shell in cls.SHELLS:
            script = (TOOL / f"completion.{shell}").read_text(encoding="ascii")
            # As `make install-tools` does.
            cls.script(shell).write_text(script.replace("/usr/sbin/", f"{cls.place}/"), encoding="ascii")

    @classmethod
    def script(cls, shell: str) -> Path:
        """The script for a shell, by the name that zsh wants."""
        return cls.place / ("_ksmv" if shell == "zsh" else f"ksmv.{shell}")

    def offered(self, *words: str, shell: str = "bash") -> list[str]:
        """The completions of the last word, sorted, without the blank after the only one."""
        code = self.SHELLS[shell]
        command = {
            "bash": ["bash", "-c", code, "bash", *words],
            "zsh": ["zsh", "-fc", code, "zsh", *words],
            "fish": ["fish", "--no-config", "-c", code, " ".join(words)],
        }[shell]
        environment = os.environ | {"SCRIPT": str(self.script(shell)), "HOME": str(self.place)}
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment, cwd=self.files
        )
        self.assertEqual((words, done.stderr), (words, ""))
        return sorted(one.rstrip(" ") for one in done.stdout.split("\n") if one)

    def assert_offered(self, words: str, offered: str, shell: str = "bash") -> None:
        """Expects these completions of the last of the words, which may be empty."""
        found = self.offered("ksmv", *words.split(" "), shell=shell)
        self.assertEqual((shell, words, found), (shell, words, sorted(offered.split())))

    def test_commands_and_their_options(self) -> None:
        self.assert_offered("", " ".join(COMMANDS))
        self.assert_offered("s", "status set")
        for name, command in COMMANDS.items():
            self.assert_offered(f"{name} -", " ".join(["--help", *options_of(command)]))
        self.assert_offered("status ", "")

    def test_values_of_options(self) -> None:
        for name, command in COMMANDS.items():
            for option, action in options_of(command).items():
                if action.choices:
                    self.assert_offered(f"{name} {option} ", " ".join(action.choices))
        self.assert_offered("who --rows ", "")

    def test_paths(self) -> None:
        self.assertEqual(self.offered("ksmv", "estimate", "--cgroup", ""), [r"/a\ cgroup/"])
        self.assertEqual(self.offered("ksmv", "estimate", "--cgroup", r"/a\ cgroup/"), [r"/a\ cgroup/below/"])
        self.assertEqual(self.offered("ksmv", "estimate", "--cgroup", "/nowhere/"), [])
        found = self.offered("ksmv", "estimate", "--cgroup", f"{self.files}/a")
        self.assertEqual(found, [rf"{self.files}/a\ cgroup/"])
        self.assertEqual(self.offered("ksmv", "metrics", "--output", ""), [r"a\ cgroup/", "cpu_ns", "domain", "run"])
        self.assertEqual(self.offered("ksmv", "metrics", "--output", f"{self.files}/r"), [f"{self.files}/run"])
        self.assertEqual(self.offered("ksmv", "metrics", "--output", "';touch x;'"), [])

    def test_knobs(self) -> None:
        for command, files in (("get", "run domain cpu_ns"), ("set", " ".join(KNOBS))):
            self.assert_offered(f"{command} ", files)
            self.assert_offered(f"{command} --json ", files)
        self.assert_offered("get r", "run")
        self.assert_offered("set r", "run")
        self.assert_offered("get run ", "")

    def test_values_of_knobs(self) -> None:
        for name, knob in KNOBS.items():
            offered = completion.values(argparse.Namespace(knob=name, value=[]))
            self.assertEqual(set(offered), set(completion.pids() if name == "merge_now" else knob.words))
        self.assert_offered("set run ", "0 1 2")
        self.assert_offered("set run 1 ", "")
        self.assert_offered("set merge_now ", "1 23")
        self.assert_offered("set merge_now 1 ", "")
        self.assert_offered("set xyzzy ", "")
        self.assert_offered("set --json domain p", "process")

    def test_processes(self) -> None:
        for command in ("who ", "who --rows 3 ", "why ", "estimate --json ", "estimate ", "estimate --exact "):
            self.assert_offered(command, "1 23")
        self.assert_offered("who 1 ", "")
        self.assert_offered("estimate 1 ", "23")
        self.assert_offered("estimate --domain user 2", "23")

    def test_all_shells(self) -> None:
        for shell in self.SHELLS:
            with self.subTest(shell):
                if not shutil.which(shell):
                    self.skipTest(f"needs {shell}")
                for words, offered in (
                    ("", " ".join(COMMANDS)), ("who ", "1 23"), ("set domain p", "process"), ("set run ", "0 1 2"),
                    ("report --by ", "process cgroup"), ("set scan_rate ", ""), ("get ", "run domain cpu_ns"),
                ):  # fmt: skip
                    self.assert_offered(words, offered, shell)

    def test_after_other_words(self) -> None:
        # zsh passes the whole line.
        for before in ("sudo", "sudo -u root", "cd /; sudo", "ksmv status &&"):
            self.assertEqual(self.offered(*before.split(), "ksmv", "set", "run", ""), ["0", "1", "2"])

    def test_without_argcomplete(self) -> None:
        with (
            mock.patch.dict(os.environ, {"_ARGCOMPLETE": "1", "COMP_LINE": "ksmv "}),
            mock.patch.dict(sys.modules, {"argcomplete": None}),
        ):
            self.assertEqual(Words.said(), (1, "", ""))

    def test_kernel_threads_have_no_address_space(self) -> None:
        found = processes.names()
        self.assertIn(os.getpid(), found)
        for pid in found:
            with contextlib.suppress(OSError):
                # No program, and no parent but kthreadd.
                self.assertNotRegex(Path(f"/proc/{pid}/status").read_text(), "(?m)^PPid:\t2$")


class Manual(unittest.TestCase):
    """ksmv(8) documents everything."""

    # Thousands of characters, of no use in a message.
    longMessage = False

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
        counts = counted()
        report = Report([(PROCESS, Saving(1, 1, 1))], skipped, 0)
        answers = [
            {**records.status(Status(counts, counts, report)), "module": None, "settings": None},
            records.report(report),
            records.estimate(estimate.Estimate([row], skipped, [domain], 0), Policy()),
            records.failure(Failure("this", "that")),
            records.why(Reasons.facts("locked", segments=[shared.Segment("0:1 2", "memfd:x", 1)])),
            records.sharing(Sharing(PROCESS, 1, 1, 0, 0, 1, [Sharer(PROCESS, 1, 1)], skipped)),
        ]
        names = self.fields(answers) | {one.name for one in reasons.REASONS}
        missing = [one for one in names if not re.search(rf"\b{one}\b", self.manual)]
        self.assertEqual(missing, [], missing)

    def test_has_all_commands_and_options(self) -> None:
        for name, command in COMMANDS.items():
            self.assertRegex(self.manual, rf"ksmv {name}\b", name)
            for option in options_of(command):
                self.assertIn(option, self.manual, option)


class Reading(unittest.TestCase):
    """Processes that can't be read."""

    def failure(self, error: OSError) -> Failure:
        """The failure of a command on one process that ends with this error."""
        with mock.patch("ksmv.processes.one", return_value=PROCESS):
            with self.assertRaises(Failure) as raised:
                processes.read(7, mock.Mock(side_effect=error))
        return raised.exception

    def test_says_what_is_wrong(self) -> None:
        denied = self.failure(PermissionError(13, "Permission denied", "/proc/1/pagemap"))
        self.assertEqual(str(denied), "process 7: denied")
        self.assertIn("CAP_SYS_PTRACE", denied.advice[0])
        gone = self.failure(ProcessLookupError(3, "No such process"))
        self.assertEqual((str(gone), gone.advice), ("process 7: exited", ()))

    def test_commands_read_processes_so(self) -> None:
        error = PermissionError(13, "Permission denied", "/proc/1/pagemap")
        for command, failing in (("who", "ksmv.sharers.of"), ("why", "ksmv.why._facts")):
            with (
                mock.patch(failing, side_effect=error),
                mock.patch("ksmv.processes.one", return_value=PROCESS),
                mock.patch("ksmv.access.check"),
            ):
                code, _, err = Words.said(command, "7")
            self.assertEqual((code, err.split("\n")[0]), (1, "ksmv: process 7: denied"))


class MadeManuals(unittest.TestCase):
    """The manual pages that scripts/manpages makes."""

    @classmethod
    def setUpClass(cls) -> None:
        place = tempfile.TemporaryDirectory()
        cls.addClassCleanup(place.cleanup)
        cls.place = Path(place.name)
        subprocess.run([PROJECT / "scripts/manpages", cls.place], check=True)

    def page(self, name: str) -> str:
        """A page, with its escapes undone."""
        return (self.place / name).read_text(encoding="ascii").replace("\\-", "-")

    def test_every_file_of_the_module_is_described(self) -> None:
        heads = re.findall(r'^\.I "(.*)"$', self.page("ksm_v.4"), re.MULTILINE)
        text = "".join(path.read_text(encoding="ascii") for path in (PROJECT / "Documentation/ABI").iterdir())
        files = re.findall(r"^What:\s+(/\S+\w)$", text, re.MULTILINE)
        self.assertGreater(len(files), 60)
        self.assertLessEqual(set(files), set(heads))
        self.assertIn("redhat_only_zero_pages", heads)

    def test_every_setting_is_described_with_its_default(self) -> None:
        page = self.page("ksm-veridian.conf.5")
        for name, knob in KNOBS.items():
            if name not in ("run", "merge_now"):
                self.assertIn(f'.I "{name} (default {knob.default})"\n', page)

    @unittest.skipUnless(shutil.which("groff"), "needs groff")
    def test_groff_has_no_complaint(self) -> None:
        for page in (*self.place.iterdir(), PROJECT / "Documentation/ksmv.8"):
            command = ["groff", "-man", "-Tutf8", "-ww", "-z", "-rLL=78n", str(page)]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            self.assertEqual((page.name, done.stderr), (page.name, ""))

    def test_wrong_arguments(self) -> None:
        for words in ([], ["a", "b"], ["--all"]):
            done = subprocess.run([PROJECT / "scripts/manpages", *words], check=False, capture_output=True)
            self.assertEqual(done.returncode, 2)


class Outputs(unittest.TestCase):
    """The program itself, where it can't print, and where it is interrupted."""

    TOOL = PROJECT / "tools/ksmv/ksmv"
    # Answers of commands that need no module: text, metrics, JSON, and a failure as JSON.
    COMMANDS = ("--help", "metrics", "who --json 0")

    @classmethod
    def run_tool(cls, words: str, redirection: str) -> tuple[int, str]:
        """Runs ksmv with its output redirected by a shell; the exit status, and what it said on
        standard error."""
        command = ["sh", "-c", f"'{cls.TOOL}' {words} {redirection}"]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        return done.returncode, done.stderr

    def test_full_disk(self) -> None:
        for words in self.COMMANDS:
            code, err = self.run_tool(words, ">/dev/full")
            expected = (1, "ksmv: standard output: No space left on device\n")
            self.assertEqual((code, err), expected, words)

    def test_closed_output(self) -> None:
        for words in self.COMMANDS:
            expected = (1, "ksmv: standard output is closed\n")
            self.assertEqual(self.run_tool(words, ">&-"), expected, words)

    def test_closed_pipe(self) -> None:
        for words in self.COMMANDS:
            with self.subTest(words):
                read, write = os.pipe()
                os.close(read)
                command = [str(self.TOOL), *words.split()]
                done = subprocess.run(command, check=False, stdout=write, stderr=subprocess.PIPE)
                os.close(write)
                self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_closed_errors(self) -> None:
        for words, expected in (("metrics", 0), ("nonsense", 2), ("set run", 2)):
            code, err = self.run_tool(words, "2>&-")
            self.assertEqual((code, err), (expected, ""), words)
            self.assertEqual(self.run_tool(words, "2>/dev/full"), (code, ""), words)

    def test_locale_without_unicode(self) -> None:
        file = io.TextIOWrapper(io.BytesIO(), encoding="iso-8859-1")
        text.say(["\u00e4\u20ac"], file)
        self.assertEqual(file.buffer.getvalue(), b"\xe4\\u20ac\n")

    def test_progress_that_nobody_sees(self) -> None:
        shown = progress.Progress()
        shown._next = 0
        with open("/dev/full", "w", encoding="utf-8") as full, mock.patch("sys.stderr", full):
            shown.tell(1)
            shown.end()

    def test_interrupt_while_it_starts(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            package = Path(place) / "ksmv"
            package.mkdir()
            shutil.copy(self.TOOL, package)
            (package / "__init__.py").touch()
            interrupt = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
            (package / "cli.py").write_text(interrupt, encoding="utf-8")
            done = subprocess.run([package / "ksmv"], check=False, capture_output=True)
            self.assertEqual((done.returncode, done.stderr), (-signal.SIGINT, b""))

    def test_interrupt_at_work(self) -> None:
        with mock.patch("ksmv.commands.show_metrics", side_effect=KeyboardInterrupt):
            self.assertEqual(Words.said("metrics"), (130, "", ""))


class Installation(unittest.TestCase):
    """make install-tools, which `make install` also runs."""

    def setUp(self) -> None:
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.place = Path(place.name)

    def install(self) -> None:
        """Installs below the test's directory."""
        self.make("install-tools")

    def make(self, target: str) -> None:
        """Makes a target for the test's directory."""
        command = ["make", "-s", "-C", str(PROJECT), target]
        places = [f"DESTDIR={self.place}", f"INSTALL_MOD_PATH={self.place}"]
        subprocess.run([*command, *places], check=True)

    def test_keeps_settings_that_are_there(self) -> None:
        settings = self.place / "etc/ksm-veridian.conf"
        self.install()
        shipped = (PROJECT / "package/ksm-veridian.conf").read_text(encoding="utf-8")
        self.assertEqual(settings.read_text(encoding="utf-8"), shipped)
        settings.write_text("max_cpu = 50\n", encoding="utf-8")
        self.install()
        self.assertEqual(settings.read_text(encoding="utf-8"), "max_cpu = 50\n")

    def test_services_run_what_is_installed(self) -> None:
        self.install()
        units = self.place / "usr/local/lib/systemd/system"
        names = {"ksm-veridian.service", "ksm-veridian-metrics.service", "ksm-veridian-metrics.timer"}
        self.assertEqual({unit.name for unit in units.iterdir()}, names)
        for unit in units.glob("*.service"):
            commands = re.findall(r"^Exec\w+=(\S+)", unit.read_text(encoding="utf-8"), re.MULTILINE)
            self.assertTrue(commands)
            for command in commands:
                self.assertTrue(os.access(f"{self.place}{command}", os.X_OK), command)

    def test_shells_find_their_completion(self) -> None:
        self.install()
        share = self.place / "usr/local/share"
        for name in (
            "bash-completion/completions/ksmv", "zsh/site-functions/_ksmv", "fish/vendor_completions.d/ksmv.fish",
        ):  # fmt: skip
            script = (share / name).read_text(encoding="ascii")
            self.assertIn(" /usr/local/sbin/ksmv ksmv ", script, name)

    def test_settings_are_explained_by_what_is_installed(self) -> None:
        self.install()
        script = (self.place / "usr/local/libexec/ksm-veridian/settings").read_text(encoding="utf-8")
        self.assertIn("\nKSMV=/usr/local/sbin/ksmv\n", script)

    def test_uninstalling_leaves_the_settings(self) -> None:
        self.install()
        self.make("uninstall")
        files = [path for path in self.place.rglob("*") if not path.is_dir()]
        self.assertEqual(files, [self.place / "etc/ksm-veridian.conf"])

    def test_replaces_an_earlier_version(self) -> None:
        modules = self.place / "usr/local/lib/ksmv"
        modules.mkdir(parents=True)
        for name in ("ksmv", "cli.py"):
            (modules / name).touch()
        self.install()
        self.assertEqual({path.name for path in modules.iterdir()}, {"ksmv", "VERSION"})
        tool = [sys.executable, "-I", str(self.place / "usr/local/sbin/ksmv")]
        said = subprocess.run([*tool, "--version"], check=True, capture_output=True, text=True).stdout
        version = subprocess.run([PROJECT / "scripts/version"], check=True, capture_output=True, text=True)
        self.assertEqual(said.split("\n")[0], f"ksmv {version.stdout.strip()}")
        said = subprocess.run([*tool, "--help"], check=True, capture_output=True, text=True).stdout
        self.assertTrue(said.startswith("usage: ksmv "))
        self.assertFalse(list(modules.rglob("*.pyc")))


def main() -> int:
    """Runs the tests; returns the exit status."""
    return not unittest.main(exit=False).result.wasSuccessful()


if __name__ == "__main__":
    sys.exit(main())
