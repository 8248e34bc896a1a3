"""Measured tables in documents: between two markers, with date and machine of the measurement."""

import re
from collections.abc import Iterable, Mapping

from bench.measure import Effort


def caption(about: Mapping[str, str], effort: Effort) -> str:
    """Return date and machine of a measurement, for comparison. `about`: as returned by `machine.describe`."""
    return (
        f"Measured {about['date']} on {about['cores']} cores of {about['cpu']}, {about['kernel']}, Python "
        f"{about['python']}, revision {about['revision']}: {effort.rounds} rounds of {effort.seconds} s, medians."
    )


def put(text: str, name: str, lines: Iterable[str]) -> str:
    """Return `text` with `lines` between the markers of this name. Raises `ValueError` if there are no markers."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    between = re.compile(f"(?<={re.escape(begin)}\n).*(?={re.escape(end)})", re.DOTALL)
    if not between.search(text):
        raise ValueError(f"nothing between {begin} and {end}")
    inner = "\n".join(lines)
    return between.sub(lambda _: f"\n{inner}\n\n", text)
