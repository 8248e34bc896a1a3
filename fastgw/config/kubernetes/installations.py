"""Other installations of the gateway in the same cluster: they have its controller names, and classes of their own.

An object belongs to another installation if its class does, or if all of its parents do that exist. Its status, and
what other statuses say of it, are left to that installation: two that correct each other would never end.
"""

from typing import Final

from fastgw.config.kubernetes.cluster import CONTROLLER, INGRESS_CONTROLLER
from fastgw.config.kubernetes.ingress import KIND, class_of
from fastgw.config.kubernetes.model import TranslationContext, id_in

_ROUTES: Final = ("HTTPRoute", "GRPCRoute")
"""Kinds of routes that policies may be for."""


def find_elsewhere(context: TranslationContext) -> None:
    """Add the objects of other installations. Gateways and ListenerSets have been added."""
    cluster, settings, found = context.cluster, context.settings, context.elsewhere.objects
    gateway_classes = {
        name
        for (_, name), item in cluster.all("GatewayClass").items()
        if (item.get("spec") or {}).get("controllerName") == CONTROLLER and name != settings.gateway_class
    }
    ingress_classes = {
        name
        for (_, name), item in cluster.all("IngressClass").items()
        if (item.get("spec") or {}).get("controller") == INGRESS_CONTROLLER and name != settings.ingress_class
    }
    found.update(("GatewayClass", "", name) for name in gateway_classes)
    for key, item in cluster.all(KIND).items() if ingress_classes else ():
        if class_of(item) in ingress_classes:
            found.add((KIND, *key))
    if not gateway_classes and not settings.namespaces:
        return
    for key, item in cluster.all("Gateway").items():
        if (item.get("spec") or {}).get("gatewayClassName") in gateway_classes:
            found.add(("Gateway", *key))
    for key, item in cluster.all("ListenerSet").items():
        if context.elsewhere.has(id_in((item.get("spec") or {}).get("parentRef") or {}, key[0])):
            found.add(("ListenerSet", *key))
    for kind in _ROUTES:
        for key, item in cluster.all(kind).items():
            parents = [id_in(each, key[0]) for each in (item.get("spec") or {}).get("parentRefs") or ()]
            is_ours = any(context.listeners_of(each[0], each[1:]) is not None for each in parents)
            if not is_ours and any(map(context.elsewhere.has, parents)):
                found.add((kind, *key))
