"""coherent_volume: many sessions edit one directory, and no update is lost.

The map of layers, imports pointing down::

    volume                                   the façade
    operations  artifact_io  overview  checkup  maintenance
    watching  notes                          following others
    reading  commit                          the two protocols
    gating  recovery  install  leasing       under the gate
    forking  layout  parts  feed  watch      one opened volume
    session                                  who is reading
    sidecar  ledger  events  meters  database    the records
    staging  files  locks  paths             the operating system
    syscalls  identity  globs  digest  config  records
    model  errors                            the words
"""

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
from coherent_volume.leasing import Lease
from coherent_volume.model import (
    Changes,
    CheckFinding,
    CheckReport,
    Commit,
    FeedEntry,
    LeaseStatus,
    LogEntry,
    Metric,
    Note,
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
    "Changes",
    "CheckFinding",
    "CheckReport",
    "ClosedError",
    "CoherenceError",
    "CoherentVolume",
    "Commit",
    "ConfigurationError",
    "ConflictError",
    "DamagedError",
    "FeedEntry",
    "FencedError",
    "ForeignEditError",
    "Lease",
    "LeaseStatus",
    "LeasedError",
    "LinkedArtifactError",
    "LogEntry",
    "Metric",
    "NotFoundError",
    "NotManagedError",
    "NotObservedError",
    "NotPermittedError",
    "NotRegularFileError",
    "Note",
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
    "find_root",
    "initialise",
    "rebuild_sidecar",
]
