"""Logins at Vault: one for each token that is of no use, and no more of them than a bounded number."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from fastgw.config.base.value_types import Url
from fastgw.config.settings.secrets import Secret
from fastgw.config.settings.vault import Vault, VaultAppRole, VaultAuth
from fastgw.discovery import vault as discovery
from fastgw.discovery.http_client import SourceRefused, resolve_here
from fastgw.discovery.sources import vault_session
from fastgw.discovery.vault import VaultSession
from tests.support.vault import ROLE_ID, SECRET_ID, VaultServer


def by_approle(vault: VaultServer) -> VaultSession:
    approle = VaultAppRole(role_id=Secret(text=ROLE_ID), secret_id=Secret(text=SECRET_ID))
    address = Url("http", "127.0.0.1", urlsplit(vault.origin).port or 0)
    return vault_session(Vault(address=address, auth=VaultAuth(approle=approle)), {}, resolve_here)


@pytest.mark.parametrize("may_look_up", [True, False])
def test_an_old_token_that_may_not_read_a_path_is_replaced(may_look_up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token keeps the policies that its role had at the login."""

    async def read(vault: VaultServer) -> None:
        session = by_approle(vault)
        for _ in range(3):
            with pytest.raises(SourceRefused):
                await session.read("secret/app")
        young = 1 if may_look_up else 2  # whether the token is valid cannot be asked: one login shows it
        assert len(vault.logins) == young
        vault.outside_role.clear()
        with pytest.raises(SourceRefused):
            await session.read("secret/app")
        assert len(vault.logins) == young
        monkeypatch.setattr(discovery, "LOGIN_AGAIN_S", 0.0)
        assert await session.read("secret/app") == {"key": "first-key"}
        assert len(vault.logins) == young + 1
        assert len(vault.tokens) == 1, "replaced tokens were revoked"

    with VaultServer() as vault:
        vault.secrets["secret/app"] = {"key": "first-key"}
        vault.outside_role.add("secret/app")
        if not may_look_up:
            vault.forbidden.add("auth/token/lookup-self")
        asyncio.run(read(vault))


def test_an_old_token_stays_in_use_if_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(vault: VaultServer) -> None:
        session = by_approle(vault)
        await session.read("secret/app")
        monkeypatch.setattr("tests.support.vault.ROLE_ID", "a role that was deleted")
        monkeypatch.setattr(discovery, "LOGIN_AGAIN_S", 0.0)
        with pytest.raises(SourceRefused, match="secret/other: Vault says 403"):
            await session.read("secret/other")
        assert await session.read("secret/app") == {"key": "first-key"}

    with VaultServer() as vault:
        vault.secrets["secret/app"] = {"key": "first-key"}
        vault.forbidden.add("secret/other")
        asyncio.run(read(vault))
