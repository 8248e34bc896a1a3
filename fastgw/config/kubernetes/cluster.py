"""Kinds of Kubernetes objects that the provider reads, and the known objects of a cluster.

Objects are plain JSON values as the API server sends them. They are never changed: an object that is the same has not
changed since the last translation.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, Final, NamedTuple

ClusterObject = Mapping[str, Any]
ObjectKey = tuple[str, str]
"""Namespace ("" for kinds without) and name."""

GATEWAY_GROUP: Final = "gateway.networking.k8s.io"
POLICY_GROUP: Final = "fastgw.dev"
CONTROLLER: Final = "fastgw.dev/gateway-controller"
"""`controllerName` of the GatewayClasses that belong to the gateway."""
INGRESS_CONTROLLER: Final = "fastgw.dev/ingress-controller"
"""`controller` of the IngressClasses that belong to the gateway."""
_SERVICE_NAME: Final = "kubernetes.io/service-name"
_SECRETS_READ: Final = ",".join(
    f"type!={each}"
    for each in (
        "helm.sh/release.v1",
        "kubernetes.io/service-account-token",
        "bootstrap.kubernetes.io/token",
        "kubernetes.io/dockercfg",
        "kubernetes.io/dockerconfigjson",
        "kubernetes.io/ssh-auth",
    )
)
"""Field selector of the Secrets that an object may refer to. Releases of Helm alone may be more than is read."""


class ObjectKind(NamedTuple):
    """ObjectKind of object."""

    name: str
    group: str
    version: str
    plural: str
    namespaced: bool = True
    optional: bool = False
    """Whether a cluster may lack the kind: its definition is not installed."""
    status: bool = False
    """Whether the gateway writes its status."""
    field_selector: str = ""
    """Field selector of the objects that are read; "" = all."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Return the path of the objects, or of one."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        within = f"/namespaces/{namespace}" if namespace else ""
        return "/".join(filter(None, (f"{root}{within}/{self.plural}", name, subresource)))


KINDS: Final[Mapping[str, ObjectKind]] = MappingProxyType(
    {
        each.name: each
        for each in (
            ObjectKind("Namespace", "", "v1", "namespaces", namespaced=False),
            ObjectKind("Service", "", "v1", "services"),
            ObjectKind("EndpointSlice", "discovery.k8s.io", "v1", "endpointslices"),
            ObjectKind("Secret", "", "v1", "secrets", field_selector=_SECRETS_READ),
            ObjectKind("ConfigMap", "", "v1", "configmaps"),
            ObjectKind("GatewayClass", GATEWAY_GROUP, "v1", "gatewayclasses", False, True, True),
            ObjectKind("Gateway", GATEWAY_GROUP, "v1", "gateways", True, True, True),
            ObjectKind("ListenerSet", GATEWAY_GROUP, "v1", "listenersets", True, True, True),
            ObjectKind("HTTPRoute", GATEWAY_GROUP, "v1", "httproutes", True, True, True),
            ObjectKind("GRPCRoute", GATEWAY_GROUP, "v1", "grpcroutes", True, True, True),
            ObjectKind("TLSRoute", GATEWAY_GROUP, "v1", "tlsroutes", True, True, True),
            ObjectKind("TCPRoute", GATEWAY_GROUP, "v1", "tcproutes", True, True, True),
            ObjectKind("UDPRoute", GATEWAY_GROUP, "v1", "udproutes", True, True, True),
            ObjectKind("ReferenceGrant", GATEWAY_GROUP, "v1beta1", "referencegrants", True, True),
            ObjectKind("BackendTLSPolicy", GATEWAY_GROUP, "v1", "backendtlspolicies", True, True, True),
            ObjectKind("Ingress", "networking.k8s.io", "v1", "ingresses", True, False, True),
            ObjectKind("IngressClass", "networking.k8s.io", "v1", "ingressclasses", False),
            ObjectKind("FastgwPolicy", POLICY_GROUP, "v1", "fastgwpolicies", True, True, True),
            ObjectKind("FastgwConsumer", POLICY_GROUP, "v1", "fastgwconsumers", True, True, True),
        )
    }
)
"""Every kind that is watched, by name."""

_DROPPED: Final = frozenset(("managedFields", "ownerReferences", "selfLink"))
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


def trimmed(kind: str, item: dict[str, Any]) -> dict[str, Any]:
    """Return an object without what no translation reads."""
    metadata = item.get("metadata") or {}
    kept = {key: value for key, value in metadata.items() if key not in _DROPPED}
    if _LAST_APPLIED in (kept.get("annotations") or {}):
        kept["annotations"] = {key: value for key, value in kept["annotations"].items() if key != _LAST_APPLIED}
    item["metadata"] = kept
    item["kind"] = kind
    return item


def key_of(item: ClusterObject) -> ObjectKey:
    metadata = item["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def generation_of(item: ClusterObject) -> int:
    generation: int = item["metadata"].get("generation") or 1
    return generation


def age_of(item: ClusterObject) -> tuple[str, str, str]:
    """Return the precedence of an object among conflicting ones: the oldest first, then by namespace and name."""
    metadata = item["metadata"]
    return metadata.get("creationTimestamp") or "", metadata.get("namespace") or "", metadata["name"]


class Cluster:
    """The known objects of a cluster, at one time."""

    def __init__(self, objects: Mapping[str, Mapping[ObjectKey, ClusterObject]]) -> None:
        """`objects`: by kind."""
        self._objects = objects

    @classmethod
    def of(cls, items: Iterable[ClusterObject]) -> "Cluster":
        """Return the cluster of these objects, each with its `kind`."""
        objects: dict[str, dict[ObjectKey, ClusterObject]] = {}
        for item in items:
            objects.setdefault(item["kind"], {})[key_of(item)] = item
        return cls(objects)

    def get(self, kind: str, namespace: str, name: str) -> ClusterObject | None:
        """Return an object; None: it does not exist."""
        return self._objects.get(kind, {}).get((namespace, name))

    def all(self, kind: str) -> Mapping[ObjectKey, ClusterObject]:
        return self._objects.get(kind, {})

    def oldest_first(self, kind: str) -> list[ClusterObject]:
        """Return the objects of a kind in their order of precedence."""
        return sorted(self.all(kind).values(), key=age_of)

    @cached_property
    def slices(self) -> Mapping[ObjectKey, list[ClusterObject]]:
        """EndpointSlices by namespace and name of their Service."""
        found: dict[ObjectKey, list[ClusterObject]] = {}
        for key, item in sorted(self.all("EndpointSlice").items()):
            service = (item["metadata"].get("labels") or {}).get(_SERVICE_NAME)
            if service:
                found.setdefault((key[0], service), []).append(item)
        return found

    @cached_property
    def grants(self) -> Mapping[str, list[ClusterObject]]:
        """ReferenceGrants by namespace."""
        found: dict[str, list[ClusterObject]] = {}
        for (namespace, _), item in self.all("ReferenceGrant").items():
            found.setdefault(namespace, []).append(item)
        return found

    def is_granted(self, of: tuple[str, str, str], to: tuple[str, str, str, str]) -> bool:
        """Whether an object may refer to another one: it is in the same namespace, or a ReferenceGrant permits it.

        `of`: group, kind and namespace; `to`: group, kind, namespace and name.
        """
        group, kind, namespace, name = to
        if of[2] == namespace:
            return True
        return any(_permits(grant, of, group, kind, name) for grant in self.grants.get(namespace, ()))

    def labels_of_namespace(self, namespace: str) -> Mapping[str, str]:
        item = self.get("Namespace", "", namespace)
        return {} if item is None else item["metadata"].get("labels") or {}


def _permits(grant: ClusterObject, of: tuple[str, str, str], group: str, kind: str, name: str) -> bool:
    spec = grant.get("spec") or {}
    source = any((each.get("group", ""), each["kind"], each["namespace"]) == of for each in spec.get("from") or ())
    return source and any(
        (each.get("group", ""), each["kind"]) == (group, kind) and each.get("name") in (None, "", name)
        for each in spec.get("to") or ()
    )


_OPERATORS: Final[Mapping[str, Callable[[str | None, Collection[str | None]], bool]]] = MappingProxyType(
    {
        "In": lambda value, values: value in values,
        "NotIn": lambda value, values: value not in values,
        "Exists": lambda value, values: value is not None,
        "DoesNotExist": lambda value, values: value is None,
    }
)


def selects(selector: ClusterObject | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects these labels. None selects nothing, an empty one everything."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for each in selector.get("matchExpressions") or ():
        meets = _OPERATORS.get(each["operator"])
        if meets is None or not meets(labels.get(each["key"]), each.get("values") or ()):
            return False
    return True
