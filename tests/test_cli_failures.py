"""Hazard: a command fails with a traceback, with the wrong exit code, or after claiming success."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.command import COHERENT, REPOSITORY, Command
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


def has_seen(command: Command, path: str) -> bool:
    """Whether the session may write: it may only if its read was recorded."""
    return command("write", path, "--json", input="judge\n").code == 0


# ── output that goes nowhere ─────────────────────────────────────────────────


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["read"], ["read", "--json"]])
def test_content_that_nobody_took_was_not_seen(alice, words, unbuffered):
    alice.ok("create", "plans/big", "--as", "carol", input=b"x" * 1_000_000)
    reading = alice.start(
        *words,
        "plans/big",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=alice.environment(PYTHONUNBUFFERED=unbuffered),
    )
    assert len(reading.stdout.read(10)) == 10
    reading.stdout.close()
    assert reading.stderr.read() == b""
    reading.stderr.close()
    assert reading.wait() in (-signal.SIGPIPE, 141)
    assert not has_seen(alice, "plans/big")


@pytest.mark.parametrize("words", [["read"], ["read", "--json"]])
def test_a_full_disk_behind_standard_output_was_not_seen(alice, words):
    with open("/dev/full", "wb") as full:
        reading = alice.start(*words, PLAN, stdout=full, stderr=subprocess.PIPE)
        _, said = reading.communicate()
    assert said == b"coherent: standard output: No space left on device\n"
    assert reading.returncode == 74
    assert not has_seen(alice, PLAN)


def test_a_closed_standard_output_was_not_seen(alice):
    reading = alice.start("read", PLAN, preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE)
    _, said = reading.communicate()
    assert said == b"coherent: standard output: it is closed\n"
    assert reading.returncode == 74
    assert not has_seen(alice, PLAN)


def test_a_pipe_that_breaks_ends_a_listing_in_silence(alice):
    for words in (["log"], ["--help"], ["status", "--json"]):
        done = subprocess.run(
            ["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "bash", *COHERENT, *words],
            cwd=alice.where,
            env=alice.environment(),
            capture_output=True,
            check=False,
        )
        assert done.stderr == b""


def test_standard_error_may_be_closed(alice):
    done = alice.start("read", "plans/none.md", preexec_fn=lambda: os.close(2))
    assert done.wait() == 66


def test_everything_closed_still_commits(alice, root):
    def close_all():
        for descriptor in (0, 1, 2):
            os.close(descriptor)

    (root.parent / "draft").write_bytes(b"draft\n")
    done = alice.start(
        "write", "plans/new.md", "--from", root.parent / "draft", preexec_fn=close_all
    )
    assert done.wait() in (0, 74)
    assert (root / "plans/new.md").read_bytes() == b"draft\n"


# ── interrupts ───────────────────────────────────────────────────────────────


def reads_standard_input(pid: int) -> bool:
    """Whether the process waits in a read of its standard input."""
    with open(f"/proc/{pid}/syscall", encoding="ascii") as file:
        return file.read().split()[:2] == ["0", "0x0"]


def test_ctrl_c_ends_a_waiting_write_in_silence_and_changes_nothing(alice, root):
    alice.ok("read", PLAN)
    writing = alice.start(
        "write", PLAN, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    writing.stdin.write(b"half")
    writing.stdin.flush()
    until(lambda: reads_standard_input(writing.pid), "the command reads")
    writing.send_signal(signal.SIGINT)
    out, said = writing.communicate()
    assert (out, said) == (b"", b"")
    # Died by the signal, so that a shell's loop ends with it.
    assert writing.returncode == -signal.SIGINT
    assert (root / PLAN).read_bytes() == b"first\n"


def test_ctrl_c_shows_as_130_in_a_shell(alice):
    script = '"$@"; echo $?'
    with alice.start(
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        args=["bash", "-c", script, "bash", *COHERENT, "create", "plans/new"],
    ) as bash:
        children = Path(f"/proc/{bash.pid}/task/{bash.pid}/children")
        pid = until(lambda: int(children.read_text() or 0), "the command starts")
        until(lambda: reads_standard_input(pid), "the command reads")
        os.kill(pid, signal.SIGINT)
        assert bash.stdout.read() == b"130\n"
        assert bash.stderr.read() == b""


# ── errors of the library ────────────────────────────────────────────────────


def test_every_refusal_has_a_path_a_reason_and_the_next_step(alice, bob):
    alice.ok("read", PLAN)
    bob.ok("append", PLAN, input="bob\n")
    first, second, third, *_ = alice("write", PLAN, input="mine\n").err.splitlines()
    assert first == (
        f"coherent: {PLAN}: bob committed since you read it: you saw generation 0, current is 1"
    )
    command = f"coherent reacquire {PLAN}"
    assert second == f"Read it again ({command}), derive your change anew, and write."
    assert third.startswith("Your content is kept in .coherence/refused/plan.md.alice.g0.")


def test_a_shell_that_nobody_named_is_told_how_to_be_one_session(alice, bob):
    bob.ok("create", "plans/other.md", input="bob's\n")
    hint = "Each shell and each subshell is a session of its own"
    assert hint in Command(alice.where)("write", "plans/other.md", input="x\n").err
    assert hint not in alice("write", "plans/other.md", input="x\n").err


def test_a_file_that_is_held_open_for_writing_is_busy_and_names_the_holder(alice, root):
    alice.ok("read", PLAN)
    with (root / PLAN).open("r+b"):
        done = alice("write", PLAN, "--json", input="mine\n")
    assert done.code == 75
    told = done.json()
    assert told["error"] == "BusyError"
    assert f"pid {os.getpid()}" in told["message"]
    assert (root / PLAN).read_bytes() == b"first\n"
    alice.ok("write", PLAN, input="mine\n")


def test_a_directory_in_the_way_is_wrong_usage(alice, root):
    (root / "plans/folder").mkdir()
    assert alice("read", "plans/folder").code == 2
    assert alice("write", "plans/folder", input="x").code == 2
    os.mkfifo(root / "plans/fifo")
    assert alice("read", "plans/fifo").code == 2


def test_a_hard_linked_artifact_is_refused_with_advice(alice, root):
    os.link(root / PLAN, root / "other")
    alice.ok("read", PLAN)
    done = alice("write", PLAN, input="x\n")
    assert done.code == 2
    assert "hard link" in done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_exits_with_77(alice, root):
    (root / PLAN).chmod(0)
    assert alice("read", PLAN).code == 77


def test_a_name_too_long_is_wrong_usage(alice):
    assert alice("write", f"plans/{'x' * 256}", input="x").code == 2
    alice.ok("write", f"plans/{'x' * 255}", input="x")


def test_a_disk_that_is_full_exits_with_69_and_changes_nothing(alice, root):
    alice.ok("read", PLAN)

    def small_files_only():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    writing = alice.start(
        "write",
        PLAN,
        "--json",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=small_files_only,
    )
    out, said = writing.communicate(b"x" * 1_000_000)
    assert said == b""
    assert writing.returncode == 69, out
    assert json.loads(out)["reason"] == "storage"
    assert (root / PLAN).read_bytes() == b"first\n"
    alice.ok("write", PLAN, input="small\n")


def test_too_few_descriptors_are_one_typed_error(alice):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))

    done = alice.start("read", PLAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=few)
    _, said = done.communicate()
    assert b"Traceback" not in said
    assert b"internal error" not in said, said
    assert done.returncode in (69, 74), said


def test_a_working_directory_that_is_gone_is_said(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'cd "$0" && rmdir "$0" && exec "$@"', folder, *COHERENT, "read", "x"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"coherent: the current directory no longer exists\n")


# ── errors of our own ────────────────────────────────────────────────────────

BROKEN = """\
import sys
import cli.content
def read(*_, **__):
    raise RuntimeError("something\\nunforeseen \\x1b[31m")
cli.content.read = read
from cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def broken(command: Command, *words: str, **environment: str):
    return subprocess.run(
        [sys.executable, "-P", "-c", BROKEN, "read", PLAN, *words],
        cwd=command.where,
        env=command.environment(**environment),
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_internal_error_is_one_line_and_exits_with_70(alice):
    done = broken(alice)
    assert done.returncode == 70
    assert done.stdout == ""
    assert done.stderr == (
        "coherent: internal error: RuntimeError: something\\nunforeseen \\x1b[31m"
        " (COHERENT_DEBUG=1 shows where)\n"
    )


def test_an_internal_error_as_json(alice):
    done = broken(alice, "--json")
    assert (done.returncode, done.stderr) == (70, "")
    assert json.loads(done.stdout)["reason"] == "internal"


def test_a_traceback_is_for_those_who_ask(alice):
    done = broken(alice, COHERENT_DEBUG="1")
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert alice("read", "plans/none.md", COHERENT_DEBUG="1").err.count("Traceback") == 1
