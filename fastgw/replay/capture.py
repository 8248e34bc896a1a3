"""Fetches the records of a running gateway into a recording file."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import msgspec

from fastgw.admin.client import AdminClient, RefusedByGateway, Unreachable
from fastgw.admin.node_interface import RecordingBegun, RecordingWanted
from fastgw.recording.file import RecordingWriter
from fastgw.recording.records import RecordingBegin
from fastgw.sync.recordings import RecordBatch


class CannotWriteRecording(Exception):
    """The recording cannot be written. The text is one line for the user."""


class Captured(NamedTuple):
    """Result of a recording. `why`: why it has ended early; "": it has not."""

    requests: int
    dropped: int
    why: str


def capture(
    client: AdminClient,
    wanted: RecordingWanted,
    path: str,
    key: bytes,
    began: Callable[[], None] = lambda: None,
) -> Captured:
    """Record until the recording ends, and write it. If nothing was recorded, an earlier file is left as it is.
    `began`: called once requests are recorded.

    Raises `CannotWriteRecording`; `UnusableRecordingFile`, `Unreachable` or `RefusedByGateway` if the recording cannot
    begin.
    """
    try:
        writer = RecordingWriter(path, key)
    except OSError as error:
        raise CannotWriteRecording(f"{path}: {error.strerror}") from error
    begun: RecordingBegun | None = None
    try:
        with _interrupted() as is_interrupted:
            until = time.monotonic() + wanted.seconds  # not later than the gateway's
            begun = client.change("/recordings", RecordingBegun, wanted)
            writer.write_begin(RecordingBegin(begun.version, begun.generation, time.time()))
            began()
            dropped, why = _fetch_all(client, begun.id, writer, wanted.requests, until, is_interrupted)
        if writer.requests:
            writer.finish(dropped)
    except OSError as error:
        raise CannotWriteRecording(f"{path}: {error.strerror}") from error
    finally:
        writer.discard()
        if begun is not None:
            with suppress(Unreachable, RefusedByGateway):
                client.delete(f"/recordings/{begun.id}")
    return Captured(writer.requests, dropped, why)


def _fetch_all(
    client: AdminClient,
    recording: str,
    writer: RecordingWriter,
    most: int,
    until: float,
    is_interrupted: Callable[[], bool],
) -> tuple[int, str]:
    """Return the number of dropped records, and why the recording has ended early. `until`: monotonic end."""
    dropped = 0
    while writer.requests < most:
        if is_interrupted():
            return dropped, "interrupted"
        try:
            fetched = msgspec.msgpack.decode(client.fetch(f"/recordings/{recording}"), type=RecordBatch)
        except (Unreachable, RefusedByGateway) as error:
            return dropped, str(error)
        dropped = fetched.dropped
        for record in fetched.records[: most - writer.requests]:
            writer.add(record)
        if fetched.is_over and not fetched.records:
            return dropped, "the time is over" if time.monotonic() >= until else "the gateway was upgraded or stopped"
    return dropped, ""


@contextmanager
def _interrupted() -> Iterator[Callable[[], bool]]:
    """Take SIGINT and SIGTERM as requests to end, and keep what was recorded."""
    signals: list[int] = []
    before = {
        number: signal.signal(number, lambda which, _: signals.append(which))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe_size(path: str) -> str:
    """Return the size of a file for people."""
    size = os.path.getsize(path)
    return f"{size / 1024 / 1024:.1f} MiB" if size >= 1024 * 1024 else f"{size / 1024:.1f} KiB"
