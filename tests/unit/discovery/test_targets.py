"""Lists of instances as registries deliver them, and the targets that the configuration reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from fastgw.discovery.targets import ServiceInstance, target_list
from tests.support.on_loop import on_loop
from tests.unit.discovery.test_hostile_answers import of_consul, of_nacos


def weights(content: bytes) -> Sequence[int]:
    return [each["weight"] for each in json.loads(content)]


@pytest.mark.parametrize(
    ("said", "scaled"),
    [
        ([1000, 3, 0], [1000, 3, 0]),
        ([20_000, 10_000], [1000, 500]),
        ([65_535, 1, 0], [1000, 1, 0]),
        ([3 * 10**30, 2 * 10**30], [1000, 667]),
        ([-5, 2000], [0, 1000]),
    ],
)
def test_weights_above_the_most_of_a_target_keep_their_proportion(said: list[int], scaled: list[int]) -> None:
    listed = target_list([ServiceInstance("10.0.0.1", port, each) for port, each in enumerate(said, 1)], "http")
    assert weights(listed.content) == scaled


def test_each_priority_group_is_scaled_by_itself() -> None:
    instances = [
        ServiceInstance("10.0.0.1", 1, 4000),
        ServiceInstance("10.0.0.1", 2, 1000),
        ServiceInstance("10.0.0.1", 3, 20, priority=1),
        ServiceInstance("10.0.0.1", 4, 10, priority=1),
    ]
    assert weights(target_list(instances, "http").content) == [1000, 250, 20, 10]


@pytest.mark.parametrize("step", [1, -1])
def test_instances_of_one_address_are_one_target_in_whatever_order(step: int) -> None:
    """The first priority and the greatest weight count, however the address is written."""
    instances = [
        ServiceInstance("10.0.0.1", 80, 1),
        ServiceInstance("10.0.0.1", 80, 5),
        ServiceInstance("10.0.0.1", 80, 9, priority=1),
        ServiceInstance("LOCALHOST", 80, 2),
        ServiceInstance("localhost", 80, 0),
        ServiceInstance("::1", 80),
        ServiceInstance("0:0:0:0:0:0:0:1", 80),
    ]
    listed = json.loads(target_list(instances[::step], "http").content)
    assert [(each["url"], each["weight"], each["priority"]) for each in listed] == [
        ("http://10.0.0.1:80", 5, 0),
        ("http://[::1]:80", 1, 0),
        ("http://localhost:80", 2, 0),
    ]


@on_loop
async def test_weights_of_consul() -> None:
    services = [
        {"Node": {}, "Service": {"Address": "10.0.0.1", "Port": port, "Weights": {"Passing": weight}}}
        for port, weight in ((1, 20_000), (2, 10_000))
    ]
    assert weights((await of_consul(json.dumps(services))).content) == [1000, 500]


@on_loop
async def test_weights_of_nacos() -> None:
    """Nacos allows up to 10,000."""
    hosts: list[Mapping[str, Any]] = [
        {"ip": "10.0.0.1", "port": port, "weight": weight, "healthy": True, "enabled": True}
        for port, weight in ((1, 10_000.0), (2, 2500.4), (3, 0.2), (4, 0.0))
    ]
    assert weights((await of_nacos(json.dumps({"hosts": hosts}))).content) == [1000, 250, 1, 0]
