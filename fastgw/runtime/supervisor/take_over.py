"""The new program's part of an upgrade: show that it can serve, and then go on with what the old one has left."""

import asyncio
import time
from contextlib import ExitStack

import uvloop

from fastgw.admin.gateway_registry import Registration
from fastgw.gateway.tables import Gateway
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.ipc.channel import Channel, Ready, Stop
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.node.node_state import NodeState, Sealed
from fastgw.runtime.node.shm_layout import ShmLayout
from fastgw.runtime.node.startup import close_commons, warn
from fastgw.runtime.sockets.listening_sockets import CannotListen
from fastgw.runtime.supervisor.handover_state import HandoverState
from fastgw.runtime.worker.worker import Worker, WorkerBootstrap
from fastgw.shm.memory import OtherLayout, SharedMemory


def preflight(estate: HandoverState, accepted: ConfigSnapshot, gateway: Gateway) -> None:
    """Be a worker until it is ready, without sockets: raises whatever keeps it from that.

    It counts in memory of its own: in that of the gateway every column may be given to a worker at any time.
    """
    words = ShmLayout(gateway)  # completes the layout
    attached(estate, gateway, accepted.workers)  # it can be read
    commons = NodeState(
        shared=SharedMemory.create(gateway.layout, 1),
        words=words,
        sealed=Sealed(accepted, -1),
        gateway=gateway,
        compiled=accepted.generation,
        workers=accepted.workers,
        slots=estate.slots,
    )
    ours, theirs = Channel.pair()

    async def live() -> None:
        theirs.send(Stop(generation=accepted.generation))
        await Worker(WorkerBootstrap(0, 0, commons), gateway, ours).serve()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live())
    if not isinstance(theirs.receive(), Ready):
        raise RuntimeError("a worker did not become ready")


def take_over(estate: HandoverState, accepted: ConfigSnapshot, gateway: Gateway, opened: ExitStack) -> NodeState:
    """Take over the old program's state; `opened` closes it."""
    words = ShmLayout(gateway)  # completes the layout
    commons = NodeState(
        shared=attached(estate, gateway, accepted.workers),
        words=words,
        sealed=Sealed.of(accepted),
        gateway=gateway,
        compiled=accepted.generation,
        workers=accepted.workers,
        slots=estate.slots,
        endpoints={number: each.endpoint() for number, each in estate.endpoints.items()},
        endpoint_number=estate.endpoint_number,
        listeners=estate.listeners,
        own={name: each.endpoint() for name, each in estate.own.items()},
        former=estate.former,
        passed=estate.inherited(),
        records=estate.records,
        feeds=estate.feeds,
        begun_date=estate.begun_date,
    )
    commons.tickets = estate.tickets or commons.tickets
    commons.run_key = estate.run_key or commons.run_key
    commons.admin_token = estate.admin_token or commons.admin_token
    commons.registration = estate.registration and Registration(*estate.registration)
    commons.revoked.add(estate.revoked, time.time())
    commons.revoked_told.extend(estate.revoked_told)
    opened.callback(close_commons, commons)
    grow(commons)
    warn(commons, again=True)
    return commons


def grow(commons: NodeState) -> None:
    """Have sockets for all workers: `auto` may mean more of them than it did."""
    try:
        for endpoint in commons.endpoints.values():
            endpoint.grow(commons.workers)
    except CannotListen as error:
        notice(OperatorEvent.WORKERS_UNCHANGED, f"the number of workers stays {commons.slots}: {error}")
        commons.workers = commons.slots
    commons.slots = max(commons.slots, commons.workers)


def attached(estate: HandoverState, gateway: Gateway, workers: int) -> SharedMemory:
    """The shared memory that is there; or new memory, where this version lays it out otherwise."""
    try:
        return SharedMemory.attach(estate.shared, gateway.layout)
    except OtherLayout:
        notice(OperatorEvent.UPGRADING, "upgrade: this version stores counters in another form; they start at zero")
        return SharedMemory.create(gateway.layout, workers)
