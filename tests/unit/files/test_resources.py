"""What a path leads to: files, their precompressed siblings, directories and listings."""

from __future__ import annotations

import gzip
import os
import re
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

import pytest

from fastgw.files import listing
from fastgw.files.content_types import content_type_of
from fastgw.files.request_path import FilePath
from fastgw.files.resources import (
    SMALL_BYTES,
    FileFinder,
    FileResource,
    Folder,
    Listing,
    Missing,
    Resource,
    Variant,
)
from fastgw.http.path_normalization import normalize
from fastgw.http.preconditions import meets_if_range

CODINGS = (b"br", b"zstd", b"gzip")
CHANGED = 1_000_000_000.5
CHANGED_NS = 1_000_000_000_500_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    (made / "empty").mkdir(parents=True)
    (made / "index.html").write_text("<h1>home</h1>")
    (made / "app.js").write_text("let a = 1")
    return made


def find(
    root: Path, name: bytes, is_folder: bool = False, *, listing: bool = False, page: bytes | None = None
) -> Resource:
    finder = FileFinder(str(root), [b"index.html"], CODINGS, listing, page)
    return finder.find(FilePath(name, is_folder), b"/" + name)


def file(found: Resource) -> FileResource:
    assert isinstance(found, FileResource)
    return found


def settle(*paths: Path, date: int = 1_000_000_000) -> None:
    for path in paths:
        os.utime(path, (date, date))


def test_a_small_file_is_in_memory_and_a_large_one_is_open(root: Path) -> None:
    (root / "large").write_bytes(b"x" * (SMALL_BYTES + 1))
    small, large = file(find(root, b"app.js")), file(find(root, b"large"))
    assert (small.variants[-1].content, small.descriptors, small.content_bytes) == (b"let a = 1", 0, 9)
    assert (large.variants[-1].content, large.descriptors, large.content_bytes) == (None, 1, 0)


def test_the_date_of_a_change_is_never_later_than_now(root: Path) -> None:
    """RFC 9110 section 8.8.2.1: a clock that was wrong, or an archive from elsewhere. The ETag has the real time."""
    before, future = int(time.time()), 4_000_000_000
    settle(root / "app.js", date=future)
    validators = file(find(root, b"app.js")).variants[-1].validators
    assert validators.etag == b'W/"%x-9"' % (future * 10**9)
    assert validators.last_modified is not None
    assert before <= validators.last_modified <= time.time()


@pytest.mark.parametrize("date", [-99_999_999_999, 253_402_300_800], ids=["before year 1", "after year 9999"])
def test_a_date_without_an_http_date_is_left_out(date: int) -> None:
    """tmpfs keeps such dates, most file systems do not. A date in the future is sent as that of now."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder, "a.txt")
        path.write_text("let a = 1")
        settle(path, date=date)
        if path.stat().st_mtime != date:
            pytest.skip("/dev/shm does not keep the date")
        variant = file(find(Path(folder), b"a.txt")).variants[-1]
        listed = find(Path(folder), b"", True, listing=True)
    names = [name for name, _ in variant.fields]
    assert variant.content == b"let a = 1"
    assert (b"Last-Modified" in names, variant.validators.last_modified is not None) == (date > 0, date > 0)
    assert b"ETag" in names
    assert isinstance(listed, Listing)
    assert b'<a href="./a.txt">a.txt</a><td align="right">9<td>\n' in listed.page


def test_the_etag_is_strong_once_the_time_of_the_change_says_enough(root: Path) -> None:
    settle(root / "app.js")
    settled = file(find(root, b"app.js")).variants[-1]
    assert settled.validators.etag is not None
    assert re.fullmatch(rb'"[0-9a-f]+-9"', settled.validators.etag)
    assert settled.validators.last_modified == 1_000_000_000
    os.utime(root / "app.js", ns=(CHANGED_NS, CHANGED_NS))
    assert [found_at(root, now).validators.etag for now in (CHANGED + 0.9, CHANGED + 1.1)] == [
        b'W/"%x-9"' % CHANGED_NS,
        b'"%x-9"' % CHANGED_NS,
    ]


def found_at(root: Path, now: float) -> Variant:
    """What is found at this time, in epoch seconds."""
    finder = FileFinder(str(root), [], [], False, None, lambda: now)
    return file(finder.find(FilePath(b"app.js", False), b"/app.js")).variants[-1]


@pytest.mark.parametrize("earliest", [CHANGED - 0.3, CHANGED, CHANGED + 0.1, CHANGED + 0.9])
def test_no_date_of_a_file_is_that_of_a_version_that_was_replaced_in_the_same_second(
    root: Path, earliest: float
) -> None:
    """RFC 9110 section 13.1.5: by `If-Range` a client would join two versions. The clock of the file server may be a
    little ahead.
    """
    os.utime(root / "app.js", ns=(CHANGED_NS, CHANGED_NS))
    first = found_at(root, earliest)
    (root / "app.js").write_text("let a = 2")
    os.utime(root / "app.js", ns=(CHANGED_NS + 10**8, CHANGED_NS + 10**8))
    last = found_at(root, CHANGED + 5)
    assert last.validators.last_modified == int(CHANGED)
    dates = [value for name, value in first.fields if name == b"Last-Modified"]
    assert not any(meets_if_range(date, last.validators, CHANGED + 5) for date in dates)
    assert first.validators.last_modified is None
    # Once the second is over, the date is that of what was last written in it.
    assert meets_if_range(dict(last.fields)[b"Last-Modified"], last.validators, CHANGED + 6)


def test_precompressed_siblings_are_used_unless_they_are_older(root: Path) -> None:
    (root / "app.js.gz").write_bytes(gzip.compress(b"let a = 1"))
    (root / "app.js.br").write_bytes(b"brotli")
    (root / "app.js.zst").mkdir()
    settle(root / "app.js", root / "app.js.gz")
    settle(root / "app.js.br", date=999_999_999)
    found = file(find(root, b"app.js"))
    assert [each.coding for each in found.variants] == [b"gzip", None]
    assert all((b"Vary", b"Accept-Encoding") in each.fields for each in found.variants)
    etags = {each.validators.etag for each in found.variants}
    assert len(etags) == 2
    assert dict(found.variants[0].fields)[b"Content-Type"] == b"text/javascript; charset=utf-8"
    assert dict(file(find(root, b"app.js.gz")).variants[-1].fields)[b"Content-Type"] == b"application/gzip"


def test_a_sibling_that_keeps_only_whole_seconds_is_not_older(root: Path) -> None:
    """As brotli and pigz write it: with the time of the file, without the fraction of the second."""
    sibling = root / "app.js.br"
    sibling.write_bytes(b"brotli")
    second = 1_000_000_000 * 10**9
    for file_ns, sibling_ns, is_used in (
        (second + 281_193_297, second, True),
        (second + 281_193_297, second + 281_193_296, False),
        (second + 281_193_297, second - 1, False),
        (second + 10**9, second, False),
        (second + 10**9 + 1, second, False),
    ):
        os.utime(root / "app.js", ns=(file_ns, file_ns))
        os.utime(sibling, ns=(sibling_ns, sibling_ns))
        codings = [each.coding for each in file(find(root, b"app.js")).variants]
        assert codings == ([b"br", None] if is_used else [None]), (file_ns, sibling_ns)


def test_a_file_that_has_changed_within_the_second_of_its_sibling_is_newer(root: Path) -> None:
    """The inode of the sibling was changed before."""
    sibling = root / "app.js.br"
    sibling.write_bytes(b"brotli")
    second = (int(time.time()) - 1) * 10**9
    while second // 10**9 < sibling.stat().st_ctime_ns // 10**9:  # until utime and its ctime are in one second
        second = sibling.stat().st_ctime_ns // 10**9 * 10**9
        os.utime(sibling, ns=(second, second))
    changed_ns = sibling.stat().st_ctime_ns
    for file_ns, is_used in ((changed_ns, True), (changed_ns + 1, False)):
        os.utime(root / "app.js", ns=(file_ns, file_ns))
        assert (len(file(find(root, b"app.js")).variants) == 2) is is_used


def test_directories(root: Path) -> None:
    assert file(find(root, b"", True)).name == b"index.html"
    assert find(root, b"empty") == Folder()
    assert isinstance(find(root, b"empty", True), Missing)
    assert isinstance(find(root, b"empty", True, listing=True), Listing)
    assert isinstance(find(root, b"app.js", True), Missing)


def test_the_page_of_an_application_answers_for_paths_without_a_file(root: Path) -> None:
    page = file(find(root, b"users/7", page=b"index.html"))
    assert (page.name, page.is_fallback) == (b"index.html", True)
    assert not file(find(root, b"app.js", page=b"index.html")).is_fallback
    assert isinstance(find(root, b"gone.js", page=b"index.html"), Missing)


def test_only_regular_files_are_served(root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "out").symlink_to("/etc/hostname")
    assert find(root, b"pipe") == Missing("not a regular file")
    assert find(root, b"out") == Missing("it leads out of the root")
    assert isinstance(find(root, b"x" * 255), Missing)


def test_a_root_that_is_not_there_is_the_gateways_fault(root: Path) -> None:
    found = find(root / "none", b"a")
    assert isinstance(found, Missing)
    assert found.broken


def test_a_root_may_be_replaced(root: Path) -> None:
    current = root.parent / "current"
    current.symlink_to("root")
    finder = FileFinder(str(current), [], [], False, None)
    assert file(finder.find(FilePath(b"app.js", False), b"")).variants[-1].content == b"let a = 1"
    (root.parent / "next").mkdir()
    (root.parent / "next" / "app.js").write_text("2")
    (root.parent / "new").symlink_to("next")
    os.replace(root.parent / "new", current)
    assert file(finder.find(FilePath(b"app.js", False), b"")).variants[-1].content == b"2"


def test_a_listing_shows_names_as_text(root: Path) -> None:
    folder = os.fsencode(root) + b"/odd"
    os.mkdir(folder)
    for name in (b"<script>alert(1)</script>", b'"onmouseover="x', b"javascript:alert(1)", b"\xff", b".hidden", b"a&b"):
        with open(folder + b"/" + name.replace(b"/", b"_"), "wb"):
            pass
    found = find(root, b"odd", True, listing=True)
    assert isinstance(found, Listing)
    page = found.page.decode()
    assert "<script" not in page
    assert 'href="javascript' not in page
    assert ".hidden" not in page
    assert 'href="./javascript%3Aalert%281%29"' in page
    assert 'href="./%FF"' in page
    assert "&quot;onmouseover=&quot;x" in page
    assert "a&amp;b" in page
    assert 'href="../"' in page


def test_a_listing_leaves_out_names_that_no_request_can_have(root: Path) -> None:
    """Their links would lead to a 400."""
    names = ["a\\b", "a\nb", "a\x7fb", "%00", "a b", "a%b", "a%2eb", "a;b", "ü", "c:d"]
    (root / "names").mkdir()
    for name in names:
        (root / "names" / name).touch()
        (root / "names" / f"{name}.folder").mkdir()
    found = find(root, b"names", True, listing=True)
    assert isinstance(found, Listing)
    listed = re.findall(rb'href="\./([^"]*)"', found.page)
    assert sorted(unquote(link.decode()) for link in listed) == sorted(
        each for name in names[4:] for each in (name, f"{name}.folder/")
    )
    for link in listed:
        normalize(b"/" + link)


def test_a_listing_shows_size_and_date_of_files_and_only_the_name_of_links(root: Path) -> None:
    (root / "empty" / "old").write_bytes(b"12345")
    settle(root / "empty" / "old", date=0)
    (root / "empty" / "link").symlink_to("old")
    found = find(root, b"empty", True, listing=True)
    assert isinstance(found, Listing)
    assert b'>old</a><td align="right">5<td>Thu, 01 Jan 1970 00:00:00 GMT\n' in found.page
    assert b'>link</a><td align="right"><td>\n' in found.page


def test_a_listing_shows_the_links_that_are_served(root: Path) -> None:
    shown = {"file": "../app.js", "folder": "../empty", "chain": "file"}
    hidden = {"out": "../../secret", "absolute": str(root / "app.js"), "nothing": "gone", "pipe": "../fifo", "a": "a"}
    (root.parent / "secret").write_text("secret")
    (root / "listed").mkdir()
    os.mkfifo(root / "fifo")
    for name, target in (shown | hidden).items():
        (root / "listed" / name).symlink_to(target)
    found = find(root, b"listed", True, listing=True)
    assert isinstance(found, Listing)
    names = [name.decode() for name in re.findall(rb'href="\./([^"]+)"', found.page)]
    assert names == ["folder/", "chain", "file"]
    for name in (*shown, *hidden):
        is_served = not isinstance(find(root, b"listed/" + name.encode(), name == "folder", listing=True), Missing)
        assert is_served is (name in shown)


def test_a_listing_of_too_many_entries_says_that_there_are_more(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are any ones, in order: which the file system returns first is up to it."""
    for name in "abcde":
        (root / "empty" / name).touch()
    for most, more in ((3, 1), (5, 0)):
        monkeypatch.setattr(listing, "MAX_ENTRIES", most)
        found = find(root, b"empty", True, listing=True)
        assert isinstance(found, Listing)
        names = re.findall(rb'href="./(.)"', found.page)
        assert (len(names), names) == (most, sorted(names))
        assert found.page.count(b"<p>There are more entries than these 3.</p>") == more


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"a.html", b"text/html; charset=utf-8"),
        (b"A.JPEG", b"image/jpeg"),
        (b"app.min.js", b"text/javascript; charset=utf-8"),
        (b"dir.html/file", b"application/octet-stream"),
        (b"file", b"application/octet-stream"),
        (b"file.", b"application/octet-stream"),
        (b"file.exe", b"application/octet-stream"),
        (b"a.svg", b"image/svg+xml"),
        (b"a.wasm", b"application/wasm"),
    ],
)
def test_content_types(name: bytes, kind: bytes) -> None:
    assert content_type_of(name) == kind
