"""Hazard: several threads share one volume; kernel locks belong to the process, not to them."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest

from coherent_volume import ClosedError, CoherenceError, ConflictError, NotFoundError
from tests.harness.editors import is_whole, signed

PLAN = "plans/plan.md"
THREADS = 8


def in_threads(work, count=THREADS):
    """Run ``work(number)`` in as many threads, all let go at once; their answers."""
    barrier = threading.Barrier(count)

    def run(number):
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return [
            future.result()
            for future in as_completed(map(pool.submit, [run] * count, range(count)))
        ]


@pytest.mark.invariant("I1")
@pytest.mark.parametrize("shared", [True, False], ids=["one volume", "a volume each"])
def test_threads_that_update_one_artifact_lose_nothing(root, volume, shared):
    (root / "plans/lines").write_bytes(b"")
    volumes = [volume()] * THREADS if shared else [volume(f"agent{n}") for n in range(THREADS)]

    def work(number):
        return [
            volumes[number]
            .update(
                "plans/lines", lambda data, t=turn: data + b"%d %d\n" % (number, t), retries=10_000
            )
            .generation
            for turn in range(15)
        ]

    generations = [g for each in in_threads(work) for g in each]

    lines = Counter((root / "plans/lines").read_bytes().splitlines())
    assert lines == Counter(b"%d %d" % (n, t) for n in range(THREADS) for t in range(15))
    assert sorted(generations) == list(range(1, 15 * THREADS + 1))


@pytest.mark.invariant("I3")
def test_threads_that_create_one_name_have_one_winner(volume):
    volumes = [volume(f"agent{number}") for number in range(THREADS)]

    def work(number):
        try:
            volumes[number].create("plans/new.md", f"{number}")
        except ConflictError:
            return None
        return number

    winners = [answer for answer in in_threads(work) if answer is not None]

    assert len(winners) == 1
    assert volumes[0].read_text("plans/new.md") == str(winners[0])


@pytest.mark.invariant("I5")
def test_threads_that_read_while_others_write_see_whole_generations(root, volume):
    volume("starter").create("plans/text", signed("original"))
    done = threading.Event()
    reader, writer = volume("reader"), volume("writer")
    contents = {}

    def work(number):
        if number >= 2:
            for turn in range(25):
                writer.update(
                    "plans/text", lambda _, t=f"t{number}x{turn}": signed(t), retries=10_000
                )
            return
        while not done.is_set():
            seen = reader.observe("plans/text")
            assert is_whole(seen.data)
            assert contents.setdefault(seen.generation, seen.data) == seen.data

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, number) for number in range(4)]
        for future in futures[2:]:
            future.result()
        done.set()
        for future in futures[:2]:
            future.result()
    assert len(contents) > 3
    assert reader.observe("plans/text").generation == 51


@pytest.mark.invariant("I1")
def test_threads_on_many_artifacts_do_not_mix_their_views(root, volume):
    shared = volume()

    def work(number):
        path = f"plans/{number}.md"
        shared.create(path, f"{number} 0")
        for turn in range(1, 20):
            assert shared.read_text(path) == f"{number} {turn - 1}"
            shared.write(path, f"{number} {turn}")
        return shared.observe(path).generation

    assert in_threads(work) == [20] * THREADS
    assert all((root / f"plans/{n}.md").read_text() == f"{n} 19" for n in range(THREADS))


def test_volume_closed_under_its_threads_ends_them_with_a_typed_error(volume):
    shared = volume()
    started = threading.Barrier(5)

    def work(number):
        started.wait()
        for turn in range(100_000):
            try:
                shared.update(PLAN, lambda data, t=turn: b"%d %d\n" % (number, t), retries=10_000)
            except ClosedError:
                return turn
        return None

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, number) for number in range(4)]
        started.wait()
        shared.close()
        assert None not in [future.result() for future in futures]
    with pytest.raises(ClosedError):
        shared.read(PLAN)


def test_refusals_of_threads_are_typed(volume):
    """Reads, writes, deletes and creates of one name at random: a refusal or a result."""
    volumes = [volume(f"agent{number}") for number in range(4)]

    def work(number):
        mine = volumes[number]
        deeds = [
            lambda turn: mine.read("plans/x"),
            lambda turn: mine.write("plans/x", f"{number} {turn}"),
            lambda turn: mine.delete("plans/x"),
            lambda turn: mine.create("plans/x", f"{number} {turn}"),
            lambda turn: mine.append("plans/x", f"{number} {turn}"),
            lambda turn: mine.state("plans/x"),
            lambda turn: mine.reacquire(),
        ]
        done = 0
        for turn in range(60):
            with contextlib.suppress(ConflictError, NotFoundError):
                deeds[(turn * 5 + number) % len(deeds)](turn)
                done += 1
        return done

    assert sum(in_threads(work, 4)) > 60
    assert volumes[0].check().ok


def test_transaction_whose_connection_was_closed_fails_typed(volume):
    """Raw, it ended the maintenance thread for good."""
    parts = volume()._parts
    with (
        parts.gate.held(1.0),
        pytest.raises(CoherenceError),
        parts.sidecar.database.transaction(durable=False) as connection,
    ):
        connection.close()
