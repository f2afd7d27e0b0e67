"""pjdfstest over a mount: what differs from POSIX, and whether each difference is known.

    python -m proof.posix PJDFSTEST [FILE ...]

PJDFSTEST is a built checkout of pjdfstest, which is no part of this project. Its
scripts run as root in three trees: a plain directory, a mount with nothing
managed, and a mount in which every file is an artifact. Exits with 1 when an
assertion fails that does not fail in the plain directory, unless the tree is
managed and ``posix_managed.toml`` names it with its reason.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from coherent_volume import CoherentVolume
from fuse_mount import mount

__all__ = ["Result", "expected_deviations", "run", "unexpected"]

DEVIATIONS = Path(__file__).with_name("posix_managed.toml")
_AT_ONCE = 4
_LIMIT_S = 300
_TREES = {"plain directory": None, "unmanaged": ("artifacts/**",), "managed": ("**",)}


@dataclass
class Result:
    """What one tree gave: assertions that passed, and the words of those that did not."""

    passed: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, script: str, told: str) -> None:
        """Count the assertions that *script* told of, in the Test Anything Protocol."""
        planned, seen = 0, 0
        for line in told.splitlines():
            words = line.split()
            if line.startswith("1.."):
                planned = int(words[0][3:])
            elif line.startswith(("ok ", "not ok ")):
                seen += 1
                # "TODO" marks what pjdfstest itself does not demand of this system.
                if line.startswith("ok ") or "# TODO" in line:
                    self.passed += 1
                else:
                    self.failed[f"{script}:{words[2]}"] = line.partition(" - ")[2]
        if planned != seen:
            self.failed[f"{script}:plan"] = f"{seen} of {planned} assertions were reached"


def run(scripts: Sequence[Path], suite: Path, tree: Path) -> Result:
    """Run *scripts* of *suite*, a few at once, each in a new directory below *tree*."""

    def one(script: Path) -> str:
        place = tempfile.mkdtemp(dir=tree)
        os.chmod(place, 0o755)  # noqa: S103 - the scripts act as other users
        command = ["timeout", str(_LIMIT_S), "sh", str(script)]
        done = subprocess.run(
            command, cwd=place, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        return done.stdout.decode(errors="replace")

    result = Result()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for script, told in zip(scripts, pool.map(one, scripts), strict=True):
            result.add(str(script.relative_to(suite / "tests")), told)
    return result


@contextlib.contextmanager
def _tree(base: Path, managed: tuple[str, ...] | None) -> Iterator[Path]:
    """A directory to test: plain, or the mount of a new volume."""
    root, where = base / "root", base / "mount"
    for each in (base, root, where):
        each.mkdir(exist_ok=True)
        each.chmod(0o755)
    if managed is None:
        yield root
        return
    CoherentVolume(root, managed=managed).close()
    with mount(root, where, "posix"):
        yield where


def expected_deviations() -> dict[str, str]:
    """The assertions that are known to fail on managed trees, each with its reason."""
    table = tomllib.loads(DEVIATIONS.read_text(encoding="utf-8"))
    return {case: each["reason"] for each in table["deviation"] for case in each["cases"]}


def unexpected(result: Result, *known: dict[str, str]) -> dict[str, str]:
    """The failures that none of *known* names."""
    return {c: text for c, text in result.failed.items() if not any(c in each for each in known)}


def _told(name: str, result: Result, *known: dict[str, str]) -> bool:
    """Print one tree's result; whether it is as it should be."""
    new = unexpected(result, *known)
    print(f"{name}: {result.passed} passed, {len(result.failed)} failed", end="")
    print(f", {len(new)} of them unexpected" if result.failed else "", flush=True)
    for case, text in new.items():
        print(f"    {case}  {text[:200]}")
    return not new


def _why_not(suite: Path) -> str | None:
    if not (suite / "pjdfstest").is_file():
        return (
            f"{suite} is no built checkout of pjdfstest. Clone github.com/pjd/pjdfstest, then"
            " there: autoreconf -ifs && ./configure && make pjdfstest"
        )
    return None if os.geteuid() == 0 else "pjdfstest acts as several users: run it as root."


def main(words: Sequence[str]) -> int:
    """Run the suite over the three trees; 0 if nothing unexpected failed."""
    if not words:
        print("Which pjdfstest? make posix PJDFSTEST=/path/to/a/built/checkout", file=sys.stderr)
        return 2
    suite = Path(words[0]).resolve()
    if reason := _why_not(suite):
        print(reason, file=sys.stderr)
        return 2
    tests = suite / "tests"
    scripts = [
        path
        for path in sorted(tests.rglob("*.t"))
        if len(words) == 1 or str(path.relative_to(tests)).startswith(tuple(words[1:]))
    ]
    results = {}
    with tempfile.TemporaryDirectory(prefix="posix-") as scratch:
        os.chmod(scratch, 0o755)  # noqa: S103 - the same
        for number, (name, managed) in enumerate(_TREES.items()):
            with _tree(Path(scratch) / str(number), managed) as tree:
                results[name] = run(scripts, suite, tree)
    plain, unmanaged, managed_tree = results.values()
    known = expected_deviations()
    fine = _told("plain directory", plain, plain.failed)
    fine = _told("unmanaged", unmanaged, plain.failed) and fine
    fine = _told("managed", managed_tree, plain.failed, known) and fine
    reasons: dict[str, list[str]] = {}
    for case in managed_tree.failed:
        if case in known:
            reasons.setdefault(known[case], []).append(case)
    for reason, cases in reasons.items():
        print(f"\n{len(cases)} on managed trees: {reason}\n    {' '.join(cases)}")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
