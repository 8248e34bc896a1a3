"""What the processes of a gateway hold while its configuration changes again and again under load: no more than before.

`python -m bench.soak` looks at that for hours.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

from bench.soak import Sizes, soak

MIB = 1 << 20
SIZES = Sizes(workers=1, routes=50, clients=2, reload_every=0.01)
RELOADS = 80
WARM = 40
SECONDS = 120.0  # a reload takes a tenth of one; the machine may be busy


def test_each_process_stays_as_large_as_it_was(tmp_path: Path) -> None:
    """A filter that is never given back is 1.4 KB: 50 routes of them would be 2.8 MB in 40 reloads, in steps.

    One step of the allocator, a new arena of 1 MiB, may come at any time.
    """
    samples = asyncio.run(soak(SIZES, SECONDS, 0.0, tmp_path, RELOADS))
    assert samples.keys() == {"supervisor", "worker 1", "control"}
    for name, held in samples.items():
        later = [octets for _, octets in held][WARM:]
        assert later, "too few reloads"
        step = max(after - before for before, after in pairwise(later))
        grown = max(later) - later[0]
        assert grown < 2.5 * MIB, (name, [octets / MIB for octets in later])
        assert grown - step < 1.5 * MIB, (name, [octets / MIB for octets in later])
