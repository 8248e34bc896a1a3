"""Writes statuses, Events and the objects of Gateways to the API server, and only what has changed."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from fastgw.config.kubernetes.cluster import (
    CONTROLLER,
    INGRESS_CONTROLLER,
    KINDS,
    ClusterObject,
    generation_of,
)
from fastgw.config.kubernetes.model import Elsewhere, ManagedObject, ObjectId, Translation, id_in
from fastgw.runtime.control.kubernetes.api_client import ClusterClient, RequestRefused, SharedAccess
from fastgw.runtime.control.kubernetes.cluster_objects import ClusterObjects

AT_ONCE: Final = 16
"""Number of concurrent requests."""
MERGE: Final = "application/merge-patch+json"
_SHARED: Final[Mapping[str, str]] = {"parents": "parentRef", "ancestors": "ancestorRef"}
"""Members of statuses with entries of several controllers, and what each entry is about."""
_MOST_TEXT: Final = 1024
"""Maximum number of characters of the message of an Event."""
_GENERATED: Final = frozenset(("EndpointSlice",))
"""Kinds that the cluster writes itself, and changes with every pod: their generation says nothing about a problem."""
CONFLICT: Final = 409
NOT_FOUND: Final = 404


def merged_status(
    status: Mapping[str, Any] | None,
    wanted: Mapping[str, Any],
    now: str,
    namespace: str,
    elsewhere: Elsewhere,
) -> dict[str, Any]:
    """Return the members of a status to write: those wanted, with the times of conditions that stay as they are, and
    the entries of other controllers and installations. `namespace`: of the object; `elsewhere`: objects of other
    installations.
    """
    before = status or {}
    made: dict[str, Any] = {}
    for key, value in wanted.items():
        held = before.get(key)
        if key == "conditions":
            made[key] = _timed(held, value, now)
        elif key in _SHARED:
            reference = _SHARED[key]
            is_own = [
                each.get("controllerName") == CONTROLLER and not elsewhere.has(id_in(each[reference], namespace))
                for each in held or ()
            ]
            made[key] = _entries(reference, [*zip(held or (), is_own, strict=True)], value, now)
        elif key == "listeners":
            by_name = {each["name"]: each for each in held or ()}
            made[key] = [
                {**each, "conditions": _timed(by_name.get(each["name"], {}).get("conditions"), each["conditions"], now)}
                for each in value
            ]
        else:
            made[key] = value
    return made


def _entries(reference: str, held: Sequence[tuple[Any, bool]], wanted: Sequence[Any], now: str) -> list[Any]:
    """Return the entries of all, in the order that they have: others may care for another order. `held`: entries, and
    whether they are of this installation.
    """
    left = [*wanted]
    made = []
    for entry, is_own in held:
        if not is_own:
            made.append(entry)
            continue
        same = next((each for each in left if each[reference] == entry[reference]), None)
        if same is not None:
            left.remove(same)
            made.append({**same, "conditions": _timed(entry.get("conditions"), same["conditions"], now)})
    return made + [{**each, "conditions": _timed((), each["conditions"], now)} for each in left]


def _timed(held: Sequence[Any] | None, wanted: Sequence[Any], now: str) -> list[Any]:
    by_type = {each.get("type"): each for each in held or ()}
    made = []
    for each in wanted:
        before = by_type.get(each["type"]) or {}
        stays = before.get("status") == each["status"] and before.get("lastTransitionTime")
        made.append({**each, "lastTransitionTime": before["lastTransitionTime"] if stays else now})
    return made


Write = tuple[Callable[..., Awaitable[None]], tuple[Any, ...]]
"""Function that writes one object with a client, and its further arguments."""


async def write_all(access: SharedAccess, works: Sequence[Write]) -> bool:
    """Write objects. False: one was changed meanwhile, as the watch will show. An object that is gone needs no write.
    Raises `CannotAsk` after all were tried.
    """
    if not works:
        return True
    client = await access.client("/api", "")
    turns = asyncio.Semaphore(AT_ONCE)

    async def work(write: Callable[..., Awaitable[None]], arguments: tuple[Any, ...]) -> bool:
        async with turns:
            try:
                await write(client, *arguments)
            except RequestRefused as error:
                if error.status == CONFLICT:
                    return False
                if error.status != NOT_FOUND:
                    raise
            return True

    done: Sequence[bool | BaseException] = ()
    try:
        done = await asyncio.gather(*(work(*each) for each in works), return_exceptions=True)
    finally:
        await client.close(any(isinstance(each, BaseException) for each in done))
    for each in done:
        if isinstance(each, BaseException):
            raise each
    return all(done)


class StatusWriter:
    """Writes what a translation wants, for the leader."""

    def __init__(self, access: SharedAccess, objects: ClusterObjects) -> None:
        self._access, self._objects = access, objects
        self._settled: dict[ObjectId, tuple[dict[str, Any], ClusterObject]] = {}
        """Statuses that objects have, with these objects: most stay the same ones."""
        self._warned: dict[ObjectId, tuple[str, str]] = {}
        """Versions of objects and problems that Events were written for."""

    async def write(
        self,
        statuses: Mapping[ObjectId, dict[str, Any]],
        translation: Translation,
        warnings: Mapping[ObjectId, str],
    ) -> bool:
        """Write everything that differs. `statuses`: those of the translation, as it is in force; `warnings`: problems
        of objects, each for an Event. False: something could not be written yet. Raises `CannotAsk`.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        works: list[Write] = []
        settled, self._settled = self._settled, {}
        for id_, wanted in statuses.items():
            item = self._objects.latest(*id_)
            if item is None:
                continue
            held = settled.get(id_)
            if held is not None and held[0] is wanted and held[1] is item:
                self._settled[id_] = held
                continue
            status = status_to_write(id_, item, wanted, translation, now)
            if status is not None:
                works.append((self._write_status, (id_, item, status)))
            else:
                self._settled[id_] = wanted, item
        for child in translation.children:
            kind, metadata = child.body["kind"], child.body["metadata"]
            item = self._objects.latest(kind, metadata["namespace"], metadata["name"])
            body = _with_owner(child)
            if item is None or not includes(item, body):
                works.append((self._write_child, (body, item)))
        self._warned = {id_: said for id_, said in self._warned.items() if id_ in warnings}
        for id_, why in warnings.items():
            item = self._objects.latest(*id_)
            if item is not None and self._warned.get(id_) != _warning_of(item, why):
                works.append((self._write_event, (id_, item, why, now)))
        return await write_all(self._access, works)

    async def _write_status(
        self, client: ClusterClient, id_: ObjectId, item: ClusterObject, status: dict[str, Any]
    ) -> None:
        kind = KINDS[id_[0]]
        body = {"metadata": {"resourceVersion": item["metadata"].get("resourceVersion")}, "status": status}
        written = await client.send("PATCH", kind.path(id_[1], id_[2], "status"), body, MERGE)
        self._objects.store_written(kind.name, written, item)

    async def _write_event(self, client: ClusterClient, id_: ObjectId, item: ClusterObject, why: str, now: str) -> None:
        """Write an Event for a problem, once: its name is made from both."""
        kind, namespace, name = id_
        uid = str(item["metadata"].get("uid") or "")
        digest = hashlib.sha256("\0".join((uid, *_warning_of(item, why))).encode()).hexdigest()[:16]
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name[:200]}.{digest}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": KINDS[kind].api_version,
                "kind": kind,
                "namespace": namespace,
                "name": name,
                "uid": uid,
            },
            "type": "Warning",
            "reason": "Invalid",
            "message": why[:_MOST_TEXT],
            "source": {"component": INGRESS_CONTROLLER},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await client.send("POST", f"/api/v1/namespaces/{namespace}/events", body)
        except RequestRefused as error:
            if error.status != CONFLICT:  # by an earlier leader
                raise
        self._warned[id_] = _warning_of(item, why)

    async def _write_child(self, client: ClusterClient, body: dict[str, Any], item: ClusterObject | None) -> None:
        kind, metadata = KINDS[body["kind"]], body["metadata"]
        if item is None:
            await client.send("POST", kind.path(metadata["namespace"]), body)
        else:
            written = await client.send("PATCH", kind.path(metadata["namespace"], metadata["name"]), body, MERGE)
            self._objects.store_written(kind.name, written, item)


def status_to_write(
    id_: ObjectId, item: ClusterObject, wanted: Mapping[str, Any], translation: Translation, now: str
) -> dict[str, Any] | None:
    """Return the members of a status that an object has to get; None: it has them, or another installation cares for
    it, or it has changed since the translation. Members that are empty are the same as none.
    """
    before, elsewhere = item.get("status") or {}, translation.elsewhere
    if not _is_current(item, wanted) or (id_ in translation.withdrawn and not before):
        return None
    if elsewhere.has(id_) and before.get("conditions") and _is_current(item, before):
        return None
    made = merged_status(before, wanted, now, id_[1], elsewhere)
    differs = any((before.get(key) or value) and before.get(key) != value for key, value in made.items())
    return made if differs else None


def _is_current(item: ClusterObject, wanted: Mapping[str, Any]) -> bool:
    """Whether a status is about the object as it is now: the translation may be about an older one."""
    conditions = list(wanted.get("conditions") or ())
    for key in _SHARED:
        for each in wanted.get(key) or ():
            conditions += each["conditions"]
    generation = generation_of(item)
    return all(each.get("observedGeneration") == generation for each in conditions)


def _warning_of(item: ClusterObject, why: str) -> tuple[str, str]:
    """Return the version of an object, "" if it is of no interest, and its problem: there is an Event for both."""
    return "" if item["kind"] in _GENERATED else str(generation_of(item)), why


def _with_owner(child: ManagedObject) -> dict[str, Any]:
    owner, metadata = child.owner, child.body["metadata"]
    reference = {
        "apiVersion": KINDS["Gateway"].api_version,
        "kind": "Gateway",
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"].get("uid", ""),
        "controller": True,
    }
    return {**child.body, "metadata": {**metadata, "ownerReferences": [reference]}}


def includes(held: Any, wanted: Any) -> bool:
    """Whether an object has everything that is wanted. The owner never changes, and is not kept."""
    if isinstance(wanted, dict):
        return isinstance(held, dict) and all(
            key == "ownerReferences" or includes(held.get(key), value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(held, list | tuple) and len(held) == len(wanted) and all(map(includes, held, wanted))
    return bool(held == wanted)
