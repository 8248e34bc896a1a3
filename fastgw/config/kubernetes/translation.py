"""Translates the objects of a cluster: the kinds in their order. A pure function of the objects and the settings."""

from collections.abc import Callable
from typing import Final

import msgspec

from fastgw.config.kubernetes import (
    addresses,
    backend_tls,
    backends,
    gateway,
    gateway_class,
    grpc_route,
    http_route,
    ingress,
    installations,
    policies,
    route_conflicts,
    stream_routes,
)
from fastgw.config.kubernetes.cluster import Cluster
from fastgw.config.kubernetes.model import Elsewhere, Piece, RouteMemo, Translation, TranslationContext
from fastgw.config.settings.kubernetes import KubernetesProvider

ROUTES: Final[tuple[Callable[[TranslationContext], None], ...]] = (
    route_conflicts.find,
    http_route.translate,
    grpc_route.translate,
    stream_routes.translate_tls,
    stream_routes.translate_tcp,
    stream_routes.translate_udp,
    stream_routes.add_no_targets,
    ingress.translate,
)
"""Translations of the kinds of routes, in order, and what they have in common."""
NOT_FOUND: Final = "kubernetes/not-found"
"""Route of requests that no other route of a Gateway matches."""


class Translator:
    """Translates the states of a cluster one after the other."""

    def __init__(self, settings: KubernetesProvider, own_namespace: str) -> None:
        self._settings, self._own_namespace = settings, own_namespace
        self.memo = RouteMemo()
        """Routes of the last translation: only what has changed is translated again."""

    def translate(self, cluster: Cluster) -> tuple[Translation, bytes]:
        """Return the translation, and the content of the file with its pieces, one per line."""
        self.memo.begin_translation(cluster)
        translation = translate(cluster, self._settings, self._own_namespace, self.memo)
        lines = [msgspec.json.encode(each) for each in translation.pieces]
        return translation, b"[\n" + b",\n".join(lines) + b"\n]\n" if lines else b"[]\n"


def translate(
    cluster: Cluster, settings: KubernetesProvider, own_namespace: str = "", memo: RouteMemo | None = None
) -> Translation:
    """Return the configuration and the statuses of a cluster. `memo`: begun for it; None: nothing is reused."""
    elsewhere = Elsewhere(settings.namespaces)
    context = TranslationContext(
        cluster, settings, elsewhere=elsewhere, own_namespace=own_namespace, memo=memo or RouteMemo()
    )
    classes = gateway_class.translate(context)
    backend_tls.translate(context)
    gateway.translate(context, classes)
    installations.find_elsewhere(context)
    policies.translate(context)
    for each in ROUTES:
        each(context)
    gateway.add_listeners(context)
    policies.attach(context)
    backends.add_upstreams(context)
    _add_not_found(context)
    gateway.add_statuses(context)
    backend_tls.add_statuses(context)
    addresses.add_children(context)
    return Translation(
        context.pieces, context.statuses, context.children, context.warnings, elsewhere, context.withdrawn
    )


def _add_not_found(context: TranslationContext) -> None:
    """Add the route that answers 404 in place of 405, and that isolates hostnames from less specific ones."""
    names = [name for piece in context.pieces for name, each in piece.listeners.items() if "protocol" not in each]
    if not names:
        return
    hosts = sorted({each.hostname for entry in context.entries.values() for each in entry.listeners if each.hostname})
    answer = {"listeners": names, "respond": {"status": 404}}
    routes = [{"name": f"{NOT_FOUND}/hosts", "hosts": hosts, **answer}] if hosts else []
    context.pieces.append(Piece("Gateway", routes=[*routes, {"name": NOT_FOUND, **answer}]))
