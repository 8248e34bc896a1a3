"""Opening files beneath a folder: nothing leads out, in one call of the kernel as in steps."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastgw.files import beneath

Open = Callable[[int, bytes, int], int]
WAYS = [
    pytest.param(beneath.open_in_steps, id="steps"),
    pytest.param(beneath.open_beneath, id="openat2"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A root with files and links, beside a file that nothing may reach."""
    outside = tmp_path_factory.mktemp("outside")
    inside = outside / "root"
    (outside / "secret").write_text("secret")
    (inside / "a" / "b").mkdir(parents=True)
    (inside / "file").write_text("file")
    (inside / "a" / "b" / "deep").write_text("deep")
    for name, target in {
        "link": "file",
        "chain": "link",
        "a/up": "../file",
        "folder": "a/b",
        "dots": "a/./../a//b/deep",
        "inner": "a/b/../../file",
        "absolute": str(inside / "file"),
        "outside": str(outside / "secret"),
        "above": "../secret",
        "a/above": "../../secret",
        "around": f"../{inside.name}/file",
        "loop": "loop",
        "dangling": "nowhere",
        "proc": "/proc/self/root",
    }.items():
        (inside / name).symlink_to(target)
    descriptor = os.open(inside, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize("opens", WAYS)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (b"file", b"file"),
        (b"./file", b"file"),
        (b"a/../file", b"file"),
        (b"a/b/deep", b"deep"),
        (b"link", b"file"),
        (b"chain", b"file"),
        (b"a/up", b"file"),
        (b"folder/deep", b"deep"),
        (b"dots", b"deep"),
        (b"inner", b"file"),
    ],
)
def test_what_is_beneath_is_opened(root: int, opens: Open, name: bytes, content: bytes) -> None:
    opened = opens(root, name, beneath.FLAGS)
    try:
        assert os.read(opened, 99) == content
        assert not os.get_inheritable(opened)
    finally:
        os.close(opened)


@pytest.mark.parametrize("opens", WAYS)
@pytest.mark.parametrize(
    ("name", "number"),
    [
        (b"..", errno.EXDEV),
        (b"../secret", errno.EXDEV),
        (b"a/../../secret", errno.EXDEV),
        (b"/etc/passwd", errno.EXDEV),
        (b"absolute", errno.EXDEV),
        (b"outside", errno.EXDEV),
        (b"above", errno.EXDEV),
        (b"a/above", errno.EXDEV),
        (b"around", errno.EXDEV),
        (b"proc/etc/passwd", errno.EXDEV),
        (b"loop", errno.ELOOP),
        (b"dangling", errno.ENOENT),
        (b"none", errno.ENOENT),
        (b"", errno.ENOENT),
        (b"file/x", errno.ENOTDIR),
        (b"x" * 256, errno.ENAMETOOLONG),
    ],
)
def test_what_leads_out_or_nowhere_is_refused(root: int, opens: Open, name: bytes, number: int) -> None:
    with pytest.raises(OSError, match=os.strerror(number)):
        opens(root, name, beneath.FLAGS)


@pytest.mark.parametrize("opens", WAYS)
def test_a_nul_ends_no_name(root: int, opens: Open) -> None:
    with pytest.raises(ValueError, match="null byte"):
        opens(root, b"file\0.html", beneath.FLAGS)


@pytest.mark.parametrize("opens", WAYS)
def test_no_descriptor_is_left_open(root: int, opens: Open) -> None:
    folder = os.readlink(f"/proc/self/fd/{root}")
    for name in (b"a/b/../../../x", b"loop", b"folder/none", b"a/b/deep/x"):
        with pytest.raises(OSError, match="Errno"):
            opens(root, name, beneath.FLAGS)
    opened = [target_of(descriptor) for descriptor in os.listdir("/proc/self/fd")]
    assert [each for each in opened if each.startswith(folder)] == [folder]


def target_of(descriptor: str) -> str:
    """Return the file of a descriptor; "" if another thread has closed it."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


@pytest.mark.parametrize("opens", WAYS)
def test_a_pipe_does_not_block(tmp_path: Path, opens: Open) -> None:
    os.mkfifo(tmp_path / "pipe")
    folder = os.open(tmp_path, os.O_PATH)
    try:
        os.close(opens(folder, b"pipe", beneath.FLAGS))
    finally:
        os.close(folder)


@pytest.mark.parametrize("opens", WAYS)
def test_no_race_leads_out(tmp_path: Path, opens: Open) -> None:
    """While a folder becomes a link to the outside and back, only the file beneath the root is ever read."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("secret")
    inside = tmp_path / "root"
    (inside / "real").mkdir(parents=True)
    (inside / "real" / "file").write_text("public")
    (inside / "away").symlink_to("../outside")
    (inside / "good").symlink_to("real")
    (inside / "now").symlink_to("real")
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            for target in ("../outside", "real"):
                (inside / "next").symlink_to(target)
                os.replace(inside / "next", inside / "now")

    swapping = threading.Thread(target=swap)
    swapping.start()
    folder = os.open(inside, os.O_PATH)
    try:
        for _ in range(500):
            try:
                opened = opens(folder, b"now/file", beneath.FLAGS)
            except OSError:
                continue
            try:
                assert os.read(opened, 99) == b"public"
            finally:
                os.close(opened)
    finally:
        ended.set()
        swapping.join()
        os.close(folder)


def test_without_openat2_it_goes_in_steps(root: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old kernel, or a sandbox that refuses the call."""

    class Refuses:
        @staticmethod
        def open_beneath(*given: object) -> int:
            raise OSError(errno.ENOSYS, "not there")

    monkeypatch.setattr(beneath, "_beneath", Refuses)
    opened = beneath.open_beneath(root, b"folder/deep")
    assert os.read(opened, 99) == b"deep"
    os.close(opened)


def test_reading_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with open(tmp_path / "file", "rb") as file:
        assert beneath.read_at_once(file.fileno(), 4, 2) in (
            b"2345",
            None,
        )  # None: this file system does not say what is cached
        assert beneath.read_at_once(file.fileno(), 4, 8) in (b"89", None)
        assert beneath.read_at_once(file.fileno(), 4, 10) in (b"", None)
    assert beneath.read_at_once(-1, 4, 0) is None
