"""Hazard: rules that hold one by one and not together. Whole histories are judged."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Sequence

import pytest

from coherent_audit import ABSENT, Operation, Recorder, check, fingerprint, load
from tests.harness import evidence, rounds
from tests.harness.processes import Workers
from tests.harness.workload import FOREVER_S, live

PATHS = ["plans/plan.md", "plans/notes.md", "plans/todo/list.md", "plans/quiet.md"]


_ROUNDS_MAX = 10
"""How often the work is gone on with until enough happened; a busy machine is slow."""


# ── random work of several processes ─────────────────────────────────────────


@pytest.mark.invariant("I1")
@pytest.mark.invariant("I2")
@pytest.mark.invariant("I5")
@pytest.mark.parametrize(
    ("edits", "kills"),
    [(False, False), (False, True), (True, False), (True, True)],
    ids=["peaceful", "killed", "edited", "killed and edited"],
)
def test_random_sessions_leave_a_history_that_can_be(tmp_path, volume, root, edits, kills):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    _write_down_what_stands_there(tmp_path / "start.log", root)
    volume("observer").close()

    with Workers() as workers:
        mortality = 0.001 if kills else 0.0
        run = _Run(workers, root, tmp_path, seed, edits=edits, mortality=mortality)
        for _ in range(_ROUNDS_MAX):
            run.go(sessions=5, seconds=3.0, kills=kills)
            outcomes = Counter((o.kind, o.outcome) for o in load(tmp_path.glob("*.log")))
            print(f"{dict(outcomes)}, {run.kills} kills")
            much = outcomes["commit", "done"] > 50 and outcomes["commit", "refused"] > 10
            if much and (not kills or run.kills > 3):
                break
        else:
            pytest.fail("too little happened to judge")
    _read_all(tmp_path / "end.log", volume("auditor"))
    _assert_possible(load(tmp_path.glob("*.log")))


def _assert_possible(operations: Sequence[Operation]) -> None:
    violations = check(operations)
    assert not violations, "\n" + "\n".join(str(violation) for violation in violations[:10])


def _write_down_what_stands_there(log, root):
    content = (root / PATHS[0]).read_bytes()
    with Recorder(log, "").operation("foreign", PATHS[0], content=fingerprint(content)):
        pass


def _read_all(log, auditor):
    recorder = Recorder(log, "auditor")
    for path in PATHS:
        with recorder.operation("read", path) as learned:
            try:
                seen = auditor.observe(path)
            except FileNotFoundError as error:
                learned.update(content=ABSENT, generation=error.fields.get("generation"))
            else:
                learned.update(content=fingerprint(seen.data), generation=seen.generation)


class _Run:
    """Some sessions at random work; with ``kills`` one is shot and replaced now and then."""

    def __init__(self, workers, root, logs, seed, *, edits, mortality=0.0):
        self.workers, self.root, self.logs, self.edits = workers, root, logs, edits
        self.mortality = mortality
        self.rng = random.Random(seed)
        self.kills = 0

    def start(self, number, seconds):
        # Named sessions and process sessions behave alike in a history.
        return self.workers.start(
            live,
            root=self.root,
            log=self.logs / f"{number}-{len(self.workers.all)}.log",
            seed=self.rng.randrange(1 << 32),
            session=f"agent{number}" if number % 2 else None,
            paths=PATHS,
            seconds=seconds,
            mix=(30, 4 if self.edits else 0),
            mortality=self.mortality,
        )

    def go(self, sessions, seconds, *, kills):
        lifetime = FOREVER_S if kills else seconds
        running = [self.start(number, lifetime) for number in range(sessions)]
        for worker in running:
            worker.wait_for("ready")
        end = time.monotonic() + seconds
        while kills and time.monotonic() < end:
            time.sleep(self.rng.uniform(0.0, 0.12))
            number = self.rng.randrange(sessions)
            if running[number].said("ready"):
                self.kill(running[number])
                running[number] = self.start(number, lifetime)
        for worker in running:
            if kills:
                self.kill(worker)
            else:
                worker.finish()

    def kill(self, worker):
        worker.kill()
        # Nothing else may end it: not an exception.
        assert worker.popen.returncode == -signal.SIGKILL, worker.complaint()
        self.kills += 1


@pytest.mark.invariant("I1")
@pytest.mark.invariant("I2")
@pytest.mark.invariant("I5")
@pytest.mark.invariant("I8")
def test_sessions_at_all_doors_leave_a_history_that_can_be(tmp_path):
    """Library, command line and mount, killed and edited around; ``make histories`` goes on."""
    judged = rounds.run(tmp_path, rounds.Plan(seed=20_261_121, seconds=4.0))
    assert not judged.complaints, "\n".join(judged.complaints)
    assert judged.outcomes["commit", "done"] > 15, "too little happened to judge"
    assert sum(c for (kind, _), c in judged.outcomes.items() if kind == "transaction")


@pytest.mark.invariant("I2")
def test_log_of_the_volume_agrees_with_what_the_processes_were_told(tmp_path, volume, root):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    volume("observer").close()
    evidence.keep_everything(root)
    with Workers() as workers:
        _Run(workers, root, tmp_path, seed, edits=True).go(sessions=3, seconds=1.5, kills=False)

    kept = evidence.look(root)

    compared = 0
    for path in PATHS:
        past = kept.of(path)
        if not past:
            continue  # the quiet one
        # Generation 0 is there only if something stood there before.
        numbers = [p.generation for p in past]
        assert numbers == list(range(numbers[0], numbers[0] + len(past)))
        told = {
            o.generation: o
            for o in load(tmp_path.glob("*.log"))
            if o.path == path and o.kind == "commit" and o.outcome == "done"
        }
        by_number = {p.generation: p for p in past}
        compared += len(told)
        for generation, operation in told.items():
            assert by_number[generation].session == operation.session
            content = by_number[generation].content
            if operation.content is not None:
                shown = ABSENT if content is None else fingerprint(content)
                assert shown == operation.content
    assert compared


# ── the judge itself: each thing that cannot be is found ─────────────────────


def history(*steps: tuple[str, dict]) -> list[Operation]:
    """Operations one after the other, unless a step gives its own times."""
    return [
        Operation(
            **{
                "kind": kind,
                "path": "plan",
                "started": 10 * number,
                "ended": 10 * number + 5,
                **fields,
            }
        )
        for number, (kind, fields) in enumerate(steps, 1)
    ]


def commit(generation, content, derived_from=None, **more):
    fields = {"generation": generation, "base": generation - 1, "content": content}
    return "commit", {**fields, "derived_from": derived_from, **more}


def read(generation, content, **more):
    return "read", {"generation": generation, "content": content, **more}


START = ("foreign", {"content": "start"})


def rules_broken(operations):
    return {violation.rule for violation in check(operations)}


def test_judge_accepts_a_history_that_can_be():
    assert not rules_broken(
        history(
            START,
            read(0, "start"),
            commit(1, "a", "start"),
            commit(2, "b", "a"),
            ("commit", {"content": "c", "outcome": "refused", "derived_from": "a"}),
            read(2, "b"),
            commit(3, ABSENT, "b"),
            read(3, ABSENT),
            commit(4, "d", ABSENT),
            ("foreign", {"content": "e"}),
            read(5, "e"),
        )
    )


def test_judge_finds_a_lost_update():
    assert "lost update" in rules_broken(
        history(START, commit(1, "a", "start"), commit(2, "b", "start"), read(2, "b"))
    )


def test_judge_accepts_a_base_of_equal_content():
    assert not rules_broken(
        history(START, commit(1, "a", "start"), commit(2, "start", "a"), commit(3, "b", "start"))
    )


def test_judge_finds_a_wrong_base():
    assert "wrong base" in rules_broken(
        history(START, commit(1, "a", "start"), commit(2, "b", "a", base=0))
    )


def test_judge_finds_a_generation_given_out_twice():
    assert "duplicate generation" in rules_broken(
        history(START, commit(1, "a", "start"), commit(1, "b", "start"))
    )


def test_judge_finds_two_contents_of_one_generation():
    assert "torn or mixed read" in rules_broken(
        history(START, commit(1, "aaaa", "start"), read(1, "aaaa"), read(1, "aabb"))
    )


def test_judge_finds_bytes_that_nobody_wrote():
    assert "torn or mixed read" in rules_broken(history(START, read(0, "sta")))


def test_judge_finds_a_stale_read():
    assert rules_broken(
        history(START, commit(1, "a", "start"), commit(2, "b", "a"), read(1, "a"))
    ) == {"acknowledged commit missing"}
    assert rules_broken(
        history(
            START,
            commit(1, "a", "start"),
            ("commit", {"content": "b", "outcome": "unknown", "ended": None}),
            read(2, "b"),
            read(1, "a"),
        )
    ) == {"stale read"}


def test_judge_finds_a_stale_read_that_was_told_no_number():
    steps = [START, commit(1, "a", "start"), commit(2, "b", "a"), read(2, "b")]
    assert rules_broken(history(*steps, read(None, "a"))) == {"acknowledged commit missing"}
    assert not rules_broken(history(*steps, read(None, "b")))


def test_judge_accepts_an_older_read_that_overlaps_the_commit():
    assert not rules_broken(
        history(
            START,
            commit(1, "a", "start"),
            read(1, "a", started=25, ended=45),
            commit(2, "b", "a", started=26, ended=40),
        )
    )


def test_judge_finds_an_acknowledged_commit_that_is_gone():
    assert "acknowledged commit missing" in rules_broken(
        history(START, commit(1, "a", "start"), read(0, "start"))
    )
    assert "acknowledged commit missing" in rules_broken(
        history(commit(1, "a"), read(None, ABSENT))
    )


def test_judge_finds_a_generation_that_goes_back():
    assert "generation went back" in rules_broken(
        history(START, commit(1, "a"), commit(2, "b"), read(2, "b"), commit(1, "c"))
    )


def test_judge_finds_a_gap_and_accepts_one_that_a_killed_writer_explains():
    gap = [commit(1, "a"), commit(3, "c")]
    killed = ("commit", {"content": "b", "outcome": "unknown", "ended": None})

    assert rules_broken(history(*gap)) == {"generation gap"}
    assert not rules_broken(history(gap[0], killed, gap[1]))


def test_judge_accepts_a_second_generation_of_an_update_that_an_outsider_raced():
    raced = commit(3, "b", "x", repeats=True, started=5, ended=99)
    edit = ("foreign", {"content": "x", "started": 20, "ended": 30})
    reads = [read(1, "b", started=25, ended=26), read(2, "x", started=31, ended=32)]

    assert not rules_broken(history(edit, raced, *reads))
    assert rules_broken(history(raced, *reads[:1]))


def test_judge_finds_a_generation_with_the_content_of_nobody_left_over():
    assert "generation nobody made" in rules_broken(
        history(START, commit(1, "a", "start"), ("foreign", {"content": "x"}), read(2, "a"))
    )


def test_judge_finds_a_refused_write_that_became_visible():
    refused = ("commit", {"content": "b", "outcome": "refused"})
    assert "refused write visible" in rules_broken(
        history(START, commit(1, "a", "start"), refused, read(2, "b"))
    )


def test_judge_finds_a_read_that_ignores_an_outsiders_edit():
    assert rules_broken(
        history(
            START,
            commit(1, "a", "start"),
            read(1, "a"),
            ("foreign", {"content": "x"}),
            read(1, "a"),
        )
    ) == {"stale read"}


def test_recorder_keeps_an_operation_whose_process_died(tmp_path):
    recorder = Recorder(tmp_path / "log", "alice")
    recorder.operation("commit", "plan", content="x").__enter__()
    with recorder.operation("read", "plan") as learned:
        learned.update(generation=1, content="y")

    killed, finished = load([tmp_path / "log"])

    assert (killed.outcome, killed.ended, killed.content) == ("unknown", None, "x")
    assert (finished.outcome, finished.generation, finished.session) == ("done", 1, "alice")
    assert finished.ended >= finished.started
