"""Notes on settings for protocols that are not spoken where they stand. They are never errors."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import structs

from fastgw.config.base.problems import Problem, format_value, nearest
from fastgw.config.decoding.merge import SourceLocation
from fastgw.config.settings.gateway import Listener, Route, Upstream
from fastgw.config.settings.upstreams import Retries
from fastgw.http.grpc.status import GrpcStatus

_CALLS_NEED = "gRPC calls need HTTP/2"
_WEBSOCKET = "websocket"
_OF_REQUESTS: Final[Mapping[str, tuple[str, ...]]] = {
    "timeouts": ("response_headers", "idle"),
    "pool": ("max_idle", "idle_timeout", "max_uses"),
    "retries": ("non_idempotent", "per_try_timeout", "body_bytes"),
}
"""Settings of an upstream that are about requests, or about connections that several requests use."""


def of_listener(location: SourceLocation, listener: Listener) -> Iterator[Problem]:
    """Yield the notes on a listener: bounds of HTTP/2 without HTTP/2, and TLS routes that never match."""
    if listener.protocol == "http" and not listener.wants_http2 and location.raw.get("http2"):
        yield location.below("http2").problem("it has no effect: the listener does not speak HTTP/2 (`protocols`)")
    first: dict[tuple[str, str], int] = {}
    for index, route in enumerate(listener.routes if listener.protocol in ("tcp", "tls") else ()):
        pairs = [(name, protocol) for name in route.sni or ("",) for protocol in route.alpn or ("",)]
        taken = [first.get(pair, first.get((pair[0], ""))) for pair in pairs]
        if None not in taken:
            wrong = f"no connection gets here: routes[{taken[0]}] matches the same server names before it"
            yield location.below("routes", index).problem(wrong)
        for pair in pairs:
            first.setdefault(pair, index)


def of_upstream(location: SourceLocation, upstream: Upstream) -> Iterator[Problem]:
    """Yield the notes on settings of an upstream whose targets speak another protocol."""
    written = location.raw.get("protocol")
    schemes = {target.url.scheme for target in upstream.targets}
    if not schemes:
        return
    if schemes <= {"tcp", "udp"}:
        if written is not None:
            yield location.below("protocol").problem("it has no effect: the targets are no HTTP servers")
        yield from _about_requests(location, upstream, schemes.pop())
        return
    if upstream.tolerate and upstream.protocol in ("http2", "grpc"):
        wrong = f"it has no effect with `protocol: {upstream.protocol}`: it is about responses over HTTP/1.1"
        yield location.below("tolerate").problem(wrong)
    if written == "auto" and not any(target.url.tls for target in upstream.targets):
        wrong = "HTTP/1.1 is spoken: only `https` targets choose a version; expected `http2` where they support it"
        yield location.below("protocol").problem(wrong)


def _about_requests(location: SourceLocation, upstream: Upstream, scheme: str) -> Iterator[Problem]:
    """Yield a note for each setting about requests of an upstream with `tcp` or `udp` targets."""
    for name in ("tolerate", "response_limits"):
        if location.raw.get(name):
            yield location.below(name).problem(f"it has no effect: {scheme} targets get no requests")
    for part, names in _OF_REQUESTS.items():
        settings = getattr(upstream, part)
        defaults = {field.name: field.default for field in structs.fields(settings)}
        for name in names:
            if getattr(settings, name) != defaults[name]:
                yield location.below(part, name).problem(f"it has no effect: {scheme} targets get no requests")
    conditions = upstream.retries.conditions
    others = [each for each in conditions if each != "connect_failure"]
    if others and conditions != Retries().conditions:
        idle = ", ".join(others)
        wrong = f"{idle} without effect: {scheme} targets get no requests, so only `connect_failure` applies"
        yield location.below("retries", "conditions").problem(wrong)


def of_route(
    location: SourceLocation, route: Route, listeners: Mapping[str, Listener], upstreams: Mapping[str, Upstream]
) -> Iterator[Problem]:
    """Yield the notes on a route for upgrades and gRPC calls that its listeners or upstreams cannot speak."""
    yield from _of_upgrades(location, route, upstreams)
    if route.grpc is None:
        return
    served = [listeners[name] for name in route.listeners or listeners if name in listeners]
    if served and not any(each.wants_http2 for each in served if each.protocol == "http"):
        yield location.below("grpc").problem(f"{_CALLS_NEED}, which none of its listeners speaks (`protocols`)")
    for destination in route.destinations:
        if not isinstance(destination, str) or (upstream := upstreams.get(destination)) is None:
            continue
        if not _may_speak_http2(upstream):
            where = f"upstream {format_value(destination)} speaks HTTP/1.1"
            yield location.below("upstream").problem(f"{_CALLS_NEED}: {where}; expected `protocol: grpc`")
        yield from _statuses_without_retries(location, route, destination, upstream)


def _of_upgrades(location: SourceLocation, route: Route, upstreams: Mapping[str, Upstream]) -> Iterator[Problem]:
    """Yield the notes on `upgrade` as written: none of its upstreams speaks HTTP/1.1, or a name has a typing error."""
    for index, protocol in enumerate(route.upgrade):
        name = protocol.lower()
        if _WEBSOCKET in re.findall(r"[a-z]+", name):
            continue  # a protocol of one's own may be named after it, such as websocket-v2
        if (meant := nearest(name, (_WEBSOCKET,), similarity=0.88)) is not None:
            wrong = f"{format_value(protocol)} is not WebSocket; did you mean {format_value(meant)}?"
            yield location.below("upgrade", index).value_problem(wrong)
    destinations = route.destinations if route.fallback is None else (*route.destinations, route.fallback.upstream)
    named = [upstreams.get(each) if isinstance(each, str) else None for each in destinations]
    only_http2 = named and all(each is not None and each.protocol in ("http2", "grpc") for each in named)
    if only_http2 and location.raw.get("upgrade"):
        wrong = "it has no effect: upgrades need HTTP/1.1, and no upstream of this route speaks it (`protocol`)"
        yield location.below("upgrade").problem(wrong)


def _statuses_without_retries(
    location: SourceLocation, route: Route, destination: str, upstream: Upstream
) -> Iterator[Problem]:
    """Yield a note on the gRPC statuses that never lead to a retry, because calls are POST."""
    own = route.retries
    retries = upstream.retries if own is None else own.over(upstream.retries)
    statuses = [each for each in retries.conditions if each.upper() in GrpcStatus.__members__]
    if upstream.protocol != "grpc" or not statuses or retries.non_idempotent or not retries.max:
        return
    wrong = f"calls are not retried after {', '.join(statuses)}: they are POST, which needs `non_idempotent: true`"
    is_own = own is not None and own.conditions is not None
    if not is_own or len(route.destinations) > 1:
        wrong = f"upstream {format_value(destination)}: {wrong}"
    yield location.below(*(("retries", "conditions") if is_own else ("upstream",))).problem(wrong)


def _may_speak_http2(upstream: Upstream) -> bool:
    if upstream.protocol == "auto":
        return not upstream.targets or any(target.url.tls for target in upstream.targets)
    return upstream.protocol != "http1"
