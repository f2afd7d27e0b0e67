"""A plugin of pytest that writes down which guarantee each test holds, and how it ended.

``-p proof.counting`` with PROOF_COUNTS naming a file: one JSON line for each test,
with its ``invariants``, also from several processes at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Iterator[None]:
    """Note the end of the test itself, and whatever went wrong around it."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    file = os.environ.get("PROOF_COUNTS")
    if file is None or (report.when != "call" and report.passed):
        return
    invariants = sorted({mark.args[0] for mark in item.iter_markers("invariant")})
    line = {"test": item.nodeid, "invariants": invariants, "outcome": report.outcome}
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)
