"""Issuing: obtains and renews the certificates of the active configuration, and those that are ordered on demand."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from fastgw.admin.node_interface import AcmeInfo, OnDemandInfo
from fastgw.config.settings.acme import AcmeCertificate
from fastgw.config.settings.gateway import Config
from fastgw.runtime.control.acme.challenge_board import ChallengeBoard
from fastgw.runtime.control.acme.kept_certificate import IssuingParts, KeptCertificate
from fastgw.runtime.control.acme.on_demand import OnDemandIssuing
from fastgw.runtime.control.acme.shared_issuing import SharedIssuing
from fastgw.runtime.ipc.channel import Channel
from fastgw.runtime.node.config_snapshot import ConfigSnapshot
from fastgw.runtime.node.node_state import NodeState
from fastgw.upstream.client.http_client import Fetcher

AT_ONCE: Final = 4
"""Maximum number of attempts at the same time, without those on demand."""


class Issuing:
    """Certificates of the active configuration. `look_at_files`: activates changed files."""

    def __init__(
        self, node_state: NodeState, channel: Channel, fetcher: Fetcher, look_at_files: Callable[[], Awaitable[None]]
    ) -> None:
        self._words, self._shared = node_state.words, node_state.shared
        board = ChallengeBoard(node_state, channel)
        self._sharing = SharedIssuing(board)
        self._parts = IssuingParts(board, self._sharing, look_at_files, self._count)
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._running: dict[str, KeptCertificate] = {}
        self.on_demand = OnDemandIssuing(node_state, channel, fetcher, self._parts)

    def use_configuration(self, accepted: ConfigSnapshot, source: tuple[str, str] | None) -> None:
        """Obtain these certificates from now on. `source`: URL and prefix of the Redis of `state`, if any."""
        self._sharing.use_configuration(accepted, source)
        acme = accepted.settings.acme
        wanted = {} if acme is None else certificates_of(accepted.settings)
        for name in [name for name, each in self._running.items() if not each.is_of(acme, wanted.get(name))]:
            self._running.pop(name).stop()
        for name, certificate in wanted.items():
            if acme is not None and name not in self._running:
                self._running[name] = KeptCertificate(
                    self._parts, self._turns, name, acme, certificate, accepted.captured
                )
        self.on_demand.use_configuration(accepted)

    def infos(self) -> Sequence[AcmeInfo]:
        return [*(each.info for each in self._running.values()), *self.on_demand.infos()]

    def on_demand_info(self) -> OnDemandInfo | None:
        return self.on_demand.info

    def _count(self, succeeded: bool) -> None:
        words = self._shared.supervisor.words
        words[self._words.acme_attempts + (0 if succeeded else 1)] += 1

    def stop(self) -> None:
        self.on_demand.stop()
        for each in self._running.values():
            each.stop()
        self._running.clear()
        self._sharing.stop()


def certificates_of(settings: Config) -> dict[str, AcmeCertificate]:
    """Return the certificates that are obtained by ACME, by virtual file."""
    owners = (*settings.listeners.values(), *(() if settings.admin is None else (settings.admin,)))
    tls = (owner.tls for owner in owners if owner.tls is not None)
    return {pair.acme.file: pair.acme for each in tls for pair in each.certificates if pair.acme is not None}
