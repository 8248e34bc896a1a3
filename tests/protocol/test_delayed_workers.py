"""A worker accepts nothing before all that its filters wait for is there, such as helper processes."""

from __future__ import annotations

from pathlib import Path

import fastgw
from tests.support.extension import install
from tests.support.gateway import Gateway

FILTERS = '''
"""Filter of a test."""

import asyncio
from pathlib import Path

from fastgw.filters.api import Env, Filter, Hooks, Phase, Services


class Slow(Filter, name="slow", phase=Phase.CREDENTIALS):
    """Be ready some time after each worker has started."""

    folder: str
    """Where each worker notes that it is ready, under its number."""

    def build(self, env: Env) -> Hooks:
        def start(services: Services) -> None:
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            services.wait_for(future)
            loop.call_later(0.5, done, future, services.slot)

        def done(future: asyncio.Future, slot: int) -> None:
            Path(self.folder, str(slot)).touch()
            future.set_result(None)

        return Hooks(request=lambda exchange: None, start=start)
'''


def test_a_gateway_is_ready_once_the_filters_of_all_workers_are(tmp_path: Path) -> None:
    install(tmp_path, "slow", {"slow.py": FILTERS}, {"slow": "slow:Slow"})
    noted = tmp_path / "noted"
    noted.mkdir()
    config = {
        "workers": 2,
        "extensions": ["slow"],
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "routes": [
            {"name": "all", "paths": ["/*"], "filters": {"slow": {"folder": str(noted)}}, "respond": {"body": "ok"}}
        ],
    }
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(fastgw.__file__).parents[1]}"}
    with Gateway(config, tmp_path, environment=environment) as gateway:
        assert {each.name for each in noted.iterdir()} == {"0", "1"}
        with gateway.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().body == b"ok"
