"""Kyma provider of the control process: follows the cluster of the active configuration, and keeps its Services."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from fastgw.admin.node_interface import FeedInfo
from fastgw.config.kyma.provider import PROVIDER
from fastgw.config.settings.egress import Providers
from fastgw.config.sources.virtual_files import set_content, watched_name
from fastgw.runtime.control.kubernetes.access_services import AccessServices
from fastgw.runtime.control.kubernetes.api_client import ClusterAccess, SharedAccess, own_namespace
from fastgw.runtime.control.kubernetes.watch import KubernetesWatch


class Watching:
    """Follows the cluster of the active configuration. `take`: activates the new contents of a file, if possible
    now.
    """

    def __init__(self, take: Callable[[str], Awaitable[bool]]) -> None:
        self._take = take
        self._wanted: object = None
        self._watch: KubernetesWatch | None = None
        self._services: AccessServices | None = None
        self._running: list[asyncio.Task[None]] = []

    def watch_provider(self, providers: Providers, captured: Mapping[str, bytes]) -> None:
        """Switch to this provider; the watch continues if the provider and its credentials are unchanged."""
        kyma = providers.kyma
        if kyma is None or kyma.kubernetes is None:
            self.stop()
            return
        kubeconfig = captured.get(kyma.kubernetes.kubeconfig or "", b"")
        services = kyma.services, kyma.services_namespace, kyma.services_gateway
        wanted = kyma.kubernetes, kyma.namespace, kyma.secrets, services, kubeconfig
        if wanted == self._wanted:
            return
        self.stop()
        self._wanted = wanted
        name = watched_name(PROVIDER)
        access = ClusterAccess(kyma.kubernetes, kubeconfig)
        self._watch = KubernetesWatch(
            name,
            access,
            kyma.namespace,
            partial(set_content, name),
            partial(self._take, name),
            self._served,
            kyma.secrets,
        )
        works = [self._watch.run]
        if kyma.services == "create":
            namespace = own_namespace(kyma.kubernetes, kubeconfig)
            self._services = AccessServices(kyma, SharedAccess(access), namespace, name)
            works.append(self._services.run)
        self._running = [asyncio.get_running_loop().create_task(work()) for work in works]

    def _served(self, applications: Mapping[str, bytes]) -> None:
        if self._services is not None:
            self._services.use_applications(applications)

    def feed_infos(self) -> Sequence[FeedInfo]:
        """Return the states of the watches, if there are any."""
        return tuple(info for each in (self._watch, self._services) if each is not None for info in each.feed_infos())

    def stop(self) -> None:
        for each in self._running:
            each.cancel()
        self._wanted = self._watch = self._services = None
        self._running = []

    async def end(self) -> None:
        """Stop, and give the Lease back."""
        running = self._running
        self.stop()
        await asyncio.gather(*running, return_exceptions=True)
