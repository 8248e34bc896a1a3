"""HTTPRoutes and GRPCRoutes that have a hostname in common on a listener: exactly one of both kinds is accepted there,
the oldest, then the first by namespace and name (Gateway API, `hostnames` of GRPCRoute).
"""

from collections.abc import Mapping
from typing import Final

from fastgw.config.kubernetes.attachment import attach
from fastgw.config.kubernetes.cluster import ClusterObject, age_of, key_of
from fastgw.config.kubernetes.model import ListenerId, ObjectId, TranslationContext

KINDS: Final = ("HTTPRoute", "GRPCRoute")

Claims = Mapping[ListenerId, tuple[str, ...]]
"""Hostnames of a route by listener."""


def find(context: TranslationContext) -> None:
    """Find the listeners on which routes are not accepted. Only the order of age decides, so this comes before any
    route is translated."""
    items = [(kind, item) for kind in KINDS for item in context.cluster.all(kind).values()]
    if len({kind for kind, _ in items}) < len(KINDS):
        return
    accepted: dict[tuple[ListenerId, str], _Hostnames] = {}
    for kind, item in sorted(items, key=lambda each: age_of(each[1])):
        id_ = kind, *key_of(item)
        (other,) = (each for each in KINDS if each != kind)
        for listener, hosts in (context.contain(id_, _claims_of, id_, item, context) or {}).items():
            others = accepted.get((listener, other))
            first = None if others is None else others.find(hosts)
            if first is None:
                accepted.setdefault((listener, kind), _Hostnames()).add(hosts, id_)
            else:
                context.conflicts.setdefault(id_, {})[listener] = first


def _claims_of(id_: ObjectId, item: ClusterObject, context: TranslationContext) -> Claims:
    found: Claims | None = context.memo.find_claims(id_, item)
    if found is None:
        found = {
            listener.id: at.hosts[position]
            for at in attach(item, id_[0], context)
            for position, listener in enumerate(at.listeners)
        }
    context.memo.store_claims(id_, item, found)
    return found


class _Hostnames:
    """Hostnames of the accepted routes of one kind on a listener, each with its route."""

    def __init__(self) -> None:
        self._names: dict[str, ObjectId] = {}
        self._below: dict[str, ObjectId] = {}
        """First route with a name that ends with a suffix, by suffix, such as `.example.com`; "" = any name."""

    def add(self, hosts: tuple[str, ...], route: ObjectId) -> None:
        for host in hosts or ("",):
            self._names.setdefault(host, route)
            for suffix in ("", *_suffixes(host)):
                self._below.setdefault(suffix, route)

    def find(self, hosts: tuple[str, ...]) -> ObjectId | None:
        """Return a route with a hostname in common; None: there is none."""
        for host in hosts or ("",):
            above = ("", host, *(f"*{suffix}" for suffix in _suffixes(host)))
            found = next((self._names[name] for name in above if name in self._names), None)
            if found is None and (not host or host.startswith("*.")):
                found = self._below.get(host.removeprefix("*"))
            if found is not None:
                return found
        return None


def _suffixes(host: str) -> list[str]:
    labels = host.split(".")[1:]
    return ["." + ".".join(labels[place:]) for place in range(len(labels))]
