"""Hazard: a published simulation that is compared with something it is not.

The model has to print the paper's own cells from the paper's own seeds before a
difference from it means anything.
"""

from __future__ import annotations

import math

import pytest

from benchmarks.token_coherence import tables
from benchmarks.token_coherence.model import NOTIFIED, PAPER, SYNCHRONOUS, Model, Rules, run
from benchmarks.token_coherence.published import ROWS
from benchmarks.token_coherence.scenarios import CANONICAL, POINTERS, SCENARIOS
from benchmarks.token_coherence.trace import draw, load, save

SEEDS = 60
NOT_TO_BE_HAD = {
    ("2", "lease 10", "cost"),
    ("2", "lease 10", "savings"),
    ("2", "access count", "cost"),
}
# Means and deviations of the synchronous model over 2,000 seeds, thousands of tokens.
VALIDATED = {"A": (104.6, 20.0), "B": (149.8, 24.2), "C": (245.9, 26.0), "D": (336.7, 24.7)}


def cost(scenario, rules, runs=tables.RUNS):
    """The mean cost over the paper's seeds, in thousands of tokens."""
    return tables.figures(scenario, rules, range(scenario.seed, scenario.seed + runs))["cost"].mean


# ── the paper's cells ────────────────────────────────────────────────────────


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.table}-{row.row}")
def test_published_cells_come_out_as_printed(row):
    first = row.scenario.seed
    ours = tables.figures(row.scenario, row.rules, range(first, first + tables.RUNS))
    differing = {c: p for c, p in row.cells.items() if ours[c].printed_as(p) != p}
    expected = {c for c in row.cells if (row.table, row.row, c) in NOT_TO_BE_HAD}
    assert differing.keys() == expected, {c: ours[c] for c in differing}
    assert bool(row.remark) or not expected


def test_access_count_of_the_paper_is_that_of_six_uses():
    assert f"{cost(CANONICAL, Rules('access_count', uses=6)):.1f}" == "155.2"


def test_lease_of_the_paper_is_several_times_what_leases_cost():
    assert 190 < cost(CANONICAL, Rules("lease", ttl=10)) < 196
    every_pair_every_ten_steps = 4 * 3 * (40 / 10) * 4096
    assert 3 * every_pair_every_ten_steps == 589_824


def test_eager_beats_lazy_only_while_signalled_peers_are_passed_by():
    lazy = cost(CANONICAL, PAPER)
    assert cost(CANONICAL, Rules("eager")) < lazy < cost(CANONICAL, Rules("eager", stranding=False))


def test_pushed_pointers_are_cheap_because_their_content_is_never_charged():
    charged = cost(POINTERS, Rules("eager"))
    assert charged > cost(POINTERS, PAPER) > 20 * cost(POINTERS, Rules("eager", push_tokens=8))


# ── the workload ─────────────────────────────────────────────────────────────


def test_trace_is_the_same_for_the_same_seed_and_survives_its_file(tmp_path):
    trace = draw(CANONICAL, 7)
    save(trace, tmp_path / "trace.json")
    assert load(tmp_path / "trace.json") == trace == draw(CANONICAL, 7) != draw(CANONICAL, 8)
    assert sum(a is not None for n in range(4) for a in trace.of_agent(n)) == trace.actions


def test_zipf_prefers_the_first_file():
    trace = draw(CANONICAL.but(zipf=1.2), 7)
    chosen = [action.file for step in trace.steps for action in step]
    assert chosen.count(0) > chosen.count(1) > chosen.count(2) > 0


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_broadcast_needs_no_model(name):
    trace = draw(SCENARIOS[name], 7)
    assert run(trace, Rules("broadcast")).tokens == tables.broadcast_cost(trace)


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_demand_reading_costs_each_action_once(name):
    trace = draw(SCENARIOS[name], 7)
    assert run(trace, Rules("always_read")).tokens == 4096 * trace.actions


# ── the model ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_validated_reads_cost_what_many_seeds_say(name):
    mean, sd = VALIDATED[name]
    found = tables.population(SCENARIOS[name], SYNCHRONOUS, SEEDS)["cost"].mean
    assert abs(found - mean) <= 3 * sd / math.sqrt(SEEDS)


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_closed_form_is_near_the_model(name):
    scenario = SCENARIOS[name]
    found = tables.population(scenario, PAPER, SEEDS)["cost"].mean
    assert tables.closed_form(scenario) == pytest.approx(found, rel=0.12)


def test_signals_one_step_late_make_stale_reads_and_lost_updates_and_none_late_make_neither():
    traces = [draw(SCENARIOS["D"], seed) for seed in range(20)]
    late = [run(trace, NOTIFIED) for trace in traces]
    assert sum(tally.stale for tally in late) > 0
    assert sum(tally.stale_bases for tally in late) > 0
    for trace in traces:
        tally = run(trace, SYNCHRONOUS)
        assert (tally.stale, tally.stale_bases) == (0, 0)


@pytest.mark.parametrize("rules", [PAPER, NOTIFIED, SYNCHRONOUS], ids=["paper", "late", "at once"])
def test_each_write_spoils_at_most_the_copies_of_the_others(rules):
    # One file: at most n + (n-1)W fetches. The paper's bound n(n + W) is never reached.
    for seed in range(20):
        tally = run(draw(SCENARIOS["D"].but(sizes=(4096,)), seed), rules)
        assert tally.misses <= 4 + 3 * tally.writes


def test_late_signal_drops_a_newer_copy_in_the_paper_only():
    for rules, hits in ((PAPER, 0), (NOTIFIED, 1)):
        model = Model(2, (100,), rules)
        model.begin_step(0)
        model.read(1, 0)
        model.write(0, 0)  # its signal to agent 1 is on its way
        model.write(1, 0)  # agent 1 made a newer copy meanwhile
        model.begin_step(1)
        model.read(1, 0)
        assert model.tally.hits == hits


def test_stranded_peer_is_passed_by():
    pushed = {}
    for stranding in (True, False):
        model = Model(2, (100,), Rules("eager", stranding=stranding))
        for now in range(8):
            model.begin_step(now)
            if now == 0:
                model.read(1, 0)
            if now in {0, 7}:
                model.write(0, 0)
            model.end_step()
        pushed[stranding] = model.tally.pushed
    assert pushed == {True: 100, False: 200}


def test_cells_are_printed_with_what_is_wrong_with_them():
    found = tables.lines(5, rows=[row for row in ROWS if row.table == "2"])
    text = tables.render(found)
    assert "| 2: lazy, cost " in text
    assert "2 of 5 cells as printed." in text
    assert "cannot be had" in text
