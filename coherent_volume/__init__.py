"""coherent_volume: many sessions edit one directory, and no update is lost.

The map of layers, imports pointing down::

    volume                                   the façade
    operations  artifact_io  overview  checkup  maintenance
    merging                                  from a refusal to a merged commit
    reading  commit                          the two protocols
    report  recall                           what a refusal says
    gating  recovery  install                under the gate
    forking  layout  parts                   one opened volume
    session                                  who is reading
    sidecar  ledger  database                the records
    staging  files  locks  paths             the operating system
    syscalls  identity  globs  digest  config  records
    merge  difference  conflict              contents by line; the report's words
    model  errors                            the words
"""

from coherent_volume.conflict import CommitBetween, ConflictReport, WayOut
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
from coherent_volume.model import (
    CheckFinding,
    CheckReport,
    Commit,
    LogEntry,
    MergedWith,
    Observation,
    RefusedContent,
    SessionInfo,
    SessionStatus,
    VolumeStatus,
)
from coherent_volume.rebuild import rebuild_sidecar
from coherent_volume.volume import CoherentVolume

__version__ = "0.1.0"

__all__ = [
    "AlreadyExistsError",
    "BusyError",
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
    "FencedError",
    "ForeignEditError",
    "LeasedError",
    "LinkedArtifactError",
    "LogEntry",
    "MergedWith",
    "NotFoundError",
    "NotManagedError",
    "NotObservedError",
    "NotPermittedError",
    "NotRegularFileError",
    "Observation",
    "OutsideRootError",
    "RefusedContent",
    "SchemaVersionError",
    "SessionInfo",
    "SessionStatus",
    "StaleGenerationError",
    "StorageError",
    "SymlinkError",
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
