"""Run microbenchmarks of the request path, in nanoseconds of CPU per call."""

import importlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated

import typer

from bench.micro.timing import Room, time_room

MODULES = (
    "framing", "routing", "balance", "health", "chain", "filters", "tokens", "asking", "splice", "body", "frames",
    "observe", "validation", "waf", "cells", "limits", "quotas", "cache_store", "mapping", "exchange",
    "response_cache", "content", "content_coding", "compose", "http2", "tls", "policies", "egress",
)  # fmt: skip
"""Modules in the order of a request's path; the last nine are whole requests."""


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Which: {', '.join(MODULES)}. None: all.")] = None,
    passes: Annotated[int, typer.Option(min=1, help="Passes over each room; the least and the median are told.")] = 9,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per room.")] = False,
) -> None:
    """Run microbenchmarks of the request path, in nanoseconds of CPU per call."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if unknown := set(names or ()) - set(MODULES):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}; expected some of {', '.join(MODULES)}")
    if not as_json:
        print(f"{'':10}{'':42}{'least ns':>10}{'median ns':>11}")
    for name, room in all_rooms(names or ()):
        timing = time_room(room, passes)
        if as_json:
            print(json.dumps({"module": name, **asdict(timing)}), flush=True)
        else:
            print(f"{name:10}{timing.name:42}{timing.least:10.0f}{timing.median:11.0f}", flush=True)


def all_rooms(names: Sequence[str]) -> Iterator[tuple[str, Room]]:
    """Yield the microbenchmarks of these modules, or of all, with the module's name.

    They are created one at a time: requesting the next one stops what the previous one had started.
    """
    yield "nothing", Room("an empty call", lambda each: None, [None])
    for name in names or MODULES:
        for room in importlib.import_module(f"bench.micro.{name}").rooms():
            yield name, room


if __name__ == "__main__":
    typer.run(main)
