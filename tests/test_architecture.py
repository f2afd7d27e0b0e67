"""The shape of the code: imports point down, one home per dependency, bounded sizes.

The tables below are the rules; whoever adds a module or a dependency adds a
line. A planned module that does not exist yet is no error.
"""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("coherent_audit", "coherent_volume", "fuse_mount", "cli")

# Lowest first. A module imports only from rows above its own line. A name
# without a package is a module of coherent_volume; a package stands for all
# modules in it, which may import one another as long as there is no circle.
ROWS = (
    ("coherent_audit",),
    ("errors", "model", "weak"),
    ("answers",),
    ("digest", "points", "config", "conflict", "lines", "read_policy", "sql_errors"),
    ("merge", "difference", "database_files", "sql_transaction"),
    ("globs",),
    ("syscalls", "records", "descriptors"),
    ("identity", "paths", "guard", "lock_waiter"),
    ("files", "locks", "database", "attributes"),
    ("facts", "keeping", "ledger", "events", "meters"),
    ("staging", "lease_records", "install_records"),
    ("sidecar",),
    ("repairs",),
    ("session",),
    ("parts",),
    ("layout", "forking", "inventory", "feed", "metrics", "watch"),
    ("install", "ground"),
    ("remake",),
    ("recovery",),
    ("gating",),
    ("ownership",),
    ("leasing", "disposal", "ageing"),
    ("judgement", "recall"),
    ("report", "drafts"),
    ("commit", "reading", "maintenance", "rebuild"),
    ("merging",),
    ("operations", "audit", "checkup", "overview", "cache", "snapshot", "notes", "watching"),
    ("savings",),
    ("views", "addresses", "artifact_io", "listening"),
    ("transaction", "past", "trusting"),
    ("blaming", "restoring"),
    ("volume_base",),
    ("volume_history", "volume_feed"),
    ("volume",),
    ("coherent_volume",),
    ("fuse_mount",),
    ("cli",),
)
HOMES = {
    "click": "cli",
    "ctypes": ("coherent_volume.syscalls", "fuse_mount.system"),
    "filelock": "coherent_volume.locks",
    "fuse": "fuse_mount.fusepy",
    "merge3": "coherent_volume.merge",
    "pathspec": "coherent_volume.globs",
    "portalocker": "coherent_volume.locks",
    "rich": "cli",
    "sqlite3": tuple(
        f"coherent_volume.{name}"
        for name in ("database", "database_files", "sql_errors", "sql_transaction")
    ),
    "typer": "cli",
    "watchdog": "coherent_volume.watch",
    "xxhash": "coherent_volume.digest",
}

# Imports inside a function: (module, what it imports) and the reason.
LOCAL_IMPORTS = {
    ("coherent_volume.database_files", "urllib"): "3 ms to import, needed once per volume",
    ("coherent_volume.artifact_io", "tempfile"): "4 ms to import, needed only by file objects",
    ("coherent_volume.config", "tomllib"): "5 ms to import, needed when a volume is opened",
    ("coherent_volume.sidecar", "importlib"): "5 ms to import, needed when a volume is made",
    ("coherent_volume.lines", "difflib"): "3 ms to import, needed when contents are compared",
    ("coherent_volume.merge", "merge3"): "3 ms to import, needed when a merge is tried",
    ("coherent_volume.commit", "coherent_volume.report"): "12 ms, needed when it refuses",
    ("coherent_volume.operations", "coherent_volume"): "12 ms, needed when a write is stale",
    ("coherent_volume.volume", "coherent_volume"): "needed only for transactions and questions",
    ("coherent_volume.volume_base", "coherent_volume.read_policy"): "needed by few",
    ("coherent_volume.volume_base", "coherent_volume.trusting"): "the same",
    ("coherent_volume.volume_history", "coherent_volume"): "2 ms, needed only to look back",
    ("coherent_volume.volume_feed", "coherent_volume"): "20 ms, needed only to look around",
    ("coherent_volume.watch", "watchdog"): "30 ms to import, needed only by those who watch",
    ("fuse_mount.server", "fuse_mount.fusepy"): "needs libfuse 2, which the other has no use for",
    ("coherent_volume.locks", "filelock"): "slow to import (46 ms with portalocker)",
    ("coherent_volume.locks", "portalocker"): "slow to import (46 ms with filelock)",
}

FILE_LIMIT = 400
FUNCTION_LIMIT = 60
FILE_LIMITS = {"coherent_volume/volume.py": 300}

# Spelled so that this file does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:[w]ork/|[f]arm/|[t]mp/plan)")
TICKET = re.compile(r"\b(?!(?:UTF|ISO|SHA|MD|RFC|PEP|EXT|CVE)-)[A-Z]{2,}-\d+\b|(?:^|[\s(])#\d+\b")


@dataclass(frozen=True)
class Module:
    """One source file and its syntax tree."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def where(self) -> str:
        return str(self.path.relative_to(ROOT))


@dataclass(frozen=True)
class Import:
    """One imported name: by which module, what, at which line, inside a function or not."""

    module: Module
    target: str
    line: int
    local: bool

    def __str__(self) -> str:
        return f"{self.module.where}:{self.line} imports {self.target}"


@functools.cache
def tracked_files() -> tuple[Path, ...]:
    """Every file of the project: what git tracks, and what is new and not ignored."""
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z", "-co", "--exclude-standard"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    if answer.returncode == 0:
        found = [ROOT / name for name in answer.stdout.decode().split("\0") if name]
    else:  # an unpacked archive
        generated = re.compile(r"/(\.venv.*|\.git|\.\w+_cache|__pycache__|\w+\.egg-info)/")
        found = [path for path in ROOT.rglob("*") if not generated.search(str(path))]
    return tuple(sorted(path for path in found if path.is_file()))


@functools.cache
def sources() -> tuple[Module, ...]:
    """Every Python file of the project."""
    return tuple(
        Module(_dotted(path), path, ast.parse(path.read_bytes(), str(path)))
        for path in tracked_files()
        if path.suffix == ".py"
    )


def _dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def modules() -> dict[str, Module]:
    """The modules that users install, by name."""
    return {m.name: m for m in sources() if m.name.partition(".")[0] in PACKAGES}


def unit_of(name: str) -> str:
    """The entry of ROWS that *name* belongs to; "" when there is none."""
    while name:
        if name in row_numbers():
            # A module of coherent_volume needs an entry of its own.
            return name
        name = name.rpartition(".")[0]
        if name == "coherent_volume":
            return ""
    return ""


@functools.cache
def row_numbers() -> dict[str, int]:
    """The row of each entry of ROWS, by its full name."""
    return {
        name if name in PACKAGES else f"coherent_volume.{name}": number
        for number, row in enumerate(ROWS)
        for name in row
    }


def imports_of(module: Module) -> Iterator[Import]:
    """Every import of *module*, wherever it stands, also under TYPE_CHECKING."""

    def visit(node: ast.AST, local: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(module, alias.name, child.lineno, local)
            elif isinstance(child, ast.ImportFrom):
                for target in _targets(module, child):
                    yield Import(module, target, child.lineno, local)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, local or inside)

    return visit(module.tree, local=False)


def _targets(module: Module, node: ast.ImportFrom) -> list[str]:
    source = node.module or ""
    if node.level:
        package = module.name.split(".")
        up = node.level - (module.path.name == "__init__.py")
        source = ".".join(package[: len(package) - up] + ([source] if source else []))
    # "from package import name" means the module of that name if there is one.
    named = (f"{source}.{alias.name}" for alias in node.names)
    return list(dict.fromkeys(full if full in modules() else source for full in named))


def all_imports() -> list[Import]:
    return [each for module in modules().values() for each in imports_of(module)]


def functions_of(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_test(module: Module) -> bool:
    return module.where.startswith("tests/")


def listed(problems: list[str]) -> str:
    return "\n" + "\n".join(problems)


# ── layers ───────────────────────────────────────────────────────────────────


def test_every_module_has_a_row():
    lost = [name for name in modules() if not unit_of(name)]
    assert not lost, f"add to ROWS: {lost}"


def test_imports_point_strictly_down():
    rows = row_numbers()
    wrong = []
    for each in all_imports():
        here, there = unit_of(each.module.name), unit_of(each.target)
        if here and there and here != there and rows[there] >= rows[here]:
            wrong.append(f"{each}: row {rows[here]} may not import from row {rows[there]}")
    assert not wrong, listed(wrong)


def test_modules_import_no_tests_examples_or_benchmarks():
    outside = {"benchmarks", "conftest", "examples", "formal", "tests"}
    wrong = [str(each) for each in all_imports() if each.target.partition(".")[0] in outside]
    assert not wrong, listed(wrong)


def test_imports_form_no_circle():
    graph: dict[str, set[str]] = {name: set() for name in modules()}
    for each in all_imports():
        if each.target in graph and each.target != each.module.name:
            graph[each.module.name].add(each.target)
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_every_dependency_has_one_home():
    wrong = []
    for each in all_imports():
        top = each.target.partition(".")[0]
        if top in PACKAGES:
            continue
        home = HOMES.get(top)
        if home is None:
            if top not in sys.stdlib_module_names:
                wrong.append(f"{each}: give it a home in HOMES")
        elif not any(
            each.module.name == one or each.module.name.startswith(one + ".")
            for one in ([home] if isinstance(home, str) else home)
        ):
            wrong.append(f"{each}: its home is {home}")
    assert not wrong, listed(wrong)


def test_imports_inside_functions_have_a_reason():
    wrong = [
        str(each)
        for each in all_imports()
        if each.local
        and (each.module.name, each.target) not in LOCAL_IMPORTS
        and (each.module.name, each.target.partition(".")[0]) not in LOCAL_IMPORTS
    ]
    assert not wrong, listed(wrong)


def test_every_package_is_in_the_wheel():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name for name, m in modules().items() if m.path.name == "__init__.py"}
    assert packages <= set(settings["tool"]["setuptools"]["packages"])


# ── sizes ────────────────────────────────────────────────────────────────────


def test_files_stay_small():
    wrong = []
    for module in sources():
        limit = FILE_LIMITS.get(module.where, FILE_LIMIT)
        length = len(module.path.read_bytes().splitlines())
        if length > limit and not is_test(module):
            wrong.append(f"{module.where}: {length} lines, at most {limit}")
    assert not wrong, listed(wrong)


def test_functions_stay_small():
    wrong = []
    for module in sources():
        for node in functions_of(module):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LIMIT:
                wrong.append(f"{module.where}:{node.lineno} {node.name}: {length} lines")
    assert not wrong, listed(wrong)


# ── words ────────────────────────────────────────────────────────────────────


def test_names_are_logged_in_a_form_that_no_terminal_obeys():
    """Without a handler of the program's the logging module prints warnings as they are."""
    wrong = []
    for module in sources():
        for call in ast.walk(module.tree):
            if not isinstance(call, ast.Call) or not ast.unparse(call.func).startswith("_log."):
                continue
            for argument in call.args:
                text = ast.unparse(argument)
                if ("shown(" in text or "fsdecode(" in text) and "printable(" not in text:
                    wrong.append(f"{module.where}:{call.lineno} logs {text}")
    assert not wrong, listed(wrong)


def test_every_module_has_a_docstring():
    wrong = [m.where for m in sources() if not ast.get_docstring(m.tree)]
    assert not wrong, listed(wrong)


def test_everything_public_in_the_library_has_a_docstring():
    def undocumented(scope: ast.Module | ast.ClassDef) -> Iterator[ast.AST]:
        for node in scope.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            decorators = {ast.unparse(each).rpartition(".")[2] for each in node.decorator_list}
            if node.name.startswith("_") or decorators & {"overload", "override", "setter"}:
                continue
            if not ast.get_docstring(node):
                yield node
            if isinstance(node, ast.ClassDef):
                yield from undocumented(node)

    wrong = [
        f"{module.where}:{node.lineno} {node.name}"
        for module in modules().values()
        if module.name.startswith("coherent_volume")
        for node in undocumented(module.tree)
    ]
    assert not wrong, listed(wrong)


def test_no_file_names_a_machine_or_a_ticket():
    wrong = []
    for path in tracked_files():
        if path.name == "LICENSE":
            continue  # not our words
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            if found := MACHINE_PATH.search(line) or TICKET.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {found[0].strip()}")
    assert not wrong, listed(wrong)


def test_everything_public_can_be_imported():
    if "coherent_volume" not in modules():
        pytest.skip("coherent_volume has no __init__.py yet")
    library = importlib.import_module("coherent_volume")
    absent = [name for name in library.__all__ if not hasattr(library, name)]
    assert not absent
