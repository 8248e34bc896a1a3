"""The runtime directory: which gateways run, which have died, and whom nobody believes."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastgw.admin import gateway_registry as registry
from fastgw.admin.gateway_registry import (
    Found,
    GatewayEntry,
    Registration,
    Unregistered,
    directories,
    running,
    usable_directory,
)
from tests.support.small_file_system import full_disk

OTHER = 65534  # nobody


def entry(**more: Any) -> GatewayEntry:
    said = {
        "pid": os.getpid(),
        "name": "gw",
        "config": "/etc/gw.yaml",
        "version": "1",
        "began_date": 1.0,
        "admin": None,
    }
    return GatewayEntry(**{**said, **more})


@pytest.fixture
def here(tmp_path: Path) -> dict[str, str]:
    """An environment in which the one directory is of the test."""
    return {"RUNTIME_DIRECTORY": str(tmp_path / "fastgw")}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what the environment of a test names is looked at."""
    named = directories
    monkeypatch.setattr(registry, "directories", lambda environment: named(environment)[:1])


@pytest.fixture
def registered(here: dict[str, str]) -> Iterator[Registration]:
    registration = Registration.create_entry(here)
    yield registration
    registration.end()


def names(here: dict[str, str]) -> list[str]:
    return [each.entry.name for each in running(here)]


def test_where_entries_are_looked_for():
    user = os.geteuid()
    always = [f"/run/user/{user}/fastgw", "/run/fastgw"]
    assert directories({}) == [*always, f"/tmp/fastgw-{user}"]
    assert directories({"XDG_RUNTIME_DIR": "/x"}) == ["/x/fastgw", *always, f"/tmp/fastgw-{user}"]
    assert directories({"RUNTIME_DIRECTORY": "/a:/b", "TMPDIR": "/t"}) == [
        *("/a", "/b", *always, f"/t/fastgw-{user}", f"/tmp/fastgw-{user}"),
    ]
    assert directories({"RUNTIME_DIRECTORY": "relative", "XDG_RUNTIME_DIR": "", "TMPDIR": "t"}) == directories({})


def test_an_entry_is_there_from_its_begin_to_its_end(here):
    registration = Registration.create_entry(here)
    try:
        assert names(here) == []  # it says nothing yet
        registration.write(entry(name="a" * 100))
        registration.write(entry(name="b"))
        assert names(here) == ["b"]
        assert registration.path.startswith(f"{here['RUNTIME_DIRECTORY']}/{os.getpid()}-")
    finally:
        registration.end()
    assert names(here) == []
    assert os.listdir(here["RUNTIME_DIRECTORY"]) == []


def test_nobody_else_can_read_it_whatever_the_umask(here):
    before = os.umask(0)
    try:
        registration = Registration.create_entry(here)
        registration.write_token("secret")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(os.stat(path).st_mode) for path in (registration.path, registration.token_file)]
    assert modes == [0o600, 0o600]
    assert stat.S_IMODE(os.stat(here["RUNTIME_DIRECTORY"]).st_mode) == 0o700
    registration.end()


def test_the_token_comes_and_goes(here, registered):
    for token in ("one", "another"):
        registered.write_token(token)
        registered.write(entry(token_file=registered.token_file))
        assert [each.token() for each in running(here)] == [token]
    registered.write_token(None)
    assert not os.path.exists(registered.token_file)
    assert [each.token() for each in running(here)] == [None]


def test_what_a_killed_gateway_leaves_is_removed_whoever_has_its_pid_now(here, tmp_path):
    """Its pid says nothing: the entry below is of a process that has died, and has the pid of this one."""
    code = (
        "import os, signal, sys; from fastgw.admin.gateway_registry import *;"
        "r = Registration.create_entry(); r.write_token('x');"
        f"r.write(GatewayEntry(pid={os.getpid()}, name='dead', config='', version='', began_date=0.0, admin=None));"
        "print('ready', flush=True); signal.pause()"
    )
    environment = {**os.environ, "RUNTIME_DIRECTORY": here["RUNTIME_DIRECTORY"]}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert names(here) == ["dead"]
        process.kill()
        process.wait()
        assert len(os.listdir(here["RUNTIME_DIRECTORY"])) == 2
        assert names(here) == []
        assert os.listdir(here["RUNTIME_DIRECTORY"]) == []


@pytest.mark.parametrize("name", ["gateway.json", "gateway-12345678.json", "1-0123abcd.json.bak", "1-0123ABCD.json"])
def test_other_files_there_are_left_alone(here, registered, name):
    """A configuration that is made at boot may be in the directory that systemd gives the gateway."""
    registered.write(entry())
    other = Path(here["RUNTIME_DIRECTORY"], name)
    other.write_text('{"version": 1}')
    assert names(here) == ["gw"]
    assert other.read_text() == '{"version": 1}'


def test_a_child_that_closes_it_leaves_it_to_the_gateway(here, registered):
    registered.write(entry())
    child = Registration(registered.path, os.dup(registered.fd))
    child.close()
    child.close()
    assert names(here) == ["gw"]


def test_an_upgrade_goes_on_with_it(here):
    first = Registration.create_entry(here)
    first.write(entry(name="a much longer name"))
    second = Registration(first.path, os.dup(first.fd))
    first.close()
    second.write(entry(name="b"))
    assert names(here) == ["b"]
    second.end()
    assert names(here) == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\0" * 100, b"x" * 100_000])
def test_what_is_no_entry_is_passed_over(here, registered, content):
    registered.write(entry())
    path = Path(here["RUNTIME_DIRECTORY"], "1-0123abcd.json")
    path.write_bytes(content)
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert names(here) == ["gw"]


def test_links_and_pipes_are_not_followed(here, registered, tmp_path):
    registered.write(entry(name="real", token_file=str(tmp_path / "link")))
    Path(here["RUNTIME_DIRECTORY"], "2-0123abcd.json").symlink_to(registered.path)
    os.mkfifo(Path(here["RUNTIME_DIRECTORY"], "3-0123abcd.json"))
    (tmp_path / "secret").write_text("s")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (found,) = running(here)
    assert found.entry.name == "real"
    assert found.token() is None


class TestWhoMayWriteThere:
    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o720, 0o702])
    def test_where_others_could_put_files_nothing_is_written_and_nothing_believed(self, here, mode):
        registration = Registration.create_entry(here)
        registration.write(entry())
        os.chmod(here["RUNTIME_DIRECTORY"], mode)
        assert names(here) == []
        with pytest.raises(Unregistered, match="others can write to it"):
            usable_directory(here)
        os.chmod(here["RUNTIME_DIRECTORY"], 0o755)  # as systemd makes it
        assert names(here) == ["gw"]
        registration.end()

    def test_a_link_in_its_place_is_not_followed(self, here, tmp_path):
        (tmp_path / "elsewhere").mkdir(0o700)
        Path(here["RUNTIME_DIRECTORY"]).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(Unregistered, match="not a directory"):
            usable_directory(here)

    def test_one_of_another_user_is_left_to_that_user(self, here, monkeypatch):
        os.mkdir(here["RUNTIME_DIRECTORY"], 0o700)
        owner = os.geteuid()
        monkeypatch.setattr(registry.os, "geteuid", lambda: OTHER)
        assert running(here) == []
        with pytest.raises(Unregistered, match=f"owned by user {owner}"):
            usable_directory(here)

    def test_a_gateway_of_another_user_is_shown_only_what_is_that_users(self, tmp_path):
        """Or that user could have root send what only root can read to an address of its own choice."""
        secret = tmp_path / "secret"
        secret.write_text("ours")
        said = entry(token_file=str(secret))
        assert Found(said, OTHER).token() is None
        assert Found(said, os.geteuid()).token() == "ours"

    def test_the_first_directory_that_is_ours_is_used(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            registry, "directories", lambda environment: [str(tmp_path / "a" / "b"), str(tmp_path / "c")]
        )
        assert usable_directory({}) == str(tmp_path / "c")


def test_an_entry_is_written_in_one_piece(here, registered):
    """A reader finds this or that, never a mixture: what is shorter ends with spaces."""
    registered.write(entry(name="x" * 200))
    long = os.fstat(registered.fd).st_size
    registered.write(entry(name="y"))
    content = Path(registered.path).read_bytes()
    assert len(content) == long
    assert msgspec.json.decode(content, type=GatewayEntry).name == "y"


def test_an_entry_for_which_there_is_too_little_space_is_an_error_and_is_written_again(here, registered):
    """A full disk takes the beginning of it."""
    registered.write(entry(name="y"))
    length = os.fstat(registered.fd).st_size
    with full_disk(length + 100), pytest.raises(OSError, match="No space left on device"):
        registered.write(entry(name="x" * 200))
    registered.write(entry(name="x" * 200))
    assert names(here) == ["x" * 200]


def test_a_token_for_which_there_is_no_space_leaves_no_file(here, registered):
    with full_disk(), pytest.raises(OSError, match="File too large") as raised:
        registered.write_token("secret")
    assert raised.value.filename == registered.token_file
    assert not registered.has_token
    assert os.listdir(here["RUNTIME_DIRECTORY"]) == [os.path.basename(registered.path)]
    registered.write_token("secret")
    assert registered.has_token
