"""What a refusal says: ConflictReport, a frozen value, as text and as plain fields.

Made once (the report module makes it) and shown alike by the exception, the
command line and every other edge. Reads no clock and no disk. All that other
parties wrote (names, labels, lines of a diff) is escaped before it gets here or
on its way out, and bounded; the same situation yields the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from coherent_volume.errors import printable

__all__ = ["CommitBetween", "ConflictReport", "WayOut"]


@dataclass(frozen=True, slots=True)
class CommitBetween:
    """One commit after the generation that the author saw. ``at`` is UTC, ISO 8601."""

    generation: int
    session: str
    at: str
    kind: str


@dataclass(frozen=True, slots=True)
class WayOut:
    """One thing to do next: what it does, and the command that does it."""

    purpose: str
    command: str


@dataclass(frozen=True, slots=True)
class ConflictReport:
    """Why a write was refused, what happened meanwhile, and the ways out.

    ``base`` is the generation that the author saw (None: none), ``head`` the
    one that was current; ``between`` names the commits in between, the oldest
    and the newest when they are many, ``omitted`` how many it leaves out.
    ``diff`` are the lines of a unified diff from base to head, ``diff_note``
    says what it leaves out, or why there is none. ``merge`` is a word for
    programs (see merge.Verdict), ``merge_note`` the sentence for people.
    ``kept`` holds the refused content, ``marked`` a copy with conflict markers.
    """

    path: str
    root: str
    session: str
    reason: str
    cause: str
    base: int | None
    head: int
    between: tuple[CommitBetween, ...]
    omitted: int
    diff: tuple[str, ...]
    diff_note: str
    merge: str
    merge_note: str
    kept: str | None
    marked: str | None
    ways_out: tuple[WayOut, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        # Written out: dataclasses.asdict copies every string of the diff on its own.
        return {
            **{name: getattr(self, name) for name in self.__slots__},
            "between": [asdict(each) for each in self.between],
            "diff": list(self.diff),
            "ways_out": [asdict(each) for each in self.ways_out],
        }

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> ConflictReport:
        """The report that ``as_dict`` gave *fields* of. Raises TypeError, KeyError."""
        return ConflictReport(
            **{
                **fields,
                "between": tuple(CommitBetween(**each) for each in fields["between"]),
                "diff": tuple(fields["diff"]),
                "ways_out": tuple(WayOut(**each) for each in fields["ways_out"]),
            }
        )

    def text(self) -> str:
        """The whole report for people; no line end at the last line."""
        lines = [f"{printable(self.path)}: {self.cause}"]
        if self.kept:
            lines.append(f"Your content is kept in {printable(self.kept)}")
        return "\n".join([*lines, self.details()])

    def details(self) -> str:
        """What the report adds to the words of the refusal itself."""
        return "\n".join(
            line for part in (self._parties(), self._change(), self._ways()) for line in part
        )

    def _parties(self) -> Iterator[str]:
        who = printable(self.session)
        saw = "never read it" if self.base is None else f"saw generation {self.base}"
        yield f"{who} {saw}; current is generation {self.head}."
        if not self.between:
            return
        yield "Committed since then:" if self.base is not None else "Its last commits:"
        width = max(len(printable(each.session)) for each in self.between)
        kinds = max(len(each.kind) for each in self.between)
        for number, each in enumerate(self.between):
            if self.omitted and number == len(self.between) // 2:
                yield f"  ({self.omitted} more in between)"
            yield (
                f"  generation {each.generation}  {printable(each.session):<{width}}"
                f"  {printable(each.kind):<{kinds}}  {each.at}"
            )

    def _change(self) -> Iterator[str]:
        if self.diff:
            yield f"What changed from generation {self.base} to {self.head}:"
            yield from (f"  {line}" for line in self.diff)
        if self.diff_note:
            yield self.diff_note
        if self.merge_note:
            yield self.merge_note
        if self.marked:
            yield f"A copy with conflict markers is {printable(self.marked)}"

    def _ways(self) -> Iterator[str]:
        if self.ways_out:
            yield f"Ways out, as {printable(self.session)}, in {printable(self.root)}:"
        for number, way in enumerate(self.ways_out, 1):
            yield f"  {number}. {way.purpose}:"
            yield f"     {printable(way.command)}"
