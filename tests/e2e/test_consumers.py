"""Consumers of a running gateway: who they are, who they are by now, and that nothing they are known by is told."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest

from tests.e2e.test_reload import Reloadable
from tests.support.forked import FASTGW, ran
from tests.support.gateway import wait_until

TAKEN_S = 10.0
"""How long it may take until a file is taken, on a machine that is busy; otherwise it is below 2 s."""
KEY, OTHER_KEY, LATER_KEY = (f"planted-key-{n}-3141592653" for n in range(3))
PASSWORD, USERS_PASSWORD, SECRET = (f"planted-{each}-2718281828" for each in ("password", "users", "secret"))
PLANTED = (KEY, OTHER_KEY, LATER_KEY, PASSWORD, USERS_PASSWORD, SECRET)
TOLD = ("/status", "/live", "/routes", "/upstreams", "/consumers", "/config", "/metrics", "/openapi.json")


def basic(username: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'{username}:{password}'.encode()).decode()}"}


class Known(Reloadable):
    """A gateway with consumers in its own file and in a folder, and a route for each way to show who one is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "consumers.d"
        self.folder.mkdir()
        self.put("team", [{"name": "bob", "groups": ["staff"], "key_auth": [{"key": OTHER_KEY}]}])
        hashed = bcrypt.hashpw(USERS_PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        (folder / "users").write_text(f"dora:{hashed}\n")
        (folder / "secret").write_text(f"{SECRET}\n")
        self._log = folder / "access.log"
        # Each request on a connection of its own, so that all workers are asked.
        self._client = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=30)
        ways = {
            "key": {"key_auth": {"key_names": ["k"], "key_in": ["header", "query"], "hide_credentials": True}},
            "basic": {"basic_auth": {}},
            "users": {"basic_auth": {"htpasswd": "users"}},
            "hmac": {"hmac": {}},
        }
        alice = {
            "name": "alice",
            "groups": ["admin"],
            "key_auth": [{"key": KEY}],
            "basic_auth": [{"username": "alice", "password": PASSWORD}],
            "hmac": [{"key_id": "alice", "key": {"file": "secret"}}],
        }
        routes = [
            {"name": name, "paths": [f"/{name}"], "filters": way, "respond": {"body": name}}
            for name, way in ways.items()
        ]
        config = {
            "routes": routes,
            "consumers": [alice],
            "consumer_files": ["consumers.d/*.json"],
            "access_logs": [{"sink": str(self._log)}],
        }
        super().__init__(config, folder)

    def stop(self) -> None:
        self._client.close()
        super().stop()

    def put(self, name: str, consumers: list[dict[str, Any]]) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps({"consumers": consumers}))

    def says(self, path: str, headers: dict[str, str] | None = None) -> int:
        return self._client.get(f"{self.url()}{path}", headers=headers).status_code

    def asked(self, path: str) -> str:
        return self._client.get(f"http://{self.ready['admin']}{path}", headers=self.shown).raise_for_status().text

    @property
    def log(self) -> str:
        return self._log.read_text()


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Known]:
    with Known(tmp_path_factory.mktemp("known")) as gateway:
        yield gateway


@pytest.mark.landing
def test_each_shows_who_it_is_in_its_own_way(known: Known) -> None:
    for _ in range(8):  # on each worker, found and remembered
        assert known.says("/key", {"K": KEY}) == 200
        assert known.says(f"/key?k={OTHER_KEY}") == 200
        assert known.says("/basic", basic("alice", PASSWORD)) == 200
        assert known.says("/users", basic("dora", USERS_PASSWORD)) == 200
        assert known.says("/key", {"K": PASSWORD}) == 401
        assert known.says("/basic", basic("dora", USERS_PASSWORD)) == 401
        assert known.says("/users", basic("alice", PASSWORD)) == 401
        assert known.says("/hmac") == 401
    wait_until(lambda: known.log.count("\n") >= 64, "all lines of the log")
    consumers = {json.loads(line)["consumer"] for line in known.log.splitlines()}
    assert consumers == {None, "alice", "bob", "dora"}


@pytest.mark.landing
def test_who_there_is_is_told_without_what_they_are_known_by(known: Known) -> None:
    told = json.loads(known.asked("/consumers"))["consumers"]
    assert [(each["name"], each["groups"]) for each in told][:2] == [("alice", ["admin"]), ("bob", ["staff"])]
    alice = {name: told[0][name] for name in ("keys", "passwords", "signing_keys", "subjects", "certificates")}
    assert alice == {"keys": 1, "passwords": 1, "signing_keys": 1, "subjects": 0, "certificates": 0}


@pytest.mark.landing
def test_files_of_consumers_are_taken_when_they_come_change_and_go(known: Known) -> None:
    def until(status: int, key: str, what: str) -> None:
        # Workers take a generation one by one: eight answers alike, or one of them may not have it yet.
        wait_until(lambda: {known.says("/key", {"K": key}) for _ in range(8)} == {status}, what, TAKEN_S)

    assert known.says("/key", {"K": LATER_KEY}) == 401
    known.put("later", [{"name": "carl", "key_auth": [{"key": LATER_KEY}]}])
    until(200, LATER_KEY, "the file that came")
    known.put("later", [{"name": "carl", "key_auth": [{"key_sha256": sha256(b"x" * 20).hexdigest()}]}])
    until(401, LATER_KEY, "the file that changed")
    until(200, "x" * 20, "what it says now")
    (known.folder / "later.json").unlink()
    until(401, "x" * 20, "the file that went")
    assert known.says("/key", {"K": OTHER_KEY}) == 200


def test_a_file_that_is_wrong_changes_nothing_and_is_told(known: Known) -> None:
    known.put("wrong", [{"name": "eve", "key_auth": [{"key": OTHER_KEY}]}])
    line = known.stderr.wait_for(lambda line: b"wrong.json" in line, TAKEN_S)
    assert b"is already used at" in line
    assert known.says("/key", {"K": OTHER_KEY}) == 200
    assert line.endswith(b": the file is not used\n")
    known.put("wrong", [{"name": "eve", "key_auth": [{"key": LATER_KEY}]}])
    wait_until(lambda: known.says("/key", {"K": LATER_KEY}) == 200, "the file to be used once it is right", TAKEN_S)
    (known.folder / "wrong.json").unlink()


def test_no_secret_is_told_anywhere(known: Known) -> None:
    """Planted ones, sent in every way, right and wrong; then everything that tells of anything is searched."""
    sent = [*PLANTED, *(each + "x" for each in PLANTED)]
    logged = known.log.count("/hmac") + len(sent)
    for secret in sent:
        known.says(f"/key?k={secret}", {"Referer": f"http://a/?k={secret}"})
        known.says(f"/key?%6b={secret}&k={secret}")
        known.says("/key", {"K": secret})
        for path in ("/basic", "/users"):
            known.says(path, basic("alice", secret))
        known.says("/hmac", {"Signature": f"a=:{secret}:", "Signature-Input": f'a=();keyid="{secret}"'})
    file, url = str(known.file), known.url()
    commands = [
        ["check", file],
        ["check", file, "--format", "json"],
        ["explain", file, "GET", f"{url}/key", "-H", f"K: {KEY}"],
        ["explain", file, "GET", f"{url}/key?k={KEY}x"],
        ["explain", file, "GET", f"{url}/basic", "-H", f"Authorization: {basic('alice', PASSWORD)['Authorization']}"],
    ]
    told = {" ".join(each[:1]) + str(n): _output(each) for n, each in enumerate(commands)}
    told |= {path: known.asked(path) for path in TOLD}
    wait_until(lambda: known.log.count("/hmac") == logged, "the end of the log")
    told |= {"log": known.log, "stderr": known.stderr.text()}
    encoded = [b64encode(f"alice:{secret}".encode()).decode() for secret in sent]
    digests = [sha256(secret.encode()).hexdigest() for secret in PLANTED]
    found = [
        (where, secret) for where, text in told.items() for secret in (*PLANTED, *encoded, *digests) if secret in text
    ]
    assert not found
    assert "alice" in told["log"]
    assert 'fastgw_consumer_requests_total{consumer="alice"}' in told["/metrics"]
    assert [re.search(r"\b401\b", told[f"explain{n}"]) is not None for n in (2, 3, 4)] == [False, True, False]


def _output(arguments: list[str]) -> str:
    ended = ran([FASTGW, *arguments])
    return ended.stdout + ended.stderr
