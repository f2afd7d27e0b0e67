"""demo: lose an update without the library, and keep it with the library.

Self-contained: a temporary directory, two real processes per act, held in step
so that both have read before either writes. It fails if an act does not show
its point, so it cannot go on claiming what is no longer true.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import IO, Any, NamedTuple

from cli.call import Common, Reply
from cli.exit_codes import CONFLICT, DEMO_FAILED
from cli.render import plain
from coherent_volume import CoherentVolume

__all__ = ["demo"]

_START = "# Plan\n"
_LINES = {"alice": "- alice: write the parser\n", "bob": "- bob: write the tests\n"}

# Each actor reads, says so, waits for a line on standard input, then writes.
# What it prints after that is the refusal that it met, if any.
_PLAIN = """\
import sys
text = open("plan.md").read()
print("read", flush=True)
sys.stdin.readline()
open("plan.md", "w").write(text + sys.argv[2])
"""

_COHERENT = """\
import sys
from coherent_volume import CoherentVolume, ConflictError
with CoherentVolume(".", session=sys.argv[1]) as vol:
    text = vol.read_text("plan.md")
    print("read", flush=True)
    sys.stdin.readline()
    try:
        vol.write("plan.md", text + sys.argv[2])
    except ConflictError as refusal:
        print(f"{type(refusal).__name__}: {refusal}")
        vol.reacquire("plan.md")
        vol.write("plan.md", vol.read_text("plan.md") + sys.argv[2])
"""

_SHELL = """\
coherent() { "$PYTHON" -P -m cli "$@"; }
export COHERENT_SESSION="$1"
coherent read plan.md > "$DRAFTS/$1" || exit
printf %s "$2" >> "$DRAFTS/$1"
echo read
read -r go
until coherent write plan.md --from "$DRAFTS/$1" 2>&1 > "$DRAFTS/said"; do
    status=$?
    echo "(exit status $status)"
    [ $status -eq CONFLICT ] || exit
    coherent read plan.md > "$DRAFTS/$1" || exit
    printf %s "$2" >> "$DRAFTS/$1"
done
""".replace("CONFLICT", str(CONFLICT))


class Act(NamedTuple):
    """What came of one act: the text at the end, and what bob was told.

    ``worked`` is False when an actor failed: a crash must not pass for a loss.
    """

    name: str
    content: str
    refusal: str
    worked: bool

    @property
    def kept(self) -> bool:
        """Whether both edits are in the text."""
        return all(self.content.count(line) == 1 for line in _LINES.values())


def demo(_common: Common) -> Reply:
    """Three acts; the status tells whether each showed its point."""
    with tempfile.TemporaryDirectory(prefix="coherent-demo-") as scratch:
        python = [sys.executable, "-P", "-c"]
        plain_files = _play("without", scratch, [*python, _PLAIN])
        library = _play("library", scratch, [*python, _COHERENT], managed=True)
        shells = _play("shells", scratch, ["sh", "-c", _SHELL, "sh"], managed=True)
    acts = (plain_files, library, shells)
    shown = (
        all(act.worked for act in acts)
        and plain_files.content == _START + _LINES["bob"]
        and not plain_files.refusal
        and all(act.kept and act.refusal for act in (library, shells))
    )
    fields: dict[str, Any] = {
        act.name: {"kept": act.kept, "refusal": act.refusal, "content": act.content} for act in acts
    }
    status = 0 if shown else DEMO_FAILED
    if not shown:
        fields["exit_code"] = status
    return Reply(fields, lambda: _story(*acts, shown=shown), status)


def _play(name: str, scratch: str, command: list[str], *, managed: bool = False) -> Act:
    """Let alice and bob read, then alice write, then bob."""
    root = os.path.join(scratch, name)
    drafts = os.path.join(scratch, f"{name}-drafts")
    os.mkdir(root)
    os.mkdir(drafts)
    plan = os.path.join(root, "plan.md")
    with open(plan, "w", encoding="utf-8") as file:
        file.write(_START)
    if managed:
        CoherentVolume(root, managed=("plan.md",)).close()
    actors = {who: _start([*command, who, line], root, drafts) for who, line in _LINES.items()}
    told = {who: _go(actor) for who, actor in actors.items()}
    with open(plan, encoding="utf-8") as file:
        content = file.read()
    worked = all(actor.returncode == 0 for actor in actors.values())
    return Act(name, content, told["bob"], worked)


def _start(command: list[str], root: str, drafts: str) -> subprocess.Popen[str]:
    """Start an actor and wait until it has read."""
    source = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
        "DRAFTS": drafts,
    }
    actor = subprocess.Popen(
        command,
        cwd=root,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    _pipe(actor.stdout).readline()
    return actor


def _go(actor: subprocess.Popen[str]) -> str:
    """Let an actor write; what it printed about it."""
    told, _ = actor.communicate("go\n")
    return told


def _pipe(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise TypeError("the actor was started without a pipe")
    return pipe


def _story(plain_files: Act, library: Act, shells: Act, *, shown: bool) -> str:
    lost = [who for who, line in _LINES.items() if line not in plain_files.content]
    return f"""\
Alice and Bob both read plan.md. Alice saves her line, then Bob saves his.

1. Two processes with open() and write()
{_quoted(plain_files.content)}
   {_verdict(plain_files, f"Lost without a word: what {' and '.join(lost).title()} wrote.")}

2. Two processes with coherent_volume. Bob's write is refused:
{_quoted(library.refusal)}
   He reacquires, derives his change anew, and writes:
{_quoted(library.content)}
   {_verdict(library, "Something is lost.")}

3. Two shells with coherent read and coherent write. Bob's write is refused:
{_quoted(shells.refusal)}
   His script reads again and retries:
{_quoted(shells.content)}
   {_verdict(shells, "Something is lost.")}
{"" if shown else chr(10) + "The demo did not show what it should have shown." + chr(10)}"""


def _verdict(act: Act, otherwise: str) -> str:
    return "Both edits are there." if act.kept else otherwise


def _quoted(text: str) -> str:
    return "\n".join(f"   | {line}" for line in plain(text).rstrip("\n").split("\n"))
