"""Commits of several artifacts, blame and restorations as a Reply each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from cli.call import Reply
from cli.render import commit as one_commit
from cli.tables import margins
from coherent_volume.answers import (
    BlamedLine,
    Restoration,
)
from coherent_volume.difference import escaped
from coherent_volume.errors import printable
from coherent_volume.model import Commit

__all__ = ["blame", "commits", "restoration"]


def commits(
    done: Sequence[Commit], deed: str = "committed", left: Sequence[str] = (), where: str = ""
) -> Reply:
    """What one transaction made; *left* names files that are not managed."""

    def text() -> str:
        lines = [one_commit(each, _deed(each)).text() for each in done]
        lines += [f"not managed, left out: {printable(name)}\n" for name in left]
        if where:
            lines.append(f"what was left out is kept in {printable(where)}\n")
        return "".join(lines) or "nothing changed\n"

    fields: dict[str, object] = {"commits": [asdict(each) for each in done]}
    if deed == "committed":
        fields |= {"left_out": list(left), "kept": where or None}
    return Reply(fields, text)


def _deed(done: Commit) -> str:
    return "is" if done.digest else "deleted by"


def blame(lines: Sequence[BlamedLine]) -> Reply:
    """One line of text for each line of the artifact; "<3" means 3 or before."""

    def text() -> str:
        marks = [f"{'<' if each.or_before else ''}{each.generation}" for each in lines]
        names = [printable(each.session) for each in lines]
        wide = max(map(len, marks), default=0)
        long = max(map(len, names), default=0)
        number = len(str(len(lines)))
        return margins(
            [
                (
                    f"{mark:>{wide}} {name:<{long}} {each.at[:19]:<19} {each.number:>{number}}",
                    escaped(each.text),
                )
                for each, mark, name in zip(lines, marks, names, strict=True)
            ]
        )

    return Reply({"lines": [asdict(each) for each in lines]}, text)


def restoration(done: Restoration, *, dry_run: bool) -> Reply:
    """What went back, and what was left alone."""

    def text() -> str:
        would = "would go" if dry_run else "went"
        lines = [
            f"{printable(step.path)} {would} back to"
            f" {'nothing' if step.deletes else f'generation {step.generation}'}\n"
            for step in done.steps
        ]
        lines += [f"left alone: {printable(e.path)}: {printable(e.reason)}\n" for e in done.left]
        return "".join(lines) or "nothing to restore\n"

    return Reply(asdict(done), text)
