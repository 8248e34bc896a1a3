"""Persistence of purges that wait for the Redis of `state`: they outlive the gateway, if it has a state directory.

Control writes the file while Redis is unreachable, and removes it when Redis has all of them. The supervisor reads it
at the start, before there are other processes, and writes it once more after all of them have ended.
"""

import os
from collections.abc import Iterable, Sequence
from glob import escape, glob
from hashlib import blake2b
from pathlib import Path
from time import monotonic
from typing import Final, final

import msgspec

from fastgw import durable_files
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.node.quota_persistence import run_of
from fastgw.runtime.node.state_directory import state_directory
from fastgw.shm.quota_store import CannotKeep, Claim
from fastgw.sync.cache_purges import PurgeOrder, all_of, identified
from fastgw.sync.purge_backlog import MOST_BYTES, PurgeBacklog

_NAME: Final = "purges"
_NEW: Final = ".new"
_MAGIC: Final = b"fastgw waiting purges 1\n"
_DIGEST: Final = 16
_LARGEST: Final = 4 * MOST_BYTES
_DECODE: Final = msgspec.msgpack.Decoder(list[PurgeOrder]).decode
_ENCODE: Final = msgspec.msgpack.Encoder().encode


@final
class PurgeFile:
    """File of the purges that wait. It does not exist if there are none. `run_key`: of the gateway."""

    def __init__(self, path: str, run_key: bytes) -> None:
        self.path = path
        self._claim = Claim(path, run_of(run_key))

    def read(self) -> list[PurgeOrder] | None:
        """Return the purges. None: the file is damaged, or of another version. Raises `CannotKeep`."""
        self._claim.acquire()
        try:
            for left in glob(f"{escape(self.path)}-*{_NEW}"):  # of a write that was interrupted
                os.unlink(left)
            with open(self.path, "rb") as file:
                raw = file.read(_LARGEST + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CannotKeep(f"{self.path} cannot be read: {error.strerror}") from error
        begins = len(_MAGIC) + _DIGEST
        payload = raw[begins:]
        if len(raw) > _LARGEST or raw[:begins] != _MAGIC + _digest(payload):
            return None
        try:
            return _DECODE(payload)
        except msgspec.DecodeError:
            return None

    def write(self, purges: Sequence[PurgeOrder]) -> None:
        """Replace what is in the file, so that it survives a crash. Raises `CannotKeep`."""
        self._claim.acquire()
        try:
            if purges:
                payload = _ENCODE(purges)
                new = f"{self.path}-{os.getpid()}{_NEW}"  # two control processes may write: one replaces the other
                durable_files.replace(self.path, _MAGIC + _digest(payload) + payload, new=new)
            elif os.path.lexists(self.path):
                os.unlink(self.path)
        except OSError as error:
            raise CannotKeep(f"{self.path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        self._claim.close()


def purge_file(run_key: bytes) -> PurgeFile | None:
    """Return the file of this gateway; None: it has no state directory. `run_key`: of the gateway."""
    directory = state_directory()
    return None if directory is None else PurgeFile(str(Path(directory) / _NAME), run_key)


def restore_waiting(backlog: PurgeBacklog, stores: Iterable[str], run_key: bytes) -> None:
    """Restore the purges that a former gateway could not announce, in the supervisor. `stores`: names of the caches."""
    file = purge_file(run_key)
    if file is None:
        return
    try:
        purges = file.read()
    except CannotKeep as error:
        notice(OperatorEvent.PURGES_NOT_KEPT, f"purges: {error}; those of before that wait for Redis are not announced")
        return
    finally:
        file.close()
    if purges is None:
        notice(
            OperatorEvent.PURGES_NOT_KEPT,
            f"purges: {file.path} is damaged: everything in the caches is purged, on all nodes that share a Redis",
        )
        purges = all_of(stores)
    for order in map(identified, purges):
        backlog.restore(order, monotonic())


def keep_waiting(backlog: PurgeBacklog, run_key: bytes) -> bool:
    """Write the purges that wait, in the supervisor, after all other processes have ended. Returns whether the next
    start finds them.
    """
    file = purge_file(run_key)
    if file is None:
        return False
    try:
        file.write(backlog.waiting)
    except CannotKeep as error:
        notice(OperatorEvent.PURGES_NOT_KEPT, f"purges: {error}")
        return False
    else:
        return True
    finally:
        file.close()


def _digest(payload: bytes) -> bytes:
    return blake2b(payload, digest_size=_DIGEST, person=b"fastgw-waiting").digest()
