"""Events about objects without conditions: one for each problem of a version, unless the cluster makes the versions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from fastgw.config.kubernetes.model import ObjectId, Translation
from fastgw.config.settings.kubernetes import KubernetesProvider
from fastgw.runtime.control.kubernetes.api_client import ClusterAccess, SharedAccess
from fastgw.runtime.control.kubernetes.cluster_objects import ClusterObjects
from fastgw.runtime.control.kubernetes.status_writer import StatusWriter
from tests.support.cluster import ClusterStandIn
from tests.unit.config.kubernetes.test_endpoints import endpoints, served
from tests.unit.runtime.control.kubernetes.test_watch import all_closed


def version_of(item: Mapping[str, Any], generation: int) -> bytes:
    return json.dumps({**item, "metadata": {**item["metadata"], "uid": "u", "generation": generation}}).encode()


async def write(access: SharedAccess, versions: list[bytes], made: Translation, id_: ObjectId) -> None:
    """Write the warnings of an object after each of these versions, then once more as another leader."""
    objects = ClusterObjects(lambda: None, lambda: None)
    writer = StatusWriter(access, objects)
    for each in versions:
        objects.store(id_[0], "/".join(id_[1:]), each)
        assert await writer.write({}, made, made.warnings)
    assert await StatusWriter(access, objects).write({}, made, made.warnings)
    client = await access.client("")
    await client.close(failed=True)
    await all_closed()


@pytest.mark.parametrize(("kind", "count"), [("EndpointSlice", 1), ("Ingress", 3)])
def test_an_event_for_each_version_that_is_not_of_the_cluster_itself(tmp_path: Path, kind: str, count: int) -> None:
    """An EndpointSlice is written by a controller, several times in each rollout."""
    item = endpoints("one", ["10.0.0.1", "a b"])
    _, served_ = served(item)
    (why,) = served_.warnings.values()
    id_ = kind, "shop", "one"
    made = Translation([], {}, [], {id_: why}, served_.elsewhere, ())
    with ClusterStandIn() as cluster:
        file = cluster.kubeconfig(tmp_path / "kubeconfig")
        access = SharedAccess(ClusterAccess(KubernetesProvider(kubeconfig=str(file)), file.read_bytes()))
        asyncio.run(write(access, [version_of(item, generation) for generation in (1, 2, 3)], made, id_))
        assert [each["message"] for each in cluster.events(kind, "shop/one")] == [why] * count
