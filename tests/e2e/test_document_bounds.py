"""What a document that is sent to the admin API may cost: bytes, time and memory, and the gateway goes on meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.settings.gateway import DEFAULT_ADMIN
from fastgw.runtime.process.bounded_child import NAME
from fastgw.runtime.reload.document_checks import MOST_WAITING
from tests.e2e import admin_calls
from tests.e2e.admin_calls import JSON, TOML, YAML, Told, admin, post, read
from tests.e2e.test_processes import ask, samples
from tests.e2e.test_reload import Reloadable, gateway_saying, saying
from tests.support.gateway import name_of, wait_until

ADMIN = {"address": "127.0.0.1:0"}
PROBLEM = "application/problem+json"


def config_of(gateway: Reloadable, routes: int) -> str:
    """YAML of so many routes with their filters, and upstreams of their own."""
    head = {name: value for name, value in gateway.config.items() if name != "routes"}
    written = [f"{name}: {json.dumps(value)}\n" for name, value in head.items()]
    written.append("upstreams:\n")
    for number in range(0, routes, 10):
        written.append(f"  u{number}:\n    targets: ['http://10.0.{number // 2500}.{number // 10 % 250}:8080']\n")
    written.append("routes:\n")
    for number in range(routes):
        written.append(
            f"  - name: r{number}\n    paths: ['/r{number}/*']\n    methods: [GET, POST]\n"
            f"    upstream: u{number // 10 * 10}\n    filters:\n      rate_limit: {{limit: 100, window: 1s}}\n"
            f"      headers: {{request: {{set: {{X-Route: 'r{number}'}}}}}}\n"
        )
    return "".join(written)


def checks_of(gateway: Reloadable) -> list[int]:
    """The processes that check documents."""
    pid = gateway.control_pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in children if name_of(int(each)) == NAME]


class Sending(threading.Thread):
    """Posts a document; `told` is the answer once it has been joined."""

    def __init__(self, gateway: Reloadable, text: str, query: str = "") -> None:
        super().__init__()
        self._send = lambda: post(gateway, text, YAML, query)
        self.start()

    def run(self) -> None:
        self._told = self._send()

    @property
    def told(self) -> Told:
        self.join()
        return self._told


@contextmanager
def held_check(gateway: Reloadable, query: str = "") -> Iterator[tuple[Sending, int]]:
    """A document is being checked by a process, which is stopped until the end of the block at the latest."""
    sending = Sending(gateway, config_of(gateway, 700), query)
    wait_until(lambda: bool(checks_of(gateway)), "a process that checks")
    (pid,) = checks_of(gateway)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield sending, pid
    finally:
        if not sending.join(0) and sending.is_alive():
            os.kill(pid, signal.SIGCONT)
        sending.join()


def problem(told: Told) -> str:
    assert told.fields["Content-Type"] == PROBLEM, told.body
    return str(told.json["detail"])


@pytest.mark.parametrize("query", ["", "?dry_run=true"])
@pytest.mark.parametrize(
    ("settings", "detail"),
    [
        (
            {"document_time": "400ms"},
            "A document may take 400ms of processor time to check, and 1600ms in all: admin.document_time.",
        ),
        ({"document_memory": "8MiB"}, "A document may take 8MiB of memory to check: admin.document_memory."),
    ],
    ids=["time", "memory"],
)
def test_a_document_that_takes_more_than_it_may_is_told_by_which_bound(
    tmp_path: Path, query: str, settings: dict[str, str], detail: str
) -> None:
    with gateway_saying("v1", tmp_path, admin={**ADMIN, **settings}) as gateway:
        control = gateway.control_pid
        told = post(gateway, config_of(gateway, 4500), YAML, query)
        assert (told.status, problem(told)) == (413, detail)
        assert checks_of(gateway) == []
        last = read(gateway, "/status")["reloads"]["last"]
        assert [each["summary"] for each in last] == ([] if query else [f"POST /config: {detail}"])
        failed = samples(gateway.ready["status"])['fastgw_reloads_total{result="failed"}']
        assert failed == (0 if query else 1)
        assert (detail in gateway.stderr.text()) is not bool(query)
        assert post(gateway, gateway.config, JSON, "?dry_run=true").status == 200  # a small one still passes
        assert gateway.control_pid == control
        assert gateway.answer() == (200, b"v1")


@pytest.mark.landing
def test_targets_that_take_more_than_they_may_are_told_so_too(tmp_path: Path) -> None:
    upstreams = {"u": {"targets": ["http://127.0.0.1:1"]}}
    with gateway_saying("v1", tmp_path, admin={**ADMIN, "document_memory": "8MiB"}, upstreams=upstreams) as gateway:
        targets = "".join(f"- {{url: 'http://10.0.{number // 250}.{number % 250}:80'}}\n" for number in range(20_000))
        told = admin(gateway, "PUT /upstreams/u/targets", targets, YAML)
        assert (told.status, "admin.document_memory" in problem(told)) == (413, True)
        assert admin(gateway, "PUT /upstreams/u/targets", "['http://127.0.0.1:2']", YAML).status == 200


def test_a_file_has_no_such_bounds(tmp_path: Path) -> None:
    few = {**ADMIN, "document_time": "1ms", "document_memory": "8MiB", "document_bytes": "1KiB"}
    with gateway_saying("v1", tmp_path, admin=few) as gateway:
        gateway.config["routes"] = [
            *({**saying("x", f"/{number}")[0], "name": f"r{number}"} for number in range(3000)),
            *saying("v2"),
        ]
        gateway.write(gateway.config)
        assert gateway.reload() == "reloaded: generation 2 on 2/2 workers"
        assert gateway.answer() == (200, b"v2")


def test_ten_thousand_routes_pass_where_they_may_be_as_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the time and the memory that documents have by default."""
    monkeypatch.setattr(admin_calls, "TIMEOUT", 12 * DEFAULT_ADMIN.document_time)
    with gateway_saying("v1", tmp_path, admin={**ADMIN, "document_bytes": "4MiB"}) as gateway:
        told = post(gateway, config_of(gateway, 10_000), YAML, "?dry_run=true")
        assert (told.status, told.json.get("ok")) == (200, True)


def test_everything_else_is_answered_while_one_is_checked(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        with held_check(gateway) as (sending, pid):
            status = gateway.ready["status"]
            for _ in range(5):
                assert ask(status, "/livez").status == 200
                assert ask(status, "/metrics").status == 200
                assert read(gateway, "/status")["state"] == "serving"
                assert gateway.answer() == (200, b"v1")
            gateway.change(routes=saying("v2"))
            assert gateway.reload() == "reloaded: generation 2 on 2/2 workers"  # nor do files wait for it
            assert name_of(pid) == NAME
        assert sending.told.status == 200
        assert read(gateway, "/status")["generation"] == 3


def test_the_process_has_none_of_controls_descriptors(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway, held_check(gateway) as (_, pid):
        opened = {each.name: os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}
        own = f"/proc/{pid}/statm"  # if it was stopped while it looked at its memory
        beyond = [leads_to for number, leads_to in opened.items() if int(number) > 2 and leads_to != own]
        assert len(beyond) == 1
        assert beyond[0].startswith("pipe:")


def test_one_that_is_ended_from_outside_is_told_as_that(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        for query in ("", "?dry_run=true"):
            with held_check(gateway, query) as (sending, pid):
                os.kill(pid, signal.SIGKILL)
                told = sending.told
            assert (told.status, told.json["reason"]) == (503, "failed")
            assert "the process that checked it ended early: killed by SIGKILL" in told.json["summary"]
        assert read(gateway, "/status")["generation"] == 1


def test_one_that_does_not_go_by_itself_is_killed(tmp_path: Path) -> None:
    """It has been stopped, and so has the clock that it was given."""
    with gateway_saying("v1", tmp_path, admin={**ADMIN, "document_time": "100ms"}) as gateway:
        with held_check(gateway) as (sending, pid):
            told = sending.told
        assert (told.status, "admin.document_time" in problem(told)) == (413, True)
        assert not Path(f"/proc/{pid}").exists()


def unanswered(gateway: Reloadable) -> None:
    with pytest.raises((OSError, HTTPException)):
        post(gateway, config_of(gateway, 700), YAML)


def test_it_ends_with_control(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        sending = threading.Thread(target=unanswered, args=(gateway,))
        sending.start()
        wait_until(lambda: bool(checks_of(gateway)), "a process that checks")
        (pid,) = checks_of(gateway)
        os.kill(pid, signal.SIGSTOP)
        try:
            os.kill(gateway.control_pid, signal.SIGKILL)
            wait_until(lambda: name_of(pid) != NAME, "the end of it")
        finally:
            if name_of(pid) == NAME:  # its standard error is the gateway's, which we read to the end
                os.kill(pid, signal.SIGKILL)
        sending.join()


def test_more_than_a_few_are_not_waited_for(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        with held_check(gateway):
            waiting = [Sending(gateway, config_of(gateway, 1), "?dry_run=true") for _ in range(MOST_WAITING)]
            wait_until(lambda: not all(each.is_alive() for each in waiting), "one that is refused")
        answers = sorted((each.told.status, each.told.json["reason"]) for each in waiting)
        assert answers == [(200, "")] * (MOST_WAITING - 1) + [(409, "busy")]


MIB = 1024**2
HOSTILE: dict[str, tuple[str, str]] = {
    "brackets": (YAML, "[" * MIB),
    "brackets-json": (JSON, "[" * MIB),
    "objects-json": (JSON, '{"a":' * (MIB // 5)),
    "brackets-toml": (TOML, "a = " + "[" * (MIB - 4)),
    "dots-toml": (TOML, "a" + ".a" * (MIB // 2 - 8) + " = 1"),
    "tables-toml": (TOML, "".join(f"[a{number}]\n" for number in range(10_000))),
    "braces": (YAML, "{" * MIB),
    "dashes": (YAML, "- " * (MIB // 2)),
    "keys": (YAML, "? " * (MIB // 2)),
    "questions": (YAML, "a: &a " * (MIB // 6)),
    "aliases": (
        YAML,
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)),
    ),
    "anchors": (YAML, "\n".join(f"k{number}: &a{number} {{}}" for number in range(5_000))),
    "digits": (YAML, "version: " + "9" * (MIB - 9)),
    "digits-json": (JSON, '{"version": ' + "9" * (MIB - 13) + "}"),
    "digits-toml": (TOML, "version = " + "9" * (MIB - 10)),
    "exponent": (YAML, "version: 1e9999999999"),
    "quotes": (YAML, 'a: "' + "\\x41" * (MIB // 4 - 2)),
    "block": (YAML, "a: |\n" + " \n" * (MIB // 2 - 3)),
    "comments": (YAML, "#\n" * (MIB // 2)),
    "one key": (YAML, "k" * (MIB - 4) + ": 1"),
    "unknown keys": (YAML, "".join(f"k{number}: 1\n" for number in range(5_000))),
    "zeros": (YAML, "\0" * MIB),
    "not UTF-8": (YAML, "\udcff" * MIB),
}
"""Most are as long as a document may be."""


def test_what_is_made_to_cost_is_refused_and_control_lives(tmp_path: Path) -> None:
    with gateway_saying("v1", tmp_path) as gateway:
        control = gateway.control_pid
        for name, (kind, text) in HOSTILE.items():
            body = text.encode(errors="surrogateescape")[:MIB]
            told = admin(gateway, "POST /config?dry_run=true", body, kind)
            assert told.status == 422, (name, told.body[:500])
        patterns = ["(" * 5000 + ")" * 5000, "(a{1,1000}){1,1000}" * 50, "[" + "a-z" * 100_000 + "]", "(?:a|" * 90_000]
        for pattern in patterns:
            route = {**saying("v2")[0], "headers": {"X": {"regex": pattern}}}
            told = post(gateway, {**gateway.config, "routes": [route]}, JSON, "?dry_run=true")
            assert told.status in (200, 422), (pattern[:20], told.body[:500])
        assert gateway.control_pid == control
        assert re.search(r"Traceback|defect", gateway.stderr.text()) is None


def test_its_own_answer_may_be_long(tmp_path: Path) -> None:
    """A thousand problems are more than a pipe holds at a time."""
    with gateway_saying("v1", tmp_path) as gateway:
        routes: list[dict[str, Any]] = [{"name": f"r{number}", "upstrem": "x" * 60} for number in range(2000)]
        told = post(gateway, {**gateway.config, "routes": routes}, JSON)
        assert (told.status, len(told.json["problems"])) == (422, 1001)
