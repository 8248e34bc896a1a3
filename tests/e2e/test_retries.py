"""Retries over two workers and real sockets, at services in every mood: nothing is lost that a retry could save, and no
POST is sent twice, by the count of the services."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_processes import samples, wait_for_samples
from tests.support.client import Client
from tests.support.gateway import Gateway, wait_until
from tests.support.moody import Moody
from tests.support.peer import Unexpected

CLIENTS, EACH = 8, 2
PER_TRY = {
    "conditions": ["connect_failure", "reset_before_response", "per_try_timeout"],
    "per_try_timeout": "150ms",
    "max": 3,
}
STATUSES = {"conditions": ["connect_failure", "reset_before_response", "500", "503"], "budget": "100%"}
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "statuses": {"retries": STATUSES},
    "per_try": {"retries": {**PER_TRY, "budget": "100%"}},
    "thrifty": {"retries": {**STATUSES, "max": 3, "budget": "10%"}},
    "hedged": {"hedge": {"after": "50ms"}, "retries": {"budget": "100%"}},
}
MOODS = ("refuses", "hangs", "hangs_within", "resets", "breaks_off", "500", "503")


class Scene:
    """A gateway with two services behind each of its upstreams, the first of which may be in any mood."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        self.services = {name: [stack.enter_context(Moody(each)) for each in (b"first", b"other")] for name in SETTINGS}
        config = {
            "workers": 2,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "status": {"address": "127.0.0.1:0"},
            "upstreams": {
                name: {
                    "targets": [{"url": each.url} for each in self.services[name]],
                    "timeouts": {"response_headers": "500ms", "idle": "200ms"},
                    "health_checks": {"passive": None},  # it is asked again, whatever it did before
                    **settings,
                }
                for name, settings in SETTINGS.items()
            },
            "routes": [{"name": name, "hosts": [f"{name}.test"], "upstream": name} for name in SETTINGS],
        }
        self.gateway = stack.enter_context(Gateway(config, directory))
        self._asked = 0

    def ask(self, upstream: str, method: bytes = b"GET") -> Counter[object]:
        """What clients see: statuses, or "cut" where an answer broke off. Each request has a path of its own."""
        first = self._asked
        self._asked += CLIENTS * EACH
        paths = [b"/%d" % number for number in range(first, self._asked)]
        host = upstream.encode() + b".test"

        def asks(mine: list[bytes]) -> list[object]:
            seen: list[object] = []
            with contextlib.ExitStack() as stack:
                client: Client | None = None
                for path in mine:
                    if client is None:
                        client = stack.enter_context(self.gateway.connect())
                    client.send(b"%b %b HTTP/1.1\r\nHost: %b\r\nContent-Length: 0\r\n\r\n" % (method, path, host))
                    try:
                        seen.append(client.read_response(method).status)
                    except Unexpected:
                        seen.append("cut")
                        client = None
            return seen

        with ThreadPoolExecutor(CLIENTS) as threads:
            seen = Counter(
                each for some in threads.map(asks, [paths[n::CLIENTS] for n in range(CLIENTS)]) for each in some
            )
        assert seen.total() == CLIENTS * EACH
        self.paths = paths
        return seen

    def sent(self, upstream: str) -> list[int]:
        """How often each of the last requests has come to a service."""
        return [sum(each.requests[path] for each in self.services[upstream]) for path in self.paths]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        yield Scene(stack, tmp_path_factory.mktemp("retries"))


@contextlib.contextmanager
def in_mood(scene: Scene, upstream: str, mood: str) -> Iterator[Moody]:
    first = scene.services[upstream][0]
    first.be(mood)
    try:
        yield first
    finally:
        first.be("ok")


SAVED = [("plain", "refuses"), ("statuses", "refuses"), ("statuses", "500"), ("statuses", "503"), ("per_try", "hangs")]


@pytest.mark.landing
@pytest.mark.parametrize(("upstream", "mood"), SAVED)
def test_what_a_retry_can_save_is_saved(scene: Scene, upstream: str, mood: str) -> None:
    with in_mood(scene, upstream, mood) as first:
        before = first.served
        assert scene.ask(upstream) == {200: CLIENTS * EACH}
        assert first.served > before or mood == "refuses"
        assert max(scene.sent(upstream)) <= 4


LOST = {"resets": 502, "breaks_off": "cut", "hangs_within": "cut"}


@pytest.mark.landing
@pytest.mark.parametrize("mood", LOST)
def test_what_may_have_been_acted_on_is_told(scene: Scene, mood: str) -> None:
    """Where nobody has asked for more than the contract: each request goes to one target, or to another one after a
    connection that had served before was closed."""
    with in_mood(scene, "plain", mood):
        seen = scene.ask("plain")
        assert set(seen) == {200, LOST[mood]}
        if mood != "resets":
            assert scene.sent("plain") == [1] * CLIENTS * EACH


@pytest.mark.parametrize("upstream", ["statuses", "per_try", "hedged"])
@pytest.mark.parametrize("mood", MOODS)
def test_no_post_is_sent_twice(scene: Scene, upstream: str, mood: str) -> None:
    with in_mood(scene, upstream, mood):
        seen = scene.ask(upstream, b"POST")
        assert max(scene.sent(upstream)) == 1
        assert seen[200] == CLIENTS * EACH if mood == "refuses" else seen[200] < CLIENTS * EACH


@pytest.mark.landing
def test_a_slow_service_is_hedged(scene: Scene) -> None:
    """It does not answer at all, and nobody notices but those who count."""
    with in_mood(scene, "hedged", "hangs"):
        assert scene.ask("hedged") == {200: CLIENTS * EACH}
        hedges = sum(scene.sent("hedged")) - CLIENTS * EACH
        assert hedges > 0
    # one that lost before it was sent is counted too
    assert samples(scene.gateway.ready["status"])['fastgw_hedges_total{upstream="hedged"}'] >= hedges


@pytest.mark.landing
def test_a_service_that_fails_is_not_asked_for_everything_again(scene: Scene) -> None:
    """All attempts fail: clients get what the service says, retries keep to their budget, and all of it is counted."""
    for service in scene.services["thrifty"]:
        service.be("503")
    try:
        assert scene.ask("thrifty") == {503: CLIENTS * EACH}
    finally:
        for service in scene.services["thrifty"]:
            service.be("ok")
    sent = sum(scene.sent("thrifty"))
    logged = [path.decode() for path in scene.paths]

    def records() -> list[dict[str, Any]]:
        return [each for each in scene.gateway.records if each["path"] in logged]

    wait_until(lambda: len(records()) == CLIENTS * EACH, "all of them are logged")
    retries = sum(record["retries"] for record in records())
    assert sent == CLIENTS * EACH + retries
    wait_for_samples(scene.gateway, {'fastgw_retries_total{upstream="thrifty"}': retries})
