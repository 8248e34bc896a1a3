"""A hunt: a process that judges cases with sanitized twins, and what is kept of it when it does not end well."""

from __future__ import annotations

import subprocess
import sys
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
