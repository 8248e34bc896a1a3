"""The table of a measurement, and the JSON that keeps every sample of it."""

import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench.measure import Contestant, Load, Sample
from bench.peers.peer import version_told

RESULTS = Path(__file__).with_name("results")
YARDSTICKS = ("nginx", "nginx (no log)")
"""Ratios are taken to these. The first does the same work; the second is the harder bar."""


def as_markdown(contestants: Sequence[Contestant], load: Load, about: dict[str, str]) -> str:
    """One row per contestant: medians over the rounds, ratios with their spread, and whether anything went wrong."""
    return "\n".join(_lines(contestants, load, about)) + "\n"


def keep(contestants: Sequence[Contestant], load: Load, about: dict[str, str], folder: Path = RESULTS) -> Path:
    """Write the table and all samples to `folder`; give the table's path."""
    folder.mkdir(exist_ok=True)
    table = folder / f"plain-{about['date'].replace(':', '')}.md"
    table.write_text(as_markdown(contestants, load, about))
    samples = {
        "scenario": "plain",
        "about": about,
        "load": asdict(load),
        "contestants": [asdict(c) for c in contestants],
    }
    table.with_suffix(".json").write_text(json.dumps(samples, indent=1) + "\n")
    return table


def describe_machine() -> dict[str, str]:
    """What a reader must know to judge the numbers. Nothing that tells whose machine it was."""
    memory_kib = int(_field("/proc/meminfo", "MemTotal").split()[0])
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "revision": _revision(),
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": str(os.cpu_count()),
        "memory": f"{memory_kib / 1024**2:.1f} GiB",
        "kernel": f"Linux {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "wrk": version_told("wrk", "-v") or "unknown",
    }


def _lines(contestants: Sequence[Contestant], load: Load, about: dict[str, str]) -> Iterator[str]:
    yield f"# plain: CPU per proxied request, {about['date']}"
    yield ""
    for why in [why for contestant in contestants for why in contestant.void]:
        yield f"**VOID**: {why}"
        yield ""
    yield (
        f"{load.rounds} rounds of {load.seconds} s, {load.connections} connections; 1,000 different requests of about "
        f"1 KB, 100 routes, forwarding fields; a JSON access log unless the name says otherwise. Every answer was "
        f"checked. Proxy on core {load.proxy_core}, origin and load on core {load.load_core}. Ratios are taken inside "
        f"each round: median [least..most]."
    )
    yield ""
    yield "; ".join(f"{name}: {value}" for name, value in about.items())
    yield ""
    yardsticks = [contestant for contestant in contestants if contestant.name in YARDSTICKS]
    headings = ["", "CPU us/request", "least", "user", "system", *(f"ratio to {y.name}" for y in yardsticks)]
    headings += ["requests/s", "core used", "p50 ms", "p99 ms", "errors"]
    yield _row(headings)
    yield _row(["---", *["---:"] * (len(headings) - 1)])
    for contestant in contestants:
        middle = _median_of(contestant)
        yield _row(
            [
                contestant.name,
                f"{middle(lambda s: s.cpu_us):.2f}",
                f"{min(s.cpu_us for s in contestant.samples):.2f}",
                f"{middle(lambda s: s.user_s / s.requests * 1e6):.2f}",
                f"{middle(lambda s: s.system_s / s.requests * 1e6):.2f}",
                *(_ratio(contestant, yardstick) for yardstick in yardsticks),
                f"{middle(lambda s: s.requests / s.seconds):,.0f}",
                f"{middle(lambda s: s.cpu_s / s.seconds):.0%}",
                f"{middle(lambda s: s.p50_us / 1e3):.2f}",
                f"{middle(lambda s: s.p99_us / 1e3):.2f}",
                str(sum(sum(s.faults.values()) for s in contestant.samples)),
            ]
        )
    yield ""
    yield "; ".join(f"{contestant.name} {contestant.version}" for contestant in contestants)


def _median_of(contestant: Contestant) -> Callable[[Callable[[Sample], float]], float]:
    return lambda figure: median(figure(sample) for sample in contestant.samples)


def _ratio(contestant: Contestant, yardstick: Contestant) -> str:
    pairs = zip(contestant.samples, yardstick.samples, strict=True)
    ratios = [ours.cpu_us / theirs.cpu_us for ours, theirs in pairs]
    return f"{median(ratios):.3f} [{min(ratios):.2f}..{max(ratios):.2f}]"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


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
