"""Notes on settings for protocols that are not spoken where they stand. They are never errors."""

from collections.abc import Iterator, Mapping

from fastgw.config.base.problems import Problem, format_value
from fastgw.config.decoding.merge import SourceLocation
from fastgw.config.settings.gateway import Listener, Route, Upstream

_CALLS_NEED = "gRPC calls need HTTP/2"


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
    """Yield the notes on `protocol` of an upstream whose targets cannot speak it."""
    written = location.raw.get("protocol")
    schemes = {target.url.scheme for target in upstream.targets}
    if written is None or not schemes:
        return
    if schemes <= {"tcp", "udp"}:
        yield location.below("protocol").problem("it has no effect: the targets are no HTTP servers")
    elif written == "auto" and not any(target.url.tls for target in upstream.targets):
        wrong = "HTTP/1.1 is spoken: only `https` targets choose a version; expected `http2` where they support it"
        yield location.below("protocol").problem(wrong)


def of_route(
    location: SourceLocation, route: Route, listeners: Mapping[str, Listener], upstreams: Mapping[str, Upstream]
) -> Iterator[Problem]:
    """Yield the notes on a route for gRPC calls without HTTP/2 on either side."""
    if route.grpc is None:
        return
    served = [listeners[name] for name in route.listeners or listeners if name in listeners]
    if served and not any(each.wants_http2 for each in served if each.protocol == "http"):
        yield location.below("grpc").problem(f"{_CALLS_NEED}, which none of its listeners speaks (`protocols`)")
    for destination in route.destinations:
        upstream = upstreams.get(destination) if isinstance(destination, str) else None
        if upstream is not None and not _may_speak_http2(upstream):
            where = f"upstream {format_value(destination)} speaks HTTP/1.1"
            yield location.below("upstream").problem(f"{_CALLS_NEED}: {where}; expected `protocol: grpc`")


def _may_speak_http2(upstream: Upstream) -> bool:
    if upstream.protocol == "auto":
        return not upstream.targets or any(target.url.tls for target in upstream.targets)
    return upstream.protocol != "http1"
