"""Ingress (networking.k8s.io/v1): rules become routes on two listeners, for HTTP and HTTPS.

Each Ingress is a piece of its own, so that one with problems does not affect others. Among equal hosts and paths the
oldest Ingress counts, and for the certificates of a host, too.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from fastgw.config.base.problems import suggest
from fastgw.config.kubernetes import backends, references
from fastgw.config.kubernetes.cluster import INGRESS_CONTROLLER, POLICY_GROUP, ClusterObject, ObjectKey, key_of
from fastgw.config.kubernetes.model import TranslationContext
from fastgw.config.kubernetes.references import UnresolvedReference
from fastgw.net.pem import decoded, dns_names

KIND: Final = "Ingress"
HTTP: Final = "ingress/80"
"""Listener of all Ingresses."""
HTTPS: Final = "ingress/443"
"""Listener of all Ingresses with certificates."""
POD_PORTS: Final[Mapping[int, int]] = MappingProxyType({80: 8080, 443: 8443})
"""Ports of the pods that the Service of the gateway maps the ports of Ingresses to."""
_CLASS: Final = "kubernetes.io/ingress.class"
_DEFAULT: Final = "ingressclass.kubernetes.io/is-default-class"
_UNAVAILABLE: Final = {"respond": {"status": 503}}
"""Action of paths whose Service does not exist."""
_ON: Final = "true"
_SERVER: Final = {"server": {"type": "headers", "response": {"set": {"Server": "fastgw"}}}}
"""Filter of the listeners: clients of an Ingress expect `Server` (ingress-controller-conformance)."""


def translate(context: TranslationContext) -> None:
    """Add the listeners, routes and statuses of Ingresses."""
    served = [item for item in context.cluster.oldest_first(KIND) if is_served(item, context)]
    if not served and not _has_class(context):
        return
    certificates = _Certificates()
    for item in served:
        context.contain((KIND, *key_of(item)), certificates.read, item, context)
    address = address_of(context)
    listeners: dict[str, Any] = {
        HTTP: {"address": _bound(address, 80, context), "protocols": ["http1", "http2"], "filters": _SERVER}
    }
    files: dict[str, str] = {}
    if certificates.hosts_of:
        pairs = [
            {"certificate": certificate, "key": key, **({"hosts": hosts} if hosts else {})}
            for (certificate, key), hosts in certificates.hosts_of.items()
        ]
        listeners[HTTPS] = {
            "address": _bound(address, 443, context),
            "tls": {"certificates": pairs},
            "filters": _SERVER,
        }
        files = {name: context.files[name] for pair in certificates.hosts_of for name in pair}
    context.add_piece(KIND, listeners=listeners, files=files)
    shown = _shown(address, context)
    for item in served:
        id_ = KIND, *key_of(item)
        context.contain(id_, _add_routes, item, context, HTTPS in listeners)
        context.statuses[id_] = {"loadBalancer": {"ingress": shown} if shown else {}}


def _add_routes(item: ClusterObject, context: TranslationContext, has_tls: bool) -> None:
    made = _IngressRoutes(item, context, has_tls)
    routes, problem = made.routes(), made.problem()
    if routes:
        context.add_piece("/".join((KIND, *key_of(item))), routes=routes, problem=problem)


def is_served(item: ClusterObject, context: TranslationContext) -> bool:
    """Whether an Ingress belongs to the class of the gateway."""
    wanted = context.settings.ingress_class
    said = (item.get("spec") or {}).get("ingressClassName")
    item_class = context.cluster.get("IngressClass", "", wanted)
    is_ours = _has_class(context)
    if said is not None:
        return is_ours and said == wanted
    if class_of(item) is not None:
        return class_of(item) == wanted
    return is_ours and item_class is not None and (item_class["metadata"].get("annotations") or {}).get(_DEFAULT) == _ON


def class_of(item: ClusterObject) -> str | None:
    """Return the class that an Ingress names; None: it is of the default class."""
    said: str | None = (item.get("spec") or {}).get("ingressClassName")
    return said if said is not None else (item["metadata"].get("annotations") or {}).get(_CLASS)


def _has_class(context: TranslationContext) -> bool:
    """Whether the cluster has the IngressClass of the gateway: then its listener exists without Ingresses, too."""
    item = context.cluster.get("IngressClass", "", context.settings.ingress_class)
    return item is not None and (item.get("spec") or {}).get("controller") == INGRESS_CONTROLLER


# addresses


def address_of(context: TranslationContext) -> str:
    """Return the address that Ingresses are served at: the last one of the pool; "" = all of the pod."""
    pool = context.settings.addresses.addresses
    return pool[-1] if pool else ""


def _bound(address: str, port: int, context: TranslationContext) -> str:
    shown = f"[{address}]" if ":" in address else address
    return f"{shown}:{port + context.settings.port_offset if address else POD_PORTS[port]}"


def _shown(address: str, context: TranslationContext) -> list[dict[str, str]]:
    """Return the addresses in the status of Ingresses."""
    if address:
        return [{"ip": address}]
    service = context.cluster.get("Service", context.own_namespace, context.settings.addresses.service or "") or {}
    found = [
        {key: each[key] for key in ("ip", "hostname") if each.get(key)}
        for each in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    ]
    own = (service.get("spec") or {}).get("clusterIP")
    return found or ([{"ip": own}] if own and own != "None" else [])


# certificates

Pair = tuple[str, str]
"""Derived files of a certificate and its key."""


@dataclass
class _Certificates:
    """Certificates of Ingresses. A host has the certificates of the oldest Ingress that names it in `spec.tls`: a newer
    one of another tenant must neither replace them nor add one that clients prefer.
    """

    hosts_of: dict[Pair, list[str] | None] = field(default_factory=dict)
    """Hosts by pair; None: the names in the certificate."""
    _owners: dict[str, tuple[ObjectKey, set[str]]] = field(default_factory=dict)
    """Ingress and its certificates by host."""

    def read(self, item: ClusterObject, context: TranslationContext) -> None:
        """Add the certificates of an Ingress; all older ones have been added. Secrets without a valid certificate, and
        hosts of an older Ingress with other certificates, are left out, with a warning.
        """
        for each in (item.get("spec") or {}).get("tls") or ():
            if not each.get("secretName"):
                continue
            said = [host.lower() for host in each.get("hosts") or ()]
            try:
                pair = references.certificate_of({"name": each["secretName"]}, KIND, key_of(item)[0], context)
            except UnresolvedReference as error:
                context.warnings.setdefault((KIND, *key_of(item)), f"spec.tls: {error}")
                self._take_hosts(said, "", item)
                continue
            text = context.files[pair[0]]
            own, others = self._take_hosts(said or _names_in(text), text, item)
            if others:
                why = f"spec.tls: an older Ingress has another certificate for {', '.join(others)}"
                context.warnings.setdefault((KIND, *key_of(item)), why)
            self._add(pair, own if said or others else None)

    def _take_hosts(self, hosts: Iterable[str], text: str, item: ClusterObject) -> tuple[list[str], list[str]]:
        """Return the hosts that a certificate is for, and those that are of an older Ingress with other ones."""
        own: list[str] = []
        others: list[str] = []
        for host in hosts:
            owner, texts = self._owners.setdefault(host, (key_of(item), set()))
            if owner == key_of(item):
                texts.add(text)
            (own if text in texts else others).append(host)
        return own, others

    def _add(self, pair: Pair, hosts: list[str] | None) -> None:
        held = self.hosts_of.get(pair, [])
        if hosts is None or held is None:
            self.hosts_of[pair] = None
        elif hosts:
            self.hosts_of[pair] = [*dict.fromkeys([*held, *hosts])]


@lru_cache(maxsize=4096)
def _names_in(certificate: str) -> tuple[str, ...]:
    return tuple(dns_names(decoded(certificate.encode("latin-1"))))


# routes

Setting = Callable[[str], dict[str, Any]]


def _filter(name: str, key: str) -> Setting:
    return lambda value: {"filters": {name: {key: value}}}


_NUMBER: Final = re.compile(r"[0-9]{1,3}", re.ASCII)

ANNOTATIONS: Final[Mapping[str, Setting]] = MappingProxyType(
    {
        "timeout": lambda value: {"timeout": value},
        "strip-prefix": lambda value: {"strip_prefix": value},
        "add-prefix": lambda value: {"add_prefix": value},
        "host-header": lambda value: {"host_header": value},
        "body-size": _filter("size", "body"),
        "allow": lambda value: {"filters": {"ip": {"allow": _listed(value)}}},
        "cors-origins": lambda value: {"filters": {"cors": {"origins": _listed(value)}}},
        "retries": lambda value: {"retries": {"max": int(value) if _NUMBER.fullmatch(value) else value}},
    }
)
"""Settings of routes by annotation, behind `fastgw.dev/`."""
CHOICES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {"https-redirect": ("true", "false"), "backend-protocol": ("http1", "http2", "grpc", "https")}
)
"""Values of the other annotations."""


def _listed(text: str) -> list[str]:
    """Return the elements of a list; an empty one has the empty text, which is refused: it would allow everything."""
    return [each for each in re.split(r"[,\s]+", text) if each] or [""]


class _IngressRoutes:
    """Makes the routes of one Ingress."""

    def __init__(self, item: ClusterObject, context: TranslationContext, has_tls: bool) -> None:
        self._item, self._context = item, context
        self._namespace, self._name = key_of(item)
        annotations = item["metadata"].get("annotations") or {}
        prefix = f"{POLICY_GROUP}/"
        self._said = {key.removeprefix(prefix): text for key, text in annotations.items() if key.startswith(prefix)}
        self._has_tls = has_tls
        self._redirects = self._said.get("https-redirect") == _ON
        self._settings = self._of_annotations()

    def routes(self) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        spec = self._item.get("spec") or {}
        for number, rule in enumerate(spec.get("rules") or ()):
            for index, each in enumerate((rule.get("http") or {}).get("paths") or ()):
                made += self._of_path((rule.get("host") or "").lower(), each, f"{number}/{index}")
        default = spec.get("defaultBackend")
        if default is not None:
            made += self._on_listeners({"name": self._called("default")}, default)
        return made

    def problem(self) -> str:
        """Return the error of the annotations; "" = they are valid. A misspelt protection must not be left out."""
        for name, value in self._said.items():
            if name in CHOICES:
                if value not in CHOICES[name]:
                    return f'annotation {POLICY_GROUP}/{name}: "{value}"; expected {" or ".join(CHOICES[name])}'
            elif name not in ANNOTATIONS:
                return f"annotation {POLICY_GROUP}/{name} is unknown; {suggest(name, (*ANNOTATIONS, *CHOICES))}"
        return ""

    def _called(self, what: str) -> str:
        return f"{KIND}/{self._namespace}/{self._name}/{what}"

    def _of_path(self, host: str, path: ClusterObject, number: str) -> list[dict[str, Any]]:
        route: dict[str, Any] = {"name": self._called(number), "paths": [_pattern(path)]}
        if host:
            route["hosts"] = [host]
        if host.startswith("*."):  # a wildcard stands for one label
            ending = re.escape(host[1:])
            route["headers"] = {"host": {"regex": rf"(?i)^[^.:]+{ending}\.?(:[0-9]+)?$"}}
        return self._on_listeners(route, path.get("backend") or {})

    def _on_listeners(self, route: dict[str, Any], backend: ClusterObject) -> list[dict[str, Any]]:
        action = self._action(backend, route["name"])
        if not self._redirects:
            return [{**route, "listeners": [HTTP, HTTPS] if self._has_tls else [HTTP], **action}]
        redirect = {**route, "name": f"{route['name']}/https", "listeners": [HTTP], "redirect": {"scheme": "https"}}
        return [redirect, {**route, "listeners": [HTTPS], **action}] if self._has_tls else [redirect]

    def _action(self, backend: ClusterObject, route: str) -> dict[str, Any]:
        said = backend.get("service")
        if said is None:
            return self._unavailable(route, "a backend is a Service")
        port = said.get("port") or {}
        protocol = self._said.get("backend-protocol", "auto")
        scheme = "https" if protocol == "https" else "http"
        found = backends.resolve(
            {"name": said["name"], "port": port.get("number") or port.get("name")},
            KIND,
            self._namespace,
            self._context,
            scheme=scheme,
            protocol=protocol if protocol in ("http1", "http2", "grpc") else "auto",
        )
        if not found.upstream:
            return self._unavailable(route, found.message)
        return {"upstream": found.upstream, **self._settings}

    def _unavailable(self, route: str, why: str) -> dict[str, Any]:
        rule = route.removeprefix(self._called(""))
        warning = f"rule {rule}: {why}: its requests are answered 503"
        self._context.warnings.setdefault((KIND, self._namespace, self._name), warning)
        return dict(_UNAVAILABLE)

    def _of_annotations(self) -> dict[str, Any]:
        settings: dict[str, Any] = {}
        for name, setting in ANNOTATIONS.items():
            if name in self._said:
                for key, value in setting(self._said[name]).items():
                    settings[key] = {**settings.get(key, {}), **value} if key == "filters" else value
        return settings


def _pattern(path: ClusterObject) -> str:
    """Return a path in the terms of routes."""
    value = path.get("path") or "/"
    is_exact = path.get("pathType") == "Exact"
    literal = value if is_exact else value.rstrip("/")
    if re.search(r"[*{}]|^~", literal):
        return f"~^{re.escape(literal)}{'$' if is_exact else '(?:/.*)?$'}"
    return literal if is_exact else f"{literal}/*"
