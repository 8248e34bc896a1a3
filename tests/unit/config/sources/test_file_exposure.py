"""Secrets and private keys that other users of the machine can read or replace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fastgw.config import ConfigError, load
from fastgw.config.sources.file_exposure import exposure
from fastgw.filters import TYPES
from tests.support.table import for_each

TOKEN = "a-token-of-32-characters-0123456789"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    with TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@for_each(
    ("file_mode", "folder_mode", "found"),
    [
        (0o600, 0o755, ""),
        (0o640, 0o755, ""),  # a group may be the gateway's own
        (0o660, 0o775, ""),
        (0o604, 0o755, "read"),
        (0o644, 0o755, "read"),
        (0o646, 0o755, "write"),
        (0o602, 0o755, "write"),
        (0o600, 0o757, "replace"),
        (0o600, 0o1777, ""),  # sticky: others replace files of their own only
        (0o666, 0o700, ""),  # others cannot enter the folder
        (0o644, 0o750, ""),
    ],
)
def test_what_others_can_do_with_a_file(file_mode: int, folder_mode: int, found: str) -> None:
    with TemporaryDirectory(dir="/tmp") as name:
        file = Path(name, "key")
        file.write_text(TOKEN)
        os.chmod(file, file_mode)
        os.chmod(name, folder_mode)
        why = exposure(str(file))
        assert (found in why) if found else why == "", why


def test_a_mounted_secret_of_kubernetes_is_no_exposed_one(folder: Path) -> None:
    (folder / "..2026").mkdir()
    (folder / "..2026" / "token").write_text(TOKEN)
    (folder / "..data").symlink_to("..2026")
    (folder / "token").symlink_to("..data/token")
    assert exposure(str(folder / "token")) == ""
    (folder / "other").symlink_to("..2026/token")
    (folder / "..data").unlink()
    assert "read" in exposure(str(folder / "other"))  # it is the file that a link leads to
    assert exposure(str(folder / "missing")) == ""


def test_a_secret_is_noted_and_a_token_of_the_admin_api_refused(folder: Path) -> None:
    for name in ("token", "key"):
        (folder / name).write_text(TOKEN)
        os.chmod(folder / name, 0o604)
    file = folder / "gw.yaml"
    file.write_text(
        "version: 1\nlisteners: {main: {address: '127.0.0.1:0'}}\nadmin: {token: {file: token}}\n"
        "consumers: [{name: a, key_auth: [{key: {file: key}}]}]\n"
        "routes: [{name: a, respond: {}, filters: {key_auth: {}}}]\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(str(file), TYPES)
    assert [each.path for each in caught.value.problems] == ["admin.token.file"]
    os.chmod(folder / "token", 0o600)
    assert [each.path for each in load(str(file), TYPES).notes] == ["consumers[0].key_auth[0].key.file"]
    os.chmod(folder / "key", 0o600)
    assert load(str(file), TYPES).notes == ()
