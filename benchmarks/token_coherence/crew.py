"""A crew of agent processes: spawned once, then given one run after another.

Spawned and not forked, so that an agent inherits nothing. A crew ends all its
processes when its with-block does, also after a failure.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Barrier
from typing import Self

from benchmarks.token_coherence.agent import Job, replay

__all__ = ["Crew", "CrewFailedError"]

PATIENCE_S = 120.0
"""How long a run, or one barrier of it, may take before it counts as hung."""


class CrewFailedError(RuntimeError):
    """An agent broke off or answered no more; its traceback is the message."""


def _work(calls: Connection, barrier: Barrier) -> None:
    """Run jobs until told to stop; what the process of an agent does."""
    while (job := calls.recv()) is not None:
        try:
            replay(job, _patient(barrier))
            calls.send(None)
        except BaseException:  # noqa: BLE001 - the parent is told, whatever it is
            barrier.abort()
            calls.send(traceback.format_exc())


def _patient(barrier: Barrier) -> Callable[[], object]:
    return lambda: barrier.wait(PATIENCE_S)


class Crew:
    """*agents* processes that replay traces together."""

    def __init__(self, agents: int) -> None:
        context = multiprocessing.get_context("spawn")
        # Kept: its semaphores go with it, and a child opens them by name while it starts.
        self._barrier = context.Barrier(agents)
        self._calls: list[Connection] = []
        self._processes = []
        # Ctrl-C reaches every process of the terminal. The agents inherit it blocked, from
        # their first instruction on: this process alone decides, and ends them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(agents):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, self._barrier), daemon=True)
                process.start()
                theirs.close()
                self._calls.append(ours)
                self._processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def run(self, jobs: Sequence[Job]) -> None:
        """Give each agent its job and wait for all; raises CrewFailedError."""
        for calls, job in zip(self._calls, jobs, strict=True):
            calls.send(job)
        pending = list(self._calls)
        trouble = []
        while pending:
            ready = wait(pending, PATIENCE_S)
            if not ready:
                raise CrewFailedError(f"{len(pending)} agents gave no answer")
            for calls in self._calls:
                if calls not in ready:
                    continue
                pending.remove(calls)
                try:
                    answer = calls.recv()
                except (EOFError, ConnectionError):
                    raise CrewFailedError("an agent's process died") from None
                if answer is not None:
                    trouble.append(answer)
        if trouble:
            # Whoever broke off first took the barrier along; the others only tell of that.
            trouble.sort(key=lambda text: "BrokenBarrierError" in text)
            raise CrewFailedError(trouble[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._barrier.abort()  # whoever still waits for the others stops waiting
        for calls in self._calls:
            try:
                calls.send(None)
            except OSError:
                continue  # it is gone already
        for calls, process in zip(self._calls, self._processes, strict=True):
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
            calls.close()
