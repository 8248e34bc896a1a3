"""Gateways and listeners while a cluster is translated, and the result of a translation."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, TypeVar

import msgspec

from fastgw.config.kubernetes.cluster import (
    GATEWAY_GROUP,
    KINDS,
    POLICY_GROUP,
    Cluster,
    ClusterObject,
    ObjectKey,
    selects,
)
from fastgw.config.kubernetes.conditions import Condition, condition
from fastgw.config.settings.kubernetes import KubernetesProvider
from fastgw.operator_log import described

Made = TypeVar("Made")
ObjectId = tuple[str, str, str]
"""Kind, namespace and name of an object."""
ListenerId = tuple[ObjectId, str]
"""Owner and name of a listener."""
Statuses = dict[ObjectId, dict[str, Any]]
"""Statuses to write, by object: the members of `status` that belong to the gateway. Entries of `parents` and
`ancestors` that belong to other controllers and installations are kept by the writer, and all others of this one are
removed."""


class Piece(msgspec.Struct, omit_defaults=True):
    """Part of the configuration, made from one object. Values are plain, as in a file."""

    object: str
    """Kind, namespace and name of the object, for notes: `HTTPRoute/shop/cart`."""
    listeners: dict[str, Any] = {}
    upstreams: dict[str, Any] = {}
    routes: list[dict[str, Any]] = []
    filter_sets: dict[str, Any] = {}
    consumers: list[dict[str, Any]] = []
    policies: dict[str, list[str]] = {}
    """Filter sets by listener: those of the policies of a Gateway, whose filters its listener has."""
    problem: str = ""
    """Reason for which the translation refuses the object; "" = it does not."""
    files: dict[str, str] = {}
    """Contents of derived files, by name (`virtual_files.kubernetes_name`)."""


@dataclass
class GatewayListener:
    """Listener of a Gateway or of a ListenerSet."""

    owner: ObjectId
    gateway: "ServedGateway"
    spec: ClusterObject
    name: str
    port: int
    protocol: str
    hostname: str
    """Hostname in lower case; "" = any."""
    entry: str = ""
    """Name of the listener of the configuration: one for each port of a Gateway."""
    kinds: tuple[str, ...] = ()
    """Kinds of routes that may attach."""
    accepted: str = ""
    """Reason why the listener is not accepted; "" = it is."""
    conflict: str = ""
    """Reason of a conflict; "" = none."""
    unresolved: str = ""
    """Reason why references are not resolved; "" = they are."""
    is_usable: bool = True
    """Whether its references allow it to serve."""
    message: str = ""
    certificates: list[tuple[str, str]] = field(default_factory=list)
    """Derived files of certificates and keys."""
    attached: int = 0
    """Number of attached routes."""

    @property
    def id(self) -> ListenerId:
        return self.owner, self.name

    @property
    def is_valid(self) -> bool:
        return not self.accepted and self.is_usable

    @property
    def passes_through(self) -> bool:
        """Whether TLS is passed through."""
        return (self.spec.get("tls") or {}).get("mode") == "Passthrough"

    def allows(self, namespace: str, cluster: Cluster) -> bool:
        """Whether routes of a namespace may attach."""
        said = (self.spec.get("allowedRoutes") or {}).get("namespaces") or {}
        return allows_namespace(said, said.get("from") or "Same", namespace, self.owner[1], cluster)

    def status(self, generation: int) -> dict[str, Any]:
        """Return its entry in the status of its owner."""
        problem = self.accepted or ("" if self.is_usable else "Invalid")

        def positive(kind: str, problem: str) -> Condition:
            return condition(kind, not problem, problem or kind, generation, self.message if problem else "")

        conditions = [
            positive("Accepted", self.accepted),
            positive("Programmed", problem),
            positive("ResolvedRefs", self.unresolved),
            condition("Conflicted", bool(self.conflict), self.conflict or "NoConflicts", generation),
        ]
        kinds = () if self.accepted in HIDING_KINDS else self.kinds
        return {
            "name": self.name,
            "supportedKinds": [{"group": GATEWAY_GROUP, "kind": kind} for kind in kinds],
            "attachedRoutes": self.attached,
            "conditions": conditions,
        }


HIDING_KINDS: Final = frozenset(("UnsupportedProtocol", "ProtocolConflict"))
"""Reasons for which a listener supports no kind of route."""


def allows_namespace(said: ClusterObject, which: str, namespace: str, own: str, cluster: Cluster) -> bool:
    """Whether a rule with `from` (`which`) and a `selector` allows a namespace. `own`: that of the object itself."""
    if which == "Selector":
        return selects(said.get("selector"), cluster.labels_of_namespace(namespace))
    return which == "All" or (which == "Same" and namespace == own)


@dataclass
class ServedGateway:
    """Gateway that is served."""

    key: ObjectKey
    item: ClusterObject
    listeners: list[GatewayListener] = field(default_factory=list)
    """Listeners of its own, then those of its ListenerSets."""
    address: str = ""
    """Address that its listeners are bound to; "" = all."""
    shown: list[dict[str, str]] = field(default_factory=list)
    """Addresses in its status."""
    refused: tuple[str, str] | None = None
    """Reason and message why it is not accepted."""
    unprogrammed: tuple[str, str] | None = None
    """Reason and message why it is not programmed."""
    unresolved: tuple[str, str] | None = None
    """Reason and message why references of its own are not resolved."""
    client_certificate: tuple[str, str] | None = None
    """Derived files of the certificate and key that backends are shown."""
    attached_sets: int = 0


@dataclass
class PortListener:
    """Listener of the configuration: a port of a Gateway."""

    name: str
    gateway: ServedGateway
    port: int
    """Port as in the specification."""
    bound: int
    """Port that is bound."""
    protocol: str
    listeners: list[GatewayListener] = field(default_factory=list)
    upstream: str | dict[str, int] | None = None
    """Upstream of a TCP or UDP listener, or several ones with their shares."""
    tls_routes: list[dict[str, Any]] = field(default_factory=list)
    """Routes of a TLS listener, in the terms of `listeners.*.routes`."""


@dataclass
class ManagedObject:
    """Object that the gateway creates and keeps for another one."""

    owner: ClusterObject
    body: dict[str, Any]


@dataclass(frozen=True)
class TranslatedRoute:
    """Everything that the translation of a route adds."""

    piece: Piece | None
    status: dict[str, Any]
    attached: tuple[ListenerId, ...]
    """Listeners that it is attached to."""
    upstreams: tuple[str, ...]
    policies: tuple[tuple[ObjectKey, ObjectKey], ...]
    """BackendTLSPolicies, each with the Gateway whose routes use it."""


Conflicts = Mapping[ListenerId, ObjectId]
"""Listeners on which a route is not accepted, each with a route that takes precedence."""


class RouteMemo:
    """Translations of HTTPRoutes and GRPCRoutes, reused while neither the route nor anything else has changed that a
    translation reads. Endpoints are no part of it: they are the targets of upstreams, which are always made again.
    """

    APART: Final = frozenset(("HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute", "EndpointSlice"))
    """Kinds that the translation of another route does not depend on, except for conflicts, which `find` compares."""

    def __init__(self) -> None:
        self.translated_count = 0
        """Number of routes that the last translation has not reused."""
        self.backends: dict[str, Any] = {}
        """Upstreams by name, without targets (`backends.BackendUpstream`)."""
        self._around: Mapping[str, Mapping[ObjectKey, ClusterObject]] = {}
        self._before: dict[ObjectId, tuple[ClusterObject, Conflicts, TranslatedRoute]] = {}
        self._now: dict[ObjectId, tuple[ClusterObject, Conflicts, TranslatedRoute]] = {}
        self._claims_before: dict[ObjectId, tuple[ClusterObject, Any]] = {}
        self._claims_now: dict[ObjectId, tuple[ClusterObject, Any]] = {}

    def begin_translation(self, cluster: Cluster) -> None:
        """Begin a translation. Objects that have not changed are identical to those of the last one."""
        around = {kind: cluster.all(kind) for kind in KINDS if kind not in self.APART}
        is_same = around == self._around
        self._before, self._claims_before = (self._now, self._claims_now) if is_same else ({}, {})
        if not self._before:
            self.backends = {}
        self._around, self._now, self._claims_now, self.translated_count = around, {}, {}, 0

    def find(self, id_: ObjectId, item: ClusterObject, conflicts: Conflicts) -> TranslatedRoute | None:
        held = self._before.get(id_)
        return held[2] if held is not None and held[0] is item and held[1] == conflicts else None

    def store(self, id_: ObjectId, item: ClusterObject, conflicts: Conflicts, made: TranslatedRoute) -> None:
        self._now[id_] = item, conflicts, made

    def find_claims(self, id_: ObjectId, item: ClusterObject) -> Any:
        """Return the hostnames of a route by listener (`route_conflicts.Claims`); None: they are not known."""
        held = self._claims_before.get(id_)
        return held[1] if held is not None and held[0] is item else None

    def store_claims(self, id_: ObjectId, item: ClusterObject, claims: Any) -> None:
        self._claims_now[id_] = item, claims


class Elsewhere:
    """Objects that belong to another installation (`installations`), which writes their statuses and what other
    statuses say of them. `namespaces`: those that are read, () = all: nothing is known of objects in others.
    """

    def __init__(self, namespaces: Collection[str] = ()) -> None:
        self._namespaces = namespaces
        self.objects: set[ObjectId] = set()

    def has(self, id_: ObjectId) -> bool:
        return id_ in self.objects or bool(self._namespaces and id_[1] and id_[1] not in self._namespaces)


def id_in(reference: ClusterObject, namespace: str) -> ObjectId:
    """Return the object that a reference to a parent or target names. `namespace`: of the object that refers."""
    return reference.get("kind") or "Gateway", reference.get("namespace") or namespace, reference.get("name") or ""


@dataclass
class TranslationContext:
    """State of one translation."""

    cluster: Cluster
    settings: KubernetesProvider
    gateways: dict[ObjectKey, ServedGateway] = field(default_factory=dict)
    sets: dict[ObjectKey, tuple[ClusterObject, list[GatewayListener]]] = field(default_factory=dict)
    """ListenerSets that are attached, with their listeners."""
    entries: dict[str, PortListener] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    statuses: Statuses = field(default_factory=dict)
    children: list[ManagedObject] = field(default_factory=list)
    warnings: dict[ObjectId, str] = field(default_factory=dict)
    """Problems of objects for Events: of those without conditions, and of those in `failed`."""
    failed: set[ObjectId] = field(default_factory=set)
    """Objects whose translation has failed."""
    elsewhere: Elsewhere = field(default_factory=Elsewhere)
    withdrawn: set[ObjectId] = field(default_factory=set)
    """Objects whose parent no longer exists: their status replaces one that they have, and is never the first."""
    upstreams: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Upstreams by name, in the terms of settings."""
    files: dict[str, str] = field(default_factory=dict)
    """Contents of derived files."""
    policies: dict[ObjectKey, Any] = field(default_factory=dict)
    """BackendTLSPolicies (`backend_tls.Policy`)."""
    policy_of: dict[tuple[str, str, str], Any] = field(default_factory=dict)
    """The policy in force by namespace and name of a Service, and name of a port, "" for all."""
    conflicted: dict[tuple[str, str, str], list[Any]] = field(default_factory=dict)
    """Policies that conflict with the one in force."""
    policy_ancestors: dict[ObjectKey, set[ObjectKey]] = field(default_factory=dict)
    """Gateways whose routes use a BackendTLSPolicy, by policy."""

    conflicts: dict[ObjectId, dict[ListenerId, ObjectId]] = field(default_factory=dict)
    """Conflicts of routes (`Conflicts`), by route."""
    own_namespace: str = ""
    """Namespace of the gateway's own pods."""
    memo: RouteMemo = field(default_factory=RouteMemo)
    """Translations of routes that may be reused."""
    used_upstreams: list[str] = field(default_factory=list)
    """Upstreams that the route which is being translated uses."""
    used_policies: list[tuple[ObjectKey, ObjectKey]] = field(default_factory=list)
    """BackendTLSPolicies that it uses, each with a Gateway."""
    assigned_ports: dict[tuple[str, str, int], int] = field(default_factory=dict)
    """Ports of the pods by namespace and name of a ServedGateway, and port."""

    filter_sets: dict[ObjectId, str] = field(default_factory=dict)
    """Filter sets of policies that routes may refer to, by object: names in the configuration."""

    def filter_set_of(self, reference: ClusterObject, namespace: str) -> str:
        """Return the filter set that an `extensionRef` names; "" = there is none."""
        if reference.get("group") != POLICY_GROUP:
            return ""
        return self.filter_sets.get((reference.get("kind") or "", namespace, reference.get("name") or ""), "")

    def add_piece(self, of: str, **parts: Any) -> None:
        self.pieces.append(Piece(of, **parts))

    def contain(self, id_: ObjectId, translate: Callable[..., Made], *arguments: Any) -> Made | None:
        """Return the result of a step in the translation of an object; None: it has failed, and the object is refused.
        A value that the translation does not expect must not stop the other objects.
        """
        try:
            return translate(*arguments)
        except Exception as error:  # a defect in the translation of one object is a problem of this object
            self._refuse_failed(id_, f"it cannot be translated: {described(error)}")
            return None

    def _refuse_failed(self, id_: ObjectId, why: str) -> None:
        if id_ not in self.failed:
            self.failed.add(id_)
            self.add_piece("/".join(id_), problem=why)
            if KINDS[id_[0]].namespaced:
                self.warnings[id_] = why

    @cached_property
    def listeners_by_id(self) -> Mapping[ListenerId, GatewayListener]:
        """Listeners of all Gateways and ListenerSets."""
        return {each.id: each for gateway in self.gateways.values() for each in gateway.listeners}

    def listeners_of(self, kind: str, key: ObjectKey) -> list[GatewayListener] | None:
        """Return the listeners of a parent; None: it is none of this gateway's."""
        if kind == "ListenerSet":
            return self.sets[key][1] if key in self.sets else None
        gateway = self.gateways.get(key)
        return None if gateway is None else [each for each in gateway.listeners if each.owner[0] == "Gateway"]


@dataclass(frozen=True)
class Translation:
    """Result of a translation."""

    pieces: list[Piece]
    statuses: Mapping[ObjectId, dict[str, Any]]
    children: list[ManagedObject]
    warnings: Mapping[ObjectId, str]
    """Problems of objects for Events."""
    elsewhere: Elsewhere
    withdrawn: Collection[ObjectId]


def parent_condition(reason: str, generation: int, message: str = "") -> Condition:
    """Return the condition `Accepted` of a route at a parent. `reason`: "" = it is accepted."""
    return condition("Accepted", not reason, reason or "Accepted", generation, message)
