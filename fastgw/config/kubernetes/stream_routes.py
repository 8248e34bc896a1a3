"""TLSRoute, TCPRoute and UDPRoute: listeners and routes of connections and datagrams.

Each backend of a rule is an upstream, with its share of the connections. Where a backend cannot be used, or has no
endpoint, its connections are reset and its datagrams dropped: they never go to another backend.
"""

from typing import Any, Final

from fastgw.config.kubernetes import backends
from fastgw.config.kubernetes.attachment import add_status_of_failed, attach, isolated
from fastgw.config.kubernetes.backends import Backend
from fastgw.config.kubernetes.cluster import ClusterObject, generation_of, key_of
from fastgw.config.kubernetes.conditions import Condition, condition
from fastgw.config.kubernetes.model import GatewayListener, ServedGateway, TranslationContext
from fastgw.config.settings.gateway import shares_of

NO_TARGETS: Final = "kubernetes/no-targets"
"""Upstream of connections that no TLSRoute matches, and of backends that cannot be used."""

Upstreams = str | dict[str, int]
"""Upstream of a route, or several ones with their shares."""
Served = tuple[Upstreams, list[tuple[GatewayListener, tuple[str, ...]]]]
"""Upstreams of a route, and the listeners that serve it with its hostnames there."""


def translate_tls(context: TranslationContext) -> None:
    """Add the routes of TLS listeners, which select an upstream by the server name of the ClientHello."""
    for item in context.cluster.oldest_first("TLSRoute"):
        upstream, served = _contained(item, "TLSRoute", "tcp", context)
        for listener, hosts in served:
            names = isolated(listener, hosts)
            if names is None:
                continue
            route: dict[str, Any] = {"upstream": upstream}
            if listener.passes_through:
                route["passthrough"] = True
            if names:
                route["sni"] = list(names)
            context.entries[listener.entry].tls_routes.append(route)
    _refuse_others(context)


def _refuse_others(context: TranslationContext) -> None:
    """Reset connections with another server name: the Gateway API wants an end without an alert."""
    entries = [each for each in context.entries.values() if each.tls_routes]
    for entry in entries:
        if all("sni" in route for route in entry.tls_routes):
            passes_some = any("passthrough" in route for route in entry.tls_routes)  # then before a handshake
            entry.tls_routes.append({"upstream": NO_TARGETS} | ({"passthrough": True} if passes_some else {}))


def translate_tcp(context: TranslationContext) -> None:
    """Add the upstreams of TCP listeners."""
    _translate_listeners("TCPRoute", "tcp", context)


def translate_udp(context: TranslationContext) -> None:
    """Add the upstreams of UDP listeners."""
    _translate_listeners("UDPRoute", "udp", context)


def add_no_targets(context: TranslationContext) -> None:
    """Add the upstream without targets, if anything uses it."""
    for entry in context.entries.values():
        said = [each["upstream"] for each in entry.tls_routes]
        said += [] if entry.upstream is None else [entry.upstream]
        if any(NO_TARGETS in shares_of(each) for each in said):
            context.add_piece("Gateway", upstreams={NO_TARGETS: {"targets": []}})
            return


def _translate_listeners(kind: str, scheme: str, context: TranslationContext) -> None:
    for item in context.cluster.oldest_first(kind):
        upstream, served = _contained(item, kind, scheme, context)
        for listener, _ in served:
            entry = context.entries[listener.entry]
            if entry.upstream is None:  # the oldest route counts, newer ones are attached without traffic
                entry.upstream = upstream


def _contained(item: ClusterObject, kind: str, scheme: str, context: TranslationContext) -> Served:
    id_ = kind, *key_of(item)
    made = context.contain(id_, _translate_route, item, kind, scheme, context)
    if made is None:
        add_status_of_failed(id_, item, context)
        return NO_TARGETS, []
    return made


def _translate_route(item: ClusterObject, kind: str, scheme: str, context: TranslationContext) -> Served:
    """Add the upstreams and status of a route. Returns the upstreams, and the listeners that serve the route with the
    hostnames there.
    """
    namespace, name = key_of(item)
    attachments = attach(item, kind, context)
    if not attachments:
        context.statuses[kind, namespace, name] = {"parents": []}
        return NO_TARGETS, []
    served: dict[int, tuple[GatewayListener, tuple[str, ...]]] = {}
    attached: dict[int, GatewayListener] = {}
    for attachment in attachments:
        for position, listener in enumerate(attachment.listeners):
            attached[id(listener)] = listener
            if listener.entry and listener.is_valid:
                served[id(listener)] = listener, attachment.hosts[position]
    for listener in attached.values():
        listener.attached += 1
    gateway = next((listener.gateway for listener, _ in served.values()), None)
    upstreams, resolved = _upstreams(item, kind, scheme, context, gateway)
    context.statuses[kind, namespace, name] = {"parents": [each.status(resolved) for each in attachments]}
    return upstreams, list(served.values())


def _upstreams(
    item: ClusterObject, kind: str, scheme: str, context: TranslationContext, gateway: ServedGateway | None
) -> tuple[Upstreams, Condition]:
    """Return the upstreams of a route, and the condition `ResolvedRefs`. `gateway`: that serves the route."""
    namespace, _ = key_of(item)
    found: list[Backend] = []
    for rule in ((item.get("spec") or {}).get("rules") or ())[:1]:  # the specification allows one
        for reference in rule.get("backendRefs") or ():
            found.append(backends.resolve(reference, kind, namespace, context, scheme=scheme, gateway=gateway))
    wrong = next((each for each in found if each.reason), None)
    generation = generation_of(item)
    if wrong is None:
        resolved = condition("ResolvedRefs", True, "ResolvedRefs", generation)
    else:
        resolved = condition("ResolvedRefs", False, wrong.reason, generation, wrong.message)
    shares = backends.shares((each.upstream or NO_TARGETS, each.weight) for each in found if each.weight)
    if len(shares) > 1:
        return shares, resolved
    return next(iter(shares), NO_TARGETS), resolved
