"""Configurations that were active before are listed, compared with the active one without secrets, and returned to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import JSON, admin
from tests.e2e.test_audit import entries
from tests.e2e.test_reload import ANYWHERE, Reloadable


def saying(text: str) -> list[dict[str, Any]]:
    return [{"name": text, "paths": ["/"], "respond": {"body": text}}]


@pytest.mark.landing
def test_kept_configurations_are_compared_and_returned_to(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    admin_settings = {**ANYWHERE, "token": "full", "read_only_token": "reader"}
    settings = {"admin": admin_settings, "audit": {"path": str(log)}, "routes": saying("one")}
    with Reloadable(settings, tmp_path) as gateway:

        def ask(request: str, body: str | None = None, token: str = "full") -> Any:
            return admin(gateway, request, body, JSON if body else "", token=token)

        assert ask("GET /config/history").json["kept"] == []
        gateway.change(routes=saying("two"), consumers=[{"name": "ada", "key_auth": [{"key": "geheim-1"}]}])
        assert ask("POST /reload").status == 200
        gateway.change(consumers=[{"name": "ada", "key_auth": [{"key": "geheim-2"}]}])
        assert ask("POST /reload").status == 200
        history = ask("GET /config/history", token="reader").json
        active = history["active"]
        assert [each["source"] for each in history["kept"]] == ["api", "start"]
        newest, oldest = (each["generation"] for each in history["kept"])
        assert oldest < newest < active
        assert all(each["date"] for each in history["kept"])
        changes = ask(f"GET /config/history/{oldest}", token="reader").json
        assert changes["active"] == active
        assert {"route one: removed", "route two: added"} <= {*changes["changes"].splitlines()}, changes
        assert {"-- name: one", "+- name: two", "-    body: one", "+    body: two"} <= {*changes["diff"].splitlines()}
        compared = ask(f"GET /config/history/{newest}").json["changes"]
        assert compared == "consumer ada: has other credentials"
        assert "geheim" not in compared
        assert "geheim" not in changes["diff"]
        assert ask("GET /session", token="reader").json == {"role": "read_only"}
        assert ask("GET /session").json == {"role": "full"}
        assert ask("GET /config/history/999").status == 404
        assert ask("GET /config/history/x").status == 404
        wanted = json.dumps({"generation": oldest})
        assert ask("POST /rollback", wanted, token="reader").status == 403
        assert ask("POST /rollback", wanted).status == 200
        assert gateway.answer() == (200, b"one")
        assert newest in {each["generation"] for each in ask("GET /config/history").json["kept"]}
        logged = [each for each in entries(log) if each["action"] == "POST /rollback"]
        assert [each["result"].split()[0] for each in logged] == ["denied", "200"]
        assert logged[-1]["detail"] == {"generation": str(oldest)}
