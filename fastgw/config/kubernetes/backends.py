"""Backends of routes: Services become upstreams, and the endpoints of their EndpointSlices the targets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from fastgw.config.kubernetes import backend_tls
from fastgw.config.kubernetes.cluster import GATEWAY_GROUP, ClusterObject, key_of
from fastgw.config.kubernetes.model import ServedGateway, TranslationContext
from fastgw.config.settings.upstreams import MOST_LISTED
from fastgw.config.sources.target_addresses import target_url

PROTOCOLS: Final[Mapping[str, str]] = MappingProxyType(
    {"kubernetes.io/h2c": "http2", "kubernetes.io/ws": "http1", "grpc": "grpc", "kubernetes.io/wss": "http1"}
)
"""Protocol of an upstream by the `appProtocol` of a Service."""
_LARGEST_SHARE: Final = 1_000_000
_url_of: Final = lru_cache(65_536)(target_url)
"""URLs of endpoints: all of a Service are listed again after each change of one."""


@dataclass(frozen=True)
class Backend:
    """Backend of a route."""

    weight: int
    upstream: str = ""
    """Name of its upstream; "" = requests for it are answered 500."""
    reason: str = ""
    """Reason why the reference is not resolved; "" = it is."""
    message: str = ""


class BackendUpstream(NamedTuple):
    """Upstream of a port of a Service. `settings`: without its targets."""

    service: ClusterObject
    port: ClusterObject
    scheme: str
    settings: dict[str, Any]


def resolve(
    reference: ClusterObject,
    kind: str,
    namespace: str,
    context: TranslationContext,
    *,
    scheme: str = "http",
    protocol: str = "auto",
    gateway: ServedGateway | None = None,
) -> Backend:
    """Return the backend that a reference of a route names. `kind`, `namespace`: of the route. `scheme`: of targets
    without a BackendTLSPolicy; `protocol`: of the upstream, unless the Service has an `appProtocol`. `gateway`: whose
    certificate targets with TLS are shown.
    """
    weight = 1 if reference.get("weight") is None else int(reference["weight"])
    if reference.get("group") or reference.get("kind", "Service") != "Service":
        return Backend(weight, reason="InvalidKind", message="a backend is a Service")
    where, name = reference.get("namespace") or namespace, reference["name"]
    if not context.cluster.is_granted((GATEWAY_GROUP, kind, namespace), ("", "Service", where, name)):
        message = f"no ReferenceGrant permits the Service {where}/{name}"
        return Backend(weight, reason="RefNotPermitted", message=message)
    service = context.cluster.get("Service", where, name)
    if service is None:
        return Backend(weight, reason="BackendNotFound", message=f"the Service {where}/{name} does not exist")
    transport = "UDP" if scheme == "udp" else "TCP"
    port = _port_of(service, reference.get("port"), transport)
    if port is None:
        why = _why_no_port(service, reference.get("port"), transport)
        return Backend(weight, reason="BackendNotFound", message=f"the Service {where}/{name} {why}")
    said = port.get("appProtocol") or ""
    if said in PROTOCOLS:
        protocol = PROTOCOLS[said]
    policy = backend_tls.policy_for(where, name, port.get("name") or "", context)
    tls: dict[str, Any] | None = None
    parts = [where, name, str(port["port"])]
    if policy is not None:
        if gateway is not None:
            context.policy_ancestors.setdefault(policy.key, set()).add(gateway.key)
            context.used_policies.append((policy.key, gateway.key))
        if policy.settings is None:
            return Backend(weight, message="its BackendTLSPolicy is not valid")
        tls, scheme = {**policy.settings}, {"http": "https"}.get(scheme, scheme)
        if gateway is not None and gateway.client_certificate is not None:
            tls["certificate"], tls["key"] = gateway.client_certificate
            parts += ["of", *gateway.key]
    elif scheme == "https":
        tls = {"server_name": f"{name}.{where}.svc"}
        parts.append(scheme)
    if scheme not in ("http", "https"):
        parts.append(scheme)
    if protocol != "auto":
        parts.append(protocol)
    upstream = "/".join(parts)
    if upstream not in context.memo.backends:
        settings: dict[str, Any] = {}
        if scheme in ("http", "https"):
            settings["host_header"] = "preserve"
        if protocol != "auto":
            settings["protocol"] = protocol
        if tls is not None:
            settings["tls"] = tls
        context.memo.backends[upstream] = BackendUpstream(service, port, scheme, settings)
    add_upstream(upstream, context)
    context.used_upstreams.append(upstream)
    return Backend(weight, upstream)


def add_upstream(name: str, context: TranslationContext) -> None:
    """Add the upstream of a backend with its present targets."""
    if name not in context.upstreams:
        made: BackendUpstream = context.memo.backends[name]
        targets = targets_of(made.service, made.port, made.scheme, context)
        context.upstreams[name] = {"targets": targets, **made.settings}


def shares(weighted: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Return upstreams with their shares, from those of backends, several of which may have one upstream."""
    found: dict[str, int] = {}
    for upstream, weight in weighted:
        found[upstream] = found.get(upstream, 0) + weight
    largest = max(found.values(), default=0)
    if largest <= _LARGEST_SHARE:
        return found
    return {upstream: max(1, share * _LARGEST_SHARE // largest) for upstream, share in found.items()}


def _port_of(service: ClusterObject, said: int | str | None, transport: str) -> ClusterObject | None:
    """Return a port of a Service by its number or name; `said` None: its only one. `transport`: its protocol, because
    ports of TCP and UDP may have one number.
    """
    ports = [each for each in _ports_of(service) if _transport_of(each) == transport]
    if said is None:
        return ports[0] if len(ports) == 1 else None
    return next((each for each in ports if said in (each["port"], each.get("name"))), None)


def _ports_of(service: ClusterObject) -> list[ClusterObject]:
    ports: list[ClusterObject] = (service.get("spec") or {}).get("ports") or []
    return ports


def _transport_of(port: ClusterObject) -> str:
    return port.get("protocol") or "TCP"


def _why_no_port(service: ClusterObject, said: int | str | None, transport: str) -> str:
    ports = [
        f"{each['port']}/{_transport_of(each)}" + (f' ("{each["name"]}")' if each.get("name") else "")
        for each in _ports_of(service)
    ]
    has = f"it has {', '.join(ports) or 'none'}"
    return f"has no {transport} port {said}; {has}" if said is not None else f"needs the number of a port; {has}"


def targets_of(
    service: ClusterObject, port: ClusterObject, scheme: str, context: TranslationContext
) -> list[dict[str, Any]]:
    """Return the ready endpoints of a port of a Service; those that still serve while they end, if no other is.

    Of more than an upstream may have, the first ones by address are used, the same in all replicas: the last list would
    soon name pods that are gone.
    """
    ready: set[str] = set()
    ending: set[str] = set()
    name = port.get("name") or ""
    for each in context.cluster.slices.get(key_of(service), ()):
        id_ = "EndpointSlice", *key_of(each)
        unusable = context.contain(id_, _add_targets, each, name, scheme, ready, ending)
        if unusable:
            context.warnings.setdefault(
                id_, f"endpoints without a valid address are left out, such as {unusable[:100]}"
            )
    found = sorted(ready or ending)
    if len(found) > MOST_LISTED:
        why = f"more than {MOST_LISTED} ready endpoints; the first {MOST_LISTED} by address get requests"
        context.warnings.setdefault(("Service", *key_of(service)), why)
    return [{"url": url} for url in found[:MOST_LISTED]]


def _add_targets(endpoints: ClusterObject, port: str, scheme: str, ready: set[str], ending: set[str]) -> str:
    """Add the URLs of the endpoints of an EndpointSlice, and return one of the addresses that are left out; "": none
    is. `port`: name of the port; one without a number has none.
    """
    if endpoints.get("addressType", "IPv4") == "FQDN":
        return ""
    ports = endpoints.get("ports") or ()
    number = next((each.get("port") for each in ports if (each.get("name") or "") == port), None)
    if number is None:
        return ""
    unusable = ""
    for endpoint in endpoints.get("endpoints") or ():
        conditions = endpoint.get("conditions") or {}
        urls: list[str] = []
        for address in endpoint.get("addresses") or ():
            url = _url_of(scheme, address, number)
            if url is None:
                unusable = unusable or f"{address}:{number}"
            else:
                urls.append(url)
        if conditions.get("ready") is not False:
            ready.update(urls)
        elif conditions.get("serving"):
            ending.update(urls)
    return unusable


def add_upstreams(context: TranslationContext) -> None:
    """Add the pieces with the upstreams, once all routes are translated."""
    for name, settings in context.upstreams.items():
        namespace, service, *_ = name.split("/")
        tls = settings.get("tls") or {}
        files = {tls[part]: context.files[tls[part]] for part in ("ca", "certificate", "key") if part in tls}
        context.add_piece(f"Service/{namespace}/{service}", upstreams={name: settings}, files=files)
