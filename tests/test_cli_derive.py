"""Hazard: a command that derives content works on a stale copy, or its failure is committed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.harness.command import COHERENT, Command
from tests.harness.processes import until

PLAN = "plans/plan.md"


@pytest.fixture
def alice(root):
    """The command in the name of alice, in a volume."""
    Command(root).ok("init", "--managed", "plans/**")
    return Command(root, "alice")


@pytest.fixture
def bob(alice):
    """The command in the name of bob, in the same volume."""
    return Command(alice.where, "bob")


@pytest.fixture(autouse=True)
def _private_temporary(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))


def copies(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "temporary").rglob("*") if path.is_file()]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


# ── update ───────────────────────────────────────────────────────────────────


def test_update_commits_what_the_filter_prints(alice, root):
    assert alice.ok("update", PLAN, "--", "tr", "a-z", "A-Z").text == f"{PLAN} is generation 1\n"
    assert (root / PLAN).read_bytes() == b"FIRST\n"
    assert alice.ok("update", PLAN, "--json", "--", "cat").json()["changed"] is False


def test_update_of_a_filter_that_reads_nothing_works(alice, root):
    big = b"x" * 300_000
    alice.ok("write", "plans/big", input=big)
    alice.ok("update", "plans/big", "--", "echo", "small")
    assert (root / "plans/big").read_bytes() == b"small\n"


def test_update_runs_the_filter_again_on_the_head_after_a_conflict(alice, bob, root, tmp_path):
    # The filter's first run lets bob commit before it answers.
    slow = python(
        "import os, sys, time\n"
        f"runs = {str(tmp_path / 'runs')!r}\n"
        "open(runs, 'a').write('x')\n"
        "text = sys.stdin.read()\n"
        "while len(open(runs).read()) == 1 and not os.path.exists(runs + '.go'):\n"
        "    time.sleep(0.005)\n"
        "print(text + 'alice', end='\\n')\n"
    )
    updating = alice.start("update", PLAN, "--", *slow)
    until((tmp_path / "runs").exists, "the filter runs")
    bob.ok("append", PLAN, input="bob\n")
    (tmp_path / "runs.go").touch()

    assert updating.wait() == 0
    assert (root / PLAN).read_bytes() == b"first\nbob\nalice\n"
    assert (tmp_path / "runs").read_text() == "xx"


def test_updates_of_many_processes_lose_none(alice, root):
    alice.ok("create", "plans/count", input="0\n")
    count = python("import sys; print(int(sys.stdin.read()) + 1)")

    def work(who):
        for _ in range(4):
            Command(root, who).ok("update", "plans/count", "--", *count)

    threads = [threading.Thread(target=work, args=(f"worker-{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (root / "plans/count").read_bytes() == b"16\n"


def test_a_filter_that_fails_writes_nothing_and_its_status_is_passed_on(alice, root):
    done = alice("update", PLAN, "--", "sh", "-c", "echo half; exit 7")
    assert done.code == 7
    assert done.err == (
        f"coherent: {PLAN}: the command sh exited with status 7; nothing was written\n"
    )
    assert done.out == b""
    assert (root / PLAN).read_bytes() == b"first\n"
    told = alice("update", PLAN, "--json", "--", "false").json()
    assert (told["ok"], told["reason"], told["exit_code"]) == (False, "command_failed", 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_edit_that_is_told_to_end_names_its_copy_and_ends_its_command(
    alice, root, tmp_path, number
):
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    script = f"echo draft >> $0; echo $$ > {ready}; exec sleep 600"
    with alice.start("edit", PLAN, "--", "sh", "-c", script, "{}", stderr=subprocess.PIPE) as popen:
        pid = int(ready.read_text())
        popen.send_signal(number)
        _, told = popen.communicate()
    assert popen.returncode == -number
    (copy,) = copies(tmp_path)
    assert f"the edited copy is kept in {copy}" in told.decode()
    assert copy.read_bytes() == b"first\ndraft\n"
    assert not Path(f"/proc/{pid}").exists()
    assert (root / PLAN).read_bytes() == b"first\n"


def test_a_filter_ended_by_a_signal_passes_on_what_a_shell_would_say(alice, root):
    done = alice("update", PLAN, "--", "sh", "-c", "kill -TERM $$")
    assert done.code == 128 + signal.SIGTERM
    assert "was ended by SIGTERM" in done.err
    assert (root / PLAN).read_bytes() == b"first\n"


@pytest.mark.parametrize("verb", ["update", "edit"])
def test_a_command_that_cannot_run_exits_as_env_does(alice, verb, tmp_path):
    (tmp_path / "plain").write_text("no program\n")
    assert alice(verb, PLAN, "--", "no-such-command-anywhere").code == 127
    done = alice(verb, PLAN, "--", str(tmp_path / "plain"))
    assert done.code == 126
    assert "cannot be run" in done.err
    assert copies(tmp_path) == []


def test_a_filter_writes_its_own_complaints_to_standard_error(alice):
    done = alice("update", PLAN, "--", "sh", "-c", "echo complaint >&2; cat")
    assert (done.code, done.err) == (0, "complaint\n")


@pytest.mark.parametrize("verb", ["update", "edit"])
def test_what_is_not_there_cannot_be_derived_from(alice, verb):
    assert alice(verb, "plans/none.md", "--", "true").code == 66


# ── neither turns a stale view into a current one ────────────────────────────


@pytest.mark.parametrize("words", [["update", PLAN, "--", "tac"], ["edit", PLAN, "--", "true"]])
def test_a_derivation_does_not_renew_a_stale_view(alice, bob, words):
    alice.ok("read", PLAN)
    bob.ok("append", PLAN, input="bob\n")
    alice.ok(*words)
    assert alice("write", PLAN, input="from memory\n").code == 75


@pytest.mark.parametrize("verb", ["update", "edit"])
def test_a_derivation_keeps_a_current_view_current(alice, root, verb):
    alice.ok("read", PLAN)
    filtered = ["sed", "s/first/second/"]
    alice.ok(verb, PLAN, "--", *(filtered if verb == "update" else [*filtered, "-i"]))
    assert (root / PLAN).read_bytes() == b"second\n"
    alice.ok("write", PLAN, input="third\n")


# ── edit ─────────────────────────────────────────────────────────────────────


def test_edit_commits_the_copy_that_the_command_changed(alice, root, tmp_path):
    alice.ok("edit", PLAN, "--", "sed", "-i", "s/first/second/")
    assert (root / PLAN).read_bytes() == b"second\n"
    assert copies(tmp_path) == []


def test_edit_puts_the_copy_where_the_braces_are(alice, root, tmp_path):
    (tmp_path / "new").write_bytes(b"copied\n")
    alice.ok("edit", PLAN, "--", "cp", str(tmp_path / "new"), "{}")
    assert (root / PLAN).read_bytes() == b"copied\n"
    alice.ok("edit", PLAN, "--", "sh", "-c", "echo quoted > '{}'")
    assert (root / PLAN).read_bytes() == b"quoted\n"


def test_the_copy_is_private_and_bears_the_same_last_name(alice, tmp_path):
    seen = tmp_path / "seen"
    alice.ok("edit", PLAN, "--", "sh", "-c", f"stat -c '%a %n' $(dirname {{}}) {{}} > {seen}")
    folder, copy = seen.read_text().splitlines()
    assert folder.startswith("700 ")
    assert copy.endswith("/plan.md")


def test_edit_of_a_name_that_is_not_utf8(alice, root):
    name = b"plans/caf\xe9.md"
    alice.ok("create", name, input="old\n")
    alice.ok("edit", name, "--", "sed", "-i", "s/old/new/")
    assert (root / os.fsdecode(name)).read_bytes() == b"new\n"


def test_edit_that_meets_a_conflict_is_refused_and_kept(alice, root, tmp_path):
    peer = f"COHERENT_SESSION=bob {' '.join(COHERENT)} append {PLAN}"
    script = f"echo mine >> {{}}; echo bob | {peer} > {tmp_path / 'log'}"
    done = alice("edit", PLAN, "--json", "--", "sh", "-c", script)
    assert done.code == 75, done
    told = done.json()
    assert told["error"] == "StaleGenerationError"
    assert (root / told["kept"]).read_bytes() == b"first\nmine\n"
    assert (root / PLAN).read_bytes() == b"first\nbob\n"
    assert copies(tmp_path) == []


def test_edit_whose_command_fails_writes_nothing_and_leaves_nothing(alice, root, tmp_path):
    done = alice("edit", PLAN, "--", "sh", "-c", "echo half > {}; exit 3")
    assert done.code == 3
    assert (root / PLAN).read_bytes() == b"first\n"
    assert copies(tmp_path) == []


def test_edit_whose_editor_was_killed_keeps_the_copy_and_names_it(alice, root, tmp_path):
    done = alice("edit", PLAN, "--", "sh", "-c", "echo hours of work > {}; kill -9 $$")
    assert done.code == 128 + signal.SIGKILL
    (copy,) = copies(tmp_path)
    assert str(copy) in done.err
    assert copy.read_bytes() == b"hours of work\n"
    assert (root / PLAN).read_bytes() == b"first\n"


def test_edit_that_removed_its_copy_deletes_nothing(alice, root, tmp_path):
    done = alice("edit", PLAN, "--", "rm")
    assert done.code == 2
    assert "the command removed its copy; nothing was written" in done.err
    assert (root / PLAN).read_bytes() == b"first\n"
    assert copies(tmp_path) == []


def test_edit_that_made_a_directory_of_its_copy_changes_nothing(alice, root):
    done = alice("edit", PLAN, "--", "sh", "-c", 'rm "$1" && mkdir "$1"', "sh")
    assert done.code == 2
    assert "the command made a directory of its copy; nothing was written" in done.err
    assert (root / PLAN).read_bytes() == b"first\n"


def test_a_filter_that_prints_nothing_empties_a_file_only_when_that_was_said(alice, root):
    done = alice("update", PLAN, "--", "true")
    assert done.code == 2
    assert "the command true printed nothing; nothing was written" in done.err
    assert "--allow-empty" in done.err
    assert (root / PLAN).read_bytes() == b"first\n"
    alice.ok("update", PLAN, "--allow-empty", "--", "true")
    assert (root / PLAN).read_bytes() == b""
    alice.ok("update", PLAN, "--", "true")  # nothing is lost by it


def test_an_editor_that_stays_open_does_not_hold_up_peers(alice, bob, root, tmp_path):
    go = tmp_path / "go"
    os.mkfifo(go)
    editing = alice.start("edit", PLAN, "--", "sh", "-c", f"touch {tmp_path / 'open'}; cat {go}")
    until((tmp_path / "open").exists, "the editor is open")
    bob.ok("append", PLAN, input="bob\n")
    bob.ok("update", PLAN, "--", "cat")
    bob.ok("read", PLAN)
    go.write_text("")
    editing.wait()
    assert re.match(rb"first\nbob\n", (root / PLAN).read_bytes())
