"""Hazard: nobody can tell who brought a line in, or the answer is wrong or never comes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coherent_volume import NotFoundError, UsageError, lines
from coherent_volume.difference import escaped, unified
from coherent_volume.lines import lines_of, matches

A = "plans/a.md"


def keep_only(root, generations):
    config = root / ".coherence/config.toml"
    text = re.sub(r"(?m)^generations = .*", f"generations = {generations}", config.read_text())
    config.write_text(text)


def told(volume, path=A):
    return [(line.generation, line.session, line.text) for line in volume.blame(path)]


def test_each_line_has_the_generation_and_session_that_brought_it_in(alice, bob, root):
    alice.create(A, "one\ntwo\nthree\n")
    bob.update(A, lambda data: data.replace(b"two", b"TWO"))
    (root / A).write_bytes((root / A).read_bytes() + b"four")
    alice.update(A, lambda data: b"zero\n" + data)
    assert told(bob) == [
        (4, "alice", "zero"),
        (1, "alice", "one"),
        (2, "bob", "TWO"),
        (1, "alice", "three"),
        (3, "outside", "four"),
    ]
    assert [line.number for line in bob.blame(A)] == [1, 2, 3, 4, 5]
    assert not any(line.or_before for line in bob.blame(A))


def test_an_edit_that_nobody_adopted_yet_is_blamed_on_outside(alice, root):
    alice.create(A, "one\n")
    (root / A).write_bytes(b"one\noutside\n")
    assert told(alice) == [(1, "alice", "one"), (2, "outside", "outside")]


def test_lines_from_before_the_history_are_said_to_be(alice):
    alice.read("plans/plan.md")
    alice.append("plans/plan.md", "second\n")
    first, second = alice.blame("plans/plan.md")
    assert (first.generation, first.session, first.or_before) == (0, "outside", True)
    assert (second.generation, second.or_before) == (1, False)


def test_lines_older_than_what_is_kept_belong_to_the_oldest_or_before(volume, root):
    volume("alice").close()
    keep_only(root, 3)
    bob = volume("bob")
    for number in range(6):
        bob.append(A, f"{number}\n")
    assert [(e.generation, e.or_before) for e in bob.blame(A)] == [
        (4, True),
        (4, True),
        (4, True),
        (4, True),
        (5, False),
        (6, False),
    ]


def test_a_file_that_was_never_committed_is_older_than_everything(alice):
    (line,) = alice.blame("plans/plan.md")
    assert (line.generation, line.session, line.at, line.or_before) == (0, "outside", "", True)


def test_what_returns_after_a_deletion_came_with_the_return(alice):
    alice.create(A, "one\n")
    alice.delete(A)
    alice.create(A, "one\ntwo\n")
    assert told(alice) == [(3, "alice", "one"), (3, "alice", "two")]


def test_binary_absent_and_enormous_content_is_refused_in_one_line(alice):
    alice.create(A, b"\0\1\2")
    with pytest.raises(UsageError, match="binary content has no lines"):
        alice.blame(A)
    with pytest.raises(NotFoundError):
        alice.blame("plans/nothing")
    alice.create("plans/big", b"line\n" * (4 << 20))
    with pytest.raises(UsageError, match="too large to be blamed"):
        alice.blame("plans/big")


def test_text_that_replaced_binary_content_came_in_with_the_text(alice):
    alice.create(A, b"\0one\n")
    alice.write(A, "one\ntwo\n")
    assert told(alice) == [(2, "alice", "one"), (2, "alice", "two")]


def test_two_long_files_of_repeated_lines_are_compared_in_bounded_work(monkeypatch):
    import difflib

    def never(*_, **__):
        pytest.fail("compared in detail")

    monkeypatch.setattr(difflib.SequenceMatcher, "find_longest_match", never)
    old = [b"a\n", b"b\n"] * 20_000
    new = [b"b\n", b"b\n", b"a\n", b"unique\n"] * 10_000
    found = matches(old, new)
    assert all(old[a : a + n] == new[b : b + n] for a, b, n in found)


def vim(path, command):
    subprocess.run(
        ["vim", "-u", "NONE", "-N", "-n", "-es", "-c", command, "-c", "wq", path],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )


@pytest.mark.skipif(shutil.which("vim") is None, reason="vim is not installed")
def test_blame_and_log_over_a_history_made_by_python_shell_and_vim(alice, root):
    alice.create(A, "python 1\npython 2\n")
    coherent = f"{sys.executable} -P -m cli"
    script = f"echo shell | {coherent} append {A} --as sheila && sed -i 's/python 2/sed/' {A}"
    subprocess.run(["bash", "-ec", script], cwd=root, check=True, capture_output=True)
    assert alice.read(A) == b"python 1\nsed\nshell\n"
    vim(root / A, "call append(0, 'vim')")
    alice.update(A, lambda data: data + b"python 3\n")

    assert told(alice) == [
        (4, "outside", "vim"),
        (1, "alice", "python 1"),
        (3, "outside", "sed"),
        (2, "sheila", "shell"),
        (5, "alice", "python 3"),
    ]
    assert [(e.generation, e.kind, e.session) for e in alice.log(A)] == [
        (5, "update", "alice"),
        (4, "foreign", "outside"),
        (3, "foreign", "outside"),
        (2, "append", "sheila"),
        (1, "create", "alice"),
    ]


# ── differences ──────────────────────────────────────────────────────────────

TEXTS = st.lists(st.sampled_from([b"a\n", b"b\n", b"c\n", b"\n", b"\r\n", b"x\x0cy\n"])).map(
    b"".join
)


@given(old=TEXTS, new=TEXTS, end=st.sampled_from([b"", b"end"]), steps=st.sampled_from([0, 10**6]))
def test_matching_runs_are_equal_rising_and_apart(old, new, end, steps):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_STEPS_OF_MATCHES_MAX", steps)
        a, b = lines_of(old + end), lines_of(new)
        assert b"".join(a) == old + end
        at_a = at_b = 0
        for start_a, start_b, size in matches(a, b):
            assert size > 0 or (start_a, start_b) == (len(a), len(b))
            assert start_a >= at_a
            assert start_b >= at_b
            assert a[start_a : start_a + size] == b[start_b : start_b + size]
            at_a, at_b = start_a + size, start_b + size


@pytest.mark.skipif(shutil.which("patch") is None, reason="patch is not installed")
@pytest.mark.parametrize("seed", range(8))
def test_patch_takes_our_diffs(tmp_path, seed):
    import random

    dice = random.Random(seed)
    old = [b"%d\n" % dice.randrange(30) for _ in range(60)]
    new = list(old)
    for _ in range(6):
        at = dice.randrange(len(new))
        new[at : at + dice.randrange(4)] = [b"new %d\n" % dice.randrange(9)] * dice.randrange(3)
    before, after = b"".join(old)[: -1 if seed % 2 else None], b"".join(new)
    (tmp_path / "file").write_bytes(before)
    text = unified(before, after, "file", "file").encode()
    subprocess.run(["patch", "-s", "file"], input=text, cwd=tmp_path, check=True)
    assert (tmp_path / "file").read_bytes() == after


def test_a_diff_names_its_sides_and_sums_up_what_is_no_text(alice):
    alice.create(A, "one\n")
    alice.write(A, "one\ntwo")
    assert alice.diff(A) == (
        f"--- {A}@1\n+++ {A}@2\n@@ -1 +1,2 @@\n one\n+two\n\\ No newline at end of file\n"
    )
    assert alice.diff(A, b=1) == f"--- /dev/null\n+++ {A}@1\n@@ -0,0 +1 @@\n+one\n"
    assert alice.diff(A, 2, 1).endswith(" one\n-two\n\\ No newline at end of file\n")
    assert alice.diff(A, 2, 2) == ""
    alice.write(A, b"\0")
    assert alice.diff(A) == f"Binary files {A}@2 and {A}@3 differ (7 bytes, 1 bytes)\n"


def test_control_characters_of_others_reach_no_terminal():
    assert escaped("+a\x1b[31m\tb\udcff\n-\r\n") == "+a\\x1b[31m\tb\\udcff\n-\\r\n"
