"""The service account of a pod: the controller shows its token, and the new one once the file has been replaced."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from fastgw.config.settings.kubernetes import KubernetesProvider
from fastgw.runtime.control.kubernetes import cluster_controller
from fastgw.runtime.control.kubernetes.api_client import ClusterAccess, SharedAccess
from fastgw.runtime.control.kubernetes.cluster_controller import ClusterController
from fastgw.runtime.reload.activation import Activation
from tests.support.certificates import Certificates, server_tls
from tests.support.cluster import ClusterStandIn, gateway, service
from tests.support.gateway import wait_until

TOKENS = ("first-token", "second-token")


def write(folder: Path, token: str) -> None:
    """As the kubelet does: a new file takes the place of the old one."""
    (folder / "new").write_text(f"{token}\n")
    os.replace(folder / "new", folder / "token")


def test_a_rotated_token_of_the_service_account_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = Certificates(tmp_path)
    account = tmp_path / "account"
    account.mkdir()
    write(account, TOKENS[0])
    (account / "ca.crt").write_text(Path(certificates.ca).read_text())
    with ClusterStandIn(server_tls(certificates.issue("127.0.0.1", stem="apiserver"))) as cluster:
        cluster.api.tokens = frozenset(TOKENS[:1])
        cluster.put(*service("fastgw", "127.0.0.1:9902", namespace="default"), gateway("edge"))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(cluster.api.port))
        monkeypatch.setattr(cluster_controller, "LIST_S", 5.0)
        settings = KubernetesProvider()
        access = SharedAccess(ClusterAccess(settings, account=str(account)))

        async def take() -> Activation:
            return Activation(is_tried=True)

        async def run() -> None:
            controller = ClusterController(settings, access, "default", take)
            async with asyncio.TaskGroup() as group:
                running = group.create_task(controller.run())
                try:
                    await asyncio.to_thread(
                        wait_until, lambda: cluster.get("Service", "shop/fastgw-edge"), "a Service", 30.0
                    )
                    cluster.api.tokens = frozenset(TOKENS[1:])
                    write(account, TOKENS[1])
                    cluster.drop_watches()
                    cluster.put(gateway("other"))
                    await asyncio.to_thread(
                        wait_until, lambda: cluster.get("Service", "shop/fastgw-other"), "a second Service", 30.0
                    )
                finally:
                    running.cancel()

        asyncio.run(run())
