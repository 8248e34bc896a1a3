"""Description of the machine, as far as it affects the results, without anything that identifies its owner."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from bench.peers.peer import version_told


def describe() -> dict[str, str]:
    memory_kib = int(_field("/proc/meminfo", "MemTotal").split()[0])
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "revision": _revision(),
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": str(os.cpu_count()),
        "memory": f"{memory_kib / 1024**2:.1f} GiB",
        "kernel": f"Linux {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "wrk": version_told("wrk", "-v") or "not installed",
        "h2load": version_told("h2load", "--version") or "not installed",
    }


def _field(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return "unknown"


def _revision() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return told.stdout.strip() or "unknown"
