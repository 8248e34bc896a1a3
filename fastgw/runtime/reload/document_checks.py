"""Checks of documents from the admin API: one at a time, each in a child process with limits."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct, msgpack

from fastgw.config import ConfigError, Problem
from fastgw.config.base.value_types import write_duration, write_size
from fastgw.config.formats.positions import OutOfResources
from fastgw.config.settings.gateway import Admin
from fastgw.operator_log import described
from fastgw.runtime.process.bounded_child import BoundedCheck, Bounds, Died, OutOfMemory, OutOfTime
from fastgw.runtime.process.transient_errors import is_out_of_memory, is_passing
from fastgw.shm.slot_assignment import OutOfSlots

MOST_WAITING: Final = 8
"""Maximum number of documents, including the one that is being checked: each is in memory, up to
`admin.document_bytes`.
"""


class CheckedDocument(Struct, frozen=True):
    """Result of checking a document. Empty: no errors."""

    problems: Sequence[Problem] = ()
    passing: str = ""
    """Transient reason why it cannot be checked now."""
    bound: str = ""
    """Limit that was exceeded, its value, and the setting that raises it."""
    changes: str = ""
    notes: Sequence[Problem] = ()


class TooMany(Exception):
    """`MOST_WAITING` documents are being checked already."""


class DocumentChecks:
    """Queue of checks. `change_lock`: held while the state that documents are checked against changes."""

    def __init__(self, change_lock: asyncio.Lock) -> None:
        self._change_lock = change_lock
        self._one = asyncio.Lock()
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<DocumentChecks: {self._waiting}>"

    async def check(self, work: Callable[[], CheckedDocument], file: str, admin: Admin) -> CheckedDocument:
        """Run `work` in a child process. `file`: name of the document in errors. Raises `TooMany`."""
        if self._waiting >= MOST_WAITING:
            raise TooMany
        self._waiting += 1
        bounds = Bounds(admin.document_time, admin.document_memory)
        try:
            async with self._one:
                async with self._change_lock:  # no thread is changing the state at the fork
                    check = BoundedCheck(lambda: msgpack.encode(_run_check(work, file)), bounds)
                return msgpack.decode(await check.result(), type=CheckedDocument)
        except OSError as error:
            return CheckedDocument(passing=f"cannot start a process to check it: {error.strerror}")
        except Died as error:
            return CheckedDocument(passing=f"the process that checked it ended early: {error}")
        except OutOfTime:
            most, in_all = write_duration(bounds.seconds), write_duration(bounds.clock_s)
            why = f"A document may take {most} of processor time to check, and {in_all} in all: admin.document_time."
            return CheckedDocument(bound=why)
        except OutOfMemory:
            most = write_size(bounds.bytes)
            return CheckedDocument(bound=f"A document may take {most} of memory to check: admin.document_memory.")
        finally:
            self._waiting -= 1


def _run_check(work: Callable[[], CheckedDocument], file: str) -> CheckedDocument:
    """Run the check; entry point of the child process. Raises `MemoryError`."""
    try:
        return work()
    except Exception as error:
        if is_out_of_memory(error):
            raise MemoryError from error
        why = why_not_now(error)
        return CheckedDocument(passing=why) if why else CheckedDocument(problems_of(error, file))


def why_not_now(error: Exception) -> str:
    """Return the transient reason why a configuration cannot be read or compiled; "": the error is permanent."""
    if isinstance(error, OutOfResources) or is_passing(error):
        return str(error) or type(error).__name__
    return ""


def problems_of(error: Exception, file: str) -> Sequence[Problem]:
    """Return the errors of a configuration, from the exception of reading or compiling it. `file`: for errors without a
    file.
    """
    if isinstance(error, ConfigError):
        return error.problems
    why = str(error) if isinstance(error, OutOfSlots) else f"a defect: {described(error)}"
    return [Problem(file, 0, 0, "", why)]
