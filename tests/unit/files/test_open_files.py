"""The cache of open files: what it keeps, and when it closes."""

from __future__ import annotations

import os
from pathlib import Path

from fastgw.files.open_files import MAX_DESCRIPTORS, MAX_FILES, UNUSED_S, VALID_S, OpenFileCache
from fastgw.files.request_path import FilePath
from fastgw.files.resources import SMALL_BYTES, FileFinder, FileResource


def resource(root: Path, name: str, size: int) -> tuple[FilePath, FileResource]:
    (root / name).write_bytes(b"x" * size)
    path = FilePath(name.encode(), False)
    found = FileFinder(str(root), [], [], False, None).find(path, b"")
    assert isinstance(found, FileResource)
    return path, found


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_a_file_is_valid_for_a_while(tmp_path: Path) -> None:
    cache = OpenFileCache()
    path, found = resource(tmp_path, "a", 1)
    cache.put_file(path, found, 100.0)
    for now in (100.0, 99.9 + VALID_S):
        held = cache.get(path, now)
        assert held is not None
        assert held.resource is found
    assert cache.get(path, 100.0 + VALID_S) is None
    assert cache.get(FilePath(b"a", True), 100.0) is None


def test_what_is_not_used_is_closed(tmp_path: Path) -> None:
    cache = OpenFileCache()
    path, found = resource(tmp_path, "large", SMALL_BYTES + 1)
    file = found.variants[-1].file
    assert file is not None
    fd = file.fd
    cache.put_file(path, found, 100.0)
    del found, file
    cache.remove_unused(99.0 + UNUSED_S)
    assert is_open(fd)
    cache.remove_unused(100.0 + UNUSED_S)
    assert not is_open(fd)
    assert (len(cache), cache.descriptors, cache.content_bytes) == (0, 0, 0)


def test_a_file_that_is_being_sent_stays_open(tmp_path: Path) -> None:
    cache = OpenFileCache()
    path, found = resource(tmp_path, "large", SMALL_BYTES + 1)
    sent = found.variants[-1].file
    assert sent is not None
    cache.put_file(path, found, 100.0)
    del found
    cache.remove(path)
    assert is_open(sent.fd)


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    cache = OpenFileCache()
    _, small = resource(tmp_path, "small", 1)
    _, large = resource(tmp_path, "large", SMALL_BYTES + 1)
    for number in range(MAX_FILES + 10):
        cache.put_file(FilePath(b"%d" % number, False), small, 100.0)
    assert (len(cache), cache.content_bytes) == (MAX_FILES, MAX_FILES)
    assert cache.get(FilePath(b"0", False), 100.0) is None
    for number in range(MAX_DESCRIPTORS + 10):
        cache.put_file(FilePath(b"%d" % number, True), large, 100.0)
    assert cache.descriptors == MAX_DESCRIPTORS
    cache.put_file(FilePath(b"1", True), small, 100.0)  # in place of another resource
    counted = [cache.get(FilePath(b"%d" % number, True), 100.0) for number in range(MAX_DESCRIPTORS + 10)]
    assert cache.descriptors == sum(each.resource.descriptors for each in counted if each is not None)
