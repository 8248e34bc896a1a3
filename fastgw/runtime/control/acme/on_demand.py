"""On-demand certificates (`acme.on_demand`): which names get one, and the orders for them.

Rule 1: whatever clients ask for, the number of names, orders, questions and remembered refusals is bounded. Rule 2: a
name with a certificate stays until it was unused for long, or is not allowed any more; no flood of others displaces it.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import quote

import msgspec

from fastgw.acme.messages import Failed
from fastgw.acme.storage import CertificateState, read_state, state_file
from fastgw.admin.node_interface import AcmeInfo, OnDemandInfo
from fastgw.config.settings.acme import Acme, AcmeCertificate, OnDemand
from fastgw.config.sources.virtual_files import issued_in
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import RareNotice, described, notice
from fastgw.runtime.control.acme.kept_certificate import IssuingParts, KeptCertificate
from fastgw.runtime.control.acme.shared_issuing import RedisAway
from fastgw.runtime.ipc.channel import Channel
from fastgw.runtime.ipc.published_feed import PublishedFeed
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.node.node_state import NodeState
from fastgw.sync.on_demand import FEED, MOST_REFUSED, AllowedNames, OnDemandNames, OrderRefusal, written
from fastgw.upstream.client.http_client import Fetcher, FetchFailed

MOST_PENDING: Final = 64
"""Maximum number of names that are asked for, or that wait for their first certificate."""
BUSY_S: Final = 10.0
"""Seconds for which a name is refused because too many are asked for, or `orders_per_hour` is reached."""
HOUR_S: Final = 3600.0
PUBLISH_S: Final = 0.05
"""Seconds for which changes are collected before workers get them."""
USED_S: Final = 3600.0
"""Seconds after which the date of the last use is stored again."""
MOST_ANSWER: Final = 64 * 1024
REASONS: Final[Mapping[OrderRefusal, str]] = MappingProxyType(
    {
        OrderRefusal.NOT_ALLOWED: "`acme.on_demand.ask` has refused it",
        OrderRefusal.ASK_FAILED: "`acme.on_demand.ask` is unreachable, or has failed",
        OrderRefusal.RATE: "`acme.on_demand.orders_per_hour` is reached",
        OrderRefusal.NAMES: "`acme.on_demand.names` is reached",
        OrderRefusal.BUSY: "too many names are asked for at the same time",
        OrderRefusal.ORDER_FAILED: "its order has failed",
    }
)


class RefusedName(NamedTuple):
    """Name that gets no certificate. `until`: monotonic seconds."""

    until: float
    why: OrderRefusal


class OrderBudget:
    """Orders within the last hour. `most`: their maximum number."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._dates: list[float] = []

    def has_one(self, now: float) -> bool:
        """Whether one more order is within the bound. `now`: epoch seconds."""
        self._dates = [each for each in self._dates if now - HOUR_S < each <= now]
        return len(self._dates) < self.most

    def take_one(self, now: float) -> bool:
        """Count an order, unless there were too many. `now`: epoch seconds."""
        if not self.has_one(now):
            return False
        self._dates.append(now)
        return True

    def count_before(self, dates: Sequence[float]) -> None:
        """Count orders of an earlier process, or that all nodes have counted."""
        self._dates = [*self._dates, *dates][-self.most :]


class OnDemandIssuing:
    """On-demand certificates of the active configuration."""

    def __init__(self, node_state: NodeState, channel: Channel, fetcher: Fetcher, parts: IssuingParts) -> None:
        self._node_state, self._fetcher, self._parts = node_state, fetcher, parts
        self._acme: Acme | None = None
        self._policy: OnDemand | None = None
        self._captured: Mapping[str, bytes] = {}
        self._allowed = AllowedNames(())
        self._turns = asyncio.Semaphore(1)
        self._budget = OrderBudget(1)
        self._kept: dict[str, OnDemandCertificate] = {}
        self._pending: dict[str, asyncio.Task[None]] = {}
        self._refused: dict[str, RefusedName] = {}
        self._early: dict[str, None] = {}  # names that are asked for while the storage is read
        self._complain = RareNotice()
        self._starting: asyncio.Task[None] | None = None
        self._publishing: asyncio.TimerHandle | None = None
        self._feed = PublishedFeed(channel, FEED, lambda: node_state.sealed.generation, self._value)

    def __repr__(self) -> str:
        return f"<OnDemandIssuing {len(self._kept)} kept, {len(self._pending)} pending>"

    def use_configuration(self, accepted: ConfigSnapshot) -> None:
        """Order certificates by these settings from now on."""
        acme = accepted.settings.acme
        if acme == self._acme:
            return
        self._end()
        policy = None if acme is None else acme.on_demand
        self._acme, self._policy, self._captured = acme, policy, accepted.captured
        if acme is None or policy is None:
            self._publish_soon()
            return
        self._allowed = AllowedNames(policy.allow)
        self._turns = asyncio.Semaphore(policy.orders_at_once)
        self._budget = OrderBudget(policy.orders_per_hour)
        self._starting = asyncio.get_running_loop().create_task(self._start(acme, policy))
        self._starting.add_done_callback(_report_defect)

    def stop(self) -> None:
        self._end()
        self._acme = self._policy = None

    def _end(self) -> None:
        tasks = (*self._pending.values(), *(() if self._starting is None else (self._starting,)))
        for task in tasks:
            task.cancel()
        for each in self._kept.values():
            each.stop()
        if self._publishing is not None:
            self._publishing.cancel()
        self._starting = self._publishing = None
        self._kept.clear()
        self._pending.clear()
        self._early.clear()
        self._refused.clear()

    async def _start(self, acme: Acme, policy: OnDemand) -> None:
        """Go on with the names in the storage."""
        now = time.time()
        found, interrupted = await asyncio.to_thread(stored_names, acme, policy, now)
        names = [name for name in found if name in self._allowed][: policy.names]
        dates = sorted((*interrupted, *(found[name].order_date for name in names)))
        self._budget.count_before([date for date in dates if date <= now])
        for name in names:
            self._keep_name(acme, policy, name)
        self._starting = None
        early, self._early = self._early, {}
        for name in early:
            self.requested(name)

    def _keep_name(self, acme: Acme, policy: OnDemand, name: str) -> None:
        certificate = policy.certificate(name, acme.storage)
        self._kept[name] = OnDemandCertificate(
            self._parts, self._turns, certificate.file, acme, certificate, self._captured, self, policy
        )

    def requested(self, name: str) -> None:
        """Handle a worker's request: a client has asked for this name."""
        kept = self._kept.get(name)
        if kept is not None:
            kept.was_used(time.time())
            return
        policy, acme = self._policy, self._acme
        if policy is None or acme is None or name not in self._allowed:
            return
        if self._starting is not None:
            if len(self._early) < MOST_PENDING:
                self._early[name] = None
            return
        refused = self._refused.get(name)
        if name in self._pending or (refused is not None and refused.until > time.monotonic()):
            return
        if (why := self._no_room(policy)) is not None:
            self.refuse(name, why, BUSY_S if why is OrderRefusal.BUSY else policy.refused_for)
        else:
            self._pending[name] = task = asyncio.get_running_loop().create_task(self._begin_order(acme, policy, name))
            task.add_done_callback(partial(self._has_begun, name))

    def _no_room(self, policy: OnDemand) -> OrderRefusal | None:
        """Return the bound that is reached; None: one more name may be asked for."""
        if self._number_waiting >= MOST_PENDING:
            return OrderRefusal.BUSY
        return OrderRefusal.NAMES if len(self._kept) + len(self._pending) >= policy.names else None

    def why_not_ordered(self, name: str) -> str:
        """Return the reason why no certificate would be ordered for an allowed name now; "": it would be, or there is
        one.
        """
        policy, name = self._policy, name.lower().removesuffix(".")
        if policy is None or name in self._kept:
            return ""
        refused, now = self._refused.get(name), time.monotonic()
        if refused is not None and refused.until > now:
            return f"as {REASONS[refused.why]} ({refused.until - now:.0f} s left)"
        why = self._no_room(policy)
        if why is None and not self._budget.has_one(time.time()):
            why = OrderRefusal.RATE
        return "" if why is None else f"as {REASONS[why]}"

    @property
    def _number_waiting(self) -> int:
        return len(self._pending) + sum(not each.is_there for each in self._kept.values())

    def _has_begun(self, name: str, task: asyncio.Task[None]) -> None:
        if self._pending.get(name) is task:
            del self._pending[name]
        _report_defect(task)

    async def _begin_order(self, acme: Acme, policy: OnDemand, name: str) -> None:
        """Order a certificate if the rule allows it."""
        why = await self.ask_about_name(policy, name)
        if why is not None:
            self.refuse(name, why, policy.refused_for if why is OrderRefusal.NOT_ALLOWED else BUSY_S)
        elif self._parts.shared.is_alone and not self._budget.has_one(time.time()):
            self.refuse(name, OrderRefusal.RATE, BUSY_S)
        else:
            self._keep_name(acme, policy, name)

    async def take_order(self) -> bool:
        """Count an order, unless there were too many within an hour: on all nodes that share, or on this one if it is
        alone.
        """
        now = time.time()
        if not self._parts.shared.is_alone:
            with suppress(RedisAway):
                taken = await self._parts.shared.take_order(self._budget.most)
                if taken:
                    self._budget.count_before([now])
                return taken
        return self._budget.take_one(now)

    async def ask_about_name(self, policy: OnDemand, name: str) -> OrderRefusal | None:
        """Ask `ask` about a name; None: it is allowed."""
        if policy.ask is None:
            return None
        url = str(policy.ask)
        asked = f"{url}{'&' if '?' in url else '?'}domain={quote(name, safe='')}"
        try:
            answer = await self._fetcher.fetch(asked, timeout=policy.ask_timeout, most=MOST_ANSWER)
        except FetchFailed as failed:
            self._complain(OperatorEvent.CERTIFICATE_NOT_ISSUED, f"acme.on_demand.ask: {failed}", "ask")
            return OrderRefusal.ASK_FAILED
        if answer.status >= 500:
            text = f"acme.on_demand.ask: {url} has answered {answer.status}"
            self._complain(OperatorEvent.CERTIFICATE_NOT_ISSUED, text, "ask")
            return OrderRefusal.ASK_FAILED
        return None if answer.status == 200 else OrderRefusal.NOT_ALLOWED

    def refuse(self, name: str, why: OrderRefusal, seconds: float) -> None:
        """Remember that a name gets no certificate for a while."""
        self._node_state.shared.supervisor.words[self._node_state.words.acme_refusals + why] += 1
        now = time.monotonic()
        self._refused.pop(name, None)
        if len(self._refused) >= MOST_REFUSED:
            self._refused = {each: refused for each, refused in self._refused.items() if refused.until > now}
        while len(self._refused) >= MOST_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[name] = RefusedName(now + seconds, why)
        self._publish_soon()

    def changed(self, name: str) -> None:
        """Tell the workers that a name has another certificate."""
        self._refused.pop(name, None)
        self._publish_soon()

    def forget(self, name: str) -> None:
        """Forget a name, whose task ends by itself."""
        self._kept.pop(name, None)
        self._publish_soon()

    def _publish_soon(self) -> None:
        if self._publishing is None:
            self._publishing = asyncio.get_running_loop().call_later(PUBLISH_S, self._publish)

    def _publish(self) -> None:
        self._publishing = None
        self._feed.publish()

    def _value(self) -> bytes:
        now = time.monotonic()
        kept = {name: each.serial for name, each in self._kept.items() if each.is_there}
        refused = {name: each.until for name, each in self._refused.items() if each.until > now}
        return written(OnDemandNames(kept, refused))

    def infos(self) -> Iterator[AcmeInfo]:
        return (each.info for each in self._kept.values())

    @property
    def info(self) -> OnDemandInfo | None:
        """Return the numbers for `status`; None: there is no `acme.on_demand`."""
        policy = self._policy
        if policy is None:
            return None
        words, at = self._node_state.shared.supervisor.words, self._node_state.words.acme_refusals
        return OnDemandInfo(
            names=sum(each.is_there for each in self._kept.values()),
            most_names=policy.names,
            pending=self._number_waiting,
            refused={each.name.lower(): words[at + each] for each in OrderRefusal},
        )


class OnDemandCertificate(KeptCertificate):
    """Certificate of one name, renewed while it is used."""

    def __init__(
        self,
        parts: IssuingParts,
        turns: asyncio.Semaphore,
        file: str,
        acme: Acme,
        certificate: AcmeCertificate,
        captured: Mapping[str, bytes],
        owner: OnDemandIssuing,
        policy: OnDemand,
    ) -> None:
        self._owner, self._policy = owner, policy
        self._name = certificate.domains[0]
        self._order_date, self._used_date = time.time(), 0.0
        self.serial = ""
        """Serial number of the certificate that workers use; "": there is none."""
        super().__init__(parts, turns, file, acme, certificate, captured)

    @property
    def is_there(self) -> bool:
        return bool(self.serial)

    @property
    def info(self) -> AcmeInfo:
        return msgspec.structs.replace(super().info, on_demand=True, used_date=self._used_date)

    def was_used(self, now: float) -> None:
        """Note that a client has asked for the name; stored with the next change of the state, or after `USED_S`."""
        stored, self._used_date = self._state.used_date, now
        if self.is_there and now - stored >= USED_S:
            self._storing = asyncio.get_running_loop().create_task(self._change_state(self._state))

    def _marked(self, state: CertificateState) -> CertificateState:
        dates = {"used_date": self._used_date, "order_date": self._order_date}
        return msgspec.structs.replace(super()._marked(state), name=self._name, **dates)

    def _was_read(self) -> None:
        now = time.time()
        if self._state.name:
            self._used_date = max(self._used_date, min(self._state.used_date, now))
            self._order_date = self._state.order_date
        else:
            self._used_date = now
        self._show_certificate()

    def _show_certificate(self) -> None:
        """Make the workers use the certificate in the file."""
        held = self._held
        serial = "" if held is None or held.until <= time.time() else held.serial
        if serial and serial != self.serial:
            self.serial = serial
            self._owner.changed(self._name)

    async def _is_wanted(self) -> bool:
        if self._held is None:
            if await self._owner.take_order():
                return True
            self._owner.refuse(self._name, OrderRefusal.RATE, BUSY_S)
            await self._forget()
            return False
        unused = time.time() - self._used_date > self._policy.unused_for
        if unused or await self._owner.ask_about_name(self._policy, self._name) is OrderRefusal.NOT_ALLOWED:
            await self._forget()
            return False
        return True

    async def _was_issued(self) -> None:
        self._show_certificate()

    async def _was_refused(self, failed: Failed) -> None:
        if self._held is None or self._held.until <= time.time():
            self._owner.refuse(self._name, OrderRefusal.ORDER_FAILED, max(self._policy.refused_for, failed.retry_after))
            await self._forget()

    def _next_attempt(self, now: float) -> str:
        if self._held is not None:
            return super()._next_attempt(now)
        return f"the name is refused for {self._policy.refused_for:.0f} s"

    async def _forget(self) -> None:
        """Delete the files, and end."""
        await asyncio.to_thread(_delete, self._file)
        self._owner.forget(self._name)
        self._task.cancel()


def _delete(file: Path) -> None:
    for each in (file, state_file(str(file)), file.with_name(f".{file.name}.lock")):
        with suppress(OSError):
            each.unlink()


def stored_names(acme: Acme, policy: OnDemand, now: float) -> tuple[dict[str, CertificateState], list[float]]:
    """Return the names in the storage with a certificate, those used last first, and the dates of orders within the
    last hour that were interrupted. Older ones are deleted.
    """
    folder = Path(policy.certificate("a.example", acme.storage).storage or "", "certificates")
    found: dict[str, CertificateState] = {}
    interrupted: list[float] = []
    with suppress(OSError):
        for file in folder.glob("*.json"):
            state, certificate = read_state(file), file.with_suffix(".pem")
            if not state.name or state_file_of(acme, policy, state.name) != file:
                continue
            if certificate.exists():
                found[state.name] = state
            elif now - HOUR_S < state.order_date <= now:
                interrupted.append(state.order_date)
            else:
                _delete(certificate)
    return dict(sorted(found.items(), key=lambda each: -each[1].used_date)), interrupted


def state_file_of(acme: Acme, policy: OnDemand, name: str) -> Path:
    """Return the file with the state of a name's certificate."""
    file, _ = issued_in(policy.certificate(name, acme.storage).file)
    return state_file(file)


def _report_defect(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        notice(OperatorEvent.DEFECT, f"on-demand certificates: {described(error)}")
