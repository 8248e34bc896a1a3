"""Answers of registries and of Vault that no honest one gives: each is refused, or its instance left out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.base.value_types import Url, parse_endpoint
from fastgw.config.settings.discovery import Consul, Docker, Eureka, Nacos
from fastgw.config.settings.secrets import Secret
from fastgw.config.settings.upstreams import UpstreamTls
from fastgw.config.settings.vault import Vault, VaultAuth
from fastgw.config.sources.followed_files import FollowedFile
from fastgw.discovery import docker
from fastgw.discovery.consul import ConsulList
from fastgw.discovery.docker import DockerList
from fastgw.discovery.eureka import EurekaList
from fastgw.discovery.http_client import ServiceAnswer, ServiceClient, SourceFailed
from fastgw.discovery.nacos import NacosList
from fastgw.discovery.vault import VaultSession
from fastgw.runtime.control.discovery.followed_sources import _Follower
from tests.support.table import for_each

URL: Any = Url("http", "registry.test", 80)
DEEP = b"[" * 3_000
DIGITS = "9" * 5_000


class Registry:
    """A service that gives one answer."""

    def __init__(self, body: bytes | str, status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._answer = ServiceAnswer(status, named, body if isinstance(body, bytes) else body.encode())

    async def request(self, target: str, **_: Any) -> ServiceAnswer:
        return self._answer


FILE = FollowedFile("consul", "", "users", (("scheme", "http"), ("group", "g")))


def no_secret(secret: Secret) -> str:
    return "s.token"


def of_consul(body: bytes | str, index: str = "7") -> Awaitable[Any]:
    return ConsulList(Consul(address=URL), FILE, Registry(body, x_consul_index=index), no_secret).fetch()  # type: ignore[arg-type]


def of_nacos(body: bytes | str) -> Awaitable[Any]:
    return NacosList(Nacos(address=URL), FILE, Registry(body), no_secret).fetch()  # type: ignore[arg-type]


def of_eureka(port: str) -> Awaitable[Any]:
    body = f'{{"application": {{"instance": [{{"ipAddr": "10.0.0.1", "status": "UP", "port": {port}}}]}}}}'
    return EurekaList(Eureka(address=URL), FILE, Registry(body), no_secret).fetch()  # type: ignore[arg-type]


def of_vault(body: bytes | str, status: int = 200) -> Awaitable[Any]:
    settings = Vault(address=URL, auth=VaultAuth(token=Secret("s.token")), mount="kv")
    return VaultSession(settings, Registry(body, status), no_secret).read("app")  # type: ignore[arg-type]


def instance(host: str) -> str:
    return json.dumps([{"Node": {"Address": "10.0.0.9"}, "Service": {"Port": 80, "Address": host}}])


@for_each(
    "answer",
    [
        lambda: of_consul("[]", index=DIGITS),
        lambda: of_consul("[]", index="9" * 19),
        lambda: of_consul("[]", index="\u00b2"),
        lambda: of_consul(DEEP),
        lambda: of_nacos(DEEP),
        lambda: of_nacos(f'{{"hosts": [{{"ip": "10.0.0.1", "port": {DIGITS}}}]}}'),
        lambda: of_eureka(f'{{"$": {DIGITS}, "@enabled": true}}'),
        lambda: of_vault(DEEP),
        lambda: of_vault(b'{"errors": ' + DEEP, 403),
        lambda: of_vault(f'{{"data": {{"ttl": {DIGITS}, "data": {{}}}}}}'),
    ],
)
def test_an_answer_that_cannot_be_is_a_failure_of_the_source(answer: Callable[[], Awaitable[Any]]) -> None:
    async def fetched() -> Any:
        return await answer()

    with pytest.raises(SourceFailed):
        asyncio.run(fetched())


@for_each(
    "answer",
    [
        *(
            lambda host=host: of_consul(instance(host))
            for host in ("a b", "10.0.0.1/x", "10.0.0.1:1/x", "[::1]", "a\r\nX: 1", "@a", "x" * 254, "\0", "%")
        ),
        *(
            lambda port=port: of_consul(json.dumps([{"Node": {"Address": "10.0.0.9"}, "Service": {"Port": port}}]))
            for port in (-1, 0, 65_536, 10**400)
        ),
        lambda: of_nacos(f'{{"hosts": [{{"ip": "10.0.0.1", "port": {"9" * 400}}}]}}'),
        lambda: of_eureka(f'{{"$": "{DIGITS}", "@enabled": true}}'),
        lambda: of_eureka('{"$": "\u0661", "@enabled": true}'),
    ],
)
def test_an_instance_without_a_valid_address_and_port_is_left_out(answer: Callable[[], Awaitable[Any]]) -> None:
    async def fetched() -> Any:
        return await answer()

    found = asyncio.run(fetched())
    assert (found.content, found.problem) == (b"[]", "1 instance has no valid address and port")


def test_a_port_that_cannot_be_takes_no_other_instance_with_it() -> None:
    listed = [{"Node": {"Address": "10.0.0.9"}, "Service": {"Port": port}} for port in (99_999, 80)]
    found = asyncio.run(
        ConsulList(Consul(address=URL), FILE, Registry(json.dumps(listed), x_consul_index="7"), no_secret).fetch()
    )  # type: ignore[arg-type]
    assert [each["url"] for each in json.loads(found.content)] == ["http://10.0.0.9:80"]
    assert found.problem == "1 instance has no valid address and port"


def test_a_container_whose_parts_are_null_stops_no_other() -> None:
    parts = {"State": "running", "NetworkSettings": {"Networks": {"a": {"IPAddress": "10.0.0.1"}}}}
    good = {**parts, "Labels": {"fastgw.upstream": "users", "fastgw.port": "80"}, "Ports": None}
    listed = [good, {**good, "NetworkSettings": {"Networks": None}}, {**parts, "Labels": None}]
    found = asyncio.run(DockerList(Docker(), FILE, Registry(json.dumps(listed)), no_secret).fetch())  # type: ignore[arg-type]
    assert [each["url"] for each in json.loads(found.content)] == ["http://10.0.0.1:80"]


@pytest.mark.parametrize("hangs_at", ["/events", "/containers/json"])
def test_a_docker_that_hangs_is_a_failure_and_one_without_events_is_none(
    hangs_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is read again after a silence. Then the process accepts connections, and answers nothing."""
    monkeypatch.setattr(docker, "RELISTED_S", 0.01)
    monkeypatch.setattr(docker, "TIMEOUT_S", 0.5)
    is_hanging = False

    answering: set[asyncio.Task[Any] | None] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        if is_hanging and hangs_at.encode() in head:
            await reader.read()
        elif b"/containers/json" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def follow() -> str:
        nonlocal is_hanging
        path = str(tmp_path / "docker.sock")
        async with await asyncio.start_unix_server(answer, path):
            client = ServiceClient(parse_endpoint(f"unix:{path}").origin, UpstreamTls(), {})
            lists = DockerList(Docker(), FILE, client, no_secret).follow_list()
            for _ in range(2):
                assert (await anext(lists)).content == b"[]"
            is_hanging = True
            with pytest.raises(SourceFailed) as raised:
                await anext(lists)
            await asyncio.gather(*(each for each in answering if each))
        return str(raised.value)

    assert asyncio.run(follow()).endswith(": timed out after 0.5 s")


@pytest.mark.parametrize("ttl", ["9" * 400, "9" * 19, "-5", "0"], ids=len)
def test_a_token_of_vault_that_ends_at_no_possible_time_is_used(ttl: str) -> None:
    async def read() -> Any:
        return await of_vault(f'{{"data": {{"ttl": {ttl}, "data": {{"a": "x", "b": 1, "c": null}}}}}}')

    assert asyncio.run(read()) == {"a": "x"}


def test_a_source_is_followed_again_after_a_defect() -> None:
    """A list that nobody follows any more would be used for ever."""

    async def follow() -> tuple[int, str]:
        again = asyncio.Event()

        class Broken(_Follower):
            tries = 0

            async def _follow_service(self) -> None:
                self.tries += 1
                if self.tries > 1:
                    again.set()
                raise KeyError("a defect")

        follower = Broken("consul: users", lambda name, content: None)
        follower._backoff.failed = lambda: 0.0  # type: ignore[method-assign]
        async with asyncio.timeout(30):
            await again.wait()
        follower.stop()
        return follower.tries, follower.report.info.problem

    tries, problem = asyncio.run(follow())
    assert (tries, problem) == (2, "KeyError")
