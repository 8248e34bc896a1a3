"""Measured tables inside documents: between two markers, with when and where they were measured."""

import re
from collections.abc import Iterable, Mapping

from bench.measure import Effort


def caption(about: Mapping[str, str], effort: Effort) -> str:
    """When and where, for whoever compares it with a machine of their own. `about`: as `machine.describe`."""
    return (
        f"Measured {about['date']} on {about['cores']} cores of {about['cpu']}, {about['kernel']}, Python "
        f"{about['python']}, revision {about['revision']}: {effort.rounds} rounds of {effort.seconds} s, medians."
    )


def put(text: str, name: str, lines: Iterable[str]) -> str:
    """`text` with `lines` between the markers of this name. `ValueError` without markers."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    between = re.compile(f"(?<={re.escape(begin)}\n).*(?={re.escape(end)})", re.DOTALL)
    if not between.search(text):
        raise ValueError(f"nothing between {begin} and {end}")
    inner = "\n".join(lines)
    return between.sub(lambda _: f"\n{inner}\n\n", text)
