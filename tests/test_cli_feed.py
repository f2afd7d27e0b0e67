"""Hazard: a shell that follows others is told late, told wrongly, or hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from tests.harness.command import Command
from tests.harness.processes import until

PLAN = "plans/plan.md"


@pytest.fixture
def alice(root):
    Command(root).ok("init", "--managed", "plans/**")
    return Command(root, "alice")


@pytest.fixture
def bob(root, alice):
    return Command(root, "bob")


@pytest.fixture
def started():
    """Processes of a test, ended with it."""
    running = []
    yield running.append
    for popen in running:
        popen.kill()
        popen.communicate()


def start_watch(command, started, *words):
    popen = command.start(
        "watch", *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    started(popen)
    return popen


# ── since ────────────────────────────────────────────────────────────────────


def test_since_lists_what_happened_and_gives_the_next_token(alice, bob):
    token = alice.ok("since", "--json").json()["token"]
    assert alice.ok("since").text == f"token {token}\n"
    bob.ok("read", PLAN)
    bob.ok("write", PLAN, input="bob's\n")

    told = alice.ok("since", token, "--json").json()

    assert [(e["kind"], e["session"], e["path"]) for e in told["entries"]] == [
        ("write", "bob", PLAN)
    ]
    assert told["complete"] is True
    text = alice.ok("since", token).text
    assert "bob" in text
    assert text.endswith(f"\ntoken {told['token']}\n")
    assert alice.ok("since", told["token"]).text == f"token {told['token']}\n"


def test_since_refuses_what_is_no_token(alice):
    done = alice("since", "yesterday")
    assert (done.code, done.out) == (2, b"")
    assert "no token" in done.err


# ── watch ────────────────────────────────────────────────────────────────────


def test_watch_prints_an_object_a_line_at_once(root, alice, bob, started):
    token = alice.ok("since", "--json").json()["token"]
    popen = start_watch(alice, started, "--json", "--since", token)
    bob.ok("create", "plans/a", input="1")
    first = json.loads(popen.stdout.readline())
    bob.ok("append", "plans/a", input="2")
    second = json.loads(popen.stdout.readline())
    assert [(e["ok"], e["path"], e["generation"]) for e in (first, second)] == [
        (True, "plans/a", 1),
        (True, "plans/a", 2),
    ]
    assert first["token"] != second["token"]

    popen.send_signal(signal.SIGINT)

    assert popen.wait() == -signal.SIGINT
    assert popen.stderr.read() == b""


def test_watch_ends_by_itself_after_a_count_or_a_time(alice, bob):
    token = alice.ok("since", "--json").json()["token"]
    bob.ok("create", "plans/a", input="1")
    bob.ok("create", "plans/b", input="1")
    done = alice.ok("watch", "--since", token, "--count", "1")
    assert "plans/a  generation 1  bob" in done.text
    assert alice.ok("watch", "--for", "0.1").out == b""
    assert alice.ok("watch", "--since", token, "--for", "0", "plans/b").out.count(b"\n") == 1


def test_watch_ends_in_silence_when_nobody_reads_on(alice, bob, started):
    token = alice.ok("since", "--json").json()["token"]
    popen = start_watch(alice, started, "--since", token)
    bob.ok("create", "plans/a", input="1")
    assert popen.stdout.readline()
    popen.stdout.close()
    bob.ok("create", "plans/b", input="1")
    assert popen.wait() == -signal.SIGPIPE
    assert popen.stderr.read() == b""


def test_watch_ends_on_a_termination_and_frees_what_it_had(root, alice, bob, started):
    token = alice.ok("since", "--json").json()["token"]
    bob.ok("create", "plans/a", input="1")
    popen = start_watch(alice, started, "--since", token)
    assert popen.stdout.readline()
    popen.terminate()
    assert popen.wait() == -signal.SIGTERM
    assert bob.ok("check").out


def test_watch_refuses_paths_that_lead_out(root, alice):
    assert alice("watch", "..", "--for", "0").code == 77
    (root / "plans/sub").mkdir()
    inside = Command(root / "plans/sub", "alice")
    assert inside("watch", "../plan.md", "--for", "0").code == 0


def test_hostile_names_reach_no_terminal(root, alice, bob):
    token = alice.ok("since", "--json").json()["token"]
    Command(root, "e\x1bvil").ok("create", "plans/\x1b[31m", input="1")
    for words in (["since", token], ["watch", "--since", token, "--count", "1"], ["top", "--once"]):
        assert b"\x1b" not in alice.ok(*words).out, words


# ── notes ────────────────────────────────────────────────────────────────────


def test_notes_are_told_once(alice, bob):
    alice.ok("read", PLAN)
    bob.ok("read", PLAN)
    bob.ok("write", PLAN, input="first\nsecond\n")
    text = alice.ok("notes").text
    assert text.startswith(f"{PLAN}: changed by bob; you saw generation 0, current is 1 (")
    assert text.endswith("\n+second\n")
    assert alice.ok("notes").text == ""
    assert alice.ok("notes", "--json").json() == {"ok": True, "notes": []}


def test_notes_that_nobody_took_are_told_again(alice, bob):
    alice.ok("read", PLAN)
    bob.ok("read", PLAN)
    bob.ok("write", PLAN, input="bob's\n")
    with open("/dev/full", "wb") as full:
        popen = alice.start("notes", stdout=full, stderr=subprocess.DEVNULL)
        assert popen.wait() == 74
    assert alice.ok("notes", "--json").json()["notes"][0]["by"] == ["bob"]


# ── lease ────────────────────────────────────────────────────────────────────


def test_lease_is_held_while_a_command_runs_and_its_status_is_passed_on(root, alice, bob, started):
    bob.ok("read", PLAN)
    popen = alice.start(
        *("lease", PLAN, "--ttl", "0.5", "--"),
        *(sys.executable, "-c", "import sys; print('in', flush=True); sys.exit(int(input()))"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    started(popen)
    assert popen.stdout.readline() == b"in\n"
    (before,) = bob.ok("status", "--json").json()["leases"]
    assert (before["session"], before["held"]) == ("alice", True)

    def renewed():
        return bob.ok("status", "--json").json()["leases"][0]["until"] > before["until"]

    until(renewed, "it is renewed")
    done = bob("write", PLAN, input="bob's\n")
    assert done.code == 75
    assert "alice holds a lease since" in done.err

    popen.communicate(b"7\n")
    assert popen.returncode == 7
    bob.ok("write", PLAN, input="bob's\n")


def test_command_under_a_lease_speaks_for_its_holder(root, alice):
    coherent = f"{sys.executable} -P -m cli"
    script = f"{coherent} read {PLAN} && echo x | {coherent} write {PLAN}"
    named = Command(root)
    done = named("lease", PLAN, "--as", "carol", "--", "sh", "-c", script)
    assert done.code == 0, done.err
    entry = alice.ok("log", PLAN, "--json").json()["entries"][0]
    assert entry["session"] == "carol"


@pytest.fixture
def holding(alice, started):
    """A command that runs under Alice's lease until it is sent a line."""

    def start(*options):
        popen = alice.start(
            *("lease", PLAN, *options, "--"),
            *(sys.executable, "-c", "print('in', flush=True); input()"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started(popen)
        assert popen.stdout.readline() == b"in\n"
        return popen

    return start


def test_lease_that_was_lost_is_told_and_the_status_stays_that_of_the_command(bob, holding):
    popen = holding("--ttl", "0.3")
    assert bob.ok("lease", PLAN, "--break").text == f"{PLAN}: the lease is broken\n"
    reader = threading.Timer(1.0, lambda: None)  # three tries of the renewal
    reader.start()
    reader.join()
    _, err = popen.communicate(b"\n")
    assert popen.returncode == 0
    assert b"the lease was lost while the command ran" in err


def test_lease_that_was_lost_is_told_though_no_renewal_was_due(bob, holding):
    popen = holding("--json")
    bob.ok("lease", PLAN, "--break")
    out, err = popen.communicate(b"\n")
    assert popen.returncode == 0
    assert json.loads(out)["lost"] is True
    assert b"the lease was lost while the command ran" in err


def test_lease_of_a_name_is_granted_extended_refused_and_released(alice, bob):
    granted = alice.ok("lease", PLAN, "--ttl", "60", "--json").json()
    assert granted["session"] == "alice"
    extended = alice.ok("lease", PLAN, "--ttl", "3600", "--json").json()
    assert extended["until"] > granted["until"]
    refused = bob("lease", PLAN, "--json")
    assert refused.code == 75
    assert refused.json()["until"] == extended["until"]
    assert bob("lease", PLAN, "--json").out == refused.out
    assert bob("lease", PLAN, "--release").code == 75
    assert "alice" in bob.ok("status").text.partition("LEASE")[2]
    assert alice.ok("lease", PLAN, "--release").text == f"{PLAN}: the lease is released\n"
    assert alice.ok("lease", PLAN, "--release").text == f"{PLAN}: nobody holds a lease\n"
    assert bob.ok("lease", PLAN, "--break", "--json").json()["broken"] is False


@pytest.mark.parametrize(
    "words",
    [
        ("--ttl", "0"),
        ("--ttl", "nan"),
        ("--ttl", "inf"),
        ("--ttl", "-5"),
        ("--wait", "-1"),
        ("--wait", "nan"),
        ("--release", "--break"),
        ("--break", "--", "true"),
    ],
)
def test_lease_that_cannot_mean_anything_is_wrong_usage(alice, words):
    done = alice("lease", PLAN, *words)
    assert done.code == 2, done
    assert "Traceback" not in done.err


def test_command_that_is_not_there_frees_the_lease(alice, bob):
    assert alice("lease", PLAN, "--", "no-such-command").code == 127
    assert bob.ok("status", "--json").json()["leases"] == []


# ── metrics and top ──────────────────────────────────────────────────────────


def test_metrics_are_printed_for_prometheus_and_for_programs(alice, bob):
    alice.ok("create", "plans/a", input="1")
    assert bob("create", "plans/a", input="2").code == 73
    text = alice.ok("metrics").text
    assert 'coherent_commits_total{session="alice"} 1\n' in text
    assert 'coherent_refusals_total{session="bob",reason="already_exists"} 1\n' in text
    found = alice.ok("metrics", "--json").json()["metrics"]
    assert {"name", "session", "value", "reason"} == set(found[0])


def test_top_prints_one_picture_in_a_pipe(alice, bob):
    alice.ok("create", "plans/a", input="1")
    assert bob("create", "plans/a", input="2").code == 73
    alice.ok("lease", PLAN, "--ttl", "60")
    text = alice.ok("top", "--once").text
    for expected in ("alice", "bob", "plans/a", PLAN, "refusals 1"):
        assert expected in text
    assert alice.ok("top", "--json").json()["leases"][0]["path"] == PLAN


def test_top_without_a_terminal_says_what_to_use(alice):
    done = alice("top")
    assert (done.code, done.out) == (2, b"")
    assert "coherent status" in done.err


@pytest.mark.parametrize("how", ["q", "interrupt"])
def test_top_draws_until_it_is_asked_to_end(alice, bob, started, how):
    alice.ok("create", "plans/a", input="1")
    controller, terminal = os.openpty()
    popen = alice.start(
        *("top", "--interval", "0.2"),
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        env=alice.environment(TERM="xterm-256color", COLUMNS="120", LINES="40"),
        start_new_session=True,
    )
    started(popen)
    os.close(terminal)
    screen = b""
    while b"plans/a" not in screen:
        screen += os.read(controller, 65536)
    bob.ok("create", "plans/later", input="1")
    while b"plans/later" not in screen:
        screen += os.read(controller, 65536)
    if how == "q":
        os.write(controller, b"q")
    else:
        popen.send_signal(signal.SIGINT)
    drain = threading.Thread(target=_drain, args=(controller,))
    drain.start()
    assert popen.wait(60) == (0 if how == "q" else -signal.SIGINT)
    drain.join()
    os.close(controller)
    assert popen.stderr.read() == b""


def _drain(controller):
    try:
        while os.read(controller, 65536):
            pass
    except OSError:  # the kernel's way to say that the other end is closed
        pass
