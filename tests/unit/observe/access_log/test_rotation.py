"""Files that the gateway rotates: by size and time, by several processes at once, without a lost or doubled line."""

from __future__ import annotations

import errno
import fcntl
import gzip
import multiprocessing
import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from fastgw.config.settings.log_sinks import FileSink, RemoteSink
from fastgw.observe.access_log import rotation
from fastgw.observe.access_log.rotation import Rotation
from fastgw.observe.access_log.sink import Sink, why_not
from fastgw.observe.sink_kinds import sink_of
from fastgw.operator_events import OUTAGE_REPORT_S
from tests.support.small_file_system import small_file_system

KIB = 1024


def rotated(path: Path) -> list[Path]:
    return sorted(each for each in path.parent.iterdir() if each.name.startswith(f"{path.name}."))


def content(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def wait_for_threads() -> None:
    for each in threading.enumerate():
        if each.name.startswith("rotation of "):
            each.join()


def write_many(path: str, worker: int, count: int) -> None:
    sink = Sink(path, b"", Rotation(path, 4 * KIB, None, 1000, True))
    for number in range(count):
        assert sink.write(b"".join(b"%d-%d-%d %s\n" % (worker, number, each, b"x" * 50) for each in range(5))) == 0
    sink.close()
    wait_for_threads()


def test_processes_that_write_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(str(path), each, 100)) for each in range(3)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
        assert each.exitcode == 0
    Rotation(str(path), 4 * KIB, None, 1000, True).tidy()
    files = rotated(path)
    assert len(files) > 10
    assert {each.suffix for each in files} == {".gz"}
    lines = b"".join(content(each) for each in (*files, path)).splitlines()
    assert all(line.endswith(b" " + b"x" * 50) for line in lines)
    wanted = {f"{worker}-{number}-{each}" for worker in range(3) for number in range(100) for each in range(5)}
    found = [line.split()[0].decode() for line in lines]
    assert (len(found), set(found)) == (len(wanted), wanted)
    assert max(len(content(each)) for each in files) < 6 * KIB


def test_a_writer_does_not_wait_for_compression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without requests learns of a rotation by its next line, maybe while the file is compressed."""
    begun, may_go_on, copy = threading.Event(), threading.Event(), shutil.copyfileobj

    def copy_later(*operands: Any) -> None:
        begun.set()
        may_go_on.wait()
        copy(*operands)

    monkeypatch.setattr(shutil, "copyfileobj", copy_later)
    path = tmp_path / "access.log"
    busy, idle = (Sink(str(path), b"", Rotation(str(path), KIB, None, 5, True)) for _ in range(2))
    assert idle.write(b"before\n") == 0
    assert busy.write(b"x\n" * KIB) == 0
    assert busy.write(b"now\n") == 0
    assert begun.wait(60)
    late = threading.Thread(target=idle.write, args=(b"late\n",))
    late.start()
    late.join(60)
    try:
        assert not late.is_alive()
        Rotation(str(path), KIB, None, 5, True).tidy()  # of another worker, which leaves the file to the first
    finally:
        may_go_on.set()
    late.join()
    busy.close()
    idle.close()
    wait_for_threads()
    assert path.read_bytes() == b"now\nlate\n"
    assert [(each.suffix, content(each)) for each in rotated(path)] == [(".gz", b"before\n" + b"x\n" * KIB)]


@pytest.mark.parametrize("compresses", [False, True])
def test_a_full_disk_loses_whole_lines_that_are_counted_and_the_rest_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, compresses: bool
) -> None:
    path = tmp_path / "access.log"
    directives = b"#Version: 1.0\n"
    random = Random(7)
    lost = total = 0

    def write_batch(sink: Sink) -> int:
        nonlocal lost, total
        batch = b"".join(b"%d %s\n" % (total + each, random.randbytes(500).hex().encode()) for each in range(8))
        total += 8
        missing = sink.write(batch)
        lost += missing
        return missing

    with small_file_system(tmp_path) as limited:
        sink = Sink(str(path), directives, Rotation(str(path), 64 * KIB, None, 1000, compresses))
        with limited():
            while write_batch(sink) == 0:
                assert total < 10_000
                wait_for_threads()
            for _ in range(20):
                write_batch(sink)  # while the disk stays full
        for _ in range(20):
            assert write_batch(sink) == 0
        sink.close()
        wait_for_threads()
        Rotation(str(path), 64 * KIB, None, 1000, compresses).tidy()
        files = [*rotated(path), path]
        assert all(each.suffix == ".gz" for each in files[:-1] if compresses)
        assert all(content(each).startswith(directives) for each in files)
        lines = [line for each in files for line in content(each).splitlines() if not line.startswith(b"#")]
    assert lost > 0
    assert len(lines) == total - lost
    assert {len(line.split()[1]) for line in lines} == {1000}
    numbers = [int(line.split()[0]) for line in lines]
    assert numbers == sorted({*numbers})
    told = [record.getMessage() for record in caplog.records]
    assert told.count(f"access log {path} can be written again") == 1
    assert sum("lines are dropped until it can be written" in each for each in told) == 1


def test_a_file_that_begins_on_a_full_disk_has_its_directives_before_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    directives = b"#Version: 1.0\n"
    with small_file_system(tmp_path) as limited:
        sink = Sink(str(path), directives, Rotation(str(path), 64 * KIB, None, 1000, False))
        assert sink.write(b"x" * 1023 + b"\n") == 0
        assert sink.write((b"x" * 1023 + b"\n") * 64) == 0
        with limited():
            with suppress(OSError), (tmp_path / "filler").open("wb", buffering=0) as filler:
                while True:
                    filler.write(b"x" * KIB)
            sink.write(b"a\n")
        assert sink.write(b"b\n") == 0
        sink.close()
        assert path.read_bytes() in (directives + b"b\n", directives + b"a\nb\n")


def test_lines_for_a_file_whose_directory_was_deleted_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "access.log"
    sink = Sink(str(path), b"", Rotation(str(path), 64 * KIB, None, 3, True))
    assert sink.write(b"1\n") == 0
    shutil.rmtree(folder)
    assert sink.write(b"2\n3\n") == 2
    assert sink.write(b"4\n") == 1
    folder.mkdir()
    assert sink.write(b"5\n") == 0
    folder.rename(tmp_path / "moved")
    assert sink.write(b"6\n") == 0
    shutil.rmtree(tmp_path / "moved")
    assert sink.write(b"7\n") == 1
    folder.mkdir()
    assert sink.write(b"8\n") == 0
    sink.close()
    assert path.read_bytes() == b"8\n"
    gone, kept, back = (
        f"access log {path}: No such file or directory; lines are dropped until it can be written",
        f"access log {path}: No such file or directory; lines go to the file that is open until it can be opened",
        f"access log {path} can be written again",
    )
    assert [each.getMessage() for each in caplog.records] == [gone, back, kept, gone, back]


@pytest.mark.parametrize("is_rotated", [False, True])
def test_lines_after_a_reopen_that_fails_go_to_the_open_file_while_it_has_a_name(
    is_rotated: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    path = folder / "access.log"
    sink = Sink(str(path), b"", Rotation(str(path), 64 * KIB, None, 3, True) if is_rotated else None)
    assert sink.write(b"1\n") == 0
    folder.rename(moved)
    sink.expire()
    assert sink.write(b"2\n") == 0
    assert (moved / "access.log").read_bytes() == b"1\n2\n"
    assert caplog.records[-1].getMessage().endswith("; lines go to the file that is open until it can be opened")
    shutil.rmtree(moved)
    assert sink.write(b"3\n") == 1
    assert caplog.records[-1].getMessage().endswith("; lines are dropped until it can be written")
    sink.close()


def test_the_oldest_are_deleted_and_other_files_stay(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    others = ("access.log.1", "access.log.20260131-235959-123456.bak", "access.logs.20260131-235959-123456")
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    sink = Sink(str(path), b"", Rotation(str(path), KIB, None, 2, False))
    for number in range(6):
        assert sink.write(b"%d\n" % number * KIB) == 0
    sink.close()
    wait_for_threads()
    Rotation(str(path), KIB, None, 2, False).tidy()
    kept = [each for each in rotated(path) if each.name not in others]
    assert [content(each)[:1] for each in kept] == [b"3", b"4"]
    assert path.read_bytes()[:1] == b"5"
    assert all((tmp_path / name).read_bytes() == b"mine" for name in others)


def test_the_first_line_of_an_interval_rotates_the_file(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b"yesterday\n")
    os.utime(path, (time.time() - 86_400,) * 2)
    sink = Sink(str(path), b"#Version: 1.0\n", Rotation(str(path), None, 86_400.0, 5, False))
    assert sink.write(b"today\n") == 0
    sink.close()
    assert path.read_bytes() == b"#Version: 1.0\ntoday\n"
    assert [content(each).splitlines()[0] for each in rotated(path)] == [b"yesterday"]


def test_what_a_killed_worker_has_left_is_compressed_later(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    left = tmp_path / "access.log.20260131-235959-123456"
    left.write_bytes(b"left\n")
    left.with_name(f"{left.name}.gz.part").write_bytes(b"half")
    Rotation(str(path), KIB, None, 5, True).tidy()
    assert [(each.name, content(each)) for each in rotated(path)] == [(f"{left.name}.gz", b"left\n")]


def test_what_a_killed_worker_has_begun_to_compress_is_removed_once_its_source_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    kept, gone, busy = (tmp_path / f"access.log.2026010{day}-000000-000000" for day in (3, 1, 2))
    other = tmp_path / "access.log.gz.part"
    kept.write_bytes(b"kept\n")
    for each in (kept, gone, busy):
        Path(f"{each}.gz.part").write_bytes(b"half")
    other.touch()
    with open(f"{busy}.gz.part", "ab") as compressing:
        fcntl.flock(compressing, fcntl.LOCK_EX)
        Rotation(str(path), 4 * KIB, None, 1, True).tidy()
        assert rotated(path) == [Path(f"{busy}.gz.part"), Path(f"{kept}.gz"), other]
    Rotation(str(path), 4 * KIB, None, 1, True).tidy()
    assert rotated(path) == [Path(f"{kept}.gz"), other]
    assert content(Path(f"{kept}.gz")) == b"kept\n"


def test_a_file_that_cannot_be_renamed_is_written_to_nevertheless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "rename", refuse)
    path = tmp_path / "access.log"
    sink = Sink(str(path), b"", Rotation(str(path), KIB, None, 5, False))
    for _ in range(4):
        assert sink.write(b"x\n" * KIB) == 0
    sink.close()
    assert path.stat().st_size == 8 * KIB
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.endswith("it cannot be rotated: Operation not permitted; lines are written to it nevertheless")


def test_another_reason_why_a_file_cannot_be_renamed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = ["Operation not permitted", "Operation not permitted", "Read-only file system"]
    now = time.monotonic()

    def refuse(source: str, target: str) -> None:
        raise OSError(1, reasons.pop(0))

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(rotation, "time", SimpleNamespace(**{**vars(time), "monotonic": lambda: now}))
    path = tmp_path / "access.log"
    sink = Sink(str(path), b"", Rotation(str(path), KIB, None, 5, False))
    for passed in (0, 0, OUTAGE_REPORT_S, OUTAGE_REPORT_S):  # the first time, the file is empty
        now += passed
        assert sink.write(b"x\n" * KIB) == 0
    sink.close()
    assert not reasons
    told = [record.getMessage().partition("cannot be rotated: ")[2] for record in caplog.records]
    assert [each.partition(";")[0] for each in told] == ["Operation not permitted", "Read-only file system"]


def test_a_beginning_that_cannot_be_removed_hinders_no_compression(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    left = tmp_path / "access.log.20260131-235959-123456"
    left.write_bytes(b"left\n")
    (tmp_path / "access.log.20260130-235959-123456.gz.part").symlink_to(tmp_path / "elsewhere")
    Rotation(str(path), KIB, None, 5, True).tidy()
    assert (tmp_path / f"{left.name}.gz").exists()


def test_a_file_that_can_neither_be_opened_nor_written_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "access.log"
    sink = Sink(str(path), b"", None)
    assert sink.write(b"x\n") == 0

    def refuse(*_: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("fastgw.observe.access_log.sink.os.open", refuse)
        patch.setattr("fastgw.observe.access_log.sink.os.write", refuse)
        sink.expire()
        assert sum(sink.write(b"x\n") for _ in range(10)) == 10
    assert sink.write(b"x\n") == 0
    sink.close()
    assert [record.getMessage().partition(": ")[2].partition("; ")[2] for record in caplog.records] == [
        "lines go to the file that is open until it can be opened",
        "lines are dropped until it can be written",
        "",
    ]


def test_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected `size`, `every` or both"):
        FileSink(path="a.log")
    with pytest.raises(ValueError, match="less than 64KiB"):
        FileSink(path="a.log", size=100)
    settings = RemoteSink(file=FileSink(path=str(tmp_path / "missing" / "a.log"), every=3600.0))
    assert str(settings) == str(tmp_path / "missing" / "a.log")
    assert why_not(settings) == f"directory {tmp_path / 'missing'} does not exist"
    sink = sink_of(RemoteSink(file=FileSink(path=str(tmp_path / "a.log"), size=1 << 20)))
    assert sink.write(b"a\n") == 0
    sink.close()
    assert (tmp_path / "a.log").read_bytes() == b"a\n"
