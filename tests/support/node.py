"""The supervisor's side of a node without processes: documents, channels in place of workers, shared memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from fastgw.config import Loaded, load_text
from fastgw.filters import TYPES
from fastgw.gateway.compiler import compile
from fastgw.runtime.ipc.channel import AnyMessage, Channel
from fastgw.runtime.node.cache_stores import open_stores
from fastgw.runtime.node.child_slots import Child
from fastgw.runtime.node.config_snapshot import ConfigSnapshot, accept, seal
from fastgw.runtime.node.node_state import NodeState, Sealed, assign_endpoints
from fastgw.runtime.node.shm_layout import ShmLayout
from fastgw.runtime.sockets.listening_sockets import close_endpoints
from fastgw.shm.memory import SharedMemory

FILE = "/nowhere/gateway.yaml"
ANYWHERE = "{address: 127.0.0.1:0}"


def document(listeners: Sequence[str] = ("main",), more: str = "", address: str = "127.0.0.1:0") -> Loaded:
    """Return a configuration with these listeners and one route."""
    listening = ", ".join(f'{name}: {{address: "{address}"}}' for name in listeners)
    routes = "routes: [{name: all, respond: {body: ok}}]"
    lines = ["version: 1", "workers: 2", f"listeners: {{{listening}}}", routes, more or "status: null", "admin: null"]
    return load_text("\n".join(lines).encode(), FILE, TYPES)


def accepted_of(loaded: Loaded, generation: int = 1, workers: int = 2) -> ConfigSnapshot:
    slot_table = compile(loaded.config, workers).slot_table
    return accept(
        loaded, generation=generation, date=1.0, source="start", slot_table=slot_table, workers=workers, base=None
    )


def sealed_document(
    generation: int, listeners: Sequence[str] = ("main",), more: str = "", address: str = "127.0.0.1:0"
) -> Sealed:
    """Return a sealed configuration. The caller closes its descriptor."""
    accepted = accepted_of(document(listeners, more, address), generation)
    return Sealed(accepted, seal(accepted))


def node_state_of(listeners: Sequence[str] = ("main",), workers: int = 2, sealed: Sealed | None = None) -> NodeState:
    """Return a supervisor's state after a start. `close_node` closes it, and the document."""
    sealed = sealed or sealed_document(1, listeners)
    gateway = compile(sealed.accepted.config(), workers)
    words = ShmLayout(gateway)
    node_state = NodeState(
        shared=SharedMemory.create(gateway.layout, workers),
        words=words,
        sealed=sealed,
        gateway=gateway,
        compiled=1,
        workers=workers,
        slots=workers,
        caches=open_stores(sealed.settings),
    )
    node_state.listeners, node_state.endpoints = assign_endpoints(node_state, sealed.settings.listeners)
    return node_state


class Crew:
    """Workers of which only the other ends of their channels exist."""

    def __init__(self, workers: int = 0) -> None:
        self._ends: dict[Child, Channel] = {}
        self.children = [self.born() for _ in range(workers)]

    def born(self, generation: int = 1) -> Child:
        """Add a ready worker."""
        ours, theirs = Channel.pair()
        number = len(self._ends)
        child = Child(4711 + number, ours, f"worker {number + 1}", number, began_at=0.0)
        child.generation, child.ready = generation, True
        child.caches = {"main": 1}
        self._ends[child] = theirs
        return child

    def messages(self, child: Child) -> list[AnyMessage]:
        """Return the messages since the last call."""
        told = []
        while message := self._ends[child].receive():
            told.append(message)
        return told

    def told(self, child: Child) -> list[type[Any]]:
        return [type(message) for message in self.messages(child)]

    def close(self) -> None:
        for child, end in self._ends.items():
            child.channel.close()
            end.close()


def close_node(node_state: NodeState) -> None:
    close_endpoints([*node_state.endpoints.values(), *node_state.own.values()])
    for sealed in (*node_state.kept, node_state.sealed):
        os.close(sealed.descriptor)
    node_state.caches.close()
