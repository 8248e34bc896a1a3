"""Filters of packages in a gateway that runs: through reloads, deaths and upgrades, and whatever they do."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import post
from tests.e2e.test_processes import ends_of, wait_for_ends, wait_for_samples
from tests.e2e.test_reload import Reloadable, saying
from tests.support.client import Client, Response
from tests.support.extension import install
from tests.support.forked import may_be_path
from tests.support.gateway import Gateway, wait_until

TROUBLE = '''
import asyncio
import logging

from fastgw.filters.api import Exchange, Fault, Filter, Hooks, Phase, Reply

log = logging.getLogger("fastgw")


class Trouble(Filter, name="trouble", phase=Phase.AUTHENTICATE):
    """Does what the path says."""

    def build(self, env):
        async def wait(exchange):
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                log.warning("trouble has ended its wait for %s", exchange.path.decode())

        async def raise_later(exchange):
            await asyncio.sleep(0)
            raise ZeroDivisionError

        async def interrupt(exchange):
            raise KeyboardInterrupt

        async def go_on_for_good(exchange):
            while True:
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    log.warning("trouble does not end its wait for %s", exchange.path.decode())

        async def stop(exchange):
            asyncio.get_running_loop().stop()
            await asyncio.sleep(1)

        def request(exchange):
            match exchange.path:
                case b"/interrupt":
                    return interrupt(exchange)
                case b"/go-on":
                    return go_on_for_good(exchange)
                case b"/stop":
                    return stop(exchange)
                case b"/no-reply":
                    return Reply(200, b"", [(b"A\\r\\nB: c", b"d")])
                case b"/raise":
                    raise ZeroDivisionError
                case b"/exit":
                    raise SystemExit(3)
                case b"/raise-later":
                    return raise_later(exchange)
                case b"/nonsense":
                    return True
                case b"/wait" | b"/late":
                    return wait(exchange)
                case b"/refuse":
                    return exchange.refuse(Fault.FORBIDDEN, why="by the path")

        def response(exchange):
            if exchange.path == b"/raise-response":
                raise ZeroDivisionError

        def body(exchange, payload):
            if exchange.path == b"/raise-body":
                raise ZeroDivisionError

        def finish(exchange):
            if exchange.path == b"/raise-finish":
                raise ZeroDivisionError

        return Hooks(request=request, response=response, request_body=body, finish=finish)
'''
GREETING = '''
from fastgw.filters.api import Filter, Hooks, Phase


class Greeting(Filter, name="greeting", phase=Phase.TRANSFORM):
    """Greet the client."""

    word: str = "hello"

    def build(self, env):
        line = b"X-Greeting: " + self.word.encode() + b"\\r\\n"
        return Hooks(response=lambda exchange: exchange.add_response_fields(line))
'''
IMPORTED_BY_CONTROL_ALONE = """
from pathlib import Path

if Path("/proc/self/comm").read_text() == "fastgw\\n":
    raise RuntimeError("not here")
"""
GET = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where packages are installed."""
    site = tmp_path_factory.mktemp("site")
    may_be_path(site)
    install(site, "fastgw-trouble", {"trouble.py": TROUBLE}, {"trouble": "trouble:Trouble"})
    return site


@pytest.fixture(scope="module")
def gateway(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloadable]:
    """Every request meets `trouble`, and on the host `shadow` in shadow."""
    config = {
        "access_logs": [{"sink": "stdout"}],
        "extensions": ["fastgw-trouble"],
        "routes": [
            {
                "name": "late",
                "paths": ["/late"],
                "upstream": "http://127.0.0.1:9",
                "timeout": "100ms",
                "filters": {"trouble": {}},
            },
            {
                "name": "shadow",
                "hosts": ["shadow"],
                "respond": {},
                "filters": {"watched": {"type": "trouble", "shadow": True}},
            },
            {"name": "all", "respond": {}, "filters": {"trouble": {}}},
        ],
    }
    folder = tmp_path_factory.mktemp("gateway")
    with Reloadable(config, folder, environment={"PYTHONPATH": str(site)}) as gateway:
        yield gateway


def asked(gateway: Gateway, request: bytes) -> Response:
    with gateway.connect() as client:
        return client.exchange(request)


@pytest.mark.landing
@pytest.mark.parametrize(
    "path", ["/raise", "/exit", "/raise-later", "/nonsense", "/interrupt", "/no-reply", "/raise-response"]
)
def test_a_filter_that_raises_is_a_500_and_nothing_else(gateway: Reloadable, path: str) -> None:
    workers = gateway.worker_pids
    assert asked(gateway, GET % path.encode()).status == 500
    record = gateway.wait_for_record(path=path)
    step = "response" if path == "/raise-response" else "request"
    assert (record["fault"], record["fault_detail"]) == ("internal", f"filter trouble: its {step} step raised")
    gateway.stderr.wait_for(lambda line: b"filter trouble: its %b step raised: " % step.encode() in line)
    assert asked(gateway, GET % b"/").status == 200
    assert gateway.worker_pids == workers


def test_other_steps_that_raise(gateway: Reloadable) -> None:
    body = b"POST /raise-body HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    assert asked(gateway, body).status == 500
    assert asked(gateway, GET % b"/raise-finish").status == 200
    gateway.stderr.wait_for(lambda line: b"filter trouble: its body step raised: " in line)
    gateway.stderr.wait_for(lambda line: b"filter trouble: its finish step raised: " in line)


@pytest.mark.landing
def test_what_a_filter_waits_for_is_cancelled_when_the_client_leaves(gateway: Reloadable) -> None:
    with Client(gateway.address()) as client:
        client.send(GET % b"/wait")
        client.sock.shutdown(socket.SHUT_WR)
    gateway.stderr.wait_for(lambda line: b"trouble has ended its wait for /wait" in line)
    assert gateway.wait_for_record(path="/wait")["fault"] == "client_left"


@pytest.mark.landing
def test_a_filter_that_does_not_decide_is_late(gateway: Reloadable) -> None:
    assert asked(gateway, GET % b"/late").status == 504
    gateway.stderr.wait_for(lambda line: b"trouble has ended its wait for /late" in line)
    record = gateway.wait_for_record(path="/late")
    assert (record["fault"], record["fault_detail"]) == ("filter_timeout", "filter trouble timed out")
    wait_for_samples(gateway, {'fastgw_filter_timeouts_total{filter="trouble"}': 1.0})


@pytest.mark.parametrize(
    ("path", "decision", "told"),
    [
        ("/refuse", "answer", "watched: refuse 403 forbidden (by the path)"),
        ("/raise-response", "raise", "watched: raise ZeroDivisionError"),
        ("/interrupt", "", "watched: unknown: it is still waiting"),
        ("/wait", "", "watched: unknown: it is still waiting"),
        ("/", "pass", None),
    ],
)
def test_a_filter_in_shadow_tells_and_does_nothing(
    gateway: Reloadable, path: str, decision: str, told: str | None
) -> None:
    response = asked(gateway, b"GET %b HTTP/1.1\r\nHost: shadow\r\n\r\n" % path.encode())
    assert response.status == 200
    assert gateway.wait_for_record(path=path, host="shadow").get("shadow") == told
    if decision:
        name = f'fastgw_filter_shadow_decisions_total{{decision="{decision}",filter="watched",route="shadow"}}'
        wait_for_samples(gateway, {name: 1.0})


def test_errors_are_counted_by_filter(gateway: Reloadable) -> None:
    """All that the tests before this one have made; a worker's death and a reload change nothing."""
    gateway.reload()
    wait_for_samples(gateway, {'fastgw_filter_errors_total{filter="trouble"}': 9.0})
    raised = 'fastgw_filter_shadow_decisions_total{decision="raise",filter="watched",route="shadow"}'
    wait_for_samples(gateway, {raised: 2.0})
    wait_for_samples(gateway, {"fastgw_child_deaths_total": 0})


@pytest.mark.parametrize("path", ["/stop", "/go-on"])
def test_a_worker_ends_whatever_its_filters_wait_for(site: Path, tmp_path: Path, path: str) -> None:
    """Where a filter stops the loop, at once; in a drain, in time; though a task does not let itself be cancelled."""
    config = {
        "workers": 1,
        "extensions": ["fastgw-trouble"],
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "timeouts": {"filters": "100ms"},
        "routes": [{"name": "all", "respond": {}, "filters": {"trouble": {}}}],
    }
    with Gateway(config, tmp_path, environment={"PYTHONPATH": str(site)}) as gateway:
        worker, *_ = gateway.worker_pids
        assert asked(gateway, GET % b"/go-on").status == 504
        gateway.stderr.wait_for(lambda line: b"trouble does not end its wait for /go-on" in line)
        if path == "/stop":
            with gateway.connect() as client:
                client.send(GET % b"/stop")
                gateway.stderr.wait_for(lambda line: b"worker 1 (pid %d) ended: exit status 70" % worker in line)
            assert asked(gateway, GET % b"/").status == 200
        last = gateway.worker_pids
        with ends_of(last) as ends:
            gateway.signal(signal.SIGTERM)
            wait_for_ends(ends)
        gateway.stderr.wait_for(lambda line: b"drained" in line)
    assert "killed" not in gateway.stderr.text()


def test_a_package_comes_by_reload_lives_through_a_death_and_changes_by_upgrade(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    may_be_path(site)

    def using(word: str) -> dict[str, Any]:
        return {"extensions": ["fastgw-greeting"], "filters": {"greeting": {"word": word}}}

    with Reloadable({"routes": saying("ok")}, tmp_path, environment={"PYTHONPATH": str(site)}) as gateway:

        def words() -> set[bytes | None]:
            return {asked(gateway, GET % b"/").get(b"X-Greeting") for _ in range(12)}

        told = post(gateway, {**gateway.config, **using("hi")}, query="?dry_run=true").json
        assert [problem["wrong"] for problem in told["problems"]][:1] == ['package "fastgw-greeting" is not installed']

        install(site, "fastgw-greeting", {"greeting.py": GREETING}, {"greeting": "greeting:Greeting"})
        assert post(gateway, {**gateway.config, **using("hi")}, query="?dry_run=true").json["ok"]
        gateway.change(**using("hi"))
        gateway.reload()
        assert words() == {b"hi"}

        before = set(gateway.worker_pids)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(gateway.worker_pids) == 2 and not before & set(gateway.worker_pids), "new workers")
        wait_until(lambda: words() == {b"hi"}, "the same of workers that were born later")

        install(site, "fastgw-odd", {"odd.py": IMPORTED_BY_CONTROL_ALONE + GREETING}, {})
        odd = {"filters": {"odd": {"type": "odd:Greeting"}}, "extensions": ["odd", "fastgw-greeting"]}
        refused = post(gateway, {**gateway.config, **odd}).json
        assert (refused["ok"], "RuntimeError: not here" in refused["summary"]) == (False, True)
        assert words() == {b"hi"}

        (site / "greeting.py").write_text(GREETING.replace("X-Greeting: ", "X-Greeting: new "))
        gateway.signal(signal.SIGUSR2)
        gateway.stderr.wait_for(lambda line: b"all 2 workers are new" in line, 90.0)
        wait_until(lambda: words() == {b"new hi"}, "what was installed since", 90.0)
