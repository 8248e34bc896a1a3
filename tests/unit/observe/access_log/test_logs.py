"""Access logs against real files, pipes and full disks: every exchange is one whole line or one dropped record."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from fastgw.config.settings.gateway import AccessLog
from fastgw.observe import log
from fastgw.observe.access_log.sink import Sink
from fastgw.observe.metrics.series_layout import WORDS, Series
from fastgw.observe.metrics.totals import totals
from fastgw.observe.observer import Observer
from fastgw.shm.slot_assignment import SlotNames, first
from tests.unit.observe.access_log.test_finished_exchange import over

Process = subprocess.Popen[str]


class Worker:
    """An observer with its column, and what it has dropped."""

    def __init__(self, *sinks: Path | str) -> None:
        self._series = Series(first(SlotNames(["public"])), [])
        self._column = memoryview(bytearray(8 * WORDS)).cast("Q")
        logs = [AccessLog(sink=str(sink)) for sink in sinks]
        self.observer = Observer(logs=logs, column=self._column, series=self._series)

    def finish(self, count: int, fields: bytes = b"", **known: object) -> None:
        ended = over(fields, **known)
        for each in range(count):
            ended.request_bytes = each
            self.observer.finish(ended)

    @property
    def dropped(self) -> int:
        return totals(self._series, [self._column]).log_records_dropped


def wait_until(fact: Callable[[], bool], deadline_s: float = 30.0) -> None:
    until = time.monotonic() + deadline_s
    while not fact():
        assert time.monotonic() < until
        time.sleep(0.001)


@contextmanager
def at_work(*sinks: Path | str, stop_s: float = 30.0) -> Iterator[Worker]:
    worker = Worker(*sinks)
    worker.observer.start()
    try:
        yield worker
    finally:
        worker.observer.stop(stop_s)


def numbers(written: bytes) -> list[int]:
    """The numbers of the records whose lines these are; fails on a line that is not whole."""
    assert written.endswith(b"\n") or not written
    return [orjson.loads(line)["request_bytes"] for line in written.splitlines()]


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe and its reading end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reader
    os.close(reader)


def read_all(reader: int) -> bytes:
    chunks = []
    while chunk := os.read(reader, 65536):
        chunks.append(chunk)
    return b"".join(chunks)


def test_each_exchange_is_a_line_in_each_log(tmp_path: Path) -> None:
    """In order, appended to what is there; `stop` writes what is queued."""
    (tmp_path / "a").write_bytes(b'{"request_bytes":-1}\n')
    with at_work(tmp_path / "a", tmp_path / "b") as worker:
        worker.finish(1000)
    assert numbers((tmp_path / "a").read_bytes()) == list(range(-1, 1000))
    assert numbers((tmp_path / "b").read_bytes()) == list(range(1000))
    assert worker.dropped == 0


def test_what_is_held_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that finds no room is dropped and counted, once per log; what was written makes room again."""
    monkeypatch.setattr(log, "MAX_HELD", 10_000)
    worker = Worker(tmp_path / "a", tmp_path / "b")
    worker.finish(25, b"User-Agent: %b\r\n" % (b"u" * 600))
    kept = 25 - worker.dropped // 2
    assert 0 < kept < 25
    worker.observer.start()
    wait_until(lambda: all(queued.held.size == 0 for queued in worker.observer._logs))
    worker.finish(1)
    worker.observer.stop(30.0)
    for name in ("a", "b"):
        assert numbers((tmp_path / name).read_bytes()) == [*range(kept), 0]
    assert worker.dropped == 2 * (25 - kept)


def test_a_line_after_a_quiet_time_is_written_without_another(tmp_path: Path) -> None:
    """Each time: nobody has to stop the log, or to add more, to see it."""
    path = tmp_path / "log"
    with at_work(path) as worker:
        for number in range(1, 5):
            worker.finish(1)
            wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") == number)  # noqa: B023 (called at once)


def test_much_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that come faster than they are gathered do not wait for the end of a round."""
    monkeypatch.setattr(log, "_GATHER_S", 3600.0)
    path = tmp_path / "log"
    with at_work(path) as worker:
        worker.finish(2000, b"User-Agent: %b\r\n" % (b"u" * 1000))
        wait_until(lambda: path.exists() and path.stat().st_size > 500_000)
    assert numbers(path.read_bytes()) == list(range(2000))


def test_a_pipe_that_nobody_reads_stops_nothing(pipe: tuple[Path, int], tmp_path: Path) -> None:
    """It fills, the queue fills, records are dropped; the log beside it has every line, and `stop` ends in time."""
    path, reader = pipe
    with at_work(path, tmp_path / "beside", stop_s=0.2) as worker:
        worker.finish(5000)
    lines = numbers(read_all(reader))
    assert 0 < len(lines) < 5000
    assert lines == list(range(len(lines)))
    assert len(lines) + worker.dropped == 5000
    assert numbers((tmp_path / "beside").read_bytes()) == list(range(5000))


def test_a_stop_that_comes_at_any_moment_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also right after the thread has looked whether it is to stop."""
    worker = Worker(tmp_path / "log")
    (queued,) = worker.observer._logs
    refresh = queued._sink.refresh

    def refresh_and_be_told() -> None:
        refresh()
        queued.begin_stop()

    monkeypatch.setattr(queued._sink, "refresh", refresh_and_be_told)
    worker.finish(1)
    worker.observer.start()
    queued._thread.join(30.0)
    assert not queued._thread.is_alive()


def test_a_reader_that_left_costs_lines_until_one_comes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No reader yet (ENXIO) and none any more (EPIPE) are answers, not ends; each change is told once."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    sink = Sink(str(path))
    lost = [sink.write(b"1\n2\n"), sink.write(b"3\n")]
    for _ in range(2):
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        lost.append(sink.write(b"4\n"))
        assert os.read(reader, 100) == b"4\n"
        os.close(reader)
        lost += [sink.write(b"5\n"), sink.write(b"6\n")]
    sink.close()
    assert lost == [2, 1, 0, 1, 1, 0, 1, 1]
    told = [each.getMessage().removeprefix(f"access log {path}") for each in caplog.records]
    dropped = "; lines are dropped until it can be written"
    again = " can be written again"
    gone = f": Broken pipe{dropped}"
    assert told == [f": No such device or address{dropped}", again, gone, again, gone]


def test_a_full_device_costs_lines_only(caplog: pytest.LogCaptureFixture) -> None:
    with at_work("/dev/full") as worker:
        worker.finish(1000)
    assert worker.dropped == 1000
    assert [each.getMessage() for each in caplog.records] == [
        "access log /dev/full: No space left on device; lines are dropped until it can be written"
    ]


@contextmanager
def stdout_is(fd: int) -> Iterator[None]:
    saved = os.dup(1)
    os.dup2(fd, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def test_a_stdout_that_is_a_blocking_socket_holds_nobody_up() -> None:
    """As a service manager may give it: what its reader does not take is dropped, and `stop` ends in time."""
    reader, writer = socket.socketpair()
    with reader, writer:
        with stdout_is(writer.fileno()), at_work("stdout", stop_s=0.2) as worker:
            worker.finish(5000)
        writer.close()
        lines = numbers(read_all(reader.fileno()))
    assert 0 < len(lines) < 5000
    assert len(lines) + worker.dropped == 5000


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes: a write that would is cut short, the next one fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


EACH = [b'{"request_bytes":%d}\n' % each for each in range(100, 200)]
LENGTH = len(EACH[0])


def lines(first: int, end: int) -> bytes:
    return b"".join(EACH[first:end])


@pytest.mark.parametrize("begun", range(LENGTH))
def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path, begun: int) -> None:
    """A disk that fills in the middle of a line: no writer's next line may land behind the torn one."""
    path = tmp_path / "log"
    ours, other = Sink(str(path)), Sink(str(path))
    with room_for(10 * LENGTH + begun):
        assert ours.write(lines(0, 20)) == 10
        assert ours.write(lines(20, 30)) == 10
    assert other.write(lines(30, 31)) == 0
    assert ours.write(lines(31, 100)) == 0
    for sink in (ours, other):
        sink.close()
    assert path.read_bytes() == lines(0, 10) + lines(30, 100)


def test_a_torn_line_that_cannot_be_taken_back_ends_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An append-only file refuses to be cut: our next line begins on a line of its own."""

    def refuse(fd: int, length: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "ftruncate", refuse)
    path = tmp_path / "log"
    sink = Sink(str(path))
    with room_for(5):
        assert sink.write(lines(0, 2)) == 2
        assert sink.write(lines(2, 4)) == 2
    assert sink.write(lines(4, 6)) == 0
    sink.close()
    assert path.read_bytes() == lines(0, 1)[:5] + b"\n" + lines(4, 6)


def test_a_stdout_that_is_a_file_is_not_torn_either(tmp_path: Path) -> None:
    """`> file` has one position for all workers, and no O_APPEND: it goes back to where the torn line began."""
    path = tmp_path / "out"
    with path.open("wb", buffering=0) as shared, stdout_is(shared.fileno()):
        ours, other = Sink("stdout"), Sink("stdout")
        with room_for(LENGTH + 5):
            assert ours.write(lines(0, 2)) == 1
        assert other.write(lines(2, 4)) == 0
        assert ours.write(lines(4, 6)) == 0
        for sink in (ours, other):
            sink.close()
    assert path.read_bytes() == lines(0, 1) + lines(2, 6)


def test_reopen_follows_a_rename(tmp_path: Path) -> None:
    """Lines go to the renamed file until `reopen`, then to a file of the old name; it is made even without a line."""
    path = tmp_path / "log"
    with at_work(path) as worker:
        worker.finish(10)
    os.rename(path, tmp_path / "old")
    with at_work(path) as worker:
        worker.observer.reopen()
    assert path.read_bytes() == b""


def test_a_reopen_that_fails_goes_on_with_the_old_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The directory was moved away: no line is lost for that, and the trouble is told once."""
    (tmp_path / "logs").mkdir()
    sink = Sink(str(tmp_path / "logs" / "log"))
    assert sink.write(lines(0, 10)) == 0
    os.rename(tmp_path / "logs", tmp_path / "moved")
    sink.expire()
    assert sink.write(lines(10, 20)) + sink.write(lines(20, 100)) == 0
    assert (tmp_path / "moved" / "log").read_bytes() == lines(0, 100)
    (tmp_path / "logs").mkdir()
    assert sink.write(lines(0, 1)) == 0
    sink.close()
    assert (tmp_path / "logs" / "log").read_bytes() == lines(0, 1)
    assert [each.levelno for each in caplog.records] == [logging.ERROR, logging.WARNING]


WORKER = """
import signal, sys, threading
from tests.unit.observe.access_log.test_logs import Worker

sink, first, steps, stop_s = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
worker = Worker(sink)

def reopen_when_told():
    while True:
        signal.sigwait([signal.SIGUSR1])
        worker.observer.reopen()

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
threading.Thread(target=reopen_when_told, daemon=True).start()
worker.observer.start()
for step in range(steps):
    worker.finish(1000, retries=first + step, fields=b"User-Agent: " + b"u" * (step * 400 % 3000) + b"\\r\\n")
    print("step", file=sys.stderr, flush=True)
    sys.stdin.readline()
worker.observer.stop(stop_s)
print(worker.dropped, file=sys.stderr)
"""


def spawn(sink: str, first: int, steps: int, stdout: int = subprocess.DEVNULL, stop_s: float = 30) -> Process:
    """A worker that finishes 1,000 records a step, each with an identity of its own."""
    command = [sys.executable, "-c", WORKER, sink, str(first), str(steps), str(stop_s)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE, text=True)


def said(worker: Process) -> str:
    assert worker.stderr is not None
    return worker.stderr.readline()


def dropped_by(worker: Process) -> int:
    """Let the worker run to its end; what it has dropped."""
    return int(worker.communicate()[1].split()[-1])


def identities(written: bytes) -> list[tuple[int, int]]:
    assert written.endswith(b"\n") or not written
    lines = map(orjson.loads, written.splitlines())
    return [(each["retries"], each["request_bytes"]) for each in lines]


def test_workers_that_share_a_file_lose_and_tear_no_line_while_it_is_rotated(tmp_path: Path) -> None:
    """Three processes append; the file is renamed as soon as something stands in it, and they are told to reopen."""
    path, steps = tmp_path / "log", 6
    workers = [spawn(str(path), 100 * each, steps) for each in range(3)]
    for step in range(steps):
        assert [said(worker) for worker in workers] == ["step\n"] * 3
        wait_until(lambda: path.exists() and path.stat().st_size > 0)
        os.rename(path, tmp_path / f"log.{step}")
        for worker in workers:
            worker.send_signal(signal.SIGUSR1)
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
    assert [dropped_by(worker) for worker in workers] == [0, 0, 0]
    found = [identity for each in tmp_path.iterdir() for identity in identities(each.read_bytes())]
    assert sorted(found) == [(100 * each + step, n) for each in range(3) for step in range(steps) for n in range(1000)]


def test_workers_that_share_a_pipe_tear_no_line() -> None:
    """The gateway's stdout is a pipe: what three processes write to it are whole lines."""
    reader, writer = os.pipe()
    workers = [spawn("stdout", 100 * each, 4, stdout=writer) for each in range(3)]
    os.close(writer)
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.close()
        worker.stdin = None
    found = identities(read_all(reader))
    os.close(reader)
    assert [dropped_by(worker) for worker in workers] == [0, 0, 0]
    assert sorted(found) == [(100 * each + step, n) for each in range(3) for step in range(4) for n in range(1000)]


def test_stdout_stays_as_its_owner_opened_it() -> None:
    """Nobody reads the pipe: lines are in it or counted; and it is not made non-blocking for others who hold it."""
    reader, writer = os.pipe()
    worker = spawn("stdout", 0, 2, stdout=writer, stop_s=0.2)
    dropped = dropped_by(worker)
    assert os.get_blocking(writer)
    os.close(writer)
    found = identities(read_all(reader))
    os.close(reader)
    assert found
    assert dropped
    assert len(found) + dropped == 2000
