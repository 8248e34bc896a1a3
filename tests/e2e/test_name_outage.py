"""Names in the URLs of targets keep their addresses while DNS is unavailable, whatever happens to the gateway."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_upgrade import Upgradable
from tests.support.gateway import wait_until
from tests.support.moody import Moody

MANY = 30
"""New connections, so that each of two workers gets some of them."""


class NameOutage:
    """A gateway whose resolver reads the address of every name from a file, and fails while there is none."""

    def __init__(self, directory: Path, origin: Moody) -> None:
        self.file = directory / "address"
        self.file.write_text("127.0.0.1")
        resolver = ("getaddrinfo(host, ", f"getaddrinfo(open({str(self.file)!r}).read(), ")
        self.upstream = {"targets": [f"http://users.test:{origin.address.rpartition(':')[2]}"]}
        self.gateway = Upgradable(
            directory,
            {"upstream/targets/dns.py": resolver},
            upstreams={"users": self.upstream},
            routes=[{"name": "users", "upstream": "users"}],
        )

    def statuses(self) -> set[int]:
        return {self.gateway.answer()[0] for _ in range(MANY)}


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[NameOutage]:
    """DNS has failed after a worker has looked the name up and told the others."""
    with Moody(b"users") as origin:
        outage = NameOutage(tmp_path, origin)
        with outage.gateway:
            assert outage.gateway.answer() == (200, b"users")
            outage.file.unlink()
            wait_until(lambda: outage.statuses() == {200}, "all workers know the address")
            yield outage


def test_a_reload_that_makes_the_targets_again(outage: NameOutage) -> None:
    outage.gateway.change(upstreams={"users": {**outage.upstream, "pool": {"max_idle": 7}}})
    outage.gateway.reload()
    assert outage.statuses() == {200}


def test_a_worker_that_takes_the_place_of_another(outage: NameOutage) -> None:
    before = outage.gateway.serving()
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    outage.gateway.wait_for_workers(2, {killed})
    assert outage.statuses() == {200}


def test_workers_of_another_version(outage: NameOutage) -> None:
    outage.gateway.upgrade()
    assert outage.statuses() == {200}
