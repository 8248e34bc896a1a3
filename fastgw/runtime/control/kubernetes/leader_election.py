"""Leader election by a Lease: of several replicas one writes to the API server.

The holder renews the Lease; another replica takes it over once its holder has not renewed it for its duration, counted
from when the change was seen here: clocks of machines are not compared.
"""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from math import inf
from typing import Any, Final

import msgspec

from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import RareNotice
from fastgw.runtime.control.kubernetes.api_client import (
    UNREADABLE,
    CannotAsk,
    ClusterClient,
    RequestRefused,
    SharedAccess,
)

LEASE: Final = "fastgw-controller"
DURATION_S: Final = 15
EVERY_S: Final = 5.0
RETRY_S: Final = 2.0
_RIGHTS: Final = "expected a role in the namespace that allows get, create, update and patch of leases"
_CONFLICT: Final = 409
_NOT_FOUND: Final = 404


class _LeaseSpec(msgspec.Struct):
    """Members of a Lease that decide the election. Null is as good as missing."""

    holder: str | None = msgspec.field(name="holderIdentity", default=None)
    renewed: str | None = msgspec.field(name="renewTime", default=None)
    acquired: str | None = msgspec.field(name="acquireTime", default=None)
    duration_s: int | None = msgspec.field(name="leaseDurationSeconds", default=None)
    transitions: int | None = msgspec.field(name="leaseTransitions", default=None)


class _Lease(msgspec.Struct):
    spec: _LeaseSpec | None = None


class LeaderElection:
    """Takes part in an election. `changed`: called when this replica has become the leader, or is no longer."""

    def __init__(self, access: SharedAccess, namespace: str, name: str, changed: Callable[[], None]) -> None:
        self._access, self._changed = access, changed
        self._namespace, self._name = namespace, name
        self.identity = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._renewed_at = -inf
        self._seen: tuple[Any, float] = (None, -inf)
        self._was_leader = False
        self._complain = RareNotice()
        self.problem = ""
        """Reason why the API server refuses that this replica takes part; "" = it does not."""

    @property
    def is_leader(self) -> bool:
        """Whether this replica is the leader, as far as it knows: it has renewed the Lease recently."""
        return time.monotonic() - self._renewed_at < DURATION_S - RETRY_S

    async def run(self) -> None:
        """Take part until cancelled; then give the Lease back."""
        try:
            while True:
                try:
                    client = await self._client()
                    failed = True
                    try:
                        await self._take_part(client)
                        self.problem = ""
                        failed = False
                    finally:
                        await client.close(failed)
                except RequestRefused as error:  # usually a permission that is missing
                    why = f"the Lease {self._namespace}/{self._name}: {error}; {_RIGHTS}"
                    self._complain(OperatorEvent.FEED_FAILED, f"leader election: {why}", str(error))
                    self.problem = why
                except CannotAsk:
                    pass  # the watches report that the API server is unreachable
                except UNREADABLE as error:
                    why = f"the Lease {self._namespace}/{self._name} is invalid: {error}; delete it to have a new one"
                    self._complain(OperatorEvent.FEED_FAILED, f"leader election: {why}", str(error))
                if self._was_leader != self.is_leader:
                    self._was_leader = self.is_leader
                    self._changed()
                await asyncio.sleep(EVERY_S if self.is_leader else RETRY_S)
        except asyncio.CancelledError:
            if self.is_leader:
                await asyncio.shield(self._give_back())
            raise

    async def _client(self) -> ClusterClient:
        return await self._access.client(self._path(), "")

    def _path(self, name: str = "") -> str:
        return "/".join(filter(None, (f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases", name)))

    async def _take_part(self, client: ClusterClient) -> None:
        began_at = time.monotonic()
        try:
            raw = await client.get(self._path(self._name))
        except RequestRefused as error:
            if error.status != _NOT_FOUND:
                raise
            await self._write(client, "POST", None, _LeaseSpec(), began_at)
            return
        spec = msgspec.json.decode(raw, type=_Lease).spec or _LeaseSpec()
        said = spec.holder, spec.renewed
        if said != self._seen[0]:
            self._seen = said, began_at
        is_over = began_at - self._seen[1] > (spec.duration_s or DURATION_S)
        if spec.holder in ("", None, self.identity) or is_over:
            await self._write(client, "PUT", msgspec.json.decode(raw), spec, began_at)
        else:
            self._renewed_at = -inf

    async def _write(self, client: ClusterClient, method: str, lease: Any, before: _LeaseSpec, began_at: float) -> None:
        """Write the Lease with this replica as its holder. `lease`: the whole one, with the members that only others
        know; None: there is none. `before`: its spec.
        """
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        is_same = before.holder == self.identity
        body = lease or {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
        }
        body["spec"] = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_S,
            "acquireTime": before.acquired if is_same else now,
            "renewTime": now,
            "leaseTransitions": (before.transitions or 0) + (not is_same and lease is not None),
        }
        try:
            await client.send(method, self._path(self._name if lease else ""), body)
        except RequestRefused as error:
            if error.status != _CONFLICT:
                raise
            self._renewed_at = -inf  # another replica was first
            return
        self._renewed_at = began_at

    async def _give_back(self) -> None:
        """Let another replica take over at once."""
        try:
            client = await self._client()
            try:
                body = {"spec": {"holderIdentity": ""}}
                await client.send("PATCH", self._path(self._name), body, "application/merge-patch+json")
            finally:
                await client.close()
        except CannotAsk:
            pass  # the Lease ends by itself
