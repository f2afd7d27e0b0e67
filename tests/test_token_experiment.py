"""Hazard: savings that were simulated, assumed, or judged by the code that made them.

Real processes replay drawn traces on a real volume; a checker that knows nothing
of the library judges their logs and the files. First the checker itself: it must
find what is wrong where something is.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import platform
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.settings import FRESH_S, Settings
from benchmarks.token_coherence import __main__ as command
from benchmarks.token_coherence import beside, measured, plots, results, tables
from benchmarks.token_coherence.agent import Job
from benchmarks.token_coherence.arms import ARMS
from benchmarks.token_coherence.audit import audit
from benchmarks.token_coherence.crew import Crew, CrewFailedError
from benchmarks.token_coherence.document import first, parse
from benchmarks.token_coherence.edits import apply, edits
from benchmarks.token_coherence.experiment import Laboratory
from benchmarks.token_coherence.measured import Amounts, claims_of, three_writers
from benchmarks.token_coherence.scenarios import SCENARIOS
from coherent_volume import read_policy
from tests.harness.command import REPOSITORY

SIZE = 4096


# ── documents ────────────────────────────────────────────────────────────────


def test_document_tells_its_writes_and_keeps_its_size():
    rng = random.Random(1)
    data = first(SIZE, rng)
    for number in range(20):
        data = parse(data).next_by(number % 3, f"{number}", SIZE, rng)
        assert len(data) == SIZE
    found = parse(data)
    assert (found.generation, found.writer) == (21, 1)
    assert found.ledger == tuple(map(str, range(20)))


@pytest.mark.parametrize("spoilt", ["cut", "mixed"])
def test_half_a_document_is_no_document(spoilt):
    rng = random.Random(1)
    old = first(SIZE, rng)
    new = parse(old).next_by(0, "w", SIZE, rng)
    assert parse(new[:-100] if spoilt == "cut" else new[:2000] + old[2000:]) is None


def test_edits_rebuild_the_new_content_and_are_smaller():
    rng = random.Random(1)
    old = first(4 * SIZE, rng)
    new = parse(old).next_by(0, "w", 4 * SIZE, rng)
    assert apply(old, edits(old, new)) == new
    assert len(edits(old, new)) < len(new) / 5


# ── the checker ──────────────────────────────────────────────────────────────


class Story:
    """A made-up run of two agents on one file, as their logs would tell it."""

    def __init__(self, tmp_path):
        self._rng = random.Random(1)
        self.file = tmp_path / "file"
        self.file.write_bytes(first(SIZE, self._rng))
        self.records = []
        self._now = 0

    def tell(self, agent, kind, generation, **more):
        self._now += 10
        record = {"begin": self._now, "end": self._now + 5, "agent": agent, "kind": kind}
        record |= {"file": 0, "generation": generation, "purpose": "read"}
        if kind == "content":
            record |= {"delivered": SIZE, "wire": SIZE + 50, "whole": True, "said": generation}
        if kind == "write":
            write = f"{agent}.{generation}"
            record |= {"write": write, "purpose": "write"}
            document = parse(self.file.read_bytes())
            self.file.write_bytes(document.next_by(agent, write, SIZE, self._rng))
        self.records.append(record | more)
        return self

    def judge(self, arm="strict"):
        return audit(ARMS[arm], (SIZE // 4,), 2, self.records, [self.file])


@pytest.fixture
def story(tmp_path):
    """A run in which nothing is wrong: one reads, the other writes, the first reads again."""
    told = Story(tmp_path)
    told.tell(0, "content", 1).tell(1, "content", 1).tell(1, "write", 2)
    return told.tell(0, "content", 2).tell(0, "unchanged", 2)


def test_checker_finds_nothing_where_nothing_is_wrong(story):
    outcome = story.judge()
    assert {n: getattr(outcome, n) for n in ARMS["strict"].faults if getattr(outcome, n)} == {}
    assert (outcome.signals, outcome.predicted, outcome.content) == (1, 3, 3)
    assert outcome.tokens == 3 * SIZE / 4 + 12


def test_checker_finds_a_stale_read(story):
    assert story.tell(1, "write", 3).tell(0, "unchanged", 2).judge().stale == 1


def test_checker_tells_how_stale_a_read_was(story):
    outcome = (
        story.tell(1, "write", 3).tell(1, "write", 4).tell(0, "unchanged", 2).judge("notified")
    )
    assert (outcome.stale, outcome.too_stale) == (1, 0)
    assert outcome.most_stale == 15 / 1e6
    late = story.tell(0, "unchanged", 2, begin=int(3e9)).judge("notified")
    assert (late.stale, late.too_stale) == (2, 1)


def test_bound_of_the_checker_is_that_of_the_library():
    assert read_policy.FRESH_S == FRESH_S


def test_checker_allows_a_read_that_overlaps_the_write(story):
    assert story.tell(1, "write", 3, end=10_000).tell(0, "unchanged", 2).judge().stale == 0


def test_checker_finds_a_lost_update(story):
    before = story.file.read_bytes()
    story.tell(1, "write", 3)
    story.file.write_bytes(before)
    assert story.judge().lost == 1


def test_checker_finds_torn_and_mislabelled_content(story):
    story.tell(1, "content", 2, whole=False).tell(1, "content", 2, said=1)
    outcome = story.judge()
    assert (outcome.torn, outcome.mislabelled) == (1, 1)


@pytest.mark.parametrize(("generation", "gaps"), [(2, 1), (4, 2)], ids=["repeated", "skipped"])
def test_checker_finds_generations_repeated_and_skipped(story, generation, gaps):
    assert story.tell(1, "write", generation).judge().gaps >= gaps


def test_checker_finds_content_that_was_handed_over_for_nothing(story):
    assert story.tell(0, "content", 2).judge().unpredicted == 1


# ── the agents ───────────────────────────────────────────────────────────────


@pytest.fixture
def laboratory(tmp_path):
    found = Laboratory(tmp_path)
    yield found
    found.close()


@pytest.mark.parametrize("name", ["A", "D"])
@pytest.mark.invariant("I1")
@pytest.mark.invariant("I5")
def test_real_processes_pay_what_the_model_says_and_lose_nothing(laboratory, name):
    scenario = SCENARIOS[name].but(steps=15)
    arms = ("broadcast", "demand", "strict", "delta")
    cells = {arm: laboratory.cell(scenario, arm, runs=2) for arm in arms}
    claims = claims_of(list(cells.values()), population_seeds=150)
    assert [claim for claim in claims if not claim.holds] == []
    # The faults, the broadcast's cost, and the distance to the model.
    assert len(claims) == 4 + 1 + 1
    costs = {arm: cell.mean(lambda o: o.tokens) for arm, cell in cells.items()}
    assert costs["delta"] < costs["strict"] < costs["demand"] < costs["broadcast"]


@pytest.mark.invariant("I1")
def test_without_coherence_updates_are_lost_and_with_it_none_also_at_large(laboratory):
    scenario = SCENARIOS["D"].but(steps=15)
    blind = laboratory.cell(scenario, "blind", runs=1, mode="free")
    strict = laboratory.cell(scenario, "strict", runs=1, mode="free")
    assert blind.mean(lambda o: o.lost) > 0
    assert blind.mean(lambda o: o.stale) > 0
    assert strict.faults() == {}


def test_three_writers_read_stale_content_six_times_of_nine_without_and_never_with(laboratory):
    found, claims = three_writers(laboratory)
    assert all(claim.holds for claim in claims), claims
    assert found["without"]["lost"] == 6
    assert found["with"] == {
        "stale": 0,
        "lost": 0,
        "refused": 0,
        "content replies": 9,
        "copies made stale": 8,
    }


@pytest.mark.parametrize("arm", ["notified", "eager"])
def test_arms_that_trust_copies_lose_nothing_and_keep_their_bound(laboratory, arm):
    cell = laboratory.cell(SCENARIOS["D"].but(steps=15), arm, runs=2)
    assert cell.faults() == {}
    assert cell.mean(lambda o: o.writes) > 0
    assert cell.mean(lambda o: o.unchanged) > 0
    assert (cell.mean(lambda o: o.prefetched) > 0) == (arm == "eager")


def test_agent_that_breaks_off_is_told_and_no_process_stays(tmp_path):
    before = set(multiprocessing.active_children())
    jobs = [
        Job(str(tmp_path), str(tmp_path / "no trace"), str(tmp_path / "log"), n, "strict")
        for n in range(2)
    ]
    with Crew(2) as crew, pytest.raises(CrewFailedError, match="FileNotFoundError"):
        crew.run(jobs)
    assert set(multiprocessing.active_children()) == before


# ── the command ──────────────────────────────────────────────────────────────


def test_one_command_writes_every_result_without_naming_the_machine(tmp_path, monkeypatch, capsys):
    few = Amounts(1, 1, 5, 4, (4,), (5,), (1024,), (0.5,))
    monkeypatch.setattr(command.Amounts, "quick", lambda: few)
    monkeypatch.setattr(measured, "ARMS_IN_LOCKSTEP", ("broadcast", "strict"))
    monkeypatch.setattr(measured, "ARMS_AT_LARGE", ("strict",))
    monkeypatch.setattr(tables, "RUNS", 2)
    least = Settings((1024,), 1, 1, processes=(1,), counter_rounds=1, counter_seconds=0.05)
    monkeypatch.setattr(beside, "amounts", lambda quick: least)
    out, elsewhere = tmp_path / "results", tmp_path / "no incumbent"
    monkeypatch.chdir(tmp_path)
    command.main(["--quick", "--out", str(out), "--incumbent", str(elsewhere)])
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    written = {path.name for path in out.iterdir()}
    sections = {"scenarios", "free", "volatility", "agents", "steps", "sizes", "zipf"}
    assert {f"{name}.json" for name in sections | {"model", "three_writers", "beside"}} <= written
    drawn = {"savings_by_volatility.svg", "cost_by_agents.svg", "latency.svg", "throughput.svg"}
    assert written & drawn == (drawn if plots.missing() is None else set())
    for path in out.glob("*.json"):
        made_with = json.loads(path.read_text())["made_with"]
        assert {"cpu", "cpus", "python", "sqlite", "versions", "amounts"} <= made_with.keys()
        assert platform.node() not in path.read_text()
        assert str(tmp_path) not in path.read_text()
    told = capsys.readouterr()
    assert "claims hold" in told.out
    assert "The incumbent is not installed" in told.out
    assert told.err == ""


def test_without_matplotlib_the_command_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "coherent-volume[plots]" in plots.missing()


INTERRUPTED = """\
import sys
from benchmarks.token_coherence import __main__ as command, tables
if __name__ == "__main__":
    tables.RUNS = 1
    command.Amounts.quick = lambda: command.Amounts(population=2)
    sys.exit(command.main(["--quick", "--out", sys.argv[1]]))
"""


def living(group):
    """The processes of a group that are not dead and unburied."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = entry.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(entry.parent.name)
    return found


def test_interrupted_command_leaves_no_process(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, tmp_path],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    # The command itself, the tracker of its semaphores, and at least two agents.
    while not (tmp_path / "model.json").exists() or len(living(child.pid)) < 4:
        assert child.poll() is None
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGINT)
    told = child.communicate()[1].decode()
    assert child.returncode == 130
    assert told == "interrupted; what was finished is in the results\n"
    while living(child.pid):  # the tracker follows its parent; a process that stays hangs this
        time.sleep(0.02)


def test_results_carry_no_date(tmp_path):
    assert "date" not in results.about(tmp_path)


def test_figures_of_the_page_are_those_of_the_results():
    # Whoever runs the experiment again gets other results, within what refusals add.
    page = (REPOSITORY / "docs" / "TOKENS.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    rows = {cells[0]: cells for cells in reversed(lines) if cells}
    found = json.loads((REPOSITORY / "benchmarks" / "results" / "scenarios.json").read_text())
    assert len(found["cells"]) >= 4 * 5
    for cell in found["cells"]:
        told = rows[f"{cell['scenario']}, {cell['arm']}"]
        cost, lost, writes = float(told[1].split()[0]), *told[-1].split(" of ")
        assert cost == pytest.approx(cell["tokens"]["mean"] / 1000, rel=0.05)
        assert float(writes) == pytest.approx(cell["writes"], abs=0.05)
        assert (float(lost) > 0) == (cell["lost"] > 0) == (cell["arm"] == "blind")


def test_figures_of_the_readme_are_those_of_the_results():
    found = json.loads((REPOSITORY / "benchmarks" / "results" / "scenarios.json").read_text())
    cells = {(cell["scenario"], cell["arm"]): cell for cell in found["cells"]}
    told = 0
    for line in (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines():
        cut = [cell.strip() for cell in line.split("|")[1:-1]]
        name = cut[0].partition(":")[0] if cut else ""
        if (name, "strict") not in cells or len(cut) != 7:
            continue
        told += 1
        demand, strict, blind = (cells[name, arm] for arm in ("demand", "strict", "blind"))
        shares = [float(cell.removesuffix(" %")) for cell in (cut[1], cut[2], cut[4])]
        measured = [demand["saves"], strict["saves"], strict["saves_of_demand"]]
        assert shares == pytest.approx(measured, abs=1.5)
        lost, writes = map(float, cut[6].split(" of "))
        assert lost > 0
        assert writes == pytest.approx(blind["writes"], abs=0.05)
    assert told == 4
