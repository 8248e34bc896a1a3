"""The file of purges that wait for Redis."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from fastgw.runtime.node.purge_persistence import PurgeFile, keep_waiting, restore_waiting
from fastgw.shm.quota_store import CannotKeep
from fastgw.sync.cache_purges import PurgeOrder, PurgeTarget
from fastgw.sync.purge_backlog import PurgeBacklog

PURGES = [
    PurgeOrder("main", PurgeTarget.URL, (b"http://a.test/\xff",), soft=True, id=b"1" * 16),
    PurgeOrder("other", PurgeTarget.ALL, id=b"2" * 16),
]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}:/nowhere")
    return tmp_path


def restored() -> list[PurgeOrder]:
    backlog = PurgeBacklog()
    restore_waiting(backlog, ["main", "other"], b"later")
    assert backlog.restored == backlog.waiting
    return backlog.waiting


def test_what_waits_at_the_end_is_there_at_the_next_start(directory: Path) -> None:
    backlog = PurgeBacklog()
    for each in PURGES:
        backlog.add(each, 0.0)
    assert keep_waiting(backlog, b"former")
    (directory / "purges-1.new").write_bytes(b"of a write that was interrupted")
    assert restored() == PURGES
    assert sorted(path.name for path in directory.iterdir()) == ["purges", "purges-lock"]
    assert (directory / "purges").stat().st_mode & 0o777 == 0o600
    backlog.confirm([each.id for each in PURGES], 0.0)
    assert keep_waiting(backlog, b"former")
    assert restored() == []


def test_without_a_directory_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert not keep_waiting(PurgeBacklog(), b"")
    assert restored() == []


@pytest.mark.parametrize("damage", [lambda raw: raw[:-1], lambda raw: b"", lambda raw: raw.replace(b"main", b"mean")])
def test_a_damaged_file_purges_everything(
    directory: Path, capfd: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
) -> None:
    path = directory / "purges"
    with closing(PurgeFile(str(path), b"")) as file:
        file.write(PURGES)
    path.write_bytes(damage(path.read_bytes()))
    assert [(each.store, each.target) for each in restored()] == [("main", PurgeTarget.ALL), ("other", PurgeTarget.ALL)]
    assert "is damaged: everything in the caches is purged" in capfd.readouterr().err


def test_a_file_of_another_gateway_is_left_alone(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = (PurgeFile(str(directory / "purges"), run) for run in (b"first", b"second"))
    first.write(PURGES)
    for use in (second.read, lambda: second.write([])):
        with pytest.raises(CannotKeep, match="is used by another gateway"):
            use()
    assert restored() == []
    assert "is used by another gateway" in capfd.readouterr().err
    assert not keep_waiting(PurgeBacklog(), b"second")
    assert first.read() == PURGES
    first.close()


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CannotKeep, match="cannot be written: No such file or directory"):
        PurgeFile(str(tmp_path / "missing" / "purges"), b"").write(PURGES)
