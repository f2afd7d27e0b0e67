"""Hazard: documents that promise what the code does not do, or show what it does not print."""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.exit_codes import EXIT_CODES
from cli.verbs import MODULES
from coherent_volume import errors, points
from tests.harness.command import COHERENT, REPOSITORY, Command

README = REPOSITORY / "README.md"
PROTOCOL = REPOSITORY / "docs" / "PROTOCOL.md"
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")])

TESTED_INVARIANTS = {f"I{number}" for number in range(1, 12)}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the output that is shown after it."""

    language: str
    text: str
    output: str | None
    line: int


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of *document*; a text block right after a program is its output."""
    text = document.read_text(encoding="utf-8")
    found = list(re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    made = []
    for number, match in enumerate(found):
        after = found[number + 1] if number + 1 < len(found) else None
        follows = (
            after is not None
            and after[1] == "text"
            and not text[match.end() : after.start()].strip()
        )
        output = after[2] if after is not None and follows else None
        made.append(Block(match[1], match[2], output, text.count("\n", 0, match.start()) + 1))
    return made


def blocks_in(language: str) -> list[Block]:
    """The README's blocks in *language*."""
    return [block for block in blocks(README) if block.language == language]


@pytest.fixture
def run(tmp_path):
    """Run a program in an empty directory, with ``coherent`` on its PATH; its output."""
    programs, scratch = tmp_path / "bin", tmp_path / "scratch"
    programs.mkdir()
    scratch.mkdir()
    program = programs / "coherent"
    # exec: the command's parent is the calling shell, as with an installed one.
    program.write_text(f'#!/bin/sh\nexec {shlex.join(COHERENT)} "$@"\n')
    program.chmod(0o755)

    def run(*words):
        done = subprocess.run(
            words,
            cwd=scratch,
            env={
                **os.environ,
                "PATH": f"{programs}:{os.environ['PATH']}",
                "PYTHONPATH": str(REPOSITORY),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    run.scratch = scratch
    return run


# ── README ───────────────────────────────────────────────────────────────────


def test_readme_reaches_its_first_code_in_sixty_words():
    before = README.read_text(encoding="utf-8").partition("```")[0]
    words = re.findall(r"\w[\w'-]*", re.sub(r"^#.*$", "", before, flags=re.MULTILINE))
    assert 0 < len(words) <= 60


def test_python_of_the_readme_prints_what_the_readme_shows(run):
    found = blocks_in("python")
    assert found
    assert found[0].output is not None
    for block in found:
        done = run(sys.executable, "-W", "error", "-c", block.text)
        assert done.stderr == "", f"README.md:{block.line}"
        assert block.output in (None, done.stdout), f"README.md:{block.line}"


def test_shell_of_the_readme_runs_from_top_to_bottom(run):
    script = "set -euo pipefail\n" + "\n".join(block.text for block in blocks_in("bash"))
    done = run("bash", "-c", script)
    refusal = "plans/plan.md: bob committed since you read it: you saw generation 4, current is 5"
    assert re.findall(r"^coherent: (.*)", done.stderr, re.MULTILINE) == [refusal]
    plan = (run.scratch / "plans" / "plan.md").read_text()
    loop = r"# Plan\n- script-\d+ was here\n"
    assert re.fullmatch(loop + r"# The plan\n- script-\d+ was there\n- alice: docs\n", plan)
    assert "generation 6, merged with generation 5 by bob; read it before" in done.stdout


@pytest.mark.invariant("I1")
def test_loop_of_the_readme_loses_nothing_when_many_shells_run_it_at_once(run):
    loop = next(block.text for block in blocks_in("bash") if "until coherent read" in block.text)
    Command(run.scratch).ok("init", "--managed", "plans/**")
    Command(run.scratch).ok("create", "plans/plan.md", input="# Plan\n")
    many = f"""
    for n in 1 2 3 4 5 6; do
        bash -c {shlex.quote(loop)} > said.$n 2>&1 & all="$all $!"
    done
    for each in $all; do wait $each || {{ cat said.*; exit 1; }}; done
    """
    run("bash", "-c", many)
    lines = (run.scratch / "plans" / "plan.md").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 7


def test_set_up_commands_of_the_readme_exist():
    # These need a network or minutes: they are what the pipeline runs itself.
    makefile = (REPOSITORY / "Makefile").read_text()
    commands = [line for block in blocks_in("sh") for line in block.text.splitlines()]
    assert commands
    for command in commands:
        if command.startswith("make "):
            assert re.search(rf"^{command[5:]}:.*## ", makefile, re.MULTILINE), command
        else:
            assert command == "pip install ."


def test_readme_has_no_other_programs():
    assert {block.language for block in blocks(README)} == {"python", "bash", "sh", "text"}


def test_readme_says_what_is_not_guaranteed_at_equal_length():
    text = README.read_text(encoding="utf-8")
    rows = _table_lines(_section(text, "## What is guaranteed"))[2:]
    others = _table_lines(_section(text, "## What is not"))[2:]
    assert 4 <= len(rows) <= 10
    assert len(others) >= len(rows)
    assert len(" ".join(others).split()) >= len(" ".join(rows).split())
    for row in rows:
        assert re.search(r"\]\(tests/test_\w+\.py\)", row), f"names no test: {row}"


def test_figures_of_the_readme_are_between_their_marks():
    text = README.read_text(encoding="utf-8")
    begin, end = (text.index(f"<!-- bench:{mark} -->") for mark in ("begin", "end"))
    assert begin < end


# ── every document ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document):
    text = re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [each.partition("#")[0] for each in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [each for each in links if each and not re.match(r"\w+:", each)]
    assert [each for each in local if not (document.parent / each).exists()] == []


@pytest.mark.parametrize("language", ["python", "bash"])
def test_programs_in_documents_are_the_readmes_only(language):
    # What nobody runs goes stale: a document that shows a program gets a test.
    others = [path.name for path in DOCUMENTS if path != README and blocks_of(path, language)]
    assert others == []


def blocks_of(document: Path, language: str) -> list[Block]:
    return [block for block in blocks(document) if block.language == language]


# ── the command line ─────────────────────────────────────────────────────────


def test_every_verb_is_explained():
    known = README.read_text("utf-8") + (REPOSITORY / "docs" / "CLI.md").read_text("utf-8")
    assert [verb for verb in MODULES if f"`{verb}`" not in known] == []


@pytest.mark.parametrize("verb", sorted(MODULES))
def test_every_verb_has_help_with_an_example(verb, tmp_path):
    told = Command(tmp_path).ok(verb, "--help").text
    assert f"Usage: coherent {verb} [OPTIONS]" in told
    assert "Example:" in told


def test_exit_codes_of_the_readme_are_those_of_the_command():
    rows = _table(_section(README.read_text("utf-8"), "## Exit codes"))
    told = {name: int(row[0]) for row in rows for name in re.findall(r"\w+Error\b", row[2])}
    codes = {kind.__name__: code for kind, code in EXIT_CODES.items()}
    assert told == {name: codes[name] for name in told}
    leaves = {k.__name__ for k in _subclasses(errors.CoherenceError) if not k.__subclasses__()}
    assert leaves <= told.keys()


def _subclasses(kind: type) -> set[type]:
    return {kind, *(below for child in kind.__subclasses__() for below in _subclasses(child))}


# ── PROTOCOL.md ──────────────────────────────────────────────────────────────


def test_every_invariant_has_a_test():
    marked = set()
    for path in (REPOSITORY / "tests").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.invariant":
                marked |= {ast.literal_eval(each) for each in node.args}
    stated = set(re.findall(r"^\*\*(I\d+)\b", PROTOCOL.read_text("utf-8"), re.MULTILINE))
    assert stated == {f"I{number}" for number in range(1, 12)}
    assert marked <= stated
    assert stated & TESTED_INVARIANTS <= marked, "add @pytest.mark.invariant to a test"


def test_crash_table_has_every_point_and_no_other():
    rows = _table(_section(PROTOCOL.read_text("utf-8"), "## Crash table"))
    assert [row[0].strip("`") for row in rows] == list(points.POINTS)


def test_numbers_of_the_protocol_are_those_of_the_code():
    rows = _table(_section(PROTOCOL.read_text("utf-8"), "## Numbers"))
    assert rows
    for name, value, _ in rows:
        assert float(value) == _named(name.strip("`")), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_functions_that_documents_name_exist(document):
    text = document.read_text("utf-8")
    quoted = set(re.findall(r"`([A-Za-z_]+\.[A-Za-z_]+)`", text))
    drawn = {
        word
        for block in blocks_of(document, "")
        for word in re.findall(r"\b[A-Za-z_]+\.[A-Za-z_]+\b", block.text)
    }
    named = {
        each for each in quoted | drawn if each.partition(".")[0] in {*_modules(), *_classes()}
    }
    files = (".toml", ".db", ".sql", ".lock", ".py", ".md")
    absent = []
    for each in named:
        if each.endswith(files):
            continue
        try:
            _named(each)
        except AttributeError:
            absent.append(each)
    assert absent == []


@functools.cache
def _modules() -> dict[str, Any]:
    found = (path.stem for path in (REPOSITORY / "coherent_volume").glob("*.py"))
    return {n: importlib.import_module(f"coherent_volume.{n}") for n in found if n != "__init__"}


@functools.cache
def _classes() -> dict[str, type]:
    return {
        name: value
        for module in _modules().values()
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__
    }


def _named(name: str) -> Any:
    """What ``module.name`` or ``Class.name`` is in the library."""
    first, _, second = name.partition(".")
    return getattr({**_classes(), **_modules()}[first], second)


def _section(text: str, heading: str) -> str:
    """What stands under *heading*, up to the next of the same level or higher."""
    level = len(heading.split(" ", 1)[0])
    after = text.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{level}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def _table(section: str) -> list[list[str]]:
    """The rows of the first table in *section*, as cells, without its head."""
    lines = _table_lines(section)[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _table_lines(section: str) -> list[str]:
    """The lines of the first table in *section*."""
    found = re.search(r"^\|.*(\n\|.*)*", section, re.MULTILINE)
    assert found
    return found[0].splitlines()
