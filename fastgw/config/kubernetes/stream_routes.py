"""TLSRoute, TCPRoute and UDPRoute: listeners and routes of connections and datagrams.

A rule with several backends becomes one upstream with the endpoints of all of them, weighted so that each backend gets
its share whatever its number of endpoints. A route without a usable backend has an upstream without targets: its
connections are reset.
"""

from typing import Any, Final

from fastgw.config.kubernetes import backends
from fastgw.config.kubernetes.attachment import attach, isolated
from fastgw.config.kubernetes.backends import Backend
from fastgw.config.kubernetes.cluster import ClusterObject, generation_of, key_of
from fastgw.config.kubernetes.conditions import Condition, condition
from fastgw.config.kubernetes.model import GatewayListener, TranslationContext

NO_TARGETS: Final = "kubernetes/no-targets"
"""Upstream of connections that no TLSRoute matches."""
MOST_WEIGHT: Final = 1000
"""Maximum weight of a target."""


def translate_tls(context: TranslationContext) -> None:
    """Add the routes of TLS listeners, which select an upstream by the server name of the ClientHello."""
    for item in context.cluster.oldest_first("TLSRoute"):
        upstream, served = _translate_route(item, "TLSRoute", "tcp", context)
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
    if entries:
        context.add_piece("TLSRoute", upstreams={NO_TARGETS: {"targets": []}})


def translate_tcp(context: TranslationContext) -> None:
    """Add the upstreams of TCP listeners."""
    _translate_listeners("TCPRoute", "tcp", context)


def translate_udp(context: TranslationContext) -> None:
    """Add the upstreams of UDP listeners."""
    _translate_listeners("UDPRoute", "udp", context)


def _translate_listeners(kind: str, scheme: str, context: TranslationContext) -> None:
    for item in context.cluster.oldest_first(kind):
        upstream, served = _translate_route(item, kind, scheme, context)
        for listener, _ in served:
            entry = context.entries[listener.entry]
            if entry.upstream is None:  # the oldest route counts, newer ones are attached without traffic
                entry.upstream = upstream


def _translate_route(
    item: ClusterObject, kind: str, scheme: str, context: TranslationContext
) -> tuple[str, list[tuple[GatewayListener, tuple[str, ...]]]]:
    """Add the upstream and status of a route. Returns the upstream's name, and the listeners that serve the route with
    the hostnames there.
    """
    namespace, name = key_of(item)
    attachments = attach(item, kind, context)
    if not attachments:
        context.statuses[kind, namespace, name] = {"parents": []}
        return "", []
    served: dict[int, tuple[GatewayListener, tuple[str, ...]]] = {}
    attached: dict[int, GatewayListener] = {}
    for attachment in attachments:
        for position, listener in enumerate(attachment.listeners):
            attached[id(listener)] = listener
            if listener.entry and listener.is_valid:
                served[id(listener)] = listener, attachment.hosts[position]
    for listener in attached.values():
        listener.attached += 1
    upstream, resolved = _upstream(item, kind, scheme, context, [listener for listener, _ in served.values()])
    context.statuses[kind, namespace, name] = {"parents": [each.status(resolved) for each in attachments]}
    return upstream, list(served.values())


def _upstream(
    item: ClusterObject, kind: str, scheme: str, context: TranslationContext, listeners: list[GatewayListener]
) -> tuple[str, Condition]:
    """Return the name of the upstream of a route, and the condition `ResolvedRefs`."""
    namespace, name = key_of(item)
    gateway = listeners[0].gateway if listeners else None
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
    usable = [each for each in found if each.upstream and each.weight]
    if len(usable) == 1:
        return usable[0].upstream, resolved
    merged = f"{kind}/{namespace}/{name}"
    if listeners:
        settings = _merged([(context.upstreams[each.upstream], each.weight) for each in usable])
        files = [value for key, value in (settings.get("tls") or {}).items() if key in ("ca", "certificate", "key")]
        context.add_piece(merged, upstreams={merged: settings}, files={each: context.files[each] for each in files})
    return merged, resolved


def _merged(weighted: list[tuple[dict[str, Any], int]]) -> dict[str, Any]:
    """Return an upstream with the targets of several ones, each with its share of the connections."""
    shares = [(each["targets"], weight / len(each["targets"])) for each, weight in weighted if each["targets"]]
    largest = max((share for _, share in shares), default=1.0)
    targets: dict[str, int] = {}
    for of_backend, share in shares:
        for target in of_backend:
            weight = max(1, round(share / largest * MOST_WEIGHT))
            targets[target["url"]] = min(MOST_WEIGHT, targets.get(target["url"], 0) + weight)
    settings: dict[str, Any] = {"targets": [{"url": url, "weight": weight} for url, weight in targets.items()]}
    settings["load_balancing"] = {"algorithm": "random"}
    tls = next((each["tls"] for each, _ in weighted if "tls" in each), None)
    return settings if tls is None else {**settings, "tls": tls}
