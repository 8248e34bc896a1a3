"""Why did this request go there? `fastgw explain` as the scenario has it, with a token that it never shows."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.extension import install
from tests.support.forked import FASTGW, ran
from tests.support.tokens import key_set, signer

CONFIG = """
version: 1
listeners:
  public: {address: "127.0.0.1:0"}
filters:
  request_id: {}
  office: {type: ip, allow: [192.0.2.0/24], shadow: true}
consumers:
  - {name: alice, groups: [staff], jwt: [{issuer: "https://idp.example", subject: u-1}]}
upstreams:
  users: {targets: [{url: "http://users-1:9001"}, {url: "http://users-2:9001"}]}
routes:
  - name: user
    hosts: [api.example.com]
    paths: ["/users/{id}"]
    upstream: users
    filters:
      auth:
        any_of:
          - jwt: {issuer: "https://idp.example", audiences: [api], jwks_file: keys.json, algorithms: [RS256]}
      authorize: {groups: {any: [staff]}}
      partner: {type: forward_auth, url: "http://authority.example/may"}
  - {name: files, hosts: [api.example.com], paths: ["/*"], upstream: users}
"""
CLAIMS = {"sub": "u-1"}
ODD = """
from fastgw.filters.api import Filter, Hooks, Phase


class Odd(Filter, name="odd", phase=Phase.TRANSFORM):
    def build(self, env):
        def response(exchange):
            raise ZeroDivisionError

        return Hooks(response=response)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gw.yaml").write_text(CONFIG)
    (tmp_path / "keys.json").write_bytes(key_set(signer("RS256", "k1")))
    return tmp_path


def explained(folder: Path, token: bytes, *arguments: str) -> list[str]:
    command = [FASTGW, "explain", "gw.yaml", "GET", "http://api.example.com/users/7", *arguments]
    if token:
        command += ["-H", f"Authorization: Bearer {token.decode()}"]
    ended = ran(command, cwd=folder)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not token or token.decode() not in ended.stdout
    assert not token or token.rpartition(b".")[2].decode() not in ended.stdout
    return ended.stdout.splitlines()


@pytest.mark.landing
def test_every_filter_says_what_it_decides_and_why(folder: Path) -> None:
    lines = explained(folder, signer("RS256", "k1").token(CLAIMS))
    expected = [
        r"listener  public   client 127\.0\.0\.1",
        r"route     user   host api\.example\.com, path /users/{id} \(id=7\); beat: files \(.+\)",
        r"early     request_id → would send X-Request-Id: [0-9a-f]{32}   \[gateway\]",
        r"          office \(ip\) → in shadow: answers 403 \(client_address_denied.*\)   \[gateway\]",
        r"filters   auth → pass \(jwt: consumer alice, expires in 3(600|59\d) s\)   \[route\]",
        r"          partner \(forward_auth\) → would have to call http://authority\.example, which .+   \[route\]",
        r"          authorize → depends on the consumer that partner authenticates   \[route\]",
        r"provided  partner, authorize let it pass",
        r"target    http://users-1:9001   \(round_robin, 1 of 2; upstream users\)",
        r"sends     GET /users/7 HTTP/1\.1 · Host: api\.example\.com · Authorization: \*\*\* · .*Via: 1\.1 fastgw",
    ]
    assert len(lines) == len(expected), "\n".join(lines)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), f"{line}\nis not\n{pattern}"


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        (None, r"answers 401 \(credentials_missing.*\)"),
        ({"sub": "u-1", "exp": 1}, r"answers 401 \(credentials_invalid: .*jwt.*expired.*\)"),
        ({"sub": "u-1", "aud": "other"}, r"answers 401 \(credentials_invalid: .*jwt.*\)"),
        ({"sub": "u-2"}, r"pass \(jwt: consumer u-2.*\)"),
    ],
)
def test_a_refusal_has_its_reason(folder: Path, claims: dict[str, object] | None, told: str) -> None:
    token = b"" if claims is None else signer("RS256", "k1").token(claims)
    lines = explained(folder, token)
    (auth,) = [line for line in lines if " auth → " in line]
    assert re.search(told, auth), auth
    if "answers" in told:
        assert lines[-1].startswith("answers   401 credentials_")
        assert "WWW-Authenticate: Bearer" in lines[-1]


def test_a_filter_that_raises_is_told_in_a_line(tmp_path: Path) -> None:
    """Also one that looks at answers; nothing of a traceback."""
    install(tmp_path, "odd", {"odd.py": ODD}, {"odd": "odd:Odd"})
    (tmp_path / "gw.yaml").write_text(
        'version: 1\nextensions: [odd]\nlisteners: {main: {address: "127.0.0.1:0"}}\nfilters: {odd: {}}\n'
        'routes: [{name: all, respond: {body: "hello"}}]\n'
    )
    command = [FASTGW, "explain", "gw.yaml", "GET", "http://a/"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "filters   odd → runs on the response only   [gateway]\n" in ended.stdout
    assert "answers   500 internal (filter odd: its response step raised) · " in ended.stdout
