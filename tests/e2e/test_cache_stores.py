"""What a cache has stored survives the death of workers, reloads and upgrades, as its memory is the node's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.e2e.test_cache_purges import Counting
from tests.e2e.test_processes import samples
from tests.e2e.test_upgrade import LONG, Upgradable, upgradable
from tests.support.gateway import wait_until
from tests.support.threaded import Threaded

TARGETS = [f"/{number}" for number in range(12)]
FILES = 2 * len(TARGETS)
"""Each URL has a response, and a list of the headers that choose it (`Vary`)."""
ON_DISK = 'fastgw_cache_disk_objects{store="main"}'
REQUEST = "GET %s HTTP/1.1\r\nHost: a.test\r\nAccept-Language: en\r\nConnection: close\r\n\r\n"


def bodies(gateway: Upgradable) -> list[bytes]:
    """Answers to new connections, which any worker may accept."""
    found = []
    for target in TARGETS:
        client = gateway.connect()
        try:
            response = client.exchange((REQUEST % target).encode())
            assert response.status == 200
            found.append(response.body)
        finally:
            client.close()
    return found


def test_what_is_stored_survives_deaths_reloads_and_upgrades(tmp_path: Path) -> None:
    with Threaded(Counting, None) as origin:
        origin.begin()
        routes = [{"name": "all", "upstream": origin.origin, "filters": {"cache": {}}}]
        disk = {"path": str(tmp_path / "files"), "size": "64MiB"}
        caches = {"main": {"memory": "8MiB", "disk": disk}}
        with upgradable(tmp_path, workers=2, routes=routes, caches=caches) as gateway:
            stored = bodies(gateway)
            assert bodies(gateway) == stored
            # What a worker has not written to disk yet dies with it.
            wait_until(lambda: samples(gateway.ready["status"])[ON_DISK] == FILES, "all on disk", LONG)

            for pid in list(gateway.worker_pids):
                before = gateway.serving()
                os.kill(pid, signal.SIGKILL)
                wait_until(
                    lambda before=before: len(gateway.serving()) == 2 and gateway.serving() != before,  # type: ignore[misc]
                    "a new worker",
                    LONG,
                )
                assert bodies(gateway) == stored

            gateway.change(caches={"main": {"memory": "8MiB", "max_object": "1MiB", "disk": disk}})
            gateway.reload()
            assert bodies(gateway) == stored
            gateway.installed.put({"__init__.py": ("", "\nVERSION = '9.9.9'\n")})
            gateway.upgrade()
            assert bodies(gateway) == stored

            seen = samples(gateway.ready["status"])
            assert seen['fastgw_cache_objects{store="main"}'] >= len(TARGETS)
            assert 0 < seen['fastgw_cache_bytes{store="main"}'] <= 8 << 20
            assert seen['fastgw_cache_disk_up{store="main"}'] == 1

            # Other memory begins empty, and what is on disk is found there.
            gateway.change(caches={"main": {"memory": "4MiB", "disk": disk}})
            gateway.reload()
            assert bodies(gateway) == stored

            gateway.change(caches={"main": {"memory": "4MiB"}, "other": {}})
            gateway.reload()
            again = bodies(gateway)
            assert not set(again) & set(stored)
            assert bodies(gateway) == again
            assert samples(gateway.ready["status"])['fastgw_cache_objects{store="other"}'] == 0

            # A directory that was left can be used again, and is empty: purges of the meantime are not known there.
            gateway.change(caches={"main": {"memory": "4MiB", "disk": disk}})
            gateway.reload()
            fresh = bodies(gateway)
            assert not set(fresh) & {*stored, *again}
            assert bodies(gateway) == fresh
