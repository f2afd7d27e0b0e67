"""Hazard: the shell cannot look back, bring back, or change several files at once, as safely."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from cli import main, transacting
from tests.harness.command import Command, on_a_terminal

PLAN, OTHER = "plans/plan.md", "plans/other.md"


@pytest.fixture
def alice(root):
    command = Command(root, "alice")
    command.ok("init", "--managed", "plans/**", "--durability", "process")
    command.ok("read", PLAN)
    command.ok("write", PLAN, input="second\n")
    return command


@pytest.fixture
def bob(alice):
    return Command(alice.where, "bob")


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where commands make their temporary directories, to see what is left."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


# ── looking back ─────────────────────────────────────────────────────────────


def test_show_prints_the_very_bytes_of_a_generation(alice):
    alice.ok("write", PLAN, input=b"\xff\x1b[31m\0")
    assert alice.ok("show", PLAN, "0").out == b"first\n"
    assert alice.ok("show", PLAN, "2").out == b"\xff\x1b[31m\0"
    assert alice.ok("show", PLAN, "1", "--json").json() == {
        "ok": True,
        "path": PLAN,
        "generation": 1,
        "text": "second\n",
    }
    assert alice.ok("show", PLAN, "2", "--json").json()["base64"] == "/xtbMzFtAA=="


def test_a_generation_that_is_not_there_is_66_and_says_which_are(alice):
    done = alice("show", PLAN, "9")
    assert done.code == 66
    assert "generations 0 to 1 are kept" in done.err
    told = alice("restore", PLAN, "9", "--json").json()
    assert (told["reason"], told["oldest"], told["newest"]) == ("generation_not_kept", 0, 1)
    assert alice("show", "plans/nothing", "1").code == 66


def test_diff_into_a_pipe_is_for_patch(alice, tmp_path):
    alice.ok("write", PLAN, input=b"second\n\xff\x1b\n")
    diff = alice.ok("diff", PLAN).out
    assert diff.endswith(b"@@ -1 +1,2 @@\n second\n+\xff\x1b\n")
    assert alice.ok("diff", PLAN, "0", "1").text.endswith("-first\n+second\n")
    assert alice.ok("diff", PLAN, "2").out == b""
    assert "+second" in alice.ok("diff", PLAN, "0", "1", "--json").json()["diff"]


def test_diff_on_a_terminal_has_colours_and_no_control_characters_of_others(alice):
    alice.ok("write", PLAN, input=b"\x1b]0;title\x07\n")
    shown = on_a_terminal(alice, "diff", PLAN)
    assert "\x1b[32m+\\x1b]0;title\\x07" in shown
    plain = on_a_terminal(alice, "diff", PLAN, NO_COLOR="1")
    assert "\x1b" not in plain
    assert "+\\x1b]0;title\\x07" in plain


def test_blame_shows_generation_session_and_line(alice, bob):
    bob.ok("append", PLAN, input="bob's\x1b\n")
    lines = bob.ok("blame", PLAN).text.splitlines()
    assert re.fullmatch(r"1 alice \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d 1 second", lines[0])
    assert re.fullmatch(r"2 bob   .* 2 bob's\\x1b", lines[1])
    told = bob.ok("blame", PLAN, "--json").json()["lines"][1]
    assert (told["generation"], told["session"], told["or_before"]) == (2, "bob", False)
    assert "\x1b[90m" in on_a_terminal(bob, "blame", PLAN)
    assert "\x1b" not in on_a_terminal(bob, "blame", PLAN, NO_COLOR="1")


def test_blame_of_what_is_no_text_is_wrong_usage(alice):
    alice.ok("create", "plans/binary", input=b"\0")
    done = alice("blame", "plans/binary")
    assert (done.code, done.out) == (2, b"")
    assert "binary" in done.err


# ── bringing back ────────────────────────────────────────────────────────────


def test_restore_and_undo_are_commits_like_others(alice, bob):
    assert bob.ok("restore", PLAN, "0").text == f"{PLAN} restored as generation 2\n"
    assert alice.ok("read", PLAN).out == b"first\n"
    assert bob.ok("undo").text == f"{PLAN} is generation 3\n"
    assert bob.ok("undo", "--json").json()["commits"][0]["generation"] == 4
    kinds = [e["kind"] for e in alice.ok("log", PLAN, "--json").json()["entries"]]
    assert kinds == ["undo", "undo", "restore", "write", "baseline"]
    done = alice("undo")
    assert done.code == 75
    assert "bob committed since" in done.err


def test_restore_over_an_outside_edit_is_refused_once(alice, root):
    (root / PLAN).write_bytes(b"outside\n")
    done = alice("restore", PLAN, "0")
    assert done.code == 75
    assert "generation 2; nothing was restored" in done.err
    alice.ok("restore", PLAN, "0")


def test_a_spree_is_undone_from_the_shell(alice, bob, root):
    alice.ok("create", OTHER, input="other\n")
    bob.ok("read", OTHER)
    (root / PLAN).write_bytes(b"outside\n")
    (root / OTHER).write_bytes(b"outside\n")
    bob.ok("reacquire")
    bob.ok("write", OTHER, input="bob built on it\n")
    spree = ("restore", "--since", "10m", "--by", "outside")
    dry = bob.ok(*spree, "--dry-run")
    assert dry.text == (
        f"{PLAN} would go back to generation 1\n"
        f"left alone: {OTHER}: bob has built on it since: generation 3\n"
    )
    told = bob.ok(*spree, "--json").json()
    assert [c["path"] for c in told["commits"]] == [PLAN]
    assert told["left"][0]["path"] == OTHER
    assert (root / PLAN).read_bytes() == b"second\n"
    assert bob.ok(*spree).text.startswith("left alone: ")


@pytest.mark.parametrize(
    "words",
    [
        [],
        [PLAN],
        ["--since", "10m"],
        ["--by", "bob"],
        ["--dry-run"],
        [PLAN, "--since", "10m", "--by", "bob"],
        ["--since", "soon", "--by", "bob"],
        ["--since", "9999999999d", "--by", "bob"],
    ],
)
def test_restore_without_a_meaning_is_wrong_usage(alice, words):
    done = alice("restore", *words)
    assert (done.code, done.out) == (2, b"")


@pytest.mark.parametrize("when", ["90s", "3d", "2020-01-01", "2020-01-01T10:00:00+02:00"])
def test_times_are_relative_or_iso_8601(alice, when):
    alice.ok("restore", "--since", when, "--by", "nobody")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_undo_of_a_git_reset_hard(alice, root):
    def git(*words):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words],
            cwd=root,
            check=True,
            capture_output=True,
        )

    git("init", "-q")
    git("add", "plans")
    git("commit", "-qm", "start")
    alice.ok("write", PLAN, input="hours of work\n")
    git("reset", "-q", "--hard")
    assert (root / PLAN).read_bytes() == b"second\n"
    alice.ok("restore", "--since", "5m", "--by", "outside")
    assert (root / PLAN).read_bytes() == b"hours of work\n"


# ── transactions ─────────────────────────────────────────────────────────────


def test_a_command_changes_several_files_at_once(alice, root, scratch):
    alice.ok("create", OTHER, input="other\n")
    script = f"cat {OTHER} >> {PLAN}; rm {OTHER}; echo new > plans/new.md; mkdir empty"
    done = alice.ok("transaction", PLAN, OTHER, "--", "sh", "-c", script)
    assert done.text == (
        f"{PLAN} is generation 2\n{OTHER} deleted by generation 2\nplans/new.md is generation 1\n"
    )
    assert (root / PLAN).read_bytes() == b"second\nother\n"
    assert not (root / OTHER).exists()
    alice.ok("undo")
    assert (root / OTHER).read_bytes() == b"other\n"
    assert not (root / "plans/new.md").exists()
    assert os.listdir(scratch) == []


def test_the_command_starts_where_the_paths_mean_the_same(alice, root):
    inside = Command(root / "plans", "alice")
    inside.ok("transaction", "plan.md", "--", "sh", "-c", "echo third >> plan.md")
    assert (root / PLAN).read_bytes() == b"second\nthird\n"


def test_nothing_changed_is_nothing_committed(alice):
    done = alice.ok("transaction", PLAN, "--", "true")
    assert done.text == "nothing changed\n"
    assert alice.ok("transaction", "--", "true").text == "nothing changed\n"


def test_a_file_that_the_command_only_read_must_stand_still(alice, root):
    alice.ok("create", OTHER, input="other\n")
    script = f"cat {OTHER} >> {PLAN}; echo outside > {root}/{OTHER}"
    done = alice("transaction", PLAN, OTHER, "--", "sh", "-c", script)
    assert done.code == 75
    assert done.err.startswith(f"coherent: {OTHER}: edited from outside")
    assert ".coherence/refused/plan.md.alice." in done.err
    assert (root / PLAN).read_bytes() == b"second\n"


def test_a_name_that_was_absent_when_asked_for_must_still_be(alice, root):
    script = f"echo mine > {PLAN}; echo outside > {root}/{OTHER}"
    done = alice("transaction", PLAN, OTHER, "--", "sh", "-c", script)
    assert done.code == 75
    assert (root / PLAN).read_bytes() == b"second\n"


def test_retries_run_the_command_again_over_fresh_copies(alice, root, scratch):
    script = f"cat {PLAN} >> {root}/tries; test -e {root}/done || echo outside > {root}/{PLAN};"
    script += f"touch {root}/done; echo mine >> {PLAN}"
    alice.ok("transaction", "--retries", "3", PLAN, "--", "sh", "-c", script)
    assert (root / "tries").read_text() == "second\noutside\n"
    assert (root / PLAN).read_text() == "outside\nmine\n"
    assert os.listdir(scratch) == []


def test_a_command_that_fails_changes_nothing_and_passes_its_status_on(alice, root, scratch):
    done = alice("transaction", PLAN, "--", "sh", "-c", f"echo x > {PLAN}; exit 7")
    assert done.code == 7
    assert "nothing was written" in done.err
    assert alice("transaction", PLAN, "--", "no-such-command").code == 127
    assert (root / PLAN).read_bytes() == b"second\n"
    assert os.listdir(scratch) == []


def test_a_command_that_was_killed_leaves_its_work(alice, scratch):
    done = alice("transaction", PLAN, "--", "sh", "-c", f"echo work > {PLAN}; kill -9 $$")
    assert done.code == 137
    (folder,) = scratch.iterdir()
    assert str(folder) in done.err
    assert (folder / PLAN).read_bytes() == b"work\n"


def test_what_is_not_managed_is_moved_aside_and_reported(alice, scratch):
    script = f"echo out > result.txt; ln -s /etc/passwd plans/link; echo mine >> {PLAN}"
    told = alice.ok("transaction", "--json", PLAN, "--", "sh", "-c", script).json()
    assert [c["path"] for c in told["commits"]] == [PLAN]
    assert told["left_out"] == ["plans/link", "result.txt"]
    assert Path(told["kept"], "result.txt").read_bytes() == b"out\n"


def test_what_the_command_prints_stays_out_of_the_json(alice):
    done = alice("transaction", "--json", PLAN, "--", "echo", "hello")
    assert done.json()["commits"] == []
    assert done.err == "hello\n"


def test_a_new_file_under_a_taken_name_is_73(alice, root):
    alice.ok("create", OTHER, input="other\n")
    done = alice("transaction", PLAN, "--", "sh", "-c", f"echo mine > {OTHER}; echo x > {PLAN}")
    assert done.code == 73
    assert (root / PLAN).read_bytes() == b"second\n"


def test_a_path_that_is_not_managed_is_refused_before_the_command_runs(alice, root, tmp_path):
    (root / "loose.md").write_bytes(b"x")
    for path in ("loose.md", str(tmp_path / "elsewhere")):
        done = alice("transaction", PLAN, path, "--", "touch", str(root / "ran"))
        assert done.code in (2, 77)
    assert not (root / "ran").exists()


def test_a_transaction_renews_no_stale_view(alice, bob):
    bob.ok("transaction", PLAN, "--", "sh", "-c", f"echo bob >> {PLAN}")
    assert bob("write", PLAN, input="blind\n").code == 75


def test_a_large_member_passes_in_pieces(alice, root):
    script = "mkdir plans; head -c 30000000 /dev/urandom > plans/big; true"
    alice.ok("transaction", "--", "sh", "-c", script)
    before = (root / "plans/big").read_bytes()
    alice.ok("transaction", "plans/big", "--", "sh", "-c", "printf x >> plans/big")
    assert (root / "plans/big").read_bytes() == before + b"x"


def test_many_members_need_no_more_open_files_than_the_system_has(alice, root):
    script = "mkdir plans; i=0; while [ $i -lt 700 ]; do echo $i > plans/$i.md; i=$((i+1)); done"
    told = alice.ok("transaction", "--json", "--", "sh", "-c", script).json()
    assert len(told["commits"]) == 700
    assert len(alice.ok("undo", "--json").json()["commits"]) == 700


def test_the_command_does_not_inherit_a_higher_bound_on_open_files(alice):
    done = alice.ok("transaction", PLAN, "--", "sh", "-c", "ulimit -n")
    plain = subprocess.run(["sh", "-c", "ulimit -n"], capture_output=True, check=True)
    assert done.out.startswith(plain.stdout)


@pytest.mark.invariant("I1")
def test_two_names_of_one_file_are_refused_before_the_command_runs(alice, root):
    (root / "plans/a").symlink_to("plan.md")
    for paths in (("plans/a", PLAN), (PLAN, "plans/a")):
        script = f"touch {root}/ran; echo EDIT >> {paths[0]}"
        done = alice("transaction", *paths, "--", "sh", "-c", script)
        assert done.code == 2
        assert f"{paths[1]}: the same file as {paths[0]}" in done.err
    assert not (root / "ran").exists()
    assert (root / PLAN).read_bytes() == b"second\n"


@pytest.mark.invariant("I1")
def test_what_was_edited_under_a_link_is_committed_whatever_else_is_given(alice, root):
    (root / "plans/a").symlink_to("plan.md")
    alice.ok("create", OTHER, input="other\n")
    alice.ok("transaction", "plans/a", "plans/a", OTHER, "--", "sh", "-c", "echo EDIT >> plans/a")
    assert (root / PLAN).read_bytes() == b"second\nEDIT\n"
    assert (root / "plans/a").is_symlink()


def test_a_copy_that_was_not_touched_takes_back_nothing(alice, root, volume):
    folder = root.parent / "private"
    folder.mkdir()
    private = transacting._Private(str(folder))
    with volume("alice") as opened, opened.transaction() as tx:
        private.given["plan"] = transacting._copied(tx, PLAN, str(folder / "plan"))
        tx.write(PLAN, "the transaction's own\n")
        with (folder / "plan").open("rb") as file:
            transacting._hand_over(tx, "plan", private.given["plan"], file)
    assert (root / PLAN).read_bytes() == b"the transaction's own\n"


@pytest.mark.parametrize("ending", ["refused", "failed", "retried"])
def test_what_is_not_managed_is_kept_however_the_transaction_ends(alice, root, scratch, ending):
    (scratch.parent / "tries").touch()
    script = f"echo precious > report.txt; echo edit >> {PLAN}; echo . >> {scratch.parent}/tries;"
    script += {
        "refused": f"echo outside > {root}/{PLAN}",
        "failed": "exit 7",
        "retried": f"test $(wc -l < {scratch.parent}/tries) = 3 || echo $$ > {root}/{PLAN}",
    }[ending]
    retries = ("--retries", "2") if ending == "retried" else ()
    done = alice("transaction", *retries, PLAN, "--", "sh", "-c", script)
    assert done.code == {"refused": 75, "failed": 7, "retried": 0}[ending]
    kept = sorted(scratch.iterdir())
    assert len(kept) == (3 if ending == "retried" else 1)
    for folder in kept:
        assert [p.name for p in folder.iterdir()] == ["report.txt"]
        assert (folder / "report.txt").read_bytes() == b"precious\n"
        assert str(folder) in done.err + done.text
    assert "report.txt" in done.err


def test_a_transaction_that_is_told_to_end_names_what_is_left_and_ends_its_command(
    alice, root, scratch
):
    ready = root.parent / "ready"
    os.mkfifo(ready)
    script = f"echo work > {PLAN}; echo $$ > {ready}; exec sleep 600"
    words = ("transaction", PLAN, "--", "sh", "-c", script)
    with alice.start(*words, stderr=subprocess.PIPE) as popen:
        pid = int(ready.read_text())
        popen.terminate()
        _, told = popen.communicate()
    assert popen.returncode == -signal.SIGTERM
    (folder,) = scratch.iterdir()
    assert f"what the command left is kept in {folder}" in told.decode()
    assert (folder / PLAN).read_bytes() == b"work\n"
    assert not Path(f"/proc/{pid}").exists()
    assert (root / PLAN).read_bytes() == b"second\n"


def test_a_directory_that_cannot_be_read_is_no_deletion(alice, root, scratch, monkeypatch, capsys):
    # Root may read everything: the system's answer is given in its place.
    real = os.scandir

    def scandir(path="."):
        if str(path).endswith("/plans") and str(path).startswith(str(scratch)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(root)
    monkeypatch.setenv("COHERENT_SESSION", "alice")
    assert main.main(["transaction", PLAN, "--", "true"]) == 77
    told = capsys.readouterr().err
    (folder,) = scratch.iterdir()
    assert f"what the command left is kept in {folder}" in told
    assert "plans: the command left what cannot be read; nothing was committed" in told
    assert (root / PLAN).read_bytes() == b"second\n"
    assert (folder / PLAN).read_bytes() == b"second\n"
