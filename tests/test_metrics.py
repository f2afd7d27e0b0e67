"""Hazard: counters that count wrongly, cost something, or break their reader."""

from __future__ import annotations

import contextlib
import re

import pytest

from cli.metrics import prometheus
from coherent_volume import ConflictError, LeasedError, meters
from coherent_volume.answers import Metric
from coherent_volume.metrics import _NAMES, HELP
from tests.harness.processes import until

PLAN = "plans/plan.md"


def counted(volume, session=None):
    """The counters of one session, without "coherent_" and "_total"."""
    name = session or volume.session.name
    return {
        (m.name.removeprefix("coherent_").removesuffix("_total") + (m.reason and f":{m.reason}")): (
            m.value
        )
        for m in volume.metrics()
        if m.session == name
    }


def test_every_deed_is_counted_where_it_belongs(root, alice, bob):
    alice.read(PLAN)
    bob.read(PLAN)
    alice.write(PLAN, "one\n")
    with pytest.raises(ConflictError):
        bob.write(PLAN, "late\n")
    with pytest.raises(ConflictError):
        bob.create(PLAN, "late\n")
    with alice.lease(PLAN, ttl=60.0):
        bob.read(PLAN)
        with pytest.raises(LeasedError):
            bob.write(PLAN, "late\n")
    (root / PLAN).write_text("from outside\n")
    seen = bob.observe(PLAN)
    assert bob.observe(PLAN, known=seen).data is None
    alice._parts.meters.count("merges")

    assert counted(alice)["commits"] == 1
    assert counted(alice)["merges"] == 1
    mine = counted(bob)
    assert mine["refusals:stale_generation"] == 1
    assert mine["refusals:already_exists"] == 1
    assert mine["refusals:leased"] == 1
    assert mine["foreign_edits"] == 1
    assert mine["unchanged_replies"] == 1
    assert mine["unchanged_saved_bytes"] == len("from outside\n")
    # Whether the last look was one from memory depends on how old the file was by then.
    assert mine["read_misses"] + mine.get("read_hits", 0) == 4
    assert alice.status().refusals == 0  # bob's are in bob's memory until he flushes
    assert bob.status().refusals == 3


def test_reads_from_memory_are_counted(root, alice):
    file = root / PLAN
    until(lambda: alice.read(PLAN) and alice._cache.get(PLAN), f"{file} is old enough")
    before = counted(alice).get("read_hits", 0)
    for _ in range(10):
        alice.read(PLAN)
    assert counted(alice)["read_hits"] == before + 10


def test_counters_last_over_processes_and_add_up(root, alice, process):
    body = """
        from coherent_volume import CoherentVolume
        with CoherentVolume(root, session="worker") as volume:
            for _ in range(5):
                volume.append("plans/plan.md", "x")
        """
    for _ in range(3):
        process(body, root=root)
    assert counted(alice, "worker")["commits"] == 15


def test_flushing_twice_counts_nothing_twice(alice):
    alice.create("plans/a", "1")
    for _ in range(3):
        with alice._parts.gate.held(1.0):
            alice._parts.meters.flush(alice._parts.sidecar.database, "alice")
    assert counted(alice)["commits"] == 1


def test_process_that_only_reads_a_little_writes_nothing(root, volume, process):
    volume("alice").close()
    log = root / ".coherence/sidecar.db"
    before = log.stat().st_mtime_ns, log.stat().st_size
    process(
        """
        from coherent_volume import CoherentVolume
        with CoherentVolume(root) as volume:
            volume.read("plans/plan.md")
        """,
        root=root,
    )
    assert (log.stat().st_mtime_ns, log.stat().st_size) == before


def test_forked_child_counts_for_itself_alone(root, alice, process):
    process(
        """
        import os
        from coherent_volume import CoherentVolume
        volume = CoherentVolume(root, session="forker")
        volume.create("plans/a", "1")
        pid = os.fork()
        if pid == 0:
            volume.create("plans/b", "1")
            volume.close()
            os._exit(0)
        os.waitpid(pid, 0)
        volume.close()
        """,
        root=root,
    )
    assert counted(alice, "forker")["commits"] == 2


def test_sessions_long_gone_are_added_up_under_one_name(alice, monkeypatch):
    database = alice._parts.sidecar.database
    for number in range(5):
        counter = meters.Meters()
        counter.count("commits", 2)
        counter.count("refusals", label="fenced")
        with alice._parts.gate.held(1.0):
            counter.flush(database, f"s{number}")
    monkeypatch.setattr(meters, "_SESSIONS_MAX", 2)
    assert meters.has_old(database, 0)
    with alice._parts.gate.held(1.0):
        meters.fold(database, 0)
    found = [
        (m.name, m.session, m.value) for m in alice.metrics() if m.name.endswith("commits_total")
    ]
    assert found == [
        ("coherent_commits_total", "others", 6),
        ("coherent_commits_total", "s3", 2),
        ("coherent_commits_total", "s4", 2),
    ]
    assert not meters.has_old(database, 0)


# ── the text form ────────────────────────────────────────────────────────────

SAMPLE = re.compile(
    r'[a-z_]+\{session="(?:[^"\\\n]|\\["\\n])*"(?:,reason="[a-z_]*")?\} -?[0-9.e+-]+'
)


def test_text_form_is_what_prometheus_reads(alice, bob):
    alice.create("plans/a", "1")
    with contextlib.suppress(ConflictError):
        bob.write("plans/a", "blind")
    text = prometheus([*alice.metrics(), *bob.metrics()])
    names = []
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            names.append(line.split()[2])
            assert line.endswith(" counter")
        elif not line.startswith("# HELP "):
            assert SAMPLE.fullmatch(line), line
            assert line.startswith(names[-1])
    assert len(names) == len(set(names))
    assert text.endswith("\n")


def test_label_values_are_escaped():
    text = prometheus([Metric("coherent_commits_total", 'a"b\\c\nd\udce9', 1.0)])
    (sample,) = [line for line in text.splitlines() if not line.startswith("#")]
    assert SAMPLE.fullmatch(sample)
    assert 'a\\"b\\\\c\\\\nd\\\\udce9' in sample


def test_no_name_of_a_session_reaches_a_terminal_as_a_control_sequence():
    name = "s\x1b]0;pwn\x07\x9ba\u202e"
    text = prometheus([Metric("coherent_commits_total", name, 1.0)])
    assert text.replace("\n", "").isprintable()
    assert 'session="s\\\\x1b]0;pwn' in text


def test_every_counter_has_a_name_by_the_conventions_and_a_help():
    assert set(_NAMES.values()) == set(HELP)
    assert all(re.fullmatch(r"coherent_[a-z_]+_total", name) for name in HELP)


def test_no_counters_are_an_empty_text():
    assert prometheus([]) == ""
