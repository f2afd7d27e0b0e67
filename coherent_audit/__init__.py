"""What several processes did to some artifacts, and whether that can be.

``Recorder`` writes down each operation of one process as it starts and as it
ends; ``load`` reads the records of all; ``check`` judges them; ``minimal``
leaves of a bad history what is needed to see it. Nothing here knows the
library, or imports anything of the project: it must not share a mistake with
what it judges. Contents are fingerprints, generations are what callers were told.
"""

from __future__ import annotations

from coherent_audit.judging import check, minimal, replayable
from coherent_audit.recording import (
    ABSENT,
    Access,
    Operation,
    Recorder,
    RecordingError,
    Violation,
    fingerprint,
    load,
)

__all__ = [
    "ABSENT",
    "Access",
    "Operation",
    "Recorder",
    "RecordingError",
    "Violation",
    "check",
    "fingerprint",
    "load",
    "minimal",
    "replayable",
]
