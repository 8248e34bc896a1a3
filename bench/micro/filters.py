"""Filters that let a request pass: cost of their request or response step."""

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from ipaddress import IPv4Address, ip_network
from random import Random
from typing import Any

from bench.micro.heads import REQUESTS
from bench.micro.timing import Room
from fastgw.config.settings.gateway import NONE, ConsumerKey, ConsumerPassword, FilterUse
from fastgw.config.settings.gateway import Consumer as ConsumerSettings
from fastgw.config.settings.secrets import Secret
from fastgw.consumers.index import index_of
from fastgw.exchange import Chain, Exchange, FilterInstance, Hooks, Response
from fastgw.exchange.shadow_exchange import Nobody
from fastgw.filters.api import Consumer, Env, Filter, FilterResources, RequestHook, ResponseHook
from fastgw.filters.policies.auth import Auth
from fastgw.filters.policies.authorize import Authorize, Names, Scopes
from fastgw.filters.policies.basic_auth import BasicAuth
from fastgw.filters.policies.cors import Cors
from fastgw.filters.policies.headers import Edits, Headers
from fastgw.filters.policies.ip import Ip
from fastgw.filters.policies.ip.address_check import AddressRules, address_check
from fastgw.filters.policies.key_auth import KeyAuth
from fastgw.filters.policies.security_headers import SecurityHeaders
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.parser import parse_request
from fastgw.net.network_lists import pack_list, unpack_list

NETWORKS = 5_000
LISTED = 100_000
CONSUMERS = 100_000
KEY = b"X-Api-Key: key-%d" % (CONSUMERS // 2)
LOGIN = b"Authorization: Basic " + b64encode(b"u%d:password" % (CONSUMERS // 2))
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
    ):
        yield Room(name, step(hooks(settings).request), exchanges())
    edits = Headers(request=Edits(set={"X-Consumer": "{consumer.name}"}))
    named = hooks(edits)
    alone = Chain((FilterInstance(FilterUse(name="headers", type="headers", settings=edits), named, False, ""),))
    yield Room("headers: a value of the request", unsaid(step(named.request)), exchanges(alone))
    yield Room("headers: the same before others", step(named.request), exchanges())
    yield from of_consumers()
    unremembered = address_check((), networks).__wrapped__  # type: ignore[attr-defined]  # it is an lru_cache
    yield Room(f"ip, another address, {NETWORKS} networks", unremembered, ["192.0.2.1"])
    numbers = Random(1)
    listed = "\n".join(f"{IPv4Address(numbers.getrandbits(32))}/{16 + number % 17}" for number in range(LISTED))
    packed = pack_list(listed.encode())
    rules = AddressRules([], [unpack_list(packed)], closed=False)
    unremembered = rules.check.__wrapped__
    yield Room(f"ip, another address, {LISTED} networks", unremembered, ["192.0.2.1"])
    for name, settings in (
        ("security_headers", SecurityHeaders(preset="api")),
        ("cors", Cors(origins=("https://app.example",))),
        ("cors for everybody", Cors(origins=("*",))),
    ):
        yield Room(f"{name}, the response", answered(step(hooks(settings).response)), exchanges())
    yield Room("  of these, a response to change", answered(lambda each: None), exchanges())


def of_consumers() -> Iterator[Room]:
    """Yield filters with many consumers: cached credentials, and those that must be looked up."""
    stock = FilterResources()
    stock.roster.use_index(index_of([consumer(number) for number in range(CONSUMERS)], {}))
    key, login = ((line, [with_field(each, line) for each in range(len(REQUESTS))]) for line in (KEY, LOGIN))
    for name, settings, (_, sent) in (
        ("key_auth", KeyAuth(), key),
        ("key_auth, hidden", KeyAuth(hide_credentials=True), key),
        ("basic_auth", BasicAuth(), login),
    ):
        hook = step(settings.build(Env("a", "r", settings, stock, {})).request)
        assert hook(sent[0]) is None
        assert sent[0].consumer == Consumer(f"c{CONSUMERS // 2}")
        yield Room(f"{name}, {CONSUMERS} consumers", hook, sent)
    digests = [sha256(b"key-%d" % number).digest() for number in range(0, CONSUMERS, 97)]
    yield Room(f"a key that is not remembered, {CONSUMERS} consumers", stock.roster.by_key, digests)


def consumer(number: int) -> ConsumerSettings:
    return ConsumerSettings(
        name=f"c{number}",
        key_auth=(ConsumerKey(key=Secret(text=f"key-{number}")),),
        basic_auth=(ConsumerPassword(username=f"u{number}", password=Secret(text="password")),),
    )


def with_field(number: int, line: bytes) -> Exchange:
    """Return the request with this header instead of `Authorization`."""
    request = re.sub(rb"\r\nAuthorization:[^\r]*", b"", REQUESTS[number])
    return exchange(number, request.removesuffix(b"\r\n") + line + b"\r\n\r\n")


def exchanges(chain: Chain = CHAIN) -> list[Exchange]:
    made = [exchange(number) for number in range(len(REQUESTS))]
    for each in made:
        each.chain = chain
    return made


def hooks(settings: Filter, files: Mapping[str, bytes] = NONE) -> Hooks:
    return settings.build(Env("a", "r", settings, FilterResources(), files))


def step(hook: RequestHook | ResponseHook | None) -> Callable[[Exchange], Any]:
    assert hook is not None
    return hook.step


def unsaid(request: Callable[[Exchange], Any]) -> Callable[[Exchange], Any]:
    """Return the request without results of any filter."""

    def run(each: Exchange) -> None:
        each.request_added, each.request_dropped = b"", frozenset()
        request(each)

    return run


def answered(response: Callable[[Exchange], Any]) -> Callable[[Exchange], Any]:
    def answer(each: Exchange) -> None:
        each.response = Response(200, None)
        response(each)

    return answer


def exchange(number: int, request: bytes = b"") -> Exchange:
    nobody: Any = None
    peer = Peer("192.0.2.1", 1, 80, trusted=False)
    made = Exchange(parse_request(request or REQUESTS[number]), Nobody(), nobody, peer, CHAIN)
    made.consumer, made.claims = CONSUMER, CLAIMS
    return made
