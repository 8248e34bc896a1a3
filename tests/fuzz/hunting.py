"""A hunt: a process that judges cases with sanitized twins, and what is kept of it when it does not end well."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.fuzz.cases import Case

GRACE: Final = 120.0  # seconds for starting and for making a find smaller


class Found(AssertionError):
    """A case on which the judges differ, or a wrong step in memory. The text says where it was kept."""


def hunt(folder: Path, environment: Mapping[str, str], seed: int, most: int, seconds: float) -> str:
    """Judge `most` cases, or for so many seconds. Returns what was judged. Raises `Found`."""
    under_way = folder / "under-way"
    command = [sys.executable, "-m", "tests.fuzz.judging", str(seed), str(most), str(seconds), str(under_way)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds + GRACE, check=False
    )
    if done.returncode == 0:
        return done.stdout.strip()
    told = f"seed {seed}: ended with {done.returncode}\n{done.stderr[-6000:]}"
    text = under_way.read_bytes() if under_way.exists() else b""
    raise Found(f"{told}\nkept: {Case.read(text).keep()}" if text else told)


def hunt_http2(folder: Path, environment: Mapping[str, str], seed: int, seconds: float) -> str:
    """Run the property tests of HTTP/2 sessions, beside python-hyper's h2, for so many seconds, at least once.

    Returns what was done. Raises `Found`.
    """
    runs, until = 0, time.monotonic() + seconds
    while not runs or time.monotonic() < until:
        # -s: pytest would keep to itself what a sanitizer says at the end of the process.
        how = ("-q", "-s", "-n0", "-x", "-o", "timeout=0", "-p", "no:cacheprovider", f"--hypothesis-seed={seed + runs}")
        command = [sys.executable, "-m", "pytest", *how, "tests/unit/http/http2"]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            told = f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
            raise Found(f"seed {seed + runs} of HTTP/2: ended with {done.returncode}\n{told}")
        runs += 1
    return f"{runs} runs of the properties of HTTP/2"
