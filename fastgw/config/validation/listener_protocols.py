"""Rules for listeners and upstreams of protocols other than HTTP: required combinations, and settings without effect.

A listener, its upstreams and their targets use the same protocol. Unix sockets are byte streams, so they are targets
for HTTP and for TCP; but an upstream is used for one of them only, because it lends its connections in one way.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct, structs

from fastgw.config.base.problems import format_value, suggest
from fastgw.config.base.value_types import Url
from fastgw.config.decoding.decoder import BROKEN
from fastgw.config.decoding.merge import Merged, SourceLocation
from fastgw.config.settings.gateway import Listener, Route, shares_of
from fastgw.config.settings.upstreams import Upstream
from fastgw.shm.slot_assignment import MAX_TARGETS

_HTTP_SCHEMES: Final = ("http", "https")
_TRANSPORT: Final = {"tcp": "tcp", "tls": "tcp", "udp": "udp"}
"""URL scheme of targets, by the protocol of listeners."""


def _defaults(settings: type[Struct], *names: str) -> Mapping[str, Any]:
    return {field.name: field.default for field in structs.fields(settings) if field.name in names}


_OF_HTTP: Final = _defaults(
    Listener,
    *("protocols", "http2", "reserved_headers", "unreserved_headers", "ambiguous_paths", "half_close", "scheme"),
    *("tolerate_utf8_targets", "filters", "error_pages"),
)
"""Settings of a listener that affect requests only, with their defaults."""
_OF_HTTP_UPSTREAMS: Final = _defaults(Upstream, "host_header", "hedge", "filters")
_OF_CONNECTIONS: Final = _defaults(Upstream, "pool", "tls", "proxy_protocol")
"""Settings of an upstream that have no effect on datagrams."""
_HASHED_BY: Final = ("header", "cookie", "consumer")
_NOWHERE: Final = "expected no such setting"

Schemes = Mapping[str, str]
"""Target scheme of each upstream: `http`, `tcp`, `udp`, or "" for one that fits HTTP and TCP."""


def targets_have_slots(merged: Merged) -> None:
    """Check that the targets of all upstreams together have slots in the node's shared memory."""
    count = 0
    for location, _, upstream in merged.whole("upstreams"):
        if isinstance(upstream.targets, tuple):
            count += len(upstream.targets)
            if count > MAX_TARGETS:
                wrong = f"more than {MAX_TARGETS} targets in all upstreams together"
                location.below("targets").report(wrong, "expected fewer targets")
                return


def targets_of_one_protocol(merged: Merged) -> None:
    """Check that the targets of an upstream use one protocol, and that its settings apply to this protocol."""
    for location, _, upstream in merged.whole("upstreams"):
        schemes = _schemes(location, upstream)
        if len(schemes) > 1:
            wrong = f"targets of different protocols: {', '.join(sorted(schemes))}"
            location.below("targets").report(wrong, "expected targets of one protocol in an upstream")
        elif schemes & {"tcp", "udp"}:
            _check_transport(location, upstream, schemes.pop())
        elif upstream.proxy_protocol not in (None, BROKEN) and "http" in schemes:
            wrong = "clients share connections to HTTP targets, so no PROXY protocol header can identify them"
            location.below("proxy_protocol").report(wrong, "expected tcp targets, or no `proxy_protocol`")


def _schemes(location: SourceLocation, upstream: Any) -> set[str]:
    """Return the protocols of its targets; for targets not known yet, their future protocol."""
    targets = upstream.targets
    if targets is BROKEN:
        return set()
    if not targets:
        source = location.raw.get("targets")
        scheme = source.get("scheme", "http") if isinstance(source, dict) else ""
        is_valid = isinstance(scheme, str) and scheme != ""  # it is as in the file
        return {"http" if scheme in _HTTP_SCHEMES else scheme} if is_valid else set()
    urls = [target.url for target in targets if target is not BROKEN and target.url is not BROKEN]
    return {"http" if url.scheme in _HTTP_SCHEMES else url.scheme for url in urls if url.scheme != "unix"}


def _check_transport(location: SourceLocation, upstream: Any, scheme: str) -> None:
    for name, default in _OF_HTTP_UPSTREAMS.items():
        if getattr(upstream, name) not in (default, BROKEN):
            location.below(name).report(f"has no effect with {scheme} targets", _NOWHERE)
    tls = upstream.tls
    if tls not in (None, BROKEN) and tls.server_name not in (None, BROKEN) and tls.follows_host:
        wrong = f"`host_header` has no effect with {scheme} targets, which have no `Host`"
        location.below("tls", "server_name").report(wrong, "expected a host name")
    balancing, active = upstream.load_balancing, upstream.health_checks
    if balancing is not BROKEN and balancing.sticky is not None:
        at = location.below("load_balancing", "sticky")
        at.report(f"has no effect with {scheme} targets: there are no cookies", "expected `algorithm: ip_hash`")
    hash_on = None if balancing is BROKEN else balancing.hash_on
    if hash_on not in (None, BROKEN) and hash_on.kind in _HASHED_BY:
        at = location.below("load_balancing", "hash_on")
        at.report(f"connections have no {hash_on.kind}", "expected `ip`", at_key=False)
    check = None if active is BROKEN else active.active
    if check not in (None, BROKEN) and check.type != "tcp":
        at = location.below("health_checks", "active")
        at.report(f"{scheme} targets do not speak HTTP", "expected `type: tcp`")
    elif check not in (None, BROKEN) and scheme == "udp" and check.port is None:
        at = location.below("health_checks", "active")
        at.report("udp targets cannot be checked by a connection", "expected the `port` of a TCP service beside it")
    if scheme == "udp":
        for name, default in _OF_CONNECTIONS.items():
            if getattr(upstream, name) not in (default, BROKEN):
                location.below(name).report("has no effect with udp targets", _NOWHERE)


def listeners_of_one_protocol(merged: Merged) -> None:
    """Check that listeners have all settings that their protocol needs, and no others."""
    schemes = {
        name: next(iter(_schemes(location, upstream)), "") for location, name, upstream in merged.whole("upstreams")
    }
    known = merged.maps["upstreams"]
    others: dict[str, str] = {}
    relayed = _relayed_to(merged)
    for upstream in relayed:
        if upstream in known and known[upstream][1] is not BROKEN and not schemes[upstream]:
            _check_relayed(*known[upstream])
    for location, name, listener in merged.whole("listeners"):
        if listener.protocol is BROKEN:
            continue
        if listener.protocol == "http":
            for key in ("upstream", "routes"):
                if getattr(listener, key) not in (None, (), BROKEN) and not _is_unknown_protocol(location):
                    meant = "tls" if key == "routes" else "tcp"
                    wrong = "has no effect with `protocol: http`, whose requests go by the routes at the top"
                    location.below(key).report(wrong, f"expected `protocol: {meant}`, or no `{key}`")
            continue
        others[name] = listener.protocol
        for at, upstream in _upstreams(location, listener):
            if known.get(upstream, (None, None))[1] is BROKEN:
                continue
            if upstream not in known:
                at.report(f"unknown upstream {format_value(upstream)}", suggest(upstream, known), at_key=False)
            elif schemes[upstream] not in ("", _TRANSPORT[listener.protocol]) or (
                listener.protocol == "udp" and not schemes[upstream] and known[upstream][1].targets
            ):
                wanted = _TRANSPORT[listener.protocol]
                wrong = f"the targets of {format_value(upstream)} are not {wanted}:// URLs"
                at.report(wrong, f"expected an upstream with {wanted} targets", at_key=False)
    _check_routes(merged, schemes, others, relayed)


def _upstreams(location: SourceLocation, listener: Any) -> Iterator[tuple[SourceLocation, Any]]:
    """Check the listener's own settings, and yield the upstreams that it names."""
    protocol = listener.protocol
    for key, default in _OF_HTTP.items():
        if getattr(listener, key) not in (default, BROKEN):
            location.below(key).report(f"has no effect with `protocol: {protocol}`", _NOWHERE)
    if listener.trusted_proxies not in ((), BROKEN) and listener.proxy_protocol == "off":
        at = location.below("trusted_proxies")
        at.report(f"has no effect with `protocol: {protocol}` alone", "expected `proxy_protocol: required` as well")
    if protocol == "udp":
        if listener.proxy_protocol == "required":
            location.below("proxy_protocol").report("has no effect with `protocol: udp`", _NOWHERE)
        if listener.address is not BROKEN and listener.address.path:
            location.below("address").report(
                "unix sockets are not supported for UDP", 'expected "host:port"', at_key=False
            )
    if protocol != "tcp" and listener.tls is not None:
        wrong = "`protocol: tls` passes TLS through as it is" if protocol == "tls" else "there is no TLS over UDP"
        location.below("tls").report(wrong, "expected `protocol: tcp` to terminate TLS")
    ends_tls = protocol == "tcp" and listener.tls is not None
    if protocol == "tls" or (ends_tls and listener.routes):
        if listener.upstream is not None:
            location.below("upstream").report(
                "has no effect with `protocol: tls`" if protocol == "tls" else "has no effect with `routes`",
                "expected `routes`; one without `sni` matches all other connections",
            )
        if not listener.routes:
            location.report("`protocol: tls` needs routes", "expected `routes: [{sni: [...], upstream: NAME}]`")
        for index, route in enumerate(() if listener.routes is BROKEN else listener.routes):
            if route is BROKEN:
                continue
            if ends_tls and route.passthrough is False and route.alpn not in ((), BROKEN):
                expected = "expected `passthrough: true`, or no `alpn`"
                location.below("routes", index, "alpn").report("has no effect with `protocol: tcp`", expected)
            if not ends_tls and route.passthrough is True:
                at = location.below("routes", index, "passthrough")
                at.report("has no effect with `protocol: tls`, which passes all TLS through", _NOWHERE)
            yield from _named(location.below("routes", index, "upstream"), route.upstream)
        routes = () if listener.routes is BROKEN else listener.routes
        if ends_tls and routes and all(route is not BROKEN and route.passthrough is True for route in routes):
            wrong = "has no effect: every route passes TLS through"
            location.below("tls").report(wrong, "expected `protocol: tls`, or a route without `passthrough`")
        return
    if listener.routes:
        expected = "expected `protocol: tls`, `tls`, or `upstream`" if protocol == "tcp" else "expected `upstream`"
        location.below("routes").report(f"has no effect with `protocol: {protocol}`", expected)
    if listener.upstream is None:
        location.report(f"`protocol: {protocol}` needs an upstream", "expected `upstream: NAME`")
    else:
        yield from _named(location.below("upstream"), listener.upstream)


def _is_unknown_protocol(location: SourceLocation) -> bool:
    """Whether a listener has an unknown protocol, which is reported already: the default stands in its place."""
    written = location.raw.get("protocol", "http")
    return written != "http" and not isinstance(written, dict)  # an environment variable may be "http"


def _named(at: SourceLocation, said: Any) -> Iterator[tuple[SourceLocation, str]]:
    """Yield the upstreams of connections, each with its position."""
    if isinstance(said, str):
        yield at, said
    elif said is not BROKEN:
        if not any(said.values()):
            at.report("all shares are 0", "expected at least one share above 0")
        yield from ((at.below(name), name) for name in said)


def _check_routes(merged: Merged, schemes: Schemes, others: Mapping[str, str], relayed: Mapping[str, str]) -> None:
    """Check that routes are on HTTP listeners and their upstreams have HTTP targets."""
    for location, route in merged.routes_to_validate():
        for index, name in enumerate(() if route.listeners is BROKEN else route.listeners):
            if name in others:
                at = location.below("listeners", index)
                at.report(
                    f"listener {format_value(name)} has `protocol: {others[name]}`, so it receives no requests",
                    at_key=False,
                )
        named = [*destinations_at(location, route)]
        if route.compose not in (None, BROKEN):
            parts = enumerate(() if route.compose.parts is BROKEN else route.compose.parts)
            named += [
                (location.below("compose", "parts", place, "upstream"), part.upstream)
                for place, part in parts
                if part is not BROKEN
            ]
        if route.lambda_ not in (None, BROKEN):
            named.append((location.below("lambda", "upstream"), route.lambda_.upstream))
        named += upstreams_of_events(location, route)
        if route.fallback not in (None, BROKEN):
            named.append((location.below("fallback", "upstream"), route.fallback.upstream))
        for at, upstream in named:
            if isinstance(upstream, str) and schemes.get(upstream, "") in ("tcp", "udp"):
                _report_no_requests(at, upstream, schemes[upstream])
            elif isinstance(upstream, str) and schemes.get(upstream) == "" and upstream in relayed:
                _report_relayed(at, upstream, relayed[upstream])


def destinations_at(location: SourceLocation, route: Route) -> Iterator[tuple[SourceLocation, str | Url]]:
    """Yield the upstreams of a route, each with its position."""
    if route.variants:
        variants: tuple[Any, ...] = route.variants
        for index, variant in enumerate(variants):
            if variant not in (None, BROKEN) and variant.upstream not in (None, BROKEN):
                yield location.below("variants", index, "upstream"), variant.upstream
    elif isinstance(route.upstream, Mapping):
        yield from ((location.below("upstream", each), each) for each in route.upstream)
    else:
        yield from ((location.below("upstream"), each) for each in route.destinations)


def upstreams_of_events(location: SourceLocation, route: Route) -> Iterator[tuple[SourceLocation, str | Url]]:
    """Yield the upstreams of a WebSocket API, each with its position."""
    api: Any = route.websocket_api
    if api in (None, BROKEN):
        return
    at = location.below("websocket_api")
    if api.upstream is not BROKEN:
        yield at.below("upstream"), api.upstream
    for key, event in {} if api.routes is BROKEN else api.routes.items():
        if event is not BROKEN and event.upstream not in (None, BROKEN):
            yield at.below("routes", key, "upstream"), event.upstream


def _relayed_to(merged: Merged) -> Mapping[str, str]:
    """Return the upstreams to which connections are relayed, each with the name of such a listener."""
    return {
        upstream: name
        for _, name, listener in merged.whole("listeners")
        if listener.protocol not in ("http", BROKEN) and BROKEN not in (listener.upstream, listener.routes)
        for said in (listener.upstream, *(route.upstream for route in listener.routes if route is not BROKEN))
        if said not in (None, BROKEN)
        for upstream in shares_of(said)
    }


def _check_relayed(location: SourceLocation, upstream: Any) -> None:
    """Check an upstream of unix sockets to which connections are relayed."""
    _check_transport(location, upstream, "tcp")
    for index, target in enumerate(() if upstream.targets is BROKEN else upstream.targets):
        if target is not BROKEN and target.url is not BROKEN and target.url.base_path:
            at = location.below("targets", index)
            at.report("connections that are relayed have no path", f"expected unix:{target.url.socket}", at_key=False)


def check_takes_requests(merged: Merged, at: SourceLocation, name: str) -> None:
    """Report an upstream that receives requests and whose targets do not speak HTTP."""
    location, upstream = merged.maps["upstreams"][name]
    for scheme in () if upstream is BROKEN else _schemes(location, upstream) & {"tcp", "udp"}:
        _report_no_requests(at, name, scheme)
    relayed = _relayed_to(merged)
    if upstream is not BROKEN and name in relayed and not _schemes(location, upstream):
        _report_relayed(at, name, relayed[name])


def _report_relayed(at: SourceLocation, name: str, listener: str) -> None:
    names = f"listener {format_value(listener)} relays connections to {format_value(name)}"
    wrong = f"{names}, so no requests can be sent there"
    at.report(wrong, "expected another upstream with the same targets", at_key=False)


def _report_no_requests(at: SourceLocation, name: str, scheme: str) -> None:
    wrong = f"the targets of {format_value(name)} are {scheme}:// URLs, which take no requests"
    at.report(wrong, "expected an upstream with http or https targets", at_key=False)
