"""Closed-loop load at saturation with wrk; a script checks every response and prints the results as one line of
JSON.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.load.load import Environment, NoAnswers
from bench.peers.peer import Running, without_revision
from bench.samples import Told

REQUESTS = Path(__file__).with_name("requests.lua")
TIMEOUT = 30  # seconds after the run, for wrk to build its requests and to summarize


@dataclass(frozen=True)
class Wrk:
    """Each connection sends its next request as soon as the previous response has arrived. Latency is measured from
    sending.
    """

    name: str = "64 connections"
    connections: int = 64
    scheme: str = "http"
    script: Path = REQUESTS
    arguments: Mapping[str, str | int] = field(default_factory=dict)
    """Arguments of the script as key=value. `@NAME` as a value is the path of that file in the run's folder."""

    arguments_of: Mapping[str, Mapping[str, str | int]] = field(default_factory=dict)
    """Further arguments by contestant."""
    environment: Mapping[str, str] = field(default_factory=dict)
    body_bytes: int = 0
    """Bytes of body per request in either direction, for the figure `bytes`. 0 = no such figure."""

    @property
    def cut_off(self) -> int:
        return 2 * self.connections  # at the end of this run and of the previous one

    def run(self, name: str, running: Running, environment: Environment, seconds: int) -> Told | None:
        # One thread: this process, and so wrk, is already pinned to the load's core.
        command = ["wrk", "--threads", "1", "--connections", str(self.connections), "--duration", f"{seconds}s"]
        command += ["--script", str(self.script), f"{self.scheme}://127.0.0.1:{running.port}/", "--"]
        arguments = {**self.arguments, **self.arguments_of.get(without_revision(name), {})}
        command += [f"{key}={_filled_in(value, environment.folder)}" for key, value in arguments.items()]
        printed = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=seconds + TIMEOUT,
            env={**os.environ, **self.environment},
        )
        told = json.loads(printed.stdout.splitlines()[-1])
        if not told["requests"]:
            raise NoAnswers(f"{name} answered no request at all: {told['faults']}")
        if self.body_bytes:
            told["figures"]["bytes"] = told["requests"] * self.body_bytes
        return Told(**told)


def _filled_in(value: str | int, folder: Path) -> str:
    text = str(value)
    return str(folder / text[1:]) if text.startswith("@") else text
