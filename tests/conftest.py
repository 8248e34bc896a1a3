"""What the tests share: a gateway with lanes that lives as long as the run, and one lane of it per test."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest

from tests.support.lanes import PLAIN, Kind, Lane, Lanes, running

# How long an example takes says how busy the machine is, not whether it is right.
hypothesis.settings.register_profile("fastgw", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("fastgw")


@pytest.fixture(scope="session")
def lanes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    """One gateway with default settings. A module with settings of its own defines its own `lanes`."""
    yield from running(Lanes(tmp_path_factory.mktemp("lanes"), {**PLAIN, "old": Kind()}))


@pytest.fixture
def lane(lanes: Lanes) -> Iterator[Lane]:
    """A host, an upstream and an origin for this test alone."""
    lane = lanes.take()
    yield lane
    lane.end()


@pytest.fixture
def old_lane(lanes: Lanes) -> Iterator[Lane]:
    """A lane whose service may speak HTTP/1.0. The gateway remembers that, and would send it no chunks afterwards."""
    lane = lanes.take("old")
    yield lane
    lane.end()
