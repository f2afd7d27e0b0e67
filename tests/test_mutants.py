"""The breaks that the checks must catch still fit the code they break."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from proof.mutants import MUTANTS, ROOT, applied

PROMISES = {f"I{number}" for number in range(1, 12)}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_every_break_fits_and_still_is_python(mutant, tmp_path):
    shutil.copytree(ROOT / "coherent_volume", tmp_path / "coherent_volume")
    module = applied(mutant, tmp_path)
    compile(module.read_text(), str(module), "exec")
    for check in mutant.check.split():
        name, _, test = check.partition("::")
        text = (Path(__file__).parent / name).read_text()
        assert not test or f"def {test}(" in text


def test_every_promise_that_a_line_can_break_is_broken():
    assert PROMISES - {m.promise for m in MUTANTS} <= {"I11"}
