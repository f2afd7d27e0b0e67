"""Error class to exit code: the one table of the command line.

The codes are those of sysexits.h where it has one, so that a script tells by
number what to do next and never has to match on text. Knows no message.
"""

from __future__ import annotations

from coherent_volume import errors

__all__ = [
    "BROKEN_PIPE",
    "COMMAND_NOT_EXECUTABLE",
    "COMMAND_NOT_FOUND",
    "CONFLICT",
    "DAMAGED",
    "DEMO_FAILED",
    "EXIT_CODES",
    "INPUT_OUTPUT",
    "INTERNAL",
    "INTERRUPTED",
    "SIGNAL_BASE",
    "USAGE",
    "exit_code",
]

DEMO_FAILED = 1
USAGE = 2
DAMAGED = 65
NOT_FOUND = 66
UNAVAILABLE = 69
INTERNAL = 70
EXISTS = 73
INPUT_OUTPUT = 74
CONFLICT = 75
NO_PERMISSION = 77
CONFIGURATION = 78

# As every shell and env(1) report them.
COMMAND_NOT_EXECUTABLE = 126
COMMAND_NOT_FOUND = 127
SIGNAL_BASE = 128
INTERRUPTED = 130
BROKEN_PIPE = 141

EXIT_CODES: dict[type[errors.CoherenceError], int] = {
    # Refused; a script reads again and retries.
    errors.ConflictError: CONFLICT,
    errors.StaleGenerationError: CONFLICT,
    errors.NotObservedError: CONFLICT,
    errors.FencedError: CONFLICT,
    errors.ForeignEditError: CONFLICT,
    # A retry of the same create can never succeed, hence not 75.
    errors.AlreadyExistsError: EXISTS,
    # Not attempted. Busy and leased pass by themselves; the rest needs a hand.
    errors.LeasedError: CONFLICT,
    errors.BusyError: CONFLICT,
    errors.UnavailableError: UNAVAILABLE,
    errors.StorageError: UNAVAILABLE,
    errors.UnsupportedFilesystemError: UNAVAILABLE,
    # A retry might commit twice: not 75 either.
    errors.UnconfirmedError: UNAVAILABLE,
    errors.NotFoundError: NOT_FOUND,
    errors.GenerationNotKeptError: NOT_FOUND,
    errors.UsageError: USAGE,
    errors.NotManagedError: USAGE,
    errors.NotRegularFileError: USAGE,
    errors.LinkedArtifactError: USAGE,
    errors.ClosedError: USAGE,
    errors.OutsideRootError: NO_PERMISSION,
    errors.SymlinkError: NO_PERMISSION,
    errors.NotPermittedError: NO_PERMISSION,
    errors.ConfigurationError: CONFIGURATION,
    errors.DamagedError: DAMAGED,
    errors.SchemaVersionError: DAMAGED,
}


def exit_code(error: errors.CoherenceError) -> int:
    """The exit code of *error*; that of its nearest listed base when it is new."""
    for kind in type(error).__mro__:
        if kind in EXIT_CODES:
            return EXIT_CODES[kind]
    return INTERNAL
