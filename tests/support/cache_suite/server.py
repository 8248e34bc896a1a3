"""The conformance suite for HTTP caches: its origin server, and its client. See README.md."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from tests.support.gateway import START_DEADLINE, Lines

FOLDER: Final = Path(__file__).parent
RUN_DEADLINE: Final = 300.0


class SuiteServer:
    """The origin server of the suite, on a free port. `url`: where the gateway reaches it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["node", "upstream/test-engine/server/server.mjs"],
            cwd=FOLDER,
            env={
                **os.environ,
                "npm_config_protocol": "http",
                "npm_config_port": "0",
                "npm_config_pidfile": os.devnull,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        self._lines = Lines(self._process.stdout)
        try:
            line = self._lines.wait_for(lambda line: line.startswith(b"Listening on "), START_DEADLINE)
            port = re.search(rb":(\d+)/", line)
            assert port is not None, line
        except BaseException:
            self._end()
            raise
        self.url = f"http://127.0.0.1:{int(port[1])}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._lines.finish()


def run_cases(url: str, at_once: int, names: Sequence[str] = ()) -> dict[str, Any]:
    """Run cases against a cache at `url`, so many of them at the same time, and return their results by name.

    `names`: none: all that are required or optimal, and those that they depend on.
    """
    ended = subprocess.run(
        ["node", "run.mjs", url, str(at_once), *names],
        cwd=FOLDER,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=RUN_DEADLINE,
        check=True,
    )
    return {case.pop("id"): case for case in json.loads(ended.stdout)}
