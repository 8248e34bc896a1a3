"""Audit log of the control process: changes over the admin API, and revocations that workers make."""

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from math import inf
from typing import Final

from fastgw.audit.chain import AuditEntry
from fastgw.audit.log import AuditLog
from fastgw.config.settings.gateway import Config
from fastgw.gateway.compiler import secret_names_of
from fastgw.observe.access_log.formats import Mask, masked_words
from fastgw.observe.access_log.secret_names import masker
from fastgw.runtime.node.node_state import ReloadRecord
from fastgw.sync.revocations import RevocationEvent

ANSWER_S: Final = 2.0
"""Maximum seconds that the response to a change waits until its entry is on disk."""


class Auditing:
    """Writes entries in a thread, all that wait at once."""

    def __init__(self) -> None:
        self._log = AuditLog(None)
        self._settings: Config | None = None
        self._mask: Mask | None = None  # made for the first entry of a configuration
        self._due = asyncio.Event()
        self._written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def use_configuration(self, settings: Config) -> None:
        self._log.path = None if settings.audit is None else settings.audit.path
        self._settings, self._mask = settings, None

    def _shown(self, text: str) -> str:
        """Return a text with masked secrets: a purge may name a URL with a token."""
        if self._mask is None:
            self._mask = masker(() if self._settings is None else secret_names_of(self._settings))
        lines = text.encode(errors="replace").splitlines(keepends=True)
        return b"".join(masked_words(line, self._mask) or b"" for line in lines).decode(errors="replace")

    def note(self, actor: str, action: str, result: str, detail: Mapping[str, str]) -> None:
        """Record an action of now; it is written soon."""
        shown = {name: self._shown(value) for name, value in detail.items()}
        self._log.record(AuditEntry(time.time(), actor, self._shown(action), self._shown(result), shown))
        self._due.set()

    async def record(self, actor: str, action: str, result: str, detail: Mapping[str, str]) -> None:
        """Record an action of now; return when it is on disk, or after `ANSWER_S`."""
        if self._log.path is None:
            return
        self.note(actor, action, result, detail)
        await asyncio.wait([self._written], timeout=ANSWER_S)

    def revoked(self, event: RevocationEvent) -> None:
        """Record a revocation that a worker has made, such as a logout."""
        self.note("client", "revoke", "revoked", described_revocation(event))

    def rejected(self, reload: ReloadRecord) -> None:
        """Record a reload that control has rejected itself: before the answer to the client that requested it."""
        self.note(reload.source, "reload", f"refused: {reload.summary}", {"subject": reload.subject})

    async def run(self) -> None:
        """Write entries as they come; after a failure, again from time to time."""
        while True:
            wait = self._log.due_at - time.monotonic()
            try:
                async with asyncio.timeout(None if wait == inf else max(0.0, wait)):
                    await self._due.wait()
            except TimeoutError:
                pass
            self._due.clear()
            written, self._written = self._written, asyncio.get_running_loop().create_future()
            try:
                await asyncio.to_thread(self._log.write)
            except Exception:  # no thread can be started, for example: the entries wait for the next attempt
                self._due.set()
                self._written.add_done_callback(partial(_set_done, written))
                raise
            written.set_result(None)

    async def stop(self) -> None:
        """Write what waits."""
        await asyncio.to_thread(self._log.write)
        self._log.close()


def _set_done(earlier: asyncio.Future[None], _: asyncio.Future[None]) -> None:
    earlier.set_result(None)


def described_revocation(event: RevocationEvent) -> dict[str, str]:
    """Return the facts of a revocation for an entry."""
    facts = {"kind": event.kind, "issuer": event.issuer, "subject": event.subject, "jti": event.jti}
    return {name: value for name, value in facts.items() if value}
