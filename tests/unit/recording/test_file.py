"""Files of a recording on a full disk: nothing that is incomplete is left."""

from pathlib import Path

import pytest

from fastgw.recording.file import RecordingWriter, UnusableRecordingKey, read_key
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
