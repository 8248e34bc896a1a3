"""Estimates the capacity of one core from the measured costs."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Final

from bench.knobs.knobs import KEPT, NEW, TCP, TLS
from bench.samples import Measured

Costs = Mapping[tuple[str, str], float]
"""CPU microseconds per request by (knob, setting)."""

UTILISATION: Final = 0.7
"""Utilization of a core. Above it, the mean waiting time exceeds the mean service time (M/D/1)."""

SURCHARGES: Final = (
    ("+ the client has opened a connection for it", "clients", NEW, KEPT),
    ("+ a TCP connection to the upstream is opened for it", "upstream", f"{TCP}, {NEW}", TCP),
    ("+ it goes to the upstream over TLS, on a kept connection", "upstream", TLS, TCP),
    ("+ a TLS connection to the upstream is opened for it", "upstream", f"{TLS}, {NEW}", TLS),
)
"""Additional costs of a request, compared with one on a kept-alive connection: the knob, and the two settings to
subtract.
"""

MIXES: Final[Sequence[tuple[str, Mapping[int, float]]]] = (
    ("all connections kept", {}),
    ("each 10th request on a new client connection", {0: 0.1}),
    ("each 10th on a new client connection, upstream over TLS", {0: 0.1, 2: 1.0}),
    ("nothing kept", {0: 1.0, 1: 1.0}),
)
"""Mixes by name: additional costs (index in `SURCHARGES`) and their share of requests."""


def costs_of(knob: str, load: str, measured: Sequence[Measured]) -> dict[tuple[str, str], float]:
    return {(knob, each.name): median(sample.cpu_us for sample in each.under(load)) for each in measured}


def capacity(costs: Costs) -> Iterator[str]:
    """Return two tables: cost per request, and capacity of a core for some mixes."""
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
