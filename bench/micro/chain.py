"""Filter chain: cost of steps that let a request pass without waiting."""

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

from bench.micro.timing import Room
from fastgw.exchange import Exchange, Outcome, run_request


def rooms() -> Iterator[Room]:
    exchange: Any = SimpleNamespace()  # the chain passes it on, and records the filter that responded
    for count in (0, 1, 4, 8, 16):
        yield Room(f"a chain of {count} steps", partial(run_request, (_passes,) * count), [exchange])


def _passes(exchange: Exchange) -> Outcome:
    return None
