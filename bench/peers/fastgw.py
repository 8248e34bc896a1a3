"""fastgw: one worker, the routes of the others from a YAML file, its port by `--ready-fd`."""

import json
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bench.peers.peer import ROUTES, Place, Running, version_told
from bench.ports import READY_SECONDS, NotReady
from bench.processes import Pinned, pinned

PROGRAM = Path(sys.executable).with_name("fastgw")


class Fastgw:
    name = "fastgw"

    def version(self) -> str | None:
        return version_told(PROGRAM, "version")

    @contextmanager
    def running(self, place: Place) -> Iterator[Running]:
        access_log = place.folder / "access.log"
        config = place.folder / "fastgw.yaml"
        config.write_text(yaml.safe_dump(_configuration(place.origin_port, access_log), sort_keys=False))
        readable, writable = os.pipe()
        with open(readable, "rb") as ready, open(writable, "wb") as told:
            command: list[str | Path] = [PROGRAM, "run", config, "--ready-fd", str(writable)]
            with pinned(command, place.core, place.folder / "fastgw.out", pass_fds=[writable]) as program:
                told.close()  # so that the pipe ends when fastgw does
                if not select.select([ready], [], [], READY_SECONDS)[0]:
                    raise NotReady(f"fastgw is not ready after {READY_SECONDS:g} s: {program.last_words()}")
                yield Running(program, _port(os.read(readable, 65_536), program), access_log)


def _configuration(origin_port: int, access_log: Path) -> dict[str, Any]:
    return {
        "version": 1,
        "workers": 1,
        "listeners": {"public": {"address": "127.0.0.1:0"}},
        "access_logs": [{"sink": str(access_log), "format": "json"}],
        "upstreams": {
            "origin": {
                "targets": [{"url": f"http://127.0.0.1:{origin_port}"}],
                "host_header": "preserve",
                "pool": {"max_idle": 128},
            }
        },
        "routes": [{"name": route, "paths": [f"/{route}/*"], "upstream": "origin"} for route in ROUTES],
    }


def _port(told: bytes, program: Pinned) -> int:
    try:
        (address,) = json.loads(told)["listeners"]["public"]
    except (ValueError, KeyError) as error:
        raise NotReady(f"fastgw told {told!r} as its addresses: {program.last_words()}") from error
    return int(address.rpartition(":")[2])
