"""What filters cost a request that they let pass: their request step, or their response step, on a judged request."""

from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any

from bench.micro.heads import REQUESTS
from bench.micro.timing import Room
from fastgw.config.settings import FilterUse
from fastgw.exchange import Chain, Exchange, Hooks, Response
from fastgw.filters.api import Consumer, Env, Filter, Stock
from fastgw.filters.auth import Auth
from fastgw.filters.authorize import Authorize, Names, Scopes
from fastgw.filters.cors import Cors
from fastgw.filters.headers import Edits, Headers
from fastgw.filters.ip import Ip, judge_of
from fastgw.filters.security_headers import SecurityHeaders
from fastgw.forwarded import Peer
from fastgw.wire.framing import judge_request

NETWORKS = 5_000
CHAIN = Chain(())
CONSUMER = Consumer("alice", frozenset(("staff", "admin")))
CLAIMS = {"sub": "u-7", "scope": "read write"}


def rooms() -> Iterator[Room]:
    networks = tuple(ip_network(f"10.{number >> 8}.{number & 255}.0/{24 + number % 5}") for number in range(NETWORKS))
    way = FilterUse(name="authorize", type="authorize", settings=Authorize())
    for name, settings in (
        ("ip, an address that is remembered", Ip(deny=networks)),
        ("authorize: somebody who is known", way.settings),
        ("auth: the first of two such ways", Auth(any_of=(way, way))),
        ("authorize: a group", Authorize(groups=Names(any=("staff",)))),
        ("authorize: a scope", Authorize(scopes=Scopes(any=("read",)))),
        ("headers: a value of the request", Headers(request=Edits(set={"X-Consumer": "{consumer.name}"}))),
    ):
        yield Room(name, step(hooks(settings).request), exchanges())
    unremembered = judge_of((), networks).__wrapped__  # type: ignore[attr-defined]  # it is an lru_cache
    yield Room(f"ip, another address, {NETWORKS} networks", unremembered, ["192.0.2.1"])
    for name, settings in (
        ("security_headers", SecurityHeaders(preset="api")),
        ("cors", Cors(origins=("https://app.example",))),
        ("cors for everybody", Cors(origins=("*",))),
    ):
        yield Room(f"{name}, the response", answered(step(hooks(settings).response)), exchanges())
    yield Room("  of these, a response to change", answered(lambda each: None), exchanges())


def exchanges() -> list[Exchange]:
    return [exchange(number) for number in range(len(REQUESTS))]


def hooks(settings: Filter) -> Hooks:
    return settings.build(Env("a", "r", settings, Stock(), {}))


def step(hook: Callable[[Exchange], Any] | None) -> Callable[[Exchange], Any]:
    assert hook is not None
    return hook


def answered(response: Callable[[Exchange], Any]) -> Callable[[Exchange], Any]:
    def answer(each: Exchange) -> None:
        each.response = Response(200, None)
        response(each)

    return answer


def exchange(number: int) -> Exchange:
    nobody: Any = None
    peer = Peer("192.0.2.1", 1, 80, trusted=False)
    made = Exchange(judge_request(REQUESTS[number]), nobody, nobody, peer, CHAIN)
    made.consumer, made.claims = CONSUMER, CLAIMS
    return made
