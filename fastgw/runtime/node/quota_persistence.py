"""Persistence of quota counts: read before there are workers, written by control about once a second, and once more
after all workers have ended.

If the file fails, counts continue in memory, writes are retried, and log, status and metrics report it. A file that
cannot be read is not written: once it can be read, the higher count of each key holds. Where memory continues the
counts of the file, as after an upgrade, those in memory hold. A file of another gateway prevents the start. The
supervisor holds the claim to the file of the start, also over upgrades; control holds claims to later files, and
retries them at each write.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Final

from fastgw.admin.node_interface import QuotaFileInfo
from fastgw.config.settings.gateway import Config
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.node.state_directory import state_directory
from fastgw.shm.quota_store import CannotKeep, Claim, InUse, QuotaFile, Tokens
from fastgw.shm.quota_table import Full, QuotaTable, StoredCount

EVERY_S: Final = 1.0
LOOK_EVERY: Final = 60
"""Number of writes after which all blocks are scanned: a killed process may not have marked its changes. The file is
looked at, too."""
ROWS_AT_ONCE: Final = 20_000
ROWS_PER_TURN: Final = 1000
"""Rows of the file that are restored in a turn of the event loop: 10 ms."""
RETRY_MOST_S: Final = 15.0
NOT_READ: Final = "the file is not written until it can be read; the higher count of each key holds then"
LEAVING_S: Final = 2.0
"""Seconds that a start waits for a gateway that is ending."""


def file_of(settings: Config) -> str | None:
    """Return the file for quota counts; None: they are not stored."""
    if settings.quotas.file is not None:
        return settings.quotas.file
    directory = state_directory()
    return None if directory is None else str(Path(directory) / "quotas.sqlite3")


def run_of(run_key: bytes) -> bytes:
    """Return the id of this run of the gateway, which is not secret."""
    return blake2b(run_key, digest_size=16, person=b"quotas").hexdigest().encode()


def claim_file(settings: Config, run_key: bytes, fd: int = -1) -> Claim | None:
    """Claim the file, in the supervisor, at its start. `fd`: descriptor of the claim of the previous program.

    None: counts are not stored. Raises `InUse`. Other errors of the file are reported by control.
    """
    path = file_of(settings)
    if path is None:
        return None
    claim, ends_at = Claim(path, run_of(run_key), fd), time.monotonic() + LEAVING_S
    while True:
        try:
            claim.acquire()
        except InUse:
            if time.monotonic() >= ends_at:
                raise
            time.sleep(0.05)
        except CannotKeep:
            return claim
        else:
            return claim


def missing_rows(quotas: QuotaTable, file: QuotaFile, now_date: float) -> Iterator[StoredCount]:
    """Yield the counts of the file that memory lacks. Raises `CannotKeep`.

    If the file has the token of the last write of this memory, keys that have a slot are left out: a lower count in
    memory was reset or refunded since.
    """
    before = quotas.last_write
    rows = file.read(now_date)
    first = next(rows, None)  # opens the file; at an upgrade, the former control process may write meanwhile
    file.is_continued = file.last_write != (0, 0) and file.last_write[0] in (*before, *quotas.last_write)
    for row in () if first is None else chain((first,), rows):
        if not (file.is_continued and quotas.has_slot(row.id)):
            yield row


def restore(quotas: QuotaTable, rows: Iterable[StoredCount]) -> int:
    """Raise counts to at least those of the file. Returns the number of keys for which there is no slot. Raises
    `CannotKeep` if they cannot be read.
    """
    left_out = 0
    for row in rows:
        try:
            quotas.restore(row)
        except Full:
            left_out += 1
    return left_out


def end_reading(quotas: QuotaTable, file: QuotaFile, left_out: int) -> None:
    """Record that all counts of the file are restored, so that it may be written. `left_out`: see `restore`."""
    if left_out:
        notice(
            OperatorEvent.QUOTAS_NOT_KEPT,
            f"quotas: {file.path} has more keys than the shared memory has slots: {left_out} of them start at zero",
        )
    if file.strange:
        notice(
            OperatorEvent.QUOTAS_NOT_KEPT,
            f"quotas: {file.path} holds {file.strange} invalid rows: they are ignored",
        )
    quotas.is_file_unread = False
    if file.is_continued and not file.aside:
        file.is_new = file.is_removed = False  # it has the token of a later write than was known when it was opened
        return
    follow_new_file(quotas, file)
    quotas.last_write = file.last_write


def restore_all(quotas: QuotaTable, settings: Config) -> None:
    """Restore the counts, in the supervisor, at a start before any process counts."""
    path = file_of(settings)
    if path is None:
        return
    file = QuotaFile(path, quotas.last_write)  # that of the previous program, at an upgrade
    try:
        end_reading(quotas, file, restore(quotas, missing_rows(quotas, file, time.time())))
    except CannotKeep as error:
        quotas.is_file_unread = True
        notice(OperatorEvent.QUOTAS_NOT_KEPT, f"quotas: {error}; the counters are kept in memory only, and {NOT_READ}")
    finally:
        file.close()


def keep_all(quotas: QuotaTable, settings: Config, run_key: bytes, claim: Claim | None) -> None:
    """Write all counts, in the supervisor, after all processes that count have ended. `claim`: None: acquired if
    needed.
    """
    path = file_of(settings)
    if path is None:
        return
    file, claim = QuotaFile(path, quotas.last_write), claim or Claim(path, run_of(run_key))
    try:
        claim.acquire()
        if quotas.is_file_unread:
            end_reading(quotas, file, restore(quotas, missing_rows(quotas, file, time.time())))
        file.try_to_write()
        follow_new_file(quotas, file)
        for part in parts_of(quotas, quotas.in_use()):
            file.write([row for _, _, row in part], time.time())
            if follow_new_file(quotas, file):
                break
            apply_writes(quotas, part)
        for part in parts_of(quotas, quotas.in_use()):  # all of them, if the file is a new one; else none
            file.write([row for _, _, row in part], time.time())
            apply_writes(quotas, part)
    except CannotKeep as error:
        notice(OperatorEvent.QUOTAS_NOT_KEPT, f"quotas: {error}; the counts since the last write are lost")
    finally:
        file.close()
        claim.close()


def follow_new_file(quotas: QuotaTable, file: QuotaFile) -> bool:
    """Mark all counts as not saved if the file is a new one, and report why: a damaged one was set aside, or the file
    was removed. False: it is not.
    """
    if not file.aside and not file.is_new:
        return False
    if file.aside:
        notice(
            OperatorEvent.FILE_SET_ASIDE,
            f"quotas: {file.path} is damaged, and is {file.aside} now; a new one begins with the counts in memory",
        )
    elif file.is_removed:
        notice(
            OperatorEvent.QUOTAS_NOT_KEPT,
            f"quotas: {file.path} was removed or replaced while it was in use; all counts in memory are written again",
        )
    file.aside, file.is_new, file.is_removed = "", False, False
    quotas.mark_unsaved()
    quotas.last_write = file.last_write  # only now: before, a crash would leave marks that hold for another file
    return True


Part = list[tuple[int, int, StoredCount]]


def parts_of(quotas: QuotaTable, blocks: Iterable[int]) -> Iterator[Part]:
    """Yield the rows of these blocks that are not in the file yet, in chunks of some thousands."""
    part: Part = []
    for block in blocks:
        part += quotas.unkept(block)
        if len(part) >= ROWS_AT_ONCE:
            yield part
            part = []
    if part:
        yield part


def apply_writes(quotas: QuotaTable, part: Part) -> None:
    """Mark these rows as written."""
    for slot, state, _ in part:
        quotas.mark_saved(slot, state)


class QuotaKeeper:
    """Quota writer of the control process: keeps the file of the active configuration up to date. `run_key`: of the
    gateway.
    """

    def __init__(self, quotas: QuotaTable, run_key: bytes) -> None:
        self._quotas = quotas
        self._run = run_of(run_key)
        self._file: QuotaFile | None = None
        self._claim: Claim | None = None
        self._is_tried = False  # whether a write was tried, even without changes, to detect an unusable file early
        self._pending: set[int] = set(quotas.in_use())
        self._problem = ""
        self._written_date: float | None = None
        self._failures = 0
        self._changed = asyncio.Event()
        self._wanted: str | None = None
        self._work: asyncio.Future[None] | None = None

    @property
    def file_info(self) -> QuotaFileInfo | None:
        """Return the state of the file; None: counts are not stored."""
        return None if self._file is None else QuotaFileInfo(self._file.path, self._written_date, self._problem)

    def use_configuration(self, settings: Config, *, begins: bool = False) -> None:
        """Use this configuration. `begins`: it was active at the start of this process, and its file was restored."""
        path = file_of(settings)
        if path == self._wanted:
            return
        self._wanted = path
        self._give_up_claim()
        if not begins:
            self._quotas.mark_unsaved()
            self._quotas.last_write = (0, 0)
            if path is not None:
                self._quotas.is_file_unread = True
        # Of the process before: the file may have been replaced since.
        self._file = None if path is None else QuotaFile(path, self._quotas.last_write, self._remember_write)
        self._claim = None if path is None else Claim(path, self._run)
        self._is_tried = False
        self._problem, self._failures, self._written_date = "", 0, None
        self._pending.update(self._quotas.in_use())
        self._changed.set()

    async def run(self) -> None:
        """Write the counts until cancelled."""
        rounds = 0
        while True:
            self._changed.clear()
            rounds += 1
            if rounds % LOOK_EVERY == 0:
                self._is_tried = False  # the file may have been removed
                self._pending.update(self._quotas.in_use())
            await self.write_changes()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(EVERY_S * 2**self._failures, RETRY_MOST_S)):
                    await self._changed.wait()

    async def write_changes(self) -> None:
        """Write the changes. A write of an earlier call is finished first: one thread at a time."""
        file, claim = self._file, self._claim
        self._pending.update(self._quotas.marked())
        if self._work is not None:
            await asyncio.wait((self._work,))
        if file is None or claim is None or (self._is_tried and not self._quotas.is_file_unread and not self._pending):
            return
        try:
            await self._aside(claim.acquire)
            if claim is not self._claim:
                claim.close()  # it was given up before it was acquired
                return
            if self._quotas.is_file_unread:
                await self._restore(file)
            if file is not self._file:
                return  # the configuration names another one meanwhile, which is read first
            blocks = sorted(self._pending)
            if not self._is_tried:
                await self._aside(file.try_to_write)
                if file is not self._file:
                    return
                self._is_tried = True
                if file.is_new and follow_new_file(self._quotas, file):
                    self._pending.update(self._quotas.in_use())
                    blocks = sorted(self._pending)
            for part in parts_of(self._quotas, blocks):
                await self._aside(partial(file.write, [row for _, _, row in part], time.time()))
                if file is not self._file or file.aside or file.is_new:
                    break
                apply_writes(self._quotas, part)
        except CannotKeep as error:
            if file is not self._file:
                return  # the configuration names another one meanwhile: this says nothing about it
            if not self._problem:
                retried = NOT_READ if self._quotas.is_file_unread else "writing is retried"
                notice(
                    OperatorEvent.QUOTAS_NOT_KEPT, f"quotas: {error}; the counters are kept in memory, and {retried}"
                )
            self._problem, self._failures = str(error), self._failures + 1
            return
        if file is not self._file:
            return  # the configuration names another one meanwhile, which has none of these counts
        if follow_new_file(self._quotas, file):
            self._pending.update(self._quotas.in_use())
            self._changed.set()
            return
        if self._problem:
            notice(OperatorEvent.QUOTAS_KEPT, f"quotas: {file.path} is written again")
        self._problem, self._failures, self._written_date = "", 0, time.time()
        self._pending.difference_update(blocks)

    def _remember_write(self, tokens: Tokens) -> None:
        self._quotas.last_write = tokens

    async def _restore(self, file: QuotaFile) -> None:
        rows: list[StoredCount] = []
        await self._aside(lambda: rows.extend(missing_rows(self._quotas, file, time.time())))
        left_out = 0
        for begin in range(0, len(rows), ROWS_PER_TURN):
            if file is not self._file:
                return  # the configuration names another one meanwhile, which has none of these counts
            left_out += restore(self._quotas, rows[begin : begin + ROWS_PER_TURN])
            await asyncio.sleep(0)
        if file is self._file:
            end_reading(self._quotas, file, left_out)
            self._pending.update(self._quotas.in_use())

    async def _aside(self, act: Callable[[], None]) -> None:
        """Run a blocking call in a thread. It continues if the caller is cancelled."""
        self._work = asyncio.ensure_future(asyncio.to_thread(act))
        await asyncio.shield(self._work)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._give_up_claim()

    def _give_up_claim(self) -> None:
        if self._claim is not None:
            self._claim.close()
