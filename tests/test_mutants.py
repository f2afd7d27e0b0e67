"""The breaks that the checks must catch still fit the code they break."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from proof.mutants import MUTANTS, ROOT, applied

PROMISES = {f"I{number}" for number in range(1, 12)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_every_break_fits_and_still_is_python(mutant, tmp_path):
    for package in ("coherent_volume", "fuse_mount"):
        shutil.copytree(ROOT / package, tmp_path / package)
    module = applied(mutant, tmp_path)
    compile(module.read_text(), str(module), "exec")
    for check in mutant.check.split():
        name, _, test = check.partition("::")
        text = (Path(__file__).parent / name).read_text()
        assert not test or f"def {test}(" in text


def test_every_promise_is_broken_by_some_mutant():
    assert {m.promise for m in MUTANTS} == PROMISES
