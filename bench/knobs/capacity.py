"""What one core carries, from the costs that the knobs have shown."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Final

from bench.knobs.knobs import KEPT, NEW, TCP, TLS
from bench.samples import Measured

Costs = Mapping[tuple[str, str], float]
"""(knob, setting) -> CPU microseconds per request."""

UTILISATION: Final = 0.7
"""Of a core. Beyond it requests wait for longer, on average, than they are served (M/D/1)."""

SURCHARGES: Final = (
    ("+ the client has opened a connection for it", "clients", NEW, KEPT),
    ("+ a TCP connection to the upstream is opened for it", "upstream", f"{TCP}, {NEW}", TCP),
    ("+ it goes to the upstream over TLS, on a kept connection", "upstream", TLS, TCP),
    ("+ a TLS connection to the upstream is opened for it", "upstream", f"{TLS}, {NEW}", TLS),
)
"""What may come on top of a request on kept connections: which knob shows it, and which setting less which."""

MIXES: Final[Sequence[tuple[str, Mapping[int, float]]]] = (
    ("all connections kept", {}),
    ("each 10th request on a new client connection", {0: 0.1}),
    ("each 10th on a new client connection, upstream over TLS", {0: 0.1, 2: 1.0}),
    ("nothing kept", {0: 1.0, 1: 1.0}),
)
"""By name: which surcharges (their place in `SURCHARGES`) and for what share of the requests."""


def costs_of(knob: str, load: str, measured: Sequence[Measured]) -> dict[tuple[str, str], float]:
    return {(knob, each.name): median(sample.cpu_us for sample in each.under(load)) for each in measured}


def capacity(costs: Costs) -> Iterator[str]:
    """Two tables: what a request costs, and what a core carries of a few mixes."""
    request = costs["clients", KEPT]
    surcharges = [max(0.0, costs[knob, dear] - costs[knob, cheap]) for _, knob, dear, cheap in SURCHARGES]
    yield "| a request of `plain` | CPU us |"
    yield "| --- | ---: |"
    yield f"| on kept connections, TCP | {request:.0f} |"
    for (text, *_), surcharge in zip(SURCHARGES, surcharges, strict=True):
        yield f"| {text} | {surcharge:.0f} |"
    yield ""
    yield f"| mix | CPU us/request | requests/s that fill a core | at {UTILISATION:.0%} |"
    yield "| --- | ---: | ---: | ---: |"
    for name, shares in MIXES:
        cost = request + sum(surcharges[place] * share for place, share in shares.items())
        yield f"| {name} | {cost:.0f} | {1e6 / cost:,.0f} | {1e6 / cost * UTILISATION:,.0f} |"
