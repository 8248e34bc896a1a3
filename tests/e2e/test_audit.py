"""The audit log of a gateway that runs: what was changed, by whom, and how it ended."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fastgw.audit.chain import verify
from fastgw.cli import app
from tests.e2e.admin_calls import admin, post
from tests.e2e.test_reload import gateway_saying, saying
from tests.support.gateway import wait_until


def entries(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().splitlines(keepends=True)
    list(verify(lines))
    return [json.loads(line) for line in lines]


@pytest.mark.landing
def test_every_change_is_recorded_with_its_actor_and_result_in_one_chain(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    with gateway_saying("v1", tmp_path, audit={"path": str(log)}) as gateway:
        assert entries(log)[0]["action"] == "start"
        post(gateway, {**gateway.config, "routes": saying("v2")}, query="?dry_run=true")  # changes nothing
        assert post(gateway, {**gateway.config, "routes": saying("v2")}).status == 200
        assert post(gateway, {**gateway.config, "rutes": []}).status == 422
        assert admin(gateway, "POST /reload", token="wrong").status == 401
        done = [(each["actor"].partition(" ")[0], each["action"], each["result"]) for each in entries(log)[1:]]
        assert done == [
            ("api", "reload", "reloaded: generation 2 on 2/2 workers"),
            ("token", "POST /config", "200 reloaded: generation 2 on 2/2 workers"),
            ("api", "reload", done[2][2]),
            ("token", "POST /config", "422 not reloaded: generation 2 stays"),
            ("token", "POST /reload", "denied"),
        ]
        assert done[2][2].startswith("refused: ")
        assert "v2" in entries(log)[1]["detail"]["changes"]

        rotated = log.rename(tmp_path / "audit.log.1")
        gateway.change(routes=saying("v3"))
        os.kill(int(gateway.status()["pid"]), signal.SIGHUP)
        wait_until(lambda: log.exists() and [each["action"] for each in entries(log)] == ["reload"], "an entry")
        assert entries(log)[-1]["actor"] == "signal"
    assert [each["action"] for each in entries(log)[-2:]] == ["drain", "stop"]
    verified = CliRunner().invoke(app, ["audit", "verify", str(rotated), str(log)])
    assert (verified.exit_code, verified.stdout.split(";")[0]) == (0, "intact: entries 1 to 9")
    log.write_bytes(log.read_bytes().replace(b'"signal"', b'"nobody"'))
    verified = CliRunner().invoke(app, ["audit", "verify", str(rotated), str(log)])
    assert (verified.exit_code, verified.stderr) == (1, f"{log}:1: its hash is wrong: the entry was changed\n")
    verified = CliRunner().invoke(app, ["audit", "verify", str(rotated), str(log), "--format", "json"])
    (problem,) = json.loads(verified.stdout)["problems"]
    assert (verified.exit_code, verified.stderr) == (1, "")
    assert [problem[key] for key in ("file", "line", "wrong")] == [
        str(log),
        1,
        "its hash is wrong: the entry was changed",
    ]
    verified = CliRunner().invoke(app, ["audit", "verify", str(rotated), "--expect", "0" * 64])
    assert verified.exit_code == 1
    assert "no entry has the hash" in verified.stderr
