"""Gateway and ListenerSet: listeners, their conflicts, certificates and statuses."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from fastgw.config.kubernetes import addresses, references
from fastgw.config.kubernetes.cluster import GATEWAY_GROUP, ClusterObject, age_of, generation_of, key_of
from fastgw.config.kubernetes.conditions import Condition, condition
from fastgw.config.kubernetes.model import (
    GatewayListener,
    PortListener,
    ServedGateway,
    TranslationContext,
    allows_namespace,
    id_in,
)
from fastgw.config.kubernetes.references import UnresolvedReference

KINDS_OF: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "HTTP": ("HTTPRoute", "GRPCRoute"),
        "HTTPS": ("HTTPRoute", "GRPCRoute"),
        "TLS": ("TLSRoute",),
        "TCP": ("TCPRoute",),
        "UDP": ("UDPRoute",),
    }
)
"""Kinds of routes by the protocol of a listener."""
_HAVE_TLS: Final = ("HTTPS", "TLS")


def translate(context: TranslationContext, classes: frozenset[str]) -> None:
    """Add the Gateways of these classes with their listeners, and the listeners of the configuration."""
    for item in context.cluster.oldest_first("Gateway"):
        if (item.get("spec") or {}).get("gatewayClassName") in classes:
            context.gateways[key_of(item)] = ServedGateway(key_of(item), item)
    addresses.assign(context)
    for gateway in context.gateways.values():
        context.contain(("Gateway", *gateway.key), _read_gateway, gateway, context)
    _add_sets(context)
    for gateway in context.gateways.values():
        for listener in gateway.listeners:
            if not listener.accepted:
                _add_entry(gateway, listener, context)


def _read_gateway(gateway: ServedGateway, context: TranslationContext) -> None:
    _check(gateway, context)
    own = _listeners("Gateway", gateway.item, gateway, context)
    _find_conflicts((), own, together=True)
    gateway.listeners += own


def _check(gateway: ServedGateway, context: TranslationContext) -> None:
    """Check the settings of a Gateway outside of its listeners."""
    spec = gateway.item["spec"]
    if (spec.get("infrastructure") or {}).get("parametersRef") is not None:
        gateway.refused = "InvalidParameters", "infrastructure.parametersRef is not supported"
    reference = ((spec.get("tls") or {}).get("backend") or {}).get("clientCertificateRef")
    if reference is not None:
        try:
            gateway.client_certificate = references.certificate_of(
                reference, "Gateway", gateway.key[0], context, "InvalidClientCertificateRef"
            )
        except UnresolvedReference as error:
            gateway.unresolved = error.reason, str(error)


def _listeners(
    kind: str, item: ClusterObject, gateway: ServedGateway, context: TranslationContext
) -> list[GatewayListener]:
    namespace, name = key_of(item)
    made = []
    for spec in (item.get("spec") or {}).get("listeners") or ():
        listener = GatewayListener(
            owner=(kind, namespace, name),
            gateway=gateway,
            spec=spec,
            name=spec["name"],
            port=spec["port"],
            protocol=spec["protocol"],
            hostname=(spec.get("hostname") or "").lower(),
        )
        _read(listener, context)
        made.append(listener)
    return made


def _read(listener: GatewayListener, context: TranslationContext) -> None:
    supported = KINDS_OF.get(listener.protocol)
    if supported is None:
        listener.accepted = "UnsupportedProtocol"
        listener.message = f"protocol {listener.protocol} is not supported; expected {', '.join(KINDS_OF)}"
        return
    listener.kinds = _kinds(listener, supported)
    tls = listener.spec.get("tls") or {}
    if listener.protocol in _HAVE_TLS and not listener.passes_through:
        try:
            for reference in tls.get("certificateRefs") or ():
                listener.certificates.append(
                    references.certificate_of(reference, listener.owner[0], listener.owner[1], context)
                )
            if not listener.certificates:
                raise UnresolvedReference("InvalidCertificateRef", "no certificateRefs")
        except UnresolvedReference as error:
            listener.unresolved, listener.message, listener.is_usable = error.reason, str(error), False
    if listener.protocol == "HTTPS":
        if listener.passes_through:
            listener.accepted, listener.message = "UnsupportedValue", "HTTPS ends TLS: expected mode Terminate"
        _read_client_validation(listener, context)


def _kinds(listener: GatewayListener, supported: tuple[str, ...]) -> tuple[str, ...]:
    """Return the kinds of routes that may attach."""
    asked = (listener.spec.get("allowedRoutes") or {}).get("kinds")
    if not asked:
        return supported
    known = [each["kind"] for each in asked if each.get("group", GATEWAY_GROUP) == GATEWAY_GROUP]
    kinds = tuple(kind for kind in known if kind in supported)
    if len(kinds) < len(asked):
        listener.unresolved, listener.message = "InvalidRouteKinds", "allowedRoutes has an unsupported kind"
        listener.is_usable = bool(kinds)
    return kinds


def client_validation(gateway: ServedGateway, port: int) -> ClusterObject | None:
    """Return the settings by which client certificates are verified at a port."""
    frontend = ((gateway.item["spec"].get("tls") or {}).get("frontend")) or {}
    for each in frontend.get("perPort") or ():
        if each["port"] == port:
            validation: ClusterObject | None = (each.get("tls") or {}).get("validation")
            return validation
    default: ClusterObject | None = (frontend.get("default") or {}).get("validation")
    return default


def _read_client_validation(listener: GatewayListener, context: TranslationContext) -> None:
    validation = client_validation(listener.gateway, listener.port)
    if validation is None:
        return
    asked = validation.get("caCertificateRefs") or []
    text, problem = references.authorities_of(asked, "Gateway", listener.gateway.key[0], context)
    if problem is not None:
        listener.unresolved, listener.message = problem.reason, str(problem)
    if not text:
        listener.accepted, listener.is_usable = "NoValidCACertificate", False


# conflicts


def _find_conflicts(before: Iterable[GatewayListener], listeners: list[GatewayListener], *, together: bool) -> None:
    """Refuse listeners that conflict with one in `before`, or with each other. `together`: all of those that conflict
    with each other are refused, not only the later ones.
    """
    held = [each for each in before if not each.accepted]
    for listener in listeners:
        if listener.accepted:
            continue
        for other in held:
            reason = _conflict(listener, other)
            if reason:
                _refuse(listener, reason)
                if together:
                    _refuse(other, reason)
                break
        if together or not listener.accepted:
            held.append(listener)


def _refuse(listener: GatewayListener, reason: str) -> None:
    listener.accepted = listener.conflict = reason
    listener.message = "another listener has this port"


def _conflict(one: GatewayListener, other: GatewayListener) -> str:
    if one.port != other.port or (one.protocol == "UDP") != (other.protocol == "UDP"):
        return ""
    if one.protocol != other.protocol:
        return "ProtocolConflict"
    return "HostnameConflict" if one.hostname == other.hostname else ""


# ListenerSets


def _add_sets(context: TranslationContext) -> None:
    for item in sorted(context.cluster.all("ListenerSet").values(), key=age_of):
        id_ = "ListenerSet", *key_of(item)
        context.contain(id_, _add_set, item, context)
        if id_ in context.failed:
            context.statuses[id_] = _not_accepted(item, "Invalid", "Invalid", "it cannot be translated")


def _add_set(item: ClusterObject, context: TranslationContext) -> None:
    namespace, name = key_of(item)
    parent_id = id_in(item["spec"]["parentRef"], namespace)
    gateway = context.gateways.get(parent_id[1:])
    if gateway is None or parent_id[0] != "Gateway":
        if context.cluster.get(*parent_id) is None and not context.elsewhere.has(parent_id):
            context.withdrawn.add(("ListenerSet", namespace, name))
            why = "ParentNotAccepted", "ParentNotProgrammed", "the Gateway does not exist"
            context.statuses["ListenerSet", namespace, name] = {**_not_accepted(item, *why), "listeners": []}
        return
    said = (gateway.item["spec"].get("allowedListeners") or {}).get("namespaces") or {}
    if not allows_namespace(said, said.get("from") or "None", namespace, gateway.key[0], context.cluster):
        why = "NotAllowed", "NotAllowed", "the Gateway does not allow it"
        context.statuses["ListenerSet", namespace, name] = _not_accepted(item, *why)
        return
    listeners = _listeners("ListenerSet", item, gateway, context)
    _find_conflicts(gateway.listeners, listeners, together=False)
    gateway.listeners += listeners
    gateway.attached_sets += any(each.is_valid for each in listeners)
    context.sets[namespace, name] = item, listeners


def _not_accepted(item: ClusterObject, accepted: str, programmed: str, why: str) -> dict[str, Any]:
    """Return the conditions of a ListenerSet that is not accepted, with the reasons."""
    generation = generation_of(item)
    return {
        "conditions": [
            condition("Accepted", False, accepted, generation, why),
            condition("Programmed", False, programmed, generation, why),
        ]
    }


def _add_entry(gateway: ServedGateway, listener: GatewayListener, context: TranslationContext) -> None:
    """Add a listener to the one of the configuration for its port."""
    if gateway.refused or gateway.unprogrammed:
        return
    kind = "udp/" if listener.protocol == "UDP" else ""
    name = f"gateway/{gateway.key[0]}/{gateway.key[1]}/{kind}{listener.port}"
    bound = addresses.bound_port(gateway, listener.port, context)
    if bound is None:
        listener.accepted, listener.message = "PortUnavailable", "the port cannot be bound"
        return
    listener.entry = name
    entry = context.entries.get(name)
    if entry is None:
        entry = context.entries[name] = PortListener(name, gateway, listener.port, bound, listener.protocol)
    entry.listeners.append(listener)


# statuses, once routes are attached


def add_statuses(context: TranslationContext) -> None:
    """Add the statuses of all Gateways and ListenerSets."""
    for (namespace, name), gateway in context.gateways.items():
        own = [each for each in gateway.listeners if each.owner[0] == "Gateway"]
        generation = generation_of(gateway.item)
        status: dict[str, Any] = {
            "conditions": _conditions(gateway, own, generation),
            "listeners": [each.status(generation) for each in own],
            "addresses": gateway.shown,
            "attachedListenerSets": gateway.attached_sets,
        }
        context.statuses["Gateway", namespace, name] = status
    for (namespace, name), (item, listeners) in context.sets.items():
        generation = generation_of(item)
        accepted, reason, message = _accepted(listeners)
        programmed = any(each.is_valid for each in listeners)
        context.statuses["ListenerSet", namespace, name] = {
            "conditions": [
                condition("Accepted", accepted, reason, generation, message),
                condition("Programmed", programmed, "Programmed" if programmed else "ListenersNotValid", generation),
            ],
            "listeners": [each.status(generation) for each in listeners],
        }


def _accepted(listeners: list[GatewayListener]) -> tuple[bool, str, str]:
    """Return status, reason and message of the condition of the owner of listeners."""
    invalid = [each.name for each in listeners if not each.is_valid]
    if not invalid:
        return True, "Accepted", ""
    return (
        len(invalid) < len(listeners),
        "ListenersNotValid",
        f"see the conditions of the listeners {', '.join(invalid)}",
    )


def _conditions(gateway: ServedGateway, own: list[GatewayListener], generation: int) -> list[Condition]:
    accepted, reason, message = _accepted(own)
    if gateway.refused is not None:
        accepted, (reason, message) = False, gateway.refused
    found = [condition("Accepted", accepted, reason, generation, message)]
    programmed, reason, message = accepted, "Programmed" if accepted else "Invalid", "" if accepted else message
    if accepted and gateway.unprogrammed is not None:
        programmed, (reason, message) = False, gateway.unprogrammed
    found.append(condition("Programmed", programmed, reason, generation, message))
    if gateway.unresolved is not None:
        found.append(condition("ResolvedRefs", False, gateway.unresolved[0], generation, gateway.unresolved[1]))
    else:
        found.append(condition("ResolvedRefs", True, "ResolvedRefs", generation))
    if any(is_insecure(gateway, each.port) for each in own if each.protocol == "HTTPS"):
        found.append(condition("InsecureFrontendValidationMode", True, "ConfigurationChanged", generation))
    return found


def is_insecure(gateway: ServedGateway, port: int) -> bool:
    """Whether clients may connect with an invalid certificate, or none."""
    validation = client_validation(gateway, port)
    return validation is not None and validation.get("mode") == "AllowInsecureFallback"


# listeners of the configuration


def add_listeners(context: TranslationContext) -> None:
    """Add the pieces with the listeners of the configuration, once routes are attached."""
    for entry in context.entries.values():
        id_ = "Gateway", *entry.gateway.key
        if not context.contain(id_, _add_listener, entry, context):  # its routes are served on their other listeners
            context.add_piece("/".join(id_), listeners={entry.name: {}})


def _add_listener(entry: PortListener, context: TranslationContext) -> bool:
    settings = _settings(entry, context)
    if settings is not None:
        files = {name: context.files[name] for name in _files_of(settings)}
        context.add_piece("/".join(("Gateway", *entry.gateway.key)), listeners={entry.name: settings}, files=files)
    return True


def _settings(entry: PortListener, context: TranslationContext) -> dict[str, Any] | None:
    """Return the settings of a listener; None: it cannot serve."""
    host = entry.gateway.address
    shown = f"[{host}]" if ":" in host else host
    settings: dict[str, Any] = {"address": f"{shown}:{entry.bound}"}
    usable = [each for each in entry.listeners if each.is_valid]
    if not usable:
        return None
    if entry.protocol in ("TCP", "UDP"):
        if entry.upstream is None:
            return None
        return {**settings, "protocol": entry.protocol.lower(), "upstream": entry.upstream}
    if entry.protocol == "TLS":
        if not entry.tls_routes:
            return None
        if all("passthrough" in route for route in entry.tls_routes):
            routes = [{key: each[key] for key in each if key != "passthrough"} for each in entry.tls_routes]
            return {**settings, "protocol": "tls", "routes": routes}
        ending = [each for each in usable if not each.passes_through]
        return {**settings, "protocol": "tcp", "tls": _tls(entry, ending, context), "routes": entry.tls_routes}
    if entry.protocol == "HTTPS":
        settings["tls"] = _tls(entry, usable, context)
        groups = [[each.hostname] for each in usable if each.hostname]
        if groups:
            settings["filters"] = {"misdirected": {"groups": groups}}
    else:
        settings["protocols"] = ["http1", "http2"]
    return settings


def _tls(entry: PortListener, usable: list[GatewayListener], context: TranslationContext) -> dict[str, Any]:
    certificates = []
    for listener in sorted(usable, key=lambda each: not each.hostname):
        for certificate, key in listener.certificates:
            hosts = {"hosts": [listener.hostname]} if listener.hostname else {}
            certificates.append({"certificate": certificate, "key": key, **hosts})
    tls: dict[str, Any] = {"certificates": certificates}
    validation = client_validation(entry.gateway, entry.port)
    if validation is not None and not is_insecure(entry.gateway, entry.port):
        namespace, name = entry.gateway.key
        text, _ = references.authorities_of(validation.get("caCertificateRefs") or [], "Gateway", namespace, context)
        file = references.add_authorities(text, namespace, f"{name}/{entry.port}", "Gateway", context)
        tls["client_auth"] = {"mode": "required", "ca": file}
    return tls


def _files_of(settings: dict[str, Any]) -> list[str]:
    tls = settings.get("tls") or {}
    files = [each[part] for each in tls.get("certificates", ()) for part in ("certificate", "key")]
    return files + ([tls["client_auth"]["ca"]] if "client_auth" in tls else [])
