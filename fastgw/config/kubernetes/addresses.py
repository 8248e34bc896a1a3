"""Addresses and ports of Gateways.

With a pool each Gateway has an address of its own. With a Service it has a Service of its own (`Child`), whose ports
are mapped to ports of the pods: what is assigned is found in the cluster again, so that all replicas agree and nothing
moves when a replica starts.
"""

import hashlib
from typing import Any, Final

from fastgw.config.kubernetes.cluster import GATEWAY_GROUP, ClusterObject
from fastgw.config.kubernetes.model import ManagedObject, ServedGateway, TranslationContext

FIRST_PORT: Final = 20_000
"""First port of pods that is assigned."""
LAST_PORT: Final = 29_999
GATEWAY_NAME: Final = f"{GATEWAY_GROUP}/gateway-name"
"""Label of objects that belong to a Gateway."""
MANAGED_BY: Final = {"app.kubernetes.io/managed-by": "fastgw"}
_SERVICE: Final = "kubernetes.io/service-name"
_LABEL_MAX: Final = 63


def shortened(text: str) -> str:
    """Return a text that is at most as long as a label's value, with a hash of what was left out."""
    if len(text) <= _LABEL_MAX:
        return text
    return f"{text[: _LABEL_MAX - 9].rstrip('-.')}-{_hash(text)}"


def service_name(gateway: ServedGateway) -> str:
    """Return the name of the Service of a Gateway. Names with dots have a hash: `a.b` must not have that of `a-b`."""
    name = gateway.key[1]
    return shortened(f"fastgw-{name}" if "." not in name else f"fastgw-{name.replace('.', '-')}-{_hash(name)}")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def assign(context: TranslationContext) -> None:
    """Assign an address to each Gateway."""
    if context.settings.addresses.pool:
        _assign_pool(context)
        return
    for gateway in context.gateways.values():
        if any(each.get("type", "IPAddress") not in ("IPAddress", "Hostname") for each in _asked(gateway)):
            gateway.refused = "UnsupportedAddress", "expected an address of type IPAddress"
        service = context.cluster.get("Service", gateway.key[0], service_name(gateway))
        gateway.shown = [] if service is None else _addresses_of(service)
        wanted = {each["value"] for each in _asked(gateway) if each.get("value")}
        if wanted - {each["value"] for each in gateway.shown}:
            gateway.unprogrammed = "AddressNotUsable", "the Service of the Gateway has other addresses"
        elif not gateway.shown:
            gateway.unprogrammed = "AddressNotAssigned", "its Service has no address yet"


def _asked(gateway: ServedGateway) -> list[ClusterObject]:
    return gateway.item["spec"].get("addresses") or []


def _addresses_of(service: ClusterObject) -> list[dict[str, str]]:
    found = []
    for each in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ():
        kind = "IPAddress" if each.get("ip") else "Hostname"
        found.append({"type": kind, "value": each.get("ip") or each.get("hostname") or ""})
    spec = service.get("spec") or {}
    if not found and spec.get("type") != "LoadBalancer":
        found = [{"type": "IPAddress", "value": each} for each in (spec.get("clusterIP"),) if each and each != "None"]
    return found


def _assign_pool(context: TranslationContext) -> None:
    pool = context.settings.addresses.addresses
    if context.cluster.all("Ingress") or context.cluster.all("IngressClass"):
        pool = pool[:-1]  # Ingresses are served at the last one
    known = frozenset(pool)
    taken: set[str] = set()
    left = []
    for gateway in context.gateways.values():
        asked = _asked(gateway)
        if any(each.get("type", "IPAddress") != "IPAddress" for each in asked):
            gateway.refused = "UnsupportedAddress", "expected addresses of type IPAddress"
            continue
        values = [each["value"] for each in asked if each.get("value")]
        if not values:
            left.append(gateway)
        elif len(values) > 1 or values[0] not in known or values[0] in taken:
            gateway.unprogrammed = "AddressNotUsable", "expected one free address of the pool"
        else:
            _assign_address(gateway, values[0], taken)
    unassigned = []
    for gateway in left:
        before = [each.get("value") for each in (gateway.item.get("status") or {}).get("addresses") or ()]
        held = next((value for value in before if value in known and value not in taken), None)
        if held is not None:
            _assign_address(gateway, held, taken)
        else:
            unassigned.append(gateway)
    free = (value for value in pool if value not in taken)
    for gateway in unassigned:
        value = next(free, None)
        if value is None:
            gateway.unprogrammed = "NoResources", "all addresses of the pool are in use"
        else:
            gateway.address, gateway.shown = value, [{"type": "IPAddress", "value": value}]


def _assign_address(gateway: ServedGateway, value: str, taken: set[str]) -> None:
    taken.add(value)
    gateway.address, gateway.shown = value, [{"type": "IPAddress", "value": value}]


def bound_port(gateway: ServedGateway, port: int, context: TranslationContext) -> int | None:
    """Return the port that is bound for one of a Gateway; None: there is none."""
    if context.settings.addresses.pool:
        bound = port + context.settings.port_offset
        return bound if bound <= 65_535 else None
    assigned = context.assigned_ports
    key = *gateway.key, port
    if not assigned:
        _find_assigned(context)
    if key not in assigned:
        taken = set(assigned.values())
        free = next((each for each in range(FIRST_PORT, LAST_PORT) if each not in taken), None)
        if free is None:
            return None
        assigned[key] = free
    return assigned[key]


def _find_assigned(context: TranslationContext) -> None:
    """Find the ports that the Services of the Gateways have. Tenants may write those: another port, or that of an older
    Gateway, is not taken over.
    """
    taken: set[int] = set()
    for each in context.gateways.values():
        service = context.cluster.get("Service", each.key[0], service_name(each))
        ports: dict[int, int] = {}
        for said in ((service or {}).get("spec") or {}).get("ports") or ():
            target = said.get("targetPort")
            if isinstance(target, int) and FIRST_PORT <= target < LAST_PORT and target not in taken:
                ports[said["port"]] = target
        taken.update(ports.values())
        context.assigned_ports.update({(*each.key, port): target for port, target in ports.items()})


def add_children(context: TranslationContext) -> None:
    """Add the Services of the Gateways, and the EndpointSlices that lead them to the pods."""
    for gateway in context.gateways.values():
        context.contain(("Gateway", *gateway.key), _add_service, gateway, context)


def _add_service(gateway: ServedGateway, context: TranslationContext) -> None:
    infrastructure = gateway.item["spec"].get("infrastructure") or {}
    labels = {
        **(infrastructure.get("labels") or {}),
        **MANAGED_BY,
        GATEWAY_NAME: shortened(gateway.key[1]),
    }
    metadata: dict[str, Any] = {"namespace": gateway.key[0], "name": service_name(gateway), "labels": labels}
    if infrastructure.get("annotations"):
        metadata["annotations"] = dict(infrastructure["annotations"])
    ports = _ports(gateway, context)
    if not ports:
        return
    spec: dict[str, Any] = {"ports": ports}
    if context.settings.addresses.pool:
        spec["clusterIP"] = "None"
    else:
        own = context.cluster.get("Service", context.own_namespace, context.settings.addresses.service or "")
        spec["type"] = ((own or {}).get("spec") or {}).get("type") or "ClusterIP"
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    context.children.append(ManagedObject(gateway.item, service))
    if not context.settings.addresses.pool:
        context.children.append(ManagedObject(gateway.item, _slice(metadata, ports, context)))


def _ports(gateway: ServedGateway, context: TranslationContext) -> list[dict[str, Any]]:
    ports: dict[tuple[str, int], dict[str, Any]] = {}
    for listener in gateway.listeners:
        if listener.accepted:
            continue
        bound = bound_port(gateway, listener.port, context)
        protocol = "UDP" if listener.protocol == "UDP" else "TCP"
        if bound is not None:
            ports[protocol, listener.port] = {
                "name": f"{protocol.lower()}-{listener.port}",
                "port": listener.port,
                "protocol": protocol,
                "targetPort": bound,
            }
    return list(ports.values())


def _slice(metadata: dict[str, Any], ports: list[dict[str, Any]], context: TranslationContext) -> dict[str, Any]:
    addresses: list[str] = []
    for each in context.cluster.slices.get((context.own_namespace, context.settings.addresses.service or ""), ()):
        if each.get("addressType", "IPv4") != "IPv4":
            continue
        for endpoint in each.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is not False:
                addresses += endpoint.get("addresses") or ()
    labels = {**metadata["labels"], _SERVICE: metadata["name"]}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"namespace": metadata["namespace"], "name": metadata["name"], "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [each]} for each in sorted(set(addresses))],
        "ports": [{"name": each["name"], "port": each["targetPort"], "protocol": each["protocol"]} for each in ports],
    }
