"""Filters that call a service: cost of a request whose result is cached."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from bench.micro.filters import hooks, step, unsaid, with_field
from bench.micro.timing import Room
from fastgw.config.base.value_types import parse_endpoint
from fastgw.config.settings.secrets import Secret
from fastgw.exchange import Exchange
from fastgw.filters.api import Filter, Services
from fastgw.filters.policies.forward_auth import ForwardAuth, Remembering
from fastgw.filters.policies.introspection import Introspection
from fastgw.http.fields import Fields
from fastgw.upstream.client.http_client import Fetched

TOKEN = b"Authorization: Bearer " + b"t" * 43
SERVICE = parse_endpoint("https://idp.example/")


class Service:
    """Stand-in for a fetcher that accepts every client."""

    async def fetch(self, *question: Any, **more: Any) -> Fetched:
        return Fetched(200, Fields([(b"X-User", b"u-7")]), b'{"active":true,"sub":"u-7","scope":"read"}')


def rooms() -> Iterator[Room]:
    secret = Secret(text="a secret of the benchmark")
    for name, settings in (
        ("introspection", Introspection(url=SERVICE, client_id="gateway", client_secret=secret, scopes=("read",))),
        (
            "forward_auth",
            ForwardAuth(url=SERVICE, cache=Remembering(key_headers=("Authorization",)), copy_headers=("X-User",)),
        ),
    ):
        requests = [with_field(0, TOKEN)]
        yield Room(f"{name}: what is remembered", remembered(settings, requests[0]), requests)


def remembered(settings: Filter, exchange: Exchange) -> Callable[[Exchange], Any]:
    made = hooks(settings)
    assert made.start is not None
    nothing: Any = None
    service: Any = Service()
    made.start(Services(nothing, service, nothing, nothing, nothing))
    request = step(made.request)

    async def pass_once() -> None:
        assert await request(exchange) is None

    asyncio.run(pass_once())
    assert request(exchange) is None
    return unsaid(request)
