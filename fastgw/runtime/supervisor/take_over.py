"""The new program's part of an upgrade: a preflight that tests whether it can serve, and the takeover of the old
state.
"""

import asyncio
import os
import time
from contextlib import ExitStack

import uvloop

from fastgw.admin.gateway_registry import Registration
from fastgw.cache.shared.layout import CacheMemory, OtherCacheLayout
from fastgw.cache.tiers.disk_claims import UnusableDisk
from fastgw.cache.tiers.disk_tier import DiskLocation
from fastgw.cache.tiers.node_stores import NodeStore, NodeStores
from fastgw.gateway.tables import Gateway
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.control.control import import_admin
from fastgw.runtime.ipc.channel import Channel, Ready, Stop
from fastgw.runtime.node.cache_stores import store_settings
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.node.node_state import NodeState, Sealed
from fastgw.runtime.node.shm_layout import ShmLayout
from fastgw.runtime.node.startup import close_node_state, warn
from fastgw.runtime.sockets.listening_sockets import CannotListen
from fastgw.runtime.supervisor.handover_state import HandoverState
from fastgw.runtime.worker.worker import Worker, WorkerBootstrap
from fastgw.shm.memory import OtherLayout, SharedMemory
from fastgw.shm.wakers import open_wakers


def preflight(handover: HandoverState, accepted: ConfigSnapshot, gateway: Gateway) -> None:
    """Start a worker without sockets until it is ready; raises the error that prevents it.

    It uses its own shared memory, because every column of the gateway's may be assigned to a worker at any time.
    """
    if "admin" in handover.own:
        import_admin()  # the supervisor does so after the exec
    words = ShmLayout(gateway)  # completes the layout
    attached(handover, gateway, accepted.workers)  # checks that it can be read
    node_state = NodeState(
        shared=SharedMemory.create(gateway.layout, 1),
        words=words,
        sealed=Sealed(accepted, -1),
        gateway=gateway,
        compiled=accepted.generation,
        workers=accepted.workers,
        slots=handover.slots,
    )
    ours, theirs = Channel.pair()
    is_ready = False

    def stop_once_ready() -> None:
        nonlocal is_ready
        while (message := theirs.receive()) is not None:
            if isinstance(message, Ready):
                is_ready = True
                theirs.send(Stop(generation=accepted.generation))

    async def live() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(theirs, stop_once_ready)
        try:
            await Worker(WorkerBootstrap(0, 0, node_state), gateway, ours).serve()
        finally:
            loop.remove_reader(theirs)

    with ExitStack() as held, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for _ in handover.descriptors:  # a worker of the new program begins with these files too
            held.callback(os.close, os.eventfd(0, os.EFD_CLOEXEC))
        runner.run(live())
    if not is_ready:
        raise RuntimeError("a worker did not become ready")


def take_over(handover: HandoverState, accepted: ConfigSnapshot, gateway: Gateway, opened: ExitStack) -> NodeState:
    """Take over the old program's state; `opened` closes it."""
    words = ShmLayout(gateway)  # completes the layout
    node_state = NodeState(
        shared=attached(handover, gateway, accepted.workers),
        words=words,
        sealed=Sealed.of(accepted),
        gateway=gateway,
        compiled=accepted.generation,
        workers=accepted.workers,
        slots=handover.slots,
        caches=attached_caches(handover, accepted),
        wakers=handover.wakers or open_wakers(accepted.workers),
        endpoints={number: each.endpoint() for number, each in handover.endpoints.items()},
        endpoint_number=handover.endpoint_number,
        listeners=handover.listeners,
        own={name: each.endpoint() for name, each in handover.own.items()},
        former=handover.former,
        passed=handover.inherited(),
        records=handover.records,
        feeds=handover.feeds,
        begun_date=handover.begun_date,
    )
    if handover.begun_at is None:
        node_state.begun_at -= max(time.time() - handover.begun_date, 0.0)
    else:
        node_state.begun_at = handover.begun_at
    node_state.tickets = handover.tickets or node_state.tickets
    node_state.run_key = handover.run_key or node_state.run_key
    node_state.admin_token = handover.admin_token or node_state.admin_token
    node_state.registration = handover.registration and Registration(*handover.registration)
    node_state.revoked.add(handover.revoked, time.time())
    node_state.revocation_events.extend(handover.revocation_events)
    node_state.ended_sessions.add(handover.ended_sessions, time.time())
    for order in handover.purges:
        node_state.purges.add(order, time.monotonic())
    if handover.purges_seen is not None:
        node_state.purges.seen, node_state.purges.seen_at = handover.purges_seen
    opened.callback(close_node_state, node_state)
    grow(node_state)
    warn(node_state, again=True)
    return node_state


def grow(node_state: NodeState) -> None:
    """Open sockets for all workers: `auto` may result in more workers than before."""
    try:
        for endpoint in node_state.endpoints.values():
            endpoint.grow(node_state.workers)
    except CannotListen as error:
        notice(OperatorEvent.WORKERS_UNCHANGED, f"the number of workers stays {node_state.slots}: {error}")
        node_state.workers = node_state.slots
    node_state.slots = max(node_state.slots, node_state.workers)


def attached_caches(handover: HandoverState, accepted: ConfigSnapshot) -> NodeStores:
    """Return the existing stores of the response cache; empty ones in place of those of another layout."""
    stores = NodeStores(handover.cache_claims)
    memories: dict[int, CacheMemory] = {}
    for name, each in handover.caches.items():
        try:
            memory = memories.get(each.fd) or CacheMemory(each.memory, each.fd)
        except (OtherCacheLayout, ValueError):
            continue
        memories[each.fd] = memory
        stores.stores[name] = NodeStore(
            each.number,
            memory,
            each.most_bytes,
            None if each.disk is None else DiskLocation(*each.disk),
            each.redis,
        )
        stores.next_number = max(stores.next_number, each.number + 1)
    wanted = store_settings(accepted.settings)
    try:
        planned = stores.planned(wanted)
    except UnusableDisk as error:
        notice(OperatorEvent.CACHE_DISK_TROUBLE, f"upgrade: {error}; the store has no disk tier until a reload")
        planned = stores.planned({name: each._replace(disk=None) for name, each in wanted.items()})
    stores.use_stores(planned)
    return stores


def attached(handover: HandoverState, gateway: Gateway, workers: int) -> SharedMemory:
    """Return the existing shared memory; or new memory, if this version has another layout."""
    try:
        return SharedMemory.attach(handover.shared, gateway.layout)
    except OtherLayout:
        notice(OperatorEvent.UPGRADING, "upgrade: this version stores counters in another form; they start at zero")
        return SharedMemory.create(gateway.layout, workers)
