"""Rate limits: cost of an admission with its key and hash, and of a refusal."""

from collections.abc import Callable, Iterator
from typing import Any

from bench.micro.filters import exchange, step
from bench.micro.timing import Room
from fastgw.config.base.value_types import Trait
from fastgw.exchange import Exchange, Response
from fastgw.filters.api import Env, FilterResources, Hooks, ResponseHook
from fastgw.filters.policies.rate_limit import Cost, GroupLimit, RateLimit
from fastgw.shm.rate_limit_table import own_table

NEVER_REACHED = 4 * 10**6
CLIENTS = 500


def rooms() -> Iterator[Room]:
    usual: Any = {"limit": NEVER_REACHED, "window": 1.0}
    host = Trait("host"), Trait("header", "user-agent")
    groups = {"staff": GroupLimit(limit=NEVER_REACHED)}
    for name, settings in (
        ("by address", RateLimit(**usual)),
        ("by IPv6 network", RateLimit(**usual)),
        ("by consumer", RateLimit(**usual, key=Trait("consumer"))),
        ("by host and a field", RateLimit(**usual, key=host)),
        ("by consumer, token bucket", RateLimit(**usual, key=Trait("consumer"), algorithm="token_bucket")),
        ("by consumer, of a group", RateLimit(**usual, key=Trait("consumer"), groups=groups)),
        ("by address, with costs", RateLimit(**usual, cost=Cost(methods={"POST": 5}))),
    ):
        yield Room(name, _asked(_hooks(settings)), _clients("IPv6" in name))
    refused = _hooks(RateLimit(limit=1, window=3600.0))
    yield Room("a refusal", _asked(refused), _clients())
    told = _hooks(RateLimit(**usual))
    yield Room("the fields of an answer", _answered(told), _clients())
    idle = Hooks(request=told.request, response=ResponseHook(lambda each: None))
    yield Room("  of these, a response to change", _answered(idle), _clients())


def _hooks(settings: RateLimit) -> Hooks:
    made = settings.build(Env("rate_limit", "r", settings, FilterResources(), {}))
    services: Any = type("Services", (), {"cells": own_table(1 << 16)})
    assert made.start is not None
    made.start(services)
    return made


def _clients(ipv6: bool = False) -> list[Exchange]:
    """Return requests, each with a client address of its own."""
    made = [exchange(0) for _ in range(CLIENTS)]
    for number, each in enumerate(made):
        each.client_ip = f"2001:db8:{number:x}::1" if ipv6 else f"192.0.{number >> 8}.{number & 255}"
    return made


def _asked(hooks: Hooks) -> Callable[[Exchange], Any]:
    request = step(hooks.request)

    def ask(each: Exchange) -> None:
        each.limits = None
        request(each)

    return ask


def _answered(hooks: Hooks) -> Callable[[Exchange], Any]:
    request, response = step(hooks.request), step(hooks.response)

    def answer(each: Exchange) -> None:
        if each.limits is None:
            request(each)
        each.response = Response(200, None)
        response(each)

    return answer
