"""OCSP responses of the certificates of listeners with `ocsp_stapling`: fetched, verified, stored and sent to workers.

Rule 1: a response that was verified is stapled until it ends, whatever the responder does, unless a later one says that
the certificate is revoked. Rule 2: the responder's answer is verified before anything of it is used, and never shown.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Final

from fastgw.admin.node_interface import OcspInfo
from fastgw.config.base.problems import shown_file
from fastgw.net.ocsp import (
    MOST_BYTES,
    InvalidOcspResponse,
    Subject,
    VerifiedResponse,
    request_for,
    subject_in,
    verify_response,
)
from fastgw.net.ocsp_stapling import Staple
from fastgw.net.placeholder import holds_placeholder
from fastgw.operator_events import OperatorEvent
from fastgw.operator_log import notice
from fastgw.runtime.ipc.channel import Channel
from fastgw.runtime.ipc.published_feed import PublishedFeed
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.node.node_state import NodeState
from fastgw.runtime.node.ocsp_storage import folder_of, read_response, remove_old, stapled_files, write_response
from fastgw.runtime.process.lasting_tasks import keep_running
from fastgw.sync import feeds
from fastgw.sync.ocsp_responses import FEED, read, written
from fastgw.upstream.client.http_client import Fetcher, FetchFailed

AT_ONCE: Final = 4
"""Maximum number of requests to responders at the same time."""
TIMEOUT_S: Final = 15.0
FIRST_RETRY_S: Final = 60.0
LONGEST_RETRY_S: Final = 3600.0
LEAST_WAIT_S: Final = 30.0
"""Minimum time between two responses for a certificate."""
LONGEST_SLEEP_S: Final = 600.0
"""Seconds after which dates are compared again: the clock may have been set."""
GATHER_S: Final = 0.05
"""Seconds in which changes are sent to the workers together."""
OK: Final = 200
_FIELDS: Final = ((b"Content-Type", b"application/ocsp-request"), (b"Accept", b"application/ocsp-response"))


class OcspStapling:
    """Responses for the certificates of the active configuration."""

    def __init__(self, node_state: NodeState, channel: Channel, fetcher: Fetcher) -> None:
        self.fetcher = fetcher
        self.turns = asyncio.Semaphore(AT_ONCE)
        self.folder: Path | None = None
        self.before = dict(read(node_state.feeds.get(FEED, b"")))
        """Responses of an earlier control process, or of the storage, by the digest of their certificate."""
        self._running: dict[bytes, StapledCertificate] = {}  # by the digest of the file's contents
        self._feed = PublishedFeed(channel, FEED, lambda: node_state.sealed.generation, self._value)
        self._publishing: asyncio.TimerHandle | None = None

    def use_configuration(self, accepted: ConfigSnapshot) -> None:
        """Staple responses to the certificates of this configuration from now on."""
        self.folder = folder_of(accepted.settings)
        wanted: dict[bytes, tuple[str, bytes]] = {}
        for file in stapled_files(accepted.settings):
            content = accepted.captured[file]
            if not holds_placeholder(content):
                wanted[sha256(content).digest()] = file, content
        for key in self._running.keys() - wanted.keys():
            self._running.pop(key).stop()
        for key, (file, content) in wanted.items():
            if key not in self._running:
                self._running[key] = StapledCertificate(self, shown_file(file), content)

    def infos(self) -> Sequence[OcspInfo]:
        return [each.info for each in self._running.values()]

    def publish(self) -> None:
        """Send the responses to the workers."""
        if self._publishing is None:
            self._publishing = asyncio.get_running_loop().call_later(GATHER_S, self._publish)

    def _publish(self) -> None:
        self._publishing = None
        self._feed.publish()

    def _value(self) -> bytes:
        """Return the responses for the workers. Responses that exceed the size of a feed are not stapled."""
        left, found = feeds.MOST_BYTES - 64, {}
        for each in self._running.values():
            if (staple := each.staple) is not None:
                left -= len(staple.response) + 64
                each.is_left_out = left < 0
                if left >= 0:
                    found[each.digest] = staple
        return written(found)

    def stop(self) -> None:
        for each in self._running.values():
            each.stop()
        self._running.clear()
        if self._publishing is not None:
            self._publishing.cancel()


class StapledCertificate:
    """A certificate, and the task that keeps its response current. `file`: as it is shown; `content`: its contents."""

    def __init__(self, stapling: OcspStapling, file: str, content: bytes) -> None:
        self._stapling, self._file, self._content = stapling, file, content
        self._subject: Subject | None = None
        self.digest = b""
        """SHA-256 digest of the certificate."""
        self.staple: Staple | None = None
        """Response in force."""
        self.is_left_out = False
        """Whether there are too many responses."""
        self._is_revoked = False
        self._problem = ""
        self._failures = 0
        self._due_date = 0.0
        self._task = asyncio.get_running_loop().create_task(
            keep_running(f"the OCSP response for {file}", self._keep_current)
        )

    def __repr__(self) -> str:
        return f"<StapledCertificate {self._file}>"

    def stop(self) -> None:
        self._task.cancel()

    @property
    def info(self) -> OcspInfo:
        staple = self.staple if self.staple is not None and self.staple.until > time.time() else None
        return OcspInfo(
            certificate=self._file,
            responder="" if self._subject is None else self._subject.responder,
            expires_date=None if staple is None or self.is_left_out else staple.until,
            revoked=self._is_revoked,
            next_attempt_date=self._due_date or None,
            problem=self._problem or ("there are too many responses for the workers" if self.is_left_out else ""),
        )

    async def _keep_current(self) -> None:
        try:
            subject = await asyncio.to_thread(subject_in, self._content)
        except ValueError:
            subject = "it is not a certificate"
        if isinstance(subject, str):
            self._problem = f"no OCSP response can be stapled: {subject}"
            return  # `check` and the log of the start have told it
        self._subject, self.digest = subject, subject.digest
        await self._use_stored(subject)
        while True:
            left = self._due_date - time.time()
            if left > 0:
                await asyncio.sleep(min(left, LONGEST_SLEEP_S))
                continue
            async with self._stapling.turns:
                await self._fetch(subject)

    async def _use_stored(self, subject: Subject) -> None:
        """Use the response of an earlier process, which the workers have already, or that of the storage."""
        before, folder, now = self._stapling.before.pop(subject.digest, None), self._stapling.folder, time.time()
        stored = None
        if before is not None:
            with suppress(InvalidOcspResponse):
                stored = before.response, verify_response(before.response, subject, now)
        if stored is None and folder is not None:
            stored = await asyncio.to_thread(read_response, folder, subject, now)
        if stored is not None:
            await self._use(subject, *stored, store=False)

    async def _fetch(self, subject: Subject) -> None:
        now = time.time()
        try:
            content = await self._ask_responder(subject)
            response = verify_response(content, subject, now)
        except (FetchFailed, InvalidOcspResponse, ValueError) as error:
            self._failed(str(error), now)
        else:
            await self._use(subject, content, response, store=True)

    async def _ask_responder(self, subject: Subject) -> bytes:
        """Ask the responder. A redirect is not followed. Raises `FetchFailed`, `InvalidOcspResponse`, and `ValueError`
        for an invalid URL.
        """
        answer = await self._stapling.fetcher.fetch(
            subject.responder,
            method=b"POST",
            fields=_FIELDS,
            body=request_for(subject),
            timeout=TIMEOUT_S,
            most=MOST_BYTES,
            repeatable=True,
        )
        if answer.status != OK:
            raise InvalidOcspResponse(f"the responder answers with status {answer.status}")
        return answer.body

    async def _use(self, subject: Subject, content: bytes, response: VerifiedResponse, *, store: bool) -> None:
        now = time.time()
        if response.is_revoked:
            self._was_revoked(now)
        else:
            if self._problem:
                notice(OperatorEvent.OCSP_RESPONSE_BACK, f"the OCSP response for {self._file} was renewed")
            self._is_revoked, self._problem, self._failures = False, "", 0
            self.staple = Staple(content, response.until)
            self._due_date = now + max(LEAST_WAIT_S, (response.until - now) / 2 * random.uniform(0.9, 1.1))
        self._stapling.publish()
        if store and self._stapling.folder is not None:
            try:
                await asyncio.to_thread(
                    write_response, self._stapling.folder, subject, b"" if response.is_revoked else content
                )
                await asyncio.to_thread(remove_old, self._stapling.folder, now)
            except OSError as error:
                notice(
                    OperatorEvent.OCSP_NOT_RENEWED,
                    f"the OCSP response for {self._file} is stapled, but cannot be stored in "
                    f"{self._stapling.folder}: {error.strerror or error}",
                )

    def _was_revoked(self, now: float) -> None:
        """Staple nothing: clients would reject the certificate anyway, and a good response would be a false one."""
        if not self._is_revoked:
            text = f"the certificate {self._file} is revoked, says its OCSP responder: replace it"
            notice(OperatorEvent.CERTIFICATE_REVOKED, text)
        self._is_revoked, self.staple, self._problem = True, None, "the certificate is revoked"
        self._due_date = now + LONGEST_RETRY_S

    def _failed(self, why: str, now: float) -> None:
        self._failures += 1
        wait = min(FIRST_RETRY_S * 2 ** min(self._failures - 1, 10), LONGEST_RETRY_S) * random.uniform(1.0, 1.2)
        self._due_date = now + wait
        until = -inf if self.staple is None else self.staple.until
        if until > now:
            what = f"the one in use is stapled until {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(until))} UTC"
        else:
            what = "none is stapled"
        self._problem = why
        notice(
            OperatorEvent.OCSP_NOT_RENEWED,
            f"no OCSP response for {self._file}: {why}; {what}, tried again in {wait:.0f} s",
        )
