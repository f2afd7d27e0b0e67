"""update and edit: a command derives the new content from the old.

Both commit against the generation that the command was given, and neither
renews the session's own view: a filter saw the content, not the agent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from cli import render
from cli.call import Common, Reply
from cli.exit_codes import COMMAND_NOT_EXECUTABLE, COMMAND_NOT_FOUND, SIGNAL_BASE
from cli.place import below_root, opened
from cli.streams import warn
from cli.termination import Terminated, told_to_end, unbroken
from coherent_volume.errors import ConflictError, UsageError, printable

__all__ = ["CommandError", "edit", "run_command", "update"]

_RETRIES = 16
_GRACE_S = 5.0  # for a command that was told to end, before it is killed


class CommandError(Exception):
    """The command did not succeed, so nothing was written; its status is passed on.

    Not an error of the library: the volume had no part in it.
    """

    def __init__(self, path: str, message: str, status: int) -> None:
        super().__init__(message)
        self.path = path
        self.message = f"{message}; nothing was written"
        self.status = status

    def __str__(self) -> str:
        return f"{printable(self.path)}: {self.message}"

    def as_dict(self) -> dict[str, Any]:
        """The error as plain values, in the form of the library's."""
        return {
            "error": "CommandError",
            "reason": "command_failed",
            "path": self.path,
            "message": self.message,
            "advice": "",
        }


def update(common: Common, path: str, command: list[str], allow_empty: bool) -> Reply:
    """Commit what *command* makes of the head; on conflict run it on the new head."""
    where = below_root(path)

    def derive(content: bytes) -> bytes:
        made = run_command(path, command, input=content, stdout=subprocess.PIPE)
        if content and not made and not allow_empty:
            raise UsageError(
                f"the command {printable(command[0])} printed nothing; nothing was written",
                path=path,
                advice="A filter prints the new content. If the file should be empty, say"
                " --allow-empty; a command that edits a file in place goes with: coherent edit",
            )
        return made

    with told_to_end(), opened(common) as place:
        return render.commit(place.volume.update(where, derive, retries=_RETRIES, renew=False))


def edit(common: Common, path: str, command: list[str]) -> Reply:
    """Commit what *command* makes of a private copy, if the head stood still."""
    where = below_root(path)

    def derive(content: bytes) -> bytes:
        copy = copies.enter_context(_private_copy(path, content))
        run_command(path, _naming(copy, command))
        return _edited(path, copy)

    # The copy outlives the call of derive: only the end of the commit tells
    # whether it is still needed. No second try: a person edits only once.
    with told_to_end(), opened(common) as place, ExitStack() as copies:
        return render.commit(place.volume.update(where, derive, retries=0, renew=False))


def run_command(path: str, command: list[str], **streams: Any) -> bytes:
    """Run *command* to its end; what it printed where that was asked for."""
    try:
        status, output = _run(command, **streams)
    except FileNotFoundError:
        raise CommandError(path, _said(command, "was not found"), COMMAND_NOT_FOUND) from None
    except OSError as error:
        raise CommandError(
            path, _said(command, f"cannot be run: {error.strerror}"), COMMAND_NOT_EXECUTABLE
        ) from error
    if status < 0:
        name = signal.Signals(-status).name
        raise CommandError(path, _said(command, f"was ended by {name}"), SIGNAL_BASE - status)
    if status > 0:
        raise CommandError(path, _said(command, f"exited with status {status}"), status)
    return output or b""


def _run(
    command: list[str],
    *,
    input: bytes | None = None,  # noqa: A002 - as subprocess calls it
    **streams: Any,
) -> tuple[int, bytes | None]:
    """Its status and output; whatever ends this process ends *command* too."""
    if input is not None:
        streams["stdin"] = subprocess.PIPE
    process: subprocess.Popen[bytes] | None = None
    with ExitStack() as ended_after:
        try:
            with unbroken():
                process = ended_after.enter_context(subprocess.Popen(command, **streams))
            output, _ = process.communicate(input)
        except BaseException as ended:
            if process is not None:
                if isinstance(ended, Terminated):
                    process.send_signal(ended.number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_GRACE_S)
                process.kill()
            raise
    return process.returncode, output


def _said(command: list[str], what: str) -> str:
    return f"the command {printable(command[0])} {what}"


def _naming(copy: str, command: list[str]) -> list[str]:
    """*command* with ``{}`` replaced by the path *copy*, which else comes last."""
    if any("{}" in word for word in command):
        return [word.replace("{}", copy) for word in command]
    return [*command, copy]


def _edited(path: str, copy: str) -> bytes:
    # Opened by name: most editors replace the file instead of writing into it.
    try:
        with open(copy, "rb") as file:
            return file.read()
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "removed" if isinstance(error, FileNotFoundError) else "made a directory of"
        raise UsageError(
            f"the command {what} its copy; nothing was written",
            path=path,
            advice="The command must leave the new content in the file it was given.",
        ) from None


@contextmanager
def _private_copy(path: str, content: bytes) -> Iterator[str]:
    """A file of the same last name that nobody else can open.

    It goes away on success, when the command itself gave up, and when the
    library has kept the content of a refused commit. In every other case it
    may be the only place that holds the new content, so it stays and is named.
    """
    folder = tempfile.mkdtemp(prefix="coherent-edit-")
    copy = os.path.join(folder, os.path.basename(path))
    needed = False
    try:
        with open(copy, "xb") as file:
            file.write(content)
        yield copy
    except CommandError as error:
        needed = error.status > SIGNAL_BASE and _differs(copy, content)
        raise
    except ConflictError as error:
        needed = not error.fields.get("kept") and _differs(copy, content)
        raise
    except BaseException:
        needed = _differs(copy, content)
        raise
    finally:
        if needed:
            warn(f"the edited copy is kept in {printable(copy)}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _differs(copy: str, content: bytes) -> bool:
    try:
        with open(copy, "rb") as file:
            return file.read() != content
    except OSError:
        return False
