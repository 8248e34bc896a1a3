"""Files of a recording: nothing that is incomplete is left, and nothing but a regular file is replaced."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from fastgw.recording.file import (
    RecordingWriter,
    UnusableRecordingFile,
    UnusableRecordingKey,
    read_key,
    read_recording,
)
from fastgw.recording.records import RecordingBegin
from tests.support.small_file_system import full_disk


@pytest.mark.parametrize("longest", [0, 5])
def test_a_key_that_could_not_be_written_is_not_there(tmp_path: Path, longest: int) -> None:
    with full_disk(longest), pytest.raises(UnusableRecordingKey):
        read_key(str(tmp_path / "key"), create=True)
    assert list(tmp_path.iterdir()) == []
    assert len(read_key(str(tmp_path / "key"), create=True)) == 64


@pytest.mark.parametrize("longest", [0, 5])
def test_a_recording_that_could_not_be_begun_is_not_there(tmp_path: Path, longest: int) -> None:
    with full_disk(longest), pytest.raises(OSError, match="File too large"):
        RecordingWriter(str(tmp_path / "a.rec"), b"k" * 32)
    assert list(tmp_path.iterdir()) == []


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"), [(Path.mkdir, stat.S_ISDIR), (os.mkfifo, stat.S_ISFIFO), (_socket, stat.S_ISSOCK)]
)
@pytest.mark.parametrize("is_linked", [False, True])
def test_what_is_not_a_regular_file_is_refused_before_the_recording_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], None], kind: Callable[[int], bool], is_linked: bool
) -> None:
    """A device, such as /dev/null, is to them as a FIFO is: one that the tests may make without being root."""
    path = out = tmp_path / "out"
    make(path)
    if is_linked:
        out = tmp_path / "link"
        out.symlink_to(path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UnusableRecordingFile, match=f"{out}: it is not a regular file; expected a new file"):
        RecordingWriter(str(out), b"k" * 32)
    assert kind(path.lstat().st_mode)
    assert sorted(tmp_path.iterdir()) == before


def _write(out: Path) -> RecordingWriter:
    writer = RecordingWriter(str(out), b"k" * 32)
    writer.write_begin(RecordingBegin("1", 1, 0.0))
    return writer


@pytest.mark.parametrize("exists", [False, True])
def test_a_symbolic_link_remains_and_its_file_is_the_recording(tmp_path: Path, exists: bool) -> None:
    file, link = tmp_path / "real.rec", tmp_path / "link.rec"
    link.symlink_to(file.name)
    if exists:
        file.write_text("an earlier one")
    writer = _write(link)
    writer.finish(0)
    writer.discard()
    assert link.is_symlink()
    assert read_recording(str(file), b"k" * 32).end.requests == 0
    assert sorted(tmp_path.iterdir()) == [link, file]


def test_a_complete_recording_that_cannot_have_its_name_is_kept_and_named(tmp_path: Path) -> None:
    out, part = tmp_path / "a.rec", tmp_path / "a.rec.part"
    writer = _write(out)
    out.mkdir()  # since the recording began
    with pytest.raises(IsADirectoryError, match=f"Is a directory; the complete recording is {part}"):
        writer.finish(0)
    writer.discard()
    assert read_recording(str(part), b"k" * 32).end.requests == 0
