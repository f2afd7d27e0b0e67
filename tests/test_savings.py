"""Hazard: savings that nobody had, or that are told without saying against what."""

from __future__ import annotations

import pytest

from tests.harness.command import Command

PLAN = "plans/plan.md"


def of(volume, session):
    (found,) = [each for each in volume.savings().sessions if each.session == session]
    return found


def test_unchanged_replies_are_what_is_saved_to_the_byte(root, alice):
    (root / "plans/long").write_bytes(b"x" * 994)
    plan = alice.observe(PLAN)  # 6 bytes
    long = alice.observe("plans/long")
    for _ in range(4):
        plan = alice.observe(PLAN, known=plan)
        long = alice.observe("plans/long", known=long)
    found = of(alice, "alice")
    assert (found.reads, found.unchanged) == (10, 8)
    assert found.handed_over == 1000
    assert found.demand == 5 * 1000
    # The first read knew of one file, all others of both.
    assert found.broadcast == 6 + 9 * 1000
    assert found.saved_of_demand == 4000
    assert found.saved_of_broadcast == 6 + 9 * 1000 - 1000
    assert found.saved_tokens_of_demand == 1000


def test_content_that_is_handed_over_again_saves_nothing(alice):
    for _ in range(5):
        alice.read(PLAN)
    found = of(alice, "alice")
    assert found.handed_over == found.demand == 5 * 6
    assert found.saved_of_demand == 0
    assert found.saved_of_broadcast == 0


@pytest.mark.parametrize("policy", ["strict", "notified", "broadcast"])
def test_what_changed_is_handed_over_under_every_policy(volume, bob, policy):
    bob.write(PLAN, "y" * 100, overwrite=True)
    alice = volume("alice", reads=policy)
    seen = alice.observe(PLAN)
    bob.write(PLAN, "z" * 100)
    alice.reacquire()
    seen = alice.observe(PLAN, known=seen)
    alice.observe(PLAN, known=seen)
    found = of(alice, "alice")
    assert found.handed_over == (300 if policy == "broadcast" else 200)
    assert found.demand == 300


def test_sessions_add_up_also_over_processes(root, alice, bob, process):
    body = """
        from coherent_volume import CoherentVolume
        with CoherentVolume(root, session="worker") as volume:
            seen = volume.observe("plans/plan.md")
            for _ in range(10):
                seen = volume.observe("plans/plan.md", known=seen)
            volume.create(f"plans/{number}", "a process that wrote leaves its counters")
        """
    for number in range(2):
        process(body, root=root, number=number)
    alice.read(PLAN)
    found = alice.savings()
    assert of(alice, "worker").saved_of_demand == 2 * 10 * 6
    assert found.total.saved_of_demand == sum(each.saved_of_demand for each in found.sessions)
    assert found.total.demand == sum(each.demand for each in found.sessions)
    assert found.total.reads == 23


def test_command_tells_it_to_people_and_to_programs(root, alice):
    seen = alice.observe(PLAN)
    alice.observe(PLAN, known=seen)
    alice.create("plans/a", "1")
    alice.close()
    shell = Command(root, "shell")
    told = shell.ok("savings", "--json").json()
    assert told["total"]["saved_of_demand"] == 6
    assert [each["session"] for each in told["sessions"]] == ["alice"]
    assert "no tokenizer was asked" in told["method"]
    text = shell.ok("savings").text
    assert "alice" in text
    assert "50.0 %" in text
    assert "demand: each read hands over its content" in text


def test_volume_that_nobody_read_has_no_savings(root):
    shell = Command(root, "shell")
    shell.ok("init", "--managed", "plans/**")
    assert shell.ok("savings").text == "no session has read anything yet\n"
    assert shell.ok("savings", "--json").json()["sessions"] == []
