"""Two replicas make the Kubernetes Services by which applications call APIs, and serve calls of their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.programs import Nginx
from tests.e2e.test_reload import Reloadable
from tests.support.cluster import LONG, ClusterStandIn
from tests.support.gateway import wait_until
from tests.support.kyma import api, application, service

NAMESPACE = "kyma-integration"


class Replica(Reloadable):
    def __init__(self, cluster: ClusterStandIn, directory: Path) -> None:
        directory.mkdir()
        kubernetes = {"kubeconfig": str(cluster.kubeconfig(directory / "kubeconfig"))}
        kyma = {"kubernetes": kubernetes, "services": "create", "allow_local": True}
        super().__init__({"egress": {"addressing": "host"}, "providers": {"kyma": kyma}}, directory)

    def status_of(self, host: str) -> int:
        with self.connect() as client:
            return client.exchange(f"GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()).status


def names(cluster: ClusterStandIn) -> list[str]:
    return cluster.call(lambda: sorted(name for _, name in cluster.api.by["", "services"].objects))


@pytest.mark.landing
def test_two_replicas_make_the_services_that_they_serve(tmp_path: Path) -> None:
    def shop(*ids: str) -> dict[str, Any]:
        return application(*(service(each, api(origin.url), id=each) for each in ids))

    with Nginx(tmp_path, "location / { return 200 'called'; }") as origin, ClusterStandIn() as cluster:
        cluster.put(shop("a"))
        with Replica(cluster, tmp_path / "first") as first:
            wait_until(lambda: names(cluster) == ["shop-a"], "a Service", LONG)
            made = cluster.get("Service", f"{NAMESPACE}/shop-a") or {}
            assert made["spec"]["externalName"] == "fastgw-egress.kyma-system.svc.cluster.local"
            with Replica(cluster, tmp_path / "second") as second:
                for domain in ("", f".{NAMESPACE}", f".{NAMESPACE}.svc", f".{NAMESPACE}.svc.cluster.local"):
                    assert first.status_of(f"shop-a{domain}") == 200
                assert first.status_of("shop-a.another") == 404
                first.stop()
                cluster.put(shop("b"))
                wait_until(lambda: names(cluster) == ["shop-b"], "the other replica", LONG)
                assert second.status_of(f"shop-b.{NAMESPACE}") == 200
