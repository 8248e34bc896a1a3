"""The entry of a gateway in the runtime directory, and what its log says of the token."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from fastgw.admin.gateway_registry import Registration, running
from fastgw.config import load_text
from fastgw.config.base.value_types import Address
from fastgw.filters import TYPES
from fastgw.runtime.node.config_snapshot import seal
from fastgw.runtime.node.gateway_registration import (
    end_registration,
    is_entry_due,
    own_addresses,
    token_file_of,
    write_entry,
)
from fastgw.runtime.node.node_state import Sealed
from fastgw.runtime.sockets.listening_sockets import open_endpoint
from tests.support.node import FILE, accepted_of, close_node, node_state_of
from tests.support.small_file_system import full_disk

DOCUMENT = b"""\
version: 1
listeners: {main: {address: "127.0.0.1:0"}}
status: null
routes: [{name: all, respond: {body: ok}}]
"""


def test_a_token_file_is_named_only_when_it_is_there(tmp_path: Path) -> None:
    """On a full disk the log, which others may read, has no token either. The next attempt completes the entry."""
    accepted = accepted_of(load_text(DOCUMENT, FILE, TYPES))
    node_state = node_state_of(sealed=Sealed(accepted, seal(accepted)))
    node_state.own["admin"] = open_endpoint(Address(host="127.0.0.1", port=0))
    node_state.registration = registration = Registration.create_entry({"RUNTIME_DIRECTORY": str(tmp_path)})
    try:
        with full_disk():
            write_entry(node_state)
        assert (token_file_of(node_state), is_entry_due(node_state)) == (None, True)
        (shown,) = own_addresses(node_state, {})
        assert "/ (token: its file could not be written)" in shown
        write_entry(node_state)
        assert (token_file_of(node_state), is_entry_due(node_state)) == (registration.token_file, False)
        (shown,) = own_addresses(node_state, {})
        assert f"/ (token: {registration.token_file}; fastgw token prints it)" in shown
        assert Path(registration.token_file).read_text() == f"{node_state.admin_token}\n"
    finally:
        registration.end()
        node_state.registration = None
        (shown,) = own_addresses(node_state, {})
        assert "/ (no token file: set admin.token)" in shown
        close_node(node_state)
    assert list(tmp_path.iterdir()) == []


def test_an_entry_is_registered_again_after_its_directory_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory is made again, for the owner alone; the lock that the previous program has passed on is no reason
    to fail."""
    directory = tmp_path / "fastgw"
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(directory))
    accepted = accepted_of(load_text(DOCUMENT, FILE, TYPES))
    node_state = node_state_of(sealed=Sealed(accepted, seal(accepted)))
    former = Registration.create_entry()
    shutil.rmtree(directory)
    node_state.registration = passed_on = Registration(former.path, os.dup(former.fd))
    former.close()
    try:
        assert is_entry_due(node_state)
        write_entry(node_state)
        assert not is_entry_due(node_state)
        assert node_state.registration is not passed_on
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert os.getpid() in {each.entry.pid for each in running()}
    finally:
        end_registration(node_state)
        close_node(node_state)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("is_written_by", ["this program", "the one before an upgrade", "no program"])
def test_an_entry_is_written_after_the_working_directory_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written_by: str
) -> None:
    """It has the paths of before: in place, and where it was removed as well and is registered again."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "fastgw"))
    folder = tmp_path / "current"
    folder.mkdir()
    monkeypatch.chdir(folder)
    accepted = accepted_of(load_text(DOCUMENT, "gateway.yaml", TYPES))
    node_state = node_state_of(sealed=Sealed(accepted, seal(accepted)))
    node_state.registration = registration = Registration.create_entry()
    try:
        if is_written_by != "no program":
            write_entry(node_state)
        if is_written_by == "the one before an upgrade":
            node_state.registration = Registration(registration.path, os.dup(registration.fd))
            registration.close()
        folder.rmdir()
        before = str(folder / "gateway.yaml")
        expected = ("gateway.yaml", "") if is_written_by == "no program" else (before, before)
        for again in (False, True):
            if again:
                shutil.rmtree(tmp_path / "fastgw")
            write_entry(node_state)
            (found,) = (each.entry for each in running() if each.entry.pid == os.getpid())
            assert (found.config, found.given) == expected
    finally:
        end_registration(node_state)
        close_node(node_state)
