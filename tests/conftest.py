"""What all tests share: a volume, two sessions (alice, bob), real child processes, a clean log.

The library is imported inside fixtures: the architecture test must be able to
say what is wrong with a library that cannot be imported.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from harness.unmounted import Mounted

    from coherent_volume import CoherentVolume

REPOSITORY = Path(__file__).resolve().parent.parent

# Whoever runs the suite may be an agent's shell; its marks must not decide who
# reads in a test.
SESSION_MARKERS = (
    "AGENT",
    "CLAUDECODE",
    "CLAUDE_CODE_CHILD_SESSION",
    "CLAUDE_CODE_SESSION_ID",
    "CLAUDE_PID",
    "CODEX_THREAD_ID",
    "COHERENT_SESSION",
    "CURSOR_TRACE_ID",
    "GEMINI_CLI",
    "GEMINI_SESSION_ID",
    "OPENCODE_SESSION_ID",
    "OPENCODE",
    "OPENCODE_PID",
)

# No deadline for a single example: how long one takes on a busy machine says
# nothing about correctness, and pytest-timeout ends a hang.
hypothesis.settings.register_profile(
    "suite",
    deadline=None,
    print_blob=True,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)
hypothesis.settings.load_profile("suite")

# A job in the background of a script is started with interrupts ignored, and hands that
# down to the commands that the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_session_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SESSION_MARKERS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _clean_log(request: pytest.FixtureRequest) -> Iterator[list[logging.LogRecord]]:
    """Fail a test that made the library warn, unless it asked for expected_warnings."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("coherent_volume")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)
    if records and "expected_warnings" not in request.fixturenames:
        pytest.fail("the library warned: " + "; ".join(r.getMessage() for r in records))


@pytest.fixture
def expected_warnings(_clean_log: list[logging.LogRecord]) -> list[logging.LogRecord]:
    """The warnings that the library logged so far; asking for it permits them."""
    return _clean_log


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with one plan in it and no volume yet."""
    directory = tmp_path / "root"
    (directory / "plans").mkdir(parents=True)
    (directory / "plans" / "plan.md").write_bytes(b"first\n")
    return directory


@pytest.fixture
def volume(root: Path) -> Iterator[Callable[..., CoherentVolume]]:
    """Open volumes on ``root``: ``volume("carol")``; closed when the test ends."""
    from coherent_volume import CoherentVolume

    opened: list[CoherentVolume] = []

    def open_volume(
        session: str | None = None,
        *,
        root: Path = root,
        managed: tuple[str, ...] | None = ("plans/**",),
        **options: Any,
    ) -> CoherentVolume:
        opened.append(CoherentVolume(root, managed=managed, session=session, **options))
        return opened[-1]

    yield open_volume
    for each in reversed(opened):
        each.close()


@pytest.fixture
def alice(volume: Callable[..., CoherentVolume]) -> CoherentVolume:
    """The volume as the session alice has it."""
    return volume("alice")


@pytest.fixture
def bob(volume: Callable[..., CoherentVolume]) -> CoherentVolume:
    """The same volume as the session bob has it."""
    return volume("bob")


# ── children ─────────────────────────────────────────────────────────────────

# Runs in the child. Its standard output is the line to the parent, one JSON
# value per line; whatever the body prints goes to standard error instead.
_PRELUDE = """\
import json, os, sys
_line = open(os.dup(1), "w", closefd=False)
os.dup2(2, 1)
def _send(kind, value):
    print(json.dumps([kind, value]), file=_line, flush=True)
def tell(value=None):
    _send("told", value)
def hear():
    return json.loads(sys.stdin.readline())
def _body({names}):
{body}
    pass
_send("result", _body(**json.loads({arguments!r})))
"""


class Child:
    """A real process that runs the body of a Python function.

    Inside, ``tell(value)`` and ``hear()`` talk to the parent, so that a test
    forces an interleaving and never sleeps for one.
    """

    def __init__(self, body: str, arguments: dict[str, Any], scratch: Path) -> None:
        code = _PRELUDE.format(
            names=", ".join(arguments),
            body=textwrap.indent(textwrap.dedent(body).strip("\n"), "    "),
            arguments=json.dumps(arguments, default=os.fspath),
        )
        self._stderr = scratch / f"stderr-{len(list(scratch.iterdir()))}"
        with self._stderr.open("wb") as stderr:
            self.popen = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
        self.pid = self.popen.pid

    @property
    def stderr(self) -> str:
        """What the child wrote to its standard error (and printed) so far."""
        return self._stderr.read_text(errors="replace")

    def tell(self, value: Any = None) -> None:
        """Send *value* to the child's next ``hear()``."""
        pipe = _pipe(self.popen.stdin)
        pipe.write(json.dumps(value, default=os.fspath).encode() + b"\n")
        pipe.flush()

    def hear(self) -> Any:
        """Wait for the child's next ``tell(value)``."""
        return self._next("told")

    def result(self) -> Any:
        """Wait for the end; what the body returned. A body that raised fails the test."""
        value = self._next("result")
        self.popen.wait()
        return value

    def kill(self) -> None:
        """End the child as ``kill -9`` does, and wait until it is gone."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait()

    def wait(self) -> int:
        """Wait for the end without expecting a result; the exit status, negative for a signal."""
        return self.popen.wait()

    def dispose(self) -> None:
        """Leave nothing behind, whatever state the child is in."""
        if self.popen.poll() is None:
            self.kill()
        # A buffered tell() that the dead child never read cannot be flushed.
        with contextlib.suppress(BrokenPipeError):
            _pipe(self.popen.stdin).close()
        _pipe(self.popen.stdout).close()

    def _next(self, expected: str) -> Any:
        line = _pipe(self.popen.stdout).readline()
        if not line:
            pytest.fail(f"the child ended with status {self.popen.wait()}:\n{self.stderr}")
        kind, value = json.loads(line)
        if kind != expected:
            pytest.fail(f"the child sent {kind} {value!r} where {expected} was due")
        return value


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


class Processes:
    """``process(body, **arguments)`` runs a child to its end; ``process.start`` only starts it."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.children: list[Child] = []

    def __call__(self, body: str, **arguments: Any) -> Any:
        """Run *body*, a function body, with *arguments* as its names; what it returns."""
        return self.start(body, **arguments).result()

    def start(self, body: str, **arguments: Any) -> Child:
        """Start *body* and go on; ask the child for ``result()`` later."""
        self.children.append(Child(body, arguments, self._scratch))
        return self.children[-1]


@pytest.fixture
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Real child processes; arguments and results travel as JSON; none outlives the test."""
    processes = Processes(tmp_path_factory.mktemp("children"))
    yield processes
    for child in processes.children:
        child.dispose()


@pytest.fixture
def mounted(bob: CoherentVolume, alice: CoherentVolume) -> Iterator[Mounted]:
    """Alice's mount without a kernel, over a plan that both have read."""
    from harness.unmounted import Mounted

    bob.read("plans/plan.md")
    here = Mounted(alice)
    here.read("plans/plan.md")
    yield here
    here.unmount()
