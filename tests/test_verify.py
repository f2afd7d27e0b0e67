"""Hazard: a volume or a run in which a guarantee was broken, and nobody says so."""

from __future__ import annotations

import random
import sqlite3

import pytest

from coherent_audit import (
    ABSENT,
    Access,
    Recorder,
    RecordingError,
    check,
    fingerprint,
    load,
    minimal,
)
from coherent_volume import ConflictError, LeasedError, rebuild_sidecar
from tests.harness.command import Command
from tests.harness.processes import Workers
from tests.harness.workload import live
from tests.test_history import START, commit, history, read, rules_broken

PLAN = "plans/plan.md"
OTHER = "plans/other.md"


@pytest.fixture
def lived(root, volume):
    """A volume in which about everything happened once; closed."""
    alice, bob = volume("alice"), volume("bob")
    alice.read(PLAN)
    alice.write(PLAN, "one\n")
    with pytest.raises(ConflictError):
        bob.write(PLAN, "blind\n")
    (root / PLAN).write_text("from outside\n")
    bob.read(PLAN)
    with bob.transaction() as tx:
        tx.append(PLAN, "more\n")
        tx.create(OTHER, "other\n" * 40_000)
    alice.lease(PLAN, ttl=60)
    with pytest.raises(LeasedError):
        bob.append(PLAN, "kept out\n")
    bob.break_lease(PLAN)
    bob.append(PLAN, "more\n")
    bob.delete(OTHER)
    bob.create(OTHER, "again\n")
    bob.rename(OTHER, "plans/third.md")
    for each in (alice, bob):
        each.close()
    return root


def tamper(root, *statements):
    with sqlite3.connect(root / ".coherence" / "sidecar.db") as database:
        for statement in statements:
            assert database.execute(statement).rowcount > 0, statement
    database.close()


def seal(root):
    """Make the checksums of the rows fit again, as a fault in our own code would."""
    from coherent_volume.records import artifact_checksum

    with sqlite3.connect(root / ".coherence" / "sidecar.db") as database:
        rows = database.execute(
            "SELECT path, generation, digest, size, epoch, boot, id FROM artifact"
        ).fetchall()
        for row in rows:
            database.execute(
                "UPDATE artifact SET checksum=? WHERE id=?", (artifact_checksum(*row[:6]), row[6])
            )
    database.close()


# ── volumes ──────────────────────────────────────────────────────────────────


def test_volume_in_which_all_went_well_breaks_nothing(lived, volume):
    report = volume().audit()
    assert report.findings == ()
    assert (report.artifacts, report.ok) == (3, True)
    assert report.generations >= 9


def test_audit_adopts_nothing_and_reports_no_foreign_edit(lived, volume):
    (lived / PLAN).write_text("nobody looked yet\n")
    auditor = volume()
    before = len(auditor.log())
    assert auditor.audit().ok
    assert len(auditor.log()) == before


_PLAN_ID = "(SELECT id FROM artifact WHERE path = CAST('plans/plan.md' AS BLOB))"
BREAKS = {
    "a generation is gone": (
        "I2",
        "generation 4 follows 2",
        f"DELETE FROM history WHERE generation = 3 AND artifact = {_PLAN_ID}",
    ),
    "a base is not the one before": (
        "I1",
        "generation 4 was committed on 2",
        f"UPDATE history SET base = 2 WHERE generation = 4 AND artifact = {_PLAN_ID}",
    ),
    "the head was forgotten": (
        "I7",
        "current is generation 4, the log ends in 3",
        f"DELETE FROM history WHERE generation = 4 AND artifact = {_PLAN_ID}",
    ),
    "kept bytes differ": (
        "I5",
        "the content of generation 1 is not what was committed",
        f"UPDATE history SET content = x'78' WHERE generation = 1 AND artifact = {_PLAN_ID}",
    ),
    "kept bytes are gone": (
        "I5",
        "the content of generation 1 is missing",
        f"UPDATE history SET content = NULL WHERE generation = 1 AND artifact = {_PLAN_ID}",
    ),
    "a view is ahead": (
        "I7",
        "bob saw generation 9, current is 4",
        f"UPDATE observation SET generation = 9 WHERE session = 'bob' AND artifact = {_PLAN_ID}",
    ),
    "a view has other bytes": (
        "I5",
        "alice saw other bytes as generation 1",
        "UPDATE observation SET generation = 1, digest = zeroblob(16) WHERE session = 'alice'",
    ),
    "an epoch went back": (
        "I4",
        "ownership was taken away 1 times, and the epoch is 0",
        f"UPDATE artifact SET epoch = 0 WHERE id = {_PLAN_ID}",
    ),
    "a transaction is torn": (
        "I1",
        "has 1 of its 2 members",
        "UPDATE history SET companions = 0, members = 1 WHERE companions <> 0 AND session = 'bob'",
    ),
    "a view of no artifact": (
        "I7",
        "1 rows of observation belong to no artifact",
        "INSERT INTO observation VALUES ('carol', 999, 1, x'', 0)",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_a_guarantee_is_named(lived, volume, name):
    invariant, message, statement = BREAKS[name]
    tamper(lived, statement)
    seal(lived)
    findings = volume().audit().findings
    assert [f for f in findings if f.invariant == invariant and f.message.endswith(message)]


def test_flipped_row_and_rolled_back_file_are_named(lived, volume):
    tamper(lived, f"UPDATE artifact SET generation = 3 WHERE id = {_PLAN_ID}")
    findings = {f.message for f in volume().audit().findings}
    assert "the record of the current generation is damaged" in findings
    assert "the file is generation 4, current is 3" in findings


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bits_of_the_history_never_pass(lived, volume, seed):
    """Every single row of what was committed is under the audit's eye."""
    rng = random.Random(seed)
    with sqlite3.connect(lived / ".coherence" / "sidecar.db") as database:
        rows = database.execute("SELECT seq, content FROM history WHERE content <> x''").fetchall()
        seq, content = rng.choice(rows)
        flipped = bytearray(content)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        database.execute("UPDATE history SET content=? WHERE seq=?", (bytes(flipped), seq))
    database.close()
    assert not volume().audit().ok


def test_audit_of_a_volume_that_others_write_to_finds_nothing(root, volume):
    """Also while they prune: what it compares is of one moment."""
    auditor = volume("auditor")
    config = root / ".coherence" / "config.toml"
    config.write_text(config.read_text().replace("generations = 100\n", "generations = 2\n"))
    with Workers() as workers:
        for number in range(3):
            workers.start(
                live,
                root=root,
                log=root.parent / f"{number}.log",
                seed=number,
                session=f"writer{number}",
                paths=[PLAN, OTHER, "plans/third.md"],
                seconds=1.5,
                mix=(30, 4),
            )
        for worker in workers.all:
            worker.wait_for("ready")
        audits = 0
        while any(worker.running for worker in workers.all):
            assert auditor.audit().findings == ()
            audits += 1
        workers.finish()
    assert audits


def test_command_says_one_line_for_each_violation_and_fails(lived):
    alice = Command(lived, "alice")
    assert alice.ok("verify").text == "artifacts 3, generations 10: every invariant holds\n"
    tamper(lived, BREAKS["a base is not the one before"][2])
    done = alice("verify")
    assert (done.code, done.text.splitlines()) == (
        65,
        [
            "I1: plans/plan.md: generation 4 was committed on 2",
            "artifacts 3, generations 10: an invariant is broken",
        ],
    )
    told = alice("verify", lived, "--json")
    assert (told.code, told.json()["exit_code"], told.json()["ok"]) == (65, 65, False)
    assert told.json()["violations"] == [
        {"rule": "I1", "path": PLAN, "text": "generation 4 was committed on 2"}
    ]


def test_rebuilt_records_keep_the_members_of_a_commit_together(lived, volume):
    """They are linked by numbers, which must not be given anew."""
    rebuild_sidecar(lived)
    with volume("bob") as bob:
        bob.check(repair=True)
        assert bob.audit().findings == ()


# ── runs ─────────────────────────────────────────────────────────────────────


def transaction(reads=(), writes=(), **more):
    return "transaction", {
        "path": "",
        "reads": tuple(Access(path, generation, content=c) for path, generation, c in reads),
        "writes": tuple(Access(path, g, g and g - 1, content=c) for path, g, c in writes),
        **more,
    }


def seen(path, generation, content, **more):
    return "read", {"path": path, "generation": generation, "content": content, **more}


BOTH = transaction(writes=[("a", 1, "a1"), ("b", 1, "b1")])


def test_transactions_one_after_the_other_can_be():
    steps = [BOTH, transaction([("a", 1, "a1")], [("b", 2, "b2")]), seen("a", 1, "a1")]
    assert not rules_broken(history(*steps))


def test_write_skew_is_no_order():
    one = transaction([("a", 1, "a1"), ("b", 1, "b1")], [("a", 2, "a2")], started=30, ended=50)
    two = transaction([("a", 1, "a1"), ("b", 1, "b1")], [("b", 2, "b2")], started=31, ended=51)
    (violation,) = check(history(BOTH, one, two))
    assert (violation.rule, violation.path) == ("not serializable", "a b")
    assert len(violation.operations) == 2
    assert "no order of these 2 operations" in str(violation)


def test_half_of_a_transaction_is_no_order():
    half = [
        transaction([("a", 2, "a2"), ("b", 1, "b1")], started=30, ended=60),
        transaction(writes=[("a", 2, "a2"), ("b", 2, "b2")], started=31, ended=50),
    ]
    assert rules_broken(history(BOTH, *half)) == {"not serializable"}


def test_half_of_a_transaction_that_was_killed_is_no_order():
    killed = transaction(
        writes=[("a", None, "a2"), ("b", None, "b2")], outcome="unknown", started=31, ended=None
    )
    torn = [
        transaction([("a", 2, "a2"), ("b", 1, "b1")], started=40, ended=60),
        transaction([("b", 2, "b2")], started=61, ended=70),
    ]
    assert rules_broken(history(BOTH, killed, *torn)) == {"not serializable"}
    assert not rules_broken(history(BOTH, killed, torn[1]))


def test_deletion_that_was_killed_is_not_taken_for_another_absence():
    steps = [
        transaction([("a", 0, ABSENT)], [("b", 1, "b1")]),
        ("commit", {"path": "a", "content": ABSENT, "outcome": "unknown", "ended": None}),
    ]
    assert not rules_broken(history(seen("a", 0, ABSENT), *steps))


def test_content_that_came_twice_accuses_nobody():
    again = [
        transaction(writes=[("a", 2, "x"), ("b", 2, "y")], started=22, ended=23),
        transaction(writes=[("a", 3, "a1"), ("b", 3, "b3")], started=24, ended=25),
        # It read generation 1 of a, whose content is that of generation 3.
        transaction([("a", 1, "a1")], [("b", 4, "b4")], started=21, ended=60),
    ]
    assert not rules_broken(history(BOTH, *again))


def test_refused_transaction_that_became_visible_is_found():
    refused = transaction(writes=[("a", None, "a2")], outcome="refused")
    assert "refused write visible" in rules_broken(history(BOTH, refused, seen("a", 2, "a2")))


def test_minimal_history_is_what_shows_the_violation():
    steps = [START, commit(1, "a", "start")]
    for number in range(2, 40):
        steps += [read(number - 1, f"{number - 1}" if number > 2 else "a")]
        steps += [commit(number, f"{number}", f"{number - 1}" if number > 2 else "a")]
    steps[39] = commit(20, "20", "17")
    run = history(*steps)
    lost = next(v for v in check(run) if v.rule == "lost update")
    left = minimal(run, lost)
    assert len(left) <= 2
    assert any(v.text == lost.text for v in check(left))


def test_recorded_transaction_comes_back_as_it_was(tmp_path):
    recorder = Recorder(tmp_path / "log", "alice")
    with recorder.operation("transaction", writes=[{"path": "a", "content": "x"}]) as learned:
        learned.update(writes=[{"path": "a", "content": "x", "generation": 3, "base": 2}])
    recorder.operation("commit", "b").__enter__()
    done, killed = load([tmp_path / "log"])
    assert done.writes == (Access("a", 3, 2, content="x"),)
    assert (done.outcome, killed.outcome, killed.ended) == ("done", "unknown", None)


def test_number_of_a_process_may_come_again(tmp_path):
    """Pids are used again, and many short commands may share one log."""
    for text in ("x", "y"):
        with Recorder(tmp_path / "log", "alice").operation("read", "a") as learned:
            learned.update(generation=0, content=text)
    assert [o.content for o in load([tmp_path / "log"])] == ["x", "y"]


@pytest.mark.parametrize(
    "line",
    [
        b"no json",
        b"[]",
        b"{}",
        b'{"number": 1, "process": 2, "ended": 5}',
        b'{"number": 1, "process": 2, "kind": "read", "path": "a"}',
        b'{"number": 1, "process": 2, "kind": "read", "path": "a", "started": "now"}',
        b'{"number": 1, "process": 2, "kind": "guess", "path": "a", "started": 1}',
        b'{"number": 1, "process": 2, "kind": "read", "path": "a", "started": 1, "x": 1}',
        b'{"number": 1, "process": 2, "kind": "read", "path": "a", "started": 1, "reads": [3]}',
        b'{"number": [], "process": 2, "kind": "read", "path": "a", "started": 1}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=range(12),
)
def test_what_is_no_recorded_run_is_refused(tmp_path, line):
    (tmp_path / "log").write_bytes(line + b"\n")
    with pytest.raises(RecordingError, match="log, line 1: "):
        load([tmp_path / "log"])


def test_command_judges_a_run_and_looks_it_up_in_the_volume(lived):
    def told(generation, content, session="bob"):
        with Recorder(lived / "log", session).operation("commit", OTHER) as learned:
            learned.update(generation=generation, content=content, base=generation - 1)

    bob = Command(lived, "bob")
    told(1, fingerprint(b"other\n" * 40_000))
    told(2, ABSENT)
    told(3, fingerprint(b"again\n"))
    told(4, ABSENT)
    assert bob.ok("verify", "log").text == "operations 4 in 1 logs: every invariant holds\n"
    assert bob.ok("verify", ".", "log").text.endswith("in 1 logs: every invariant holds\n")
    told(3, fingerprint(b"never\n"), "carol")
    told(7, fingerprint(b"later\n"))
    done = bob("verify", "log", ".", "--explain")
    assert done.code == 65
    shown = done.text.splitlines()
    assert f"{LOST}: {OTHER}: generation 7 was acknowledged, current is 4" in shown
    assert f"{LOST}: {OTHER}: generation 3 was acknowledged to another session" in shown
    assert [line for line in shown if line.startswith("    ") and "carol" in line]


LOST = "acknowledged commit missing"


def test_command_names_what_it_cannot_judge(lived):
    alice = Command(lived, "alice")
    for line in ("garbage\n", '{"process": 1e999, "number": 1}\n'):
        (lived / "log").write_text(line)
        done = alice("verify", "log")
        assert (done.code, done.out) == (2, b"")
        assert "coherent: not a recorded run: log, line 1" in done.err
    assert alice("verify", "nowhere").code == 2
    assert alice("verify", ".", "plans").code == 2
