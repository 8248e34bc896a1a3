"""Attachment of routes to listeners, the same for all kinds of routes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastgw.config.kubernetes.cluster import CONTROLLER, GATEWAY_GROUP, ClusterObject, generation_of, key_of
from fastgw.config.kubernetes.conditions import Condition
from fastgw.config.kubernetes.hostnames import covers, intersection
from fastgw.config.kubernetes.model import GatewayListener, ObjectId, TranslationContext, parent_condition

PARENTS = frozenset(("Gateway", "ListenerSet"))


@dataclass
class Attachment:
    """A parent of a route."""

    reference: dict[str, Any]
    """The parent reference as in the status."""
    condition: Condition
    hosts: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Hostnames by the index of the listener in `listeners`; () = any."""
    listeners: list[GatewayListener] = field(default_factory=list)
    """Listeners that the route attaches to."""

    def status(self, *others: Condition) -> dict[str, Any]:
        """Return the entry of `status.parents`. `others`: further conditions."""
        return {
            "parentRef": self.reference,
            "controllerName": CONTROLLER,
            "conditions": [self.condition, *others],
        }


def attach(item: ClusterObject, kind: str, context: TranslationContext) -> list[Attachment]:
    """Return the attachments of a route to parents that are served here, in the order of its references."""
    spec = item.get("spec") or {}
    namespace = item["metadata"]["namespace"]
    hostnames = [each.lower() for each in spec.get("hostnames") or ()]
    found = []
    for reference in spec.get("parentRefs") or ():
        parent_kind = reference.get("kind") or "Gateway"
        if parent_kind not in PARENTS or reference.get("group", GATEWAY_GROUP) != GATEWAY_GROUP:
            continue
        key = reference.get("namespace") or namespace, reference["name"]
        listeners = context.listeners_of(parent_kind, key)
        if listeners is None:
            continue
        found.append(_attached(item, kind, reference, listeners, hostnames, context))
    return found


def add_status_of_failed(id_: ObjectId, item: ClusterObject, context: TranslationContext) -> None:
    """Add the status of a route whose translation has failed, in which `refusals` writes the reason."""
    attachments = context.contain(id_, attach, item, id_[0], context) or ()
    context.statuses[id_] = {"parents": [each.status() for each in attachments]}


def _attached(
    item: ClusterObject,
    kind: str,
    reference: ClusterObject,
    listeners: Sequence[GatewayListener],
    hostnames: Sequence[str],
    context: TranslationContext,
) -> Attachment:
    namespace = item["metadata"]["namespace"]
    generation = generation_of(item)
    section, port = reference.get("sectionName"), reference.get("port")
    shown = {"group": GATEWAY_GROUP, "kind": "Gateway", **reference}

    def refused(reason: str, message: str) -> Attachment:
        return Attachment(shown, parent_condition(reason, generation, message))

    matching = [each for each in listeners if section in (None, each.name) and port in (None, each.port)]
    if not matching:
        return refused("NoMatchingParent", "no listener has this sectionName and port")
    allowed = [each for each in matching if kind in each.kinds and each.allows(namespace, context.cluster)]
    if not allowed:
        return refused("NotAllowedByListeners", "no listener allows routes of this kind and namespace")
    attachment = Attachment(shown, parent_condition("", generation))
    conflicts = context.conflicts.get((kind, *key_of(item)), {})
    first: ObjectId | None = None
    for listener in allowed:
        hosts = hosts_on(listener, hostnames)
        if hosts is None:
            continue
        if listener.id in conflicts:
            first = first or conflicts[listener.id]
            continue
        attachment.hosts[len(attachment.listeners)] = hosts
        attachment.listeners.append(listener)
    if first is not None and not attachment.listeners:
        return refused(
            "HostnameConflict", f"the {first[0]} {first[1]}/{first[2]} has a hostname in common, and is first"
        )
    if not attachment.listeners:
        return refused("NoMatchingListenerHostname", "no hostname matches that of a listener")
    return attachment


def hosts_on(listener: GatewayListener, hostnames: Sequence[str]) -> tuple[str, ...] | None:
    """Return the hostnames of a route on a listener; () = any; None: it has none there."""
    if not hostnames:
        return (listener.hostname,) if listener.hostname else ()
    found = [host for each in hostnames if (host := intersection(listener.hostname, each)) is not None]
    return tuple(dict.fromkeys(found)) or None


def isolated(listener: GatewayListener, hosts: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the hosts that are served by this listener, and by no more specific one at the same port. None: none."""
    if not hosts:
        return hosts
    others = [
        each.hostname
        for each in listener.gateway.listeners
        if each.entry == listener.entry
        and each.hostname != listener.hostname
        and each.is_valid
        and covers(listener.hostname, each.hostname)
    ]
    kept = tuple(host for host in hosts if not any(covers(other, host) for other in others))
    return kept or None
