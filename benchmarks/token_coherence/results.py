"""Results as files: JSON that says on what machine and with what it was made."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.token_coherence.experiment import Cell
from benchmarks.token_coherence.measured import Section
from benchmarks.token_coherence.report import savings

__all__ = ["about", "as_document", "write"]

DISTRIBUTIONS = ("coherent-volume", "matplotlib", "rich", "xxhash")


def about(directory: Path) -> dict[str, Any]:
    """Return the machine and the versions; no date, no names, no paths."""
    facts = machine.facts(directory)
    facts.pop("date")
    return facts | {"versions": _versions(), "byte_order": sys.byteorder}


def _versions() -> dict[str, str]:
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def as_document(section: Section) -> dict[str, Any]:
    """Return a measured section as plain values."""
    return {
        "title": section.title,
        "cells": [cell.as_dict() | _saved(section, cell) for cell in section.cells],
        "claims": [asdict(claim) for claim in section.claims],
    }


def _saved(section: Section, cell: Cell) -> dict[str, Any]:
    """Return what the cell saves on the same traces, per cent; None where there is no such arm."""
    name, mode = cell.scenario.name, cell.mode
    demand = section.find(name, "demand", mode)
    return {
        "saves": savings(cell, section.find(name, "broadcast", mode)),
        "saves_of_demand": None if demand is None else savings(cell, demand),
    }


def write(directory: Path, name: str, known: dict[str, Any], content: dict[str, Any]) -> None:
    """Write one result with the facts about its making beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {"made_with": known} | content
    (directory / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
