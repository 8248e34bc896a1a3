"""A certificate that is kept valid: the task that obtains and renews it.

Rule 1: whatever fails, the certificate in use stays in use. Rule 2: an issuer is asked again only after the delay that
is stored beside the certificate, also after a restart.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from fastgw.acme.messages import Failed, Issued, Issuer, Job, Renewal, ToAnswer
from fastgw.acme.storage import CertificateState, read_state, remove_leftovers, state_file, write
from fastgw.admin.node_interface import AcmeInfo, OrderedBy
from fastgw.config.formats.positions import SyntaxProblem
from fastgw.config.settings.acme import Acme, AcmeCertificate
from fastgw.config.settings.secrets import SecretError, secret_in
from fastgw.config.sources.files import read_file
from fastgw.config.sources.virtual_files import issued_in
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import RareNotice, notice
from fastgw.runtime.control.acme.challenge_board import ChallengeBoard
from fastgw.runtime.control.acme.issuing_process import run_job
from fastgw.runtime.control.acme.schedule import (
    LONGEST_RETRY_S,
    Held,
    after_failure,
    after_issue_elsewhere,
    after_success,
    before_attempt,
    due_date,
    early_bound,
    following,
    held_in,
    renewal_date,
    with_renewal,
)
from fastgw.runtime.control.acme.shared_issuing import (
    LOOK_S,
    OrderLease,
    RedisAway,
    SharedIssuing,
    SharedRecord,
    is_newer,
    may_order_alone,
    shared_name,
)
from fastgw.runtime.process.lasting_tasks import keep_running

ATTEMPT_S: Final = 300.0
"""Time limit of an attempt, without the hook's."""
ASK_S: Final = 60.0
"""Time limit of a question for the renewal date."""
LONGEST_SLEEP_S: Final = 600.0
"""Seconds after which dates are compared again: the clock may have been set."""
AFTER_DEFECT_S: Final = 600.0
"""Shortest pause in seconds after a defect: an issuer limits the orders of an hour."""
MOST_BYTES: Final = 1024 * 1024
ORDERED_BY: Final[Mapping[OrderLease, OrderedBy]] = MappingProxyType(
    {OrderLease.TAKEN: "this_node", OrderLease.HELD: "another_node", OrderLease.AWAY: "waits_for_redis"}
)


class IssuingParts:
    """Parts of the control process that all certificates use. `look_at_files`: activates changed files. `count`: counts
    an attempt, and whether it has succeeded.
    """

    def __init__(
        self,
        board: ChallengeBoard,
        shared: SharedIssuing,
        look_at_files: Callable[[], Awaitable[None]],
        count: Callable[[bool], None],
    ) -> None:
        self.board, self.shared, self.look_at_files, self.count = board, shared, look_at_files, count


class KeptCertificate:
    """A certificate, and the task that obtains and renews it."""

    def __init__(
        self,
        issuing: IssuingParts,
        turns: asyncio.Semaphore,
        name: str,
        acme: Acme,
        certificate: AcmeCertificate,
        captured: Mapping[str, bytes],
    ) -> None:
        """`turns`: bounds the attempts at the same time. `name`: of the virtual file. `captured`: files of the
        configuration.
        """
        self._issuing, self._turns, self._acme, self._certificate = issuing, turns, acme, certificate
        self._captured = {file: captured[file] for file in _files_of(acme) if file in captured}
        file, self._domains = issued_in(name)
        self._file = Path(file)
        self._held: Held | None = None
        self._state = CertificateState()
        self._shared, self._shared_name = issuing.shared, shared_name(acme, self._file)
        self._record_changed = asyncio.Event()
        self._shared.listen(self._shared_name, self._record_changed.set)
        self._away_since: float | None = None  # while it waits for Redis
        self._ordered_by: OrderedBy = ""
        self._complain = RareNotice()
        self._delayed = ""  # serial number of the last certificate whose renewal was delayed
        self._task = asyncio.get_running_loop().create_task(
            keep_running(f"the certificate for {self.names}", self._keep_valid, AFTER_DEFECT_S)
        )
        self._task.add_done_callback(self._has_ended)

    def is_of(self, acme: Acme | None, certificate: AcmeCertificate | None) -> bool:
        return acme == self._acme and certificate == self._certificate

    def stop(self) -> None:
        self._task.cancel()

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._shared.ignore(self._shared_name, self._record_changed.set)

    @property
    def info(self) -> AcmeInfo:
        state, held, now = self._state, self._held, time.time()
        return AcmeInfo(
            certificate=str(self._file),
            names=self._domains,
            challenge=self._certificate.challenge,
            issuer=state.issuer,
            issued=held is not None,
            expires_date=None if held is None else held.until,
            renews_date=renewal_date(state, held, now) if held is not None and state.renew_date else None,
            attempt_date=state.attempt_date or None,
            next_attempt_date=due_date(state, held, now),
            failures=state.failures,
            problem=state.error,
            ordered_by=self._ordered_by,
        )

    @property
    def _settings_digest(self) -> str:
        """Digest of the settings that a failure may be due to: after a change there is no need to wait."""
        asked = [(str(each.directory), each.ca, each.external_account is not None) for each in self._acme.issuers]
        hook = None if self._acme.dns_hook is None else self._acme.dns_hook.command
        return sha256(repr((asked, self._acme.email, hook, self._certificate.challenge)).encode()).hexdigest()[:16]

    async def _keep_valid(self) -> None:
        """Obtain the certificate, and renew it, until cancelled."""
        await asyncio.to_thread(self._read_state)
        self._was_read()
        while True:
            now = time.time()
            self._record_changed.clear()
            self._held = await asyncio.to_thread(self._read_certificate)
            await self._follow_record(now)
            if self._held is not None:
                await self._change_state(following(self._state, self._held, now))
            due = due_date(self._state, self._held, now)
            if due <= now:
                async with self._shared.lease(self._shared_name) as lease:
                    if self._may_order(lease, now):
                        await self._follow_record(now)  # the node that had the lease before has stored its result
                        if due_date(self._state, self._held, now) <= now:
                            if not await self._is_wanted():
                                return
                            await self._attempt()
                        continue
                await self._sleep(LOOK_S)
                continue
            self._away_since, self._ordered_by = None, ""
            if self._held is not None and self._asks_at <= now:
                await self._ask_renewal_date()
            else:
                until = due if self._held is None else min(due, self._asks_at)
                await self._sleep(min(max(until - now, 0.05), LONGEST_SLEEP_S))

    async def _sleep(self, seconds: float) -> None:
        """Sleep until the record of all nodes has changed, at most for some seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._record_changed.wait()

    def _may_order(self, lease: OrderLease, now: float) -> bool:
        """Whether this node orders the certificate now."""
        self._ordered_by = ORDERED_BY[lease]
        if lease is not OrderLease.AWAY:
            self._away_since = None
            return lease is OrderLease.TAKEN
        if self._away_since is None:
            self._away_since = time.monotonic()
        if may_order_alone(self._held, time.monotonic() - self._away_since, now):
            self._ordered_by = ORDERED_BY[OrderLease.TAKEN]
            return True
        return False

    async def _follow_record(self, now: float) -> None:
        """Use a newer certificate of another node, and its delay after a failure; or give the others this node's."""
        if self._shared.is_alone:
            return
        try:
            record = await self._shared.read(self._shared_name)
        except RedisAway:
            return
        theirs = None if record is None else held_in(record.content, self._domains)
        if record is not None and theirs is not None and theirs.until > now and is_newer(theirs, self._held):
            await self._use_record(record, now)
        elif self._held is not None and is_newer(self._held, theirs):
            await self._store_record()
        if record is not None and self._is_later_failure(record.state):
            failed = Failed(record.state.error, record.state.retry_date - now)
            dates = {name: getattr(record.state, name) for name in ("failures", "attempt_date", "retry_date", "error")}
            await self._change_state(msgspec.structs.replace(self._state, **dates))
            if failed.retry_after > 0:
                await self._was_refused(failed)

    def _is_later_failure(self, theirs: CertificateState) -> bool:
        is_later = theirs.attempt_date > self._state.attempt_date
        return bool(theirs.error) and is_later and theirs.settings == self._settings_digest

    async def _use_record(self, record: SharedRecord, now: float) -> None:
        """Use the certificate of another node."""
        try:
            await asyncio.to_thread(write, self._file, record.content)
        except OSError as error:
            self._complain(
                OperatorEvent.CERTIFICATE_NOT_ISSUED, f"{self._file} cannot be written: {error.strerror or error}"
            )
            return
        await self._change_state(after_issue_elsewhere(self._state, record.state, now))
        self._held = await asyncio.to_thread(self._read_certificate)
        notice(OperatorEvent.CERTIFICATE_ISSUED, f"a certificate for {self.names} was obtained by another node")
        await self._was_issued()

    async def _store_record(self) -> None:
        """Tell the other nodes of the certificate in the file, and of the last attempt."""
        if self._shared.is_alone:
            return
        held = self._held
        try:
            content = b"" if held is None else await asyncio.to_thread(read_file, str(self._file), MOST_BYTES)
        except (OSError, SyntaxProblem):  # it was deleted in between
            return
        self._shared.store(self._shared_name, SharedRecord(content, self._state), 0.0 if held is None else held.until)

    def _was_read(self) -> None:
        """Handle the state of the storage at the beginning."""
        if self._held is None:
            notice(
                OperatorEvent.CERTIFICATE_MISSING,
                f"there is no certificate for {self.names} yet: clients get a self-signed one that has expired",
            )

    async def _is_wanted(self) -> bool:
        """Whether an attempt is made; if not, the task ends."""
        return True

    async def _was_issued(self) -> None:
        """Make the workers use the certificate in the file."""
        await self._issuing.look_at_files()

    async def _was_refused(self, failed: Failed) -> None:
        """Handle a failed attempt."""

    def _next_attempt(self, now: float) -> str:
        """Say when the next attempt is, after a failed one."""
        return f"tried again in {self._state.retry_date - now:.0f} s"

    @property
    def names(self) -> str:
        return ", ".join(self._domains)

    @property
    def _asks_at(self) -> float:
        """Date from which the issuer is asked for the renewal date; after a wrong clock, at once."""
        return self._state.ask_date if self._state.ask_date <= time.time() + LONGEST_RETRY_S else 0.0

    def _read_state(self) -> None:
        file = state_file(str(self._file))
        remove_leftovers(file.parent, file.name)
        state = read_state(file)
        if state.settings != self._settings_digest:
            state = msgspec.structs.replace(state, begun=0, failures=0, retry_date=0.0, settings=self._settings_digest)
        if state.begun:
            state = msgspec.structs.replace(state, error="the last attempt was interrupted: its process was killed")
        self._state = state
        self._held = self._read_certificate()

    def _read_certificate(self) -> Held | None:
        try:
            return held_in(read_file(str(self._file), MOST_BYTES), self._domains)
        except (OSError, SyntaxProblem):
            return None

    async def _attempt(self) -> None:
        async with self._turns:
            self._held = await asyncio.to_thread(self._read_certificate)
            await self._change_state(before_attempt(self._state, time.time()))
            result = await self._run_job(asks=False)
            now = time.time()
            if isinstance(result, Issued):
                self._issuing.count(True)
                await self._change_state(after_success(self._state, result.issuer, now, self._held))
                self._held = await asyncio.to_thread(self._read_certificate)
                by = f" by {result.issuer}" if result.issuer else ", which another gateway has obtained"
                more = f"; others have failed: {result.failed}" if result.failed else ""
                notice(OperatorEvent.CERTIFICATE_ISSUED, f"a certificate for {self.names} was issued{by}{more}")
                await self._store_record()
                await self._was_issued()
                return
            failed = result if isinstance(result, Failed) else Failed("the process has sent another result")
            self._issuing.count(False)
            await self._change_state(after_failure(self._state, failed, now))
            await self._store_record()
            stays = "the certificate in use stays" if self._held is not None else "there is no certificate yet"
            notice(
                OperatorEvent.CERTIFICATE_NOT_ISSUED,
                f"no certificate for {self.names}: {failed.why}; {stays}, {self._next_attempt(now)}",
            )
            await self._was_refused(failed)

    async def _ask_renewal_date(self) -> None:
        """Ask the issuer when to renew the certificate."""
        async with self._turns:
            answer = await self._run_job(asks=True)
        answer = answer if isinstance(answer, Renewal | Failed) else Failed("")
        now = time.time()
        await self._change_state(with_renewal(self._state, answer, now))
        self._report_delay(now)

    def _report_delay(self, now: float) -> None:
        """Log once for a certificate that the issuer wants it to be renewed too soon."""
        state, held = self._state, self._held
        if held is None or held.serial == self._delayed or state.renew_date >= early_bound(state, held, now):
            return
        self._delayed = held.serial
        wait = early_bound(state, held, now) - now
        if wait > 0:
            notice(
                OperatorEvent.CERTIFICATE_RENEWAL_DELAYED,
                f"{state.issuer} demands to renew the certificate for {self.names} again, {state.early} early"
                f" renewal{'s' * (state.early > 1)} after the last regular one; it is kept for {wait:.0f} s more",
            )

    async def _run_job(self, *, asks: bool) -> Issued | Renewal | Failed:
        try:
            issuers = [self._issuer_of(number) for number in range(len(self._acme.issuers))]
        except SecretError as error:
            return Failed(str(error))
        hook, held = self._acme.dns_hook, self._held
        seconds = ATTEMPT_S if hook is None else ATTEMPT_S + hook.timeout * 2 * len(self._domains)
        job = Job(
            issuers=issuers,
            email=self._acme.email or "",
            storage=self._acme.storage,
            file=str(self._file),
            domains=self._domains,
            challenge=self._certificate.challenge,
            key=self._certificate.key,
            seconds=ASK_S if asks else seconds,
            hook=() if hook is None else hook.command,
            hook_seconds=0.0 if hook is None else hook.timeout,
            asks=asks,
            replaces=held is not None,
            replaced_issuer=self._state.issuer,
            unless_serial="" if held is None else held.serial,
        )
        try:
            return await run_job(job, partial(self._answer_challenges, str(self._file)))
        finally:
            self._issuing.board.remove(str(self._file))
            self._shared.withdraw(self._shared_name)

    async def _answer_challenges(self, file: str, challenges: ToAnswer) -> None:
        """Make all workers of all nodes answer challenges."""
        board, shared = self._issuing.board, self._shared
        await asyncio.gather(board.post(file, challenges), shared.post(self._shared_name, challenges))

    def _issuer_of(self, number: int) -> Issuer:
        """Return an issuer with the contents of its files. Raises `SecretError`."""
        each, account = self._acme.issuers[number], self._acme.issuers[number].external_account
        ca = "" if each.ca is None else self._captured[each.ca].decode("latin-1")
        if account is None:
            return Issuer(str(each.directory), ca)
        file = account.key.file
        key = secret_in(file, self._captured[file]) if file in self._captured else account.key.value()
        return Issuer(str(each.directory), ca, account.key_id, key)

    def _marked(self, state: CertificateState) -> CertificateState:
        """Return the state with what does not depend on attempts."""
        return msgspec.structs.replace(state, settings=self._settings_digest)

    async def _change_state(self, state: CertificateState) -> None:
        """Store another state. If that fails, it holds in memory."""
        state = self._marked(state)
        if state == self._state:
            return
        self._state = state
        try:
            await asyncio.to_thread(write, state_file(str(self._file)), msgspec.json.encode(state))
        except OSError as error:
            notice(
                OperatorEvent.CERTIFICATE_NOT_ISSUED,
                f"{state_file(str(self._file))} cannot be written: {error.strerror or error}",
            )


def _files_of(acme: Acme) -> Iterator[str]:
    """Yield the files that the settings of issuers name."""
    for each in acme.issuers:
        if each.ca is not None:
            yield each.ca
        if each.external_account is not None:
            yield each.external_account.key.file
