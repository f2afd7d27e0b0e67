"""Hazard: an example that no longer runs, or no longer shows what it claims."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from tests.harness.command import COHERENT, REPOSITORY, Command
from tests.harness.mounted import needs_fuse

EXAMPLES = REPOSITORY / "examples"


@pytest.fixture
def run(tmp_path):
    """Run an example in a directory of its own, with ``coherent`` on its PATH; its output."""
    programs, scratch = tmp_path / "bin", tmp_path / "scratch"
    programs.mkdir()
    scratch.mkdir()
    program = programs / "coherent"
    # exec: the command's parent is the calling shell, as with an installed one.
    program.write_text(f'#!/bin/sh\nexec {shlex.join(COHERENT)} "$@"\n')
    program.chmod(0o755)

    def run(*words, cwd=scratch, **environment):
        done = subprocess.run(
            words,
            cwd=cwd,
            env={
                **os.environ,
                "PATH": f"{programs}:{os.environ['PATH']}",
                "PYTHONPATH": str(REPOSITORY),
                "TMPDIR": str(scratch),
                "COHERENT": str(program),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout

    return run


def test_lost_update_is_lost_without_the_library_and_kept_with_it(run):
    told = run(sys.executable, "-W", "error", EXAMPLES / "lost_update.py")
    assert "LOST: what alice wrote." in told
    assert "alice committed since you read it: you saw generation 0, current is 1" in told
    assert "(reacquired: plan.md)" in told
    assert "KEPT: both edits." in told


def test_two_shells_lose_an_edit_without_the_command_and_keep_it_with_it(run):
    told = run("bash", EXAMPLES / "two_shells.sh")
    assert "1 of 2 edits are there." in told
    assert "bob: exit code 75" in told
    assert "alice committed since you read it" in told
    assert told.rstrip().endswith("2 of 2 edits are there.")


@needs_fuse
def test_two_agents_with_plain_tools_lose_nothing(run):
    told = run("bash", EXAMPLES / "two_agents.sh")
    assert "    bash: plan.md: Permission denied\n" in told
    assert "alice saw generation 0; current is generation 1." in told
    assert told.rstrip().endswith("Every line of both is there.")


@pytest.mark.invariant("I1")
def test_counter_of_eight_processes_loses_nothing(run):
    assert "200 of 200 counted" in run(sys.executable, "-W", "error", EXAMPLES / "counter.py")


@pytest.mark.invariant("I1")
def test_retrying_scripts_that_meet_lose_no_edit(run, root):
    Command(root).ok("init", "--managed", "plans/**")
    retry = shlex.quote(str(EXAMPLES / "retry.sh"))
    run(
        "bash",
        "-c",
        f"""
        for n in 1 2 3 4; do
            (for m in 1 2 3; do
                bash {retry} plans/plan.md sh -c "echo $n.$m >> \\$0" 2>> refusals || exit
            done) > said.$n &
            all="$all $!"
        done
        for each in $all; do wait $each || exit; done
        """,
        cwd=root,
    )
    lines = (root / "plans/plan.md").read_text().splitlines()
    assert lines[0] == "first"
    assert sorted(lines[1:]) == [f"{n}.{m}" for n in range(1, 5) for m in range(1, 4)]


def test_retry_script_passes_on_what_is_no_conflict(run, root):
    Command(root).ok("init", "--managed", "plans/**")
    retry = shlex.quote(str(EXAMPLES / "retry.sh"))
    told = run(
        "bash",
        "-c",
        f"""
        bash {retry} plans/absent true 2> said; echo "absent: $?"
        bash {retry} plans/plan.md false; echo "failed: $?"
        bash {retry} plans/plan.md 2> said; echo "usage: $?"
        """,
        cwd=root,
    )
    assert told == "absent: 66\nfailed: 1\nusage: 2\n"
    assert (root / "plans/plan.md").read_text() == "first\n"


def test_every_example_is_run_here():
    here = (REPOSITORY / "tests" / "test_examples.py").read_text()
    names = {each.name for each in EXAMPLES.iterdir() if each.is_file()}
    assert {name for name in names if f'"{name}"' not in here} == set()
