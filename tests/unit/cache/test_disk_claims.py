"""Directories of disk tiers: which of them a gateway uses, and that it is the only one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fastgw.cache.shared.layout import DISK_EVICTED
from fastgw.cache.tiers import disk_claims
from fastgw.cache.tiers.disk_claims import DiskClaims, UnusableDisk, mark_left, why_not_disk
from fastgw.cache.tiers.node_stores import DiskSettings, NodeStores, StoreSettings

DISK = 1 << 26


def test_a_directory_is_made_and_locked(tmp_path: Path) -> None:
    path = str(tmp_path / "cache")
    one, other = DiskClaims({}), DiskClaims({})
    first = one.begin_run(path, 0.0)
    assert oct(os.stat(path).st_mode & 0o777) == "0o700"
    with pytest.raises(UnusableDisk, match="is used by another gateway"):
        other.begin_run(path, 0.1)
    again = one.begin_run(path, 0.0)
    assert (again.id, again.number) > (first.id, first.number)
    passed = DiskClaims({path: os.dup(one.held[path])})  # as over an upgrade
    one.release()
    with pytest.raises(UnusableDisk, match="is used by another gateway"):
        other.begin_run(path, 0.0)
    passed.release()
    third = other.begin_run(path, 0.0)
    assert (third.id, third.number) > (again.id, again.number)
    other.release()


def test_unusable_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "own").mkdir(mode=0o755)
    assert why_not_disk(str(tmp_path / "own")) is why_not_disk(str(tmp_path / "new")) is None
    for name, why in (
        ("none/cache", "does not exist"),
        ("file", "is not a directory"),
        ("link", "is a symbolic link"),
        ("open", "is writable for other users"),
        ("file/cache", "Not a directory"),
    ):
        told = why_not_disk(str(tmp_path / name))
        assert told is not None
        assert why in told
        with pytest.raises(UnusableDisk, match=why):
            DiskClaims({}).begin_run(str(tmp_path / name), 0.0)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "is not writable" in str(why_not_disk(str(tmp_path / "own")))
    assert "cannot be created" in str(why_not_disk(str(tmp_path / "new")))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to another user" in str(why_not_disk(str(tmp_path / "own")))


def test_a_full_file_system_is_an_error_that_leaves_no_claim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(path: str) -> None:
        raise OSError(28, "No space left on device")

    claims = DiskClaims({})
    with monkeypatch.context() as patched:
        patched.setattr(disk_claims, "begin_run", fail)
        with pytest.raises(UnusableDisk, match="cannot be written: No space left on device"):
            claims.begin_run(str(tmp_path), 0.0)
    assert not claims.held
    (tmp_path / "objects-0" / "00").mkdir(parents=True)
    for number in range(10):
        (tmp_path / "objects-0" / "00" / f"file {number}").touch()
    begin_run, calls = disk_claims.begin_run, []

    def fail_twice(path: str) -> object:
        calls.append(path)
        return begin_run(path) if len(calls) > 2 else fail(path)

    stores = NodeStores()
    with monkeypatch.context() as patched:
        patched.setattr(disk_claims, "begin_run", fail_twice)
        wanted = StoreSettings(1 << 20, 1 << 16, DiskSettings(str(tmp_path), DISK))
        stores.use_stores(stores.planned({"main": wanted}))
    assert len([*(tmp_path / "objects-0" / "00").iterdir()]) == 8  # no more than it needs
    assert stores.stores["main"].memory.total(DISK_EVICTED) == 2
    assert [each.getMessage() for each in caplog.records] == [
        f"cache: {tmp_path} is full: 2 cached responses were removed to begin its file of purges"
    ]
    stores.close()


def test_a_change_of_the_disk_keeps_what_it_can(tmp_path: Path) -> None:
    stores = NodeStores()
    plain = StoreSettings(1 << 20, 1 << 16)
    here, there = (plain._replace(disk=DiskSettings(str(tmp_path / name), DISK)) for name in ("here", "there"))
    stores.use_stores(stores.planned({"main": plain}))
    memory = stores.stores["main"].memory
    stores.use_stores(stores.planned({"main": here}))
    assert stores.stores["main"].memory is not memory
    first = stores.stores["main"]
    assert stores.planned({"main": here}) == stores.stores
    assert first.disk is not None

    larger = stores.planned({"main": here._replace(disk=DiskSettings(str(tmp_path / "here"), 2 * DISK))})["main"]
    assert larger.memory is first.memory
    assert larger.disk == first.disk._replace(most_bytes=2 * DISK)

    stores.use_stores(stores.planned({"main": here._replace(memory=2 << 20)}))
    assert stores.stores["main"].disk == first.disk
    assert stores.stores["main"].memory is not first.memory
    stores.use_stores(stores.planned({"main": there}))
    assert [*stores.claims.in_use] == [str(tmp_path / "there")]
    stores.use_stores(stores.planned({"main": plain}))
    assert not stores.claims.in_use
    stores.close()
    assert not stores.claims.held


@pytest.mark.parametrize("is_full", [False, True])
def test_a_directory_that_was_left_is_empty_after_a_restart_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_full: bool
) -> None:
    path, ids = str(tmp_path / "cache"), []
    for number in range(4):
        claims = DiskClaims({})
        ids.append(claims.begin_run(path, 0.0).id)
        claims.release()
        if number == 1:
            with monkeypatch.context() as patched:
                if is_full:
                    patched.setattr(disk_claims, "_LEFT", "no/such/directory")
                mark_left(path)
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert {each.name for each in (tmp_path / "cache").iterdir()} == {"lock", "purges"}


def test_a_directory_that_cannot_be_marked_as_left_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(folder: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    mark_left(str(tmp_path / "gone"))
    assert not caplog.text
    monkeypatch.setattr(os, "fsync", fail)
    mark_left(str(tmp_path))
    assert "cannot be marked as such: Input/output error; remove its file `purges`" in caplog.text


def test_a_directory_that_was_left_is_empty_when_it_is_used_again(tmp_path: Path) -> None:
    """Processes of this gateway hold its lock to their end, and purges of the meantime are not in its journal."""
    stores = NodeStores()
    plain = StoreSettings(1 << 20, 1 << 16)
    here, there = (plain._replace(disk=DiskSettings(str(tmp_path / name), DISK)) for name in ("here", "there"))
    stores.use_stores(stores.planned({"main": here}))
    inherited = os.dup(stores.claims.held[str(tmp_path / "here")])
    first = stores.stores["main"].disk
    for other in (there, plain):
        stores.use_stores(stores.planned({"main": other}))
        stores.use_stores(stores.planned({"main": here}))
        again = stores.stores["main"].disk
        assert first is not None
        assert again is not None
        assert (again.path, again.id == first.id) == (first.path, False)
        assert [*stores.claims.in_use] == [first.path]
        first = again
    stores.close()
    with pytest.raises(UnusableDisk, match="is used by another gateway"):
        DiskClaims({}).begin_run(str(tmp_path / "here"), 0.0)
    os.close(inherited)
