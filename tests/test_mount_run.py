"""Hazard: an agent under ``coherent run`` loses a peer's work, or leaves something behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from harness.command import COHERENT, REPOSITORY
from harness.mounted import needs_fuse

pytestmark = needs_fuse


@pytest.fixture
def bob(volume):
    """The peer, who works with the library outside."""
    return volume("bob")


def environment():
    return {**os.environ, "PYTHONPATH": str(REPOSITORY)}


def words(session, *command, options=()):
    return ["timeout", "-k", "1", "40", *COHERENT, "run", "--as", session, *options, "--", *command]


def run(root, session, script, **options):
    return subprocess.run(
        words(session, "bash", "-c", script),
        cwd=root,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def start(root, session, script):
    return subprocess.Popen(
        words(session, "bash", "-c", script),
        cwd=root,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process, word):
    line = process.stdout.readline()
    assert line.strip() == word, (line, process.poll())


def test_two_shells_edit_one_file_and_the_second_is_refused(root, bob):
    alice = start(root, "alice", "cat plans/plan.md >/dev/null; echo read; read x;"
        " echo mine > plans/plan.md; echo $?; cat .coherence/why/plans/plan.md")  # fmt: skip
    said(alice, "read")
    carol = run(root, "carol", "sed -i s/first/FIRST/ plans/plan.md")
    assert carol.returncode == 0, carol
    out, err = alice.communicate("go\n", timeout=60)
    assert out.splitlines()[0] == "1"
    assert "carol committed since you read it" in out
    assert "Permission denied" in err
    assert (root / "plans" / "plan.md").read_bytes() == b"FIRST\n"
    assert [each.session for each in bob.log("plans/plan.md", limit=1)] == ["carol"]


def test_the_command_works_at_the_volumes_own_path_and_its_status_is_passed_on(root, bob):
    done = run(root, "alice", "pwd; echo mine > plans/plan.md; exit 7")
    assert (done.returncode, done.stdout.strip()) == (7, str(root))
    assert (root / "plans" / "plan.md").read_bytes() == b"mine\n"
    assert bob.log("plans/plan.md", limit=1)[0].session == "alice"


def test_nothing_is_left_when_the_command_has_ended(root, bob):
    run(root, "alice", "echo x > plans/new.md; rm plans/plan.md")
    assert not (root / "plans" / "plan.md").exists()  # what was held is committed
    assert f" {root} " not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    left = os.listdir(root / ".coherence" / "mounts")
    assert [each for each in left if each != "log" and not each.endswith(".refusals")] == []


def test_a_command_that_is_not_there_is_told_as_a_shell_tells_it(root, bob):
    done = subprocess.run(
        words("alice", "no-such-command"), cwd=root, env=environment(), capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 127
    assert b"no-such-command: No such file" in done.stderr


def test_the_command_that_a_signal_ended_is_told_as_a_shell_tells_it(root, bob):
    assert run(root, "alice", "kill -9 $$").returncode == 137


def test_a_termination_reaches_the_command(root, bob):
    alice = start(
        root, "alice", "trap 'echo caught; exit 5' TERM; echo up; while :; do read -t 1; done"
    )
    said(alice, "up")
    (launcher,) = Path(f"/proc/{alice.pid}/task/{alice.pid}/children").read_text().split()
    os.kill(int(launcher), signal.SIGTERM)
    said(alice, "caught")
    alice.communicate(timeout=30)
    assert alice.returncode == 5


def test_a_background_job_keeps_the_mount_and_is_still_fenced(root, bob):
    done = run(
        root, "alice",
        "cat plans/plan.md; (setsid bash -c 'until [ -e go ]; do sleep 0.05; done;"
        " echo late > plans/plan.md; echo $? > status' >/dev/null 2>&1 &)",
    )  # fmt: skip
    assert done.returncode == 0
    bob.read("plans/plan.md")
    bob.write("plans/plan.md", b"by bob\n")
    (root / "go").touch()
    deadline = time.monotonic() + 20
    while not (root / "status").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    while not (root / "status").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert (root / "status").read_text() == "1\n"
    assert (root / "plans" / "plan.md").read_bytes() == b"by bob\n"


def test_the_command_line_inside_acts_on_the_same_volume_as_the_same_session(root, bob):
    coherent = " ".join(COHERENT)
    done = run(
        root, "alice",
        f"{coherent} session --json && {coherent} read plans/plan.md && echo by the command |"
        f" {coherent} write plans/plan.md && cat plans/plan.md",
    )  # fmt: skip
    assert done.returncode == 0, done
    assert '"session": "alice"' in done.stdout
    assert done.stdout.endswith("by the command\n")
    assert (root / "plans" / "plan.md").read_bytes() == b"by the command\n"


def test_a_mount_inside_a_run_is_refused_for_nobody_could_end_it(root, bob, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    coherent = " ".join(COHERENT)
    done = run(root, "alice", f"{coherent} mount {tmp_path / 'elsewhere'} --as carol")
    assert done.returncode == 2, done
    assert "inside coherent run nothing else is mounted" in done.stderr


def test_a_run_inside_a_run_is_a_session_of_its_own(root, bob):
    inner = " ".join(COHERENT)
    done = run(
        root, "alice",
        f"cat plans/plan.md >/dev/null; sleep 0.6; {inner} run --as carol -- bash -c"
        " 'echo inner > plans/plan.md'; cat plans/plan.md",
    )  # fmt: skip
    assert done.stdout == "inner\n", done
    assert bob.log("plans/plan.md", limit=1)[0].session == "carol"


def test_increments_by_four_agents_are_all_there(root, bob):
    (root / "plans" / "count").write_bytes(b"0\n")
    loop = (
        "python3 - <<'E'\n"
        "import os, time\n"
        "done = 0\n"
        "while done < 8:\n"
        "    value = int(open('plans/count').read())\n"
        "    try:\n"
        "        with open('plans/t%d' % os.getpid(), 'w') as f: f.write('%d\\n' % (value + 1))\n"
        "        os.rename('plans/t%d' % os.getpid(), 'plans/count')\n"
        "        done += 1\n"
        "    except OSError:\n"
        "        time.sleep(0.7)\n"
        "        open('plans/count').read(); time.sleep(0.7)\n"
        "E"
    )
    agents = [start(root, f"agent-{n}", loop) for n in range(2)]
    for agent in agents:
        _, err = agent.communicate(timeout=100)
        assert agent.returncode == 0, err
    assert (root / "plans" / "count").read_bytes() == b"16\n"
