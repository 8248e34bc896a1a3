"""Tokens that the gateway fetches for itself: once per node, whatever asks, expires, fails or dies."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

import fastgw
from tests.support.extension import install
from tests.support.gateway import Gateway, wait_until
from tests.support.issuer import Issuer
from tests.support.peer import DEADLINE, Message
from tests.support.shown import FILTER


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as serving:
        yield serving


def oauth2(issuer: Issuer, **more: Any) -> dict[str, Any]:
    return {"token_url": issuer.url, "client_id": "app", "client_secret": "of-the-app", **more}


def gateway_of(folder: Path, workers: int, **filters: Any) -> Gateway:
    """`filters`: the settings of `shown` on the route of each name."""
    install(folder, "shown", {"shown.py": FILTER}, {"shown": "shown:ShownHere"})
    config = {
        "workers": workers,
        "extensions": ["shown"],
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "status": {"address": "127.0.0.1:0"},
        "routes": [
            {"name": name, "hosts": [name], "respond": {}, "filters": {"shown": settings}}
            for name, settings in filters.items()
        ],
    }
    return Gateway(config, folder, environment={"PYTHONPATH": f"{folder}:{Path(fastgw.__file__).parents[1]}"})


def ask(gateway: Gateway, path: str = "/", host: str = "api") -> Message:
    with gateway.connect() as client:
        return client.exchange(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())


def shown(gateway: Gateway, path: str = "/", host: str = "api") -> str:
    return ask(gateway, path, host).body.decode()


def crowd(gateway: Gateway, count: int) -> Counter[str]:
    with ThreadPoolExecutor(64) as threads:
        return Counter(threads.map(lambda _: shown(gateway), range(count)))


@pytest.mark.landing
def test_however_many_ask_at_once_one_token_is_fetched(tmp_path: Path, issuer: Issuer) -> None:
    with gateway_of(tmp_path, 4, api={"oauth2": oauth2(issuer)}) as gateway:
        assert issuer.asked == 0  # nobody has needed one yet
        assert crowd(gateway, 400) == {"token-1": 400}
        assert issuer.asked == 1


def another_control(gateway: Gateway, than: int) -> bool:
    with suppress(ValueError):  # there is none just now
        return gateway.control_pid != than
    return False


def test_no_death_costs_a_token_or_a_request(tmp_path: Path, issuer: Issuer) -> None:
    with gateway_of(tmp_path, 2, api={"oauth2": oauth2(issuer)}) as gateway:
        assert crowd(gateway, 20) == {"token-1": 20}
        control = gateway.control_pid
        os.kill(control, signal.SIGKILL)
        assert crowd(gateway, 20) == {"token-1": 20}
        wait_until(lambda: another_control(gateway, control), "another control process")
        assert shown(gateway, "/refused/token-1") == "token-2"

        before = set(gateway.worker_pids)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(gateway.worker_pids) == 2 and not before & set(gateway.worker_pids), "two new workers")
        assert crowd(gateway, 20) == {"token-2": 20}
        assert issuer.asked == 2


def test_a_worker_fetches_for_itself_while_there_is_no_control(tmp_path: Path, issuer: Issuer) -> None:
    with gateway_of(tmp_path, 2, api={"oauth2": oauth2(issuer)}) as gateway:
        over = threading.Event()

        def kill_control() -> None:
            killed = 0
            while not over.is_set():
                with suppress(ValueError, OSError):  # there is none just now
                    if (pid := gateway.control_pid) != killed:
                        os.kill(pid, signal.SIGKILL)
                        killed = pid

        killing = threading.Thread(target=kill_control)
        killing.start()
        try:
            first = shown(gateway)
            assert first.startswith("token-")
        finally:
            over.set()
            killing.join()
        wait_until(lambda: shown(gateway) == first, "the other worker has it too")


def test_no_request_fails_when_a_secret_is_another(tmp_path: Path, issuer: Issuer) -> None:
    secret = tmp_path / "secret"
    secret.write_text("one\n")
    settings = oauth2(issuer, client_secret={"file": str(secret)}, client_auth="body")
    with gateway_of(tmp_path, 2, api={"oauth2": settings}) as gateway:
        assert crowd(gateway, 20) == {"token-1": 20}
        secret.write_text("two\n")
        seen = []

        def is_new() -> bool:
            seen.append(ask(gateway))
            return issuer.asked == 2

        wait_until(is_new, "a token for the new secret", 20.0)
        assert {each.body for each in seen} <= {b"token-1", b"token-2"}
        wait_until(lambda: crowd(gateway, 20) == {"token-2": 20}, "that it is used alone")
        assert [each.form["client_secret"] for each in issuer.questions] == [["one"], ["two"]]


def test_an_endpoint_that_fails_is_seen_and_others_are_not(tmp_path: Path, issuer: Issuer) -> None:
    many = {f"other-{n}": {"oauth2": oauth2(issuer, token_url=f"{issuer.url}/{n}")} for n in range(50)}
    failing = oauth2(issuer, token_url=f"{issuer.url}?key=planted", negative_ttl="30s")
    with gateway_of(tmp_path, 2, api={"oauth2": failing}, **many) as gateway:

        def metrics() -> str:
            with suppress(OSError), urlopen(f"http://{gateway.ready['status']}/metrics", timeout=DEADLINE) as answer:
                return str(answer.read(), "utf-8")
            return ""

        issuer.fail(503)
        answer = ask(gateway)
        assert answer.head.start_line.startswith(b"HTTP/1.1 502 ")
        assert json.loads(answer.body)["type"] == "urn:fastgw:fault:token_unavailable"
        assert 1 <= int(answer.get(b"retry-after") or b"0") <= 30
        assert {ask(gateway).head.start_line for _ in range(20)} == {answer.head.start_line}
        assert issuer.asked == 1
        told = [line for line in metrics().splitlines() if line.startswith("fastgw_feed_up")]
        assert told == [f'fastgw_feed_up{{feed="{issuer.url}",used_by="api"}} 0.0']
        assert "planted" not in gateway.stderr.text()
