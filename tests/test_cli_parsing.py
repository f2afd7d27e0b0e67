"""Hazard: a command line means something else than it says, or help does not help."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli import app, fast
from cli.call import CommandLineError, Common
from cli.exit_codes import EXIT_CODES, exit_code
from cli.verbs import MODULES
from coherent_volume import errors
from coherent_volume.errors import CoherenceError
from tests.harness.command import COHERENT, REPOSITORY, Command

PLAIN = [
    "read a",
    "read a --json",
    "read --json a",
    "read a --root r --as n",
    "write a",
    "write a --from f",
    "write --base 3 a",
    "write a --base 0 --overwrite --json",
    "create a --from f --as n",
    "append a",
    "rm a",
    "rm a --base 7",
    "rm a --overwrite",
    "mv a b",
    "mv --as n a b --json",
    "update a -- sed s/a/b/",
    "update --as n a --json -- cmd --json --root x -- y",
    "edit a -- vim",
    "edit a -- vim {} -c x",
    "transaction a b -- sh -c x",
    "transaction -- true",
    "transaction a --retries 3 --json -- cmd --json -- y --retries=4",
    "blame a",
    "undo --json",
    "reacquire",
    "reacquire a",
    "reacquire a b c --json",
    "status",
    "status --json --root r",
    "log",
    "log a",
    "log a -n 3",
    "log --limit 3 --json",
    "session",
    "session --as bob",
    "notes",
    "notes --json --as bob",
    "since",
    "since 5c0f-17 --json",
    "since 5c0f-17 -n 3",
    "--version",
]

UNUSUAL = [
    "read a --root=r",
    "write a --base=3",
    "read -- -a",
    "read a --as n --as m",
    "mv a -- -b",
    "log -n3",
    "update a sed",
    "transaction --retries=3 a -- -x",
    "show a 3",
    "diff a",
    "diff a 3 --json",
    "diff a 3 4",
    "restore a 3",
    "restore --since 10m --by outside --dry-run",
    "init",
    "init --managed p/** --managed !q --durability process",
    "check --repair",
    "verify",
    "verify . run.log --explain --json",
    "watch a b --json --count 3 --for 2.5 --since 5c0f-17",
    "lease a --ttl 5 --wait 2 -- make all",
    "lease a --break",
    "lease a --release",
    "top --once",
    "top --interval 2",
    "metrics --json",
    "demo --json",
    "version",
]

WRONG = [
    "read",
    "read a b",
    "read a --base 3",
    "read a --as",
    "write a --base x",
    "write a --base -1",
    "write a --nope",
    "mv a",
    "update a --",
    "edit a",
    "update -- sed",
    "transaction a",
    "transaction a --",
    "transaction a --retries x -- true",
    "show a",
    "show a b",
    "diff a -1",
    "diff a 1 2 3",
    "restore a b",
    "undo a",
    "status a",
    "log a b",
    "log -n 0",
    "since a b",
    "since -n 0",
    "lease",
    "lease a --ttl x",
    "watch --count 0",
    "top --interval 0",
    "frobnicate",
    "--nope",
    "check --json=1",
]


@pytest.mark.parametrize("line", PLAIN)
def test_both_grammars_read_a_plain_command_line_alike(line):
    assert fast.parse(line.split()) is not None
    assert fast.parse(line.split()) == app.parse(line.split())


@pytest.mark.parametrize("line", UNUSUAL)
def test_the_fast_grammar_leaves_the_unusual_to_the_full_one(line):
    assert fast.parse(line.split()) is None
    assert app.parse(line.split()) is not None


@pytest.mark.parametrize("line", WRONG)
def test_both_grammars_refuse_a_wrong_command_line(line):
    assert fast.parse(line.split()) is None
    with pytest.raises(CommandLineError):
        app.parse(line.split())


def test_the_fast_grammar_defaults_are_those_of_the_full_one():
    assert fast.parse(["log"]).common == Common(json=False, root=None, session=None)


def test_a_path_that_is_not_utf8_passes_both_grammars_unchanged():
    path = os.fsdecode(b"caf\xe9")
    assert fast.parse(["read", path]).arguments == {"path": path}
    assert fast.parse(["reacquire", path]) == app.parse(["reacquire", path])
    assert fast.parse(["edit", path, "--", path]) == app.parse(["edit", path, "--", path])


def test_completion_is_left_to_the_full_grammar(monkeypatch):
    monkeypatch.setenv("_COHERENT_COMPLETE", "complete_bash")
    assert fast.parse(["read", "a"]) is None


# ── usage errors ─────────────────────────────────────────────────────────────


def test_wrong_usage_exits_with_2_and_names_the_help(tmp_path):
    done = Command(tmp_path)("write", "a", "--nope")
    assert done.code == 2
    assert done.out == b""
    assert done.err.startswith("coherent: No such option: --nope")
    assert done.err.endswith("\nTry: coherent write --help\n")


def test_wrong_usage_with_json_is_one_object(tmp_path):
    done = Command(tmp_path)("read", "--json")
    assert done.code == 2
    assert done.err == ""
    told = done.json()
    assert told["ok"] is False
    assert (told["reason"], told["exit_code"]) == ("usage", 2)
    assert told["advice"] == "Try: coherent read --help"


def test_a_misspelt_verb_is_met_with_the_right_one(tmp_path):
    done = Command(tmp_path)("raed", "a")
    assert done.code == 2
    assert "'read'" in done.err


@pytest.mark.parametrize(("said", "meant"), [("rename", "mv"), ("delete", "rm"), ("cat", "read")])
def test_a_verb_of_another_tool_is_met_with_ours(tmp_path, said, meant):
    done = Command(tmp_path)(said, "a")
    assert done.code == 2
    assert done.err == f"coherent: No such command '{said}'.\nTry: coherent {meant} --help\n"


def test_an_option_before_the_verb_is_shown_its_place(tmp_path):
    done = Command(tmp_path)("--root", ".", "status")
    assert done.code == 2
    assert "--root belongs after the verb" in done.err


def test_what_a_peer_smuggled_into_an_argument_reaches_no_terminal(tmp_path):
    done = Command(tmp_path)("--\x1b[31mred")
    assert done.code == 2
    assert "\x1b" not in done.err


# ── help ─────────────────────────────────────────────────────────────────────


def test_help_lists_every_verb_in_a_group_with_its_promise(tmp_path):
    text = Command(tmp_path).ok("--help").text
    verbs = text.partition("Exit codes")[0].splitlines()
    for verb in MODULES:
        (line,) = (line for line in verbs if line.startswith(f"  {verb} "))
        assert len(line.split()) > 3, line
    assert "Read and write:" in text
    assert "75 conflict or busy" in text


@pytest.mark.parametrize("verb", sorted(MODULES))
def test_help_of_a_verb_shows_the_common_options_and_an_example(tmp_path, verb):
    text = Command(tmp_path).ok(verb, "--help").text
    assert text.startswith(f"Usage: coherent {verb} [OPTIONS]")
    assert all(option in text for option in ("--json", "--root DIR", "--as NAME"))
    assert f"coherent {'--version' if verb == 'version' else verb}" in text.partition("Example:")[2]


def test_no_words_at_all_show_the_help(tmp_path):
    command = Command(tmp_path)
    assert command.ok().text == command.ok("--help").text == command.ok("-h").text


@pytest.mark.parametrize("words", [["--help"], ["write", "--help"]])
def test_help_has_neither_colour_nor_boxes_in_a_pipe(tmp_path, words):
    out = Command(tmp_path).ok(*words).out
    assert out.isascii()
    assert b"\x1b" not in out


def test_help_names_every_exit_code_of_the_table(tmp_path):
    text = Command(tmp_path).ok("--help").text
    for code in {0, 70, 74, *EXIT_CODES.values()}:
        assert f" {code:>2} " in text, code


def test_the_version_is_that_of_the_project(tmp_path):
    line = Command(tmp_path).ok("--version").text
    assert line.startswith("coherent ")
    assert line == Command(tmp_path).ok("version").text
    assert set(Command(tmp_path).ok("version", "--json").json()) == {"ok", "version", "python"}


# ── completion ───────────────────────────────────────────────────────────────


def complete(where: Path, line: str, position: int) -> list[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "_COHERENT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(position),
    }
    done = subprocess.run(COHERENT, env=environment, cwd=where, capture_output=True, check=False)
    assert done.stderr == b""
    return done.stdout.decode().split()


def test_bash_completes_verbs_and_options(tmp_path):
    assert complete(tmp_path, "coherent re", 1) == ["read", "restore", "reacquire"]
    assert "--overwrite" in complete(tmp_path, "coherent write --o", 2)


def test_bash_is_left_to_complete_the_paths_itself(tmp_path):
    assert complete(tmp_path, "coherent read pl", 2) == []


# ── exit codes ───────────────────────────────────────────────────────────────


def leaves(kind: type[CoherenceError] = CoherenceError) -> list[type[CoherenceError]]:
    below = [each for each in kind.__subclasses__() if each.__module__ == errors.__name__]
    return [leaf for each in below for leaf in leaves(each)] if below else [kind]


@pytest.mark.parametrize("kind", leaves(), ids=lambda kind: kind.__name__)
def test_every_leaf_of_the_error_tree_has_an_exit_code_of_its_own(kind):
    assert kind in EXIT_CODES
    assert exit_code(kind("said")) == EXIT_CODES[kind]


def test_an_error_that_came_later_has_the_exit_code_of_its_branch():
    class LaterError(errors.ConflictError):
        pass

    assert exit_code(LaterError("said")) == 75
    assert exit_code(CoherenceError("said")) == 70


def test_the_documents_name_every_error_with_its_exit_code():
    table = {}
    for line in (REPOSITORY / "docs/CLI.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[0].isdecimal():
            table.update(dict.fromkeys(re.findall(r"\w+Error", cells[2]), int(cells[0])))
    assert {kind.__name__: EXIT_CODES[kind] for kind in leaves()} == {
        name: code for name, code in table.items() if name in {kind.__name__ for kind in leaves()}
    }


def test_only_what_a_retry_can_mend_exits_with_75():
    assert {kind.__name__ for kind, code in EXIT_CODES.items() if code == 75} == {
        "BusyError",
        "ConflictError",
        "FencedError",
        "ForeignEditError",
        "LeasedError",
        "NotObservedError",
        "StaleGenerationError",
    }


# ── what a command imports ───────────────────────────────────────────────────

HEAVY = {"typer", "rich", "click", "pydantic", "subprocess", "filelock", "watchdog", "pathspec"}


def imported_by(where: Path, *words: str) -> set[str]:
    code = "import sys; from cli.main import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=where,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_asking_for_the_version_imports_neither_typer_nor_the_library(tmp_path):
    found = imported_by(tmp_path, "--version")
    assert not found & HEAVY
    assert "coherent_volume" not in found


def test_reading_a_file_imports_neither_typer_nor_rich(root):
    Command(root).ok("init", "--managed", "plans/**")
    found = imported_by(root, "read", "plans/plan.md")
    assert not found & {"typer", "rich", "click", "pydantic"}
