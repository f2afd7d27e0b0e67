"""Hazard: the POSIX run counts wrong, or a new deviation passes as a known one.

The suite itself is no part of this project (`make posix PJDFSTEST=...`); here its
runner is held by scripts that speak the same protocol.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from proof import posix
from proof.posix import Result, expected_deviations, run, unexpected

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def suite(tmp_path):
    """A suite of two scripts: one fine, one with a failure, a TODO and an early end."""
    tests = tmp_path / "suite" / "tests" / "open"
    tests.mkdir(parents=True)
    (tests / "00.t").write_text("echo 1..2; touch made; echo ok 1; echo ok 2 - fine\n")
    (tests / "01.t").write_text(
        "echo 1..4; echo ok 1; echo \"not ok 2 - tried 'this'\"; echo not ok 3 '# TODO' known\n"
    )
    return tmp_path / "suite"


def test_assertions_are_counted_and_failures_named(suite, tmp_path):
    (tmp_path / "tree").mkdir()
    scripts = sorted((suite / "tests").rglob("*.t"))
    result = run(scripts, suite, tmp_path / "tree")
    assert result.passed == 4
    assert result.failed == {
        "open/01.t:2": "tried 'this'",
        "open/01.t:plan": "3 of 4 assertions were reached",
    }
    assert len(list((tmp_path / "tree").glob("*/made"))) == 1


def test_only_what_is_named_is_expected():
    result = Result(3, {"open/00.t:1": "old", "open/00.t:2": "new"})
    assert unexpected(result, {"open/00.t:1": "a reason"}) == {"open/00.t:2": "new"}


def test_every_deviation_has_a_reason_that_the_documentation_tells():
    known = expected_deviations()
    text = " ".join((ROOT / "docs" / "MOUNT.md").read_text().split())
    assert len(known) > 20
    assert [reason for reason in set(known.values()) if reason not in text] == []


def test_a_missing_suite_is_told_with_what_to_do(tmp_path, capsys):
    assert posix.main([str(tmp_path)]) == 2
    assert "github.com/pjd/pjdfstest" in capsys.readouterr().err
    assert posix.main([]) == 2
    assert "make posix PJDFSTEST=" in capsys.readouterr().err
