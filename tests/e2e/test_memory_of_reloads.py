"""What the processes of a gateway hold while its configuration changes again and again under load: no more than before.

`python -m bench.soak` looks at that for hours.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from bench.soak import Samples, Sizes, soak

pytestmark = pytest.mark.usefixtures("new_programs")  # what was forked shares pages, which count as its own

MIB = 1 << 20
SIZES = Sizes(workers=1, routes=50, clients=1, reload_every=0.01, pause=0.4)
"""A reload takes about as long as the pause: some requests meet each generation. More of them, as a client without
pauses sends, take most of the processor time, and all the more of them the longer a busy machine needs for a reload."""
WARM = 40
SPAN = 40
"""Reloads that are looked at together."""
SPANS = 3
SECONDS = 540.0  # a reload takes a tenth of one; on a busy machine, where others go before control, it took four


def spans(held: list[tuple[float, int]]) -> list[list[int]]:
    """Bytes after each reload, in whole spans, each of which begins with the last of the one before."""
    later = [octets for _, octets in held][WARM - 1 :]
    return [later[at : at + SPAN + 1] for at in range(0, len(later) - SPAN, SPAN)]


def grows(span: list[int]) -> bool:
    """A filter that is never given back is 1.4 KB: 50 routes of them would be 2.8 MB in 40 reloads, in steps.

    One step of the allocator, a new arena of 1 MiB, may come at any time.
    """
    step = max(after - before for before, after in pairwise(span))
    grown = max(span) - span[0]
    return grown >= 2.5 * MIB or grown - step >= 1.5 * MIB


def test_each_process_stays_as_large_as_it_was(tmp_path: Path) -> None:
    """What is never given back grows in every span. What grows in one may be two generations at a time, where requests
    of the old one take longer than the next reload: that memory is used again.
    """

    def enough(samples: Samples) -> bool:
        looked_at = [spans(held) for held in samples.values()]
        return bool(looked_at) and all(
            len(each) == SPANS or any(not grows(span) for span in each) for each in looked_at
        )

    samples = asyncio.run(soak(SIZES, SECONDS, 0.0, tmp_path, enough))
    assert samples.keys() == {"supervisor", "worker 1", "control"}
    for name, held in samples.items():
        assert spans(held), "too few reloads"
        assert not all(map(grows, spans(held))), (name, [octets / MIB for _, octets in held])
