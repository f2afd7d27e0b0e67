"""coherent_volume: many sessions edit one directory, and no update is lost.

The map of layers, imports pointing down::

    volume                                   the façade
    trusting                                 reads that trust their copies
    transaction  blaming  restoring  past     several at once, and the past
    operations  artifact_io  overview  checkup  audit  facts  savings  maintenance
    watching  listening  notes               following others
    merging                                  from a refusal to a merged commit
    reading  commit                          the two protocols
    report  recall                           what a refusal says
    gating  recovery  install  leasing  disposal    under the gate
    forking  layout  parts  feed  watch      one opened volume
    session                                  who is reading
    sidecar  ledger  events  meters  database    the records
    staging  files  locks  paths             the operating system
    syscalls  identity  globs  digest  config  records  read_policy
    merge  difference  conflict              contents by line; the report's words
    model  answers  errors                   the words
"""

from importlib import import_module
from typing import TYPE_CHECKING

from coherent_volume.errors import (
    AlreadyExistsError,
    BusyError,
    ClosedError,
    CoherenceError,
    ConfigurationError,
    ConflictError,
    DamagedError,
    FencedError,
    ForeignEditError,
    GenerationNotKeptError,
    LeasedError,
    LinkedArtifactError,
    NotFoundError,
    NotManagedError,
    NotObservedError,
    NotPermittedError,
    NotRegularFileError,
    OutsideRootError,
    SchemaVersionError,
    StaleGenerationError,
    StorageError,
    SymlinkError,
    UnavailableError,
    UnconfirmedError,
    UnsupportedFilesystemError,
    UsageError,
)
from coherent_volume.layout import find_root, initialise
from coherent_volume.leasing import Lease
from coherent_volume.model import Commit, MergedWith, Observation, SessionInfo
from coherent_volume.volume import CoherentVolume

if TYPE_CHECKING:
    from coherent_volume.answers import (
        AuditFinding,
        AuditReport,
        BlamedLine,
        Changes,
        CheckFinding,
        CheckReport,
        FeedEntry,
        LeaseStatus,
        LeftAlone,
        LogEntry,
        Metric,
        Note,
        RefusedContent,
        Restoration,
        RestoreStep,
        SessionStatus,
        VolumeStatus,
    )
    from coherent_volume.conflict import CommitBetween, ConflictReport, WayOut
    from coherent_volume.read_policy import AccessCount, ReadLease, ReadPolicy
    from coherent_volume.rebuild import rebuild_sidecar
    from coherent_volume.savings import Savings, SessionSavings
    from coherent_volume.transaction import Transaction

__version__ = "0.1.0"

__all__ = [
    "AccessCount",
    "AlreadyExistsError",
    "AuditFinding",
    "AuditReport",
    "BlamedLine",
    "BusyError",
    "Changes",
    "CheckFinding",
    "CheckReport",
    "ClosedError",
    "CoherenceError",
    "CoherentVolume",
    "Commit",
    "CommitBetween",
    "ConfigurationError",
    "ConflictError",
    "ConflictReport",
    "DamagedError",
    "FeedEntry",
    "FencedError",
    "ForeignEditError",
    "GenerationNotKeptError",
    "Lease",
    "LeaseStatus",
    "LeasedError",
    "LeftAlone",
    "LinkedArtifactError",
    "LogEntry",
    "MergedWith",
    "Metric",
    "NotFoundError",
    "NotManagedError",
    "NotObservedError",
    "NotPermittedError",
    "NotRegularFileError",
    "Note",
    "Observation",
    "OutsideRootError",
    "ReadLease",
    "ReadPolicy",
    "RefusedContent",
    "Restoration",
    "RestoreStep",
    "Savings",
    "SchemaVersionError",
    "SessionInfo",
    "SessionSavings",
    "SessionStatus",
    "StaleGenerationError",
    "StorageError",
    "SymlinkError",
    "Transaction",
    "UnavailableError",
    "UnconfirmedError",
    "UnsupportedFilesystemError",
    "UsageError",
    "VolumeStatus",
    "WayOut",
    "find_root",
    "initialise",
    "rebuild_sidecar",
]


# Imported when somebody asks for them: a process that reads or writes needs none
# of these, and a shell's loop starts one for each step. What is not named here is
# among the answers.
_LATER = {
    "AccessCount": "read_policy",
    "CommitBetween": "conflict",
    "ConflictReport": "conflict",
    "ReadLease": "read_policy",
    "ReadPolicy": "read_policy",
    "Savings": "savings",
    "SessionSavings": "savings",
    "Transaction": "transaction",
    "WayOut": "conflict",
    "rebuild_sidecar": "rebuild",
}


def __getattr__(name: str) -> object:
    """What is imported when somebody asks for it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _LATER.get(name, "answers")
    return getattr(import_module(f"{__name__}.{module}"), name)
